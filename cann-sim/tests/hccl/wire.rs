//! Bytes on the wire, streams and graphs.

use crate::support::*;
use acl_sys::enums::*;
use hccl_sys::*;
use std::ptr::null_mut;

/// Bytes that this rank sends while `work` runs.
fn sent(me: &Rank, work: impl FnOnce()) -> f64 {
    let before = cann_sim::hccl::traffic(me.comm).unwrap();
    work();
    me.done();
    (cann_sim::hccl::traffic(me.comm).unwrap().sent - before.sent) as f64
}

#[test]
fn the_ring_sends_no_more_than_it_must() {
    const COUNT: usize = 1 << 16;
    for size in 2..=4 {
        ranks(size, |me| {
            let (all, own) = (Buffer::room::<f32>(COUNT), Buffer::room::<f32>(COUNT / size));
            let share = (size - 1) as f64 / size as f64;
            let (bytes, piece, dtype) = ((4 * COUNT) as f64, (COUNT / size) as u64, HCCL_DATA_TYPE_FP32);
            let op = HCCL_REDUCE_SUM;
            // SAFETY: the buffers are as long as the calls say.
            unsafe {
                let (comm, stream) = (me.comm, me.stream);
                let reduced =
                    sent(&me, || ok(hccl().HcclAllReduce(all.data, all.data, COUNT as u64, dtype, op, comm, stream)));
                assert!((reduced / (2.0 * share * bytes) - 1.0).abs() < 0.05, "all-reduce on {size}: {reduced}");
                let gathered = sent(&me, || ok(hccl().HcclAllGather(own.data, all.data, piece, dtype, comm, stream)));
                assert!((gathered / (share * bytes) - 1.0).abs() < 0.05, "all-gather on {size}: {gathered}");
                let scattered =
                    sent(&me, || ok(hccl().HcclReduceScatter(all.data, own.data, piece, dtype, op, comm, stream)));
                assert!((scattered / (share * bytes) - 1.0).abs() < 0.05, "reduce-scatter on {size}: {scattered}");
            }
        });
    }
}

#[test]
fn a_modelled_all_reduce_takes_what_its_busiest_wire_takes() {
    const COUNT: u64 = 1 << 20;
    for size in [1, 2, 4] {
        ranks(size, |me| {
            let (all, mut id) = (Buffer::room::<f32>(COUNT as usize), 0);
            // SAFETY: the buffer is as long as the call says, and one number is written.
            unsafe {
                ok(acl().aclrtStreamGetId(me.stream, &mut id));
                let (data, op, dtype) = (all.data, HCCL_REDUCE_SUM, HCCL_DATA_TYPE_FP32);
                ok(hccl().HcclAllReduce(data, data, COUNT, dtype, op, me.comm, me.stream));
            }
            me.done();
            let busy = cann_sim::modelled().streams.into_iter().find(|it| it.stream == id as u32).unwrap().busy;
            // Each pair exchanges a share twice, at 18.3 bytes a nanosecond, after 2 µs to start; alone, nothing is sent.
            let wire = if size == 1 { 0.0 } else { 2.0 * (4 * COUNT) as f64 / size as f64 / 18.3 };
            assert!((busy - 2_000.0 - wire).abs() < 1.0, "{size} ranks: {busy} ns, wanted {} ns", 2_000.0 + wire);
        });
    }
}

#[test]
fn collectives_run_behind_the_host_and_in_the_order_of_the_stream() {
    ranks(2, |me| {
        let buffer = Buffer::of(&[1f32; 256]);
        // SAFETY: the buffer has that many elements.
        unsafe {
            for _ in 0..10 {
                let (data, dtype) = (buffer.data, HCCL_DATA_TYPE_FP32);
                ok(hccl().HcclAllReduce(data, data, 256, dtype, HCCL_REDUCE_SUM, me.comm, me.stream));
            }
        }
        me.done();
        assert_eq!(buffer.values::<f32>(), [1024f32; 256]);
    });
}

#[test]
fn a_collective_races_with_other_streams_like_any_operator() {
    let texts = configured(2, Some(patience(20)), |me| {
        let buffer = Buffer::of(&[1f32; 64]);
        let mut other = null_mut();
        // SAFETY: handles and device memory are checked by the callee.
        let codes = unsafe {
            ok(acl().aclrtCreateStream(&mut other));
            if me.rank == 0 {
                ok(acl().aclrtMemsetAsync(buffer.data, 256, 0, 256, other));
            }
            let (data, dtype) = (buffer.data, HCCL_DATA_TYPE_FP32);
            ok(hccl().HcclAllReduce(data, data, 64, dtype, HCCL_REDUCE_SUM, me.comm, me.stream));
            let first = me.failed();
            let code = acl().aclrtSynchronizeStream(other).unwrap();
            let second = (code, message());
            ok(acl().aclrtDestroyStream(other));
            [first, second]
        };
        codes.into_iter().find(|(code, _)| *code != 0).map(|(_, text)| text).unwrap_or_default()
    });
    says(&texts[0], &["race: ", "HcclAllReduce (task 1 of stream", "aclrtMemsetAsync (task 1 of stream"]);
}

#[test]
fn a_graph_takes_part_in_the_order_of_the_calls() {
    ranks(2, |me| {
        let buffer = Buffer::of(&[1i32; 16]);
        let (data, mut graph) = (buffer.data, null_mut());
        // SAFETY: handles and device memory are checked by the callee.
        unsafe {
            let reduce = |op| hccl().HcclAllReduce(data, data, 16, HCCL_DATA_TYPE_INT32, op, me.comm, me.stream);
            ok(acl().aclmdlRICaptureBegin(me.stream, ACL_MODEL_RI_CAPTURE_MODE_THREAD_LOCAL));
            ok(reduce(HCCL_REDUCE_SUM));
            ok(acl().aclmdlRICaptureEnd(me.stream, &mut graph));
            me.done();
            assert_eq!(buffer.values::<i32>(), [1; 16], "recording runs nothing");
            // Each run is a call of its own, between the others.
            for _ in 0..3 {
                ok(acl().aclmdlRIExecuteAsync(graph, me.stream));
                ok(reduce(HCCL_REDUCE_MAX));
            }
            me.done();
            assert_eq!(buffer.values::<i32>(), [8; 16]);
            ok(acl().aclmdlRIDestroy(graph));
        }
    });
}
