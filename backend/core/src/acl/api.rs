//! The loaded function tables and the translation of their answers.

use super::Error;
use acl_sys::{Acl, Aclnn, MissingSymbol, SymbolSource};
use hccl_sys::Hccl;
use std::ffi::CStr;
use std::sync::Arc;

/// The functions of one CANN.
pub(crate) struct Api {
    pub(super) acl: Acl,
    pub(super) aclnn: Aclnn,
    pub(super) hccl: Hccl,
}

impl Api {
    pub(super) fn new(source: Arc<dyn SymbolSource>) -> Self {
        Self { acl: Acl::new(source.clone()), aclnn: Aclnn::new(source.clone()), hccl: Hccl::new(source) }
    }

    /// One line: which CANN this is and where it was found.
    pub(crate) fn describe(&self) -> String {
        self.acl.source().describe()
    }

    /// Turns the answer of a call into a result, with the runtime's own message.
    pub(super) fn check(&self, call: &'static str, answer: Result<i32, MissingSymbol>) -> Result<(), Error> {
        match answer? {
            0 => Ok(()),
            code => Err(Error::acl(call, code, self.recent_message())),
        }
    }

    /// As [`Api::check`], for a call of HCCL, whose codes have a table of their own.
    pub(super) fn check_hccl(&self, call: &'static str, answer: Result<i32, MissingSymbol>) -> Result<(), Error> {
        match answer? {
            0 => Ok(()),
            code => Err(Error::known(call, code, hccl_sys::error::lookup(code), self.recent_message())),
        }
    }

    /// A handle that a call returned, or an error when it is null.
    pub(super) fn handle<T>(&self, call: &'static str, answer: Result<*mut T, MissingSymbol>) -> Result<*mut T, Error> {
        let handle = answer?;
        if handle.is_null() {
            return Err(Error::acl(call, acl_sys::error::ACL_ERROR_FAILURE, self.recent_message()));
        }
        Ok(handle)
    }

    /// The runtime's last message of this thread; taking it clears it.
    fn recent_message(&self) -> Option<String> {
        // SAFETY: the function takes nothing and answers null or a string that lives until the thread's next call.
        let text = unsafe { self.acl.aclGetRecentErrMsg() }.ok()?;
        if text.is_null() {
            return None;
        }
        // SAFETY: not null, and NUL-terminated by the interface.
        Some(unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned())
    }
}
