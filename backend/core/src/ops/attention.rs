//! Scaled dot-product attention with shared key and value heads.

use super::fused::{expect_float, overrides, softmax_last_dim, wide};
use crate::{DType, Device, Error, Result, Tensor, bail};

/// Which keys a query sees.
#[derive(Clone, Copy, Debug)]
pub enum AttentionMask<'a> {
    /// All of them.
    None,
    /// Query `i` sees keys `0..=i + offset`; `offset` is the number of keys before the first query.
    Causal { offset: usize },
    /// A term added to the scaled scores (minus infinity hides), broadcast to `[B, H, S, T]`.
    Additive(&'a Tensor),
}

/// A mask tensor that may be absent.
impl<'a> From<Option<&'a Tensor>> for AttentionMask<'a> {
    fn from(term: Option<&'a Tensor>) -> Self {
        term.map_or(Self::None, Self::Additive)
    }
}

/// `softmax(scale * q·kᵀ + mask)·v`, the softmax in F32 (F64 for F64 operands).
///
/// `q` is `[B, H, S, D]`, `k` is `[B, G, T, D]` and `v` `[B, G, T, E]`, where `G` divides `H`: query head `h` uses key
/// head `h / (H / G)`. The result is `[B, H, S, E]`. A query that sees no key gives NaN, as the definition does.
pub fn attention<'a>(
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    scale: f64,
    mask: impl Into<AttentionMask<'a>>,
) -> Result<Tensor> {
    let mask = mask.into();
    check(q, k, v)?;
    if overrides()
        && let Some(out) = super::npu::attention(q, k, v, scale, mask)?
    {
        return Ok(out);
    }
    let (batch, heads, queries, width) = q.dims4()?;
    let (_, groups, keys, value_width) = v.dims4()?;
    let dtype = wide(q.dtype());
    // The query heads that share a key head are stacked as rows of one matrix, so that keys are never repeated.
    let rows = heads / groups * queries;
    let q = q.to_dtype(dtype)?.reshape((batch, groups, rows, width))?;
    let scores = (q.matmul(&batch_matrix(&k.to_dtype(dtype)?)?.t()?)? * scale)?;
    let scores = match mask_term(mask, queries, keys, dtype, q.device())? {
        Some(term) => {
            scores.reshape((batch, heads, queries, keys))?.broadcast_add(&term)?.reshape((batch, groups, rows, keys))?
        }
        None => scores,
    };
    let out = softmax_last_dim(&scores)?.matmul(&batch_matrix(&v.to_dtype(dtype)?)?)?;
    out.reshape((batch, heads, queries, value_width))?.to_dtype(v.dtype())
}

fn check(q: &Tensor, k: &Tensor, v: &Tensor) -> Result<()> {
    expect_float(q, "attention")?;
    q.same_dtype(k, "attention")?;
    q.same_dtype(v, "attention")?;
    let ((b, h, _, d), (kb, g, t, kd), (vb, vg, vt, _)) = (q.dims4()?, k.dims4()?, v.dims4()?);
    if (b, d) != (kb, kd) || (kb, g, t) != (vb, vg, vt) || g == 0 || h % g != 0 {
        return Err(Error::Msg(format!(
            "attention: queries {:?}, keys {:?} and values {:?} do not fit: wanted [B,H,S,D], [B,G,T,D] and [B,G,T,E] \
             with H a multiple of G",
            q.shape(),
            k.shape(),
            v.shape()
        ))
        .bt());
    }
    Ok(())
}

/// The matrices of `x` for a batched product, which wants one stride over both batch dimensions and row-major
/// matrices; a cache that is a slice of a longer buffer has them, a transposed projection has not.
fn batch_matrix(x: &Tensor) -> Result<Tensor> {
    let (dims, stride) = (x.dims(), x.stride());
    let one_batch_stride = dims[0] == 1 || dims[1] == 1 || stride[0] == stride[1] * dims[1];
    let row_major = stride[3] == 1 && stride[2] >= dims[3];
    if one_batch_stride && row_major { Ok(x.clone()) } else { x.contiguous() }
}

/// The additive form of `mask`; none when it hides nothing.
fn mask_term(
    mask: AttentionMask<'_>,
    queries: usize,
    keys: usize,
    dtype: DType,
    device: &Device,
) -> Result<Option<Tensor>> {
    match mask {
        AttentionMask::None => Ok(None),
        AttentionMask::Additive(term) => Ok(Some(term.to_dtype(dtype)?)),
        AttentionMask::Causal { offset } if offset + 1 >= keys => Ok(None),
        AttentionMask::Causal { offset } => causal_term(queries, keys, offset, device)?.to_dtype(dtype).map(Some),
    }
}

/// `[S, T]` in F32: zero where query `i` sees key `j` (`j <= i + offset`), minus infinity elsewhere.
pub fn causal_term(queries: usize, keys: usize, offset: usize, device: &Device) -> Result<Tensor> {
    if queries == 0 || keys == 0 {
        bail!("a causal mask of {queries} queries and {keys} keys is empty")
    }
    let row = |i: usize| (0..keys).map(move |j| if j <= i + offset { 0f32 } else { f32::NEG_INFINITY });
    Tensor::from_vec((0..queries).flat_map(row).collect(), (queries, keys), device)
}
