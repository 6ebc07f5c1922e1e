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

#[test]
fn a_graph_whose_memory_is_gone_does_not_run() {
    let acl = acl(3);
    let stream = stream(acl);
    let (a, b) = (malloc(acl, 64), malloc(acl, 64));
    let mut graph = null_mut();
    // SAFETY: handles and device memory are checked by the callee.
    unsafe {
        assert_eq!(acl.aclmdlRICaptureBegin(stream, ACL_MODEL_RI_CAPTURE_MODE_RELAXED), Ok(0));
        assert_eq!(acl.aclrtMemsetAsync(a, 64, 1, 64, stream), Ok(0));
        assert_eq!(acl.aclrtMemcpyAsync(b, 64, a, 64, ACL_MEMCPY_DEVICE_TO_DEVICE, stream), Ok(0));
        assert_eq!(acl.aclmdlRICaptureEnd(stream, &mut graph), Ok(0));
        assert_eq!(acl.aclmdlRIExecuteAsync(graph, stream), Ok(0));
        // A run that is not over still uses the memory.
        synchronize(acl, stream);
        free(acl, b);
        let parts = &["aclrtMemcpyAsync", "was captured with", "freed since"];
        refused(acl, acl.aclmdlRIExecuteAsync(graph, stream).unwrap(), ACL_ERROR_RT_PARAM_INVALID, parts);
        // Nor does it when the addresses are somebody else's.
        let others: Vec<_> = (0..600).map(|_| malloc(acl, 64)).collect();
        refused(acl, acl.aclmdlRIExecuteAsync(graph, stream).unwrap(), ACL_ERROR_RT_PARAM_INVALID, parts);
        others.into_iter().for_each(|other| free(acl, other));
        assert_eq!(acl.aclmdlRIDestroy(graph), Ok(0));
        assert_eq!(acl.aclrtDestroyStream(stream), Ok(0));
    }
    free(acl, a);
}

/// Two branches of a graph touch the same bytes, with and without an event between them.
#[test]
fn branches_of_a_graph_that_nothing_orders_race() {
    let acl = acl(3);
    let (main, side) = (stream(acl), stream(acl));
    let (fork, join) = (event(acl), event(acl));
    let (a, b) = (malloc(acl, 64), malloc(acl, 64));
    for ordered in [true, false] {
        let mut graph = null_mut();
        // SAFETY: handles and device memory are checked by the callee.
        unsafe {
            let fill = || assert_eq!(acl.aclrtMemsetAsync(a, 64, 5, 64, main), Ok(0));
            assert_eq!(acl.aclmdlRICaptureBegin(main, ACL_MODEL_RI_CAPTURE_MODE_RELAXED), Ok(0));
            if ordered {
                fill();
            }
            assert_eq!(acl.aclrtRecordEvent(fork, main), Ok(0));
            assert_eq!(acl.aclrtStreamWaitEvent(side, fork), Ok(0));
            if !ordered {
                fill();
            }
            assert_eq!(acl.aclrtMemcpyAsync(b, 64, a, 64, ACL_MEMCPY_DEVICE_TO_DEVICE, side), Ok(0));
            assert_eq!(acl.aclrtRecordEvent(join, side), Ok(0));
            assert_eq!(acl.aclrtStreamWaitEvent(main, join), Ok(0));
            assert_eq!(acl.aclrtMemsetAsync(b, 64, 6, 64, main), Ok(0), "after the join there is no race");
            assert_eq!(acl.aclmdlRICaptureEnd(main, &mut graph), Ok(0));
            for _ in 0..2 {
                assert_eq!(acl.aclmdlRIExecuteAsync(graph, main), Ok(0));
                let code = acl.aclrtSynchronizeStream(main).unwrap();
                match ordered {
                    true => assert_eq!(code, 0, "{}", message(acl)),
                    false => {
                        let parts = &["graph", "race", "aclrtMemcpyAsync", "aclrtMemsetAsync"];
                        refused(acl, code, ACL_ERROR_RT_AICORE_EXCEPTION, parts);
                    }
                }
            }
            assert_eq!(acl.aclmdlRIDestroy(graph), Ok(0));
        }
    }
    // SAFETY: handles are checked by the callee.
    unsafe {
        for stream in [main, side] {
            assert_eq!(acl.aclrtDestroyStream(stream), Ok(0));
        }
        for event in [fork, join] {
            assert_eq!(acl.aclrtDestroyEvent(event), Ok(0));
        }
    }
    free(acl, a);
    free(acl, b);
}
