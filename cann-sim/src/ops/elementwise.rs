//! Operators of one tensor, element by element.

use super::types::*;
use super::wide::{Wide, zip, zip_float};
use crate::aclnn::{Call, Kernel, Scalar, Tensor};
use crate::dtype::DType;
use crate::dtype::DType::*;
use crate::status::Result;

/// Functions that the standard library lacks.
trait Special {
    /// The error function.
    fn error_function(self) -> Self;
    /// `1 / (1 + exp(-x))`.
    fn sigmoid(self) -> Self;
    /// `ln(1 + exp(x))`, which does not overflow.
    fn softplus(self) -> Self;
    /// `x · Φ(x)`.
    fn gelu(self) -> Self;
    /// `x · Φ(x)` by the usual tanh formula.
    fn gelu_tanh(self) -> Self;
}

macro_rules! special {
    ($ty:ident, $erf:path) => {
        impl Special for $ty {
            fn error_function(self) -> Self {
                $erf(self)
            }
            fn sigmoid(self) -> Self {
                1.0 / (1.0 + (-self).exp())
            }
            fn softplus(self) -> Self {
                self.max(0.0) + (-self.abs()).exp().ln_1p()
            }
            fn gelu(self) -> Self {
                0.5 * self * (1.0 + (self * std::$ty::consts::FRAC_1_SQRT_2).error_function())
            }
            fn gelu_tanh(self) -> Self {
                let inner = self + 0.044715 * self * self * self;
                0.5 * self * (1.0 + ((2.0 * std::$ty::consts::FRAC_1_PI).sqrt() * inner).tanh())
            }
        }
    };
}
special!(f32, libm::erff);
special!(f64, libm::erf);

/// Checks of an operator that computes in floating point and converts to the output: the type it computes in.
fn into_float(call: &Call, x: &Tensor, out: &Tensor, from: &[DType], to: &[DType]) -> Result<DType> {
    at_most_8d(call, &[x, out])?;
    call.dtype_in(x, from)?;
    call.dtype_in(out, to)?;
    call.shape_is(out, &x.shape)?;
    Ok(if x.dtype.is_float() { x.dtype } else { F32 })
}

/// Checks of an operator whose output has the type of its input, which is returned.
fn like_input(call: &Call, x: &Tensor, out: &Tensor, types: &[DType]) -> Result<DType> {
    at_most_8d(call, &[x, out])?;
    call.dtype_in(x, types)?;
    call.same_dtype(out, x)?;
    call.shape_is(out, &x.shape)?;
    Ok(x.dtype)
}

/// Operators whose integer inputs become `FLOAT` and whose result may be stored in another floating-point type.
macro_rules! float_operators {
    ($($(#[$doc:meta])* $name:ident $from:expr => $to:expr, |$x:ident| $formula:expr;)*) => {$(
        $(#[$doc])*
        pub fn $name(call: &mut Call, self_: Tensor, out: Tensor) -> Result<Kernel> {
            let dtype = into_float(call, &self_, &out, $from, $to)?;
            Ok(zip_float!([self_], out, dtype => dtype, () |$x| $formula))
        }
    )*};
}

float_operators! {
    /// `e^x`.
    exp &[F32, F16, BF16, F64, Bool, I64] => REALS, |x| x.exp();
    /// Natural logarithm.
    log COMMON => REALS, |x| x.ln();
    /// Logarithm to base 2.
    log2 COMMON => REALS, |x| x.log2();
    /// Square root, NaN of negative numbers.
    sqrt COMMON => REALS, |x| x.sqrt();
    /// `1 / sqrt(x)`.
    rsqrt COMMON => REALS, |x| x.sqrt().recip();
    /// Sine of radians.
    sin COMMON => REALS, |x| x.sin();
    /// Cosine of radians.
    cos COMMON => REALS, |x| x.cos();
    /// Tangent of radians.
    tan COMMON => REALS, |x| x.tan();
    /// Hyperbolic tangent.
    tanh &[F32, F16, BF16, Bool, U8, I8, I16, I32, I64] => FLOATS, |x| x.tanh();
    /// The error function.
    erf &[F64, F32, F16, BF16, Bool, I64] => REALS, |x| x.error_function();
    /// `1 / (1 + e^-x)`.
    sigmoid FLOATS => FLOATS, |x| x.sigmoid();
    /// `x · relu6(x + 3) / 6`.
    hardswish FLOATS => FLOATS, |x| x * (x + 3.0).clamp(0.0, 6.0) / 6.0;
    /// `1 / x`.
    reciprocal COMMON => REALS, |x| x.recip();
    /// `e^x - 1`.
    expm1 &[F32, F16, BF16, Bool, I64] => REALS, |x| x.exp_m1();
    /// `ln(1 + x)`.
    log1p COMMON => REALS, |x| x.ln_1p();
}

/// Operators whose output has the input's type.
macro_rules! same_type_operators {
    ($($(#[$doc:meta])* $name:ident $types:expr, |$x:ident| $formula:expr $(=> $int:expr)?;)*) => {$(
        $(#[$doc])*
        pub fn $name(call: &mut Call, self_: Tensor, out: Tensor) -> Result<Kernel> {
            let dtype = like_input(call, &self_, &out, $types)?;
            Ok(same_type_operators!(@kernel self_, out, dtype, |$x| $formula $(; int $int)?))
        }
    )*};
    (@kernel $t:ident, $out:ident, $dtype:ident, |$x:ident| $formula:expr; int $int:expr) => {
        zip!([$t], $out, $dtype => $dtype, () |$x| $formula; int $int)
    };
    (@kernel $t:ident, $out:ident, $dtype:ident, |$x:ident| $formula:expr) => {
        zip_float!([$t], $out, $dtype => $dtype, () |$x| $formula)
    };
}

same_type_operators! {
    /// Absolute value.
    abs COMMON, |x| x.abs() => x.wrapping_abs();
    /// `max(x, 0)`.
    relu &[F32, F16, BF16, I8, I32, I64], |x| x.larger(0.0) => x.max(0);
    /// `x · Φ(x)` by the tanh formula, which is what this operator computes on the device.
    gelu FLOATS, |x| x.gelu_tanh();
    /// `x · sigmoid(x)`.
    silu FLOATS, |x| x * x.sigmoid();
    /// `ln(sigmoid(x))`.
    log_sigmoid FLOATS, |x| -(-x).softplus();
    /// `x · tanh(softplus(x))`.
    mish FLOATS, |x| x * x.softplus().tanh();
    /// `clip(x / 6 + 1/2, 0, 1)`, truncated for integers.
    hardsigmoid &[F32, F16, BF16, I32], |x| (x / 6.0 + 0.5).clamp(0.0, 1.0) => (x >= 3) as i64;
    /// Rounds up.
    ceil REALS, |x| x.ceil();
    /// Rounds down.
    floor &[F32, F16, BF16, F64, I64, I32, I16, I8, U8, U64, U32, U16], |x| x.floor() => x;
    /// Rounds to nearest, ties to even; a negative zero becomes zero.
    round &[F32, F16, BF16, F64, I32, I64], |x| x.round_ties_even() + 0.0 => x;
    /// Rounds towards zero.
    trunc FLOATS, |x| x.trunc();
    /// What rounding towards zero cuts off.
    frac &[F32, F16, BF16, U8, I8, I16, I32, I64], |x| x.fract() => x.wrapping_rem(1);
    /// -1, 0 or 1.
    sign &[F64, F32, F16, BF16, I32, I64, Bool], |x| if x == 0.0 || x.is_nan() { x } else { x.signum() } => x.signum();
}

/// `-x`, stored in a type that the input's converts to.
pub fn neg(call: &mut Call, self_: Tensor, out: Tensor) -> Result<Kernel> {
    let types = &[I8, I32, I64, F16, BF16, F32, F64];
    into_float(call, &self_, &out, types, types)?;
    let dtype = self_.dtype;
    Ok(zip!([self_], out, dtype => dtype, () |x| -x; int x.wrapping_neg()))
}

/// `max(0, x) + slope · min(0, x)`.
pub fn leaky_relu(call: &mut Call, self_: Tensor, negative_slope: Scalar, out: Tensor) -> Result<Kernel> {
    let dtype = into_float(call, &self_, &out, FLOATS, FLOATS)?;
    Ok(zip_float!([self_], out, dtype => dtype, (negative_slope) |x| if x >= 0.0 { x } else { x * negative_slope }))
}

/// `scale · x` above zero, `alpha · scale · (e^(input_scale · x) - 1)` below.
pub fn elu(
    call: &mut Call,
    self_: Tensor,
    alpha: Scalar,
    scale: Scalar,
    input_scale: Scalar,
    out: Tensor,
) -> Result<Kernel> {
    let dtype = into_float(call, &self_, &out, FLOATS, FLOATS)?;
    Ok(zip_float!([self_], out, dtype => dtype, (alpha, scale, input_scale)
        |x| if x > 0.0 { scale * x } else { alpha * scale * (x * input_scale).exp_m1() }))
}

/// `x · Φ(x)`: `approximate` 0 by the error function, 1 by the tanh formula.
pub fn gelu_v2(call: &mut Call, x: Tensor, approximate: i64, y: Tensor) -> Result<Kernel> {
    let dtype = like_input(call, &x, &y, FLOATS)?;
    match approximate {
        0 => Ok(zip_float!([x], y, dtype => dtype, () |x| x.gelu())),
        1 => gelu(call, x, y),
        other => call.invalid(format!("approximate is {other}, wanted 0 (none) or 1 (tanh)")),
    }
}

/// `ln(1 + e^(beta · x)) / beta`, and `x` itself where `beta · x` is above the threshold.
pub fn softplus(call: &mut Call, self_: Tensor, beta: Scalar, threshold: Scalar, out: Tensor) -> Result<Kernel> {
    let dtype = into_float(call, &self_, &out, FLOATS, FLOATS)?;
    Ok(zip_float!([self_], out, dtype => dtype, (beta, threshold)
        |x| if x * beta > threshold { x } else { (x * beta).softplus() / beta }))
}

/// Whether each element is neither infinite nor NaN.
pub fn is_finite(call: &mut Call, self_: Tensor, out: Tensor) -> Result<Kernel> {
    let dtype = into_float(call, &self_, &out, REALS, &[Bool])?;
    Ok(zip_float!([self_], out, dtype => Bool, () |x| Wide::truth(x.is_finite())))
}

/// Whether each element is zero, stored as 0 or 1 in any type.
pub fn logical_not(call: &mut Call, self_: Tensor, out: Tensor) -> Result<Kernel> {
    into_float(call, &self_, &out, COMMON, COMMON)?;
    let dtype = self_.dtype;
    Ok(zip!([self_], out, dtype => Bool, () |x| Wide::truth(x == 0.0); int (x == 0) as i64))
}

/// Every bit inverted; the logical complement of booleans.
pub fn bitwise_not(call: &mut Call, self_: Tensor, out: Tensor) -> Result<Kernel> {
    let dtype = like_input(call, &self_, &out, &[I16, I32, I64, I8, U8, Bool])?;
    let boolean = dtype == Bool;
    Ok(zip!([self_], out, dtype => dtype, () |x| x; int if boolean { (x == 0) as i64 } else { !x }))
}

/// Operators that write their result over their input.
macro_rules! inplace_operators {
    ($($(#[$doc:meta])* $name:ident $types:expr, |$x:ident| $formula:expr; int $int:expr;)*) => {$(
        $(#[$doc])*
        pub fn $name(call: &mut Call, self_ref: Tensor) -> Result<Kernel> {
            let dtype = like_input(call, &self_ref, &self_ref, $types)?;
            Ok(zip!([self_ref.clone()], self_ref, dtype => dtype, () |$x| $formula; int $int))
        }
    )*};
}

inplace_operators! {
    /// [`relu`] in place.
    inplace_relu &[F32, F16, BF16, I8, I32, I64, U8], |x| x.larger(0.0); int x.max(0);
    /// [`sigmoid`] in place.
    inplace_sigmoid REALS, |x| x.sigmoid(); int x;
    /// [`exp`] in place.
    inplace_exp REALS, |x| x.exp(); int x;
    /// [`sqrt`] in place.
    inplace_sqrt REALS, |x| x.sqrt(); int x;
    /// [`neg`] in place.
    inplace_neg &[I8, I32, I64, F16, BF16, F32, F64], |x| -x; int x.wrapping_neg();
}
