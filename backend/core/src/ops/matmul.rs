//! Matrix products.

use super::cpu::{Real, elements};
use super::{Operator, Spec};
use crate::autograd::{Gradient, wanted};
use crate::{CpuStorage, DType, Error, Layout, Operand, Result, Shape, Storage, Tensor};
use npu_cpu_kernels::{Matrix, multiply, multiply_halves};

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
        let ours = dense_one_way(lhs.layout) && dense_one_way(rhs.layout);
        let batch = || bmnk(lhs.layout, rhs.layout).0;
        match (lhs.storage, rhs.storage) {
            (Storage::Cpu(CpuStorage::BF16(_)), Storage::Cpu(CpuStorage::BF16(_))) if ours => {
                Ok(Storage::Cpu(CpuStorage::BF16(multiply_halves(batch(), operands(lhs, rhs)?))))
            }
            (Storage::Cpu(CpuStorage::BF16(_)), Storage::Cpu(_)) => widened(lhs, rhs),
            (Storage::Cpu(CpuStorage::F32(_)), Storage::Cpu(CpuStorage::F32(_))) => {
                Ok(Storage::Cpu(CpuStorage::F32(multiply(batch(), operands(lhs, rhs)?))))
            }
            (Storage::Cuda(_), Storage::Cuda(_)) => {
                let (b, m, n, k) = bmnk(lhs.layout, rhs.layout);
                let (l, r) = (compacted(lhs)?, compacted(rhs)?);
                let (l_layout, r_layout) = (Layout::contiguous((b, m, k)), Layout::contiguous((b, k, n)));
                let l = l.as_ref().map_or(lhs, |storage| Operand { storage, layout: &l_layout });
                let r = r.as_ref().map_or(rhs, |storage| Operand { storage, layout: &r_layout });
                l.matmul(r, (b, m, n, k))
            }
            _ => lhs.matmul(rhs, bmnk(lhs.layout, rhs.layout)),
        }
    }
}

/// Whether the elements of a row lie together, or those of a column, as in the transpose of a weight.
fn dense_one_way(layout: &Layout) -> bool {
    layout.stride().iter().rev().take(2).any(|&stride| stride == 1)
}

/// A row-major copy of a matrix that candle's product on GPUs does not read as it lies; none of one that it does.
fn compacted(operand: Operand<'_>) -> Result<Option<Storage>> {
    if evenly_spaced(operand.layout) {
        return Ok(None);
    }
    // A conversion to the same type copies.
    operand.storage.to_dtype(operand.layout, operand.storage.dtype()).map(Some)
}

/// Whether the matrices lie without gaps, row by row or column by column, and equally far from each other.
fn evenly_spaced(layout: &Layout) -> bool {
    let rank = layout.dims().len();
    let (batch, matrix) = layout.dims().split_at(rank - 2);
    let (apart, within) = layout.stride().split_at(rank - 2);
    let ordered = |outer: usize, inner: usize| {
        (within[inner] == 1 || matrix[inner] == 1) && (within[outer] == matrix[inner] || matrix[outer] == 1)
    };
    let even = match (batch, apart) {
        ([], []) | ([_], [_]) => true,
        ([first, second], [outer, inner]) => *first == 1 || *second == 1 || *outer == inner * second,
        _ => false,
    };
    even && (ordered(0, 1) || ordered(1, 0))
}

/// The matrices of a batch by their number, however they lie.
fn operands<'a, T: Real>(
    lhs: Operand<'a>,
    rhs: Operand<'a>,
) -> Result<impl Fn(usize) -> (Matrix<'a, T>, Matrix<'a, T>) + Sync> {
    let (_, rows, columns, inner) = bmnk(lhs.layout, rhs.layout);
    let (l, r) = (elements::<T>(lhs.storage, lhs.layout)?, elements::<T>(rhs.storage, rhs.layout)?);
    let rank = lhs.layout.dims().len();
    let strides = |layout: &Layout| (layout.stride()[rank - 2], layout.stride()[rank - 1]);
    let (of_l, of_r) = (strides(lhs.layout), strides(rhs.layout));
    Ok(move |index: usize| {
        let left = Matrix::new(&l[matrix_start(lhs.layout, index)..], (rows, inner), of_l);
        (left, Matrix::new(&r[matrix_start(rhs.layout, index)..], (inner, columns), of_r))
    })
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_gpu_multiplies_as_it_lies() {
        let layout = |dims: &[usize], stride: &[usize]| Layout::new(Shape::from(dims), stride.to_vec(), 0);
        for (dims, stride, even) in [
            (&[96, 32][..], &[32, 1][..], true),
            (&[96, 32], &[1, 96], true),
            (&[96, 32], &[48, 1], false),
            (&[2, 3, 6], &[18, 6, 1], true),
            (&[2, 2, 3, 6], &[36, 18, 1, 3], true),
            (&[2, 2, 6, 16], &[12, 6, 1, 0], false),
            (&[2, 2, 3, 6], &[0, 18, 6, 1], false),
            (&[1, 2, 3, 6], &[0, 18, 6, 1], true),
            (&[2, 1, 1, 3, 6], &[18, 18, 18, 6, 1], false),
        ] {
            assert_eq!(evenly_spaced(&layout(dims, stride)), even, "{dims:?} {stride:?}");
        }
    }
}
