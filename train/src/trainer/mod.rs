//! The loop that every objective is trained by.
//!
//! A step: the objective's batches, forward and backward of each, the sums over them and over the ranks, one read of losses and
//! norms by the host, clipping, the optimizer. That read is the only time the host waits for the device.

mod checkpoint;
mod curve;
mod events;
mod log;
mod progress;
mod run;
mod scale;
mod schedule;
mod state;
mod step;

pub use checkpoint::Resume;
pub use progress::{Plain, Progress, StepReport};
pub use schedule::{Decay, Schedule};
pub use state::{LogEntry, RunState, State};

use crate::optimizer::AdamWOptions;
use crate::{Objective, Policy, Ranks, Sharding};
use anyhow::{Result, ensure};
use run::Run;
use serde_json::{Map, Value};
use std::path::PathBuf;

/// How a run is to go, whatever it is trained for.
#[derive(Clone, Debug)]
pub struct TrainOptions {
    /// Takes checkpoints, logs and at the end the trained model; without it nothing is written.
    pub output_dir: Option<PathBuf>,
    pub schedule: Schedule,
    pub optimizer: AdamWOptions,
    /// How the ranks share the work.
    pub sharding: Sharding,
    /// Gradients are scaled down to this norm; 0 leaves them.
    pub max_grad_norm: f64,
    /// Steps between two lines of the logs; 0 for one line at the end.
    pub logging_steps: usize,
    /// Steps between two checkpoints; 0 for none.
    pub save_steps: usize,
    /// Checkpoints that are kept; all without.
    pub save_total_limit: Option<usize>,
    /// Steps between two looks at the held-out samples; 0 for one at the end.
    pub eval_steps: usize,
    pub resume: Resume,
    /// Of whatever is drawn at random.
    pub seed: u64,
    /// What the run was started with, by the names of the command line: kept with checkpoints, compared on resume.
    pub flags: Map<String, Value>,
}

impl TrainOptions {
    /// transformers' defaults for `max_steps` steps with a rate of `learning_rate` at its peak, writing nothing.
    pub fn new(max_steps: usize, learning_rate: f64) -> Self {
        Self {
            output_dir: None,
            schedule: Schedule { peak: learning_rate, decay: Decay::Linear, warmup_steps: 0, max_steps },
            optimizer: AdamWOptions::default(),
            sharding: Sharding::default(),
            max_grad_norm: 1.,
            logging_steps: 10,
            save_steps: 500,
            save_total_limit: None,
            eval_steps: 0,
            resume: Resume::No,
            seed: 42,
            flags: Map::new(),
        }
    }
}

impl TrainOptions {
    /// An error that names what is out of its range.
    pub fn check(&self) -> Result<()> {
        let (rate, norm) = (self.schedule.peak, self.max_grad_norm);
        ensure!(rate.is_finite() && rate > 0., "--learning-rate {rate}: wanted a number above 0");
        ensure!(
            norm.is_finite() && norm >= 0.,
            "--max-grad-norm {norm}: wanted a number from 0 on; 0 leaves gradients as they are"
        );
        self.optimizer.check()
    }
}

/// How a run ended.
#[derive(Clone, Debug)]
pub struct Outcome {
    pub state: State,
    /// The mean over all steps.
    pub train_loss: f64,
    pub eval_loss: Option<f64>,
    pub seconds: f64,
    /// Bytes of the optimizer's state on this rank.
    pub optimizer_bytes: usize,
}

/// Trains `policy` for `objective`, on this rank among `ranks`. On return the policy's parameters are the trained ones.
pub fn train<O: Objective>(
    policy: &Policy,
    objective: &mut O,
    ranks: &Ranks,
    options: &TrainOptions,
    progress: &mut dyn Progress,
) -> Result<Outcome> {
    options.check()?;
    Run::begin(policy, objective, ranks, options, progress)?.go_on()
}
