//! How a run goes, on the screen: a bar on a terminal, and a line each time the logs get one.

use crate::progress;
use indicatif::ProgressBar;
use npu_train::{LogEntry, Progress, StepReport};
use serde_json::Value;
use std::time::{Duration, Instant};

/// Between two lines where there is no bar that moves.
const QUIET: Duration = Duration::from_secs(1);

pub struct Screen {
    silent: bool,
    bar: ProgressBar,
    steps: usize,
    shown: Option<Instant>,
}

impl Screen {
    /// One that shows nothing if `silent`.
    pub fn new(silent: bool) -> Self {
        Self { silent, bar: ProgressBar::hidden(), steps: 0, shown: None }
    }

    fn line(&self, text: &str) {
        match (self.silent, self.bar.is_hidden()) {
            (true, _) => {}
            (false, true) => eprintln!("{text}"),
            (false, false) => self.bar.println(text),
        }
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

impl Progress for Screen {
    fn start(&mut self, done: usize, steps: usize) {
        self.steps = steps;
        self.bar = progress::training(steps, self.silent);
        // What an earlier run did says nothing of how long this one takes.
        self.bar.set_position(done as u64);
        self.bar.reset_eta();
    }

    fn step(&mut self, at: &StepReport) {
        self.bar.set_position(at.step as u64);
        self.bar.set_message(format!("loss {:.4}, {:.0} tokens/s", at.loss, at.tokens_per_second));
    }

    fn logged(&mut self, entry: &LogEntry) {
        let is_last = entry.contains_key("train_runtime");
        let now = Instant::now();
        let soon = self.shown.is_some_and(|shown| now - shown < QUIET) && self.bar.is_hidden();
        let evaluated = entry.contains_key("eval_loss");
        if is_last || (soon && !evaluated) {
            return;
        }
        self.shown = Some(now);
        let step = entry.get("step").map_or(String::new(), Value::to_string);
        let shown = entry.iter().filter(|(name, _)| *name != "step");
        let shown: Vec<String> = shown.map(|(name, value)| format!("{name} {}", number(value))).collect();
        self.line(&format!("step {step}/{}: {}", self.steps, shown.join(" · ")));
    }

    fn say(&mut self, line: &str) {
        self.line(line);
    }
}

/// Four digits, as many as say something.
fn number(value: &Value) -> String {
    match value.as_f64() {
        Some(number) if value.is_f64() && (1e-3..1e4).contains(&number.abs()) => format!("{number:.4}"),
        Some(number) if value.is_f64() && number != 0. => format!("{number:.3e}"),
        _ => value.to_string(),
    }
}
