//! Initialisation, devices and contexts.

use crate::runtime::device::{self, CONTEXTS};
use crate::runtime::{capture, config, handles};
use crate::status::put;
use crate::{ensure, fail};
use acl_sys::error::*;
use acl_sys::*;
use std::ffi::{CStr, c_char};
use std::sync::atomic::Ordering;
use std::time::Duration;

/// The limit that a timeout parameter means: -1 is none.
pub(super) fn limit(milliseconds: i32) -> crate::status::Result<Option<Duration>> {
    match milliseconds {
        -1 => Ok(None),
        0.. => Ok(Some(Duration::from_millis(milliseconds as u64))),
        _ => fail!(ACL_ERROR_RT_PARAM_INVALID, "{milliseconds} is no timeout; -1 waits for ever"),
    }
}

export! {
    /// Starts the use of ACL; a second time is refused.
    fn aclInit(config_path: *const c_char) {
        if !config_path.is_null() {
            // SAFETY: the interface asks for a NUL-terminated path.
            let path = unsafe { CStr::from_ptr(config_path) }.to_string_lossy().into_owned();
            ensure!(std::path::Path::new(&path).is_file(), ACL_ERROR_INVALID_FILE, "there is no configuration file {path:?}");
        }
        device::initialise()
    }

    /// Ends the use of ACL and lists what was not freed on the standard error output.
    fn aclFinalize() { device::finalise() }

    fn aclFinalizeReference(ref_count: *mut u64) { put(ref_count, "refCount", device::release_reference()?) }

    fn aclrtSetDevice(device_id: i32) {
        capture::forbid("aclrtSetDevice")?;
        device::set_device(device_id)
    }

    fn aclrtResetDevice(device_id: i32) {
        capture::forbid("aclrtResetDevice")?;
        device::reset_device(device_id, false)
    }

    fn aclrtResetDeviceForce(device_id: i32) {
        capture::forbid("aclrtResetDeviceForce")?;
        device::reset_device(device_id, true)
    }

    fn aclrtGetDevice(device_id: *mut i32) { put(device_id, "deviceId", device::current()?.device as i32) }

    fn aclrtGetDeviceCount(count: *mut u32) { put(count, "count", config::current()?.devices) }

    fn aclrtCreateContext(context: *mut aclrtContext, device_id: i32) {
        ensure!(!context.is_null(), ACL_ERROR_INVALID_PARAM, "context is null");
        let made = device::create_context(device::index(device_id)?)?;
        put(context, "context", handles::pointer(made.handle.load(Ordering::Acquire)))?;
        device::make_current(Some(made));
        Ok(())
    }

    fn aclrtDestroyContext(context: aclrtContext) {
        let found = CONTEXTS.get(context, ACL_ERROR_RT_PARAM_INVALID, "context")?;
        ensure!(
            !device::is_primary(&found), ACL_ERROR_RT_PARAM_INVALID,
            "this is the context that aclrtSetDevice made; aclrtResetDevice ends it"
        );
        device::destroy(&found)
    }

    fn aclrtSetCurrentContext(context: aclrtContext) {
        device::make_current(Some(CONTEXTS.get(context, ACL_ERROR_RT_CONTEXT_NULL, "context")?));
        Ok(())
    }

    fn aclrtGetCurrentContext(context: *mut aclrtContext) {
        put(context, "context", handles::pointer(device::current()?.handle.load(Ordering::Acquire)))
    }

    fn aclrtCtxGetCurrentDefaultStream(stream: *mut aclrtStream) {
        put(stream, "stream", handles::pointer(device::current()?.default_handle))
    }

    fn aclrtGetPrimaryCtxState(device_id: i32, flags: *mut u32, active: *mut i32) {
        let device = device::index(device_id)?;
        if !flags.is_null() {
            put(flags, "flags", 0)?;
        }
        put(active, "active", device::is_set(device) as i32)
    }

    /// Waits for every stream of this thread's device and looks at the guard zones of its memory.
    fn aclrtSynchronizeDevice() {
        capture::forbid("aclrtSynchronizeDevice")?;
        let device = device::current()?.device;
        device::synchronize(device, None)?;
        device::arena()?.check_guards()
    }

    fn aclrtSynchronizeDeviceWithTimeout(timeout: i32) {
        capture::forbid("aclrtSynchronizeDeviceWithTimeout")?;
        let device = device::current()?.device;
        device::synchronize(device, limit(timeout)?)?;
        device::arena()?.check_guards()
    }

    /// Drops what the device's streams have not started.
    fn aclrtDeviceTaskAbort(device_id: i32, timeout: u32) {
        let device = device::index(device_id)?;
        crate::runtime::stream::of_device(device).iter().for_each(|stream| stream.abort());
        let limit = (timeout > 0).then(|| Duration::from_millis(timeout as u64));
        device::synchronize(device, limit)
    }

    fn aclrtDeviceCanAccessPeer(can_access_peer: *mut i32, device_id: i32, peer_device_id: i32) {
        let (device, peer) = (device::index(device_id)?, device::index(peer_device_id)?);
        put(can_access_peer, "canAccessPeer", (device != peer) as i32)
    }

    fn aclrtDeviceEnablePeerAccess(peer_device_id: i32, flags: u32) {
        ensure!(flags == 0, ACL_ERROR_FEATURE_UNSUPPORTED, "flags must be 0");
        let (device, peer) = (device::current()?.device, device::index(peer_device_id)?);
        ensure!(device != peer, ACL_ERROR_RT_PARAM_INVALID, "device {device} cannot be its own peer");
        device::set_peer(device, peer, true)
    }

    fn aclrtDeviceDisablePeerAccess(peer_device_id: i32) {
        let (device, peer) = (device::current()?.device, device::index(peer_device_id)?);
        device::set_peer(device, peer, false)
    }

    fn aclrtDevicePeerAccessStatus(device_id: i32, peer_device_id: i32, status: *mut i32) {
        let (device, peer) = (device::index(device_id)?, device::index(peer_device_id)?);
        put(status, "status", device::is_peer(device, peer) as i32)
    }
}
