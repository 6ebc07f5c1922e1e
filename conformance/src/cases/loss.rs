//! Losses and their gradients.

use super::FLOATS;
use super::args::{between, build, computed_in_f32, given, out, t};
use crate::array::{Array, DType};
use crate::case::{Arg, Case, Fill, Spec};
use DType::*;

const SAMPLES: usize = 6;
const CLASSES: usize = 11;
const IGNORED: i64 = -100;

/// Labels of which two are ignored.
fn labels(dtype: DType) -> Arg {
    Arg::In(Spec::new(dtype, [SAMPLES]).fill(Fill::Values(vec![3.0, IGNORED as f64, 0.0, 10.0, IGNORED as f64, 7.0])))
}

/// Weights of the classes.
fn weights(dtype: DType) -> Arg {
    between(dtype, &[CLASSES], 0.5, 2.0)
}

pub fn cases() -> Vec<Case> {
    let mut all = Vec::new();
    for &dtype in FLOATS {
        for reduction in ["mean", "sum", "none"] {
            for weighted in [false, true] {
                all.push(cross_entropy(dtype, reduction, weighted));
                all.push(cross_entropy_grad(dtype, reduction, weighted));
            }
        }
        all.extend(negative_log_likelihood(dtype));
        all.extend(divergences(dtype));
        all.extend(mean_squares(dtype));
    }
    all
}

/// The class of sample `i`, unless it is ignored.
fn class(target: &Array, i: usize) -> Option<usize> {
    (target.data[i] != IGNORED as f64).then_some(target.data[i] as usize)
}

/// Weight of sample `i`: that of its class, 1 without weights, 0 if it is ignored.
fn weight(target: &Array, weights: Option<&Array>, i: usize) -> f64 {
    class(target, i).map_or(0.0, |class| weights.map_or(1.0, |weights| weights.data[class]))
}

fn total(target: &Array, weights: Option<&Array>) -> f64 {
    (0..SAMPLES).map(|i| weight(target, weights, i)).sum()
}

/// Logarithms of the softmax of each row.
fn log_softmax(x: &Array) -> Array {
    x.map_lanes(1, |lane| {
        let sum: f64 = lane.iter().map(|x| x.exp()).sum();
        lane.iter().map(|x| x - sum.ln()).collect()
    })
}

fn cross_entropy(dtype: DType, reduction: &'static str, weighted: bool) -> Case {
    let target = if weighted { I64 } else { I32 };
    let args = vec![
        between(dtype, &[SAMPLES, CLASSES], -4.0, 4.0),
        labels(target),
        if weighted { weights(F32) } else { Arg::Null },
        Arg::Str(reduction),
        Arg::Int(IGNORED),
        Arg::Float(0.0),
        Arg::Float(0.0),
        Arg::Bool(false),
        out(dtype, &[if reduction == "none" { SAMPLES } else { 1 }]),
        out(dtype, &[SAMPLES, CLASSES]),
        Arg::Null,
        Arg::Null,
    ];
    let case = Case::new("CrossEntropyLoss", args, move |x| {
        let (target, weights, log_prob) = (&x[1], x.get(2), log_softmax(&x[0]));
        let each = |i| class(target, i).map_or(0.0, |class| -weight(target, weights, i) * log_prob.at(&[i, class]));
        let losses: Vec<f64> = (0..SAMPLES).map(each).collect();
        let sum: f64 = losses.iter().sum();
        let loss = match reduction {
            "none" => losses,
            "sum" => vec![sum],
            _ => vec![sum / total(target, weights)],
        };
        vec![Array::new(dtype, [loss.len()], loss), log_prob]
    });
    // Sums of eleven exponentials and of four samples.
    computed_in_f32(case, dtype, 4.0, 4.0)
}

fn cross_entropy_grad(dtype: DType, reduction: &'static str, weighted: bool) -> Case {
    let log_prob = log_softmax(&Spec::new(dtype, [SAMPLES, CLASSES]).make(3)).rounded();
    let args = vec![
        between(dtype, if reduction == "none" { &[SAMPLES] } else { &[] }, 2.0, 4.0),
        given(&log_prob),
        labels(I64),
        if weighted { weights(F32) } else { Arg::Null },
        Arg::Null,
        Arg::Null,
        Arg::Str(reduction),
        Arg::Int(IGNORED),
        Arg::Float(0.0),
        Arg::Float(0.0),
        out(dtype, &[SAMPLES, CLASSES]),
    ];
    let case = Case::new("CrossEntropyLossGrad", args, move |x| {
        let (log_prob, target, weights) = (&x[1], &x[2], x.get(3));
        let scale = |i: usize| match reduction {
            "none" => x[0].data[i],
            "sum" => x[0].data[0],
            _ => x[0].data[0] / total(target, weights),
        };
        vec![build(dtype, &[SAMPLES, CLASSES], |at| {
            let nll = scale(at[0]) * weight(target, weights, at[0]);
            let own = if class(target, at[0]) == Some(at[1]) { nll } else { 0.0 };
            log_prob.at(at).exp() * nll - own
        })]
    });
    computed_in_f32(case, dtype, 4.0, 1.0)
}

fn negative_log_likelihood(dtype: DType) -> Vec<Case> {
    let mut all = Vec::new();
    for reduction in [1, 2] {
        let x = || between(dtype, &[SAMPLES, CLASSES], -4.0, 0.0);
        let args = vec![
            x(),
            labels(I64),
            weights(dtype),
            Arg::Int(reduction),
            Arg::Int(IGNORED),
            out(dtype, &[1]),
            out(dtype, &[1]),
        ];
        let forward = Case::new("NLLLoss", args, move |x| {
            let total = total(&x[1], Some(&x[2]));
            let each = |i| class(&x[1], i).map_or(0.0, |class| -x[2].data[class] * x[0].at(&[i, class]));
            let sum: f64 = (0..SAMPLES).map(each).sum();
            let loss = if reduction == 1 { sum / total } else { sum };
            [loss, total].map(|value| Array::new(dtype, [1], vec![value])).into()
        });
        all.push(computed_in_f32(forward, dtype, 4.0, 4.0));
    }
    for reduction in [0, 1, 2] {
        let args = vec![
            t(dtype, if reduction == 0 { &[SAMPLES] } else { &[1] }),
            t(dtype, &[SAMPLES, CLASSES]),
            labels(I64),
            weights(dtype),
            Arg::Int(reduction),
            Arg::Int(IGNORED),
            between(dtype, &[1], 3.0, 6.0),
            out(dtype, &[SAMPLES, CLASSES]),
        ];
        let backward = Case::new("NLLLossBackward", args, move |x| {
            let grad = |i: usize| match reduction {
                0 => x[0].data[i],
                1 => x[0].data[0] / x[4].data[0],
                _ => x[0].data[0],
            };
            vec![build(dtype, &[SAMPLES, CLASSES], |at| match class(&x[2], at[0]) {
                Some(class) if class == at[1] => -grad(at[0]) * x[3].data[class],
                _ => 0.0,
            })]
        });
        all.push(computed_in_f32(backward, dtype, 4.0, 0.1));
    }
    all
}

/// What a loss of each pair of elements becomes: 0 itself, 1 its mean, 2 its sum, 3 its sum over the rows.
fn reduced(losses: Array, reduction: i64, shape: &[usize]) -> Vec<Array> {
    let sum: f64 = losses.data.iter().sum();
    let value = match reduction {
        0 => return vec![losses],
        1 => sum / losses.data.len() as f64,
        2 => sum,
        _ => sum / losses.shape[0] as f64,
    };
    vec![Array::new(losses.dtype, shape, vec![value])]
}

fn divergences(dtype: DType) -> Vec<Case> {
    let mut all = Vec::new();
    for reduction in 0..4 {
        for logarithmic in [false, true] {
            let target =
                if logarithmic { between(dtype, &[4, 5], -4.0, 0.0) } else { between(dtype, &[4, 5], 0.05, 1.0) };
            let shape: &[usize] = if reduction == 0 { &[4, 5] } else { &[1] };
            let args = vec![
                between(dtype, &[4, 5], -4.0, 0.0),
                target,
                Arg::Int(reduction),
                Arg::Bool(logarithmic),
                out(dtype, shape),
            ];
            let case = Case::new("KlDiv", args, move |x| {
                let losses = x[0].zip(&x[1], |x, y| if logarithmic { y.exp() * (y - x) } else { y * (y.ln() - x) });
                reduced(losses, reduction, &[1])
            });
            // The sum's terms are below 4 and of either sign.
            all.push(computed_in_f32(case, dtype, 8.0, 4.0));
        }
    }
    all
}

fn mean_squares(dtype: DType) -> Vec<Case> {
    let mut all = Vec::new();
    for reduction in 0..3 {
        let shape: &[usize] = if reduction == 0 { &[4, 5] } else { &[] };
        let args = vec![t(dtype, &[4, 5]), t(dtype, &[4, 5]), Arg::Int(reduction), out(dtype, shape)];
        let forward =
            Case::new("MseLoss", args, move |x| reduced(x[0].zip(&x[1], |a, b| (a - b).powi(2)), reduction, &[]));
        all.push(computed_in_f32(forward, dtype, 4.0, 1.0));
        let args =
            vec![t(dtype, &[4, 5]), t(dtype, &[4, 5]), t(dtype, &[4, 5]), Arg::Int(reduction), out(dtype, &[4, 5])];
        let backward = Case::new("MseLossBackward", args, move |x| {
            let factor = if reduction == 1 { 2.0 / x[1].data.len() as f64 } else { 2.0 };
            vec![x[1].zip(&x[2], |x, y| x - y).zip(&x[0], |difference, grad| grad * difference * factor)]
        });
        all.push(computed_in_f32(backward, dtype, 4.0, 1.0));
    }
    all
}
