//! Gradients of computations over variables.
//!
//! A tensor that was computed from a variable remembers how: a `Node` with the operands and the value that can turn the
//! gradient of the result into theirs. The nodes that lead to a tensor are the tape; there is no other. Tensors that no
//! variable went into carry nothing, so that inference pays one comparison an operand.
//!
//! The formula of an operator stands beside its launch, in `ops`. This module records, walks back, and stores the result.
//!
//! Gradients have the type of the value that they belong to and are added up in that type, as candle does: those of a BF16
//! variable in BF16. Fused operators compute theirs in F32 and round once.

mod checkpoint;
mod store;
mod walk;

use crate::{Result, Tensor};
use std::cell::Cell;
use std::sync::Arc;

pub use checkpoint::{Checkpoint, checkpoint};
pub use store::GradStore;

thread_local! {
    static RECORDING: Cell<bool> = const { Cell::new(true) };
}

/// Runs `f` without recording: what it computes is as detached, and no intermediate is kept for a gradient.
pub fn no_grad<R>(f: impl FnOnce() -> R) -> R {
    with_recording(false, f)
}

/// Whether operators on this thread record what variables go into.
pub fn is_recording() -> bool {
    RECORDING.get()
}

/// Runs `f` with recording switched, and back again even if it panics.
fn with_recording<R>(on: bool, f: impl FnOnce() -> R) -> R {
    struct Restore(bool);
    impl Drop for Restore {
        fn drop(&mut self) {
            RECORDING.set(self.0);
        }
    }
    let _restore = Restore(RECORDING.replace(on));
    f()
}

/// How the gradient of a result becomes those of its `N` operands.
pub(crate) trait Gradient<const N: usize>: Clone + Send + Sync + 'static {
    /// As errors and tests call the operator.
    fn name(&self) -> &'static str;

    /// The gradient of each operand, of its shape and type; none where it is zero everywhere, or where the operand does
    /// not ask for one ([`Tensor::track_op`]). Nothing that is computed here is recorded.
    fn backward(&self, operands: [&Tensor; N], result: &Tensor, grad: &Tensor) -> Result<[Option<Tensor>; N]>;
}

/// [`Gradient`] for any number of operands.
pub(crate) trait Recorded: Send + Sync {
    fn name(&self) -> &'static str;

    /// Whether `backward` looks at the elements of the result.
    fn reads_result(&self) -> bool {
        true
    }

    fn backward(&self, operands: &[Tensor], result: &Tensor, grad: &Tensor) -> Result<Vec<Option<Tensor>>>;
}

struct Fixed<const N: usize, G>(G);

impl<const N: usize, G: Gradient<N>> Recorded for Fixed<N, G> {
    fn name(&self) -> &'static str {
        self.0.name()
    }

    fn backward(&self, operands: &[Tensor], result: &Tensor, grad: &Tensor) -> Result<Vec<Option<Tensor>>> {
        let operands = std::array::from_fn(|i| &operands[i]);
        Ok(Vec::from(self.0.backward(operands, result, grad)?))
    }
}

/// What a result was computed from, and how.
pub(crate) struct Node {
    operands: Vec<Tensor>,
    gradient: Box<dyn Recorded>,
}

impl Drop for Node {
    /// Operands own their nodes and those their operands: what this is the last owner of is taken apart in a loop, because
    /// a chain of some ten thousand operators would overflow the stack.
    fn drop(&mut self) {
        let mut orphans = std::mem::take(&mut self.operands);
        while let Some(tensor) = orphans.pop() {
            if let Some(node) = tensor.into_origin()
                && let Some(mut node) = Arc::into_inner(node)
            {
                orphans.append(&mut node.operands);
            }
        }
    }
}

/// Whether a result of `operands` is to be recorded.
pub(crate) fn tracked(operands: &[&Tensor]) -> bool {
    operands.iter().any(|operand| operand.track_op()) && is_recording()
}

/// `result`, which remembers that it was computed from `operands` if one of them is tracked.
pub(crate) fn record<const N: usize>(result: Tensor, gradient: &impl Gradient<N>, operands: [&Tensor; N]) -> Tensor {
    if !tracked(&operands) {
        return result;
    }
    let operands = operands.into_iter().cloned().collect();
    result.with_origin(Node { operands, gradient: Box::new(Fixed(gradient.clone())) })
}

/// As [`record`] for any number of operands, of which one is known to be tracked.
pub(crate) fn record_any(result: Tensor, gradient: impl Recorded + 'static, operands: Vec<Tensor>) -> Tensor {
    result.with_origin(Node { operands, gradient: Box::new(gradient) })
}

/// `grad()` if `operand` asks for a gradient.
pub(crate) fn wanted(operand: &Tensor, grad: impl FnOnce() -> Result<Tensor>) -> Result<Option<Tensor>> {
    if operand.track_op() { grad().map(Some) } else { Ok(None) }
}
