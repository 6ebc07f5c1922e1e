use crate::support::*;
use acl_sys::enums::*;
use acl_sys::error::*;
use std::ffi::c_void;
use std::ptr::null_mut;
use std::time::{Duration, Instant};

#[test]
fn streams_run_behind_the_host_and_in_order() {
    let acl = acl(0);
    let stream = stream(acl);
    let block = malloc(acl, 64);
    let begun = Instant::now();
    hold(acl, stream, 60);
    // SAFETY: device memory is checked by the callee.
    unsafe {
        for value in 1..=5 {
            assert_eq!(acl.aclrtMemsetAsync(block, 64, value, 64, stream), Ok(0));
        }
        assert!(begun.elapsed() < Duration::from_millis(50), "issuing work must not wait for it");
        let mut status = 0;
        assert_eq!(acl.aclrtStreamQuery(stream, &mut status), Ok(0));
        assert_eq!(status, ACL_STREAM_STATUS_NOT_READY);
        synchronize(acl, stream);
        assert!(begun.elapsed() >= Duration::from_millis(60));
        assert_eq!(acl.aclrtStreamQuery(stream, &mut status), Ok(0));
        assert_eq!(status, ACL_STREAM_STATUS_COMPLETE);
        assert_eq!(download::<u8>(acl, block, 64), [5; 64]);
        free(acl, block);
        assert_eq!(acl.aclrtDestroyStream(stream), Ok(0));
    }
}

#[test]
fn copies_of_page_locked_memory_do_not_wait_and_others_do() {
    let acl = acl(0);
    let (stream, block) = (stream(acl), malloc(acl, 64));
    let (mut pinned, mut plain) = (null_mut(), [0u8; 64]);
    // SAFETY: the host ranges have 64 bytes and outlive the copies.
    unsafe {
        assert_eq!(acl.aclrtMemset(block, 64, 4, 64), Ok(0));
        assert_eq!(acl.aclrtMallocHost(&mut pinned, 64), Ok(0));
        hold(acl, stream, 40);
        let begun = Instant::now();
        assert_eq!(acl.aclrtMemcpyAsync(pinned, 64, block, 64, ACL_MEMCPY_DEVICE_TO_HOST, stream), Ok(0));
        assert!(begun.elapsed() < Duration::from_millis(30));
        assert_eq!(
            acl.aclrtMemcpyAsync(plain.as_mut_ptr().cast(), 64, block, 64, ACL_MEMCPY_DEVICE_TO_HOST, stream),
            Ok(0)
        );
        assert!(
            begun.elapsed() >= Duration::from_millis(20),
            "memory that is not page-locked is copied before the call returns"
        );
        assert_eq!(plain, [4; 64]);
        assert_eq!(std::slice::from_raw_parts(pinned.cast::<u8>(), 64), [4; 64]);
        let code =
            acl.aclrtMemcpyAsync(pinned, 64, plain.as_ptr().cast(), 64, ACL_MEMCPY_HOST_TO_HOST, stream).unwrap();
        refused(acl, code, ACL_ERROR_RT_FEATURE_NOT_SUPPORT, &["host to host"]);
        assert_eq!(acl.aclrtFreeHost(pinned), Ok(0));
        assert_eq!(acl.aclrtDestroyStream(stream), Ok(0));
    }
    free(acl, block);
}

#[test]
fn page_locked_memory_that_is_freed_too_early_is_named() {
    let acl = acl(0);
    let (stream, block) = (stream(acl), malloc(acl, 64));
    let mut pinned = null_mut();
    // SAFETY: the host range has 64 bytes; that it is gone when the copy runs is what the callee has to find.
    unsafe {
        assert_eq!(acl.aclrtMallocHost(&mut pinned, 64), Ok(0));
        hold(acl, stream, 20);
        assert_eq!(acl.aclrtMemcpyAsync(pinned, 64, block, 64, ACL_MEMCPY_DEVICE_TO_HOST, stream), Ok(0));
        assert_eq!(acl.aclrtFreeHost(pinned), Ok(0));
        let code = acl.aclrtSynchronizeStream(stream).unwrap();
        refused(
            acl,
            code,
            ACL_ERROR_RT_PARAM_INVALID,
            &["aclrtMemcpyAsync: dst", "freed by aclrtFreeHost before the copy ran"],
        );
        assert_eq!(acl.aclrtDestroyStream(stream), Ok(0));
    }
    free(acl, block);
}

#[test]
fn an_event_orders_two_streams_and_keeps_time() {
    let acl = acl(0);
    let (first, second) = (stream(acl), stream(acl));
    let (begin, end) = (event(acl), event(acl));
    let block = malloc(acl, 64);
    // SAFETY: handles and device memory are checked by the callee.
    unsafe {
        assert_eq!(acl.aclrtRecordEvent(begin, first), Ok(0));
        hold(acl, first, 30);
        assert_eq!(acl.aclrtMemsetAsync(block, 64, 1, 64, first), Ok(0));
        assert_eq!(acl.aclrtRecordEvent(end, first), Ok(0));
        assert_eq!(acl.aclrtStreamWaitEvent(second, end), Ok(0));
        assert_eq!(acl.aclrtMemsetAsync(block, 32, 2, 32, second), Ok(0));
        let mut status = 9;
        assert_eq!(acl.aclrtQueryEventStatus(end, &mut status), Ok(0));
        assert_eq!(status, ACL_EVENT_RECORDED_STATUS_NOT_READY);
        synchronize(acl, second);
        assert_eq!(acl.aclrtSynchronizeEvent(end), Ok(0));
        let mut ms = 0.0;
        assert_eq!(acl.aclrtEventElapsedTime(&mut ms, begin, end), Ok(0));
        // At least the nap; at most what a loaded machine may add.
        assert!((29.0..5000.0).contains(&ms), "{ms} ms");
        let code = acl.aclrtEventElapsedTime(&mut ms, end, begin).unwrap();
        refused(acl, code, ACL_ERROR_RT_EVENT_TIMESTAMP_REVERSAL, &["before"]);
        let bytes: Vec<u8> = download(acl, block, 64);
        assert_eq!((&bytes[..32], &bytes[32..]), (&[2u8; 32][..], &[1u8; 32][..]));
        for event in [begin, end] {
            assert_eq!(acl.aclrtDestroyEvent(event), Ok(0));
        }
        for stream in [first, second] {
            assert_eq!(acl.aclrtDestroyStream(stream), Ok(0));
        }
    }
    free(acl, block);
}

#[test]
fn waits_end_at_their_limit() {
    let acl = acl(0);
    let (stream, event) = (stream(acl), event(acl));
    hold(acl, stream, 120);
    // SAFETY: handles are checked by the callee.
    unsafe {
        assert_eq!(acl.aclrtRecordEvent(event, stream), Ok(0));
        let code = acl.aclrtSynchronizeStreamWithTimeout(stream, 5).unwrap();
        refused(acl, code, ACL_ERROR_RT_STREAM_SYNC_TIMEOUT, &["5 ms"]);
        let code = acl.aclrtSynchronizeEventWithTimeout(event, 5).unwrap();
        refused(acl, code, ACL_ERROR_RT_EVENT_SYNC_TIMEOUT, &["5 ms"]);
        synchronize(acl, stream);
        assert_eq!(acl.aclrtDestroyEvent(event), Ok(0));
        assert_eq!(acl.aclrtDestroyStream(stream), Ok(0));
    }
}

#[test]
fn waiting_for_an_event_that_was_never_recorded_is_refused() {
    let acl = acl(0);
    let (stream, event) = (stream(acl), event(acl));
    // SAFETY: handles are checked by the callee.
    unsafe {
        let code = acl.aclrtStreamWaitEvent(stream, event).unwrap();
        refused(acl, code, ACL_ERROR_RT_PARAM_INVALID, &["never recorded"]);
        assert_eq!(acl.aclrtDestroyEvent(event), Ok(0));
        let mut timed = null_mut();
        assert_eq!(acl.aclrtCreateEventWithFlag(&mut timed, 8), Ok(0));
        assert_eq!(acl.aclrtRecordEvent(timed, stream), Ok(0));
        let code = acl.aclrtStreamWaitEvent(stream, timed).unwrap();
        refused(acl, code, ACL_ERROR_RT_PARAM_INVALID, &["ACL_EVENT_SYNC"]);
        assert_eq!(acl.aclrtDestroyEvent(timed), Ok(0));
        assert_eq!(acl.aclrtDestroyStream(stream), Ok(0));
    }
}

unsafe extern "C" fn count(counter: *mut c_void) {
    // SAFETY: the tests pass an atomic that outlives the stream's work.
    let counter = unsafe { &*counter.cast::<std::sync::atomic::AtomicU32>() };
    counter.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
}

#[test]
fn callbacks_run_on_the_subscribed_thread() {
    let acl = acl(0);
    let stream = stream(acl);
    let counter = std::sync::atomic::AtomicU32::new(0);
    let argument = (&raw const counter).cast_mut().cast::<c_void>();
    // SAFETY: the counter outlives the callbacks.
    unsafe {
        let code = acl.aclrtLaunchCallback(Some(count), argument, ACL_CALLBACK_NO_BLOCK, stream).unwrap();
        refused(acl, code, ACL_ERROR_RT_STREAM_NO_CB_REG, &["aclrtSubscribeReport"]);
        let me = libc::pthread_self() as u64;
        assert_eq!(acl.aclrtSubscribeReport(me, stream), Ok(0));
        assert_eq!(acl.aclrtLaunchCallback(Some(count), argument, ACL_CALLBACK_BLOCK, stream), Ok(0));
        assert_eq!(acl.aclrtProcessReport(10_000), Ok(0));
        synchronize(acl, stream);
        assert_eq!(counter.load(std::sync::atomic::Ordering::SeqCst), 1);
        refused(acl, acl.aclrtProcessReport(1).unwrap(), ACL_ERROR_RT_REPORT_TIMEOUT, &["1 ms"]);
        assert_eq!(acl.aclrtUnSubscribeReport(me, stream), Ok(0));
        assert_eq!(acl.aclrtDestroyStream(stream), Ok(0));
    }
}

#[test]
fn a_stream_of_another_context_is_refused() {
    let acl = acl(0);
    let stream = stream(acl);
    // SAFETY: handles are checked by the callee.
    unsafe {
        assert_eq!(acl.aclrtSetDevice(1), Ok(0));
        let code = acl.aclrtSynchronizeStream(stream).unwrap();
        refused(acl, code, ACL_ERROR_RT_STREAM_CONTEXT, &["device 0", "device 1"]);
        assert_eq!(acl.aclrtSetDevice(0), Ok(0));
        assert_eq!(acl.aclrtDestroyStream(stream), Ok(0));
    }
}
