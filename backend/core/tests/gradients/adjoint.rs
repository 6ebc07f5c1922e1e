//! The checks of the table.

use crate::operands::{devices, operand, ours, rng};
use crate::table::{Case, cases};
use candle_ascend::{DType, Device, Result, Tensor, Var, no_grad, ops};
use std::collections::BTreeSet;
use std::path::Path;

/// Step of the finite differences in F64: their error is about its square, and the roundings divided by it.
const STEP: f64 = 1e-5;
/// Of gradients of order one against differences in F64.
const EXACT: f64 = 1e-7;
/// Of gradients in F32: a few dozen roundings of numbers of order ten.
const SINGLE: f64 = 2e-5;

/// Operands of a case and the weights that make one number of its result.
struct Drawn {
    operands: Vec<Tensor>,
    weights: Tensor,
}

fn draw(case: &Case) -> Drawn {
    let mut rng = rng(case.name.len() as u64 * 31 + case.name.bytes().map(u64::from).sum::<u64>());
    let on_cpu = |x: candle_core::Tensor| ours(&x, &Device::Cpu);
    let operands: Vec<Tensor> = case.shapes.iter().map(|shape| on_cpu(operand(&mut rng, shape, DType::F64))).collect();
    let result = (case.ours)(&operands).unwrap_or_else(|error| panic!("{}: {error}", case.name));
    let weights = on_cpu(operand(&mut rng, result.dims(), DType::F64));
    Drawn { operands, weights }
}

fn loss(case: &Case, operands: &[Tensor], weights: &Tensor) -> Result<Tensor> {
    ((case.ours)(operands)? * weights)?.sum_all()
}

/// Central differences of the loss for every element of every operand, in F64 on the CPU.
fn differences(case: &Case, drawn: &Drawn) -> Vec<Vec<f64>> {
    let value = |operands: &[Tensor]| {
        loss(case, operands, &drawn.weights).and_then(|loss| loss.to_scalar::<f64>()).expect("loss")
    };
    let mut slopes = Vec::new();
    for (which, x) in drawn.operands.iter().enumerate() {
        let elements = x.flatten_all().and_then(|x| x.to_vec1::<f64>()).expect("elements");
        let moved = |i: usize, by: f64| {
            let mut elements = elements.clone();
            elements[i] += by;
            let mut operands = drawn.operands.clone();
            operands[which] = Tensor::from_vec(elements, x.shape(), &Device::Cpu).expect("moved");
            value(&operands)
        };
        slopes.push((0..elements.len()).map(|i| (moved(i, STEP) - moved(i, -STEP)) / (2. * STEP)).collect());
    }
    slopes
}

/// Gradients of the loss in `dtype` on `device`, zeros where there is none; and the operators that were recorded.
fn gradients(case: &Case, drawn: &Drawn, dtype: DType, device: &Device) -> Result<(Vec<Vec<f64>>, Vec<&'static str>)> {
    let there = |x: &Tensor| x.to_dtype(dtype)?.to_device(device);
    let variables = drawn.operands.iter().map(|x| Var::from_tensor(&there(x)?)).collect::<Result<Vec<_>>>()?;
    let operands: Vec<Tensor> = variables.iter().map(|v| v.as_tensor().clone()).collect();
    let loss = loss(case, &operands, &there(&drawn.weights)?)?;
    let grads = loss.backward()?;
    let values = |v: &Var| match grads.get(v) {
        Some(grad) => {
            assert_eq!((grad.shape(), grad.dtype()), (v.shape(), v.dtype()), "{}", case.name);
            assert!(!grad.track_op(), "{}: a gradient that is recorded", case.name);
            grad.to_device(&Device::Cpu)?.to_dtype(DType::F64)?.flatten_all()?.to_vec1::<f64>()
        }
        None => Ok(vec![0.; v.elem_count()]),
    };
    let values = variables.iter().map(values).collect::<Result<Vec<_>>>()?;
    Ok((values, loss.recorded_operators()))
}

#[track_caller]
fn near(case: &str, got: &[Vec<f64>], wanted: &[Vec<f64>], tolerance: f64) {
    for (which, (got, wanted)) in got.iter().zip(wanted).enumerate() {
        // The largest gradient of an operand says what its roundings are relative to.
        let scale = wanted.iter().fold(1f64, |most, w| most.max(w.abs()));
        for (i, (got, wanted)) in got.iter().zip(wanted).enumerate() {
            let off = (got - wanted).abs();
            assert!(off <= tolerance * scale, "{case}: element {i} of operand {which} is {got}, wanted {wanted}");
        }
    }
}

#[test]
fn every_gradient_is_the_slope() {
    let mut recorded = BTreeSet::new();
    for case in cases() {
        let drawn = draw(&case);
        let wanted = differences(&case, &drawn);
        // A conversion to F32 on the way limits what the differences tell: they divide its roundings by the step.
        let exact = if case.name == "to_dtype" { 0.2 } else { EXACT };
        let cpu = Device::Cpu;
        let (got, operators) = gradients(&case, &drawn, DType::F64, &cpu).expect(case.name);
        recorded.extend(operators);
        near(&format!("{} in F64", case.name), &got, &wanted, exact);
        let wanted = if case.name == "to_dtype" { got } else { wanted };
        let (parts, operators) = ops::decomposed(|| gradients(&case, &drawn, DType::F64, &cpu)).expect(case.name);
        recorded.extend(operators);
        near(&format!("{} decomposed in F64", case.name), &parts, &wanted, exact);
        for device in devices().into_iter().filter(|device| case.npu || device.is_cpu()) {
            let name = format!("{} in F32 on {}", case.name, device.kind());
            let (got, operators) = gradients(&case, &drawn, DType::F32, &device).expect(&name);
            recorded.extend(operators);
            near(&name, &got, &wanted, SINGLE);
            let (got, _) = ops::decomposed(|| gradients(&case, &drawn, DType::F32, &device)).expect(&name);
            near(&format!("{name}, decomposed"), &got, &wanted, SINGLE);
        }
    }
    covers(&recorded);
}

/// Every operator of the sources has been recorded by some case, so that none is without a check.
fn covers(recorded: &BTreeSet<&str>) {
    let names = operators_of_the_sources();
    // Names that only these have; the custom ones are in `tape.rs`, and a comparison has no gradient.
    let elsewhere = ["checkpoint", "cmp", "argmin", "argmax", "to_device"];
    let missing: Vec<_> =
        names.iter().filter(|name| !recorded.contains(name.as_str()) && !elsewhere.contains(&name.as_str())).collect();
    assert!(missing.is_empty(), "operators without a case in the table: {missing:?}");
    assert!(names.len() > 50, "the sources name only {} operators: {names:?}", names.len());
}

/// What `fn name` answers in the sources of the operators, and the functions of one element by candle's type.
fn operators_of_the_sources() -> BTreeSet<String> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/ops");
    let mut names = BTreeSet::new();
    for entry in std::fs::read_dir(folder).expect("sources").flatten() {
        let text = std::fs::read_to_string(entry.path()).expect("source");
        for (i, _) in text.match_indices("fn name(&self) -> &'static str {") {
            let body = &text[i..i + text[i..].find("\n    }").expect("the end of a function")];
            names.extend(body.split('"').skip(1).step_by(2).map(str::to_owned));
        }
        // Rows of `slopes!` begin with the name of candle's type.
        if entry.file_name() == "slope.rs" {
            let rows = text.lines().filter_map(|line| line.trim().split_once(": |"));
            let rows = rows.filter(|(name, _)| name.chars().all(char::is_alphabetic));
            let flat = text.lines().find_map(|line| line.strip_prefix("flat! {")).expect("flat functions");
            let flat = flat.trim_end_matches('}').split_whitespace();
            names.extend(rows.map(|(name, _)| name).chain(flat).map(snake));
        }
    }
    names
}

/// `GeluErf` as `gelu_erf`.
fn snake(name: &str) -> String {
    let mut out = String::new();
    for c in name.chars() {
        if c.is_uppercase() && !out.is_empty() {
            out.push('_');
        }
        out.extend(c.to_lowercase());
    }
    out
}

#[test]
fn gradients_are_candles() {
    for case in cases() {
        let Some(theirs) = case.candle else { continue };
        let drawn = draw(&case);
        // candle's variables from the same elements.
        let variables: Vec<candle_core::Var> = drawn
            .operands
            .iter()
            .map(|x| candle_core::Var::from_tensor(&x.to_candle().expect("to candle")).expect("variable"))
            .collect();
        let operands: Vec<candle_core::Tensor> = variables.iter().map(|v| v.as_tensor().clone()).collect();
        let weights = drawn.weights.to_candle().expect("to candle");
        let grads = theirs(&operands)
            .and_then(|y| (y * weights)?.sum_all()?.backward())
            .unwrap_or_else(|error| panic!("candle's {}: {error}", case.name));
        let wanted: Vec<Vec<f64>> = variables
            .iter()
            .map(|v| match grads.get(v) {
                Some(grad) => grad.flatten_all().and_then(|g| g.to_vec1()).expect("elements"),
                None => vec![0.; v.elem_count()],
            })
            .collect();
        let (got, _) = gradients(&case, &drawn, DType::F64, &Device::Cpu).expect(case.name);
        // candle writes the constants of the two GELU with six digits.
        let tolerance = if case.name.starts_with("gelu") { 1e-5 } else { 1e-12 };
        near(&format!("{} as in candle", case.name), &got, &wanted, tolerance);
    }
}

#[test]
fn half_types_give_the_gradient_within_their_rounding() {
    let attention = ["attention", "causal attention", "packed attention"];
    let fused = ["softmax_last_dim", "swiglu", "rms_norm", "add_rms_norm", "linear with bias", "rotary"];
    let either = |name: &str| fused.contains(&name) || attention.contains(&name);
    for case in cases().into_iter().filter(|case| either(case.name)) {
        let drawn = draw(&case);
        for (dtype, tolerance) in [(DType::BF16, 6e-2), (DType::F16, 8e-3)] {
            // The slopes where the operands are after rounding.
            let round = |x: &Tensor| x.to_dtype(dtype).and_then(|x| x.to_dtype(DType::F64)).expect("rounded");
            let drawn = Drawn { operands: drawn.operands.iter().map(round).collect(), weights: round(&drawn.weights) };
            let wanted = no_grad(|| differences(&case, &drawn));
            for device in devices() {
                let name = format!("{} in {dtype:?} on {}", case.name, device.kind());
                let (got, _) = gradients(&case, &drawn, dtype, &device).expect(&name);
                near(&name, &got, &wanted, tolerance);
            }
        }
    }
}
