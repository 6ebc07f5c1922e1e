//! What `npu-run train` can be told: the names and defaults are transformers' and TRL's where they have the thing.

use super::distill::DistillArgs;
use super::grpo::GrpoArgs;
use super::lora::LoraArgs;
use crate::cli::{DeviceArgs, ModelArgs, ParallelArgs};
use clap::{Args, Subcommand};
use npu_train::Decay;
use npu_train::optimizer::AdamWOptions;
use serde::Serialize;
use std::path::PathBuf;

#[derive(Debug, Subcommand)]
pub enum TrainCommand {
    /// Supervised fine-tuning: learn the answers of conversations, or texts
    ///
    ///   npu-run train sft --model DIR --data conversations.jsonl --output-dir OUT
    #[command(verbatim_doc_comment)]
    Sft(SftArgs),
    /// Distillation: learn a teacher's distributions
    ///
    ///   npu-run train distill --model STUDENT --teacher TEACHER --data conversations.jsonl --output-dir OUT
    #[command(verbatim_doc_comment)]
    Distill(DistillArgs),
    /// Group relative policy optimization: sample, judge, and make likelier what was better
    ///
    ///   npu-run train grpo --model DIR --data prompts.jsonl --reward accuracy --output-dir OUT
    #[command(verbatim_doc_comment)]
    Grpo(GrpoArgs),
}

#[derive(Debug, Args, Serialize)]
pub struct SftArgs {
    #[command(flatten)]
    #[serde(flatten)]
    pub train: TrainArgs,

    #[command(flatten)]
    #[serde(flatten)]
    pub data: DataArgs,
}

/// What every objective takes.
#[derive(Debug, Args, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct TrainArgs {
    #[command(flatten)]
    #[serde(flatten)]
    pub model: ModelArgs,

    #[command(flatten)]
    #[serde(skip)]
    pub device: DeviceArgs,

    #[command(flatten)]
    #[serde(flatten)]
    pub lora: LoraArgs,

    #[command(flatten)]
    #[serde(flatten)]
    pub parallel: ParallelArgs,

    /// Folder that takes checkpoints, logs and the trained model
    #[arg(long, value_name = "DIR")]
    #[serde(skip)]
    pub output_dir: PathBuf,

    /// Go on from the last whole checkpoint in --output-dir, or from CHECKPOINT
    #[arg(long, visible_alias = "resume-from-checkpoint", value_name = "CHECKPOINT", num_args = 0..=1)]
    #[serde(skip)]
    pub resume: Option<Option<PathBuf>>,

    /// Begin anew in a folder with checkpoints of an earlier run, which are removed
    #[arg(long, conflicts_with = "resume")]
    #[serde(skip)]
    pub overwrite_output_dir: bool,

    /// Passes over the samples
    #[arg(long, default_value_t = 3.0, value_name = "N", help_heading = "Steps")]
    pub num_train_epochs: f64,

    /// Optimizer steps, instead of epochs
    #[arg(long, value_name = "N", help_heading = "Steps")]
    pub max_steps: Option<usize>,

    /// Samples that go through the model together
    #[arg(long, default_value_t = 8, value_name = "N", help_heading = "Steps")]
    pub per_device_train_batch_size: usize,

    /// As many passes are added up to one step
    #[arg(long, default_value_t = 1, value_name = "N", help_heading = "Steps")]
    pub gradient_accumulation_steps: usize,

    /// Peak of the learning rate [default: 2e-5; 1e-6 for grpo]
    #[arg(long, value_name = "RATE", help_heading = "Optimizer")]
    pub learning_rate: Option<f64>,

    /// How the learning rate goes on after the warm-up: linear, cosine, constant, constant_with_warmup
    #[arg(long, default_value = "linear", value_name = "NAME", help_heading = "Optimizer")]
    pub lr_scheduler_type: Decay,

    /// Steps over which the learning rate rises from zero; below 1 a share of all steps
    #[arg(long, default_value_t = 0.0, value_name = "N", help_heading = "Optimizer")]
    pub warmup_steps: f64,

    /// The same as a share of all steps
    #[arg(long, value_name = "SHARE", conflicts_with = "warmup_steps", help_heading = "Optimizer")]
    pub warmup_ratio: Option<f64>,

    /// adamw (moments in f32) or adamw_8bit (in blocks of eight-bit numbers, a quarter of the memory)
    #[arg(long, default_value = "adamw", value_name = "NAME", help_heading = "Optimizer")]
    pub optim: Optim,

    #[arg(
        long,
        default_value_t = 0.9,
        value_name = "BETA",
        help_heading = "Optimizer",
        help = "Decay of the mean of gradients"
    )]
    pub adam_beta1: f64,

    #[arg(
        long,
        default_value_t = 0.999,
        value_name = "BETA",
        help_heading = "Optimizer",
        help = "Decay of the mean of their squares"
    )]
    pub adam_beta2: f64,

    #[arg(
        long,
        default_value_t = 1e-8,
        value_name = "EPS",
        help_heading = "Optimizer",
        help = "Added to the root of that mean"
    )]
    pub adam_epsilon: f64,

    /// Share of a weight that is taken off, times the learning rate; norms and biases are left alone
    #[arg(long, default_value_t = 0.0, value_name = "SHARE", help_heading = "Optimizer")]
    pub weight_decay: f64,

    /// Gradients are scaled down to this norm; 0 leaves them
    #[arg(long, default_value_t = 1.0, value_name = "NORM", help_heading = "Optimizer")]
    pub max_grad_norm: f64,

    /// Compute in bf16, with f32 master weights in the optimizer: --dtype bf16
    #[arg(long, conflicts_with_all = ["dtype", "fp16"], help_heading = "Memory")]
    pub bf16: bool,

    /// Compute in f16, with f32 master weights and a dynamic loss scale: --dtype f16
    #[arg(long, conflicts_with = "dtype", help_heading = "Memory")]
    pub fp16: bool,

    /// Compute each layer again in backward instead of keeping what is inside of it
    #[arg(
        long, default_value_t = true, default_missing_value = "true", num_args = 0..=1, action = clap::ArgAction::Set,
        value_name = "true|false", help_heading = "Memory"
    )]
    pub gradient_checkpointing: bool,

    /// Keep what gradient checkpointing keeps on the host
    #[arg(long, visible_alias = "activation-offloading", help_heading = "Memory")]
    pub offload_activations: bool,

    /// Steps between two lines of the logs
    #[arg(long, default_value_t = 10, value_name = "N", help_heading = "Logs and checkpoints")]
    pub logging_steps: usize,

    /// Steps between two checkpoints; 0 for none, not even at the end
    #[arg(long, default_value_t = 500, value_name = "N", help_heading = "Logs and checkpoints")]
    pub save_steps: usize,

    /// Keep this many of the newest checkpoints [default: all]
    #[arg(long, value_name = "N", help_heading = "Logs and checkpoints")]
    pub save_total_limit: Option<usize>,

    /// Steps between two looks at the held-out samples [default: one at the end]
    #[arg(
        long,
        default_value_t = 0,
        hide_default_value = true,
        value_name = "N",
        help_heading = "Logs and checkpoints"
    )]
    pub eval_steps: usize,

    /// Of the order of the samples and of everything that is drawn
    #[arg(long, default_value_t = 42, value_name = "N", help_heading = "Steps")]
    pub seed: u64,

    /// Print one JSON report at the end instead of progress
    #[arg(long)]
    #[serde(skip)]
    pub json: bool,
}

impl TrainArgs {
    /// What the optimizer is told.
    pub fn adamw(&self) -> AdamWOptions {
        AdamWOptions {
            beta1: self.adam_beta1,
            beta2: self.adam_beta2,
            eps: self.adam_epsilon,
            weight_decay: self.weight_decay,
            eight_bits: self.optim == Optim::Adamw8bit,
        }
    }
}

/// Which samples, and what of them is learnt: docs/data.md.
#[derive(Debug, Args, Serialize)]
#[serde(rename_all = "kebab-case")]
#[command(next_help_heading = "Data")]
pub struct DataArgs {
    /// JSON Lines, JSON or Parquet files of messages, sharegpt, alpaca, prompts with completions or answers, or texts
    #[arg(long, value_name = "FILE", num_args = 1.., required = true)]
    pub data: Vec<PathBuf>,

    /// Files of held-out samples
    #[arg(long, value_name = "FILE", num_args = 1..)]
    pub eval_data: Vec<PathBuf>,

    /// Hold this share of the samples of --data out
    #[arg(long, visible_alias = "val-size", value_name = "SHARE", conflicts_with = "eval_data")]
    pub eval_share: Option<f64>,

    /// Samples of a pass when held-out ones are looked at
    #[arg(long, default_value_t = 8, value_name = "N")]
    pub per_device_eval_batch_size: usize,

    /// What the lines hold: messages, sharegpt, alpaca, completion, prompt, text [default: by the first line's fields]
    #[arg(long, value_name = "NAME")]
    pub format: Option<String>,

    /// Tokens of the longest sample [default: 1024, or the model's context where that is less]
    #[arg(long, value_name = "N")]
    pub max_length: Option<usize>,

    /// Leave longer samples out rather than cut them at their end
    #[arg(long)]
    pub drop_long: bool,

    /// Put samples together into bins of --max-length tokens; a bin then counts as a sample
    #[arg(long)]
    pub packing: bool,

    /// Learn all tokens rather than the assistant's alone
    #[arg(long)]
    pub learn_all: bool,

    /// Leave lines out that cannot be used, and count them
    #[arg(long)]
    pub skip_bad_lines: bool,

    /// Prompts as `npu-run infer --no-think` makes them
    #[arg(long)]
    pub no_think: bool,

    /// Prompt and answer as they stand, without the checkpoint's chat template
    #[arg(long)]
    pub raw: bool,
}

/// `--optim`, under transformers' names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
#[value(rename_all = "snake_case")]
pub enum Optim {
    #[value(alias = "adamw_torch", alias = "adamw_torch_fused")]
    Adamw,
    #[value(name = "adamw_8bit", alias = "adamw_bnb_8bit")]
    #[serde(rename = "adamw_8bit")]
    Adamw8bit,
}
