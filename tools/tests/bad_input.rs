//! Each kind of bad input has its message, and none of it panics.

mod common;
use common::{fixture, npu_run, spoiled};
use std::fs;
use std::io::Write as _;
use std::path::Path;

/// `npu-run logits` on a checkpoint, which needs no tokenizer.
fn logits(model: &Path) -> common::Ran {
    let folder = tempfile::tempdir().unwrap();
    let output = folder.path().join("out.safetensors");
    let input = fixture("qwen2-tiny").join("golden.safetensors");
    let text = |p: &Path| p.to_string_lossy().into_owned();
    let ran = npu_run(
        &["logits", "--device", "cpu", "--model", &text(model), "--input", &text(&input), "--output", &text(&output)],
        b"",
    );
    if ran.code != Some(0) {
        assert!(!output.exists(), "a failed run left {}", output.display());
    }
    ran
}

/// Rewrites the header of `model.safetensors` in `folder`, keeping the data.
fn edit_header(folder: &Path, edit: impl FnOnce(&mut serde_json::Map<String, serde_json::Value>)) {
    let path = folder.join("model.safetensors");
    let bytes = fs::read(&path).unwrap();
    let length = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let mut header = serde_json::from_slice(&bytes[8..8 + length]).unwrap();
    edit(&mut header);
    let mut text = serde_json::to_vec(&header).unwrap();
    text.resize(text.len().next_multiple_of(8), b' ');
    let mut file = (text.len() as u64).to_le_bytes().to_vec();
    file.extend(text);
    file.extend(&bytes[8 + length..]);
    fs::write(path, file).unwrap();
}

const NORM: &str = "model.layers.1.input_layernorm.weight";

#[test]
fn good_checkpoint_passes() {
    logits(&fixture("qwen2-tiny")).ok();
}

#[test]
fn truncated_file() {
    let folder = spoiled("qwen2-tiny", |f| {
        let path = f.join("model.safetensors");
        let bytes = fs::read(&path).unwrap();
        fs::write(&path, &bytes[..bytes.len() - 1000]).unwrap();
    });
    logits(folder.path()).refused(&["model.safetensors"]);
}

#[test]
fn header_longer_than_the_file() {
    let folder = spoiled("qwen2-tiny", |f| {
        let path = f.join("model.safetensors");
        let mut bytes = fs::read(&path).unwrap();
        bytes[..8].copy_from_slice(&(1u64 << 60).to_le_bytes());
        fs::write(&path, bytes).unwrap();
    });
    logits(folder.path()).refused(&["model.safetensors", "header"]);
}

#[test]
fn header_that_is_no_json() {
    let folder = spoiled("qwen2-tiny", |f| {
        let path = f.join("model.safetensors");
        let mut bytes = fs::read(&path).unwrap();
        bytes[8] = b'#';
        fs::write(&path, bytes).unwrap();
    });
    logits(folder.path()).refused(&["model.safetensors", "header"]);
}

#[test]
fn offsets_outside_the_file() {
    let folder = spoiled("qwen2-tiny", |f| {
        edit_header(f, |h| h[NORM]["data_offsets"] = serde_json::json!([1u64 << 40, (1u64 << 40) + 128]));
    });
    logits(folder.path()).refused(&["model.safetensors", NORM]);
}

#[test]
fn overlapping_tensors() {
    let folder = spoiled("qwen2-tiny", |f| {
        edit_header(f, |h| h[NORM]["data_offsets"] = serde_json::json!([0, 128]));
    });
    logits(folder.path()).refused(&["model.safetensors", "overlap"]);
}

#[test]
fn wrong_shape() {
    let folder = spoiled("qwen2-tiny", |f| edit_header(f, |h| h[NORM]["shape"] = serde_json::json!([8, 8])));
    logits(folder.path()).refused(&["model.safetensors", NORM, "[8, 8]", "[64]"]);
}

#[test]
fn wrong_dtype() {
    let folder = spoiled("qwen2-tiny", |f| {
        edit_header(f, |h| h[NORM]["dtype"] = serde_json::json!("I16"));
    });
    logits(folder.path()).refused(&["model.safetensors", NORM, "I16"]);
}

#[test]
fn missing_tensor() {
    let folder = spoiled("qwen2-tiny", |f| {
        edit_header(f, |h| {
            let entry = h.remove(NORM).unwrap();
            h.insert("model.layers.1.renamed.weight".into(), entry);
        });
    });
    logits(folder.path()).refused(&[NORM]);
}

#[test]
fn missing_shard() {
    let folder = spoiled("qwen2-tiny", |f| {
        fs::remove_file(f.join("model.safetensors")).unwrap();
        let index = serde_json::json!({"metadata": {}, "weight_map": {NORM: "model-00001-of-00002.safetensors"}});
        fs::write(f.join("model.safetensors.index.json"), index.to_string()).unwrap();
    });
    logits(folder.path()).refused(&["model-00001-of-00002.safetensors"]);
}

#[test]
fn no_weights_at_all() {
    let folder = spoiled("qwen2-tiny", |f| fs::remove_file(f.join("model.safetensors")).unwrap());
    logits(folder.path()).refused(&["model.safetensors"]);
}

#[test]
fn unknown_architecture() {
    let folder = spoiled("qwen2-tiny", |f| {
        let text = fs::read_to_string(f.join("config.json")).unwrap();
        fs::write(
            f.join("config.json"),
            text.replace("Qwen2ForCausalLM", "ElephantForCausalLM").replace("\"qwen2\"", "\"elephant\""),
        )
        .unwrap();
    });
    logits(folder.path()).refused(&["ElephantForCausalLM", "Qwen2ForCausalLM"]);
}

#[test]
fn configuration_that_is_no_json() {
    let folder = spoiled("qwen2-tiny", |f| fs::write(f.join("config.json"), "{").unwrap());
    logits(folder.path()).refused(&["config.json"]);
}

#[test]
fn missing_folder() {
    logits(Path::new("/nowhere/at/all")).refused(&["/nowhere/at/all"]);
}

#[test]
fn unknown_device_and_index() {
    npu_run(&["infer", "1+1", "--device", "tpu"], b"").refused(&["tpu", "sim[:SOC]"]);
    npu_run(&["infer", "1+1", "--device", "npu:x"], b"").refused(&["npu:x"]);
    npu_run(&["infer", "1+1", "--device", "sim:ascend-none"], b"").refused(&["ascend-none", "Ascend910B3"]);
    npu_run(&["infer", "1+1", "--device", "cuda"], b"").refused(&["CUDA"]);
}

#[test]
fn no_npu_on_this_machine_is_explained() {
    if Path::new("/usr/local/Ascend").exists() {
        // Straight to the terminal: what a passing test prints is swallowed.
        let _ = writeln!(std::io::stderr(), "did not run: this machine has CANN installed");
        return;
    }
    npu_run(&["infer", "1+1", "--device", "npu"], b"").refused(&["libascendcl.so", "ASCEND_HOME_PATH", "--device sim"]);
}

#[test]
fn prompt_that_is_not_utf8() {
    npu_run(&["infer", "--device", "cpu"], &[0x31, 0xff, 0xfe, 0x32]).refused(&["UTF-8"]);
}

#[test]
fn prompt_longer_than_the_context() {
    let prompt = "12+34 ".repeat(2000);
    npu_run(&["infer", "--device", "cpu"], prompt.as_bytes()).refused(&["context"]);
}

#[test]
fn out_of_device_memory() {
    let ran = with_env("CANN_SIM_MEMORY", "1048576", &["infer", "1+1", "--device", "sim"]);
    ran.refused(&["memory"]);
}

fn with_env(name: &str, value: &str, args: &[&str]) -> common::Ran {
    let output =
        std::process::Command::new(env!("CARGO_BIN_EXE_npu-run")).args(args).env(name, value).output().unwrap();
    common::Ran {
        code: output.status.code(),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

#[test]
fn an_adapter_of_another_model() {
    let adapter = fixture("qwen2-tiny").join("train/adapter_final");
    let adapter = adapter.to_str().unwrap();
    // The demo model is wider inside.
    let ran = npu_run(&["infer", "1 + 1", "--device", "cpu", "--adapter", adapter], b"");
    ran.refused(&["adapter_final", "gate_proj", "[160, 8]", "192 outputs"]);
    let ran = npu_run(&["infer", "1 + 1", "--device", "cpu", "--adapter", "nowhere"], b"");
    ran.refused(&["nowhere"]);
    let folder = tempfile::tempdir().unwrap();
    let (data, trained) = (folder.path().join("data.jsonl"), folder.path().join("trained"));
    fs::write(&data, "{\"prompt\": \"1 + 1\", \"completion\": \"2\", \"answer\": \"2\"}").unwrap();
    let (data, trained) = (data.to_str().unwrap(), trained.to_str().unwrap());
    for objective in [&["sft"][..], &["grpo", "--reward", "accuracy"]] {
        let flags = ["--device", "cpu", "--data", data, "--output-dir", trained, "--adapter", adapter];
        let ran = npu_run(&[&["train"], objective, &flags].concat(), b"");
        ran.refused(&["adapter_final", "gate_proj", "[160, 8]", "192 outputs"]);
    }
    assert!(!Path::new(trained).exists(), "a run that was refused left a folder");
    let output = folder.path().join("merged");
    let (other, output) = (fixture("llama-tiny"), output.to_str().unwrap());
    let args = ["merge", "--model", other.to_str().unwrap(), "--adapter", adapter, "--output", output];
    npu_run(&args, b"").refused(&["is no adapter of", "weight"]);
    assert!(!Path::new(output).exists(), "a failed merge left a folder");
    npu_run(&["bench", "--adapter", adapter], b"").refused(&["--adapter"]);
}

#[test]
fn kernels_that_there_are_not() {
    let infer =
        |kernels: &str, device: &str| npu_run(&["infer", "1 + 1", "--kernels", kernels, "--device", device], b"");
    infer("fast", "cpu").refused(&["\"fast\" are no kernels", "aclnn, ours or plain"]);
    infer("ours", "cpu").refused(&["--kernels ours", "the device is cpu", "--device npu or --device sim"]);
}
