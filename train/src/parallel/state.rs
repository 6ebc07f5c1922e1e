//! The optimizer's state as a checkpoint has it: by parameter, whatever is divided among however many ranks.

use super::buckets::{BLOCK, Bucket, Member};
use super::partition::{Partition, name, part};
use crate::optimizer::{AdamW, MASTER};
use anyhow::{Context, Result, ensure};
use candle_ascend::safetensors::MmapedSafetensors;
use candle_ascend::{DType, Device, Shape, Tensor};

impl Partition {
    /// The state of `optimizer`, which is over this partition's slots, by the names of the parameters. On the rank that
    /// leads alone: the others only help.
    pub fn gather(&self, optimizer: &AdamW) -> Result<Option<Vec<(String, Tensor)>>> {
        let leads = self.ranks.leads();
        let mut all = vec![optimizer.steps()?];
        let Some(communicator) = self.sharded() else {
            for (parameter, state) in self.parameters.iter().zip(optimizer.state()) {
                all.extend(state.into_iter().map(|(what, tensor)| (entry(name(parameter), &what), tensor)));
            }
            return Ok(leads.then_some(all));
        };
        for ((bucket, slot), mut state) in self.buckets.iter().zip(&self.slots).zip(optimizer.state()) {
            if bucket.kind.dtype != DType::F32 {
                state.push((MASTER.to_owned(), slot.master.as_detached_tensor()));
            }
            for (what, piece) in state {
                let layout = Layout::of(&piece, slot.master.elem_count())?;
                let flat = communicator.all_gather(&piece.flatten_all()?)?;
                for &member in bucket.members.iter().filter(|_| leads) {
                    let parameter = &self.parameters[member.parameter];
                    let own = layout.part(&flat, member, parameter.var.shape())?.to_device(&Device::Cpu)?;
                    all.push((entry(name(parameter), &what), own));
                }
            }
        }
        self.ranks.check()?;
        Ok(leads.then_some(all))
    }

    /// Gives `optimizer` the state that [`Partition::gather`] gave, from a file, after the parameters have got their values
    /// back. It may have been written by another number of ranks.
    pub fn restore(&self, optimizer: &mut AdamW, file: &MmapedSafetensors) -> Result<()> {
        let load = |parameter: usize, what: &str, like: &Tensor, shape: &Shape| -> Result<Tensor> {
            let name = entry(name(&self.parameters[parameter]), what);
            let missing = || format!("{name} is not in it; was it saved with another --optim, --dtype or --zero?");
            let tensor = file.load(&name, like.device()).with_context(missing)?;
            ensure!(
                tensor.shape() == shape && tensor.dtype() == like.dtype(),
                "{name} is {:?} {:?} in it, and {shape:?} {:?} in this run",
                tensor.shape(),
                tensor.dtype(),
                like.dtype()
            );
            Ok(tensor)
        };
        if !self.is_sharded() {
            return optimizer.restore(file, |slot, what, like| load(slot, what, like, like.shape()));
        }
        let get = |bucket: &Bucket, what: &str, like: &Tensor| -> Result<Tensor> {
            let layout = Layout::of(like, bucket.count / self.ranks.size())?;
            let flat = Tensor::zeros(like.elem_count() * self.ranks.size(), like.dtype(), like.device())?;
            for &member in &bucket.members {
                let shape = layout.shape(member, self.parameters[member.parameter].var.shape());
                let own = load(member.parameter, what, like, &shape)?.flatten_all()?;
                flat.slice_set(&own, 0, layout.start(member))?;
            }
            Ok(self.piece(&flat)?.reshape(like.shape())?)
        };
        for (bucket, slot) in self.buckets.iter().zip(&self.slots) {
            let master = match bucket.kind.dtype {
                DType::F32 => self.piece_of_parameters(bucket)?,
                _ => get(bucket, MASTER, &slot.master)?,
            };
            slot.master.set(&master)?;
        }
        optimizer.restore(file, |slot, what, like| get(&self.buckets[slot], what, like))
    }
}

fn entry(parameter: &str, what: &str) -> String {
    format!("{parameter}.{what}")
}

/// How a tensor of an optimizer's state lies over the elements of its slot.
enum Layout {
    /// An entry an element, in the shape of the slot.
    Elements,
    /// `[blocks, 256]`: an entry an element, the last block filled up.
    Blocks,
    /// `[blocks]`: an entry for each 256 elements.
    Scales,
}

impl Layout {
    /// That of `piece`, which belongs to a slot of `count` elements.
    fn of(piece: &Tensor, count: usize) -> Result<Self> {
        Ok(match piece.dims() {
            [n] if *n == count => Self::Elements,
            [n, BLOCK] if n * BLOCK == count => Self::Blocks,
            [n] if n * BLOCK == count => Self::Scales,
            dims => anyhow::bail!("state of shape {dims:?} for a slot of {count} elements"),
        })
    }

    /// What is a parameter's, of the whole bucket's entries one after the other; `shape` is the parameter's.
    fn part(&self, flat: &Tensor, member: Member, shape: &Shape) -> Result<Tensor> {
        let whole = Member { count: member.count.next_multiple_of(BLOCK), ..member };
        let own = match self {
            Self::Elements => part(flat, member, 1)?,
            Self::Blocks => part(flat, whole, 1)?,
            Self::Scales => part(flat, whole, BLOCK)?,
        };
        Ok(own.reshape(self.shape(member, shape))?)
    }

    fn shape(&self, member: Member, shape: &Shape) -> Shape {
        let blocks = member.count.div_ceil(BLOCK);
        match self {
            Self::Elements => shape.clone(),
            Self::Blocks => Shape::from((blocks, BLOCK)),
            Self::Scales => Shape::from(blocks),
        }
    }

    /// The first entry of a parameter in its bucket.
    fn start(&self, member: Member) -> usize {
        match self {
            Self::Elements | Self::Blocks => member.offset,
            Self::Scales => member.offset / BLOCK,
        }
    }
}
