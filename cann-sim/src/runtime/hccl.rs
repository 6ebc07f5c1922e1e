//! The exported functions of HCCL. They exist, so that a program links and loads, and answer that collectives are not
//! supported; only the text of an error code is real.

use crate::status::{Status, report};
use acl_sys::{aclrtDrvMemHandle, aclrtStream};
use hccl_sys::*;
use std::collections::BTreeMap;
use std::ffi::{CString, c_char, c_void};
use std::sync::OnceLock;

/// What a refused function answers, by the type that it answers with.
trait Refusal {
    const VALUE: Self;
}

impl Refusal for HcclResult {
    const VALUE: Self = HCCL_E_NOT_SUPPORT;
}

impl Refusal for u32 {
    /// No capability.
    const VALUE: Self = 0;
}

fn refuse<T: Refusal>(name: &str) -> T {
    let text = "the simulated CANN has no collectives yet; run on one device, or on real cards";
    report(name, Err(Status::new(HCCL_E_NOT_SUPPORT, text)));
    T::VALUE
}

macro_rules! export_one {
    (HcclGetErrorString $($rest:tt)*) => {};
    ($name:ident ($($param:ident : $ty:ty),*) $ret:ty) => {
        #[doc = "Refused: there are no collectives yet."]
        /// # Safety
        /// Reads no argument.
        #[unsafe(no_mangle)]
        #[allow(non_snake_case, clippy::too_many_arguments)]
        pub unsafe extern "C" fn $name($($param: $ty),*) -> $ret {
            let _: ($($ty,)*) = ($($param,)*);
            refuse(stringify!($name))
        }
    };
}

macro_rules! export_hccl {
    ($($library:ident $since:literal fn $name:ident($($param:ident : $ty:ty),* $(,)?) -> $ret:ty;)*) => {
        $(export_one! { $name ($($param: $ty),*) $ret })*

        // Each export has exactly the declared type.
        $(const _: unsafe extern "C" fn($($ty),*) -> $ret = $name;)*

        /// Names, addresses and oldest release of the exported functions.
        pub(crate) fn table() -> Vec<(&'static str, *const c_void, &'static str)> {
            vec![$((stringify!($name), $name as *const c_void, $since)),*]
        }
    };
}
hccl_sys::hccl_functions!(export_hccl);

/// What a code of HCCL means.
#[unsafe(no_mangle)]
#[allow(non_snake_case)]
pub extern "C" fn HcclGetErrorString(code: HcclResult) -> *const c_char {
    static TEXTS: OnceLock<BTreeMap<HcclResult, CString>> = OnceLock::new();
    let texts = TEXTS.get_or_init(|| {
        let text = |meaning: &str| CString::new(meaning).unwrap_or_default();
        hccl_sys::error::CODES.iter().map(|row| (row.code, text(row.meaning))).collect()
    });
    texts.get(&code).map_or(c"unknown error".as_ptr(), |text| text.as_ptr())
}
