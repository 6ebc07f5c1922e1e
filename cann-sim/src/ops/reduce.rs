//! Reductions over dimensions, extremes with their positions, and running sums.

use super::types::*;
use super::views::{Rows, rows};
use super::wide::{Wide, load_as, store_as, tabulate_rows, with_wide};
use crate::aclnn::{Call, Kernel, Scalar, Tensor, TensorList};
use crate::dtype::DType;
use crate::dtype::DType::*;
use crate::status::Result;

/// Types of a reduction: it computes in the first and has the second as its result.
type Types = (DType, DType);

/// The kernel that makes one result of each row, given as numbers of the computing type.
fn reduce_as<W: Wide>(
    rows: Rows,
    out: Tensor,
    (compute, result): Types,
    f: impl Fn(&[W]) -> W + Send + Sync + 'static,
) -> Kernel {
    let Rows { view, inner, .. } = rows;
    Box::new(move |launch| {
        let values = load_as::<W>(&view, launch, compute)?;
        let results = tabulate_rows(out.count(), inner, &|i| f(&values[i * inner..(i + 1) * inner]));
        store_as(&out, launch, result, results)
    })
}

/// Checks types and shape of a reduction and prepares its rows.
fn plan(call: &Call, x: &Tensor, dims: &[i64], keep: bool, out: &Tensor, types: [&[DType]; 2]) -> Result<Rows> {
    at_most_8d(call, &[x, out])?;
    call.dtype_in(x, types[0])?;
    call.dtype_in(out, types[1])?;
    let rows = rows(call, x, dims, keep)?;
    call.shape_is(out, &rows.shape)?;
    Ok(rows)
}

/// Refuses an output that is not of the type that the call names.
fn named_type(call: &Call, dtype: DType, out: &Tensor) -> Result<()> {
    match dtype == out.dtype {
        true => Ok(()),
        false => call.invalid(format!("dtype is {dtype} and {} is {}; they must be the same", out.name, out.dtype)),
    }
}

/// Sum with an accumulator wider than `f32`; integers wrap.
fn total<W: Wide>(dtype: DType, row: &[W]) -> W {
    match dtype.is_float() {
        true => W::from_f64(row.iter().map(|value| value.to_f64()).sum()),
        false => row.iter().fold(W::truth(false), |total, &value| total.plus(value)),
    }
}

/// Product with an accumulator wider than `f32`; integers wrap.
fn product<W: Wide>(dtype: DType, row: &[W]) -> W {
    match dtype.is_float() {
        true => W::from_f64(row.iter().map(|value| value.to_f64()).product()),
        false => row.iter().fold(W::truth(true), |total, &value| total.times(value)),
    }
}

/// Sums over `dims`, in the output's type.
pub fn reduce_sum(
    call: &mut Call,
    self_: Tensor,
    dims: Vec<i64>,
    keep_dims: bool,
    dtype: DType,
    out: Tensor,
) -> Result<Kernel> {
    let rows = plan(call, &self_, &dims, keep_dims, &out, [COMMON, COMMON])?;
    named_type(call, dtype, &out)?;
    Ok(with_wide!(dtype, W => reduce_as::<W>(rows, out, (dtype, dtype), move |row| total(dtype, row))))
}

/// Sums over `dims`, with NaN as zero.
pub fn reduce_nansum(
    call: &mut Call,
    self_: Tensor,
    dim: Vec<i64>,
    keep_dim: bool,
    dtype: DType,
    out: Tensor,
) -> Result<Kernel> {
    let types = &[F16, F32, I8, I16, I32, I64, U8, Bool, BF16];
    let rows = plan(call, &self_, &dim, keep_dim, &out, [types, types])?;
    named_type(call, dtype, &out)?;
    Ok(with_wide!(dtype, W => reduce_as::<W>(rows, out, (dtype, dtype), move |row| {
        let numbers: Vec<W> = row.iter().copied().filter(|value| !value.nan()).collect();
        total(dtype, &numbers)
    })))
}

/// Sum of several tensors, element by element, broadcast to `out`.
pub fn sum(call: &mut Call, tensors: TensorList, out: Tensor) -> Result<Kernel> {
    let dtype = out.dtype;
    call.dtype_in(&out, &[F16, F32, I8, I32, U8])?;
    at_most_8d(call, &[&out])?;
    let mut shape = Vec::new();
    for tensor in &tensors {
        call.same_dtype(tensor, &out)?;
        shape = call.broadcast(&shape, &tensor.shape)?;
    }
    call.shape_is(&out, &shape)?;
    let views: Vec<Tensor> = tensors.iter().map(|tensor| tensor.broadcast_view(&shape)).collect();
    Ok(Box::new(move |launch| {
        with_wide!(dtype, W => {
            let columns = views.iter().map(|view| W::load(view, launch)).collect::<Result<Vec<_>>>()?;
            let zero = W::truth(false);
            let values = (0..out.count()).map(|i| columns.iter().fold(zero, |total, column| total.plus(column[i])));
            store_as(&out, launch, dtype, values.collect::<Vec<W>>())
        })
    }))
}

/// Averages over `dims` in `dtype`, converted to the output's type.
pub fn mean(
    call: &mut Call,
    self_: Tensor,
    dim: Vec<i64>,
    keep_dim: bool,
    dtype: DType,
    out: Tensor,
) -> Result<Kernel> {
    let rows = plan(call, &self_, &dim, keep_dim, &out, [NUMBERS, NUMBERS])?;
    if !NUMBERS.contains(&dtype) {
        return call.invalid(format!("dtype is {dtype}, wanted a number"));
    }
    Ok(mean_kernel(rows, out, dtype))
}

/// Averages in `f64`, which integers truncate.
fn mean_kernel(rows: Rows, out: Tensor, dtype: DType) -> Kernel {
    with_wide!(dtype, W => reduce_as::<W>(rows, out, (dtype, dtype), move |row| {
        W::from_f64(total(dtype, row).to_f64() / row.len() as f64)
    }))
}

/// Averages over `dims`; with none named, over all, or nothing at all where `noop_with_empty_axes`.
pub fn mean_v2(
    call: &mut Call,
    self_: Tensor,
    dim: Vec<i64>,
    keep_dim: bool,
    noop_with_empty_axes: bool,
    out: Tensor,
) -> Result<Kernel> {
    call.same_dtype(&out, &self_)?;
    if dim.is_empty() && noop_with_empty_axes {
        return unreduced(call, self_, out, NUMBERS);
    }
    let rows = plan(call, &self_, &dim, keep_dim, &out, [NUMBERS, NUMBERS])?;
    let dtype = self_.dtype;
    Ok(mean_kernel(rows, out, dtype))
}

/// A reduction over no dimension: a copy.
fn unreduced(call: &Call, x: Tensor, out: Tensor, types: &[DType]) -> Result<Kernel> {
    call.dtype_in(&x, types)?;
    call.shape_is(&out, &x.shape)?;
    Ok(Box::new(move |launch| super::views::copy(launch, &x, &out)))
}

/// Refuses to look for an extreme among no elements.
fn not_empty(call: &Call, rows: &Rows, x: &Tensor) -> Result<()> {
    match rows.inner {
        0 => call.invalid(format!("{} has shape {:?}: no element to choose from", x.name, x.shape)),
        _ => Ok(()),
    }
}

/// Chooses between two values.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Extreme {
    Largest,
    Smallest,
}

impl Extreme {
    fn of<W: Wide>(self, row: &[W]) -> W {
        let choose = if self == Extreme::Largest { W::larger } else { W::smaller };
        row[1..].iter().fold(row[0], |best, &value| choose(best, value))
    }

    /// Position of the first extreme element; NaN is more extreme than any number.
    fn position<W: Wide>(self, row: &[W]) -> usize {
        let better = |value: W, best: W| match (value.nan(), best.nan()) {
            (_, true) => false,
            (true, false) => true,
            _ if self == Extreme::Largest => value > best,
            _ => value < best,
        };
        (1..row.len()).fold(0, |best, i| if better(row[i], row[best]) { i } else { best })
    }

    fn over(self, call: &Call, x: Tensor, dims: &[i64], keep: bool, out: Tensor) -> Result<Kernel> {
        let rows = plan(call, &x, dims, keep, &out, [COMMON, COMMON])?;
        call.same_dtype(&out, &x)?;
        not_empty(call, &rows, &x)?;
        let dtype = x.dtype;
        Ok(with_wide!(dtype, W => reduce_as::<W>(rows, out, (dtype, dtype), move |row| self.of(row))))
    }

    /// The extreme of the whole tensor; `out` has one element.
    fn overall(self, call: &Call, x: Tensor, out: Tensor) -> Result<Kernel> {
        let out = one_element(call, out)?;
        self.over(call, x, &[], false, out)
    }

    fn with_position(
        self,
        call: &Call,
        x: Tensor,
        dim: i64,
        keep: bool,
        out: Option<Tensor>,
        indices: Tensor,
    ) -> Result<Kernel> {
        call.dtype_in(&indices, INDICES)?;
        let rows = rows(call, &x, &[dim], keep)?;
        not_empty(call, &rows, &x)?;
        call.shape_is(&indices, &rows.shape)?;
        if let Some(out) = &out {
            call.same_dtype(out, &x)?;
            call.shape_is(out, &rows.shape)?;
        }
        let Rows { view, inner, .. } = rows;
        Ok(Box::new(move |launch| {
            with_wide!(view.dtype, W => {
                let values = W::load(&view, launch)?;
                let row = |i: usize| &values[i * inner..(i + 1) * inner];
                let positions = tabulate_rows(indices.count(), inner, &|i| self.position(row(i)));
                if let Some(out) = &out {
                    let extremes: Vec<W> = positions.iter().enumerate().map(|(i, &place)| row(i)[place]).collect();
                    W::store(out, launch, &extremes)?;
                }
                indices.store_i64(launch, &positions.iter().map(|&place| place as i64).collect::<Vec<_>>())
            })
        }))
    }
}

/// An output of one element, `[1]` or without dimensions, as a view without dimensions.
fn one_element(call: &Call, out: Tensor) -> Result<Tensor> {
    match out.shape[..] {
        [] | [1] => Ok(out.reviewed(vec![], vec![], out.offset)),
        _ => call.invalid(format!("{} has shape {:?}, wanted [1] or []", out.name, out.shape)),
    }
}

/// The largest element over `dims`.
pub fn amax(call: &mut Call, self_: Tensor, dim: Vec<i64>, keep_dim: bool, out: Tensor) -> Result<Kernel> {
    Extreme::Largest.over(call, self_, &dim, keep_dim, out)
}

/// The smallest element over `dims`.
pub fn amin(call: &mut Call, self_: Tensor, dim: Vec<i64>, keep_dim: bool, out: Tensor) -> Result<Kernel> {
    Extreme::Smallest.over(call, self_, &dim, keep_dim, out)
}

/// The largest element of all.
pub fn max(call: &mut Call, self_: Tensor, out: Tensor) -> Result<Kernel> {
    Extreme::Largest.overall(call, self_, out)
}

/// The smallest element of all.
pub fn min(call: &mut Call, self_: Tensor, out: Tensor) -> Result<Kernel> {
    Extreme::Smallest.overall(call, self_, out)
}

/// What extremes along a dimension with their positions take.
const EXTREMES: &[DType] = &[F32, F16, I64, Bool, BF16];

/// The largest element along `dim`, and where it first stands.
pub fn max_dim(
    call: &mut Call,
    self_: Tensor,
    dim: i64,
    keepdim: bool,
    out: Tensor,
    indices: Tensor,
) -> Result<Kernel> {
    call.dtype_in(&self_, EXTREMES)?;
    Extreme::Largest.with_position(call, self_, dim, keepdim, Some(out), indices)
}

/// The smallest element along `dim`, and where it first stands.
pub fn min_dim(
    call: &mut Call,
    self_: Tensor,
    dim: i64,
    keepdim: bool,
    out: Tensor,
    indices: Tensor,
) -> Result<Kernel> {
    call.dtype_in(&self_, EXTREMES)?;
    Extreme::Smallest.with_position(call, self_, dim, keepdim, Some(out), indices)
}

/// Where the largest element along `dim` first stands.
pub fn arg_max(call: &mut Call, self_: Tensor, dim: i64, keepdim: bool, out: Tensor) -> Result<Kernel> {
    call.dtype_in(&self_, NUMBERS)?;
    Extreme::Largest.with_position(call, self_, dim, keepdim, None, out)
}

/// Where the smallest element along `dim` first stands.
pub fn arg_min(call: &mut Call, self_: Tensor, dim: i64, keepdim: bool, out: Tensor) -> Result<Kernel> {
    call.dtype_in(&self_, NUMBERS)?;
    Extreme::Smallest.with_position(call, self_, dim, keepdim, None, out)
}

/// Product of all elements, in `dtype`.
pub fn prod(call: &mut Call, self_: Tensor, dtype: DType, out: Tensor) -> Result<Kernel> {
    let out = one_element(call, out)?;
    named_type(call, dtype, &out)?;
    let rows = plan(call, &self_, &[], false, &out, [COMMON, COMMON])?;
    Ok(with_wide!(dtype, W => reduce_as::<W>(rows, out, (dtype, dtype), move |row| product(dtype, row))))
}

/// Product along `dim`, in `dtype`.
pub fn prod_dim(call: &mut Call, self_: Tensor, dim: i64, keep_dim: bool, dtype: DType, out: Tensor) -> Result<Kernel> {
    named_type(call, dtype, &out)?;
    let rows = plan(call, &self_, &[dim], keep_dim, &out, [COMMON, COMMON])?;
    Ok(with_wide!(dtype, W => reduce_as::<W>(rows, out, (dtype, dtype), move |row| product(dtype, row))))
}

/// The median of all elements, the lower of the two in the middle.
pub fn median(call: &mut Call, self_: Tensor, values_out: Tensor) -> Result<Kernel> {
    let types = &[F32, F16, U8, I8, I16, I32, I64, BF16];
    let out = one_element(call, values_out)?;
    call.same_dtype(&out, &self_)?;
    let rows = plan(call, &self_, &[], false, &out, [types, types])?;
    not_empty(call, &rows, &self_)?;
    let dtype = self_.dtype;
    Ok(with_wide!(dtype, W => reduce_as::<W>(rows, out, (dtype, dtype), |row| {
        let mut sorted = row.to_vec();
        let middle = (sorted.len() - 1) / 2;
        // A NaN anywhere is the median, as it is the extreme.
        match row.iter().find(|value| value.nan()) {
            Some(&nan) => nan,
            None => *sorted.select_nth_unstable_by(middle, W::order).1,
        }
    })))
}

/// The kernel of sums or products from the start of each row.
fn scan(call: &Call, x: Tensor, dim: i64, dtype: DType, out: Tensor, multiply: bool) -> Result<Kernel> {
    at_most_8d(call, &[&x])?;
    named_type(call, dtype, &out)?;
    call.shape_is(&out, &x.shape)?;
    let axis = x.axis(dim)?;
    let (view, target) = (x.axis_last_view(axis), out.axis_last_view(axis));
    let inner = view.shape[view.rank() - 1].max(1);
    Ok(Box::new(move |launch| {
        with_wide!(dtype, W => {
            let mut values = load_as::<W>(&view, launch, dtype)?;
            for row in values.chunks_mut(inner) {
                // Floats run in `f64` so that a long row does not gather rounding errors.
                let (mut running, mut float) = (W::truth(multiply), multiply as u8 as f64);
                for value in row {
                    (running, float) = match multiply {
                        true => (running.times(*value), float * value.to_f64()),
                        false => (running.plus(*value), float + value.to_f64()),
                    };
                    *value = if dtype.is_float() { W::from_f64(float) } else { running };
                }
            }
            W::store(&target, launch, &values)
        })
    }))
}

/// Running sums along `dim`.
pub fn cumsum(call: &mut Call, self_: Tensor, dim: i64, dtype: DType, out: Tensor) -> Result<Kernel> {
    call.dtype_in(&self_, NUMBERS)?;
    call.dtype_in(&out, NUMBERS)?;
    scan(call, self_, dim, dtype, out, false)
}

/// Running products along `dim`.
pub fn cumprod(call: &mut Call, input: Tensor, dim: Scalar, dtype: DType, out: Tensor) -> Result<Kernel> {
    call.dtype_in(&input, EVERY)?;
    call.dtype_in(&out, EVERY)?;
    scan(call, input, dim.int, dtype, out, true)
}

/// Whether every element over `dims` is non-zero.
pub fn all(call: &mut Call, self_: Tensor, dim: Vec<i64>, keepdim: bool, out: Tensor) -> Result<Kernel> {
    let rows = plan(call, &self_, &dim, keepdim, &out, [COMMON, &[Bool, U8]])?;
    let types = (self_.dtype, Bool);
    Ok(
        with_wide!(types.0, W => reduce_as::<W>(rows, out, types, |row| W::truth(row.iter().all(|v| *v != W::truth(false))))),
    )
}

/// Whether any element over `dims` is non-zero.
pub fn any(call: &mut Call, self_: Tensor, dim: Vec<i64>, keepdim: bool, out: Tensor) -> Result<Kernel> {
    let rows = plan(call, &self_, &dim, keepdim, &out, [COMMON, &[Bool]])?;
    let types = (self_.dtype, Bool);
    Ok(
        with_wide!(types.0, W => reduce_as::<W>(rows, out, types, |row| W::truth(row.iter().any(|v| *v != W::truth(false))))),
    )
}
