//! Mixtures of experts: the choice of experts, the grouping of rows by expert, and products with each group's weight.
//!
//! Shapes: T tokens, E experts, K of them chosen for a token, H hidden width. Nothing here reads the choice on the host
//! where the device has a grouped product, so that a layer stays one asynchronous sequence of launches.

use super::fused::{expect_float, wide};
use super::kernels::{ours, overrides};
use super::{cpu, cpu_moe, linear};
use crate::autograd::tracked;
use crate::{D, DType, Result, Tensor, bail};
use std::ops::Range;

/// How router logits become weights.
#[derive(Clone, Copy, Debug)]
pub enum Gating<'a> {
    /// Softmax over all experts; the weights of the chosen ones add up to one again with `renormalise`
    /// (Qwen3-MoE, Mixtral).
    Softmax { renormalise: bool },
    /// A sigmoid an expert; `bias` `[E]` takes part in the choice and not in the weights, and only experts of the
    /// `kept_groups` best of `groups` groups can be chosen, a group ranking by the sum of its two best ("noaux_tc",
    /// DeepSeek-V3, arXiv 2412.19437). The weights are multiplied by `factor`.
    Sigmoid { bias: Option<&'a Tensor>, groups: usize, kept_groups: usize, renormalise: bool, factor: f64 },
}

/// Chooses `k` experts for each row of `logits` `[T, E]`: weights `[T, K]` and experts `[T, K]` in U32, the best first.
///
/// Computed in F32 whatever the type of the logits: a choice that flips at a rounding changes the token's whole path. The
/// weights are F32, or rounded to the type of the logits where the device's operator answers that.
///
/// # Errors
/// Logits that are no numbers have no best: the CPU says in which row, an NPU when it comes there; a GPU gives that row
/// weights that are no numbers either.
pub fn route(logits: &Tensor, k: usize, gating: Gating<'_>) -> Result<(Tensor, Tensor)> {
    expect_float(logits, "route")?;
    let (tokens, experts) = logits.dims2()?;
    if k == 0 || k > experts {
        bail!("route: {k} of {experts} experts cannot be chosen")
    }
    if ours(logits) && !tracked(&[logits]) {
        return super::ours::route(logits, k, gating);
    }
    if let Gating::Sigmoid { groups, kept_groups, .. } = gating {
        check_groups(experts, groups, kept_groups)?;
    }
    if overrides()
        && !tracked(&[logits])
        && let Some(chosen) = super::npu::route(logits, k, gating)?
    {
        return Ok(chosen);
    }
    if overrides()
        && !tracked(&[logits])
        && let Some(chosen) = super::cuda::route(logits, k, gating)?
    {
        return Ok(chosen);
    }
    let logits = logits.to_dtype(DType::F32)?;
    if logits.device().is_cpu() {
        let values = cpu::values_f32(&logits)?;
        if let Some(at) = values.iter().position(|value| value.is_nan()) {
            bail!("route: the logit of expert {} in row {} is not a number", at % experts, at / experts)
        }
    }
    let (scores, ranks, renormalise, factor) = match gating {
        Gating::Softmax { renormalise } => {
            let scores = super::softmax_last_dim(&logits)?;
            (scores.clone(), scores, renormalise, 1.0)
        }
        Gating::Sigmoid { bias, groups, kept_groups, renormalise, factor } => {
            let scores = (logits.neg()?.exp()? + 1.0)?.recip()?;
            let ranks = match bias {
                Some(bias) => scores.broadcast_add(&bias.to_dtype(DType::F32)?)?,
                None => scores.clone(),
            };
            (scores, within_groups(&ranks, (tokens, experts), groups, kept_groups)?, renormalise, factor)
        }
    };
    let chosen = ranks.contiguous()?.arg_sort_last_dim(false)?.narrow(D::Minus1, 0, k)?.contiguous()?;
    let mut weights = scores.contiguous()?.gather(&chosen, D::Minus1)?;
    if renormalise {
        // DeepSeek adds this lest a row of vanishing scores divides by zero; it is below the rounding of F32 otherwise.
        weights = weights.broadcast_div(&(weights.sum_keepdim(D::Minus1)? + 1e-20)?)?;
    }
    if factor != 1.0 {
        weights = (weights * factor)?;
    }
    Ok((weights, chosen))
}

fn check_groups(experts: usize, groups: usize, kept: usize) -> Result<()> {
    if groups == 0 || !experts.is_multiple_of(groups) || kept == 0 || kept > groups {
        bail!(
            "route: {kept} of {groups} groups over {experts} experts; wanted groups of one size, and some of them kept"
        )
    }
    Ok(())
}

/// `ranks` with minus infinity in all groups but the `kept` best of each row.
fn within_groups(ranks: &Tensor, (tokens, experts): (usize, usize), groups: usize, kept: usize) -> Result<Tensor> {
    if kept == groups {
        return Ok(ranks.clone());
    }
    let size = experts / groups;
    let grouped = ranks.reshape((tokens, groups, size))?;
    let best = grouped.contiguous()?.sort_last_dim(false)?.0.narrow(D::Minus1, 0, size.min(2))?;
    let of_group = best.contiguous()?.sum(D::Minus1)?;
    // The rank of each group among its row's, by sorting the order that sorts them.
    let place = of_group.contiguous()?.arg_sort_last_dim(false)?.arg_sort_last_dim(true)?;
    // Filled on the device: a scalar would be uploaded, which no captured step may do.
    let open = place
        .lt(&Tensor::full(kept as u32, place.shape(), ranks.device())?)?
        .unsqueeze(D::Minus1)?
        .broadcast_as((tokens, groups, size))?;
    let closed = Tensor::full(f32::NEG_INFINITY, (tokens, groups, size), ranks.device())?;
    open.contiguous()?.where_cond(&grouped, &closed)?.reshape((tokens, experts))
}

/// Rows of tokens ordered by the expert that they go to.
#[derive(Clone, Debug)]
pub struct Permuted {
    /// `[T·K, H]`, the rows of expert 0 first; rows of one expert keep the order of their tokens.
    pub rows: Tensor,
    /// Where each choice went, `[T·K]` in U32: choice `j` of token `t` is row `places[t · K + j]`.
    pub places: Tensor,
    /// Where each expert's rows end, `[E]` in I64.
    pub ends: Tensor,
}

/// Repeats each of `x` `[T, H]` for its `chosen` experts `[T, K]` (U32, below `experts`) and groups the copies by expert.
///
/// # Errors
/// An expert that there is not: the CPU says which, an NPU when it comes there; a GPU puts that copy behind all groups, where its
/// product is no number.
pub fn permute(x: &Tensor, chosen: &Tensor, experts: usize) -> Result<Permuted> {
    let ((tokens, _), (rows, k)) = (x.dims2()?, chosen.dims2()?);
    if tokens != rows || k == 0 {
        bail!("permute: {:?} and experts {:?} do not fit: wanted [T, H] and [T, K]", x.shape(), chosen.shape())
    }
    if ours(x) && !tracked(&[x]) {
        return super::ours::permute(x, chosen, experts);
    }
    if overrides()
        && !tracked(&[x])
        && let Some((rows, places, ends)) = super::npu::permute(x, chosen, experts)?
    {
        return Ok(Permuted { rows, places, ends });
    }
    if overrides()
        && !tracked(&[x])
        && let Some(permuted) = super::cuda::permute(x, chosen, experts)?
    {
        return Ok(permuted);
    }
    if overrides()
        && let Some(permuted) = cpu_moe::permute(x, chosen, experts)?
    {
        return Ok(permuted);
    }
    if chosen.device().is_cpu() {
        let ids = chosen.flatten_all()?.to_vec1::<u32>()?;
        if let Some(at) = ids.iter().position(|&expert| expert as usize >= experts) {
            bail!("permute: choice {} of row {} is expert {}, and there are {experts}", at % k, at / k, ids[at])
        }
    }
    let (device, copies) = (x.device(), tokens * k);
    let flat = chosen.reshape(copies)?;
    // The place in the list makes keys unique, so that any sort is a stable one.
    let places = Tensor::arange(0i64, copies as i64, device)?;
    let keys = ((flat.to_dtype(DType::I64)? * copies as f64)? + places)?;
    let order = keys.arg_sort_last_dim(true)?;
    let token_of_place = Tensor::arange(0u32, tokens as u32, device)?.unsqueeze(1)?.broadcast_as((tokens, k))?;
    let tokens_of = token_of_place.contiguous()?.flatten_all()?.index_select(&order, 0)?;
    let rows = x.contiguous()?.index_select(&tokens_of, 0)?;
    let ids = Tensor::arange(0u32, experts as u32, device)?;
    let hits = flat.unsqueeze(1)?.broadcast_as((copies, experts))?.contiguous()?;
    let hits = hits.eq(&ids.unsqueeze(0)?.broadcast_as((copies, experts))?.contiguous()?)?;
    let ends = hits.to_dtype(DType::F32)?.sum(0)?.cumsum(0)?.to_dtype(DType::I64)?;
    Ok(Permuted { rows, places: order.arg_sort_last_dim(true)?, ends })
}

/// Each group of rows of `x` `[R, I]` times its expert's matrix of `weight` `[E, O, I]`: `[R, O]`. `ends` `[E]` (I64) says
/// where each group ends.
pub fn grouped_linear(x: &Tensor, weight: &Tensor, ends: &Tensor) -> Result<Tensor> {
    check_grouped(x, weight, ends)?;
    let (rows, outputs) = (x.dim(0)?, weight.dim(1)?);
    if overrides() && !tracked(&[x, weight]) {
        if let Some(y) = super::npu::grouped_linear(x, weight, ends)? {
            return Ok(y);
        }
        if let Some(y) = super::cuda::grouped_linear(x, weight, ends)? {
            return Ok(y);
        }
        if let Some(y) = cpu_moe::grouped_linear(x, weight, ends)? {
            return Ok(y);
        }
    }
    let mut parts = Vec::new();
    for (expert, group) in groups(ends, rows)?.into_iter().enumerate().filter(|(_, group)| !group.is_empty()) {
        parts.push(linear(&x.narrow(0, group.start, group.len())?, &weight.get(expert)?, None)?);
    }
    if parts.is_empty() { Tensor::zeros((0, outputs), x.dtype(), x.device()) } else { Tensor::cat(&parts, 0) }
}

/// [`super::swiglu`] of [`grouped_linear`], of experts whose matrices `[E, 2 O, I]` are their gate above their up: `[R, O]`.
///
/// One launch with our kernels, if O is a multiple of 16; else, and with gradients recorded, a product and what follows it.
pub fn grouped_swiglu(x: &Tensor, weight: &Tensor, ends: &Tensor) -> Result<Tensor> {
    check_grouped(x, weight, ends)?;
    if !weight.dim(1)?.is_multiple_of(2) {
        bail!("grouped-swiglu: weight {:?} holds gate above up, wanted [E, 2 O, I]", weight.shape())
    }
    if !tracked(&[x, weight])
        && let Some(y) = super::npu::grouped_swiglu(x, weight, ends)?
    {
        return Ok(y);
    }
    super::swiglu(&grouped_linear(x, weight, ends)?)
}

fn check_grouped(x: &Tensor, weight: &Tensor, ends: &Tensor) -> Result<()> {
    expect_float(x, "grouped-linear")?;
    x.same_dtype(weight, "grouped-linear")?;
    let (inner, (experts, _, width)) = (x.dims2()?.1, weight.dims3()?);
    if inner != width || ends.dims() != [experts] || ends.dtype() != DType::I64 {
        bail!(
            "grouped-linear: {:?}, weight {:?} and ends {:?} {:?} do not fit: wanted [R, I], [E, O, I] and [E] in I64",
            x.shape(),
            weight.shape(),
            ends.dtype(),
            ends.shape()
        )
    }
    Ok(())
}

/// The rows of each expert on the host, of `rows` that they must cover.
pub(super) fn groups(ends: &Tensor, rows: usize) -> Result<Vec<Range<usize>>> {
    let mut first = 0;
    let mut groups = Vec::new();
    for (expert, end) in ends.to_vec1::<i64>()?.into_iter().enumerate() {
        let Some(end) = usize::try_from(end).ok().filter(|end| (first..=rows).contains(end)) else {
            bail!("grouped-linear: the group of expert {expert} ends at {end} after {first}, of {rows} rows")
        };
        groups.push(first..end);
        first = end;
    }
    if first != rows {
        bail!("grouped-linear: the groups end at {first}, of {rows} rows")
    }
    Ok(groups)
}

/// The sum of each token's rows of `y` `[T·K, H]`, weighted by `weights` `[T, K]`: `[T, H]`, added up in F32 and rounded
/// once. `places` are those of [`Permuted`].
pub fn unpermute(y: &Tensor, places: &Tensor, weights: &Tensor) -> Result<Tensor> {
    check_places(y, places, weights)?;
    let (width, (tokens, k)) = (y.dim(1)?, weights.dims2()?);
    if ours(y) && !tracked(&[y, weights]) {
        return super::ours::unpermute(y, places, weights);
    }
    if overrides() && !tracked(&[y, weights]) {
        if let Some(sums) = super::npu::unpermute(y, places, weights, None)? {
            return Ok(sums);
        }
        if let Some(sums) = super::cuda::unpermute(y, places, weights, None)? {
            return Ok(sums);
        }
        if let Some(sums) = cpu_moe::unpermute(y, places, weights)? {
            return Ok(sums);
        }
    }
    let wide = wide(y.dtype());
    let by_token = y.contiguous()?.index_select(places, 0)?.reshape((tokens, k, width))?.to_dtype(wide)?;
    let weighted = by_token.broadcast_mul(&weights.to_dtype(wide)?.unsqueeze(D::Minus1)?)?;
    weighted.sum(1)?.to_dtype(y.dtype())
}

/// [`unpermute`] added to `shared` `[T, H]`, what all tokens have in common; in one launch where the device can.
pub fn unpermute_onto(shared: &Tensor, y: &Tensor, places: &Tensor, weights: &Tensor) -> Result<Tensor> {
    check_places(y, places, weights)?;
    let fits = shared.dims() == [weights.dim(0)?, y.dim(1)?];
    if overrides() && !ours(y) && !tracked(&[shared, y, weights]) && fits {
        if let Some(sums) = super::npu::unpermute(y, places, weights, Some(shared))? {
            return Ok(sums);
        }
        if let Some(sums) = super::cuda::unpermute(y, places, weights, Some(shared))? {
            return Ok(sums);
        }
    }
    unpermute(y, places, weights)? + shared
}

fn check_places(y: &Tensor, places: &Tensor, weights: &Tensor) -> Result<()> {
    let (rows, (tokens, k)) = (y.dims2()?.0, weights.dims2()?);
    if rows != tokens * k || places.dims() != [rows] {
        bail!(
            "unpermute: {:?}, places {:?} and weights {:?} do not fit: wanted [T·K, H], [T·K] and [T, K]",
            y.shape(),
            places.shape(),
            weights.shape()
        )
    }
    Ok(())
}
