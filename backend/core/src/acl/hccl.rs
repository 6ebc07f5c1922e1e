//! What the loaded CANN has of HCCL.

use super::{Context, Error};
use hccl_sys::FUNCTIONS;
use std::ffi::CString;

/// HCCL as the loaded CANN has it.
#[derive(Clone, Debug)]
pub struct HcclStatus {
    pub present: usize,
    /// Declared functions that are missing, each with the oldest release that is known to have it.
    pub missing: Vec<(String, &'static str)>,
}

impl Context {
    /// Looks every declared function of HCCL up.
    pub fn hccl(&self) -> Result<HcclStatus, Error> {
        self.0.ready()?;
        let source = self.0.api.acl.source();
        let found = |name: &str, library| CString::new(name).is_ok_and(|name| source.address(library, &name).is_some());
        let missing = FUNCTIONS.iter().filter(|f| !found(f.name, f.library)).map(|f| (f.name.to_owned(), f.since));
        let missing: Vec<_> = missing.collect();
        Ok(HcclStatus { present: FUNCTIONS.len() - missing.len(), missing })
    }
}
