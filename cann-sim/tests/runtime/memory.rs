use crate::support::*;
use acl_sys::enums::*;
use acl_sys::error::*;
use acl_sys::types::*;
use std::ffi::c_void;
use std::ptr::{null, null_mut};

#[test]
fn fresh_memory_is_poison() {
    let acl = acl(0);
    for bytes in [4096, 8 << 20] {
        let block = malloc(acl, bytes);
        assert_eq!(block as usize % 512, 0, "a block starts at a multiple of 512");
        let values: Vec<f32> = download(acl, block, bytes / 4);
        assert!(values.iter().all(|value| value.is_nan()));
        free(acl, block);
    }
}

#[test]
fn data_survives_the_way_there_and_back() {
    let acl = acl(0);
    let values: Vec<u32> = (0..3_000_001).collect();
    let block = malloc(acl, 4 * values.len());
    upload(acl, block, &values);
    assert_eq!(download::<u32>(acl, block, values.len()), values);
    free(acl, block);
}

#[test]
fn sizes_and_nulls_are_answered_as_the_real_runtime_does() {
    let acl = acl(0);
    let mut pointer = null_mut();
    // SAFETY: every pointer is null or valid.
    unsafe {
        refused(acl, acl.aclrtMalloc(&mut pointer, 0, 0).unwrap(), ACL_ERROR_INVALID_PARAM, &["size is 0"]);
        refused(acl, acl.aclrtMalloc(null_mut(), 1, 0).unwrap(), ACL_ERROR_INVALID_PARAM, &["devPtr is null"]);
        refused(acl, acl.aclrtFree(null_mut()).unwrap(), ACL_ERROR_INVALID_PARAM, &["devPtr is null"]);
        let block = malloc(acl, 16);
        let host = [0u8; 16];
        let code = acl.aclrtMemcpy(block, 8, host.as_ptr().cast(), 16, ACL_MEMCPY_HOST_TO_DEVICE).unwrap();
        refused(acl, code, ACL_ERROR_RT_PARAM_INVALID, &["count is 16", "destMax, which is 8"]);
        free(acl, block);
    }
}

#[test]
fn a_copy_past_the_end_names_block_and_overrun() {
    let acl = acl(0);
    let block = malloc(acl, 100);
    let host = [0u8; 200];
    // SAFETY: the host range has 200 bytes.
    let code = unsafe { acl.aclrtMemcpy(block, 200, host.as_ptr().cast(), 200, ACL_MEMCPY_HOST_TO_DEVICE).unwrap() };
    refused(acl, code, ACL_ERROR_RT_PARAM_INVALID, &["dst", "run 100 bytes over", "100 bytes"]);
    free(acl, block);
}

#[test]
fn pointers_on_the_wrong_side_are_told_apart() {
    let acl = acl(0);
    let block = malloc(acl, 64);
    let mut host = [0u8; 64];
    let host = host.as_mut_ptr().cast::<c_void>();
    // SAFETY: the host range has 64 bytes.
    unsafe {
        let code = acl.aclrtMemcpy(host, 64, block, 64, ACL_MEMCPY_HOST_TO_DEVICE).unwrap();
        refused(acl, code, ACL_ERROR_RT_PARAM_INVALID, &["dst", "is host memory", "writes device memory"]);
        let code = acl.aclrtMemcpy(host, 64, host, 64, ACL_MEMCPY_DEVICE_TO_HOST).unwrap();
        refused(acl, code, ACL_ERROR_RT_PARAM_INVALID, &["src", "is host memory", "reads device memory"]);
        assert_eq!(acl.aclrtMemcpy(host, 64, block, 64, ACL_MEMCPY_DEFAULT), Ok(0));
        refused(acl, acl.aclrtFree(host).unwrap(), ACL_ERROR_RT_PARAM_INVALID, &["is not device memory"]);
    }
    free(acl, block);
}

#[test]
fn a_second_free_and_a_use_after_free_are_found() {
    let acl = acl(0);
    let block = malloc(acl, 64);
    free(acl, block);
    let mut host = [0u8; 64];
    // SAFETY: the host range has 64 bytes.
    unsafe {
        refused(acl, acl.aclrtFree(block).unwrap(), ACL_ERROR_RT_PARAM_INVALID, &["was freed by aclrtFree"]);
        let code = acl.aclrtMemcpy(host.as_mut_ptr().cast(), 64, block, 64, ACL_MEMCPY_DEVICE_TO_HOST).unwrap();
        refused(acl, code, ACL_ERROR_RT_PARAM_INVALID, &["src", "was freed by aclrtFree"]);
    }
    let block = malloc(acl, 64);
    // SAFETY: the address is inside a live block.
    let code = unsafe { acl.aclrtFree(block.byte_add(32)).unwrap() };
    refused(acl, code, ACL_ERROR_RT_PARAM_INVALID, &["offset 32", "not its start"]);
    free(acl, block);
}

#[test]
fn more_than_the_device_has_is_out_of_memory() {
    let acl = acl(7);
    let (mut left, mut total, mut pointer) = (0, 0, null_mut());
    let held = malloc(acl, 1 << 20);
    // SAFETY: the pointers are writable.
    unsafe {
        assert_eq!(acl.aclrtGetMemInfo(ACL_HBM_MEM, &mut left, &mut total), Ok(0));
        assert_eq!((total, left), (64 << 30, (64 << 30) - (1 << 20)));
        let code = acl.aclrtMalloc(&mut pointer, left + 1, ACL_MEM_MALLOC_HUGE_FIRST).unwrap();
        refused(
            acl,
            code,
            ACL_ERROR_RT_MEMORY_ALLOCATION,
            &["out of memory on device 7", "requested", "the largest block"],
        );
    }
    free(acl, held);
}

#[test]
fn page_locked_memory_is_freed_once() {
    let acl = acl(0);
    let mut host = null_mut();
    let block = malloc(acl, 4096);
    // SAFETY: the pointers are valid where the callee does not check them.
    unsafe {
        assert_eq!(acl.aclrtMallocHost(&mut host, 4096), Ok(0));
        host.cast::<u8>().write_bytes(3, 4096);
        let code = acl.aclrtMemcpy(block, 8192, host, 8192, ACL_MEMCPY_HOST_TO_DEVICE).unwrap();
        refused(acl, code, ACL_ERROR_RT_PARAM_INVALID, &["run 4096 bytes over"]);
        assert_eq!(acl.aclrtMemcpy(block, 4096, host, 4096, ACL_MEMCPY_HOST_TO_DEVICE), Ok(0));
        let mut attributes = std::mem::zeroed::<aclrtPtrAttributes>();
        assert_eq!(acl.aclrtPointerGetAttributes(host, &mut attributes), Ok(0));
        assert_eq!(attributes.location.type_, ACL_MEM_LOCATION_TYPE_HOST);
        assert_eq!(acl.aclrtPointerGetAttributes(block, &mut attributes), Ok(0));
        assert_eq!(attributes.location.type_, ACL_MEM_LOCATION_TYPE_DEVICE);
        assert_eq!(acl.aclrtFreeHost(host), Ok(0));
        refused(acl, acl.aclrtFreeHost(host).unwrap(), ACL_ERROR_RT_PARAM_INVALID, &["already freed"]);
    }
    assert_eq!(download::<u8>(acl, block, 4096), vec![3; 4096]);
    free(acl, block);
}

#[test]
fn two_dimensional_copies_leave_the_gaps_alone() {
    let acl = acl(0);
    let block = malloc(acl, 4 * 8);
    let rows = [1u8, 2, 3, 4, 5, 6];
    // SAFETY: the host rows are 3 bytes apart, 2 of them.
    unsafe {
        assert_eq!(acl.aclrtMemset(block, 32, 0, 32), Ok(0));
        let code = acl.aclrtMemcpy2d(block, 8, rows.as_ptr().cast(), 3, 3, 2, ACL_MEMCPY_HOST_TO_DEVICE).unwrap();
        assert_eq!(code, 0, "{}", message(acl));
    }
    assert_eq!(download::<u8>(acl, block, 16), [1, 2, 3, 0, 0, 0, 0, 0, 4, 5, 6, 0, 0, 0, 0, 0]);
    free(acl, block);
}

#[test]
fn a_peer_is_reached_only_when_enabled() {
    let acl = acl(5);
    let there = malloc(acl, 64);
    // SAFETY: no pointers but device memory.
    unsafe {
        assert_eq!(acl.aclrtSetDevice(6), Ok(0));
        let here = malloc(acl, 64);
        assert_eq!(acl.aclrtMemset(here, 64, 9, 64), Ok(0));
        let code = acl.aclrtMemcpy(there, 64, here, 64, ACL_MEMCPY_DEVICE_TO_DEVICE).unwrap();
        refused(acl, code, ACL_ERROR_RT_PARAM_INVALID, &["aclrtDeviceEnablePeerAccess"]);
        assert_eq!(acl.aclrtDeviceEnablePeerAccess(5, 0), Ok(0));
        assert_eq!(acl.aclrtMemcpy(there, 64, here, 64, ACL_MEMCPY_DEVICE_TO_DEVICE), Ok(0));
        free(acl, here);
    }
    assert_eq!(download::<u8>(acl, there, 64), [9; 64]);
    free(acl, there);
}

#[test]
fn mapped_memory_keeps_its_data_when_it_is_mapped_again() {
    const UNIT: usize = 2 << 20;
    let acl = acl(0);
    let location = aclrtMemLocation { id: 0, type_: ACL_MEM_LOCATION_TYPE_DEVICE };
    let prop =
        aclrtPhysicalMemProp { handleType: 0, allocationType: 0, memAttr: ACL_HBM_MEM_HUGE, location, reserve: 0 };
    let (mut range, mut physical) = (null_mut(), [null_mut(); 2]);
    // SAFETY: the pointers are writable, the structure readable.
    unsafe {
        assert_eq!(acl.aclrtReserveMemAddress(&mut range, 4 * UNIT, 0, null_mut(), 1), Ok(0));
        for handle in &mut physical {
            assert_eq!(acl.aclrtMallocPhysical(handle, UNIT, &prop, 0), Ok(0));
        }
        let code = acl.aclrtMemset(range, UNIT, 1, UNIT).unwrap();
        refused(acl, code, ACL_ERROR_RT_PARAM_INVALID, &["not all mapped"]);
        assert_eq!(acl.aclrtMapMem(range, UNIT, 0, physical[0], 0), Ok(0));
        assert_eq!(acl.aclrtMapMem(range.byte_add(UNIT), UNIT, 0, physical[1], 0), Ok(0));
        refused(
            acl,
            acl.aclrtMapMem(range, UNIT, 0, physical[1], 0).unwrap(),
            ACL_ERROR_RT_PARAM_INVALID,
            &["mapped already"],
        );
        assert_eq!(download::<u8>(acl, range, 64), [0xFF; 64]);
        assert_eq!(acl.aclrtMemset(range, 2 * UNIT, 7, 2 * UNIT), Ok(0), "a range may span mappings that touch");
        assert_eq!(acl.aclrtUnmapMem(range), Ok(0));
        assert_eq!(acl.aclrtMapMem(range.byte_add(2 * UNIT), UNIT, 0, physical[0], 0), Ok(0));
        assert_eq!(download::<u8>(acl, range.byte_add(2 * UNIT), 64), [7; 64]);
        refused(acl, acl.aclrtReleaseMemAddress(range).unwrap(), ACL_ERROR_RT_PARAM_INVALID, &["still has 2 mappings"]);
        assert_eq!(acl.aclrtUnmapMem(range.byte_add(UNIT)), Ok(0));
        assert_eq!(acl.aclrtUnmapMem(range.byte_add(2 * UNIT)), Ok(0));
        assert_eq!(acl.aclrtReleaseMemAddress(range), Ok(0));
        assert_eq!(acl.aclrtFreePhysical(physical[0]), Ok(0));
        assert_eq!(acl.aclrtFreePhysical(physical[1]), Ok(0));
        refused(acl, acl.aclrtFreePhysical(physical[1]).unwrap(), ACL_ERROR_RT_PARAM_INVALID, &["was destroyed"]);
    }
}

#[test]
fn a_host_read_of_device_memory_faults() {
    let acl = acl(0);
    let block = malloc(acl, 64);
    // SAFETY: the child only reads one byte and leaves without running anything else of this process.
    let status = unsafe {
        match libc::fork() {
            0 => {
                libc::signal(libc::SIGSEGV, libc::SIG_DFL);
                let byte = block.cast::<u8>().read_volatile();
                libc::_exit(byte as i32 & 1)
            }
            child => {
                let mut status = 0;
                libc::waitpid(child, &mut status, 0);
                status
            }
        }
    };
    assert!(libc::WIFSIGNALED(status) && libc::WTERMSIG(status) == libc::SIGSEGV, "status {status:#x}");
    free(acl, block);
    // SAFETY: the callee checks.
    let code = unsafe { acl.aclrtMemcpy(null_mut(), 1, null(), 1, ACL_MEMCPY_DEFAULT).unwrap() };
    refused(acl, code, ACL_ERROR_INVALID_PARAM, &["dst is null"]);
}
