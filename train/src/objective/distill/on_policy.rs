//! The student's own samples in the place of the data's (GKD, arXiv 2306.13649).

use crate::random::{seed_of, uniform};
use crate::{Batch, IGNORED, Policy, Ranks, Sample};
use anyhow::{Context, Result};
use npu_engine::{RolloutOptions, sample_groups};

/// When the student is sampled, and how.
#[derive(Clone, Debug)]
pub struct OnPolicy {
    /// The share of batches whose answers are the student's.
    pub lambda: f64,
    pub rollout: RolloutOptions,
    pub seed: u64,
}

impl OnPolicy {
    /// `batches` of the step `step`, of which some are answered anew.
    pub fn batches(&self, batches: Vec<Batch>, step: usize, policy: &Policy, ranks: &Ranks) -> Result<Vec<Batch>> {
        let answered = |(i, batch): (usize, Batch)| {
            // By the batch's place among those of all ranks, so that it does not matter how many share them.
            let seeds = [self.seed, step as u64, (i * ranks.size() + ranks.rank()) as u64];
            if uniform(&seeds) < self.lambda { self.answered(&batch, policy, seed_of(&seeds)) } else { Ok(batch) }
        };
        batches.into_iter().enumerate().map(answered).collect()
    }

    /// The prompts of `batch`, what stands before its first learnt token, with the student's answers. A sample without a
    /// prompt stays as it is.
    fn answered(&self, batch: &Batch, policy: &Policy, seed: u64) -> Result<Batch> {
        let prompt = |sample: &Sample| {
            let end = sample.labels.iter().position(|label| *label != IGNORED).unwrap_or(0);
            sample.tokens[..end].to_vec()
        };
        let prompts: Vec<Vec<u32>> = batch.samples.iter().map(prompt).collect();
        let asked: Vec<usize> = (0..prompts.len()).filter(|&i| !prompts[i].is_empty()).collect();
        let given: Vec<Vec<u32>> = asked.iter().map(|&i| prompts[i].clone()).collect();
        let rollout = RolloutOptions { copies: 1, ..self.rollout.clone() };
        let answers = sample_groups(policy.model.as_ref(), &policy.device, &given, &rollout, &|prompt, _| {
            seed_of(&[seed, prompt as u64])
        })
        .context("sampling the student")?;
        let mut samples = batch.samples.clone();
        for (i, answer) in asked.into_iter().zip(answers.into_iter().flatten()) {
            samples[i] = Sample::completion(&prompts[i], &answer.tokens);
        }
        Ok(Batch::new(samples))
    }
}
