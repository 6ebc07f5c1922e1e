//! Matrix products.

use super::cpu::elements;
use super::{Operator, Spec};
use crate::autograd::{Gradient, wanted};
use crate::{CpuStorage, DType, Error, Layout, Operand, Result, Shape, Storage, Tensor};
use half::bf16;
use npu_cpu_kernels::{Rows, product};

/// Product of the matrices in the last two dimensions, leading dimensions being equal batches.
#[derive(Clone)]
pub(crate) struct MatMul;

impl Gradient<2> for MatMul {
    fn name(&self) -> &'static str {
        "matmul"
    }

    fn backward(&self, [lhs, rhs]: [&Tensor; 2], _: &Tensor, grad: &Tensor) -> Result<[Option<Tensor>; 2]> {
        let grad = grad.contiguous()?;
        Ok([wanted(lhs, || grad.matmul(&rhs.t()?))?, wanted(rhs, || lhs.t()?.matmul(&grad))?])
    }
}

impl Operator<2> for MatMul {
    fn infer(&self, [lhs, rhs]: [&Tensor; 2]) -> Result<Spec> {
        let (l, r) = (lhs.dims(), rhs.dims());
        let rank = l.len();
        let batch = |dims: &[usize]| dims[..rank - 2].iter().product::<usize>();
        if rank < 2 || r.len() != rank || l[rank - 1] != r[rank - 2] || batch(l) != batch(r) {
            let (lhs, rhs) = (lhs.shape().clone(), rhs.shape().clone());
            return Err(Error::ShapeMismatchBinaryOp { lhs, rhs, op: "matmul" }.bt());
        }
        let dtype = lhs.same_dtype(rhs, "matmul")?;
        Ok(Spec { shape: Shape::from(&l[..rank - 1]).extend(&[r[rank - 1]]), dtype })
    }

    fn launch(&self, [lhs, rhs]: [Operand<'_>; 2]) -> Result<Storage> {
        let ours = rows_lie_together(lhs.layout) && columns_lie_together(rhs.layout);
        match (lhs.storage, rhs.storage) {
            (Storage::Cpu(CpuStorage::BF16(_)), Storage::Cpu(CpuStorage::BF16(_))) if ours => dots(lhs, rhs),
            (Storage::Cpu(CpuStorage::BF16(_)), Storage::Cpu(_)) => widened(lhs, rhs),
            _ => lhs.matmul(rhs, bmnk(lhs.layout, rhs.layout)),
        }
    }
}

fn rows_lie_together(layout: &Layout) -> bool {
    layout.stride().last() == Some(&1)
}

/// As in the transpose of a weight.
fn columns_lie_together(layout: &Layout) -> bool {
    layout.stride()[layout.dims().len() - 2] == 1
}

/// A product of BF16 on the CPU, whose operands hold what is summed over without gaps.
fn dots(lhs: Operand<'_>, rhs: Operand<'_>) -> Result<Storage> {
    let (batch, rows, columns, inner) = bmnk(lhs.layout, rhs.layout);
    let (l, r) = (elements::<bf16>(lhs.storage, lhs.layout)?, elements::<bf16>(rhs.storage, rhs.layout)?);
    let rank = lhs.layout.dims().len();
    let (l_stride, r_stride) = (lhs.layout.stride()[rank - 2], rhs.layout.stride()[rank - 1]);
    let mut out = vec![bf16::ZERO; batch * rows * columns];
    for (index, out) in out.chunks_exact_mut(rows * columns).enumerate() {
        let left = Rows::strided(&l[matrix_start(lhs.layout, index)..], rows, inner, l_stride);
        let right = Rows::strided(&r[matrix_start(rhs.layout, index)..], columns, inner, r_stride);
        product(left, right, None, out);
    }
    Ok(Storage::Cpu(CpuStorage::BF16(out)))
}

/// Where the matrix `index` of a batch starts, counted from the first.
fn matrix_start(layout: &Layout, mut index: usize) -> usize {
    let batch = layout.dims().len() - 2;
    let mut start = 0;
    for (size, stride) in layout.dims()[..batch].iter().zip(layout.stride()).rev() {
        start += index % size * stride;
        index /= size;
    }
    start
}

fn bmnk(lhs: &Layout, rhs: &Layout) -> (usize, usize, usize, usize) {
    let (l, r) = (lhs.dims(), rhs.dims());
    let rank = l.len();
    (l[..rank - 2].iter().product(), l[rank - 2], r[rank - 1], l[rank - 1])
}

/// candle's CPU product has no BF16 and ours reads other layouts: compute in F32 and round once, as a device that has
/// it does.
fn widened(lhs: Operand<'_>, rhs: Operand<'_>) -> Result<Storage> {
    let (l, r) = (lhs.storage.to_dtype(lhs.layout, DType::F32)?, rhs.storage.to_dtype(rhs.layout, DType::F32)?);
    let (l_layout, r_layout) = (Layout::contiguous(lhs.layout.shape()), Layout::contiguous(rhs.layout.shape()));
    let product = Operand { storage: &l, layout: &l_layout }
        .matmul(Operand { storage: &r, layout: &r_layout }, bmnk(&l_layout, &r_layout))?;
    let (b, m, n, _) = bmnk(&l_layout, &r_layout);
    product.to_dtype(&Layout::contiguous((b, m, n)), DType::BF16)
}
