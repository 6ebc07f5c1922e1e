//! `npu-run` with a GGUF file for a model.

mod common;
use candle_core::quantized::GgmlDType;
use common::npu_run;
use npu_tests::gguf::{bytes, convert};
use std::path::{Path, PathBuf};
use tempfile::TempDir;

fn demo(folder: &TempDir) -> PathBuf {
    let demo = Path::new(env!("CARGO_MANIFEST_DIR")).join("../demo/model");
    let (metadata, tensors) = convert(&demo, GgmlDType::Q8_0);
    let path = folder.path().join("demo.gguf");
    std::fs::write(&path, bytes(&metadata, &tensors)).expect("written");
    path
}

#[test]
fn a_gguf_file_answers() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = demo(&folder);
    let model = path.to_str().expect("a name");
    for (device, says) in [("cpu", "cpu, f32"), ("sim", "widened to bf16")] {
        let ran = npu_run(&["infer", "What is 123 + 456?", "--model", model, "--device", device], b"").ok();
        assert!(ran.stderr.contains(says), "{device}: {}", ran.stderr);
        assert_eq!(ran.stdout.lines().last(), Some("579"), "{device}: {}", ran.stdout);
    }
}

/// A trained checkpoint takes over the files of the folder that it was made from.
#[test]
fn a_gguf_file_is_not_trained_whole() {
    let folder = tempfile::tempdir().expect("a folder");
    let (model, data, output) = (demo(&folder), folder.path().join("data.jsonl"), folder.path().join("out"));
    std::fs::write(&data, "{\"prompt\": \"1 + 1\", \"completion\": \"2\"}\n").expect("written");
    let [model, data, output] = [&model, &data, &output].map(|path| path.to_str().expect("a name"));
    let sft = ["train", "sft", "--device", "cpu", "--model", model, "--data", data, "--output-dir", output];
    npu_run(&sft, b"").refused(&["demo.gguf", "config.json", "made from"]);
}

#[test]
fn other_files_are_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    let (whole, damaged) = (demo(&folder), folder.path().join("damaged.gguf"));
    let good = std::fs::read(whole).expect("read");
    let model = damaged.to_str().expect("a name");
    for (bytes, says) in [(&good[..good.len() / 2], "truncated"), (b"not a model", "does not begin with GGUF")] {
        std::fs::write(&damaged, bytes).expect("written");
        npu_run(&["infer", "1 + 1", "--model", model, "--device", "cpu"], b"").refused(&["damaged.gguf", says]);
    }
    npu_run(&["infer", "1 + 1", "--model", "nowhere.gguf"], b"").refused(&["nowhere.gguf", "no such folder or file"]);
}

#[test]
fn quantised_shapes_are_measured() {
    for dtype in ["q8_0", "q4_k_m"] {
        let size = ["--prompt-tokens", "16", "--decode-tokens", "8", "--repeat", "1"];
        let args = ["bench", "--shape", "tiny", "--device", "cpu", "--dtype", dtype, "--json"];
        let ran = npu_run(&[&args[..], &size[..]].concat(), b"").ok();
        let report: serde_json::Value = serde_json::from_str(&ran.stdout).expect("one JSON report");
        let number = |path: &str| report.pointer(path).and_then(serde_json::Value::as_f64).expect(path);
        assert!(number("/rates/0/decode/median") > 0.0, "{report}");
        // Bytes a parameter: 34/32 of Q8_0, and less than one where four to eight bits are mixed.
        let bytes = number("/load/weight_bytes") / number("/load/parameters");
        let wanted = if dtype == "q8_0" { 1.05..1.1 } else { 0.5..0.85 };
        assert!(wanted.contains(&bytes), "{dtype}: {bytes} bytes a parameter");
    }
}
