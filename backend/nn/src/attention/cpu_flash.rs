//! candle's names for its CPU kernels; here they are the same functions on every device.

pub use super::flash_attn;

pub mod varlen {
    //! Packed sequences of different lengths.

    pub use crate::attention::varlen::flash_attn_varlen_unfused as flash_attn_varlen_cpu;
}

pub mod causal {
    //! One query over keys and values in host memory.

    use candle_ascend::{Device, Result, Tensor, bail, ops};

    /// Attention of one query `[H, D]` over `[S, G, 2, D]` (a head's key, then its value), `G` dividing `H`; the result
    /// is `[H, 1, D]` on the CPU.
    pub fn causal_decode_f32_interleaved(
        q_data: &[f32],
        kv_data: &[f32],
        h_q: usize,
        h_kv: usize,
        d: usize,
        kv_len: usize,
        scale: f32,
    ) -> Result<Tensor> {
        let held = kv_len * h_kv * 2 * d;
        let (Some(q), Some(kv)) = (q_data.get(..h_q * d), kv_data.get(..held)) else {
            bail!(
                "{h_q} queries of {d} and {held} keys and values are more than the {} and {} that are there",
                q_data.len(),
                kv_data.len()
            )
        };
        let q = Tensor::from_slice(q, (1, h_q, 1, d), &Device::Cpu)?;
        let kv = Tensor::from_slice(kv, (1, kv_len, h_kv, 2 * d), &Device::Cpu)?.transpose(1, 2)?;
        let (k, v) = (kv.narrow(3, 0, d)?, kv.narrow(3, d, d)?);
        ops::attention(&q, &k, &v, scale as f64, ops::AttentionMask::None)?.squeeze(0)
    }
}
