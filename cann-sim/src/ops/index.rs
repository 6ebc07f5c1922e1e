//! Reading elements and rows by index.

use super::types::*;
use crate::aclnn::tensor::TensorMeta;
use crate::aclnn::{Call, Kernel, Launch, Tensor, TensorList};
use crate::dtype::DType::*;

use super::views::with_bits;
use crate::fail;
use crate::status::Result;
use acl_sys::error::ACL_ERROR_RT_AICORE_EXCEPTION;
use std::borrow::Cow;

/// Position of `index` among `limit` elements. On a card a position outside is an exception of the core that runs it.
pub(super) fn checked(index: i64, limit: usize, negative: bool, name: &str) -> Result<usize> {
    let low = if negative { -(limit as i64) } else { 0 };
    if index < low || index >= limit as i64 {
        fail!(ACL_ERROR_RT_AICORE_EXCEPTION, "{name} holds {index}, outside [{low}, {limit})");
    }
    Ok((if index < 0 { index + limit as i64 } else { index }) as usize)
}

/// The positions that an index tensor holds, each checked.
pub(super) fn positions(launch: &Launch, index: &Tensor, limit: usize, negative: bool) -> Result<Vec<usize>> {
    index.load_i64(launch)?.into_iter().map(|value| checked(value, limit, negative, index.name)).collect()
}

/// Strides of a row-major tensor.
pub(super) fn row_major(shape: &[usize]) -> Vec<i64> {
    let mut strides = vec![1; shape.len()];
    for i in (1..shape.len()).rev() {
        strides[i - 1] = strides[i] * shape[i] as i64;
    }
    strides
}

/// For each element of a tensor of shape `index`, the row-major offset in a tensor of shape `shape` at the same
/// coordinates, with coordinate `dim` taken as 0.
pub(super) fn bases(like: &TensorMeta, index: &[usize], shape: &[usize], dim: usize) -> Vec<usize> {
    let mut strides = row_major(shape);
    if let Some(stride) = strides.get_mut(dim) {
        *stride = 0;
    }
    let mut offsets = Vec::with_capacity(index.iter().product());
    let meta = TensorMeta { shape: index.to_vec(), strides, offset: 0, ..like.clone() };
    meta.for_each_offset(|offset| offsets.push(offset));
    offsets
}

/// The kernel that reads whole rows of `self` along `dim`.
fn select(call: &mut Call, self_: Tensor, dim: i64, index: Tensor, out: Tensor) -> Result<Kernel> {
    at_most_8d(call, &[&self_, &index, &out])?;
    call.dtype_in(&index, INDICES)?;
    call.same_dtype(&out, &self_)?;
    let dim = self_.axis(dim)?;
    let (outer, rest) = self_.shape.split_at(dim);
    let (limit, inner) = rest.split_first().map_or((1, &[][..]), |(&limit, inner)| (limit, inner));
    call.shape_is(&out, &[outer, &index.shape, inner].concat())?;
    let (outer, inner): (usize, usize) = (outer.iter().product(), inner.iter().product());
    call.touches(&self_, out.count());
    Ok(Box::new(move |launch| {
        let positions = positions(launch, &index, limit, false)?;
        with_bits!(self_.dtype, T => {
            let rows = self_.bits().elements::<T>(launch)?;
            let mut values = Vec::with_capacity(out.count());
            for block in 0..outer {
                for &place in &positions {
                    let start = (block * limit + place) * inner;
                    values.extend_from_slice(&rows[start..start + inner]);
                }
            }
            out.bits().write(launch, &values)
        })
    }))
}

/// The rows of `self` along `dim` that a list of positions names.
pub fn index_select(call: &mut Call, self_: Tensor, dim: i64, index: Tensor, out: Tensor) -> Result<Kernel> {
    call.dtype_in(&self_, EVERY)?;
    call.rank_in(&index, 0..=1)?;
    // A position without dimensions counts as a list of one.
    let index = if index.rank() == 0 { index.unsqueezed_view(0) } else { index };
    if self_.rank() == 0 {
        let row = self_.unsqueezed_view(0);
        let out = if out.rank() == 0 { out.unsqueezed_view(0) } else { out };
        return select(call, row, dim, index, out);
    }
    select(call, self_, dim, index, out)
}

/// The rows of `self` along `dim` that a tensor of positions names, whose shape takes the dimension's place.
pub fn gather_v2(call: &mut Call, self_: Tensor, dim: i64, index: Tensor, out: Tensor) -> Result<Kernel> {
    call.dtype_in(&self_, COMMON)?;
    select(call, self_, dim, index, out)
}

/// The rows of a matrix that a tensor of positions names.
pub fn embedding(call: &mut Call, weight: Tensor, indices: Tensor, out: Tensor) -> Result<Kernel> {
    call.dtype_in(&weight, COMMON)?;
    call.rank_in(&weight, 2..=2)?;
    select(call, weight, 0, indices, out)
}

/// For each element of `index`, the element of `self` at the same coordinates except `dim`, which `index` gives.
pub fn gather(call: &mut Call, self_: Tensor, dim: i64, index: Tensor, out: Tensor) -> Result<Kernel> {
    at_most_8d(call, &[&self_, &index, &out])?;
    call.dtype_in(&self_, EVERY)?;
    call.dtype_in(&index, INDICES)?;
    call.same_dtype(&out, &self_)?;
    call.shape_is(&out, &index.shape)?;
    call.rank_in(&index, self_.rank()..=self_.rank())?;
    let dim = self_.axis(dim)?;
    if (0..self_.rank()).any(|i| i != dim && index.shape[i] > self_.shape[i]) {
        return call.invalid(format!("index has shape {:?}, larger than self, {:?}", index.shape, self_.shape));
    }
    let (limit, stride) =
        (self_.shape.get(dim).copied().unwrap_or(1), row_major(&self_.shape).get(dim).copied().unwrap_or(1));
    call.touches(&self_, out.count());
    Ok(Box::new(move |launch| {
        let places = positions(launch, &index, limit, true)?;
        let bases = bases(&self_, &index.shape, &self_.shape, dim);
        with_bits!(self_.dtype, T => {
            let elements = self_.bits().elements::<T>(launch)?;
            let values: Vec<T> =
                bases.iter().zip(places).map(|(base, place)| elements[base + place * stride as usize]).collect();
            out.bits().write(launch, &values)
        })
    }))
}

/// The elements of the flattened tensor at the given positions.
pub fn take(call: &mut Call, self_: Tensor, index: Tensor, out: Tensor) -> Result<Kernel> {
    at_most_8d(call, &[&self_, &index])?;
    call.dtype_in(&self_, EVERY)?;
    call.dtype_in(&index, INDICES)?;
    call.same_dtype(&out, &self_)?;
    call.shape_is(&out, &index.shape)?;
    call.touches(&self_, out.count());
    Ok(Box::new(move |launch| {
        let places = positions(launch, &index, self_.count(), false)?;
        with_bits!(self_.dtype, T => {
            let elements = self_.bits().elements::<T>(launch)?;
            out.bits().write(launch, &places.into_iter().map(|place| elements[place]).collect::<Vec<_>>())
        })
    }))
}

/// The slices of `self` at the coordinates that the last dimension of `indices` holds.
pub fn gather_nd(
    call: &mut Call,
    self_: Tensor,
    indices: Tensor,
    negative_index_support: bool,
    out: Tensor,
) -> Result<Kernel> {
    call.rank_in(&self_, 1..=8)?;
    call.rank_in(&indices, 1..=8)?;
    call.dtype_in(&self_, &[I64, I32, I8, U8, Bool, F32, F16, BF16])?;
    call.dtype_in(&indices, INDICES)?;
    call.same_dtype(&out, &self_)?;
    let depth = coordinates(call, &indices, &self_)?;
    call.shape_is(&out, &[&indices.shape[..indices.rank() - 1], &self_.shape[depth..]].concat())?;
    let inner: usize = self_.shape[depth..].iter().product();
    call.touches(&self_, out.count());
    Ok(Box::new(move |launch| {
        let starts = slice_starts(launch, &indices, &self_.shape[..depth], negative_index_support)?;
        with_bits!(self_.dtype, T => {
            let elements = self_.bits().elements::<T>(launch)?;
            let values: Vec<T> = starts.iter().flat_map(|&start| &elements[start * inner..(start + 1) * inner]).copied().collect();
            out.bits().write(launch, &values)
        })
    }))
}

/// Number of coordinates that `indices` names, which `target` must have.
pub(super) fn coordinates(call: &Call, indices: &Tensor, target: &Tensor) -> Result<usize> {
    match indices.shape.last() {
        Some(&depth) if (1..=target.rank()).contains(&depth) => Ok(depth),
        _ => call.invalid(format!(
            "the last dimension of {} is {:?}, wanted 1 to {}",
            indices.name,
            indices.shape,
            target.rank()
        )),
    }
}

/// For each row of `indices`, the number of the slice that its coordinates name in row-major order.
pub(super) fn slice_starts(launch: &Launch, indices: &Tensor, shape: &[usize], negative: bool) -> Result<Vec<usize>> {
    indices
        .load_i64(launch)?
        .chunks(shape.len())
        .map(|row| {
            row.iter().zip(shape).try_fold(0, |start, (&value, &limit)| {
                Ok(start * limit + checked(value, limit, negative, indices.name)?)
            })
        })
        .collect()
}

/// How a list of index tensors addresses a tensor: which dimensions are indexed, in order, and which are taken whole.
pub(super) struct Addressing {
    /// Indexed dimensions first, the others behind.
    pub order: Vec<usize>,
    /// How many are indexed.
    pub indexed: usize,
    /// Where the indices' common dimensions stand in the result.
    pub place: usize,
}

/// Reads the list: an index tensor a dimension, a mask for as many dimensions as it has, an empty one for a whole
/// dimension.
pub(super) fn addressing(call: &Call, self_: &Tensor, indices: &[Tensor]) -> Result<Addressing> {
    let mut dim = 0;
    let mut indexed = Vec::new();
    for index in indices {
        call.dtype_in(index, &[I32, I64, Bool])?;
        let covers = if index.dtype == Bool { index.rank() } else { 1 };
        if dim + covers > self_.rank() {
            return call.invalid(format!("indices name more than the {} dimensions of {}", self_.rank(), self_.name));
        }
        if index.dtype == Bool && index.shape != self_.shape[dim..dim + covers] {
            return call.invalid(format!(
                "a mask has shape {:?}, wanted {:?}",
                index.shape,
                &self_.shape[dim..dim + covers]
            ));
        }
        if !whole(index) {
            indexed.extend(dim..dim + covers);
        }
        dim += covers;
    }
    let adjacent = indexed.windows(2).all(|pair| pair[1] == pair[0] + 1);
    let place = if adjacent { indexed.first().copied().unwrap_or(0) } else { 0 };
    let order = indexed.iter().copied().chain((0..self_.rank()).filter(|dim| !indexed.contains(dim))).collect();
    Ok(Addressing { order, indexed: indexed.len(), place })
}

/// Whether an index tensor stands for a whole dimension.
fn whole(index: &Tensor) -> bool {
    index.dtype != Bool && index.shape == [0]
}

impl Addressing {
    /// The common shape of the indices; masks count as lists whose length only the launch knows.
    pub(super) fn common_shape(&self, call: &Call, indices: &[Tensor]) -> Result<Option<Vec<usize>>> {
        if indices.iter().any(|index| index.dtype == Bool) {
            return Ok(None);
        }
        let used = indices.iter().filter(|index| !whole(index));
        used.map(|index| &index.shape).try_fold(Vec::new(), |shape, other| call.broadcast(&shape, other)).map(Some)
    }

    /// Shape of a result whose indices have the shape `common`.
    pub(super) fn result_shape(&self, self_: &Tensor, common: &[usize]) -> Vec<usize> {
        let rest: Vec<usize> = self.order[self.indexed..].iter().map(|&dim| self_.shape[dim]).collect();
        let place = self.place.min(rest.len());
        [&rest[..place], common, &rest[place..]].concat()
    }

    /// The result as a view with the indices' `common` dimensions first.
    pub(super) fn common_first(&self, result: &Tensor, common: usize) -> Tensor {
        let place = self.place.min(result.rank() - common);
        let order: Vec<usize> = (place..place + common).chain(0..place).chain(place + common..result.rank()).collect();
        result.permuted_view(&order)
    }

    /// For each entry of the indices, the number of the slice of the indexed dimensions that it names.
    pub(super) fn slices(
        &self,
        launch: &Launch,
        self_: &Tensor,
        indices: &[Tensor],
        common: Option<&[usize]>,
    ) -> Result<Vec<usize>> {
        let mut columns: Vec<Cow<'_, [i64]>> = Vec::new();
        for index in indices.iter().filter(|index| !whole(index)) {
            match (index.dtype, common) {
                (Bool, _) => columns.extend(nonzero_columns(launch, index)?.into_iter().map(Cow::Owned)),
                (_, Some(common)) => columns.push(Cow::Owned(index.broadcast_view(common).load_i64(launch)?)),
                _ => columns.push(Cow::Owned(index.load_i64(launch)?)),
            }
        }
        let count = columns.iter().map(|column| column.len()).max().unwrap_or(1);
        if let Some(column) = columns.iter().find(|column| ![1, count].contains(&column.len())) {
            fail!(ACL_ERROR_RT_AICORE_EXCEPTION, "indices of {} and {count} entries do not go together", column.len());
        }
        (0..count)
            .map(|i| {
                columns.iter().zip(&self.order).try_fold(0, |slice, (column, &dim)| {
                    let value = column[if column.len() == 1 { 0 } else { i }];
                    Ok(slice * self_.shape[dim] + checked(value, self_.shape[dim], true, "indices")?)
                })
            })
            .collect()
    }
}

/// Coordinates of the non-zero elements, one list a dimension.
pub(super) fn nonzero_columns(launch: &Launch, mask: &Tensor) -> Result<Vec<Vec<i64>>> {
    let set: Vec<usize> =
        mask.load_f64(launch)?.iter().enumerate().filter(|(_, value)| **value != 0.0).map(|(i, _)| i).collect();
    let strides = row_major(&mask.shape);
    Ok((0..mask.rank())
        .map(|dim| set.iter().map(|&i| (i / strides[dim] as usize % mask.shape[dim]) as i64).collect())
        .collect())
}

/// The elements of `self` at the given indices, as subscripting with tensors has them.
pub fn index(call: &mut Call, self_: Tensor, indices: TensorList, out: Tensor) -> Result<Kernel> {
    call.rank_in(&self_, 1..=8)?;
    call.dtype_in(&self_, COMMON)?;
    call.same_dtype(&out, &self_)?;
    let addressing = addressing(call, &self_, &indices)?;
    let common = addressing.common_shape(call, &indices)?;
    match &common {
        Some(common) => call.shape_is(&out, &addressing.result_shape(&self_, common))?,
        // How many elements the masks choose is only known later; that they become one dimension is known now.
        None => {
            let rank = 1 + self_.rank() - addressing.indexed;
            call.rank_in(&out, rank..=rank)?;
        }
    }
    let source = self_.permuted_view(&addressing.order);
    let inner: usize = source.shape[addressing.indexed..].iter().product();
    let target = addressing.common_first(&out, common.as_ref().map_or(1, Vec::len));
    call.touches(&self_, out.count());
    Ok(Box::new(move |launch| {
        let slices = addressing.slices(launch, &self_, &indices, common.as_deref())?;
        if slices.len() * inner != out.count() {
            fail!(
                ACL_ERROR_RT_AICORE_EXCEPTION,
                "out has {} elements, the masks choose {}",
                out.count(),
                slices.len() * inner
            );
        }
        with_bits!(self_.dtype, T => {
            let elements = source.bits().elements::<T>(launch)?;
            let values: Vec<T> = slices.iter().flat_map(|&i| &elements[i * inner..(i + 1) * inner]).copied().collect();
            target.bits().write(launch, &values)
        })
    }))
}

/// Coordinates of the non-zero elements, a row each; `out` has room for all elements and takes the shape `[n, rank]`.
pub fn nonzero(call: &mut Call, self_: Tensor, out: Tensor) -> Result<Kernel> {
    nonzero_into(call, self_, out, false)
}

/// Coordinates of the non-zero elements, a column each; `out` takes the shape `[rank, n]`.
pub fn nonzero_v2(call: &mut Call, self_: Tensor, out: Tensor) -> Result<Kernel> {
    nonzero_into(call, self_, out, true)
}

fn nonzero_into(call: &Call, self_: Tensor, out: Tensor, columns_first: bool) -> Result<Kernel> {
    at_most_8d(call, &[&self_])?;
    call.dtype_in(&self_, COMMON)?;
    call.dtype_in(&out, &[I64])?;
    let shape = if columns_first { [self_.rank(), self_.count()] } else { [self_.count(), self_.rank()] };
    call.shape_is(&out, &shape)?;
    Ok(Box::new(move |launch| {
        let columns = nonzero_columns(launch, &self_)?;
        let count = columns.first().map_or(0, Vec::len);
        let (shape, values): (_, Vec<i64>) = match columns_first {
            true => (vec![columns.len(), count], columns.concat()),
            false => (vec![count, columns.len()], (0..count).flat_map(|i| columns.iter().map(move |c| c[i])).collect()),
        };
        out.resized(shape)?.write(launch, &values)
    }))
}
