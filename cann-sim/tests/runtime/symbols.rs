use crate::support::*;
use acl_sys::error::*;
use acl_sys::types::*;
use acl_sys::{Acl, SymbolSource};
use cann_sim::runtime::config::Release;
use cann_sim::runtime::faults::Plan;
use cann_sim::{Config, Embedded};
use std::ffi::CString;
use std::ptr::null_mut;
use std::sync::Arc;

#[test]
fn an_older_release_lacks_the_newer_symbols() {
    acl(0);
    let older = Config { release: Release { major: 8, minor: 1 }, ..Config::default() };
    // The machine is the same; only what this source shows differs.
    let names = Embedded::with(older).unwrap().names();
    assert!(names.contains(&"aclrtMalloc") && !names.contains(&"aclrtGetDeviceInfo"));
    assert!(names.contains(&"aclnnAdd") && !names.contains(&"aclnnStridedSlice"));
}

#[test]
fn every_symbol_of_the_tables_resolves() {
    acl(0);
    let source = Embedded::with(Config::default()).unwrap();
    let names = acl_sys::loader::FUNCTIONS.iter().map(|f| (f.library, f.name.to_string()));
    let operators = acl_sys::loader::OPERATORS.iter().flat_map(|op| {
        [format!("aclnn{}", op.name), format!("aclnn{}GetWorkspaceSize", op.name)].map(|name| (op.library, name))
    });
    for (library, name) in names.chain(operators) {
        assert!(source.address(library, &CString::new(name.clone()).unwrap()).is_some(), "{name}");
    }
}

#[test]
fn a_missing_symbol_is_a_typed_error() {
    acl(0);
    let faults = Plan::parse("missing:aclrtMemset, missing:aclnnAdd").unwrap();
    let source = Embedded::with(Config { faults, ..Config::default() }).unwrap();
    assert!(!source.names().contains(&"aclnnAddGetWorkspaceSize"));
    assert!(source.names().contains(&"aclnnMulGetWorkspaceSize"));
    let acl = Acl::new(Arc::new(source));
    // SAFETY: the function is not there to be called.
    let error = unsafe { acl.aclrtMemset(null_mut(), 0, 0, 0) }.unwrap_err();
    assert_eq!(error.name, "aclrtMemset");
}

#[test]
fn what_is_not_simulated_is_refused_with_a_reason() {
    let acl = acl(0);
    // SAFETY: the functions read nothing.
    unsafe {
        let code = acl.aclprofInit(std::ptr::null(), 0).unwrap();
        refused(acl, code, ACL_ERROR_RT_FEATURE_NOT_SUPPORT, &["aclprofInit", "hardware counters"]);
        let mut version = std::mem::zeroed::<aclCANNPackageVersion>();
        assert_eq!(acl.aclsysGetCANNVersion(0, &mut version), Ok(0));
        assert_eq!(version.majorVersion[0] as u8, b'9');
    }
}

/// A little ELF file for the AI core with one function, put together by hand.
fn kernel_binary(machine: u16, function: &str) -> Vec<u8> {
    let mut strings = vec![0u8];
    strings.extend(function.bytes());
    strings.push(0);
    let mut symbols = vec![0u8; 24];
    symbols.extend(1u32.to_le_bytes());
    symbols.extend([2, 0, 1, 0]);
    symbols.extend([0u8; 16]);
    let (symbols_at, strings_at) = (64, 64 + symbols.len());
    let sections_at = strings_at + strings.len();
    let mut file = vec![0u8; 64];
    file[..5].copy_from_slice(b"\x7fELF\x02");
    file[18..20].copy_from_slice(&machine.to_le_bytes());
    file[40..48].copy_from_slice(&(sections_at as u64).to_le_bytes());
    file[58..60].copy_from_slice(&64u16.to_le_bytes());
    file[60..62].copy_from_slice(&2u16.to_le_bytes());
    file.extend(&symbols);
    file.extend(&strings);
    for (kind, at, size, link) in [(2u32, symbols_at, symbols.len(), 1u32), (3, strings_at, strings.len(), 0)] {
        let mut section = vec![0u8; 64];
        section[4..8].copy_from_slice(&kind.to_le_bytes());
        section[24..32].copy_from_slice(&(at as u64).to_le_bytes());
        section[32..40].copy_from_slice(&(size as u64).to_le_bytes());
        section[40..44].copy_from_slice(&link.to_le_bytes());
        file.extend(section);
    }
    file
}

#[test]
fn kernel_binaries_are_checked_and_searched() {
    let acl = acl(0);
    let good = kernel_binary(0x1029, "add_custom_mix_aiv");
    let foreign = kernel_binary(8, "add_custom");
    let host = kernel_binary(if cfg!(target_arch = "aarch64") { 183 } else { 62 }, "add_custom");
    let (mut binary, mut function) = (null_mut(), null_mut());
    // SAFETY: data and lengths belong together; names are NUL-terminated.
    unsafe {
        let load = |data: &[u8], binary: &mut aclrtBinHandle| {
            acl.aclrtBinaryLoadFromData(data.as_ptr().cast(), data.len(), std::ptr::null(), binary).unwrap()
        };
        refused(acl, load(&foreign, &mut binary), ACL_ERROR_RT_PARAM_INVALID, &["machine 0x8", "0x1029"]);
        refused(acl, load(&host, &mut binary), ACL_ERROR_RT_PARAM_INVALID, &["cannot be loaded"]);
        refused(acl, load(&good[..50], &mut binary), ACL_ERROR_RT_PARAM_INVALID, &["ends within its headers"]);
        refused(acl, load(b"text", &mut binary), ACL_ERROR_RT_PARAM_INVALID, &["no ELF file"]);
        assert_eq!(load(&good, &mut binary), 0);
        assert_eq!(acl.aclrtBinaryGetFunction(binary, c"add_custom".as_ptr(), &mut function), Ok(0));
        let (mut arguments, mut stream) = (null_mut(), null_mut());
        assert_eq!(acl.aclrtKernelArgsInit(function, &mut arguments), Ok(0));
        let launch =
            |stream| acl.aclrtLaunchKernelWithConfig(function, 1, stream, null_mut(), arguments, null_mut()).unwrap();
        assert_eq!(acl.aclrtCreateStream(&mut stream), Ok(0));
        refused(acl, launch(stream), ACL_ERROR_RT_PARAM_INVALID, &["aclrtKernelArgsFinalize comes first"]);
        assert_eq!(acl.aclrtKernelArgsFinalize(arguments), Ok(0));
        refused(acl, launch(stream), ACL_ERROR_RT_FEATURE_NOT_SUPPORT, &["add_custom", "real card"]);
        assert_eq!(acl.aclrtDestroyStream(stream), Ok(0));
        let code = acl.aclrtBinaryGetFunction(binary, c"sub_custom".as_ptr(), &mut function).unwrap();
        refused(acl, code, ACL_ERROR_RT_PARAM_INVALID, &["sub_custom", "it has add_custom_mix_aiv"]);
        let mut option = std::mem::zeroed::<aclrtBinaryLoadOption>();
        option.type_ = acl_sys::enums::ACL_RT_BINARY_LOAD_OPT_MAGIC;
        option.value.magic = 0x1234;
        let options = aclrtBinaryLoadOptions { options: &mut option, numOpt: 1 };
        let code = acl.aclrtBinaryLoadFromData(good.as_ptr().cast(), good.len(), &options, &mut binary).unwrap();
        refused(acl, code, ACL_ERROR_RT_PARAM_INVALID, &["0x1234"]);
    }
}
