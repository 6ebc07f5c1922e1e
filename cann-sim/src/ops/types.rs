//! Which element types operators take and what they make of two different ones: the rules that all pages share.

use crate::aclnn::{Call, Tensor};
use crate::dtype::DType;
use crate::dtype::DType::*;
use crate::status::Result;

/// Floating-point types of the cube and vector cores.
pub(crate) const FLOATS: &[DType] = &[F32, F16, BF16];
/// Floating-point types, the AI CPU's `DOUBLE` among them.
pub(crate) const REALS: &[DType] = &[F32, F16, BF16, F64];
/// Signed integers and `UINT8`.
pub(crate) const INTEGERS: &[DType] = &[I64, I32, I16, I8, U8];
/// What most arithmetic takes, without `BOOL`.
pub(crate) const NUMBERS: &[DType] = &[F32, F16, BF16, F64, I64, I32, I16, I8, U8];
/// What most arithmetic takes.
pub(crate) const COMMON: &[DType] = &[F32, F16, BF16, F64, I64, I32, I16, I8, U8, Bool];
/// All types that move through A2 and A3 devices.
pub(crate) const EVERY: &[DType] = &[F32, F16, BF16, F64, I64, I32, I16, I8, U8, Bool, U16, U32, U64];
/// Types of index tensors.
pub(crate) const INDICES: &[DType] = &[I32, I64];

/// Type that an operator computes in when its inputs have types `a` and `b`; none where the pages' table has a cross.
pub(crate) fn promote(a: DType, b: DType) -> Option<DType> {
    let outside = |dtype| matches!(dtype, U16 | U32 | U64 | F8E4M3 | F8E5M2);
    Some(match (a, b) {
        _ if a == b => a,
        _ if outside(a) || outside(b) => return None,
        (F64, _) | (_, F64) => F64,
        _ if a.is_float() && b.is_float() => F32,
        _ if a.is_float() => a,
        _ if b.is_float() => b,
        (Bool, other) | (other, Bool) => other,
        (I8, U8) | (U8, I8) => I16,
        _ if a.size() >= b.size() => a,
        _ => b,
    })
}

/// Whether a result of type `from` may be stored in an output of type `to`: anything but into `BOOL`.
pub(crate) fn castable(from: DType, to: DType) -> bool {
    from == to || to != Bool
}

/// The type that all of `tensors` promote to, or an error that names the two that do not go together.
pub(crate) fn promote_all(call: &Call, tensors: &[&Tensor]) -> Result<DType> {
    let (first, rest) = tensors.split_first().map_or_else(|| call.invalid("no input tensor"), Ok)?;
    rest.iter().try_fold(first.dtype, |dtype, tensor| match promote(dtype, tensor.dtype) {
        Some(promoted) => Ok(promoted),
        None => call.invalid(format!("{} is {}, which does not combine with {dtype}", tensor.name, tensor.dtype)),
    })
}

/// The type that a tensor and a host scalar promote to; A2 and A3 use the same table as for two tensors.
pub(crate) fn promote_scalar(call: &Call, tensor: &Tensor, scalar: DType) -> Result<DType> {
    match promote(tensor.dtype, scalar) {
        Some(dtype) => Ok(dtype),
        None => {
            call.invalid(format!("{} is {}, which does not combine with a {scalar} scalar", tensor.name, tensor.dtype))
        }
    }
}

/// Refuses an output whose type the result cannot be converted to.
pub(crate) fn check_castable(call: &Call, from: DType, out: &Tensor) -> Result<()> {
    match castable(from, out.dtype) {
        true => Ok(()),
        false => {
            call.invalid(format!("the result is {from}, which cannot be stored in {} of type {}", out.name, out.dtype))
        }
    }
}

/// Refuses tensors of more than eight dimensions, the limit of nearly all operators.
pub(crate) fn at_most_8d(call: &Call, tensors: &[&Tensor]) -> Result<()> {
    tensors.iter().try_for_each(|tensor| call.rank_in(tensor, 0..=8))
}
