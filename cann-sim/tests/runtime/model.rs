//! The cost model against arithmetic by hand, on the default chip: 910B3, 20 cube and 40 vector cores at 1.8 GHz, 1.6 TB/s.
//!
//! Every test reads its own stream's time, because others run beside it.

use crate::support::*;
use acl_sys::enums::*;
use acl_sys::{Acl, Aclnn, aclTensor, loader::op};
use cann_sim::runtime::cost::{Cost, StreamTime, Unit};
use cann_sim::runtime::{soc, timeline};
use cann_sim::{Config, Embedded};
use std::ffi::c_void;
use std::ptr::{null, null_mut};
use std::sync::Arc;

/// Microseconds to start a task, and of the host for an operator and for another call, as the model assumes them.
const START: f64 = 2.0;
const HOST_OPERATOR: f64 = 5.0;
const HOST_CALL: f64 = 3.0;
/// Bytes and cycles a microsecond.
const MEMORY: f64 = 1.6e6;
const CYCLES: f64 = 1800.0;

fn aclnn() -> Aclnn {
    Aclnn::new(Arc::new(Embedded::with(Config::default()).unwrap()))
}

fn time(acl: &Acl, stream: *mut c_void) -> StreamTime {
    let mut id = 0;
    // SAFETY: the pointer is writable.
    assert_eq!(unsafe { acl.aclrtStreamGetId(stream, &mut id) }, Ok(0));
    let modelled = cann_sim::modelled();
    assert_eq!(modelled.soc, "Ascend910B3");
    modelled.streams.into_iter().find(|it| it.stream == id as u32).unwrap_or_default()
}

/// Microseconds in which `stream` had a task.
fn busy(acl: &Acl, stream: *mut c_void) -> f64 {
    time(acl, stream).busy / 1e3
}

#[track_caller]
fn close(got: f64, wanted: f64) {
    assert!((got - wanted).abs() < 1e-6 * wanted.abs() + 1e-6, "{got} µs, wanted {wanted}");
}

fn tensor(acl: &Acl, dtype: i32, shape: &[i64], data: *mut c_void) -> *mut aclTensor {
    // SAFETY: the shape has as many dimensions as are passed; the callee checks the rest.
    unsafe {
        let (shape, rank) = (shape.as_ptr(), shape.len() as u64);
        acl.aclCreateTensor(shape, rank, dtype, null(), 0, ACL_FORMAT_ND, shape, rank, data).unwrap()
    }
}

/// Launches the product of `m × k` by `k × n` matrices of `dtype` once; `cube_math` is its `cubeMathType`.
fn multiply(acl: &Acl, aclnn: &Aclnn, stream: *mut c_void, (m, k, n): (i64, i64, i64), dtype: i32, cube_math: i8) {
    let size = if dtype == ACL_FLOAT { 4 } else { 2 };
    let blocks = [m * k, k * n, m * n].map(|count| malloc(acl, (count * size) as usize));
    let shapes = [[m, k], [k, n], [m, n]];
    // SAFETY: device memory is initialised before it is read, handles are checked by the callee.
    unsafe {
        for (block, shape) in blocks.iter().zip(shapes) {
            let bytes = (shape[0] * shape[1] * size) as usize;
            assert_eq!(acl.aclrtMemset(*block, bytes, 0, bytes), Ok(0));
        }
        let [a, b, out] = [0, 1, 2].map(|i| tensor(acl, dtype, &shapes[i], blocks[i]));
        let (first, second) = aclnn.pair::<op::Matmul>().unwrap();
        let (mut bytes, mut executor) = (0, null_mut());
        assert_eq!(first(a, b, out, cube_math, &mut bytes, &mut executor), 0, "{}", message(acl));
        let workspace = malloc(acl, bytes.max(1) as usize);
        assert_eq!(second(workspace, bytes, executor, stream), 0, "{}", message(acl));
        synchronize(acl, stream);
        [a, b, out].into_iter().for_each(|tensor| assert_eq!(acl.aclDestroyTensor(tensor), Ok(0)));
        free(acl, workspace);
    }
    blocks.into_iter().for_each(|block| free(acl, block));
}

#[test]
fn products_take_the_longer_of_bytes_and_multiply_adds() {
    let (acl, aclnn) = (acl(2), aclnn());
    // 64 · 128 · 128 blocks of 16 × 16 × 16, one a cycle and core.
    let large = (1024, 2048, 2048);
    let cube = (64 * 128 * 128) as f64 / 20.0 / CYCLES;
    let bytes = 2.0 * (1024 * 2048 + 2048 * 2048 + 1024 * 2048) as f64;
    assert!(cube > bytes / MEMORY, "the example is bound by the cube");
    let one = stream(acl);
    multiply(acl, &aclnn, one, large, ACL_BF16, 0);
    close(busy(acl, one), START + cube);
    assert_eq!(time(acl, one).by_unit.keys().copied().collect::<Vec<_>>(), [Unit::Cube]);
    // A row is padded to a block and moves the whole matrix.
    let two = stream(acl);
    multiply(acl, &aclnn, two, (1, 2048, 2048), ACL_BF16, 0);
    close(busy(acl, two), START + 2.0 * (2048 + 2048 * 2048 + 2048) as f64 / MEMORY);
    assert_eq!(time(acl, two).work.cube_cycles, 128 * 128);
    // f32 has half of the depth and takes two passes; as HFLOAT32 one.
    let three = stream(acl);
    multiply(acl, &aclnn, three, large, ACL_FLOAT, 0);
    close(busy(acl, three), START + 4.0 * cube);
    multiply(acl, &aclnn, three, large, ACL_FLOAT, 1);
    close(busy(acl, three), START + 4.0 * cube + START + 2.0 * cube);
}

#[test]
fn the_host_or_the_device_is_the_bound_of_a_row_of_launches() {
    let (acl, aclnn) = (acl(2), aclnn());
    let stream = stream(acl);
    let data = malloc(acl, 64);
    upload(acl, data, &[1f32; 16]);
    let tensor = tensor(acl, ACL_FLOAT, &[16], data);
    let (first, second) = aclnn.pair::<op::Neg>().unwrap();
    let launch = || {
        let (mut bytes, mut executor) = (0, null_mut());
        // SAFETY: handles are checked by the callee, the pointers are writable.
        unsafe {
            assert_eq!(first(tensor, tensor, &mut bytes, &mut executor), 0);
            assert_eq!(second(null_mut(), bytes, executor, stream), 0);
        }
    };
    launch();
    let begun = time(acl, stream).end;
    (0..10).for_each(|_| launch());
    let small = time(acl, stream);
    // 64 bytes in, 64 out: the device is done before the host has issued the next.
    close((small.end - begun) / 1e3, 10.0 * HOST_OPERATOR);
    close(small.busy / 1e3, 11.0 * (START + 128.0 / MEMORY));
    assert_eq!(small.by_unit.keys().copied().collect::<Vec<_>>(), [Unit::Launch]);

    // A copy of 64 MiB within the device keeps it busy for longer than the host issues what follows.
    let (from, to) = (malloc(acl, 64 << 20), malloc(acl, 64 << 20));
    // SAFETY: the callee checks device memory.
    unsafe {
        assert_eq!(acl.aclrtMemset(from, 64 << 20, 0, 64 << 20), Ok(0));
        synchronize(acl, stream);
        let before = time(acl, stream).end;
        let kind = ACL_MEMCPY_DEVICE_TO_DEVICE;
        assert_eq!(acl.aclrtMemcpyAsync(to, 64 << 20, from, 64 << 20, kind, stream), Ok(0));
        let begun = time(acl, stream).end;
        assert!(begun - before >= 2.0 * (64 << 20) as f64 / MEMORY * 1e3);
        (0..10).for_each(|_| launch());
        close((time(acl, stream).end - begun) / 1e3, 10.0 * (START + 128.0 / MEMORY));
        synchronize(acl, stream);
        assert_eq!(acl.aclDestroyTensor(tensor), Ok(0));
        assert_eq!(acl.aclrtDestroyStream(stream), Ok(0));
    }
    [data, from, to].into_iter().for_each(|block| free(acl, block));
}

#[test]
fn rows_that_are_looked_up_cost_their_bytes_and_not_the_tables() {
    let (acl, aclnn) = (acl(2), aclnn());
    let stream = stream(acl);
    let (table, ids, rows) = (malloc(acl, 4096 * 256 * 4), malloc(acl, 8), malloc(acl, 2 * 256 * 4));
    upload(acl, table, &vec![1f32; 4096 * 256]);
    upload(acl, ids, &[7i32, 9]);
    let tensors = [
        tensor(acl, ACL_FLOAT, &[4096, 256], table),
        tensor(acl, ACL_INT32, &[2], ids),
        tensor(acl, ACL_FLOAT, &[2, 256], rows),
    ];
    let (first, second) = aclnn.pair::<op::Embedding>().unwrap();
    let (mut bytes, mut executor) = (0, null_mut());
    // SAFETY: handles are checked by the callee, the pointers are writable.
    unsafe {
        assert_eq!(first(tensors[0], tensors[1], tensors[2], &mut bytes, &mut executor), 0, "{}", message(acl));
        assert_eq!(second(null_mut(), bytes, executor, stream), 0);
        synchronize(acl, stream);
        assert_eq!(time(acl, stream).work.bytes, 2 * (2 * 256 * 4) + 8);
        tensors.into_iter().for_each(|tensor| assert_eq!(acl.aclDestroyTensor(tensor), Ok(0)));
        assert_eq!(acl.aclrtDestroyStream(stream), Ok(0));
    }
    [table, ids, rows].into_iter().for_each(|block| free(acl, block));
}

#[test]
fn a_graph_costs_what_its_tasks_cost_for_each_run_and_the_host_one_call() {
    let acl = acl(2);
    let stream = stream(acl);
    let block = malloc(acl, 1 << 20);
    let mut graph = null_mut();
    // SAFETY: handles and device memory are checked by the callee.
    unsafe {
        assert_eq!(acl.aclmdlRICaptureBegin(stream, ACL_MODEL_RI_CAPTURE_MODE_RELAXED), Ok(0));
        for _ in 0..20 {
            assert_eq!(acl.aclrtMemsetAsync(block, 1 << 20, 0, 1 << 20, stream), Ok(0));
        }
        assert_eq!(acl.aclmdlRICaptureEnd(stream, &mut graph), Ok(0));
        assert_eq!(time(acl, stream).tasks, 0, "recording costs nothing");
        assert_eq!(acl.aclmdlRIExecuteAsync(graph, stream), Ok(0));
        let first = time(acl, stream);
        assert_eq!(acl.aclmdlRIExecuteAsync(graph, stream), Ok(0));
        let both = time(acl, stream);
        synchronize(acl, stream);
        let run = 20.0 * (START + (1 << 20) as f64 / MEMORY);
        assert_eq!((first.tasks, both.tasks), (20, 40));
        close(first.busy / 1e3, run);
        // The host has issued the second run long before the first has ended.
        close((both.end - first.end) / 1e3, run);
        assert!(HOST_CALL < run);
        assert_eq!(acl.aclmdlRIDestroy(graph), Ok(0));
        assert_eq!(acl.aclrtDestroyStream(stream), Ok(0));
    }
    free(acl, block);
}

#[test]
fn a_stream_that_waits_for_an_event_begins_after_it() {
    let acl = acl(2);
    let (long, short) = (stream(acl), stream(acl));
    let (large, small) = (malloc(acl, 32 << 20), malloc(acl, 64));
    let event = event(acl);
    // SAFETY: handles and device memory are checked by the callee.
    unsafe {
        assert_eq!(acl.aclrtMemsetAsync(large, 32 << 20, 0, 32 << 20, long), Ok(0));
        assert_eq!(acl.aclrtRecordEvent(event, long), Ok(0));
        assert_eq!(acl.aclrtMemsetAsync(small, 64, 0, 64, short), Ok(0));
        assert!(time(acl, short).end < time(acl, long).end, "side by side");
        assert_eq!(acl.aclrtStreamWaitEvent(short, event), Ok(0));
        assert_eq!(acl.aclrtMemsetAsync(small, 64, 0, 64, short), Ok(0));
        close((time(acl, short).end - time(acl, long).end) / 1e3, START + 64.0 / MEMORY);
        synchronize(acl, short);
        synchronize(acl, long);
        assert_eq!(acl.aclrtDestroyEvent(event), Ok(0));
        [long, short].into_iter().for_each(|stream| assert_eq!(acl.aclrtDestroyStream(stream), Ok(0)));
    }
    free(acl, large);
    free(acl, small);
}

#[test]
fn chips_differ_by_their_cores_clocks_and_memory() {
    let time = |name: &str, cost: Cost| cost.duration(soc::find(name).unwrap()).0 - START * 1e3;
    let cube = Cost { cube_cycles: 1_000_000, ..Cost::default() };
    let ratio = time("910b4", cube) / time("910b1", cube);
    assert!((ratio - (24.0 * 1850.0) / (20.0 * 1500.0)).abs() < 1e-9, "{ratio}");
    let bytes = Cost { bytes: 1 << 30, ..Cost::default() };
    assert!((time("910b4", bytes) / time("910b3", bytes) - 2.0).abs() < 1e-9, "half of the memory's stacks");
    // 353.9 TFLOPS for 910B2 and 294.9 for 910B3, as cores times clock times 16 × 16 × 16 × 2 give them.
    let (two, three) = (time("910b2", cube), time("910b3", cube));
    let tflops = |nanoseconds: f64| 1e6 * 8192.0 / nanoseconds / 1e3;
    assert!((tflops(two) - 353.9).abs() < 0.1 && (tflops(three) - 294.9).abs() < 0.1);
}

#[test]
fn a_timeline_is_a_chrome_trace() {
    let span = |stream, start, time, unit| timeline::Span {
        device: 1,
        stream,
        op: "aclnnMatmul",
        start,
        time,
        unit,
        cost: Cost { bytes: 7, ..Cost::default() },
    };
    let mut out = Vec::new();
    timeline::write(&[span(3, 1500.0, 2500.0, Unit::Cube), span(4, 0.0, 10.0, Unit::Launch)], &mut out).unwrap();
    let text = String::from_utf8(out).unwrap();
    let events: Vec<&str> = text.lines().filter(|line| line.contains("\"ph\":\"X\"")).collect();
    assert_eq!(events.len(), 2);
    for part in
        ["\"name\":\"aclnnMatmul\"", "\"pid\":1", "\"tid\":3", "\"ts\":1.500", "\"dur\":2.500", "\"limit\":\"cube\""]
    {
        assert!(events[0].contains(part), "{part} is not in {}", events[0]);
    }
    let depth = |open: char, shut: char| text.matches(open).count() as i64 - text.matches(shut).count() as i64;
    assert_eq!((depth('{', '}'), depth('[', ']')), (0, 0));
}
