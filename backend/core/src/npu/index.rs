//! Operators that take positions: gather, select, scatter, add, embedding, sort.

use super::dtype::{INDEXES, NUMBERS, bits_type, fill_type, require};
use super::storage::NpuStorage;
use crate::acl::{Context, Error, Scalar, TensorDesc, View, launch};
use acl_sys::loader::op;
use acl_sys::{ACL_FLOAT, ACL_FLOAT16, ACL_INT32, ACL_INT64, ACL_UINT8};
use candle_core::{DType, Layout, Result};

/// Positions as operators take them, and where "nothing" was meant.
struct Positions {
    /// Contiguous, INT32 or INT64; 0 where nothing was meant.
    index: NpuStorage,
    /// u8, 1 where nothing was meant.
    nothing: NpuStorage,
}

impl NpuStorage {
    /// Sets `view` (of any type, seen by [`fill_type`]) to zero bits where `mask`, broadcast, is 1.
    fn zero_where(&self, view: &TensorDesc<'_>, mask: &TensorDesc<'_>) -> Result<()> {
        let dtype = match fill_type(self.element()) {
            ACL_FLOAT16 => ACL_FLOAT,
            other => other,
        };
        let zero = Scalar::like(self.context(), dtype, 0.0)?;
        Ok(launch::<op::InplaceMaskedFillScalar, _>(self.context(), (view, mask, &zero))?)
    }

    /// The positions in `self`, with candle's largest value of the type taken apart.
    fn positions(&self, op: &'static str, layout: &Layout) -> Result<Positions> {
        require(op, self.element(), INDEXES)?;
        if self.element() == DType::U8 {
            let wide = self.cast(layout, DType::I64)?;
            return wide.positions_from(&Layout::contiguous(layout.shape()), i64::from(u8::MAX));
        }
        let nothing = match self.element() {
            // The bits of the largest u32, which the operator sees as INT32.
            DType::U32 => -1,
            DType::I32 => i64::from(i32::MAX),
            _ => i64::MAX,
        };
        self.positions_from(layout, nothing)
    }

    fn positions_from(&self, layout: &Layout, nothing: i64) -> Result<Positions> {
        let mask = self.is_value(layout, nothing)?;
        let index = self.compact(layout)?;
        if !index.is_empty() {
            index.zero_where(&index.fill_view(layout.dims())?.desc()?, &mask.truth(layout.dims())?.desc()?)?;
        }
        Ok(Positions { index, nothing: mask })
    }

    /// `out[i][j][k] = self[i][index[i][j][k]][k]` for `dim` 1; 0 where the index is its type's largest value.
    pub(super) fn gather_impl(&self, layout: &Layout, ids: &Self, ids_layout: &Layout, dim: usize) -> Result<Self> {
        let out = self.npu().uninit(self.element(), ids_layout.shape().elem_count())?;
        if out.is_empty() {
            return Ok(out);
        }
        let Positions { index, nothing } = ids.positions("gather", ids_layout)?;
        let dims = ids_layout.dims();
        let (x, at) = (self.bits(layout)?.desc()?, index.shaped_bits(dims)?.desc()?);
        launch::<op::Gather, _>(self.context(), (&x, dim as i64, &at, &out.shaped_bits(dims)?.desc()?))?;
        out.zero_where(&out.fill_view(dims)?.desc()?, &nothing.truth(dims)?.desc()?)?;
        Ok(out)
    }

    /// The slices of `self` along `dim` that the one-dimensional `ids` name; 0 where an index is its type's largest.
    pub(super) fn index_select_impl(
        &self,
        ids: &Self,
        layout: &Layout,
        ids_layout: &Layout,
        dim: usize,
    ) -> Result<Self> {
        let &[count] = ids_layout.dims() else {
            let (got, shape) = (ids_layout.dims().len(), ids_layout.shape().clone());
            return Err(candle_core::Error::UnexpectedNumberOfDims { expected: 1, got, shape }.bt());
        };
        let mut dims = layout.dims().to_vec();
        dims[dim] = count;
        let out = self.npu().uninit(self.element(), dims.iter().product())?;
        if out.is_empty() {
            return Ok(out);
        }
        let Positions { index, nothing } = ids.positions("index-select", ids_layout)?;
        let (x, at) = (self.bits(layout)?.desc()?, index.shaped_bits(&[count])?.desc()?);
        launch::<op::IndexSelect, _>(self.context(), (&x, dim as i64, &at, &out.shaped_bits(&dims)?.desc()?))?;
        let mask = nothing.truth(&along(dims.len(), dim, count))?.desc()?;
        out.zero_where(&out.fill_view(&dims)?.desc()?, &mask)?;
        Ok(out)
    }

    /// Rows of the table `self` (`[rows, width]`) that `ids` (any shape) name: `[ids…, width]`. One launch; every index
    /// must be a row.
    pub fn embedding(&self, layout: &Layout, ids: &Self, ids_layout: &Layout) -> Result<Self> {
        require("embedding", ids.element(), INDEXES)?;
        let &[_, width] = layout.dims() else {
            let why = format!("a table of shape {:?}, wanted [rows, width]", layout.dims());
            return Err(Error::Arguments { op: "embedding", why }.into());
        };
        if ids.element() == DType::U8 {
            return self.embedding(layout, &ids.cast(ids_layout, DType::I64)?, &Layout::contiguous(ids_layout.shape()));
        }
        let mut dims = ids_layout.dims().to_vec();
        dims.push(width);
        let out = self.npu().uninit(self.element(), dims.iter().product())?;
        if !out.is_empty() {
            let (table, at) = (self.bits(layout)?.desc()?, ids.bits(ids_layout)?.desc()?);
            // A scalar index is a view of one dimension; the output then has one of one more.
            let out_dims = if ids_layout.dims().is_empty() { vec![1, width] } else { dims };
            launch::<op::Embedding, _>(self.context(), (&table, &at, &out.shaped_bits(&out_dims)?.desc()?))?;
        }
        Ok(out)
    }

    /// `self[i][ids[i][j][k]][k] = source[i][j][k]` for `dim` 1, in place.
    pub(super) fn scatter_impl(
        &mut self,
        layout: &Layout,
        ids: (&Self, &Layout),
        source: (&Self, &Layout),
        dim: usize,
    ) -> Result<()> {
        require("scatter", ids.0.element(), INDEXES)?;
        if ids.1.shape().elem_count() == 0 {
            return Ok(());
        }
        let wide;
        let index = match ids.0.element() {
            DType::U8 => {
                wide = ids.0.cast(ids.1, DType::I64)?;
                wide.shaped(ids.1.dims())?
            }
            _ => ids.0.bits(ids.1)?,
        };
        const REPLACE: i64 = 0;
        let (x, src) = (self.bits(layout)?.desc()?, source.0.bits(source.1)?.desc()?);
        Ok(launch::<op::InplaceScatter, _>(self.context(), (&x, dim as i64, &index.desc()?, &src, REPLACE))?)
    }

    /// Rows `[B, N, T, D]` of `source` into the cache `[B, N, S, D]` that `layout` selects, sequence `b` from position
    /// `positions[b]` on, in place and in one launch. Every position must lie in the cache.
    pub fn write_at(&mut self, layout: &Layout, positions: (&Self, &Layout), source: (&Self, &Layout)) -> Result<()> {
        require("write_at", self.element(), super::dtype::FLOATS)?;
        require("write_at", positions.0.element(), &[DType::I64, DType::I32])?;
        const SEQUENCE: i64 = -2;
        let (cache, at) = (self.view(layout)?.desc()?, positions.0.view(positions.1)?.desc()?);
        let rows = source.0.view(source.1)?.desc()?;
        Ok(launch::<op::InplaceScatterUpdate, _>(self.context(), (&cache, &at, &rows, SEQUENCE))?)
    }

    /// As [`Self::scatter_impl`] but adding; an index that is its type's largest value adds nothing.
    pub(super) fn scatter_add_impl(
        &mut self,
        layout: &Layout,
        ids: (&Self, &Layout),
        source: (&Self, &Layout),
        dim: usize,
    ) -> Result<()> {
        require("scatter-add", self.element(), NUMBERS)?;
        let dims = ids.1.dims();
        if ids.1.shape().elem_count() == 0 {
            return Ok(());
        }
        let Positions { index, nothing } = ids.0.positions("scatter-add", ids.1)?;
        let addend = source.0.compact(source.1)?;
        addend.zero_where(&addend.fill_view(dims)?.desc()?, &nothing.truth(dims)?.desc()?)?;
        let sum = self.npu().uninit(self.element(), layout.shape().elem_count())?;
        let (x, at) = (self.bits(layout)?.desc()?, index.shaped_bits(dims)?.desc()?);
        let (src, out) = (addend.shaped_bits(dims)?.desc()?, sum.shaped_bits(layout.dims())?.desc()?);
        launch::<op::ScatterAdd, _>(self.context(), (&x, dim as i64, &at, &src, &out))?;
        sum.copy_back(self, layout)
    }

    /// Writes all elements of `self` to what `layout` selects of `target`.
    fn copy_back(&self, target: &Self, layout: &Layout) -> Result<()> {
        let (to, from) = (target.bits(layout)?.desc()?, self.shaped_bits(layout.dims())?.desc()?);
        Ok(launch::<op::InplaceCopy, _>(self.context(), (&to, &from))?)
    }

    /// A copy of `self` with the slices of `source` along `dim` added where the one-dimensional `ids` say.
    pub(super) fn index_add_impl(
        &self,
        layout: &Layout,
        ids: (&Self, &Layout),
        source: (&Self, &Layout),
        dim: usize,
    ) -> Result<Self> {
        require("index-add", self.element(), NUMBERS)?;
        if source.1.shape().elem_count() == 0 {
            return self.compact(layout);
        }
        let Positions { index, nothing } = ids.0.positions("index-add", ids.1)?;
        let (count, dims) = (ids.1.shape().elem_count(), source.1.dims());
        let addend = source.0.compact(source.1)?;
        let mask = nothing.truth(&along(dims.len(), dim, count))?.desc()?;
        addend.zero_where(&addend.fill_view(dims)?.desc()?, &mask)?;
        let out = self.npu().uninit(self.element(), layout.shape().elem_count())?;
        let one = Scalar::int(self.context(), ACL_INT64, 1)?;
        let (x, at) = (self.bits(layout)?.desc()?, index.shaped_bits(&[count])?.desc()?);
        let src = addend.shaped_bits(dims)?.desc()?;
        let y = out.shaped_bits(layout.dims())?;
        launch::<op::IndexAdd, _>(self.context(), (&x, dim as i64, &at, &src, &one, &y.desc()?))?;
        Ok(out)
    }

    /// The scalar that fills elements of this storage with a number of their type.
    pub(super) fn fill_scalar<'a>(
        &self,
        context: &'a Context,
        value: candle_core::scalar::Scalar,
    ) -> Result<Scalar<'a>> {
        use candle_core::scalar::Scalar as S;
        Ok(match value {
            S::U32(value) => Scalar::int(context, ACL_INT32, i64::from(value as i32))?,
            S::F8E4M3(value) => Scalar::int(context, ACL_UINT8, i64::from(value.to_bits()))?,
            S::I64(value) => Scalar::int(context, ACL_INT64, value)?,
            other => Scalar::like(context, bits_type(self.element())?, other.to_f64())?,
        })
    }

    /// Two-dimensional copy between storages; strides and offsets in elements.
    pub(super) fn copy_rows(&self, from: View<'_>, to: View<'_>) -> Result<()> {
        Ok(launch::<op::InplaceCopy, _>(self.context(), (&to.desc()?, &from.desc()?))?)
    }
}

/// Shape of a vector of `count` elements that lies along dimension `dim` of `rank`.
fn along(rank: usize, dim: usize, count: usize) -> Vec<usize> {
    (0..rank.max(1)).map(|i| if i == dim { count } else { 1 }).collect()
}

/// What the device sorts: all but doubles.
const SORTED: &[DType] =
    &[DType::F32, DType::F16, DType::BF16, DType::I64, DType::I32, DType::I16, DType::U8, DType::U32];

/// Positions (u32) that sort the last dimension of the elements that `layout` selects.
pub fn arg_sort_last_dim(storage: &NpuStorage, layout: &Layout, ascending: bool) -> Result<NpuStorage> {
    require("arg-sort", storage.element(), SORTED)?;
    let shape = Layout::contiguous(layout.shape());
    if storage.element() == DType::U32 {
        return arg_sort_last_dim(&storage.cast(layout, DType::I64)?, &shape, ascending);
    }
    let positions = storage.npu().uninit(DType::I64, layout.shape().elem_count())?;
    if !positions.is_empty() {
        let (x, y) = (storage.view(layout)?.desc()?, positions.shaped(layout.dims())?.desc()?);
        launch::<op::Argsort, _>(storage.context(), (&x, -1i64, !ascending, &y))?;
    }
    positions.cast(&shape, DType::U32)
}
