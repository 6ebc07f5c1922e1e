//! Computing a block's forward again instead of keeping its intermediates.

use super::{GradStore, Recorded, is_recording, record_any, with_recording};
use crate::{Result, Tensor};

/// What is kept of a checkpointed block.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Checkpoint {
    /// Its inputs, where they are.
    #[default]
    Keep,
    /// A copy of its inputs on the host, so that the device holds no activation between blocks. Costs a transfer each way.
    Offload,
}

/// Computes a value from inputs and from variables that it holds.
type Block = dyn Fn(&[Tensor]) -> Result<Tensor> + Send + Sync;

/// `block(inputs)`, of which only the inputs are kept: backward runs `block` again, with recording, and goes on from there.
///
/// Variables that `block` uses besides its inputs get their gradients too. It must give the same value both times: a random
/// mask belongs among what it captures, not into it.
pub fn checkpoint(
    how: Checkpoint,
    inputs: &[&Tensor],
    block: impl Fn(&[Tensor]) -> Result<Tensor> + Send + Sync + 'static,
) -> Result<Tensor> {
    if !is_recording() {
        let inputs: Vec<Tensor> = inputs.iter().map(|&input| input.clone()).collect();
        return block(&inputs);
    }
    // Recorded once to learn which variables it uses; what was recorded is dropped at the end of this function.
    let leaves: Vec<Tensor> = inputs.iter().map(|&input| leaf(input)).collect();
    let recorded = block(&leaves)?;
    let mut operands = match how {
        Checkpoint::Keep => inputs.iter().map(|&input| input.clone()).collect(),
        Checkpoint::Offload => inputs.iter().map(|input| input.offloaded()).collect::<Result<Vec<_>>>()?,
    };
    let inner = recorded.variables();
    operands.extend(inner.into_iter().filter(|variable| leaves.iter().all(|leaf| leaf.id() != variable.id())));
    let result = recorded.detach();
    let tracked = operands.iter().any(Tensor::track_op);
    let replay = Replay { block: Box::new(block), inputs: inputs.len() };
    Ok(if tracked { record_any(result, replay, operands) } else { result })
}

/// `input` as a variable of its own if gradients flow to it.
fn leaf(input: &Tensor) -> Tensor {
    if input.track_op() { input.leaf() } else { input.clone() }
}

struct Replay {
    block: Box<Block>,
    /// How many of the operands are what `block` is called with; the others are variables that it holds.
    inputs: usize,
}

impl Recorded for Replay {
    fn name(&self) -> &'static str {
        "checkpoint"
    }

    fn reads_result(&self) -> bool {
        false
    }

    fn backward(&self, operands: &[Tensor], _: &Tensor, grad: &Tensor) -> Result<Vec<Option<Tensor>>> {
        let (inputs, variables) = operands.split_at(self.inputs);
        let leaves = inputs.iter().map(|input| Ok(leaf(&input.restored()?))).collect::<Result<Vec<_>>>()?;
        let result = with_recording(true, || (self.block)(&leaves))?;
        let mut grads = GradStore::default();
        result.walk_back(grad.clone(), &mut |variable, grad| {
            grads.insert(variable, grad);
            Ok(())
        })?;
        Ok(leaves.iter().chain(variables).map(|leaf| grads.remove(leaf)).collect())
    }
}
