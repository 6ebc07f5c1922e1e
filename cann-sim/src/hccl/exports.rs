//! The exported functions of HCCL: what is simulated, and a refusal for each of the others.

use super::comm::{self, find};
use super::rendezvous::RootInfo;
use super::round::Caller;
use super::settings::{self, Settings};
use crate::ensure;
use crate::runtime::config;
use crate::status::{Result, Status, call, put, report};
use acl_sys::{aclrtDrvMemHandle, aclrtStream};
use hccl_sys::*;
use std::collections::BTreeMap;
use std::ffi::{CStr, CString, c_char, c_void};
use std::sync::OnceLock;

/// Defines exported functions: the body is a `Result<()>`, its failure becomes code and text.
macro_rules! simulate {
    ($($(#[$meta:meta])* fn $name:ident($($param:ident : $ty:ty),* $(,)?) $body:block)*) => {$(
        $(#[$meta])*
        /// # Safety
        /// As the C function: pointers must be valid for what the function does with them.
        #[unsafe(no_mangle)]
        #[allow(non_snake_case, clippy::too_many_arguments)]
        pub unsafe extern "C" fn $name($($param: $ty),*) -> HcclResult {
            call(stringify!($name), || -> Result<()> { $body })
        }
    )*};
}

/// As [`simulate!`], for functions that issue a task: `caller` is communicator and stream, checked.
macro_rules! collectives {
    ($($(#[$meta:meta])* fn $name:ident($($param:ident : $ty:ty),*) |$caller:ident| $body:expr;)*) => {$(
        $(#[$meta])*
        /// # Safety
        /// As the C function: arrays of counts must be as long as the communicator is large.
        #[unsafe(no_mangle)]
        #[allow(non_snake_case, clippy::too_many_arguments)]
        pub unsafe extern "C" fn $name($($param: $ty,)* comm: HcclComm, stream: aclrtStream) -> HcclResult {
            call(stringify!($name), || {
                let $caller = Caller::new(stringify!($name), comm, stream)?;
                $body
            })
        }
    )*};
}

collectives! {
    fn HcclAllReduce(send_buf: *mut c_void, recv_buf: *mut c_void, count: u64, data_type: HcclDataType, op: HcclReduceOp)
        |caller| caller.all_reduce(send_buf, recv_buf, count, data_type, op);
    fn HcclReduce(send_buf: *mut c_void, recv_buf: *mut c_void, count: u64, data_type: HcclDataType, op: HcclReduceOp, root: u32)
        |caller| caller.reduce(send_buf, recv_buf, count, data_type, op, root);
    fn HcclBroadcast(buf: *mut c_void, count: u64, data_type: HcclDataType, root: u32)
        |caller| caller.broadcast(buf, count, data_type, root);
    fn HcclScatter(send_buf: *mut c_void, recv_buf: *mut c_void, recv_count: u64, data_type: HcclDataType, root: u32)
        |caller| caller.scatter(send_buf, recv_buf, recv_count, data_type, root);
    fn HcclAllGather(send_buf: *mut c_void, recv_buf: *mut c_void, send_count: u64, data_type: HcclDataType)
        |caller| caller.all_gather(send_buf, recv_buf, send_count, data_type);
    fn HcclAllGatherV(send_buf: *mut c_void, send_count: u64, recv_buf: *mut c_void, recv_counts: *const c_void, recv_displs: *const c_void, data_type: HcclDataType)
        |caller| caller.all_gather_v(send_buf, send_count, recv_buf, (recv_counts, recv_displs), data_type);
    fn HcclReduceScatter(send_buf: *mut c_void, recv_buf: *mut c_void, recv_count: u64, data_type: HcclDataType, op: HcclReduceOp)
        |caller| caller.reduce_scatter(send_buf, recv_buf, recv_count, data_type, op);
    fn HcclReduceScatterV(send_buf: *mut c_void, send_counts: *const c_void, send_displs: *const c_void, recv_buf: *mut c_void, recv_count: u64, data_type: HcclDataType, op: HcclReduceOp)
        |caller| caller.reduce_scatter_v(send_buf, (send_counts, send_displs), recv_buf, recv_count, data_type, op);
    fn HcclAlltoAll(send_buf: *const c_void, send_count: u64, send_type: HcclDataType, recv_buf: *const c_void, recv_count: u64, recv_type: HcclDataType)
        |caller| caller.all_to_all((send_buf, send_count, send_type), (recv_buf, recv_count, recv_type));
    fn HcclAlltoAllV(send_buf: *const c_void, send_counts: *const c_void, sdispls: *const c_void, send_type: HcclDataType, recv_buf: *const c_void, recv_counts: *const c_void, rdispls: *const c_void, recv_type: HcclDataType)
        |caller| caller.all_to_all_v((send_buf, send_counts, sdispls, send_type), (recv_buf, recv_counts, rdispls, recv_type));
    fn HcclAlltoAllVC(send_buf: *const c_void, send_count_matrix: *const c_void, send_type: HcclDataType, recv_buf: *const c_void, recv_type: HcclDataType)
        |caller| caller.all_to_all_vc(send_buf, send_count_matrix, send_type, recv_buf, recv_type);
    fn HcclBarrier() |caller| { caller.barrier(); Ok(()) };
    fn HcclSend(send_buf: *mut c_void, count: u64, data_type: HcclDataType, dest_rank: u32) |caller| {
        let item = HcclSendRecvItem { sendRecvType: HCCL_SEND, buf: send_buf, count, dataType: data_type, remoteRank: dest_rank };
        caller.message(item)
    };
    fn HcclRecv(recv_buf: *mut c_void, count: u64, data_type: HcclDataType, src_rank: u32) |caller| {
        let item = HcclSendRecvItem { sendRecvType: HCCL_RECV, buf: recv_buf, count, dataType: data_type, remoteRank: src_rank };
        caller.message(item)
    };
    fn HcclBatchSendRecv(send_recv_info: *mut HcclSendRecvItem, item_num: u32) |caller| {
        ensure!(!send_recv_info.is_null(), HCCL_E_PTR, "sendRecvInfo is null");
        // SAFETY: not null, and the interface asks for that many items.
        let items = unsafe { std::slice::from_raw_parts(send_recv_info, item_num as usize) };
        caller.batch(items)
    };
}

/// Stores what a function answers through a pointer.
fn answer<T>(out: *mut T, name: &str, value: T) -> Result<()> {
    ensure!(!out.is_null(), HCCL_E_PTR, "{name} is null");
    put(out, name, value)
}

/// A text of the caller.
fn text(pointer: *const c_char, name: &str, longest: usize) -> Result<String> {
    ensure!(!pointer.is_null(), HCCL_E_PTR, "{name} is null");
    // SAFETY: not null, and the interface asks for a NUL-terminated text.
    let text = unsafe { CStr::from_ptr(pointer) }.to_string_lossy().into_owned();
    ensure!(text.len() < longest, HCCL_E_PARA, "{name} has {} bytes, wanted fewer than {longest}", text.len());
    Ok(text)
}

/// Longest path of a rank table, its final zero included.
const LONGEST_PATH: usize = 4096;
/// What a rank that stays out of a sub-communicator passes for its number.
const STAYS_OUT: u64 = 0xFFFF_FFFF;

simulate! {
    fn HcclGetRootInfo(root_info: *mut HcclRootInfo) {
        ensure!(!root_info.is_null(), HCCL_E_PTR, "rootInfo is null");
        let mut info = HcclRootInfo { internal: [0; HCCL_ROOT_INFO_BYTES as usize] };
        RootInfo::open()?.write(&mut info);
        answer(root_info, "rootInfo", info)
    }

    fn HcclCommInitRootInfo(n_ranks: u32, root_info: *const HcclRootInfo, rank: u32, comm: *mut HcclComm) {
        ensure!(!comm.is_null(), HCCL_E_PTR, "comm is null");
        answer(comm, "comm", comm::from_root_info(root_info, n_ranks, rank, Settings::from_environment()?)?)
    }

    fn HcclCommInitRootInfoConfig(n_ranks: u32, root_info: *const HcclRootInfo, rank: u32, config: *const HcclCommConfig, comm: *mut HcclComm) {
        ensure!(!comm.is_null(), HCCL_E_PTR, "comm is null");
        answer(comm, "comm", comm::from_root_info(root_info, n_ranks, rank, Settings::from_config(config)?)?)
    }

    fn HcclCommInitClusterInfo(cluster_info: *const c_char, rank: u32, comm: *mut HcclComm) {
        ensure!(!comm.is_null(), HCCL_E_PTR, "comm is null");
        let path = text(cluster_info, "clusterInfo", LONGEST_PATH)?;
        answer(comm, "comm", comm::from_rank_table(&path, rank, Settings::from_environment()?)?)
    }

    fn HcclCommInitClusterInfoConfig(cluster_info: *const c_char, rank: u32, config: *mut HcclCommConfig, comm: *mut HcclComm) {
        ensure!(!comm.is_null(), HCCL_E_PTR, "comm is null");
        let path = text(cluster_info, "clusterInfo", LONGEST_PATH)?;
        answer(comm, "comm", comm::from_rank_table(&path, rank, Settings::from_config(config)?)?)
    }

    fn HcclCommInitAll(ndev: u32, devices: *mut i32, comms: *mut HcclComm) {
        ensure!(ndev > 0, HCCL_E_PARA, "ndev is 0");
        ensure!(!devices.is_null(), HCCL_E_PTR, "devices is null");
        ensure!(!comms.is_null(), HCCL_E_PTR, "comms is null");
        // SAFETY: not null, and the interface asks for that many numbers.
        let devices = unsafe { std::slice::from_raw_parts(devices, ndev as usize) };
        let made = comm::for_devices(devices)?;
        // SAFETY: not null, and the interface asks for room for that many handles.
        made.into_iter().enumerate().for_each(|(i, handle)| unsafe { comms.add(i).write(handle) });
        Ok(())
    }

    fn HcclCreateSubCommConfig(comm: *mut HcclComm, rank_num: u32, rank_ids: *mut u32, sub_comm_id: u64, sub_comm_rank_id: u32, config: *mut HcclCommConfig, sub_comm: *mut HcclComm) {
        ensure!(!comm.is_null(), HCCL_E_PTR, "comm is null");
        // SAFETY: not null, and the interface asks for a readable handle.
        let parent = find(unsafe { *comm })?;
        if rank_ids.is_null() {
            ensure!(sub_comm_id == STAYS_OUT, HCCL_E_PTR, "rankIds is null; a rank that stays out passes subCommId 0xFFFFFFFF too");
            return Ok(());
        }
        ensure!(!sub_comm.is_null(), HCCL_E_PTR, "subComm is null");
        // SAFETY: not null, and the interface asks for that many numbers.
        let ids = unsafe { std::slice::from_raw_parts(rank_ids, rank_num as usize) };
        answer(sub_comm, "subComm", comm::sub(&parent, ids, sub_comm_id, sub_comm_rank_id, Settings::from_config(config)?)?)
    }

    fn HcclCommDestroy(comm: HcclComm) { comm::destroy(comm) }

    fn HcclGetRankId(comm: HcclComm, rank: *mut u32) { answer(rank, "rank", find(comm)?.rank as u32) }

    fn HcclGetRankSize(comm: HcclComm, rank_size: *mut u32) { answer(rank_size, "rankSize", find(comm)?.size() as u32) }

    fn HcclGetCommName(comm: HcclComm, comm_name: *mut c_char) {
        ensure!(!comm_name.is_null(), HCCL_E_PTR, "commName is null");
        let name = find(comm)?.name.clone();
        let bytes = name.bytes().take(COMM_NAME_MAX_LENGTH as usize - 1).chain([0]);
        // SAFETY: the interface asks for room for COMM_NAME_MAX_LENGTH bytes.
        bytes.enumerate().for_each(|(i, byte)| unsafe { comm_name.add(i).write(byte as c_char) });
        Ok(())
    }

    fn HcclCommGetHandleWithName(comm_name: *const c_char, comm: *mut HcclComm) {
        answer(comm, "comm", comm::named(&text(comm_name, "commName", COMM_NAME_MAX_LENGTH as usize)?)?)
    }

    /// On a card only a broken RDMA link shows here; the simulator answers the same code for every failure of a
    /// communicator.
    fn HcclGetCommAsyncError(comm: HcclComm, async_error: *mut HcclResult) {
        answer(async_error, "asyncError", find(comm)?.async_error())
    }

    fn HcclSetConfig(config: HcclConfig, config_value: HcclConfigValue) {
        // SAFETY: the union has one member.
        settings::set(config, unsafe { config_value.value })
    }

    fn HcclGetConfig(config: HcclConfig, config_value: *mut HcclConfigValue) {
        answer(config_value, "configValue", HcclConfigValue { value: settings::get(config)? })
    }
}

/// How many items of `HcclCommConfig` this release knows.
#[unsafe(no_mangle)]
#[allow(non_snake_case)]
pub extern "C" fn HcclGetCommConfigCapability() -> u32 {
    match config::current().map(|config| config.release.major) {
        Ok(8) => HCCL_COMM_CONFIG_WORLD_RANKID as u32,
        _ => HCCL_COMM_CONFIG_BUFFER_NAME as u32 + 1,
    }
}

/// What a code of HCCL means.
#[unsafe(no_mangle)]
#[allow(non_snake_case)]
pub extern "C" fn HcclGetErrorString(code: HcclResult) -> *const c_char {
    static TEXTS: OnceLock<BTreeMap<HcclResult, CString>> = OnceLock::new();
    let texts = TEXTS.get_or_init(|| {
        let text = |meaning: &str| CString::new(meaning).unwrap_or_default();
        hccl_sys::error::CODES.iter().map(|row| (row.code, text(row.meaning))).collect()
    });
    texts.get(&code).map_or(c"unknown error".as_ptr(), |text| text.as_ptr())
}

/// Defines a refusal for a row of the table, unless the function is simulated above.
macro_rules! refuse_one {
    (HcclAllGather $($rest:tt)*) => {};
    (HcclAllGatherV $($rest:tt)*) => {};
    (HcclAllReduce $($rest:tt)*) => {};
    (HcclAlltoAll $($rest:tt)*) => {};
    (HcclAlltoAllV $($rest:tt)*) => {};
    (HcclAlltoAllVC $($rest:tt)*) => {};
    (HcclBarrier $($rest:tt)*) => {};
    (HcclBatchSendRecv $($rest:tt)*) => {};
    (HcclBroadcast $($rest:tt)*) => {};
    (HcclCommDestroy $($rest:tt)*) => {};
    (HcclCommGetHandleWithName $($rest:tt)*) => {};
    (HcclCommInitAll $($rest:tt)*) => {};
    (HcclCommInitClusterInfo $($rest:tt)*) => {};
    (HcclCommInitClusterInfoConfig $($rest:tt)*) => {};
    (HcclCommInitRootInfo $($rest:tt)*) => {};
    (HcclCommInitRootInfoConfig $($rest:tt)*) => {};
    (HcclCreateSubCommConfig $($rest:tt)*) => {};
    (HcclGetCommAsyncError $($rest:tt)*) => {};
    (HcclGetCommConfigCapability $($rest:tt)*) => {};
    (HcclGetCommName $($rest:tt)*) => {};
    (HcclGetConfig $($rest:tt)*) => {};
    (HcclGetErrorString $($rest:tt)*) => {};
    (HcclGetRankId $($rest:tt)*) => {};
    (HcclGetRankSize $($rest:tt)*) => {};
    (HcclGetRootInfo $($rest:tt)*) => {};
    (HcclRecv $($rest:tt)*) => {};
    (HcclReduce $($rest:tt)*) => {};
    (HcclReduceScatter $($rest:tt)*) => {};
    (HcclReduceScatterV $($rest:tt)*) => {};
    (HcclScatter $($rest:tt)*) => {};
    (HcclSend $($rest:tt)*) => {};
    (HcclSetConfig $($rest:tt)*) => {};
    ($name:ident ($($param:ident : $ty:ty),*) $ret:ty) => {
        #[doc = "Refused: the simulated CANN has collectives and communicators, not what kernels of communication are made of."]
        /// # Safety
        /// Reads no argument.
        #[unsafe(no_mangle)]
        #[allow(non_snake_case, clippy::too_many_arguments)]
        pub unsafe extern "C" fn $name($($param: $ty),*) -> $ret {
            let _: ($($ty,)*) = ($($param,)*);
            let text = concat!("the simulated CANN has no ", stringify!($name), ": it has collectives and communicators, not groups of calls, zero copy, suspension, channels, teams or windows");
            report(stringify!($name), Err(Status::new(HCCL_E_NOT_SUPPORT, text)))
        }
    };
}

macro_rules! export_hccl {
    ($($library:ident $since:literal fn $name:ident($($param:ident : $ty:ty),* $(,)?) -> $ret:ty;)*) => {
        $(refuse_one! { $name ($($param: $ty),*) $ret })*

        // Each export has exactly the declared type.
        $(const _: unsafe extern "C" fn($($ty),*) -> $ret = $name;)*

        /// Names, addresses and oldest release of the exported functions.
        pub(crate) fn table() -> Vec<(&'static str, *const c_void, &'static str)> {
            vec![$((stringify!($name), $name as *const c_void, $since)),*]
        }
    };
}
hccl_sys::hccl_functions!(export_hccl);
