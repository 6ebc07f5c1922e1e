//! This program's own runs: a model loaded once, prefill and decode measured as often as asked.

use super::gguf;
use super::memory;
use super::plan::{Model, Plan};
use super::report::{DeviceCounts, Load, ModelledRun, Sample};
use crate::device::Opened;
use anyhow::{Context, Result};
use candle_ascend::{DType, Device};
use npu_engine::{GenerateOptions, Generation, Generator, SamplingOptions};
use npu_models::{Inventory, Random};
use std::sync::atomic::AtomicBool;
use std::time::Instant;

/// Our model, ready to run.
pub struct Ours {
    generator: Generator,
    prompt: Vec<u32>,
    decode: usize,
    enforce_eager: bool,
    simulated: bool,
}

impl Ours {
    /// Checks that the model fits, and loads it.
    pub fn load(plan: &Plan, opened: &Opened) -> Result<(Self, Load)> {
        let parameters = Inventory::of(&plan.config, &opened.device)?.parameters();
        let needed = plan.weight_bytes(parameters)?;
        memory::check_fits(opened, &plan.name, needed)?;
        let device = &opened.device;
        let (start, host) = (Instant::now(), memory::HostPeak::start());
        let loaded = Self::weights(plan, device).with_context(|| format!("loading {}", plan.name))?;
        device.synchronize()?;
        let seconds = start.elapsed().as_secs_f64();
        let load = Load {
            seconds,
            parameters,
            weight_bytes: needed,
            host_peak_bytes: host.finish(),
            device_peak_bytes: memory::device_peak(device)?,
        };
        let generator = Generator::without_text(loaded, device, seconds);
        let vocab = plan.config.vocab_size as u64;
        // A walk through the vocabulary that repeats nothing soon; which tokens they are makes no difference.
        let prompt = (0..plan.prompt_tokens as u64).map(|i| ((i * 7919 + 13) % vocab) as u32).collect();
        let (decode, enforce_eager) = (plan.decode_tokens, plan.enforce_eager);
        Ok((Self { generator, prompt, decode, enforce_eager, simulated: opened.simulated }, load))
    }

    /// What a user should know of how the weights are held.
    pub fn notes(&self) -> &[String] {
        &self.generator.load_stats().notes
    }

    fn weights(plan: &Plan, device: &Device) -> Result<npu_models::Loaded> {
        let quiet = &|_, _| {};
        // Blocks are multiplied to F32 on the CPU; other devices widen them to the type that they compute in.
        let of_blocks = if device.is_cpu() { DType::F32 } else { DType::BF16 };
        let dtype = plan.dtype().unwrap_or(of_blocks);
        match &plan.model {
            Model::Random if plan.dtype().is_none() => {
                let file = gguf::temporary(&plan.config, plan.format)?;
                npu_models::load(file.path(), dtype, device, quiet)
            }
            Model::Random => {
                let source = Random::new(&plan.config, dtype, super::SEED, device)?;
                npu_models::load_from(plan.config.clone(), &source, dtype, device, quiet)
            }
            Model::Folder(dir) => npu_models::load(dir, dtype, device, quiet),
        }
    }

    fn generate(&self, tokens: usize) -> Result<Generation> {
        let options = GenerateOptions {
            max_tokens: tokens,
            sampling: SamplingOptions::default(),
            ignore_eos: true,
            enforce_eager: self.enforce_eager,
        };
        self.generator.generate(&self.prompt, &options, &AtomicBool::new(false), &mut |_| Ok(()))
    }

    /// One prefill and decode. The prompt gives the first token, so decoding computes one less than is generated.
    pub fn run(&self) -> Result<(Sample, Option<DeviceCounts>)> {
        let stats = self.generate(self.decode + 1)?.stats;
        let rate = |rate: Option<f64>, what: &str| rate.with_context(|| format!("{what} took no time to measure"));
        let sample = Sample {
            prefill: rate(stats.prefill_tokens_per_second, "the prefill")?,
            decode: rate(stats.decode_tokens_per_second, "decoding")?,
        };
        Ok((sample, DeviceCounts::of(&stats)))
    }

    /// What the simulator's cost model says of a prefill and of a decoded token; nothing on other devices.
    ///
    /// The model's clock is the same for each run, so that the difference between a run with and without decoding is the
    /// decoding.
    pub fn modelled(&self) -> Result<Option<ModelledRun>> {
        if !self.simulated {
            return Ok(None);
        }
        let start = cann_sim::modelled();
        self.generate(1)?;
        let prefilled = cann_sim::modelled();
        self.generate(self.decode + 1)?;
        let decoded = cann_sim::modelled();
        Ok(Some(ModelledRun::between(&start, &prefilled, &decoded, self.prompt.len(), self.decode)))
    }
}
