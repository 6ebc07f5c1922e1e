//! How communicators begin, what they answer, and how they end.

use crate::support::*;
use acl_sys::error::ACL_ERROR_RT_SUSPECT_REMOTE_ERROR;
use hccl_sys::*;
use std::ffi::CStr;
use std::ptr::{null, null_mut};

fn name(comm: HcclComm) -> String {
    let mut name = [0; COMM_NAME_MAX_LENGTH as usize];
    // SAFETY: the array is as long as the interface asks.
    unsafe {
        ok(hccl().HcclGetCommName(comm, name.as_mut_ptr()));
        CStr::from_ptr(name.as_ptr()).to_string_lossy().into_owned()
    }
}

/// Sums one number over the ranks.
fn sum(me: &Rank, value: i32) -> i32 {
    let buffer = Buffer::of(&[value]);
    // SAFETY: the buffer has one element.
    unsafe {
        let (data, dtype) = (buffer.data, HCCL_DATA_TYPE_INT32);
        ok(hccl().HcclAllReduce(data, data, 1, dtype, HCCL_REDUCE_SUM, me.comm, me.stream));
    }
    me.done();
    buffer.values()[0]
}

#[test]
fn a_communicator_knows_itself() {
    let names = ranks(3, |me| {
        let (mut rank, mut size) = (9, 9);
        // SAFETY: writes two numbers.
        unsafe {
            ok(hccl().HcclGetRankId(me.comm, &mut rank));
            ok(hccl().HcclGetRankSize(me.comm, &mut size));
        }
        assert_eq!((rank as usize, size, me.async_error()), (me.rank, 3, HCCL_SUCCESS));
        let own = name(me.comm);
        let mut found = null_mut();
        // SAFETY: the name is NUL-terminated, and one handle is written.
        unsafe {
            let wanted = std::ffi::CString::new(own.clone()).unwrap();
            ok(hccl().HcclCommGetHandleWithName(wanted.as_ptr(), &mut found));
            let call = hccl().HcclCommGetHandleWithName(c"nobody".as_ptr(), &mut found);
            refused(call, HCCL_E_NOT_FOUND, &["has no communicator \"nobody\""]);
        }
        assert_eq!(found, me.comm);
        own
    });
    assert!(names.iter().all(|name| *name == names[0] && name.contains('%')), "{names:?}");
}

#[test]
fn one_call_makes_a_rank_for_each_device() {
    let (mut comms, mut devices) = ([null_mut(); 3], [6i32, 2, 4]);
    // SAFETY: both arrays have three elements.
    unsafe {
        ok(hccl().HcclCommInitAll(3, devices.as_mut_ptr(), comms.as_mut_ptr()));
        devices[2] = 6;
        let call = hccl().HcclCommInitAll(3, devices.as_mut_ptr(), [null_mut(); 3].as_mut_ptr());
        refused(call, HCCL_E_PARA, &["device 6 is listed twice"]);
        devices[2] = 64;
        let call = hccl().HcclCommInitAll(3, devices.as_mut_ptr(), [null_mut(); 3].as_mut_ptr());
        refused(call, HCCL_E_PARA, &["device 64 does not exist"]);
    }
    // All ranks may be driven by one thread, because nothing waits before the streams are synchronised.
    let mut parts = Vec::new();
    for (rank, (&comm, device)) in comms.iter().zip([6, 2, 4]).enumerate() {
        let me = Rank { comm, stream: Rank::device(device), rank };
        let buffer = Buffer::of(&[1 << rank]);
        // SAFETY: the buffer has one element.
        unsafe {
            let (data, dtype) = (buffer.data, HCCL_DATA_TYPE_INT32);
            ok(hccl().HcclAllReduce(data, data, 1, dtype, HCCL_REDUCE_SUM, comm, me.stream));
        }
        parts.push((me, buffer, device));
    }
    for (me, buffer, device) in parts {
        // SAFETY: no pointers.
        unsafe { ok(acl().aclrtSetDevice(device as i32)) };
        me.done();
        assert_eq!(buffer.values::<i32>(), [7]);
        drop(buffer);
        me.leave();
    }
}

#[test]
fn what_is_destroyed_is_gone() {
    ranks(2, |me| {
        let extra = {
            let mut comms = [null_mut()];
            // SAFETY: one device, one handle.
            unsafe { ok(hccl().HcclCommInitAll(1, [me.rank as i32].as_mut_ptr(), comms.as_mut_ptr())) };
            comms[0]
        };
        // SAFETY: handles are checked by the callee.
        unsafe {
            ok(hccl().HcclBarrier(extra, me.stream));
            ok(hccl().HcclCommDestroy(extra));
            refused(hccl().HcclCommDestroy(extra), HCCL_E_PARA, &["is communicator", "which was destroyed"]);
            refused(hccl().HcclBarrier(extra, me.stream), HCCL_E_PARA, &["which was destroyed"]);
            refused(hccl().HcclGetRankId(extra, &mut 0), HCCL_E_PARA, &["which was destroyed"]);
            refused(hccl().HcclGetCommAsyncError(extra, &mut 0), HCCL_E_PARA, &["which was destroyed"]);
            refused(hccl().HcclCommDestroy(null_mut()), HCCL_E_PTR, &["comm is null"]);
            refused(hccl().HcclCommDestroy(me.stream), HCCL_E_PARA, &["handle of a stream, wanted a communicator"]);
        }
        // What was queued before the end still runs.
        me.done();
    });
}

#[test]
fn a_rank_that_left_is_an_error_for_those_who_go_on() {
    let info = root_info();
    std::thread::scope(|scope| {
        let leaver = scope.spawn(|| Rank::join(&info, 1, 2, None).leave());
        let me = Rank::join(&info, 0, 2, None);
        leaver.join().unwrap();
        // SAFETY: handles are checked by the callee.
        unsafe { ok(hccl().HcclBarrier(me.comm, me.stream)) };
        let (code, text) = me.failed();
        assert_eq!(code, ACL_ERROR_RT_SUSPECT_REMOTE_ERROR, "{text}");
        says(&text, &["rank 1 has destroyed its communicator, but this rank called HcclBarrier"]);
        me.leave();
    });
}

#[test]
fn sub_communicators_share_the_connections() {
    ranks(4, |me| {
        let config = HcclCommConfig::new(ConfigLayout::V10);
        let mut parent = me.comm;
        let make = |ids: &mut [u32], rank: u32, id: u64, mut config: HcclCommConfig, parent: &mut HcclComm| {
            let mut sub = null_mut();
            // SAFETY: all pointers are valid, and the array is as long as the call says.
            let code = unsafe {
                let ids_at = ids.as_mut_ptr();
                hccl().HcclCreateSubCommConfig(parent, ids.len() as u32, ids_at, id, rank, &mut config, &mut sub)
            };
            (code, sub)
        };
        let mut pairs = if me.rank % 2 == 0 { [0, 2] } else { [1, 3] };
        let (code, sub) = make(&mut pairs, me.rank as u32 / 2, 5, config, &mut parent);
        ok(code);
        let twin = Rank { comm: sub, rank: me.rank / 2, ..me };
        assert_eq!(sum(&twin, 1 << me.rank), if me.rank % 2 == 0 { 0b101 } else { 0b1010 });
        assert_eq!(sum(&me, 1), 4, "the parent goes on");
        assert_eq!(name(sub), format!("{}_sub_5", name(me.comm)));

        let (code, _) = make(&mut [0, 1], twin.rank as u32, 6, config, &mut { sub });
        refused(code, HCCL_E_NOT_SUPPORT, &["is a sub-communicator"]);
        let (code, _) = make(&mut [2, 0], 0, 6, config, &mut parent);
        refused(code, HCCL_E_PARA, &["in ascending order"]);
        let (code, _) = make(&mut pairs, 1 - me.rank as u32 / 2, 6, config, &mut parent);
        refused(code, HCCL_E_PARA, &["is not at that place of rankIds"]);
        // SAFETY: a rank that stays out passes null and this number.
        unsafe {
            let out =
                hccl().HcclCreateSubCommConfig(&mut parent, 0, null_mut(), 0xFFFF_FFFF, 0, null_mut(), null_mut());
            ok(out);
            ok(hccl().HcclCommDestroy(sub));
        }
        // The same name again, after its first life has failed on purpose.
        let (code, sub) = make(&mut pairs, me.rank as u32 / 2, 5, config.with_name("pair").unwrap(), &mut parent);
        ok(code);
        let twin = Rank { comm: sub, ..twin };
        // SAFETY: handles are checked by the callee.
        unsafe {
            let buffer = Buffer::room::<i32>(4);
            let (data, count) = (buffer.data, twin.rank as u64 + 1);
            ok(hccl().HcclBroadcast(data, count, HCCL_DATA_TYPE_INT32, 0, sub, me.stream));
            says(&me.failed().1, &["call 1 differs"]);
            ok(hccl().HcclCommDestroy(sub));
        }
        let (code, sub) = make(&mut pairs, me.rank as u32 / 2, 5, config.with_name("pair").unwrap(), &mut parent);
        ok(code);
        assert_eq!(sum(&Rank { comm: sub, ..twin }, 3), 6);
        assert_eq!(sum(&me, 1), 4, "a failure of the pair is not the parent's");
        // SAFETY: as above.
        unsafe { ok(hccl().HcclCommDestroy(sub)) };
    });
}

#[test]
fn configurations_are_read_in_the_layout_of_their_caller() {
    for layout in [ConfigLayout::V5, ConfigLayout::V10, ConfigLayout::V11] {
        let config = HcclCommConfig { hcclBufferSize: 10, ..HcclCommConfig::new(layout) };
        let config = config.with_name(&format!("named_{}", layout.version())).unwrap();
        let names = configured(2, Some(config), |me| name(me.comm));
        assert_eq!(names, [format!("named_{}", layout.version()), format!("named_{}", layout.version())]);
    }
    Rank::device(0);
    let info = root_info();
    let good = HcclCommConfig::new(ConfigLayout::V10);
    let header = |change: fn(&mut HcclConfigInfo)| {
        let mut config = good;
        change(&mut config.reserved);
        config
    };
    for (config, says) in [
        (header(|h| h.magicWord = 0), "call HcclCommConfigInit first"),
        (header(|h| h.version = 99), "version 99"),
        (header(|h| h.size = 8), "8 bytes"),
        (HcclCommConfig { hcclBufferSize: 0, ..good }, "hcclBufferSize is 0"),
        (HcclCommConfig { hcclDeterministic: 3, ..good }, "hcclDeterministic is 3"),
        (HcclCommConfig { hcclOpExpansionMode: 9, ..good }, "hcclOpExpansionMode is 9"),
        (HcclCommConfig { hcclExecTimeOut: -2, ..good }, "hcclExecTimeOut is -2"),
        (HcclCommConfig { hcclCommName: [b'x' as _; 128], ..good }, "hcclCommName has no final zero"),
    ] {
        let mut comm = null_mut();
        // SAFETY: all pointers are valid.
        let code = unsafe { hccl().HcclCommInitRootInfoConfig(1, &info, 0, &config, &mut comm) };
        refused(code, HCCL_E_PARA, &[says]);
    }
    let mut comm = null_mut();
    // SAFETY: all pointers are valid or null.
    unsafe {
        refused(hccl().HcclCommInitRootInfoConfig(1, &info, 0, null(), &mut comm), HCCL_E_PTR, &["config is null"]);
        refused(hccl().HcclCommInitRootInfo(0, &info, 0, &mut comm), HCCL_E_PARA, &["of 0 ranks"]);
        refused(hccl().HcclCommInitRootInfo(2, &info, 2, &mut comm), HCCL_E_PARA, &["rank 2 does not exist"]);
        refused(hccl().HcclCommInitRootInfo(1, null(), 0, &mut comm), HCCL_E_PTR, &["rootInfo is null"]);
        let empty = HcclRootInfo { internal: [0; 4108] };
        refused(hccl().HcclCommInitRootInfo(1, &empty, 0, &mut comm), HCCL_E_PARA, &["the root info is empty"]);
    }
    let large = HcclCommConfig { hcclBufferSize: 1 << 20, ..good };
    // SAFETY: all pointers are valid.
    let code = unsafe { hccl().HcclCommInitRootInfoConfig(1, &info, 0, &large, &mut comm) };
    refused(code, HCCL_E_OOM, &["2097152 MiB (HCCL_BUFFSIZE)", "out of memory on device 0"]);
}

/// Joins as the given ranks of the given sizes, and answers what each was told.
fn quarrel(ranks: &[(u32, u32)]) -> Vec<(i32, String)> {
    let info = root_info();
    std::thread::scope(|scope| {
        let join = |(i, &(rank, size)): (usize, &(u32, u32))| {
            let info = &info;
            scope.spawn(move || {
                Rank::device(i);
                let mut comm = null_mut();
                // SAFETY: all pointers are valid.
                let code = unsafe { hccl().HcclCommInitRootInfo(size, info, rank, &mut comm).unwrap() };
                (code, message())
            })
        };
        let threads: Vec<_> = ranks.iter().enumerate().map(join).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    })
}

#[test]
fn ranks_that_contradict_each_other_are_told() {
    for (ranks, part) in
        [([(1, 3), (1, 3)], "rank 1 came twice"), ([(0, 2), (1, 3)], "disagree: the first says that there are")]
    {
        for (code, text) in quarrel(&ranks) {
            assert_eq!(code, HCCL_E_PARA, "{text}");
            says(&text, &[part]);
        }
    }
}

#[test]
fn settings_of_the_process_and_texts_of_codes() {
    let mut value = HcclConfigValue { value: 7 };
    // SAFETY: all pointers are valid; the union has one member.
    unsafe {
        ok(hccl().HcclSetConfig(HCCL_DETERMINISTIC, HcclConfigValue { value: 1 }));
        ok(hccl().HcclGetConfig(HCCL_DETERMINISTIC, &mut value));
        assert_eq!(value.value, 1);
        refused(hccl().HcclSetConfig(HCCL_DETERMINISTIC, HcclConfigValue { value: 3 }), HCCL_E_PARA, &["is 3"]);
        refused(hccl().HcclGetConfig(HCCL_CONFIG_RESERVED, &mut value), HCCL_E_PARA, &["HCCL_DETERMINISTIC"]);
        assert_eq!(hccl().HcclGetCommConfigCapability(), Ok(12));
        let text = CStr::from_ptr(hccl().HcclGetErrorString(HCCL_E_TIMEOUT).unwrap());
        assert_eq!(text, c"an operation timed out");
        refused(hccl().HcclGroupStart(), HCCL_E_NOT_SUPPORT, &["HCCL_E_NOT_SUPPORT", "no HcclGroupStart"]);
    }
}
