//! From prompts to judged completions.

use super::{Advantages, Grpo, GrpoBatch, Kind, Reference};
use crate::data::Prompt;
use crate::random::seed_of;
use crate::reward::{Answer, Scores};
use crate::{IGNORED, Policy, Ranks, Sample};
use anyhow::{Context, Result};
use npu_engine::{Completion, RolloutOptions, SamplingOptions, sample_groups};

/// A completion with what it taught.
#[derive(Clone, Debug)]
pub struct Rollout {
    /// Prompt and completion, of which the completion is learnt; nothing of one that is masked.
    pub sample: Sample,
    pub advantage: f64,
    /// Log-probabilities of the learnt tokens when they were sampled; none where the policy has not changed since.
    pub old: Option<Vec<f32>>,
    /// Under the reference.
    pub reference: Option<Vec<f32>>,
}

impl Rollout {
    /// Tokens in the loss.
    pub fn learnt(&self) -> usize {
        self.sample.targets()
    }
}

/// What the answers to some held-out prompts came to.
#[derive(Clone, Copy, Debug, Default)]
pub struct HeldOut {
    pub completions: usize,
    pub reward: f64,
    /// Tokens of all completions.
    pub lengths: usize,
    /// And with their prompts.
    pub tokens: usize,
}

/// Completions of a prompt with their text.
struct Group {
    prompt: Prompt,
    completions: Vec<(Completion, String)>,
}

/// Held-out prompts that are answered and judged at a time.
const HELD_OUT_AT_ONCE: usize = 64;

impl Grpo {
    /// Samples and judges this rank's part of generation `number`.
    pub(super) fn generate(&mut self, number: usize, policy: &Policy, ranks: &Ranks) -> Result<Vec<GrpoBatch>> {
        let own: Vec<usize> = self.plan.batches(number, ranks.rank()).concat();
        let prompts = own.iter().map(|&index| self.run.prompts.prompt(index)).collect::<Result<Vec<_>>>()?;
        let (seed, copies) = (self.options.seed, self.options.num_generations);
        let seed = |prompt: usize, copy: usize| seed_of(&[seed, number as u64, own[prompt] as u64, copy as u64]);
        let groups = self.complete(policy, prompts, &self.options.rollout(&self.ends), &seed)?;
        let scores = self.judge(&groups)?;
        let advantages = Advantages::of(&scores.sums, copies, self.options.scale_rewards, ranks)?;
        self.note(&groups, &scores, &advantages);
        let mut rollouts = Vec::with_capacity(scores.sums.len());
        for (group, advantages) in groups.iter().zip(advantages.values.chunks(copies)) {
            for ((completion, _), &advantage) in group.completions.iter().zip(advantages) {
                let masked = self.options.mask_truncated_completions && completion.truncated();
                let mut sample = Sample::completion(&group.prompt.tokens, &completion.tokens);
                if masked {
                    sample.labels.fill(IGNORED);
                }
                rollouts.push(Rollout { sample, advantage, old: None, reference: None });
            }
        }
        let batches = rollouts.chunks_mut(self.options.per_device_train_batch_size);
        batches.map(|batch| self.batch(batch, policy)).collect()
    }

    /// Rollouts with the log-probabilities that are compared with the policy's later.
    fn batch(&self, rollouts: &mut [Rollout], policy: &Policy) -> Result<GrpoBatch> {
        if self.options.steps_of_generation() > 1 {
            let old = self.log_probs(policy, rollouts)?;
            rollouts.iter_mut().zip(old).for_each(|(rollout, old)| rollout.old = Some(old));
        }
        let reference = match &self.run.reference {
            Reference::None => None,
            Reference::AdaptersOff => Some(policy.without_adapters(|| self.log_probs(policy, rollouts))?),
            Reference::Model(reference) => Some(self.log_probs(reference, rollouts)?),
        };
        for (rollout, own) in rollouts.iter_mut().zip(reference.into_iter().flatten()) {
            rollout.reference = Some(own);
        }
        Ok(GrpoBatch(Kind::Rollouts(rollouts.to_vec().into())))
    }

    fn complete(
        &self,
        policy: &Policy,
        prompts: Vec<Prompt>,
        options: &RolloutOptions,
        seed: &dyn Fn(usize, usize) -> u64,
    ) -> Result<Vec<Group>> {
        let tokens: Vec<Vec<u32>> = prompts.iter().map(|prompt| prompt.tokens.clone()).collect();
        let groups = sample_groups(policy.model.as_ref(), &policy.device, &tokens, options, seed);
        let groups = groups.context("sampling completions")?;
        let with_text = |completion: Completion| -> Result<(Completion, String)> {
            let said = completion.tokens.len() - usize::from(!completion.truncated());
            let text = self.tokenizer.decode(&completion.tokens[..said])?;
            Ok((completion, text))
        };
        let group = |(prompt, completions): (Prompt, Vec<Completion>)| -> Result<Group> {
            Ok(Group { prompt, completions: completions.into_iter().map(with_text).collect::<Result<_>>()? })
        };
        prompts.into_iter().zip(groups).map(group).collect()
    }

    fn judge(&mut self, groups: &[Group]) -> Result<Scores> {
        let all =
            groups.iter().flat_map(|group| group.completions.iter().map(|completion| (&group.prompt, completion)));
        let answers: Vec<Answer> = all
            .enumerate()
            .map(|(index, (prompt, (completion, text)))| Answer { index, prompt, text, tokens: &completion.tokens })
            .collect();
        self.run.rewards.score(&answers)
    }

    fn note(&mut self, groups: &[Group], scores: &Scores, advantages: &Advantages) {
        let completions = groups.iter().flat_map(|group| &group.completions);
        for ((completion, _), reward) in completions.zip(&scores.sums) {
            self.metrics.completion(completion.tokens.len(), completion.truncated(), *reward);
        }
        scores.each.iter().enumerate().for_each(|(which, values)| self.metrics.values(which, values));
        self.metrics.deviations(&advantages.stds);
    }

    /// Answers this rank's held-out prompts, the likeliest token each time.
    pub(super) fn answer_held_out(&mut self, policy: &Policy, ranks: &Ranks) -> Result<Vec<GrpoBatch>> {
        let Some(corpus) = self.run.held_out.clone() else { return Ok(Vec::new()) };
        let own: Vec<usize> = (ranks.rank()..corpus.len()).step_by(ranks.size()).collect();
        let options =
            RolloutOptions { copies: 1, sampling: SamplingOptions::default(), ..self.options.rollout(&self.ends) };
        let mut batches = Vec::new();
        for part in own.chunks(HELD_OUT_AT_ONCE) {
            let prompts = part.iter().map(|&index| corpus.prompt(index)).collect::<Result<Vec<_>>>()?;
            let asked: usize = prompts.iter().map(|prompt| prompt.tokens.len()).sum();
            let groups = self.complete(policy, prompts, &options, &|_, _| 0)?;
            let reward = self.judge(&groups).context("judging the held-out answers")?.sums.iter().sum();
            let lengths = groups.iter().flat_map(|group| &group.completions).map(|(c, _)| c.tokens.len()).sum();
            let seen = HeldOut { completions: part.len(), reward, lengths, tokens: asked + lengths };
            batches.push(GrpoBatch(Kind::HeldOut(seen)));
        }
        if batches.is_empty() {
            // A rank without a prompt still says what is measured, so that all ranks add up the same.
            batches.push(GrpoBatch(Kind::HeldOut(HeldOut::default())));
        }
        Ok(batches)
    }
}
