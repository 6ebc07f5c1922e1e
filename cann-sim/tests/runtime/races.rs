//! Missing order between streams is found in every run, whatever came first.

use crate::support::*;
use acl_sys::enums::*;
use acl_sys::error::*;
use std::ptr::null_mut;

#[test]
fn two_streams_that_write_one_block_race() {
    let acl = acl(2);
    let (first, second) = (stream(acl), stream(acl));
    let block = malloc(acl, 256);
    // SAFETY: handles and device memory are checked by the callee.
    unsafe {
        assert_eq!(acl.aclrtMemsetAsync(block, 256, 1, 256, first), Ok(0));
        // The other half: no race.
        assert_eq!(acl.aclrtMemsetAsync(block.byte_add(128), 128, 2, 128, second), Ok(0));
        let (one, two) = (acl.aclrtSynchronizeStream(first).unwrap(), acl.aclrtSynchronizeStream(second).unwrap());
        refused(
            acl,
            one.max(two),
            ACL_ERROR_RT_AICORE_EXCEPTION,
            &["race", "aclrtMemsetAsync", "no event or synchronisation"],
        );
        assert_eq!(one.min(two), 0, "only the later access is told");
        assert_eq!(acl.aclrtDestroyStream(first), Ok(0));
        assert_eq!(acl.aclrtDestroyStream(second), Ok(0));
    }
    free(acl, block);
}

#[test]
fn separate_parts_of_one_block_do_not_race() {
    let acl = acl(2);
    let (first, second) = (stream(acl), stream(acl));
    let block = malloc(acl, 256);
    // SAFETY: handles and device memory are checked by the callee.
    unsafe {
        assert_eq!(acl.aclrtMemsetAsync(block, 128, 1, 128, first), Ok(0));
        assert_eq!(acl.aclrtMemsetAsync(block.byte_add(128), 128, 2, 128, second), Ok(0));
        synchronize(acl, first);
        synchronize(acl, second);
        assert_eq!(acl.aclrtDestroyStream(first), Ok(0));
        assert_eq!(acl.aclrtDestroyStream(second), Ok(0));
    }
    free(acl, block);
}

#[test]
fn the_hosts_wait_orders_streams() {
    let acl = acl(2);
    let (first, second) = (stream(acl), stream(acl));
    let block = malloc(acl, 256);
    // SAFETY: handles and device memory are checked by the callee.
    unsafe {
        for round in 0..3 {
            for stream in [first, second] {
                assert_eq!(acl.aclrtMemsetAsync(block, 256, round, 256, stream), Ok(0));
                synchronize(acl, stream);
            }
        }
        assert_eq!(acl.aclrtDestroyStream(first), Ok(0));
        assert_eq!(acl.aclrtDestroyStream(second), Ok(0));
    }
    free(acl, block);
}

#[test]
fn a_synchronous_copy_does_not_wait_for_streams() {
    let acl = acl(2);
    let stream = stream(acl);
    let block = malloc(acl, 64);
    let mut host = [0u8; 64];
    // SAFETY: the host range has 64 bytes.
    unsafe {
        assert_eq!(acl.aclrtMemsetAsync(block, 64, 1, 64, stream), Ok(0));
        let event = event(acl);
        assert_eq!(acl.aclrtRecordEvent(event, stream), Ok(0));
        std::thread::sleep(std::time::Duration::from_millis(50));
        let code = acl.aclrtMemcpy(host.as_mut_ptr().cast(), 64, block, 64, ACL_MEMCPY_DEVICE_TO_HOST).unwrap();
        refused(acl, code, ACL_ERROR_RT_STREAM_NOT_COMPLETE, &["race", "aclrtMemcpy by the host", "aclrtMemsetAsync"]);
        assert_eq!(acl.aclrtSynchronizeEvent(event), Ok(0));
        let code = acl.aclrtMemcpy(host.as_mut_ptr().cast(), 64, block, 64, ACL_MEMCPY_DEVICE_TO_HOST).unwrap();
        assert_eq!((code, host), (0, [1; 64]), "waiting for the event is enough: {}", message(acl));
        assert_eq!(acl.aclrtDestroyEvent(event), Ok(0));
        assert_eq!(acl.aclrtDestroyStream(stream), Ok(0));
    }
    free(acl, block);
}

#[test]
fn memory_that_work_still_needs_is_not_freed() {
    let acl = acl(2);
    let stream = stream(acl);
    let block = malloc(acl, 64);
    // SAFETY: handles and device memory are checked by the callee.
    unsafe {
        hold(acl, stream, 20);
        assert_eq!(acl.aclrtMemsetAsync(block, 64, 1, 64, stream), Ok(0));
        let code = acl.aclrtFree(block).unwrap();
        refused(
            acl,
            code,
            ACL_ERROR_RT_PARAM_INVALID,
            &["freed by aclrtFree", "aclrtMemsetAsync (task 2 of stream", "synchronise"],
        );
        synchronize(acl, stream);
        free(acl, block);
        assert_eq!(acl.aclrtDestroyStream(stream), Ok(0));
        assert_eq!(acl.aclrtFree(null_mut()), Ok(ACL_ERROR_INVALID_PARAM));
    }
}
