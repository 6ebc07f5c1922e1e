//! A run from its first step, or the one after a checkpoint, to its last.

use super::checkpoint::{self, OPTIMIZER_FILE, Resume};
use super::log::Log;
use super::scale::LossScale;
use super::state::{LogEntry, RunState, State};
use super::step::{self, Gradient, Work};
use super::{Outcome, Progress, StepReport, TrainOptions};
use crate::optimizer::AdamW;
use crate::{Objective, Partition, Policy, Ranks, files};
use anyhow::{Context, Result, bail, ensure};
use candle_ascend::DType;
use candle_ascend::safetensors::MmapedSafetensors;
use serde_json::{Value, json};
use std::path::Path;
use std::time::Instant;

pub struct Run<'a, O> {
    policy: &'a Policy,
    objective: &'a mut O,
    ranks: &'a Ranks,
    options: &'a TrainOptions,
    progress: &'a mut dyn Progress,
    partition: Partition,
    optimizer: AdamW,
    state: State,
    run: RunState,
    /// On the first rank, if anything is written.
    log: Option<Log>,
    began: Instant,
    window_began: Instant,
}

impl<'a, O: Objective> Run<'a, O> {
    /// Makes the optimizer's state and goes to where the run begins.
    pub fn begin(
        policy: &'a Policy,
        objective: &'a mut O,
        ranks: &'a Ranks,
        options: &'a TrainOptions,
        progress: &'a mut dyn Progress,
    ) -> Result<Self> {
        ensure!(!policy.parameters.is_empty(), "nothing of the model is trained");
        ranks.agree(&facts(policy, objective.data(), options))?;
        policy.parameters.iter().try_for_each(|parameter| ranks.share(&parameter.var))?;
        let partition = Partition::new(&policy.parameters, ranks, options.sharding)?;
        let mut run = Self {
            optimizer: AdamW::new(partition.slots().to_vec(), options.optimizer)?,
            partition,
            state: fresh_state(options),
            run: RunState {
                version: env!("CARGO_PKG_VERSION").to_owned(),
                world_size: ranks.size(),
                flags: options.flags.clone(),
                loss_scale: (policy.dtype == DType::F16).then(LossScale::default),
                ..RunState::default()
            },
            policy,
            objective,
            ranks,
            options,
            progress,
            log: None,
            began: Instant::now(),
            window_began: Instant::now(),
        };
        if let Some(output) = &options.output_dir {
            run.resume(output)?;
        }
        Ok(run)
    }

    fn resume(&mut self, output: &Path) -> Result<()> {
        self.policy.check_savable()?;
        let progress = &mut *self.progress;
        let from = checkpoint::find(&self.options.resume, output, &mut |line| progress.say(line))?;
        let found = from.as_ref().map_or("none".into(), |from| from.display().to_string());
        self.ranks.agree(&[("the checkpoint to go on from".to_owned(), found)])?;
        if let Some(from) = from {
            self.restore(&from).with_context(|| format!("going on from {}", from.display()))?;
        }
        // Nobody changes the folder while another looks.
        self.ranks.barrier()?;
        if self.ranks.leads() {
            std::fs::create_dir_all(output).with_context(|| format!("creating {}", output.display()))?;
            files::sweep(output)?;
            if self.options.resume == Resume::Overwrite {
                checkpoint::all(output)?.iter().try_for_each(|(_, path)| checkpoint::remove(path))?;
            }
            self.log = Some(Log::open(output, self.state.global_step)?);
        }
        Ok(())
    }

    fn restore(&mut self, from: &Path) -> Result<()> {
        let (state, run) = State::read(from)?;
        let last = self.options.schedule.max_steps;
        ensure!(state.global_step <= last, "it was written after step {}, this run has {last}", state.global_step);
        for line in run.differences(&self.run) {
            self.progress.say(&format!("note: {line}"));
        }
        self.policy.restore(from)?;
        self.partition.restore(&mut self.optimizer, &MmapedSafetensors::new(from.join(OPTIMIZER_FILE))?)?;
        let RunState { loss_scale, window, total_loss, .. } = run;
        self.run = RunState { loss_scale: self.run.loss_scale.and(loss_scale), window, total_loss, ..self.run.clone() };
        self.state = State { log_history: state.log_history, ..fresh_state(self.options) };
        (self.state.global_step, self.state.epoch) = (state.global_step, state.epoch);
        self.state.num_input_tokens_seen = state.num_input_tokens_seen;
        self.progress.say(&format!("going on after step {} of {}", state.global_step, from.display()));
        Ok(())
    }

    pub fn go_on(mut self) -> Result<Outcome> {
        let steps = self.options.schedule.max_steps;
        let mut eval_loss = None;
        self.progress.start(self.state.global_step, steps);
        let first = self.state.global_step;
        for step in first..steps {
            self.step(step).with_context(|| format!("in step {} of {steps}{}", step + 1, self.kept()))?;
            let (after, last) = (step + 1, step + 1 == steps);
            let due = |every: usize| last || (every > 0 && after.is_multiple_of(every));
            if due(self.options.logging_steps) {
                self.log_window()?;
            }
            if due(self.options.eval_steps) {
                eval_loss = self.evaluate()?;
            }
            if self.options.save_steps > 0 && due(self.options.save_steps) {
                self.save()?;
            }
        }
        self.finish(first, eval_loss)
    }

    fn step(&mut self, step: usize) -> Result<()> {
        let began = Instant::now();
        self.policy.begin_step(self.options.seed, step, self.ranks);
        let batches = self.objective.batches(step, self.policy, self.ranks)?;
        let work = Work::of(self.objective, batches, self.ranks)?;
        let scale = self.run.loss_scale.map_or(1., |scale| scale.factor());
        let found = step::gradient(self.objective, self.policy, &self.partition, &work, scale)?;
        let losses = found.losses.clone();
        ensure!(losses.loss.is_finite(), "the loss is {}: {}", losses.loss, advice());
        let norm = self.apply(step, found, scale)?;
        self.run.window.add(losses.loss, &losses.also, work.tokens);
        self.run.window.grad_norm = norm.or(self.run.window.grad_norm);
        self.run.total_loss += losses.loss;
        self.state.global_step = step + 1;
        self.state.num_input_tokens_seen += work.tokens as u64;
        self.state.epoch = self.objective.epoch(step + 1).unwrap_or(0.);
        let tokens_per_second = work.tokens / began.elapsed().as_secs_f64();
        self.progress.step(&StepReport { step: step + 1, loss: losses.loss, tokens_per_second });
        Ok(())
    }

    /// Clips and makes the optimizer's step; gives the norm before clipping, none where the step was skipped.
    fn apply(&mut self, step: usize, found: Gradient, scale: f64) -> Result<Option<f64>> {
        let Gradient { grads, squares, .. } = found;
        if let Some(bad) = squares.iter().position(|square| !square.is_finite()) {
            let what = format!("the gradient of {}", self.partition.slots()[bad].name);
            let Some(loss_scale) = &mut self.run.loss_scale else { bail!("{what} is not finite: {}", advice()) };
            loss_scale.overflowed(&what)?;
            self.run.window.skipped += 1;
            return Ok(None);
        }
        if let Some(loss_scale) = &mut self.run.loss_scale {
            loss_scale.passed();
        }
        let norm = squares.iter().sum::<f64>().sqrt();
        let most = self.options.max_grad_norm;
        // The constant is PyTorch's.
        let clip = if most > 0. { (most / (norm + 1e-6)).min(1.) } else { 1. };
        self.optimizer.step(&grads, clip / scale, self.options.schedule.at(step))?;
        self.partition.spread()?;
        Ok(Some(norm))
    }

    /// A line of the logs for the steps since the last.
    fn log_window(&mut self) -> Result<()> {
        let window = std::mem::take(&mut self.run.window);
        let began = std::mem::replace(&mut self.window_began, Instant::now());
        let mean = |sum: f64| sum / window.steps.max(1) as f64;
        let mut entry = LogEntry::new();
        entry.insert("loss".into(), json!(mean(window.loss)));
        if let Some(norm) = window.grad_norm {
            entry.insert("grad_norm".into(), json!(norm));
        }
        entry.insert("learning_rate".into(), json!(self.options.schedule.at(self.state.global_step - 1)));
        entry.extend(window.also.iter().map(|(name, sum)| (name.clone(), json!(mean(*sum)))));
        entry.extend(self.objective.metrics(self.ranks)?.into_iter().map(|(name, value)| (name, json!(value))));
        if let Some(scale) = self.run.loss_scale {
            entry.insert("loss_scale".into(), json!(scale.factor()));
            entry.insert("skipped_steps".into(), json!(window.skipped));
        }
        entry.insert("num_tokens".into(), json!(self.state.num_input_tokens_seen));
        entry.insert("tokens_per_second".into(), json!(window.tokens / (self.window_began - began).as_secs_f64()));
        self.log(entry)
    }

    fn evaluate(&mut self) -> Result<Option<f64>> {
        let began = Instant::now();
        let step = self.state.global_step;
        let found = step::evaluate(self.objective, self.policy, self.ranks)
            .with_context(|| format!("in the evaluation after step {step}"))?;
        let Some(losses) = found else { return Ok(None) };
        let mut entry = LogEntry::new();
        entry.insert("eval_loss".into(), json!(losses.loss));
        entry.extend(losses.also.iter().map(|(name, value)| (format!("eval_{name}"), json!(value))));
        entry.insert("eval_runtime".into(), json!(began.elapsed().as_secs_f64()));
        self.log(entry)?;
        // The time of an evaluation is not the training's.
        self.window_began += began.elapsed();
        Ok(Some(losses.loss))
    }

    /// Adds the epoch and the step to `entry` and hands it on.
    fn log(&mut self, mut entry: LogEntry) -> Result<()> {
        if self.objective.epoch(self.state.global_step).is_some() {
            entry.insert("epoch".into(), json!(self.state.epoch));
        }
        entry.insert("step".into(), json!(self.state.global_step));
        if let Some(log) = &mut self.log {
            log.line(&entry)?;
        }
        self.progress.logged(&entry);
        self.state.log_history.push(entry);
        Ok(())
    }

    /// Writes `checkpoint-N`.
    fn save(&mut self) -> Result<()> {
        let Some(output) = &self.options.output_dir else { return Ok(()) };
        self.check_weights()?;
        let optimizer = self.partition.gather(&self.optimizer)?;
        if let Some(optimizer) = optimizer.filter(|_| self.log.is_some()) {
            let path = checkpoint::path(output, self.state.global_step);
            let write = |folder: &Path| -> Result<()> {
                self.policy.save(folder)?;
                files::safetensors_of(&folder.join(OPTIMIZER_FILE), &optimizer)?;
                self.state.write(&self.run, folder)
            };
            files::folder(&path, write)
                .with_context(|| format!("{} could not be written{}", path.display(), self.kept()))?;
            if let Some(limit) = self.options.save_total_limit {
                checkpoint::prune(output, limit)?;
            }
        }
        Ok(())
    }

    /// An error if a weight is no number. A step's loss tells it of the step before; nothing tells it of the last one.
    fn check_weights(&self) -> Result<()> {
        if let Some(name) = self.policy.first_not_finite()? {
            bail!(
                "after step {} {name} has values that are not finite, and nothing of them is written{}; a lower --learning-rate \
                 may help",
                self.state.global_step,
                self.kept()
            )
        }
        Ok(())
    }

    /// What an error leaves to go on from.
    fn kept(&self) -> String {
        let last = self.options.output_dir.as_deref().and_then(|output| checkpoint::all(output).ok()?.pop());
        last.map_or(String::new(), |(_, path)| format!("; {} is whole, --resume goes on from there", path.display()))
    }

    fn finish(mut self, first: usize, eval_loss: Option<f64>) -> Result<Outcome> {
        let seconds = self.began.elapsed().as_secs_f64();
        let steps = self.state.global_step;
        let train_loss = self.run.total_loss / steps.max(1) as f64;
        let mut entry = LogEntry::new();
        entry.insert("train_runtime".into(), json!(seconds));
        entry.insert("train_steps_per_second".into(), json!((steps - first) as f64 / seconds));
        entry.insert("train_loss".into(), json!(train_loss));
        self.log(entry)?;
        if self.options.output_dir.is_some() {
            self.check_weights()?;
        }
        if let (Some(output), Some(log)) = (&self.options.output_dir, &self.log) {
            files::into_folder(output, |folder| {
                self.policy.save(folder)?;
                self.state.write(&self.run, folder)
            })
            .with_context(|| format!("the trained model could not be written{}", self.kept()))?;
            log.draw(&self.state.log_history)?;
        }
        self.ranks.barrier()?;
        let optimizer_bytes = self.optimizer.state_bytes() + self.partition.piece_bytes();
        Ok(Outcome { state: self.state, train_loss, eval_loss, seconds, optimizer_bytes })
    }
}

/// What all ranks must have alike before the first step.
fn facts(policy: &Policy, data: String, options: &TrainOptions) -> Vec<(String, String)> {
    let checksum = |text: &str| format!("{:08x}", crc32c::crc32c(text.as_bytes()));
    let version = ("npu-run".to_owned(), env!("CARGO_PKG_VERSION").to_owned());
    let flags = options.flags.iter().map(|(name, value)| (format!("--{name}"), value.to_string()));
    let shapes = policy.parameters.iter().map(|p| format!("{} {:?} {:?}", p.parts[0].0, p.var.shape(), p.var.dtype()));
    let shapes = shapes.collect::<Vec<_>>().join("; ");
    let files = [
        ("the data, with the checksum of its samples' lengths,".to_owned(), data),
        ("the checksum of the model's configuration".to_owned(), checksum(&format!("{:?}", policy.model.config()))),
        ("the checksum of what is trained".to_owned(), checksum(&shapes)),
    ];
    [version].into_iter().chain(flags).chain(files).collect()
}

fn fresh_state(options: &TrainOptions) -> State {
    let flag = |name: &str| options.flags.get(name).and_then(Value::as_f64);
    State {
        eval_steps: options.eval_steps,
        is_local_process_zero: true,
        is_world_process_zero: true,
        logging_steps: options.logging_steps,
        max_steps: options.schedule.max_steps,
        num_train_epochs: flag("num-train-epochs").map_or(0, |epochs| epochs.ceil() as usize),
        save_steps: options.save_steps,
        train_batch_size: flag("per-device-train-batch-size").map(|size| size as usize),
        ..State::default()
    }
}

fn advice() -> &'static str {
    "the parameters are as they were before this step; a lower --learning-rate, a longer --warmup-steps or a smaller \
     --max-grad-norm may help, or a sample that should not be in the data"
}
