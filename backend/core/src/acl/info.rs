//! What a user wants to know of a device and of the CANN that drives it.

use super::context::{Context, Inner, lock};
use super::{Error, api::Api};
use acl_sys::loader::{FUNCTIONS, OPERATORS};
use acl_sys::{ACL_DEV_ATTR_VECTOR_CORE_NUM, ACL_HBM_MEM, ACL_PKG_NAME_CANN, Library, aclCANNPackageVersion};
use std::collections::BTreeMap;
use std::ffi::{CStr, CString};

/// Memory of a device and of the pool over it, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MemoryInfo {
    /// What the device reports.
    pub free: usize,
    pub total: usize,
    /// What the pool took from the device.
    pub reserved: usize,
    /// What tensors and workspaces use now, and used at most.
    pub in_use: usize,
    pub peak: usize,
}

/// How much of one library's declared interface the loaded CANN has.
#[derive(Clone, Debug)]
pub struct LibraryStatus {
    pub library: Library,
    pub present: usize,
    /// Declared symbols that are missing, with the oldest release that is known to have each.
    pub missing: Vec<(String, &'static str)>,
}

impl Context {
    /// Memory of the device and of its pool.
    pub fn memory_info(&self) -> Result<MemoryInfo, Error> {
        self.0.ready()?;
        let (free, total) = self.0.memory()?;
        let pool = lock(&self.0.pool);
        let (reserved, in_use) = (pool.blocks.reserved(), pool.blocks.in_use());
        Ok(MemoryInfo { free, total, reserved, in_use, peak: pool.peak })
    }

    /// Vector cores of the device. Releases before 9 cannot say; no chip with split cores has fewer than the number then given.
    pub fn vector_cores(&self) -> usize {
        const FEWEST: usize = 40;
        let mut count = 0;
        let device = self.device() as u32;
        // SAFETY: writes one number through a valid pointer.
        let answer = unsafe { self.0.api.acl.aclrtGetDeviceInfo(device, ACL_DEV_ATTR_VECTOR_CORE_NUM, &mut count) };
        if answer.is_ok_and(|code| code == 0) && count > 0 { count as usize } else { FEWEST }
    }

    /// Starts the high-water mark anew from what is in use now.
    pub fn reset_peak_memory(&self) {
        let mut pool = lock(&self.0.pool);
        pool.peak = pool.blocks.in_use();
    }

    /// One line: which CANN this is and where it was found.
    pub fn source(&self) -> String {
        self.0.api.describe()
    }

    /// Each library file with the path it was loaded from, or why it was not; none where the functions come from no file.
    pub fn files(&self) -> Vec<(String, String)> {
        self.0.api.acl.source().files()
    }

    /// Number of devices that the loaded CANN sees.
    pub fn count(&self) -> Result<usize, Error> {
        self.0.ready()?;
        Self::device_count(&self.0.api)
    }

    /// Release of the loaded CANN as it reports it.
    pub fn version(&self) -> Result<String, Error> {
        self.0.api.version()
    }

    /// Each library of CANN with what is missing of its declared interface.
    pub fn libraries(&self) -> Vec<LibraryStatus> {
        self.0.api.libraries()
    }
}

impl Inner {
    /// Free and total bytes of the device's main memory.
    pub(super) fn memory(&self) -> Result<(usize, usize), Error> {
        let (mut free, mut total) = (0, 0);
        // SAFETY: writes two numbers through valid pointers.
        let answer = unsafe { self.api.acl.aclrtGetMemInfo(ACL_HBM_MEM, &mut free, &mut total) };
        self.api.check("aclrtGetMemInfo", answer)?;
        Ok((free, total))
    }
}

impl Api {
    fn version(&self) -> Result<String, Error> {
        // SAFETY: the structure is made of byte arrays, for which zero is a value.
        let mut version: aclCANNPackageVersion = unsafe { std::mem::zeroed() };
        // SAFETY: writes one structure through a valid pointer.
        let answer = unsafe { self.acl.aclsysGetCANNVersion(ACL_PKG_NAME_CANN, &mut version) };
        self.check("aclsysGetCANNVersion", answer)?;
        let bytes = version.version.map(|byte| byte as u8);
        Ok(CStr::from_bytes_until_nul(&bytes).map(|text| text.to_string_lossy().into_owned()).unwrap_or_default())
    }

    fn libraries(&self) -> Vec<LibraryStatus> {
        let mut found: BTreeMap<Library, LibraryStatus> = BTreeMap::new();
        let source = self.acl.source();
        let mut look = |library: Library, name: String, since: &'static str| {
            let entry = found.entry(library).or_insert(LibraryStatus { library, present: 0, missing: Vec::new() });
            match CString::new(name.as_str()).ok().and_then(|name| source.address(library, &name)) {
                Some(_) => entry.present += 1,
                None => entry.missing.push((name, since)),
            }
        };
        FUNCTIONS.iter().for_each(|row| look(row.library, row.name.to_owned(), row.since));
        for row in OPERATORS {
            look(row.library, format!("aclnn{}GetWorkspaceSize", row.name), row.since);
            look(row.library, format!("aclnn{}", row.name), row.since);
        }
        found.into_values().collect()
    }
}
