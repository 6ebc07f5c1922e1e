//! `npu-run bench` as a user runs it, on a shape that takes seconds; peers are scripts that answer as the real ones do.

mod common;
use common::npu_run;
use serde_json::Value;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

const SMALL: [&str; 9] = ["bench", "--shape", "tiny", "--prompt-tokens", "16", "--decode-tokens", "8", "--repeat", "2"];

fn bench(more: &[&str]) -> common::Ran {
    npu_run(&[&SMALL[..], more].concat(), b"")
}

fn json(more: &[&str]) -> Value {
    let ran = bench(&[more, &["--json"]].concat()).ok();
    serde_json::from_str(&ran.stdout).expect("one JSON report")
}

fn number(report: &Value, path: &str) -> f64 {
    let value = report.pointer(path).and_then(Value::as_f64);
    value.unwrap_or_else(|| panic!("{path} is no number in {report}"))
}

/// A program at `name` in `folder` that runs `script`.
fn program(folder: &Path, name: &str, script: &str) -> String {
    let path = folder.join(name);
    std::fs::write(&path, format!("#!/bin/sh\n{script}\n")).expect("a script");
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).expect("an executable script");
    path.display().to_string()
}

#[test]
fn the_cpu_is_measured_and_its_memory_held_against_the_weights() {
    let report = json(&["--device", "cpu", "--dtype", "f32"]);
    // 512 · 256 of the embedding, and per layer 256 · 512 of q, k and v with 512 biases, 256 · 256, three of 256 · 512 and
    // two norms; the last norm.
    let parameters = 512 * 256 + 2 * (256 * 512 + 512 + 256 * 256 + 3 * 256 * 512 + 512) + 256;
    assert_eq!(number(&report, "/load/parameters"), f64::from(parameters));
    assert_eq!(number(&report, "/load/weight_bytes"), f64::from(parameters * 4));
    assert_eq!(report["rates"].as_array().map(Vec::len), Some(1));
    for path in ["/rates/0/prefill/median", "/rates/0/decode/median"] {
        assert!(number(&report, path) > 0.0);
    }
    assert!(number(&report, "/rates/0/decode/min") <= number(&report, "/rates/0/decode/median"));
    assert_eq!(report["rates"][0]["samples"].as_array().map(Vec::len), Some(2), "warm-up does not count");
    assert_eq!(report["modelled"], Value::Null, "nothing is modelled where nothing is simulated");
    let text = bench(&["--device", "cpu"]).ok().stdout;
    for words in ["tiny (random weights)", "prefill of 16, tokens/s", "of the weights)"] {
        assert!(text.contains(words), "{words:?} is not in\n{text}");
    }
}

#[test]
fn the_simulated_device_has_counts_and_modelled_times() {
    let report = json(&["--device", "sim:910b3", "--dtype", "bf16"]);
    assert!(number(&report, "/per_token/launches") > 0.0);
    assert_eq!(number(&report, "/per_token/host_syncs"), 1.0);
    // A token has to come back; what went is none of the weights.
    let (there, back) = (number(&report, "/per_token/bytes_to_device"), number(&report, "/per_token/bytes_to_host"));
    assert!(back >= 4.0 && there + back < 65_536.0, "{there} bytes to the device, {back} to the host");
    let modelled = &report["modelled"];
    assert_eq!(modelled["soc"], "Ascend910B3");
    let (token, busy) =
        (number(modelled, "/decode_seconds_per_token"), number(modelled, "/decode_busy_seconds_per_token"));
    // Every weight but the table that a token is looked up in is read once, at 1.6 TB/s: here the table is the projection too.
    let weights = number(&report, "/load/weight_bytes") / 1.6e12;
    assert!(token > weights && busy > weights, "{token} s, weights alone take {weights} s");
    let shares: f64 = modelled["decode_limits"].as_object().expect("shares").values().filter_map(Value::as_f64).sum();
    assert!((shares - 1.0).abs() < 1e-6, "{modelled}");
    assert_eq!(
        json(&["--device", "sim:910b3", "--dtype", "bf16"])["modelled"],
        *modelled,
        "the model is the same each time"
    );
}

#[test]
fn llama_bench_is_asked_for_the_same_work_and_compared() {
    let folder = tempfile::tempdir().expect("a folder");
    let log = folder.path().join("asked");
    // Answers as the real program does: a list with the one test that was asked for.
    let script = format!(
        r#"echo "$@" >> {log}
while [ $# -gt 0 ]; do case $1 in -p) p=$2;; -n) n=$2;; -m) head -c 4 "$2" >> {log}; echo >> {log};; esac; shift; done
echo "[{{\"build_commit\": \"b1234\", \"n_prompt\": $p, \"n_gen\": $n, \"avg_ts\": $((1000 + p))}}]""#,
        log = log.display()
    );
    let fake = program(folder.path(), "llama-bench", &script);
    let report = json(&["--device", "cpu", "--dtype", "f32", "--against", "llama-bench", "--llama-bench", &fake]);
    assert_eq!(report["rates"][1]["name"], "llama-bench b1234");
    assert_eq!(number(&report, "/rates/1/prefill/median"), 1016.0);
    assert_eq!(number(&report, "/rates/1/decode/median"), 1000.0);
    let ratio = number(&report, "/rates/0/decode/median") / 1000.0;
    assert!((number(&report, "/ratios/0/decode") - ratio).abs() < 1e-9);
    let asked = std::fs::read_to_string(log).expect("the log");
    let lines: Vec<&str> = asked.lines().collect();
    // A warm-up and two rounds, a prefill and a decode behind it each.
    assert_eq!(lines.len(), 3 * 2 * 2, "{asked}");
    assert!(lines[0].contains("-p 16 -n 0 -d 0") && lines[2].contains("-p 0 -n 8 -d 16"), "{asked}");
    assert_eq!(lines[1], "GGUF", "the file is there and is one");
}

#[test]
fn a_peer_that_breaks_is_named_with_its_last_words_and_one_that_is_absent_is_only_said() {
    let folder = tempfile::tempdir().expect("a folder");
    let broken = program(folder.path(), "llama-bench", "echo 'error: the wheels came off' >&2; exit 3");
    let ran = bench(&["--device", "cpu", "--against", "llama-bench", "--llama-bench", &broken]);
    assert_eq!(ran.code, Some(1));
    for words in ["the wheels came off", &broken, "-p 16 -n 0", "exit status: 3"] {
        assert!(ran.stderr.contains(words), "{words:?} is not in\n{}", ran.stderr);
    }
    assert!(ran.stdout.contains("npu-run "), "our own numbers are printed all the same:\n{}", ran.stdout);

    let nowhere = folder.path().join("nothing").display().to_string();
    let ran = bench(&["--device", "cpu", "--against", "all", "--llama-bench", &nowhere, "--python", &nowhere]).ok();
    for words in ["LlamaBench: left out", &nowhere, "PyTorch: left out", "--python"] {
        assert!(ran.stderr.contains(words), "{words:?} is not in\n{}", ran.stderr);
    }
}

/// A Python that has torch answers in our script's own words; here a stand-in speaks them.
#[test]
fn pytorch_answers_a_line_a_round() {
    let folder = tempfile::tempdir().expect("a folder");
    let script = r#"[ "$2" = "import torch" ] && exit 0
echo '{"ready": "torch 9.9"}'
while read line; do echo '{"prefill_seconds": 0.5, "decode_seconds": 0.25}'; done"#;
    let fake = program(folder.path(), "python3", script);
    let report = json(&["--device", "cpu", "--against", "pytorch", "--python", &fake]);
    assert_eq!(report["rates"][1]["name"], "torch 9.9");
    assert_eq!(number(&report, "/rates/1/prefill/median"), 32.0);
    assert_eq!(number(&report, "/rates/1/decode/median"), 32.0);
    let dies =
        program(folder.path(), "dies", r#"[ "$2" = "import torch" ] && exit 0; echo "no such model" >&2; exit 7"#);
    let ran = bench(&["--device", "cpu", "--against", "pytorch", "--python", &dies]);
    assert_eq!(ran.code, Some(1));
    assert!(ran.stderr.contains("no such model") && ran.stderr.contains("exit status: 7"), "{}", ran.stderr);
}

#[test]
fn what_cannot_be_measured_is_refused_before_anything_is_loaded() {
    npu_run(&["bench", "--shape", "qwen9-1b"], b"").refused(&["qwen9-1b", "qwen2-0.5b, ", "llama3.1-8b"]);
    let huge = ["bench", "--shape", "qwen2.5-72b", "--device", "sim:910b4", "--dtype", "f32"];
    npu_run(&huge, b"").refused(&["qwen2.5-72b does not fit", "270.9 GiB", "the device has", "available"]);
    bench(&["--against", "tensorflow"]).refused(&["tensorflow", "llama-bench", "pytorch"]);
    bench(&["--dtype", "q3"]).refused(&["q3", "bf16"]);
    npu_run(&["bench", "--shape", "tiny", "--decode-tokens", "0"], b"").refused(&["--decode-tokens is 0"]);
    npu_run(&["bench", "--shape", "tiny", "-p", "4000"], b"").refused(&["context of 4033", "2048"]);
    npu_run(&["bench", "--model", "/nowhere"], b"").refused(&["/nowhere", "config.json"]);
}

/// The bound that a decode step cannot beat, and what the model adds to it: a start a task, and little else.
#[test]
fn a_decode_step_of_half_a_billion_parameters_takes_its_weights_time_and_its_starts() {
    let args = ["bench", "--shape", "qwen2-0.5b", "--device", "sim:910b3", "--dtype", "bf16", "--json"];
    let short = ["-p", "4", "-n", "2", "-r", "1", "--warmup", "0"];
    let report: Value =
        serde_json::from_str(&npu_run(&[&args[..], &short[..]].concat(), b"").ok().stdout).expect("JSON");
    let weights = number(&report, "/load/weight_bytes") / 1.6e12;
    assert!((weights - 494_032_768.0 * 2.0 / 1.6e12).abs() < 1e-12, "{weights}");
    let launches = number(&report, "/per_token/launches");
    let busy = number(&report, "/modelled/decode_busy_seconds_per_token");
    let starts = launches * 2e-6;
    // Activations, the cache and the logits' way to the host are below a tenth of the weights at this length.
    assert!(busy > weights + starts && busy < 1.1 * weights + starts + 10e-6, "{busy} s, {weights} s and {starts} s");
    let token = number(&report, "/modelled/decode_seconds_per_token");
    let host = number(&report, "/modelled/decode_host_seconds_per_token");
    assert!(token >= busy.max(host) && token <= busy + host, "{token} s, device {busy} s, host {host} s");
    let (peak, bytes) = (number(&report, "/load/device_peak_bytes"), number(&report, "/load/weight_bytes"));
    assert!(peak >= bytes, "{peak} bytes at most for {bytes} of weights");
}

#[test]
fn modelled_time_is_shown_by_operator_and_as_a_trace_of_the_simulated_device_alone() {
    let folder = tempfile::tempdir().expect("a folder");
    let trace = folder.path().join("trace.json").display().to_string();
    let ask = ["infer", "What is 1 + 1?", "--max-tokens", "3"];
    let ran = npu_run(&[&ask[..], &["--device", "sim", "--stats", "--timeline", &trace]].concat(), b"").ok();
    assert!(ran.stderr.contains("modelled, not measured") && ran.stderr.contains("aclnnMm "), "{}", ran.stderr);
    let read = || -> Value { serde_json::from_slice(&std::fs::read(&trace).expect("a trace")).expect("JSON") };
    let tasks = |trace: &Value| -> Vec<Value> {
        let events = trace["traceEvents"].as_array().expect("events");
        events.iter().filter(|event| event["ph"] == "X").cloned().collect()
    };
    let infer = tasks(&read());
    // Tasks of one stream do not overlap.
    let stream = infer[0]["tid"].clone();
    let own: Vec<_> = infer.iter().filter(|task| task["tid"] == stream).collect();
    let place = |task: &Value, key: &str| task[key].as_f64().expect("a number");
    assert!(own.len() > 100, "{} tasks", own.len());
    for pair in own.windows(2) {
        // Printed to a thousandth of a microsecond.
        assert!(place(pair[1], "ts") >= place(pair[0], "ts") + place(pair[0], "dur") - 0.002, "{pair:?}");
    }
    bench(&["--device", "sim", "--dtype", "bf16", "--timeline", &trace]).ok();
    assert!(tasks(&read()).iter().any(|task| task["name"] == "aclnnMm"));
    for flags in [&["--stats"][..], &["--timeline", &trace]] {
        npu_run(&[&ask[..], &["--device", "cpu"], flags].concat(), b"").refused(&[flags[0], "--device sim"]);
    }
}

#[test]
fn training_steps_are_measured_beside_a_peers() {
    let folder = tempfile::tempdir().expect("a folder");
    let fake = program(
        folder.path(),
        "python",
        r#"[ "$2" = "import transformers, peft" ] && exit 0
echo '{"ready": "PEFT 9.9"}'
while read line; do echo '{"seconds": 0.5, "loss": 6.5, "peak": 8589934592}'; done"#,
    );
    let lora = ["--train", "lora", "--device", "cpu", "--dtype", "f32", "--warmup", "1"];
    let report = json(&[&lora[..], &["--gradient-checkpointing", "--against", "pytorch", "--python", &fake]].concat());
    // Rank 16 beside q and o (256 by 256), k and v (256 by 128), gate, up and down (256 by 512), in two layers.
    let parameters = 2 * 16 * (2 * 512 + 2 * 384 + 3 * 768);
    assert_eq!(number(&report, "/parameters"), f64::from(parameters));
    assert_eq!((&report["train"], &report["checkpointing"]), (&Value::from("lora"), &Value::from(true)));
    assert_eq!(report["contenders"][1]["name"], "PEFT 9.9");
    assert_eq!(number(&report, "/contenders/1/seconds/max"), 0.5);
    assert_eq!(number(&report, "/contenders/1/peak_bytes"), f64::from(1u32 << 31) * 4.0);
    assert!(number(&report, "/contenders/0/seconds/min") > 0.0);
    // A process of a few mebibytes, with a model of four.
    assert!((4e6..1e9).contains(&number(&report, "/contenders/0/peak_bytes")), "{report}");

    let full = json(&["--train", "full", "--device", "sim", "--dtype", "bf16"]);
    assert!(number(&full, "/parameters") > 1e6 && number(&full, "/contenders/0/device_peak_bytes") > 0.0, "{full}");
    let text = bench(&["--train", "qlora", "--device", "cpu", "--dtype", "f32"]).ok().stdout;
    assert!(text.contains("Qlora in f32") && text.contains("peak memory"), "{text}");
    bench(&["--train", "lora", "--dtype", "q8_0"]).refused(&["q8_0"]);
    bench(&["--gradient-checkpointing"]).refused(&["--train"]);
}
