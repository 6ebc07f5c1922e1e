//! A program of the user's that judges completions.

use super::{Answer, Reward};
use anyhow::{Context, Result, anyhow, bail};
use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Lines of the program's standard error that its failure shows.
const TAIL: usize = 12;
/// How long a program whose output has ended may take to exit.
const GRACE: Duration = Duration::from_secs(2);

/// A program that is started once, reads one JSON object a line for each completion, and writes a line for each, in their
/// order: a number, or `null` (or `None`) where it has nothing to say.
///
/// The object has `prompt` (the messages, as `[{"role": …, "content": …}]`), `completion` (text), `completion_ids` (tokens),
/// `answer` where the data has one, and the data's other columns under their names.
pub struct Program {
    command: String,
    timeout: Duration,
    child: Child,
    /// To the thread that feeds the program; none once it has been told to end.
    lines: Option<Sender<String>>,
    replies: Receiver<std::io::Result<String>>,
    errors: Arc<Mutex<VecDeque<String>>>,
    reading_errors: Option<JoinHandle<()>>,
}

impl Program {
    /// Starts `command` by the shell. An answer may take `timeout` to come.
    pub fn start(command: &str, timeout: Duration) -> Result<Self> {
        let mut child = Command::new("sh")
            .args(["-c", command])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("starting the reward {command:?} by sh"))?;
        let (Some(mut stdin), Some(stdout), Some(stderr)) =
            (child.stdin.take(), child.stdout.take(), child.stderr.take())
        else {
            bail!("the reward {command:?} was started without pipes");
        };
        // A thread each way: a program may answer before it has read all, or write warnings without end, and must not
        // be waited for by one that waits for it.
        let (lines, to_feed) = channel::<String>();
        std::thread::spawn(move || {
            // A program that does not read on has ended, which its output tells.
            to_feed.iter().try_for_each(|line| stdin.write_all(line.as_bytes()).and_then(|()| stdin.flush()))
        });
        let (answers, replies) = channel();
        std::thread::spawn(move || {
            BufReader::new(stdout).lines().try_for_each(|line| answers.send(line).ok());
        });
        let errors = Arc::new(Mutex::new(VecDeque::new()));
        let tail = errors.clone();
        let reading_errors = Some(std::thread::spawn(move || keep_tail(stderr, &tail)));
        Ok(Self { command: command.to_owned(), timeout, child, lines: Some(lines), replies, errors, reading_errors })
    }

    /// The next line of the program's, as the value of `answer`.
    fn reply(&mut self, answer: &Answer<'_>) -> Result<Option<f64>> {
        let line = match self.replies.recv_timeout(self.timeout) {
            Ok(line) => line.map_err(|error| anyhow!("its output cannot be read: {error}")),
            Err(RecvTimeoutError::Timeout) => {
                Err(anyhow!("it has not answered within {} s", self.timeout.as_secs_f64()))
            }
            Err(RecvTimeoutError::Disconnected) => Err(anyhow!("it ended without an answer ({})", self.ended())),
        };
        let value = line.and_then(|line| match line.trim() {
            "null" | "None" => Ok(None),
            text => match text.parse::<f64>() {
                Ok(value) if value.is_finite() => Ok(Some(value)),
                _ => Err(anyhow!("it answered {text:?}, wanted a finite number or null on a line of its own")),
            },
        });
        value.map_err(|error| {
            let tail = self.tail();
            anyhow!("the reward {:?} failed at {}: {error}{tail}", self.command, answer.named())
        })
    }

    /// How the program exited, for one whose output has ended.
    fn ended(&mut self) -> String {
        let since = Instant::now();
        while since.elapsed() < GRACE {
            match self.child.try_wait() {
                // What shells answer for a name that they do not find.
                Ok(Some(status)) if status.code() == Some(127) => {
                    return format!(
                        "{status}: there is no such program, nor a reward of that name in this one: accuracy, format, \
                                    length, repetition"
                    );
                }
                Ok(Some(status)) => return status.to_string(),
                Ok(None) => std::thread::sleep(Duration::from_millis(10)),
                Err(error) => return format!("how, the system does not say: {error}"),
            }
        }
        "its output is closed, and it still runs".to_owned()
    }

    /// The last lines of the program's standard error, as an error's ending.
    fn tail(&mut self) -> String {
        // The program is of no use any more, and once it has gone all that it said has been read.
        self.lines = None;
        let _ = self.child.kill();
        let _ = self.child.wait();
        let since = Instant::now();
        while self.reading_errors.as_ref().is_some_and(|reading| !reading.is_finished()) && since.elapsed() < GRACE {
            std::thread::sleep(Duration::from_millis(5));
        }
        let lines = self.errors.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        if lines.is_empty() {
            return "; it wrote nothing to standard error".to_owned();
        }
        let lines: Vec<_> = lines.iter().map(|line| format!("\n  | {line}")).collect();
        format!("; the end of its standard error:{}", lines.concat())
    }
}

/// Keeps the last lines of `stream` in `tail`.
fn keep_tail(stream: impl Read, tail: &Mutex<VecDeque<String>>) {
    for line in BufReader::new(stream).split(b'\n').map_while(Result::ok) {
        let mut tail = tail.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        tail.push_back(String::from_utf8_lossy(&line).into_owned());
        while tail.len() > TAIL {
            tail.pop_front();
        }
    }
}

impl Reward for Program {
    fn score(&mut self, answers: &[Answer<'_>]) -> Result<Vec<Option<f64>>> {
        for answer in answers {
            let mut line = answer.prompt.columns.clone();
            if let Some(right) = &answer.prompt.answer {
                line.insert("answer".into(), right.as_str().into());
            }
            line.insert("prompt".into(), serde_json::to_value(&answer.prompt.messages)?);
            line.insert("completion".into(), answer.text.into());
            line.insert("completion_ids".into(), answer.tokens.into());
            let line = serde_json::Value::from(line).to_string();
            let Some(lines) = &self.lines else {
                bail!("the reward {:?} has failed before and was ended", self.command);
            };
            // Nobody takes lines any more when the program has ended; the missing answer will say so.
            let _ = lines.send(line + "\n");
        }
        answers.iter().map(|answer| self.reply(answer)).collect()
    }
}

impl Drop for Program {
    /// Closes the program's input, which is how it is told to end, and ends it if it does not.
    fn drop(&mut self) {
        self.lines = None;
        let since = Instant::now();
        while since.elapsed() < GRACE {
            if !matches!(self.child.try_wait(), Ok(None)) {
                return;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{prompt, scores, scores_of};
    use super::*;

    fn program(command: &str, timeout: Duration) -> Program {
        Program::start(command, timeout).expect("sh")
    }

    const LONG: Duration = Duration::from_secs(60);

    #[test]
    fn a_line_a_completion_and_a_number_a_line() {
        let dir = tempfile::tempdir().expect("a folder");
        let seen = dir.path().join("seen.jsonl");
        // Copies what it is given, and answers by the number of the line; nothing to say of the second.
        let script = format!(
            "n=0; while read -r line; do printf '%s\\n' \"$line\" >> '{}'; n=$((n+1)); \
             if [ $n = 2 ]; then echo null; else echo \" $n.5 \"; fi; done",
            seen.display()
        );
        let mut program = program(&script, LONG);
        let mut prompt = prompt(Some("7"));
        prompt.columns.insert("level".into(), 3.into());
        assert_eq!(scores_of(&mut program, &prompt, &["one two", "\"ü\"\n"]).unwrap(), [Some(1.5), None]);
        // The same program goes on with the next completions.
        assert_eq!(scores_of(&mut program, &prompt, &["three"]).unwrap(), [Some(3.5)]);
        let text = std::fs::read_to_string(&seen).expect("what it saw");
        let lines: Vec<serde_json::Value> =
            text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
        assert_eq!(lines.len(), 3);
        assert_eq!(lines[1]["completion"], "\"ü\"\n");
        assert_eq!((&lines[0]["answer"], &lines[0]["level"]), (&"7".into(), &3.into()));
        assert_eq!(lines[0]["prompt"][0], serde_json::json!({"role": "user", "content": "How much?"}));
        assert_eq!(lines[0]["completion_ids"].as_array().map(Vec::len), Some(2));
    }

    #[test]
    fn a_program_that_writes_much_and_answers_late_is_not_waited_for_by_itself() {
        // More than a pipe holds in each direction, and on standard error, before the first answer.
        let script = "head -c 300000 /dev/zero | tr '\\0' x >&2; lines=$(head -n 40); \
                      printf '%s' \"$lines\" | wc -l >/dev/null; for i in $(seq 40); do echo 1; done; cat > /dev/null";
        let text = "word ".repeat(3000);
        let got = scores(&mut program(script, LONG), None, &[text.as_str(); 40]).unwrap();
        assert_eq!(got, [Some(1.); 40]);
    }

    #[test]
    fn failures_name_the_completion_and_show_what_the_program_said() {
        let failing = |command: &str, timeout: Duration| {
            scores(&mut program(command, timeout), None, &["a", "b"]).expect_err(command).to_string()
        };
        let says = |error: &str, words: &[&str]| {
            for word in words {
                assert!(error.contains(word), "no {word:?} in: {error}");
            }
        };
        let crash = failing("read -r a; echo 1; echo 'Traceback: no answer column' >&2; exit 3", LONG);
        says(&crash, &["completion 1", "How much?", "exit status: 3", "| Traceback: no answer column"]);
        says(
            &failing("read -r a; echo high", LONG),
            &["completion 0", "\"high\"", "finite number", "nothing to standard error"],
        );
        says(&failing("read -r a; echo nan", LONG), &["\"nan\"", "finite number"]);
        says(
            &failing("echo waiting >&2; cat > /dev/null", Duration::from_millis(300)),
            &["completion 0", "within 0.3 s", "| waiting"],
        );
        says(&failing("no-such-program-here", LONG), &["completion 0", "127", "no-such-program-here"]);
    }

    #[test]
    fn a_program_that_has_failed_is_not_asked_again() {
        let mut program = program("read -r a; echo x", LONG);
        assert!(scores(&mut program, None, &["a"]).is_err());
        let error = scores(&mut program, None, &["a"]).expect_err("it is gone").to_string();
        assert!(error.contains("failed before"), "{error}");
    }
}
