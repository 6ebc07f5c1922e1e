//! `npu-run infer`, `logits` and `smoke` as a user runs them.

mod common;
use common::{fixture, npu_run};
use safetensors::SafeTensors;

#[test]
fn the_readmes_first_command() {
    for device in ["sim", "cpu"] {
        let ran = npu_run(&["infer", "What is 123 + 456?", "--device", device], b"").ok();
        assert!(ran.stdout.contains("</think>") || ran.stdout.contains("123+456"), "{}", ran.stdout);
        assert_eq!(ran.stdout.lines().last(), Some("579"), "{}", ran.stdout);
        assert!(ran.stderr.contains("tokens/s"), "{}", ran.stderr);
    }
}

#[test]
fn the_prompt_may_come_from_standard_input() {
    let ran = npu_run(&["infer", "--device", "cpu"], b"Calculate 5 + 7.\n").ok();
    assert_eq!(ran.stdout.lines().last(), Some("12"), "{}", ran.stdout);
}

#[test]
fn one_json_report() {
    let ran = npu_run(&["infer", "17 - 58", "--device", "sim:910b4", "--json", "--max-tokens", "96"], b"").ok();
    let report: serde_json::Value = serde_json::from_str(&ran.stdout).expect("one JSON value and nothing else");
    assert!(report["text"].as_str().unwrap().ends_with("-41"), "{report}");
    assert_eq!(report["stop"], "eos");
    assert!(report["device"].as_str().unwrap().contains("Ascend910B4"), "{report}");
    assert!(report["stats"]["launches_per_token"].as_f64().unwrap() > 0.0, "{report}");
    assert!(ran.stderr.is_empty(), "{}", ran.stderr);
}

#[test]
fn the_same_seed_gives_the_same_text() {
    let run = |seed: &str| {
        let args = [
            "infer",
            "9 + 9",
            "--device",
            "cpu",
            "--raw",
            "--temperature",
            "1.5",
            "--max-tokens",
            "40",
            "--seed",
            seed,
        ];
        npu_run(&args, b"").ok().stdout
    };
    assert_eq!(run("7"), run("7"));
    assert_ne!(run("7"), run("8"), "two seeds at this temperature draw different texts");
}

#[test]
fn auto_takes_a_device_and_says_which() {
    let ran = npu_run(&["infer", "1 + 1"], b"").ok();
    assert!(ran.stderr.contains(" on "), "{}", ran.stderr);
    assert!(!ran.stderr.contains("simulated"), "auto must not take the simulated NPU: {}", ran.stderr);
}

#[test]
fn logits_are_those_of_transformers() {
    let folder = tempfile::tempdir().unwrap();
    let golden = std::fs::read(fixture("qwen3-tiny").join("golden.safetensors")).unwrap();
    let golden = SafeTensors::deserialize(&golden).unwrap();
    let f32s = |bytes: &[u8]| -> Vec<f32> {
        bytes.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect()
    };
    for device in ["cpu", "sim"] {
        let output = folder.path().join(device);
        let input = fixture("qwen3-tiny").join("golden.safetensors");
        let (model, output_text) = (fixture("qwen3-tiny"), output.to_str().unwrap());
        let args = [
            "logits",
            "--device",
            device,
            "--dtype",
            "f32",
            "--greedy",
            "16",
            "--json",
            "--model",
            model.to_str().unwrap(),
        ];
        let ran =
            npu_run(&[&args[..], &["--input", input.to_str().unwrap(), "--output", output_text]].concat(), b"").ok();
        let report: serde_json::Value = serde_json::from_str(&ran.stdout).unwrap();
        assert_eq!(report["logits"], serde_json::json!([2, 96, 512]));
        let bytes = std::fs::read(&output).unwrap();
        let file = SafeTensors::deserialize(&bytes).unwrap();
        let (got, wanted) =
            (f32s(file.tensor("logits").unwrap().data()), f32s(golden.tensor("logits").unwrap().data()));
        let worst = got.iter().zip(&wanted).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        // The bound that other frameworks are held to: f32 sums in another order.
        assert!(worst <= 2e-3, "{device}: {worst}");
        let greedy = file.tensor("greedy").unwrap();
        assert_eq!(greedy.shape(), [2, 16]);
        assert_eq!(&greedy.data()[..128], golden.tensor("greedy").unwrap().data(), "{device}: greedy tokens");
    }
}

/// Beside the base, merged into it, on a CPU and through captured steps of an NPU: one model, which answers alike.
#[test]
fn an_adapter_answers_as_the_merged_checkpoint_does() {
    let folder = tempfile::tempdir().unwrap();
    let text = |path: &std::path::Path| path.to_str().expect("a plain path").to_owned();
    let (base, merged) = (text(&fixture("qwen2-tiny")), text(&folder.path().join("merged")));
    let adapter = text(&fixture("qwen2-tiny").join("train/adapter_final"));
    let input = text(&fixture("qwen2-tiny").join("golden.safetensors"));
    let merge = ["merge", "--model", &base, "--adapter", &adapter, "--output", &merged, "--dtype", "f32"];
    let ran = npu_run(&merge, b"").ok();
    assert!(ran.stdout.contains("into 21 of the"), "{}", ran.stdout);
    npu_run(&merge, b"").refused(&["not empty", &merged]);
    let run = |name: &str, device: &str, model: &[&str]| -> Vec<u8> {
        let output = text(&folder.path().join(name));
        let args = ["logits", "--device", device, "--dtype", "f32", "--greedy", "24", "--input", &input];
        npu_run(&[&args[..], model, &["--output", &output]].concat(), b"").ok();
        std::fs::read(output).unwrap()
    };
    let plain = run("plain", "cpu", &["--model", &base]);
    let wanted = run("merged-cpu", "cpu", &["--model", &merged]);
    let of = |bytes: &[u8]| -> (Vec<f32>, Vec<u8>) {
        let file = SafeTensors::deserialize(bytes).unwrap();
        let logits = file.tensor("logits").unwrap().data().chunks_exact(4);
        let logits = logits.map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect();
        (logits, file.tensor("greedy").unwrap().data().to_vec())
    };
    let (wanted, answer) = of(&wanted);
    assert_ne!(of(&plain).1, answer, "the adapter changes no answer");
    for device in ["cpu", "sim"] {
        let (got, greedy) = of(&run(device, device, &["--model", &base, "--adapter", &adapter]));
        let worst = got.iter().zip(&wanted).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        // F32 sums in another order, as for other frameworks.
        assert!(worst <= 2e-3, "{device}: {worst}");
        assert_eq!(greedy, answer, "{device}: greedy tokens");
    }
}

#[test]
fn smoke_passes_on_the_simulator() {
    let ran = npu_run(&["smoke", "--device", "sim", "--json"], b"").ok();
    let report: serde_json::Value = serde_json::from_str(&ran.stdout).expect("one JSON value");
    assert_eq!(report["passed"], true);
    assert!(
        report["operators"].as_array().unwrap().len() > 200,
        "operators: {}",
        report["operators"].as_array().unwrap().len()
    );
    let fused = report["fused"].as_array().unwrap();
    let ways = ["aclnn", "ours", "plain"].map(|way| fused.iter().filter(|line| line["way"] == way).count());
    assert!(ways[0] > 40 && ways == [ways[0]; 3], "lines of fused operators by each way: {ways:?}");
    let checks = report["checks"].as_array().unwrap();
    assert!(checks.iter().any(|check| check["name"] == "HCCL"));
    let sum = checks.iter().find(|check| check["name"] == "all-reduce").expect("an all-reduce over every device");
    assert!(sum["found"].as_str().unwrap().contains("over 8 device(s) in threads, the sum is right on each"), "{sum}");
}

#[test]
fn smoke_fails_when_an_operator_fails() {
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_npu-run"))
        .args(["smoke", "--device", "sim", "--filter", "Abs"])
        .env("CANN_SIM_FAULTS", "op:aclnnAbs=507018")
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1), "{}", String::from_utf8_lossy(&output.stdout));
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(text.contains("507018"), "{text}");
}

/// Of an operator by one way, which the others do not hide.
#[test]
fn smoke_tries_the_way_that_is_named() {
    let run = |kernels: &str| {
        std::process::Command::new(env!("CARGO_BIN_EXE_npu-run"))
            .args(["smoke", "--device", "sim", "--filter", "swiglu", "--kernels", kernels])
            .env("CANN_SIM_FAULTS", "op:aclnnSwiGlu=507018")
            .output()
            .unwrap()
    };
    let (aclnn, plain) = (run("aclnn"), run("plain"));
    let text = String::from_utf8_lossy(&aclnn.stdout);
    assert!(!aclnn.status.success() && text.contains("FAILED swiglu bf16") && text.contains("by aclnn"), "{text}");
    let text = String::from_utf8_lossy(&plain.stdout);
    assert!(plain.status.success() && text.contains("swiglu          bf16  3, "), "{text}");
}

#[test]
fn help_is_there_for_a_newcomer() {
    let help = npu_run(&["--help"], b"").ok().stdout;
    for word in ["infer", "logits", "smoke", "--device sim"] {
        assert!(help.contains(word), "{word} is not in:\n{help}");
    }
}

/// Ctrl-C ends the answer, not the program: what was said stays, the statistics follow, the exit code tells.
#[cfg(unix)]
#[test]
fn an_interrupt_ends_cleanly() {
    use std::io::{BufRead, BufReader, Read};
    use std::process::{Command, Stdio};
    // The raw continuation of the demo model never ends by itself within this many tokens at this temperature.
    let args = ["infer", "1 + 1 =", "--raw", "--device", "sim", "--temperature", "9", "--max-tokens", "230"];
    let mut child = Command::new(env!("CARGO_BIN_EXE_npu-run"))
        .args(args)
        .env("CANN_SIM_FAULTS", "slow_stream=2")
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut errors = BufReader::new(child.stderr.take().unwrap());
    let mut first = String::new();
    errors.read_line(&mut first).unwrap();
    assert!(first.contains("simulated"), "{first}");
    // Generation has begun when the first piece of text arrives.
    let mut out = child.stdout.take().unwrap();
    out.read_exact(&mut [0]).unwrap();
    assert!(Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap().success());
    let status = child.wait().unwrap();
    let mut rest = String::new();
    errors.read_to_string(&mut rest).unwrap();
    assert_eq!(status.code(), Some(130), "{rest}");
    assert!(rest.contains("interrupted"), "{rest}");
}

#[test]
fn smoke_passes_on_the_cpu() {
    let ran = npu_run(&["smoke", "--device", "cpu", "--json"], b"").ok();
    let report: serde_json::Value = serde_json::from_str(&ran.stdout).expect("one JSON value");
    assert_eq!(report["passed"], true);
    assert!(report["operators"].as_array().unwrap().len() > 40, "{report}");
}

/// Sums in `f64` round once: the answer is the reference's. Sums in `f32` differ from it in their last places.
#[test]
fn exact_numerics_are_exact() {
    let error = |numerics: &str| {
        let output = std::process::Command::new(env!("CARGO_BIN_EXE_npu-run"))
            .args(["smoke", "--device", "sim", "--filter", "Mm", "--json"])
            .env("CANN_SIM_NUMERICS", numerics)
            .output()
            .unwrap();
        let report: serde_json::Value = serde_json::from_slice(&output.stdout).expect("one JSON value");
        report["operators"].as_array().unwrap().iter().find(|o| o["name"] == "Mm").unwrap()["max_error"]
            .as_f64()
            .unwrap()
    };
    assert_eq!(error("exact"), 0.0);
    assert!(error("") > 0.0, "the ordinary product is not summed in f64");
}
