//! Ranks in processes of their own, and on hosts of their own where network namespaces can be made.
//!
//! The test program starts itself with `RANK_OF_TEST`: then the test `as_a_rank` is a rank and not a test.

use crate::support::*;
use acl_sys::error::*;
use hccl_sys::*;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

// The crate that this belongs to depends on this one.
#[path = "../../../tests/src/hosts.rs"]
mod hosts;
use hosts::Hosts;

/// What a rank in a process does: it sums `ROUNDS` times, and prints each sum or why there is none.
#[test]
fn as_a_rank() {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<usize>().ok());
    let Some(rank) = number("RANK_OF_TEST") else {
        println!("a rank only when other tests start it");
        return;
    };
    let size = number("SIZE_OF_TEST").unwrap();
    let device = number("DEVICE_OF_TEST").unwrap_or(rank);
    let stream = Rank::device(device);
    let mut comm = std::ptr::null_mut();
    let info = exchange(Path::new(&std::env::var("ROOT_OF_TEST").unwrap()), rank);
    // SAFETY: all pointers are valid.
    let code = unsafe { hccl().HcclCommInitRootInfo(size as u32, &info, rank as u32, &mut comm).unwrap() };
    if code != 0 {
        println!("rank {rank} begins with {code}: {}", message());
        return;
    }
    let me = Rank { comm, stream, rank };
    for round in 1..=number("ROUNDS").unwrap_or(1) {
        if number("KILLED_AT") == Some(round) {
            // Not before the others have what they still need of this rank.
            std::thread::sleep(Duration::from_millis(200));
            // SAFETY: ends this process as a kill from outside would.
            unsafe { libc::raise(libc::SIGKILL) };
        }
        if number("ASLEEP_AT") == Some(round) {
            std::thread::sleep(Duration::from_secs(4));
        }
        let buffer = Buffer::of(&vec![(round * (rank + 1)) as f32; 1 << 16]);
        // SAFETY: the buffer has that many elements.
        unsafe {
            let (data, dtype) = (buffer.data, HCCL_DATA_TYPE_FP32);
            ok(hccl().HcclAllReduce(data, data, 1 << 16, dtype, HCCL_REDUCE_SUM, comm, stream));
        }
        let (code, text) = me.failed();
        if code != 0 {
            println!("rank {rank} round {round} fails with {code}, async {}: {text}", me.async_error());
            break;
        }
        let values = buffer.values::<f32>();
        assert!(values.iter().all(|x| *x == values[0]));
        println!("rank {rank} round {round} has {}", values[0]);
    }
    me.leave();
    println!("rank {rank} left");
}

/// Rank 0 makes the root and leaves its address in a file for the others.
fn exchange(file: &Path, rank: usize) -> HcclRootInfo {
    if rank == 0 {
        let info = root_info();
        let bytes: Vec<u8> = info.internal.iter().map(|&c| c as u8).collect();
        let half = file.with_extension("half");
        std::fs::write(&half, bytes).unwrap();
        std::fs::rename(half, file).unwrap();
        return info;
    }
    let begun = Instant::now();
    loop {
        if let Ok(bytes) = std::fs::read(file) {
            return HcclRootInfo { internal: std::array::from_fn(|i| bytes[i] as _) };
        }
        assert!(begun.elapsed() < Duration::from_secs(30), "rank 0 left no root info");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// A job of processes: what each rank printed.
struct Job {
    name: &'static str,
    size: usize,
    settings: Vec<(&'static str, &'static str)>,
}

impl Job {
    fn root(&self) -> PathBuf {
        PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("{}-{}", self.name, std::process::id()))
    }

    fn rank(&self, rank: usize, own: &[(&str, &str)], through: &[&str]) -> Child {
        let test = std::env::current_exe().unwrap();
        let mut command = match through {
            [] => Command::new(test),
            [program, arguments @ ..] => {
                let mut command = Command::new(program);
                command.args(arguments).arg(test);
                command
            }
        };
        command.args(["--exact", "processes::as_a_rank", "--nocapture", "--test-threads=1"]);
        command.env("RANK_OF_TEST", rank.to_string()).env("SIZE_OF_TEST", self.size.to_string());
        command.env("ROOT_OF_TEST", self.root()).env("HCCL_HOST_SOCKET_PORT_RANGE", "auto");
        command.envs(self.settings.iter().copied()).envs(own.iter().copied());
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    }

    /// Waits for the ranks that were started; a rank that hangs is killed and fails the test.
    fn finish(&self, ranks: Vec<Child>) -> Vec<String> {
        let begun = Instant::now();
        let text = |output: Output| {
            let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
            text(&output.stdout) + &text(&output.stderr)
        };
        let mut said = Vec::new();
        for mut child in ranks {
            while child.try_wait().unwrap().is_none() {
                if begun.elapsed() > Duration::from_secs(60) {
                    child.kill().unwrap();
                    panic!("a rank of {} hangs:\n{}", self.name, text(child.wait_with_output().unwrap()));
                }
                std::thread::sleep(Duration::from_millis(10));
            }
            said.push(text(child.wait_with_output().unwrap()));
        }
        let _ = std::fs::remove_file(self.root());
        said
    }

    /// Runs every rank; `own` are the settings of one of them.
    fn run(&self, odd: usize, own: &[(&str, &str)]) -> Vec<String> {
        let ranks = (0..self.size).map(|rank| self.rank(rank, if rank == odd { own } else { &[] }, &[])).collect();
        self.finish(ranks)
    }
}

#[test]
fn processes_sum_over_tcp() {
    let job = Job { name: "sum", size: 3, settings: vec![("ROUNDS", "2"), ("HCCL_IF_IP", "127.0.0.1")] };
    for (rank, text) in job.run(0, &[]).iter().enumerate() {
        says(text, &[&format!("rank {rank} round 1 has 6"), &format!("rank {rank} round 2 has 12"), "left"]);
    }
}

#[test]
fn a_killed_rank_is_named_by_every_other() {
    let job = Job { name: "killed", size: 3, settings: vec![("ROUNDS", "3")] };
    let begun = Instant::now();
    let texts = job.run(1, &[("KILLED_AT", "2")]);
    assert!(begun.elapsed() < Duration::from_secs(30), "the others must not wait for a time-out");
    assert!(!texts[1].contains("left"), "{}", texts[1]);
    for rank in [0, 2] {
        let told = format!("rank {rank} round 2 fails with {ACL_ERROR_RT_SUSPECT_REMOTE_ERROR}, async {HCCL_E_REMOTE}");
        says(&texts[rank], &[&told, "rank 1", "ended without a farewell", "left"]);
    }
}

#[test]
fn a_rank_that_never_starts_is_named() {
    let job = Job { name: "missing", size: 3, settings: vec![("CANN_SIM_HCCL_TIMEOUT", "2")] };
    let ranks = vec![job.rank(0, &[], &[]), job.rank(2, &[], &[])];
    for text in job.finish(ranks) {
        says(
            &text,
            &[&format!("begins with {HCCL_E_TIMEOUT}"), "1 of 3 ranks did not arrive within 2s: rank 1; these did"],
        );
    }
}

#[test]
fn a_rank_that_sleeps_is_named_when_the_time_is_over() {
    let job = Job { name: "asleep", size: 3, settings: vec![("CANN_SIM_HCCL_TIMEOUT", "2"), ("ROUNDS", "2")] };
    let texts = job.run(2, &[("ASLEEP_AT", "2")]);
    for rank in [0, 1] {
        let told = format!("rank {rank} round 2 fails with {ACL_ERROR_RT_FFTS_PLUS_TIMEOUT}");
        says(&texts[rank], &[&told, "rank 2 did not come to call 2, HcclAllReduce"]);
    }
    says(&texts[2], &["rank 2 round 2 fails"]);
}

#[test]
fn slow_and_dead_ranks_on_request() {
    let faults = ("CANN_SIM_FAULTS", "slow_rank@1=300, dead_rank@2=2");
    let job = Job { name: "faults", size: 3, settings: vec![faults, ("ROUNDS", "2")] };
    let begun = Instant::now();
    let texts = job.run(0, &[]);
    assert!(begun.elapsed() > Duration::from_millis(600), "rank 1 is slow twice");
    for (rank, text) in texts.iter().enumerate() {
        says(text, &[&format!("rank {rank} round 1 has 6")]);
        let code = if rank == 2 { ACL_ERROR_RT_LOST_HEARTBEAT } else { ACL_ERROR_RT_SUSPECT_REMOTE_ERROR };
        says(text, &[&format!("rank {rank} round 2 fails with {code}"), "rank 2"]);
    }
    says(&texts[2], &["the fault dead_rank@2=2 asks for it"]);
}

#[test]
fn wrong_settings_are_said() {
    for (name, value, code, part) in [
        ("HCCL_CONNECT_TIMEOUT", "60", HCCL_E_PARA, "no whole number of seconds from 120 to 7200"),
        ("HCCL_EXEC_TIMEOUT", "soon", HCCL_E_PARA, "no whole number of seconds from 0"),
        ("HCCL_BUFFSIZE", "0", HCCL_E_PARA, "no whole number of megabytes"),
        ("HCCL_IF_IP", "nowhere", HCCL_E_PARA, "is no IP address"),
        ("HCCL_SOCKET_IFNAME", "=none", HCCL_E_NOT_FOUND, "no interface of this host fits"),
        ("HCCL_WHITELIST_DISABLE", "0", HCCL_E_NOT_SUPPORT, "does not check"),
    ] {
        // The root is made by a process without the setting, so that its reader can be seen to refuse it.
        let job = Job { name: "settings", size: 1, settings: vec![] };
        let info = root_info();
        std::fs::write(job.root(), info.internal.map(|c| c as u8)).unwrap();
        let own = [(name, value), ("RANK_OF_TEST", "1"), ("SIZE_OF_TEST", "2"), ("CANN_SIM_HCCL_TIMEOUT", "1")];
        let child = job.rank(1, &own, &[]);
        says(&job.finish(vec![child])[0], &[&format!("begins with {code}"), part]);
    }
}

#[test]
fn hosts_sum_over_a_network() {
    let Some(hosts) = Hosts::new("sim", "10.211.7") else { return };
    let job = Job { name: "hosts", size: 4, settings: vec![("ROUNDS", "2")] };
    // Two devices of the same numbers on either host: it is the address that tells the hosts apart.
    let rank = |rank: usize| {
        let through = ["ip", "netns", "exec", &hosts.names[rank / 2]];
        job.rank(rank, &[("DEVICE_OF_TEST", if rank.is_multiple_of(2) { "0" } else { "1" })], &through)
    };
    for (rank, text) in job.finish((0..4).map(rank).collect()).iter().enumerate() {
        says(text, &[&format!("rank {rank} round 1 has 10"), &format!("rank {rank} round 2 has 20"), "left"]);
    }
}
