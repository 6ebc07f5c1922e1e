//! The demo model does what the README says: it adds and subtracts, on the simulated NPU and on the CPU.

use candle_ascend::{DType, Device};
use npu_engine::{GenerateOptions, Generator, Message};
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

fn model() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests/ lies in the workspace").join("demo/model")
}

/// The sums that training never saw, with their answers.
fn heldout() -> Vec<(String, String)> {
    let text = std::fs::read_to_string(model().join("heldout.jsonl")).expect("heldout.jsonl");
    let field = |line: &serde_json::Value, name: &str| match &line[name] {
        serde_json::Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    let line = |line: &str| serde_json::from_str::<serde_json::Value>(line).expect("a line of JSON");
    text.lines().map(line).map(|l| (field(&l, "question"), field(&l, "answer"))).collect()
}

/// Share of `cases` answered right: the last line of the answer, after the working, is the number.
fn accuracy(device: &Device, dtype: DType, cases: &[(String, String)]) -> f64 {
    let generator = Generator::load(&model(), dtype, device, &|_, _| {}).expect("the demo model loads");
    let options = GenerateOptions { max_tokens: 96, ..Default::default() };
    let right = cases.iter().filter(|(question, answer)| {
        let prompt = generator.chat(&[Message::new("user", question)], true).expect("the demo model has a template");
        let done =
            generator.generate(&prompt.tokens, &options, &AtomicBool::new(false), &mut |_| Ok(())).expect("an answer");
        done.text.contains("</think>") && done.text.lines().last() == Some(answer)
    });
    right.count() as f64 / cases.len() as f64
}

#[test]
fn heldout_sums_on_the_simulated_npu() {
    let cases = heldout();
    assert!(cases.len() >= 500, "{} held-out sums", cases.len());
    let got = accuracy(&Device::Npu(npu_tests::simulated()), DType::BF16, &cases);
    println!("demo model, simulated NPU, bf16: {:.1} % of {} held-out sums", 100.0 * got, cases.len());
    assert!(got >= 0.9, "{got}");
}

#[test]
fn heldout_sums_on_the_cpu() {
    let cases = heldout();
    for dtype in [DType::F32, DType::BF16] {
        let got = accuracy(&Device::Cpu, dtype, &cases);
        println!("demo model, CPU, {}: {:.1} % of {} held-out sums", dtype.as_str(), 100.0 * got, cases.len());
        assert!(got >= 0.9, "{got}");
    }
}
