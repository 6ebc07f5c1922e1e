//! Matrix products.

use super::{Operator, Spec};
use crate::autograd::{Gradient, wanted};
use crate::{DType, Error, Layout, Operand, Result, Shape, Storage, Tensor};

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
        match (lhs.storage, rhs.storage) {
            (Storage::Cpu(crate::CpuStorage::BF16(_)), Storage::Cpu(_)) => widened(lhs, rhs),
            _ => lhs.matmul(rhs, bmnk(lhs.layout, rhs.layout)),
        }
    }
}

fn bmnk(lhs: &Layout, rhs: &Layout) -> (usize, usize, usize, usize) {
    let (l, r) = (lhs.dims(), rhs.dims());
    let rank = l.len();
    (l[..rank - 2].iter().product(), l[rank - 2], r[rank - 1], l[rank - 1])
}

/// candle's CPU product has no BF16: compute in F32 and round once, as a device that has it does.
fn widened(lhs: Operand<'_>, rhs: Operand<'_>) -> Result<Storage> {
    let (l, r) = (lhs.storage.to_dtype(lhs.layout, DType::F32)?, rhs.storage.to_dtype(rhs.layout, DType::F32)?);
    let (l_layout, r_layout) = (Layout::contiguous(lhs.layout.shape()), Layout::contiguous(rhs.layout.shape()));
    let product = Operand { storage: &l, layout: &l_layout }
        .matmul(Operand { storage: &r, layout: &r_layout }, bmnk(&l_layout, &r_layout))?;
    let (b, m, n, _) = bmnk(&l_layout, &r_layout);
    product.to_dtype(&Layout::contiguous((b, m, n)), DType::BF16)
}
