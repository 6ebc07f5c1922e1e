//! Profiling, which the simulated CANN refuses: it has no hardware counters, and a profile of its own threads would say
//! nothing about a card.

use crate::status::{Status, report};
use acl_sys::error::ACL_ERROR_RT_FEATURE_NOT_SUPPORT;
use acl_sys::*;
use std::ffi::{c_char, c_void};

refuse! {
    "it has no hardware counters to profile";
    fn aclprofDestroyConfig(profiler_config: *const aclprofConfig);
    fn aclprofDestroySubscribeConfig(prof_subscribe_config: *const aclprofSubscribeConfig);
    fn aclprofFinalize();
    fn aclprofGetOpDescSize(op_desc_size: *mut usize);
    fn aclprofGetOpName(op_info: *const c_void, op_info_len: usize, index: u32, op_name: *mut c_char, op_name_len: usize);
    fn aclprofGetOpNameLen(op_info: *const c_void, op_info_len: usize, index: u32, op_name_len: *mut usize);
    fn aclprofGetOpNum(op_info: *const c_void, op_info_len: usize, op_number: *mut u32);
    fn aclprofGetOpType(op_info: *const c_void, op_info_len: usize, index: u32, op_type: *mut c_char, op_type_len: usize);
    fn aclprofGetOpTypeLen(op_info: *const c_void, op_info_len: usize, index: u32, op_type_len: *mut usize);
    fn aclprofGetStepTimestamp(step_info: *mut aclprofStepInfo, tag: aclprofStepTag, stream: aclrtStream);
    fn aclprofInit(profiler_result_path: *const c_char, length: usize);
    fn aclprofMark(stamp: *mut c_void);
    fn aclprofMarkEx(msg: *const c_char, msg_len: usize, stream: aclrtStream);
    fn aclprofModelSubscribe(model_id: u32, prof_subscribe_config: *const aclprofSubscribeConfig);
    fn aclprofModelUnSubscribe(model_id: u32);
    fn aclprofPop();
    fn aclprofPush(stamp: *mut c_void);
    fn aclprofRangeStart(stamp: *mut c_void, range_id: *mut u32);
    fn aclprofRangeStop(range_id: u32);
    fn aclprofSetConfig(config_type: aclprofConfigType, config: *const c_char, config_length: usize);
    fn aclprofSetStampTraceMessage(stamp: *mut c_void, msg: *const c_char, msg_len: u32);
    fn aclprofStart(profiler_config: *const aclprofConfig);
    fn aclprofStop(profiler_config: *const aclprofConfig);
}

/// The same refusal for functions that answer something else than a code: the answer is null or zero.
macro_rules! refuse_value {
    ($(fn $name:ident($($param:ident : $ty:ty),*) -> $ret:ty = $value:expr;)*) => {$(
        /// Refused: there are no hardware counters.
        ///
        /// # Safety
        /// Reads no argument.
        #[unsafe(no_mangle)]
        #[allow(non_snake_case)]
        pub unsafe extern "C" fn $name($($param: $ty),*) -> $ret {
            let _: ($($ty,)*) = ($($param,)*);
            let text = "the simulated CANN has no hardware counters to profile";
            report(stringify!($name), Err(Status::new(ACL_ERROR_RT_FEATURE_NOT_SUPPORT, text)));
            $value
        }
    )*};
}

refuse_value! {
    fn aclprofCreateConfig(device_id_list: *mut u32, device_nums: u32, aicore_metrics: aclprofAicoreMetrics, aicore_events: *const aclprofAicoreEvents, data_type_config: u64) -> *mut aclprofConfig = std::ptr::null_mut();
    fn aclprofCreateStamp() -> *mut c_void = std::ptr::null_mut();
    fn aclprofCreateStepInfo() -> *mut aclprofStepInfo = std::ptr::null_mut();
    fn aclprofCreateSubscribeConfig(time_info_switch: i8, aicore_metrics: aclprofAicoreMetrics, fd: *mut c_void) -> *mut aclprofSubscribeConfig = std::ptr::null_mut();
    fn aclprofDestroyStamp(stamp: *mut c_void) -> () = ();
    fn aclprofDestroyStepInfo(stepinfo: *mut aclprofStepInfo) -> () = ();
    fn aclprofGetModelId(op_info: *const c_void, op_info_len: usize, index: u32) -> usize = 0;
    fn aclprofGetOpDuration(op_info: *const c_void, op_info_len: usize, index: u32) -> u64 = 0;
    fn aclprofGetOpEnd(op_info: *const c_void, op_info_len: usize, index: u32) -> u64 = 0;
    fn aclprofGetOpStart(op_info: *const c_void, op_info_len: usize, index: u32) -> u64 = 0;
}
