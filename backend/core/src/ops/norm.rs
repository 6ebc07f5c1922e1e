//! Root-mean-square normalisation, alone and after a residual addition.

use super::fused::{expect_float, wide};
use super::kernels::{ours, overrides};
use super::{as_one, cpu, npu_grad};
use crate::autograd::{Gradient, record, tracked, wanted};
use crate::{D, DType, Error, Result, Tensor, bail};
use npu_cpu_kernels::Form;

/// `x / sqrt(mean(x²) + eps) * weight` over the last dimension, computed in F32 and rounded once.
/// `weight` has one element per element of a row.
pub fn rms_norm(x: &Tensor, weight: &Tensor, eps: f64) -> Result<Tensor> {
    check(x, weight)?;
    if overrides()
        && tracked(&[x, weight])
        && let Some((y, rstd)) = npu_grad::rms_norm_kept(x, weight, eps)?
    {
        return Ok(record(y, &RmsNorm { eps, rstd: Some(rstd) }, [x, weight]));
    }
    as_one(&RmsNorm { eps, rstd: None }, [x, weight], || normalise(x, weight, eps))
}

fn normalise(x: &Tensor, weight: &Tensor, eps: f64) -> Result<Tensor> {
    if overrides() {
        if let Some(y) = super::npu::rms_norm(x, weight, eps)? {
            return Ok(y);
        }
        if let Some(y) = super::cuda::rms_norm(x, weight, eps)? {
            return Ok(y);
        }
        if x.device().is_cpu() {
            let scale = cpu::values_f32(weight)?;
            if let Some(y) = cpu::map_rows(x, scale.len(), |_, x, y| normalise_row(x, &scale, eps, y))? {
                return Ok(y);
            }
        }
    }
    let x_wide = x.to_dtype(wide(x.dtype()))?;
    let mean = x_wide.sqr()?.mean_keepdim(D::Minus1)?;
    let normed = x_wide.broadcast_div(&(mean + eps)?.sqrt()?)?;
    normed.broadcast_mul(&weight.to_dtype(wide(x.dtype()))?)?.to_dtype(x.dtype())
}

#[derive(Clone)]
struct RmsNorm {
    eps: f64,
    /// The reciprocal root of each row, where the device's gradient wants it.
    rstd: Option<Tensor>,
}

impl Gradient<2> for RmsNorm {
    fn name(&self) -> &'static str {
        "rms_norm"
    }

    /// With `r` the reciprocal root and `n = x r`, of `x`: `r (g w - n mean(g w n))`; of the weight: `sum(g n)` over rows.
    fn backward(&self, [x, weight]: [&Tensor; 2], _: &Tensor, grad: &Tensor) -> Result<[Option<Tensor>; 2]> {
        if let Some(rstd) = &self.rstd
            && let Some((of_x, of_weight)) = npu_grad::rms_norm(x, weight, rstd, grad)?
        {
            return Ok([Some(of_x), Some(of_weight.to_dtype(weight.dtype())?)]);
        }
        if overrides()
            && let Some(grads) = grads_on_cpu(x, weight, self.eps, grad)?
        {
            return Ok(grads);
        }
        let dtype = wide(x.dtype());
        let (x_wide, grad) = (x.to_dtype(dtype)?, grad.to_dtype(dtype)?);
        let reciprocal = (x_wide.sqr()?.mean_keepdim(D::Minus1)? + self.eps)?.sqrt()?.recip()?;
        let normed = x_wide.broadcast_mul(&reciprocal)?;
        let of_x = wanted(x, || {
            let scaled = grad.broadcast_mul(&weight.to_dtype(dtype)?)?;
            let along = (&scaled * &normed)?.mean_keepdim(D::Minus1)?;
            (scaled - normed.broadcast_mul(&along)?)?.broadcast_mul(&reciprocal)?.to_dtype(x.dtype())
        })?;
        let of_weight =
            wanted(weight, || (&grad * &normed)?.reshape(((), weight.elem_count()))?.sum(0)?.to_dtype(weight.dtype()))?;
        Ok([of_x, of_weight])
    }
}

/// The gradients of those operands that are tracked, in one pass over the rows for each.
fn grads_on_cpu(x: &Tensor, weight: &Tensor, eps: f64, grad: &Tensor) -> Result<Option<[Option<Tensor>; 2]>> {
    if !x.device().is_cpu() || wide(x.dtype()) != DType::F32 {
        return Ok(None);
    }
    let scale = cpu::values_f32(weight)?;
    let row = |_, [x, grad]: [&[f32]; 2], of_x: &mut [f32]| {
        let reciprocal = reciprocal_root(x, eps);
        // `mean(g w n) r`, the part of the gradient along the row.
        let along = Form::fastest().dot(x, grad, &scale) / x.len() as f32 * reciprocal.powi(3);
        for (((of_x, x), grad), weight) in of_x.iter_mut().zip(x).zip(grad).zip(&scale) {
            *of_x = grad * weight * reciprocal - x * along;
        }
    };
    let of_x = wanted(x, || match cpu::zip_rows([x, grad], scale.len(), row)? {
        Some(of_x) => Ok(of_x),
        None => bail!("rms_norm: {:?} and its gradient {:?} are not alike", x.dtype(), grad.dtype()),
    })?;
    let of_weight = wanted(weight, || {
        let (x, grad) = (cpu::values_f32(x)?, cpu::values_f32(grad)?);
        let mut sums = vec![0f32; scale.len()];
        for (x, grad) in x.chunks_exact(sums.len().max(1)).zip(grad.chunks_exact(scale.len().max(1))) {
            let reciprocal = reciprocal_root(x, eps);
            sums.iter_mut().zip(x).zip(grad).for_each(|((sum, x), grad)| *sum += grad * x * reciprocal);
        }
        Tensor::from_vec(sums, scale.len(), weight.device())?.to_dtype(weight.dtype())
    })?;
    Ok(Some([of_x, of_weight]))
}

fn reciprocal_root(x: &[f32], eps: f64) -> f32 {
    1. / (Form::fastest().sum_of_squares(x) / x.len() as f32 + eps as f32).sqrt()
}

fn normalise_row(x: &[f32], weight: &[f32], eps: f64, y: &mut [f32]) {
    let scale = reciprocal_root(x, eps);
    for ((y, x), weight) in y.iter_mut().zip(x).zip(weight) {
        *y = x * scale * weight;
    }
}

/// The residual stream and its normalisation: `(rms_norm(x + residual), x + residual)`.
/// The sum is rounded to the element type before it is normalised, as the stream is what later layers see.
pub fn add_rms_norm(x: &Tensor, residual: &Tensor, weight: &Tensor, eps: f64) -> Result<(Tensor, Tensor)> {
    x.same_shape(residual, "add-rms-norm")?;
    x.same_dtype(residual, "add-rms-norm")?;
    check(x, weight)?;
    // Recorded, the sum is one step of the tape and its norm another; what the one launch would save is small there.
    if overrides() && !tracked(&[x, residual, weight]) {
        if ours(x) {
            return super::ours::add_rms_norm(x, residual, weight, eps);
        }
        if let Some(pair) = super::npu::add_rms_norm(x, residual, weight, eps)? {
            return Ok(pair);
        }
        if let Some(pair) = super::cuda::add_rms_norm(x, residual, weight, eps)? {
            return Ok(pair);
        }
        if let Some(sum) = cpu::add(x, residual)? {
            return Ok((rms_norm(&sum, weight, eps)?, sum));
        }
    }
    let sum = x.add(residual)?;
    Ok((rms_norm(&sum, weight, eps)?, sum))
}

/// As [`add_rms_norm`], with the norm in F32 as well, as it was rounded: `(norm, norm in F32, sum)`. One launch where the device
/// has it, for what is computed in F32 from the norm, as routers are.
pub fn add_rms_norm_wide(x: &Tensor, residual: &Tensor, weight: &Tensor, eps: f64) -> Result<(Tensor, Tensor, Tensor)> {
    if overrides() && !tracked(&[x, residual, weight]) && x.dims() == residual.dims() {
        check(x, weight)?;
        if let Some(three) = super::npu::add_rms_norm_wide(x, residual, weight, eps)? {
            return Ok(three);
        }
    }
    let (normed, sum) = add_rms_norm(x, residual, weight, eps)?;
    Ok((normed.clone(), normed.to_dtype(DType::F32)?, sum))
}

fn check(x: &Tensor, weight: &Tensor) -> Result<()> {
    expect_float(x, "rms-norm")?;
    if weight.rank() != 1 || x.dim(D::Minus1)? != weight.dims()[0] {
        let (lhs, rhs) = (x.shape().clone(), weight.shape().clone());
        return Err(Error::ShapeMismatchBinaryOp { lhs, rhs, op: "rms-norm" }.bt());
    }
    Ok(())
}
