//! Projection by a weight matrix that is kept as checkpoints hold it.

use super::as_one;
use super::fused::{expect_float, overrides, wide};
use crate::autograd::{Gradient, wanted};
use crate::{D, DType, Error, Result, Shape, Storage, Tensor, bail};
use half::bf16;
use rayon::prelude::*;

/// Rows of the input up to which BF16 products on the CPU read the weight as it is instead of widening it.
const FEW_ROWS: usize = 8;
/// Rows of a BF16 weight that are widened at a time, which bounds the memory that the widening takes.
const WIDENED_ROWS: usize = 2048;

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
struct Linear;

impl Gradient<2> for Linear {
    fn name(&self) -> &'static str {
        "linear"
    }

    fn backward(&self, [x, weight]: [&Tensor; 2], _: &Tensor, grad: &Tensor) -> Result<[Option<Tensor>; 2]> {
        let (outputs, inputs) = weight.dims2()?;
        let grad = grad.contiguous()?.reshape(((), outputs))?;
        Ok([
            wanted(x, || grad.matmul(weight)?.reshape(x.shape()))?,
            wanted(weight, || grad.t()?.matmul(&x.reshape(((), inputs))?))?,
        ])
    }
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
    if let (Some(bias), true) = (bias, overrides())
        && let Some(sum) = super::npu::linear(&flat, weight, bias)?
    {
        return sum.reshape(shape);
    }
    let on_cpu_bf16 = x.dtype() == DType::BF16 && x.device().is_cpu() && weight.device().is_cpu();
    let product = match on_cpu_bf16 && overrides() && width > 0 && rows > 0 {
        true if rows <= FEW_ROWS => dot_rows(&flat.contiguous()?, &weight.contiguous()?)?,
        true => widened(&flat, weight)?,
        false => flat.matmul(&weight.t()?)?,
    };
    let product = match bias {
        Some(bias) => product.broadcast_add(bias)?,
        None => product,
    };
    product.reshape(shape)
}

/// One dot product an output, reading the BF16 weight once; decoding is bound by that reading.
fn dot_rows(x: &Tensor, weight: &Tensor) -> Result<Tensor> {
    let ((rows, width), (outputs, _)) = (x.dims2()?, weight.dims2()?);
    let x32 = super::cpu::values_f32(x)?;
    let guard = weight.storage();
    let Storage::Cpu(storage) = &*guard else { bail!("a tensor on the CPU has storage elsewhere") };
    let offset = weight.layout().start_offset();
    let weights = &storage.as_slice::<bf16>()?[offset..offset + outputs * width];
    let mut by_output = vec![bf16::ZERO; outputs * rows];
    by_output.par_chunks_mut(rows).zip(weights.par_chunks(width)).for_each(|(out, weights)| {
        for (out, x) in out.iter_mut().zip(x32.chunks(width)) {
            *out = bf16::from_f32(dot(x, weights));
        }
    });
    let product = Tensor::from_vec(by_output, (outputs, rows), x.device())?;
    if rows == 1 { product.reshape((1, outputs)) } else { product.t()?.contiguous() }
}

/// Eight partial sums, which a compiler keeps in one vector register.
fn dot(x: &[f32], weights: &[bf16]) -> f32 {
    let mut sums = [0f32; 8];
    let (x_blocks, w_blocks) = (x.chunks_exact(8), weights.chunks_exact(8));
    let tail: f32 = x_blocks.remainder().iter().zip(w_blocks.remainder()).map(|(x, w)| x * w.to_f32()).sum();
    for (x, w) in x_blocks.zip(w_blocks) {
        for i in 0..8 {
            // A BF16 is the upper half of the F32 of the same value.
            sums[i] += x[i] * f32::from_bits((w[i].to_bits() as u32) << 16);
        }
    }
    sums.iter().sum::<f32>() + tail
}

/// Many rows: the weight is widened to F32 a block at a time and multiplied by the F32 product of candle.
fn widened(x: &Tensor, weight: &Tensor) -> Result<Tensor> {
    let x32 = x.to_dtype(DType::F32)?;
    let outputs = weight.dims2()?.0;
    let blocks = (0..outputs)
        .step_by(WIDENED_ROWS)
        .map(|start| {
            let block = weight.narrow(0, start, WIDENED_ROWS.min(outputs - start))?.to_dtype(DType::F32)?;
            x32.matmul(&block.t()?)?.to_dtype(DType::BF16)
        })
        .collect::<Result<Vec<_>>>()?;
    Tensor::cat(&blocks, 1)
}
