//! `npu-run bench --train`: how long a training step of a shape takes and what memory, against PyTorch and PEFT in the same run.
//!
//! Our steps are the trainer's, and a peer's step comes after each of them, so that whatever else the machine does befalls both.

use super::peers::{self, Absent, Script};
use super::plan::{Model, Peer, Plan};
use super::report::{Missing, Spread};
use super::{SEED, memory};
use crate::cli::{BenchArgs, Trained};
use crate::{device, progress, report};
use anyhow::{Context, Result, bail, ensure};
use candle_ascend::autograd::Checkpoint;
use candle_ascend::{DType, Device};
use indicatif::ProgressBar;
use npu_models::{Held, Inventory, Random, Shape, Source};
use npu_train::adapter::{LoraConfig, Start, Targets};
use npu_train::files::{self, Entry};
use npu_train::{Batch, Batches, Plain, Policy, Progress, Ranks, Sample, Sft, StepReport, TrainOptions};
use serde::Serialize;
use serde_json::{Value, json};
use std::fmt;
use std::path::Path;
use std::process::ExitCode;
use tempfile::TempDir;

/// Adapters as users have them: rank 16 on every projection.
const RANK: usize = 16;
const ALPHA: usize = 32;

const SCRIPT: &str = include_str!("train.py");

pub fn run(args: &BenchArgs, trained: Trained) -> Result<ExitCode> {
    let opened = device::open(&args.device)?;
    let plan = Plan::new(args, &opened.device)?;
    let Some(dtype) = plan.dtype() else { bail!("--dtype {} is not trained; use f32 or bf16", args.dtype) };
    let folder = match plan.model {
        Model::Random => random_checkpoint(&args.shape, dtype, &opened.device)?,
        Model::Folder(_) => bail!("--train measures a --shape with random weights"),
    };
    let mut missing = Vec::new();
    let mut peer = None;
    for wanted in super::plan::peers(&args.against)? {
        let opened = match wanted {
            Peer::PyTorch => Theirs::open(&plan, args, trained),
            Peer::LlamaBench => Err(Absent("llama-bench does not train".into()).into()),
        };
        match opened {
            Ok(theirs) => peer = Some(theirs),
            Err(error) => missing.push(super::missed(format!("{wanted:?}"), &error)),
        }
    }

    memory::forget_high_water();
    let policy = policy(folder.path(), args, trained, dtype, &opened.device)?;
    let parameters = policy.parameters.iter().map(|parameter| parameter.var.elem_count()).sum();
    let steps = plan.warmup + plan.repeat;
    let mut rounds = Rounds {
        tokens: plan.prompt_tokens as f64,
        ours: Vec::new(),
        peer,
        broken: None,
        bar: progress::steps("measuring", steps, args.json),
    };
    let mut objective = Sft::new(Same::new(plan.prompt_tokens, plan.config.vocab_size));
    npu_train::train(&policy, &mut objective, &Ranks::single(), &TrainOptions::new(steps, 1e-4), &mut rounds)?;
    rounds.bar.finish_and_clear();
    let measured = |all: &[f64]| Spread::of(all.iter().skip(plan.warmup).copied());
    let mut contenders = vec![Measured {
        name: "npu-run".into(),
        seconds: measured(&rounds.ours),
        peak_bytes: memory::high_water(),
        device_peak_bytes: memory::device_peak(&opened.device)?,
    }];
    if let Some(error) = rounds.broken {
        missing.push(super::missed("PyTorch".into(), &error));
    } else if let Some(theirs) = rounds.peer {
        contenders.push(Measured {
            name: theirs.script.via.clone(),
            seconds: measured(&theirs.seconds),
            peak_bytes: Some(theirs.peak),
            device_peak_bytes: None,
        });
    }
    finish(
        args,
        Report {
            model: plan.name.clone(),
            train: trained,
            checkpointing: args.gradient_checkpointing,
            device: opened.line.clone(),
            dtype: dtype.as_str(),
            threads: plan.threads,
            tokens: plan.prompt_tokens,
            parameters,
            contenders,
            missing,
        },
    )
}

/// A checkpoint of the shape with random weights.
fn random_checkpoint(shape: &str, dtype: DType, device: &Device) -> Result<TempDir> {
    let shape = Shape::find(shape).context("--shape")?;
    let config = shape.config()?;
    let source = Random::new(&config, dtype, SEED, device)?;
    let folder = tempfile::tempdir().context("making a folder for random weights")?;
    std::fs::write(folder.path().join("config.json"), shape.config_json().to_string())?;
    let tensors = Inventory::of(&config, device)?.tensors.into_iter();
    let entries: Vec<Entry> = tensors.map(|(name, dims)| Entry { name, dtype, dims }).collect();
    files::weights(folder.path(), &entries, files::SHARD_BYTES, |i| {
        Ok(source.tensor(&entries[i].name, &entries[i].dims, dtype, &Device::Cpu)?.0)
    })?;
    Ok(folder)
}

fn policy(base: &Path, args: &BenchArgs, trained: Trained, dtype: DType, device: &Device) -> Result<Policy> {
    let quiet = &|_, _| {};
    let mut policy = match trained {
        Trained::Full => Policy::full(base, dtype, device, quiet)?,
        Trained::Lora | Trained::Qlora => {
            let held = if trained == Trained::Qlora { Held::Nf4 } else { Held::Wide };
            let config = LoraConfig {
                r: RANK,
                lora_alpha: ALPHA as f64,
                target_modules: Targets::AllLinear,
                ..LoraConfig::default()
            };
            Policy::lora(base, &Start::New { config, seed: SEED }, held, dtype, device, quiet)?
        }
    };
    policy.keep = args.gradient_checkpointing.then_some(Checkpoint::Keep);
    Ok(policy)
}

/// The same sample every step.
struct Same(Batch);

impl Same {
    fn new(tokens: usize, vocab: usize) -> Self {
        // A walk through the vocabulary that repeats nothing soon; which tokens they are makes no difference.
        let tokens: Vec<u32> = (0..tokens as u64).map(|i| ((i * 7919 + 13) % vocab as u64) as u32).collect();
        let labels = tokens.iter().map(|&token| i64::from(token)).collect();
        Self(Batch::new(vec![Sample { tokens, labels }]))
    }
}

impl Batches for Same {
    fn of_step(&mut self, _: usize, _: &Ranks) -> Result<Vec<Batch>> {
        Ok(vec![self.0.clone()])
    }
}

/// Notes how long our steps took, and has the peer make one after each.
struct Rounds {
    tokens: f64,
    ours: Vec<f64>,
    peer: Option<Theirs>,
    broken: Option<anyhow::Error>,
    bar: ProgressBar,
}

impl Progress for Rounds {
    fn step(&mut self, at: &StepReport) {
        self.ours.push(self.tokens / at.tokens_per_second);
        if self.broken.is_none()
            && let Some(peer) = &mut self.peer
        {
            self.broken = peer.step().err();
        }
        self.bar.inc(1);
    }

    fn say(&mut self, line: &str) {
        Plain.say(line);
    }
}

/// PyTorch in a Python process that waits between steps.
struct Theirs {
    script: Script,
    seconds: Vec<f64>,
    peak: u64,
}

impl Theirs {
    fn open(plan: &Plan, args: &BenchArgs, trained: Trained) -> Result<Self> {
        let (train, needs) = match trained {
            Trained::Full => ("full", "import transformers"),
            Trained::Lora => ("lora", "import transformers, peft"),
            Trained::Qlora => return Err(Absent("bitsandbytes' four bits want a GPU".into()).into()),
        };
        let asked = json!({
            "config": peers::config(plan),
            "dtype": plan.dtype().unwrap_or(DType::F32).as_str(),
            "device": plan.peer_device(),
            "threads": plan.threads,
            "tokens": plan.prompt_tokens,
            "train": train,
            "rank": RANK,
            "alpha": ALPHA,
            "targets": "all-linear",
            "checkpointing": args.gradient_checkpointing,
        });
        let script = Script::open(&args.python, needs, "train.py", SCRIPT, &asked)?;
        Ok(Self { script, seconds: Vec::new(), peak: 0 })
    }

    fn step(&mut self) -> Result<()> {
        let answer = self.script.ask()?;
        let number = |key: &str| answer.get(key).and_then(Value::as_f64);
        let (Some(seconds), Some(peak)) = (number("seconds"), number("peak")) else {
            bail!("PyTorch answered {answer}, wanted seconds and peak")
        };
        ensure!(number("loss").is_some_and(f64::is_finite), "PyTorch's loss is no number: {answer}");
        self.seconds.push(seconds);
        self.peak = peak as u64;
        Ok(())
    }
}

/// What one program took.
#[derive(Debug, Serialize)]
struct Measured {
    name: String,
    /// Of a step.
    seconds: Spread,
    /// Most memory that its process had.
    peak_bytes: Option<u64>,
    device_peak_bytes: Option<u64>,
}

#[derive(Debug, Serialize)]
struct Report {
    model: String,
    train: Trained,
    checkpointing: bool,
    device: String,
    dtype: &'static str,
    threads: usize,
    tokens: usize,
    parameters: usize,
    contenders: Vec<Measured>,
    missing: Vec<Missing>,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let how = if self.checkpointing { ", gradient checkpointing" } else { "" };
        let millions = self.parameters as f64 / 1e6;
        writeln!(f, "{} (random weights), {:?} in {}{how}", self.model, self.train, self.dtype)?;
        writeln!(f, "{}, {} threads, {millions:.1} M parameters trained\n", self.device, self.threads)?;
        let step = format!("step of {} tokens, s", self.tokens);
        let mut table = report::Table::new(&["median (range)", &step, "tokens/s", "peak memory", "of the device"]);
        let shown = |bytes: Option<u64>| bytes.map(report::bytes).unwrap_or_default();
        for measured in &self.contenders {
            table.row([
                measured.name.clone(),
                measured.seconds.to_string(),
                format!("{:.1}", self.tokens as f64 / measured.seconds.median),
                shown(measured.peak_bytes),
                shown(measured.device_peak_bytes),
            ]);
        }
        if let [own, peers @ ..] = self.contenders.as_slice() {
            for peer in peers {
                let memory = own.peak_bytes.zip(peer.peak_bytes).map(|(own, peer)| own as f64 / peer as f64);
                table.row([
                    format!("npu-run / {}", peer.name),
                    format!("{:.2}", own.seconds.median / peer.seconds.median),
                    format!("{:.2}", peer.seconds.median / own.seconds.median),
                    memory.map(|ratio| format!("{ratio:.2}")).unwrap_or_default(),
                    String::new(),
                ]);
            }
        }
        write!(f, "{table}")
    }
}

fn finish(args: &BenchArgs, report: Report) -> Result<ExitCode> {
    if args.json {
        report::json(&report)?
    } else {
        print!("{report}")
    }
    Ok(super::say_missing(&report.missing))
}
