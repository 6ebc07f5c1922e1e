//! Writing elements and rows by index.

use super::index::{bases, checked, coordinates, positions, row_major, slice_starts};
use super::types::*;
use super::views::{copy, element, with_bits};
use super::wide::{Wide, with_wide};
use crate::aclnn::{Call, Kernel, Launch, Scalar, Tensor};
use crate::dtype::DType::*;
use crate::status::Result;
use crate::with_element;

/// What a value written by index does to the one that is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reduce {
    Replace,
    Add,
    Multiply,
}

/// The kernel that writes `src` to the elements of `self` that `index` names along `dim`, into `out`.
fn scatter_with(
    call: &Call,
    self_: Tensor,
    dim: i64,
    index: Tensor,
    src: Tensor,
    reduce: Reduce,
    out: Tensor,
) -> Result<Kernel> {
    at_most_8d(call, &[&self_])?;
    call.dtype_in(&self_, COMMON)?;
    call.dtype_in(&index, INDICES)?;
    call.same_dtype(&src, &self_)?;
    call.same_dtype(&out, &self_)?;
    call.shape_is(&out, &self_.shape)?;
    [&index, &src].into_iter().try_for_each(|tensor| call.rank_in(tensor, self_.rank()..=self_.rank()))?;
    let dim = self_.axis(dim)?;
    for i in 0..self_.rank() {
        if index.shape[i] > src.shape[i] || (i != dim && index.shape[i] > self_.shape[i]) {
            return call.invalid(format!(
                "index has shape {:?}, which does not fit src {:?} and self {:?}",
                index.shape, src.shape, self_.shape
            ));
        }
    }
    let limit = self_.shape.get(dim).copied().unwrap_or(1);
    let stride = row_major(&self_.shape).get(dim).copied().unwrap_or(1) as usize;
    let src = src.reviewed(index.shape.clone(), src.strides.clone(), src.offset);
    Ok(Box::new(move |launch| {
        let places = positions(launch, &index, limit, false)?;
        let bases = bases(&self_, &index.shape, &self_.shape, dim);
        let targets = bases.iter().zip(places).map(|(base, place)| base + place * stride);
        with_wide!(self_.dtype, W => {
            let mut values = W::load(&self_, launch)?;
            for (target, value) in targets.zip(W::load(&src, launch)?) {
                values[target] = match reduce {
                    Reduce::Replace => value,
                    Reduce::Add => values[target].plus(value),
                    Reduce::Multiply => values[target].times(value),
                };
            }
            W::store(&out, launch, &values)
        })
    }))
}

/// Writes `src` at `index` along `dim`: `reduce` 0 replaces, 1 adds, 2 multiplies.
pub fn scatter(
    call: &mut Call,
    self_: Tensor,
    dim: i64,
    index: Tensor,
    src: Tensor,
    reduce: i64,
    out: Tensor,
) -> Result<Kernel> {
    let reduce = match reduce {
        0 => Reduce::Replace,
        1 => Reduce::Add,
        2 => Reduce::Multiply,
        other => return call.invalid(format!("reduce is {other}, wanted 0 (none), 1 (add) or 2 (mul)")),
    };
    scatter_with(call, self_, dim, index, src, reduce, out)
}

/// [`scatter`] in place.
pub fn inplace_scatter(
    call: &mut Call,
    self_ref: Tensor,
    dim: i64,
    index: Tensor,
    src: Tensor,
    reduce: i64,
) -> Result<Kernel> {
    scatter(call, self_ref.clone(), dim, index, src, reduce, self_ref)
}

/// Adds `src` at `index` along `dim`.
pub fn scatter_add(
    call: &mut Call,
    self_: Tensor,
    dim: i64,
    index: Tensor,
    src: Tensor,
    out: Tensor,
) -> Result<Kernel> {
    scatter_with(call, self_, dim, index, src, Reduce::Add, out)
}

/// Checks of operators that write rows of `source` to the rows of `self` that `index` names.
fn check_rows(call: &Call, self_: &Tensor, dim: i64, index: &Tensor, source: &Tensor, out: &Tensor) -> Result<usize> {
    at_most_8d(call, &[self_])?;
    call.dtype_in(self_, COMMON)?;
    call.dtype_in(index, INDICES)?;
    call.rank_in(index, 0..=1)?;
    call.same_dtype(source, self_)?;
    call.same_dtype(out, self_)?;
    call.shape_is(out, &self_.shape)?;
    call.rank_in(source, self_.rank()..=self_.rank())?;
    let dim = self_.axis(dim)?;
    let mut wanted = self_.shape.clone();
    if let Some(size) = wanted.get_mut(dim) {
        *size = index.count();
    }
    call.shape_is(source, &wanted)?;
    Ok(dim)
}

/// Adds `alpha` times the rows of `source` to the rows of `self` that `index` names.
pub fn index_add(
    call: &mut Call,
    self_: Tensor,
    dim: i64,
    index: Tensor,
    source: Tensor,
    alpha: Scalar,
    out: Tensor,
) -> Result<Kernel> {
    let dim = check_rows(call, &self_, dim, &index, &source, &out)?;
    check_castable(call, alpha.dtype, &self_)?;
    let limit = self_.shape.get(dim).copied().unwrap_or(1);
    let inner: usize = self_.shape.iter().skip(dim + 1).product();
    Ok(Box::new(move |launch| {
        let places = positions(launch, &index, limit, false)?;
        with_wide!(self_.dtype, W => {
            let alpha = W::of(&alpha);
            let mut values = W::load(&self_, launch)?;
            let rows = W::load(&source, launch)?;
            for (i, row) in rows.chunks(inner.max(1)).enumerate() {
                let start = (i / places.len() * limit + places[i % places.len()]) * inner;
                values[start..start + inner].iter_mut().zip(row).for_each(|(sum, &value)| *sum = sum.plus(alpha.times(value)));
            }
            W::store(&out, launch, &values)
        })
    }))
}

/// As [`index_add`]; `mode` 0 is the fast path of matrices, with limits of its own, and leaves `alpha` out.
#[allow(clippy::too_many_arguments)]
pub fn index_add_v2(
    call: &mut Call,
    self_: Tensor,
    dim: i64,
    index: Tensor,
    source: Tensor,
    alpha: Scalar,
    mode: i64,
    out: Tensor,
) -> Result<Kernel> {
    call.rank_in(&index, 1..=1)?;
    match mode {
        0 if ![0, -2].contains(&dim) || self_.rank() != 2 => call.invalid(format!(
            "mode 0 adds rows of a matrix along dimension 0, not dimension {dim} of {:?}",
            self_.shape
        )),
        0 => {
            call.dtype_in(&self_, &[F32, F16, I32, I16, BF16])?;
            let alpha = Scalar { float: 1.0, int: 1, ..alpha };
            index_add(call, self_, dim, index, source, alpha, out)
        }
        _ => index_add(call, self_, dim, index, source, alpha, out),
    }
}

/// `self` with the rows that `index` names replaced by the rows of `source`.
pub fn index_copy(
    call: &mut Call,
    self_ref: Tensor,
    dim: i64,
    index: Tensor,
    source: Tensor,
    out_ref: Tensor,
) -> Result<Kernel> {
    let dim = check_rows(call, &self_ref, dim, &index, &source, &out_ref)?;
    let [base, rows, target] =
        [&self_ref, &source, &out_ref].map(|t| if t.rank() == 0 { t.unsqueezed_view(0) } else { t.clone() });
    let in_place = self_ref.slot == out_ref.slot;
    if in_place {
        call.touches(&self_ref, source.count());
    }
    Ok(Box::new(move |launch| {
        if !in_place {
            copy(launch, &base, &target)?;
        }
        let places = positions(launch, &index, target.shape[dim], false)?;
        places.iter().enumerate().try_for_each(|(i, &place)| {
            copy(launch, &rows.sliced_view(dim, i, 1, 1), &target.sliced_view(dim, place, 1, 1))
        })
    }))
}

/// [`index_copy`] in place.
pub fn inplace_index_copy(
    call: &mut Call,
    self_ref: Tensor,
    dim: i64,
    index: Tensor,
    source: Tensor,
) -> Result<Kernel> {
    index_copy(call, self_ref.clone(), dim, index, source, self_ref)
}

/// `self` with the rows at the given positions along `dim` set to `value`.
pub fn index_fill_tensor(
    call: &mut Call,
    self_: Tensor,
    dim: i64,
    index: Vec<i64>,
    value: Scalar,
    out: Tensor,
) -> Result<Kernel> {
    at_most_8d(call, &[&self_])?;
    call.dtype_in(&self_, &[F16, F32, I32, I64, Bool, BF16])?;
    call.same_dtype(&out, &self_)?;
    call.shape_is(&out, &self_.shape)?;
    check_castable(call, value.dtype, &self_)?;
    let dim = self_.axis(dim)?;
    let [base, target] = [&self_, &out].map(|t| if t.rank() == 0 { t.unsqueezed_view(0) } else { t.clone() });
    let size = target.shape[dim] as i64;
    if let Some(place) = index.iter().find(|&&place| place >= size || place < -size) {
        return call.invalid(format!("index holds {place}, outside [{}, {size})", -size));
    }
    Ok(Box::new(move |launch| {
        copy(launch, &base, &target)?;
        with_element!(target.dtype, T => {
            let value = element::<T>(value.float, value.int);
            index.iter().try_for_each(|&place| {
                let row = target.sliced_view(dim, place.rem_euclid(size) as usize, 1, 1);
                row.write(launch, &vec![value; row.count()])
            })
        })
    }))
}

/// Writes `updates` into `data`: batch `i` at position `indices[i]` of `axis`; with two columns of indices, the first
/// names the batch.
pub fn inplace_scatter_update(
    call: &mut Call,
    data: Tensor,
    indices: Tensor,
    updates: Tensor,
    axis: i64,
) -> Result<Kernel> {
    call.rank_in(&data, 2..=8)?;
    call.rank_in(&updates, data.rank()..=data.rank())?;
    call.rank_in(&indices, 0..=2)?;
    call.dtype_in(&data, &[I8, U8, F16, F32, I32, BF16])?;
    call.same_dtype(&updates, &data)?;
    call.dtype_in(&indices, INDICES)?;
    let dim = data.axis(axis)?;
    if dim == 0 {
        return call.invalid("axis is 0, the batch");
    }
    let paired = indices.rank() == 2;
    if paired && indices.shape[1] != 2 {
        return call.invalid(format!("indices has shape {:?}, wanted two columns", indices.shape));
    }
    let batches = indices.shape.first().copied().unwrap_or(1);
    if [&data, &indices, &updates].iter().any(|tensor| tensor.count() == 0) {
        return call.invalid("data, indices or updates is empty");
    }
    if updates.shape[0] != batches || batches > data.shape[0] {
        return call
            .invalid(format!("updates has {} batches, indices {batches}, data {}", updates.shape[0], data.shape[0]));
    }
    if (1..data.rank())
        .any(|i| if i == dim { updates.shape[i] > data.shape[i] } else { updates.shape[i] != data.shape[i] })
    {
        return call
            .invalid(format!("updates has shape {:?}, which does not fit data {:?}", updates.shape, data.shape));
    }
    call.touches(&data, updates.count());
    Ok(Box::new(move |launch| {
        let (length, places) = (updates.shape[dim], indices.load_i64(launch)?);
        for i in 0..batches {
            let (batch, place) = if paired { (places[2 * i], places[2 * i + 1]) } else { (i as i64, places[i]) };
            let batch = checked(batch, data.shape[0], false, "indices")?;
            let place = checked(place, data.shape[dim] - length + 1, false, "indices")?;
            let target = data.sliced_view(0, batch, 1, 1).sliced_view(dim, place, length, 1);
            copy(launch, &updates.sliced_view(0, i, 1, 1), &target)?;
        }
        Ok(())
    }))
}

/// The kernel that replaces the slices of `target` at the coordinates in the last dimension of `indices`.
fn scatter_slices(
    call: &Call,
    target: Tensor,
    indices: Tensor,
    updates: Tensor,
    before: impl Fn(&Launch) -> Result<()> + Send + Sync + 'static,
) -> Result<Kernel> {
    call.rank_in(&target, 1..=8)?;
    call.rank_in(&indices, 1..=8)?;
    call.dtype_in(&indices, INDICES)?;
    call.same_dtype(&updates, &target)?;
    let depth = coordinates(call, &indices, &target)?;
    call.shape_is(&updates, &[&indices.shape[..indices.rank() - 1], &target.shape[depth..]].concat())?;
    let inner: usize = target.shape[depth..].iter().product();
    Ok(Box::new(move |launch| {
        before(launch)?;
        let starts = slice_starts(launch, &indices, &target.shape[..depth], false)?;
        with_bits!(target.dtype, T => {
            let mut values = target.bits().read::<T>(launch)?;
            let rows = updates.bits().read::<T>(launch)?;
            for (row, start) in rows.chunks(inner.max(1)).zip(starts) {
                values[start * inner..(start + 1) * inner].copy_from_slice(row);
            }
            target.bits().write(launch, &values)
        })
    }))
}

/// `data` with slices replaced by `updates`.
pub fn scatter_nd(call: &mut Call, data: Tensor, indices: Tensor, updates: Tensor, out: Tensor) -> Result<Kernel> {
    call.dtype_in(&data, &[F16, F32, Bool, BF16])?;
    call.same_dtype(&out, &data)?;
    call.shape_is(&out, &data.shape)?;
    let target = out.clone();
    scatter_slices(call, out, indices, updates, move |launch| copy(launch, &data, &target))
}

/// Replaces slices of `var_ref` by `updates`.
pub fn scatter_nd_update(call: &mut Call, var_ref: Tensor, indices: Tensor, updates: Tensor) -> Result<Kernel> {
    call.dtype_in(&var_ref, &[F16, BF16, F32, I64, Bool, I8])?;
    call.touches(&var_ref, updates.count());
    scatter_slices(call, var_ref, indices, updates, |_| Ok(()))
}
