//! Gated activations, and the gradients of activations.

use super::FLOATS;
use super::args::{build, computed_in_f32, out, scalar, t};
use super::elementwise::erf;
use crate::array::{Array, DType};
use crate::case::{Arg, Case};
use DType::*;
use candle_ascend::ops;
use std::f64::consts::PI;

pub fn cases() -> Vec<Case> {
    let mut all = Vec::new();
    for &dtype in FLOATS {
        all.extend(gated(dtype));
        all.extend(gelu_gates(dtype));
        all.push(swiglu_grad(dtype));
        all.extend(gradients(dtype));
        all.extend(swishes(dtype));
    }
    // Integers pass a threshold as they are.
    let args = vec![t(I32, &[4, 10]), t(I32, &[4, 10]), Arg::Scalar(I32, 2.0), out(I32, &[4, 10])];
    all.push(
        Case::new("ThresholdBackward", args, |x| vec![x[0].zip(&x[1], |g, x| if x > 2.0 { g } else { 0.0 })]).exact(),
    );
    all
}

fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

fn gelu(x: f64, tanh: bool) -> f64 {
    let inner = if tanh { ((2.0 / PI).sqrt() * (x + 0.044715 * x.powi(3))).tanh() } else { erf(x / 2f64.sqrt()) };
    0.5 * x * (1.0 + inner)
}

/// Derivative of the Gelu: with the error function as the page has it, of the tanh form by the product rule.
fn gelu_slope(x: f64, tanh: bool) -> f64 {
    if tanh {
        let root = (2.0 / PI).sqrt();
        let inner = (root * (x + 0.044715 * x.powi(3))).tanh();
        return 0.5 * (1.0 + inner) + 0.5 * x * (1.0 - inner * inner) * root * (1.0 + 3.0 * 0.044715 * x * x);
    }
    0.5 + 0.5 * erf(x / 2f64.sqrt()) + x / (2.0 * PI).sqrt() * (-x * x / 2.0).exp()
}

/// `f` of the two halves of each lane.
fn halves(x: &Array, axis: usize, f: impl Fn(f64, f64) -> f64) -> Vec<Array> {
    vec![x.map_lanes(axis, |lane| {
        let (a, b) = lane.split_at(lane.len() / 2);
        a.iter().zip(b).map(|(a, b)| f(*a, *b)).collect()
    })]
}

fn gated(dtype: DType) -> Vec<Case> {
    let args = vec![t(dtype, &[3, 5, 32]), Arg::Int(-1), out(dtype, &[3, 5, 16])];
    let swiglu = Case::new("SwiGlu", args, |x| halves(&x[0], 2, |gate, up| gate * sigmoid(gate) * up));
    let args = vec![t(dtype, &[4, 10]), Arg::Int(1), out(dtype, &[4, 5])];
    let glu = Case::new("Glu", args, |x| halves(&x[0], 1, |a, b| a * sigmoid(b)));
    // The sigmoid may round to the type before it multiplies.
    vec![swiglu.within(4.0, 0.1).tensors(|x| Ok(vec![ops::swiglu(&x[0])?])), glu.within(4.0, 0.1)]
}

fn gelu_gates(dtype: DType) -> Vec<Case> {
    let mut all = Vec::new();
    for (tanh, left) in [(false, false), (true, false), (false, true), (true, true)] {
        let args = vec![
            t(dtype, &[3, 5, 32]),
            Arg::Int(-1),
            Arg::Int(tanh as i64),
            Arg::Bool(left),
            out(dtype, &[3, 5, 16]),
            out(dtype, &[3, 5, 16]),
        ];
        let case = Case::new("GeGluV3", args, move |x| {
            let gate = move |a, b| gelu(if left { a } else { b }, tanh);
            let other = move |a, b| if left { b } else { a };
            [halves(&x[0], 2, |a, b| gate(a, b) * other(a, b)), halves(&x[0], 2, gate)].concat()
        });
        all.push(computed_in_f32(case, dtype, 8.0, 0.5));
    }
    all
}

fn swiglu_grad(dtype: DType) -> Case {
    let args = vec![t(dtype, &[4, 5]), t(dtype, &[4, 10]), Arg::Int(-1), out(dtype, &[4, 10])];
    let case = Case::new("SwiGluGrad", args, move |x| {
        vec![build(dtype, &[4, 10], |at| {
            let (row, i) = (at[0], at[1] % 5);
            let (gate, up, dy) = (x[1].at(&[row, i]), x[1].at(&[row, 5 + i]), x[0].at(&[row, i]));
            let s = sigmoid(gate);
            if at[1] < 5 { dy * up * s * (1.0 + gate * (1.0 - s)) } else { dy * gate * s }
        })]
    });
    computed_in_f32(case, dtype, 8.0, 0.5)
}

/// Rows of a gradient, an argument and, between them and the output, attributes.
fn gradients(dtype: DType) -> Vec<Case> {
    type Row = (&'static str, Vec<Arg>, fn(f64, f64) -> f64);
    let rows: [Row; 8] = [
        ("SiluBackward", vec![], |g, x| g * sigmoid(x) * (1.0 + x * (1.0 - sigmoid(x)))),
        ("TanhBackward", vec![], |g, y| g * (1.0 - y * y)),
        ("SigmoidBackward", vec![], |g, y| g * y * (1.0 - y)),
        ("GeluBackward", vec![], |g, x| g * gelu_slope(x, false)),
        ("GeluBackwardV2", vec![Arg::Str("none")], |g, x| g * gelu_slope(x, false)),
        ("GeluBackwardV2", vec![Arg::Str("tanh")], |g, x| g * gelu_slope(x, true)),
        ("ThresholdBackward", vec![scalar(0.5)], |g, x| if x > 0.5 { g } else { 0.0 }),
        // Twice a number is exact, so that every type agrees on what passes the threshold.
        (
            "SoftplusBackward",
            vec![scalar(2.0), scalar(2.5)],
            |g, x| if 2.0 * x > 2.5 { g } else { g * sigmoid(2.0 * x) },
        ),
    ];
    let case = |(row, attributes, f): Row| {
        let args = [vec![t(dtype, &[4, 10]), t(dtype, &[4, 10])], attributes, vec![out(dtype, &[4, 10])]].concat();
        // Products of up to three factors below 2, one of them an exponential's.
        computed_in_f32(Case::new(row, args, move |x| vec![x[0].zip(&x[1], f)]), dtype, 8.0, 0.5)
    };
    rows.into_iter().map(case).collect()
}

fn swishes(dtype: DType) -> Vec<Case> {
    let case = |beta: Option<f64>| {
        let args = vec![t(dtype, &[3, 13]), beta.map_or(Arg::Null, scalar), out(dtype, &[3, 13])];
        // Without a factor it is 1.
        let factor = beta.unwrap_or(1.0);
        Case::new("Swish", args, move |x| vec![x[0].map(|v| v * sigmoid(factor * v))]).within(4.0, 0.1)
    };
    [None, Some(1.75)].map(case).into()
}
