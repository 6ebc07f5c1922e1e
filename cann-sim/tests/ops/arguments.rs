//! Arguments that only the operators of models take: strings and arrays of booleans.

use crate::support::{Arg, Nothing, acl};
use acl_sys::*;
use std::ffi::{CString, c_char};

impl Arg<i8> for i8 {
    fn arg(self) -> i8 {
        self
    }
}

impl Arg<*mut c_char> for &CString {
    fn arg(self) -> *mut c_char {
        self.as_ptr().cast_mut()
    }
}

/// A C string.
pub fn text(value: &str) -> CString {
    CString::new(value).unwrap()
}

/// A host array of booleans.
pub struct Bools(*mut aclBoolArray);

pub fn bools(values: &[bool]) -> Bools {
    // SAFETY: the array has the length that is passed.
    Bools(unsafe { acl().aclCreateBoolArray(values.as_ptr(), values.len() as u64).unwrap() })
}

impl Drop for Bools {
    fn drop(&mut self) {
        // SAFETY: the array is destroyed once.
        assert_eq!(unsafe { acl().aclDestroyBoolArray(self.0) }, Ok(0));
    }
}

impl Arg<*const aclBoolArray> for &Bools {
    fn arg(self) -> *const aclBoolArray {
        self.0
    }
}

/// A handle that may be null.
pub struct Raw<T>(pub *const T);

impl<T> Arg<*const T> for Raw<T> {
    fn arg(self) -> *const T {
        self.0
    }
}

macro_rules! no_list {
    ($($to:ty: $null:expr;)*) => {$(
        impl Arg<$to> for Nothing {
            fn arg(self) -> $to {
                $null
            }
        }
    )*};
}
no_list! {
    *const aclTensorList: std::ptr::null();
    *mut aclTensorList: std::ptr::null_mut();
}
