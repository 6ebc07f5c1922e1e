//! Device memory and page-locked host memory.

use crate::runtime::{capture, device, hostmem, memory};
use crate::status::{Result, put};
use crate::{ensure, fail};
use acl_sys::error::*;
use acl_sys::*;
use std::ffi::c_void;

const POLICIES: i32 = ACL_MEM_TYPE_LOW_BAND_WIDTH | ACL_MEM_TYPE_HIGH_BAND_WIDTH | ACL_MEM_ACCESS_USER_SPACE_READONLY;

fn allocate(call: &str, out: *mut *mut c_void, size: usize, policy: aclrtMemMallocPolicy) -> Result<()> {
    ensure!(!out.is_null(), ACL_ERROR_INVALID_PARAM, "devPtr is null");
    ensure!(size > 0, ACL_ERROR_INVALID_PARAM, "size is 0; a block has at least one byte");
    let page = policy & !POLICIES;
    ensure!(
        (0..=ACL_MEM_MALLOC_HUGE1G_ONLY_P2P).contains(&page),
        ACL_ERROR_RT_PARAM_INVALID,
        "{policy} is no allocation policy"
    );
    let arena = device::arena()?;
    capture::forbid(call)?;
    put(out, "devPtr", device_pointer(arena.allocate(size)?))
}

fn device_pointer(address: u64) -> *mut c_void {
    std::ptr::without_provenance_mut(address as usize)
}

fn free(call: &'static str, pointer: *mut c_void) -> Result<()> {
    ensure!(!pointer.is_null(), ACL_ERROR_INVALID_PARAM, "devPtr is null");
    device::current()?;
    capture::forbid(call)?;
    match memory::owner(pointer as u64) {
        Some(arena) => arena.free(pointer as u64, call),
        None => fail!(ACL_ERROR_RT_PARAM_INVALID, "{pointer:?} is not device memory{}", host_hint(pointer as u64)),
    }
}

fn host_hint(address: u64) -> &'static str {
    if hostmem::pinned(address, 0) { "; it is page-locked host memory, which aclrtFreeHost frees" } else { "" }
}

fn allocate_host(out: *mut *mut c_void, size: usize) -> Result<()> {
    ensure!(!out.is_null(), ACL_ERROR_INVALID_PARAM, "hostPtr is null");
    ensure!(size > 0, ACL_ERROR_INVALID_PARAM, "size is 0; a block has at least one byte");
    device::current()?;
    put(out, "hostPtr", hostmem::allocate(size)?.cast())
}

fn free_host(pointer: *mut c_void) -> Result<()> {
    ensure!(!pointer.is_null(), ACL_ERROR_INVALID_PARAM, "hostPtr is null");
    if memory::owner(pointer as u64).is_some() {
        fail!(ACL_ERROR_RT_PARAM_INVALID, "{pointer:?} is device memory, which aclrtFree frees");
    }
    hostmem::free(pointer as u64)
}

fn no_config(config: *mut aclrtMallocConfig) -> Result<()> {
    ensure!(
        config.is_null(),
        ACL_ERROR_RT_FEATURE_NOT_SUPPORT,
        "the simulated CANN takes no allocation attributes; pass null"
    );
    Ok(())
}

export! {
    /// Allocates device memory, aligned to 512 bytes and filled with poison.
    fn aclrtMalloc(dev_ptr: *mut *mut c_void, size: usize, policy: aclrtMemMallocPolicy) {
        allocate("aclrtMalloc", dev_ptr, size, policy)
    }

    fn aclrtMallocAlign32(dev_ptr: *mut *mut c_void, size: usize, policy: aclrtMemMallocPolicy) {
        allocate("aclrtMallocAlign32", dev_ptr, size, policy)
    }

    fn aclrtMallocCached(dev_ptr: *mut *mut c_void, size: usize, policy: aclrtMemMallocPolicy) {
        allocate("aclrtMallocCached", dev_ptr, size, policy)
    }

    fn aclrtMallocWithCfg(dev_ptr: *mut *mut c_void, size: usize, policy: aclrtMemMallocPolicy, cfg: *mut aclrtMallocConfig) {
        no_config(cfg)?;
        allocate("aclrtMallocWithCfg", dev_ptr, size, policy)
    }

    fn aclrtMallocForTaskScheduler(dev_ptr: *mut *mut c_void, size: usize, policy: aclrtMemMallocPolicy, cfg: *mut aclrtMallocConfig) {
        no_config(cfg)?;
        allocate("aclrtMallocForTaskScheduler", dev_ptr, size, policy)
    }

    /// Frees device memory. Stricter than a card: a block that issued work may still use is refused.
    fn aclrtFree(dev_ptr: *mut c_void) { free("aclrtFree", dev_ptr) }

    /// Waits for the device, then frees.
    fn aclrtFreeWithDevSync(dev_ptr: *mut c_void) {
        ensure!(!dev_ptr.is_null(), ACL_ERROR_INVALID_PARAM, "devPtr is null");
        device::synchronize(device::current()?.device, None)?;
        free("aclrtFreeWithDevSync", dev_ptr)
    }

    /// Allocates page-locked host memory, filled with poison.
    fn aclrtMallocHost(host_ptr: *mut *mut c_void, size: usize) { allocate_host(host_ptr, size) }

    fn aclrtMallocHostWithCfg(ptr: *mut *mut c_void, size: u64, cfg: *mut aclrtMallocConfig) {
        no_config(cfg)?;
        allocate_host(ptr, size as usize)
    }

    fn aclrtFreeHost(host_ptr: *mut c_void) { free_host(host_ptr) }

    fn aclrtFreeHostWithDevSync(host_ptr: *mut c_void) {
        ensure!(!host_ptr.is_null(), ACL_ERROR_INVALID_PARAM, "hostPtr is null");
        device::synchronize(device::current()?.device, None)?;
        free_host(host_ptr)
    }

    /// Page-locks the caller's memory. The device address is null: kernels of the simulator reach device memory only.
    fn aclrtHostRegister(ptr: *mut c_void, size: u64, type_: aclrtHostRegisterType, dev_ptr: *mut *mut c_void) {
        ensure!(!ptr.is_null() && size > 0, ACL_ERROR_INVALID_PARAM, "ptr is null or size is 0");
        ensure!(type_ == ACL_HOST_REGISTER_MAPPED, ACL_ERROR_RT_FEATURE_NOT_SUPPORT, "only ACL_HOST_REGISTER_MAPPED is simulated");
        put(dev_ptr, "devPtr", std::ptr::null_mut())?;
        hostmem::register(ptr as u64, size as usize)
    }

    fn aclrtHostRegisterV2(ptr: *mut c_void, size: u64, flag: u32) {
        ensure!(!ptr.is_null() && size > 0, ACL_ERROR_INVALID_PARAM, "ptr is null or size is 0");
        ensure!(flag & !2 == 0, ACL_ERROR_RT_FEATURE_NOT_SUPPORT, "the flag {flag} is not simulated");
        hostmem::register(ptr as u64, size as usize)
    }

    fn aclrtHostUnregister(ptr: *mut c_void) { hostmem::unregister(ptr as u64) }

    /// Free and total bytes of the device's memory.
    fn aclrtGetMemInfo(attr: aclrtMemAttr, free: *mut usize, total: *mut usize) {
        let arena = device::arena()?;
        ensure!((0..=ACL_MEM_P2P_HUGE1G).contains(&attr), ACL_ERROR_RT_PARAM_INVALID, "{attr} is no memory attribute");
        put(free, "free", arena.free_bytes() as usize)?;
        put(total, "total", arena.capacity as usize)
    }

    /// Where a pointer points: device, page-locked host, or memory that the runtime does not know.
    fn aclrtPointerGetAttributes(ptr: *const c_void, attributes: *mut aclrtPtrAttributes) {
        ensure!(!ptr.is_null(), ACL_ERROR_INVALID_PARAM, "ptr is null");
        let (id, type_) = match memory::owner(ptr as u64) {
            Some(arena) => {
                arena.block(ptr as u64, 0)?;
                (arena.device, ACL_MEM_LOCATION_TYPE_DEVICE)
            }
            None if hostmem::pinned(ptr as u64, 0) => (0, ACL_MEM_LOCATION_TYPE_HOST),
            None => (0, ACL_MEM_LOCATION_TYPE_UNREGISTERED),
        };
        put(attributes, "attributes", aclrtPtrAttributes { location: aclrtMemLocation { id, type_ }, pageSize: 4096, rsv: [0; 4] })
    }

    /// Start and size of the block that `ptr` points into.
    fn aclrtMemGetAddressRange(ptr: *mut c_void, pbase: *mut *mut c_void, psize: *mut usize) {
        let Some(arena) = memory::owner(ptr as u64) else {
            fail!(ACL_ERROR_RT_PARAM_INVALID, "{ptr:?} is not device memory");
        };
        let block = arena.block(ptr as u64, 0)?;
        if !pbase.is_null() {
            put(pbase, "pbase", device_pointer(block.address))?;
        }
        if !psize.is_null() {
            put(psize, "psize", block.size as usize)?;
        }
        Ok(())
    }

    /// Nothing to do: the simulated device has no cache of its own. The range is checked all the same.
    fn aclrtMemFlush(dev_ptr: *mut c_void, size: usize) { cached_range(dev_ptr, size) }

    /// Nothing to do: the simulated device has no cache of its own. The range is checked all the same.
    fn aclrtMemInvalidate(dev_ptr: *mut c_void, size: usize) { cached_range(dev_ptr, size) }
}

fn cached_range(pointer: *mut c_void, size: usize) -> Result<()> {
    ensure!(!pointer.is_null(), ACL_ERROR_INVALID_PARAM, "devPtr is null");
    match memory::owner(pointer as u64) {
        Some(arena) => arena.block(pointer as u64, size as u64).map(drop),
        None => fail!(ACL_ERROR_RT_PARAM_INVALID, "{pointer:?} is not device memory"),
    }
}

refuse! {
    "memory of the host has no device address here";
    fn aclrtHostGetDevicePointer(p_host: *mut c_void, p_device: *mut *mut c_void, flag: u32);
    fn aclrtCheckMemType(addr_list: *mut *mut c_void, size: u32, mem_type: u32, check_result: *mut u32, reserve: u32);
    fn aclrtGetMemUsageInfo(device_id: i32, mem_usage_info: *mut aclrtMemUsageInfo, input_num: usize, output_num: *mut usize);
}
