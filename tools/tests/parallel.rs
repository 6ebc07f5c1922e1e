//! `npu-run train --hccl` on simulated NPUs: several processes of the real program, and what becomes of them when one dies,
//! hangs or was started differently.

mod common;
use common::{Ran, npu_run, run};
use npu_tests::hosts::Hosts;
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

/// A folder with samples for the demo model to train on.
struct Place(tempfile::TempDir);

impl Place {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let line =
            |i: usize| format!("{{\"prompt\": \"What is {i} + {}?\", \"completion\": \"{}\"}}\n", i + 3, 2 * i + 3);
        fs::write(folder.path().join("sums.jsonl"), (10..26).map(line).collect::<String>()).unwrap();
        Self(folder)
    }

    fn output(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// A run over the samples into the folder `name`, with `more` flags.
    fn train(&self, name: &str, more: &[&str]) -> Vec<String> {
        self.train_for("sft", name, more)
    }

    fn train_for(&self, objective: &str, name: &str, more: &[&str]) -> Vec<String> {
        let (data, output) = (self.0.path().join("sums.jsonl"), self.output(name));
        let fixed = ["train", objective, "--device", "sim", "--dtype", "f32", "--logging-steps", "1"];
        let usual = [["--per-device-train-batch-size", "1"], ["--learning-rate", "1e-3"]];
        let usual = usual.into_iter().filter(|[flag, _]| !more.contains(flag)).flatten();
        let words = fixed.into_iter().chain(usual).chain(more.iter().copied()).map(str::to_owned);
        let paths = [("--data", data), ("--output-dir", output)];
        words.chain(paths.iter().flat_map(|(flag, path)| [(*flag).to_owned(), path.display().to_string()])).collect()
    }

    /// The losses of the run in the folder `name`, step by step.
    fn losses(&self, name: &str) -> Vec<f64> {
        self.logged(name, "loss")
    }

    /// The numbers that it logged as `key`.
    fn logged(&self, name: &str, key: &str) -> Vec<f64> {
        let path = self.output(name).join("trainer_log.jsonl");
        let text = fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        let entries = text.lines().map(|line| serde_json::from_str::<Value>(line).expect("a line of JSON"));
        entries.filter_map(|entry| entry.get(key).and_then(Value::as_f64)).collect()
    }
}

fn launch(ranks: usize, train: &[String]) -> Vec<String> {
    let launcher = ["launch", "--nproc-per-node", &ranks.to_string(), "--grace", "2", "--"].map(str::to_owned);
    launcher.into_iter().chain(train.iter().cloned()).collect()
}

fn text(words: &[String]) -> Vec<&str> {
    words.iter().map(String::as_str).collect()
}

fn program() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_npu-run"));
    command.env_remove("NPU_RUN_DEVICE").stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn free_port() -> String {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port().to_string()
}

/// The variables that torchrun sets for each of `size` ranks.
fn torchrun(size: usize) -> impl Fn(usize) -> Vec<(&'static str, String)> {
    let port = free_port();
    move |rank| {
        let numbers = [("RANK", rank), ("LOCAL_RANK", rank), ("WORLD_SIZE", size)];
        let numbers = numbers.into_iter().map(|(name, number)| (name, number.to_string()));
        numbers.chain([("MASTER_ADDR", "127.0.0.1".into()), ("MASTER_PORT", port.clone())]).collect()
    }
}

/// Starts a process for each list of arguments, with the variables that a launcher would set for its rank.
fn by_hand(ranks: &[Vec<String>], variables: impl Fn(usize) -> Vec<(&'static str, String)>) -> Vec<Ran> {
    let start = |(rank, words): (usize, &Vec<String>)| program().args(words).envs(variables(rank)).spawn().unwrap();
    let children: Vec<Child> = ranks.iter().enumerate().map(start).collect();
    children.into_iter().map(|child| ran(child.wait_with_output().unwrap())).collect()
}

fn ran(output: Output) -> Ran {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Ran { code: output.status.code(), stdout: text(&output.stdout), stderr: text(&output.stderr) }
}

#[test]
fn launch_and_torchruns_variables_and_one_rank_lose_the_same() {
    let place = Place::new();
    let steps = ["--max-steps", "4", "--save-steps", "0"];
    let with = |more: &[&'static str]| [&steps[..], more].concat();
    npu_run(&text(&launch(2, &place.train("launched", &with(&["--hccl"])))), b"").ok();
    let launched = place.losses("launched");
    assert_eq!(launched.len(), 4);

    let ranks = [place.train("torchrun", &with(&["--hccl"])), place.train("torchrun", &with(&["--hccl"]))];
    for rank in by_hand(&ranks, torchrun(2)) {
        rank.ok();
    }
    assert_eq!(place.losses("torchrun"), launched, "the same processes, whoever starts them");

    npu_run(&text(&place.train("alone", &with(&["--gradient-accumulation-steps", "2"]))), b"").ok();
    let sharded = with(&["--hccl", "--zero", "2", "--ddp-bucket-cap-mb", "1"]);
    npu_run(&text(&launch(2, &place.train("sharded", &sharded))), b"").ok();
    for (name, bound) in [("alone", 1e-5), ("sharded", 1e-6)] {
        let losses = place.losses(name);
        println!("{name}: {losses:?}, two ranks: {launched:?}");
        assert_eq!(losses.len(), 4);
        // Losses of some twenty in F32, whose last digit is 2e-6. One rank adds up in another order; with ZeRO only the norm does,
        // by which gradients are clipped.
        let apart = losses.iter().zip(&launched).map(|(a, b)| (a / b - 1.).abs()).fold(0., f64::max);
        assert!(apart <= bound, "{name} is off by {apart}: {losses:?}, two ranks {launched:?}");
    }
}

/// What is sampled and judged, and what a teacher says, is the same on two ranks as on one with as much accumulation.
#[test]
fn launched_ranks_reinforce_and_distil_what_one_does() {
    let place = Place::new();
    let taught = place.output("taught").display().to_string();
    npu_run(&text(&place.train("taught", &["--max-steps", "1", "--save-steps", "0", "--learning-rate", "1e-2"])), b"")
        .ok();
    // What a completion says decides it, so that those of one prompt differ.
    let reward = "while read -r line; do echo $((${#line} % 5)); done";
    let samples = ["--per-device-train-batch-size", "2", "--num-generations", "2", "--max-completion-length", "6"];
    let judged = ["--temperature", "5", "--num-iterations", "2", "--beta", "0.1", "--reward", reward];
    let grpo = [&samples[..], &judged].concat();
    let distill = ["--per-device-train-batch-size", "2", "--teacher", taught.as_str()];
    for (objective, flags, keys) in [
        ("grpo", &grpo[..], &["loss", "reward", "kl", "grad_norm"][..]),
        ("distill", &distill, &["loss", "soft_loss", "hard_loss", "grad_norm"]),
    ] {
        let of = |ranks: &str, accumulated: &str, more: &[&str]| {
            let steps = ["--max-steps", "2", "--save-steps", "0", "--gradient-accumulation-steps", accumulated];
            place.train_for(objective, &format!("{objective}-{ranks}"), &[flags, &steps, more].concat())
        };
        npu_run(&text(&of("alone", "2", &[])), b"").ok();
        npu_run(&text(&launch(2, &of("two", "1", &["--hccl"]))), b"").ok();
        for key in keys {
            let logged = |ranks: &str| place.logged(&format!("{objective}-{ranks}"), key);
            let (two, alone) = (logged("two"), logged("alone"));
            println!("{objective}, {key}: two ranks {two:?}, one {alone:?}");
            // What is sampled once is judged once; the second pass over it has something to lose.
            let last = alone.last().copied().unwrap_or(0.);
            assert!(two.len() == alone.len() && last != 0., "{objective}, {key}: {two:?} {alone:?}");
            for (two, alone) in two.iter().zip(&alone) {
                // F32, after sums in another order; what is larger than one counts relatively.
                let off = (two - alone).abs() / alone.abs().max(1.);
                assert!(off <= 1e-5, "{objective}, {key}: {two} on two ranks, {alone} on one");
            }
        }
    }
}

#[test]
fn every_launchers_variables_and_a_rank_table_make_the_same_job() {
    let place = Place::new();
    let words = |name: &str, more: &[&str]| {
        place.train(name, &[&["--hccl", "--max-steps", "1", "--save-steps", "0"][..], more].concat())
    };
    let numbered = |names: [&'static str; 3], places: Vec<(&'static str, String)>| {
        let [own, local, size] = names;
        move |rank: usize| {
            let numbers = [(own, rank.to_string()), (local, rank.to_string()), (size, "2".into())];
            numbers.into_iter().chain(places.iter().cloned()).collect::<Vec<_>>()
        }
    };
    let meeting = || vec![("MASTER_ADDR", "127.0.0.1".to_owned()), ("MASTER_PORT", free_port())];
    let scheduler = vec![("MS_SCHED_HOST", "127.0.0.1".to_owned()), ("MS_SCHED_PORT", free_port())];
    let device =
        |i| format!(r#"{{"device_id":"{i}","device_ip":"127.0.0.1","device_port":"{}","rank_id":"{i}"}}"#, free_port());
    let table = format!(
        r#"{{"status":"completed","version":"1.0","server_count":"1","server_list":[{{"server_id":"here","device":[{},{}]}}]}}"#,
        device(0),
        device(1)
    );
    let file = place.output("ranks.json");
    fs::write(&file, table).unwrap();
    let file = file.display().to_string();
    let jobs = [
        ("slurm", numbered(["SLURM_PROCID", "SLURM_LOCALID", "SLURM_NTASKS"], meeting()), vec![]),
        (
            "mpirun",
            numbered(["OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_LOCAL_RANK", "OMPI_COMM_WORLD_SIZE"], meeting()),
            vec![],
        ),
        ("msrun", numbered(["MS_NODE_ID", "DEVICE_ID", "MS_WORKER_NUM"], scheduler), vec![]),
        ("table", numbered(["RANK_ID", "DEVICE_ID", "RANK_SIZE"], Vec::new()), vec!["--rank-table", file.as_str()]),
    ];
    let mut losses = Vec::new();
    for (name, variables, more) in jobs {
        let ranks = by_hand(&[words(name, &more), words(name, &more)], variables);
        let said: String = ranks.into_iter().map(|rank| rank.ok().stderr).collect();
        assert!(said.contains(", 2 ranks"), "{name}: {said}");
        losses.push(place.losses(name));
    }
    assert!(losses[0].len() == 1 && losses.iter().all(|own| *own == losses[0]), "{losses:?}");
}

#[test]
fn ranks_with_different_flags_are_told_before_the_first_step() {
    let place = Place::new();
    let more = ["--hccl", "--max-steps", "2", "--seed"];
    let of = |seed| place.train("differ", &[&more[..], &[seed]].concat());
    for rank in by_hand(&[of("1"), of("2")], torchrun(2)) {
        rank.refused(&["--seed is 1 on rank 0 and 2 on rank 1", "start every rank with"]);
    }
    assert!(!place.output("differ").join("trainer_log.jsonl").exists());
    // The same data flag on two hosts need not name the same samples.
    let other = Place::new();
    let path = other.0.path().join("sums.jsonl");
    fs::write(&path, fs::read_to_string(&path).unwrap().replace("What is", "What, then, is")).unwrap();
    let of = |data: &Path| {
        let mut words = place.train("data", &["--hccl", "--max-steps", "2"]);
        let at = words.iter().position(|word| word == "--data").unwrap();
        words[at + 1] = "sums.jsonl".into();
        (words, data.to_owned())
    };
    let (mut children, variables) = (Vec::new(), torchrun(2));
    for (rank, (words, folder)) in [of(place.0.path()), of(other.0.path())].into_iter().enumerate() {
        children.push(program().args(words).current_dir(folder).envs(variables(rank)).spawn().unwrap());
    }
    for child in children {
        ran(child.wait_with_output().unwrap())
            .refused(&["the data, with the checksum of its samples' lengths, is 16 samples"]);
    }
}

#[test]
fn processes_of_a_job_do_not_train_side_by_side_by_mistake() {
    let place = Place::new();
    let words = place.train("mistake", &["--max-steps", "1"]);
    let mut command = program();
    let ran = run(command.args(words).env("RANK", "0").env("WORLD_SIZE", "2"), b"");
    ran.refused(&["rank 0 of 2", "without --hccl", "add --hccl"]);
    npu_run(&["train", "sft", "--hccl", "--device", "cpu", "--data", "x", "--output-dir", "y"], b"")
        .refused(&["HCCL joins NPUs"]);
}

/// A launched run of two ranks that would go on for long.
struct Long<'a> {
    place: &'a Place,
    name: &'static str,
    launcher: Child,
    /// Process ids of the ranks.
    ranks: [u32; 2],
}

impl<'a> Long<'a> {
    /// Starts it, and waits for its second checkpoint.
    fn start(place: &'a Place, name: &'static str) -> Self {
        let train =
            place.train(name, &["--hccl", "--max-steps", "100000", "--save-steps", "1", "--save-total-limit", "2"]);
        let mut command = program();
        command.args(launch(2, &train)).env("CANN_SIM_HCCL_TIMEOUT", "3");
        let mut launcher = command.spawn().unwrap();
        let begun = Instant::now();
        while !place.output(name).join("checkpoint-2").exists() {
            if launcher.try_wait().unwrap().is_some() || begun.elapsed() > Duration::from_secs(120) {
                let _ = launcher.kill();
                panic!("no checkpoint: {:?}", ran(launcher.wait_with_output().unwrap()));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        let ranks = ranks_of(launcher.id());
        Self { place, name, launcher, ranks: [ranks[&0], ranks[&1]] }
    }

    /// How it ends after `signal` to one of its processes.
    fn after(self, signal: &str, process: u32) -> (Ran, Duration) {
        let begun = Instant::now();
        tell(signal, process);
        let output = self.launcher.wait_with_output().unwrap();
        let took = begun.elapsed();
        for id in self.ranks {
            assert!(gone_within(id, Duration::from_secs(1)), "process {id} is left");
        }
        (ran(output), took)
    }
}

fn tell(signal: &str, process: u32) {
    assert!(Command::new("kill").args([signal, &process.to_string()]).status().unwrap().success());
}

/// Whether a process has ended; one that nobody has waited for yet counts.
fn gone(id: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{id}/stat")).unwrap_or_default();
    stat.rsplit(')').next().is_none_or(|rest| rest.is_empty() || rest.trim_start().starts_with('Z'))
}

fn gone_within(id: u32, limit: Duration) -> bool {
    let begun = Instant::now();
    while begun.elapsed() < limit {
        if gone(id) {
            return true;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    false
}

/// The processes that `launcher` has started, by rank.
fn ranks_of(launcher: u32) -> BTreeMap<usize, u32> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let Some(id) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
        let variables = fs::read(entry.path().join("environ")).unwrap_or_default();
        let value = |name: &str| {
            let of =
                |line: &[u8]| String::from_utf8_lossy(line).strip_prefix(name)?.strip_prefix('=').map(str::to_owned);
            variables.split(|&byte| byte == 0).find_map(of)
        };
        if value("NPU_RUN_LAUNCHER") == Some(launcher.to_string()) {
            found.extend(value("RANK").and_then(|rank| rank.parse().ok()).map(|rank: usize| (rank, id)));
        }
    }
    found
}

#[test]
fn a_killed_rank_ends_the_job_and_the_last_checkpoint_goes_on() {
    let place = Place::new();
    let job = Long::start(&place, "killed");
    let (rank, name) = (job.ranks[1], job.name);
    let (ran, _) = job.after("-KILL", rank);
    assert_eq!(ran.code, Some(137), "{}", ran.stderr);
    for says in ["rank 1 was killed by SIGKILL", "on rank 0 of 2", "rank 1 is lost during Hccl"] {
        assert!(ran.stderr.contains(says), "{says:?} is not in:\n{}", ran.stderr);
    }
    // One process goes on where two were.
    let last = fs::read_dir(place.output(name))
        .unwrap()
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.strip_prefix("checkpoint-")?.parse::<usize>().ok());
    let last = last.max().expect("a checkpoint");
    let more = ["--max-steps", &(last + 1).to_string(), "--resume"];
    let resumed = npu_run(&text(&place.train(name, &more)), b"").ok();
    for says in ["the checkpoint was written by 2 ranks, this run has 1", "going on after step"] {
        assert!(resumed.stderr.contains(says), "{says:?} is not in:\n{}", resumed.stderr);
    }
}

#[test]
fn a_rank_that_hangs_ends_the_job_within_the_time_out() {
    let place = Place::new();
    let job = Long::start(&place, "stopped");
    let rank = job.ranks[1];
    let (ran, took) = job.after("-STOP", rank);
    assert!(matches!(ran.code, Some(1..)), "{:?} {}", ran.code, ran.stderr);
    for says in ["rank 0 ended with exit code 1", "on rank 0 of 2", "rank 1 ", "within 3s", "Hccl"] {
        assert!(ran.stderr.contains(says), "{says:?} is not in:\n{}", ran.stderr);
    }
    // Three for the collective, three for last words, two of grace; a busy machine takes its share.
    assert!(took < Duration::from_secs(60), "{took:?}");
}

#[test]
fn no_rank_outlives_its_launcher() {
    let place = Place::new();
    let mut job = Long::start(&place, "orphaned");
    job.launcher.kill().unwrap();
    job.launcher.wait().unwrap();
    for id in job.ranks {
        assert!(gone_within(id, Duration::from_secs(20)), "process {id} outlives its launcher");
    }
    assert!(job.place.output(job.name).join("trainer_log.jsonl").exists());
}

#[test]
fn a_signal_to_the_launcher_reaches_every_rank() {
    let place = Place::new();
    let job = Long::start(&place, "told");
    let launcher = job.launcher.id();
    let (ran, _) = job.after("-TERM", launcher);
    assert_eq!(ran.code, Some(143), "{}", ran.stderr);
    assert!(ran.stderr.contains("SIGTERM; the job is ended"), "{}", ran.stderr);
    assert!(!ran.stderr.contains("is killed"), "the ranks were not told: {}", ran.stderr);
}

#[test]
fn two_hosts_lose_what_two_processes_of_one_do() {
    let Some(hosts) = Hosts::new("trn", "10.213.7") else { return };
    let place = Place::new();
    let train = |name: &str| place.train(name, &["--hccl", "--max-steps", "2", "--save-steps", "0"]);
    let start = |(node, host): (usize, &String)| {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", host, env!("CARGO_BIN_EXE_npu-run"), "launch", "--nnodes", "2"]);
        command.args(["--node-rank", &node.to_string(), "--master-addr", "10.213.7.1", "--"]).args(train("hosts"));
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    };
    let children: Vec<Child> = hosts.names.iter().enumerate().map(start).collect();
    for child in children {
        ran(child.wait_with_output().unwrap()).ok();
    }
    npu_run(&text(&launch(2, &train("host"))), b"").ok();
    assert_eq!((place.losses("hosts"), place.losses("hosts").len()), (place.losses("host"), 2));
}
