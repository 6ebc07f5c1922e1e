//! The one function that launches operators.

use super::Error;
use super::context::Context;
use super::tensor::{IntArray, Scalar, TensorDesc, TensorList};
use super::watch;
use acl_sys::loader::{OperatorDecl, Phase2};
use acl_sys::{Operator, aclIntArray, aclOpExecutor, aclScalar, aclTensor, aclTensorList, aclnnStatus, timing};
use std::ffi::{CStr, c_char};
use std::ptr::{null, null_mut};
use std::sync::atomic::Ordering;

mod sealed {
    /// Arguments are what this module says they are: a foreign implementation could pass any pointer.
    pub trait Sealed {}
}
use sealed::Sealed;

/// A value that can be passed where the first phase of an operator has a parameter of C type `C`.
pub trait Arg<C>: Sealed {
    fn raw(&self) -> C;
}

macro_rules! plain {
    ($($ty:ty)*) => {$(
        impl Sealed for $ty {}
        impl Arg<$ty> for $ty {
            fn raw(&self) -> $ty { *self }
        }
    )*};
}
plain! { i64 i32 i8 u64 u32 f64 f32 bool }

macro_rules! handles {
    ($($ty:ident => $($raw:ty),+;)*) => {$(
        impl Sealed for &$ty<'_> {}
        impl Sealed for Option<&$ty<'_>> {}
        $(
            impl Arg<$raw> for &$ty<'_> {
                fn raw(&self) -> $raw { self.raw }
            }
            impl Arg<$raw> for Option<&$ty<'_>> {
                fn raw(&self) -> $raw { self.map_or(null_mut(), |handle| handle.raw) }
            }
        )+
    )*};
}
handles! {
    TensorDesc => *const aclTensor, *mut aclTensor;
    TensorList => *const aclTensorList, *mut aclTensorList;
    Scalar => *const aclScalar;
    IntArray => *const aclIntArray;
}

impl Sealed for &CStr {}
impl Arg<*const c_char> for &CStr {
    fn raw(&self) -> *const c_char {
        self.as_ptr()
    }
}
/// Some headers leave out a `const`; operators only read their strings.
impl Arg<*mut c_char> for &CStr {
    fn raw(&self) -> *mut c_char {
        self.as_ptr().cast_mut()
    }
}

impl Sealed for Option<&CStr> {}
impl Arg<*const c_char> for Option<&CStr> {
    fn raw(&self) -> *const c_char {
        self.map_or(null(), CStr::as_ptr)
    }
}

/// The first phase of an operator that takes the arguments `A`.
pub trait FirstPhase<A>: Copy {
    /// # Safety
    /// The function must be the first phase that its type says, and the last two pointers must be valid for writing.
    unsafe fn call(self, args: &A, workspace: *mut u64, executor: *mut *mut aclOpExecutor) -> aclnnStatus;
}

macro_rules! first_phase {
    ($($c:ident $x:ident),*) => {
        impl<$($c, $x: Arg<$c>),*> FirstPhase<($($x,)*)>
            for unsafe extern "C" fn($($c,)* *mut u64, *mut *mut aclOpExecutor) -> aclnnStatus
        {
            #[allow(non_snake_case)]
            unsafe fn call(self, args: &($($x,)*), workspace: *mut u64, executor: *mut *mut aclOpExecutor) -> aclnnStatus {
                let ($($x,)*) = args;
                // SAFETY: every argument is a plain value or a handle that is alive while `args` is borrowed.
                unsafe { self($($x.raw(),)* workspace, executor) }
            }
        }
    };
}

/// One implementation for each number of arguments.
macro_rules! first_phases {
    () => {};
    ($c:ident $x:ident, $($rest_c:ident $rest_x:ident,)*) => {
        first_phase!($c $x $(, $rest_c $rest_x)*);
        first_phases!($($rest_c $rest_x,)*);
    };
}
first_phases! {
    C0 X0, C1 X1, C2 X2, C3 X3, C4 X4, C5 X5, C6 X6, C7 X7,
    C8 X8, C9 X9, C10 X10, C11 X11, C12 X12, C13 X13, C14 X14, C15 X15,
    C16 X16, C17 X17, C18 X18, C19 X19, C20 X20, C21 X21, C22 X22, C23 X23,
    C24 X24, C25 X25, C26 X26, C27 X27, C28 X28, C29 X29, C30 X30, C31 X31,
    C32 X32, C33 X33, C34 X34, C35 X35, C36 X36, C37 X37, C38 X38, C39 X39,
    C40 X40, C41 X41, C42 X42, C43 X43, C44 X44, C45 X45, C46 X46, C47 X47,
    C48 X48, C49 X49, C50 X50, C51 X51, C52 X52, C53 X53, C54 X54, C55 X55,
}

/// Launches operator `O` on the context's stream: first phase, workspace from the pool, second phase. The workspace goes
/// back to the pool at once, because whoever gets it next comes later in the stream.
///
/// ```text
/// launch::<op::Add, _>(context, (&a, &b, &alpha, &out))?;
/// ```
pub fn launch<O, A>(context: &Context, args: A) -> Result<(), Error>
where
    O: Operator,
    O::Phase1: FirstPhase<A>,
{
    context.0.ready()?;
    let (first, second) = context.0.api.aclnn.pair::<O>()?;
    // SAFETY: `first` is the first phase of `O` by the operator table; `phases` passes valid pointers.
    phases(context, &O::DECL, O::SYMBOLS, second, |size, executor| unsafe { first.call(&args, size, executor) })
}

/// Both phases of the operator whose functions are called `symbols`; `first` runs the first with its arguments.
pub(super) fn phases(
    context: &Context,
    decl: &'static OperatorDecl,
    symbols: (&'static CStr, &'static CStr),
    second: Phase2,
    first: impl FnOnce(*mut u64, *mut *mut aclOpExecutor) -> aclnnStatus,
) -> Result<(), Error> {
    let inner = &context.0;
    let (mut size, mut executor) = (0u64, null_mut());
    let status = timing::call(|| first(&mut size, &mut executor));
    if status != 0 {
        return inner.api.check(symbols.0.to_str().unwrap_or(decl.name), Ok(status));
    }
    let workspace = match size {
        0 => None,
        _ => Some(context.allocate(size as usize).inspect_err(|_| {
            // SAFETY: the executor came from the first phase and is not launched.
            let _ = unsafe { inner.api.acl.aclDestroyAclOpExecutor(executor) };
        })?),
    };
    let pointer = workspace.as_ref().map_or(null_mut(), |buffer| buffer.pointer());
    let launched = inner.enqueue(symbols.1.to_str().unwrap_or(decl.name), |stream| {
        // SAFETY: the workspace holds `size` bytes, the executor came from the first phase of the same operator, and the
        // tensors that it refers to stay allocated until the stream has passed.
        Ok(timing::call(|| unsafe { second(pointer, size, executor, stream) }))
    });
    let counting = &inner.counting;
    let counter = if inner.captured_here() { &counting.captured_launches } else { &counting.launches };
    counter.fetch_add(1, Ordering::Relaxed);
    watch::note(decl.name);
    launched
}
