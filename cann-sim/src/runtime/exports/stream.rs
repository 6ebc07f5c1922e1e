//! Streams.

use super::context::limit;
use crate::runtime::device;
use crate::runtime::handles::pointer;
use crate::runtime::stream::{self, STREAMS};
use crate::status::{Result, put};
use crate::{ensure, fail};
use acl_sys::error::*;
use acl_sys::*;
use std::ffi::c_void;
use std::sync::atomic::Ordering;

/// `ACL_STREAM_*` bits that the interface defines.
const FLAGS: u32 = 0x3F;
/// Lowest and highest priority of a stream.
const PRIORITIES: (u32, u32) = (7, 0);

fn create(out: *mut aclrtStream, priority: u32, flags: u32) -> Result<()> {
    ensure!(!out.is_null(), ACL_ERROR_INVALID_PARAM, "stream is null");
    ensure!(flags & !FLAGS == 0, ACL_ERROR_RT_PARAM_INVALID, "flag {flags:#x} has bits that no stream has");
    ensure!(priority <= PRIORITIES.0, ACL_ERROR_RT_PARAM_INVALID, "priority is {priority}, wanted 0 (highest) to 7");
    let context = device::current()?;
    let made = stream::create(context.device, context.handle.load(Ordering::Acquire), priority, flags)?;
    put(out, "stream", pointer(STREAMS.insert(made)))
}

fn destroy(handle: aclrtStream, force: bool) -> Result<()> {
    ensure!(!handle.is_null(), ACL_ERROR_INVALID_PARAM, "stream is null");
    let stream = STREAMS.get(handle, ACL_ERROR_RT_PARAM_INVALID, "stream")?;
    let context = device::current()?;
    ensure!(
        context.default_handle != handle as u64,
        ACL_ERROR_RT_PARAM_INVALID,
        "the default stream lives as long as its context"
    );
    stream.not_capturing("aclrtDestroyStream")?;
    if force {
        stream.abort();
    }
    let drained = stream.synchronize(None);
    STREAMS.remove(handle, ACL_ERROR_RT_PARAM_INVALID, "stream")?;
    stream.close();
    if force { Ok(()) } else { drained }
}

export! {
    fn aclrtCreateStream(stream: *mut aclrtStream) { create(stream, 0, 0) }

    fn aclrtCreateStreamWithConfig(stream: *mut aclrtStream, priority: u32, flag: u32) { create(stream, priority, flag) }

    /// Creates a stream as the configuration says.
    fn aclrtCreateStreamV2(stream: *mut aclrtStream, handle: *const aclrtStreamConfigHandle) {
        ensure!(!handle.is_null(), ACL_ERROR_INVALID_PARAM, "handle is null");
        // SAFETY: the interface asks for what aclrtCreateStreamConfigHandle gave.
        let config = unsafe { &*handle };
        create(stream, config.priority, config.flag as u32)
    }

    /// Waits for the stream's tasks and ends it.
    fn aclrtDestroyStream(stream: aclrtStream) { destroy(stream, false) }

    /// Drops the stream's tasks that have not started and ends it.
    fn aclrtDestroyStreamForce(stream: aclrtStream) { destroy(stream, true) }

    fn aclrtDestroyStreamConfigHandle(handle: *mut aclrtStreamConfigHandle) {
        ensure!(!handle.is_null(), ACL_ERROR_INVALID_PARAM, "handle is null");
        // SAFETY: the interface asks for what aclrtCreateStreamConfigHandle gave, once.
        drop(unsafe { Box::from_raw(handle) });
        Ok(())
    }

    fn aclrtSetStreamConfigOpt(handle: *mut aclrtStreamConfigHandle, attr: aclrtStreamConfigAttr, attr_value: *const c_void, value_size: usize) {
        ensure!(!handle.is_null() && !attr_value.is_null(), ACL_ERROR_INVALID_PARAM, "handle or attrValue is null");
        let size = if matches!(attr, ACL_RT_STREAM_PRIORITY) { 4 } else { 8 };
        ensure!(value_size == size, ACL_ERROR_RT_PARAM_INVALID, "valueSize is {value_size}, wanted {size} for attribute {attr}");
        // SAFETY: the interface asks for what aclrtCreateStreamConfigHandle gave, and for a value of the checked size.
        unsafe {
            let config = &mut *handle;
            match attr {
                ACL_RT_STREAM_WORK_ADDR_PTR => config.workptr = attr_value.cast::<*mut c_void>().read_unaligned(),
                ACL_RT_STREAM_WORK_SIZE => config.workSize = attr_value.cast::<usize>().read_unaligned(),
                ACL_RT_STREAM_FLAG => config.flag = attr_value.cast::<usize>().read_unaligned(),
                ACL_RT_STREAM_PRIORITY => config.priority = attr_value.cast::<u32>().read_unaligned(),
                other => fail!(ACL_ERROR_RT_PARAM_INVALID, "{other} is no attribute of a stream configuration"),
            }
        }
        Ok(())
    }

    /// Waits for the stream, and answers the first failure of its tasks since the last time.
    fn aclrtSynchronizeStream(stream: aclrtStream) {
        let stream = device::stream(stream)?;
        stream.not_capturing("aclrtSynchronizeStream")?;
        stream.synchronize(None)
    }

    fn aclrtSynchronizeStreamWithTimeout(stream: aclrtStream, timeout: i32) {
        let limit = limit(timeout)?;
        let stream = device::stream(stream)?;
        stream.not_capturing("aclrtSynchronizeStreamWithTimeout")?;
        stream.synchronize(limit)
    }

    fn aclrtStreamQuery(stream: aclrtStream, status: *mut aclrtStreamStatus) {
        let stream = device::stream(stream)?;
        stream.not_capturing("aclrtStreamQuery")?;
        put(status, "status", if stream.query() { ACL_STREAM_STATUS_COMPLETE } else { ACL_STREAM_STATUS_NOT_READY })
    }

    /// Drops the stream's tasks that have not started.
    fn aclrtStreamAbort(stream: aclrtStream) {
        let stream = device::stream(stream)?;
        stream.abort();
        stream.synchronize(None)
    }

    fn aclrtStreamGetId(stream: aclrtStream, stream_id: *mut i32) {
        put(stream_id, "streamId", device::stream(stream)?.id as i32)
    }

    fn aclrtStreamGetFlags(stream: aclrtStream, flags: *mut u32) { put(flags, "flags", device::stream(stream)?.flags) }

    fn aclrtStreamGetPriority(stream: aclrtStream, priority: *mut u32) {
        put(priority, "priority", device::stream(stream)?.priority)
    }

    fn aclrtDeviceGetStreamPriorityRange(least_priority: *mut i32, greatest_priority: *mut i32) {
        device::current()?;
        put(least_priority, "leastPriority", PRIORITIES.0 as i32)?;
        put(greatest_priority, "greatestPriority", PRIORITIES.1 as i32)
    }

    /// Only mode 1 is what the simulator does: after a failure the stream's later tasks are left out.
    fn aclrtSetStreamFailureMode(stream: aclrtStream, mode: u64) {
        device::stream(stream)?;
        ensure!(mode <= 1, ACL_ERROR_RT_PARAM_INVALID, "{mode} is no failure mode");
        ensure!(mode == 1, ACL_ERROR_RT_FEATURE_NOT_SUPPORT, "a simulated stream always stops at a failure (mode 1)");
        Ok(())
    }

    fn aclrtSetStreamAttribute(stream: aclrtStream, stm_attr_type: aclrtStreamAttr, value: *mut aclrtStreamAttrValue) {
        ensure!(!value.is_null(), ACL_ERROR_INVALID_PARAM, "value is null");
        let stream = device::stream(stream)?;
        ensure!(
            stm_attr_type == ACL_STREAM_ATTR_USER_CUSTOM_TAG, ACL_ERROR_RT_FEATURE_NOT_SUPPORT,
            "the simulated CANN keeps only ACL_STREAM_ATTR_USER_CUSTOM_TAG, not attribute {stm_attr_type}"
        );
        // SAFETY: not null, and every member of the union is plain data.
        let raw = unsafe { (*value).reserve };
        stream.attributes.lock().unwrap_or_else(|e| e.into_inner())[stm_attr_type as usize] = Some(raw);
        Ok(())
    }

    fn aclrtGetStreamAttribute(stream: aclrtStream, stm_attr_type: aclrtStreamAttr, value: *mut aclrtStreamAttrValue) {
        let stream = device::stream(stream)?;
        let reserve = match stm_attr_type {
            ACL_STREAM_ATTR_FAILURE_MODE => [1, 0, 0, 0],
            ACL_STREAM_ATTR_PRIORITY => [stream.priority, 0, 0, 0],
            ACL_STREAM_ATTR_FLOAT_OVERFLOW_CHECK | ACL_STREAM_ATTR_USER_CUSTOM_TAG | ACL_STREAM_ATTR_CACHE_OP_INFO => stream.attributes.lock().unwrap_or_else(|e| e.into_inner())[stm_attr_type as usize].unwrap_or_default(),
            other => fail!(ACL_ERROR_RT_PARAM_INVALID, "{other} is no attribute of a stream"),
        };
        put(value, "value", aclrtStreamAttrValue { reserve })
    }
}

/// A configuration for [`aclrtCreateStreamV2`]; freed by [`aclrtDestroyStreamConfigHandle`].
#[unsafe(no_mangle)]
#[allow(non_snake_case)]
pub extern "C" fn aclrtCreateStreamConfigHandle() -> *mut aclrtStreamConfigHandle {
    Box::into_raw(Box::new(aclrtStreamConfigHandle {
        workptr: std::ptr::null_mut(),
        workSize: 0,
        flag: 0,
        priority: 0,
    }))
}

refuse! {
    "simulated streams have no such state";
    fn aclrtGetStreamAvailableNum(stream_count: *mut u32);
    fn aclrtStreamStop(stream: aclrtStream);
    fn aclrtGetOverflowStatus(output_addr: *mut c_void, output_size: usize, stream: aclrtStream);
    fn aclrtResetOverflowStatus(stream: aclrtStream);
}
