//! Enumerations of HCCL. As in `acl-sys` they are plain integers, because a newer HCCL may answer with a value that is
//! not listed. The sentinels at the end of `HcclResult` and `HcclCommConfigCapability` move with the release and are left out.

acl_sys::c_enums! {
    HcclCMDType {
        HCCL_CMD_INVALID = 0,
        HCCL_CMD_BROADCAST = 1,
        HCCL_CMD_ALLREDUCE = 2,
        HCCL_CMD_REDUCE = 3,
        HCCL_CMD_SEND = 4,
        HCCL_CMD_RECEIVE = 5,
        HCCL_CMD_ALLGATHER = 6,
        HCCL_CMD_REDUCE_SCATTER = 7,
        HCCL_CMD_ALLTOALLV = 8,
        HCCL_CMD_ALLTOALLVC = 9,
        HCCL_CMD_ALLTOALL = 10,
        HCCL_CMD_GATHER = 11,
        HCCL_CMD_SCATTER = 12,
        HCCL_CMD_BATCH_SEND_RECV = 13,
        HCCL_CMD_BATCH_PUT = 14,
        HCCL_CMD_BATCH_GET = 15,
        HCCL_CMD_ALLGATHER_V = 16,
        HCCL_CMD_REDUCE_SCATTER_V = 17,
        HCCL_CMD_BATCH_WRITE = 18,
        HCCL_CMD_HALF_ALLTOALLV = 20,
        HCCL_CMD_ALL = 21,
        HCCL_CMD_FINALIZE = 100,
        HCCL_CMD_INTER_GROUP_SYNC = 101,
        HCCL_CMD_INIT = 102,
        HCCL_CMD_BARRIER = 103,
        HCCL_CMD_MAX = 104,
    }
    HcclCommConfigCapability {
        HCCL_COMM_CONFIG_BUFFER_SIZE = 0,
        HCCL_COMM_CONFIG_DETERMINISTIC = 1,
        HCCL_COMM_CONFIG_COMM_NAME = 2,
        HCCL_COMM_CONFIG_OP_EXPANSION_MODE = 3,
        HCCL_COMM_CONFIG_SUPPORT_INIT_BY_ENV = 4,
        HCCL_COMM_CONFIG_WORLD_RANKID = 5,
        HCCL_COMM_CONFIG_JOBID = 6,
        HCCL_COMM_CONFIG_ACLGRAPH_ZEROCOPY_ENABLE = 7,
        HCCL_COMM_CONFIG_EXEC_TIMEOUT = 8,
        HCCL_COMM_CONFIG_ALGO = 9,
        HCCL_COMM_CONFIG_RETRY = 10,
        HCCL_COMM_CONFIG_BUFFER_NAME = 11,
    }
    HcclCommStatePhase {
        HCCL_COMM_STATE_PHASE_INVALID = -1,
        HCCL_COMM_STATE_PHASE_DESTROY_PRE = 0,
        HCCL_COMM_STATE_PHASE_DESTROY_POST = 1,
        HCCL_COMM_STATE_PHASE_RESUME_PRE = 2,
        HCCL_COMM_STATE_PHASE_RESUME_POST = 3,
    }
    HcclCommStatus {
        HCCL_COMM_STATUS_READY = 0,
        HCCL_COMM_STATUS_SUSPENDING = 1,
        HCCL_COMM_STATUS_INVALID = 254,
        HCCL_COMM_STATUS_RESERVED = 255,
    }
    HcclConfig {
        HCCL_DETERMINISTIC = 0,
        HCCL_CONFIG_RESERVED = 1,
    }
    HcclConfigType {
        HCCL_CONFIG_TYPE_INVALID = -1,
        HCCL_CONFIG_TYPE_OP_EXPANSION_MODE = 0,
        HCCL_CONFIG_TYPE_HCCL_ALGO = 1,
    }
    HcclDataType {
        HCCL_DATA_TYPE_INT8 = 0,
        HCCL_DATA_TYPE_INT16 = 1,
        HCCL_DATA_TYPE_INT32 = 2,
        HCCL_DATA_TYPE_FP16 = 3,
        HCCL_DATA_TYPE_FP32 = 4,
        HCCL_DATA_TYPE_INT64 = 5,
        HCCL_DATA_TYPE_UINT64 = 6,
        HCCL_DATA_TYPE_UINT8 = 7,
        HCCL_DATA_TYPE_UINT16 = 8,
        HCCL_DATA_TYPE_UINT32 = 9,
        HCCL_DATA_TYPE_FP64 = 10,
        HCCL_DATA_TYPE_BFP16 = 11,
        HCCL_DATA_TYPE_INT128 = 12,
        HCCL_DATA_TYPE_HIF8 = 14,
        HCCL_DATA_TYPE_FP8E4M3 = 15,
        HCCL_DATA_TYPE_FP8E5M2 = 16,
        HCCL_DATA_TYPE_FP8E8M0 = 17,
        HCCL_DATA_TYPE_RESERVED = 255,
    }
    HcclOpExpansionMode {
        HCCL_OP_EXPANSION_MODE_INVALID = -1,
        HCCL_OP_EXPANSION_MODE_AI_CPU = 0,
        HCCL_OP_EXPANSION_MODE_AIV = 1,
        HCCL_OP_EXPANSION_MODE_HOST = 2,
        HCCL_OP_EXPANSION_MODE_HOST_TS = 3,
        HCCL_OP_EXPANSION_MODE_CCU_MS = 4,
        HCCL_OP_EXPANSION_MODE_CCU_SCHED = 5,
        HCCL_OP_EXPANSION_AIV_ONLY = 6,
    }
    HcclReduceOp {
        HCCL_REDUCE_SUM = 0,
        HCCL_REDUCE_PROD = 1,
        HCCL_REDUCE_MAX = 2,
        HCCL_REDUCE_MIN = 3,
        HCCL_REDUCE_RESERVED = 255,
    }
    HcclResult {
        HCCL_SUCCESS = 0,
        HCCL_E_PARA = 1,
        HCCL_E_PTR = 2,
        HCCL_E_MEMORY = 3,
        HCCL_E_INTERNAL = 4,
        HCCL_E_NOT_SUPPORT = 5,
        HCCL_E_NOT_FOUND = 6,
        HCCL_E_UNAVAIL = 7,
        HCCL_E_SYSCALL = 8,
        HCCL_E_TIMEOUT = 9,
        HCCL_E_OPEN_FILE_FAILURE = 10,
        HCCL_E_TCP_CONNECT = 11,
        HCCL_E_ROCE_CONNECT = 12,
        HCCL_E_TCP_TRANSFER = 13,
        HCCL_E_ROCE_TRANSFER = 14,
        HCCL_E_RUNTIME = 15,
        HCCL_E_DRV = 16,
        HCCL_E_PROFILING = 17,
        HCCL_E_CCE = 18,
        HCCL_E_NETWORK = 19,
        HCCL_E_AGAIN = 20,
        HCCL_E_REMOTE = 21,
        HCCL_E_SUSPENDING = 22,
        HCCL_E_OPRETRY_FAIL = 23,
        HCCL_E_OOM = 24,
        HCCL_E_IN_STATUS = 1041,
    }
    HcclSendRecvType {
        HCCL_SEND = 0,
        HCCL_RECV = 1,
        HCCL_SEND_RECV_RESERVED = 2,
    }
    CommAddrType {
        COMM_ADDR_TYPE_RESERVED = -1,
        COMM_ADDR_TYPE_IP_V4 = 0,
        COMM_ADDR_TYPE_IP_V6 = 1,
        COMM_ADDR_TYPE_ID = 2,
        COMM_ADDR_TYPE_EID = 3,
    }
    CommEngine {
        COMM_ENGINE_RESERVED = -1,
        COMM_ENGINE_CPU = 0,
        COMM_ENGINE_CPU_TS = 1,
        COMM_ENGINE_AICPU = 2,
        COMM_ENGINE_AICPU_TS = 3,
        COMM_ENGINE_AIV = 4,
        COMM_ENGINE_CCU = 5,
    }
    CommMemType {
        COMM_MEM_TYPE_INVALID = -1,
        COMM_MEM_TYPE_DEVICE = 0,
        COMM_MEM_TYPE_HOST = 1,
    }
    CommProtocol {
        COMM_PROTOCOL_RESERVED = -1,
        COMM_PROTOCOL_HCCS = 0,
        COMM_PROTOCOL_ROCE = 1,
        COMM_PROTOCOL_PCIE = 2,
        COMM_PROTOCOL_SIO = 3,
        COMM_PROTOCOL_UB_CTP = 4,
        COMM_PROTOCOL_UBC_CTP = 4,
        COMM_PROTOCOL_UBC_TP = 5,
        COMM_PROTOCOL_UB_MEM = 6,
        COMM_PROTOCOL_UBOE = 7,
        COMM_PROTOCOL_HCCS_ONLY = 8,
        COMM_PROTOCOL_UB_RTP = 9,
        COMM_PROTOCOL_UBG = 9,
    }
    CommTopo {
        COMM_TOPO_RESERVED = -1,
        COMM_TOPO_CLOS = 0,
        COMM_TOPO_1DMESH = 1,
        COMM_TOPO_910_93 = 2,
        COMM_TOPO_310P = 3,
        COMM_TOPO_A2AXSERVER = 4,
        COMM_TOPO_CUSTOM = 5,
    }
    EndpointAttr {
        ENDPOINT_ATTR_INVALID = -1,
        ENDPOINT_ATTR_BW_COEFF = 0,
        ENDPOINT_ATTR_DIE_ID = 1,
        ENDPOINT_ATTR_LOCATION = 2,
    }
    EndpointLocType {
        ENDPOINT_LOC_TYPE_RESERVED = -1,
        ENDPOINT_LOC_TYPE_DEVICE = 0,
        ENDPOINT_LOC_TYPE_HOST = 1,
    }
    HcclChannelConfigType {
        HCCL_CHANNEL_CONFIG_TYPE_INVALID = -1,
        HCCL_CHANNEL_CONFIG_TYPE_IS_SHARED_QUEUE = 0,
        HCCL_CHANNEL_CONFIG_TYPE_SHARED_QUEUE_TAG = 1,
    }
    HcclDedicatedThreadType {
        HCCL_DED_THREAD_TYPE_INVALID = -1,
        HCCL_DED_THREAD_TYPE_AICPU_LAUNCH = 0,
        HCCL_DED_THREAD_TYPE_AICPU_LAUNCH_GE = 1,
        HCCL_DED_THREAD_TYPE_AICPU_ORDER_LAUNCH_OPBASE = 2,
        HCCL_DED_THREAD_TYPE_AICPU_ORDER_LAUNCH_ACLGRAPH = 3,
        HCCL_DED_THREAD_TYPE_AICPU_ORDER_LAUNCH_GE = 4,
        HCCL_DED_THREAD_TYPE_AICPU_ORDER_LAUNCH_DEVICE = 5,
    }
    HcclHeterogMode {
        HCCL_HETEROG_MODE_INVALID = -1,
        HCCL_HETEROG_MODE_HOMOGENEOUS = 0,
        HCCL_HETEROG_MODE_MIX_A2_A3 = 1,
    }
    ThreadResType {
        THREAD_RES_TYPE_INVALID = -1,
        THREAD_RES_TYPE_STREAM = 0,
    }
    ThreadType {
        THREAD_TYPE_INVALID = -1,
        THREAD_TYPE_TS = 0,
    }
}
