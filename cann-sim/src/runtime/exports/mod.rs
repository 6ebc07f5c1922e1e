//! The exported C functions of the runtime, by concern, and the table that finds them by name.

/// Defines exported functions that answer a code: the body is a `Result<()>`, its failure becomes code and text.
macro_rules! export {
    ($($(#[$meta:meta])* fn $name:ident($($param:ident : $ty:ty),* $(,)?) $body:block)*) => {$(
        $(#[$meta])*
        /// # Safety
        /// As the C function: pointers must be valid for what the function does with them.
        #[unsafe(no_mangle)]
        #[allow(non_snake_case, clippy::too_many_arguments)]
        pub unsafe extern "C" fn $name($($param: $ty),*) -> i32 {
            $crate::status::call(stringify!($name), || -> $crate::status::Result<()> { $body })
        }
    )*};
}

/// Defines exported functions that the simulated CANN refuses, with the reason.
macro_rules! refuse {
    ($why:literal; $(fn $name:ident($($param:ident : $ty:ty),* $(,)?);)*) => {$(
        #[doc = concat!("Refused: ", $why, ".")]
        /// # Safety
        /// Reads no argument.
        #[unsafe(no_mangle)]
        #[allow(non_snake_case, clippy::too_many_arguments)]
        pub unsafe extern "C" fn $name($($param: $ty),*) -> i32 {
            let _ = ($($param,)*);
            let text = concat!("the simulated CANN has no ", stringify!($name), ": ", $why);
            let code = acl_sys::error::ACL_ERROR_RT_FEATURE_NOT_SUPPORT;
            $crate::status::report(stringify!($name), Err($crate::status::Status::new(code, text)))
        }
    )*};
}

pub(crate) use export;

pub mod arguments;
pub mod callback;
pub mod context;
pub mod copy;
pub mod event;
pub mod graph;
pub mod info;
pub mod kernel;
pub mod memory;
pub mod profiling;
pub mod stream;
pub mod virtual_memory;

use acl_sys::*;
use std::ffi::{c_char, c_void};

#[allow(unused_imports)]
mod all {
    pub use super::arguments::*;
    pub use super::callback::*;
    pub use super::context::*;
    pub use super::copy::*;
    pub use super::event::*;
    pub use super::graph::*;
    pub use super::info::*;
    pub use super::kernel::*;
    pub use super::memory::*;
    pub use super::profiling::*;
    pub use super::stream::*;
    pub use super::virtual_memory::*;
    pub use crate::aclnn::objects::*;
}

macro_rules! check_exports {
    ($($library:ident $since:literal fn $name:ident($($param:ident : $ty:ty),* $(,)?) -> $ret:ty;)*) => {
        // Each export has exactly the declared type; a row that nothing implements does not compile.
        $(const _: unsafe extern "C" fn($($ty),*) -> $ret = all::$name;)*

        /// Names, addresses and oldest release of the exported functions.
        pub(crate) fn table() -> Vec<(&'static str, *const c_void, &'static str)> {
            vec![$((stringify!($name), all::$name as *const c_void, $since)),*]
        }
    };
}
acl_sys::acl_functions!(check_exports);
