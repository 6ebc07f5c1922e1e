use crate::support::*;
use acl_sys::enums::*;
use acl_sys::error::*;
use std::ptr::null_mut;

#[test]
fn a_graph_runs_what_was_recorded_and_nothing_before() {
    let acl = acl(3);
    let stream = stream(acl);
    let (a, b) = (malloc(acl, 64), malloc(acl, 64));
    let mut graph = null_mut();
    // SAFETY: handles and device memory are checked by the callee.
    unsafe {
        assert_eq!(acl.aclrtMemset(a, 64, 1, 64), Ok(0));
        assert_eq!(acl.aclrtMemset(b, 64, 2, 64), Ok(0));
        assert_eq!(acl.aclmdlRICaptureBegin(stream, ACL_MODEL_RI_CAPTURE_MODE_RELAXED), Ok(0));
        assert_eq!(acl.aclrtMemcpyAsync(b, 64, a, 64, ACL_MEMCPY_DEVICE_TO_DEVICE, stream), Ok(0));
        let (mut status, mut half) = (0, null_mut());
        assert_eq!(acl.aclmdlRICaptureGetInfo(stream, &mut status, &mut half), Ok(0));
        assert_eq!(status, ACL_MODEL_RI_CAPTURE_STATUS_ACTIVE);
        refused(
            acl,
            acl.aclmdlRIExecuteAsync(half, stream).unwrap(),
            ACL_ERROR_RT_MODEL_CAPTURED,
            &["still being captured"],
        );
        assert_eq!(acl.aclmdlRICaptureEnd(stream, &mut graph), Ok(0));
        assert_eq!(download::<u8>(acl, b, 64), [2; 64], "recording runs nothing");
        for value in [3, 4] {
            assert_eq!(acl.aclrtMemset(a, 64, value, 64), Ok(0));
            assert_eq!(acl.aclmdlRIExecuteAsync(graph, stream), Ok(0));
            synchronize(acl, stream);
            assert_eq!(download::<u8>(acl, b, 64), [value as u8; 64]);
        }
        assert_eq!(acl.aclmdlRIDestroy(graph), Ok(0));
        refused(acl, acl.aclmdlRIDestroy(graph).unwrap(), ACL_ERROR_RT_PARAM_INVALID, &["was destroyed"]);
        assert_eq!(acl.aclrtDestroyStream(stream), Ok(0));
    }
    free(acl, a);
    free(acl, b);
}

#[test]
fn synchronising_breaks_a_capture() {
    let acl = acl(3);
    let stream = stream(acl);
    let mut graph = null_mut();
    // SAFETY: handles are checked by the callee.
    unsafe {
        refused(
            acl,
            acl.aclmdlRICaptureEnd(stream, &mut graph).unwrap(),
            ACL_ERROR_RT_STREAM_NOT_CAPTURED,
            &["not being captured"],
        );
        refused(
            acl,
            acl.aclmdlRICaptureBegin(null_mut(), 2).unwrap(),
            ACL_ERROR_RT_STREAM_CAPTURE_IMPLICIT,
            &["default stream"],
        );
        assert_eq!(acl.aclmdlRICaptureBegin(stream, ACL_MODEL_RI_CAPTURE_MODE_RELAXED), Ok(0));
        refused(acl, acl.aclrtSynchronizeStream(stream).unwrap(), ACL_ERROR_RT_STREAM_CAPTURED, &["not allowed"]);
        let code = acl.aclmdlRICaptureEnd(stream, &mut graph).unwrap();
        refused(acl, code, ACL_ERROR_RT_STREAM_CAPTURE_INVALIDATED, &["broken off"]);
        assert!(graph.is_null());
        assert_eq!(acl.aclrtDestroyStream(stream), Ok(0));
    }
}

#[test]
fn allocating_breaks_a_capture_of_this_thread() {
    let acl = acl(3);
    let stream = stream(acl);
    let (mut graph, mut pointer) = (null_mut(), null_mut());
    // SAFETY: handles are checked by the callee.
    unsafe {
        assert_eq!(acl.aclmdlRICaptureBegin(stream, ACL_MODEL_RI_CAPTURE_MODE_THREAD_LOCAL), Ok(0));
        let code = acl.aclrtMalloc(&mut pointer, 64, 0).unwrap();
        refused(acl, code, ACL_ERROR_RT_CAPTURE_MODE_NOT_SUPPORT, &["aclrtMalloc", "captured"]);
        let code = acl.aclmdlRICaptureEnd(stream, &mut graph).unwrap();
        refused(acl, code, ACL_ERROR_RT_STREAM_CAPTURE_INVALIDATED, &[]);
        assert_eq!(acl.aclrtDestroyStream(stream), Ok(0));
    }
}

#[test]
fn a_second_stream_joins_a_capture_by_an_event() {
    let acl = acl(3);
    let (origin, branch) = (stream(acl), stream(acl));
    let (fork, join) = (event(acl), event(acl));
    let block = malloc(acl, 64);
    let mut graph = null_mut();
    // SAFETY: handles and device memory are checked by the callee.
    unsafe {
        for joined in [false, true] {
            assert_eq!(acl.aclmdlRICaptureBegin(origin, ACL_MODEL_RI_CAPTURE_MODE_RELAXED), Ok(0));
            assert_eq!(acl.aclrtMemsetAsync(block, 64, 5, 64, origin), Ok(0));
            assert_eq!(acl.aclrtRecordEvent(fork, origin), Ok(0));
            assert_eq!(acl.aclrtStreamWaitEvent(branch, fork), Ok(0));
            assert_eq!(acl.aclrtMemsetAsync(block, 32, 6, 32, branch), Ok(0));
            assert_eq!(acl.aclrtRecordEvent(join, branch), Ok(0));
            if joined {
                assert_eq!(acl.aclrtStreamWaitEvent(origin, join), Ok(0));
                assert_eq!(acl.aclmdlRICaptureEnd(origin, &mut graph), Ok(0));
            } else {
                let code = acl.aclmdlRICaptureEnd(origin, &mut graph).unwrap();
                refused(acl, code, ACL_ERROR_RT_STREAM_UNJOINED, &["not joined back"]);
            }
        }
        assert_eq!(acl.aclmdlRIExecuteAsync(graph, origin), Ok(0));
        synchronize(acl, origin);
        let bytes: Vec<u8> = download(acl, block, 64);
        assert_eq!((&bytes[..32], &bytes[32..]), (&[6u8; 32][..], &[5u8; 32][..]));
        assert_eq!(acl.aclmdlRIDestroy(graph), Ok(0));
        for event in [fork, join] {
            assert_eq!(acl.aclrtDestroyEvent(event), Ok(0));
        }
        for stream in [origin, branch] {
            assert_eq!(acl.aclrtDestroyStream(stream), Ok(0));
        }
    }
    free(acl, block);
}
