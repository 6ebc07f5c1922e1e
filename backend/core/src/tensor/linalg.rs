//! Matrix products and what is built on them.

use super::Tensor;
use crate::ops::{self, MatMul};
use crate::shape::Dim;
use crate::{Error, Result, Shape, bail};

impl Tensor {
    /// Product of the matrices in the last two dimensions; leading dimensions are batches and must be equal.
    pub fn matmul(&self, rhs: &Self) -> Result<Self> {
        if self.rank() >= 2 && self.rank() == rhs.rank() && self.dims()[self.rank() - 1] == 0 {
            // A sum over nothing: backends need not know it, only the checks and the zeros remain.
            let spec = ops::Operator::infer(&MatMul, [self, rhs])?;
            return Self::zeros(spec.shape, spec.dtype, self.device());
        }
        ops::apply(&MatMul, [self, rhs])
    }

    /// As [`Tensor::matmul`], batches of size one (or missing) repeated.
    pub fn broadcast_matmul(&self, rhs: &Self) -> Result<Self> {
        let (l_rank, r_rank) = (self.rank(), rhs.rank());
        if l_rank < 2 || r_rank < 2 {
            bail!("only 2d matrixes are supported {:?} {:?}", self.shape(), rhs.shape())
        }
        let (rows, inner) = (self.dims()[l_rank - 2], self.dims()[l_rank - 1]);
        let columns = rhs.dims()[r_rank - 1];
        if r_rank == 2 && l_rank > 2 && self.is_contiguous() {
            // One product over all rows instead of one copy of the right-hand side a batch.
            let dims = [&self.dims()[..l_rank - 1], &[columns]].concat();
            return self.reshape(((), inner))?.matmul(rhs)?.reshape(dims);
        }
        let batch = Shape::from(&self.dims()[..l_rank - 2])
            .broadcast_shape_binary_op(&Shape::from(&rhs.dims()[..r_rank - 2]), "broadcast_matmul")?;
        let expand = |x: &Self, tail: [usize; 2]| -> Result<Self> {
            let shape = batch.clone().extend(&tail);
            if *x.shape() == shape { Ok(x.clone()) } else { x.broadcast_as(shape)?.contiguous() }
        };
        expand(self, [rows, inner])?.matmul(&expand(rhs, [rhs.dims()[r_rank - 2], columns])?)
    }

    /// Scalar product of two rank-1 tensors.
    pub fn dot(&self, rhs: &Self) -> Result<Self> {
        if self.rank() != 1 || rhs.rank() != 1 {
            let (lhs, rhs) = (self.shape().clone(), rhs.shape().clone());
            return Err(Error::ShapeMismatchBinaryOp { lhs, rhs, op: "dot" });
        }
        (self * rhs)?.sum_all()
    }

    /// Square root of the sum of squares.
    pub fn norm(&self) -> Result<Self> {
        if self.dtype().is_int() {
            bail!("norm not supported for integer dtypes")
        }
        self.sqr()?.sum_all()?.sqrt()
    }

    /// Product of a matrix and a vector.
    pub fn mv(&self, rhs: &Self) -> Result<Self> {
        if self.rank() != 2 || rhs.rank() != 1 || self.dims()[1] != rhs.dims()[0] {
            let (lhs, rhs) = (self.shape().clone(), rhs.shape().clone());
            return Err(Error::ShapeMismatchBinaryOp { lhs, rhs, op: "mv" });
        }
        self.matmul(&rhs.unsqueeze(1)?)?.squeeze(1)
    }

    /// Running sum along `dim`, as a product with a triangle of ones.
    pub fn cumsum<D: Dim>(&self, dim: D) -> Result<Self> {
        let dim = dim.to_index(self.shape(), "cumsum")?;
        let last = self.rank() - 1;
        let size = self.dims()[dim];
        let triangle = Self::triu2(size, self.dtype(), self.device())?;
        let rows = self.transpose(dim, last)?.contiguous()?;
        rows.reshape(((), size))?.matmul(&triangle)?.reshape(rows.shape())?.transpose(dim, last)
    }
}
