//! Overrides of fused gradients on NPUs. As in `npu`, each answers none when the operands are elsewhere or do not suit.

use super::npu::{on_npu, tensor};
use crate::npu::RowStatistics;
use crate::{DType, Result, Storage, Tensor};
use std::sync::Arc;

pub(super) fn softmax(y: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
    on_npu([y, grad], |[(storage, layout), grad]| Ok(tensor(storage.softmax_grad(layout, grad)?, y.dims())))
}

pub(super) fn swiglu(x: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
    on_npu([x, grad], |[(storage, layout), grad]| Ok(tensor(storage.swiglu_grad(layout, grad)?, x.dims())))
}

/// The norm and its reciprocal roots, for operands that the gradient will take too.
pub(super) fn rms_norm_kept(x: &Tensor, weight: &Tensor, eps: f64) -> Result<Option<(Tensor, Tensor)>> {
    if x.rank() < 2 || x.elem_count() == 0 {
        return Ok(None);
    }
    let rows = x.elem_count() / weight.elem_count();
    on_npu([x, weight], |[(storage, layout), (weight, weight_layout)]| {
        let (normed, rstd) = storage.rms_norm_kept(layout, weight, weight_layout, eps)?;
        Ok((tensor(normed, x.dims()), tensor(rstd, &[rows])))
    })
}

/// Of `x`, and of the weight in F32.
pub(super) fn rms_norm(x: &Tensor, weight: &Tensor, rstd: &Tensor, grad: &Tensor) -> Result<Option<(Tensor, Tensor)>> {
    let guard = rstd.storage();
    let Storage::Npu(rstd) = &*guard else { return Ok(None) };
    on_npu([x, weight, grad], |[(storage, layout), gamma, grad]| {
        let (of_x, of_weight) = storage.rms_norm_grad(layout, gamma, rstd, grad)?;
        Ok((tensor(of_x, x.dims()), tensor(of_weight, weight.dims())))
    })
}

pub(super) fn embedding(table: &Tensor, ids: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
    // Other types of index would have to be converted first; rows have U32 or I64 ids.
    if table.rank() != 2 || ids.elem_count() == 0 || !matches!(ids.dtype(), DType::U32 | DType::I64 | DType::I32) {
        return Ok(None);
    }
    let guard = ids.storage();
    let Storage::Npu(at) = &*guard else { return Ok(None) };
    on_npu([grad], |[(storage, layout)]| {
        Ok(tensor(storage.embedding_grad(layout, (at, ids.layout()), table.dim(0)?)?, table.dims()))
    })
}

/// Attention with what its gradient wants; see [`crate::npu::NpuStorage::trained_attention`].
pub(super) fn attention_kept(
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    causal: bool,
    scale: f64,
) -> Result<Option<(Tensor, Arc<RowStatistics>)>> {
    let made = on_npu([q, k, v], |[(storage, layout), keys, values]| {
        if k.dims() != v.dims() || !storage.trains_attention(layout, keys.1) {
            return Ok(None);
        }
        let (out, kept) = storage.trained_attention(layout, keys, values, causal, scale, None)?;
        Ok(Some((tensor(out, q.dims()), Arc::new(kept))))
    })?;
    Ok(made.flatten())
}

/// Causal attention of sequences that end at `ends`, one after the other, `[N, H, D]`, with what its gradient wants.
pub(super) fn packed_kept(
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    ends: &[i64],
    scale: f64,
) -> Result<Option<(Tensor, Arc<RowStatistics>)>> {
    let made = on_npu([q, k, v], |[(storage, layout), keys, values]| {
        if k.dims() != v.dims() || !storage.trains_packed(layout, keys.1, ends.len()) {
            return Ok(None);
        }
        let (out, kept) = storage.trained_attention(layout, keys, values, true, scale, Some(ends))?;
        Ok(Some((tensor(out, q.dims()), Arc::new(kept))))
    })?;
    Ok(made.flatten())
}

/// Of queries, keys and values, by [`attention_kept`] or [`packed_kept`].
pub(super) fn attention(
    [q, k, v]: [&Tensor; 3],
    out: &Tensor,
    grad: &Tensor,
    kept: &RowStatistics,
    causal: bool,
    scale: f64,
) -> Result<Option<[Tensor; 3]>> {
    on_npu([q, k, v, out, grad], |[(storage, layout), keys, values, out, grad]| {
        let [dq, dk, dv] = storage.attention_grad(layout, keys, values, out, grad, kept, causal, scale)?;
        Ok([tensor(dq, q.dims()), tensor(dk, k.dims()), tensor(dv, v.dims())])
    })
}
