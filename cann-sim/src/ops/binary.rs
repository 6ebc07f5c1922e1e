//! Arithmetic of two and three operands, with broadcasting and type promotion.

use super::types::*;
use super::wide::{Wide, zip, zip_float};
use crate::aclnn::{Call, Kernel, Scalar, Tensor};
use crate::dtype::DType;
use crate::dtype::DType::*;
use crate::status::Result;

/// Checks of broadcast operands: the type they promote to, and that `out` has the shape they broadcast to.
pub(super) fn operands(call: &Call, inputs: &[&Tensor], out: &Tensor, types: &[DType]) -> Result<DType> {
    at_most_8d(call, inputs)?;
    at_most_8d(call, &[out])?;
    inputs.iter().try_for_each(|input| call.dtype_in(input, types))?;
    let dtype = promote_all(call, inputs)?;
    let shape = inputs.iter().try_fold(Vec::new(), |shape, input| call.broadcast(&shape, &input.shape))?;
    call.shape_is(out, &shape)?;
    Ok(dtype)
}

/// As [`operands`] for an arithmetic result, which `out` must be able to hold.
pub(super) fn arithmetic(call: &Call, inputs: &[&Tensor], out: &Tensor, types: &[DType]) -> Result<DType> {
    let dtype = operands(call, inputs, out, types)?;
    call.dtype_in(out, types)?;
    check_castable(call, dtype, out)?;
    Ok(dtype)
}

/// Checks of a tensor and a host scalar: the type they promote to.
pub(super) fn with_scalar(call: &Call, x: &Tensor, scalar: &Scalar, out: &Tensor, types: &[DType]) -> Result<DType> {
    at_most_8d(call, &[x, out])?;
    call.dtype_in(x, types)?;
    call.shape_is(out, &x.shape)?;
    promote_scalar(call, x, scalar.dtype)
}

/// As [`with_scalar`] for an arithmetic result, which `out` must be able to hold.
pub(super) fn scaled(call: &Call, x: &Tensor, scalar: &Scalar, out: &Tensor, types: &[DType]) -> Result<DType> {
    let dtype = with_scalar(call, x, scalar, out, types)?;
    call.dtype_in(out, types)?;
    check_castable(call, dtype, out)?;
    Ok(dtype)
}

/// Refuses a factor that cannot be converted to the type of the computation.
fn check_alpha(call: &Call, alpha: &Scalar, dtype: DType) -> Result<()> {
    match castable(alpha.dtype, dtype) {
        true => Ok(()),
        false => call.invalid(format!("alpha is {}, which cannot be converted to {dtype}", alpha.dtype)),
    }
}

/// `self + alpha · other`.
pub fn add(call: &mut Call, self_: Tensor, other: Tensor, alpha: Scalar, out: Tensor) -> Result<Kernel> {
    let dtype = arithmetic(call, &[&self_, &other], &out, COMMON)?;
    check_alpha(call, &alpha, dtype)?;
    Ok(zip!([self_, other], out, dtype => dtype, (alpha) |a, b| a + alpha * b; int a.plus(alpha.times(b))))
}

/// `self - alpha · other`.
pub fn sub(call: &mut Call, self_: Tensor, other: Tensor, alpha: Scalar, out: Tensor) -> Result<Kernel> {
    let dtype = arithmetic(call, &[&self_, &other], &out, COMMON)?;
    check_alpha(call, &alpha, dtype)?;
    Ok(zip!([self_, other], out, dtype => dtype, (alpha) |a, b| a - alpha * b; int a.wrapping_sub(alpha.times(b))))
}

/// `self + alpha · other` with a host scalar.
pub fn adds(call: &mut Call, self_: Tensor, other: Scalar, alpha: Scalar, out: Tensor) -> Result<Kernel> {
    let dtype = scaled(call, &self_, &other, &out, COMMON)?;
    check_alpha(call, &alpha, dtype)?;
    Ok(zip!([self_], out, dtype => dtype, (other, alpha) |a| a + alpha * other; int a.plus(alpha.times(other))))
}

/// `self - alpha · other` with a host scalar.
pub fn subs(call: &mut Call, self_: Tensor, other: Scalar, alpha: Scalar, out: Tensor) -> Result<Kernel> {
    let dtype = scaled(call, &self_, &other, &out, COMMON)?;
    check_alpha(call, &alpha, dtype)?;
    Ok(zip!([self_], out, dtype => dtype, (other, alpha) |a| a - alpha * other; int a.wrapping_sub(alpha.times(other))))
}

/// `other - alpha · self` with a host scalar.
pub fn rsubs(call: &mut Call, self_: Tensor, other: Scalar, alpha: Scalar, out: Tensor) -> Result<Kernel> {
    let dtype = scaled(call, &self_, &other, &out, NUMBERS)?;
    check_alpha(call, &alpha, dtype)?;
    Ok(zip!([self_], out, dtype => dtype, (other, alpha) |a| other - alpha * a; int other.wrapping_sub(alpha.times(a))))
}

/// `self · other`.
pub fn mul(call: &mut Call, self_: Tensor, other: Tensor, out: Tensor) -> Result<Kernel> {
    let dtype = arithmetic(call, &[&self_, &other], &out, COMMON)?;
    Ok(zip!([self_, other], out, dtype => dtype, () |a, b| a * b; int a.times(b)))
}

/// `self · other` with a host scalar.
pub fn muls(call: &mut Call, self_: Tensor, other: Scalar, out: Tensor) -> Result<Kernel> {
    let dtype = scaled(call, &self_, &other, &out, COMMON)?;
    Ok(zip!([self_], out, dtype => dtype, (other) |a| a * other; int a.times(other)))
}

/// The type that a quotient of integers is computed in: true division, so `FLOAT`.
fn quotient(dtype: DType) -> DType {
    if dtype.is_float() { dtype } else { F32 }
}

/// `self / other`, in floating point for integers too.
pub fn div(call: &mut Call, self_: Tensor, other: Tensor, out: Tensor) -> Result<Kernel> {
    let dtype = quotient(arithmetic(call, &[&self_, &other], &out, COMMON)?);
    check_castable(call, dtype, &out)?;
    Ok(zip_float!([self_, other], out, dtype => dtype, () |a, b| a / b))
}

/// `self / other` with a host scalar, in floating point for integers too.
pub fn divs(call: &mut Call, self_: Tensor, other: Scalar, out: Tensor) -> Result<Kernel> {
    let dtype = quotient(scaled(call, &self_, &other, &out, COMMON)?);
    check_castable(call, dtype, &out)?;
    Ok(zip_float!([self_], out, dtype => dtype, (other) |a| a / other))
}

/// Integer quotient rounded down; a division by zero gives -1, all bits set, as the device's vector unit does.
fn floor_div(a: i64, b: i64) -> i64 {
    match b {
        0 => -1,
        _ => a.wrapping_div(b) - (a.wrapping_rem(b) != 0 && (a < 0) != (b < 0)) as i64,
    }
}

/// Remainder of the sign of the dividend; of a division by zero, the dividend.
fn integer_fmod(a: i64, b: i64) -> i64 {
    if b == 0 { a } else { a.wrapping_rem(b) }
}

/// Remainder of the sign of the divisor; of a division by zero, the dividend.
fn integer_remainder(a: i64, b: i64) -> i64 {
    if b == 0 { a } else { a.wrapping_sub(floor_div(a, b).wrapping_mul(b)) }
}

/// Remainder of the sign of the divisor.
macro_rules! float_remainder {
    ($a:ident, $b:ident) => {{
        let rest = $a % $b;
        if rest != 0.0 && (rest < 0.0) != ($b < 0.0) { rest + $b } else { rest }
    }};
}

/// `self / other`; `mode` 0 exact, 1 rounded towards zero, 2 rounded down.
pub fn div_mod(call: &mut Call, self_: Tensor, other: Tensor, mode: i32, out: Tensor) -> Result<Kernel> {
    let dtype = arithmetic(call, &[&self_, &other], &out, COMMON)?;
    match mode {
        0 => div(call, self_, other, out),
        1 => Ok(zip!([self_, other], out, dtype => dtype, () |a, b| (a / b).trunc();
            int if b == 0 { -1 } else { a.wrapping_div(b) })),
        2 => Ok(zip!([self_, other], out, dtype => dtype, () |a, b| (a / b).floor(); int floor_div(a, b))),
        other => call.invalid(format!("mode is {other}, wanted 0 (none), 1 (trunc) or 2 (floor)")),
    }
}

/// Binary operators without scalars, whose result has the promoted type.
macro_rules! binary_operators {
    ($($(#[$doc:meta])* $name:ident $types:expr, |$a:ident, $b:ident| $float:expr; int $int:expr;)*) => {$(
        $(#[$doc])*
        pub fn $name(call: &mut Call, self_: Tensor, other: Tensor, out: Tensor) -> Result<Kernel> {
            let dtype = arithmetic(call, &[&self_, &other], &out, $types)?;
            Ok(zip!([self_, other], out, dtype => dtype, () |$a, $b| $float; int $int))
        }
    )*};
}

/// What the division remainders take.
const FMOD: &[DType] = &[F64, BF16, F16, F32, I32, I64, I8, U8];
/// What the remainder that follows the divisor's sign promotes to.
const REMAINDER: &[DType] = &[I32, I64, F16, F32, F64, BF16];

binary_operators! {
    /// The larger element; NaN where either is.
    maximum COMMON, |a, b| a.larger(b); int a.max(b);
    /// The smaller element; NaN where either is.
    minimum COMMON, |a, b| a.smaller(b); int a.min(b);
    /// Remainder of the sign of the dividend.
    fmod_tensor FMOD, |a, b| a % b; int integer_fmod(a, b);
}

/// Remainder of the sign of the dividend, by a host scalar.
pub fn fmod_scalar(call: &mut Call, self_: Tensor, other: Scalar, out: Tensor) -> Result<Kernel> {
    let dtype = scaled(call, &self_, &other, &out, FMOD)?;
    Ok(zip!([self_], out, dtype => dtype, (other) |a| a % other; int integer_fmod(a, other)))
}

/// Refuses a promoted type that the remainder does not compute in.
fn remainder_type(call: &Call, dtype: DType) -> Result<()> {
    match REMAINDER.contains(&dtype) {
        true => Ok(()),
        false => call.invalid(format!("self and other promote to {dtype}, wanted one of {REMAINDER:?}")),
    }
}

/// Remainder of the sign of the divisor.
pub fn remainder_tensor_tensor(call: &mut Call, self_: Tensor, other: Tensor, out: Tensor) -> Result<Kernel> {
    let dtype = operands(call, &[&self_, &other], &out, COMMON)?;
    remainder_type(call, dtype)?;
    call.dtype_in(&out, NUMBERS)?;
    Ok(zip!([self_, other], out, dtype => dtype, () |a, b| float_remainder!(a, b); int integer_remainder(a, b)))
}

/// Remainder of the sign of the divisor, by a host scalar.
pub fn remainder_tensor_scalar(call: &mut Call, self_: Tensor, other: Scalar, out: Tensor) -> Result<Kernel> {
    let dtype = with_scalar(call, &self_, &other, &out, REMAINDER)?;
    remainder_type(call, dtype)?;
    call.dtype_in(&out, NUMBERS)?;
    Ok(zip!([self_], out, dtype => dtype, (other) |a| float_remainder!(a, other); int integer_remainder(a, other)))
}

/// Angle of the point (`other`, `self`).
pub fn atan2(call: &mut Call, self_: Tensor, other: Tensor, out: Tensor) -> Result<Kernel> {
    let dtype = quotient(operands(call, &[&self_, &other], &out, COMMON)?);
    call.dtype_in(&out, REALS)?;
    Ok(zip_float!([self_, other], out, dtype => dtype, () |a, b| a.atan2(b)))
}

/// `self + value · tensor1 · tensor2`.
pub fn addcmul(
    call: &mut Call,
    self_: Tensor,
    tensor1: Tensor,
    tensor2: Tensor,
    value: Scalar,
    out: Tensor,
) -> Result<Kernel> {
    let dtype = arithmetic(call, &[&self_, &tensor1, &tensor2], &out, &[F32, F16, F64, BF16, I32, I64, I8, U8])?;
    check_alpha(call, &value, dtype)?;
    Ok(zip!([self_, tensor1, tensor2], out, dtype => dtype, (value)
        |a, b, c| a + value * b * c; int a.plus(value.times(b).times(c))))
}

/// `self + value · tensor1 / tensor2`.
pub fn addcdiv(
    call: &mut Call,
    self_: Tensor,
    tensor1: Tensor,
    tensor2: Tensor,
    value: Scalar,
    out: Tensor,
) -> Result<Kernel> {
    let dtype = arithmetic(call, &[&self_, &tensor1, &tensor2], &out, &[BF16, F16, F32, F64, I64])?;
    check_alpha(call, &value, dtype)?;
    Ok(zip!([self_, tensor1, tensor2], out, dtype => dtype, (value)
        |a, b, c| a + value * b / c; int a.plus(if c == 0 { -1 } else { value.times(b).wrapping_div(c) })))
}

/// `self + weight · (end - self)`; all four tensors have one type.
pub fn lerp(call: &mut Call, self_: Tensor, end: Tensor, weight: Tensor, out: Tensor) -> Result<Kernel> {
    let dtype = operands(call, &[&self_, &end, &weight], &out, FLOATS)?;
    [&end, &weight, &out].into_iter().try_for_each(|tensor| call.same_dtype(tensor, &self_))?;
    Ok(zip_float!([self_, end, weight], out, dtype => dtype, () |a, b, w| a + w * (b - a)))
}

/// The in-place form of an operator: its output is its first input.
macro_rules! inplace {
    ($($name:ident = $operator:ident($($param:ident: $ty:ty),*);)*) => {$(
        #[doc = concat!("[`", stringify!($operator), "`] in place.")]
        pub fn $name(call: &mut Call, self_ref: Tensor, $($param: $ty),*) -> Result<Kernel> {
            $operator(call, self_ref.clone(), $($param,)* self_ref)
        }
    )*};
}

inplace! {
    inplace_add = add(other: Tensor, alpha: Scalar);
    inplace_adds = adds(other: Scalar, alpha: Scalar);
    inplace_sub = sub(other: Tensor, alpha: Scalar);
    inplace_subs = subs(other: Scalar, alpha: Scalar);
    inplace_mul = mul(other: Tensor);
    inplace_muls = muls(other: Scalar);
    inplace_div = div(other: Tensor);
    inplace_divs = divs(other: Scalar);
    inplace_addcmul = addcmul(tensor1: Tensor, tensor2: Tensor, value: Scalar);
    inplace_addcdiv = addcdiv(tensor1: Tensor, tensor2: Tensor, value: Scalar);
}
