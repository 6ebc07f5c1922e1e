//! Short names for the arguments that most cases are made of.

use crate::array::{Array, DType, indices};
use crate::case::{Arg, Case, Fill, Spec};

/// An input tensor of default values.
pub fn t(dtype: DType, shape: &[usize]) -> Arg {
    Arg::In(Spec::new(dtype, shape))
}

/// An input tensor of these values.
pub fn given(x: &Array) -> Arg {
    Arg::In(Spec::new(x.dtype, x.shape.clone()).fill(Fill::Values(x.data.clone())))
}

/// An input tensor, uniform in `[low, high)`.
pub fn between(dtype: DType, shape: &[usize], low: f64, high: f64) -> Arg {
    Arg::In(Spec::new(dtype, shape).fill(Fill::Uniform(low, high)))
}

/// An output tensor.
pub fn out(dtype: DType, shape: &[usize]) -> Arg {
    Arg::Out(dtype, shape.to_vec())
}

/// A scalar that is exact in every type.
pub fn scalar(value: f64) -> Arg {
    Arg::Scalar(DType::F32, value)
}

/// The array whose element at each index is `f` of the index.
pub fn build(dtype: DType, shape: &[usize], f: impl Fn(&[usize]) -> f64) -> Array {
    Array::new(dtype, shape, indices(shape).map(|at| f(&at)).collect())
}

/// The tolerance of an operator that computes in `f32`, where it is good to `units` of numbers of `scale`. Of a narrower
/// type only roundings show: the result's, and those of two steps that a device may keep in that type.
pub fn computed_in_f32(case: Case, dtype: DType, units: f64, scale: f64) -> Case {
    if dtype == DType::F32 { case.within(units, scale) } else { case.within(3.0, 0.5) }
}
