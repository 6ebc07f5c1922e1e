//! Which samples each step takes, and on which rank.
//!
//! A step takes the next `ranks · accumulation · batch_size` units of its epoch, a unit being a sample or, packed, a bin of
//! them; rank `r` takes every `ranks`-th of these from the `r`-th on. So a step has the same samples on N ranks as on one with
//! N times the accumulation, and because a loss is divided by the weight of the whole step, the same loss.
//!
//! An epoch sees every sample once. What does not fill its last step is a step all the same, a shorter one: it is shared out
//! like any other, so that no two ranks differ by more than a unit, and a rank may have none.

use super::packing::pack;
use anyhow::{Result, ensure};
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{RngCore, SeedableRng};
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

/// How long a run is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Length {
    /// In passes over the samples, with a fraction.
    Epochs(f64),
    /// In the optimizer's steps.
    Steps(usize),
}

/// What makes a step's batches. The default is transformers'.
#[derive(Clone, Debug)]
pub struct PlanOptions {
    /// Units of a pass through the model, on one rank.
    pub batch_size: usize,
    /// Passes of a step, on one rank.
    pub accumulation: usize,
    /// Tokens of a bin, if samples are packed.
    pub packing: Option<usize>,
    /// The order is drawn from the seed and the epoch, rather than that of the files.
    pub shuffle: bool,
    pub seed: u64,
    pub length: Length,
}

impl Default for PlanOptions {
    fn default() -> Self {
        Self { batch_size: 8, accumulation: 1, packing: None, shuffle: true, seed: 42, length: Length::Epochs(3.) }
    }
}

/// The batches of every step: a function of the samples' lengths, the options and the number of ranks.
pub struct Plan {
    options: PlanOptions,
    ranks: usize,
    lengths: Vec<u32>,
    /// The samples of all units, one unit after the other, and where each ends. Without packing a unit is a sample.
    packed: Option<(Vec<u32>, Vec<u32>)>,
    units: usize,
    /// The order of the units in the epoch that was asked for last.
    order: Mutex<(usize, Arc<[u32]>)>,
}

impl Plan {
    /// Of samples of these `lengths` over `ranks` processes.
    pub fn new(lengths: &[u32], ranks: usize, options: PlanOptions) -> Result<Self> {
        ensure!(!lengths.is_empty(), "there are no samples to plan steps of");
        for (what, number) in
            [("a batch", options.batch_size), ("an accumulation", options.accumulation), ("ranks", ranks)]
        {
            ensure!(number > 0, "{what} of 0, wanted at least 1");
        }
        match options.length {
            Length::Epochs(epochs) => ensure!(epochs > 0. && epochs.is_finite(), "{epochs} epochs, wanted more than 0"),
            Length::Steps(steps) => ensure!(steps > 0, "0 steps, wanted at least 1"),
        }
        let packed = match options.packing {
            None => None,
            Some(most) => {
                let longest = lengths.iter().copied().max().unwrap_or_default() as usize;
                ensure!(longest <= most, "a sample has {longest} tokens and is to be packed into bins of {most}");
                Some(pack(lengths, &order(lengths.len(), &options, 0), most as u32))
            }
        };
        let units = packed.as_ref().map_or(lengths.len(), |(_, ends)| ends.len());
        let order = Mutex::new((0, order(units, &options, 0).into()));
        Ok(Self { options, ranks, lengths: lengths.to_vec(), packed, units, order })
    }

    /// Samples, or bins of them, of an epoch.
    pub fn units(&self) -> usize {
        self.units
    }

    /// Units that a full step takes on all ranks.
    pub fn step_units(&self) -> usize {
        self.ranks * self.options.accumulation * self.options.batch_size
    }

    pub fn steps_per_epoch(&self) -> usize {
        self.units.div_ceil(self.step_units())
    }

    /// Steps of the whole run.
    pub fn steps(&self) -> usize {
        match self.options.length {
            // A tenth of thirty steps is three and the rounding of a product.
            Length::Epochs(epochs) => ((epochs * self.steps_per_epoch() as f64 - 1e-6).ceil() as usize).max(1),
            Length::Steps(steps) => steps,
        }
    }

    /// The epoch, with a fraction, that `step` steps have come to.
    pub fn epoch(&self, step: usize) -> f64 {
        step as f64 / self.steps_per_epoch() as f64
    }

    /// The samples of each pass of step `step`, which counts from 0, on rank `rank`. The longest come first, so that those of
    /// one length lie side by side and share their attention.
    pub fn batches(&self, step: usize, rank: usize) -> Vec<Vec<usize>> {
        let (epoch, within) = (step / self.steps_per_epoch(), step % self.steps_per_epoch());
        let order = self.order_of(epoch);
        let start = within * self.step_units();
        let own: Vec<u32> = order[start..self.units.min(start + self.step_units())]
            .iter()
            .skip(rank)
            .step_by(self.ranks)
            .copied()
            .collect();
        let batch = |units: &[u32]| {
            let mut samples: Vec<usize> = units.iter().flat_map(|&unit| self.samples(unit)).collect();
            samples.sort_by_key(|&sample| std::cmp::Reverse(self.lengths[sample]));
            samples
        };
        own.chunks(self.options.batch_size).map(batch).collect()
    }

    /// The samples of unit `unit`.
    fn samples(&self, unit: u32) -> Vec<usize> {
        let Some((samples, ends)) = &self.packed else { return vec![unit as usize] };
        let start = if unit == 0 { 0 } else { ends[unit as usize - 1] };
        let range: Range<usize> = start as usize..ends[unit as usize] as usize;
        samples[range].iter().map(|&sample| sample as usize).collect()
    }

    fn order_of(&self, epoch: usize) -> Arc<[u32]> {
        let mut held = self.order.lock().unwrap_or_else(PoisonError::into_inner);
        if held.0 != epoch {
            *held = (epoch, order(self.units, &self.options, epoch).into());
        }
        held.1.clone()
    }
}

fn order(count: usize, options: &PlanOptions, epoch: usize) -> Vec<u32> {
    if options.shuffle { shuffled(count, options.seed, epoch) } else { (0..count as u32).collect() }
}

/// The numbers below `count` in an order that seed and epoch decide.
pub(super) fn shuffled(count: usize, seed: u64, epoch: usize) -> Vec<u32> {
    // Drawn twice: seeds next to each other must not share the orders of epochs next to each other.
    let mut random = StdRng::seed_from_u64(StdRng::seed_from_u64(seed).next_u64().wrapping_add(epoch as u64));
    let mut numbers: Vec<u32> = (0..count as u32).collect();
    numbers.shuffle(&mut random);
    numbers
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
