//! Reading and writing by index.

use super::fused::overrides;
use super::{Operator, Spec, like};
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
    if overrides()
        && let Some(rows) = super::npu::embedding(table, ids)?
    {
        return Ok(rows);
    }
    table.embedding(ids)
}

/// Whole slices along a dimension, by rank-1 indexes.
pub(crate) struct IndexSelect(pub usize);

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
pub(crate) struct Gather(pub usize);

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
pub(crate) struct IndexAdd(pub usize);

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
