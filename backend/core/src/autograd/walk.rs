//! From a result back to the variables.

use super::{GradStore, no_grad};
use crate::{Error, Result, Tensor, TensorId, bail};
use std::collections::HashMap;

impl Tensor {
    /// The gradients of the sum of the elements of this tensor for every variable that it was computed from.
    ///
    /// What was recorded stays, so that this can be called again; [`Tensor::into_grads`] gives memory back on the way.
    pub fn backward(&self) -> Result<GradStore> {
        self.clone().into_grads()
    }

    /// As [`Tensor::backward`] for the last use of this tensor: each intermediate that nothing else holds is freed as soon
    /// as the gradient has passed it.
    pub fn into_grads(self) -> Result<GradStore> {
        let mut grads = GradStore::default();
        let seed = self.ones_like()?;
        self.walk_back(seed, &mut |variable, grad| {
            grads.insert(variable, grad);
            Ok(())
        })?;
        Ok(grads)
    }

    /// As [`Tensor::into_grads`], from `seed`, the gradient of this tensor, and with each variable's gradient handed to
    /// `ready` as soon as it is complete: the last layers' come first, while those of the first are still to be computed.
    pub fn walk_back(self, seed: Tensor, ready: &mut dyn FnMut(&Tensor, Tensor) -> Result<()>) -> Result<()> {
        self.same_shape(&seed, "backward")?;
        self.same_dtype(&seed, "backward")?;
        no_grad(|| Walk::over(self, seed).run(ready))
    }

    /// The operators that were recorded between variables and this tensor, each once, sorted.
    pub fn recorded_operators(&self) -> Vec<&'static str> {
        let mut names = Vec::new();
        visit(self, |tensor| names.extend(tensor.origin().map(|node| node.gradient.name())));
        names.sort_unstable();
        names.dedup();
        names
    }

    /// The variables that this tensor was computed from, in the order of their creation.
    pub(super) fn variables(&self) -> Vec<Tensor> {
        let mut variables = Vec::new();
        visit(self, |tensor| variables.extend(tensor.is_variable().then(|| tensor.clone())));
        variables.sort_unstable_by_key(Tensor::id);
        variables
    }
}

/// Calls `f` on `root` and every tracked tensor that it was computed from, each once; says how often each is an operand.
fn visit(root: &Tensor, mut f: impl FnMut(&Tensor)) -> HashMap<TensorId, usize> {
    let mut uses = HashMap::from([(root.id(), 1)]);
    let mut stack = vec![root.clone()];
    while let Some(tensor) = stack.pop() {
        f(&tensor);
        // A variable is where gradients end, however its value came to be.
        let Some(node) = tensor.origin().filter(|_| !tensor.is_variable()) else { continue };
        for operand in node.operands.iter().filter(|operand| operand.track_op()) {
            let count = uses.entry(operand.id()).or_insert(0);
            *count += 1;
            if *count == 1 {
                stack.push(operand.clone());
            }
        }
    }
    uses
}

struct Walk {
    /// Results whose gradient has still to come to each tensor.
    uses: HashMap<TensorId, usize>,
    /// Gradients that are not complete.
    partial: HashMap<TensorId, Tensor>,
    /// Tensors to go on from, with their gradient; none where all results say that it is zero.
    ready: Vec<(Tensor, Option<Tensor>)>,
}

impl Walk {
    fn over(root: Tensor, seed: Tensor) -> Self {
        let uses = visit(&root, |_| ());
        Self { uses, partial: HashMap::new(), ready: vec![(root, Some(seed))] }
    }

    fn run(mut self, done: &mut dyn FnMut(&Tensor, Tensor) -> Result<()>) -> Result<()> {
        while let Some((tensor, grad)) = self.ready.pop() {
            if tensor.is_variable() {
                if let Some(grad) = grad {
                    done(&tensor, grad.contiguous()?)?;
                }
                continue;
            }
            let Some(node) = tensor.origin() else { continue };
            let tensor = if node.gradient.reads_result() { &tensor.restored()? } else { &tensor };
            let grads = match &grad {
                Some(grad) => node.gradient.backward(&node.operands, tensor, grad)?,
                None => vec![None; node.operands.len()],
            };
            for (operand, grad) in node.operands.iter().zip(grads) {
                if operand.track_op() {
                    check(node.gradient.name(), operand, grad.as_ref())?;
                    self.arrive(operand, grad)?;
                }
            }
        }
        Ok(())
    }

    /// Adds what one of its results says to the gradient of `operand`.
    fn arrive(&mut self, operand: &Tensor, grad: Option<Tensor>) -> Result<()> {
        let id = operand.id();
        let sum = match (self.partial.remove(&id), grad) {
            (Some(sum), Some(grad)) => Some(sum.add(&grad)?),
            (sum, grad) => sum.or(grad),
        };
        let Some(left) = self.uses.get_mut(&id) else { bail!("a recorded operand was not visited") };
        *left -= 1;
        if *left == 0 {
            self.ready.push((operand.clone(), sum));
        } else if let Some(sum) = sum {
            self.partial.insert(id, sum);
        }
        Ok(())
    }
}

/// Refuses a gradient that is not like its operand: added up or handed on, it would fail far from the operator that made it.
fn check(operator: &'static str, operand: &Tensor, grad: Option<&Tensor>) -> Result<()> {
    let Some(grad) = grad else { return Ok(()) };
    if grad.shape() == operand.shape() && grad.dtype() == operand.dtype() {
        return Ok(());
    }
    Err(Error::Msg(format!(
        "the gradient that {operator} gives is {:?} {:?}, its operand {:?} {:?}",
        grad.dims(),
        grad.dtype(),
        operand.dims(),
        operand.dtype()
    ))
    .bt())
}
