//! Reserved addresses and the physical memory that is mapped into them.

use crate::runtime::handles::pointer;
use crate::runtime::vmm::{self, GRANULARITY, PHYSICAL};
use crate::runtime::{capture, device, memory};
use crate::status::{Result, put};
use crate::{ensure, fail};
use acl_sys::error::*;
use acl_sys::*;
use std::ffi::c_void;

fn check_properties(prop: *const aclrtPhysicalMemProp) -> Result<u32> {
    ensure!(!prop.is_null(), ACL_ERROR_INVALID_PARAM, "prop is null");
    // SAFETY: not null, and the interface asks for a readable structure.
    let prop = unsafe { &*prop };
    ensure!(
        prop.location.type_ == ACL_MEM_LOCATION_TYPE_DEVICE,
        ACL_ERROR_RT_FEATURE_NOT_SUPPORT,
        "physical memory is simulated on devices only, not at location type {}",
        prop.location.type_
    );
    device::index(prop.location.id as i32)
}

export! {
    /// Reserves device addresses; `alignment` must be 0 and `expectPtr` null or a wish that is not fulfilled.
    fn aclrtReserveMemAddress(vir_ptr: *mut *mut c_void, size: usize, alignment: usize, expect_ptr: *mut c_void, flags: u64) {
        ensure!(!vir_ptr.is_null(), ACL_ERROR_INVALID_PARAM, "virPtr is null");
        ensure!(alignment == 0, ACL_ERROR_RT_PARAM_INVALID, "alignment is {alignment}, wanted 0");
        ensure!(flags <= 1, ACL_ERROR_RT_PARAM_INVALID, "flags is {flags}, wanted 0 or 1");
        ensure!(expect_ptr.is_null(), ACL_ERROR_RT_FEATURE_NOT_SUPPORT, "the simulated CANN chooses addresses itself; pass null");
        let start = vmm::reserve(device::arena()?, size)?;
        put(vir_ptr, "virPtr", std::ptr::without_provenance_mut(start as usize))
    }

    fn aclrtReleaseMemAddress(vir_ptr: *mut c_void) {
        ensure!(!vir_ptr.is_null(), ACL_ERROR_INVALID_PARAM, "virPtr is null");
        match memory::owner(vir_ptr as u64) {
            Some(arena) => arena.release(vir_ptr as u64),
            None => fail!(ACL_ERROR_RT_PARAM_INVALID, "{vir_ptr:?} is not in a reserved range"),
        }
    }

    fn aclrtMallocPhysical(handle: *mut aclrtDrvMemHandle, size: usize, prop: *const aclrtPhysicalMemProp, flags: u64) {
        ensure!(!handle.is_null(), ACL_ERROR_INVALID_PARAM, "handle is null");
        ensure!(flags == 0, ACL_ERROR_RT_PARAM_INVALID, "flags is {flags}, wanted 0");
        capture::forbid("aclrtMallocPhysical")?;
        put(handle, "handle", pointer(vmm::allocate(check_properties(prop)?, size)?))
    }

    /// Gives physical memory back, once nothing maps it.
    fn aclrtFreePhysical(handle: aclrtDrvMemHandle) {
        ensure!(!handle.is_null(), ACL_ERROR_INVALID_PARAM, "handle is null");
        PHYSICAL.remove(handle, ACL_ERROR_RT_PARAM_INVALID, "handle").map(drop)
    }

    fn aclrtMapMem(vir_ptr: *mut c_void, size: usize, offset: usize, handle: aclrtDrvMemHandle, flags: u64) {
        ensure!(!vir_ptr.is_null(), ACL_ERROR_INVALID_PARAM, "virPtr is null");
        ensure!(flags == 0, ACL_ERROR_RT_PARAM_INVALID, "flags is {flags}, wanted 0");
        vmm::map(vir_ptr as u64, size, offset, PHYSICAL.get(handle, ACL_ERROR_RT_PARAM_INVALID, "handle")?)
    }

    fn aclrtUnmapMem(vir_ptr: *mut c_void) {
        ensure!(!vir_ptr.is_null(), ACL_ERROR_INVALID_PARAM, "virPtr is null");
        capture::forbid("aclrtUnmapMem")?;
        vmm::unmap(vir_ptr as u64)
    }

    fn aclrtMemGetAllocationGranularity(prop: *mut aclrtPhysicalMemProp, option: aclrtMemGranularityOptions, granularity: *mut usize) {
        check_properties(prop)?;
        ensure!(
            matches!(option, ACL_RT_MEM_ALLOC_GRANULARITY_MINIMUM | ACL_RT_MEM_ALLOC_GRANULARITY_RECOMMENDED),
            ACL_ERROR_RT_PARAM_INVALID, "{option} is no granularity"
        );
        put(granularity, "granularity", GRANULARITY)
    }
}

refuse! {
    "memory is not shared between processes";
    fn aclrtMemExportToShareableHandle(handle: aclrtDrvMemHandle, handle_type: aclrtMemHandleType, flags: u64, shareable_handle: *mut u64);
    fn aclrtMemImportFromShareableHandle(shareable_handle: u64, device_id: i32, handle: *mut aclrtDrvMemHandle);
    fn aclrtMemSetPidToShareableHandle(shareable_handle: u64, pid: *mut i32, pid_num: usize);
    fn aclrtMemGetAccess(vir_ptr: *mut c_void, location: *mut aclrtMemLocation, flag: *mut u64);
    fn aclrtMemSetAccess(vir_ptr: *mut c_void, size: usize, desc: *mut aclrtMemAccessDesc, count: usize);
}
