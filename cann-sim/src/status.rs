//! Failures as the C interface reports them: a code, and a text that `aclGetRecentErrMsg` hands out once.

use std::cell::RefCell;
use std::ffi::{CString, c_char};

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
}

/// Turns a result into the code that the C caller gets, keeping the text for `aclGetRecentErrMsg` of this thread.
pub fn report(call: &str, result: Result<()>) -> i32 {
    match result {
        Ok(()) => 0,
        Err(status) => {
            let name = acl_sys::error::lookup(status.code).map_or("", |row| row.name);
            let text = format!("{call}: {} {name}: {}", status.code, status.message);
            if std::env::var_os("CANN_SIM_LOG").is_some() {
                eprintln!("[cann-sim] {text}");
            }
            RECENT.with(|slot| *slot.borrow_mut() = Some(text));
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
