//! Fused operators by our own Ascend C kernels, for [`Kernels::Ours`](super::Kernels::Ours). What a kernel does not take is
//! an error and not another way: whoever asked for it wants to know.

use super::moe::{Gating, Permuted};
use super::npu::tensor;
use crate::npu::Selected;
use crate::{Layout, Result, Storage, Tensor, bail};
use ascend_kernels::gating::GatingShape;
use ascend_kernels::plan::Float;

/// Runs `launch` on the NPU storages behind `operands`.
fn on_npu<const N: usize, R>(
    op: &str,
    operands: [&Tensor; N],
    launch: impl FnOnce([Selected<'_>; N]) -> Result<R>,
) -> Result<R> {
    let guards = operands.map(Tensor::storage);
    let mut selected = Vec::with_capacity(N);
    for (guard, x) in guards.iter().zip(operands) {
        match &**guard {
            Storage::Npu(storage) => selected.push((storage, x.layout())),
            _ => bail!("{op}: an operand on {} beside others on an NPU", x.device().kind()),
        }
    }
    match <[_; N]>::try_from(selected) {
        Ok(selected) => launch(selected),
        Err(_) => unreachable!("one storage an operand"),
    }
}

pub(super) fn add_rms_norm(x: &Tensor, residual: &Tensor, weight: &Tensor, eps: f64) -> Result<(Tensor, Tensor)> {
    x.same_dtype(weight, "add-rms-norm")?;
    let (y, sum) = on_npu("add-rms-norm", [x, residual, weight], |[(storage, layout), residual, weight]| {
        storage.add_rms_norm_ours(layout, residual, weight, eps)
    })?;
    Ok((tensor(y, x.dims()), tensor(sum, x.dims())))
}

pub(super) fn route(logits: &Tensor, k: usize, gating: Gating<'_>) -> Result<(Tensor, Tensor)> {
    let dims = logits.dims2()?;
    let softmax = GatingShape {
        tokens: dims.0,
        experts: dims.1,
        k,
        groups: 1,
        kept_groups: 1,
        sigmoid: false,
        has_bias: false,
        renormalise: false,
        factor: 1.0,
        float: Float::F32,
    };
    let (shape, bias) = match gating {
        Gating::Softmax { renormalise } => (GatingShape { renormalise, ..softmax }, None),
        Gating::Sigmoid { bias, groups, kept_groups, renormalise, factor } => {
            let factor = factor as f32;
            (GatingShape { sigmoid: true, groups, kept_groups, renormalise, factor, ..softmax }, bias)
        }
    };
    let (weights, experts) = match bias {
        Some(bias) => on_npu("route", [logits, bias], |[(x, layout), bias]| x.gate_ours(layout, Some(bias), shape)),
        None => on_npu("route", [logits], |[(x, layout)]| x.gate_ours(layout, None, shape)),
    }?;
    Ok((tensor(weights, &[dims.0, k]), tensor(experts, &[dims.0, k])))
}

pub(super) fn permute(x: &Tensor, chosen: &Tensor, experts: usize) -> Result<Permuted> {
    let (rows, places, ends) =
        on_npu("permute", [x, chosen], |[(storage, layout), chosen]| storage.permute_ours(layout, chosen, experts))?;
    let copies = chosen.elem_count();
    let places = tensor(places, &[copies]);
    Ok(Permuted { rows: tensor(rows, &[copies, x.dims()[1]]), places, ends: tensor(ends, &[experts]) })
}

pub(super) fn unpermute(y: &Tensor, places: &Tensor, weights: &Tensor) -> Result<Tensor> {
    let out = on_npu("unpermute", [y, places, weights], |[(storage, layout), places, weights]| {
        storage.unpermute_ours(layout, places, weights)
    })?;
    Ok(tensor(out, &[weights.dims()[0], y.dims()[1]]))
}

/// As [`super::turn_and_write_at`], whose checks it relies on.
pub(super) fn turn_and_write_at(
    [q, k, v]: [&Tensor; 3],
    norms: Option<(&Tensor, &Tensor, f64)>,
    [cos, sin]: [&Tensor; 2],
    cache: &Tensor,
    positions: &Tensor,
) -> Result<Tensor> {
    let ((batch, heads, tokens, width), kv_heads) = (q.dims4()?, k.dims()[1]);
    let all = heads + 2 * kv_heads;
    // The views of a merged projection are its own elements, one after the other.
    let stride = [tokens * all * width, width, all * width, 1];
    let behind = |x: &Tensor, y: &Tensor, heads: usize| {
        x.same_storage(y)
            && y.stride() == stride
            && y.layout().start_offset() == x.layout().start_offset() + heads * width
    };
    let merged = q.stride() == stride && behind(q, k, heads) && behind(k, v, kv_heads);
    let copied = if merged { None } else { Some(Tensor::cat(&[q, k, v], 1)?.transpose(1, 2)?.contiguous()?) };
    let of_heads = match &copied {
        Some(copied) => copied.layout().clone(),
        None => Layout::contiguous_with_offset((batch, tokens, all, width), q.layout().start_offset()),
    };
    let (cos, sin) = (cos.to_dtype(q.dtype())?, sin.to_dtype(q.dtype())?);
    let weights = norms.map(|(q, k, _)| [q, k].map(Tensor::storage));
    let mut caches = cache.storage_mut();
    let guards = [copied.as_ref().unwrap_or(q), &cos, &sin, positions].map(Tensor::storage);
    match (&*guards[0], &*guards[1], &*guards[2], &*guards[3], &mut *caches) {
        (Storage::Npu(x), Storage::Npu(c), Storage::Npu(s), Storage::Npu(at), Storage::Npu(target)) => {
            let norms = match (&weights, norms) {
                (Some([a, b]), Some((q_weight, k_weight, epsilon))) => match (&**a, &**b) {
                    (Storage::Npu(a), Storage::Npu(b)) => {
                        Some(([(a, q_weight.layout()), (b, k_weight.layout())], epsilon))
                    }
                    _ => bail!("turn-and-write-at: the norms' weights are not on the heads' NPU"),
                },
                _ => None,
            };
            let tables = [(c, cos.layout()), (s, sin.layout())];
            let (caches, at) = ((&*target, cache.layout()), (at, positions.layout()));
            let queries = x.turn_and_write_ours(&of_heads, kv_heads, norms, tables, caches, at)?;
            tensor(queries, &[batch, tokens, heads, width]).transpose(1, 2)
        }
        _ => bail!("turn-and-write-at: an operand is not on the NPU of the heads"),
    }
}
