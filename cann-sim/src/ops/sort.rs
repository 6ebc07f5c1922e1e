//! Sorting, selection by rank, distinct values and search. NaN ranks above every number.

use super::types::*;
use super::wide::{Wide, tabulate_rows, with_wide};
use crate::aclnn::{Call, Kernel, Scalar, Tensor};
use crate::dtype::DType;
use crate::dtype::DType::*;
use crate::status::Result;
use std::cmp::Ordering;

/// The first `k` of each row by rank: the elements' positions, in order. Equal elements keep their order.
fn ranked<W: Wide>(row: &[W], k: usize, descending: bool) -> Vec<usize> {
    let compare = |&a: &usize, &b: &usize| {
        let order = row[a].order(&row[b]);
        (if descending { order.reverse() } else { order }).then(a.cmp(&b))
    };
    let mut places: Vec<usize> = (0..row.len()).collect();
    if k < places.len() {
        if k > 0 {
            places.select_nth_unstable_by(k - 1, compare);
        }
        places.truncate(k);
    }
    places.sort_unstable_by(compare);
    places
}

/// The kernel that keeps the first `k` of each row along `dim`, writing values (where asked for) and positions.
fn rank_rows(
    x: &Tensor,
    dim: usize,
    k: usize,
    descending: bool,
    values_out: Option<Tensor>,
    indices_out: Tensor,
) -> Kernel {
    let view = x.axis_last_view(dim);
    let inner = view.shape[view.rank() - 1];
    let values_out = values_out.map(|out| out.axis_last_view(dim));
    let indices_out = indices_out.axis_last_view(dim);
    Box::new(move |launch| {
        with_wide!(view.dtype, W => {
            let values = W::load(&view, launch)?;
            let rows = values.len() / inner.max(1);
            let row = |i: usize| &values[i * inner..(i + 1) * inner];
            let places = tabulate_rows(rows, inner, &|i| ranked(row(i), k, descending));
            if let Some(out) = &values_out {
                let chosen: Vec<W> = places.iter().enumerate().flat_map(|(i, p)| p.iter().map(move |&at| row(i)[at])).collect();
                W::store(out, launch, &chosen)?;
            }
            indices_out.store_i64(launch, &places.iter().flatten().map(|&at| at as i64).collect::<Vec<_>>())
        })
    })
}

/// What sorts take on A2 and A3.
const SORTED: &[DType] = &[BF16, F16, F32, I8, I16, I32, I64, U8, Bool];

/// Checks of a sort along `dim`.
fn sort_dim(call: &Call, self_: &Tensor, dim: i64, indices: &Tensor) -> Result<usize> {
    at_most_8d(call, &[self_])?;
    call.dtype_in(self_, SORTED)?;
    call.dtype_in(indices, &[I64])?;
    call.shape_is(indices, &self_.shape)?;
    self_.axis(dim)
}

/// The elements in order along `dim`, and where each was. Always stable, whether asked for or not.
pub fn sort(
    call: &mut Call,
    self_: Tensor,
    _stable: bool,
    dim: i64,
    descending: bool,
    values_out: Tensor,
    indices_out: Tensor,
) -> Result<Kernel> {
    let dim = sort_dim(call, &self_, dim, &indices_out)?;
    call.same_dtype(&values_out, &self_)?;
    call.shape_is(&values_out, &self_.shape)?;
    let size = self_.shape.get(dim).copied().unwrap_or(1);
    Ok(rank_rows(&self_, dim, size, descending, Some(values_out), indices_out))
}

/// Where the elements in order along `dim` were.
pub fn argsort(call: &mut Call, self_: Tensor, dim: i64, descending: bool, out: Tensor) -> Result<Kernel> {
    let dim = sort_dim(call, &self_, dim, &out)?;
    let size = self_.shape.get(dim).copied().unwrap_or(1);
    Ok(rank_rows(&self_, dim, size, descending, None, out))
}

/// The shape of `self` with `size` elements along `dim`.
fn resized(self_: &Tensor, dim: usize, size: usize) -> Vec<usize> {
    let mut shape = self_.shape.clone();
    if let Some(slot) = shape.get_mut(dim) {
        *slot = size;
    }
    shape
}

/// The `k` largest or smallest elements along `dim`, in order, and where each was.
#[allow(clippy::too_many_arguments)]
pub fn topk(
    call: &mut Call,
    self_: Tensor,
    k: i64,
    dim: i64,
    largest: bool,
    sorted: bool,
    values_out: Tensor,
    indices_out: Tensor,
) -> Result<Kernel> {
    call.rank_in(&self_, 0..=8)?;
    call.dtype_in(&self_, NUMBERS)?;
    call.same_dtype(&values_out, &self_)?;
    call.dtype_in(&indices_out, &[I64])?;
    let dim = self_.axis(dim)?;
    let size = self_.shape.get(dim).copied().unwrap_or(1);
    if k < 0 || k as usize > size {
        return call.invalid(format!("k is {k}, wanted 0 to {size}"));
    }
    if !sorted {
        return call.invalid("sorted is false; the operator takes only true");
    }
    let shape = resized(&self_, dim, k as usize);
    call.shape_is(&values_out, &shape)?;
    call.shape_is(&indices_out, &shape)?;
    Ok(rank_rows(&self_, dim, k as usize, largest, Some(values_out), indices_out))
}

/// The `k`-th smallest element (counted from 1) along `dim`, and where it was.
pub fn kthvalue(
    call: &mut Call,
    self_: Tensor,
    k: i64,
    dim: i64,
    keepdim: bool,
    values_out: Tensor,
    indices_out: Tensor,
) -> Result<Kernel> {
    call.rank_in(&self_, 0..=8)?;
    call.dtype_in(&self_, &[BF16, F16, F32, I8, I16, I32, I64, U8])?;
    call.same_dtype(&values_out, &self_)?;
    call.dtype_in(&indices_out, &[I64])?;
    let dim = self_.axis(dim)?;
    let size = self_.shape.get(dim).copied().unwrap_or(1);
    if k < 1 || k as usize > size {
        return call.invalid(format!("k is {k}, wanted 1 to {size}"));
    }
    let mut shape = resized(&self_, dim, 1);
    if !keepdim && self_.rank() > 0 {
        shape.remove(dim);
    }
    call.shape_is(&values_out, &shape)?;
    call.shape_is(&indices_out, &shape)?;
    let view = self_.axis_last_view(dim);
    Ok(Box::new(move |launch| {
        with_wide!(view.dtype, W => {
            let values = W::load(&view, launch)?;
            let places: Vec<usize> = values.chunks(size).map(|row| ranked(row, k as usize, false)[k as usize - 1]).collect();
            let chosen: Vec<W> = places.iter().zip(values.chunks(size)).map(|(&at, row)| row[at]).collect();
            W::store(&values_out, launch, &chosen)?;
            indices_out.store_i64(launch, &places.iter().map(|&at| at as i64).collect::<Vec<_>>())
        })
    }))
}

/// Distinct values of neighbouring elements: the values, each element's value number, and how many each stands for.
fn runs<W: Wide>(values: &[W]) -> (Vec<W>, Vec<i64>, Vec<i64>) {
    let (mut distinct, mut numbers, mut counts): (Vec<W>, Vec<i64>, Vec<i64>) = Default::default();
    for &value in values {
        match distinct.last() {
            Some(last) if *last == value => counts[distinct.len() - 1] += 1,
            _ => {
                distinct.push(value);
                counts.push(1);
            }
        }
        numbers.push(distinct.len() as i64 - 1);
    }
    (distinct, numbers, counts)
}

/// The distinct values in ascending order; `value_out` and `counts_out` take the shape that there are.
#[allow(clippy::too_many_arguments)]
pub fn unique2(
    call: &mut Call,
    self_: Tensor,
    _sorted: bool,
    return_inverse: bool,
    return_counts: bool,
    value_out: Tensor,
    inverse_out: Tensor,
    counts_out: Tensor,
) -> Result<Kernel> {
    at_most_8d(call, &[&self_])?;
    call.dtype_in(&self_, COMMON)?;
    call.same_dtype(&value_out, &self_)?;
    if !self_.is_contiguous() {
        return call.invalid("self is not contiguous");
    }
    call.shape_is(&value_out, &[self_.count()])?;
    if return_inverse || return_counts {
        call.dtype_in(&inverse_out, &[I64])?;
        call.shape_is(&inverse_out, &self_.shape)?;
    }
    if return_counts {
        call.dtype_in(&counts_out, &[I64])?;
        call.shape_is(&counts_out, &[self_.count()])?;
    }
    Ok(Box::new(move |launch| {
        with_wide!(self_.dtype, W => {
            let values = W::load(&self_, launch)?;
            let places = ranked(&values, values.len(), false);
            let sorted: Vec<W> = places.iter().map(|&at| values[at]).collect();
            let (distinct, numbers, counts) = runs(&sorted);
            W::store(&value_out.resized(vec![distinct.len()])?, launch, &distinct)?;
            if return_inverse || return_counts {
                let mut inverse = vec![0; values.len()];
                places.iter().zip(numbers).for_each(|(&at, number)| inverse[at] = number);
                inverse_out.store_i64(launch, &inverse)?;
            }
            if return_counts {
                counts_out.resized(vec![counts.len()])?.store_i64(launch, &counts)?;
            }
            Ok(())
        })
    }))
}

/// The value of `dim` that asks for a flattened tensor.
const FLATTENED: i64 = 1000;

/// Repeated neighbours dropped; only over the flattened tensor, or along the dimension of a list.
#[allow(clippy::too_many_arguments)]
pub fn unique_consecutive(
    call: &mut Call,
    self_: Tensor,
    return_inverse: bool,
    return_counts: bool,
    dim: i64,
    value_out: Tensor,
    inverse_out: Tensor,
    counts_out: Tensor,
) -> Result<Kernel> {
    at_most_8d(call, &[&self_])?;
    call.dtype_in(&self_, COMMON)?;
    call.same_dtype(&value_out, &self_)?;
    if dim != FLATTENED && self_.rank() > 1 {
        return call
            .invalid(format!("dim is {dim}; the simulated CANN drops repeated neighbours only with dim {FLATTENED}"));
    }
    if return_inverse || return_counts {
        call.dtype_in(&inverse_out, INDICES)?;
        call.same_dtype(&counts_out, &inverse_out)?;
    }
    if return_inverse {
        call.shape_is(&inverse_out, &self_.shape)?;
    }
    Ok(Box::new(move |launch| {
        with_wide!(self_.dtype, W => {
            let (distinct, numbers, counts) = runs(&W::load(&self_, launch)?);
            W::store(&value_out.resized(vec![distinct.len()])?, launch, &distinct)?;
            if return_inverse {
                inverse_out.store_i64(launch, &numbers)?;
            }
            if return_counts {
                counts_out.resized(vec![counts.len()])?.store_i64(launch, &counts)?;
            }
            Ok(())
        })
    }))
}

/// Where a number goes in a sorted list: before its equals, or behind them where `right`.
#[allow(clippy::too_many_arguments)]
pub fn search_sorteds(
    call: &mut Call,
    sorted_sequence: Tensor,
    self_: Scalar,
    out_int32: bool,
    right: bool,
    sorter: Option<Tensor>,
    out: Tensor,
) -> Result<Kernel> {
    call.rank_in(&sorted_sequence, 1..=1)?;
    call.dtype_in(&sorted_sequence, &[F64, F32, F16, U8, I8, I16, I32, I64])?;
    let dtype = promote_scalar(call, &sorted_sequence, self_.dtype)?;
    call.dtype_in(&out, if out_int32 { &[I32] } else { &[I64] })?;
    if out.count() != 1 {
        return call.invalid(format!("out has shape {:?}, wanted [1]", out.shape));
    }
    if let Some(sorter) = &sorter {
        call.dtype_in(sorter, &[I64])?;
        call.shape_is(sorter, &sorted_sequence.shape)?;
    }
    Ok(Box::new(move |launch| {
        let places = match &sorter {
            Some(sorter) => super::index::positions(launch, sorter, sorted_sequence.count(), false)?,
            None => (0..sorted_sequence.count()).collect(),
        };
        let place = with_wide!(dtype, W => {
            let (values, wanted) = (W::load(&sorted_sequence, launch)?, W::of(&self_));
            places.partition_point(|&at| match values[at].order(&wanted) {
                Ordering::Less => true,
                Ordering::Equal => right,
                Ordering::Greater => false,
            })
        });
        out.store_i64(launch, &[place as i64])
    }))
}
