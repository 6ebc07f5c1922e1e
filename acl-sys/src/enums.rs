//! Enumerations of the C interface. C gives each the size of an `int`; they are plain integers here, because a newer
//! CANN may answer with an enumerator that this list does not know. Sentinels that move with the release are left out.

/// Declares C enumerations as integers with their enumerators as constants, and lists them as `ENUMS`.
#[macro_export]
macro_rules! c_enums {
    ($($name:ident { $($value:ident = $number:literal,)* })*) => {
        $(
            #[allow(non_camel_case_types)]
            #[doc = concat!("C enumeration `", stringify!($name), "`.")]
            pub type $name = i32;
            $(
                #[doc = concat!("Enumerator of [`", stringify!($name), "`].")]
                pub const $value: $name = $number;
            )*
        )*
        /// Every enumeration with its enumerators, for the test that compares them with the published interface.
        pub const ENUMS: &[(&str, &[(&str, i32)])] = &[$((stringify!($name), &[$((stringify!($value), $number)),*])),*];
    };
}

/// Declares constants that C defines by the preprocessor, and lists them as `CONSTANTS`.
#[macro_export]
macro_rules! c_constants {
    ($($(#[$doc:meta])* $name:ident = $number:literal,)*) => {
        $($(#[$doc])* pub const $name: u32 = $number;)*
        /// Every constant, for the test that compares them with the published interface.
        pub const CONSTANTS: &[(&str, u32)] = &[$((stringify!($name), $number)),*];
    };
}

c_constants! {
    /// Stream flag: launches skip a queue, at the price of memory held for the stream.
    ACL_STREAM_FAST_LAUNCH = 1,
    /// Stream flag: synchronisation polls instead of sleeping.
    ACL_STREAM_FAST_SYNC = 2,
    /// Stream flag: holds tasks of a captured graph.
    ACL_STREAM_PERSISTENT = 4,
    /// Stream flag: has room for more tasks.
    ACL_STREAM_HUGE = 8,
    /// Stream flag: for the queues of an AI CPU scheduler.
    ACL_STREAM_CPU_SCHEDULE = 16,
    /// Stream flag: only the device itself uses the stream.
    ACL_STREAM_DEVICE_USE_ONLY = 32,
    /// Event flag: orders streams.
    ACL_EVENT_SYNC = 1,
    /// Event flag: reports progress of a stream that is being captured.
    ACL_EVENT_CAPTURE_STREAM_PROGRESS = 2,
    /// Event flag: keeps the time of its recording.
    ACL_EVENT_TIME_LINE = 8,
    /// Event flag: only the device itself uses the event.
    ACL_EVENT_DEVICE_USE_ONLY = 16,
    /// Event flag: for waiting outside a captured graph.
    ACL_EVENT_EXTERNAL = 32,
    /// Event flag: may be shared with another process.
    ACL_EVENT_IPC = 64,
    /// Stream failure mode: later tasks run although one failed.
    ACL_CONTINUE_ON_FAILURE = 0,
    /// Stream failure mode: later tasks are given up when one fails.
    ACL_STOP_ON_FAILURE = 1,
    /// Magic number of a kernel binary for cube cores and mixed kernels.
    ACL_RT_BINARY_MAGIC_ELF_AICORE = 0x43554245,
    /// Magic number of a kernel binary for vector cores.
    ACL_RT_BINARY_MAGIC_ELF_VECTOR_CORE = 0x41415246,
    /// Magic number of a kernel binary for cube cores alone.
    ACL_RT_BINARY_MAGIC_ELF_CUBE_CORE = 0x41494343,
    /// Profiling: calls of the ACL.
    ACL_PROF_ACL_API = 0x1,
    /// Profiling: start and end of every task.
    ACL_PROF_TASK_TIME = 0x2,
    /// Profiling: metrics of the AI cores.
    ACL_PROF_AICORE_METRICS = 0x4,
    /// Profiling: tasks of the AI CPU.
    ACL_PROF_AICPU = 0x8,
    /// Profiling: hit rate of the L2 cache.
    ACL_PROF_L2CACHE = 0x10,
    /// Profiling: collectives.
    ACL_PROF_HCCL_TRACE = 0x20,
    /// Profiling: steps of training.
    ACL_PROF_TRAINING_TRACE = 0x40,
    /// Profiling: marks and ranges that the program sets.
    ACL_PROF_MSPROFTX = 0x80,
    /// Profiling: calls of the runtime below the ACL.
    ACL_PROF_RUNTIME_API = 0x100,
}

c_enums! {
    aclCANNPackageName {
        ACL_PKG_NAME_CANN = 0,
        ACL_PKG_NAME_RUNTIME = 1,
        ACL_PKG_NAME_COMPILER = 2,
        ACL_PKG_NAME_HCCL = 3,
        ACL_PKG_NAME_TOOLKIT = 4,
        ACL_PKG_NAME_OPP = 5,
        ACL_PKG_NAME_OPP_KERNEL = 6,
        ACL_PKG_NAME_DRIVER = 7,
    }
    aclDataType {
        ACL_DT_UNDEFINED = -1,
        ACL_FLOAT = 0,
        ACL_FLOAT16 = 1,
        ACL_INT8 = 2,
        ACL_INT32 = 3,
        ACL_UINT8 = 4,
        ACL_INT16 = 6,
        ACL_UINT16 = 7,
        ACL_UINT32 = 8,
        ACL_INT64 = 9,
        ACL_UINT64 = 10,
        ACL_DOUBLE = 11,
        ACL_BOOL = 12,
        ACL_STRING = 13,
        ACL_COMPLEX64 = 16,
        ACL_COMPLEX128 = 17,
        ACL_BF16 = 27,
        ACL_INT4 = 29,
        ACL_UINT1 = 30,
        ACL_COMPLEX32 = 33,
        ACL_HIFLOAT8 = 34,
        ACL_FLOAT8_E5M2 = 35,
        ACL_FLOAT8_E4M3FN = 36,
        ACL_FLOAT8_E8M0 = 37,
        ACL_FLOAT6_E3M2 = 38,
        ACL_FLOAT6_E2M3 = 39,
        ACL_FLOAT4_E2M1 = 40,
        ACL_FLOAT4_E1M2 = 41,
    }
    aclFormat {
        ACL_FORMAT_UNDEFINED = -1,
        ACL_FORMAT_NCHW = 0,
        ACL_FORMAT_NHWC = 1,
        ACL_FORMAT_ND = 2,
        ACL_FORMAT_NC1HWC0 = 3,
        ACL_FORMAT_FRACTAL_Z = 4,
        ACL_FORMAT_NC1HWC0_C04 = 12,
        ACL_FORMAT_HWCN = 16,
        ACL_FORMAT_NDHWC = 27,
        ACL_FORMAT_FRACTAL_NZ = 29,
        ACL_FORMAT_NCDHW = 30,
        ACL_FORMAT_NDC1HWC0 = 32,
        ACL_FRACTAL_Z_3D = 33,
        ACL_FORMAT_NC = 35,
        ACL_FORMAT_NCL = 47,
        ACL_FORMAT_FRACTAL_NZ_C0_16 = 50,
        ACL_FORMAT_FRACTAL_NZ_C0_32 = 51,
        ACL_FORMAT_FRACTAL_NZ_C0_2 = 52,
        ACL_FORMAT_FRACTAL_NZ_C0_4 = 53,
        ACL_FORMAT_FRACTAL_NZ_C0_8 = 54,
    }
    aclmdlRICaptureMode {
        ACL_MODEL_RI_CAPTURE_MODE_GLOBAL = 0,
        ACL_MODEL_RI_CAPTURE_MODE_THREAD_LOCAL = 1,
        ACL_MODEL_RI_CAPTURE_MODE_RELAXED = 2,
    }
    aclmdlRICaptureStatus {
        ACL_MODEL_RI_CAPTURE_STATUS_NONE = 0,
        ACL_MODEL_RI_CAPTURE_STATUS_ACTIVE = 1,
        ACL_MODEL_RI_CAPTURE_STATUS_INVALIDATED = 2,
    }
    aclmdlRITaskType {
        ACL_MODEL_RI_TASK_DEFAULT = 0,
        ACL_MODEL_RI_TASK_KERNEL = 1,
        ACL_MODEL_RI_TASK_EVENT_RECORD = 2,
        ACL_MODEL_RI_TASK_EVENT_WAIT = 3,
        ACL_MODEL_RI_TASK_EVENT_RESET = 4,
        ACL_MODEL_RI_TASK_VALUE_WRITE = 5,
        ACL_MODEL_RI_TASK_VALUE_WAIT = 6,
    }
    aclprofAicoreMetrics {
        ACL_AICORE_ARITHMETIC_UTILIZATION = 0,
        ACL_AICORE_PIPE_UTILIZATION = 1,
        ACL_AICORE_MEMORY_BANDWIDTH = 2,
        ACL_AICORE_L0B_AND_WIDTH = 3,
        ACL_AICORE_RESOURCE_CONFLICT_RATIO = 4,
        ACL_AICORE_MEMORY_UB = 5,
        ACL_AICORE_L2_CACHE = 6,
        ACL_AICORE_PIPE_EXECUTE_UTILIZATION = 7,
        ACL_AICORE_MEMORY_ACCESS = 8,
        ACL_AICORE_NONE = 255,
    }
    aclprofConfigType {
        ACL_PROF_ARGS_MIN = 0,
        ACL_PROF_STORAGE_LIMIT = 1,
        ACL_PROF_AIV_METRICS = 2,
        ACL_PROF_SYS_HARDWARE_MEM_FREQ = 3,
        ACL_PROF_LLC_MODE = 4,
        ACL_PROF_SYS_IO_FREQ = 5,
        ACL_PROF_SYS_INTERCONNECTION_FREQ = 6,
        ACL_PROF_DVPP_FREQ = 7,
        ACL_PROF_HOST_SYS = 8,
        ACL_PROF_HOST_SYS_USAGE = 9,
        ACL_PROF_HOST_SYS_USAGE_FREQ = 10,
        ACL_PROF_LOW_POWER_FREQ = 11,
        ACL_PROF_SYS_MEM_SERVICEFLOW = 12,
        ACL_PROF_SYS_CPU_FREQ = 13,
        ACL_PROF_OPTYPE = 14,
        ACL_PROF_NTS_METRICS = 15,
        ACL_PROF_PATH = 16,
    }
    aclprofStepTag {
        ACL_STEP_START = 0,
        ACL_STEP_END = 1,
    }
    aclrtBinaryLoadOptionType {
        ACL_RT_BINARY_LOAD_OPT_LAZY_LOAD = 1,
        ACL_RT_BINARY_LOAD_OPT_LAZY_MAGIC = 2,
        ACL_RT_BINARY_LOAD_OPT_MAGIC = 2,
        ACL_RT_BINARY_LOAD_OPT_CPU_KERNEL_MODE = 3,
    }
    aclrtCallbackBlockType {
        ACL_CALLBACK_NO_BLOCK = 0,
        ACL_CALLBACK_BLOCK = 1,
    }
    aclrtDevAttr {
        ACL_DEV_ATTR_AICPU_CORE_NUM = 1,
        ACL_DEV_ATTR_AICORE_CORE_NUM = 101,
        ACL_DEV_ATTR_CUBE_CORE_NUM = 102,
        ACL_DEV_ATTR_VECTOR_CORE_NUM = 201,
        ACL_DEV_ATTR_WARP_SIZE = 202,
        ACL_DEV_ATTR_MAX_THREAD_PER_VECTOR_CORE = 203,
        ACL_DEV_ATTR_LOCAL_MEM_PER_VECTOR_CORE = 204,
        ACL_DEV_ATTR_UBUF_PER_VECTOR_CORE = 204,
        ACL_DEV_ATTR_MAX_GRID_DIM_X = 205,
        ACL_DEV_ATTR_MAX_GRID_DIM_Y = 206,
        ACL_DEV_ATTR_MAX_GRID_DIM_Z = 207,
        ACL_DEV_ATTR_MAX_BLOCK_PER_GRID = 208,
        ACL_DEV_ATTR_MAX_THREADS_PER_BLOCK = 209,
        ACL_DEV_ATTR_MAX_BLOCK_DIM_X = 210,
        ACL_DEV_ATTR_MAX_BLOCK_DIM_Y = 211,
        ACL_DEV_ATTR_MAX_BLOCK_DIM_Z = 212,
        ACL_DEV_ATTR_TOTAL_GLOBAL_MEM_SIZE = 301,
        ACL_DEV_ATTR_L2_CACHE_SIZE = 302,
        ACL_DEV_ATTR_SMP_ID = 401,
        ACL_DEV_ATTR_PHY_CHIP_ID = 402,
        ACL_DEV_ATTR_SUPER_POD_DEVIDE_ID = 403,
        ACL_DEV_ATTR_SUPER_POD_DEVICE_ID = 403,
        ACL_DEV_ATTR_SUPER_POD_SERVER_ID = 404,
        ACL_DEV_ATTR_SUPER_POD_ID = 405,
        ACL_DEV_ATTR_CUST_OP_PRIVILEGE = 406,
        ACL_DEV_ATTR_MAINBOARD_ID = 407,
        ACL_DEV_ATTR_HD_CONNECT_TYPE = 408,
        ACL_DEV_ATTR_DEVICE_FORM_FACTOR = 409,
        ACL_DEV_ATTR_IS_VIRTUAL = 501,
        ACL_DEV_ATTR_NPU_ARCH = 601,
    }
    aclrtDevFeatureType {
        ACL_FEATURE_TSCPU_TASK_UPDATE_SUPPORT_AIC_AIV = 1,
        ACL_FEATURE_SYSTEM_MEMQ_EVENT_CROSS_DEV = 21,
    }
    aclrtDeviceStatus {
        ACL_RT_DEVICE_STATUS_NORMAL = 0,
        ACL_RT_DEVICE_STATUS_ABNORMAL = 1,
        ACL_RT_DEVICE_STATUS_END = 65535,
    }
    aclrtErrorType {
        ACL_RT_NO_ERROR = 0,
        ACL_RT_ERROR_MEMORY = 1,
        ACL_RT_ERROR_L2 = 2,
        ACL_RT_ERROR_AICORE = 3,
        ACL_RT_ERROR_LINK = 4,
        ACL_RT_ERROR_L3_PORT = 5,
        ACL_RT_ERROR_OTHERS = 65535,
    }
    aclrtEventRecordedStatus {
        ACL_EVENT_RECORDED_STATUS_NOT_READY = 0,
        ACL_EVENT_RECORDED_STATUS_COMPLETE = 1,
    }
    aclrtEventStatus {
        ACL_EVENT_STATUS_COMPLETE = 0,
        ACL_EVENT_STATUS_NOT_READY = 1,
        ACL_EVENT_STATUS_RESERVED = 2,
    }
    aclrtEventWaitStatus {
        ACL_EVENT_WAIT_STATUS_COMPLETE = 0,
        ACL_EVENT_WAIT_STATUS_NOT_READY = 1,
        ACL_EVENT_WAIT_STATUS_RESERVED = 65535,
    }
    aclrtFloatOverflowMode {
        ACL_RT_OVERFLOW_MODE_SATURATION = 0,
        ACL_RT_OVERFLOW_MODE_INFNAN = 1,
        ACL_RT_OVERFLOW_MODE_UNDEF = 2,
    }
    aclrtFuncAttribute {
        ACL_FUNC_ATTR_KERNEL_TYPE = 1,
        ACL_FUNC_ATTR_KERNEL_RATIO = 2,
        ACL_FUNC_ATTR_KERNEL_SCHED_MODE = 3,
    }
    aclrtHostRegisterType {
        ACL_HOST_REGISTER_MAPPED = 0,
        ACL_HOST_REGISTER_IOMEMORY = 4,
        ACL_HOST_REGISTER_READONLY = 8,
    }
    aclrtLastErrLevel {
        ACL_RT_THREAD_LEVEL = 0,
    }
    aclrtLaunchKernelAttrId {
        ACL_RT_LAUNCH_KERNEL_ATTR_SCHEM_MODE = 1,
        ACL_RT_LAUNCH_KERNEL_ATTR_LOCAL_MEMORY_SIZE = 2,
        ACL_RT_LAUNCH_KERNEL_ATTR_DYN_UBUF_SIZE = 2,
        ACL_RT_LAUNCH_KERNEL_ATTR_ENGINE_TYPE = 3,
        ACL_RT_LAUNCH_KERNEL_ATTR_BLOCKDIM_OFFSET = 4,
        ACL_RT_LAUNCH_KERNEL_ATTR_BLOCK_TASK_PREFETCH = 5,
        ACL_RT_LAUNCH_KERNEL_ATTR_DATA_DUMP = 6,
        ACL_RT_LAUNCH_KERNEL_ATTR_TIMEOUT = 7,
        ACL_RT_LAUNCH_KERNEL_ATTR_TIMEOUT_US = 8,
        ACL_RT_LAUNCH_KERNEL_ATTR_ENABLE_PROFILING = 9,
    }
    aclrtMallocAttrType {
        ACL_RT_MEM_ATTR_RSV = 0,
        ACL_RT_MEM_ATTR_MODULE_ID = 1,
        ACL_RT_MEM_ATTR_DEVICE_ID = 2,
        ACL_RT_MEM_ATTR_VA_FLAG = 3,
    }
    aclrtMemAccessFlags {
        ACL_RT_MEM_ACCESS_FLAGS_NONE = 0,
        ACL_RT_MEM_ACCESS_FLAGS_READ = 1,
        ACL_RT_MEM_ACCESS_FLAGS_READWRITE = 3,
    }
    aclrtMemAllocationType {
        ACL_MEM_ALLOCATION_TYPE_PINNED = 0,
    }
    aclrtMemAttr {
        ACL_DDR_MEM = 0,
        ACL_HBM_MEM = 1,
        ACL_DDR_MEM_HUGE = 2,
        ACL_DDR_MEM_NORMAL = 3,
        ACL_HBM_MEM_HUGE = 4,
        ACL_HBM_MEM_NORMAL = 5,
        ACL_DDR_MEM_P2P_HUGE = 6,
        ACL_DDR_MEM_P2P_NORMAL = 7,
        ACL_HBM_MEM_P2P_HUGE = 8,
        ACL_HBM_MEM_P2P_NORMAL = 9,
        ACL_HBM_MEM_HUGE1G = 10,
        ACL_HBM_MEM_P2P_HUGE1G = 11,
        ACL_MEM_NORMAL = 12,
        ACL_MEM_HUGE = 13,
        ACL_MEM_HUGE1G = 14,
        ACL_MEM_P2P_NORMAL = 15,
        ACL_MEM_P2P_HUGE = 16,
        ACL_MEM_P2P_HUGE1G = 17,
    }
    aclrtMemGranularityOptions {
        ACL_RT_MEM_ALLOC_GRANULARITY_MINIMUM = 0,
        ACL_RT_MEM_ALLOC_GRANULARITY_RECOMMENDED = 1,
        ACL_RT_MEM_ALLOC_GRANULARITY_UNDEF = 65535,
    }
    aclrtMemHandleType {
        ACL_MEM_HANDLE_TYPE_NONE = 0,
        ACL_MEM_HANDLE_TYPE_POSIX = 2,
    }
    aclrtMemLocationType {
        ACL_MEM_LOCATION_TYPE_HOST = 0,
        ACL_MEM_LOCATION_TYPE_DEVICE = 1,
        ACL_MEM_LOCATION_TYPE_UNREGISTERED = 2,
        ACL_MEM_LOCATION_TYPE_MANAGED = 3,
        ACL_MEM_LOCATION_TYPE_HOST_NUMA = 4,
    }
    aclrtMemMallocPolicy {
        ACL_MEM_MALLOC_HUGE_FIRST = 0,
        ACL_MEM_MALLOC_HUGE_ONLY = 1,
        ACL_MEM_MALLOC_NORMAL_ONLY = 2,
        ACL_MEM_MALLOC_HUGE_FIRST_P2P = 3,
        ACL_MEM_MALLOC_HUGE_ONLY_P2P = 4,
        ACL_MEM_MALLOC_NORMAL_ONLY_P2P = 5,
        ACL_MEM_MALLOC_HUGE1G_ONLY = 6,
        ACL_MEM_MALLOC_HUGE1G_ONLY_P2P = 7,
        ACL_MEM_TYPE_LOW_BAND_WIDTH = 256,
        ACL_MEM_TYPE_HIGH_BAND_WIDTH = 4096,
        ACL_MEM_ACCESS_USER_SPACE_READONLY = 1048576,
    }
    aclrtMemcpyKind {
        ACL_MEMCPY_HOST_TO_HOST = 0,
        ACL_MEMCPY_HOST_TO_DEVICE = 1,
        ACL_MEMCPY_DEVICE_TO_HOST = 2,
        ACL_MEMCPY_DEVICE_TO_DEVICE = 3,
        ACL_MEMCPY_DEFAULT = 4,
        ACL_MEMCPY_HOST_TO_BUF_TO_DEVICE = 5,
        ACL_MEMCPY_INNER_DEVICE_TO_DEVICE = 6,
        ACL_MEMCPY_INTER_DEVICE_TO_DEVICE = 7,
    }
    aclrtRunMode {
        ACL_DEVICE = 0,
        ACL_HOST = 1,
    }
    aclrtStreamAttr {
        ACL_STREAM_ATTR_FAILURE_MODE = 1,
        ACL_STREAM_ATTR_FLOAT_OVERFLOW_CHECK = 2,
        ACL_STREAM_ATTR_USER_CUSTOM_TAG = 3,
        ACL_STREAM_ATTR_CACHE_OP_INFO = 4,
        ACL_STREAM_ATTR_PRIORITY = 5,
    }
    aclrtStreamConfigAttr {
        ACL_RT_STREAM_WORK_ADDR_PTR = 0,
        ACL_RT_STREAM_WORK_SIZE = 1,
        ACL_RT_STREAM_FLAG = 2,
        ACL_RT_STREAM_PRIORITY = 3,
    }
    aclrtStreamStatus {
        ACL_STREAM_STATUS_COMPLETE = 0,
        ACL_STREAM_STATUS_NOT_READY = 1,
        ACL_STREAM_STATUS_RESERVED = 65535,
    }
}
