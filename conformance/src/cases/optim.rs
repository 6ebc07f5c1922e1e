//! Optimizer steps, and arithmetic over lists of tensors.

use super::FLOATS;
use crate::array::{Array, DType};
use crate::case::{Arg, Case, Fill, Spec};
use DType::*;

pub fn cases() -> Vec<Case> {
    let mut all = Vec::new();
    for &dtype in FLOATS {
        for (amsgrad, maximize) in [(false, false), (false, true), (true, false)] {
            all.push(adam_on_device(dtype, amsgrad, maximize));
            all.push(adam(dtype, amsgrad, maximize));
        }
        all.extend(norms(dtype));
    }
    for dtype in [F32, F16, BF16, I32] {
        all.extend(lists(dtype));
    }
    all
}

// Rates that every type holds, so that only the operator's own arithmetic is compared.
const LR: f64 = 1.0 / 128.0;
const BETA1: f64 = 0.875;
const BETA2: f64 = 0.9375;
const DECAY: f64 = 0.125;
const EPS: f64 = 1.0 / 1024.0;
const SHAPE: [usize; 2] = [5, 7];

fn signed(dtype: DType) -> Spec {
    Spec::new(dtype, SHAPE)
}

/// Second moments, which no square makes negative.
fn positive(dtype: DType) -> Spec {
    Spec::new(dtype, SHAPE).fill(Fill::Uniform(0.5, 2.0))
}

/// One step by the pages' formulas: parameter, first and second moment, and the largest second moment so far. `powers`
/// are the betas to the power of the step.
fn step(x: [&Array; 4], peak: Option<&Array>, powers: [f64; 2], maximize: bool) -> [Array; 4] {
    let [parameter, first, second, grad] = x;
    let grad = grad.map(|g| if maximize { -g } else { g });
    let first = first.zip(&grad, |m, g| BETA1 * m + (1.0 - BETA1) * g);
    let second = second.zip(&grad, |v, g| BETA2 * v + (1.0 - BETA2) * g * g);
    let largest = peak.map_or(second.clone(), |peak| second.zip(peak, f64::max));
    let rate = first.zip(&largest, |m, v| m / (1.0 - powers[0]) / ((v / (1.0 - powers[1])).sqrt() + EPS));
    let parameter = parameter.zip(&rate, |p, rate| p - LR * rate - LR * DECAY * p);
    [parameter, first, second, largest]
}

/// The step in f32 and one rounding of each result; eight roundings of f32 on the way.
fn stepped(case: Case) -> Case {
    case.within(8.0, 1.0)
}

fn adam_on_device(dtype: DType, amsgrad: bool, maximize: bool) -> Case {
    let one = |value: f64| Arg::In(Spec::new(dtype, [1]).fill(Fill::Values(vec![value])));
    let mut args = vec![Arg::Ref(signed(dtype)), Arg::Ref(signed(dtype)), Arg::Ref(positive(dtype))];
    args.extend([BETA1, BETA2, LR, DECAY, BETA1, BETA2, EPS].map(one));
    args.push(Arg::In(signed(dtype)));
    args.push(if amsgrad { Arg::In(positive(dtype)) } else { Arg::Null });
    args.extend([Arg::Bool(amsgrad), Arg::Bool(maximize)]);
    stepped(Case::new("ApplyAdamW", args, move |x| {
        let powers = [BETA1 * BETA1, BETA2 * BETA2];
        let [parameter, first, _, largest] = step([&x[0], &x[1], &x[2], &x[10]], x.get(11), powers, maximize);
        // The page keeps the largest second moment where the second moment was.
        vec![parameter, first, largest]
    }))
}

fn adam(dtype: DType, amsgrad: bool, maximize: bool) -> Case {
    let mut args = vec![Arg::Ref(signed(dtype)), Arg::Ref(signed(dtype)), Arg::Ref(positive(dtype))];
    args.push(if amsgrad { Arg::Ref(positive(dtype)) } else { Arg::Null });
    let kind = if amsgrad { F32 } else { I64 };
    args.extend([Arg::In(signed(dtype)), Arg::In(Spec::new(kind, [1]).fill(Fill::Values(vec![3.0])))]);
    args.extend([LR, BETA1, BETA2, DECAY, EPS].map(Arg::Float));
    args.extend([Arg::Bool(amsgrad), Arg::Bool(maximize)]);
    stepped(Case::new("ApplyAdamWV2", args, move |x| {
        let powers = [BETA1.powi(3), BETA2.powi(3)];
        let peak = amsgrad.then(|| &x[3]);
        let grad = &x[if amsgrad { 4 } else { 3 }];
        let [parameter, first, second, largest] = step([&x[0], &x[1], &x[2], grad], peak, powers, maximize);
        let mut out = vec![parameter, first, second];
        out.extend(amsgrad.then_some(largest));
        out
    }))
}

/// Shapes of the lists.
const LISTED: [&[usize]; 3] = [&[3, 4], &[7], &[2, 1, 5]];

fn inputs(dtype: DType) -> Arg {
    Arg::InList(LISTED.iter().map(|shape| Spec::new(dtype, *shape)).collect())
}

fn outputs(dtype: DType) -> Arg {
    Arg::OutList(LISTED.iter().map(|shape| (dtype, shape.to_vec())).collect())
}

fn lists(dtype: DType) -> Vec<Case> {
    // Device factors of bf16 lists are f32, by the pages' tables.
    let kind = if dtype == BF16 { F32 } else { dtype };
    let factor = || Arg::In(Spec::new(kind, [1]).fill(Fill::Values(vec![3.0])));
    let add = Case::new("ForeachAddScalar", vec![inputs(dtype), factor(), outputs(dtype)], |x| {
        x[..3].iter().map(|x| x.map(|v| v + 3.0)).collect()
    });
    let mul = Case::new("ForeachMulScalar", vec![inputs(dtype), factor(), outputs(dtype)], |x| {
        x[..3].iter().map(|x| x.map(|v| v * 3.0)).collect()
    });
    let host = Arg::Scalar(if dtype == I32 { I32 } else { F64 }, 3.0);
    let host = Case::new("ForeachMulScalarV2", vec![inputs(dtype), host, outputs(dtype)], |x| {
        x.iter().map(|x| x.map(|v| v * 3.0)).collect()
    });
    let pairs = Case::new("ForeachAddList", vec![inputs(dtype), inputs(dtype), factor(), outputs(dtype)], |x| {
        (0..3).map(|i| x[i].zip(&x[i + 3], |a, b| a + 3.0 * b)).collect()
    });
    // The product of a pair is rounded before the sum.
    vec![add, mul, host, pairs.within(2.0, 4.0)]
}

fn norms(dtype: DType) -> Vec<Case> {
    let mut all = Vec::new();
    for p in [1.0, 2.0] {
        let out = Arg::OutList(vec![(dtype, vec![1]); 3]);
        let norm = move |x: &[Array]| {
            let of = |x: &Array| x.data.iter().map(|v| v.abs().powf(p)).sum::<f64>().powf(1.0 / p);
            x.iter().map(|x| Array::new(dtype, [1], vec![of(x)])).collect()
        };
        // Sums of up to twelve numbers in f32.
        all.push(Case::new("ForeachNorm", vec![inputs(dtype), Arg::Scalar(F32, p), out], norm).within(8.0, 1.0));
    }
    all
}
