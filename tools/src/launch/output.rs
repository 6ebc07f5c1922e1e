//! What the processes print, each line with its rank before it.

use std::io::{self, BufRead, BufReader, IsTerminal, Read, Write};
use std::process::{Child, Command, Stdio};
use std::thread::{self, JoinHandle};

/// Who prints as it likes. Rank 0 speaks for the job: its standard output stays fit for other programs, and its progress bar
/// stays one on a terminal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Prefixed {
    stdout: bool,
    stderr: bool,
}

impl Prefixed {
    /// For the process of `rank` among `local` on this host.
    pub fn of(rank: usize, local: usize) -> Self {
        let many = local > 1;
        Self { stdout: many && rank > 0, stderr: many && !(rank == 0 && io::stderr().is_terminal()) }
    }

    pub fn prepare(self, command: &mut Command) {
        let how = |prefixed| if prefixed { Stdio::piped() } else { Stdio::inherit() };
        command.stdout(how(self.stdout)).stderr(how(self.stderr));
    }
}

/// Copies what `child` prints until it ends; the threads that do.
pub fn copy(rank: usize, child: &mut Child) -> Vec<JoinHandle<()>> {
    let stdout = child.stdout.take().map(|from| thread::spawn(move || lines(rank, from, io::stdout())));
    let stderr = child.stderr.take().map(|from| thread::spawn(move || lines(rank, from, io::stderr())));
    stdout.into_iter().chain(stderr).collect()
}

/// Each line is written at once, so that lines of several ranks do not mix. A carriage return, with which a progress bar
/// overwrites itself, ends a line too.
fn lines(rank: usize, from: impl Read, mut to: impl Write) {
    let mut from = BufReader::new(from);
    let mut line = Vec::new();
    while matches!(from.read_until(b'\n', &mut line), Ok(1..)) {
        for part in line.split(|byte| matches!(byte, b'\n' | b'\r')).filter(|part| !part.is_empty()) {
            let whole = [format!("[rank {rank}] ").as_bytes(), part, b"\n"].concat();
            // Nobody reads any more; the process is still to be heard out, lest it wait for its pipe.
            let _ = to.write_all(&whole).and_then(|()| to.flush());
        }
        line.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_line_has_its_rank() {
        let mut out = Vec::new();
        lines(3, &b"one\n\ntwo\rthree\nno end"[..], &mut out);
        let text = String::from_utf8(out).unwrap();
        assert_eq!(text, "[rank 3] one\n[rank 3] two\n[rank 3] three\n[rank 3] no end\n");
    }
}
