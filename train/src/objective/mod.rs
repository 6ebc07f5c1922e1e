//! What is trained for.

pub mod distill;
pub mod grpo;
mod logits;
mod planned;
mod sft;

pub use planned::Planned;
pub use sft::Sft;

use crate::{Batch, Policy, Ranks};
use anyhow::Result;
use candle_ascend::Tensor;

/// What an objective makes of a batch.
pub struct Loss {
    /// A sum, to be divided by the weight of the whole step (see [`Objective::weight`]): rank 0, F32.
    pub sum: Tensor,
    /// Further sums to log under these names, divided like the loss.
    pub also: Vec<(&'static str, Tensor)>,
}

/// An objective: which batches a step has, and what is lost on each.
///
/// The loss of a step is the sum over its batches, those of all ranks, divided by the sum of their weights. So it does not
/// matter how a step is cut into batches and ranks.
pub trait Objective {
    type Batch;

    /// As the command line and the logs call it.
    fn name(&self) -> &'static str;

    /// This rank's batches of the optimizer's step `step`, which counts from 0. The same for the same seed, step and number of
    /// ranks, whatever ran before in this process.
    fn batches(&mut self, step: usize, policy: &Policy, ranks: &Ranks) -> Result<Vec<Self::Batch>>;

    /// What the loss of a batch counts in the step's: the number of what its sum goes over.
    fn weight(&self, batch: &Self::Batch) -> f64;

    /// Tokens that go through the model, for the rate.
    fn tokens(&self, batch: &Self::Batch) -> usize;

    /// The loss of a batch; what variables went into is recorded.
    fn loss(&mut self, policy: &Policy, batch: &Self::Batch) -> Result<Loss>;

    /// This rank's batches of the held-out samples; none without any. Their losses are added up as those of a step.
    fn held_out(&mut self, _policy: &Policy, _ranks: &Ranks) -> Result<Vec<Self::Batch>> {
        Ok(Vec::new())
    }

    /// What else the logs of the steps since the last call should say, under the field's names (`reward`, `kl` …), for all
    /// ranks together.
    fn metrics(&mut self, _ranks: &Ranks) -> Result<Vec<(String, f64)>> {
        Ok(Vec::new())
    }

    /// What tells its samples from others: the same on every rank.
    fn data(&self) -> String {
        String::new()
    }

    /// The epoch, with a fraction, that `step` steps have come to; `None` where there are no epochs.
    fn epoch(&self, _step: usize) -> Option<f64> {
        None
    }
}

/// Where objectives over given samples get their batches from.
pub trait Batches {
    /// As [`Objective::batches`].
    fn of_step(&mut self, step: usize, ranks: &Ranks) -> Result<Vec<Batch>>;

    /// As [`Objective::held_out`].
    fn held_out(&mut self, _ranks: &Ranks) -> Result<Vec<Batch>> {
        Ok(Vec::new())
    }

    /// As [`Objective::data`].
    fn data(&self) -> String {
        String::new()
    }

    /// As [`Objective::epoch`].
    fn epoch(&self, _step: usize) -> Option<f64> {
        None
    }
}
