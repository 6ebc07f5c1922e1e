//! What the tests share: the functions of the embedded simulator and shorthands for common sequences.

use acl_sys::Acl;
use acl_sys::enums::*;
use cann_sim::{Config, Embedded};
use std::ffi::{CStr, c_void};
use std::ptr::null_mut;
use std::sync::{Arc, OnceLock};

/// The runtime's functions, with device `device` current on this thread.
pub fn acl(device: i32) -> &'static Acl {
    static ACL: OnceLock<Acl> = OnceLock::new();
    let acl = ACL.get_or_init(|| Acl::new(Arc::new(Embedded::with(Config::default()).unwrap())));
    // SAFETY: no pointers.
    assert_eq!(unsafe { acl.aclrtSetDevice(device) }, Ok(0));
    acl
}

/// The text of this thread's last failure.
pub fn message(acl: &Acl) -> String {
    // SAFETY: no arguments; the answer is null or a text that lives until the next call on this thread.
    let text = unsafe { acl.aclGetRecentErrMsg().unwrap() };
    if text.is_null() {
        return String::new();
    }
    // SAFETY: as above.
    unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned()
}

/// Asserts that a call failed with `code`, and that the text says each of `parts`.
#[track_caller]
pub fn refused(acl: &Acl, got: i32, code: i32, parts: &[&str]) {
    let text = message(acl);
    assert_eq!(got, code, "{text}");
    for part in parts {
        assert!(text.contains(part), "{text:?} does not say {part:?}");
    }
}

/// `bytes` bytes of device memory.
pub fn malloc(acl: &Acl, bytes: usize) -> *mut c_void {
    let mut pointer = null_mut();
    // SAFETY: the pointer is writable.
    assert_eq!(unsafe { acl.aclrtMalloc(&mut pointer, bytes, ACL_MEM_MALLOC_HUGE_FIRST) }, Ok(0));
    pointer
}

pub fn free(acl: &Acl, pointer: *mut c_void) {
    // SAFETY: device pointers are checked by the callee.
    let code = unsafe { acl.aclrtFree(pointer).unwrap() };
    assert_eq!(code, 0, "{}", message(acl));
}

pub fn stream(acl: &Acl) -> *mut c_void {
    let mut stream = null_mut();
    // SAFETY: the pointer is writable.
    assert_eq!(unsafe { acl.aclrtCreateStream(&mut stream) }, Ok(0));
    stream
}

pub fn event(acl: &Acl) -> *mut c_void {
    let mut event = null_mut();
    // SAFETY: the pointer is writable.
    assert_eq!(unsafe { acl.aclrtCreateEvent(&mut event) }, Ok(0));
    event
}

/// Copies host values to the device, at once.
pub fn upload<T: Copy>(acl: &Acl, to: *mut c_void, values: &[T]) {
    let bytes = size_of_val(values);
    // SAFETY: the source has that many bytes.
    let code = unsafe { acl.aclrtMemcpy(to, bytes, values.as_ptr().cast(), bytes, ACL_MEMCPY_HOST_TO_DEVICE).unwrap() };
    assert_eq!(code, 0, "{}", message(acl));
}

/// Copies device values to the host, at once.
pub fn download<T: Copy + Default>(acl: &Acl, from: *const c_void, count: usize) -> Vec<T> {
    let mut values = vec![T::default(); count];
    let bytes = size_of_val(&values[..]);
    // SAFETY: the destination has that many bytes.
    let code =
        unsafe { acl.aclrtMemcpy(values.as_mut_ptr().cast(), bytes, from, bytes, ACL_MEMCPY_DEVICE_TO_HOST).unwrap() };
    assert_eq!(code, 0, "{}", message(acl));
    values
}

/// A host function that sleeps for as many milliseconds as the argument says.
///
/// # Safety
/// Reads no memory.
pub unsafe extern "C" fn nap(milliseconds: *mut c_void) {
    std::thread::sleep(std::time::Duration::from_millis(milliseconds as u64));
}

/// Holds `stream` for a while.
pub fn hold(acl: &Acl, stream: *mut c_void, milliseconds: usize) {
    let argument = std::ptr::without_provenance_mut(milliseconds);
    // SAFETY: the argument is a number, which `nap` takes it for.
    let code = unsafe { acl.aclrtLaunchHostFunc(stream, Some(nap), argument) };
    assert_eq!(code, Ok(0));
}

/// Waits for `stream`.
pub fn synchronize(acl: &Acl, stream: *mut c_void) {
    // SAFETY: handles are checked by the callee.
    let code = unsafe { acl.aclrtSynchronizeStream(stream).unwrap() };
    assert_eq!(code, 0, "{}", message(acl));
}
