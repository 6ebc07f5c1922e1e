//! Choice of experts.

use super::{device_fault, tiling};
use crate::aclnn::{Call, Kernel, Launch, Tensor};
use crate::dtype::DType::{Bool, F32, I32};
use crate::ops::types::FLOATS;
use crate::ops::wide::tabulate_rows;
use crate::status::Result;
use std::cmp::Ordering;

/// Attributes of the choice.
#[derive(Clone, Copy)]
struct Gate {
    k: usize,
    chosen_groups: usize,
    groups: usize,
    /// Groups are ranked by the sum of their two best instead of the best.
    by_two: bool,
    sigmoid: bool,
    factor: f64,
    eps: f64,
}

/// Indices of the `count` largest, the first of equals first.
fn largest(values: &[f64], count: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by(|&a, &b| values[b].partial_cmp(&values[a]).unwrap_or(Ordering::Equal));
    order.truncate(count);
    order
}

/// The elements of `x`, none of which may be NaN: a row with one has no best experts.
fn logits(launch: &Launch, x: &Tensor) -> Result<Vec<f32>> {
    let values = x.load_f32(launch)?;
    let experts = x.shape[x.rank() - 1].max(1);
    match values.iter().position(|value| value.is_nan()) {
        Some(at) => {
            let (row, expert) = (at / experts, at % experts);
            device_fault(launch, format!("{} is not a number in row {row} at expert {expert}", x.name))
        }
        None => Ok(values),
    }
}

impl Gate {
    /// Scores of all experts, and indices and weights of the chosen ones.
    fn choose(&self, x: &[f32], bias: Option<&[f32]>) -> (Vec<f64>, Vec<usize>, Vec<f64>) {
        let scores: Vec<f64> = if self.sigmoid {
            x.iter().map(|&v| 1.0 / (1.0 + (-v as f64).exp())).collect()
        } else {
            let max = x.iter().fold(f32::NEG_INFINITY, |max, &v| max.max(v)) as f64;
            let sum: f64 = x.iter().map(|&v| (v as f64 - max).exp()).sum();
            x.iter().map(|&v| (v as f64 - max).exp() / sum).collect()
        };
        // The bias decides the choice and not the weight.
        let mut ranks: Vec<f64> = scores.clone();
        bias.into_iter().flatten().zip(&mut ranks).for_each(|(bias, rank)| *rank += *bias as f64);
        let size = x.len() / self.groups;
        let rank_of =
            |group: &[f64]| largest(group, 1 + self.by_two as usize).into_iter().map(|i| group[i]).sum::<f64>();
        let kept = largest(&ranks.chunks_exact(size).map(rank_of).collect::<Vec<_>>(), self.chosen_groups);
        for (i, rank) in ranks.iter_mut().enumerate() {
            if !kept.contains(&(i / size)) {
                *rank = f64::NEG_INFINITY;
            }
        }
        let experts = largest(&ranks, self.k);
        let sum: f64 = if self.sigmoid { experts.iter().map(|&i| scores[i]).sum::<f64>() + self.eps } else { 1.0 };
        let weights = experts.iter().map(|&i| scores[i] / sum * self.factor).collect();
        (scores, experts, weights)
    }
}

/// Chooses `k` of the experts in the last dimension of `x`, from the best `k_group` of `group_count` groups: scores by
/// softmax (`norm_type` 0) or sigmoid (1), whose chosen weights are then normalised; `out_out` keeps the scores.
#[allow(clippy::too_many_arguments)]
pub fn moe_gating_top_k(
    call: &mut Call,
    x: Tensor,
    bias: Option<Tensor>,
    k: i64,
    k_group: i64,
    group_count: i64,
    group_select_mode: i64,
    renorm: i64,
    norm_type: i64,
    out_flag: bool,
    routed_scaling_factor: f64,
    eps: f64,
    y_out: Tensor,
    expert_idx_out: Tensor,
    out_out: Option<Tensor>,
) -> Result<Kernel> {
    call.dtype_in(&x, FLOATS)?;
    call.rank_in(&x, 1..=8)?;
    call.same_dtype(&y_out, &x)?;
    call.dtype_in(&expert_idx_out, &[I32])?;
    let experts = x.shape[x.rank() - 1];
    let size = (experts as i64).checked_div(group_count).unwrap_or(0);
    let fits = group_count > 0 && size * group_count == experts as i64 && (group_count == 1 || size > 2);
    if !fits || experts > 2048 || (size as usize).next_multiple_of(32) * group_count as usize > 2048 {
        return tiling(
            call,
            format!(
                "{experts} experts in {group_count} groups: wanted groups of equal size above 2, at most 2048 of 32 each"
            ),
        );
    }
    if !(1..=group_count).contains(&k_group) || !(1..=size * k_group).contains(&k) {
        return tiling(call, format!("k is {k} and kGroup {k_group} of {group_count} groups of {size} experts"));
    }
    if !(0..=1).contains(&group_select_mode) || !(0..=1).contains(&norm_type) || renorm != 0 {
        return tiling(
            call,
            format!(
                "groupSelectMode {group_select_mode}, normType {norm_type}, renorm {renorm}: wanted 0 or 1, 0 or 1, 0"
            ),
        );
    }
    if let Some(bias) = &bias {
        call.dtype_in(bias, FLOATS)?;
        if bias.shape != [experts] {
            return tiling(call, format!("bias is {:?}, wanted [{experts}]", bias.shape));
        }
    }
    let mut shape = x.shape.clone();
    shape[x.rank() - 1] = k as usize;
    call.shape_is(&y_out, &shape)?;
    call.shape_is(&expert_idx_out, &shape)?;
    let out = out_out.filter(|_| out_flag);
    if let Some(out) = &out {
        call.dtype_in(out, &[F32])?;
        call.shape_is(out, &x.shape)?;
    } else if out_flag {
        return call.invalid("outOut is null although outFlag asks for it");
    }
    let gate = Gate {
        k: k as usize,
        chosen_groups: k_group as usize,
        groups: group_count as usize,
        by_two: group_select_mode == 1,
        sigmoid: norm_type == 1,
        factor: routed_scaling_factor,
        eps,
    };
    Ok(Box::new(move |launch| {
        let values = logits(launch, &x)?;
        let bias = bias.as_ref().map(|bias| bias.load_f32(launch)).transpose()?;
        let rows = tabulate_rows(values.len() / experts, experts, &|row| {
            gate.choose(&values[row * experts..][..experts], bias.as_deref())
        });
        let chosen: Vec<i64> = rows.iter().flat_map(|row| row.1.iter().map(|&expert| expert as i64)).collect();
        expert_idx_out.store_i64(launch, &chosen)?;
        y_out.store_f64(launch, &rows.iter().flat_map(|row| row.2.clone()).collect::<Vec<_>>())?;
        out.as_ref()
            .map_or(Ok(()), |out| out.store_f64(launch, &rows.iter().flat_map(|row| row.0.clone()).collect::<Vec<_>>()))
    }))
}

/// A choice by softmax.
struct Softmax {
    x: Tensor,
    /// Rows whose experts do not matter any more.
    finished: Option<Tensor>,
    k: usize,
    /// Whether the softmax is of the chosen logits alone.
    renorm: bool,
    y: Tensor,
    experts: Tensor,
    /// Place of each choice where those of all rows lie one after another.
    places: Option<Tensor>,
    scores: Option<Tensor>,
}

fn softmax(x: impl Iterator<Item = f64> + Clone) -> Vec<f64> {
    let max = x.clone().fold(f64::NEG_INFINITY, f64::max);
    let sum: f64 = x.clone().map(|x| (x - max).exp()).sum();
    x.map(|x| (x - max).exp() / sum).collect()
}

impl Softmax {
    /// The page's checks.
    fn check(&self, call: &Call, k: i64) -> Result<()> {
        let x = &self.x;
        call.dtype_in(x, FLOATS)?;
        call.same_dtype(&self.y, x)?;
        for tensor in [Some(&self.experts), self.places.as_ref()].into_iter().flatten() {
            call.dtype_in(tensor, &[I32])?;
        }
        let experts = x.shape.last().copied().unwrap_or(0);
        if !(2..=3).contains(&x.rank()) || !(1..=experts.min(1024) as i64).contains(&k) {
            let text = format!("x is {:?} and k {k}", x.shape);
            return tiling(
                call,
                format!("{text}; wanted two or three dimensions, and 1 to the last of them, at most 1024"),
            );
        }
        let rows = &x.shape[..x.rank() - 1];
        let chosen = [rows, &[self.k]].concat();
        for tensor in [Some(&self.y), Some(&self.experts), self.places.as_ref()].into_iter().flatten() {
            if tensor.shape != chosen {
                return tiling(call, format!("{} is {:?}, wanted {chosen:?}", tensor.name, tensor.shape));
            }
        }
        if let Some(finished) = &self.finished {
            call.dtype_in(finished, &[Bool])?;
            if finished.shape != rows {
                return tiling(call, format!("finished is {:?}, wanted {rows:?}", finished.shape));
            }
        }
        let Some(scores) = &self.scores else { return Ok(()) };
        if scores.dtype != F32 || scores.shape != x.shape {
            let text = format!("softmaxResultOut is {} {:?}", scores.dtype, scores.shape);
            return tiling(call, format!("{text}, wanted FLOAT {:?}", x.shape));
        }
        Ok(())
    }

    /// Scores of a row, its experts, and their weights.
    fn choose(&self, x: &[f32]) -> (Vec<f64>, Vec<usize>, Vec<f64>) {
        let logits: Vec<f64> = x.iter().map(|&x| x as f64).collect();
        let scores = softmax(logits.iter().copied());
        let experts = largest(if self.renorm { &logits } else { &scores }, self.k);
        let weights = match self.renorm {
            true => softmax(experts.iter().map(|&expert| logits[expert])),
            false => experts.iter().map(|&expert| scores[expert]).collect(),
        };
        (scores, experts, weights)
    }

    fn run(&self, launch: &Launch) -> Result<()> {
        let (values, experts) = (logits(launch, &self.x)?, self.x.shape[self.x.rank() - 1]);
        let finished = self.finished.as_ref().map(|finished| finished.load_i64(launch)).transpose()?;
        let count = values.len() / experts;
        let rows = tabulate_rows(count, experts, &|row| self.choose(&values[row * experts..][..experts]));
        let chosen = rows.iter().enumerate().flat_map(|(row, (_, chosen, _))| {
            let done = finished.as_ref().is_some_and(|finished| finished[row] != 0);
            chosen.iter().map(move |&expert| if done { experts } else { expert } as i64)
        });
        self.experts.store_i64(launch, &chosen.collect::<Vec<_>>())?;
        self.y.store_f64(launch, &rows.iter().flat_map(|row| row.2.clone()).collect::<Vec<_>>())?;
        if let Some(places) = &self.places {
            let place = |i: usize| (i % self.k * count + i / self.k) as i64;
            places.store_i64(launch, &(0..count * self.k).map(place).collect::<Vec<_>>())?;
        }
        let Some(scores) = &self.scores else { return Ok(()) };
        scores.store_f64(launch, &rows.iter().flat_map(|row| row.0.clone()).collect::<Vec<_>>())
    }
}

/// The `k` likeliest of the experts in the last dimension of `x`, and their shares of the softmax over all; `row_idx_out` is what
/// [`super::moe_init_routing`] wants. In `finished` rows the experts are one that is not there.
pub fn moe_gating_top_k_softmax(
    call: &mut Call,
    x: Tensor,
    finished: Option<Tensor>,
    k: i64,
    y_out: Tensor,
    expert_idx_out: Tensor,
    row_idx_out: Tensor,
) -> Result<Kernel> {
    let (places, scores) = (Some(row_idx_out), None);
    let chosen = k.max(0) as usize;
    let gate = Softmax { x, finished, k: chosen, renorm: false, y: y_out, experts: expert_idx_out, places, scores };
    gate.check(call, k)?;
    Ok(Box::new(move |launch| gate.run(launch)))
}

/// As [`moe_gating_top_k_softmax`], without the places. With `renorm` 1 the softmax is over the chosen ones alone, so that their
/// weights add up to one; with 0 that over all can be had as well.
#[allow(clippy::too_many_arguments)]
pub fn moe_gating_top_k_softmax_v2(
    call: &mut Call,
    x: Tensor,
    finished: Option<Tensor>,
    k: i64,
    renorm: i64,
    output_softmax_result_flag: bool,
    y_out: Tensor,
    expert_idx_out: Tensor,
    softmax_result_out: Option<Tensor>,
) -> Result<Kernel> {
    if !(0..=1).contains(&renorm) {
        return tiling(call, format!("renorm is {renorm}, wanted 0 or 1"));
    }
    let asked = output_softmax_result_flag && renorm == 0;
    let scores = softmax_result_out.filter(|_| asked);
    if asked && scores.is_none() {
        return call.invalid("softmaxResultOut is null although outputSoftmaxResultFlag asks for it");
    }
    let (y, experts, places, renorm) = (y_out, expert_idx_out, None, renorm == 1);
    let gate = Softmax { x, finished, k: k.max(0) as usize, renorm, y, experts, places, scores };
    gate.check(call, k)?;
    Ok(Box::new(move |launch| gate.run(launch)))
}
