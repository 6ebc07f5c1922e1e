//! Which part of the parameters this rank's optimizer changes.

use super::buckets::{Bucket, Kind, Member, lay_out};
use crate::optimizer::{self, Slot};
use crate::{Gradients, Ranks};
use anyhow::{Result, bail};
use candle_ascend::comm::{Communicator, Pending, Reduction};
use candle_ascend::{DType, Tensor, TensorId, Var};
use npu_models::Parameter;
use serde::Serialize;
use std::collections::HashMap;

/// What is divided among the ranks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub enum Zero {
    /// Nothing: every rank changes every parameter.
    #[default]
    #[serde(rename = "0")]
    Off,
    /// The optimizer's state (stage 1).
    #[serde(rename = "1")]
    State,
    /// The state, and the gradients once they are reduced (stage 2).
    #[serde(rename = "2")]
    Gradients,
}

impl std::str::FromStr for Zero {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        Ok(match text {
            "0" => Self::Off,
            "1" => Self::State,
            "2" => Self::Gradients,
            _ => bail!("{text:?} is no stage; use 0, 1 (optimizer state) or 2 (gradients too)"),
        })
    }
}

/// How work is shared between ranks.
#[derive(Clone, Copy, Debug)]
pub struct Sharding {
    pub zero: Zero,
    /// A bucket is sent once it has this many bytes of gradients.
    pub bucket_bytes: usize,
}

impl Default for Sharding {
    /// Nothing divided, and buckets as large as those of PyTorch's DDP.
    fn default() -> Self {
        Self { zero: Zero::Off, bucket_bytes: 25 << 20 }
    }
}

/// The parameters as the ranks share them.
///
/// Every method that needs the other ranks must be called by all of them in the same order.
#[derive(Debug)]
pub struct Partition {
    pub(crate) parameters: Vec<Parameter>,
    pub(crate) ranks: Ranks,
    zero: Zero,
    pub(crate) buckets: Vec<Bucket>,
    /// Place and bucket of a parameter.
    pub(crate) places: HashMap<TensorId, (usize, usize)>,
    pub(super) slots: Vec<Slot>,
}

impl Partition {
    /// The parameters have the same values on every rank. Of one rank alone nothing is divided.
    pub fn new(parameters: &[Parameter], ranks: &Ranks, how: Sharding) -> Result<Self> {
        let zero = if ranks.size() > 1 { how.zero } else { Zero::Off };
        let kind = |parameter: &Parameter| Kind { dtype: parameter.var.dtype(), decays: optimizer::decays(parameter) };
        let buckets = match ranks.communicator() {
            Some(_) => lay_out(parameters, how.bucket_bytes, ranks.size(), kind),
            None => Vec::new(),
        };
        let mut bucket_of = vec![0; parameters.len()];
        for (number, bucket) in buckets.iter().enumerate() {
            bucket.members.iter().for_each(|member| bucket_of[member.parameter] = number);
        }
        let ids = parameters.iter().map(|parameter| parameter.var.id());
        let places = ids.zip(bucket_of.into_iter().enumerate()).collect();
        let (parameters, ranks) = (parameters.to_vec(), ranks.clone());
        let mut partition = Self { parameters, ranks, zero, buckets, places, slots: Vec::new() };
        partition.slots = partition.make_slots()?;
        Ok(partition)
    }

    fn make_slots(&self) -> Result<Vec<Slot>> {
        if !self.is_sharded() {
            return self.parameters.iter().map(Slot::of).collect();
        }
        let slot = |bucket: &Bucket| -> Result<Slot> {
            Ok(Slot {
                name: format!("rank {}'s piece of {}", self.ranks.rank(), self.names(bucket)),
                master: Var::from_tensor(&self.piece_of_parameters(bucket)?)?,
                target: None,
                decays: bucket.kind.decays,
            })
        };
        self.buckets.iter().map(slot).collect()
    }

    /// This rank's piece of a bucket's parameters, F32.
    pub(super) fn piece_of_parameters(&self, bucket: &Bucket) -> Result<Tensor> {
        let value = |parameter: usize| Some(self.parameters[parameter].var.as_detached_tensor());
        Ok(self.piece(&self.flat(bucket, bucket.kind.dtype, value)?)?.to_dtype(DType::F32)?)
    }

    pub fn ranks(&self) -> &Ranks {
        &self.ranks
    }

    /// What this rank's optimizer changes.
    pub fn slots(&self) -> &[Slot] {
        &self.slots
    }

    /// Whether the slots are pieces of the parameters.
    pub fn is_sharded(&self) -> bool {
        self.zero != Zero::Off
    }

    /// Bytes of the masters that this rank keeps beside the parameters because it has a piece of each.
    pub fn piece_bytes(&self) -> usize {
        let pieces = self.slots.iter().filter(|_| self.is_sharded());
        pieces.map(|slot| slot.master.elem_count() * DType::F32.size_in_bytes()).sum()
    }

    /// Sums for the gradients of one step.
    pub fn gradients(&self) -> Gradients<'_> {
        Gradients::over(self)
    }

    /// What was computed over each whole bucket, from what each rank has computed over its piece and adds up, such as
    /// squares: `value`, F32 on the device.
    pub fn total(&self, value: &Tensor) -> Result<Tensor> {
        if self.is_sharded() { self.ranks.reduce(value) } else { Ok(value.clone()) }
    }

    /// Gives every rank the parameters that the optimizers of all have changed.
    pub fn spread(&self) -> Result<()> {
        let Some(communicator) = self.sharded() else { return Ok(()) };
        let start = |(slot, bucket): (&Slot, &Bucket)| {
            communicator.start_all_gather(&slot.master.as_detached_tensor().to_dtype(bucket.kind.dtype)?)
        };
        // One is under way while the one before it is copied to where it belongs.
        let mut started = self.slots.iter().zip(&self.buckets).map(start);
        let mut next = started.next().transpose()?;
        for bucket in &self.buckets {
            let pending = std::mem::replace(&mut next, started.next().transpose()?);
            let Some(flat) = pending.map(Pending::wait).transpose()? else { break };
            for &member in &bucket.members {
                let var = &self.parameters[member.parameter].var;
                var.set(&part(&flat, member, 1)?.reshape(var.shape())?)?;
            }
        }
        Ok(())
    }

    pub(super) fn sharded(&self) -> Option<&Communicator> {
        self.ranks.communicator().filter(|_| self.is_sharded())
    }

    /// Starts the reduction of a bucket's gradients over all ranks.
    pub(crate) fn reduce(&self, communicator: &Communicator, flat: Tensor) -> candle_ascend::Result<Pending> {
        match self.zero {
            Zero::Gradients => communicator.start_reduce_scatter(&flat, Reduction::Sum),
            Zero::Off | Zero::State => communicator.start_all_reduce_in_place(flat, Reduction::Sum),
        }
    }

    /// How many reductions may be under way. In place they need no memory of their own; otherwise what is sent lives until the
    /// result is waited for, and two hide the wire behind backward as well as all would.
    pub(crate) fn most_under_way(&self) -> usize {
        if self.zero == Zero::Gradients { 2 } else { usize::MAX }
    }

    /// The gradients of the slots, from those of the buckets that [`Partition::reduce`] has reduced.
    pub(crate) fn of_slots(&self, reduced: Vec<Tensor>) -> Result<Vec<Tensor>> {
        match self.zero {
            Zero::Gradients => Ok(reduced),
            Zero::State => reduced.iter().map(|flat| Ok(self.piece(flat)?)).collect(),
            Zero::Off => {
                let mut all = vec![None; self.parameters.len()];
                for (bucket, flat) in self.buckets.iter().zip(&reduced) {
                    for &member in &bucket.members {
                        let shape = self.parameters[member.parameter].var.shape();
                        all[member.parameter] = Some(part(flat, member, 1)?.reshape(shape)?);
                    }
                }
                Ok(all.into_iter().flatten().collect())
            }
        }
    }

    /// One tensor of all of a bucket, with zeros where `of` has nothing. Its memory is its own.
    pub(crate) fn flat(
        &self,
        bucket: &Bucket,
        dtype: DType,
        mut of: impl FnMut(usize) -> Option<Tensor>,
    ) -> candle_ascend::Result<Tensor> {
        let device = self.parameters[bucket.members[0].parameter].var.device();
        let flat = Tensor::zeros(bucket.count, dtype, device)?;
        for member in &bucket.members {
            if let Some(part) = of(member.parameter) {
                flat.slice_set(&part.flatten_all()?.contiguous()?, 0, member.offset)?;
            }
        }
        Ok(flat)
    }

    /// This rank's piece of a bucket.
    pub(super) fn piece(&self, flat: &Tensor) -> candle_ascend::Result<Tensor> {
        let count = flat.elem_count() / self.ranks.size();
        flat.narrow(0, self.ranks.rank() * count, count)
    }

    /// As messages call a bucket.
    pub(crate) fn names(&self, bucket: &Bucket) -> String {
        let name_of = |member: &Member| name(&self.parameters[member.parameter]);
        match bucket.members.as_slice() {
            [] => String::new(),
            [one] => name_of(one).to_owned(),
            [first, .., last] => format!("{} to {}", name_of(first), name_of(last)),
        }
    }
}

/// As messages and checkpoints call a parameter.
pub(super) fn name(parameter: &Parameter) -> &str {
    &parameter.parts[0].0
}

/// A parameter's part of a bucket's tensor, `block` elements to an entry.
pub(super) fn part(flat: &Tensor, member: Member, block: usize) -> candle_ascend::Result<Tensor> {
    flat.narrow(0, member.offset / block, member.count.div_ceil(block))
}
