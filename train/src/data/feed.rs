//! Samples in the batches of a plan.

use super::{Corpus, Length, Plan, PlanOptions};
use crate::objective::Batches;
use crate::{Batch, Ranks};
use anyhow::{Context, Result, ensure};

/// The batches of a run over a corpus, and of the samples held out.
pub struct Feed {
    corpus: Corpus,
    plan: Plan,
    held_out: Option<(Corpus, Plan)>,
}

impl Feed {
    /// Batches of `corpus` as `options` say, and of `held_out` in its own order, `eval_batch_size` units in each; over as many
    /// processes as `ranks`.
    pub fn new(
        corpus: Corpus,
        held_out: Option<Corpus>,
        options: PlanOptions,
        eval_batch_size: usize,
        ranks: &Ranks,
    ) -> Result<Self> {
        let eval_options = PlanOptions {
            batch_size: eval_batch_size,
            accumulation: 1,
            shuffle: false,
            length: Length::Epochs(1.),
            ..options.clone()
        };
        let plan = Plan::new(corpus.lengths(), ranks.size(), options)?;
        let eval = |held_out: Corpus| -> Result<_> {
            let plan = Plan::new(held_out.lengths(), ranks.size(), eval_options).context("the held-out samples")?;
            Ok((held_out, plan))
        };
        Ok(Self { corpus, plan, held_out: held_out.map(eval).transpose()? })
    }

    pub fn plan(&self) -> &Plan {
        &self.plan
    }
}

impl Batches for Feed {
    fn of_step(&mut self, step: usize, ranks: &Ranks) -> Result<Vec<Batch>> {
        batches(&self.corpus, &self.plan, step, ranks)
    }

    fn held_out(&mut self, ranks: &Ranks) -> Result<Vec<Batch>> {
        let Some((corpus, plan)) = &self.held_out else { return Ok(Vec::new()) };
        let steps = (0..plan.steps()).map(|step| batches(corpus, plan, step, ranks));
        Ok(steps.collect::<Result<Vec<_>>>()?.concat())
    }

    fn epoch(&self, step: usize) -> Option<f64> {
        Some(self.plan.epoch(step))
    }
}

fn batches(corpus: &Corpus, plan: &Plan, step: usize, ranks: &Ranks) -> Result<Vec<Batch>> {
    ensure!(ranks.size() == plan.ranks(), "{} processes, and the plan is for {}", ranks.size(), plan.ranks());
    let batch = |samples: Vec<usize>| {
        let samples: Result<Vec<_>> = samples.into_iter().map(|sample| corpus.sample(sample)).collect();
        Ok(Batch::new(samples?))
    };
    plan.batches(step, ranks.rank()).into_iter().map(batch).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Sample;

    #[test]
    fn a_feed_gives_every_sample_of_both_sets_once() {
        let sample =
            |i: u32| Sample { tokens: vec![i; 1 + i as usize % 3], labels: vec![i.into(); 1 + i as usize % 3] };
        let corpus = Corpus::of_samples((0..10).map(sample).collect());
        let held_out = Corpus::of_samples((10..15).map(sample).collect());
        let options = PlanOptions { batch_size: 4, length: Length::Epochs(1.), ..PlanOptions::default() };
        let ranks = Ranks::single();
        let mut feed = Feed::new(corpus, Some(held_out), options, 2, &ranks).unwrap();
        let first = |batches: Vec<Batch>| -> Vec<u32> {
            let mut tokens: Vec<u32> = batches.iter().flat_map(|b| b.samples.iter().map(|s| s.tokens[0])).collect();
            tokens.sort_unstable();
            tokens
        };
        assert_eq!(feed.plan().steps(), 3);
        let steps: Vec<Batch> = (0..3).flat_map(|step| feed.of_step(step, &ranks).unwrap()).collect();
        let sizes: Vec<usize> = steps.iter().map(|batch| batch.samples.len()).collect();
        assert_eq!((sizes, first(steps)), (vec![4, 4, 2], (0..10).collect()));
        let held_out = feed.held_out(&ranks).unwrap();
        assert_eq!((held_out.len(), first(held_out)), (3, (10..15).collect()));
        assert_eq!(feed.epoch(3), Some(1.));
    }
}
