//! The functions of the CUDA libraries, as far as a linker can see.
//!
//! Each is one jump through a slot, so that it passes on arguments and results of any kind untouched.

use std::ffi::{CStr, c_int, c_void};
use std::sync::atomic::{AtomicPtr, Ordering};

/// The address that an entry point jumps to.
#[repr(transparent)]
pub struct Slot(AtomicPtr<c_void>);

impl Slot {
    const fn new(function: extern "C" fn() -> c_int) -> Self {
        Self(AtomicPtr::new(function as *mut c_void))
    }

    pub(crate) fn set(&self, function: *mut c_void) {
        self.0.store(function, Ordering::Release);
    }

    pub(crate) fn get(&self) -> *mut c_void {
        self.0.load(Ordering::Acquire)
    }
}

/// Names and slots of a library's functions, in one order.
pub struct Table {
    pub names: &'static [&'static CStr],
    pub slots: &'static [Slot],
}

impl Table {
    /// The slot of a function that the table is known to have.
    pub(crate) fn slot(&self, name: &CStr) -> &'static Slot {
        let index = self.names.iter().position(|other| *other == name);
        &self.slots[index.unwrap_or_else(|| panic!("the table lacks {name:?}"))]
    }

    /// The function `name`, or what answers in its stead.
    ///
    /// # Safety
    /// `F` must be the type of a pointer to `name` as its library declares it.
    pub(crate) unsafe fn function<F: Copy>(&self, name: &CStr) -> F {
        const { assert!(size_of::<F>() == size_of::<*mut c_void>()) };
        let address = self.slot(name).get();
        // SAFETY: the sizes are equal, and by the caller's promise the address is that of an `F`.
        unsafe { std::mem::transmute_copy(&address) }
    }
}

/// What a function of a library that is not there answers: the status by which that library says so.
pub(crate) mod absent {
    use super::c_int;

    macro_rules! answers {
        ($($library:ident $status:literal $meaning:literal;)*) => { $(
            #[doc = $meaning]
            #[allow(non_snake_case)]
            pub(crate) extern "C" fn $library() -> c_int {
                $status
            }
        )* };
    }
    answers! {
        cuda 34 "CUDA_ERROR_STUB_LIBRARY";
        newer_driver 36 "CUDA_ERROR_CALL_REQUIRES_NEWER_DRIVER: the driver is there, without this function";
        cublas 1 "CUBLAS_STATUS_NOT_INITIALIZED";
        cublasLt 1 "CUBLAS_STATUS_NOT_INITIALIZED";
        curand 203 "CURAND_STATUS_INITIALIZATION_FAILED";
        nvrtc 11 "NVRTC_ERROR_INTERNAL_ERROR";
        nccl 2 "ncclSystemError";
    }
}

macro_rules! entries {
    ($library:ident, $count:literal => $($index:literal $function:ident $own:ident,)*) => {
        #[allow(non_snake_case)]
        pub(crate) mod $library {
            use super::{Slot, Table, absent};

            static SLOTS: [Slot; $count] = [const { Slot::new(absent::$library) }; $count];
            pub(crate) static TABLE: Table = Table {
                names: &[$(
                    match std::ffi::CStr::from_bytes_with_nul(concat!(stringify!($function), "\0").as_bytes()) {
                        Ok(name) => name,
                        Err(_) => panic!("a name with a NUL"),
                    },
                )*],
                slots: &SLOTS,
            };
            $( entry! { $index $function $own } )*
        }
    };
}

macro_rules! entry {
    ($index:literal $function:ident own) => {};
    ($index:literal $function:ident jump) => {
        #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
        // SAFETY: cudarc calls the function with the arguments of its C declaration, which the jump leaves where they
        // are; the slot always holds the address of a function.
        #[unsafe(naked)]
        #[unsafe(no_mangle)]
        unsafe extern "C" fn $function() {
            core::arch::naked_asm!("jmp qword ptr [rip + {slots} + {offset}]", slots = sym SLOTS, offset = const 8 * $index)
        }
    };
}

include!(concat!(env!("OUT_DIR"), "/entries.rs"));

/// NCCL, which no linked crate calls: names and slots, and no functions for a linker.
pub(crate) mod nccl {
    use super::{Slot, Table, absent};

    static SLOTS: [Slot; 11] = [const { Slot::new(absent::nccl) }; 11];
    pub(crate) static TABLE: Table = Table {
        names: &[
            c"ncclGetVersion",
            c"ncclGetUniqueId",
            c"ncclCommInitRank",
            c"ncclCommDestroy",
            c"ncclCommAbort",
            c"ncclCommGetAsyncError",
            c"ncclGetLastError",
            c"ncclAllReduce",
            c"ncclBroadcast",
            c"ncclAllGather",
            c"ncclReduceScatter",
        ],
        slots: &SLOTS,
    };
}
