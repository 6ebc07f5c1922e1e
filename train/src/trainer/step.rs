//! One step up to its gradients, and what the host learns of it.

use crate::{Objective, Partition, Policy, Ranks};
use anyhow::{Context, Result};
use candle_ascend::{DType, Tensor, no_grad, ops};

/// Batches of a step or of an evaluation, with what their losses are divided by.
pub struct Work<B> {
    pub batches: Vec<B>,
    /// Of all ranks.
    pub weight: f64,
    /// Of all ranks.
    pub tokens: f64,
    /// Every rank has a batch. Where one has none it cannot know what else the objective measures.
    pub full: bool,
}

impl<B> Work<B> {
    pub fn of<O: Objective<Batch = B>>(objective: &O, batches: Vec<B>, ranks: &Ranks) -> Result<Self> {
        let weight: f64 = batches.iter().map(|batch| objective.weight(batch)).sum();
        let tokens: usize = batches.iter().map(|batch| objective.tokens(batch)).sum();
        let idle = if batches.is_empty() { 1. } else { 0. };
        let sums = ranks.sum(&[weight, tokens as f64, idle])?;
        // A step in which nothing counts has a loss of zero.
        let weight = if sums[0] > 0. { sums[0] } else { 1. };
        Ok(Self { batches, weight, tokens: sums[1], full: sums[2] == 0. })
    }
}

/// Losses on the device, added up over batches.
#[derive(Default)]
pub struct Sums {
    names: Vec<&'static str>,
    /// The loss, then what goes with it.
    values: Vec<Tensor>,
}

/// Losses on the host.
#[derive(Clone, Debug)]
pub struct Losses {
    pub loss: f64,
    pub also: Vec<(&'static str, f64)>,
}

impl Sums {
    fn add(&mut self, sum: &Tensor, also: Vec<(&'static str, Tensor)>) -> Result<()> {
        let (names, mut values): (Vec<_>, Vec<_>) = also.into_iter().unzip();
        values.insert(0, sum.clone());
        let values = values.iter().map(|value| Ok(value.detach().to_dtype(DType::F32)?)).collect::<Result<Vec<_>>>()?;
        if self.values.is_empty() {
            (self.names, self.values) = (names, values);
            return Ok(());
        }
        let sums = self.values.iter().zip(&values).map(|(sum, value)| Ok(no_grad(|| sum + value)?));
        self.values = sums.collect::<Result<_>>()?;
        Ok(())
    }

    /// What the host is to read: the sums over all ranks.
    fn finish<B>(&mut self, work: &Work<B>, policy: &Policy, ranks: &Ranks) -> Result<Tensor> {
        if self.values.is_empty() {
            self.values.push(Tensor::zeros((), DType::F32, &policy.device)?);
        }
        if !work.full {
            self.values.truncate(1);
            self.names.clear();
        }
        ranks.reduce(&Tensor::stack(&self.values, 0)?)
    }

    fn read(&self, sums: &[f32], weight: f64) -> Losses {
        let mut values = sums.iter().map(|sum| f64::from(*sum) / weight);
        let loss = values.next().unwrap_or(0.);
        Losses { loss, also: self.names.iter().copied().zip(values).collect() }
    }
}

/// Gradients of a step with what the host has read of them.
pub struct Gradient {
    pub losses: Losses,
    /// In the order of the partition's slots, times the scale of the loss.
    pub grads: Vec<Tensor>,
    /// The sum of squares of each, of all ranks' pieces where it is one, without the scale.
    pub squares: Vec<f64>,
}

/// Forward and backward of every batch, with the loss times `scale` before backward.
pub fn gradient<O: Objective>(
    objective: &mut O,
    policy: &Policy,
    partition: &Partition,
    work: &Work<O::Batch>,
    scale: f64,
) -> Result<Gradient> {
    let ranks = partition.ranks();
    let mut gradients = partition.gradients();
    let mut sums = Sums::default();
    for (i, batch) in work.batches.iter().enumerate() {
        let loss = objective.loss(policy, batch)?;
        sums.add(&loss.sum, loss.also)?;
        gradients.add(loss.sum, scale / work.weight, i + 1 == work.batches.len())?;
    }
    let grads = gradients.finish()?;
    let total = sums.finish(work, policy, ranks)?;
    let squares = grads.iter().map(|grad| Ok(ops::sum_of_squares(grad)?)).collect::<Result<Vec<_>>>()?;
    let squares = partition.total(&Tensor::stack(&squares, 0).context("nothing of the model is trained")?)?;
    let read = Tensor::cat(&[&total, &squares], 0)?.to_vec1::<f32>()?;
    ranks.check()?;
    let (losses, squares) = read.split_at(read.len() - grads.len());
    let squares = squares.iter().map(|square| f64::from(*square) / scale / scale).collect();
    Ok(Gradient { losses: sums.read(losses, work.weight), grads, squares })
}

/// The losses of held-out batches; none where no rank has one.
pub fn evaluate<O: Objective>(objective: &mut O, policy: &Policy, ranks: &Ranks) -> Result<Option<Losses>> {
    let batches = objective.held_out(policy, ranks)?;
    let work = Work::of(objective, batches, ranks)?;
    if work.tokens == 0. {
        return Ok(None);
    }
    let mut sums = Sums::default();
    for batch in &work.batches {
        let loss = no_grad(|| objective.loss(policy, batch))?;
        sums.add(&loss.sum, loss.also)?;
    }
    let read = sums.finish(&work, policy, ranks)?.to_vec1::<f32>()?;
    ranks.check()?;
    Ok(Some(sums.read(&read, work.weight)))
}
