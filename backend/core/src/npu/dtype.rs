//! Which C type an element type is, and by which route an operator computes on it.

use crate::acl::Error;
use acl_sys::*;
use candle_core::DType;

pub(super) const FLOATS: &[DType] = &[DType::F32, DType::F16, DType::BF16];
pub(super) const FLOATS_AND_DOUBLE: &[DType] = &[DType::F32, DType::F16, DType::BF16, DType::F64];
/// Every type that tensors on the device compute with.
pub(super) const NUMBERS: &[DType] =
    &[DType::F32, DType::F16, DType::BF16, DType::F64, DType::I64, DType::I32, DType::I16, DType::U8, DType::U32];
pub(super) const INDEXES: &[DType] = &[DType::U32, DType::I64, DType::U8, DType::I32];

/// The C type of `dtype`.
pub(super) fn acl_type(dtype: DType) -> Result<aclDataType, Error> {
    Ok(match dtype {
        DType::U8 => ACL_UINT8,
        DType::U32 => ACL_UINT32,
        DType::I16 => ACL_INT16,
        DType::I32 => ACL_INT32,
        DType::I64 => ACL_INT64,
        DType::BF16 => ACL_BF16,
        DType::F16 => ACL_FLOAT16,
        DType::F32 => ACL_FLOAT,
        DType::F64 => ACL_DOUBLE,
        DType::F8E4M3 => ACL_FLOAT8_E4M3FN,
        got => return Err(Error::DType { op: "a tensor", got, has: NUMBERS }),
    })
}

/// A type of the same width that operators which only move bits take.
pub(super) fn bits_type(dtype: DType) -> Result<aclDataType, Error> {
    match dtype {
        DType::U32 => Ok(ACL_INT32),
        DType::F8E4M3 => Ok(ACL_UINT8),
        other => acl_type(other),
    }
}

/// A type of the same width that the masking operator takes, for filling with zero bits.
pub(super) fn fill_type(dtype: DType) -> aclDataType {
    match dtype.size_in_bytes() {
        1 => ACL_INT8,
        2 => ACL_FLOAT16,
        4 => ACL_INT32,
        _ => ACL_INT64,
    }
}

/// Refuses a type that is not one of `has`.
pub(super) fn require(op: &'static str, got: DType, has: &'static [DType]) -> Result<(), Error> {
    if has.contains(&got) { Ok(()) } else { Err(Error::DType { op, got, has }) }
}
