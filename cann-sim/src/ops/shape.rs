//! Operators that only move elements: each reads one view and writes another.

use super::types::*;
use super::views::{copy, element, with_bits};
use super::wide::{load_as, store_as, with_wide};
use crate::aclnn::{Call, Kernel, Launch, Scalar, Tensor, TensorList};
use crate::dtype::DType;
use crate::dtype::DType::*;
use crate::status::Result;
use crate::with_element;

/// Checks of an operator that moves elements: their type stays.
fn moves(call: &Call, self_: &Tensor, out: &Tensor, types: &[DType]) -> Result<()> {
    at_most_8d(call, &[self_, out])?;
    call.dtype_in(self_, types)?;
    call.same_dtype(out, self_)
}

/// The kernel that copies one view into another.
fn moved(from: Tensor, to: Tensor) -> Kernel {
    Box::new(move |launch| copy(launch, &from, &to))
}

/// The dimensions of `self` in the order `dims`.
pub fn permute(call: &mut Call, self_: Tensor, dims: Vec<i64>, out: Tensor) -> Result<Kernel> {
    moves(call, &self_, &out, EVERY)?;
    let order = dims.iter().map(|&dim| self_.axis(dim)).collect::<Result<Vec<_>>>()?;
    let mut sorted = order.clone();
    sorted.sort_unstable();
    if sorted != (0..self_.rank()).collect::<Vec<_>>() {
        return call.invalid(format!("dims {dims:?} is no order of {} dimensions", self_.rank()));
    }
    let view = self_.permuted_view(&order);
    call.shape_is(&out, &view.shape)?;
    call.touches(&self_, out.count());
    Ok(moved(view, out))
}

/// Joins views along `dim`, converting through the type that they promote to.
fn join(call: &Call, parts: Vec<Tensor>, dim: usize, out: Tensor) -> Result<Kernel> {
    call.dtype_in(&out, COMMON)?;
    let dtype = promote_all(call, &parts.iter().collect::<Vec<_>>())?;
    check_castable(call, dtype, &out)?;
    let mut shape = parts[0].shape.clone();
    shape[dim] = 0;
    for part in &parts {
        let length = part.shape.get(dim).copied().unwrap_or(0);
        let mut wanted = shape.clone();
        wanted[dim] = length;
        call.dtype_in(part, COMMON)?;
        call.shape_is(part, &wanted).map_err(|_| mismatch(call, &parts, dim))?;
        shape[dim] += length;
    }
    call.shape_is(&out, &shape)?;
    let mut start = 0;
    let targets: Vec<Tensor> = parts
        .iter()
        .map(|part| {
            let target = out.sliced_view(dim, start, part.shape[dim], 1);
            start += part.shape[dim];
            target
        })
        .collect();
    Ok(Box::new(move |launch| {
        parts.iter().zip(&targets).try_for_each(|(from, to)| {
            if from.dtype == to.dtype || to.dtype == dtype {
                return copy(launch, from, to);
            }
            with_wide!(dtype, W => store_as(to, launch, dtype, load_as::<W>(from, launch, dtype)?))
        })
    }))
}

/// Why tensors cannot be joined.
fn mismatch(call: &Call, parts: &[Tensor], dim: usize) -> crate::status::Status {
    let shapes: Vec<_> = parts.iter().map(|part| &part.shape).collect();
    let text = format!("{}: shapes {shapes:?} differ outside dimension {dim}", call.op);
    crate::status::Status::new(acl_sys::error::ACLNN_ERR_PARAM_INVALID, text)
}

/// The tensors one after another along an existing dimension.
pub fn cat(call: &mut Call, tensors: TensorList, dim: i64, out: Tensor) -> Result<Kernel> {
    tensors.iter().try_for_each(|tensor| call.rank_in(tensor, 1..=8))?;
    match tensors.first() {
        Some(first) => {
            let dim = first.axis(dim)?;
            join(call, tensors, dim, out)
        }
        None => call.invalid("tensors is empty"),
    }
}

/// The tensors side by side along a new dimension.
pub fn stack(call: &mut Call, tensors: TensorList, dim: i64, out: Tensor) -> Result<Kernel> {
    tensors.iter().try_for_each(|tensor| call.rank_in(tensor, 0..=7))?;
    match tensors.first() {
        Some(first) => {
            let dim = crate::aclnn::tensor::axis(dim, first.rank() + 1)?;
            if tensors.iter().any(|tensor| tensor.shape != first.shape) {
                return Err(mismatch(call, &tensors, dim));
            }
            join(call, tensors.iter().map(|tensor| tensor.unsqueezed_view(dim)).collect(), dim, out)
        }
        None => call.invalid("tensors is empty"),
    }
}

/// The kernel that cuts `self` along `dim` into pieces of the given lengths.
fn split(call: &Call, self_: Tensor, lengths: Vec<usize>, dim: usize, out: TensorList) -> Result<Kernel> {
    if lengths.len() != out.len() {
        return call.invalid(format!("out has {} tensors, wanted {}", out.len(), lengths.len()));
    }
    let mut start = 0;
    let mut pieces = Vec::new();
    for (piece, &length) in out.into_iter().zip(&lengths) {
        let view = self_.sliced_view(dim, start, length, 1);
        call.dtype_in(&piece, EVERY)?;
        check_castable(call, self_.dtype, &piece)?;
        call.shape_is(&piece, &view.shape)?;
        pieces.push((view, piece));
        start += length;
    }
    Ok(Box::new(move |launch| pieces.iter().try_for_each(|(view, piece)| copy(launch, view, piece))))
}

/// Pieces of `split_sections` along `dim`, the last as long as is left.
pub fn split_tensor(call: &mut Call, self_: Tensor, split_sections: u64, dim: i64, out: TensorList) -> Result<Kernel> {
    call.rank_in(&self_, 1..=8)?;
    call.dtype_in(&self_, EVERY)?;
    let dim = self_.axis(dim)?;
    let (size, section) = (self_.shape[dim], split_sections as usize);
    if (size == 0) != (section == 0) {
        return call.invalid(format!("split_sections is {section} and dimension {dim} has {size} elements"));
    }
    let lengths = (0..size.max(1)).step_by(section.max(1)).map(|start| section.min(size - start)).collect();
    split(call, self_, lengths, dim, out)
}

/// Pieces of the given lengths along `dim`.
pub fn split_with_size(
    call: &mut Call,
    self_: Tensor,
    split_size: Vec<i64>,
    dim: i64,
    out: TensorList,
) -> Result<Kernel> {
    call.rank_in(&self_, 1..=8)?;
    call.dtype_in(&self_, EVERY)?;
    let dim = self_.axis(dim)?;
    if split_size.iter().any(|&size| size < 0) || split_size.iter().sum::<i64>() != self_.shape[dim] as i64 {
        return call.invalid(format!("split_size {split_size:?} does not add up to {}", self_.shape[dim]));
    }
    split(call, self_, split_size.into_iter().map(|size| size as usize).collect(), dim, out)
}

/// What slices take.
const SLICED: &[DType] = &[F32, F16, BF16, I32, I64, I8, U8, Bool];

/// First element and element count of a slice of a dimension of `size`, by the page's formula.
fn slice_range(size: usize, start: i64, end: i64, step: i64) -> (usize, usize) {
    let n = size as i64;
    if n == 0 {
        return (0, 0);
    }
    let start = if start == n { 0 } else { (start + n).rem_euclid(n) };
    let end = match end {
        end if end >= n => n,
        end if end < -n => start,
        end => start.max((end + n).rem_euclid(n)),
    };
    (start as usize, ((end - start + step - 1) / step) as usize)
}

/// Every `step`-th element of `dim` from `start` to before `end`.
pub fn slice(call: &mut Call, self_: Tensor, dim: i64, start: i64, end: i64, step: i64, out: Tensor) -> Result<Kernel> {
    slice_v2(call, self_, vec![start], vec![end], vec![dim], vec![step], out)
}

/// As [`slice()`], over several dimensions at once.
pub fn slice_v2(
    call: &mut Call,
    self_: Tensor,
    starts: Vec<i64>,
    ends: Vec<i64>,
    axes: Vec<i64>,
    steps: Vec<i64>,
    out: Tensor,
) -> Result<Kernel> {
    call.rank_in(&self_, 1..=8)?;
    moves(call, &self_, &out, SLICED)?;
    if [starts.len(), ends.len(), steps.len()] != [axes.len(); 3] {
        return call.invalid("starts, ends, axes and steps differ in length");
    }
    let mut view = self_.clone();
    let mut seen = Vec::new();
    for (i, &dim) in axes.iter().enumerate() {
        let axis = self_.axis(dim)?;
        if seen.contains(&axis) {
            return call.invalid(format!("dimension {dim} is sliced twice"));
        }
        if steps[i] <= 0 {
            return call.invalid(format!("step of dimension {dim} is {}, wanted a positive number", steps[i]));
        }
        seen.push(axis);
        let (start, count) = slice_range(self_.shape[axis], starts[i], ends[i], steps[i]);
        view = view.sliced_view(axis, start, count, steps[i] as usize);
    }
    call.shape_is(&out, &view.shape)?;
    Ok(moved(view, out))
}

/// The tensor repeated along dimensions of one element until it has the shape `size`; -1 keeps a dimension.
pub fn expand(call: &mut Call, self_: Tensor, size: Vec<i64>, out: Tensor) -> Result<Kernel> {
    moves(call, &self_, &out, &[F16, F32, U8, I8, I32, I64, Bool, BF16])?;
    let Some(missing) = size.len().checked_sub(self_.rank()) else {
        return call.invalid(format!("size {size:?} has fewer dimensions than self, {:?}", self_.shape));
    };
    let mut shape = Vec::new();
    for (i, &wanted) in size.iter().enumerate() {
        let own = (i >= missing).then(|| self_.shape[i - missing]);
        match (own, wanted) {
            (Some(own), -1) => shape.push(own),
            (Some(own), wanted) if own as i64 == wanted => shape.push(own),
            (Some(1) | None, wanted) if wanted >= 0 => shape.push(wanted as usize),
            _ => return call.invalid(format!("self has shape {:?}, which does not expand to {size:?}", self_.shape)),
        }
    }
    call.shape_is(&out, &shape)?;
    Ok(moved(self_.broadcast_view(&shape), out))
}

/// The tensor laid `repeats[i]` times along each dimension.
pub fn repeat(call: &mut Call, self_: Tensor, repeats: Vec<i64>, out: Tensor) -> Result<Kernel> {
    moves(call, &self_, &out, EVERY)?;
    if repeats.len() < self_.rank() || repeats.len() > 8 || repeats.iter().any(|&count| count < 0) {
        return call.invalid(format!("repeats {repeats:?} does not fit {} dimensions", self_.rank()));
    }
    if repeats.iter().filter(|&&count| count != 1).count() > 4 {
        return Err(crate::status::Status::new(
            acl_sys::error::ACLNN_ERR_INNER_NULLPTR,
            format!("{}: repeats {repeats:?} repeats more than 4 dimensions", call.op),
        ));
    }
    let missing = repeats.len() - self_.rank();
    let size = |i: usize| if i < missing { 1 } else { self_.shape[i - missing] };
    call.shape_is(&out, &(0..repeats.len()).map(|i| size(i) * repeats[i] as usize).collect::<Vec<_>>())?;
    // Reading the pairs (repetition, element) of all dimensions in order is the order in which the output lies.
    let shape = (0..repeats.len()).flat_map(|i| [repeats[i] as usize, size(i)]).collect();
    let strides =
        (0..repeats.len()).flat_map(|i| [0, if i < missing { 0 } else { self_.strides[i - missing] }]).collect();
    Ok(moved(self_.reviewed(shape, strides, self_.offset), out))
}

/// Each element of the flattened tensor `repeats` times in a row.
pub fn repeat_interleave_int(
    call: &mut Call,
    self_: Tensor,
    repeats: i64,
    output_size: i64,
    out: Tensor,
) -> Result<Kernel> {
    moves(call, &self_, &out, COMMON)?;
    if repeats < 0 || output_size != self_.count() as i64 * repeats {
        return call.invalid(format!("output_size is {output_size}, wanted {} times repeats {repeats}", self_.count()));
    }
    call.shape_is(&out, &[output_size as usize])?;
    let (mut shape, mut strides) = (self_.shape.clone(), self_.strides.clone());
    shape.push(repeats as usize);
    strides.push(0);
    Ok(moved(self_.reviewed(shape, strides, self_.offset), out))
}

/// Surrounds the tensor with `value`: pairs (before, after) from the last dimension on; negative numbers cut.
pub fn constant_pad_nd(call: &mut Call, self_: Tensor, pad: Vec<i64>, value: Scalar, out: Tensor) -> Result<Kernel> {
    moves(call, &self_, &out, EVERY)?;
    if !pad.len().is_multiple_of(2) || pad.len() > 2 * self_.rank() {
        return call.invalid(format!(
            "pad has {} numbers, wanted pairs for at most {} dimensions",
            pad.len(),
            self_.rank()
        ));
    }
    let mut shape = self_.shape.clone();
    let (mut from, mut to) = (self_.clone(), Vec::new());
    for (pair, axis) in pad.chunks(2).zip((0..self_.rank()).rev()) {
        let size = shape[axis] as i64 + pair[0] + pair[1];
        if size < 0 {
            return call.invalid(format!("pad {pair:?} leaves dimension {axis} with {size} elements"));
        }
        let cut = (-pair[0]).max(0);
        let kept = (self_.shape[axis] as i64 - cut - (-pair[1]).max(0)).max(0) as usize;
        from = from.sliced_view(axis, cut as usize, kept, 1);
        to.push((axis, pair[0].max(0) as usize, kept));
        shape[axis] = size as usize;
    }
    call.shape_is(&out, &shape)?;
    let target = to.iter().fold(out.clone(), |view, &(axis, start, count)| view.sliced_view(axis, start, count, 1));
    Ok(Box::new(move |launch| {
        with_element!(out.dtype, T => {
            let padding = element::<T>(value.float, value.int);
            out.write(launch, &vec![padding; out.count()])?;
        });
        copy(launch, &from, &target)
    }))
}

/// The elements of the named dimensions in reverse order.
pub fn flip(call: &mut Call, self_: Tensor, dims: Vec<i64>, out: Tensor) -> Result<Kernel> {
    call.rank_in(&self_, 1..=8)?;
    moves(call, &self_, &out, COMMON)?;
    call.shape_is(&out, &self_.shape)?;
    let mut view = self_.clone();
    for &dim in &dims {
        view = view.flipped_view(self_.axis(dim)?);
    }
    Ok(moved(view, out))
}

/// The elements moved by `shifts` along `dims`, those pushed out coming in at the other end; over the flattened tensor
/// when `dims` is empty.
pub fn roll(call: &mut Call, x: Tensor, shifts: Vec<i64>, dims: Vec<i64>, out: Tensor) -> Result<Kernel> {
    moves(call, &x, &out, &[BF16, F16, F32, I8, U8, I32, I64, U32, Bool, I16])?;
    call.shape_is(&out, &x.shape)?;
    if shifts.len() != dims.len().max(1) {
        return call.invalid(format!("shifts has {} numbers and dims {}", shifts.len(), dims.len()));
    }
    // Every roll is a rotation of blocks of `size · inner` neighbouring elements.
    let mut rotations = Vec::new();
    if dims.is_empty() {
        rotations.push((x.count(), 1, shifts[0]));
    }
    for (&dim, &shift) in dims.iter().zip(&shifts) {
        let axis = x.axis(dim)?;
        let inner = x.shape.iter().skip(axis + 1).product();
        rotations.push((x.shape.get(axis).copied().unwrap_or(1), inner, shift));
    }
    Ok(Box::new(move |launch| {
        with_bits!(x.dtype, T => {
            let mut values = x.bits().read::<T>(launch)?;
            for &(size, inner, shift) in rotations.iter().filter(|_| x.count() > 0) {
                let places = shift.rem_euclid(size as i64) as usize * inner;
                values.chunks_mut(size * inner).for_each(|block| block.rotate_right(places));
            }
            out.bits().write(launch, &values)
        })
    }))
}

/// The kernel that keeps the elements of the last two dimensions for which `keep(row, column)` holds, and clears the rest.
fn triangle(
    call: &Call,
    self_: Tensor,
    out: Tensor,
    keep: impl Fn(i64, i64) -> bool + Send + Sync + 'static,
) -> Result<Kernel> {
    moves(call, &self_, &out, EVERY)?;
    call.rank_in(&self_, 2..=8)?;
    call.shape_is(&out, &self_.shape)?;
    let (rows, columns) = (self_.shape[self_.rank() - 2], self_.shape[self_.rank() - 1]);
    Ok(Box::new(move |launch: &Launch| {
        with_bits!(self_.dtype, T => {
            let mut values = self_.bits().read::<T>(launch)?;
            for (i, value) in values.iter_mut().enumerate() {
                if !keep((i / columns % rows) as i64, (i % columns) as i64) {
                    *value = 0;
                }
            }
            out.bits().write(launch, &values)
        })
    }))
}

/// The lower triangle, with the diagonal moved up by `diagonal`.
pub fn tril(call: &mut Call, self_: Tensor, diagonal: i64, out: Tensor) -> Result<Kernel> {
    triangle(call, self_, out, move |row, column| row.saturating_add(diagonal) >= column)
}

/// The upper triangle, with the diagonal moved up by `diagonal`.
pub fn triu(call: &mut Call, self_: Tensor, diagonal: i64, out: Tensor) -> Result<Kernel> {
    triangle(call, self_, out, move |row, column| row.saturating_add(diagonal) <= column)
}

/// [`tril`] in place.
pub fn inplace_tril(call: &mut Call, self_ref: Tensor, diagonal: i64) -> Result<Kernel> {
    tril(call, self_ref.clone(), diagonal, self_ref)
}

/// [`triu`] in place.
pub fn inplace_triu(call: &mut Call, self_ref: Tensor, diagonal: i64) -> Result<Kernel> {
    triu(call, self_ref.clone(), diagonal, self_ref)
}
