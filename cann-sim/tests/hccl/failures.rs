//! Ranks that do not call the same, and arguments outside of the pages.

use crate::support::*;
use acl_sys::error::*;
use hccl_sys::*;
use std::ptr::{null, null_mut};

/// Lets three ranks call what `call` says, and answers how each stream failed.
fn disagree(call: impl Fn(&Rank, &Buffer) -> Result<i32, acl_sys::MissingSymbol> + Sync) -> Vec<(i32, String)> {
    configured(3, Some(patience(20)), |me| {
        let buffer = Buffer::room::<f32>(64);
        ok(call(&me, &buffer));
        let failed = me.failed();
        assert_eq!(me.async_error(), HCCL_E_REMOTE);
        // SAFETY: nothing is issued.
        let again = unsafe { hccl().HcclBarrier(me.comm, me.stream) };
        refused(again, HCCL_E_IN_STATUS, &["has failed before", "make a new one"]);
        failed
    })
}

#[test]
fn calls_that_differ_name_the_ranks() {
    let (sum, f32s) = (HCCL_REDUCE_SUM, HCCL_DATA_TYPE_FP32);
    // SAFETY: the buffers have 64 floats, more than any call takes.
    let reduce = |me: &Rank, b: &Buffer, count, dtype, op| unsafe {
        hccl().HcclAllReduce(b.data, b.data, count, dtype, op, me.comm, me.stream)
    };
    // What differs, what the message must hold, and each rank's answer.
    type Case = (&'static str, &'static [&'static str], Vec<(i32, String)>);
    let cases: [Case; 5] = [
        (
            "operation",
            &["rank 0, 2: HcclAllReduce(count 8, float32, sum)", "rank 1: HcclBroadcast(count 8, float32, root 0)"],
            disagree(|me, b| match me.rank {
                // SAFETY: as above.
                1 => unsafe { hccl().HcclBroadcast(b.data, 8, f32s, 0, me.comm, me.stream) },
                _ => reduce(me, b, 8, f32s, sum),
            }),
        ),
        (
            "count",
            &["rank 2: HcclAllReduce(count 9, float32, sum)", "rank 0, 1: HcclAllReduce(count 8, float32, sum)"],
            disagree(|me, b| reduce(me, b, if me.rank == 2 { 9 } else { 8 }, f32s, sum)),
        ),
        (
            "type",
            &["rank 0: HcclAllReduce(count 8, int32, sum)", "rank 1, 2: HcclAllReduce(count 8, float32, sum)"],
            disagree(|me, b| reduce(me, b, 8, if me.rank == 0 { HCCL_DATA_TYPE_INT32 } else { f32s }, sum)),
        ),
        (
            "reduction",
            &["rank 0: HcclAllReduce(count 8, float32, max)", "rank 1, 2: HcclAllReduce(count 8, float32, sum)"],
            disagree(|me, b| reduce(me, b, 8, f32s, if me.rank == 0 { HCCL_REDUCE_MAX } else { sum })),
        ),
        (
            "root",
            &["rank 0: HcclBroadcast(count 8, float32, root 0)", "rank 1: HcclBroadcast(count 8, float32, root 1)"],
            // SAFETY: as above.
            disagree(|me, b| unsafe { hccl().HcclBroadcast(b.data, 8, f32s, me.rank as u32, me.comm, me.stream) }),
        ),
    ];
    for (what, parts, failed) in cases {
        for (rank, (code, text)) in failed.iter().enumerate() {
            // What a card's stream answers in the end, when its waiting time is over.
            assert_eq!(*code, ACL_ERROR_RT_FFTS_PLUS_TIMEOUT, "{what}, rank {rank}: {text}");
            says(text, &["call 1 differs between the ranks"]);
        }
        // A rank that hears of the failure before it has heard every call repeats what it was told.
        let complete = failed.iter().filter(|(_, text)| parts.iter().all(|part| text.contains(part))).count();
        assert!(complete >= 1, "{what}: {failed:?} does not say {parts:?}");
    }
}

#[test]
fn the_order_of_calls_matters() {
    let failed = disagree(|me, b| {
        // SAFETY: the buffers have 64 floats.
        unsafe {
            let (data, dtype, comm, stream) = (b.data, HCCL_DATA_TYPE_FP32, me.comm, me.stream);
            let gather = || hccl().HcclBroadcast(data, 4, dtype, 0, comm, stream);
            let reduce = || hccl().HcclAllReduce(data, data, 4, dtype, HCCL_REDUCE_SUM, comm, stream);
            ok(hccl().HcclBarrier(comm, stream));
            ok(if me.rank == 1 { gather() } else { reduce() });
            if me.rank == 1 { reduce() } else { gather() }
        }
    });
    for (_, text) in failed {
        says(&text, &["call 2 differs between the ranks", "HcclBroadcast(count 4", "HcclAllReduce(count 4"]);
    }
}

#[test]
fn a_rank_that_does_not_call_is_named_when_the_time_is_over() {
    let wait = std::sync::Barrier::new(3);
    let texts = configured(3, Some(patience(1)), |me| {
        let buffer = Buffer::room::<f32>(8);
        let failed = (me.rank != 1).then(|| {
            // SAFETY: the buffer has that many elements.
            unsafe {
                let (data, dtype) = (buffer.data, HCCL_DATA_TYPE_FP32);
                ok(hccl().HcclAllReduce(data, data, 8, dtype, HCCL_REDUCE_SUM, me.comm, me.stream));
            }
            me.failed()
        });
        wait.wait();
        failed
    });
    for (code, text) in texts.into_iter().flatten() {
        assert_eq!(code, ACL_ERROR_RT_FFTS_PLUS_TIMEOUT, "{text}");
        let told = "rank 1 did not come to call 1, HcclAllReduce(count 8, float32, sum), within 1s (HCCL_EXEC_TIMEOUT)";
        says(&text, &[told]);
    }
}

#[test]
fn a_rank_that_fails_alone_is_named_by_the_others() {
    let failed = configured(3, Some(patience(20)), |me| {
        let buffer = Buffer::of(&[1f32; 64]);
        let (data, dtype, mut other) = (buffer.data, HCCL_DATA_TYPE_FP32, null_mut());
        // Rank 2 has written the buffer on a stream that nothing orders before the collective.
        // SAFETY: handles and device memory are checked by the callee.
        unsafe {
            ok(acl().aclrtCreateStream(&mut other));
            if me.rank == 2 {
                ok(acl().aclrtMemsetAsync(data, 256, 0, 256, other));
                std::thread::sleep(std::time::Duration::from_millis(200));
            }
            ok(hccl().HcclAllReduce(data, data, 64, dtype, HCCL_REDUCE_SUM, me.comm, me.stream));
            let failed = me.failed();
            ok(acl().aclrtSynchronizeStream(other));
            ok(acl().aclrtDestroyStream(other));
            failed
        }
    });
    assert_eq!(failed[2].0, ACL_ERROR_RT_AICORE_EXCEPTION, "{}", failed[2].1);
    says(&failed[2].1, &["race: HcclAllReduce"]);
    for (code, text) in &failed[..2] {
        assert_eq!(*code, ACL_ERROR_RT_SUSPECT_REMOTE_ERROR, "{text}");
        says(text, &["rank 2 reports a failure of rank 2: race: HcclAllReduce"]);
    }
}

#[test]
fn arguments_are_checked_before_anything_is_issued() {
    ranks(2, |me| {
        let (buffer, host) = (Buffer::room::<f32>(16), [0f32; 16]);
        let (data, at, f32s, sum) = (buffer.data, buffer.data as usize, HCCL_DATA_TYPE_FP32, HCCL_REDUCE_SUM);
        let (comm, stream) = (me.comm, me.stream);
        let shifted = std::ptr::without_provenance_mut(at + 2);
        // SAFETY: nothing is issued; what is read is valid.
        unsafe {
            let reduce = |send, recv, count, dtype, op, comm, stream| {
                hccl().HcclAllReduce(send, recv, count, dtype, op, comm, stream)
            };
            refused(reduce(null_mut(), data, 16, f32s, sum, comm, stream), HCCL_E_PTR, &["sendBuf is null"]);
            refused(reduce(data, data, 16, f32s, sum, null_mut(), stream), HCCL_E_PTR, &["comm is null"]);
            refused(reduce(data, data, 16, f32s, sum, stream, stream), HCCL_E_PARA, &["the handle of a stream"]);
            refused(reduce(data, data, 16, f32s, sum, comm, null_mut()), HCCL_E_PTR, &["stream is null"]);
            refused(reduce(data, data, 16, f32s, sum, comm, comm), HCCL_E_PARA, &["the handle of a communicator"]);
            refused(reduce(data, data, 17, f32s, sum, comm, stream), HCCL_E_PARA, &["run 4 bytes over"]);
            refused(reduce(data, data, 16, f32s, 4, comm, stream), HCCL_E_PARA, &["op 4 is no reduction"]);
            refused(reduce(data, data, 16, 77, sum, comm, stream), HCCL_E_PARA, &["dataType 77"]);
            let unsigned = HCCL_DATA_TYPE_UINT8;
            refused(reduce(data, data, 16, unsigned, sum, comm, stream), HCCL_E_NOT_SUPPORT, &["uint8 with sum"]);
            refused(reduce(shifted, data, 8, f32s, sum, comm, stream), HCCL_E_PARA, &["wanted a multiple of 4"]);
            let host = host.as_ptr().cast_mut().cast();
            refused(reduce(host, data, 16, f32s, sum, comm, stream), HCCL_E_PARA, &["which is not device memory"]);
            refused(
                hccl().HcclBroadcast(data, 4, f32s, 2, comm, stream),
                HCCL_E_PARA,
                &["root is 2, wanted a rank below 2"],
            );
            refused(
                hccl().HcclAlltoAll(data, 4, f32s, data, 4, f32s, comm, stream),
                HCCL_E_PARA,
                &["sendBuf and recvBuf of HcclAlltoAll are the same"],
            );
            let call = hccl().HcclAllGatherV(data, 4, data, null(), null(), f32s, comm, stream);
            refused(call, HCCL_E_PTR, &["recvCounts is null"]);
            let overlapping = [0u64, 2];
            let (counts, starts) = ([4u64, 4].as_ptr().cast(), overlapping.as_ptr().cast());
            let call = hccl().HcclAllGatherV(shifted, 4, data, counts, starts, f32s, comm, stream);
            refused(call, HCCL_E_PARA, &["make parts that overlap"]);
        }
        // Another device's memory and stream. A second context on this thread, and the way back.
        let other = 4 + me.rank;
        let foreign_stream = Rank::device(other);
        let foreign = Buffer::room::<f32>(16);
        // SAFETY: as above.
        unsafe {
            let call = hccl().HcclBroadcast(data, 4, f32s, 0, comm, foreign_stream);
            refused(call, HCCL_E_PARA, &[&format!("is not of device {}", me.rank)]);
            let call = hccl().HcclBroadcast(foreign.data, 4, f32s, 0, comm, stream);
            refused(call, HCCL_E_PARA, &[&format!("is memory of device {other}, wanted device {}", me.rank)]);
            ok(acl().aclrtDestroyStream(foreign_stream));
        }
        drop(foreign);
        // SAFETY: no pointers.
        unsafe { ok(acl().aclrtSetDevice(me.rank as i32)) };
    });
}
