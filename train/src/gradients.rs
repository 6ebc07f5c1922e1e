//! Gradients of a step: added up over its batches in F32, and over the ranks while backward goes on.

use crate::Partition;
use crate::parallel::Bucket;
use anyhow::{Context, Result, ensure};
use candle_ascend::comm::{Communicator, Pending};
use candle_ascend::{DType, Tensor};
use std::collections::VecDeque;

/// The gradients of one step.
///
/// Each bucket of them is sent as soon as the last batch's backward has completed it. Every rank sends them in the same
/// order, whatever order its backward comes to them in: the ranks' n-th collectives meet.
pub struct Gradients<'a> {
    partition: &'a Partition,
    /// For each parameter, what was added so far and not yet sent.
    sums: Vec<Option<Tensor>>,
    /// For each bucket, its parameters that the last batch has not come to.
    missing: Vec<usize>,
    /// Buckets that are under way, the first that was sent first; what is reduced came before them.
    sent: VecDeque<Pending>,
    reduced: Vec<Tensor>,
    complete: bool,
}

impl<'a> Gradients<'a> {
    pub(crate) fn over(partition: &'a Partition) -> Self {
        let missing = partition.buckets.iter().map(|bucket| bucket.members.len()).collect();
        let sums = vec![None; partition.parameters.len()];
        Self { partition, sums, missing, sent: VecDeque::new(), reduced: Vec::new(), complete: false }
    }

    /// Adds the gradients of `loss` (rank 0) times `scale`. `last` says that none will come after it on this rank, so that
    /// what is complete may be sent.
    pub fn add(&mut self, loss: Tensor, scale: f64, last: bool) -> Result<()> {
        ensure!(!self.complete, "gradients of a batch after the last one of the step");
        self.complete = last;
        let seed = (loss.ones_like()? * scale)?;
        loss.walk_back(seed, &mut |variable, grad| {
            // A variable that is no parameter is somebody else's concern.
            let Some(&(place, bucket)) = self.partition.places.get(&variable.id()) else { return Ok(()) };
            let grad = grad.to_dtype(DType::F32)?;
            self.sums[place] = Some(match self.sums[place].take() {
                Some(sum) => (sum + grad)?,
                None => grad,
            });
            if let Some(communicator) = self.partition.ranks.communicator().filter(|_| last) {
                self.missing[bucket] -= 1;
                self.send(communicator, false)?;
            }
            Ok(())
        })?;
        Ok(())
    }

    /// The bucket to be sent next, if it is complete or if `all` are to be sent.
    fn next(&self, all: bool) -> Option<&'a Bucket> {
        let number = self.reduced.len() + self.sent.len();
        self.partition.buckets.get(number).filter(|_| all || self.missing[number] == 0)
    }

    /// Sends the next buckets, those that are complete or `all`.
    fn send(&mut self, communicator: &Communicator, all: bool) -> candle_ascend::Result<()> {
        let partition = self.partition;
        while let Some(bucket) = self.next(all) {
            let flat = partition.flat(bucket, DType::F32, |parameter| self.sums[parameter].take())?;
            self.sent.push_back(partition.reduce(communicator, flat)?);
            self.settle(partition.most_under_way())?;
        }
        Ok(())
    }

    /// Waits, on the device, for all but the last `most` buckets that are under way.
    fn settle(&mut self, most: usize) -> candle_ascend::Result<()> {
        while self.sent.len() > most
            && let Some(pending) = self.sent.pop_front()
        {
            self.reduced.push(pending.wait()?);
        }
        Ok(())
    }

    /// The sums over all ranks, F32, in the order and the shapes of the partition's slots; zeros where nothing was lost on a
    /// parameter. A reduction that fails later than this is told by [`Ranks::check`](crate::Ranks::check).
    pub fn finish(mut self) -> Result<Vec<Tensor>> {
        let partition = self.partition;
        let Some(communicator) = partition.ranks.communicator() else {
            let zeros = |place: usize| {
                let var = &partition.parameters[place].var;
                Ok(Tensor::zeros(var.shape(), DType::F32, var.device())?)
            };
            return self
                .sums
                .into_iter()
                .enumerate()
                .map(|(place, sum)| sum.map_or_else(|| zeros(place), Ok))
                .collect();
        };
        self.send(communicator, true).and_then(|()| self.settle(0)).context("reducing gradients")?;
        partition.ranks.check()?;
        partition.of_slots(self.reduced)
    }
}
