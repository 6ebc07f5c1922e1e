//! Rows that treat each element by itself.

use super::{FLOATS, SHAPES};
use crate::array::{Array, DType};
use crate::case::{Arg, Case, Fill, Spec, View};
use DType::*;
use candle_ascend::{Result, Tensor};

type Unary = fn(f64) -> f64;
type OnTensor = fn(&Tensor) -> Result<Tensor>;

/// One row: its name, the function, where its argument lies, which types it is tried with, and the tensor method.
struct Row {
    name: &'static str,
    f: fn(f64) -> f64,
    domain: (f64, f64),
    dtypes: &'static [DType],
    method: Option<OnTensor>,
}

const SIGNED: &[DType] = &[F32, F16, BF16, I32, I64];

const fn row(name: &'static str, f: fn(f64) -> f64, domain: (f64, f64), dtypes: &'static [DType]) -> Row {
    Row { name, f, domain, dtypes, method: None }
}

const fn with(row: Row, method: OnTensor) -> Row {
    Row { method: Some(method), ..row }
}

/// Rounds half to even, as the device and IEEE 754 do.
fn round(x: f64) -> f64 {
    x.round_ties_even()
}

fn sign(x: f64) -> f64 {
    if x > 0.0 {
        1.0
    } else if x < 0.0 {
        -1.0
    } else {
        0.0
    }
}

fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

/// The error function, by its series for small and its continued fraction for large arguments.
pub fn erf(x: f64) -> f64 {
    let a = x.abs();
    let value = if a < 2.5 {
        let (mut term, mut sum) = (a, a);
        for n in 1..80 {
            term *= -a * a / n as f64;
            sum += term / (2 * n + 1) as f64;
        }
        sum * 2.0 / std::f64::consts::PI.sqrt()
    } else {
        let fraction = (1..60).rev().fold(0.0, |rest, n| (n as f64 / 2.0) / (a + rest));
        1.0 - (-a * a).exp() / std::f64::consts::PI.sqrt() / (a + fraction)
    };
    value.copysign(x)
}

fn gelu_erf(x: f64) -> f64 {
    0.5 * x * (1.0 + erf(x / std::f64::consts::SQRT_2))
}

fn gelu_tanh(x: f64) -> f64 {
    0.5 * x * (1.0 + ((2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x * x * x)).tanh())
}

const ROWS: &[Row] = &[
    with(row("Abs", f64::abs, (-3.0, 3.0), SIGNED), Tensor::abs),
    with(row("Neg", |x| -x, (-3.0, 3.0), SIGNED), Tensor::neg),
    with(row("Exp", f64::exp, (-4.0, 4.0), FLOATS), Tensor::exp),
    with(row("Log", f64::ln, (0.1, 9.0), FLOATS), Tensor::log),
    row("Log2", f64::log2, (0.1, 9.0), FLOATS),
    with(row("Sqrt", f64::sqrt, (0.0, 9.0), FLOATS), Tensor::sqrt),
    row("Rsqrt", |x| 1.0 / x.sqrt(), (0.1, 9.0), FLOATS),
    with(row("Sin", f64::sin, (-3.0, 3.0), FLOATS), Tensor::sin),
    with(row("Cos", f64::cos, (-3.0, 3.0), FLOATS), Tensor::cos),
    row("Tan", f64::tan, (-1.0, 1.0), FLOATS),
    with(row("Tanh", f64::tanh, (-3.0, 3.0), FLOATS), Tensor::tanh),
    with(row("Erf", erf, (-3.0, 3.0), FLOATS), Tensor::erf),
    with(row("Relu", |x| x.max(0.0), (-3.0, 3.0), FLOATS), Tensor::relu),
    with(row("Gelu", gelu_tanh, (-3.0, 3.0), FLOATS), Tensor::gelu),
    with(row("Silu", |x| x * sigmoid(x), (-5.0, 5.0), FLOATS), Tensor::silu),
    row("Sigmoid", sigmoid, (-5.0, 5.0), FLOATS),
    row("LogSigmoid", |x| sigmoid(x).ln(), (-5.0, 5.0), FLOATS),
    row("Mish", |x| x * x.exp().ln_1p().tanh(), (-4.0, 4.0), FLOATS),
    row("Hardswish", |x| x * (x + 3.0).clamp(0.0, 6.0) / 6.0, (-5.0, 5.0), FLOATS),
    row("Hardsigmoid", |x| (x / 6.0 + 0.5).clamp(0.0, 1.0), (-5.0, 5.0), FLOATS),
    with(row("Ceil", f64::ceil, (-5.0, 5.0), FLOATS), Tensor::ceil),
    with(row("Floor", f64::floor, (-5.0, 5.0), FLOATS), Tensor::floor),
    row("Round", round, (-5.0, 5.0), FLOATS),
    row("Trunc", f64::trunc, (-5.0, 5.0), FLOATS),
    row("Frac", f64::fract, (-5.0, 5.0), FLOATS),
    with(row("Reciprocal", |x| 1.0 / x, (0.2, 5.0), FLOATS), Tensor::recip),
    with(row("Sign", sign, (-3.0, 3.0), SIGNED), Tensor::sign),
    row("Expm1", f64::exp_m1, (-2.0, 2.0), FLOATS),
    row("Log1p", f64::ln_1p, (-0.5, 5.0), FLOATS),
];

fn spec(row: &Row, dtype: DType, shape: &[usize], view: View) -> Spec {
    let spec = Spec::new(dtype, shape).view(view);
    if dtype.is_float() { spec.fill(Fill::Uniform(row.domain.0, row.domain.1)) } else { spec }
}

/// Units of tolerance: vector units evaluate transcendental functions to a few units in the last place of `f32`;
/// narrower types only see their own rounding.
pub fn units(dtype: DType) -> f64 {
    if dtype == F32 { 8.0 } else { 1.0 }
}

pub fn cases() -> Vec<Case> {
    let mut all = Vec::new();
    for row in ROWS {
        for (&dtype, (shape, view)) in row.dtypes.iter().flat_map(|d| SHAPES.iter().map(move |s| (d, s))) {
            let f = row.f;
            let args = vec![Arg::In(spec(row, dtype, shape, *view)), Arg::Out(dtype, shape.to_vec())];
            let mut case = Case::new(row.name, args, move |x| vec![x[0].map(f)]).within(units(dtype), 0.1);
            // candle's own unary operators keep floats; integer support differs by operator, so only floats go through.
            if let (Some(method), true) = (row.method, dtype.is_float()) {
                case = case.tensors(move |x| Ok(vec![method(&x[0])?]));
                // Formulas of several steps: candle's CPU rounds each step to the tensor's type, near 1 by half a unit.
                if dtype != F32 && ["Gelu", "Silu"].contains(&row.name) {
                    case = case.tensors_within(2.0, 1.0);
                }
            }
            all.push(case);
        }
    }
    all.extend(in_place());
    all.extend(with_attributes());
    all.extend(truth());
    all
}

fn in_place() -> Vec<Case> {
    let rows: [(&str, Unary, (f64, f64)); 5] = [
        ("InplaceRelu", |x| x.max(0.0), (-3.0, 3.0)),
        ("InplaceSigmoid", sigmoid, (-3.0, 3.0)),
        ("InplaceExp", f64::exp, (-3.0, 3.0)),
        ("InplaceSqrt", f64::sqrt, (0.0, 3.0)),
        ("InplaceNeg", |x| -x, (-3.0, 3.0)),
    ];
    let mut all = Vec::new();
    for (name, f, (low, high)) in rows {
        for &dtype in FLOATS {
            let spec = Spec::new(dtype, [5, 7]).fill(Fill::Uniform(low, high));
            all.push(Case::new(name, vec![Arg::Ref(spec)], move |x| vec![x[0].map(f)]).within(units(dtype), 0.1));
        }
    }
    all
}

fn with_attributes() -> Vec<Case> {
    let mut all = Vec::new();
    for &dtype in FLOATS {
        let x = || Arg::In(Spec::new(dtype, [3, 5, 7]).fill(Fill::Uniform(-4.0, 4.0)));
        let out = || Arg::Out(dtype, vec![3, 5, 7]);
        let s = |v: f64| Arg::Scalar(F32, v);
        let mut add = |name, args, f: fn(f64) -> f64| {
            all.push(Case::new(name, args, move |x| vec![x[0].map(f)]).within(units(dtype), 0.1));
        };
        add("LeakyRelu", vec![x(), s(0.125), out()], |x| if x > 0.0 { x } else { 0.125 * x });
        add("Elu", vec![x(), s(1.5), s(1.0), s(1.0), out()], |x| if x > 0.0 { x } else { 1.5 * x.exp_m1() });
        add("Softplus", vec![x(), s(1.0), s(20.0), out()], |x| x.exp().ln_1p());
        add("GeluV2", vec![x(), Arg::Int(0), out()], gelu_erf);
        add("GeluV2", vec![x(), Arg::Int(1), out()], gelu_tanh);
    }
    all
}

fn truth() -> Vec<Case> {
    let odd = vec![0.0, 1.0, f64::INFINITY, f64::NEG_INFINITY, f64::NAN, -2.5];
    let mut all = Vec::new();
    for &dtype in FLOATS {
        let x = Arg::In(Spec::new(dtype, [6]).fill(Fill::Values(odd.clone())));
        let finite = |x: &[Array]| vec![x[0].map(|v| v.is_finite() as u8 as f64).with_dtype(Bool)];
        all.push(Case::new("IsFinite", vec![x, Arg::Out(Bool, vec![6])], finite).exact());
    }
    let not = |x: &[Array]| vec![x[0].map(|v| (v == 0.0) as u8 as f64).with_dtype(Bool)];
    all.push(Case::new("LogicalNot", vec![Arg::In(Spec::new(Bool, [4, 3])), Arg::Out(Bool, vec![4, 3])], not).exact());
    let args = vec![Arg::In(Spec::new(I32, [4, 3])), Arg::Out(I32, vec![4, 3])];
    all.push(Case::new("BitwiseNot", args, |x| vec![x[0].map(|v| !(v as i32) as f64)]).exact());
    all
}
