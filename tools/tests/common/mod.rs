//! Runs the npu-run binary as a user would.

// Each test file is a program of its own and uses its part of this.
#![allow(dead_code)]

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// What a run left behind.
#[derive(Debug)]
pub struct Ran {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl Ran {
    /// Panics with everything the run printed unless it succeeded.
    #[track_caller]
    pub fn ok(self) -> Self {
        assert_eq!(self.code, Some(0), "stdout:\n{}\nstderr:\n{}", self.stdout, self.stderr);
        self
    }

    /// Panics unless the run failed like a program that knows what happened: exit code 1 or 2, a message on the error
    /// stream that contains every one of `words`, and no panic.
    #[track_caller]
    pub fn refused(self, words: &[&str]) -> Self {
        assert!(matches!(self.code, Some(1 | 2)), "exit code {:?}; stderr:\n{}", self.code, self.stderr);
        assert!(!self.stderr.contains("panicked"), "{}", self.stderr);
        for word in words {
            assert!(self.stderr.contains(word), "{word:?} is not in:\n{}", self.stderr);
        }
        self
    }
}

/// Runs `npu-run` with `args`, `stdin` as its input.
pub fn npu_run(args: &[&str], stdin: &[u8]) -> Ran {
    let mut command = Command::new(env!("CARGO_BIN_EXE_npu-run"));
    run(command.args(args), stdin)
}

/// Runs a command of the caller's, `stdin` as its input.
pub fn run(command: &mut Command, stdin: &[u8]) -> Ran {
    command.env_remove("NPU_RUN_DEVICE");
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("npu-run starts");
    // A program that refuses its arguments closes its input before it is written; that is not this harness's business.
    let _ = child.stdin.take().expect("stdin is piped").write_all(stdin);
    let output = child.wait_with_output().expect("npu-run ends");
    Ran {
        code: output.status.code(),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

/// A checkpoint of the repository's fixtures.
pub fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("workspace").join("tests/fixtures").join(name)
}

/// A copy of a fixture that a test may spoil.
pub fn spoiled(name: &str, spoil: impl FnOnce(&Path)) -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("temporary folder");
    for file in ["config.json", "generation_config.json", "model.safetensors"] {
        std::fs::copy(fixture(name).join(file), folder.path().join(file)).expect(file);
    }
    spoil(folder.path());
    folder
}
