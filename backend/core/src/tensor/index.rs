//! Selecting and writing elements by index, and sorting.

use super::Tensor;
use crate::autograd::record;
use crate::ops::{self, Gather, IndexAdd, IndexSelect, Scatter, SliceScatter};
use crate::shape::Dim;
use crate::{D, Error, Operand, Result, bail};
use std::ops::{Bound, RangeBounds};

impl Tensor {
    /// Slices along `dim` chosen by rank-1 `indexes`.
    pub fn index_select<D: Dim>(&self, indexes: &Self, dim: D) -> Result<Self> {
        let dim = dim.to_index(self.shape(), "index-select")?;
        ops::apply(&IndexSelect(dim), [self, indexes])
    }

    /// Rows of this table (rank 2) chosen by rank-1 `ids`.
    pub fn embedding(&self, ids: &Self) -> Result<Self> {
        if self.rank() != 2 || ids.rank() != 1 {
            let (lhs, rhs) = (self.shape().clone(), ids.shape().clone());
            return Err(Error::ShapeMismatchBinaryOp { lhs, rhs, op: "embedding" }.bt());
        }
        self.index_select(ids, 0)
    }

    /// One element per index along `dim`; the result has the shape of `indexes`.
    pub fn gather<D: Dim>(&self, indexes: &Self, dim: D) -> Result<Self> {
        let dim = dim.to_index(self.shape(), "gather")?;
        ops::apply(&Gather(dim), [self, indexes])
    }

    /// A copy with the slices of `source` added at the rank-1 `indexes` along `dim`.
    pub fn index_add<D: Dim>(&self, indexes: &Self, source: &Self, dim: D) -> Result<Self> {
        let dim = dim.to_index(self.shape(), "index-add")?;
        ops::apply(&IndexAdd(dim), [self, indexes, source])
    }

    /// A copy with each element of `source` written at its index along `dim`.
    pub fn scatter<D: Dim>(&self, indexes: &Self, source: &Self, dim: D) -> Result<Self> {
        let dim = dim.to_index(self.shape(), "scatter")?;
        ops::apply(&Scatter { dim, add: false }, [self, indexes, source])
    }

    /// A copy with each element of `source` added at its index along `dim`.
    pub fn scatter_add<D: Dim>(&self, indexes: &Self, source: &Self, dim: D) -> Result<Self> {
        let dim = dim.to_index(self.shape(), "scatter-add")?;
        ops::apply(&Scatter { dim, add: true }, [self, indexes, source])
    }

    /// As [`Tensor::scatter`], in place.
    pub fn scatter_set<D: Dim>(&self, indexes: &Self, source: &Self, dim: D) -> Result<()> {
        let dim = dim.to_index(self.shape(), "scatter-set")?;
        self.scatter_in_place(indexes, source, Scatter { dim, add: false })
    }

    /// As [`Tensor::scatter_add`], in place.
    pub fn scatter_add_set<D: Dim>(&self, indexes: &Self, source: &Self, dim: D) -> Result<()> {
        let dim = dim.to_index(self.shape(), "scatter-add-set")?;
        self.scatter_in_place(indexes, source, Scatter { dim, add: true })
    }

    fn scatter_in_place(&self, indexes: &Self, source: &Self, scatter: Scatter) -> Result<()> {
        if self.same_storage(source) || self.same_storage(indexes) {
            bail!("cannot scatter in place when self shares its storage with the indexes or the source")
        }
        scatter.check(self, indexes, source)?;
        let (indexes_storage, source_storage) = (indexes.storage(), source.storage());
        let indexes = Operand { storage: &indexes_storage, layout: indexes.layout() };
        let source = Operand { storage: &source_storage, layout: source.layout() };
        self.storage_mut().scatter(self.layout(), indexes, source, scatter.dim, scatter.add)
    }

    /// Slice `index` of the first dimension, which is dropped.
    pub fn get(&self, index: usize) -> Result<Self> {
        if self.rank() == 0 { Ok(self.clone()) } else { self.narrow(0, index, 1)?.squeeze(0) }
    }

    /// Slice `index` of `dim`, which is dropped.
    pub fn get_on_dim<D: Dim>(&self, dim: D, index: usize) -> Result<Self> {
        let dim = dim.to_index(self.shape(), "get_on_dim")?;
        self.narrow(dim, index, 1)?.squeeze(dim)
    }

    /// A copy with `source` in place of elements `start..` along `dim`.
    pub fn slice_scatter<D: Dim>(&self, source: &Self, dim: D, start: usize) -> Result<Self> {
        let dim = dim.to_index(self.shape(), "slice-scatter")?;
        let out = Self::from_storage(self.fresh_copy()?, self.shape());
        out.slice_set(&source.compact()?, dim, start)?;
        Ok(record(out, &SliceScatter { dim, start }, [self, source]))
    }

    /// As [`Tensor::slice_scatter`] along the first dimension.
    pub fn slice_scatter0(&self, source: &Self, start: usize) -> Result<Self> {
        self.slice_scatter(source, 0, start)
    }

    /// A copy with `source` in the block that `ranges` select, one range a dimension.
    pub fn slice_assign<R: RangeBounds<usize>>(&self, ranges: &[R], source: &Self) -> Result<Self> {
        if ranges.len() != self.rank() || source.rank() != self.rank() {
            let (got, shape) = (ranges.len().min(source.rank()), self.shape().clone());
            return Err(Error::UnexpectedNumberOfDims { expected: self.rank(), got, shape }.bt());
        }
        let mut starts = Vec::with_capacity(ranges.len());
        for (dim, range) in ranges.iter().enumerate() {
            let start = match range.start_bound() {
                Bound::Included(&n) => n,
                Bound::Excluded(&n) => n + 1,
                Bound::Unbounded => 0,
            };
            let end = match range.end_bound() {
                Bound::Included(&n) => n + 1,
                Bound::Excluded(&n) => n,
                Bound::Unbounded => self.dims()[dim],
            };
            if end > self.dims()[dim] || end.checked_sub(start) != Some(source.dims()[dim]) {
                bail!(
                    "slice-assign: {start}..{end} of dimension {dim} ({}) does not take a source of size {}",
                    self.dims()[dim],
                    source.dims()[dim]
                )
            }
            starts.push(start);
        }
        // From the innermost dimension outwards, the source grows into a slab that fits the next one.
        let mut slab = source.clone();
        for dim in (0..self.rank()).rev() {
            let mut target = self.clone();
            for (outer, &start) in starts.iter().enumerate().take(dim) {
                target = target.narrow(outer, start, source.dims()[outer])?;
            }
            slab = target.slice_scatter(&slab, dim, starts[dim])?;
        }
        Ok(slab)
    }

    /// Indexes (U32) that order the last dimension. This tensor must be row-major.
    pub fn arg_sort_last_dim(&self, ascending: bool) -> Result<Self> {
        ops::arg_sort_last_dim(self, ascending)
    }

    /// The last dimension in order, and the indexes (U32) that order it.
    pub fn sort_last_dim(&self, ascending: bool) -> Result<(Self, Self)> {
        let indexes = self.arg_sort_last_dim(ascending)?;
        Ok((self.gather(&indexes, D::Minus1)?, indexes))
    }
}
