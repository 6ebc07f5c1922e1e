//! Group relative policy optimization: sample, judge, and make likelier what was better than the rest of its group.
//!
//! Completions are sampled by the very weights that are trained, in the same engine and precision, so that nothing has to be
//! corrected for a sampler that differs from the trainer: no importance sampling besides the ratio that is clipped.

mod advantage;
mod loss;
mod metrics;
mod options;
mod rollouts;

pub use advantage::{Advantages, ScaleRewards};
pub use loss::{LossType, SUMS, Surrogate, Tokens};
pub use options::GrpoOptions;

use super::logits::log_probs_of;
use super::{Loss, Objective};
use crate::data::{Corpus, Length, Plan, PlanOptions};
use crate::reward::Rewards;
use crate::{Batch, Policy, Ranks};
use anyhow::{Context, Result, ensure};
use candle_ascend::{DType, Tensor};
use metrics::Metrics;
use npu_engine::{Tokenizer, end_tokens};
use npu_models::GenerationConfig;
use rollouts::HeldOut;
pub use rollouts::Rollout;
use std::rc::Rc;

/// What the divergence is measured from.
pub enum Reference {
    /// Nothing: `beta` is 0.
    None,
    /// The policy without its adapters.
    AdaptersOff,
    /// The model as the run began, held a second time.
    Model(Box<Policy>),
}

/// What a run is made of.
pub struct GrpoRun {
    pub prompts: Corpus,
    /// Prompts that are answered, the likeliest token each time, when the trainer evaluates.
    pub held_out: Option<Corpus>,
    pub rewards: Rewards,
    pub reference: Reference,
    pub length: Length,
}

/// GRPO over the prompts of a corpus.
pub struct Grpo {
    options: GrpoOptions,
    run: GrpoRun,
    plan: Plan,
    tokenizer: Tokenizer,
    /// Tokens that end a completion.
    ends: Vec<u32>,
    /// What was sampled last: its number, and this rank's batches.
    generation: Option<(usize, Vec<GrpoBatch>)>,
    metrics: Metrics,
}

/// Rollouts that go through the model together, or what held-out prompts came to.
#[derive(Clone)]
pub struct GrpoBatch(Kind);

#[derive(Clone)]
enum Kind {
    Rollouts(Rc<[Rollout]>),
    HeldOut(HeldOut),
}

impl GrpoBatch {
    /// The rollouts; none of held-out prompts.
    pub fn rollouts(&self) -> &[Rollout] {
        match &self.0 {
            Kind::Rollouts(rollouts) => rollouts,
            Kind::HeldOut(_) => &[],
        }
    }
}

impl Grpo {
    /// GRPO of `policy`, whose tokenizer lies where it was loaded from, on `ranks`.
    pub fn new(run: GrpoRun, policy: &Policy, ranks: &Ranks, options: GrpoOptions) -> Result<Self> {
        options.check()?;
        ensure!(
            (options.beta != 0.) == !matches!(run.reference, Reference::None),
            "beta is {}: with 0 there is no reference, and with another there is one",
            options.beta
        );
        let length = match run.length {
            Length::Steps(steps) => Length::Steps(steps.div_ceil(options.steps_of_generation())),
            epochs => epochs,
        };
        let (batch_size, seed) = (options.prompts_per_generation(), options.seed);
        let order = PlanOptions { batch_size, accumulation: 1, packing: None, shuffle: true, seed, length };
        let plan = Plan::new(run.prompts.lengths(), ranks.size(), order).context("the prompts")?;
        let metrics = Metrics::new(run.rewards.names().map(str::to_owned).collect(), options.beta != 0.);
        let tokenizer = Tokenizer::of(&policy.base)?;
        let ends = end_tokens(policy.model.config(), &GenerationConfig::from_dir(&policy.base)?, &tokenizer);
        ensure!(!ends.is_empty(), "{} names no token that ends an answer (eos_token)", policy.base.display());
        Ok(Self { options, run, plan, tokenizer, ends, generation: None, metrics })
    }

    /// The optimizer's steps of the whole run.
    pub fn steps(&self) -> usize {
        match self.run.length {
            Length::Steps(steps) => steps,
            Length::Epochs(_) => self.plan.steps() * self.options.steps_of_generation(),
        }
    }

    /// What `rollouts` know of their tokens, in the order of [`Batch::predicted`] of their samples.
    fn tokens_of(&self, rollouts: &[&Rollout], targets: &Tensor) -> Result<Tokens> {
        let per_token = |of: &dyn Fn(&Rollout) -> f64| -> Result<Tensor> {
            let values = rollouts.iter().flat_map(|rollout| std::iter::repeat_n(of(rollout) as f32, rollout.learnt()));
            Ok(Tensor::from_iter(values, targets.device())?)
        };
        let given = |of: &dyn Fn(&Rollout) -> Option<&[f32]>| -> Result<Option<Tensor>> {
            let all: Option<Vec<&[f32]>> = rollouts.iter().map(|rollout| of(rollout)).collect();
            Ok(all.map(|all| Tensor::from_vec(all.concat(), targets.elem_count(), targets.device())).transpose()?)
        };
        let (kind, longest) = (self.options.loss_type, self.options.max_completion_length);
        Ok(Tokens {
            targets: targets.unsqueeze(1)?,
            advantages: per_token(&|rollout| rollout.advantage)?,
            weights: per_token(&|rollout| kind.of_token(rollout.learnt(), longest))?,
            old: given(&|rollout| rollout.old.as_deref())?,
            reference: given(&|rollout| rollout.reference.as_deref())?,
        })
    }

    /// Whether a rollout's loss has a gradient: it has none without an advantage, unless it is drawn to a reference.
    fn moves(&self, rollout: &Rollout) -> bool {
        rollout.learnt() > 0 && (rollout.advantage != 0. || self.options.beta != 0.)
    }

    fn loss_of(&mut self, policy: &Policy, rollouts: &[Rollout]) -> Result<Tensor> {
        let moving: Vec<&Rollout> = rollouts.iter().filter(|rollout| self.moves(rollout)).collect();
        let counted = rollouts.iter().map(Rollout::learnt).sum();
        if moving.is_empty() {
            self.metrics.tokens(None, 0, counted)?;
            return Ok(Tensor::zeros((), DType::F32, &policy.device)?);
        }
        let batch = Batch::new(moving.iter().map(|rollout| rollout.sample.clone()).collect());
        let (rows, targets) = batch.predicted(&policy.device)?;
        let tokens = self.tokens_of(&moving, &targets)?;
        let hidden = policy.hidden(&batch)?.index_select(&rows, 0)?;
        let (loss, sums) = self.options.surrogate().loss(&hidden, policy.head()?, &tokens)?;
        self.metrics.tokens(Some(&sums), batch.targets(), counted)?;
        Ok(loss)
    }

    /// Log-probabilities of the rollouts' tokens under `policy`, one vector a rollout.
    fn log_probs(&self, policy: &Policy, rollouts: &[Rollout]) -> Result<Vec<Vec<f32>>> {
        let batch = Batch::new(rollouts.iter().map(|rollout| rollout.sample.clone()).collect());
        let all = log_probs_of(policy, &batch, self.options.sampling.temperature)?;
        let mut rest = all.as_slice();
        let mut next = |count: usize| {
            let (own, others) = rest.split_at(count);
            rest = others;
            own.to_vec()
        };
        Ok(rollouts.iter().map(|rollout| next(rollout.learnt())).collect())
    }
}

impl Objective for Grpo {
    type Batch = GrpoBatch;

    fn name(&self) -> &'static str {
        "grpo"
    }

    /// A run that goes on in the middle of a generation samples it again, by the policy as it is by then.
    fn batches(&mut self, step: usize, policy: &Policy, ranks: &Ranks) -> Result<Vec<GrpoBatch>> {
        let steps = self.options.steps_of_generation();
        let (number, within) = (step / steps, step % steps);
        if self.generation.as_ref().is_none_or(|(held, _)| *held != number) {
            // What was sampled before goes first, so that both are never held.
            self.generation = None;
            self.generation = Some((number, self.generate(number, policy, ranks)?));
        }
        let Some((_, all)) = &self.generation else { unreachable!("it was sampled above") };
        let (passes, part) = (self.options.steps_per_pass(), within % self.options.steps_per_pass());
        Ok(all[all.len() * part / passes..all.len() * (part + 1) / passes].to_vec())
    }

    fn weight(&self, batch: &GrpoBatch) -> f64 {
        match &batch.0 {
            Kind::Rollouts(rollouts) => {
                rollouts.iter().map(|rollout| self.options.loss_type.of_completion(rollout.learnt())).sum()
            }
            Kind::HeldOut(seen) => seen.completions as f64,
        }
    }

    fn tokens(&self, batch: &GrpoBatch) -> usize {
        match &batch.0 {
            Kind::Rollouts(rollouts) => rollouts.iter().map(|rollout| rollout.sample.tokens.len()).sum(),
            Kind::HeldOut(seen) => seen.tokens,
        }
    }

    fn loss(&mut self, policy: &Policy, batch: &GrpoBatch) -> Result<Loss> {
        match &batch.0 {
            Kind::Rollouts(rollouts) => {
                let rollouts = rollouts.clone();
                Ok(Loss { sum: self.loss_of(policy, &rollouts)?, also: Vec::new() })
            }
            // What is lost on held-out prompts is what their answers are not worth.
            Kind::HeldOut(seen) => {
                let sum = |value: f64| Tensor::new(value as f32, &policy.device);
                let also = vec![("reward", sum(seen.reward)?), ("completions/mean_length", sum(seen.lengths as f64)?)];
                Ok(Loss { sum: sum(-seen.reward)?, also })
            }
        }
    }

    fn held_out(&mut self, policy: &Policy, ranks: &Ranks) -> Result<Vec<GrpoBatch>> {
        self.answer_held_out(policy, ranks)
    }

    fn metrics(&mut self, ranks: &Ranks) -> Result<Vec<(String, f64)>> {
        self.metrics.take(ranks)
    }

    fn data(&self) -> String {
        let lengths = self.run.prompts.lengths().iter().flat_map(|length| length.to_le_bytes()).collect::<Vec<_>>();
        format!("{} prompts, {:08x}", self.run.prompts.len(), crc32c::crc32c(&lengths))
    }

    fn epoch(&self, step: usize) -> Option<f64> {
        Some(self.plan.epoch(1) * step as f64 / self.options.steps_of_generation() as f64)
    }
}
