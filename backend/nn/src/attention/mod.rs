//! Attention over `[B, S, H, D]`, as candle's CPU code paths ask for it, and over packed sequences.

pub mod cpu_flash;
pub mod varlen;

use candle_ascend::{DType, Device, Result, Tensor, WithDType, bail, ops};

pub use cpu_flash::varlen::flash_attn_varlen_cpu;
pub use varlen::flash_attn_varlen_unfused;

/// Which keys a query sees.
#[derive(Debug, Clone, Default)]
pub enum AttnMask {
    /// All of them.
    #[default]
    None,
    /// Query `i` sees keys `0..=i + kv_offset`.
    Causal { kv_offset: usize },
    /// A term that is added to the scores.
    Mask(Tensor),
}

impl AttnMask {
    pub fn causal() -> Self {
        Self::causal_with_offset(0)
    }

    pub fn causal_with_offset(kv_offset: usize) -> Self {
        Self::Causal { kv_offset }
    }

    pub fn is_causal(&self) -> bool {
        matches!(self, Self::Causal { .. })
    }

    pub fn kv_offset(&self) -> usize {
        match self {
            Self::Causal { kv_offset } => *kv_offset,
            Self::None | Self::Mask(_) => 0,
        }
    }
}

/// Attention of queries `[B, S, H, D]` over keys and values `[B, T, G, D]`, `G` dividing `H`; the result is
/// `[B, H, S, D]`. `max_bias` turns ALiBi on, `softcap` bounds the scores by a tanh. `T` is the element type, which
/// candle's kernel needs to know and this does not.
pub fn flash_attn<T: WithDType>(
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    softmax_scale: f32,
    attn_mask: AttnMask,
    max_bias: Option<f32>,
    softcap: Option<f32>,
) -> Result<Tensor> {
    if q.dtype() != T::DTYPE {
        bail!("flash_attn of {:?} elements was given queries of {:?}", T::DTYPE, q.dtype())
    }
    let heads_first = |x: &Tensor| x.transpose(1, 2);
    attend(&heads_first(q)?, &heads_first(k)?, &heads_first(v)?, softmax_scale, attn_mask, max_bias, softcap)
}

/// As [`flash_attn`] for operands `[B, H, S, D]`.
pub(crate) fn attend(
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    softmax_scale: f32,
    attn_mask: AttnMask,
    max_bias: Option<f32>,
    softcap: Option<f32>,
) -> Result<Tensor> {
    let max_bias = max_bias.filter(|&bias| bias > 0.);
    let softcap = softcap.filter(|&cap| cap != 0.);
    let scale = softmax_scale as f64;
    let (queries, keys) = (q.dim(2)?, k.dim(2)?);
    if max_bias.is_none() && softcap.is_none() {
        let mask = match &attn_mask {
            AttnMask::None => ops::AttentionMask::None,
            AttnMask::Causal { kv_offset } => ops::AttentionMask::Causal { offset: *kv_offset },
            AttnMask::Mask(term) => ops::AttentionMask::Additive(term),
        };
        return ops::attention(q, k, v, scale, mask);
    }
    let slopes = max_bias.map(|bias| alibi_slopes(q.dim(1)?, bias, q.device())).transpose()?;
    let term = match (&attn_mask, &slopes) {
        (AttnMask::None, _) => None,
        (AttnMask::Causal { kv_offset }, None) => Some(hidden(queries, keys, *kv_offset, q.device())?),
        (AttnMask::Causal { kv_offset }, Some(slopes)) => {
            let distance = distances(queries, keys, *kv_offset, q.device())?;
            Some(slopes.broadcast_mul(&distance)?.broadcast_add(&hidden(queries, keys, *kv_offset, q.device())?)?)
        }
        (AttnMask::Mask(term), None) => Some(term.to_dtype(DType::F32)?),
        (AttnMask::Mask(term), Some(slopes)) => Some(slopes.broadcast_mul(&term.to_dtype(DType::F32)?)?),
    };
    let groups = q.dim(1)? / k.dim(1)?;
    let (k, v) = (repeated(k, groups)?, repeated(v, groups)?);
    let wide = |x: &Tensor| x.to_dtype(DType::F32)?.contiguous();
    let mut scores = (wide(q)?.matmul(&wide(&k)?.t()?)? * scale)?;
    if let Some(cap) = softcap {
        scores = ((scores / cap as f64)?.tanh()? * cap as f64)?;
    }
    if let Some(term) = term {
        scores = scores.broadcast_add(&term)?;
    }
    crate::ops::softmax_last_dim(&scores)?.matmul(&wide(&v)?)?.to_dtype(v.dtype())
}

/// `[B, G, T, D]` with each head `times` times over.
fn repeated(x: &Tensor, times: usize) -> Result<Tensor> {
    let (batch, heads, length, width) = x.dims4()?;
    let spread = x.unsqueeze(2)?.broadcast_as((batch, heads, times, length, width))?;
    spread.reshape((batch, heads * times, length, width))
}

/// One slope a head, `[H, 1, 1]`, as ALiBi has them (Press et al., 2021).
fn alibi_slopes(heads: usize, max_bias: f32, device: &Device) -> Result<Tensor> {
    let power = (heads as f32).log2().ceil().exp2();
    let slopes: Vec<f32> = (0..heads).map(|head| (-max_bias * (head + 1) as f32 / power).exp2()).collect();
    Tensor::from_vec(slopes, (heads, 1, 1), device)
}

/// `[S, T]`: how far each key is after its query (negative before).
fn distances(queries: usize, keys: usize, offset: usize, device: &Device) -> Result<Tensor> {
    let row = |i: usize| (0..keys).map(move |j| j as f32 - (i + offset) as f32);
    Tensor::from_vec((0..queries).flat_map(row).collect(), (queries, keys), device)
}

/// `[S, T]`: minus infinity where a key comes after its query.
fn hidden(queries: usize, keys: usize, offset: usize, device: &Device) -> Result<Tensor> {
    ops::attention::causal_term(queries, keys, offset, device)
}
