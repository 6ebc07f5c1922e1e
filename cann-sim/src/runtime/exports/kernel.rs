//! Kernel binaries and their functions. What launches them is in [`super::arguments`].

use crate::runtime::binary::{self, BINARIES, DATA, FUNCTIONS};
use crate::runtime::device;
use crate::runtime::handles::pointer;
use crate::status::{Result, put};
use crate::{ensure, fail};
use acl_sys::error::*;
use acl_sys::*;
use std::ffi::{CStr, c_char, c_void};
use std::sync::Arc;

fn check_options(options: *const aclrtBinaryLoadOptions) -> Result<()> {
    if options.is_null() {
        return Ok(());
    }
    // SAFETY: not null, and the interface asks for a readable structure with that many options.
    let list = unsafe {
        let options = &*options;
        if options.options.is_null() { &[] } else { std::slice::from_raw_parts(options.options, options.numOpt) }
    };
    for option in list {
        // SAFETY: every member of the union is plain data.
        let value = unsafe { option.value.magic };
        match option.type_ {
            ACL_RT_BINARY_LOAD_OPT_MAGIC => binary::check_magic(value)?,
            ACL_RT_BINARY_LOAD_OPT_LAZY_LOAD => {
                ensure!(value <= 1, ACL_ERROR_RT_PARAM_INVALID, "isLazyLoad is {value}, wanted 0 or 1")
            }
            ACL_RT_BINARY_LOAD_OPT_CPU_KERNEL_MODE => {
                fail!(ACL_ERROR_RT_FEATURE_NOT_SUPPORT, "the simulated CANN has no AI CPU kernels")
            }
            other => fail!(ACL_ERROR_RT_PARAM_INVALID, "{other} is no option of loading a binary"),
        }
    }
    Ok(())
}

fn text(pointer: *const c_char, name: &str) -> Result<String> {
    ensure!(!pointer.is_null(), ACL_ERROR_INVALID_PARAM, "{name} is null");
    // SAFETY: not null, and the interface asks for a NUL-terminated text.
    Ok(unsafe { CStr::from_ptr(pointer) }.to_string_lossy().into_owned())
}

fn load(bytes: &[u8], options: *const aclrtBinaryLoadOptions, out: *mut aclrtBinHandle) -> Result<()> {
    ensure!(!out.is_null(), ACL_ERROR_INVALID_PARAM, "binHandle is null");
    check_options(options)?;
    put(out, "binHandle", pointer(binary::load(bytes)?))
}

export! {
    fn aclrtBinaryLoadFromFile(bin_path: *const c_char, options: *mut aclrtBinaryLoadOptions, bin_handle: *mut aclrtBinHandle) {
        device::current()?;
        let path = text(bin_path, "binPath")?;
        match std::fs::read(&path) {
            Ok(bytes) => load(&bytes, options, bin_handle),
            Err(error) => fail!(ACL_ERROR_RT_PARAM_INVALID, "the binary {path:?} cannot be read: {error}"),
        }
    }

    fn aclrtBinaryLoadFromData(data: *const c_void, length: usize, options: *const aclrtBinaryLoadOptions, bin_handle: *mut aclrtBinHandle) {
        device::current()?;
        ensure!(!data.is_null() && length > 0, ACL_ERROR_INVALID_PARAM, "data is null or length is 0");
        // SAFETY: not null, and the interface asks for that many readable bytes.
        load(unsafe { std::slice::from_raw_parts(data.cast(), length) }, options, bin_handle)
    }

    fn aclrtBinaryLoad(binary: aclrtBinary, bin_handle: *mut aclrtBinHandle) {
        device::current()?;
        let data = DATA.get(binary, ACL_ERROR_RT_PARAM_INVALID, "binary")?;
        load(&data, std::ptr::null(), bin_handle)
    }

    fn aclrtDestroyBinary(binary: aclrtBinary) { DATA.remove(binary, ACL_ERROR_RT_PARAM_INVALID, "binary").map(drop) }

    fn aclrtBinaryUnLoad(bin_handle: aclrtBinHandle) {
        BINARIES.remove(bin_handle, ACL_ERROR_RT_PARAM_INVALID, "binHandle").map(drop)
    }

    fn aclrtBinaryGetFunction(bin_handle: aclrtBinHandle, kernel_name: *const c_char, func_handle: *mut aclrtFuncHandle) {
        ensure!(!func_handle.is_null(), ACL_ERROR_INVALID_PARAM, "funcHandle is null");
        let name = text(kernel_name, "kernelName")?;
        let binary = BINARIES.get(bin_handle, ACL_ERROR_RT_PARAM_INVALID, "binHandle")?;
        let function = binary.function(bin_handle as u64, &name)?;
        put(func_handle, "funcHandle", pointer(FUNCTIONS.insert(function)))
    }

    fn aclrtFunctionGetBinary(func_handle: aclrtFuncHandle, bin_handle: *mut aclrtBinHandle) {
        let function = FUNCTIONS.get(func_handle, ACL_ERROR_RT_PARAM_INVALID, "funcHandle")?;
        put(bin_handle, "binHandle", pointer(function.binary))
    }

    fn aclrtGetFunctionName(func_handle: aclrtFuncHandle, max_len: u32, name: *mut c_char) {
        let function = FUNCTIONS.get(func_handle, ACL_ERROR_RT_PARAM_INVALID, "funcHandle")?;
        super::info::put_text(name, max_len as usize, function.name, "name")
    }
}

/// Keeps a copy of a kernel binary; null when there is none.
///
/// # Safety
/// `data` must point to `data_len` readable bytes.
#[unsafe(no_mangle)]
#[allow(non_snake_case)]
pub unsafe extern "C" fn aclrtCreateBinary(data: *const c_void, data_len: usize) -> aclrtBinary {
    let mut handle = std::ptr::null_mut();
    crate::status::call("aclrtCreateBinary", || {
        ensure!(!data.is_null() && data_len > 0, ACL_ERROR_INVALID_PARAM, "data is null or dataLen is 0");
        // SAFETY: not null, and the caller vouches for the length.
        let bytes = unsafe { std::slice::from_raw_parts(data.cast::<u8>(), data_len) }.to_vec();
        handle = pointer(DATA.insert(Arc::new(bytes)));
        Ok(())
    });
    handle
}

refuse! {
    "code of a device cannot run here; use the aclnn operators, or a real card";
    fn aclrtBinaryGetFunctionByEntry(bin_handle: aclrtBinHandle, func_entry: u64, func_handle: *mut aclrtFuncHandle);
    fn aclrtGetFunctionAddr(func_handle: aclrtFuncHandle, aic_addr: *mut *mut c_void, aiv_addr: *mut *mut c_void);
    fn aclrtGetFunctionAttribute(func_handle: aclrtFuncHandle, attr_type: aclrtFuncAttribute, attr_value: *mut i64);
}
