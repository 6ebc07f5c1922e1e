//! `npu-run train grpo` and `npu-run train distill` as a user runs them.

mod common;
use common::{Ran, npu_run};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::Command;
use tempfile::TempDir;

/// A folder with some questions and their answers.
fn home() -> (TempDir, PathBuf) {
    let home = tempfile::tempdir().expect("temporary folder");
    let line = |i: usize| format!("{{\"question\": \"{i} + {i}\", \"answer\": \"{}\", \"level\": {i}}}\n", 2 * i);
    let path = home.path().join("sums.jsonl");
    std::fs::write(&path, (0..8).map(line).collect::<String>()).expect("sums");
    (home, path)
}

fn text(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

/// A run of two steps of a few short completions.
fn grpo(data: &Path, output: &Path, more: &[&str]) -> Ran {
    let fixed = ["train", "grpo", "--device", "cpu", "--data", text(data), "--output-dir", text(output)];
    let small = ["--max-steps", "2", "--num-generations", "2", "--per-device-train-batch-size", "4"];
    let short = ["--max-completion-length", "8", "--logging-steps", "1", "--learning-rate", "1e-4"];
    npu_run(&[&fixed[..], &small, &short, more].concat(), b"")
}

/// The lines of the logs.
fn log(output: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(output.join("trainer_log.jsonl")).expect("trainer_log.jsonl");
    text.lines().map(|line| serde_json::from_str(line).expect("a line of JSON")).collect()
}

#[test]
fn rewards_of_every_kind_are_added_up_and_logged() {
    let (home, data) = home();
    let (output, script) = (home.path().join("out"), home.path().join("judge.sh"));
    // Answers with a column of the data.
    std::fs::write(&script, "sed -u 's/.*\"level\":\\([0-9]*\\).*/\\1/'").expect("a script");
    let judge = format!("sh {}:0.5", script.display());
    let rewards = ["--reward", "accuracy:2", "--reward", &judge, "--reward", "length=8,8"];
    let more = [&rewards[..], &["--eval-data", text(&data), "--beta", "0.1", "--json"]].concat();
    let ran = grpo(&data, &output, &more).ok();
    let report: Value = serde_json::from_str(&ran.stdout).expect("one JSON value");
    assert_eq!((&report["objective"], &report["steps"]), (&"grpo".into(), &2.into()));
    let log = log(&output);
    let mean = |name: &str| log[0][name].as_f64().unwrap_or_else(|| panic!("no {name} in {}", log[0]));
    let sum = 2. * mean("rewards/accuracy/mean") + 0.5 * mean("rewards/judge/mean") + mean("rewards/length/mean");
    assert!((mean("reward") - sum).abs() < 1e-5, "{} is not {sum}", mean("reward"));
    assert!(mean("rewards/judge/mean") > 0. && mean("rewards/length/mean") < 0., "{}", log[0]);
    // Nothing has changed before the first step.
    assert!(mean("kl").abs() < 1e-6, "{}", mean("kl"));
    assert!(report["eval_loss"].as_f64().is_some(), "{report}");
    for file in ["model.safetensors", "tokenizer.json", "loss.svg"] {
        assert!(output.join(file).exists(), "{file} is missing");
    }
}

#[test]
fn a_reward_that_fails_ends_the_run_and_names_the_completion() {
    let (home, data) = home();
    let output = home.path().join("out");
    let failing = |reward: &str, more: &[&str]| grpo(&data, &output, &[&["--reward", reward][..], more].concat());
    failing("read -r line; echo 1; echo no such column >&2; exit 4", &[]).refused(&[
        "completion 1",
        "exit status: 4",
        "no such column",
    ]);
    failing("echo much; cat >/dev/null", &[]).refused(&["completion 0", "\"much\"", "finite number"]);
    failing("cat >/dev/null", &["--reward-timeout", "0.2"]).refused(&["completion 0", "0.2 s"]);
    failing("no-such-judge", &[]).refused(&["completion 0", "no such program", "accuracy, format, length, repetition"]);
    failing("accuracy", &["--reward-timeout", "inf"]).refused(&["--reward-timeout inf"]);
    failing("accuracy", &["--reward-weights", "nan"]).refused(&["--reward-weights NaN", "finite"]);
    failing("length=5", &[]).refused(&["length=MAX,CACHE"]);
    failing("accuracy", &["--reward-weights", "1", "2"]).refused(&["2 numbers for 1 rewards"]);
    failing("accuracy", &["--gradient-accumulation-steps", "2", "--steps-per-generation", "3"])
        .refused(&["multiple of gradient_accumulation_steps (2)"]);
    let unanswered = home.path().join("unanswered.jsonl");
    std::fs::write(&unanswered, "{\"prompt\": \"1 + 1\"}\n{\"prompt\": \"2 + 2\"}\n").expect("prompts");
    grpo(&unanswered, &output, &["--reward", "accuracy"]).refused(&["no reward", "needs an answer"]);
}

#[test]
fn a_teacher_in_a_file_teaches_what_the_teacher_does() {
    let (home, _) = home();
    let data = home.path().join("talk.jsonl");
    let line = |i: usize| format!("{{\"prompt\": \"{i} + 1\", \"completion\": \"{}\"}}\n", i + 1);
    std::fs::write(&data, (0..6).map(line).collect::<String>()).expect("talk");
    let distill = |output: &str, more: &[&str]| {
        let output = home.path().join(output);
        let fixed = ["train", "distill", "--device", "cpu", "--dtype", "f32", "--data", text(&data), "--output-dir"];
        let small = [text(&output), "--max-steps", "2", "--per-device-train-batch-size", "3", "--logging-steps", "1"];
        npu_run(&[&fixed[..], &small, &["--learning-rate", "1e-3"], more].concat(), b"")
    };
    // The teacher is the demo model after two steps on these answers.
    let taught = home.path().join("taught");
    let sft = ["train", "sft", "--device", "cpu", "--data", text(&data), "--output-dir", text(&taught)];
    npu_run(&[&sft[..], &["--max-steps", "2", "--learning-rate", "1e-2"]].concat(), b"").ok();
    let file = home.path().join("teacher.safetensors");
    let teacher = ["--teacher", text(&taught)];
    distill("none", &[&teacher[..], &["--write-teacher-logits", text(&file), "--top-k", "320"]].concat()).ok();
    assert!(!home.path().join("none").exists(), "writing down what a teacher says is no training");
    let mut here = Command::new(env!("CARGO_BIN_EXE_npu-run"));
    here.args(["train", "distill", "--device", "cpu", "--data", text(&data), "--output-dir", "none"]).args(teacher);
    common::run(here.args(["--write-teacher-logits", "name", "--top-k", "2"]).current_dir(home.path()), b"").ok();
    assert!(home.path().join("name").exists(), "a mere name is a file of this folder");
    distill("model", &teacher).ok();
    distill("file", &["--teacher-logits", text(&file)]).ok();
    distill("there", &[&teacher[..], &["--teacher-device", "sim"]].concat()).ok();
    let losses = |output: &str| -> Vec<[f64; 3]> {
        let value = |entry: &Value, name: &str| entry[name].as_f64();
        let of = |entry: &Value| Some([value(entry, "loss")?, value(entry, "soft_loss")?, value(entry, "hard_loss")?]);
        log(&home.path().join(output)).iter().filter_map(of).collect()
    };
    let model = losses("model");
    assert_eq!(model.len(), 2);
    assert!(model[1][0] < model[0][0] && model[0][1] > 0., "{model:?}");
    for other in ["file", "there"] {
        for (got, wanted) in losses(other).iter().flatten().zip(model.iter().flatten()) {
            // Single rounding, through a step.
            assert!((got - wanted).abs() < 1e-4, "{other}: {got}, wanted {wanted}");
        }
    }
    distill("own", &[&teacher[..], &["--lmbda", "1", "--max-new-tokens", "4", "--beta", "0.5"]].concat()).ok();
    let other = home.path().join("other.jsonl");
    std::fs::write(&other, "{\"prompt\": \"9 + 9\", \"completion\": \"18\"}\n").expect("talk");
    let (other, output) = (text(&other), home.path().join("refused"));
    let unknown = ["train", "distill", "--device", "cpu", "--data", other, "--output-dir", text(&output)];
    npu_run(&[&unknown[..], &["--teacher-logits", text(&file)]].concat(), b"")
        .refused(&["is not in", "teacher.safetensors"]);
}
