//! The logs of a run: a line of JSON each time, the same for TensorBoard, and the curve at the end.

use super::curve;
use super::events::Events;
use super::state::LogEntry;
use crate::files;
use anyhow::{Context, Result};
use serde_json::Value;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

const LINES: &str = "trainer_log.jsonl";
const CURVE: &str = "loss.svg";
const EVENTS: &str = "runs";

/// Logs in the output folder, which the first rank writes.
pub struct Log {
    output: PathBuf,
    lines: File,
    events: Events,
}

impl Log {
    /// Logs that go on after `step`. Lines of steps after it, which a run wrote before it was ended, are taken out: those steps
    /// come again.
    pub fn open(output: &Path, step: usize) -> Result<Self> {
        let path = output.join(LINES);
        if path.exists() {
            let text = std::fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
            let of = |line: &str| serde_json::from_str::<LogEntry>(line).ok()?.get("step")?.as_u64();
            let kept = text.lines().filter(|line| of(line).is_some_and(|at| at <= step as u64 && step > 0));
            let kept: String = kept.flat_map(|line| [line, "\n"]).collect();
            files::file(&path, kept.as_bytes())?;
        }
        let lines = OpenOptions::new().create(true).append(true).open(&path);
        let lines = lines.with_context(|| format!("opening {}", path.display()))?;
        Ok(Self { output: output.to_owned(), lines, events: Events::create(&output.join(EVENTS))? })
    }

    /// Adds a line; `entry` has its step.
    pub fn line(&mut self, entry: &LogEntry) -> Result<()> {
        let text = serde_json::to_string(entry)? + "\n";
        self.lines
            .write_all(text.as_bytes())
            .with_context(|| format!("writing {}", self.output.join(LINES).display()))?;
        let step = entry.get("step").and_then(Value::as_u64).unwrap_or(0) as usize;
        for (name, value) in entry.iter().filter(|(name, _)| *name != "step") {
            if let Some(value) = value.as_f64() {
                self.events.scalar(step, &tag(name), value)?;
            }
        }
        Ok(())
    }

    /// Draws the losses of `history`.
    pub fn draw(&self, history: &[LogEntry]) -> Result<()> {
        match curve::svg(history)? {
            Some(svg) => files::file(&self.output.join(CURVE), svg.as_bytes()),
            None => Ok(()),
        }
    }
}

/// Under which group TensorBoard shows `name`: transformers' rule.
fn tag(name: &str) -> String {
    match name.strip_prefix("eval_") {
        Some(rest) => format!("eval/{rest}"),
        None => format!("train/{name}"),
    }
}
