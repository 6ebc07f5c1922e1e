//! Reading and writing by index.

use super::kernels::overrides;
use super::{Operator, Spec, as_one, like, npu_grad};
use crate::autograd::{Gradient, wanted};
use crate::{Error, Layout, Operand, Result, Shape, Storage, Tensor};

fn mismatch(op: &'static str, lhs: &Tensor, rhs: &Tensor) -> Error {
    Error::ShapeMismatchBinaryOp { lhs: lhs.shape().clone(), rhs: rhs.shape().clone(), op }.bt()
}

fn same_but(dim: usize, lhs: &Tensor, rhs: &Tensor) -> bool {
    lhs.rank() == rhs.rank() && (0..lhs.rank()).all(|i| i == dim || lhs.dims()[i] == rhs.dims()[i])
}

fn rank_one(indexes: &Tensor) -> Result<usize> {
    match indexes.dims() {
        [count] => Ok(*count),
        _ => {
            let (got, shape) = (indexes.rank(), indexes.shape().clone());
            Err(Error::UnexpectedNumberOfDims { expected: 1, got, shape }.bt())
        }
    }
}

/// Rows of `table` `[rows, width]` that the rank-1 `ids` name; one launch on an NPU. Unlike [`Tensor::embedding`], where
/// the largest value of the type of `ids` names a row of zeros, every id must be below `rows`: an NPU does not check.
pub fn embedding(table: &Tensor, ids: &Tensor) -> Result<Tensor> {
    as_one(&Embedding, [table, ids], || {
        if overrides()
            && let Some(rows) = super::npu::embedding(table, ids)?
        {
            return Ok(rows);
        }
        table.embedding(ids)
    })
}

#[derive(Clone)]
struct Embedding;

impl Gradient<2> for Embedding {
    fn name(&self) -> &'static str {
        "embedding"
    }

    fn backward(&self, operands: [&Tensor; 2], rows: &Tensor, grad: &Tensor) -> Result<[Option<Tensor>; 2]> {
        if let Some(of_table) = npu_grad::embedding(operands[0], operands[1], grad)? {
            return Ok([Some(of_table), None]);
        }
        IndexSelect(0).backward(operands, rows, grad)
    }
}

/// Whole slices along a dimension, by rank-1 indexes.
#[derive(Clone)]
pub(crate) struct IndexSelect(pub usize);

impl Gradient<2> for IndexSelect {
    fn name(&self) -> &'static str {
        "index_select"
    }

    fn backward(&self, [source, indexes]: [&Tensor; 2], _: &Tensor, grad: &Tensor) -> Result<[Option<Tensor>; 2]> {
        let (indexes, grad) = (indexes.contiguous()?, grad.contiguous()?);
        Ok([Some(source.zeros_like()?.index_add(&indexes, &grad, self.0)?), None])
    }
}

impl Operator<2> for IndexSelect {
    fn infer(&self, [source, indexes]: [&Tensor; 2]) -> Result<Spec> {
        let mut dims = source.dims().to_vec();
        dims[self.0] = rank_one(indexes)?;
        Ok(Spec { shape: Shape::from(dims), dtype: source.dtype() })
    }

    fn launch(&self, [source, indexes]: [Operand<'_>; 2]) -> Result<Storage> {
        source.index_select(indexes, self.0)
    }
}

/// One element per index along a dimension.
#[derive(Clone)]
pub(crate) struct Gather(pub usize);

impl Gradient<2> for Gather {
    fn name(&self) -> &'static str {
        "gather"
    }

    fn backward(&self, [source, indexes]: [&Tensor; 2], _: &Tensor, grad: &Tensor) -> Result<[Option<Tensor>; 2]> {
        let (indexes, grad) = (indexes.contiguous()?, grad.contiguous()?);
        if source.dims().iter().zip(indexes.dims()).enumerate().all(|(i, (s, n))| i == self.0 || s == n) {
            return Ok([Some(source.zeros_like()?.scatter_add(&indexes, &grad, self.0)?), None]);
        }
        // Indexes that cover less than the source: what they cover is filled, the rest stays zero.
        let mut dims = indexes.dims().to_vec();
        dims[self.0] = source.dims()[self.0];
        let mut sum = Tensor::zeros(dims, grad.dtype(), grad.device())?.scatter_add(&indexes, &grad, self.0)?;
        for (i, &size) in source.dims().iter().enumerate() {
            sum = sum.pad_with_zeros(i, 0, size - sum.dims()[i])?;
        }
        Ok([Some(sum), None])
    }
}

impl Operator<2> for Gather {
    fn infer(&self, [source, indexes]: [&Tensor; 2]) -> Result<Spec> {
        // As in candle, the indexes may cover less than the source in the other dimensions, not more.
        let covered = source.rank() == indexes.rank()
            && (0..source.rank()).all(|i| i == self.0 || indexes.dims()[i] <= source.dims()[i]);
        if !covered {
            return Err(mismatch("gather", source, indexes));
        }
        Ok(Spec { shape: indexes.shape().clone(), dtype: source.dtype() })
    }

    fn launch(&self, [source, indexes]: [Operand<'_>; 2]) -> Result<Storage> {
        source.gather(indexes, self.0)
    }
}

/// A copy of the first operand with the slices of the third added at the rank-1 indexes of the second.
#[derive(Clone)]
pub(crate) struct IndexAdd(pub usize);

impl Gradient<3> for IndexAdd {
    fn name(&self) -> &'static str {
        "index_add"
    }

    fn backward(&self, [_, indexes, source]: [&Tensor; 3], _: &Tensor, grad: &Tensor) -> Result<[Option<Tensor>; 3]> {
        let of_source = wanted(source, || grad.index_select(&indexes.contiguous()?, self.0))?;
        Ok([Some(grad.clone()), None, of_source])
    }
}

impl Operator<3> for IndexAdd {
    fn infer(&self, [base, indexes, source]: [&Tensor; 3]) -> Result<Spec> {
        if !same_but(self.0, base, source) {
            return Err(mismatch("index-add (self, source)", base, source));
        }
        if rank_one(indexes)? != source.dims()[self.0] {
            return Err(mismatch("index-add (ids, source))", indexes, source));
        }
        base.same_dtype(source, "index-add")?;
        Ok(like(base))
    }

    fn launch(&self, [base, indexes, source]: [Operand<'_>; 3]) -> Result<Storage> {
        base.index_add(indexes, source, self.0)
    }
}

/// A copy of the first operand with each element of the third written (or added) at its index in the second.
#[derive(Clone)]
pub(crate) struct Scatter {
    pub dim: usize,
    pub add: bool,
}

impl Scatter {
    pub(crate) fn check(&self, base: &Tensor, indexes: &Tensor, source: &Tensor) -> Result<()> {
        if !same_but(self.dim, base, source) {
            return Err(mismatch("scatter (self, src)", base, source));
        }
        if indexes.dims() != source.dims() {
            return Err(mismatch("scatter (indexes, src)", indexes, source));
        }
        base.same_dtype(source, "scatter").map(|_| ())
    }
}

impl Gradient<3> for Scatter {
    fn name(&self) -> &'static str {
        if self.add { "scatter_add" } else { "scatter" }
    }

    /// What is written over has no part in the result. Where two elements are written to one place, both get the gradient of
    /// the place, of which one is wrong: which of them stayed is not defined.
    fn backward(
        &self,
        [base, indexes, source]: [&Tensor; 3],
        _: &Tensor,
        grad: &Tensor,
    ) -> Result<[Option<Tensor>; 3]> {
        let of_base = wanted(base, || match self.add {
            true => Ok(grad.clone()),
            false => grad.scatter(indexes, &source.zeros_like()?, self.dim),
        })?;
        Ok([of_base, None, wanted(source, || grad.gather(indexes, self.dim))?])
    }
}

impl Operator<3> for Scatter {
    fn infer(&self, [base, indexes, source]: [&Tensor; 3]) -> Result<Spec> {
        self.check(base, indexes, source)?;
        Ok(like(base))
    }

    fn launch(&self, [base, indexes, source]: [Operand<'_>; 3]) -> Result<Storage> {
        let layout = Layout::contiguous(base.layout.shape());
        let mut out = base.storage.device().alloc(base.layout.shape(), base.storage.dtype())?;
        base.storage.copy_strided(&mut out, 0, base.layout)?;
        out.scatter(&layout, indexes, source, self.dim, self.add)?;
        Ok(out)
    }
}
