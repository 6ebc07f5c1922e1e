//! The processes of a job on this host, from the first start to the last end.

use super::output::{self, Prefixed};
use super::watch;
use anyhow::{Context, Result};
use nix::sys::signal::{SigSet, Signal, killpg};
use nix::unistd::Pid;
use std::fmt;
use std::ops::Range;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// How often the processes are looked at.
const BEAT: Duration = Duration::from_millis(20);
/// After one rank has died, how long the others may take to find out and to say which call they were in.
const LAST_WORDS: Duration = Duration::from_secs(3);
/// What is passed on to the processes.
const PASSED_ON: [Signal; 3] = [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP];

/// Why a job ended early.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Died {
    Rank {
        rank: usize,
        how: String,
        /// For the launcher to end with.
        code: u8,
    },
    /// The launcher itself was told to end.
    Signal(Signal),
}

impl fmt::Display for Died {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Rank { rank, how, .. } => write!(f, "rank {rank} {how}; the job is ended"),
            Self::Signal(signal) => write!(f, "{signal}; the job is ended"),
        }
    }
}

struct Process {
    rank: usize,
    child: Child,
    ended: Option<ExitStatus>,
}

/// Processes that run.
pub struct Job {
    processes: Vec<Process>,
    printing: Vec<JoinHandle<()>>,
    signals: Receiver<Signal>,
    /// Between asking a process to end and killing it.
    grace: Duration,
}

impl Job {
    /// Starts the process of each of `ranks`; `command` makes it from its number on this host.
    pub fn start(ranks: Range<usize>, grace: Duration, command: impl Fn(usize) -> Command) -> Result<Self> {
        let local = ranks.len();
        let mut job = Self { processes: Vec::new(), printing: Vec::new(), signals: channel().1, grace };
        for (number, rank) in ranks.enumerate() {
            let mut command = command(number);
            watch::introduce(&mut command);
            // A group of its own, so that what it starts ends with it.
            command.stdin(Stdio::piped()).process_group(0);
            Prefixed::of(rank, local).prepare(&mut command);
            let child = command.spawn().with_context(|| format!("starting rank {rank}"))?;
            job.processes.push(Process { rank, child, ended: None });
        }
        // Only now, because a process inherits what its parent blocks; and before there is another thread, which would not.
        job.signals = signals_from_now_on()?;
        for Process { rank, child, .. } in &mut job.processes {
            job.printing.extend(output::copy(*rank, child));
        }
        Ok(job)
    }

    /// Waits for all processes; why they ended, unless each succeeded. When one fails the others are ended.
    pub fn wait(mut self) -> Result<Option<Died>> {
        let died = loop {
            match self.signals.recv_timeout(BEAT) {
                Ok(signal) => {
                    self.tell(signal);
                    break Some(Died::Signal(signal));
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => thread::sleep(BEAT),
            }
            self.look()?;
            // One that was killed is the reason why others fail, if both are found at once.
            let failures = self.processes.iter().filter_map(|process| Some((process.killed(), process.failure()?)));
            if let Some((_, died)) = failures.max_by_key(|(killed, _)| *killed) {
                break Some(died);
            }
            if self.processes.iter().all(|process| process.ended.is_some()) {
                break None;
            }
        };
        if let Some(died) = &died {
            self.end(matches!(died, Died::Rank { .. }))?;
        }
        for thread in self.printing.drain(..) {
            let _ = thread.join();
        }
        Ok(died)
    }

    /// Notes which processes have ended.
    fn look(&mut self) -> Result<()> {
        for process in self.processes.iter_mut().filter(|process| process.ended.is_none()) {
            process.ended = process.child.try_wait().with_context(|| format!("waiting for rank {}", process.rank))?;
            if process.ended.is_some() {
                // What it started and did not end, such as a reward program.
                process.tell(Signal::SIGKILL);
            }
        }
        Ok(())
    }

    /// Sends `signal` to every process that has not ended, and to what those have started.
    fn tell(&self, signal: Signal) {
        self.processes.iter().filter(|process| process.ended.is_none()).for_each(|process| process.tell(signal));
    }

    /// Ends what is left: by itself, when asked, when killed.
    fn end(&mut self, after_a_death: bool) -> Result<()> {
        if after_a_death && !self.gone_within(LAST_WORDS)? {
            self.tell(Signal::SIGTERM);
        }
        if !self.gone_within(self.grace)? {
            let left: Vec<_> = self.running().map(|rank| rank.to_string()).collect();
            let seconds = self.grace.as_secs();
            eprintln!("rank {} did not end within {seconds} s of being asked and is killed", left.join(", "));
            self.tell(Signal::SIGKILL);
        }
        for process in &mut self.processes {
            process.child.wait().with_context(|| format!("waiting for rank {}", process.rank))?;
        }
        Ok(())
    }

    fn running(&self) -> impl Iterator<Item = usize> + '_ {
        self.processes.iter().filter(|process| process.ended.is_none()).map(|process| process.rank)
    }

    /// Whether every process ends within `limit`. A signal meanwhile is passed on, and no longer waited with.
    fn gone_within(&mut self, limit: Duration) -> Result<bool> {
        let deadline = Instant::now() + limit;
        loop {
            self.look()?;
            if self.running().next().is_none() {
                return Ok(true);
            }
            if Instant::now() >= deadline {
                return Ok(false);
            }
            match self.signals.recv_timeout(BEAT) {
                Ok(signal) => {
                    self.tell(signal);
                    return Ok(false);
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => thread::sleep(BEAT),
            }
        }
    }
}

impl Drop for Job {
    /// A start that failed half-way, or an error while waiting: nobody is left behind.
    fn drop(&mut self) {
        if self.look().is_ok() {
            self.tell(Signal::SIGKILL);
        }
        for process in self.processes.iter_mut().filter(|process| process.ended.is_none()) {
            let _ = process.child.wait();
        }
    }
}

impl Process {
    fn tell(&self, signal: Signal) {
        // A group that ends at this moment is not there to be told.
        let _ = killpg(Pid::from_raw(self.child.id() as i32), signal);
    }

    fn killed(&self) -> bool {
        self.ended.is_some_and(|status| status.signal().is_some())
    }

    fn failure(&self) -> Option<Died> {
        let status = self.ended.filter(|status| !status.success())?;
        let (how, code) = match (status.code(), status.signal()) {
            (Some(code), _) => (format!("ended with exit code {code}"), u8::try_from(code).unwrap_or(1)),
            (None, Some(number)) => {
                let name =
                    Signal::try_from(number).map_or_else(|_| format!("signal {number}"), |signal| signal.to_string());
                (format!("was killed by {name}"), 128 + number as u8)
            }
            (None, None) => ("ended for an unknown reason".to_string(), 1),
        };
        Some(Died::Rank { rank: self.rank, how, code })
    }
}

/// What this process is told from now on, instead of ending by it.
fn signals_from_now_on() -> Result<Receiver<Signal>> {
    let signals: SigSet = PASSED_ON.into_iter().collect();
    signals.thread_block().context("listening for signals")?;
    let (tell, told) = channel();
    thread::spawn(move || {
        while let Ok(signal) = signals.wait() {
            if tell.send(signal).is_err() {
                return;
            }
        }
    });
    Ok(told)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A job whose processes run `scripts` with a shell.
    fn job(scripts: &[&str]) -> Result<Option<Died>> {
        let start = |number: usize| {
            let mut command = Command::new("sh");
            command.args(["-c", scripts[number]]);
            command
        };
        Job::start(4..4 + scripts.len(), Duration::from_millis(300), start)?.wait()
    }

    fn died(rank: usize, how: &str, code: u8) -> Option<Died> {
        Some(Died::Rank { rank, how: how.into(), code })
    }

    #[test]
    fn a_job_succeeds_when_all_do() {
        assert_eq!(job(&["exit 0", "sleep 0.1"]).unwrap(), None);
    }

    #[test]
    fn the_rank_that_fails_is_named_and_the_others_are_ended() {
        let begun = Instant::now();
        // The second neither ends by itself nor when it is asked to.
        let answer = job(&["exit 7", "trap '' TERM; while :; do sleep 0.1; done"]).unwrap();
        assert_eq!(answer, died(4, "ended with exit code 7", 7));
        assert!(begun.elapsed() >= LAST_WORDS, "the others get time for their last words");
    }

    #[test]
    fn a_killed_rank_is_named_before_those_that_fail_with_it() {
        let answer = job(&["exit 1", "kill -KILL $$"]).unwrap();
        assert!(answer == died(5, "was killed by SIGKILL", 137) || answer == died(4, "ended with exit code 1", 1));
        let answer = job(&["sleep 0.2; exit 1", "kill -KILL $$"]).unwrap();
        assert_eq!(answer, died(5, "was killed by SIGKILL", 137));
    }

    #[test]
    fn a_process_that_a_rank_leaves_behind_ends_with_it() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("left");
        let script = format!("(sleep 1; echo > {}) & exit 0", file.display());
        assert_eq!(job(&[&script]).unwrap(), None);
        thread::sleep(Duration::from_millis(1300));
        assert!(!file.exists(), "it went on");
    }

    #[test]
    fn a_program_that_is_not_there_is_told() {
        let job = Job::start(0..1, Duration::ZERO, |_| Command::new("/no/such/program"));
        let error = format!("{:#}", job.err().unwrap());
        assert!(error.contains("starting rank 0") && error.contains("No such file"), "{error}");
    }
}
