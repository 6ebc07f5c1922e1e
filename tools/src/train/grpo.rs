//! `npu-run train grpo`.

use super::args::{DataArgs, TrainArgs};
use super::setup::{Setup, Steps};
use anyhow::{Context, Result, bail, ensure};
use clap::{Args, ValueEnum};
use npu_engine::SamplingOptions;
use npu_train::Policy;
use npu_train::data::Corpus;
use npu_train::grpo::{Grpo, GrpoOptions, GrpoRun, LossType, Reference, ScaleRewards};
use npu_train::reward::{RewardRun, RewardSpec, Rewards};
use serde::Serialize;
use std::process::ExitCode;
use std::time::Duration;

/// TRL's peak of the learning rate for GRPO.
const LEARNING_RATE: f64 = 1e-6;

#[derive(Debug, Args, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct GrpoArgs {
    #[command(flatten)]
    #[serde(flatten)]
    pub train: TrainArgs,

    #[command(flatten)]
    #[serde(flatten)]
    pub data: DataArgs,

    /// What completions are worth: accuracy, format, length[=MAX,CACHE], repetition[=SIZE,PENALTY], the folder of a reward
    /// model, or a program that reads a JSON line a completion and writes a number a line; with :WEIGHT or without. Give it
    /// several times for several: docs/grpo.md
    #[arg(
        long = "reward",
        visible_alias = "reward-funcs",
        value_name = "REWARD",
        required = true,
        help_heading = "Rewards"
    )]
    pub reward: Vec<String>,

    /// Weights of the rewards, in their order, instead of :WEIGHT
    #[arg(long, value_name = "W", num_args = 1.., allow_negative_numbers = true, help_heading = "Rewards")]
    pub reward_weights: Vec<f64>,

    /// Seconds that a reward program may take for one completion
    #[arg(long, default_value_t = 60., value_name = "SECONDS", help_heading = "Rewards")]
    pub reward_timeout: f64,

    /// Completions of each prompt
    #[arg(long, default_value_t = 8, value_name = "N", help_heading = "Sampling")]
    pub num_generations: usize,

    /// Passes through the model that are sampled for at a time [default: --gradient-accumulation-steps]
    #[arg(long, value_name = "N", help_heading = "Sampling")]
    pub steps_per_generation: Option<usize>,

    /// Tokens of a completion at most
    #[arg(long, default_value_t = 256, value_name = "N", help_heading = "Sampling")]
    pub max_completion_length: usize,

    /// Logits are divided by it before a token is drawn
    #[arg(long, default_value_t = 1.0, value_name = "T", help_heading = "Sampling")]
    pub temperature: f64,

    /// Keep the likeliest tokens that together have this probability
    #[arg(long, default_value_t = 1.0, value_name = "P", help_heading = "Sampling")]
    pub top_p: f64,

    /// Keep this many of the likeliest tokens; 0 keeps all
    #[arg(long, default_value_t = 0, value_name = "K", help_heading = "Sampling")]
    pub top_k: usize,

    /// Keep tokens at least this likely relative to the likeliest
    #[arg(long, default_value_t = 0.0, value_name = "P", help_heading = "Sampling")]
    pub min_p: f64,

    /// Above 1 makes tokens that have occurred less likely
    #[arg(long, default_value_t = 1.0, value_name = "R", help_heading = "Sampling")]
    pub repetition_penalty: f64,

    /// Sequences that are decoded together at most
    #[arg(long, default_value_t = 64, value_name = "N", help_heading = "Sampling")]
    pub generation_rows: usize,

    /// Over what the losses of tokens are averaged
    #[arg(long, default_value = "dapo", value_name = "NAME", help_heading = "Loss")]
    pub loss_type: LossName,

    /// What advantages are divided by: the deviation of their group or of the batch, or nothing
    #[arg(long, default_value = "group", value_name = "NAME", help_heading = "Loss")]
    pub scale_rewards: ScaleName,

    /// Weight of the divergence from the model that the run begins with; above 0 that is held beside a trained one, and with adapters it is the checkpoint without them
    #[arg(long, default_value_t = 0.0, value_name = "BETA", help_heading = "Loss")]
    pub beta: f64,

    /// How far the ratio of new and old probabilities counts below 1, and above
    #[arg(long, default_value_t = 0.2, value_name = "EPS", help_heading = "Loss")]
    pub epsilon: f64,

    /// How far it counts above 1 [default: --epsilon; DAPO recommends 0.28]
    #[arg(long, value_name = "EPS", help_heading = "Loss")]
    pub epsilon_high: Option<f64>,

    /// How often each sampled batch is trained on
    #[arg(long, default_value_t = 1, value_name = "N", help_heading = "Loss")]
    pub num_iterations: usize,

    /// Leave completions that were cut at --max-completion-length out of the loss
    #[arg(long, help_heading = "Loss")]
    pub mask_truncated_completions: bool,
}

/// `--loss-type`, under TRL's names.
#[derive(Clone, Copy, Debug, Serialize, ValueEnum)]
#[serde(rename_all = "snake_case")]
#[value(rename_all = "snake_case")]
pub enum LossName {
    /// Over the tokens of each completion, then over completions
    Grpo,
    /// Over all tokens of the step
    Dapo,
    /// Over all completions as if each had the longest length
    DrGrpo,
}

/// `--scale-rewards`, under TRL's names.
#[derive(Clone, Copy, Debug, Serialize, ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum ScaleName {
    Group,
    Batch,
    None,
}

impl GrpoArgs {
    fn options(&self) -> GrpoOptions {
        GrpoOptions {
            num_generations: self.num_generations,
            per_device_train_batch_size: self.train.per_device_train_batch_size,
            gradient_accumulation_steps: self.train.gradient_accumulation_steps,
            steps_per_generation: self.steps_per_generation,
            num_iterations: self.num_iterations,
            max_completion_length: self.max_completion_length,
            sampling: SamplingOptions {
                temperature: self.temperature,
                top_k: self.top_k,
                top_p: self.top_p,
                min_p: self.min_p,
                repetition_penalty: self.repetition_penalty,
                seed: 0,
            },
            max_rows: self.generation_rows,
            beta: self.beta,
            epsilon: self.epsilon,
            epsilon_high: self.epsilon_high,
            loss_type: match self.loss_type {
                LossName::Grpo => LossType::Grpo,
                LossName::Dapo => LossType::Dapo,
                LossName::DrGrpo => LossType::DrGrpo,
            },
            scale_rewards: match self.scale_rewards {
                ScaleName::Group => ScaleRewards::Group,
                ScaleName::Batch => ScaleRewards::Batch,
                ScaleName::None => ScaleRewards::None,
            },
            mask_truncated_completions: self.mask_truncated_completions,
            seed: self.train.seed,
        }
    }

    /// The rewards with their weights.
    fn rewards(&self) -> Result<Vec<RewardSpec>> {
        let mut specs = self.reward.iter().map(|text| RewardSpec::parse(text)).collect::<Result<Vec<_>>>()?;
        let (rewards, weights) = (specs.len(), self.reward_weights.len());
        ensure!(
            weights == 0 || weights == rewards,
            "--reward-weights has {weights} numbers for {rewards} rewards; wanted one for each"
        );
        if let Some(weight) = self.reward_weights.iter().find(|weight| !weight.is_finite()) {
            bail!("--reward-weights {weight}: wanted finite numbers")
        }
        specs.iter_mut().zip(&self.reward_weights).for_each(|(spec, weight)| spec.weight = *weight);
        Ok(specs)
    }
}

pub fn run(args: &GrpoArgs) -> Result<ExitCode> {
    // What is wrong with the words of the command line is said before anything is opened.
    let (options, specs) = (args.options(), args.rewards()?);
    options.check()?;
    let timeout = Duration::try_from_secs_f64(args.reward_timeout).ok().filter(|timeout| !timeout.is_zero());
    let timeout =
        timeout.with_context(|| format!("--reward-timeout {}: wanted more than 0 seconds", args.reward_timeout))?;
    let setup = Setup::new(&args.train, "grpo", args)?;
    let (prompts, held_out) = setup.corpora(&args.data, Corpus::open_prompts)?;
    let policy = setup.policy()?;
    let reference = reference(&setup, &policy, options.beta)?;
    let rewards = Rewards::open(
        &specs,
        &RewardRun {
            max_completion_length: options.max_completion_length,
            timeout,
            dtype: setup.dtype,
            device: setup.opened.device.clone(),
        },
    )?;
    let (prompts_count, copies) = (options.prompts_per_generation() * setup.ranks.size(), options.num_generations);
    let run = GrpoRun { prompts, held_out, rewards, reference, length: setup.length() };
    let mut objective = Grpo::new(run, &policy, &setup.ranks, options)?;
    let steps = objective.steps();
    let line = format!("{steps} steps: {prompts_count} prompts at a time, {copies} completions of each");
    let run = setup.run(Steps { steps, line }, LEARNING_RATE)?;
    setup.train(&policy, &mut objective, &run)
}

/// What the run is not to move away from: the checkpoint, which adapters leave as it is.
fn reference(setup: &Setup, policy: &Policy, beta: f64) -> Result<Reference> {
    Ok(match (beta == 0., policy.lora.is_some()) {
        (true, _) => Reference::None,
        (_, true) => Reference::AdaptersOff,
        _ => {
            let start = Policy::frozen(setup.folder.path(), policy.dtype, &policy.device, &|_, _| ())?;
            Reference::Model(Box::new(start))
        }
    })
}
