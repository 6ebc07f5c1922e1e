//! Weight matrices as checkpoints hold them: numbers, or ggml's blocks of quantised ones; and in four bits, to be fine-tuned over.
//!
//! The CPU computes with ggml's blocks as they are (`npu_cpu_kernels::quantised`): generating a token reads every weight once, and
//! a weight of four bits is read in a quarter of the time of one of sixteen. No other device has products of these blocks
//! here, so that they are widened at load.

use super::cpu::values_f32;
use super::fused::expect_float;
use super::kernels::overrides;
use super::nf4::{self, Nf4};
use crate::autograd::tracked;
use crate::{D, DType, Device, Error, Result, Shape, Tensor, bail};
use npu_cpu_kernels::quantised::Matrix;
use std::sync::Arc;

pub use npu_cpu_kernels::quantised::Format;

/// Rows that are widened at a time, which bounds the host memory it takes.
const WIDENED_ROWS: usize = 2048;

/// Rows of blocks as a file holds them.
pub struct Blocks<'a> {
    pub format: Format,
    pub rows: usize,
    pub bytes: &'a [u8],
    /// Row `i` of the matrix is row `order(i)` of the bytes.
    pub order: Box<dyn Fn(usize) -> usize + Sync + 'a>,
}

/// A matrix `[N, K]`.
#[derive(Clone, Debug)]
pub enum Weight {
    Dense(Tensor),
    Quantised(Arc<Matrix>),
    Nf4(Arc<Nf4>),
}

impl Weight {
    /// The matrix of `parts` one below the other, each with rows of `columns` columns. Only the CPU keeps the blocks; on other
    /// devices the matrix is a tensor of `dtype`.
    pub fn from_blocks(parts: &[Blocks], columns: usize, dtype: DType, device: &Device) -> Result<Self> {
        if !device.is_cpu() {
            return widen(parts, columns, dtype, device).map(Self::Dense);
        }
        let mut matrix = Matrix::new(columns);
        parts.iter().try_for_each(|part| pack(&mut matrix, part))?;
        Ok(Self::Quantised(Arc::new(matrix)))
    }

    /// `[N, K]`.
    pub fn dims2(&self) -> Result<(usize, usize)> {
        match self {
            Self::Dense(weight) => weight.dims2(),
            Self::Quantised(matrix) => Ok((matrix.rows(), matrix.columns())),
            Self::Nf4(matrix) => Ok(matrix.dims2()),
        }
    }

    /// Bytes that a product of one row reads.
    pub fn bytes(&self) -> usize {
        match self {
            Self::Dense(weight) => weight.elem_count() * weight.dtype().size_in_bytes(),
            Self::Quantised(matrix) => matrix.bytes(),
            Self::Nf4(matrix) => matrix.bytes(),
        }
    }

    /// `x·Wᵀ + bias` for `x` `[…, K]` and `bias` `[N]`, in the type of `x`. ggml's blocks are multiplied with the input rounded to eight
    /// bits, 32 columns sharing a scale, and the sums are F32.
    pub fn linear(&self, x: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
        match self {
            Self::Dense(weight) => super::linear(x, weight, bias),
            Self::Quantised(matrix) => quantised_linear(x, matrix, bias),
            Self::Nf4(matrix) => nf4::linear(x, matrix, bias),
        }
    }

    /// Rows of the matrix that the rank-1 `ids` name, in `dtype`; see [`super::embedding`].
    pub fn embedding(&self, ids: &Tensor, dtype: DType) -> Result<Tensor> {
        let matrix = match self {
            Self::Dense(weight) => return super::embedding(weight, ids),
            Self::Quantised(matrix) => matrix,
            Self::Nf4(matrix) => return super::embedding(&matrix.widen()?.to_dtype(dtype)?, ids),
        };
        let rows: Vec<usize> = ids.to_vec1::<u32>()?.into_iter().map(|id| id as usize).collect();
        if let Some(&row) = rows.iter().find(|row| **row >= matrix.rows()) {
            return Err(Error::InvalidIndex { op: "embedding", index: row, size: matrix.rows() }.bt());
        }
        Tensor::from_vec(rows_of(matrix, &rows), (rows.len(), matrix.columns()), ids.device())?.to_dtype(dtype)
    }
}

fn pack(matrix: &mut Matrix, part: &Blocks) -> Result<()> {
    let packed = matrix.push(part.format, part.rows, part.bytes, &*part.order);
    packed.map_err(|error| Error::Msg(error.to_string()).bt())
}

/// The numbers of `parts` one below the other, each with rows of `columns` columns, as a tensor of `dtype`.
pub fn widen(parts: &[Blocks], columns: usize, dtype: DType, device: &Device) -> Result<Tensor> {
    let whole = Tensor::zeros((parts.iter().map(|part| part.rows).sum::<usize>(), columns), dtype, device)?;
    let mut at = 0;
    for part in parts {
        let mut matrix = Matrix::new(columns);
        pack(&mut matrix, part)?;
        for first in (0..part.rows).step_by(WIDENED_ROWS) {
            let rows: Vec<usize> = (first..part.rows.min(first + WIDENED_ROWS)).collect();
            let values = Tensor::from_vec(rows_of(&matrix, &rows), (rows.len(), columns), device)?;
            whole.slice_set(&values.to_dtype(dtype)?, 0, at + first)?;
        }
        at += part.rows;
    }
    Ok(whole)
}

/// The numbers of `rows`, one row after the other.
fn rows_of(matrix: &Matrix, rows: &[usize]) -> Vec<f32> {
    let mut values = vec![0f32; rows.len() * matrix.columns()];
    for (values, row) in values.chunks_mut(matrix.columns()).zip(rows) {
        matrix.row(*row, values);
    }
    values
}

fn quantised_linear(x: &Tensor, matrix: &Matrix, bias: Option<&Tensor>) -> Result<Tensor> {
    expect_float(x, "linear")?;
    let (outputs, inputs) = (matrix.rows(), matrix.columns());
    if x.dim(D::Minus1)? != inputs || bias.is_some_and(|bias| bias.dims() != [outputs]) {
        return Err(Error::Msg(format!(
            "linear: input {:?}, weight {matrix:?} and bias {:?} do not fit: wanted […, K], [N, K] and [N]",
            x.shape(),
            bias.map(|bias| bias.shape().clone())
        ))
        .bt());
    }
    if !x.device().is_cpu() {
        bail!("linear: the weight's blocks are on the CPU and the input is on {:?}", x.device().location())
    }
    if tracked(&[x]) || bias.is_some_and(|bias| tracked(&[bias])) {
        bail!("linear: {matrix:?} has no gradient here; train a checkpoint whose weights are not quantised")
    }
    let shape = Shape::from(&x.dims()[..x.rank() - 1]).extend(&[outputs]);
    let mut out = vec![0f32; shape.elem_count()];
    if overrides() {
        matrix.multiply(&values_f32(x)?, &mut out);
    } else {
        exact(&values_f32(x)?, matrix, &mut out);
    }
    if let Some(bias) = bias {
        let bias = values_f32(bias)?;
        for row in out.chunks_mut(outputs) {
            row.iter_mut().zip(&bias).for_each(|(y, bias)| *y += bias);
        }
    }
    Tensor::from_vec(out, shape, x.device())?.to_dtype(x.dtype())
}

/// The decomposition: the product of the input as it is with the widened weight.
fn exact(x: &[f32], matrix: &Matrix, out: &mut [f32]) {
    let mut weights = vec![0f32; matrix.columns()];
    for row in 0..matrix.rows() {
        matrix.row(row, &mut weights);
        for (x, out) in x.chunks(matrix.columns()).zip(out.chunks_mut(matrix.rows())) {
            out[row] = x.iter().zip(&weights).map(|(x, w)| x * w).sum();
        }
    }
}
