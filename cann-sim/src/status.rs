//! Failures as the C interface reports them: a code, and a text that `aclGetRecentErrMsg` hands out once.

use acl_sys::error::{ACL_ERROR_INVALID_PARAM, ACL_ERROR_RT_INTERNAL_ERROR};
use std::cell::{Cell, RefCell};
use std::ffi::{CString, c_char};
use std::panic::{AssertUnwindSafe, catch_unwind};

/// A failed call: the code it returns and the text that explains it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    pub code: i32,
    pub message: String,
}

/// Result of anything that a C caller may have asked for.
pub type Result<T> = std::result::Result<T, Status>;

impl Status {
    pub fn new(code: i32, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }
}

/// Returns early with a [`Status`]: `fail!(code, "text {}", value)`.
#[macro_export]
macro_rules! fail {
    ($code:expr, $($text:tt)*) => { return Err($crate::status::Status::new($code, format!($($text)*))) };
}

/// Returns early with a [`Status`] unless the condition holds: `ensure!(condition, code, "text {}", value)`.
#[macro_export]
macro_rules! ensure {
    ($condition:expr, $code:expr, $($text:tt)*) => { if !$condition { $crate::fail!($code, $($text)*) } };
}

thread_local! {
    static RECENT: RefCell<Option<String>> = const { RefCell::new(None) };
    static HANDED_OUT: RefCell<CString> = RefCell::new(CString::default());
    static LAST: Cell<i32> = const { Cell::new(0) };
}

/// Runs the body of an exported function: its failure becomes the code that the C caller gets, and so does a panic,
/// which must not cross into C.
pub fn call(name: &str, body: impl FnOnce() -> Result<()>) -> i32 {
    report(name, catch(body))
}

/// Runs `body`; a panic becomes an error.
pub fn catch<T>(body: impl FnOnce() -> Result<T>) -> Result<T> {
    catch_unwind(AssertUnwindSafe(body)).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str).or_else(|| panic.downcast_ref::<&str>().copied());
        fail!(ACL_ERROR_RT_INTERNAL_ERROR, "the simulator itself failed: {}", text.unwrap_or("no text"))
    })
}

/// Stores what a function answers through a pointer.
pub(crate) fn put<T>(out: *mut T, name: &str, value: T) -> Result<()> {
    ensure!(!out.is_null(), ACL_ERROR_INVALID_PARAM, "{name} is null");
    // SAFETY: the pointer is not null, and the C interface asks that it point to a writable value of this type.
    unsafe { out.write(value) };
    Ok(())
}

/// Code of this thread's last failure; `clear` forgets it.
pub fn last_error(clear: bool) -> i32 {
    LAST.with(|last| if clear { last.replace(0) } else { last.get() })
}

/// Turns a result into the code that the C caller gets, keeping the text for `aclGetRecentErrMsg` of this thread.
pub fn report(call: &str, result: Result<()>) -> i32 {
    match result {
        Ok(()) => 0,
        Err(status) => {
            let known = acl_sys::error::lookup(status.code).or_else(|| hccl_sys::error::lookup(status.code));
            let name = known.map_or("", |row| row.name);
            let text = format!("{call}: {} {name}: {}", status.code, status.message);
            if std::env::var_os("CANN_SIM_LOG").is_some() {
                eprintln!("[cann-sim] {text}");
            }
            RECENT.with(|slot| *slot.borrow_mut() = Some(text));
            LAST.with(|last| last.set(status.code));
            status.code
        }
    }
}

/// The text of this thread's last failure, which is forgotten by being read; null when there is none.
pub fn take_recent() -> *const c_char {
    match RECENT.with(|slot| slot.borrow_mut().take()) {
        None => std::ptr::null(),
        Some(text) => HANDED_OUT.with(|slot| {
            *slot.borrow_mut() = CString::new(text.replace('\0', " ")).unwrap_or_default();
            slot.borrow().as_ptr()
        }),
    }
}
