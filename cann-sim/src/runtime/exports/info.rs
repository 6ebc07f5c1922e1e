//! Versions, chip, errors, number formats and process-wide settings.

use crate::runtime::{config, device, settings};
use crate::status::{self, Result, put};
use crate::{ensure, fail};
use acl_sys::error::*;
use acl_sys::*;
use half::f16;
use std::ffi::{CStr, CString, c_char};
use std::sync::OnceLock;

/// Writes a text and its NUL into `room` bytes.
pub(super) fn put_text(out: *mut c_char, room: usize, text: &str, name: &str) -> Result<()> {
    ensure!(!out.is_null(), ACL_ERROR_INVALID_PARAM, "{name} is null");
    ensure!(
        text.len() < room,
        ACL_ERROR_RT_PARAM_INVALID,
        "{name} has room for {room} bytes, wanted {}",
        text.len() + 1
    );
    // SAFETY: not null, and the interface asks for that many writable bytes; the length was checked.
    unsafe {
        std::ptr::copy_nonoverlapping(text.as_ptr(), out.cast(), text.len());
        out.add(text.len()).write(0);
    }
    Ok(())
}

fn version() -> Result<String> {
    config::current().map(|config| format!("{}.0", config.release))
}

fn package(version: &str) -> aclCANNPackageVersion {
    let mut parts = version.split('.');
    let mut next = || parts.next().unwrap_or("0");
    fn text<const N: usize>(text: &str) -> [c_char; N] {
        let mut out = [0; N];
        out.iter_mut().zip(text.bytes().take(N - 1)).for_each(|(slot, byte)| *slot = byte as c_char);
        out
    }
    aclCANNPackageVersion {
        version: text(version),
        majorVersion: text(next()),
        minorVersion: text(next()),
        releaseVersion: text(next()),
        patchVersion: text(""),
        reserved: [0; 128],
    }
}

/// Name of the simulated chip; null when the configuration cannot be read.
#[unsafe(no_mangle)]
#[allow(non_snake_case)]
pub extern "C" fn aclrtGetSocName() -> *const c_char {
    static NAME: OnceLock<CString> = OnceLock::new();
    match config::current() {
        Ok(config) => NAME.get_or_init(|| CString::new(config.soc.name).unwrap_or_default()).as_ptr(),
        Err(_) => std::ptr::null(),
    }
}

/// Text of this thread's last failure; reading it forgets it.
#[unsafe(no_mangle)]
#[allow(non_snake_case)]
pub extern "C" fn aclGetRecentErrMsg() -> *const c_char {
    status::take_recent()
}

/// Code of this thread's last failure; reading it forgets it.
#[unsafe(no_mangle)]
#[allow(non_snake_case)]
pub extern "C" fn aclrtGetLastError(_level: aclrtLastErrLevel) -> aclError {
    status::last_error(true)
}

/// Code of this thread's last failure.
#[unsafe(no_mangle)]
#[allow(non_snake_case)]
pub extern "C" fn aclrtPeekAtLastError(_level: aclrtLastErrLevel) -> aclError {
    status::last_error(false)
}

/// Bytes of one element; 0 for a type without a whole number of them.
#[unsafe(no_mangle)]
#[allow(non_snake_case)]
pub extern "C" fn aclDataTypeSize(data_type: aclDataType) -> usize {
    match data_type {
        ACL_INT8 | ACL_UINT8 | ACL_BOOL | ACL_HIFLOAT8 | ACL_FLOAT8_E5M2 | ACL_FLOAT8_E4M3FN | ACL_FLOAT8_E8M0 => 1,
        ACL_FLOAT16 | ACL_BF16 | ACL_INT16 | ACL_UINT16 => 2,
        ACL_FLOAT | ACL_INT32 | ACL_UINT32 | ACL_COMPLEX32 => 4,
        ACL_DOUBLE | ACL_INT64 | ACL_UINT64 | ACL_COMPLEX64 => 8,
        ACL_COMPLEX128 => 16,
        _ => 0,
    }
}

/// Half precision to single, exactly.
#[unsafe(no_mangle)]
#[allow(non_snake_case)]
pub extern "C" fn aclFloat16ToFloat(value: aclFloat16) -> f32 {
    f16::from_bits(value).to_f32()
}

/// Single precision to half, to the nearest, ties to even.
#[unsafe(no_mangle)]
#[allow(non_snake_case)]
pub extern "C" fn aclFloatToFloat16(value: f32) -> aclFloat16 {
    f16::from_f32(value).to_bits()
}

export! {
    /// Version of the ACL interface: 1.13.0 in CANN 8.1, 1.17.0 in CANN 9.
    fn aclrtGetVersion(major_version: *mut i32, minor_version: *mut i32, patch_version: *mut i32) {
        let release = config::current()?.release;
        put(major_version, "majorVersion", 1)?;
        put(minor_version, "minorVersion", if release.major >= 9 { 17 } else { 13 })?;
        put(patch_version, "patchVersion", 0)
    }

    fn aclsysGetCANNVersion(name: aclCANNPackageName, version: *mut aclCANNPackageVersion) {
        ensure!((ACL_PKG_NAME_CANN..=ACL_PKG_NAME_DRIVER).contains(&name), ACL_ERROR_INVALID_PARAM, "{name} is no package");
        put(version, "version", package(&self::version()?))
    }

    fn aclsysGetVersionStr(pkg_name: *mut c_char, version_str: *mut c_char) {
        ensure!(!pkg_name.is_null(), ACL_ERROR_INVALID_PARAM, "pkgName is null");
        put_text(version_str, 128, &version()?, "versionStr")
    }

    fn aclsysGetVersionNum(pkg_name: *mut c_char, version_num: *mut i32) {
        ensure!(!pkg_name.is_null(), ACL_ERROR_INVALID_PARAM, "pkgName is null");
        let release = config::current()?.release;
        put(version_num, "versionNum", (release.major * 10_000_000 + release.minor * 100_000) as i32)
    }

    /// The program runs on the host, not on a device's own processor.
    fn aclrtGetRunMode(run_mode: *mut aclrtRunMode) { put(run_mode, "runMode", ACL_HOST) }

    fn aclrtQueryDeviceStatus(device_id: i32, device_status: *mut aclrtDeviceStatus) {
        device::index(device_id)?;
        put(device_status, "deviceStatus", ACL_RT_DEVICE_STATUS_NORMAL)
    }

    /// One number of the chip.
    fn aclrtGetDeviceInfo(device_id: u32, attr: aclrtDevAttr, value: *mut i64) {
        let config = config::current()?;
        device::index(device_id as i32)?;
        let found = match attr {
            ACL_DEV_ATTR_AICPU_CORE_NUM => 4,
            ACL_DEV_ATTR_AICORE_CORE_NUM | ACL_DEV_ATTR_CUBE_CORE_NUM => config.soc.cube_cores as i64,
            ACL_DEV_ATTR_VECTOR_CORE_NUM => config.soc.vector_cores as i64,
            ACL_DEV_ATTR_UBUF_PER_VECTOR_CORE => config.soc.ub as i64,
            ACL_DEV_ATTR_TOTAL_GLOBAL_MEM_SIZE => config.memory as i64,
            ACL_DEV_ATTR_L2_CACHE_SIZE => (config.soc.l2_mib << 20) as i64,
            ACL_DEV_ATTR_PHY_CHIP_ID => device_id as i64,
            ACL_DEV_ATTR_NPU_ARCH => config.soc.arch,
            other => fail!(ACL_ERROR_RT_FEATURE_NOT_SUPPORT, "the simulated CANN does not know the device attribute {other}"),
        };
        put(value, "value", found)
    }

    fn aclrtDeviceGetUuid(device_id: i32, uuid: *mut aclrtUuid) {
        let device = device::index(device_id)?;
        let mut bytes = [0; 16];
        bytes.iter_mut().zip(format!("cann-sim-dev-{device:02}").bytes()).for_each(|(slot, byte)| *slot = byte as c_char);
        put(uuid, "uuid", aclrtUuid { bytes })
    }

    fn aclrtGetDeviceSatMode(mode: *mut aclrtFloatOverflowMode) {
        device::current()?;
        put(mode, "mode", settings::overflow_mode())
    }

    /// Only the mode that the simulator computes in: infinities and NaNs stay what they are.
    fn aclrtSetDeviceSatMode(mode: aclrtFloatOverflowMode) {
        device::current()?;
        ensure!(mode == ACL_RT_OVERFLOW_MODE_INFNAN, ACL_ERROR_RT_FEATURE_NOT_SUPPORT, "only ACL_RT_OVERFLOW_MODE_INFNAN is simulated");
        Ok(())
    }

    /// How long a stream waits for an event, in seconds; 0 is for ever.
    fn aclrtSetOpWaitTimeout(timeout: u32) {
        device::current()?;
        settings::set_op_wait_limit(timeout);
        Ok(())
    }

    /// How long an operator may run on the device, in seconds. Only the delay of the fault `slow_stream` counts: how
    /// long the simulator itself computes says nothing about a card.
    fn aclrtSetOpExecuteTimeOut(timeout: u32) {
        device::current()?;
        settings::set_op_execute_limit(timeout as u64 * 1_000_000);
        Ok(())
    }

    fn aclrtSetOpExecuteTimeOutWithMs(timeout: u32) {
        device::current()?;
        settings::set_op_execute_limit(timeout as u64 * 1000);
        Ok(())
    }

    fn aclrtSetOpExecuteTimeOutV2(timeout: u64, actual_timeout: *mut u64) {
        device::current()?;
        settings::set_op_execute_limit(timeout);
        put(actual_timeout, "actualTimeout", timeout)
    }

    fn aclrtGetOpExecuteTimeout(timeout_ms: *mut u32) { put(timeout_ms, "timeoutMs", (settings::op_execute_limit() / 1000) as u32) }

    /// Smallest step of the limit, in microseconds.
    fn aclrtGetOpTimeOutInterval(interval: *mut u64) { put(interval, "interval", 1) }

    fn aclnnInit(config_path: *const c_char) {
        if !config_path.is_null() {
            // SAFETY: not null, and the interface asks for a NUL-terminated path.
            let path = unsafe { CStr::from_ptr(config_path) }.to_string_lossy().into_owned();
            ensure!(std::path::Path::new(&path).is_file(), ACL_ERROR_INVALID_FILE, "there is no configuration file {path:?}");
        }
        config::current().map(drop)
    }

    /// Nothing to give back: the operators of the simulator keep nothing between calls.
    fn aclnnFinalize() { Ok(()) }
}

refuse! {
    "the simulator measures no such thing";
    fn aclrtGetDeviceUtilizationRate(device_id: i32, utilization_info: *mut aclrtUtilizationInfo);
    fn aclrtGetErrorVerbose(device_id: i32, error_info: *mut aclrtErrorInfo);
    fn aclrtGetThreadLastTaskId(task_id: *mut u32);
    fn aclrtGetDeviceCapability(device_id: i32, dev_feature_type: aclrtDevFeatureType, value: *mut i32);
}
