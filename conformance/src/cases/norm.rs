//! Normalisations, their gradients, and softmax.

use super::FLOATS;
use super::args::{between, build, computed_in_f32, given, out, t};
use crate::array::{Array, DType};
use crate::case::{Arg, Case, Fill, Spec, Tolerance};
use crate::compare::compare;
use DType::*;
use candle_ascend::{Tensor, ops};

const EPS: f64 = 1e-6;
const SHAPE: [usize; 3] = [3, 5, 48];
const WIDTH: usize = 48;

pub fn cases() -> Vec<Case> {
    let mut all = Vec::new();
    for &dtype in FLOATS {
        all.extend(rms_norms(dtype));
        all.push(rms_norm_grad(dtype));
        all.extend(layer_norms(dtype));
        all.extend([[true; 3], [true, false, true]].map(|asked| layer_norm_backward(dtype, asked)));
        all.extend(softmaxes(dtype));
    }
    all
}

fn mean(lane: impl ExactSizeIterator<Item = f64>) -> f64 {
    let count = lane.len() as f64;
    lane.sum::<f64>() / count
}

/// The reciprocal of the root of a lane's mean square.
fn reciprocal_rms(lane: &[f64]) -> f64 {
    1.0 / (mean(lane.iter().map(|x| x * x)) + EPS).sqrt()
}

/// Normalised lanes times `shift + gamma`, and the factor of each.
fn rms(x: &Array, gamma: &Array, shift: f64) -> Vec<Array> {
    let y = x.map_lanes(2, |lane| {
        let r = reciprocal_rms(lane);
        lane.iter().zip(&gamma.data).map(|(v, g)| v * r * (shift + g)).collect()
    });
    vec![y, x.map_lanes(2, |lane| vec![reciprocal_rms(lane)]).with_dtype(F32)]
}

fn rms_norms(dtype: DType) -> Vec<Case> {
    let (x, gamma, y) = (|| t(dtype, &SHAPE), || t(dtype, &[WIDTH]), || out(dtype, &SHAPE));
    let rstd = || out(F32, &[3, 5, 1]);
    let args = vec![x(), gamma(), Arg::Float(EPS), y(), rstd()];
    // The page lets the normalised value round to the type before the weight multiplies it: two roundings.
    let plain = Case::new("RmsNorm", args, |x| rms(&x[0], &x[1], 0.0)).within(4.0, 0.5);
    let args = vec![x(), x(), gamma(), Arg::Float(EPS), y(), rstd(), y()];
    let fused = Case::new("AddRmsNorm", args, |x| {
        let sum = x[0].zip(&x[1], |a, b| a + b).rounded();
        let mut outs = rms(&sum, &x[2], 0.0);
        outs.push(sum);
        outs
    });
    // The normalisation may see the sum before or after its rounding to the type: half a unit of each of two numbers
    // below 4, times a weight below 2.
    let fused = fused.within(6.0, 0.5);
    // The page gives this operator's factor the leading dimensions only.
    let args = vec![x(), gamma(), Arg::Float(EPS), y(), out(F32, &[3, 5])];
    let gemma = Case::new("GemmaRmsNorm", args, |x| {
        let mut outs = rms(&x[0], &x[1], 1.0);
        outs[1] = outs[1].clone().reshaped(&[3, 5]);
        outs
    });
    let mut cases = vec![plain.tensors(rms_norm_through), fused.tensors(add_rms_norm_through), gemma.within(4.0, 0.5)];
    if dtype != F32 {
        let args = vec![x(), x(), gamma(), Arg::Float(EPS), out(F32, &SHAPE), y(), rstd(), y()];
        cases.push(Case::property("AddRmsNormCast", args, add_rms_norm_cast));
    }
    cases
}

/// The norm in FLOAT is the one that is rounded to the type, to the bit; the rest as [`rms_norms`] has it.
fn add_rms_norm_cast(x: &[Array], got: &[Array]) -> Result<(), String> {
    if got[0].data != got[1].data {
        return Err("y1 is not y2 in FLOAT".into());
    }
    let sum = x[0].zip(&x[1], |a, b| a + b).rounded();
    let wanted = rms(&sum, &x[2], 0.0).into_iter().chain([sum]);
    for (i, (got, wanted)) in got[1..].iter().zip(wanted).enumerate() {
        let found = compare(got, &wanted, Tolerance::Units { units: 6.0, scale: 0.5 })?;
        if !found.passed() {
            return Err(format!("output {}: {found:?}", i + 2));
        }
    }
    Ok(())
}

/// The tensor interface does not return the reciprocal deviation, which only the backward pass needs.
fn rms_norm_through(x: &[Tensor]) -> candle_ascend::Result<Vec<Tensor>> {
    Ok(vec![ops::rms_norm(&x[0], &x[1], EPS)?])
}

fn add_rms_norm_through(x: &[Tensor]) -> candle_ascend::Result<Vec<Tensor>> {
    Ok(vec![ops::add_rms_norm(&x[0], &x[1], &x[2], EPS)?.0])
}

/// Rows of a gradient case: `dy`, `x`, and an index that runs over both.
fn rows<'a>(dy: &'a Array, x: &'a Array) -> impl Iterator<Item = (usize, &'a [f64], &'a [f64])> {
    dy.data.chunks(WIDTH).zip(x.data.chunks(WIDTH)).enumerate().map(|(row, (dy, x))| (row, dy, x))
}

fn rms_norm_grad(dtype: DType) -> Case {
    let x = Spec::new(dtype, SHAPE).make(7);
    // The page gives the factor the leading dimensions; it is the forward pass's.
    let rstd = x.map_lanes(2, |lane| vec![reciprocal_rms(lane)]).reshaped(&[3, 5]).with_dtype(F32).rounded();
    let args =
        vec![t(dtype, &SHAPE), given(&x), given(&rstd), t(dtype, &[WIDTH]), out(dtype, &SHAPE), out(F32, &[WIDTH])];
    let case = Case::new("RmsNormGrad", args, move |x| {
        let (gamma, rstd) = (&x[3].data, &x[2].data);
        let (mut dx, mut dgamma) = (Vec::new(), vec![0.0; WIDTH]);
        for (row, dy, x) in rows(&x[0], &x[1]) {
            let mean = mean((0..WIDTH).map(|i| dy[i] * gamma[i] * x[i] * rstd[row]));
            for i in 0..WIDTH {
                dx.push((dy[i] * gamma[i] - rstd[row] * x[i] * mean) * rstd[row]);
                dgamma[i] += rstd[row] * x[i] * dy[i];
            }
        }
        vec![Array::new(dtype, SHAPE, dx), Array::new(F32, [WIDTH], dgamma)]
    });
    // Sums of 15 products below 8, of which the weight's gradient is `f32` for every type.
    if dtype == F32 { case.within(8.0, 4.0) } else { case.within(4.0, 1.0) }
}

fn statistics(lane: &[f64]) -> (f64, f64) {
    let centre = mean(lane.iter().copied());
    (centre, 1.0 / (mean(lane.iter().map(|x| (x - centre).powi(2))) + EPS).sqrt())
}

fn layer_norms(dtype: DType) -> Vec<Case> {
    let mut all = Vec::new();
    for row in ["LayerNorm", "FastLayerNorm"] {
        let args = vec![
            t(dtype, &SHAPE),
            Arg::Ints(vec![WIDTH as i64]),
            t(dtype, &[WIDTH]),
            t(dtype, &[WIDTH]),
            Arg::Float(EPS),
            out(dtype, &SHAPE),
            out(dtype, &[3, 5, 1]),
            out(dtype, &[3, 5, 1]),
        ];
        let case = Case::new(row, args, |x| {
            let y = x[0].map_lanes(2, |lane| {
                let (mean, r) = statistics(lane);
                lane.iter().enumerate().map(|(i, v)| (v - mean) * r * x[1].data[i] + x[2].data[i]).collect()
            });
            let mean = x[0].map_lanes(2, |lane| vec![statistics(lane).0]);
            vec![y, mean, x[0].map_lanes(2, |lane| vec![statistics(lane).1])]
        });
        // The fast operator sums in another order.
        all.push(computed_in_f32(case, dtype, 8.0, 1.0));
    }
    all
}

/// The weight's gradient is asked for by `asked[1]`; without it the operator takes a null.
fn layer_norm_backward(dtype: DType, asked: [bool; 3]) -> Case {
    let x = Spec::new(dtype, SHAPE).make(8);
    // Statistics may be wider than the input; as `f32` they do not blur the gradient.
    let kept = |pick: fn((f64, f64)) -> f64| {
        given(&x.map_lanes(2, |lane| vec![pick(statistics(lane))]).with_dtype(F32).rounded())
    };
    let optional = |wanted: bool, shape: &[usize]| if wanted { out(dtype, shape) } else { Arg::Null };
    let args = vec![
        t(dtype, &SHAPE),
        given(&x),
        Arg::Ints(vec![WIDTH as i64]),
        kept(|s| s.0),
        kept(|s| s.1),
        t(dtype, &[WIDTH]),
        t(dtype, &[WIDTH]),
        Arg::Bools(asked.to_vec()),
        optional(asked[0], &SHAPE),
        optional(asked[1], &[WIDTH]),
        optional(asked[2], &[WIDTH]),
    ];
    let case = Case::new("LayerNormBackward", args, move |x| {
        let (centre, rstd, weight) = (&x[2].data, &x[3].data, &x[4].data);
        let (mut dx, mut dweight, mut dbias) = (Vec::new(), vec![0.0; WIDTH], vec![0.0; WIDTH]);
        for (row, dy, x) in rows(&x[0], &x[1]) {
            let normal = |i: usize| (x[i] - centre[row]) * rstd[row];
            let first = mean((0..WIDTH).map(|i| dy[i] * weight[i]));
            let second = mean((0..WIDTH).map(|i| dy[i] * weight[i] * normal(i)));
            for i in 0..WIDTH {
                dx.push((dy[i] * weight[i] - first - normal(i) * second) * rstd[row]);
                dweight[i] += dy[i] * normal(i);
                dbias[i] += dy[i];
            }
        }
        let all =
            [Array::new(dtype, SHAPE, dx), Array::new(dtype, [WIDTH], dweight), Array::new(dtype, [WIDTH], dbias)];
        all.into_iter().zip(asked).filter_map(|(array, asked)| asked.then_some(array)).collect()
    });
    // Differences of products below 8, and sums of 15 of them.
    computed_in_f32(case, dtype, 8.0, 4.0)
}

fn softmax(lane: &[f64]) -> Vec<f64> {
    let top = lane.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let e: Vec<f64> = lane.iter().map(|x| (x - top).exp()).collect();
    let total: f64 = e.iter().sum();
    e.into_iter().map(|x| x / total).collect()
}

fn softmaxes(dtype: DType) -> Vec<Case> {
    let mut all = Vec::new();
    for axis in [2usize, 1] {
        let args = || vec![between(dtype, &[3, 5, 37], -9.0, 9.0), Arg::Int(axis as i64), out(dtype, &[3, 5, 37])];
        let case = Case::new("Softmax", args(), move |x| vec![x[0].map_lanes(axis, softmax)]).within(8.0, 1e-2);
        all.push(if axis == 2 { case.tensors(|x| Ok(vec![ops::softmax_last_dim(&x[0])?])) } else { case });
        let log = move |x: &[Array]| vec![x[0].map_lanes(axis, |lane| softmax(lane).iter().map(|p| p.ln()).collect())];
        all.push(Case::new("LogSoftmax", args(), log).within(4.0, 1.0));
    }
    // Of the gradient of the result, the result, the sum of their products and the sum of the gradients.
    type Slope = fn(f64, f64, f64, f64) -> f64;
    // In place of weights and of their logarithms any numbers of their range do.
    let grads: [(&str, (f64, f64), Slope); 2] = [
        ("SoftmaxBackward", (0.0, 1.0), |g, y, dot, _| y * (g - dot)),
        ("LogSoftmaxBackward", (-4.0, 0.0), |g, y, _, total| g - y.exp() * total),
    ];
    for (row, (low, high), f) in grads {
        let output = Arg::In(Spec::new(dtype, [4, 9]).fill(Fill::Uniform(low, high)));
        let args = vec![t(dtype, &[4, 9]), output, Arg::Int(1), out(dtype, &[4, 9])];
        let reference = move |x: &[Array]| {
            let over_row = |at: &[usize], f: &dyn Fn(f64, f64) -> f64| {
                (0..9).map(|i| f(x[0].at(&[at[0], i]), x[1].at(&[at[0], i]))).sum::<f64>()
            };
            vec![build(dtype, &[4, 9], |at| {
                f(x[0].at(at), x[1].at(at), over_row(at, &|g, y| g * y), over_row(at, &|g, _| g))
            })]
        };
        all.push(computed_in_f32(Case::new(row, args, reference), dtype, 16.0, 4.0));
    }
    all
}
