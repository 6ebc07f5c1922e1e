//! Losses and their gradients. Sums run in `f64`.

use super::types::{FLOATS, at_most_8d, check_castable, promote_all};
use crate::aclnn::{Call, Kernel, Launch, Tensor};
use crate::dtype::DType::*;
use crate::status::{Result, Status};
use acl_sys::error::{ACL_ERROR_RT_AICORE_EXCEPTION, ACLNN_ERR_INNER_TILING_ERROR};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reduction {
    None,
    Mean,
    Sum,
    /// The sum over the number of samples, KlDiv's.
    BatchMean,
}

impl Reduction {
    fn named(call: &Call, name: Option<String>) -> Result<Self> {
        Ok(match name.as_deref() {
            Some("none") => Reduction::None,
            None | Some("mean") => Reduction::Mean,
            Some("sum") => Reduction::Sum,
            Some(other) => {
                return tiling(call, format!("reduction is {other:?}, wanted \"mean\", \"sum\" or \"none\""));
            }
        })
    }

    fn numbered(call: &Call, number: i64, highest: i64) -> Result<Self> {
        Ok(match number {
            0 => Reduction::None,
            1 => Reduction::Mean,
            2 => Reduction::Sum,
            3 if highest == 3 => Reduction::BatchMean,
            other => return call.invalid(format!("reduction is {other}, wanted 0 to {highest}")),
        })
    }
}

fn tiling<T>(call: &Call, text: String) -> Result<T> {
    Err(Status::new(ACLNN_ERR_INNER_TILING_ERROR, format!("{}: {text}", call.op)))
}

/// Reads labels; one outside `0..classes` that is not the ignored one would make a card read outside the logits.
fn labels(launch: &Launch, target: &Tensor, classes: usize, ignored: i64) -> Result<Vec<Option<usize>>> {
    let check = |label: i64| match label {
        label if label == ignored => Ok(None),
        label if (0..classes as i64).contains(&label) => Ok(Some(label as usize)),
        label => Err(Status::new(
            ACL_ERROR_RT_AICORE_EXCEPTION,
            format!("{}: {} holds {label}, wanted 0 to {} or {ignored}", launch.op, target.name, classes - 1),
        )),
    };
    target.load_i64(launch)?.into_iter().map(check).collect()
}

/// The class weights, or ones.
fn class_weights(launch: &Launch, weight: &Option<Tensor>, classes: usize) -> Result<Vec<f64>> {
    weight.as_ref().map_or_else(|| Ok(vec![1.0; classes]), |weight| weight.load_f64(launch))
}

fn cross_entropy_shapes(
    call: &Call,
    logits: &Tensor,
    target: &Tensor,
    weight: &Option<Tensor>,
) -> Result<(usize, usize)> {
    call.dtype_in(logits, FLOATS)?;
    call.rank_in(logits, 2..=2)?;
    let (n, classes) = (logits.shape[0], logits.shape[1]);
    if target.shape != [n] || classes == 0 {
        return tiling(
            call,
            format!("{} {:?} and target {:?}, wanted [N, C] and [N]", logits.name, logits.shape, target.shape),
        );
    }
    if let Some(weight) = weight {
        call.dtype_in(weight, &[F32])?;
        if weight.shape != [classes] {
            return tiling(call, format!("weight {:?}, wanted [{classes}]", weight.shape));
        }
    }
    Ok((n, classes))
}

/// Cross entropy of logits `[N, C]` against labels `[N]`; `log_prob_out` keeps the log softmax for the gradient.
/// The z-loss, which the page does not support yet, leaves its outputs untouched.
#[allow(clippy::too_many_arguments)]
pub fn cross_entropy_loss(
    call: &mut Call,
    input: Tensor,
    target: Tensor,
    weight: Option<Tensor>,
    reduction: Option<String>,
    ignore_index: i64,
    label_smoothing: f64,
    _lse_square_scale_for_zloss: f64,
    _return_zloss: bool,
    loss_out: Tensor,
    log_prob_out: Tensor,
    zloss_out: Option<Tensor>,
    lse_for_zloss_out: Option<Tensor>,
) -> Result<Kernel> {
    let (n, classes) = cross_entropy_shapes(call, &input, &target, &weight)?;
    call.dtype_in(&target, &[I32, I64])?;
    let reduction = Reduction::named(call, reduction)?;
    if !(0.0..=1.0).contains(&label_smoothing) {
        return tiling(call, format!("labelSmoothing is {label_smoothing}, wanted 0 to 1"));
    }
    call.shape_is(&loss_out, &[if reduction == Reduction::None { n } else { 1 }])?;
    call.shape_is(&log_prob_out, &input.shape)?;
    for out in
        [Some(&loss_out), Some(&log_prob_out), zloss_out.as_ref(), lse_for_zloss_out.as_ref()].into_iter().flatten()
    {
        call.same_dtype(out, &input)?;
    }
    call.needs_workspace(n * 4);
    Ok(Box::new(move |launch| {
        let weights = class_weights(launch, &weight, classes)?;
        let target = labels(launch, &target, classes, ignore_index)?;
        let logits = input.load_f32(launch)?;
        let (mut log_probs, mut losses, mut total) = (Vec::with_capacity(logits.len()), Vec::with_capacity(n), 0f64);
        for (x, label) in logits.chunks_exact(classes).zip(&target) {
            let max = x.iter().fold(f32::NEG_INFINITY, |max, &v| if v.is_nan() || v > max { v } else { max }) as f64;
            let lse = max + x.iter().map(|&v| (v as f64 - max).exp()).sum::<f64>().ln();
            let row = log_probs.len();
            log_probs.extend(x.iter().map(|&v| (v as f64 - lse) as f32));
            losses.push(label.map_or(0.0, |label| {
                total += weights[label];
                let smooth = if label_smoothing == 0.0 {
                    0.0
                } else {
                    -log_probs[row..].iter().zip(&weights).map(|(&p, w)| p as f64 * w).sum::<f64>() / classes as f64
                };
                let nll = -(x[label] as f64 - lse) * weights[label];
                (1.0 - label_smoothing) * nll + label_smoothing * smooth
            }));
        }
        log_prob_out.store_f32(launch, &log_probs)?;
        match reduction {
            Reduction::None => loss_out.store_f64(launch, &losses),
            Reduction::Sum => loss_out.store_f64(launch, &[losses.iter().sum()]),
            _ => loss_out.store_f64(launch, &[losses.iter().sum::<f64>() / total]),
        }
    }))
}

/// Gradient of [`cross_entropy_loss`] for the logits. As on the page, without label smoothing and z-loss.
#[allow(clippy::too_many_arguments)]
pub fn cross_entropy_loss_grad(
    call: &mut Call,
    grad_loss: Tensor,
    log_prob: Tensor,
    target: Tensor,
    weight: Option<Tensor>,
    _grad_zloss: Option<Tensor>,
    _lse_for_zloss: Option<Tensor>,
    reduction: Option<String>,
    ignore_index: i64,
    label_smoothing: f64,
    _lse_square_scale_for_zloss: f64,
    out: Tensor,
) -> Result<Kernel> {
    let (n, classes) = cross_entropy_shapes(call, &log_prob, &target, &weight)?;
    call.dtype_in(&target, &[I64])?;
    call.same_dtype(&grad_loss, &log_prob)?;
    call.same_dtype(&out, &log_prob)?;
    call.shape_is(&out, &log_prob.shape)?;
    let reduction = Reduction::named(call, reduction)?;
    if label_smoothing != 0.0 {
        return call.invalid(format!("labelSmoothing is {label_smoothing}, wanted 0"));
    }
    match reduction {
        Reduction::None => call.shape_is(&grad_loss, &[n])?,
        _ => call.shape_is(&grad_loss, &[])?,
    }
    Ok(Box::new(move |launch| {
        let weights = class_weights(launch, &weight, classes)?;
        let target = labels(launch, &target, classes, ignore_index)?;
        let (grads, log_probs) = (grad_loss.load_f64(launch)?, log_prob.load_f32(launch)?);
        let total: f64 = target.iter().flatten().map(|&label| weights[label]).sum();
        let mut dx = Vec::with_capacity(log_probs.len());
        for (row, (log_probs, label)) in log_probs.chunks_exact(classes).zip(&target).enumerate() {
            let Some(label) = *label else {
                dx.resize(dx.len() + classes, 0f32);
                continue;
            };
            let scale = weights[label]
                * match reduction {
                    Reduction::None => grads[row],
                    Reduction::Mean => grads[0] / total,
                    _ => grads[0],
                };
            let slope = |(class, &p): (usize, &f32)| ((p as f64).exp() - (class == label) as u8 as f64) * scale;
            dx.extend(log_probs.iter().enumerate().map(|pair| slope(pair) as f32));
        }
        out.store_f32(launch, &dx)
    }))
}

/// Shapes of the negative log likelihood: samples (one where there is no such dimension) and classes.
fn nll_shapes(call: &Call, self_: &Tensor, target: &Tensor, weight: &Tensor) -> Result<(usize, usize)> {
    call.dtype_in(self_, FLOATS)?;
    call.rank_in(self_, 1..=2)?;
    call.dtype_in(target, &[I64, U8, I32])?;
    call.shape_is(target, &self_.shape[..self_.rank() - 1])?;
    call.same_dtype(weight, self_)?;
    let classes = self_.shape[self_.rank() - 1];
    call.shape_is(weight, &[classes])?;
    Ok((target.count(), classes))
}

/// Negative log likelihood of log probabilities `[N, C]` or `[C]`; `total_weight_out` keeps the weights' sum.
#[allow(clippy::too_many_arguments)]
pub fn n_l_l_loss(
    call: &mut Call,
    self_: Tensor,
    target: Tensor,
    weight: Tensor,
    reduction: i64,
    ignore_index: i64,
    out: Tensor,
    total_weight_out: Tensor,
) -> Result<Kernel> {
    let (n, classes) = nll_shapes(call, &self_, &target, &weight)?;
    let reduction = Reduction::numbered(call, reduction, 2)?;
    call.same_dtype(&out, &self_)?;
    call.same_dtype(&total_weight_out, &self_)?;
    let each = reduction == Reduction::None && self_.rank() == 2;
    call.shape_is(&out, &[if each { n } else { 1 }])?;
    call.shape_is(&total_weight_out, &[1])?;
    Ok(Box::new(move |launch| {
        let (x, weights) = (self_.load_f64(launch)?, weight.load_f64(launch)?);
        let target = labels(launch, &target, classes, ignore_index)?;
        let losses: Vec<f64> = target
            .iter()
            .enumerate()
            .map(|(i, label)| label.map_or(0.0, |label| -weights[label] * x[i * classes + label]))
            .collect();
        let total: f64 = target.iter().flatten().map(|&label| weights[label]).sum();
        match reduction {
            Reduction::None => return out.store_f64(launch, &losses),
            Reduction::Sum => out.store_f64(launch, &[losses.iter().sum()])?,
            _ => out.store_f64(launch, &[losses.iter().sum::<f64>() / total])?,
        }
        total_weight_out.store_f64(launch, &[total])
    }))
}

/// Gradient of [`n_l_l_loss`] for the log probabilities.
#[allow(clippy::too_many_arguments)]
pub fn n_l_l_loss_backward(
    call: &mut Call,
    grad_output: Tensor,
    self_: Tensor,
    target: Tensor,
    weight: Tensor,
    reduction: i64,
    ignore_index: i64,
    total_weight: Tensor,
    out: Tensor,
) -> Result<Kernel> {
    let (n, classes) = nll_shapes(call, &self_, &target, &weight)?;
    let reduction = Reduction::numbered(call, reduction, 2)?;
    for tensor in [&grad_output, &total_weight, &out] {
        call.same_dtype(tensor, &self_)?;
    }
    call.shape_is(&out, &self_.shape)?;
    let each = reduction == Reduction::None && self_.rank() == 2;
    if grad_output.count() != if each { n } else { 1 } || total_weight.count() != 1 {
        let text = format!(
            "gradOutput {:?} and totalWeight {:?} do not fit {n} samples",
            grad_output.shape, total_weight.shape
        );
        return call.invalid(text);
    }
    Ok(Box::new(move |launch| {
        let (grads, weights) = (grad_output.load_f64(launch)?, weight.load_f64(launch)?);
        let total = if reduction == Reduction::Mean { total_weight.load_f64(launch)?[0] } else { 1.0 };
        let mut dx = vec![0f64; n * classes];
        for (i, label) in labels(launch, &target, classes, ignore_index)?.into_iter().enumerate() {
            if let Some(label) = label {
                dx[i * classes + label] = -grads[if each { i } else { 0 }] * weights[label] / total;
            }
        }
        out.store_f64(launch, &dx)
    }))
}

/// A loss of pairs of elements that broadcast, reduced.
fn pairwise(
    call: &mut Call,
    self_: Tensor,
    target: Tensor,
    reduction: Reduction,
    out: Tensor,
    reduced_rank: &[usize],
    loss: impl Fn(f64, f64) -> f64 + Send + Sync + 'static,
) -> Result<Kernel> {
    for tensor in [&self_, &target, &out] {
        call.dtype_in(tensor, FLOATS)?;
    }
    at_most_8d(call, &[&self_, &target])?;
    let dtype = promote_all(call, &[&self_, &target])?;
    check_castable(call, dtype, &out)?;
    let shape = call.broadcast(&self_.shape, &target.shape)?;
    let batch = shape.first().copied().unwrap_or(1);
    call.shape_is(&out, if reduction == Reduction::None { &shape } else { reduced_rank })?;
    let (x, y) = (self_.broadcast_view(&shape), target.broadcast_view(&shape));
    Ok(Box::new(move |launch| {
        let losses: Vec<f64> =
            x.load_f64(launch)?.into_iter().zip(y.load_f64(launch)?).map(|(x, y)| loss(x, y)).collect();
        let sum: f64 = losses.iter().sum();
        match reduction {
            Reduction::None => out.store_f64(launch, &losses),
            Reduction::Sum => out.store_f64(launch, &[sum]),
            Reduction::Mean => out.store_f64(launch, &[sum / losses.len() as f64]),
            Reduction::BatchMean => out.store_f64(launch, &[sum / batch as f64]),
        }
    }))
}

/// Kullback-Leibler divergence of log probabilities `self` from `target`, itself logarithmic with `log_target`.
pub fn kl_div(
    call: &mut Call,
    self_: Tensor,
    target: Tensor,
    reduction: i64,
    log_target: bool,
    out: Tensor,
) -> Result<Kernel> {
    let reduction = Reduction::numbered(call, reduction, 3)?;
    pairwise(call, self_, target, reduction, out, &[1], move |x, y| match log_target {
        true => y.exp() * (y - x),
        // The page has no limit at zero either.
        false if y <= 0.0 => f64::NAN,
        false => y * (y.ln() - x),
    })
}

/// Squared difference.
pub fn mse_loss(call: &mut Call, self_: Tensor, target: Tensor, reduction: i64, out: Tensor) -> Result<Kernel> {
    let reduction = Reduction::numbered(call, reduction, 2)?;
    pairwise(call, self_, target, reduction, out, &[], |x, y| (x - y) * (x - y))
}

/// Gradient of [`mse_loss`] for `self`.
pub fn mse_loss_backward(
    call: &mut Call,
    grad_output: Tensor,
    self_: Tensor,
    target: Tensor,
    reduction: i64,
    out: Tensor,
) -> Result<Kernel> {
    let reduction = Reduction::numbered(call, reduction, 2)?;
    call.dtype_in(&self_, FLOATS)?;
    call.dtype_in(&out, FLOATS)?;
    call.same_dtype(&grad_output, &self_)?;
    call.same_dtype(&target, &self_)?;
    at_most_8d(call, &[&grad_output, &self_, &target])?;
    let shape = call.broadcast(&call.broadcast(&grad_output.shape, &self_.shape)?, &target.shape)?;
    call.shape_is(&out, &shape)?;
    let scale = if reduction == Reduction::Mean { 2.0 / self_.count() as f64 } else { 2.0 };
    let dtype = self_.dtype;
    let inputs = [grad_output, self_, target];
    Ok(super::wide::zip_as::<f64, 3>(inputs, out, (dtype, dtype), move |[g, x, y]| g * (x - y) * scale))
}
