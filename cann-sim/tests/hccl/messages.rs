//! Sends and receives between two ranks.

use crate::support::*;
use acl_sys::error::ACL_ERROR_RT_FFTS_PLUS_TIMEOUT;
use hccl_sys::*;

fn item(sends: bool, buffer: &Buffer, remote: usize) -> HcclSendRecvItem {
    let kind = if sends { HCCL_SEND } else { HCCL_RECV };
    let count = buffer.bytes as u64 / 4;
    HcclSendRecvItem {
        sendRecvType: kind,
        buf: buffer.data,
        count,
        dataType: HCCL_DATA_TYPE_INT32,
        remoteRank: remote as u32,
    }
}

#[test]
fn a_message_goes_from_rank_to_rank() {
    ranks(3, |me| {
        // Around the circle: what rank 0 sends comes back to it, one larger for each rank on the way.
        let (next, before) = ((me.rank + 1) % 3, (me.rank + 2) % 3);
        let (count, dtype) = (1000, HCCL_DATA_TYPE_INT32);
        let buffer = Buffer::of(&vec![7i32; count]);
        // SAFETY: the buffer has that many elements.
        unsafe {
            let send = || hccl().HcclSend(buffer.data, count as u64, dtype, next as u32, me.comm, me.stream);
            let receive = || hccl().HcclRecv(buffer.data, count as u64, dtype, before as u32, me.comm, me.stream);
            if me.rank == 0 {
                ok(send());
                ok(receive());
            } else {
                ok(receive());
                me.done();
                let more: Vec<i32> = buffer.values::<i32>().iter().map(|x| x + 1).collect();
                let other = Buffer::of(&more);
                ok(hccl().HcclSend(other.data, count as u64, dtype, next as u32, me.comm, me.stream));
                me.done();
            }
        }
        me.done();
        assert_eq!(buffer.values::<i32>(), vec![7 + if me.rank == 0 { 2 } else { me.rank as i32 - 1 }; count]);
    });
}

#[test]
fn a_batch_cannot_lock_up() {
    // Larger than any buffer of the operating system, and every rank receives first in its list.
    let count = 3 << 20;
    ranks(3, |me| {
        let sent: Vec<Buffer> = (0..3).map(|to| Buffer::of(&vec![(10 * me.rank + to) as i32; count])).collect();
        let received: Vec<Buffer> = (0..3).map(|_| Buffer::room::<i32>(count)).collect();
        let mut items: Vec<_> = (0..3).map(|from| item(false, &received[from], from)).collect();
        items.extend((0..3).map(|to| item(true, &sent[to], to)));
        // SAFETY: the items describe live buffers.
        unsafe { ok(hccl().HcclBatchSendRecv(items.as_mut_ptr(), items.len() as u32, me.comm, me.stream)) };
        me.done();
        for (from, buffer) in received.iter().enumerate() {
            let values = buffer.values::<i32>();
            assert!(values.iter().all(|&x| x == (10 * from + me.rank) as i32), "from {from}: {}", values[0]);
        }
    });
}

#[test]
fn messages_that_do_not_fit_are_told_on_both_sides() {
    let texts = configured(2, Some(patience(20)), |me| {
        let buffer = Buffer::room::<i32>(4);
        // SAFETY: the buffer has room for either count.
        unsafe {
            match me.rank {
                0 => ok(hccl().HcclSend(buffer.data, 4, HCCL_DATA_TYPE_INT32, 1, me.comm, me.stream)),
                _ => ok(hccl().HcclRecv(buffer.data, 3, HCCL_DATA_TYPE_INT32, 0, me.comm, me.stream)),
            }
        }
        let (code, text) = me.failed();
        assert_eq!((code, me.async_error()), (ACL_ERROR_RT_FFTS_PLUS_TIMEOUT, HCCL_E_REMOTE), "{text}");
        text
    });
    for text in texts {
        says(&text, &["message 1 from rank 0 to rank 1: 4 x int32 are sent, 3 x int32 received"]);
    }
}

#[test]
fn a_message_that_nobody_wants_times_out() {
    let texts = configured(3, Some(patience(1)), |me| {
        let buffer = Buffer::room::<i32>(4);
        if me.rank != 2 {
            return String::new();
        }
        // SAFETY: the buffer has that many elements.
        unsafe { ok(hccl().HcclSend(buffer.data, 4, HCCL_DATA_TYPE_INT32, 1, me.comm, me.stream)) };
        // The others wait for the end of this rank before they leave, because leaving is an error of its own.
        me.failed().1
    });
    let told = "rank 1 did not call HcclRecv for message 1 (4 x int32) from rank 2 within 1s";
    let gone = "rank 1 has destroyed its communicator, but this rank called HcclSend";
    assert!(texts[2].contains(told) || texts[2].contains(gone), "{}", texts[2]);
}

#[test]
fn a_rank_is_not_its_own_counterpart() {
    ranks(2, |me| {
        let buffer = Buffer::room::<i32>(4);
        let own = me.rank as u32;
        // SAFETY: nothing is issued.
        unsafe {
            let call = hccl().HcclSend(buffer.data, 4, HCCL_DATA_TYPE_INT32, own, me.comm, me.stream);
            refused(call, HCCL_E_PARA, &["its own counterpart"]);
            let call = hccl().HcclRecv(buffer.data, 4, HCCL_DATA_TYPE_INT32, 2, me.comm, me.stream);
            refused(call, HCCL_E_PARA, &["srcRank is 2, wanted a rank below 2"]);
            let mut items = [item(true, &buffer, me.rank)];
            let call = hccl().HcclBatchSendRecv(items.as_mut_ptr(), 1, me.comm, me.stream);
            refused(call, HCCL_E_PARA, &["sends itself 1 messages but receives 0"]);
        }
    });
}
