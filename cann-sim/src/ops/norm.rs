//! Normalisations over the last dimensions, and their gradients. Sums run in `f64`: a row is short, and so the result
//! does not depend on how a device splits it.

use super::types::FLOATS;
use super::wide::tabulate_rows;
use crate::aclnn::{Call, Kernel, Launch, Tensor};
use crate::dtype::DType::*;
use crate::fail;
use crate::status::{Result, Status};
use crate::with_element;
use acl_sys::error::{ACLNN_ERR_INNER_TILING_ERROR, ACLNN_ERR_PARAM_NULLPTR};

/// Number of leading dimensions of `x` that `gamma`, whose shape must be the others, leaves alone.
fn leading(call: &Call, x: &Tensor, gamma: &[usize], name: &str) -> Result<usize> {
    match x.rank().checked_sub(gamma.len()) {
        Some(lead) if x.shape[lead..] == *gamma && !gamma.is_empty() => Ok(lead),
        _ => call.invalid(format!("{name} {gamma:?} is not the end of {}'s shape {:?}", x.name, x.shape)),
    }
}

/// The shape of a statistic: `x`'s leading dimensions, ones for the others.
fn statistic_shape(x: &Tensor, lead: usize) -> Vec<usize> {
    x.shape.iter().enumerate().map(|(i, &size)| if i < lead { size } else { 1 }).collect()
}

/// The gradients' page wants a statistic without the ones that the forward operator writes; both are the same memory.
fn check_statistic(call: &Call, statistic: &Tensor, x: &Tensor, lead: usize) -> Result<()> {
    if statistic.shape == statistic_shape(x, lead) {
        return Ok(());
    }
    call.shape_is(statistic, &x.shape[..lead])
}

fn rms_checks(call: &Call, x: &Tensor, gamma: &Tensor, y: &Tensor, any_gamma: bool) -> Result<usize> {
    call.rank_in(x, 1..=8)?;
    call.dtype_in(x, FLOATS)?;
    let allowed: &[_] = if any_gamma { &[x.dtype, F32] } else { &[x.dtype] };
    call.dtype_in(gamma, allowed)?;
    call.same_dtype(y, x)?;
    call.shape_is(y, &x.shape)?;
    leading(call, x, &gamma.shape, gamma.name)
}

/// One over the root of the mean square of a row.
fn reciprocal_rms(row: &[f32], epsilon: f64) -> f32 {
    let squares: f64 = row.iter().map(|&v| v as f64 * v as f64).sum();
    (1.0 / (squares / row.len() as f64 + epsilon).sqrt()) as f32
}

/// Normalised rows of `x` and the factor of each.
pub(super) fn rms_rows(x: &[f32], gamma: &[f32], epsilon: f64) -> (Vec<f32>, Vec<f32>) {
    let n = gamma.len();
    let rows = x.len().checked_div(n).unwrap_or(0);
    let factors = tabulate_rows(rows, n, &|row| reciprocal_rms(&x[row * n..][..n], epsilon));
    let mut y = Vec::with_capacity(x.len());
    for (row, &factor) in x.chunks_exact(n.max(1)).zip(&factors) {
        y.extend(row.iter().zip(gamma).map(|(x, gamma)| x * factor * gamma));
    }
    (y, factors)
}

/// `y = x · rsqrt(mean(x²) + epsilon) · gamma` over the dimensions of `gamma`; `rstd` keeps the factor.
pub fn rms_norm(
    call: &mut Call,
    x: Tensor,
    gamma: Tensor,
    epsilon: f64,
    y_out: Tensor,
    rstd_out: Tensor,
) -> Result<Kernel> {
    let lead = rms_checks(call, &x, &gamma, &y_out, true)?;
    call.dtype_in(&rstd_out, &[F32])?;
    call.shape_is(&rstd_out, &statistic_shape(&x, lead))?;
    Ok(Box::new(move |launch| {
        let (y, rstd) = rms_rows(&x.load_f32(launch)?, &gamma.load_f32(launch)?, epsilon);
        y_out.store_f32(launch, &y)?;
        rstd_out.store_f32(launch, &rstd)
    }))
}

/// As [`rms_norm`] with `1 + gamma` for `gamma`, and a `rstd` without the normalised dimensions.
pub fn gemma_rms_norm(
    call: &mut Call,
    x: Tensor,
    gamma: Tensor,
    epsilon: f64,
    y_out: Tensor,
    rstd_out: Tensor,
) -> Result<Kernel> {
    let lead = rms_checks(call, &x, &gamma, &y_out, false)?;
    call.dtype_in(&rstd_out, &[F32])?;
    check_statistic(call, &rstd_out, &x, lead)?;
    Ok(Box::new(move |launch| {
        let gamma: Vec<f32> = gamma.load_f32(launch)?.into_iter().map(|gamma| 1.0 + gamma).collect();
        let (y, rstd) = rms_rows(&x.load_f32(launch)?, &gamma, epsilon);
        y_out.store_f32(launch, &y)?;
        rstd_out.store_f32(launch, &rstd)
    }))
}

/// `x = x1 + x2`, `y = RmsNorm(x)`. Without `rstd`, `gamma` has the shape `[1, size of the last dimension]`.
#[allow(clippy::too_many_arguments)]
pub fn add_rms_norm(
    call: &mut Call,
    x1: Tensor,
    x2: Tensor,
    gamma: Tensor,
    epsilon: f64,
    y_out: Tensor,
    rstd_out: Option<Tensor>,
    x_out: Option<Tensor>,
) -> Result<Kernel> {
    call.same_dtype(&x2, &x1)?;
    call.shape_is(&x2, &x1.shape)?;
    if epsilon < 0.0 {
        return call.invalid(format!("epsilon is {epsilon}, wanted at least 0"));
    }
    match &rstd_out {
        Some(rstd) => {
            let lead = rms_checks(call, &x1, &gamma, &y_out, false)?;
            call.dtype_in(rstd, &[F32])?;
            call.shape_is(rstd, &statistic_shape(&x1, lead))?;
            if x_out.is_none() {
                fail!(ACLNN_ERR_PARAM_NULLPTR, "{}: xOut is null although rstdOut is not", call.op);
            }
        }
        None => {
            call.dtype_in(&x1, &[F16, BF16])?;
            call.rank_in(&x1, 1..=8)?;
            call.shape_is(&gamma, &[1, x1.shape[x1.rank() - 1]])?;
            rms_checks(call, &x1, &gamma.selected_view(0, 0), &y_out, false)?;
        }
    }
    if let Some(x) = &x_out {
        call.same_dtype(x, &x1)?;
        call.shape_is(x, &x1.shape)?;
    }
    Ok(Box::new(move |launch| {
        let rounded = rounded_sum(launch, &x1, &x2)?;
        let (y, rstd) = rms_rows(&rounded, &gamma.load_f32(launch)?, epsilon);
        y_out.store_f32(launch, &y)?;
        if let Some(out) = &rstd_out {
            out.store_f32(launch, &rstd)?;
        }
        x_out.as_ref().map_or(Ok(()), |out| out.store_f32(launch, &rounded))
    }))
}

/// The sum of two tensors, rounded to their type before it is normalised, so that `xOut`, which the backward operator reads, is
/// what was normalised.
fn rounded_sum(launch: &Launch, x1: &Tensor, x2: &Tensor) -> Result<Vec<f32>> {
    with_element!(x1.dtype, T => {
        let add = |(a, b): (f32, f32)| <T as crate::dtype::Element>::to_f32(<T as crate::dtype::Element>::from_f32(a + b));
        Ok(x1.load_f32(launch)?.into_iter().zip(x2.load_f32(launch)?).map(add).collect())
    })
}

/// As [`add_rms_norm`], with the norm, as it is rounded to its type, in `FLOAT` as well (`y1_out`).
#[allow(clippy::too_many_arguments)]
pub fn add_rms_norm_cast(
    call: &mut Call,
    x1: Tensor,
    x2: Tensor,
    gamma: Tensor,
    epsilon: f64,
    y1_out: Tensor,
    y2_out: Tensor,
    rstd_out: Tensor,
    x_out: Tensor,
) -> Result<Kernel> {
    call.dtype_in(&x1, &[F16, BF16])?;
    call.rank_in(&x1, 1..=8)?;
    for tensor in [&x2, &gamma, &y2_out, &x_out] {
        call.same_dtype(tensor, &x1)?;
    }
    for tensor in [&y1_out, &rstd_out] {
        call.dtype_in(tensor, &[F32])?;
    }
    // What follows is the device's tiling to refuse.
    let tiling = |status: Status| Status::new(ACLNN_ERR_INNER_TILING_ERROR, status.message);
    let lead = leading(call, &x1, &gamma.shape, gamma.name).map_err(tiling)?;
    for tensor in [&x2, &y1_out, &y2_out, &x_out] {
        call.shape_is(tensor, &x1.shape).map_err(tiling)?;
    }
    check_statistic(call, &rstd_out, &x1, lead).map_err(tiling)?;
    for tensor in [&y1_out, &y2_out, &rstd_out, &x_out] {
        if !tensor.is_contiguous() {
            fail!(ACLNN_ERR_INNER_TILING_ERROR, "{}: {} is not contiguous", call.op, tensor.name);
        }
    }
    Ok(Box::new(move |launch| {
        let rounded = rounded_sum(launch, &x1, &x2)?;
        let (y, rstd) = rms_rows(&rounded, &gamma.load_f32(launch)?, epsilon);
        y2_out.store_f32(launch, &y)?;
        y1_out.store_f32(launch, &y2_out.load_f32(launch)?)?;
        rstd_out.store_f32(launch, &rstd)?;
        x_out.store_f32(launch, &rounded)
    }))
}

/// Gradients of [`rms_norm`] for `x` and `gamma`.
pub fn rms_norm_grad(
    call: &mut Call,
    dy: Tensor,
    x: Tensor,
    rstd: Tensor,
    gamma: Tensor,
    dx_out: Tensor,
    dgamma_out: Tensor,
) -> Result<Kernel> {
    let lead = rms_checks(call, &x, &gamma, &dx_out, true)?;
    call.rank_in(&x, 2..=8)?;
    call.same_dtype(&dy, &x)?;
    call.shape_is(&dy, &x.shape)?;
    call.dtype_in(&rstd, &[F32])?;
    check_statistic(call, &rstd, &x, lead)?;
    call.dtype_in(&dgamma_out, &[F32])?;
    call.shape_is(&dgamma_out, &gamma.shape)?;
    call.needs_workspace(gamma.count() * 4);
    Ok(Box::new(move |launch| {
        let (dy, x) = (dy.load_f32(launch)?, x.load_f32(launch)?);
        let (rstd, gamma) = (rstd.load_f32(launch)?, gamma.load_f32(launch)?);
        let n = gamma.len();
        let (mut dx, mut dgamma) = (Vec::with_capacity(x.len()), vec![0f64; n]);
        for ((dy, x), &factor) in dy.chunks_exact(n.max(1)).zip(x.chunks_exact(n.max(1))).zip(&rstd) {
            let scaled = |i: usize| dy[i] as f64 * gamma[i] as f64;
            let normal = |i: usize| x[i] as f64 * factor as f64;
            let mean = (0..n).map(|i| scaled(i) * normal(i)).sum::<f64>() / n as f64;
            dx.extend((0..n).map(|i| ((scaled(i) - normal(i) * mean) * factor as f64) as f32));
            (0..n).for_each(|i| dgamma[i] += dy[i] as f64 * normal(i));
        }
        dx_out.store_f32(launch, &dx)?;
        dgamma_out.store_f64(launch, &dgamma)
    }))
}

/// Checks of what LayerNorm and its gradient share; the number of leading dimensions.
fn layer_checks(call: &Call, x: &Tensor, shape: &[i64], weights: [&Option<Tensor>; 2]) -> Result<usize> {
    call.rank_in(x, 1..=8)?;
    call.dtype_in(x, FLOATS)?;
    let shape: Vec<usize> = shape.iter().map(|&size| size.max(0) as usize).collect();
    for weight in weights.into_iter().flatten() {
        call.dtype_in(weight, &[x.dtype, F32])?;
        call.shape_is(weight, &shape)?;
    }
    if let [Some(weight), Some(bias)] = weights {
        call.same_dtype(bias, weight)?;
    }
    leading(call, x, &shape, "normalizedShape")
}

fn load_or(launch: &Launch, tensor: &Option<Tensor>, default: f32, count: usize) -> Result<Vec<f32>> {
    tensor.as_ref().map_or_else(|| Ok(vec![default; count]), |tensor| tensor.load_f32(launch))
}

/// `out = (input - mean) / sqrt(variance + eps) · weight + bias` over the last dimensions, which `normalized_shape` names.
#[allow(clippy::too_many_arguments)]
pub fn layer_norm(
    call: &mut Call,
    input: Tensor,
    normalized_shape: Vec<i64>,
    weight: Option<Tensor>,
    bias: Option<Tensor>,
    eps: f64,
    out: Tensor,
    mean_out: Option<Tensor>,
    rstd_out: Option<Tensor>,
) -> Result<Kernel> {
    let lead = layer_checks(call, &input, &normalized_shape, [&weight, &bias])?;
    call.same_dtype(&out, &input)?;
    call.shape_is(&out, &input.shape)?;
    for statistic in [&mean_out, &rstd_out].into_iter().flatten() {
        call.same_dtype(statistic, &input)?;
        call.shape_is(statistic, &statistic_shape(&input, lead))?;
    }
    let n: usize = input.shape[lead..].iter().product();
    Ok(Box::new(move |launch| {
        let x = input.load_f32(launch)?;
        let (weight, bias) = (load_or(launch, &weight, 1.0, n)?, load_or(launch, &bias, 0.0, n)?);
        let (mut y, mut means, mut rstds) = (Vec::with_capacity(x.len()), Vec::new(), Vec::new());
        for row in x.chunks_exact(n.max(1)) {
            let mean = row.iter().map(|&v| v as f64).sum::<f64>() / n as f64;
            let variance = row.iter().map(|&v| (v as f64 - mean).powi(2)).sum::<f64>() / n as f64;
            let rstd = 1.0 / (variance + eps).sqrt();
            let normal = |(i, &v): (usize, &f32)| ((v as f64 - mean) * rstd) as f32 * weight[i] + bias[i];
            y.extend(row.iter().enumerate().map(normal));
            means.push(mean as f32);
            rstds.push(rstd as f32);
        }
        out.store_f32(launch, &y)?;
        mean_out.as_ref().map_or(Ok(()), |out| out.store_f32(launch, &means))?;
        rstd_out.as_ref().map_or(Ok(()), |out| out.store_f32(launch, &rstds))
    }))
}

/// As [`layer_norm`]; on a device it trades accuracy for speed, which the simulator does not.
#[allow(clippy::too_many_arguments)]
pub fn fast_layer_norm(
    call: &mut Call,
    input: Tensor,
    normalized_shape: Vec<i64>,
    weight: Option<Tensor>,
    bias: Option<Tensor>,
    eps: f64,
    out: Tensor,
    mean_out: Option<Tensor>,
    rstd_out: Option<Tensor>,
) -> Result<Kernel> {
    layer_norm(call, input, normalized_shape, weight, bias, eps, out, mean_out, rstd_out)
}

/// Gradients of [`layer_norm`] for the input, the weight and the bias, those that `output_mask` asks for.
#[allow(clippy::too_many_arguments)]
pub fn layer_norm_backward(
    call: &mut Call,
    grad_out: Tensor,
    input: Tensor,
    normalized_shape: Vec<i64>,
    mean: Tensor,
    rstd: Tensor,
    weight: Option<Tensor>,
    bias: Option<Tensor>,
    output_mask: Vec<bool>,
    grad_input_out: Option<Tensor>,
    grad_weight_out: Option<Tensor>,
    grad_bias_out: Option<Tensor>,
) -> Result<Kernel> {
    let lead = layer_checks(call, &input, &normalized_shape, [&weight, &bias])?;
    call.same_dtype(&grad_out, &input)?;
    call.shape_is(&grad_out, &input.shape)?;
    call.same_dtype(&rstd, &mean)?;
    let rows: usize = input.shape[..lead].iter().product();
    for statistic in [&mean, &rstd] {
        call.dtype_in(statistic, &[input.dtype, F32])?;
        if statistic.count() != rows {
            return call.invalid(format!("{} has {} elements, wanted {rows}", statistic.name, statistic.count()));
        }
    }
    if output_mask.len() != 3 {
        return call.invalid(format!("outputMask has {} elements, wanted 3", output_mask.len()));
    }
    let asked = |wanted: bool, out: Option<Tensor>, name: &str, shape: &[usize]| match out {
        Some(out) if wanted => call.shape_is(&out, shape).map(|()| Some(out)),
        None if wanted => fail!(ACLNN_ERR_PARAM_NULLPTR, "{}: {name} is null although outputMask asks for it", call.op),
        _ => Ok(None),
    };
    let dx_out = asked(output_mask[0], grad_input_out, "gradInputOut", &input.shape)?;
    let dweight_out = asked(output_mask[1], grad_weight_out, "gradWeightOut", &input.shape[lead..])?;
    let dbias_out = asked(output_mask[2], grad_bias_out, "gradBiasOut", &input.shape[lead..])?;
    let weight_dtype = weight.as_ref().map_or(input.dtype, |weight| weight.dtype);
    dx_out.as_ref().map_or(Ok(()), |out| call.same_dtype(out, &input))?;
    [&dweight_out, &dbias_out].into_iter().flatten().try_for_each(|out| call.dtype_in(out, &[weight_dtype]))?;
    let n: usize = input.shape[lead..].iter().product();
    call.needs_workspace(n * 8);
    Ok(Box::new(move |launch| {
        let (dy, x) = (grad_out.load_f64(launch)?, input.load_f64(launch)?);
        let (mean, rstd) = (mean.load_f64(launch)?, rstd.load_f64(launch)?);
        let weight = load_or(launch, &weight, 1.0, n)?;
        let (mut dx, mut dweight, mut dbias) = (Vec::with_capacity(x.len()), vec![0f64; n], vec![0f64; n]);
        for (row, (dy, x)) in dy.chunks_exact(n.max(1)).zip(x.chunks_exact(n.max(1))).enumerate() {
            let scaled = |i: usize| dy[i] * weight[i] as f64;
            let normal = |i: usize| (x[i] - mean[row]) * rstd[row];
            let first = (0..n).map(scaled).sum::<f64>() / n as f64;
            let second = (0..n).map(|i| scaled(i) * normal(i)).sum::<f64>() / n as f64;
            dx.extend((0..n).map(|i| (scaled(i) - first - normal(i) * second) * rstd[row]));
            for i in 0..n {
                dweight[i] += dy[i] * normal(i);
                dbias[i] += dy[i];
            }
        }
        for (out, values) in [(&dx_out, &dx), (&dweight_out, &dweight), (&dbias_out, &dbias)] {
            out.as_ref().map_or(Ok(()), |out| out.store_f64(launch, values))?;
        }
        Ok(())
    }))
}
