//! `npu-run launch`: several processes of this program that train together.
//!
//! The launcher starts processes, passes signals on, and ends the job when one of them dies. It carries no data: the
//! processes find each other by the variables that torchrun too would set.

mod output;
mod processes;
mod watch;

pub use watch::end_with_launcher;

use crate::cli::LaunchArgs;
use anyhow::{Context, Result, ensure};
use processes::{Died, Job};
use std::net::{Ipv4Addr, TcpListener};
use std::process::{Command, ExitCode};
use std::time::Duration;

/// Where rank 0 listens when nobody says and hosts must agree, as with torchrun.
const PORT: u16 = 29500;

pub fn run(args: &LaunchArgs) -> Result<ExitCode> {
    let place = Place::of(args)?;
    let program = std::env::current_exe().context("finding this program")?;
    let grace = Duration::from_secs(args.grace);
    let job = Job::start(place.ranks(), grace, |local| {
        let mut command = Command::new(&program);
        command.args(&args.command);
        place.describe(&mut command, local);
        command
    })?;
    let Some(died) = job.wait()? else { return Ok(ExitCode::SUCCESS) };
    eprintln!("error: {died}");
    Ok(ExitCode::from(match died {
        Died::Rank { code, .. } => code,
        Died::Signal(signal) => 128 + signal as u8,
    }))
}

/// Where the processes of this host are in the job.
struct Place {
    /// Processes on each host.
    local: usize,
    nodes: usize,
    node: usize,
    master: (String, u16),
}

impl Place {
    fn of(args: &LaunchArgs) -> Result<Self> {
        let (local, nodes, node) = (args.nproc_per_node, args.nnodes, args.node_rank);
        ensure!(local > 0 && nodes > 0, "--nproc-per-node and --nnodes count from 1");
        ensure!(
            node < nodes,
            "--node-rank is {node}, but --nnodes is {nodes}: the hosts count from 0 to {}",
            nodes - 1
        );
        ensure!(
            nodes == 1 || args.master_addr.is_some(),
            "--nnodes {nodes} needs --master-addr: the address of the host with --node-rank 0, the same on every host"
        );
        let address = args.master_addr.clone().unwrap_or_else(|| Ipv4Addr::LOCALHOST.to_string());
        let port = match args.master_port {
            Some(port) => port,
            None if nodes == 1 => free_port()?,
            None => PORT,
        };
        Ok(Self { local, nodes, node, master: (address, port) })
    }

    /// The ranks of this host.
    fn ranks(&self) -> std::ops::Range<usize> {
        self.node * self.local..(self.node + 1) * self.local
    }

    /// Sets torchrun's variables for the process `local` of this host.
    fn describe(&self, command: &mut Command, local: usize) {
        let numbers = [
            ("RANK", self.ranks().start + local),
            ("WORLD_SIZE", self.nodes * self.local),
            ("LOCAL_RANK", local),
            ("LOCAL_WORLD_SIZE", self.local),
            ("GROUP_RANK", self.node),
            ("MASTER_PORT", self.master.1.into()),
        ];
        command.envs(numbers.map(|(name, number)| (name, number.to_string()))).env("MASTER_ADDR", &self.master.0);
        // Torchrun's own: where it is set, the port counts as taken by torchrun.
        command.env_remove("TORCHELASTIC_USE_AGENT_STORE");
        if self.local > 1 && std::env::var_os(THREADS).is_none() {
            let cores = std::thread::available_parallelism().map_or(1, |cores| cores.get());
            command.env(THREADS, (cores / self.local).max(1).to_string());
        }
    }
}

/// How many threads a process computes with on the CPU: the processes share its cores.
const THREADS: &str = "RAYON_NUM_THREADS";

/// A port that was free a moment ago, and that nothing else is given soon.
fn free_port() -> Result<u16> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("looking for a free port")?;
    Ok(listener.local_addr()?.port())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::{Cli, Command as Words};
    use clap::Parser;
    use std::collections::BTreeMap;

    fn args(words: &[&str]) -> LaunchArgs {
        let words = ["npu-run", "launch"].iter().chain(words).chain(&["--", "train", "--zero", "1"]);
        match Cli::parse_from(words).command {
            Words::Launch(args) => args,
            other => panic!("{other:?}"),
        }
    }

    fn variables(place: &Place, local: usize) -> BTreeMap<String, Option<String>> {
        let mut command = Command::new("true");
        place.describe(&mut command, local);
        let text = |value: &std::ffi::OsStr| value.to_string_lossy().into_owned();
        command.get_envs().map(|(name, value)| (text(name), value.map(text))).collect()
    }

    #[test]
    fn a_process_of_the_second_host_knows_its_place() {
        let words = ["--nproc-per-node", "4", "--nnodes", "2", "--node-rank", "1", "--master-addr", "10.0.0.1"];
        let args = args(&words);
        assert_eq!(args.command, ["train", "--zero", "1"]);
        let set = variables(&Place::of(&args).unwrap(), 2);
        for (name, value) in [
            ("RANK", "6"),
            ("WORLD_SIZE", "8"),
            ("LOCAL_RANK", "2"),
            ("LOCAL_WORLD_SIZE", "4"),
            ("GROUP_RANK", "1"),
            ("MASTER_ADDR", "10.0.0.1"),
            ("MASTER_PORT", "29500"),
        ] {
            assert_eq!(set[name].as_deref(), Some(value), "{name}");
        }
        assert_eq!(set["TORCHELASTIC_USE_AGENT_STORE"], None);
    }

    #[test]
    fn one_host_needs_no_port_and_torchruns_spelling_is_understood() {
        let place = Place::of(&args(&["--nproc_per_node", "2"])).unwrap();
        assert_eq!((place.ranks(), place.master.0.as_str()), (0..2, "127.0.0.1"));
        assert_ne!(place.master.1, 0);
    }

    #[test]
    fn places_that_make_no_sense_are_told() {
        for (words, says) in [
            (&["--nnodes", "2"][..], "needs --master-addr"),
            (&["--nnodes", "2", "--node-rank", "2", "--master-addr", "h"], "from 0 to 1"),
            (&["--nproc-per-node", "0"], "count from 1"),
        ] {
            let error = Place::of(&args(words)).err().map(|e| e.to_string()).unwrap_or_default();
            assert!(error.contains(says), "{error:?} does not say {says:?}");
        }
    }
}
