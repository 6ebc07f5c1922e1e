//! Overrides of the fused operators on CUDA devices, as those for NPUs: each answers none when the operands are
//! elsewhere or no kernel takes them, and the decomposition then runs on the device that they are on.

use super::AttentionMask;
use super::moe::{Gating, Permuted};
use crate::{CudaStorage, D, DType, Result, Storage, Tensor};
use npu_cuda::launch::{self, View};
use npu_cuda::plan::Gate;

/// Runs `fused` on the CUDA storages behind `operands`; none if one is elsewhere.
fn on_cuda<const N: usize, R>(
    operands: [&Tensor; N],
    fused: impl FnOnce([View<'_>; N]) -> Result<Option<R>>,
) -> Result<Option<R>> {
    if operands.iter().any(|x| !x.device().is_cuda() || x.elem_count() == 0) {
        return Ok(None);
    }
    let guards = operands.map(Tensor::storage);
    let mut views: Vec<View<'_>> = Vec::with_capacity(N);
    for (guard, x) in guards.iter().zip(operands) {
        match &**guard {
            Storage::Cuda(storage) => views.push((storage, x.layout())),
            _ => return Ok(None),
        }
    }
    match <[_; N]>::try_from(views) {
        Ok(views) => fused(views).map_err(crate::cuda::explained),
        Err(_) => Ok(None),
    }
}

fn tensor(storage: CudaStorage, dims: &[usize]) -> Tensor {
    Tensor::from_storage(Storage::Cuda(storage), dims)
}

/// Whether the kernels, which take one element type, take these.
fn one_type(operands: &[&Tensor]) -> bool {
    operands.iter().all(|x| x.dtype() == operands[0].dtype())
}

/// `x` row-major, as the kernels of rows read it. Only for operands on a GPU: others must not be copied in vain.
fn rows(x: &Tensor) -> Result<Tensor> {
    if x.device().is_cuda() { x.contiguous() } else { Ok(x.clone()) }
}

pub(super) fn softmax_last_dim(x: &Tensor) -> Result<Option<Tensor>> {
    on_cuda([&rows(x)?], |[view]| Ok(launch::softmax(view)?.map(|y| tensor(y, x.dims()))))
}

pub(super) fn swiglu(x: &Tensor) -> Result<Option<Tensor>> {
    let mut dims = x.dims().to_vec();
    dims[x.rank() - 1] /= 2;
    on_cuda([&rows(x)?], |[view]| Ok(launch::swiglu(view)?.map(|y| tensor(y, &dims))))
}

pub(super) fn rms_norm(x: &Tensor, weight: &Tensor, eps: f64) -> Result<Option<Tensor>> {
    if !one_type(&[x, weight]) {
        return Ok(None);
    }
    on_cuda([&rows(x)?, &rows(weight)?], |[view, weight]| {
        Ok(launch::rms_norm(view, weight, eps)?.map(|y| tensor(y, x.dims())))
    })
}

pub(super) fn add_rms_norm(
    x: &Tensor,
    residual: &Tensor,
    weight: &Tensor,
    eps: f64,
) -> Result<Option<(Tensor, Tensor)>> {
    if !one_type(&[x, residual, weight]) {
        return Ok(None);
    }
    on_cuda([&rows(x)?, &rows(residual)?, &rows(weight)?], |[view, residual, weight]| {
        let made = launch::add_rms_norm(view, residual, weight, eps)?;
        Ok(made.map(|(normed, sum)| (tensor(normed, x.dims()), tensor(sum, x.dims()))))
    })
}

pub(super) fn rotary(q: &Tensor, k: &Tensor, cos: &Tensor, sin: &Tensor) -> Result<Option<(Tensor, Tensor)>> {
    if !q.device().is_cuda() {
        return Ok(None);
    }
    let table = |table: &Tensor| table.to_dtype(DType::F32)?.contiguous();
    let (cos, sin) = (table(cos)?, table(sin)?);
    let rotate = |x: &Tensor| -> Result<Option<Tensor>> {
        let x = if x.stride().last() == Some(&1) { x.clone() } else { x.contiguous()? };
        on_cuda([&x, &cos, &sin], |[view, cos, sin]| Ok(launch::rotary(view, cos, sin)?.map(|y| tensor(y, x.dims()))))
    };
    Ok(rotate(q)?.zip(rotate(k)?))
}

pub(super) fn attention(
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    scale: f64,
    mask: AttentionMask<'_>,
) -> Result<Option<Tensor>> {
    let offset = match mask {
        AttentionMask::None => None,
        AttentionMask::Causal { offset } => Some(offset),
        // The kernels hide or show a key; they add nothing.
        AttentionMask::Additive(_) | AttentionMask::Hidden(_) => return Ok(None),
    };
    let mut dims = q.dims().to_vec();
    dims[3] = v.dim(D::Minus1)?;
    on_cuda([q, k, v], |[q, k, v]| Ok(launch::attention(q, k, v, scale, offset)?.map(|out| tensor(out, &dims))))
}

/// As [`super::paged_attention`]. Where keys and values are one tensor's columns, they are read once.
pub(super) fn paged_attention(
    q: &Tensor,
    [keys, values]: [&Tensor; 2],
    [table, lengths]: [&Tensor; 2],
    scale: f64,
) -> Result<Option<Tensor>> {
    let dims = [q.dim(0)?, q.dim(1)?, values.dim(3)?];
    on_cuda([&rows(q)?, keys, values, &rows(table)?, &rows(lengths)?], |[q, k, v, table, lengths]| {
        Ok(launch::paged::attention(q, [k, v], [table, lengths], scale)?.map(|out| tensor(out, &dims)))
    })
}

/// As [`super::moe::route`], with weights in F32.
pub(super) fn route(logits: &Tensor, k: usize, gating: Gating<'_>) -> Result<Option<(Tensor, Tensor)>> {
    if !logits.device().is_cuda() {
        return Ok(None);
    }
    let (tokens, experts) = logits.dims2()?;
    let softmax = Gate { experts, chosen: k, groups: 1, kept: 1, sigmoid: 0, renormalise: 0, factor: 1. };
    let (bias, gate) = match gating {
        Gating::Softmax { renormalise } => (None, Gate { renormalise: renormalise.into(), ..softmax }),
        Gating::Sigmoid { bias, groups, kept_groups: kept, renormalise, factor } => {
            let (renormalise, factor) = (renormalise.into(), factor as f32);
            (bias, Gate { groups, kept, sigmoid: 1, renormalise, factor, ..softmax })
        }
    };
    let wide = |x: &Tensor| x.to_dtype(DType::F32)?.contiguous();
    let (logits, dims) = (wide(logits)?, [tokens, k]);
    let pair = |(weights, chosen)| (tensor(weights, &dims), tensor(chosen, &dims));
    match bias {
        // What is broadcast is the decomposition's.
        Some(bias) if bias.dims() != [experts] => Ok(None),
        Some(bias) => on_cuda([&logits, &wide(bias)?], |[logits, bias]| {
            Ok(launch::moe::route(logits, Some(bias), gate)?.map(pair))
        }),
        None => on_cuda([&logits], |[logits]| Ok(launch::moe::route(logits, None, gate)?.map(pair))),
    }
}

/// As [`super::moe::permute`].
pub(super) fn permute(x: &Tensor, chosen: &Tensor, experts: usize) -> Result<Option<Permuted>> {
    if chosen.dtype() != DType::U32 || experts == 0 {
        return Ok(None);
    }
    let (copies, width) = (chosen.elem_count(), x.dim(1)?);
    on_cuda([&rows(x)?, &rows(chosen)?], |[x, chosen]| {
        let made = launch::moe::permute(x, chosen, experts)?;
        Ok(made.map(|(rows, places, ends)| Permuted {
            rows: tensor(rows, &[copies, width]),
            places: tensor(places, &[copies]),
            ends: tensor(ends, &[experts]),
        }))
    })
}

/// Groups of rows times their experts' matrices `[E, O, I]`.
pub(super) fn grouped_linear(x: &Tensor, weight: &Tensor, ends: &Tensor) -> Result<Option<Tensor>> {
    let dims = [x.dim(0)?, weight.dim(1)?];
    on_cuda([&rows(x)?, &rows(weight)?, &rows(ends)?], |[x, weight, ends]| {
        Ok(launch::moe::grouped_linear(x, weight, ends)?.map(|y| tensor(y, &dims)))
    })
}

/// The weighted sum of each token's rows of `y`, and its row of `shared`.
pub(super) fn unpermute(
    y: &Tensor,
    places: &Tensor,
    weights: &Tensor,
    shared: Option<&Tensor>,
) -> Result<Option<Tensor>> {
    let same = shared.is_none_or(|shared| shared.dtype() == y.dtype());
    if !y.device().is_cuda() || places.dtype() != DType::U32 || !same {
        return Ok(None);
    }
    let dims = [weights.dim(0)?, y.dim(1)?];
    let weights = weights.to_dtype(DType::F32)?.contiguous()?;
    let operands = [&rows(y)?, &rows(places)?, &weights];
    match shared {
        None => on_cuda(operands, |[y, places, weights]| {
            Ok(launch::moe::unpermute(y, places, weights, None)?.map(|sums| tensor(sums, &dims)))
        }),
        Some(shared) => {
            let [y, places, weights] = operands;
            on_cuda([y, places, weights, &rows(shared)?], |[y, places, weights, shared]| {
                Ok(launch::moe::unpermute(y, places, weights, Some(shared))?.map(|sums| tensor(sums, &dims)))
            })
        }
    }
}
