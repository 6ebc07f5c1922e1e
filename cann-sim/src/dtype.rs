//! Element types of the interface and their conversion to the types that the operators compute in.

use crate::fail;
use crate::status::Result;
use acl_sys::enums::*;
use acl_sys::error::ACLNN_ERR_PARAM_INVALID;
use half::{bf16, f16};
use std::fmt;

/// An element type that the simulator stores and computes with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DType {
    F32,
    F16,
    BF16,
    F64,
    I8,
    I16,
    I32,
    I64,
    U8,
    U16,
    U32,
    U64,
    Bool,
    F8E4M3,
    F8E5M2,
}

impl fmt::Display for DType {
    /// CANN's own name of the type.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            DType::F32 => "FLOAT",
            DType::F16 => "FLOAT16",
            DType::BF16 => "BFLOAT16",
            DType::F64 => "DOUBLE",
            DType::I8 => "INT8",
            DType::I16 => "INT16",
            DType::I32 => "INT32",
            DType::I64 => "INT64",
            DType::U8 => "UINT8",
            DType::U16 => "UINT16",
            DType::U32 => "UINT32",
            DType::U64 => "UINT64",
            DType::Bool => "BOOL",
            DType::F8E4M3 => "FLOAT8_E4M3FN",
            DType::F8E5M2 => "FLOAT8_E5M2",
        })
    }
}

impl DType {
    pub fn from_acl(code: aclDataType) -> Result<Self> {
        Ok(match code {
            ACL_FLOAT => DType::F32,
            ACL_FLOAT16 => DType::F16,
            ACL_BF16 => DType::BF16,
            ACL_DOUBLE => DType::F64,
            ACL_INT8 => DType::I8,
            ACL_INT16 => DType::I16,
            ACL_INT32 => DType::I32,
            ACL_INT64 => DType::I64,
            ACL_UINT8 => DType::U8,
            ACL_UINT16 => DType::U16,
            ACL_UINT32 => DType::U32,
            ACL_UINT64 => DType::U64,
            ACL_BOOL => DType::Bool,
            ACL_FLOAT8_E4M3FN => DType::F8E4M3,
            ACL_FLOAT8_E5M2 => DType::F8E5M2,
            other => fail!(ACLNN_ERR_PARAM_INVALID, "data type {other} is not one that the simulated CANN stores"),
        })
    }

    pub fn to_acl(self) -> aclDataType {
        match self {
            DType::F32 => ACL_FLOAT,
            DType::F16 => ACL_FLOAT16,
            DType::BF16 => ACL_BF16,
            DType::F64 => ACL_DOUBLE,
            DType::I8 => ACL_INT8,
            DType::I16 => ACL_INT16,
            DType::I32 => ACL_INT32,
            DType::I64 => ACL_INT64,
            DType::U8 => ACL_UINT8,
            DType::U16 => ACL_UINT16,
            DType::U32 => ACL_UINT32,
            DType::U64 => ACL_UINT64,
            DType::Bool => ACL_BOOL,
            DType::F8E4M3 => ACL_FLOAT8_E4M3FN,
            DType::F8E5M2 => ACL_FLOAT8_E5M2,
        }
    }

    /// Size of one element in bytes.
    pub fn size(self) -> usize {
        match self {
            DType::F64 | DType::I64 | DType::U64 => 8,
            DType::F32 | DType::I32 | DType::U32 => 4,
            DType::F16 | DType::BF16 | DType::I16 | DType::U16 => 2,
            DType::I8 | DType::U8 | DType::Bool | DType::F8E4M3 | DType::F8E5M2 => 1,
        }
    }

    pub fn is_float(self) -> bool {
        matches!(self, DType::F32 | DType::F16 | DType::BF16 | DType::F64 | DType::F8E4M3 | DType::F8E5M2)
    }

    pub fn is_integer(self) -> bool {
        !self.is_float() && self != DType::Bool
    }
}

/// A Rust type that one [`DType`] is stored as. `to_*` widen exactly; `from_*` round once, to nearest even for floats,
/// saturating for a float that leaves an integer's range, wrapping between integers, as the device's Cast does.
pub trait Element: Copy + Send + Sync + 'static {
    const DTYPE: DType;
    fn to_f64(self) -> f64;
    fn to_f32(self) -> f32;
    fn to_i64(self) -> i64;
    fn from_f64(value: f64) -> Self;
    fn from_f32(value: f32) -> Self;
    fn from_i64(value: i64) -> Self;
}

macro_rules! element_int {
    ($($ty:ty = $dtype:ident),*) => {$(
        impl Element for $ty {
            const DTYPE: DType = DType::$dtype;
            fn to_f64(self) -> f64 { self as f64 }
            fn to_f32(self) -> f32 { self as f32 }
            fn to_i64(self) -> i64 { self as i64 }
            fn from_f64(value: f64) -> Self { value as $ty }
            fn from_f32(value: f32) -> Self { value as $ty }
            fn from_i64(value: i64) -> Self { value as $ty }
        }
    )*};
}
element_int!(i8 = I8, i16 = I16, i32 = I32, i64 = I64, u8 = U8, u16 = U16, u32 = U32, u64 = U64);

macro_rules! element_float {
    ($($ty:ty = $dtype:ident),*) => {$(
        impl Element for $ty {
            const DTYPE: DType = DType::$dtype;
            // The inherent methods, some of which borrow: `self.to_f64()` would be this very method.
            fn to_f64(self) -> f64 { (&&self).to_f64() }
            fn to_f32(self) -> f32 { (&&self).to_f32() }
            fn to_i64(self) -> i64 { (&&self).to_f64() as i64 }
            fn from_f64(value: f64) -> Self { <$ty>::from_f64(value) }
            fn from_f32(value: f32) -> Self { <$ty>::from_f32(value) }
            fn from_i64(value: i64) -> Self { <$ty>::from_f64(value as f64) }
        }
    )*};
}
element_float!(f16 = F16, bf16 = BF16, float8::F8E4M3 = F8E4M3, float8::F8E5M2 = F8E5M2);

impl Element for f32 {
    const DTYPE: DType = DType::F32;
    fn to_f64(self) -> f64 {
        self as f64
    }
    fn to_f32(self) -> f32 {
        self
    }
    fn to_i64(self) -> i64 {
        self as i64
    }
    fn from_f64(value: f64) -> Self {
        value as f32
    }
    fn from_f32(value: f32) -> Self {
        value
    }
    fn from_i64(value: i64) -> Self {
        value as f32
    }
}

impl Element for f64 {
    const DTYPE: DType = DType::F64;
    fn to_f64(self) -> f64 {
        self
    }
    fn to_f32(self) -> f32 {
        self as f32
    }
    fn to_i64(self) -> i64 {
        self as i64
    }
    fn from_f64(value: f64) -> Self {
        value
    }
    fn from_f32(value: f32) -> Self {
        value as f64
    }
    fn from_i64(value: i64) -> Self {
        value as f64
    }
}

/// A boolean, stored as a byte that is 0 or 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(transparent)]
pub struct Truth(pub u8);

impl Element for Truth {
    const DTYPE: DType = DType::Bool;
    fn to_f64(self) -> f64 {
        (self.0 != 0) as u8 as f64
    }
    fn to_f32(self) -> f32 {
        (self.0 != 0) as u8 as f32
    }
    fn to_i64(self) -> i64 {
        (self.0 != 0) as i64
    }
    fn from_f64(value: f64) -> Self {
        Truth((value != 0.0) as u8)
    }
    fn from_f32(value: f32) -> Self {
        Truth((value != 0.0) as u8)
    }
    fn from_i64(value: i64) -> Self {
        Truth((value != 0) as u8)
    }
}

/// Runs `$body` with the alias `$T` bound to the Rust type of a [`DType`].
#[macro_export]
macro_rules! with_element {
    ($dtype:expr, $T:ident => $body:expr) => {{
        use $crate::dtype::DType as D;
        match $dtype {
            D::F32 => {
                type $T = f32;
                $body
            }
            D::F16 => {
                type $T = half::f16;
                $body
            }
            D::BF16 => {
                type $T = half::bf16;
                $body
            }
            D::F64 => {
                type $T = f64;
                $body
            }
            D::I8 => {
                type $T = i8;
                $body
            }
            D::I16 => {
                type $T = i16;
                $body
            }
            D::I32 => {
                type $T = i32;
                $body
            }
            D::I64 => {
                type $T = i64;
                $body
            }
            D::U8 => {
                type $T = u8;
                $body
            }
            D::U16 => {
                type $T = u16;
                $body
            }
            D::U32 => {
                type $T = u32;
                $body
            }
            D::U64 => {
                type $T = u64;
                $body
            }
            D::Bool => {
                type $T = $crate::dtype::Truth;
                $body
            }
            D::F8E4M3 => {
                type $T = float8::F8E4M3;
                $body
            }
            D::F8E5M2 => {
                type $T = float8::F8E5M2;
                $body
            }
        }
    }};
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each type converts through its own method, not through the trait's of the same name.
    #[test]
    fn one_and_a_half_survives_every_float() {
        for dtype in [DType::F32, DType::F16, DType::BF16, DType::F64, DType::F8E4M3, DType::F8E5M2] {
            with_element!(dtype, T => {
                let value = <T as Element>::from_f32(1.5);
                assert_eq!(Element::to_f32(value), 1.5, "{dtype}");
                assert_eq!(Element::to_f64(value), 1.5, "{dtype}");
                assert_eq!(Element::to_i64(value), 1, "{dtype}");
            });
        }
    }
}
