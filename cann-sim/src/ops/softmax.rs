//! Softmax and its logarithm over one dimension, and their gradients.

use super::types::{FLOATS, REALS, at_most_8d};
use super::wide::tabulate_rows;
use crate::aclnn::{Call, Kernel, Launch, Tensor};
use crate::status::Result;

/// Maps each row of `inputs` along `dim` to a row of `out`; rows are computed in `f64` and rounded once.
fn by_rows(
    inputs: Vec<Tensor>,
    out: Tensor,
    dim: usize,
    row: impl Fn(&[&[f64]]) -> Vec<f64> + Send + Sync + 'static,
) -> Kernel {
    let n = out.shape.get(dim).copied().unwrap_or(1);
    let inputs: Vec<Tensor> = inputs.iter().map(|tensor| tensor.axis_last_view(dim)).collect();
    let out = out.axis_last_view(dim);
    Box::new(move |launch: &Launch| {
        let columns = inputs.iter().map(|tensor| tensor.load_f64(launch)).collect::<Result<Vec<_>>>()?;
        let rows = out.count().checked_div(n).unwrap_or(0);
        let values = tabulate_rows(rows, n, &|i| row(&columns.iter().map(|c| &c[i * n..][..n]).collect::<Vec<_>>()));
        out.store_f64(launch, &values.concat())
    })
}

/// The largest element and the sum of the exponentials relative to it.
fn max_and_sum(x: &[f64]) -> (f64, f64) {
    let max = x.iter().fold(f64::NEG_INFINITY, |max, &v| if v.is_nan() || v > max { v } else { max });
    (max, x.iter().map(|v| (v - max).exp()).sum())
}

fn forward(call: &Call, self_: &Tensor, dim: i64, out: &Tensor) -> Result<usize> {
    call.dtype_in(self_, REALS)?;
    call.dtype_in(out, REALS)?;
    at_most_8d(call, &[self_])?;
    call.shape_is(out, &self_.shape)?;
    self_.axis(dim)
}

fn backward(call: &Call, grad_output: &Tensor, output: &Tensor, dim: i64, out: &Tensor) -> Result<usize> {
    call.dtype_in(grad_output, FLOATS)?;
    at_most_8d(call, &[grad_output])?;
    call.same_dtype(output, grad_output)?;
    call.shape_is(output, &grad_output.shape)?;
    call.dtype_in(out, REALS)?;
    call.shape_is(out, &grad_output.shape)?;
    grad_output.axis(dim)
}

/// `exp(x) / sum(exp(x))` along `dim`.
pub fn softmax(call: &mut Call, self_: Tensor, dim: i64, out: Tensor) -> Result<Kernel> {
    let dim = forward(call, &self_, dim, &out)?;
    Ok(by_rows(vec![self_], out, dim, |rows| {
        let (max, sum) = max_and_sum(rows[0]);
        rows[0].iter().map(|v| (v - max).exp() / sum).collect()
    }))
}

/// `log(softmax(x))` along `dim`.
pub fn log_softmax(call: &mut Call, self_: Tensor, dim: i64, out: Tensor) -> Result<Kernel> {
    call.rank_in(&self_, 1..=8)?;
    let dim = forward(call, &self_, dim, &out)?;
    Ok(by_rows(vec![self_], out, dim, |rows| {
        let (max, sum) = max_and_sum(rows[0]);
        rows[0].iter().map(|v| v - max - sum.ln()).collect()
    }))
}

/// Gradient of [`softmax`], from its output.
pub fn softmax_backward(call: &mut Call, grad_output: Tensor, output: Tensor, dim: i64, out: Tensor) -> Result<Kernel> {
    let dim = backward(call, &grad_output, &output, dim, &out)?;
    Ok(by_rows(vec![grad_output, output], out, dim, |rows| {
        let sum: f64 = rows[0].iter().zip(rows[1]).map(|(g, y)| g * y).sum();
        rows[0].iter().zip(rows[1]).map(|(g, y)| (g - sum) * y).collect()
    }))
}

/// Gradient of [`log_softmax`], from its output.
pub fn log_softmax_backward(
    call: &mut Call,
    grad_output: Tensor,
    output: Tensor,
    dim: i64,
    out: Tensor,
) -> Result<Kernel> {
    call.rank_in(&grad_output, 1..=8)?;
    let dim = backward(call, &grad_output, &output, dim, &out)?;
    Ok(by_rows(vec![grad_output, output], out, dim, |rows| {
        let sum: f64 = rows[0].iter().sum();
        rows[0].iter().zip(rows[1]).map(|(g, y)| g - sum * y.exp()).collect()
    }))
}
