//! Indexing by `.i(…)`.

use crate::{Error, Result, Tensor, bail};
use std::ops::{Bound, Range, RangeBounds, RangeFrom, RangeFull, RangeInclusive, RangeTo, RangeToInclusive};

/// What selects along one dimension.
#[derive(Debug)]
pub enum TensorIndexer {
    /// One element; the dimension is dropped.
    Select(usize),
    /// A range.
    Narrow(Bound<usize>, Bound<usize>),
    /// The elements at rank-1 indexes.
    IndexSelect(Tensor),
    /// An index that could not be made a tensor.
    Err(Error),
}

impl From<usize> for TensorIndexer {
    fn from(index: usize) -> Self {
        Self::Select(index)
    }
}

impl From<&[u32]> for TensorIndexer {
    fn from(indexes: &[u32]) -> Self {
        Tensor::new(indexes, &crate::Device::Cpu).map_or_else(Self::Err, Self::IndexSelect)
    }
}

impl From<Vec<u32>> for TensorIndexer {
    fn from(indexes: Vec<u32>) -> Self {
        Self::from(indexes.as_slice())
    }
}

impl From<&Tensor> for TensorIndexer {
    fn from(indexes: &Tensor) -> Self {
        Self::IndexSelect(indexes.clone())
    }
}

macro_rules! from_ranges {
    ($($range:ty),*) => { $(
        impl From<$range> for TensorIndexer {
            fn from(range: $range) -> Self {
                Self::Narrow(range.start_bound().cloned(), range.end_bound().cloned())
            }
        }
    )* };
}
from_ranges!(Range<usize>, RangeFrom<usize>, RangeInclusive<usize>, RangeTo<usize>, RangeToInclusive<usize>);

impl From<RangeFull> for TensorIndexer {
    fn from(_: RangeFull) -> Self {
        Self::Narrow(Bound::Unbounded, Bound::Unbounded)
    }
}

/// Indexing with a number, a range, a list of indexes, or a tuple of these, one a dimension.
pub trait IndexOp<T> {
    fn i(&self, index: T) -> Result<Tensor>;
}

impl Tensor {
    fn index(&self, indexers: &[TensorIndexer]) -> Result<Self> {
        let mut out = self.clone();
        // Dimension of `out` that the next indexer speaks of; a dropped dimension leaves it where it is.
        let mut dim = 0;
        for indexer in indexers {
            match indexer {
                TensorIndexer::Select(index) => out = out.narrow(dim, *index, 1)?.squeeze(dim)?,
                TensorIndexer::Narrow(start, end) => {
                    let start = match start {
                        Bound::Included(n) => *n,
                        Bound::Excluded(n) => n + 1,
                        Bound::Unbounded => 0,
                    };
                    let end = match end {
                        Bound::Included(n) => n + 1,
                        Bound::Excluded(n) => *n,
                        Bound::Unbounded => out.dim(dim)?,
                    };
                    out = out.narrow(dim, start, end.saturating_sub(start))?;
                    dim += 1;
                }
                TensorIndexer::IndexSelect(indexes) => {
                    if indexes.rank() != 1 {
                        bail!("multi-dimensional tensor indexing is not supported")
                    }
                    out = out.index_select(&indexes.to_device(out.device())?, dim)?;
                    dim += 1;
                }
                TensorIndexer::Err(error) => bail!("indexing error {error:?}"),
            }
        }
        Ok(out)
    }
}

impl<T: Into<TensorIndexer>> IndexOp<T> for Tensor {
    fn i(&self, index: T) -> Result<Tensor> {
        self.index(&[index.into()])
    }
}

macro_rules! index_by_tuple {
    ($($name:ident)+) => {
        #[allow(non_snake_case)]
        impl<$($name: Into<TensorIndexer>),+> IndexOp<($($name,)+)> for Tensor {
            fn i(&self, ($($name,)+): ($($name,)+)) -> Result<Tensor> {
                self.index(&[$($name.into()),+])
            }
        }
    };
}
index_by_tuple!(A);
index_by_tuple!(A B);
index_by_tuple!(A B C);
index_by_tuple!(A B C E);
index_by_tuple!(A B C E F);
index_by_tuple!(A B C E F G);
