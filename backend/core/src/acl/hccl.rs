//! What the loaded CANN has of HCCL. Collectives come with distributed training; until then a user wants to know whether
//! the library is there and answers.

use super::{Context, Error};
use hccl_sys::{FUNCTIONS, Hccl, HcclRootInfo};
use std::ffi::CString;
use std::mem::MaybeUninit;

/// HCCL as the loaded CANN has it.
#[derive(Clone, Debug)]
pub struct HcclStatus {
    pub present: usize,
    /// Declared functions that are missing, each with the oldest release that is known to have it.
    pub missing: Vec<(String, &'static str)>,
    /// What `HcclGetRootInfo`, the first call of any job, answered: an `HcclResult`.
    pub root_info: i32,
}

impl Context {
    /// Looks every declared function of HCCL up and makes the first call of a job.
    pub fn hccl(&self) -> Result<HcclStatus, Error> {
        self.0.ready()?;
        let source = self.0.api.acl.source();
        let found = |name: &str, library| CString::new(name).is_ok_and(|name| source.address(library, &name).is_some());
        let missing = FUNCTIONS.iter().filter(|f| !found(f.name, f.library)).map(|f| (f.name.to_owned(), f.since));
        let missing: Vec<_> = missing.collect();
        let mut info = MaybeUninit::<HcclRootInfo>::uninit();
        // SAFETY: the call fills the structure that it is given, which is not read here.
        let root_info = unsafe { Hccl::new(source.clone()).HcclGetRootInfo(info.as_mut_ptr()) }?;
        Ok(HcclStatus { present: FUNCTIONS.len() - missing.len(), missing, root_info })
    }
}
