//! The function table of HCCL: one row a function, in the syntax of `acl_sys::acl_functions!`.

use crate::enums::*;
use crate::types::*;
use acl_sys::{aclrtDrvMemHandle, aclrtStream};
use std::ffi::{c_char, c_void};

/// Calls `$callback! { rows… }` with every function of HCCL that is declared. `HcclCommConfigInit` is no symbol but a
/// static inline of the header: see [`HcclCommConfig::new`].
#[macro_export]
macro_rules! hccl_functions {
    ($callback:ident) => {
        $callback! {
            // collectives
            hccl "8.1" fn HcclAllGather(send_buf: *mut c_void, recv_buf: *mut c_void, send_count: u64, data_type: HcclDataType, comm: HcclComm, stream: aclrtStream) -> HcclResult;
            hccl "8.1" fn HcclAllGatherV(send_buf: *mut c_void, send_count: u64, recv_buf: *mut c_void, recv_counts: *const c_void, recv_displs: *const c_void, data_type: HcclDataType, comm: HcclComm, stream: aclrtStream) -> HcclResult;
            hccl "8.1" fn HcclAllReduce(send_buf: *mut c_void, recv_buf: *mut c_void, count: u64, data_type: HcclDataType, op: HcclReduceOp, comm: HcclComm, stream: aclrtStream) -> HcclResult;
            hccl "8.1" fn HcclAlltoAll(send_buf: *const c_void, send_count: u64, send_type: HcclDataType, recv_buf: *const c_void, recv_count: u64, recv_type: HcclDataType, comm: HcclComm, stream: aclrtStream) -> HcclResult;
            hccl "8.1" fn HcclAlltoAllV(send_buf: *const c_void, send_counts: *const c_void, sdispls: *const c_void, send_type: HcclDataType, recv_buf: *const c_void, recv_counts: *const c_void, rdispls: *const c_void, recv_type: HcclDataType, comm: HcclComm, stream: aclrtStream) -> HcclResult;
            hccl "8.1" fn HcclBatchSendRecv(send_recv_info: *mut HcclSendRecvItem, item_num: u32, comm: HcclComm, stream: aclrtStream) -> HcclResult;
            hccl "8.1" fn HcclBroadcast(buf: *mut c_void, count: u64, data_type: HcclDataType, root: u32, comm: HcclComm, stream: aclrtStream) -> HcclResult;
            hccl "8.1" fn HcclRecv(recv_buf: *mut c_void, count: u64, data_type: HcclDataType, src_rank: u32, comm: HcclComm, stream: aclrtStream) -> HcclResult;
            hccl "8.1" fn HcclReduce(send_buf: *mut c_void, recv_buf: *mut c_void, count: u64, data_type: HcclDataType, op: HcclReduceOp, root: u32, comm: HcclComm, stream: aclrtStream) -> HcclResult;
            hccl "8.1" fn HcclReduceScatter(send_buf: *mut c_void, recv_buf: *mut c_void, recv_count: u64, data_type: HcclDataType, op: HcclReduceOp, comm: HcclComm, stream: aclrtStream) -> HcclResult;
            hccl "8.1" fn HcclReduceScatterV(send_buf: *mut c_void, send_counts: *const c_void, send_displs: *const c_void, recv_buf: *mut c_void, recv_count: u64, data_type: HcclDataType, op: HcclReduceOp, comm: HcclComm, stream: aclrtStream) -> HcclResult;
            hccl "8.1" fn HcclScatter(send_buf: *mut c_void, recv_buf: *mut c_void, recv_count: u64, data_type: HcclDataType, root: u32, comm: HcclComm, stream: aclrtStream) -> HcclResult;
            hccl "8.1" fn HcclSend(send_buf: *mut c_void, count: u64, data_type: HcclDataType, dest_rank: u32, comm: HcclComm, stream: aclrtStream) -> HcclResult;

            // collectives of CANN 9
            hccl "9.1" fn HcclAlltoAllVC(send_buf: *const c_void, send_count_matrix: *const c_void, send_type: HcclDataType, recv_buf: *const c_void, recv_type: HcclDataType, comm: HcclComm, stream: aclrtStream) -> HcclResult;

            // communicators
            hccl "8.1" fn HcclBarrier(comm: HcclComm, stream: aclrtStream) -> HcclResult;
            hccl "8.1" fn HcclCommActivateCommMemory(comm: HcclComm, vir_ptr: *mut c_void, size: usize, offset: usize, handle: aclrtDrvMemHandle, flags: u64) -> HcclResult;
            hccl "8.1" fn HcclCommDeactivateCommMemory(comm: HcclComm, vir_ptr: *mut c_void) -> HcclResult;
            hccl "8.1" fn HcclCommDestroy(comm: HcclComm) -> HcclResult;
            hccl "8.1" fn HcclCommInitAll(ndev: u32, devices: *mut i32, comms: *mut HcclComm) -> HcclResult;
            hccl "8.1" fn HcclCommInitClusterInfo(cluster_info: *const c_char, rank: u32, comm: *mut HcclComm) -> HcclResult;
            hccl "8.1" fn HcclCommInitClusterInfoConfig(cluster_info: *const c_char, rank: u32, config: *mut HcclCommConfig, comm: *mut HcclComm) -> HcclResult;
            hccl "8.1" fn HcclCommInitRootInfo(n_ranks: u32, root_info: *const HcclRootInfo, rank: u32, comm: *mut HcclComm) -> HcclResult;
            hccl "8.1" fn HcclCommInitRootInfoConfig(n_ranks: u32, root_info: *const HcclRootInfo, rank: u32, config: *const HcclCommConfig, comm: *mut HcclComm) -> HcclResult;
            hccl "8.1" fn HcclCommResume(comm: HcclComm) -> HcclResult;
            hccl "8.1" fn HcclCommSetMemoryRange(comm: HcclComm, base_vir_ptr: *mut c_void, size: usize, alignment: usize, flags: u64) -> HcclResult;
            hccl "8.1" fn HcclCommSuspend(comm: HcclComm) -> HcclResult;
            hccl "8.1" fn HcclCommUnsetMemoryRange(comm: HcclComm, base_vir_ptr: *mut c_void) -> HcclResult;
            hccl "8.1" fn HcclCreateSubCommConfig(comm: *mut HcclComm, rank_num: u32, rank_ids: *mut u32, sub_comm_id: u64, sub_comm_rank_id: u32, config: *mut HcclCommConfig, sub_comm: *mut HcclComm) -> HcclResult;
            hccl "8.1" fn HcclGetCommAsyncError(comm: HcclComm, async_error: *mut HcclResult) -> HcclResult;
            hccl "8.1" fn HcclGetCommConfigCapability() -> u32;
            hccl "8.1" fn HcclGetCommName(comm: HcclComm, comm_name: *mut c_char) -> HcclResult;
            hccl "8.1" fn HcclGetConfig(config: HcclConfig, config_value: *mut HcclConfigValue) -> HcclResult;
            hccl "8.1" fn HcclGetErrorString(code: HcclResult) -> *const c_char;
            hccl "8.1" fn HcclGetRankId(comm: HcclComm, rank: *mut u32) -> HcclResult;
            hccl "8.1" fn HcclGetRankSize(comm: HcclComm, rank_size: *mut u32) -> HcclResult;
            hccl "8.1" fn HcclGetRootInfo(root_info: *mut HcclRootInfo) -> HcclResult;
            hccl "8.1" fn HcclSetConfig(config: HcclConfig, config_value: HcclConfigValue) -> HcclResult;

            // communicators of CANN 9
            hccl "9.1" fn HcclCommGetHandleWithName(comm_name: *const c_char, comm: *mut HcclComm) -> HcclResult;
            hccl "9.1" fn HcclCommGetStatus(comm_id: *const c_char, status: *mut HcclCommStatus) -> HcclResult;
            hccl "9.1" fn HcclCommRegCommStateCallback(reg_name: *const c_char, cb: HcclCommStateCallback, args: *mut c_void) -> HcclResult;
            hccl "9.1" fn HcclCommSymWinDeregister(win_handle: HcclCommSymWindow) -> HcclResult;
            hccl "9.1" fn HcclCommSymWinGet(comm: HcclComm, ptr: *mut c_void, size: usize, win_handle: *mut HcclCommSymWindow, offset: *mut usize) -> HcclResult;
            hccl "9.1" fn HcclCommSymWinRegister(comm: HcclComm, addr: *mut c_void, size: u64, win_handle: *mut HcclCommSymWindow, flag: u32) -> HcclResult;
            hccl "9.1" fn HcclCommWorkingDevNicSet(comm: HcclComm, ranks: *mut u32, use_backup: *mut bool, n_ranks: u32) -> HcclResult;
            hccl "9.1" fn HcclConfigGetInfo(comm: HcclComm, cfg_type: HcclConfigType, info_len: u32, info: *mut c_void) -> HcclResult;
            hccl "9.1" fn HcclGroupEnd() -> HcclResult;
            hccl "9.1" fn HcclGroupStart() -> HcclResult;
            hccl "9.1" fn HcclGroupStatusGet(is_group_enabled: *mut bool) -> HcclResult;
        }
    };
}

macro_rules! declare_hccl {
    ($($rows:tt)*) => {
        acl_sys::lazy_functions! {
            /// The HCCL functions of one CANN, each resolved at its first call.
            struct Hccl;
            $($rows)*
        }
    };
}
hccl_functions!(declare_hccl);
