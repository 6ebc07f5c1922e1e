//! Error codes of ACL and aclnn: name, meaning, and what a user does about each.

pub use crate::messages::{Message, explain};

macro_rules! codes {
    ($($name:ident = $code:literal, $meaning:literal, $advice:literal;)*) => {
        $(#[doc = $meaning] pub const $name: i32 = $code;)*
        /// Every known code.
        pub const CODES: &[Code] = &[$(Code { code: $code, name: stringify!($name), meaning: $meaning, advice: $advice }),*];
    };
}

/// What is known of one error code.
#[derive(Clone, Copy, Debug)]
pub struct Code {
    /// The number that a call returns.
    pub code: i32,
    /// Its name in the headers.
    pub name: &'static str,
    /// One sentence: what it says.
    pub meaning: &'static str,
    /// One line: what to do next.
    pub advice: &'static str,
}

/// Looks a code up. The codes of the graph engine (x45xxx) are not listed: nothing here calls it.
pub fn lookup(code: i32) -> Option<&'static Code> {
    CODES.iter().find(|row| row.code == code)
}

codes! {
    ACL_SUCCESS = 0, "Success.", "nothing to do";
    ACL_ERROR_NONE = 0, "Success.", "nothing to do";
    ACL_ERROR_INVALID_PARAM = 100000, "An argument is invalid.", "check the arguments of the call named in the message: null pointers, zero sizes and values out of range";
    ACL_ERROR_UNINITIALIZE = 100001, "The runtime, or a part of it, is not initialised.", "call aclInit before any other call, and the initialisation of dump or profiling before their own calls";
    ACL_ERROR_REPEAT_INITIALIZE = 100002, "Something is initialised or loaded a second time.", "call aclInit once a process; a library that shares the process may already have done it, which can be accepted";
    ACL_ERROR_INVALID_FILE = 100003, "A file is missing or cannot be read.", "check the path and that this user may read the file";
    ACL_ERROR_WRITE_FILE = 100004, "A file cannot be written.", "check that the folder exists, that this user may write there and that the disk is not full";
    ACL_ERROR_INVALID_FILE_SIZE = 100005, "A file has a wrong size.", "check that the file was copied completely";
    ACL_ERROR_PARSE_FILE = 100006, "A file cannot be parsed.", "check the syntax of the file: configuration files are JSON";
    ACL_ERROR_FILE_MISSING_ATTR = 100007, "A file lacks an attribute.", "compare the file with the format that the call documents";
    ACL_ERROR_FILE_ATTR_INVALID = 100008, "An attribute in a file is invalid.", "compare the value in the file with the format that the call documents";
    ACL_ERROR_INVALID_DUMP_CONFIG = 100009, "The dump configuration is invalid.", "check the dump section of the configuration given to aclInit";
    ACL_ERROR_INVALID_PROFILING_CONFIG = 100010, "The profiling configuration is invalid.", "check the profiling section of the configuration given to aclInit";
    ACL_ERROR_INVALID_MODEL_ID = 100011, "A model id is invalid.", "check that the model was loaded and not yet unloaded";
    ACL_ERROR_DESERIALIZE_MODEL = 100012, "A model cannot be deserialised.", "build the offline model again with the installed CANN release";
    ACL_ERROR_PARSE_MODEL = 100013, "A model cannot be parsed.", "build the offline model again with the installed CANN release";
    ACL_ERROR_READ_MODEL_FAILURE = 100014, "A model cannot be read.", "check that the model file exists and can be read";
    ACL_ERROR_MODEL_SIZE_INVALID = 100015, "A model has a wrong size.", "build the offline model again; the file is damaged";
    ACL_ERROR_MODEL_MISSING_ATTR = 100016, "A model lacks an attribute.", "build the offline model again with the installed CANN release";
    ACL_ERROR_MODEL_INPUT_NOT_MATCH = 100017, "The inputs do not suit the model.", "check number, sizes and order of the model's inputs";
    ACL_ERROR_MODEL_OUTPUT_NOT_MATCH = 100018, "The outputs do not suit the model.", "check number, sizes and order of the model's outputs";
    ACL_ERROR_MODEL_NOT_DYNAMIC = 100019, "The model has no dynamic shapes.", "give the shapes that the model was built for, or build it with dynamic shapes";
    ACL_ERROR_OP_TYPE_NOT_MATCH = 100020, "The operator type does not match.", "check the operator's type name";
    ACL_ERROR_OP_INPUT_NOT_MATCH = 100021, "The inputs do not suit the operator.", "check number, types and shapes of the operator's inputs";
    ACL_ERROR_OP_OUTPUT_NOT_MATCH = 100022, "The outputs do not suit the operator.", "check number, types and shapes of the operator's outputs";
    ACL_ERROR_OP_ATTR_NOT_MATCH = 100023, "The attributes do not suit the operator.", "check names and types of the operator's attributes";
    ACL_ERROR_OP_NOT_FOUND = 100024, "The operator is not found.", "check that the operator package (kernels) for this chip is installed and has the operator";
    ACL_ERROR_OP_LOAD_FAILED = 100025, "The operator cannot be loaded.", "build the operator again with the installed CANN release";
    ACL_ERROR_UNSUPPORTED_DATA_TYPE = 100026, "The data type is not supported.", "use a data type that the operator's page lists for this chip";
    ACL_ERROR_FORMAT_NOT_MATCH = 100027, "The tensor format does not match.", "use a format that the operator's page lists, ND where in doubt";
    ACL_ERROR_BIN_SELECTOR_NOT_REGISTERED = 100028, "No kernel selector is registered for the operator.", "register one with aclopRegisterSelectKernelFunc before compiling the operator";
    ACL_ERROR_KERNEL_NOT_FOUND = 100029, "No kernel is registered for the operator.", "register one with aclopCreateKernel before compiling the operator";
    ACL_ERROR_BIN_SELECTOR_ALREADY_REGISTERED = 100030, "A kernel selector is registered twice.", "register the selector once";
    ACL_ERROR_KERNEL_ALREADY_REGISTERED = 100031, "A kernel is registered twice.", "register the kernel once";
    ACL_ERROR_INVALID_QUEUE_ID = 100032, "A queue id is invalid.", "check that the queue was created and not yet destroyed";
    ACL_ERROR_REPEAT_SUBSCRIBE = 100033, "A stream is subscribed twice.", "call aclrtSubscribeReport once a stream";
    ACL_ERROR_STREAM_NOT_SUBSCRIBE = 100034, "A stream is not subscribed.", "call aclrtSubscribeReport before launching callbacks on the stream";
    ACL_ERROR_THREAD_NOT_SUBSCRIBE = 100035, "A thread is not subscribed.", "call aclrtSubscribeReport with the thread that will process callbacks";
    ACL_ERROR_WAIT_CALLBACK_TIMEOUT = 100036, "Waiting for a callback timed out.", "check that a callback was launched, and give aclrtProcessReport a longer timeout";
    ACL_ERROR_REPEAT_FINALIZE = 100037, "The runtime is finalised twice.", "call aclFinalize once a process, after everything else has ended";
    ACL_ERROR_NOT_STATIC_AIPP = 100038, "The model has no static preprocessing (AIPP) at that index.", "check the index against the model";
    ACL_ERROR_COMPILING_STUB_MODE = 100039, "The libraries are stubs for compiling, not the real ones.", "take the toolkit's stub or devlib folder out of LD_LIBRARY_PATH and put lib64 in its place";
    ACL_ERROR_GROUP_NOT_SET = 100040, "No group is set.", "call aclrtSetGroup first";
    ACL_ERROR_GROUP_NOT_CREATE = 100041, "The group does not exist.", "choose a group below the number that aclrtGetGroupCount answers";
    ACL_ERROR_PROF_ALREADY_RUN = 100042, "Profiling is already running.", "use one way of profiling at a time, and start it once a device";
    ACL_ERROR_PROF_NOT_RUN = 100043, "Profiling is not initialised.", "call aclprofInit before the other profiling calls";
    ACL_ERROR_DUMP_ALREADY_RUN = 100044, "Dumping is already running.", "configure dumping in one place: aclInit or aclmdlInitDump";
    ACL_ERROR_DUMP_NOT_RUN = 100045, "Dumping is not initialised.", "call aclmdlInitDump before the other dump calls";
    ACL_ERROR_RT_PARAM_INVALID = 107000, "The runtime refuses an argument.", "check the arguments of the call named in the message: a copy larger than its destination, a null handle and a value out of range are common";
    ACL_ERROR_RT_INVALID_DEVICEID = 107001, "The device does not exist.", "count devices with npu-smi info; indices start at 0 and count only the devices in ASCEND_RT_VISIBLE_DEVICES";
    ACL_ERROR_RT_CONTEXT_NULL = 107002, "The calling thread has no current context.", "call aclrtSetDevice or aclrtSetCurrentContext on every thread that calls the runtime";
    ACL_ERROR_RT_STREAM_CONTEXT = 107003, "The stream belongs to another context.", "use the stream on the device and in the context that made it";
    ACL_ERROR_RT_MODEL_CONTEXT = 107004, "The model belongs to another context.", "use the model in the context that loaded it";
    ACL_ERROR_RT_STREAM_MODEL = 107005, "The stream belongs to no such model.", "bind the stream to the model first";
    ACL_ERROR_RT_EVENT_TIMESTAMP_INVALID = 107006, "The event has no time.", "create the event with ACL_EVENT_TIME_LINE, record it, and wait for it before asking for its time";
    ACL_ERROR_RT_EVENT_TIMESTAMP_REVERSAL = 107007, "The times of two events are in the wrong order.", "pass the earlier event first, and record both before asking";
    ACL_ERROR_RT_ADDR_UNALIGNED = 107008, "An address is not aligned.", "align the address as the call asks, usually to 32 or 64 bytes";
    ACL_ERROR_RT_FILE_OPEN = 107009, "A file cannot be opened.", "check the path and that this user may read the file";
    ACL_ERROR_RT_FILE_WRITE = 107010, "A file cannot be written.", "check the folder, its permissions and the free space of the disk";
    ACL_ERROR_RT_STREAM_SUBSCRIBE = 107011, "A stream is not subscribed, or twice.", "call aclrtSubscribeReport exactly once for the stream";
    ACL_ERROR_RT_THREAD_SUBSCRIBE = 107012, "A thread is not subscribed, or twice.", "subscribe each callback thread exactly once";
    ACL_ERROR_RT_GROUP_NOT_SET = 107013, "No group is set.", "call aclrtSetGroup first";
    ACL_ERROR_RT_GROUP_NOT_CREATE = 107014, "The group does not exist.", "choose a group below the number that aclrtGetGroupCount answers";
    ACL_ERROR_RT_STREAM_NO_CB_REG = 107015, "No thread processes callbacks of the stream.", "call aclrtSubscribeReport for the stream before launching a callback on it";
    ACL_ERROR_RT_INVALID_MEMORY_TYPE = 107016, "The kind of memory is invalid.", "check the address: the call wants memory of another kind (host, device, managed)";
    ACL_ERROR_RT_INVALID_HANDLE = 107017, "A handle is invalid.", "check that the stream, event, function or binary still lives";
    ACL_ERROR_RT_INVALID_MALLOC_TYPE = 107018, "The allocation policy is invalid.", "use an allocation policy that this chip supports";
    ACL_ERROR_RT_WAIT_TIMEOUT = 107019, "Waiting timed out.", "wait again, or give the wait a longer timeout; if it never ends, a task on the device hangs";
    ACL_ERROR_RT_TASK_TIMEOUT = 107020, "A task timed out.", "give operators more time (aclrtSetOpExecuteTimeOutWithMs), or find the operator that hangs";
    ACL_ERROR_RT_SYSPARAMOPT_NOT_SET = 107021, "The system parameter was never set.", "set it with aclrtCtxSetSysParamOpt before reading it";
    ACL_ERROR_RT_DEVICE_TASK_ABORT = 107022, "A task abort on the device conflicts with another call.", "wait until aclrtDeviceTaskAbort has returned before using the device";
    ACL_ERROR_RT_STREAM_ABORT = 107023, "The stream is being aborted.", "do not synchronise a stream while its tasks are being cleared; wait for the abort to end";
    ACL_ERROR_RT_CAPTURE_DEPENDENCY = 107024, "A captured stream waits for an event that the capture never recorded.", "record the event on a captured stream before waiting for it";
    ACL_ERROR_RT_STREAM_UNJOINED = 107025, "A captured side stream never rejoins the first stream.", "end the side stream with an event that the first stream waits for, before ending the capture";
    ACL_ERROR_RT_MODEL_CAPTURED = 107026, "The graph is being captured.", "end the capture before using the graph";
    ACL_ERROR_RT_STREAM_CAPTURED = 107027, "The stream is being captured.", "end the capture first; synchronising, querying and blocking copies are not allowed meanwhile";
    ACL_ERROR_RT_EVENT_CAPTURED = 107028, "The event belongs to a capture.", "end the capture before querying or synchronising the event";
    ACL_ERROR_RT_STREAM_NOT_CAPTURED = 107029, "The stream is not being captured.", "begin the capture on this stream first";
    ACL_ERROR_RT_CAPTURE_MODE_NOT_SUPPORT = 107030, "The capture mode forbids this call.", "allocate and synchronise before the capture, or exchange the thread's capture mode to relaxed around the call";
    ACL_ERROR_RT_STREAM_CAPTURE_IMPLICIT = 107031, "The default stream cannot be captured.", "capture a stream that you created";
    ACL_ERROR_STREAM_CAPTURE_CONFLICT = 107032, "An event ties two captures together.", "keep the streams of one capture together; order separate graphs by events outside the capture";
    ACL_ERROR_STREAM_TASK_GROUP_STATUS = 107033, "The task group is in the wrong state.", "pair every begin with its end, and open one group a stream at a time";
    ACL_ERROR_STREAM_TASK_GROUP_INTR = 107034, "A task was captured outside the open task group.", "launch tasks of a group only on the stream whose group is open";
    ACL_ERROR_RT_TASK_ABORT_STOP = 107035, "The task was stopped by an abort.", "launch the work again after the abort has ended";
    ACL_ERROR_RT_STREAM_CAPTURE_UNMATCHED = 107036, "A capture is ended that never began.", "call aclmdlRICaptureBegin on the stream first";
    ACL_ERROR_RT_MODEL_RUNNING = 107037, "The graph is running.", "synchronise its stream before destroying the graph";
    ACL_ERROR_RT_STREAM_CAPTURE_WRONG_THREAD = 107038, "A capture is ended on another thread than it began on.", "begin and end on one thread, or capture in relaxed mode";
    ACL_ERROR_RT_INSUFFICIENT_INPUT_ARRAY = 107039, "The array given is too small.", "ask for the needed number first, then pass an array of that size";
    ACL_ERROR_RT_MODEL_UPDATE_FAILED = 107040, "The graph cannot be updated.", "finish the capture and let running executions end before updating";
    ACL_ERROR_RT_CAPTURE_MODE_BLOCK_ASYNC = 107041, "The capture mode does not allow a call that blocks.", "use the asynchronous form of the call during the capture";
    ACL_ERROR_RT_SYMBOL_NOT_FOUND = 107042, "A symbol is not found in the kernel binary.", "check the global variable's name against the binary";
    ACL_ERROR_RT_INVALID_SYMBOL = 107043, "A symbol is invalid.", "check that the variable is declared in device code";
    ACL_ERROR_RT_INVALID_DEVICE_FUNCTION = 107044, "A device function is invalid.", "check that the kernel is declared in device code and that its binary is loaded";
    ACL_ERROR_RT_SUB_ACLGRAPH_IS_CAPTURING = 107045, "A graph inside this one is still being captured.", "end the inner capture first";
    ACL_ERROR_PROF_REPEAT_SUBSCRIBE = 148046, "A model is subscribed twice.", "subscribe each model once";
    ACL_ERROR_PROF_API_CONFLICT = 148047, "Two ways of profiling are mixed.", "finish one way of profiling before starting the other";
    ACL_ERROR_INVALID_MAX_OPQUEUE_NUM_CONFIG = 148048, "The operator cache's size is configured wrongly.", "check max_opqueue_num in the configuration given to aclInit";
    ACL_ERROR_INVALID_OPP_PATH = 148049, "ASCEND_OPP_PATH is not set or names no operator package.", "source the toolkit's set_env.sh; ASCEND_OPP_PATH must name its opp folder";
    ACL_ERROR_OP_UNSUPPORTED_DYNAMIC = 148050, "The operator has no dynamic shapes.", "give fixed shapes, or build the operator with dynamic shapes";
    ACL_ERROR_RELATIVE_RESOURCE_NOT_CLEARED = 148051, "Something is destroyed before what depends on it.", "destroy channels before their descriptions";
    ACL_ERROR_UNSUPPORTED_JPEG = 148052, "The JPEG's encoding is not supported.", "use a baseline JPEG with Huffman coding";
    ACL_ERROR_INVALID_BUNDLE_MODEL_ID = 148053, "A bundle model id is invalid.", "check that the model was loaded";
    ACL_ERROR_BAD_ALLOC = 200000, "Memory cannot be allocated.", "free memory on the host or the device, or use smaller batches";
    ACL_ERROR_API_NOT_SUPPORT = 200001, "The call is not supported.", "check the release notes: this chip or this CANN lacks the call";
    ACL_ERROR_INVALID_DEVICE = 200002, "The device is invalid.", "count devices with npu-smi info and check ASCEND_RT_VISIBLE_DEVICES";
    ACL_ERROR_MEMORY_ADDRESS_UNALIGNED = 200003, "An address is not aligned.", "align the address as the call asks";
    ACL_ERROR_RESOURCE_NOT_MATCH = 200004, "Resources do not belong together.", "use stream, event and memory of one context";
    ACL_ERROR_INVALID_RESOURCE_HANDLE = 200005, "A resource handle is invalid.", "check that the stream or context was not destroyed and is not in use elsewhere";
    ACL_ERROR_FEATURE_UNSUPPORTED = 200006, "The feature is not supported.", "check whether this chip and driver have the feature";
    ACL_ERROR_PROF_MODULES_UNSUPPORTED = 200007, "The profiling item is not supported.", "ask for fewer items in aclprofCreateConfig";
    ACL_ERROR_RT_FEATURE_NOT_SUPPORT = 207000, "The chip or driver lacks the feature.", "check that chip and driver have it: npu-smi info gives both; graph capture needs an A2 or newer";
    ACL_ERROR_RT_MEMORY_ALLOCATION = 207001, "Device memory cannot be allocated.", "see npu-smi info for who holds the device's memory; lower batch size, sequence length or the memory limit, or use more devices";
    ACL_ERROR_RT_MEMORY_FREE = 207002, "Device memory cannot be freed.", "free each address once, on the device that allocated it, after its streams are done";
    ACL_ERROR_RT_AICORE_OVER_FLOW = 207003, "A cube operator overflowed.", "look for infinities in its inputs; scale the loss, or use bf16 instead of fp16";
    ACL_ERROR_RT_NO_DEVICE = 207004, "No device is available.", "check npu-smi info: the driver must be loaded and the devices visible to this user or container";
    ACL_ERROR_RT_RESOURCE_ALLOC_FAIL = 207005, "A resource cannot be allocated.", "destroy streams, events and contexts that are no longer used";
    ACL_ERROR_RT_NO_PERMISSION = 207006, "The user may not use the device.", "add the user to the device's group (HwHiAiUser), or pass /dev/davinci* into the container";
    ACL_ERROR_RT_NO_EVENT_RESOURCE = 207007, "The device has no events left.", "destroy events when they are done, and reuse them";
    ACL_ERROR_RT_NO_STREAM_RESOURCE = 207008, "The device has no streams left.", "destroy streams that are no longer used; captured graphs and communicators hold streams too";
    ACL_ERROR_RT_NO_NOTIFY_RESOURCE = 207009, "The device has no notifications left.", "destroy communicators or models that are no longer used";
    ACL_ERROR_RT_NO_MODEL_RESOURCE = 207010, "The device has no room for another model.", "unload models or destroy graphs that are no longer used";
    ACL_ERROR_RT_NO_CDQ_RESOURCE = 207011, "The device has no command queue left.", "end other work on the device and try again";
    ACL_ERROR_RT_OVER_LIMIT = 207012, "There are too many queues.", "destroy queues that are no longer used";
    ACL_ERROR_RT_QUEUE_EMPTY = 207013, "The queue is empty.", "fill the queue before reading from it";
    ACL_ERROR_RT_QUEUE_FULL = 207014, "The queue is full.", "read from the queue before writing more";
    ACL_ERROR_RT_REPEATED_INIT = 207015, "The queue is initialised twice.", "initialise the queue once";
    ACL_ERROR_RT_AIVEC_OVER_FLOW = 207016, "A vector operator overflowed.", "look for infinities in its inputs; scale the loss, or use bf16 instead of fp16";
    ACL_ERROR_RT_OVER_FLOW = 207017, "An operator overflowed.", "look for infinities in its inputs; scale the loss, or use bf16 instead of fp16";
    ACL_ERROR_RT_DEVICE_OOM = 207018, "The device is out of memory.", "see npu-smi info for who holds it; lower batch size, sequence length or the memory limit, or use more devices";
    ACL_ERROR_RT_FEATURE_NOT_SUPPORT_UPDATE_OP = 207019, "The driver cannot update this operator in a graph.", "install a newer driver (Ascend HDK 25.0.RC1 or later)";
    ACL_ERROR_RT_TIMEOUT = 207020, "The call timed out.", "find out what the device is busy with, or give the call more time";
    ACL_ERROR_RT_LINK_TYPE_NOT_SUPPORTED = 207021, "The kind of link is not supported.", "check which links (HCCS, SIO, PCIe) the two devices share";
    ACL_ERROR_STORAGE_OVER_LIMIT = 300000, "A storage limit is exceeded.", "free disk space, or raise the limit";
    ACL_ERROR_INTERNAL_ERROR = 500000, "An unknown internal error.", "read the first error in the log (ASCEND_PROCESS_LOG_PATH, default ~/ascend/log); later ones follow from it";
    ACL_ERROR_FAILURE = 500001, "An internal error.", "read the first error in the log (ASCEND_PROCESS_LOG_PATH, default ~/ascend/log)";
    ACL_ERROR_RT_FAILURE = 500003, "The runtime failed inside.", "read the first error in the log (ASCEND_PROCESS_LOG_PATH, default ~/ascend/log)";
    ACL_ERROR_DRV_FAILURE = 500004, "The driver failed inside.", "check dmesg and npu-smi info; driver and firmware must suit the installed CANN";
    ACL_ERROR_PROFILING_FAILURE = 500005, "Profiling failed inside.", "run without profiling; then read the profiling log";
    ACL_ERROR_RT_INTERNAL_ERROR = 507000, "The runtime failed inside.", "read the first error in the log (ASCEND_PROCESS_LOG_PATH, default ~/ascend/log)";
    ACL_ERROR_RT_TS_ERROR = 507001, "The task scheduler on the device failed.", "reset the device (npu-smi set -t reset) if it stays; read the device log";
    ACL_ERROR_RT_STREAM_TASK_FULL = 507002, "The stream has too many tasks waiting.", "synchronise the stream now and then, or create it with ACL_STREAM_HUGE";
    ACL_ERROR_RT_STREAM_TASK_EMPTY = 507003, "The stream has no tasks.", "nothing was launched; check the order of calls";
    ACL_ERROR_RT_STREAM_NOT_COMPLETE = 507004, "The stream is not done.", "synchronise the stream first";
    ACL_ERROR_RT_END_OF_SEQUENCE = 507005, "The end of the data was reached.", "this is how a data queue ends; stop reading";
    ACL_ERROR_RT_EVENT_NOT_COMPLETE = 507006, "The event has not happened yet.", "wait for the event or ask again later";
    ACL_ERROR_RT_CONTEXT_RELEASE_ERROR = 507007, "The context cannot be released.", "release streams and events of the context first";
    ACL_ERROR_RT_SOC_VERSION = 507008, "The name of the chip cannot be read.", "check that driver and CANN suit one another";
    ACL_ERROR_RT_TASK_TYPE_NOT_SUPPORT = 507009, "The kind of task is not supported.", "check that driver and CANN suit one another";
    ACL_ERROR_RT_LOST_HEARTBEAT = 507010, "The device does not answer.", "check npu-smi info and dmesg; the device may need a reset";
    ACL_ERROR_RT_MODEL_EXECUTE = 507011, "Running a model or graph failed.", "look for the failing task before this message in the log";
    ACL_ERROR_RT_REPORT_TIMEOUT = 507012, "Waiting for the device's answer timed out.", "give the call more time; if it never answers, find the task that hangs";
    ACL_ERROR_RT_SYS_DMA = 507013, "A copy engine failed.", "check that both addresses are allocated and large enough; then check the device's health with npu-smi info";
    ACL_ERROR_RT_AICORE_TIMEOUT = 507014, "A cube operator timed out.", "find the operator in the log; give it more time with aclrtSetOpExecuteTimeOutWithMs, or look for a wait that never ends in a kernel of your own";
    ACL_ERROR_RT_AICORE_EXCEPTION = 507015, "A cube operator failed on the device.", "the log names the kernel and its arguments: look for an address out of bounds or a tensor that was freed; ASCEND_LAUNCH_BLOCKING=1, or a synchronisation after each operator, shows which launch";
    ACL_ERROR_RT_AICORE_TRAP_EXCEPTION = 507016, "A cube operator trapped.", "the kernel asserted or reached an illegal instruction: check that it was built for this chip";
    ACL_ERROR_RT_AICPU_TIMEOUT = 507017, "An operator on the AI CPU timed out.", "find the operator in the log, or give it more time";
    ACL_ERROR_RT_AICPU_EXCEPTION = 507018, "An operator on the AI CPU failed.", "the log names the operator and why it refused its inputs: an index out of range, an unsupported data type or a missing AI CPU kernel package are common";
    ACL_ERROR_RT_AICPU_DATADUMP_RSP_ERR = 507019, "The AI CPU did not answer after dumping.", "run without dumping";
    ACL_ERROR_RT_AICPU_MODEL_RSP_ERR = 507020, "The AI CPU did not answer after running a model.", "read the device log";
    ACL_ERROR_RT_PROFILING_ERROR = 507021, "Profiling failed on the device.", "run without profiling";
    ACL_ERROR_RT_IPC_ERROR = 507022, "Sharing between processes failed.", "check that both processes run on one host as one user, and that the name exists";
    ACL_ERROR_RT_MODEL_ABORT_NORMAL = 507023, "The model ended by itself.", "look for the abort before this message in the log";
    ACL_ERROR_RT_KERNEL_UNREGISTERING = 507024, "The kernel is being unregistered.", "do not unload a binary while its kernels run";
    ACL_ERROR_RT_RINGBUFFER_NOT_INIT = 507025, "The ring buffer is not initialised.", "enable the feature that fills it first";
    ACL_ERROR_RT_RINGBUFFER_NO_DATA = 507026, "The ring buffer is empty.", "ask again later";
    ACL_ERROR_RT_KERNEL_LOOKUP = 507027, "The kernel is not registered.", "load the kernel's binary before launching it";
    ACL_ERROR_RT_KERNEL_DUPLICATE = 507028, "The kernel is registered twice.", "load each binary once";
    ACL_ERROR_RT_DEBUG_REGISTER_FAIL = 507029, "Debugging cannot be registered.", "end the other debugging session first";
    ACL_ERROR_RT_DEBUG_UNREGISTER_FAIL = 507030, "Debugging cannot be unregistered.", "register debugging before unregistering it";
    ACL_ERROR_RT_LABEL_CONTEXT = 507031, "The label belongs to another context.", "use the label in the context that made it";
    ACL_ERROR_RT_PROGRAM_USE_OUT = 507032, "Too many programs are registered.", "unload binaries that are no longer used";
    ACL_ERROR_RT_DEV_SETUP_ERROR = 507033, "The device did not start.", "check npu-smi info and dmesg; the device may need a reset";
    ACL_ERROR_RT_VECTOR_CORE_TIMEOUT = 507034, "A vector operator timed out.", "find the operator in the log; give it more time, or look for a wait that never ends in a kernel of your own";
    ACL_ERROR_RT_VECTOR_CORE_EXCEPTION = 507035, "A vector operator failed on the device.", "most often an address out of bounds: check indices (embedding, gather, slot mapping) and tensors freed before their stream used them; a synchronisation after each operator shows which launch";
    ACL_ERROR_RT_VECTOR_CORE_TRAP_EXCEPTION = 507036, "A vector operator trapped.", "the kernel asserted or reached an illegal instruction: check that it was built for this chip";
    ACL_ERROR_RT_CDQ_BATCH_ABNORMAL = 507037, "A resource inside the runtime is in a wrong state.", "read the first error in the log";
    ACL_ERROR_RT_DIE_MODE_CHANGE_ERROR = 507038, "The mode of the dies cannot be changed.", "set the mode before the device is used";
    ACL_ERROR_RT_DIE_SET_ERROR = 507039, "A die cannot be chosen in this mode.", "leave the choice of a die out";
    ACL_ERROR_RT_INVALID_DIEID = 507040, "The die does not exist.", "choose a die that the chip has";
    ACL_ERROR_RT_DIE_MODE_NOT_SET = 507041, "No die mode is set.", "set the die mode first";
    ACL_ERROR_RT_AICORE_TRAP_READ_OVERFLOW = 507042, "A cube operator read out of bounds.", "check shapes, strides and indices of the launch that the log names";
    ACL_ERROR_RT_AICORE_TRAP_WRITE_OVERFLOW = 507043, "A cube operator wrote out of bounds.", "check shapes, strides and the output's size of the launch that the log names";
    ACL_ERROR_RT_VECTOR_CORE_TRAP_READ_OVERFLOW = 507044, "A vector operator read out of bounds.", "check shapes, strides and indices of the launch that the log names";
    ACL_ERROR_RT_VECTOR_CORE_TRAP_WRITE_OVERFLOW = 507045, "A vector operator wrote out of bounds.", "check shapes, strides and the output's size of the launch that the log names";
    ACL_ERROR_RT_STREAM_SYNC_TIMEOUT = 507046, "The stream was not done within the timeout.", "give the synchronisation more time; if it never ends, a task hangs: with several ranks, look for one that did not reach the same collective";
    ACL_ERROR_RT_EVENT_SYNC_TIMEOUT = 507047, "The event did not happen within the timeout.", "give the wait more time; check that the event was recorded and that its stream can run";
    ACL_ERROR_RT_FFTS_PLUS_TIMEOUT = 507048, "A combined task timed out.", "find the operator in the log; with several ranks, look for one that did not reach the same collective";
    ACL_ERROR_RT_FFTS_PLUS_EXCEPTION = 507049, "A combined task failed.", "find the operator in the log and check its addresses";
    ACL_ERROR_RT_FFTS_PLUS_TRAP_EXCEPTION = 507050, "A combined task trapped.", "find the operator in the log; check that its kernel was built for this chip";
    ACL_ERROR_RT_SEND_MSG = 507051, "A message to the device cannot be sent.", "check npu-smi info; the device may need a reset";
    ACL_ERROR_RT_COPY_DATA = 507052, "Copying into a queue failed.", "check the buffer's address and size";
    ACL_ERROR_RT_DEVICE_MEM_ERROR = 507053, "The device's memory has an error that cannot be corrected.", "stop using the device: save what can be saved, check npu-smi info -t ecc, and reset it";
    ACL_ERROR_RT_HBM_MULTI_BIT_ECC_ERROR = 507054, "The device's memory has multi-bit errors.", "stop using the device: check npu-smi info -t ecc, reset it, and have it replaced if the errors come back";
    ACL_ERROR_RT_SUSPECT_DEVICE_MEM_ERROR = 507055, "Memory of another device may be damaged.", "look at the errors of the peer's process first; then check npu-smi info -t ecc of both devices";
    ACL_ERROR_RT_LINK_ERROR = 507056, "The link between two devices broke.", "try again; if it stays, check the link (hccn_tool -i <n> -link -g, npu-smi info -t topo)";
    ACL_ERROR_RT_SUSPECT_REMOTE_ERROR = 507057, "A peer's memory failed, or an access to it was out of bounds.", "look for the first error among all ranks: the rank that reports this is usually not the cause";
    ACL_ERROR_RT_DRV_INTERNAL_ERROR = 507899, "The driver failed inside.", "check dmesg and npu-smi info; driver and firmware must suit the installed CANN";
    ACL_ERROR_RT_AICPU_INTERNAL_ERROR = 507900, "The AI CPU failed inside.", "read the device log; check that the AI CPU kernel package of this release is installed";
    ACL_ERROR_RT_SOCKET_CLOSE = 507901, "The session between host and device is closed.", "the device was reset or another process of the job ended; start again";
    ACL_ERROR_RT_AICPU_INFO_LOAD_RSP_ERR = 507902, "The AI CPU could not load a task.", "check that the AI CPU kernel package of this release is installed";
    ACL_ERROR_RT_STREAM_CAPTURE_INVALIDATED = 507903, "The capture was spoiled by an earlier error.", "end the capture, then repair the first error that was reported in it";
    ACL_ERROR_RT_COMM_OP_RETRY_FAIL = 507904, "A collective failed again when it was retried.", "check the links between the devices with hccn_tool";
    ACL_ERROR_SNAPSHOT_LOCK_TIMEOUT = 507905, "Locking the process for a snapshot timed out.", "wait until its streams are idle, or give more time";
    ACL_ERROR_SNAPSHOT_LOCK_FAILED = 507906, "The process cannot be locked for a snapshot.", "end running work first";
    ACL_ERROR_SNAPSHOT_UNLOCK_FAILED = 507907, "The process cannot be unlocked after a snapshot.", "start the process again";
    ACL_ERROR_SNAPSHOT_BACKUP_FAILED = 507908, "The snapshot cannot be taken.", "free host memory and try again";
    ACL_ERROR_SNAPSHOT_RESTORE_FAILED = 507909, "The snapshot cannot be restored.", "restore on a device of the same kind with the same driver";
    ACL_ERROR_HOST_MEMORY_ALREADY_REGISTERED = 507910, "The host memory is already registered.", "register each range once";
    ACL_ERROR_HOST_MEMORY_NOT_REGISTERED = 507911, "The host memory is not registered.", "register the range before unregistering it";
    ACL_ERROR_SNAPSHOT_CALLBACK_FAILED = 507912, "A snapshot callback failed.", "look at what the callback reported";
    ACL_ERROR_SNAPSHOT_REGISTER_CALLBACK_FAILED = 507913, "A snapshot callback cannot be registered.", "register before taking the snapshot";
    ACL_ERROR_RT_L3_PORT_ERROR = 507914, "A network port of the device failed.", "check the device's network with hccn_tool";
    ACL_ERROR_RT_CCU_TIMEOUT = 507915, "A communication engine timed out.", "look for the rank that did not reach the same collective";
    ACL_ERROR_RT_CCU_EXCEPTION = 507916, "A communication engine failed.", "look for the first error among all ranks";
    ACLNN_ERR_PARAM_NULLPTR = 161001, "A pointer that must not be null is null.", "pass every tensor, array and output pointer that the operator's page does not call optional";
    ACLNN_ERR_PARAM_INVALID = 161002, "An operator refuses its arguments.", "the message names the argument: compare data types, shapes, formats and attributes with the operator's page";
    ACLNN_ERR_RUNTIME_ERROR = 361001, "A call of the runtime inside aclnn failed.", "set the device on this thread before the first phase; otherwise read the runtime's own error in the log";
    ACLNN_ERR_INNER = 561000, "aclnn failed inside.", "read aclGetRecentErrMsg and the first error in the log";
    ACLNN_ERR_INNER_INFERSHAPE_ERROR = 561001, "The output's shape cannot be inferred.", "check the shapes of the inputs against the operator's page";
    ACLNN_ERR_INNER_TILING_ERROR = 561002, "No tiling exists for these shapes.", "the message names the reason: unusual shapes, formats or attributes; check them against the operator's page";
    ACLNN_ERR_INNER_FIND_KERNEL_ERROR = 561003, "No kernel was found.", "install the operator package (kernels) for this chip, and check that data types and formats are supported by it";
    ACLNN_ERR_INNER_CREATE_EXECUTOR = 561101, "The executor cannot be made.", "the host may be out of memory";
    ACLNN_ERR_INNER_NOT_TRANS_EXECUTOR = 561102, "The executor was not handed over.", "this is an error of the operator itself: report it to its author";
    ACLNN_ERR_INNER_NULLPTR = 561103, "aclnn met a null inside, most often because no kernel binary was found.", "install the operator package (kernels) for this chip; check ASCEND_OPP_PATH; read aclGetRecentErrMsg for what was missing";
    ACLNN_ERR_INNER_WRONG_ATTR_INFO_SIZE = 561104, "The operator has a wrong number of attributes.", "the operator package does not suit the toolkit: install both from one release";
    ACLNN_ERR_INNER_KEY_CONFLICT = 561105, "Two kernels have the same key.", "remove duplicate custom operator packages from opp/vendors";
    ACLNN_ERR_INNER_INVALID_IMPL_MODE = 561106, "The implementation mode is invalid.", "use a mode that the operator's page lists";
    ACLNN_ERR_INNER_OPP_PATH_NOT_FOUND = 561107, "ASCEND_OPP_PATH is not set.", "source the toolkit's set_env.sh before starting the program";
    ACLNN_ERR_INNER_LOAD_JSON_FAILED = 561108, "A kernel's description cannot be loaded.", "reinstall the operator package (kernels) for this chip";
    ACLNN_ERR_INNER_JSON_VALUE_NOT_FOUND = 561109, "A kernel's description lacks an entry.", "install toolkit and operator package from one release";
    ACLNN_ERR_INNER_JSON_FORMAT_INVALID = 561110, "A kernel's description states an invalid format.", "install toolkit and operator package from one release";
    ACLNN_ERR_INNER_JSON_DTYPE_INVALID = 561111, "A kernel's description states an invalid data type.", "install toolkit and operator package from one release";
    ACLNN_ERR_INNER_OPP_KERNEL_PKG_NOT_FOUND = 561112, "No operator package is loaded.", "install the operator package (kernels) for this chip";
    ACLNN_ERR_INNER_OP_FILE_INVALID = 561113, "A kernel's description is damaged.", "reinstall the operator package (kernels) for this chip";
    ACLNN_ERR_INNER_ATTR_NUM_OUT_OF_BOUND = 561114, "The operator has more attributes than its kernel knows.", "install toolkit and operator package from one release";
    ACLNN_ERR_INNER_ATTR_LEN_NOT_ENOUGH = 561115, "The operator has fewer attributes than its kernel needs.", "install toolkit and operator package from one release";
    ACLNN_ERR_INNER_INPUT_NUM_IN_JSON_TOO_LARGE = 561116, "The operator has more inputs than a kernel can take.", "pass fewer tensors: at most 32";
    ACLNN_ERR_INNER_INPUT_JSON_IS_NULL = 561117, "A kernel's description is incomplete.", "install toolkit and operator package from one release";
    ACLNN_ERR_INNER_STATIC_WORKSPACE_INVALID = 561118, "A kernel's description states an invalid workspace.", "install toolkit and operator package from one release";
    ACLNN_ERR_INNER_STATIC_BLOCK_DIM_INVALID = 561119, "A kernel's description states an invalid number of cores.", "install toolkit and operator package from one release";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_says_what_it_means_and_what_to_do() {
        for row in CODES {
            assert!(row.meaning.ends_with('.'), "{}: the meaning is no sentence", row.name);
            assert!(!row.advice.is_empty() && !row.advice.ends_with('.'), "{}: the advice is no line", row.name);
        }
    }

    #[test]
    fn a_code_has_one_row() {
        let mut codes: Vec<_> = CODES.iter().filter(|row| row.name != "ACL_ERROR_NONE").map(|row| row.code).collect();
        let rows = codes.len();
        codes.sort_unstable();
        codes.dedup();
        assert_eq!(codes.len(), rows);
    }

    #[test]
    fn lookup_finds_by_number() {
        assert_eq!(lookup(0).map(|row| row.name), Some("ACL_SUCCESS"));
        assert_eq!(lookup(507018).map(|row| row.name), Some("ACL_ERROR_RT_AICPU_EXCEPTION"));
        assert_eq!(lookup(561103).map(|row| row.name), Some("ACLNN_ERR_INNER_NULLPTR"));
        assert!(lookup(-1).is_none());
    }
}
