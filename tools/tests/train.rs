//! `npu-run train sft` as a user runs it, is interrupted in it, or has no room left.

mod common;
use common::{Ran, fixture, npu_run, run};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// A folder with a few sums to learn.
fn home() -> (TempDir, PathBuf) {
    let home = tempfile::tempdir().expect("temporary folder");
    let line = |i: usize| {
        let (a, b) = (i * 7 % 10, i * 3 % 10);
        format!(
            r#"{{"messages": [{{"role": "user", "content": "{a} + {b}"}}, {{"role": "assistant", "content": "{}"}}]}}"#,
            a + b
        )
    };
    let path = home.path().join("sums.jsonl");
    std::fs::write(&path, (0..20).map(line).collect::<Vec<_>>().join("\n")).expect("sums");
    (home, path)
}

/// Arguments of a run of few small steps into the folder `output`, at a rate of 1e-3 unless `more` has another.
fn arguments<'a>(data: &'a Path, output: &'a Path, more: &[&'a str]) -> Vec<&'a str> {
    let (data, output) = (data.to_str().unwrap(), output.to_str().unwrap());
    let fixed = ["train", "sft", "--device", "cpu", "--data", data, "--output-dir", output];
    let small = ["--per-device-train-batch-size", "2", "--logging-steps", "1"];
    let rate: &[&str] = if more.contains(&"--learning-rate") { &[] } else { &["--learning-rate", "1e-3"] };
    [&fixed[..], &small, rate, more].concat()
}

fn sft(data: &Path, output: &Path, more: &[&str]) -> Ran {
    npu_run(&arguments(data, output, more), b"")
}

/// Step and loss of each line of the logs that has both.
fn losses(output: &Path) -> Vec<(u64, f64)> {
    let text = std::fs::read_to_string(output.join("trainer_log.jsonl")).expect("trainer_log.jsonl");
    let of = |line: &str| {
        let entry: Value = serde_json::from_str(line).expect("a line of JSON");
        Some((entry["step"].as_u64()?, entry["loss"].as_f64()?))
    };
    text.lines().filter_map(of).collect()
}

#[test]
fn a_run_leaves_what_the_field_expects_and_infer_runs_it() {
    let (home, data) = home();
    let output = home.path().join("out");
    let more = ["--max-steps", "6", "--save-steps", "4", "--eval-share", "0.2", "--eval-steps", "3", "--json"];
    let ran =
        sft(&data, &output, &[&more[..], &["--dtype", "f32", "--gradient-accumulation-steps", "2"]].concat()).ok();
    let report: Value = serde_json::from_str(&ran.stdout).expect("one JSON value and nothing else");
    assert!(ran.stderr.is_empty(), "{}", ran.stderr);
    assert_eq!((report["steps"].as_u64(), report["trained_parameters"].as_u64()), (Some(6), Some(168_768)));
    assert!(report["eval_loss"].as_f64().is_some(), "{report}");
    for file in [
        "model.safetensors",
        "config.json",
        "generation_config.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "trainer_state.json",
        "loss.svg",
        "checkpoint-4/optimizer.safetensors",
        "checkpoint-6/model.safetensors",
    ] {
        assert!(output.join(file).exists(), "{file} is missing");
    }
    let config: Value = serde_json::from_slice(&std::fs::read(output.join("config.json")).unwrap()).unwrap();
    assert_eq!((&config["torch_dtype"], &config["hidden_size"]), (&"float32".into(), &64.into()));
    let state: Value = serde_json::from_slice(&std::fs::read(output.join("trainer_state.json")).unwrap()).unwrap();
    let history = state["log_history"].as_array().unwrap();
    // 16 samples to train on, four a step.
    assert_eq!((state["global_step"].as_u64(), state["epoch"].as_f64()), (Some(6), Some(1.5)));
    for key in ["loss", "grad_norm", "learning_rate", "epoch", "step", "num_tokens", "tokens_per_second"] {
        assert!(history[0].get(key).is_some(), "{key} is not in {}", history[0]);
    }
    assert_eq!(history.iter().filter(|entry| entry.get("eval_loss").is_some()).count(), 2);
    assert_eq!(losses(&output).len(), 6);
    let answer = npu_run(&["infer", "1 + 1", "--device", "cpu", "--model", output.to_str().unwrap()], b"").ok();
    assert!(!answer.stdout.trim().is_empty());
    let again = sft(&data, &output, &["--max-steps", "6"]);
    again.refused(&["checkpoint-6", "--resume", "--overwrite-output-dir"]);
}

#[test]
fn a_killed_run_goes_on_from_its_last_checkpoint_to_the_same_losses() {
    let (home, data) = home();
    let (whole, killed) = (home.path().join("whole"), home.path().join("killed"));
    let more = ["--max-steps", "40", "--save-steps", "3", "--save-total-limit", "2"];
    sft(&data, &whole, &more).ok();

    let mut command = Command::new(env!("CARGO_BIN_EXE_npu-run"));
    command.args(arguments(&data, &killed, &more)).stdout(Stdio::null()).stderr(Stdio::null());
    let mut child = command.spawn().expect("npu-run starts");
    let until = Instant::now() + Duration::from_secs(60);
    while !killed.join("checkpoint-6").exists() {
        assert!(Instant::now() < until && child.try_wait().unwrap().is_none(), "no checkpoint was written in a minute");
        std::thread::sleep(Duration::from_millis(1));
    }
    child.kill().expect("SIGKILL");
    child.wait().expect("it has ended");
    assert!(!killed.join("model.safetensors").exists(), "it was killed before its end");

    let resumed = sft(&data, &killed, &[&more[..], &["--resume"]].concat()).ok();
    assert!(resumed.stderr.contains("going on after step"), "{}", resumed.stderr);
    assert_eq!(losses(&killed), losses(&whole), "each step once, with the same loss to the last bit");
    let weights = |folder: &Path| std::fs::read(folder.join("model.safetensors")).unwrap();
    assert!(weights(&whole) == weights(&killed));
    let left: Vec<_> = std::fs::read_dir(&killed).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert!(!left.iter().any(|name| name.to_string_lossy().starts_with('.')), "{left:?}");
}

#[test]
fn a_full_disk_leaves_the_checkpoint_before() {
    let (home, data) = home();
    let output = home.path().join("out");
    let more = ["--dtype", "f32", "--save-steps", "2", "--max-steps"];
    sft(&data, &output, &[&more[..], &["2"]].concat()).ok();
    let resumed = [&more[..], &["4", "--resume"]].concat();
    // Limits on the size of a file, one smaller than the weights, and one that leaves room for them and not for the optimizer's
    // state. The limit's signal is ignored, so that writing answers an error.
    for (limit, file) in [("1000", "model.safetensors"), ("2000", "optimizer.safetensors")] {
        let mut shell = Command::new("sh");
        let script = format!("trap '' XFSZ; ulimit -f {limit}; exec \"$@\"");
        shell.args(["-c", &script, "sh", env!("CARGO_BIN_EXE_npu-run")]);
        let ran = run(shell.args(arguments(&data, &output, &resumed)), b"");
        ran.refused(&["checkpoint-4 could not be written", "checkpoint-2 is whole", "File too large", file]);
        assert!(!output.join("checkpoint-4").exists());
    }
    let ran = sft(&data, &output, &resumed).ok();
    assert!(ran.stderr.contains("going on after step 2"), "{}", ran.stderr);
    assert!(output.join("checkpoint-4/model.safetensors").exists());
}

#[test]
fn flags_that_differ_on_resume_are_said() {
    let (home, data) = home();
    let output = home.path().join("out");
    sft(&data, &output, &["--max-steps", "2", "--save-steps", "1"]).ok();
    std::fs::remove_dir_all(output.join("checkpoint-2")).unwrap();
    let ran = sft(&data, &output, &["--max-steps", "2", "--resume", "--weight-decay", "0.1"]).ok();
    assert!(ran.stderr.contains("--weight-decay was 0.0 when") && ran.stderr.contains("is 0.1 now"), "{}", ran.stderr);
    let elsewhere = home.path().join("checkpoint-9");
    let ran = sft(&data, &output, &["--max-steps", "2", "--resume", elsewhere.to_str().unwrap()]);
    ran.refused(&["--resume", "checkpoint-9", "no checkpoint to go on from"]);
}

#[test]
fn what_cannot_be_trained_is_said_before_it_is_tried() {
    let (home, data) = home();
    let output = home.path().join("out");
    let cases: [(&[&str], &[&str]); 11] = [
        (&["--gradient-checkpointing", "false", "--offload-activations"], &["--gradient-checkpointing", "off"]),
        (&["--lr-scheduler-type", "step"], &["step", "cosine"]),
        (&["--optim", "sgd"], &["sgd", "adamw_8bit"]),
        (&["--warmup-ratio", "1.5"], &["1.5"]),
        (&["--warmup-steps", "inf"], &["inf", "warm-up"]),
        (&["--learning-rate", "nan"], &["--learning-rate NaN", "above 0"]),
        (&["--adam-beta1", "2"], &["--adam-beta1 2", "below 1"]),
        (&["--adam-epsilon", "0"], &["--adam-epsilon 0", "above 0"]),
        (&["--weight-decay", "nan"], &["--weight-decay NaN"]),
        (&["--max-grad-norm", "nan"], &["--max-grad-norm NaN"]),
        (&["--eval-data", "nowhere.jsonl"], &["nowhere.jsonl"]),
    ];
    for (more, words) in cases {
        sft(&data, &output, more).refused(words);
    }
    assert!(!output.exists(), "nothing was begun");
}

/// The loss of a step tells of the step before; the weights of the last one have to be looked at.
#[test]
fn weights_that_are_no_numbers_are_not_written() {
    let (home, data) = home();
    let output = home.path().join("out");
    let ran = sft(&data, &output, &["--max-steps", "1", "--save-steps", "0", "--learning-rate", "1e39"]);
    ran.refused(&["after step 1", "model.", "not finite", "--learning-rate"]);
    assert!(!output.join("model.safetensors").exists());
}

/// Adapters with dropout over a base in four bits: what is left behind is PEFT's, a run that goes on is the one that was not
/// interrupted, and `infer` computes it.
#[test]
fn adapters_over_four_bits_are_trained_resumed_and_run() {
    let (home, data) = home();
    let (whole, resumed) = (home.path().join("whole"), home.path().join("resumed"));
    let lora = ["--use-peft", "--lora-target-modules", "all-linear", "--lora-r", "4", "--load-in-4bit"];
    let flags = [&lora[..], &["--max-steps", "6", "--save-steps", "3", "--dtype", "f32", "--json"]].concat();
    let ran = sft(&data, &whole, &flags).ok();
    let report: Value = serde_json::from_str(&ran.stdout).expect("one JSON value");
    let trained = report["trained_parameters"].as_u64().expect("a number");
    assert!((1_000..60_000).contains(&trained), "{report}");
    for folder in [whole.clone(), whole.join("checkpoint-3")] {
        let config = std::fs::read(folder.join("adapter_config.json")).expect("adapter_config.json");
        let config: Value = serde_json::from_slice(&config).expect("JSON");
        assert_eq!((config["r"].as_u64(), config["lora_dropout"].as_f64()), (Some(4), Some(0.05)));
        assert_eq!(config["target_modules"].as_array().map(Vec::len), Some(7), "{config}");
        assert!(folder.join("adapter_model.safetensors").exists() && !folder.join("model.safetensors").exists());
    }
    let from = resumed.join("checkpoint-3");
    std::fs::create_dir_all(&from).expect("a folder");
    for entry in std::fs::read_dir(whole.join("checkpoint-3")).expect("a checkpoint").flatten() {
        std::fs::copy(entry.path(), from.join(entry.file_name())).expect("a copy");
    }
    sft(&data, &resumed, &[&flags[..], &["--resume"]].concat()).ok();
    // The same masks, the same order of sums: the same bits.
    assert_eq!(losses(&resumed), losses(&whole)[3..]);

    let adapter = whole.to_str().unwrap();
    let answer = npu_run(&["infer", "1 + 1", "--device", "cpu", "--adapter", adapter], b"").ok();
    assert!(!answer.stdout.trim().is_empty());
    let more = home.path().join("more");
    let ran = sft(&data, &more, &["--adapter", adapter, "--max-steps", "1", "--json"]).ok();
    let report: Value = serde_json::from_str(&ran.stdout).expect("one JSON value");
    assert_eq!(report["trained_parameters"].as_u64(), Some(trained), "the adapter's own rank counts");
    sft(&data, &home.path().join("none"), &["--load-in-4bit"]).refused(&["--use-peft"]);
    let named = ["--use-peft", "--lora-target-modules", "q_proj", "c_attn"];
    sft(&data, &home.path().join("none"), &named).refused(&["c_attn", "down_proj"]);
}

/// One step over all samples, in bins and one by one.
#[test]
fn packed_samples_lose_what_they_lose_one_by_one() {
    let (home, data) = home();
    let of = |name: &str, more: &[&str]| {
        let output = home.path().join(name);
        let whole = ["--dtype", "f32", "--num-train-epochs", "1", "--save-steps", "0", "--gradient-accumulation-steps"];
        let ran = sft(&data, &output, &[&whole[..], more].concat()).ok();
        (losses(&output), ran.stderr)
    };
    let (apart, said) = of("apart", &["10"]);
    assert!(said.contains("20 samples a step"), "{said}");
    // Three bins of two: what does not fit into six bins would take a second step.
    let (packed, said) = of("packed", &["3", "--packing", "--max-length", "64"]);
    assert!(said.contains("1 steps") && said.contains("bins a step"), "{said}");
    assert_eq!((apart.len(), packed.len()), (1, 1), "{apart:?} {packed:?}");
    // A loss of some twenty in F32; the sums are of another order.
    let off = (packed[0].1 / apart[0].1 - 1.).abs();
    assert!(off < 1e-6, "packed {packed:?}, one by one {apart:?}");
    let wide = ["--packing", "--max-length", "100000", "--max-steps", "1"];
    sft(&data, &home.path().join("wide"), &wide).refused(&["100000", "context"]);
}

#[test]
fn parquet_trains_as_the_same_lines_do() {
    let (home, lines) = home();
    let turn = |role: &str, text: String| serde_json::json!({"role": role, "content": text});
    let line = |i: usize| {
        let mut turns = vec![turn("user", format!("{i} + 1?")), turn("assistant", (i + 1).to_string())];
        if i.is_multiple_of(3) {
            turns.extend([turn("user", "And é?".into()), turn("assistant", "漢".into())]);
        }
        serde_json::json!({ "messages": turns }).to_string()
    };
    std::fs::write(&lines, (0..7).map(line).collect::<Vec<_>>().join("\n")).expect("the rows as lines");
    let rows = fixture("data").join("chat.parquet");
    let losses = [&rows, &lines].map(|data| {
        let output = home.path().join(data.extension().expect("a kind"));
        sft(data, &output, &["--max-steps", "3", "--save-steps", "0"]).ok();
        losses(&output)
    });
    assert!(losses[0].len() == 3 && losses[0] == losses[1], "{losses:?}");
}

/// What is wrong with a line is said with its place before anything is trained; what is only too long is counted.
#[test]
fn data_that_cannot_be_learnt_is_said_and_what_is_too_long_is_counted() {
    let (home, good) = home();
    let (bad, output) = (home.path().join("bad.jsonl"), home.path().join("out"));
    let first = std::fs::read_to_string(&good).expect("sums").lines().next().expect("a line").to_owned();
    let cases: [(&str, &[&str]); 6] = [
        ("", &["bad.jsonl is empty"]),
        ("\n \n", &["bad.jsonl has no records"]),
        (r#"{"sum": "1 + 1", "is": "2"}"#, &["bad.jsonl, line 1", "its fields (sum, is)", "fit no format"]),
        (r#"{"messages": [{"role": "user", "content": "1"}]}"#, &["bad.jsonl, line 1", "a prompt and no answer"]),
        ("FIRST\n{\"messages\": 3}", &["bad.jsonl, line 2", "messages is 3", "--skip-bad-lines"]),
        ("FIRST\n{\"messages\": [", &["bad.jsonl, line 2", "not valid JSON"]),
    ];
    for (text, words) in cases {
        std::fs::write(&bad, text.replace("FIRST", &first)).expect("bad lines");
        sft(&bad, &output, &["--max-steps", "1"]).refused(words);
    }
    assert!(!output.exists(), "nothing was begun");
    let long = serde_json::json!({"prompt": "1 + 1", "completion": "2 ".repeat(60)});
    std::fs::write(&bad, format!("{long}\nno line\n")).expect("a long line");
    let more = ["--max-steps", "1", "--save-steps", "0", "--skip-bad-lines", "--max-length", "40"];
    let cut = sft(&bad, &output, &more).ok();
    for says in ["1 samples of 40 tokens", "1 cut to 40 tokens", "1 bad lines left out", "line 2: not valid JSON"] {
        assert!(cut.stderr.contains(says), "{says:?} is not in:\n{}", cut.stderr);
    }
    let dropped = sft(&bad, &output, &[&more[..], &["--drop-long"]].concat());
    dropped.refused(&["no sample is left", "1 left out: too long for 40 tokens"]);
}
