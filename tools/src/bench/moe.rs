//! `npu-run bench --moe-layer`: what the experts of a layer cost beside a dense part that takes as many multiplications.
//!
//! A dense part runs after each of our passes, over the same rows, so that whatever else the machine does befalls both.

use super::report::Spread;
use super::{SEED, in_turns, memory, passes};
use crate::cli::BenchArgs;
use crate::{device, model, progress, report};
use anyhow::{Context, Result, bail, ensure};
use candle_ascend::{DType, Device, Tensor};
use npu_models::decoder::Mlp;
use npu_models::{ExpertShape, Loader, Moe, Random, normal_values};
use serde::Serialize;
use std::fmt;
use std::process::ExitCode;

pub fn run(args: &BenchArgs, name: &str) -> Result<ExitCode> {
    ensure!(args.repeat > 0 && args.prompt_tokens > 0, "--repeat and --prompt-tokens are wanted to be at least 1");
    let shape = ExpertShape::find(name).context("--moe-layer")?;
    let opened = device::open(&args.device)?;
    let dtype = model::dtype_named(&args.dtype, Some("bfloat16"), &opened.device, false)?;
    let size = dtype.size_in_bytes() as u64;
    let (experts, dense) = (shape.expert_parameters() * size, shape.active_parameters() * size);
    memory::check_fits(&opened, shape.name, experts + dense)?;
    let Layer { experts: of_layer, dense: of_width, x } =
        Layer::load(shape, args.prompt_tokens, dtype, &opened.device)?;
    let bar = progress::steps("measuring", args.warmup + args.repeat, args.json);
    let [of_experts, of_dense] =
        in_turns(args, &opened, || of_layer.forward(&x), || of_width.forward(&x), || bar.inc(1))?;
    bar.finish_and_clear();
    let report = Report {
        layer: shape.name,
        device: opened.line.clone(),
        dtype: dtype.as_str(),
        threads: super::threads(),
        tokens: args.prompt_tokens,
        repeat: args.repeat,
        passes: passes(&opened),
        operations: 2 * shape.active_parameters() * args.prompt_tokens as u64,
        ratio: of_experts.median / of_dense.median,
        experts: Cost { seconds: of_experts, weight_bytes: experts },
        dense: Cost { seconds: of_dense, weight_bytes: dense },
    };
    if args.json {
        report::json(&report)?
    } else {
        print!("{report}")
    }
    Ok(ExitCode::SUCCESS)
}

/// The experts of a layer, and the dense part of the width that a token takes of them.
struct Layer {
    experts: Moe,
    dense: Mlp,
    /// `[1, T, H]`
    x: Tensor,
}

impl Layer {
    fn load(shape: &ExpertShape, tokens: usize, dtype: DType, device: &Device) -> Result<Self> {
        let config = shape.config()?;
        let source = Random::new(&config, dtype, SEED, device)?;
        let loader = Loader::new(&source, dtype, device, &|_, _| {});
        let Some(moe) = &config.moe else { bail!("{} has no experts", shape.name) };
        let experts = Moe::load(&loader, &config, moe, "model.layers.0.mlp")?;
        let width = (shape.per_token + shape.shared) * shape.intermediate;
        let dense = Mlp::of_width(&loader, shape.hidden, width, "dense", false)?;
        let x =
            Tensor::from_vec(normal_values(SEED, "x", tokens * shape.hidden, 1.0), (1, tokens, shape.hidden), device)?;
        Ok(Self { experts, dense, x: x.to_dtype(dtype)? })
    }
}

/// What one of the two took.
#[derive(Debug, Serialize)]
struct Cost {
    seconds: Spread,
    /// Of all experts, of which many tokens take nearly all.
    weight_bytes: u64,
}

#[derive(Debug, Serialize)]
struct Report {
    layer: &'static str,
    device: String,
    dtype: &'static str,
    threads: usize,
    tokens: usize,
    repeat: usize,
    /// Of either, one after the other, in each round.
    passes: usize,
    /// Of either: multiplications and additions of the products.
    operations: u64,
    experts: Cost,
    dense: Cost,
    /// The experts' time over the dense part's.
    ratio: f64,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        writeln!(f, "experts of a layer of {}, {} tokens, {}", self.layer, self.tokens, self.dtype)?;
        writeln!(f, "{}, {} threads", self.device, self.threads)?;
        let operations = self.operations as f64;
        for (name, cost) in [("experts", &self.experts), ("dense", &self.dense)] {
            let Spread { median, min, max } = cost.seconds;
            writeln!(
                f,
                "{name:<8}  {:.3} ms ({:.3} to {:.3}), {:.0} Gop/s, weights {}",
                median * 1e3,
                min * 1e3,
                max * 1e3,
                operations / median / 1e9,
                report::bytes(cost.weight_bytes)
            )?;
        }
        let (rounds, passes) =
            (self.repeat, if self.passes > 1 { format!(" of {} passes", self.passes) } else { "".into() });
        writeln!(f, "ratio     {:.2} of {rounds} rounds{passes}, {:.1} Gop either way", self.ratio, operations / 1e9)
    }
}
