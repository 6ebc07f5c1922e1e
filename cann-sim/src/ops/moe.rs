//! Choice of experts.

use super::types::FLOATS;
use super::wide::tabulate_rows;
use crate::aclnn::{Call, Kernel, Tensor};
use crate::dtype::DType::{F32, I32};
use crate::status::{Result, Status};
use acl_sys::error::ACLNN_ERR_INNER_TILING_ERROR;
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
    let tiling = |text: String| Err(Status::new(ACLNN_ERR_INNER_TILING_ERROR, format!("{}: {text}", call.op)));
    let experts = x.shape[x.rank() - 1];
    let size = (experts as i64).checked_div(group_count).unwrap_or(0);
    let fits = group_count > 0 && size * group_count == experts as i64 && (group_count == 1 || size > 2);
    if !fits || experts > 2048 || (size as usize).next_multiple_of(32) * group_count as usize > 2048 {
        return tiling(format!(
            "{experts} experts in {group_count} groups: wanted groups of equal size above 2, at most 2048 of 32 each"
        ));
    }
    if !(1..=group_count).contains(&k_group) || !(1..=size * k_group).contains(&k) {
        return tiling(format!("k is {k} and kGroup {k_group} of {group_count} groups of {size} experts"));
    }
    if !(0..=1).contains(&group_select_mode) || !(0..=1).contains(&norm_type) || renorm != 0 {
        return tiling(format!(
            "groupSelectMode {group_select_mode}, normType {norm_type}, renorm {renorm}: wanted 0 or 1, 0 or 1, 0"
        ));
    }
    if let Some(bias) = &bias {
        call.dtype_in(bias, FLOATS)?;
        if bias.shape != [experts] {
            return tiling(format!("bias is {:?}, wanted [{experts}]", bias.shape));
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
        let values = x.load_f32(launch)?;
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
