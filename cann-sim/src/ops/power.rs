//! Powers, and limits by host scalars.

use super::binary::{arithmetic, scaled};
use super::types::*;
use super::wide::{Wide, zip};
use crate::aclnn::{Call, Kernel, Scalar, Tensor};
use crate::dtype::DType;
use crate::dtype::DType::*;
use crate::status::Result;

/// Types that a power can be stored in.
const POWERS: &[DType] = EVERY;

/// Integer power with wrap-around; a negative exponent leaves 1 of ±1 and 0 of everything else.
fn integer_pow(base: i64, exponent: i64) -> i64 {
    match (base, exponent) {
        (1, _) => 1,
        (-1, e) => {
            if e % 2 == 0 {
                1
            } else {
                -1
            }
        }
        (_, e) if e < 0 => 0,
        (b, e) => {
            let (mut result, mut square, mut left) = (1i64, b, e);
            while left > 0 {
                if left & 1 == 1 {
                    result = result.wrapping_mul(square);
                }
                square = square.wrapping_mul(square);
                left >>= 1;
            }
            result
        }
    }
}

/// `self ^ exponent` with a host exponent, which must not be negative where the result is an integer.
pub fn pow_tensor_scalar(call: &mut Call, self_: Tensor, exponent: Scalar, out: Tensor) -> Result<Kernel> {
    let dtype = promote_scalar(call, &self_, exponent.dtype)?;
    at_most_8d(call, &[&self_])?;
    call.dtype_in(&self_, COMMON)?;
    call.dtype_in(&out, POWERS)?;
    call.shape_is(&out, &self_.shape)?;
    check_castable(call, dtype, &out)?;
    if dtype == Bool {
        return call.invalid("self and exponent are both BOOL");
    }
    if dtype.is_integer() {
        if exponent.int < 0 {
            return call.invalid(format!(
                "exponent is {} and the result {dtype}: a negative power is no integer",
                exponent.int
            ));
        }
        if exponent.int.rounded(dtype) != exponent.int {
            return call.invalid(format!("exponent {} is outside the range of {dtype}", exponent.int));
        }
    }
    Ok(zip!([self_], out, dtype => dtype, (exponent) |x| x.powf(exponent); int integer_pow(x, exponent)))
}

/// `self ^ exponent` of two tensors.
pub fn pow_tensor_tensor(call: &mut Call, self_: Tensor, exponent: Tensor, out: Tensor) -> Result<Kernel> {
    if self_.dtype == Bool && exponent.dtype == Bool {
        return call.invalid("self and exponent are both BOOL");
    }
    let dtype = super::binary::operands(call, &[&self_, &exponent], &out, COMMON)?;
    call.dtype_in(&out, POWERS)?;
    check_castable(call, dtype, &out)?;
    Ok(zip!([self_, exponent], out, dtype => dtype, () |x, e| x.powf(e); int integer_pow(x, e)))
}

/// `self ^ exponent` with a host base.
pub fn pow_scalar_tensor(call: &mut Call, self_: Scalar, exponent: Tensor, out: Tensor) -> Result<Kernel> {
    at_most_8d(call, &[&exponent])?;
    call.dtype_in(&exponent, NUMBERS)?;
    call.dtype_in(&out, EVERY)?;
    call.shape_is(&out, &exponent.shape)?;
    let dtype = promote_scalar(call, &exponent, self_.dtype)?;
    check_castable(call, dtype, &out)?;
    Ok(zip!([exponent], out, dtype => dtype, (self_) |e| self_.powf(e); int integer_pow(self_, e)))
}

/// `max(min(x, clip_value_max), clip_value_min)`, in the input's type.
pub fn clamp(
    call: &mut Call,
    self_: Tensor,
    clip_value_min: Scalar,
    clip_value_max: Scalar,
    out: Tensor,
) -> Result<Kernel> {
    at_most_8d(call, &[&self_])?;
    call.dtype_in(&self_, NUMBERS)?;
    call.dtype_in(&out, NUMBERS)?;
    call.shape_is(&out, &self_.shape)?;
    let (dtype, low, high) = (self_.dtype, clip_value_min, clip_value_max);
    // The order of the two limits matters where they cross: the lower one wins.
    Ok(zip!([self_], out, dtype => dtype, (low, high)
        |x| if x.is_nan() { x } else { x.min(high).max(low) }; int x.min(high).max(low)))
}

/// `max(x, clip_value_min)`.
pub fn clamp_min(call: &mut Call, self_: Tensor, clip_value_min: Scalar, out: Tensor) -> Result<Kernel> {
    let dtype = scaled(call, &self_, &clip_value_min, &out, NUMBERS)?;
    Ok(zip!([self_], out, dtype => dtype, (clip_value_min)
        |x| x.larger(clip_value_min); int x.max(clip_value_min)))
}

/// `min(x, clip_value_max)`.
pub fn clamp_max(call: &mut Call, self_: Tensor, clip_value_max: Scalar, out: Tensor) -> Result<Kernel> {
    let dtype = scaled(call, &self_, &clip_value_max, &out, NUMBERS)?;
    Ok(zip!([self_], out, dtype => dtype, (clip_value_max)
        |x| x.smaller(clip_value_max); int x.min(clip_value_max)))
}

/// What the bitwise operators of two tensors take.
const BITS: &[DType] = &[Bool, I8, I16, I32, I64, U8];
/// What the shifts take.
const SHIFTS: &[DType] = &[I8, I16, I32, I64, U8, U16, U32, U64];

/// Operators of the bits of integers, and of booleans as numbers of one bit.
macro_rules! bit_operators {
    ($($(#[$doc:meta])* $name:ident($left:ident, $right:ident) $types:expr, |$a:ident, $b:ident| $int:expr;)*) => {$(
        $(#[$doc])*
        pub fn $name(call: &mut Call, $left: Tensor, $right: Tensor, out: Tensor) -> Result<Kernel> {
            let dtype = arithmetic(call, &[&$left, &$right], &out, $types)?;
            // No floating-point type gets here, so the first formula never runs.
            Ok(zip!([$left, $right], out, dtype => dtype, () |$a, $b| $a + $b; int $int))
        }
    )*};
}

bit_operators! {
    /// Bitwise and.
    bitwise_and_tensor(self_, other) BITS, |a, b| a & b;
    /// Bitwise or.
    bitwise_or_tensor(self_, other) BITS, |a, b| a | b;
    /// Bitwise exclusive or.
    bitwise_xor_tensor(self_, other) BITS, |a, b| a ^ b;
    /// Bits moved up; shifting by the width or more, or by a negative number, gives 0.
    left_shift(self_, shift_bits) SHIFTS, |a, b| if (0..64).contains(&b) { a << b } else { 0 };
    /// Bits moved down, the sign kept; a negative number of bits counts as 0.
    right_shift(input, shift_bits) SHIFTS, |a, b| a >> b.clamp(0, 63);
}

/// Logical operators: zero is false, the result is stored as 0 or 1 in any type.
macro_rules! logical_operators {
    ($($(#[$doc:meta])* $name:ident |$a:ident, $b:ident| $formula:expr;)*) => {$(
        $(#[$doc])*
        pub fn $name(call: &mut Call, self_: Tensor, other: Tensor, out: Tensor) -> Result<Kernel> {
            let dtype = super::binary::operands(call, &[&self_, &other], &out, COMMON)?;
            call.dtype_in(&out, COMMON)?;
            Ok(zip!([self_, other], out, dtype => Bool, ()
                |x, y| { let ($a, $b) = (x != 0.0, y != 0.0); Wide::truth($formula) };
                int { let ($a, $b) = (x != 0, y != 0); Wide::truth($formula) }))
        }
    )*};
}

logical_operators! {
    /// Whether both are non-zero.
    logical_and |a, b| a && b;
    /// Whether either is non-zero.
    logical_or |a, b| a || b;
    /// Whether exactly one is non-zero.
    logical_xor |a, b| a != b;
}
