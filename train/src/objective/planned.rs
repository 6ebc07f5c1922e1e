//! Batches of a corpus, as a plan has them.

use super::Batches;
use crate::data::{Corpus, Length, Plan, PlanOptions};
use crate::{Batch, Ranks};
use anyhow::Result;

/// The samples of a corpus in the order of a plan, and held-out ones in their own.
pub struct Planned {
    corpus: Corpus,
    plan: Plan,
    held_out: Option<(Corpus, Plan)>,
}

impl Planned {
    pub fn new(corpus: Corpus, plan: Plan) -> Self {
        Self { corpus, plan, held_out: None }
    }

    /// Looks at the samples of `corpus`, all of them, `batch_size` in a pass on each of `ranks` ranks.
    pub fn with_held_out(self, corpus: Corpus, batch_size: usize, ranks: usize) -> Result<Self> {
        let options = PlanOptions { batch_size, shuffle: false, length: Length::Epochs(1.), ..PlanOptions::default() };
        let plan = Plan::new(corpus.lengths(), ranks, options)?;
        Ok(Self { held_out: Some((corpus, plan)), ..self })
    }
}

/// The batches of `step` on `rank`, read and tokenised.
fn batches(corpus: &Corpus, plan: &Plan, step: usize, rank: usize) -> Result<Vec<Batch>> {
    let batch = |samples: Vec<usize>| -> Result<Batch> {
        Ok(Batch::new(samples.into_iter().map(|sample| corpus.sample(sample)).collect::<Result<_>>()?))
    };
    plan.batches(step, rank).into_iter().map(batch).collect()
}

impl Batches for Planned {
    fn of_step(&mut self, step: usize, ranks: &Ranks) -> Result<Vec<Batch>> {
        batches(&self.corpus, &self.plan, step, ranks.rank())
    }

    fn held_out(&mut self, ranks: &Ranks) -> Result<Vec<Batch>> {
        let Some((corpus, plan)) = &self.held_out else { return Ok(Vec::new()) };
        let steps = (0..plan.steps()).map(|step| batches(corpus, plan, step, ranks.rank()));
        Ok(steps.collect::<Result<Vec<_>>>()?.concat())
    }

    fn data(&self) -> String {
        let lengths = self.corpus.lengths().iter().flat_map(|length| length.to_le_bytes()).collect::<Vec<_>>();
        format!("{} samples, {:08x}", self.corpus.lengths().len(), crc32c::crc32c(&lengths))
    }

    fn epoch(&self, step: usize) -> Option<f64> {
        Some(self.plan.epoch(step))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Sample;

    #[test]
    fn an_epoch_brings_every_sample_once_and_so_does_a_look_at_the_held_out_ones() {
        let corpus = |numbers: std::ops::Range<u32>| {
            let sample = |i: u32| Sample { tokens: vec![i, i], labels: vec![i.into(), i.into()] };
            Corpus::of_samples(numbers.map(sample).collect())
        };
        let options = PlanOptions { batch_size: 4, length: Length::Epochs(2.), ..PlanOptions::default() };
        let train = corpus(0..10);
        let plan = Plan::new(train.lengths(), 1, options).unwrap();
        let ranks = Ranks::single();
        let mut planned = Planned::new(train, plan).with_held_out(corpus(10..15), 2, 1).unwrap();
        let numbers = |batches: &[Batch]| -> Vec<u32> {
            let mut numbers: Vec<u32> = batches.iter().flat_map(|b| b.samples.iter().map(|s| s.tokens[0])).collect();
            numbers.sort_unstable();
            numbers
        };
        for epoch in 0..2 {
            let steps = (3 * epoch..3 * epoch + 3).flat_map(|step| planned.of_step(step, &ranks).unwrap());
            assert_eq!(numbers(&steps.collect::<Vec<_>>()), (0..10).collect::<Vec<_>>(), "epoch {epoch}");
        }
        let held_out = planned.held_out(&ranks).unwrap();
        assert_eq!((held_out.len(), numbers(&held_out)), (3, (10..15).collect()));
        assert_eq!(planned.epoch(3), Some(1.));
    }
}
