//! `npu-run train distill`.

use super::args::{DataArgs, TrainArgs};
use super::setup::Setup;
use crate::cli::DeviceArgs;
use crate::{device, progress};
use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use npu_engine::{RolloutOptions, SamplingOptions, Tokenizer, end_tokens};
use npu_models::GenerationConfig;
use npu_train::Policy;
use npu_train::data::Corpus;
use npu_train::distill::{Distill, Distillation, OnPolicy, Teacher, TeacherLogits, write_teacher_logits};
use serde::Serialize;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// As for fine-tuning in TRL.
const LEARNING_RATE: f64 = 2e-5;

#[derive(Debug, Args, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct DistillArgs {
    #[command(flatten)]
    #[serde(flatten)]
    pub train: TrainArgs,

    #[command(flatten)]
    #[serde(flatten)]
    pub data: DataArgs,

    /// Checkpoint that is learnt from
    #[arg(
        long,
        visible_alias = "teacher-model-name-or-path",
        value_name = "DIR",
        required_unless_present = "teacher_logits",
        help_heading = "Teacher"
    )]
    pub teacher: Option<PathBuf>,

    /// Device of the teacher [default: the student's]
    #[arg(long, value_name = "DEVICE", requires = "teacher", help_heading = "Teacher")]
    #[serde(skip)]
    pub teacher_device: Option<String>,

    /// Learn from a file of a teacher's likeliest tokens instead of a teacher: docs/distillation.md
    #[arg(long, value_name = "FILE", conflicts_with = "teacher", help_heading = "Teacher")]
    pub teacher_logits: Option<PathBuf>,

    /// Write such a file for --data with --teacher, and do not train
    #[arg(long, value_name = "FILE", requires = "teacher", help_heading = "Teacher")]
    #[serde(skip)]
    pub write_teacher_logits: Option<PathBuf>,

    /// Tokens at each position that are written
    #[arg(long, default_value_t = 64, value_name = "K", help_heading = "Teacher")]
    pub top_k: usize,

    /// Share of the teacher in the loss; the rest is that of the labels
    #[arg(long, default_value_t = 0.5, value_name = "SHARE", help_heading = "Loss")]
    pub alpha: f64,

    /// Of both distributions where they are compared
    #[arg(long, default_value_t = 2.0, value_name = "T", help_heading = "Loss")]
    pub temperature: f64,

    /// 0 for KL(teacher ‖ student), 1 for KL(student ‖ teacher), between them the generalised Jensen-Shannon divergence
    #[arg(long, default_value_t = 0.0, value_name = "BETA", help_heading = "Loss")]
    pub beta: f64,

    /// Share of batches whose answers the student samples itself, as in GKD
    #[arg(long, default_value_t = 0.0, value_name = "SHARE", help_heading = "The student's own samples")]
    pub lmbda: f64,

    /// Tokens of such an answer at most
    #[arg(long, default_value_t = 128, value_name = "N", help_heading = "The student's own samples")]
    pub max_new_tokens: usize,

    /// Temperature that they are drawn at
    #[arg(long, default_value_t = 1.0, value_name = "T", help_heading = "The student's own samples")]
    pub sampling_temperature: f64,
}

pub fn run(args: &DistillArgs) -> Result<ExitCode> {
    ensure!((0.0..=1.0).contains(&args.lmbda), "--lmbda {}: wanted a number from 0 to 1", args.lmbda);
    let setup = Setup::new(&args.train, "distill", args)?;
    if let (Some(path), Some(teacher)) = (&args.write_teacher_logits, &args.teacher) {
        return write(&setup, args, teacher, path);
    }
    let (batches, plan) = setup.samples(&args.data)?;
    let teacher = match (&args.teacher, &args.teacher_logits) {
        (Some(teacher), _) => Teacher::Model(load_teacher(&setup, args, teacher)?),
        (None, Some(path)) => Teacher::Cached(TeacherLogits::open(path)?),
        (None, None) => bail!("there is no teacher; give --teacher or --teacher-logits"),
    };
    let policy = setup.policy()?;
    let how = Distillation { alpha: args.alpha, temperature: args.temperature, beta: args.beta };
    let on_policy = if args.lmbda > 0. { Some(on_policy(args, &policy)?) } else { None };
    let mut objective = Distill::new(batches, teacher, how, on_policy)?;
    let run = setup.run(plan, LEARNING_RATE)?;
    setup.train(&policy, &mut objective, &run)
}

fn on_policy(args: &DistillArgs, policy: &Policy) -> Result<OnPolicy> {
    let (tokenizer, generation) = (Tokenizer::of(&policy.base)?, GenerationConfig::from_dir(&policy.base)?);
    let rollout = RolloutOptions {
        copies: 1,
        max_tokens: args.max_new_tokens,
        sampling: SamplingOptions { temperature: args.sampling_temperature, ..SamplingOptions::default() },
        ends: end_tokens(policy.model.config(), &generation, &tokenizer),
        max_rows: args.train.per_device_train_batch_size,
    };
    Ok(OnPolicy { lambda: args.lmbda, rollout, seed: args.train.seed })
}

/// The teacher, on its own device or the student's.
fn load_teacher(setup: &Setup, args: &DistillArgs, folder: &Path) -> Result<Policy> {
    let device = match &args.teacher_device {
        None => setup.opened.device.clone(),
        Some(device) => {
            let (kernels, cann_home) = (args.train.device.kernels, args.train.device.cann_home.clone());
            let opened =
                device::open(&DeviceArgs { device: device.clone(), kernels, cann_home }).context("--teacher-device")?;
            setup.say(&format!("teacher {} on {}", folder.display(), opened.line));
            opened.device
        }
    };
    let bar = progress::bytes("loading the teacher", args.train.json || !setup.ranks.leads());
    let teacher = Policy::frozen(folder, setup.dtype, &device, &|done, total| {
        bar.set_length(total);
        bar.set_position(done);
    });
    bar.finish_and_clear();
    teacher.with_context(|| format!("the teacher {}", folder.display()))
}

fn write(setup: &Setup, args: &DistillArgs, teacher: &Path, path: &Path) -> Result<ExitCode> {
    let (corpus, _) = setup.corpora(&args.data, Corpus::open)?;
    let policy = load_teacher(setup, args, teacher)?;
    let bar = progress::steps("writing", 0, args.train.json);
    let (name, sample) = (teacher.display().to_string(), |index| corpus.sample(index));
    write_teacher_logits(path, (&policy, &name), args.top_k, corpus.len(), &sample, &|done, total| {
        bar.set_length(total as u64);
        bar.set_position(done as u64);
    })?;
    bar.finish_and_clear();
    let bytes = std::fs::metadata(path).with_context(|| format!("reading {}", path.display()))?.len();
    setup.say(&format!(
        "the {} likeliest tokens of {} samples: {}",
        args.top_k,
        corpus.len(),
        crate::report::bytes(bytes)
    ));
    println!("{}", path.display());
    Ok(ExitCode::SUCCESS)
}
