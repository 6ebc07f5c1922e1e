//! Calling a row of the operator table by its name, with arguments that are data: what the conformance suite and
//! `npu-run smoke` need, which walk the table. Code that knows its operator uses [`launch`](super::launch).

use super::Error;
use super::context::Context;
use super::launch::{Arg, phases};
use super::tensor::{IntArray, Scalar, TensorDesc, TensorList};
use acl_sys::aclnn::kind;
use acl_sys::loader::op;
use acl_sys::{Operator, aclBoolArray, aclFloatArray, aclScalarList};
use std::ffi::CStr;
use std::ptr::null_mut;

/// One argument of a first phase.
pub enum Value<'a> {
    Tensor(&'a TensorDesc<'a>),
    Tensors(&'a TensorList<'a>),
    Scalar(&'a Scalar<'a>),
    Scalars(&'a ScalarList<'a>),
    Ints(&'a IntArray<'a>),
    Bools(&'a BoolArray<'a>),
    Floats(&'a FloatArray<'a>),
    Int(i64),
    Float(f64),
    Bool(bool),
    Str(&'a CStr),
    /// `aclDataType`.
    DType(i32),
    Null,
}

/// Host arrays that only rare operators take: owned handles.
macro_rules! owned {
    ($($(#[$doc:meta])* $name:ident($raw:ident) from $item:ty: $create:ident, $destroy:ident;)*) => {$(
        $(#[$doc])*
        pub struct $name<'a> { raw: *mut $raw, context: &'a Context }

        impl<'a> $name<'a> {
            pub fn new(context: &'a Context, values: &[$item]) -> Result<Self, Error> {
                context.0.ready()?;
                let api = &context.0.api;
                // SAFETY: the array holds as many values as the call is told; the call copies them.
                let answer = unsafe { api.acl.$create(values.as_ptr(), values.len() as u64) };
                Ok(Self { raw: api.handle(stringify!($create), answer)?, context })
            }
        }

        impl Drop for $name<'_> {
            fn drop(&mut self) {
                let inner = &self.context.0;
                // SAFETY: made by `new`, destroyed once.
                let answer = unsafe { inner.api.acl.$destroy(self.raw) };
                inner.record(inner.api.check(stringify!($destroy), answer));
            }
        }
    )*};
}

owned! {
    /// Truth values that an operator reads on the host.
    BoolArray(aclBoolArray) from bool: aclCreateBoolArray, aclDestroyBoolArray;
    /// Numbers that an operator reads on the host.
    FloatArray(aclFloatArray) from f32: aclCreateFloatArray, aclDestroyFloatArray;
}

/// A list of scalars, which owns its scalars: destroying the list destroys them.
pub struct ScalarList<'a> {
    raw: *mut aclScalarList,
    context: &'a Context,
}

impl<'a> ScalarList<'a> {
    pub fn new(context: &'a Context, scalars: Vec<Scalar<'a>>) -> Result<Self, Error> {
        context.0.ready()?;
        let api = &context.0.api;
        let raw: Vec<_> = scalars.iter().map(|scalar| scalar.raw.cast_const()).collect();
        // SAFETY: the array holds as many live scalars as the call is told.
        let answer = unsafe { api.acl.aclCreateScalarList(raw.as_ptr(), raw.len() as u64) };
        let raw = api.handle("aclCreateScalarList", answer)?;
        scalars.into_iter().for_each(std::mem::forget);
        Ok(Self { raw, context })
    }
}

impl Drop for ScalarList<'_> {
    fn drop(&mut self) {
        let inner = &self.context.0;
        // SAFETY: made by `new`, destroyed once.
        let answer = unsafe { inner.api.acl.aclDestroyScalarList(self.raw) };
        inner.record(inner.api.check("aclDestroyScalarList", answer));
    }
}

/// Takes the next value as the C type of each kind; what does not fit becomes an error that names the parameter.
struct Taker<'a> {
    row: &'static str,
    values: std::slice::Iter<'a, Value<'a>>,
}

impl Taker<'_> {
    fn wrong<T>(&self, parameter: &str, wanted: &str) -> Result<T, Error> {
        Err(Error::Arguments { op: self.row, why: format!("argument {parameter} is not {wanted}") })
    }
}

/// A taker a kind; null goes through for every pointer, because refusing it is the operator's business.
macro_rules! takers {
    ($($kind:ident: $wanted:literal { $($pattern:pat => $raw:expr),+ $(,)? })*) => {
        // Kinds that no row of the table has today are kept: a row is added without touching this file.
        #[allow(non_snake_case, dead_code)]
        impl Taker<'_> {$(
            fn $kind(&mut self, parameter: &str) -> Result<kind::$kind, Error> {
                match self.values.next() {
                    $(Some($pattern) => Ok($raw),)+
                    _ => self.wrong(parameter, $wanted),
                }
            }
        )*}
    };
}

takers! {
    In: "a tensor" { Value::Tensor(t) => t.raw(), Value::Null => null_mut() }
    Opt: "a tensor" { Value::Tensor(t) => t.raw(), Value::Null => null_mut() }
    Out: "a tensor" { Value::Tensor(t) => t.raw(), Value::Null => null_mut() }
    OutC: "a tensor" { Value::Tensor(t) => t.raw(), Value::Null => null_mut() }
    OptOut: "a tensor" { Value::Tensor(t) => t.raw(), Value::Null => null_mut() }
    OptOutC: "a tensor" { Value::Tensor(t) => t.raw(), Value::Null => null_mut() }
    Ref: "a tensor" { Value::Tensor(t) => t.raw(), Value::Null => null_mut() }
    OptRef: "a tensor" { Value::Tensor(t) => t.raw(), Value::Null => null_mut() }
    InList: "a list of tensors" { Value::Tensors(t) => t.raw(), Value::Null => null_mut() }
    OptInList: "a list of tensors" { Value::Tensors(t) => t.raw(), Value::Null => null_mut() }
    OutList: "a list of tensors" { Value::Tensors(t) => t.raw(), Value::Null => null_mut() }
    OptOutList: "a list of tensors" { Value::Tensors(t) => t.raw(), Value::Null => null_mut() }
    OutListC: "a list of tensors" { Value::Tensors(t) => t.raw(), Value::Null => null_mut() }
    Scalar: "a scalar" { Value::Scalar(s) => s.raw(), Value::Null => null_mut() }
    OptScalar: "a scalar" { Value::Scalar(s) => s.raw(), Value::Null => null_mut() }
    Scalars: "a list of scalars" { Value::Scalars(s) => s.raw, Value::Null => null_mut() }
    Ints: "an array of integers" { Value::Ints(v) => v.raw(), Value::Null => null_mut() }
    OptInts: "an array of integers" { Value::Ints(v) => v.raw(), Value::Null => null_mut() }
    IntsMut: "an array of integers" { Value::Ints(v) => v.raw, Value::Null => null_mut() }
    OptIntsMut: "an array of integers" { Value::Ints(v) => v.raw, Value::Null => null_mut() }
    Bools: "an array of truth values" { Value::Bools(v) => v.raw, Value::Null => null_mut() }
    OptBools: "an array of truth values" { Value::Bools(v) => v.raw, Value::Null => null_mut() }
    Floats: "an array of numbers" { Value::Floats(v) => v.raw, Value::Null => null_mut() }
    OptFloats: "an array of numbers" { Value::Floats(v) => v.raw, Value::Null => null_mut() }
    Str: "a string" { Value::Str(s) => s.as_ptr(), Value::Null => null_mut() }
    StrMut: "a string" { Value::Str(s) => s.as_ptr().cast_mut(), Value::Null => null_mut() }
    OptStr: "a string" { Value::Str(s) => s.as_ptr(), Value::Null => null_mut() }
    OptStrMut: "a string" { Value::Str(s) => s.as_ptr().cast_mut(), Value::Null => null_mut() }
    I64: "an integer" { Value::Int(v) => *v }
    I32: "an integer" { Value::Int(v) => *v as i32 }
    Int: "an integer" { Value::Int(v) => *v as i32 }
    I8: "an integer" { Value::Int(v) => *v as i8 }
    U64: "an integer" { Value::Int(v) => *v as u64 }
    U32: "an integer" { Value::Int(v) => *v as u32 }
    F64: "a number" { Value::Float(v) => *v, Value::Int(v) => *v as f64 }
    F32: "a number" { Value::Float(v) => *v as f32, Value::Int(v) => *v as f32 }
    Bool: "a truth value" { Value::Bool(v) => *v }
    DType: "an element type" { Value::DType(v) => *v }
}

macro_rules! by_name {
    ($($name:ident [$library:ident $since:literal $sim:ident] ($($param:ident : $kind:ident),* $(,)?);)*) => {
        /// Launches the row called `row` (`Add` for `aclnnAdd`) with `values` for the parameters of its first phase.
        pub fn launch_row(context: &Context, row: &str, values: &[Value<'_>]) -> Result<(), Error> {
            context.0.ready()?;
            match row {
                $(stringify!($name) => {
                    let (first, second) = context.0.api.aclnn.pair::<op::$name>()?;
                    let mut taker = Taker { row: stringify!($name), values: values.iter() };
                    $(let $param = taker.$kind(stringify!($param))?;)*
                    if taker.values.next().is_some() {
                        return taker.wrong("list", "as short as the row");
                    }
                    phases(context, &<op::$name as Operator>::DECL, <op::$name as Operator>::SYMBOLS, second, |size, executor| {
                        // SAFETY: the arguments have the types of the row, their handles are alive while `values` is
                        // borrowed, and `phases` passes valid pointers.
                        unsafe { first($($param,)* size, executor) }
                    })
                })*
                _ => Err(Error::Arguments { op: "launch_row", why: format!("the operator table has no row {row}") }),
            }
        }
    };
}
acl_sys::aclnn_operators!(by_name);
