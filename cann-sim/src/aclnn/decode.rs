//! From C arguments to the values that operators take: null and dead handles are refused here, once for all operators.

use super::call::{Call, Direction, Slot};
use super::meta;
use super::tensor::Tensor;
use crate::dtype::DType;
use crate::ensure;
use crate::status::Result;
use acl_sys::aclnn::kind;
use acl_sys::error::*;
use std::ffi::CStr;

/// A host scalar.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Scalar {
    pub dtype: DType,
    /// The value, if the type is floating-point or fits 53 bits; else the nearest.
    pub float: f64,
    /// The value, if the type is integral; else truncated.
    pub int: i64,
}

/// A list of tensor arguments.
pub type TensorList = Vec<Tensor>;

/// Decodes one C argument of a given kind for one call.
pub(super) struct Decode<'a> {
    pub call: &'a mut Call,
    pub name: &'static str,
}

impl Decode<'_> {
    fn required<T>(&self, pointer: *const T) -> Result<()> {
        ensure!(!pointer.is_null(), ACLNN_ERR_PARAM_NULLPTR, "{}: {} is null", self.call.op, self.name);
        Ok(())
    }

    fn tensor(&mut self, handle: *const acl_sys::aclTensor, direction: Direction) -> Result<Tensor> {
        self.required(handle)?;
        let (meta, address) = meta::tensor(handle, self.name)?;
        let slot = self.call.slots.len();
        self.call.slots.push(Slot { name: self.name, direction, meta: meta.clone(), address, touched: None });
        Ok(Tensor { name: self.name, meta, slot, handle: handle as u64 })
    }

    fn tensors(&mut self, handle: *const acl_sys::aclTensorList, direction: Direction) -> Result<TensorList> {
        self.required(handle)?;
        meta::tensor_list(handle, self.name)?.into_iter().map(|tensor| self.tensor(tensor, direction)).collect()
    }
}

macro_rules! decoders {
    ($($kind:ident -> $out:ty : |$d:ident, $v:ident| $body:expr;)*) => {
        // Some kinds are only taken by rows that are not simulated.
        #[allow(non_snake_case, dead_code)]
        impl Decode<'_> {$(
            pub(super) fn $kind(&mut self, value: kind::$kind) -> Result<$out> {
                let ($d, $v) = (self, value);
                $body
            }
        )*}
    };
}

/// `Some(decoded)` unless the pointer is null.
macro_rules! optional {
    ($v:ident, $e:expr) => {
        if $v.is_null() { Ok(None) } else { $e.map(Some) }
    };
}

decoders! {
    In -> Tensor: |d, v| d.tensor(v, Direction::Input);
    Opt -> Option<Tensor>: |d, v| optional!(v, d.tensor(v, Direction::Input));
    Out -> Tensor: |d, v| d.tensor(v, Direction::Output);
    OutC -> Tensor: |d, v| d.tensor(v, Direction::Output);
    OptOut -> Option<Tensor>: |d, v| optional!(v, d.tensor(v, Direction::Output));
    OptOutC -> Option<Tensor>: |d, v| optional!(v, d.tensor(v, Direction::Output));
    Ref -> Tensor: |d, v| d.tensor(v, Direction::InOut);
    OptRef -> Option<Tensor>: |d, v| optional!(v, d.tensor(v, Direction::InOut));
    InList -> TensorList: |d, v| d.tensors(v, Direction::Input);
    OptInList -> Option<TensorList>: |d, v| optional!(v, d.tensors(v, Direction::Input));
    OutList -> TensorList: |d, v| d.tensors(v, Direction::Output);
    OptOutList -> Option<TensorList>: |d, v| optional!(v, d.tensors(v, Direction::Output));
    OutListC -> TensorList: |d, v| d.tensors(v, Direction::Output);
    Scalar -> Scalar: |d, v| { d.required(v)?; meta::scalar(v, d.name) };
    OptScalar -> Option<Scalar>: |d, v| optional!(v, meta::scalar(v, d.name));
    Scalars -> Vec<Scalar>: |d, v| { d.required(v)?; meta::scalar_list(v, d.name) };
    Ints -> Vec<i64>: |d, v| { d.required(v)?; meta::int_array(v, d.name) };
    OptInts -> Option<Vec<i64>>: |d, v| optional!(v, meta::int_array(v, d.name));
    IntsMut -> *mut acl_sys::aclIntArray: |d, v| { d.required(v)?; Ok(v) };
    OptIntsMut -> Option<Vec<i64>>: |d, v| optional!(v, meta::int_array(v, d.name));
    Bools -> Vec<bool>: |d, v| { d.required(v)?; meta::bool_array(v, d.name) };
    OptBools -> Option<Vec<bool>>: |d, v| optional!(v, meta::bool_array(v, d.name));
    Floats -> Vec<f32>: |d, v| { d.required(v)?; meta::float_array(v, d.name) };
    OptFloats -> Option<Vec<f32>>: |d, v| optional!(v, meta::float_array(v, d.name));
    Str -> String: |d, v| { d.required(v)?; Ok(text(v)) };
    StrMut -> String: |d, v| { d.required(v)?; Ok(text(v)) };
    OptStr -> Option<String>: |_d, v| optional!(v, Ok(text(v)));
    OptStrMut -> Option<String>: |_d, v| optional!(v, Ok(text(v)));
    I64 -> i64: |_d, v| Ok(v);
    I32 -> i32: |_d, v| Ok(v);
    Int -> i32: |_d, v| Ok(v);
    I8 -> i8: |_d, v| Ok(v);
    U64 -> u64: |_d, v| Ok(v);
    U32 -> u32: |_d, v| Ok(v);
    F64 -> f64: |_d, v| Ok(v);
    F32 -> f32: |_d, v| Ok(v);
    Bool -> bool: |_d, v| Ok(v);
    DType -> DType: |_d, v| DType::from_acl(v);
}

fn text(pointer: *const std::ffi::c_char) -> String {
    // SAFETY: the interface asks for a NUL-terminated string, and the pointer is not null here.
    unsafe { CStr::from_ptr(pointer) }.to_string_lossy().into_owned()
}
