//! Rows of two operands: arithmetic, comparison and logic, between tensors and with scalars.

use super::FLOATS;
use crate::array::{Array, DType};
use crate::case::{Arg, Case, Fill, Spec, View};
use DType::*;
use candle_ascend::{Result, Tensor};

type Binary = fn(f64, f64) -> f64;
type Rounding = fn(f64) -> f64;
type OnTensors = fn(&Tensor, &Tensor) -> Result<Tensor>;

/// Pairs of operands: same shape, broadcast both ways, views.
const PAIRS: &[(&[usize], View, &[usize], View)] = &[
    (&[5, 7, 11], View::Contiguous, &[5, 7, 11], View::Contiguous),
    (&[5, 1, 11], View::Contiguous, &[7, 1], View::Contiguous),
    (&[3, 13], View::Transposed, &[3, 13], View::Window),
    (&[1], View::Contiguous, &[2, 3, 5], View::Contiguous),
];

fn one() -> Arg {
    Arg::Scalar(F32, 1.0)
}

/// Operand: positive and away from zero where a division or power needs it.
fn operand(dtype: DType, shape: &[usize], view: View, positive: bool) -> Spec {
    let spec = Spec::new(dtype, shape).view(view);
    match (positive, dtype.is_float()) {
        (true, true) => spec.fill(Fill::Uniform(0.5, 3.0)),
        (true, false) => spec.fill(Fill::Integers(1, 6)),
        (false, _) => spec,
    }
}

/// Cases of a tensor-tensor row. `alpha` says that the row takes a factor for its second operand.
fn tensor_tensor(
    row: &'static str,
    dtypes: &[DType],
    out: Option<DType>,
    alpha: bool,
    positive: bool,
    f: Binary,
    method: Option<OnTensors>,
) -> Vec<Case> {
    let mut all = Vec::new();
    for &dtype in dtypes {
        for (a, va, b, vb) in PAIRS {
            let shape = crate::array::broadcast(a, b);
            let kind = out.unwrap_or(dtype);
            let mut args = vec![Arg::In(operand(dtype, a, *va, positive)), Arg::In(operand(dtype, b, *vb, positive))];
            if alpha {
                args.push(one());
            }
            args.push(Arg::Out(kind, shape));
            let mut case = Case::new(row, args, move |x| vec![x[0].zip(&x[1], f).with_dtype(kind)]);
            case = if kind.is_float() { case.within(super::elementwise::units(kind), 0.1) } else { case.exact() };
            if let (Some(method), true) = (method, dtype.is_float()) {
                case = case.tensors(move |x| Ok(vec![method(&x[0], &x[1])?]));
            }
            all.push(case);
        }
    }
    all
}

fn tensor_scalar(
    row: &'static str,
    dtypes: &[DType],
    out: Option<DType>,
    alpha: bool,
    value: f64,
    f: Binary,
) -> Vec<Case> {
    let mut all = Vec::new();
    for &dtype in dtypes {
        let kind = out.unwrap_or(dtype);
        let scalar = if dtype.is_float() { F32 } else { I64 };
        let mut args = vec![Arg::In(operand(dtype, &[3, 5, 7], View::Window, true)), Arg::Scalar(scalar, value)];
        if alpha {
            args.push(Arg::Scalar(scalar, 1.0));
        }
        args.push(Arg::Out(kind, vec![3, 5, 7]));
        let case = Case::new(row, args, move |x| vec![x[0].map(|v| f(v, value)).with_dtype(kind)]);
        all.push(if kind.is_float() { case.within(super::elementwise::units(kind), 0.1) } else { case.exact() });
    }
    all
}

fn truth(condition: bool) -> f64 {
    condition as u8 as f64
}

/// Remainder with the divisor's sign.
fn floor_mod(a: f64, b: f64) -> f64 {
    a - b * (a / b).floor()
}

pub fn cases() -> Vec<Case> {
    let signed: &[DType] = &[F32, F16, BF16, I32, I64];
    let mut all = Vec::new();
    let mut add = |cases: Vec<Case>| all.extend(cases);
    add(tensor_tensor("Add", signed, None, true, false, |a, b| a + b, Some(Tensor::broadcast_add)));
    add(tensor_tensor("Sub", signed, None, true, false, |a, b| a - b, Some(Tensor::broadcast_sub)));
    add(tensor_tensor("Mul", signed, None, false, false, |a, b| a * b, Some(Tensor::broadcast_mul)));
    add(tensor_tensor("Div", FLOATS, None, false, true, |a, b| a / b, Some(Tensor::broadcast_div)));
    add(tensor_tensor("Maximum", signed, None, false, false, f64::max, Some(Tensor::broadcast_maximum)));
    add(tensor_tensor("Minimum", signed, None, false, false, f64::min, Some(Tensor::broadcast_minimum)));
    add(tensor_tensor("PowTensorTensor", FLOATS, None, false, true, f64::powf, None));
    add(tensor_tensor("FmodTensor", &[F32, I32], None, false, true, |a, b| a % b, None));
    add(tensor_tensor("RemainderTensorTensor", &[F32, I32], None, false, true, floor_mod, None));
    add(tensor_tensor("Atan2", &[F32], None, false, false, f64::atan2, None));
    let comparisons: [(&str, &str, Binary); 6] = [
        ("EqTensor", "EqScalar", |a, b| truth(a == b)),
        ("NeTensor", "NeScalar", |a, b| truth(a != b)),
        ("GtTensor", "GtScalar", |a, b| truth(a > b)),
        ("GeTensor", "GeScalar", |a, b| truth(a >= b)),
        ("LtTensor", "LtScalar", |a, b| truth(a < b)),
        ("LeTensor", "LeScalar", |a, b| truth(a <= b)),
    ];
    for (tensors, scalar, f) in comparisons {
        add(tensor_tensor(tensors, signed, Some(Bool), false, false, f, None));
        add(tensor_scalar(scalar, signed, Some(Bool), false, 2.0, f));
    }
    let logic: [(&str, Binary); 3] = [
        ("LogicalAnd", |a, b| truth(a != 0.0 && b != 0.0)),
        ("LogicalOr", |a, b| truth(a != 0.0 || b != 0.0)),
        ("LogicalXor", |a, b| truth((a != 0.0) != (b != 0.0))),
    ];
    for (row, f) in logic {
        add(tensor_tensor(row, &[Bool], None, false, false, f, None));
    }
    let bits: [(&str, Binary); 3] = [
        ("BitwiseAndTensor", |a, b| ((a as i64) & (b as i64)) as f64),
        ("BitwiseOrTensor", |a, b| ((a as i64) | (b as i64)) as f64),
        ("BitwiseXorTensor", |a, b| ((a as i64) ^ (b as i64)) as f64),
    ];
    for (row, f) in bits {
        add(tensor_tensor(row, &[I32, I64], None, false, false, f, None));
    }
    add(tensor_scalar("Adds", signed, None, true, 3.0, |a, b| a + b));
    add(tensor_scalar("Subs", signed, None, true, 3.0, |a, b| a - b));
    add(tensor_scalar("Muls", signed, None, false, 3.0, |a, b| a * b));
    add(tensor_scalar("Divs", FLOATS, None, false, 3.0, |a, b| a / b));
    add(tensor_scalar("PowTensorScalar", FLOATS, None, false, 3.0, f64::powf));
    add(tensor_scalar("ClampMin", FLOATS, None, false, 1.5, f64::max));
    add(tensor_scalar("RemainderTensorScalar", &[F32, I32], None, false, 3.0, floor_mod));
    add(tensor_scalar("FmodScalar", &[F32, I32], None, false, 3.0, |a, b| a % b));
    add(tensor_scalar("ClampMax", signed, None, false, 2.0, f64::min));
    add(in_place());
    add(three_operands());
    add(reversed());
    add(divisions());
    add(shifts());
    add(masked());
    add(equal());
    all
}

/// Rows whose first operand is the scalar.
fn reversed() -> Vec<Case> {
    let mut all = Vec::new();
    for dtype in [F32, F16, BF16, I32, I64] {
        let scalar = |v| Arg::Scalar(if dtype.is_float() { F32 } else { I64 }, v);
        let args = vec![
            Arg::In(Spec::new(dtype, [5, 7]).view(View::Window)),
            scalar(3.0),
            scalar(2.0),
            Arg::Out(dtype, vec![5, 7]),
        ];
        // The product is rounded before the difference.
        all.push(Case::new("Rsubs", args, |x| vec![x[0].map(|v| 3.0 - 2.0 * v)]).within(2.0, 1.0));
    }
    for &dtype in FLOATS {
        let args = vec![Arg::Scalar(F32, 2.5), Arg::In(Spec::new(dtype, [5, 7])), Arg::Out(dtype, vec![5, 7])];
        let power = Case::new("PowScalarTensor", args, |x| vec![x[0].map(|v| 2.5f64.powf(v))]);
        all.push(power.within(super::elementwise::units(dtype), 0.1));
    }
    all
}

/// Division with each rounding of the quotient. Half precision has no place here: its page warns that a quotient near a
/// whole number may be rounded to the next one.
fn divisions() -> Vec<Case> {
    let modes: [(i64, Rounding); 3] = [(0, |q| q), (1, f64::trunc), (2, f64::floor)];
    let mut all = Vec::new();
    for (mode, rounded) in modes {
        for (dtype, low, high) in [(F32, 0.5, 3.0), (F32, -3.0, -0.5)] {
            let x = Spec::new(dtype, [4, 1, 9]).fill(Fill::Uniform(-9.0, 9.0));
            let y = Spec::new(dtype, [5, 9]).fill(Fill::Uniform(low, high));
            let args = vec![Arg::In(x), Arg::In(y), Arg::Int(mode), Arg::Out(dtype, vec![4, 5, 9])];
            all.push(Case::new("DivMod", args, move |x| vec![x[0].zip(&x[1], |a, b| rounded(a / b))]));
        }
        for (dtype, low, high) in [(I32, 1, 6), (I64, -5, 0)] {
            if mode != 0 {
                let y = Spec::new(dtype, [5, 9]).fill(Fill::Integers(low, high));
                let args =
                    vec![Arg::In(Spec::new(dtype, [5, 9])), Arg::In(y), Arg::Int(mode), Arg::Out(dtype, vec![5, 9])];
                all.push(Case::new("DivMod", args, move |x| vec![x[0].zip(&x[1], |a, b| rounded(a / b))]).exact());
            }
        }
    }
    all
}

fn shifts() -> Vec<Case> {
    let mut all = Vec::new();
    for dtype in [I8, I32, I64] {
        let row = |name, low, f: Binary| {
            let bits = Spec::new(dtype, [9]).fill(Fill::Integers(low, 4));
            let args = vec![Arg::In(Spec::new(dtype, [4, 9])), Arg::In(bits), Arg::Out(dtype, vec![4, 9])];
            Case::new(name, args, move |x| vec![x[0].zip(&x[1], f)]).exact()
        };
        all.push(row("LeftShift", 0, |v, bits| v * bits.exp2()));
        // A negative count of bits shifts by none.
        all.push(row("RightShift", -2, |v, bits| (v / bits.max(0.0).exp2()).floor()));
    }
    all
}

/// Rows that a mask leads, which is broadcast over the rows of a matrix.
fn masked() -> Vec<Case> {
    let mut all = Vec::new();
    for dtype in [F32, F16, BF16, I64, I32] {
        let fill = vec![
            Arg::Ref(Spec::new(dtype, [3, 8]).view(View::Window)),
            Arg::In(Spec::new(Bool, [8])),
            Arg::In(Spec::new(dtype, []).fill(Fill::Values(vec![7.0]))),
        ];
        let filled = |x: &[Array]| vec![x[0].zip(&x[1], |v, m| if m != 0.0 { 7.0 } else { v })];
        all.push(Case::new("InplaceMaskedFillTensor", fill, filled).exact());
        for (mask, view) in [(vec![8], View::Contiguous), (vec![3, 8], View::Transposed)] {
            let x = Arg::In(Spec::new(dtype, [3, 8]).view(view));
            let args = vec![x, Arg::In(Spec::new(Bool, mask)), Arg::Room(dtype, vec![24])];
            all.push(
                Case::new("MaskedSelect", args, |x| {
                    let mask = x[0].zip(&x[1], |_, m| m);
                    let chosen = x[0].data.iter().zip(&mask.data).filter(|(_, m)| **m != 0.0).map(|(v, _)| *v);
                    let chosen: Vec<f64> = chosen.collect();
                    vec![Array::new(x[0].dtype, [chosen.len()], chosen)]
                })
                .exact(),
            );
        }
    }
    all
}

fn equal() -> Vec<Case> {
    let numbers = |last: f64| Fill::Values(vec![0.0, -1.0, 2.0, 3.0, 5.0, last]);
    let mut all = Vec::new();
    for dtype in [F32, F16, BF16, I64] {
        for (shape, last, same) in [(vec![2, 3], 8.0, 1.0), (vec![2, 3], 9.0, 0.0), (vec![3, 2], 8.0, 0.0)] {
            let x = Spec::new(dtype, [2, 3]).fill(numbers(8.0));
            let args = vec![Arg::In(x), Arg::In(Spec::new(dtype, shape).fill(numbers(last))), Arg::Out(Bool, vec![1])];
            let mut case = Case::new("Equal", args, move |_| vec![Array::new(Bool, [1], vec![same])]).exact();
            case.label += if same == 1.0 { " alike" } else { " unlike" };
            all.push(case);
        }
    }
    all
}

fn in_place() -> Vec<Case> {
    let tensors: [(&str, bool, Binary); 4] = [
        ("InplaceAdd", true, |a, b| a + b),
        ("InplaceSub", true, |a, b| a - b),
        ("InplaceMul", false, |a, b| a * b),
        ("InplaceDiv", false, |a, b| a / b),
    ];
    let scalars: [(&str, bool, Binary); 4] = [
        ("InplaceAdds", true, |a, b| a + b),
        ("InplaceSubs", true, |a, b| a - b),
        ("InplaceMuls", false, |a, b| a * b),
        ("InplaceDivs", false, |a, b| a / b),
    ];
    let mut all = Vec::new();
    for &dtype in FLOATS {
        for (row, alpha, f) in tensors {
            let mut args = vec![
                Arg::Ref(operand(dtype, &[4, 9], View::Window, true)),
                Arg::In(operand(dtype, &[9], View::Contiguous, true)),
            ];
            args.extend(alpha.then(one));
            all.push(Case::new(row, args, move |x| vec![x[0].zip(&x[1], f)]));
        }
        for (row, alpha, f) in scalars {
            let mut args = vec![Arg::Ref(operand(dtype, &[4, 9], View::Window, true)), Arg::Scalar(F32, 2.5)];
            args.extend(alpha.then(one));
            all.push(Case::new(row, args, move |x| vec![x[0].map(|v| f(v, 2.5))]));
        }
    }
    all
}

fn three_operands() -> Vec<Case> {
    let mut all = Vec::new();
    for &dtype in FLOATS {
        let t = |positive| Arg::In(operand(dtype, &[3, 8], View::Contiguous, positive));
        let out = || Arg::Out(dtype, vec![3, 8]);
        let half = || Arg::Scalar(F32, 0.5);
        let three = |x: &[Array], f: fn(f64, f64, f64) -> f64| {
            let data = (0..x[0].data.len()).map(|i| f(x[0].data[i], x[1].data[i], x[2].data[i])).collect();
            vec![Array::new(x[0].dtype, x[0].shape.clone(), data)]
        };
        let mut add = |row, args, f: fn(f64, f64, f64) -> f64| {
            // Two roundings in the operator's own type are allowed by the page.
            all.push(Case::new(row, args, move |x| three(x, f)).within(4.0, 1.0));
        };
        add("Addcmul", vec![t(false), t(false), t(false), half(), out()], |a, b, c| a + 0.5 * b * c);
        add("Addcdiv", vec![t(false), t(false), t(true), half(), out()], |a, b, c| a + 0.5 * b / c);
        add("Lerp", vec![t(false), t(false), t(false), out()], |a, b, w| a + w * (b - a));
        let inplace = || Arg::Ref(operand(dtype, &[3, 8], View::Contiguous, false));
        add("InplaceAddcmul", vec![inplace(), t(false), t(false), half()], |a, b, c| a + 0.5 * b * c);
        add("InplaceAddcdiv", vec![inplace(), t(false), t(true), half()], |a, b, c| a + 0.5 * b / c);
        let clamp = |x: &[Array]| vec![x[0].map(|v| v.clamp(-0.5, 0.75))];
        let args = vec![t(false), Arg::Scalar(F32, -0.5), Arg::Scalar(F32, 0.75), out()];
        all.push(Case::new("Clamp", args, clamp));
        let choose = |x: &[Array]| {
            let picked =
                (0..x[0].data.len()).map(|i| if x[0].data[i] != 0.0 { x[1].data[i] } else { x[2].data[i] }).collect();
            vec![Array::new(x[1].dtype, x[0].shape.clone(), picked)]
        };
        let args = vec![Arg::In(Spec::new(Bool, [3, 8])), t(false), t(false), out()];
        all.push(Case::new("SWhere", args, choose).exact());
        let masked = |x: &[Array]| vec![x[0].zip(&x[1], |v, m| if m != 0.0 { -7.5 } else { v })];
        let args = vec![inplace(), Arg::In(Spec::new(Bool, [3, 8])), Arg::Scalar(F32, -7.5)];
        all.push(Case::new("InplaceMaskedFillScalar", args, masked).exact());
    }
    all
}
