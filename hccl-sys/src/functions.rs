//! The function table of HCCL: one row a function, in the syntax of `acl_sys::acl_functions!`.

use crate::enums::*;
use crate::types::*;
use acl_sys::{aclrtDrvMemHandle, aclrtStream};
use std::ffi::{c_char, c_void};

/// Calls `$callback! { rows… }` with every function of HCCL.
///
/// Six names of its headers are no symbols but static inlines, and have no row: `HcclCommConfigInit`, which
/// [`HcclCommConfig::new`] stands for, and the initialisers of descriptors `HcclChannelDescInit`, `HcclOpDescInit`,
/// `HcclKernelLaunchCfgInit`, `HcclTeamCreateDescInit` and `HcclTeamCreateChannelsDescInit`, whose fields a caller fills
/// in: version, magic word and size in the header, 0xFF in every byte that the call leaves to HCCL.
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

            // instructions of the collective unit
            hccl "9.1" fn HcclCommAssignCcuIns(comm: HcclComm, ins_handle: i32) -> HcclResult;
            hccl "9.1" fn HcclCommQueryAssignedCcuIns(comm: HcclComm, ins_handles: *mut i32, ins_num: *mut u32) -> HcclResult;
            hccl "9.1" fn HcclCommQueryCcuIns(comm: HcclComm, ins_handles: *mut i32, ins_num: *mut u32) -> HcclResult;

            // channels between ranks
            hccl "9.1" fn HcclChannelAcquire(comm: HcclComm, engine: CommEngine, channel_descs: *const HcclChannelDesc, channel_num: u32, channels: *mut ChannelHandle) -> HcclResult;
            hccl "9.1" fn HcclChannelAcquireWithConfig(comm: HcclComm, engine: CommEngine, channel_descs: *const HcclChannelDesc, channel_num: u32, config: HcclChannelConfig, channels: *mut ChannelHandle) -> HcclResult;
            hccl "9.1" fn HcclChannelConfigCreate(config: *mut HcclChannelConfig) -> HcclResult;
            hccl "9.1" fn HcclChannelConfigDestroy(config: HcclChannelConfig) -> HcclResult;
            hccl "9.1" fn HcclChannelConfigSetInt(config: HcclChannelConfig, type_: HcclChannelConfigType, value: u32) -> HcclResult;
            hccl "9.1" fn HcclChannelConfigSetStr(config: HcclChannelConfig, type_: HcclChannelConfigType, value: *const c_char) -> HcclResult;
            hccl "9.1" fn HcclChannelDestroy(comm: HcclComm, channels: *const ChannelHandle, channel_num: u32) -> HcclResult;
            hccl "9.1" fn HcclChannelGetHcclBuffer(comm: HcclComm, channel: ChannelHandle, buffer: *mut *mut c_void, size: *mut u64) -> HcclResult;
            hccl "9.1" fn HcclChannelGetRemoteMems(comm: HcclComm, channel: ChannelHandle, mem_num: *mut u32, remote_mems: *mut *mut CommMem, mem_tags: *mut *mut *mut c_char) -> HcclResult;
            hccl "9.1" fn HcclChannelQuery(comm: HcclComm, engine: CommEngine, channel_descs: *const HcclChannelDesc, channel_num: u32, channels: *mut ChannelHandle) -> HcclResult;

            // launch of a communication kernel
            hccl "9.1" fn HcclAicpuKernelLaunch(comm: HcclComm, op_info: *const HcclOpDesc, func_info: *const HcclKernelFuncInfo, aicpu_thread_handle: ThreadHandle, user_stream: aclrtStream, kernel_launch_cfg: *const HcclKernelLaunchCfg) -> HcclResult;

            // arguments of fused communication and computation
            hccl "9.1" fn HcclCreateOpResCtx(comm: HcclComm, op_type: u8, op_args: *mut c_void, op_res_ctx: *mut *mut c_void) -> HcclResult;
            hccl "9.1" fn HcclKfcAllocOpArgs(op_args: *mut *mut c_void) -> HcclResult;
            hccl "9.1" fn HcclKfcFreeOpArgs(op_args: *mut c_void) -> HcclResult;
            hccl "9.1" fn HcclKfcOpArgsSetAlgConfig(op_args: *mut c_void, alg_config: *mut c_char) -> HcclResult;
            hccl "9.1" fn HcclKfcOpArgsSetCommEngine(op_args: *mut c_void, comm_engine: u8) -> HcclResult;
            hccl "9.1" fn HcclKfcOpArgsSetCount(op_args: *mut c_void, count: u64) -> HcclResult;
            hccl "9.1" fn HcclKfcOpArgsSetDstDataType(op_args: *mut c_void, dst_data_type: u8) -> HcclResult;
            hccl "9.1" fn HcclKfcOpArgsSetReduceType(op_args: *mut c_void, reduce_type: u32) -> HcclResult;
            hccl "9.1" fn HcclKfcOpArgsSetSrcDataType(op_args: *mut c_void, src_data_type: u8) -> HcclResult;

            // the graph of ranks
            hccl "9.1" fn HcclGetHeterogMode(comm: HcclComm, mode: *mut HcclHeterogMode) -> HcclResult;
            hccl "9.1" fn HcclRankGraphGetEndpointDesc(comm: HcclComm, layer: u32, topo_inst_id: u32, desc_num: *mut u32, endpoint_desc: *mut EndpointDesc) -> HcclResult;
            hccl "9.1" fn HcclRankGraphGetEndpointInfo(comm: HcclComm, rank_id: u32, endpoint_desc: *const EndpointDesc, endpoint_attr: EndpointAttr, info_len: u32, info: *mut c_void) -> HcclResult;
            hccl "9.1" fn HcclRankGraphGetEndpointNum(comm: HcclComm, layer: u32, topo_inst_id: u32, num: *mut u32) -> HcclResult;
            hccl "9.1" fn HcclRankGraphGetInstSizeListByLayer(comm: HcclComm, net_layer: u32, inst_size_list: *mut *mut u32, list_size: *mut u32) -> HcclResult;
            hccl "9.1" fn HcclRankGraphGetLayers(comm: HcclComm, net_layers: *mut *mut u32, net_layer_num: *mut u32) -> HcclResult;
            hccl "9.1" fn HcclRankGraphGetLinks(comm: HcclComm, net_layer: u32, src_rank: u32, dst_rank: u32, links: *mut *mut CommLink, link_num: *mut u32) -> HcclResult;
            hccl "9.1" fn HcclRankGraphGetRankSizeByLayer(comm: HcclComm, net_layer: u32, rank_num: *mut u32) -> HcclResult;
            hccl "9.1" fn HcclRankGraphGetRanksByLayer(comm: HcclComm, net_layer: u32, ranks: *mut *mut u32, rank_num: *mut u32) -> HcclResult;
            hccl "9.1" fn HcclRankGraphGetRanksByTopoInst(comm: HcclComm, net_layer: u32, topo_inst_id: u32, ranks: *mut *mut u32, rank_num: *mut u32) -> HcclResult;
            hccl "9.1" fn HcclRankGraphGetTopoInstsByLayer(comm: HcclComm, net_layer: u32, topo_insts: *mut *mut u32, topo_inst_num: *mut u32) -> HcclResult;
            hccl "9.1" fn HcclRankGraphGetTopoType(comm: HcclComm, net_layer: u32, topo_inst_id: u32, topo_type: *mut CommTopo) -> HcclResult;
            hccl "9.1" fn HcclRankGraphGetTopoTypeByLayer(comm: HcclComm, net_layer: u32, topo_type: *mut CommTopo) -> HcclResult;

            // threads, engine contexts and buffers
            hccl "9.1" fn HcclCommMemReg(comm: HcclComm, mem_tag: *const c_char, mem: *const CommMem, mem_handle: *mut HcclMemHandle) -> HcclResult;
            hccl "9.1" fn HcclDedicatedThreadAcquire(comm: HcclComm, use_type: HcclDedicatedThreadType, notify_num_per_thread: u32, thread: *mut ThreadHandle) -> HcclResult;
            hccl "9.1" fn HcclEngineCtxCopy(comm: HcclComm, engine: CommEngine, ctx_tag: *const c_char, src_ctx: *const c_void, size: u64, dst_ctx_offset: u64) -> HcclResult;
            hccl "9.1" fn HcclEngineCtxCreate(comm: HcclComm, ctx_tag: *const c_char, engine: CommEngine, size: u64, ctx: *mut *mut c_void) -> HcclResult;
            hccl "9.1" fn HcclEngineCtxDestroy(comm: HcclComm, ctx_tag: *const c_char, engine: CommEngine) -> HcclResult;
            hccl "9.1" fn HcclEngineCtxGet(comm: HcclComm, ctx_tag: *const c_char, engine: CommEngine, ctx: *mut *mut c_void, size: *mut u64) -> HcclResult;
            hccl "9.1" fn HcclGetHcclBuffer(comm: HcclComm, buffer: *mut *mut c_void, size: *mut u64) -> HcclResult;
            hccl "9.1" fn HcclGetHcclBufferCleared(comm: HcclComm, buffer: *mut *mut c_void, size: *mut u64) -> HcclResult;
            hccl "9.1" fn HcclThreadAcquire(comm: HcclComm, engine: CommEngine, thread_num: u32, notify_num_per_thread: u32, threads: *mut ThreadHandle) -> HcclResult;
            hccl "9.1" fn HcclThreadAcquireWithConfig(comm: HcclComm, engine: CommEngine, thread_num: u32, type_: ThreadType, config: *const ThreadConfig, threads: *mut ThreadHandle) -> HcclResult;
            hccl "9.1" fn HcclThreadAcquireWithStream(comm: HcclComm, engine: CommEngine, stream: aclrtStream, notify_num: u32, thread: *mut ThreadHandle) -> HcclResult;
            hccl "9.1" fn HcclThreadResGetInfo(comm: HcclComm, thread: ThreadHandle, res_type: ThreadResType, info_len: u32, info: *mut *mut c_void) -> HcclResult;

            // windows of symmetric memory
            hccl "9.1" fn HcclSymWinGetPeerPointer(win_handle: HcclCommSymWindow, offset: usize, peer_rank: u32, ptr: *mut *mut c_void) -> HcclResult;

            // teams of ranks
            hccl "9.1" fn HcclSubTeamCreate(world_team: HcommTeamHandle, desc: *const HcclTeamCreateDesc, team: *mut HcommTeamHandle) -> HcclResult;
            hccl "9.1" fn HcclTeamChannelsCreate(comm: HcclComm, team: HcommTeamHandle, desc: *const HcclTeamCreateChannelsDesc) -> HcclResult;
            hccl "9.1" fn HcclTeamDestroy(team: HcommTeamHandle) -> HcclResult;
            hccl "9.1" fn HcclTeamWindowDeregister(world_team: HcommTeamHandle, window: HcommWindowHandle) -> HcclResult;
            hccl "9.1" fn HcclTeamWindowRegister(comm: HcclComm, world_team: HcommTeamHandle, local_mem: *const CommMem, window: *mut HcommWindowHandle, flag: u32) -> HcclResult;
            hccl "9.1" fn HcclWorldTeamCreate(comm: HcclComm, desc: *const HcclTeamCreateDesc, world_team: *mut HcommTeamHandle) -> HcclResult;
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
