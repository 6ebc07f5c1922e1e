//! How GRPO samples and what it makes of the samples.

use super::{LossType, ScaleRewards, Surrogate};
use anyhow::{Result, ensure};
use npu_engine::{RolloutOptions, SamplingOptions};

/// The defaults are those of TRL's `GRPOConfig`.
#[derive(Clone, Debug)]
pub struct GrpoOptions {
    /// Completions of each prompt.
    pub num_generations: usize,
    /// Completions that go through the model together.
    pub per_device_train_batch_size: usize,
    /// Such batches of a step.
    pub gradient_accumulation_steps: usize,
    /// Such batches that are sampled at a time; those of one step without.
    pub steps_per_generation: Option<usize>,
    /// How often each sampled batch is trained on.
    pub num_iterations: usize,
    /// Tokens of a completion at most; one that the model has not ended by then is truncated.
    pub max_completion_length: usize,
    /// How tokens are drawn. The seed is not used.
    pub sampling: SamplingOptions,
    /// Sequences that are decoded together at most.
    pub max_rows: usize,
    /// The weight of the divergence from the model that the run began with.
    pub beta: f64,
    pub epsilon: f64,
    /// As `epsilon` without.
    pub epsilon_high: Option<f64>,
    pub loss_type: LossType,
    pub scale_rewards: ScaleRewards,
    /// Truncated completions are left out of the loss.
    pub mask_truncated_completions: bool,
    /// Of the order of prompts and of all draws.
    pub seed: u64,
}

impl Default for GrpoOptions {
    fn default() -> Self {
        Self {
            num_generations: 8,
            per_device_train_batch_size: 8,
            gradient_accumulation_steps: 1,
            steps_per_generation: None,
            num_iterations: 1,
            max_completion_length: 256,
            sampling: SamplingOptions { temperature: 1., ..SamplingOptions::default() },
            max_rows: 64,
            beta: 0.,
            epsilon: 0.2,
            epsilon_high: None,
            loss_type: LossType::default(),
            scale_rewards: ScaleRewards::default(),
            mask_truncated_completions: false,
            seed: 42,
        }
    }
}

impl GrpoOptions {
    pub fn check(&self) -> Result<()> {
        for (name, value) in [
            ("num_generations", self.num_generations),
            ("per_device_train_batch_size", self.per_device_train_batch_size),
            ("gradient_accumulation_steps", self.gradient_accumulation_steps),
            ("steps_per_generation", self.batches_per_generation()),
            ("num_iterations", self.num_iterations),
            ("max_completion_length", self.max_completion_length),
        ] {
            ensure!(value > 0, "{name} is 0, wanted at least 1");
        }
        ensure!(
            self.num_generations > 1,
            "num_generations is 1: a completion is compared with the others of its prompt, so that there must be at least 2"
        );
        let (batches, accumulated) = (self.batches_per_generation(), self.gradient_accumulation_steps);
        ensure!(
            batches.is_multiple_of(accumulated),
            "steps_per_generation ({batches}) must be a multiple of gradient_accumulation_steps ({accumulated}): what is sampled \
             at a time is trained on in whole steps"
        );
        let (completions, copies) = (batches * self.per_device_train_batch_size, self.num_generations);
        ensure!(
            completions.is_multiple_of(copies),
            "a rank samples {completions} completions at a time (per_device_train_batch_size times steps_per_generation), which \
             is not a multiple of num_generations ({copies}); the groups of prompts must be whole"
        );
        let temperature = self.sampling.temperature;
        ensure!(
            temperature > 0.,
            "temperature is {temperature}, wanted more than 0: completions of a prompt must differ"
        );
        self.sampling.check()?;
        for (name, value) in [("beta", self.beta), ("epsilon", self.epsilon), ("epsilon_high", self.epsilon_high())] {
            ensure!(value.is_finite() && value >= 0., "{name} is {value}, wanted 0 or more");
        }
        Ok(())
    }

    /// Batches of a rank that are sampled at a time.
    pub fn batches_per_generation(&self) -> usize {
        self.steps_per_generation.unwrap_or(self.gradient_accumulation_steps)
    }

    /// The optimizer's steps that one pass over what was sampled takes.
    pub(super) fn steps_per_pass(&self) -> usize {
        (self.batches_per_generation() / self.gradient_accumulation_steps).max(1)
    }

    /// The optimizer's steps that are made of what was sampled at a time.
    pub fn steps_of_generation(&self) -> usize {
        self.steps_per_pass() * self.num_iterations
    }

    /// Prompts of a rank that are sampled at a time.
    pub fn prompts_per_generation(&self) -> usize {
        self.batches_per_generation() * self.per_device_train_batch_size / self.num_generations.max(1)
    }

    fn epsilon_high(&self) -> f64 {
        self.epsilon_high.unwrap_or(self.epsilon)
    }

    pub(super) fn surrogate(&self) -> Surrogate {
        let Self { epsilon, beta, .. } = *self;
        Surrogate { epsilon, epsilon_high: self.epsilon_high(), beta, temperature: self.sampling.temperature }
    }

    pub(super) fn rollout(&self, ends: &[u32]) -> RolloutOptions {
        RolloutOptions {
            copies: self.num_generations,
            max_tokens: self.max_completion_length,
            sampling: self.sampling.clone(),
            ends: ends.to_vec(),
            max_rows: self.max_rows,
        }
    }
}
