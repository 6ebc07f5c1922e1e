//! Reductions with a formula: variance, logarithms of sums, norms.

use super::types::*;
use super::views::{Rows, rows};
use super::wide::tabulate_rows;
use crate::aclnn::{Call, Kernel, Launch, Scalar, Tensor};
use crate::dtype::DType;
use crate::dtype::DType::*;
use crate::status::Result;

/// Checks a reduction from `from` to floating point and prepares its rows.
fn plan(call: &Call, x: &Tensor, dims: &[i64], keep: bool, out: &Tensor, from: &[DType]) -> Result<Rows> {
    at_most_8d(call, &[x, out])?;
    call.dtype_in(x, from)?;
    call.dtype_in(out, FLOATS)?;
    let rows = rows(call, x, dims, keep)?;
    call.shape_is(out, &rows.shape)?;
    Ok(rows)
}

/// `f` of each row, in `f64`.
fn each_row<R: Send>(launch: &Launch, rows: &Rows, f: &(dyn Fn(&[f64]) -> R + Sync)) -> Result<Vec<R>> {
    let (values, inner) = (rows.view.load_f64(launch)?, rows.inner);
    let count = rows.shape.iter().product();
    Ok(tabulate_rows(count, inner, &|i| f(&values[i * inner..(i + 1) * inner])))
}

/// The kernel that stores `f` of each row, rounded once.
fn reduce(rows: Rows, out: Tensor, f: impl Fn(&[f64]) -> f64 + Send + Sync + 'static) -> Kernel {
    Box::new(move |launch| out.store_f64(launch, &each_row(launch, &rows, &f)?))
}

/// Sum of squared distances from the mean over `n - correction`, and the mean.
fn variance(row: &[f64], correction: i64) -> (f64, f64) {
    let mean = row.iter().sum::<f64>() / row.len() as f64;
    let squares: f64 = row.iter().map(|value| (value - mean).powi(2)).sum();
    (squares / (row.len() as i64 - correction).max(0) as f64, mean)
}

/// Variance over `dims`, with n - 1 in the denominator where `unbiased`.
pub fn var(
    call: &mut Call,
    self_: Tensor,
    dim: Vec<i64>,
    unbiased: bool,
    keepdim: bool,
    out: Tensor,
) -> Result<Kernel> {
    let rows = plan(call, &self_, &dim, keepdim, &out, FLOATS)?;
    Ok(reduce(rows, out, move |row| variance(row, unbiased as i64).0))
}

/// Standard deviation over `dims`, with n - `correction` in the denominator.
pub fn std(
    call: &mut Call,
    self_: Tensor,
    dim: Vec<i64>,
    correction: i64,
    keepdim: bool,
    out: Tensor,
) -> Result<Kernel> {
    let rows = plan(call, &self_, &dim, keepdim, &out, FLOATS)?;
    Ok(reduce(rows, out, move |row| variance(row, correction).0.sqrt()))
}

/// Variance and mean over `dims`, with n - `correction` in the variance's denominator.
pub fn var_mean(
    call: &mut Call,
    self_: Tensor,
    dim: Vec<i64>,
    correction: i64,
    keepdim: bool,
    var_out: Tensor,
    mean_out: Tensor,
) -> Result<Kernel> {
    let rows = plan(call, &self_, &dim, keepdim, &var_out, FLOATS)?;
    call.dtype_in(&mean_out, FLOATS)?;
    call.shape_is(&mean_out, &rows.shape)?;
    Ok(Box::new(move |launch| {
        let (variances, means): (Vec<f64>, Vec<f64>) =
            each_row(launch, &rows, &|row| variance(row, correction))?.into_iter().unzip();
        var_out.store_f64(launch, &variances)?;
        mean_out.store_f64(launch, &means)
    }))
}

/// `ln(Σ e^x)` over `dims`, which does not overflow.
pub fn log_sum_exp(call: &mut Call, self_: Tensor, dim: Vec<i64>, keep_dim: bool, out: Tensor) -> Result<Kernel> {
    let rows = plan(call, &self_, &dim, keep_dim, &out, &[F32, F16, BF16, I32, I64, I16, I8, U8, Bool])?;
    Ok(reduce(rows, out, |row| {
        let peak = row.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        // Infinite peaks would make NaN of the differences.
        let shift = if peak.is_finite() { peak } else { 0.0 };
        shift + row.iter().map(|value| (value - shift).exp()).sum::<f64>().ln()
    }))
}

/// `ln(Σ x)` over `axes`; with none named, over all, or of each element where `noop_with_empty_axes`.
pub fn reduce_log_sum(
    call: &mut Call,
    data: Tensor,
    axes: Vec<i64>,
    keep_dims: bool,
    noop_with_empty_axes: bool,
    reduce_out: Tensor,
) -> Result<Kernel> {
    call.dtype_in(&data, &[F16, F32])?;
    call.same_dtype(&reduce_out, &data)?;
    if axes.is_empty() && noop_with_empty_axes {
        call.shape_is(&reduce_out, &data.shape)?;
        return Ok(Box::new(move |launch| super::views::copy(launch, &data, &reduce_out)));
    }
    let rows = plan(call, &data, &axes, keep_dims, &reduce_out, FLOATS)?;
    Ok(reduce(rows, reduce_out, |row| row.iter().sum::<f64>().ln()))
}

/// The `p`-norm of numbers: also 0 (count of non-zeros), 1, 2, ∞ and -∞.
pub(super) fn norm_of(row: &[f64], p: f64) -> f64 {
    let sizes = row.iter().map(|value| value.abs());
    match p {
        f64::INFINITY => sizes.fold(0.0, |best, size| if size.is_nan() || size > best { size } else { best }),
        f64::NEG_INFINITY => {
            sizes.fold(f64::INFINITY, |best, size| if size.is_nan() || size < best { size } else { best })
        }
        0.0 => sizes.filter(|&size| size != 0.0).count() as f64,
        1.0 => sizes.sum(),
        2.0 => sizes.map(|size| size * size).sum::<f64>().sqrt(),
        p => sizes.map(|size| size.powf(p)).sum::<f64>().powf(p.recip()),
    }
}

/// The `p`-norm over `dims`.
pub fn norm(
    call: &mut Call,
    self_: Tensor,
    p_scalar: Scalar,
    dim: Vec<i64>,
    keepdim: bool,
    out: Tensor,
) -> Result<Kernel> {
    let rows = plan(call, &self_, &dim, keepdim, &out, FLOATS)?;
    let p = p_scalar.float;
    Ok(reduce(rows, out, move |row| norm_of(row, p)))
}
