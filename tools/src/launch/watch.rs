//! A process ends when its launcher does, however that came about.

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::io::{Read, Write};
use std::os::unix::process::parent_id;
use std::process::Command;
use std::time::Duration;

/// The launcher's process id, for those that it starts.
const LAUNCHER: &str = "NPU_RUN_LAUNCHER";

/// Lets the process of `command` know that this one starts it. Its standard input must be a pipe that this process holds.
pub fn introduce(command: &mut Command) {
    command.env(LAUNCHER, std::process::id().to_string());
}

/// To be called first: if a launcher started this process, watches the pipe that the launcher holds at the other end. The
/// system closes it with the launcher, even with one that was killed, and then this process and all that it started end.
pub fn end_with_launcher() {
    let launcher = std::env::var(LAUNCHER).ok().and_then(|id| id.parse::<u32>().ok());
    // What a rank starts has the variable too, but another parent.
    if launcher != Some(parent_id()) {
        return;
    }
    std::thread::spawn(|| {
        let mut nothing = [0; 64];
        while matches!(std::io::stdin().read(&mut nothing), Ok(1..)) {}
        // The standard error may have been the launcher's too.
        let _ = writeln!(std::io::stderr(), "error: npu-run launch is gone, so this process ends");
        // The launcher put this process into a group of its own.
        let group = Pid::from_raw(0);
        let _ = kill(group, Signal::SIGTERM);
        std::thread::sleep(Duration::from_secs(5));
        let _ = kill(group, Signal::SIGKILL);
    });
}
