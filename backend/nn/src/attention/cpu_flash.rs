//! candle's names for its CPU kernels; here they are the same functions on every device.

pub use super::flash_attn;

pub mod varlen {
    //! Packed sequences of different lengths.

    pub use crate::attention::varlen::flash_attn_varlen_unfused as flash_attn_varlen_cpu;
}
