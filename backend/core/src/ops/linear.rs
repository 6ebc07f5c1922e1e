//! Projection by a weight matrix that is kept as checkpoints hold it.

use super::as_one;
use super::cpu::{Real, elements, on_cpu};
use super::fused::{expect_float, wide};
use super::kernels::overrides;
use crate::autograd::{Gradient, wanted};
use crate::{D, DType, Error, Result, Shape, Tensor};
use npu_cpu_kernels::{Rows, product_of};

/// `x·Wᵀ + bias` for `x` `[…, K]`, `weight` `[N, K]` and `bias` `[N]`; the weight is transposed as a view only.
pub fn linear(x: &Tensor, weight: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
    expect_float(x, "linear")?;
    let width = x.dim(D::Minus1)?;
    let (outputs, inputs) = weight.dims2()?;
    if width != inputs || bias.is_some_and(|bias| bias.dims() != [outputs]) {
        return Err(Error::Msg(format!(
            "linear: input {:?}, weight {:?} and bias {:?} do not fit: wanted […, K], [N, K] and [N]",
            x.shape(),
            weight.shape(),
            bias.map(|bias| bias.shape().clone())
        ))
        .bt());
    }
    x.same_dtype(weight, "linear")?;
    match bias {
        Some(bias) => as_one(&Linear, [x, weight, bias], || project(x, weight, Some(bias))),
        None => as_one(&Linear, [x, weight], || project(x, weight, None)),
    }
}

#[derive(Clone)]
pub(super) struct Linear;

impl Gradient<2> for Linear {
    fn name(&self) -> &'static str {
        "linear"
    }

    fn backward(&self, [x, weight]: [&Tensor; 2], _: &Tensor, grad: &Tensor) -> Result<[Option<Tensor>; 2]> {
        let (outputs, inputs) = weight.dims2()?;
        let grad = rows_of(grad, outputs)?;
        Ok([
            wanted(x, || grad.matmul(weight)?.reshape(x.shape()))?,
            wanted(weight, || grad.t()?.matmul(&x.reshape(((), inputs))?))?,
        ])
    }
}

/// `grad` as a matrix of rows of `outputs`; what the CPU's product reads as it lies is not copied.
fn rows_of(grad: &Tensor, outputs: usize) -> Result<Tensor> {
    let leading = &grad.dims()[..grad.rank() - 1];
    let one_run = leading.iter().rev().skip(1).all(|&size| size == 1);
    if grad.device().is_cpu() && grad.dtype() == DType::F32 && grad.rank() > 1 && one_run {
        return (2..grad.rank()).try_fold(grad.clone(), |grad, _| grad.squeeze(0));
    }
    grad.contiguous()?.reshape(((), outputs))
}

impl Gradient<3> for Linear {
    fn name(&self) -> &'static str {
        "linear with bias"
    }

    fn backward(&self, [x, weight, bias]: [&Tensor; 3], y: &Tensor, grad: &Tensor) -> Result<[Option<Tensor>; 3]> {
        let [of_x, of_weight] = self.backward([x, weight], y, grad)?;
        let of_bias = wanted(bias, || {
            // Added up in F32, because a BF16 sum stops growing after a few hundred rows.
            grad.reshape(((), bias.elem_count()))?.to_dtype(wide(grad.dtype()))?.sum(0)?.to_dtype(bias.dtype())
        })?;
        Ok([of_x, of_weight, of_bias])
    }
}

fn project(x: &Tensor, weight: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
    let (outputs, width) = weight.dims2()?;
    let rows = x.elem_count() / width.max(1);
    let flat = x.reshape((rows, width))?;
    let rank = x.rank();
    let shape = Shape::from(&x.dims()[..rank - 1]).extend(&[outputs]);
    if overrides() {
        if let Some(bias) = bias
            && let Some(sum) = super::npu::linear(&flat, weight, bias)?
        {
            return sum.reshape(shape);
        }
        if weight.device().is_cpu()
            && bias.is_none_or(|bias| bias.device().is_cpu() && bias.dtype() == x.dtype())
            && let Some(sum) = on_cpu!(x, rows_by_rows(&flat, weight, bias))?
        {
            return sum.reshape(shape);
        }
    }
    let product = flat.matmul(&weight.t()?)?;
    let product = match bias {
        Some(bias) => product.broadcast_add(bias)?,
        None => product,
    };
    product.reshape(shape)
}

/// The product and the bias in F32, rounded once; the weight is read where it lies.
fn rows_by_rows<T: Real>(x: &Tensor, weight: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
    let ((rows, width), (outputs, _)) = (x.dims2()?, weight.dims2()?);
    let x = x.contiguous()?;
    let weight = if weight.stride()[1] == 1 { weight.clone() } else { weight.contiguous()? };
    let bias = bias.map(|bias| bias.contiguous()).transpose()?;
    let (x_guard, weight_guard) = (x.storage(), weight.storage());
    let bias_guard = bias.as_ref().map(|bias| (bias.storage(), bias.layout()));
    let bias = match &bias_guard {
        Some((guard, layout)) => Some(&elements::<T>(guard, layout)?[..outputs]),
        None => None,
    };
    let sums = product_of(
        Rows::new(elements::<T>(&x_guard, x.layout())?, rows, width),
        Rows::strided(elements::<T>(&weight_guard, weight.layout())?, outputs, width, weight.stride()[0]),
        bias,
    );
    Tensor::from_vec(sums, (rows, outputs), x.device())
}
