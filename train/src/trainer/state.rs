//! What a run remembers from step to step: in transformers' `trainer_state.json`, and beside it what only this trainer needs.

use super::scale::LossScale;
use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::path::Path;

/// One line of the logs.
pub type LogEntry = Map<String, Value>;

pub const STATE_FILE: &str = "trainer_state.json";
pub const RUN_FILE: &str = "npu_run_state.json";

/// The fields of `trainer_state.json` that transformers reads.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct State {
    pub best_global_step: Option<usize>,
    pub best_metric: Option<f64>,
    pub best_model_checkpoint: Option<String>,
    pub epoch: f64,
    pub eval_steps: usize,
    pub global_step: usize,
    pub is_hyper_param_search: bool,
    pub is_local_process_zero: bool,
    pub is_world_process_zero: bool,
    pub log_history: Vec<LogEntry>,
    pub logging_steps: usize,
    pub max_steps: usize,
    pub num_input_tokens_seen: u64,
    pub num_train_epochs: usize,
    pub save_steps: usize,
    pub total_flos: f64,
    pub train_batch_size: Option<usize>,
    pub trial_name: Option<String>,
    pub trial_params: Option<Value>,
}

/// What else it takes to go on as if nothing had happened.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct RunState {
    pub version: String,
    pub world_size: usize,
    /// What the run was started with, by the names of the command line.
    pub flags: Map<String, Value>,
    pub loss_scale: Option<LossScale>,
    pub window: Window,
    /// Of all steps, for the mean.
    pub total_loss: f64,
}

/// What has been added up since the last line of the logs.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Window {
    pub steps: usize,
    pub loss: f64,
    pub also: Vec<(String, f64)>,
    /// Steps that overflowed in F16 and were not made.
    pub skipped: usize,
    /// Of the last step that was made.
    pub grad_norm: Option<f64>,
    #[serde(skip)]
    pub tokens: f64,
}

impl Window {
    /// Counts a step with its loss and what else its objective measured.
    pub fn add(&mut self, loss: f64, also: &[(&'static str, f64)], tokens: f64) {
        self.steps += 1;
        self.loss += loss;
        self.tokens += tokens;
        for (name, value) in also {
            match self.also.iter_mut().find(|(held, _)| held == name) {
                Some((_, sum)) => *sum += value,
                None => self.also.push(((*name).to_owned(), *value)),
            }
        }
    }
}

impl State {
    pub fn read(folder: &Path) -> Result<(Self, RunState)> {
        fn of<T: serde::de::DeserializeOwned>(path: &Path) -> Result<T> {
            let read = || -> Result<T> { Ok(serde_json::from_str(&std::fs::read_to_string(path)?)?) };
            read().with_context(|| format!("reading {}", path.display()))
        }
        Ok((of(&folder.join(STATE_FILE))?, of(&folder.join(RUN_FILE))?))
    }

    pub fn write(&self, run: &RunState, folder: &Path) -> Result<()> {
        let pretty = |value: Value| -> Result<String> { Ok(serde_json::to_string_pretty(&value)? + "\n") };
        for (name, value) in [(STATE_FILE, serde_json::to_value(self)?), (RUN_FILE, serde_json::to_value(run)?)] {
            let path = folder.join(name);
            std::fs::write(&path, pretty(value)?).with_context(|| format!("writing {}", path.display()))?;
        }
        Ok(())
    }
}

impl RunState {
    /// What `now` was started with that this was not: a line each.
    pub fn differences(&self, now: &Self) -> Vec<String> {
        let mut lines = Vec::new();
        if self.world_size != now.world_size {
            lines.push(format!(
                "the checkpoint was written by {} ranks, this run has {}",
                self.world_size, now.world_size
            ));
        }
        let absent = Value::Null;
        let names = self.flags.keys().chain(now.flags.keys().filter(|name| !self.flags.contains_key(*name)));
        for name in names {
            let (then, now) = (self.flags.get(name).unwrap_or(&absent), now.flags.get(name).unwrap_or(&absent));
            if then != now {
                lines.push(format!("--{name} was {then} when the checkpoint was written and is {now} now"));
            }
        }
        lines
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_differs_on_resume_is_named_with_both_values() {
        let run = |world_size, flags: Value| RunState {
            world_size,
            flags: flags.as_object().cloned().unwrap(),
            ..RunState::default()
        };
        let then = run(2, json!({ "learning-rate": 1e-4, "seed": 1, "packing": true }));
        assert!(then.differences(&then).is_empty());
        let lines = then.differences(&run(1, json!({ "learning-rate": 2e-4, "seed": 1, "max-steps": 5 })));
        let said = lines.join("\n");
        assert_eq!(lines.len(), 4, "{said}");
        for words in [
            "2 ranks, this run has 1",
            "--learning-rate was 0.0001",
            "is 0.0002 now",
            "--packing was true",
            "--max-steps was null",
        ] {
            assert!(said.contains(words), "{words}: {said}");
        }
    }
}
