//! Steps of optimizers, in place.

use super::cpu::elements;
use super::fused::wide;
use super::kernels::overrides;
use super::npu::on_npu;
use crate::autograd::no_grad;
use crate::{CpuStorage, DType, Layout, Result, Storage, Tensor, Var, bail};
use npu_cpu_kernels::{Decayed, Form, share};
use std::sync::{Mutex, PoisonError};

pub use crate::npu::AdamWStep;

/// One AdamW step of `var` by `grad`; `first` and `second` are the running means of the gradient and of its square.
///
/// With `grad` multiplied by `grad_scale` first: `var - lr * (first / c1 / (sqrt(second / c2) + eps) + weight_decay * var)`, where `c` are `1 - beta^step`. The operands have
/// one shape and type. On an NPU this is one launch, computed in F32 and rounded once.
pub fn adamw_step(var: &Var, first: &Var, second: &Var, grad: &Tensor, at: AdamWStep) -> Result<()> {
    for other in [first, second, grad] {
        var.same_shape(other, "adamw")?;
        var.same_dtype(other, "adamw")?;
    }
    let mut grad = grad.detach().contiguous()?;
    if overrides() && on_cpu([var.as_tensor(), first.as_tensor(), second.as_tensor(), &grad], at)? {
        return Ok(());
    }
    if at.grad_scale != 1. {
        grad = (grad * at.grad_scale)?;
    }
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
        let AdamWStep { step, lr, beta1, beta2, weight_decay, eps, .. } = at;
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

/// The sum of the squares of all elements, a rank-0 tensor; in F32, or F64 for F64.
pub fn sum_of_squares(x: &Tensor) -> Result<Tensor> {
    let x = x.detach();
    if overrides() && x.device().is_cpu() && x.dtype() == DType::F32 && x.is_contiguous() {
        let storage = x.storage();
        let values = &elements::<f32>(&storage, x.layout())?[..x.elem_count()];
        let sums: Vec<Mutex<f64>> = values.chunks(TASK).map(|_| Mutex::new(0.)).collect();
        share(sums.len(), |task| {
            let values = values.chunks(TASK).nth(task).unwrap_or(&[]);
            *sums[task].lock().unwrap_or_else(PoisonError::into_inner) = Form::fastest().sum_of_squares(values).into();
        });
        let sum: f64 = sums.into_iter().map(|sum| sum.into_inner().unwrap_or_else(PoisonError::into_inner)).sum();
        return Tensor::new(sum as f32, x.device());
    }
    x.to_dtype(wide(x.dtype()))?.sqr()?.sum_all()
}

/// Elements of one task.
const TASK: usize = 1 << 15;

/// The step in one pass over F32 operands on the CPU; false where they are others.
fn on_cpu([var, first, second, grad]: [&Tensor; 4], at: AdamWStep) -> Result<bool> {
    let plain = |x: &Tensor| x.device().is_cpu() && x.dtype() == DType::F32 && x.is_contiguous();
    let apart = !var.same_storage(first) && !var.same_storage(second) && !first.same_storage(second);
    if ![var, first, second, grad].into_iter().all(plain) || !apart || grad.same_storage(var) {
        return Ok(false);
    }
    let AdamWStep { step, lr, beta1, beta2, weight_decay, eps, grad_scale } = at;
    let (c1, c2) = (1. - beta1.powi(step as i32), 1. - beta2.powi(step as i32));
    let decayed = Decayed {
        beta1: beta1 as f32,
        beta2: beta2 as f32,
        second_scale: (1. / c2) as f32,
        eps: eps as f32,
        rate: (lr / c1) as f32,
        grad_scale: grad_scale as f32,
        kept: (1. - lr * weight_decay) as f32,
    };
    let grads = grad.storage();
    let grads = &elements::<f32>(&grads, grad.layout())?[..grad.elem_count()];
    let mut guards = [var, first, second].map(|x| (x.storage_mut(), x.layout()));
    let [weights, first, second] = guards.each_mut().map(|(guard, layout)| elements_mut(guard, layout));
    let chunks = weights?.chunks_mut(TASK).zip(first?.chunks_mut(TASK)).zip(second?.chunks_mut(TASK));
    let tasks: Vec<_> = chunks.zip(grads.chunks(TASK)).map(Mutex::new).collect();
    share(tasks.len(), |task| {
        let mut task = tasks[task].lock().unwrap_or_else(PoisonError::into_inner);
        let (((weights, first), second), grads) = &mut *task;
        Form::fastest().adamw(decayed, weights, first, second, grads);
    });
    Ok(true)
}

/// The elements of a variable without gaps.
fn elements_mut<'a>(storage: &'a mut Storage, layout: &Layout) -> Result<&'a mut [f32]> {
    match storage {
        Storage::Cpu(CpuStorage::F32(values)) => {
            let start = layout.start_offset();
            Ok(&mut values[start..start + layout.shape().elem_count()])
        }
        _ => bail!("adamw: a variable on the CPU has storage elsewhere"),
    }
}
