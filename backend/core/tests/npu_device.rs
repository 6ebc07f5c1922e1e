//! The device below the operators: memory, counters, errors, threads.

mod common;

use candle_ascend::acl::{Error, Event};
use candle_ascend::{CpuStorage, DType, Layout, NpuDevice};
use candle_core::backend::{BackendDevice, BackendStorage};
use candle_core::op;
use common::*;

#[test]
fn handles_of_one_device_share_it() {
    let (a, b, other) = (npu_at(0), npu_at(0), npu_at(1));
    assert!(a.same_device(&b) && !a.same_device(&other));
    assert!(a.soc().starts_with("Ascend"), "{}", a.soc());
    assert!(a.describe().contains("simulated"), "{}", a.describe());
    assert!(a.memory_info().expect("memory").total > 1 << 30);
    assert!(!a.cann_version().expect("version").is_empty());
    let libraries = a.libraries();
    assert!(libraries.iter().all(|library| library.present > 0), "{libraries:?}");
}

#[test]
fn a_device_that_does_not_exist_is_named() {
    npu();
    let error = NpuDevice::simulated("", 99).expect_err("no such device");
    assert!(matches!(Error::of(&error), Some(Error::NoDevice { index: 99, count, .. }) if *count > 0), "{error}");
}

#[test]
fn large_uploads_come_back_whole() {
    let device = npu_at(1);
    // More than the ring of pinned buffers holds, and no multiple of its parts.
    let data: Vec<u32> = (0..4_000_003).collect();
    let storage = device.storage_from_slice(&data).expect("upload");
    assert_eq!(storage.to_cpu_storage().expect("read").as_slice::<u32>().expect("u32"), data);
}

#[test]
fn steady_work_asks_for_no_memory_and_waits_for_nothing() {
    let device = npu_at(4);
    let (x, _) = both(&device, DType::F32, 1 << 16, 1);
    let layout = Layout::contiguous(1 << 16);
    let step = || {
        let y = x.binary_impl::<op::Add>(&x, &layout, &layout).expect("add");
        y.unary_impl::<op::Exp>(&layout).expect("exp")
    };
    step();
    let before = device.counters();
    (0..50).for_each(|_| drop(step()));
    let after = device.counters();
    assert_eq!((after.mallocs, after.frees, after.host_syncs), (before.mallocs, before.frees, before.host_syncs));
    assert_eq!(after.launches - before.launches, 100);
    x.to_cpu_storage().expect("read");
    assert_eq!(device.counters().host_syncs - after.host_syncs, 1, "reading a value waits once");
    assert_eq!(device.counters().bytes_to_host - after.bytes_to_host, 4 << 16);
}

#[test]
fn out_of_memory_says_what_was_asked_and_leaves_the_device_usable() {
    let device = npu_at(5);
    device.set_memory_limit(Some(64 << 20));
    let held = device.zeros_impl(&(32 << 20).into(), DType::U8).expect("32 MiB of 64");
    let error = device.zeros_impl(&(48 << 20).into(), DType::U8).expect_err("48 MiB more do not fit");
    let Some(Error::OutOfMemory(facts)) = Error::of(&error) else { panic!("{error}") };
    assert_eq!((facts.requested, facts.limit, facts.in_use, facts.blocks), (48 << 20, Some(64 << 20), 32 << 20, 1));
    assert_eq!(facts.largest_in_use, [32 << 20]);
    drop(held);
    let fits = device.zeros_impl(&(48 << 20).into(), DType::U8).expect("after the cache was given back it fits");
    assert_eq!(device.memory_info().expect("memory").peak, 48 << 20);
    drop(fits);
    device.context().release_cache().expect("release");
    assert_eq!(device.memory_info().expect("memory").reserved, 0);
}

/// Segments are of 2 MiB at least while there is room; the last of the memory serves requests all the same.
#[test]
fn the_last_memory_goes_to_requests_smaller_than_a_segment() {
    let device = npu_at(6);
    device.set_memory_limit(Some(1 << 20));
    let parts: Vec<_> = (0..25)
        .map(|i| device.zeros_impl(&(40 << 10).into(), DType::U8).unwrap_or_else(|e| panic!("{i}: {e}")))
        .collect();
    let reserved = || device.memory_info().expect("memory").reserved;
    assert_eq!(reserved(), 25 * (40 << 10), "each part has a segment of its own size");
    let error = device.zeros_impl(&(40 << 10).into(), DType::U8).expect_err("a 26th does not fit 1 MiB");
    assert!(matches!(Error::of(&error), Some(Error::OutOfMemory(_))), "{error}");
    drop(parts);
    let large = device.zeros_impl(&(1 << 20).into(), DType::U8).expect("all of it, once the cache is given back");
    assert_eq!(reserved(), 1 << 20);
    drop(large);
}

#[test]
fn more_than_the_device_has_is_out_of_memory_too() {
    let device = npu_at(5);
    let total = device.memory_info().expect("memory").total;
    device.context().set_memory_limit(None);
    let error = device.context().allocate(total * 2).expect_err("twice the memory");
    assert!(matches!(error, Error::OutOfMemory(_)), "{error}");
}

#[test]
fn an_error_of_the_interface_names_call_code_and_message() {
    let device = npu();
    let ((a, _), (b, _)) = (both(&device, DType::F32, 12, 1), both(&device, DType::F32, 12, 2));
    let error = a
        .binary_impl::<op::Add>(&b, &Layout::contiguous((3, 4)), &Layout::contiguous((4, 3)))
        .expect_err("shapes differ");
    assert_eq!(Error::of(&error).and_then(Error::code), Some(161002), "{error}");
    let text = error.to_string();
    assert!(text.contains("aclnnAddGetWorkspaceSize") && text.contains("ACLNN_ERR_PARAM_INVALID"), "{text}");
    let beyond = a.unary_impl::<op::Exp>(&Layout::contiguous_with_offset((3, 4), 1)).expect_err("one element too far");
    assert!(matches!(Error::of(&beyond), Some(Error::Arguments { .. })), "{beyond}");
    let sum = a.binary_impl::<op::Add>(&b, &Layout::contiguous((3, 4)), &Layout::contiguous((3, 4)));
    assert!(sum.is_ok(), "the device works on");
}

#[test]
fn threads_share_a_device() {
    let device = npu_at(6);
    let threads: Vec<_> = (0..4)
        .map(|seed| {
            let device = device.clone();
            std::thread::spawn(move || {
                for round in 0..20 {
                    let ((a, ca), (b, cb)) =
                        (both(&device, DType::F32, 500, seed * 100 + round), both(&device, DType::F32, 500, seed));
                    let l = Layout::contiguous(500);
                    agree("add", a.binary_impl::<op::Add>(&b, &l, &l), ca.binary_impl::<op::Add>(&cb, &l, &l));
                }
            })
        })
        .collect();
    threads.into_iter().for_each(|thread| thread.join().expect("no thread fails"));
}

#[test]
fn events_measure_and_order() {
    let device = npu_at(7);
    let (start, end) = (Event::new(device.context()).expect("event"), Event::new(device.context()).expect("event"));
    start.record().expect("record");
    let (x, _) = both(&device, DType::F32, 1 << 16, 1);
    x.unary_impl::<op::Exp>(&Layout::contiguous(1 << 16)).expect("exp");
    end.record().expect("record");
    end.synchronize().expect("wait");
    assert!(end.is_complete().expect("query"));
    assert!(end.elapsed_since(&start).expect("time") >= 0.);
}

#[test]
fn empty_tensors_launch_nothing() {
    let device = npu_at(7);
    let empty = device.storage_from_cpu_storage(&CpuStorage::F32(vec![])).expect("upload");
    let layout = Layout::contiguous((0, 3));
    let before = device.counters().launches;
    for result in [
        empty.unary_impl::<op::Exp>(&layout),
        empty.affine(&layout, 2., 1.),
        empty.to_dtype(&layout, DType::F16),
        empty.binary_impl::<op::Add>(&empty, &layout, &layout),
    ] {
        assert!(result.expect("an empty tensor").is_empty());
    }
    assert_eq!(device.counters().launches, before);
}
