//! Supervised fine-tuning: the next token of the answers.

use super::logits::rows_of_chunk;
use super::{Batches, Loss, Objective};
use crate::{Batch, Policy, Ranks};
use anyhow::Result;
use candle_ascend::ops::{CrossEntropy, linear_cross_entropy};
use candle_ascend::{DType, Tensor};

/// Cross entropy of the labelled tokens, of the batches that `B` gives.
pub struct Sft<B> {
    batches: B,
    /// Rows whose logits are held at a time at most; fewer where the vocabulary is large.
    pub chunk: usize,
}

impl<B: Batches> Sft<B> {
    pub fn new(batches: B) -> Self {
        Self { batches, chunk: CrossEntropy::default().chunk }
    }
}

impl<B: Batches> Objective for Sft<B> {
    type Batch = Batch;

    fn name(&self) -> &'static str {
        "sft"
    }

    fn batches(&mut self, step: usize, _: &Policy, ranks: &Ranks) -> Result<Vec<Batch>> {
        self.batches.of_step(step, ranks)
    }

    fn weight(&self, batch: &Batch) -> f64 {
        batch.targets() as f64
    }

    fn tokens(&self, batch: &Batch) -> usize {
        batch.tokens()
    }

    fn loss(&mut self, policy: &Policy, batch: &Batch) -> Result<Loss> {
        let (rows, labels) = batch.predicted(&policy.device)?;
        if batch.targets() == 0 {
            return Ok(Loss { sum: Tensor::zeros((), DType::F32, &policy.device)?, also: Vec::new() });
        }
        // Prompts are not projected to the vocabulary, which is most of the work at their end.
        let hidden = policy.hidden(batch)?.index_select(&rows, 0)?;
        let head = policy.head()?;
        // Cross entropy holds one copy where other losses hold two or more.
        let chunk = self.chunk.min(2 * rows_of_chunk(head.dim(0)?));
        let how = CrossEntropy { mean: false, chunk, ..CrossEntropy::default() };
        Ok(Loss { sum: linear_cross_entropy(&hidden, head, &labels, how)?, also: Vec::new() })
    }

    fn held_out(&mut self, _: &Policy, ranks: &Ranks) -> Result<Vec<Batch>> {
        self.batches.held_out(ranks)
    }

    fn data(&self) -> String {
        self.batches.data()
    }

    fn epoch(&self, step: usize) -> Option<f64> {
        self.batches.epoch(step)
    }
}
