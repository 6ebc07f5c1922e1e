//! From the arguments that every objective takes to a run, and its report.

use super::args::{DataArgs, Optim, TrainArgs};
use super::screen::Screen;
use crate::device::Opened;
use crate::model::{self, Folder};
use crate::{progress, ranks, report};
use anyhow::{Context, Result, bail, ensure};
use candle_ascend::autograd::Checkpoint;
use candle_ascend::{DType, Device};
use npu_models::Inventory;
use npu_train::data::{Corpus, DataOptions, Encoder, Length, Plan, PlanOptions};
use npu_train::{Objective, Outcome, Planned, Policy, Ranks, Resume, Schedule, TrainOptions, Zero, train};
use serde::Serialize;
use serde_json::{Map, Value, json};
use std::collections::HashSet;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

/// A run before its samples and its model are there.
pub struct Setup<'a> {
    pub args: &'a TrainArgs,
    objective: &'static str,
    /// What the run was started with, by name.
    flags: Map<String, Value>,
    pub folder: Folder,
    pub opened: Opened,
    pub dtype: DType,
    pub ranks: Ranks,
}

/// How a corpus is opened: for its samples, or for its prompts.
type OpenCorpus = fn(&[PathBuf], &DataOptions, Arc<Encoder>, &dyn Fn(usize, usize)) -> Result<Corpus>;

/// How long a run is.
pub struct Steps {
    pub steps: usize,
    /// In words.
    pub line: String,
}

impl<'a> Setup<'a> {
    /// Opens the device. `all` are the arguments of the subcommand, `args` among them.
    pub fn new(args: &'a TrainArgs, objective: &'static str, all: &impl Serialize) -> Result<Self> {
        // Numbers out of their range are said before anything is opened.
        TrainOptions {
            optimizer: args.adamw(),
            max_grad_norm: args.max_grad_norm,
            ..TrainOptions::new(1, args.learning_rate.unwrap_or(1.))
        }
        .check()?;
        let flags = match serde_json::to_value(all)? {
            Value::Object(flags) => flags,
            other => bail!("the arguments are {other} instead of a list of names and values"),
        };
        let folder = Folder::of(&args.model)?;
        let (opened, ranks) = ranks::open(&args.parallel, &args.device)?;
        let dtype = match (args.bf16, args.fp16) {
            (true, _) => DType::BF16,
            (_, true) => DType::F16,
            _ => model::dtype(&args.model, &folder, &opened.device)?,
        };
        let setup = Self { args, objective, flags, folder, opened, dtype, ranks };
        let together = match setup.ranks.size() {
            1 => String::new(),
            size => format!(", {size} ranks"),
        };
        setup.say(&format!("{} on {}, {}{together}", setup.folder.name(), setup.opened.line, dtype.as_str()));
        Ok(setup)
    }

    /// Says something to the user: on the first rank, and not where one report is asked for.
    pub fn say(&self, line: &str) {
        if !self.args.json && self.ranks.leads() {
            eprintln!("{}", report::dimmed(line));
        }
    }

    /// Opens the samples of `args` by `open`: those to train on, and those held out.
    pub fn corpora(&self, args: &DataArgs, open: OpenCorpus) -> Result<(Corpus, Option<Corpus>)> {
        let options = DataOptions {
            format: args.format.as_deref().map(str::parse).transpose()?,
            max_length: args.max_length,
            drop_long: args.drop_long,
            learn_all: args.learn_all,
            skip_bad_lines: args.skip_bad_lines,
            think: !args.no_think,
            raw: args.raw,
        };
        let encoder = Arc::new(Encoder::of(self.folder.path())?);
        let open = |files: &[_]| -> Result<Corpus> {
            let bar = progress::steps("reading data", 0, self.args.json || !self.ranks.leads());
            let corpus = open(files, &options, encoder.clone(), &|done, total| {
                bar.set_length(total as u64);
                bar.set_position(done as u64);
            });
            bar.finish_and_clear();
            corpus
        };
        let corpus = open(&args.data)?;
        self.say(&format!("data: {}", corpus.report()));
        if !args.eval_data.is_empty() {
            let eval = open(&args.eval_data)?;
            self.say(&format!("held out: {}", eval.report()));
            return Ok((corpus, Some(eval)));
        }
        let Some(share) = args.eval_share else { return Ok((corpus, None)) };
        let (train, eval) = corpus.split(share, self.args.seed)?;
        self.say(&format!("held out: {} of the samples", eval.len()));
        Ok((train, Some(eval)))
    }

    /// How long the run is asked to be.
    pub fn length(&self) -> Length {
        match self.args.max_steps {
            Some(steps) => Length::Steps(steps),
            None => Length::Epochs(self.args.num_train_epochs),
        }
    }

    /// Opens the samples of `args` and plans which of them each step takes.
    pub fn samples(&self, args: &DataArgs) -> Result<(Planned, Steps)> {
        let (corpus, held_out) = self.corpora(args, Corpus::open)?;
        let length = self.length();
        let plan = PlanOptions {
            batch_size: self.args.per_device_train_batch_size,
            accumulation: self.args.gradient_accumulation_steps,
            packing: args.packing.then_some(corpus.report().max_length),
            seed: self.args.seed,
            length,
            ..PlanOptions::default()
        };
        let plan = Plan::new(corpus.lengths(), self.ranks.size(), plan)?;
        let unit = if args.packing { "bins" } else { "samples" };
        let (steps, epochs) = (plan.steps(), plan.epoch(plan.steps()));
        let line = format!("{steps} steps, {epochs:.2} epochs: {} {unit} a step", plan.step_units());
        let planned = Planned::new(corpus, plan);
        let planned = match held_out {
            Some(held_out) => planned.with_held_out(held_out, args.per_device_eval_batch_size, self.ranks.size())?,
            None => planned,
        };
        Ok((planned, Steps { steps, line }))
    }

    /// Loads the model.
    pub fn policy(&self) -> Result<Policy> {
        let bar = progress::bytes("loading", self.args.json || !self.ranks.leads());
        let (base, adapter, device) = (self.folder.path(), self.args.model.adapter.as_deref(), &self.opened.device);
        let mut policy = self.args.lora.policy(base, adapter, self.args.seed, self.dtype, device, &|done, total| {
            bar.set_length(total);
            bar.set_position(done);
        })?;
        bar.finish_and_clear();
        policy.notes.iter().for_each(|note| self.say(note));
        policy.keep = match (self.args.gradient_checkpointing, self.args.offload_activations) {
            (false, false) => None,
            (true, false) => Some(Checkpoint::Keep),
            (true, true) => Some(Checkpoint::Offload),
            (false, true) => bail!("--offload-activations moves what --gradient-checkpointing keeps, which is off"),
        };
        Ok(policy)
    }

    /// What the trainer is told for a run of `steps`, with a rate of `learning_rate` unless it is given.
    pub fn run(&self, steps: Steps, learning_rate: f64) -> Result<(TrainOptions, Steps)> {
        let args = self.args;
        let warmup = args.warmup_ratio.unwrap_or(args.warmup_steps);
        let is_share = args.warmup_ratio.is_some() || warmup < 1.;
        let most = if args.warmup_ratio.is_some() { 1. } else { f64::MAX };
        ensure!(
            (0.0..=most).contains(&warmup),
            "a warm-up over {warmup} of the steps: wanted a number from 0 to {most}"
        );
        let options = TrainOptions {
            output_dir: Some(args.output_dir.clone()),
            schedule: Schedule {
                peak: args.learning_rate.unwrap_or(learning_rate),
                decay: args.lr_scheduler_type,
                warmup_steps: if is_share { (warmup * steps.steps as f64).ceil() as usize } else { warmup as usize },
                max_steps: steps.steps,
            },
            optimizer: args.adamw(),
            sharding: ranks::sharding(&args.parallel),
            max_grad_norm: args.max_grad_norm,
            logging_steps: args.logging_steps,
            save_steps: args.save_steps,
            save_total_limit: args.save_total_limit,
            eval_steps: args.eval_steps,
            resume: match &args.resume {
                Some(Some(path)) => Resume::From(path.clone()),
                Some(None) => Resume::Latest,
                None if args.overwrite_output_dir => Resume::Overwrite,
                None => Resume::No,
            },
            seed: args.seed,
            flags: self.flags.clone(),
        };
        Ok((options, steps))
    }

    /// Trains, and reports what came of it.
    pub fn train<O: Objective>(
        &self,
        policy: &Policy,
        objective: &mut O,
        (options, steps): &(TrainOptions, Steps),
    ) -> Result<ExitCode> {
        let trained = self.announce(policy, steps)?;
        let mut screen = Screen::new(self.args.json || !self.ranks.leads());
        let outcome = train(policy, objective, &self.ranks, options, &mut screen).context("training")?;
        drop(screen);
        if self.ranks.leads() {
            self.report(&outcome, trained)?;
        }
        Ok(ExitCode::SUCCESS)
    }

    /// Says what is trained, for how long, and what that takes; gives the number of trained parameters.
    fn announce(&self, policy: &Policy, steps: &Steps) -> Result<u64> {
        let inventory = Inventory::of(policy.model.config(), &Device::Cpu)?;
        let names: HashSet<&str> = inventory.tensors.iter().map(|(name, _)| name.as_str()).collect();
        let (mut trained, mut total) = (0, inventory.parameters());
        for parameter in &policy.parameters {
            let count = parameter.var.elem_count() as u64;
            trained += count;
            total += if names.contains(parameter.parts[0].0.as_str()) { 0 } else { count };
        }
        let share = 100. * trained as f64 / total as f64;
        self.say(&format!("training {trained} of {total} parameters ({share:.2} %) for {}", steps.line));
        let moments = if self.args.optim == Optim::Adamw8bit { 2 } else { 8 };
        let divided = self.args.parallel.zero != Zero::Off && self.ranks.size() > 1;
        let rounded = policy.parameters.iter().any(|parameter| parameter.var.dtype() != DType::F32);
        let (master, among) =
            (if rounded || divided { 4 } else { 0 }, if divided { self.ranks.size() as u64 } else { 1 });
        let four_bits = if self.args.lora.load_in_4bit { projections(&inventory) } else { 0 };
        let weights = (total - four_bits) * policy.dtype.size_in_bytes() as u64 + four_bits * 33 / 64;
        let [weights, gradients, optimizer] =
            [weights, 4 * trained, (moments + master) * trained / among].map(report::bytes);
        self.say(&format!("memory: weights {weights}, gradients {gradients}, optimizer {optimizer}, and activations"));
        Ok(trained)
    }

    fn report(&self, outcome: &Outcome, trained: u64) -> Result<()> {
        let output = self.args.output_dir.display().to_string();
        let Outcome { state, train_loss, eval_loss, seconds, optimizer_bytes } = outcome;
        if self.args.json {
            return report::json(&json!({
                "objective": self.objective,
                "model": self.folder.name(),
                "device": self.opened.line,
                "dtype": self.dtype.as_str(),
                "trained_parameters": trained,
                "steps": state.global_step,
                "epoch": state.epoch,
                "num_tokens": state.num_input_tokens_seen,
                "train_loss": train_loss,
                "eval_loss": eval_loss,
                "optimizer_bytes": optimizer_bytes,
                "seconds": seconds,
                "output_dir": output,
            }));
        }
        let held_out = eval_loss.map_or(String::new(), |loss| format!(", {loss:.4} on held-out samples"));
        let memory = report::bytes(*optimizer_bytes as u64);
        self.say(&format!(
            "{} steps in {seconds:.1} s: mean loss {train_loss:.4}{held_out}; the optimizer's state took {memory}",
            state.global_step
        ));
        println!("{output}");
        Ok(())
    }
}

/// Elements of the layers' projections, which may be held in four bits: a half byte each and a byte for 64 of them.
fn projections(inventory: &Inventory) -> u64 {
    let held = inventory.tensors.iter().filter(|(name, shape)| name.starts_with("model.layers.") && shape.len() == 2);
    held.map(|(_, shape)| shape.iter().product::<usize>() as u64).sum()
}
