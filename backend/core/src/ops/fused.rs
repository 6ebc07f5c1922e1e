//! Fused operators of one row: softmax and SwiGLU. Each is a decomposition into primitives, which is the definition,
//! and an override per device that has a faster way to the same numbers.

use super::kernels::overrides;
use super::{as_one, cpu, npu_grad};
use crate::autograd::Gradient;
use crate::{D, DType, Error, Result, Tensor, bail};
use npu_cpu_kernels::Form;

pub(super) fn expect_float(x: &Tensor, op: &'static str) -> Result<()> {
    if x.dtype().is_float() { Ok(()) } else { Err(Error::UnsupportedDTypeForOp(x.dtype(), op).bt()) }
}

/// The type in which decompositions compute: F64 stays, everything else is widened to F32 and rounded once.
pub(super) fn wide(dtype: DType) -> DType {
    if dtype == DType::F64 { DType::F64 } else { DType::F32 }
}

/// Exponentials over the last dimension divided by their sum, computed in F32 and rounded once.
pub fn softmax_last_dim(x: &Tensor) -> Result<Tensor> {
    expect_float(x, "softmax-last-dim")?;
    let width = x.dim(D::Minus1)?;
    as_one(&Softmax, [x], || softmax_of_rows(x, width))
}

fn softmax_of_rows(x: &Tensor, width: usize) -> Result<Tensor> {
    if overrides() {
        if let Some(y) = super::npu::softmax_last_dim(x)? {
            return Ok(y);
        }
        if let Some(y) = super::cuda::softmax_last_dim(x)? {
            return Ok(y);
        }
        if let Some(y) = cpu::map_rows(x, width, |_, x, y| softmax_row(x, y))? {
            return Ok(y);
        }
    }
    let x32 = x.to_dtype(wide(x.dtype()))?;
    let exp = x32.broadcast_sub(&x32.max_keepdim(D::Minus1)?)?.exp()?;
    exp.broadcast_div(&exp.sum_keepdim(D::Minus1)?)?.to_dtype(x.dtype())
}

#[derive(Clone)]
struct Softmax;

impl Gradient<1> for Softmax {
    fn name(&self) -> &'static str {
        "softmax_last_dim"
    }

    fn backward(&self, _: [&Tensor; 1], y: &Tensor, grad: &Tensor) -> Result<[Option<Tensor>; 1]> {
        if let Some(of_x) = npu_grad::softmax(y, grad)? {
            return Ok([Some(of_x)]);
        }
        let row = |_, [y, grad]: [&[f32]; 2], of_x: &mut [f32]| {
            let along: f32 = y.iter().zip(grad).map(|(y, grad)| y * grad).sum();
            of_x.iter_mut().zip(y).zip(grad).for_each(|((of_x, y), grad)| *of_x = y * (grad - along));
        };
        if overrides()
            && let Some(of_x) = cpu::zip_rows([y, grad], y.dim(D::Minus1)?, row)?
        {
            return Ok([Some(of_x)]);
        }
        let dtype = wide(y.dtype());
        Ok([Some(softmax_backward(&y.to_dtype(dtype)?, &grad.to_dtype(dtype)?)?.to_dtype(y.dtype())?)])
    }
}

/// `y (g - sum(y g))`, given the softmax `y` over the last dimension.
pub(super) fn softmax_backward(y: &Tensor, grad: &Tensor) -> Result<Tensor> {
    let weighted = (y * grad)?;
    &weighted - y.broadcast_mul(&weighted.sum_keepdim(D::Minus1)?)?
}

fn softmax_row(x: &[f32], y: &mut [f32]) {
    y.copy_from_slice(x);
    let max = x.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum = Form::fastest().exp_and_sum(y, max);
    y.iter_mut().for_each(|y| *y /= sum);
}

/// `silu(gate) * up` of the two halves `[gate | up]` of the last dimension, computed in F32 and rounded once.
pub fn swiglu(x: &Tensor) -> Result<Tensor> {
    expect_float(x, "swiglu")?;
    let width = x.dim(D::Minus1)?;
    if width % 2 != 0 {
        bail!("swiglu: the last dimension of {:?} holds gate and up and must be even", x.shape())
    }
    as_one(&SwiGlu, [x], || swiglu_of_halves(x, width / 2))
}

fn swiglu_of_halves(x: &Tensor, half: usize) -> Result<Tensor> {
    if overrides() {
        if let Some(y) = super::npu::swiglu(x)? {
            return Ok(y);
        }
        if let Some(y) = super::cuda::swiglu(x)? {
            return Ok(y);
        }
        let row = |_, x: &[f32], y: &mut [f32]| {
            let (gate, up) = x.split_at(half);
            Form::fastest().swiglu(gate, up, y);
        };
        if let Some(y) = cpu::map_rows(x, half, row)? {
            return Ok(y);
        }
    }
    let gate = x.narrow(D::Minus1, 0, half)?.to_dtype(wide(x.dtype()))?;
    let up = x.narrow(D::Minus1, half, half)?.to_dtype(wide(x.dtype()))?;
    gate.silu()?.mul(&up)?.to_dtype(x.dtype())
}

#[derive(Clone)]
struct SwiGlu;

impl Gradient<1> for SwiGlu {
    fn name(&self) -> &'static str {
        "swiglu"
    }

    fn backward(&self, [x]: [&Tensor; 1], _: &Tensor, grad: &Tensor) -> Result<[Option<Tensor>; 1]> {
        if let Some(of_x) = npu_grad::swiglu(x, grad)? {
            return Ok([Some(of_x)]);
        }
        let half = x.dim(D::Minus1)? / 2;
        let row = |_, [x, grad]: [&[f32]; 2], of_x: &mut [f32]| {
            let ((gate, up), (of_gate, of_up)) = (x.split_at(half), of_x.split_at_mut(half));
            Form::fastest().swiglu_grad(gate, up, grad, of_gate, of_up);
        };
        if overrides()
            && let Some(of_x) = cpu::zip_rows([x, grad], 2 * half, row)?
        {
            return Ok([Some(of_x)]);
        }
        let dtype = wide(x.dtype());
        let gate = x.narrow(D::Minus1, 0, half)?.to_dtype(dtype)?;
        let up = x.narrow(D::Minus1, half, half)?.to_dtype(dtype)?;
        let grad = grad.to_dtype(dtype)?;
        let sigmoid = (gate.neg()?.exp()? + 1.)?.recip()?;
        let silu = (&gate * &sigmoid)?;
        let slope = ((&silu * (1. - &sigmoid)?)? + sigmoid)?;
        let of_gate = ((&grad * up)? * slope)?;
        Ok([Some(Tensor::cat(&[of_gate, (grad * silu)?], D::Minus1)?.to_dtype(x.dtype())?)])
    }
}
