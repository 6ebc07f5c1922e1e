//! Steps of optimizers, in place.

use super::kernels::overrides;
use super::npu::on_npu;
use crate::autograd::no_grad;
use crate::{Result, Tensor, Var};

pub use crate::npu::AdamWStep;

/// One AdamW step of `var` by `grad`; `first` and `second` are the running means of the gradient and of its square.
///
/// `var - lr * (first / c1 / (sqrt(second / c2) + eps) + weight_decay * var)`, where `c` are `1 - beta^step`. The operands have
/// one shape and type. On an NPU this is one launch, computed in F32 and rounded once.
pub fn adamw_step(var: &Var, first: &Var, second: &Var, grad: &Tensor, at: AdamWStep) -> Result<()> {
    for other in [first, second, grad] {
        var.same_shape(other, "adamw")?;
        var.same_dtype(other, "adamw")?;
    }
    let grad = grad.detach().contiguous()?;
    if overrides() {
        let operands = [var.as_tensor(), first.as_tensor(), second.as_tensor(), &grad];
        let done = on_npu(operands, |[(storage, layout), first, second, grad]| {
            storage.adamw(layout, [first, second], grad, at)
        })?;
        if done.is_some() {
            return Ok(());
        }
    }
    no_grad(|| {
        let AdamWStep { step, lr, beta1, beta2, weight_decay, eps } = at;
        let next_first = ((first.as_tensor() * beta1)? + (&grad * (1. - beta1))?)?;
        let next_second = ((second.as_tensor() * beta2)? + (grad.sqr()? * (1. - beta2))?)?;
        let (c1, c2) = (1. - beta1.powi(step as i32), 1. - beta2.powi(step as i32));
        let deviation = ((&next_second * (1. / c2))?.sqrt()? + eps)?;
        let direction = ((&next_first * (1. / c1))? / deviation)?;
        let next = ((var.as_tensor() * (1. - lr * weight_decay))? - (direction * lr)?)?;
        first.set(&next_first)?;
        second.set(&next_second)?;
        var.set(&next)
    })
}
