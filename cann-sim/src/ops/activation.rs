//! Gated activations and the gradients of activations.

use super::types::{FLOATS, REALS, at_most_8d, check_castable, promote_all};
use super::wide::zip_float;
use crate::aclnn::{Call, Kernel, Scalar, Tensor};
use crate::dtype::DType::{self, *};
use crate::fail;
use crate::status::Result;
use acl_sys::error::ACLNN_ERR_PARAM_INVALID;

/// Standard normal distribution function.
fn phi<F: Float>(x: F) -> F {
    F::of(0.5 * libm::erfc(-x.to_f64() / std::f64::consts::SQRT_2))
}

/// The two types that the formulas compute in.
trait Float: Copy + std::ops::Mul<Output = Self> + std::ops::Add<Output = Self> + std::ops::Sub<Output = Self> {
    fn of(value: f64) -> Self;
    fn to_f64(self) -> f64;
    fn exp_(self) -> Self;
    fn tanh_(self) -> Self;
    fn sigmoid(self) -> Self;
}

macro_rules! float {
    ($($ty:ty),*) => {$(
        impl Float for $ty {
            fn of(value: f64) -> Self { value as $ty }
            fn to_f64(self) -> f64 { self as f64 }
            fn exp_(self) -> Self { self.exp() }
            fn tanh_(self) -> Self { self.tanh() }
            fn sigmoid(self) -> Self { 1.0 / (1.0 + (-self).exp()) }
        }
    )*};
}
float!(f32, f64);

/// Argument of `tanh` in the approximation of Gelu, and its derivative.
fn gelu_inner<F: Float>(x: F) -> (F, F) {
    let scale = (2.0 / std::f64::consts::PI).sqrt();
    let inner = F::of(scale) * (x + F::of(0.044715) * x * x * x);
    (inner, F::of(scale) * (F::of(1.0) + F::of(3.0 * 0.044715) * x * x))
}

fn gelu<F: Float>(x: F, tanh: bool) -> F {
    if tanh { F::of(0.5) * x * (F::of(1.0) + gelu_inner(x).0.tanh_()) } else { x * phi(x) }
}

fn gelu_slope<F: Float>(x: F, tanh: bool) -> F {
    if tanh {
        let (inner, slope) = gelu_inner(x);
        let t = inner.tanh_();
        return F::of(0.5) * (F::of(1.0) + t) + F::of(0.5) * x * (F::of(1.0) - t * t) * slope;
    }
    let density = (F::of(-0.5) * x * x).exp_() * F::of(1.0 / (2.0 * std::f64::consts::PI).sqrt());
    phi(x) + x * density
}

/// The two halves of `x` along `dim`, after a check of `outs`, each of the shape of a half.
fn halves(call: &Call, x: &Tensor, dim: i64, outs: &[&Tensor]) -> Result<(Tensor, Tensor)> {
    call.rank_in(x, 1..=8)?;
    let dim = x.axis(dim)?;
    let size = x.shape[dim];
    if !size.is_multiple_of(2) {
        return call.invalid(format!("{} has {size} elements in dimension {dim}, wanted an even number", x.name));
    }
    let mut shape = x.shape.clone();
    shape[dim] = size / 2;
    outs.iter().try_for_each(|out| call.shape_is(out, &shape))?;
    Ok((x.sliced_view(dim, 0, size / 2, 1), x.sliced_view(dim, size / 2, size / 2, 1)))
}

/// `silu(a) · b`, where `a` and `b` are the halves of `x` along `dim`.
pub fn swi_glu(call: &mut Call, x: Tensor, dim: i64, out: Tensor) -> Result<Kernel> {
    call.dtype_in(&x, FLOATS)?;
    call.same_dtype(&out, &x)?;
    contiguous(call, &[&x, &out])?;
    let dtype = x.dtype;
    let (a, b) = halves(call, &x, dim, &[&out])?;
    Ok(zip_float!([a, b], out, dtype => dtype, () |a, b| a * a.sigmoid() * b))
}

/// The page has no tick for views in these operators.
fn contiguous(call: &Call, tensors: &[&Tensor]) -> Result<()> {
    match tensors.iter().find(|tensor| !tensor.is_contiguous()) {
        None => Ok(()),
        Some(t) => call
            .invalid(format!("{} has strides {:?} for {:?}, wanted a contiguous tensor", t.name, t.strides, t.shape)),
    }
}

/// Gradient of [`swi_glu`] for `x`.
pub fn swi_glu_grad(call: &mut Call, y_grad: Tensor, x: Tensor, dim: i64, out: Tensor) -> Result<Kernel> {
    call.dtype_in(&x, FLOATS)?;
    call.same_dtype(&y_grad, &x)?;
    call.same_dtype(&out, &x)?;
    call.shape_is(&out, &x.shape)?;
    contiguous(call, &[&y_grad, &out])?;
    let dtype = x.dtype;
    let (a, b) = halves(call, &x, dim, &[&y_grad])?;
    let (da, db) = halves(call, &out, dim, &[&y_grad])?;
    let first: Kernel = zip_float!([y_grad.clone(), a.clone(), b], da, dtype => dtype, () |g, a, b| {
        let s = a.sigmoid();
        g * (s + s * (1.0 - s) * a) * b
    });
    let second: Kernel = zip_float!([y_grad, a], db, dtype => dtype, () |g, a| g * a.sigmoid() * a);
    Ok(Box::new(move |launch| first(launch).and_then(|()| second(launch))))
}

/// `a · sigmoid(b)`, where `a` and `b` are the halves of `self` along `dim`.
pub fn glu(call: &mut Call, self_: Tensor, dim: i64, out: Tensor) -> Result<Kernel> {
    call.dtype_in(&self_, REALS)?;
    call.dtype_in(&out, REALS)?;
    let dtype = self_.dtype;
    let (a, b) = halves(call, &self_, dim, &[&out])?;
    Ok(zip_float!([a, b], out, dtype => dtype, () |a, b| a * b.sigmoid()))
}

/// `a · gelu(b)`, or `gelu(a) · b` with `activate_left`, for the halves of `self`; `out_gelu` keeps the Gelu.
pub fn ge_glu_v3(
    call: &mut Call,
    self_: Tensor,
    dim: i64,
    approximate: i64,
    activate_left: bool,
    out: Tensor,
    out_gelu: Tensor,
) -> Result<Kernel> {
    call.dtype_in(&self_, FLOATS)?;
    call.same_dtype(&out, &self_)?;
    call.same_dtype(&out_gelu, &self_)?;
    if !(0..=1).contains(&approximate) {
        return call.invalid(format!("approximate is {approximate}, wanted 0 (none) or 1 (tanh)"));
    }
    let (dtype, tanh) = (self_.dtype, approximate == 1);
    let (left, right) = halves(call, &self_, dim, &[&out, &out_gelu])?;
    let (gate, other) = if activate_left { (left, right) } else { (right, left) };
    let first: Kernel = zip_float!([gate.clone()], out_gelu, dtype => dtype, () |x| gelu(x, tanh));
    let second: Kernel = zip_float!([gate, other], out, dtype => dtype, () |x, y| gelu(x, tanh) * y);
    Ok(Box::new(move |launch| first(launch).and_then(|()| second(launch))))
}

/// Checks of a gradient whose operands broadcast; the type that it computes in.
fn broadcasting(call: &Call, grad: &Tensor, x: &Tensor, out: &Tensor, allowed: &[DType]) -> Result<DType> {
    for tensor in [grad, x, out] {
        call.dtype_in(tensor, allowed)?;
    }
    at_most_8d(call, &[grad, x])?;
    call.shape_is(out, &call.broadcast(&grad.shape, &x.shape)?)?;
    let dtype = promote_all(call, &[grad, x])?;
    check_castable(call, dtype, out)?;
    Ok(dtype)
}

/// Checks of a gradient whose tensors must all have one type and shape.
fn alike(call: &Call, grad: &Tensor, x: &Tensor, out: &Tensor, allowed: &[DType]) -> Result<DType> {
    call.dtype_in(grad, allowed)?;
    for tensor in [x, out] {
        call.same_dtype(tensor, grad)?;
        call.shape_is(tensor, &grad.shape)?;
    }
    at_most_8d(call, &[grad])?;
    Ok(grad.dtype)
}

/// `grad · sigmoid(x) · (1 + x - x·sigmoid(x))`.
pub fn silu_backward(call: &mut Call, grad_output: Tensor, self_: Tensor, grad_input: Tensor) -> Result<Kernel> {
    let dtype = alike(call, &grad_output, &self_, &grad_input, FLOATS)?;
    Ok(zip_float!([grad_output, self_], grad_input, dtype => dtype, () |g, x| {
        let s = x.sigmoid();
        g * s * (1.0 + x - x * s)
    }))
}

/// Gradient of the Gelu with `erf`.
pub fn gelu_backward(call: &mut Call, grad_output: Tensor, self_: Tensor, grad_input: Tensor) -> Result<Kernel> {
    let dtype = broadcasting(call, &grad_output, &self_, &grad_input, FLOATS)?;
    Ok(zip_float!([grad_output, self_], grad_input, dtype => dtype, () |g, x| g * gelu_slope(x, false)))
}

/// Gradient of the Gelu that `approximate` (`none` or `tanh`) names.
pub fn gelu_backward_v2(
    call: &mut Call,
    grad_output: Tensor,
    self_: Tensor,
    approximate: String,
    grad_input: Tensor,
) -> Result<Kernel> {
    let dtype = broadcasting(call, &grad_output, &self_, &grad_input, FLOATS)?;
    call.dtype_in(&grad_input, &[dtype])?;
    let tanh = match &*approximate {
        "none" => false,
        "tanh" => true,
        other => fail!(ACLNN_ERR_PARAM_INVALID, "{}: approximate is {other:?}, wanted \"none\" or \"tanh\"", call.op),
    };
    Ok(zip_float!([grad_output, self_], grad_input, dtype => dtype, () |g, x| g * gelu_slope(x, tanh)))
}

/// `grad · (1 - output²)`.
pub fn tanh_backward(call: &mut Call, grad_output: Tensor, output: Tensor, grad_input: Tensor) -> Result<Kernel> {
    let dtype = broadcasting(call, &grad_output, &output, &grad_input, REALS)?;
    call.same_dtype(&output, &grad_output)?;
    call.same_dtype(&grad_input, &grad_output)?;
    Ok(zip_float!([grad_output, output], grad_input, dtype => dtype, () |g, y| g * (1.0 - y * y)))
}

/// `grad · output · (1 - output)`.
pub fn sigmoid_backward(call: &mut Call, grad_output: Tensor, output: Tensor, grad_input: Tensor) -> Result<Kernel> {
    let dtype = broadcasting(call, &grad_output, &output, &grad_input, REALS)?;
    Ok(zip_float!([grad_output, output], grad_input, dtype => dtype, () |g, y| g * y * (1.0 - y)))
}

/// `grad` where `self > threshold`, else 0.
pub fn threshold_backward(
    call: &mut Call,
    grad_output: Tensor,
    self_: Tensor,
    threshold: Scalar,
    out: Tensor,
) -> Result<Kernel> {
    const ALLOWED: &[DType] = &[F32, BF16, F16, I32, I8, U8];
    let dtype = broadcasting(call, &grad_output, &self_, &out, ALLOWED)?;
    call.same_dtype(&grad_output, &self_)?;
    call.same_dtype(&out, &self_)?;
    // In f64 every type of the list compares and passes exactly.
    let limit = threshold.float;
    Ok(super::wide::zip_as::<f64, 2>(
        [grad_output, self_],
        out,
        (dtype, dtype),
        move |[g, x]| if x > limit { g } else { 0.0 },
    ))
}

/// `grad · sigmoid(beta·self)`, or `grad` where `beta·self > threshold`.
pub fn softplus_backward(
    call: &mut Call,
    grad_output: Tensor,
    self_: Tensor,
    beta: Scalar,
    threshold: Scalar,
    grad_input: Tensor,
) -> Result<Kernel> {
    call.dtype_in(&grad_output, REALS)?;
    call.dtype_in(&grad_input, REALS)?;
    call.same_dtype(&grad_input, &self_)?;
    for tensor in [&self_, &grad_input] {
        call.shape_is(tensor, &grad_output.shape)?;
    }
    let dtype = promote_all(call, &[&grad_output, &self_])?;
    Ok(zip_float!([grad_output, self_], grad_input, dtype => dtype, (beta, threshold) |g, x| {
        if beta * x > threshold { g } else { g * (beta * x).sigmoid() }
    }))
}

/// `x · sigmoid(beta·x)`, `beta` being 1 where it is null.
pub fn swish(call: &mut Call, self_: Tensor, beta: Option<Scalar>, out: Tensor) -> Result<Kernel> {
    call.dtype_in(&self_, FLOATS)?;
    at_most_8d(call, &[&self_])?;
    call.same_dtype(&out, &self_)?;
    call.shape_is(&out, &self_.shape)?;
    let dtype = self_.dtype;
    let beta = beta.unwrap_or(Scalar { dtype: F32, float: 1.0, int: 1 });
    Ok(zip_float!([self_], out, dtype => dtype, (beta) |x| x * (beta * x).sigmoid()))
}
