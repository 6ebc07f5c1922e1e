//! Other programs on the same shape: found, run, and blamed by name when they fail.

use super::gguf;
use super::plan::{Peer, Plan};
use super::report::Sample;
use crate::cli::BenchArgs;
use anyhow::{Context, Result, anyhow, bail};
use candle_ascend::DType;
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Output, Stdio};
use tempfile::NamedTempFile;

/// A peer that is not on this machine, or cannot do what is asked: said, and not an error.
#[derive(Debug)]
pub struct Absent(pub String);

impl std::fmt::Display for Absent {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

impl std::error::Error for Absent {}

fn absent<T>(text: String) -> Result<T> {
    Err(anyhow!(Absent(text)))
}

/// A program that runs the same work.
pub trait Contender {
    /// Its name and version, for the report.
    fn name(&self) -> String;

    /// One prefill and decode, in tokens per second.
    fn run(&mut self) -> Result<Sample>;
}

/// Makes `peer` ready to run.
pub fn open(peer: Peer, plan: &Plan, args: &BenchArgs) -> Result<Box<dyn Contender>> {
    Ok(match peer {
        Peer::LlamaBench => Box::new(LlamaBench::open(plan, args.llama_bench.as_deref())?),
        Peer::PyTorch => Box::new(PyTorch::open(plan, &args.python)?),
    })
}

/// The command as one would type it.
fn typed(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ")
}

/// The last lines of what a program said on its error stream.
fn tail(stderr: &[u8]) -> String {
    let text = String::from_utf8_lossy(stderr);
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(8)..].join("\n    ")
}

fn finished(command: &mut Command) -> Result<Output> {
    let output = command.stdin(Stdio::null()).output().with_context(|| format!("starting {}", typed(command)))?;
    if !output.status.success() {
        bail!("{} ended with {}; its last words:\n    {}", typed(command), output.status, tail(&output.stderr));
    }
    Ok(output)
}

/// `name` in one of the folders of `PATH`.
fn on_path(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|folder| folder.join(name)).find(|file| file.is_file())
}

/// llama.cpp's own benchmark, on a temporary file of random weights.
struct LlamaBench {
    program: PathBuf,
    file: NamedTempFile,
    prompt: usize,
    decode: usize,
    threads: usize,
    build: Option<String>,
}

impl LlamaBench {
    fn open(plan: &Plan, given: Option<&Path>) -> Result<Self> {
        let program = match given {
            Some(path) if path.is_file() => path.to_owned(),
            Some(path) => return absent(format!("--llama-bench {} is no file", path.display())),
            None => match on_path("llama-bench") {
                Some(path) => path,
                None => return absent("llama-bench is not on PATH; name it by --llama-bench PATH".into()),
            },
        };
        let file = gguf::temporary(&plan.config, plan.format)?;
        let (prompt, decode, threads) = (plan.prompt_tokens, plan.decode_tokens, plan.threads);
        Ok(Self { program, file, prompt, decode, threads, build: None })
    }

    /// One test; `depth` tokens are in the cache before.
    fn test(&mut self, prompt: usize, decode: usize, depth: usize) -> Result<f64> {
        let numbers = [("-p", prompt), ("-n", decode), ("-d", depth), ("-t", self.threads), ("-r", 1)];
        let mut command = Command::new(&self.program);
        command.arg("-m").arg(self.file.path()).args(["-o", "json"]);
        command.args(numbers.iter().flat_map(|(flag, number)| [flag.to_string(), number.to_string()]));
        let output = finished(&mut command)?;
        let answer = || format!("the answer of {}", typed(&command));
        let (rate, build) = parse(&output.stdout, prompt, decode).with_context(answer)?;
        self.build = build;
        Ok(rate)
    }
}

/// Tokens per second of the test with these counts, and the build, in what `llama-bench -o json` prints: a list with an
/// object a test.
fn parse(stdout: &[u8], prompt: usize, decode: usize) -> Result<(f64, Option<String>)> {
    let tests: Vec<Value> = serde_json::from_slice(stdout).context("is no JSON list of tests")?;
    let number = |test: &Value, key: &str| test.get(key).and_then(Value::as_u64);
    let wanted =
        |test: &&Value| (number(test, "n_prompt"), number(test, "n_gen")) == (Some(prompt as u64), Some(decode as u64));
    let test = tests.iter().find(wanted);
    let test = test.with_context(|| format!("has no test with n_prompt {prompt} and n_gen {decode}"))?;
    let rate = test.get("avg_ts").and_then(Value::as_f64).filter(|rate| *rate > 0.0);
    let build = test.get("build_commit").and_then(Value::as_str).map(str::to_owned);
    Ok((rate.context("has no positive avg_ts, the tokens per second")?, build))
}

impl Contender for LlamaBench {
    fn name(&self) -> String {
        match &self.build {
            Some(build) => format!("llama-bench {build}"),
            None => "llama-bench".into(),
        }
    }

    fn run(&mut self) -> Result<Sample> {
        let (prompt, decode) = (self.prompt, self.decode);
        Ok(Sample { prefill: self.test(prompt, 0, 0)?, decode: self.test(0, decode, prompt)? })
    }
}

/// A Python program that waits between questions, each a line, and answers with a line of JSON.
pub struct Script {
    /// What it says it computes with.
    pub via: String,
    child: Child,
    ask: ChildStdin,
    answers: BufReader<ChildStdout>,
    log: NamedTempFile,
    pub command: String,
}

impl Script {
    /// Starts `script`, called `file`, with what it is asked for; `needs` are the imports without which it is absent.
    pub fn open(python: &Path, needs: &str, file: &str, script: &str, asked: &Value) -> Result<Self> {
        let name = python.display();
        match Command::new(python).args(["-c", needs]).stdin(Stdio::null()).output() {
            Err(error) => return absent(format!("{name} does not start ({error}); name another by --python")),
            Ok(output) if !output.status.success() => {
                let last = tail(&output.stderr);
                let last = last.lines().last().unwrap_or("no reason given").trim();
                return absent(format!("{name} cannot run {needs:?}: {last}"));
            }
            Ok(_) => {}
        }
        let log = NamedTempFile::new()?;
        let mut command = Command::new(python);
        command.arg("-c").arg(script).arg(asked.to_string()).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.stderr(log.reopen()?).spawn().with_context(|| format!("starting {name}"))?;
        let pipes = child.stdin.take().zip(child.stdout.take());
        let (ask, answers) = pipes.context("the pipes of a child that was just made")?;
        let command = format!("{name} -c <{file}> '{asked}'");
        let mut own = Self { via: String::new(), child, ask, answers: BufReader::new(answers), log, command };
        let ready = own.answer()?;
        own.via = ready.get("ready").and_then(Value::as_str).unwrap_or("PyTorch").to_owned();
        Ok(own)
    }

    /// Has it run once.
    pub fn ask(&mut self) -> Result<Value> {
        // Where the process is gone, its last words say why.
        let _ = self.ask.write_all(b"run\n").and_then(|()| self.ask.flush());
        self.answer()
    }

    fn answer(&mut self) -> Result<Value> {
        let mut line = String::new();
        self.answers.read_line(&mut line).with_context(|| format!("reading from {}", self.command))?;
        if line.is_empty() {
            let status = self.child.wait()?;
            let said = std::fs::read(self.log.path())?;
            bail!("{} ended with {status}; its last words:\n    {}", self.command, tail(&said));
        }
        serde_json::from_str(&line).with_context(|| format!("{} answered {line:?}", self.command))
    }
}

impl Drop for Script {
    fn drop(&mut self) {
        // It waits for a line that does not come; nothing of it is worth an orderly end.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A decoder in PyTorch.
struct PyTorch {
    script: Script,
    prompt: usize,
    decode: usize,
}

const SCRIPT: &str = include_str!("pytorch.py");

impl PyTorch {
    fn open(plan: &Plan, python: &Path) -> Result<Self> {
        if plan.dtype().is_none() {
            return absent(format!("PyTorch has no {}", plan.format_name()));
        }
        let (prompt, decode) = (plan.prompt_tokens, plan.decode_tokens);
        let asked = json!({
            "config": config(plan),
            "dtype": plan.dtype().unwrap_or(DType::F32).as_str(),
            "device": plan.peer_device(),
            "threads": plan.threads,
            "prompt": prompt,
            "decode": decode,
        });
        Ok(Self { script: Script::open(python, "import torch", "pytorch.py", SCRIPT, &asked)?, prompt, decode })
    }
}

/// `config.json` for a script.
pub fn config(plan: &Plan) -> Value {
    let c = &plan.config;
    let by_architecture = c.architecture.as_deref().and_then(|name| name.strip_suffix("ForCausalLM"));
    let family = c.model_type.clone().or(by_architecture.map(str::to_lowercase));
    json!({
        "model_type": family,
        "vocab_size": c.vocab_size,
        "hidden_size": c.hidden_size,
        "intermediate_size": c.intermediate_size,
        "num_hidden_layers": c.num_hidden_layers,
        "num_attention_heads": c.num_attention_heads,
        "num_key_value_heads": c.num_key_value_heads,
        "head_dim": c.head_dim,
        "max_position_embeddings": c.max_position_embeddings,
        "rms_norm_eps": c.rms_norm_eps,
        "rope_theta": c.rope.theta,
        "tie_word_embeddings": c.tie_word_embeddings,
    })
}

impl Contender for PyTorch {
    fn name(&self) -> String {
        self.script.via.clone()
    }

    fn run(&mut self) -> Result<Sample> {
        let answer = self.script.ask()?;
        let rate = |tokens: usize, key: &str| match answer.get(key).and_then(Value::as_f64) {
            Some(seconds) if seconds > 0.0 => Ok(tokens as f64 / seconds),
            _ => Err(anyhow!("{} answered {answer}, wanted {key}", self.script.command)),
        };
        Ok(Sample { prefill: rate(self.prompt, "prefill_seconds")?, decode: rate(self.decode, "decode_seconds")? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_found_by_their_counts() {
        let answer = br#"[{"build_commit": "abc", "n_prompt": 128, "n_gen": 0, "avg_ts": 137.5},
                          {"build_commit": "abc", "n_prompt": 0, "n_gen": 32, "avg_ts": 28.25}]"#;
        assert_eq!(parse(answer, 0, 32).unwrap(), (28.25, Some("abc".into())));
        assert_eq!(parse(answer, 128, 0).unwrap().0, 137.5);
        for (answer, says) in [("[]", "no test"), ("error", "no JSON"), (r#"[{"n_prompt": 1, "n_gen": 0}]"#, "avg_ts")]
        {
            let error = format!("{:#}", parse(answer.as_bytes(), 1, 0).unwrap_err());
            assert!(error.contains(says), "{error}");
        }
    }

    #[test]
    fn last_words_are_the_last_lines() {
        let many: String = (0..20).map(|i| format!("line {i}\n")).collect();
        assert_eq!(tail(many.as_bytes()).lines().count(), 8);
        assert!(tail(many.as_bytes()).ends_with("line 19"));
    }
}
