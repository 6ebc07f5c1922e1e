//! `npu-run launch`: what it starts, what it says, and how it ends.

mod common;
use common::npu_run;

#[test]
fn ranks_print_under_their_numbers_and_rank_0_speaks_for_the_job() {
    let words = ["launch", "--nproc-per-node", "2", "--", "infer", "What is 2 + 3?", "--device", "cpu", "--json"];
    let ran = npu_run(&words, b"").ok();
    let (ranks, plain): (Vec<_>, Vec<_>) = ran.stdout.lines().partition(|line| line.starts_with("[rank 1] "));
    assert!(!ranks.is_empty() && ranks.len() == plain.len(), "{}", ran.stdout);
    let report: serde_json::Value = serde_json::from_str(&plain.join("\n")).expect("rank 0's output is its own");
    assert!(report["text"].as_str().is_some_and(|text| text.contains('5')), "{report}");
}

#[test]
fn one_process_has_the_terminal_to_itself() {
    let ran = npu_run(&["launch", "infer", "What is 2 + 3?", "--device", "cpu"], b"").ok();
    assert!(ran.stdout.contains('5') && !ran.stdout.contains("[rank"), "{}", ran.stdout);
}

#[test]
fn the_code_of_the_rank_that_fails_is_the_launchers() {
    let words = ["launch", "--nproc-per-node=2", "--", "infer", "--device", "cpu", "--model", "/no/such/folder", "x"];
    let ran = npu_run(&words, b"").refused(&["[rank 1] error: --model /no/such/folder", "ended with exit code 1"]);
    assert_eq!(ran.code, Some(1));
    let ran = npu_run(&["launch", "--", "no-such-command"], b"");
    assert_eq!(ran.code, Some(2), "{}", ran.stderr);
    assert!(ran.stderr.contains("rank 0 ended with exit code 2"), "{}", ran.stderr);
}

#[test]
fn hosts_that_do_not_fit_are_told_before_anything_starts() {
    npu_run(&["launch", "--nnodes", "2", "--", "smoke"], b"").refused(&["--nnodes 2 needs --master-addr"]);
}
