//! `tests/fixtures/grpo/golden.json`, which `make.py` beside it wrote, and losses held against it.

use crate::common::simulated;
use candle_ascend::{DType, Device, Tensor, Var, ops};
use npu_train::distill::{Distillation, TeacherRows};
use npu_train::grpo::{LossType, Surrogate, Tokens};
use serde_json::Value;

/// F32 arithmetic over a dozen rows, of losses and gradients of about one.
const SINGLE: f64 = 2e-5;

fn golden() -> Value {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/grpo/golden.json");
    serde_json::from_str(&std::fs::read_to_string(path).expect("golden.json")).expect("JSON")
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or_else(|| panic!("not a number: {value}"))
}

fn numbers(value: &Value) -> Vec<f64> {
    match value {
        Value::Array(parts) => parts.iter().flat_map(numbers).collect(),
        other => vec![number(other)],
    }
}

fn matrix(value: &Value, device: &Device) -> Tensor {
    let (rows, all) = (value.as_array().expect("rows").len(), numbers(value));
    let columns = all.len() / rows;
    let all: Vec<f32> = all.into_iter().map(|x| x as f32).collect();
    Tensor::from_vec(all, (rows, columns), device).expect("a matrix")
}

fn vector(values: impl IntoIterator<Item = f64>, device: &Device) -> Tensor {
    Tensor::from_iter(values.into_iter().map(|x| x as f32), device).expect("a vector")
}

fn targets(golden: &Value, device: &Device) -> Tensor {
    let targets: Vec<i64> = numbers(&golden["targets"]).into_iter().map(|x| x as i64).collect();
    let rows = targets.len();
    Tensor::from_vec(targets, (rows, 1), device).expect("targets")
}

fn values(tensor: &Tensor) -> Vec<f64> {
    let there = tensor.to_device(&Device::Cpu).and_then(|t| t.flatten_all()?.to_dtype(DType::F64)?.to_vec1());
    there.expect("values")
}

#[track_caller]
fn near(what: &str, got: &[f64], wanted: &[f64]) {
    assert_eq!(got.len(), wanted.len(), "{what}");
    for (i, (got, wanted)) in got.iter().zip(wanted).enumerate() {
        assert!((got - wanted).abs() <= SINGLE, "{what}, element {i}: {got}, wanted {wanted}");
    }
}

/// The loss and its gradients for hidden states and head, against those of `case`, after division by `weight`.
#[track_caller]
fn check(what: &str, (loss, weight): (Tensor, f64), hidden: &Var, head: &Var, case: &Value) {
    let loss = (loss / weight).expect("a mean");
    near(&format!("{what}: loss"), &values(&loss), &[number(&case["loss"])]);
    let grads = loss.into_grads().expect("gradients");
    for (name, var) in [("of_hidden", hidden), ("of_head", head)] {
        near(&format!("{what}: {name}"), &values(grads.get(var).expect("a gradient")), &numbers(&case[name]));
    }
}

/// What each completion counts is left to the loss type, as the objective does it.
fn surrogate_on(device: &Device) {
    let golden = golden();
    let lengths: Vec<usize> = numbers(&golden["lengths"]).into_iter().map(|x| x as usize).collect();
    let longest = number(&golden["max_completion_length"]) as usize;
    let per_token = |of: &dyn Fn(usize) -> f64| {
        let spread = lengths.iter().enumerate().flat_map(|(i, &length)| std::iter::repeat_n(of(i), length));
        vector(spread, device)
    };
    let advantages = numbers(&golden["advantages"]);
    let how = Surrogate {
        epsilon: number(&golden["epsilon"]),
        epsilon_high: number(&golden["epsilon_high"]),
        beta: number(&golden["beta"]),
        temperature: number(&golden["temperature"]),
    };
    for case in golden["surrogate"].as_array().expect("cases") {
        let (name, kind) = match case["loss_type"].as_str() {
            Some("grpo") => ("grpo", LossType::Grpo),
            Some("dapo") => ("dapo", LossType::Dapo),
            _ => ("dr_grpo", LossType::DrGrpo),
        };
        let given = |key: &str| (case[key] == true).then(|| vector(numbers(&golden[key]), device));
        let tokens = Tokens {
            targets: targets(&golden, device),
            advantages: per_token(&|i| advantages[i]),
            weights: per_token(&|i| kind.of_token(lengths[i], longest)),
            old: given("old"),
            reference: given("reference"),
        };
        let variable = |key: &str| Var::from_tensor(&matrix(&golden[key], device)).expect("a variable");
        let (hidden, head) = (variable("hidden"), variable("head"));
        let weight: f64 = lengths.iter().map(|&length| kind.of_completion(length)).sum();
        let (loss, sums) = how.loss(&hidden, &head, &tokens).expect("a loss");
        let what = format!("{name} on {}, old {}", device.kind(), case["old"]);
        let rows = lengths.iter().sum::<usize>() as f64;
        let wanted = ["entropy", "kl"].map(|key| number(&case[key]) * rows);
        near(&format!("{what}: sums"), &values(&sums)[..2], &wanted);
        assert_eq!(values(&sums)[2..], ["low", "high"].map(|key| number(&case[key])), "{what}: clipped");
        check(&what, (loss, weight), &hidden, &head, case);
    }
}

#[test]
fn the_surrogate_and_its_gradients_are_pytorchs() {
    surrogate_on(&Device::Cpu);
    surrogate_on(&simulated(4));
}

fn distillation_on(device: &Device) {
    let golden = golden();
    let targets = targets(&golden, device);
    let teacher = matrix(&golden["teacher_hidden"], device)
        .matmul(&matrix(&golden["teacher_head"], device).t().expect("a view").contiguous().expect("a copy"))
        .expect("logits");
    let rows = targets.elem_count();
    for case in golden["distillation"].as_array().expect("cases") {
        let how = Distillation {
            alpha: number(&case["alpha"]),
            temperature: number(&case["temperature"]),
            beta: number(&case["beta"]),
        };
        let top = number(&case["top"]) as usize;
        let part = |start: usize, count: usize| match top {
            0 => TeacherRows::Logits(teacher.narrow(0, start, count).expect("rows")),
            _ => likeliest(&teacher.narrow(0, start, count).expect("rows"), top, device),
        };
        let variable = |key: &str| Var::from_tensor(&matrix(&golden[key], device)).expect("a variable");
        let (hidden, head) = (variable("hidden"), variable("head"));
        let (mut soft, mut hard) = (0., 0.);
        // Chunks that do not divide the rows.
        let loss = ops::linear_loss(&hidden, &head, 5, &mut |logits, range| {
            let targets = targets.narrow(0, range.start, range.len())?;
            let sums = how.of_logits(logits, &part(range.start, range.len()), &targets)?;
            soft += values(&sums.soft)[0];
            hard += sums.hard.map_or(0., |hard| values(&hard)[0]);
            Ok(sums.loss)
        });
        let what = format!("distillation on {} {how:?}, top {top}", device.kind());
        near(&format!("{what}: divergence"), &[soft / rows as f64], &[number(&case["divergence"])]);
        if how.alpha < 1. {
            near(&format!("{what}: hard"), &[hard / rows as f64], &[number(&case["hard"])]);
        }
        check(&what, (loss.expect("a loss"), rows as f64), &hidden, &head, case);
    }
}

/// The `top` likeliest tokens of rows of logits, by sorting each; with what stands for log-probabilities up to a constant.
fn likeliest(logits: &Tensor, top: usize, device: &Device) -> TeacherRows {
    let rows = logits.to_vec2::<f32>().expect("rows");
    let (mut indices, mut log_probs) = (Vec::<u32>::new(), Vec::<f32>::new());
    for row in &rows {
        let mut order: Vec<u32> = (0..row.len() as u32).collect();
        order.sort_by(|a, b| row[*b as usize].total_cmp(&row[*a as usize]));
        indices.extend(&order[..top]);
        log_probs.extend(order[..top].iter().map(|&i| row[i as usize] - 3.));
    }
    TeacherRows::Top {
        indices: Tensor::from_vec(indices, (rows.len(), top), device).expect("indices"),
        log_probs: Tensor::from_vec(log_probs, (rows.len(), top), device).expect("log-probabilities"),
    }
}

#[test]
fn distillation_and_its_gradients_are_pytorchs() {
    distillation_on(&Device::Cpu);
    distillation_on(&simulated(4));
}
