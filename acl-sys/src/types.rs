//! Handles, scalar types, callbacks and structures of the C interface.
#![allow(non_camel_case_types, non_snake_case)]

use crate::enums::*;
use std::ffi::{c_char, c_int, c_void};

/// Status of an ACL runtime call; see [`crate::error`].
pub type aclError = c_int;
/// Status of an aclnn call; see [`crate::error`].
pub type aclnnStatus = i32;
/// IEEE half precision, as its bits.
pub type aclFloat16 = u16;
pub type aclrtStream = *mut c_void;
pub type aclrtEvent = *mut c_void;
pub type aclrtContext = *mut c_void;
pub type aclrtDrvMemHandle = *mut c_void;
pub type aclrtBinary = *mut c_void;
pub type aclrtBinHandle = *mut c_void;
pub type aclrtFuncHandle = *mut c_void;
pub type aclrtArgsHandle = *mut c_void;
pub type aclrtParamHandle = *mut c_void;
pub type aclrtTaskGrp = *mut c_void;
pub type aclmdlRI = *mut c_void;
pub type aclmdlRITask = *mut c_void;

pub type aclrtCallback = Option<unsafe extern "C" fn(user_data: *mut c_void)>;
pub type aclrtHostFunc = Option<unsafe extern "C" fn(args: *mut c_void)>;
pub type aclrtExceptionInfoCallback = Option<unsafe extern "C" fn(info: *mut aclrtExceptionInfo)>;

macro_rules! opaque {
    ($($name:ident)*) => {$(
        #[doc = concat!("Opaque C type `", stringify!($name), "`; only ever behind a pointer.")]
        #[repr(C)]
        #[derive(Debug)]
        pub struct $name { _opaque: [u8; 0] }
    )*};
}

opaque! {
    aclTensor aclTensorList aclScalar aclScalarList aclIntArray aclFloatArray aclBoolArray aclOpExecutor
    aclprofConfig aclprofStepInfo aclprofSubscribeConfig aclprofAicoreEvents aclrtExceptionInfo aclrtUtilizationExtendInfo
}

/// Value of a stream attribute.
#[repr(C)]
#[derive(Clone, Copy)]
pub union aclrtStreamAttrValue {
    pub failureMode: u64,
    pub overflowSwitch: u32,
    pub userCustomTag: u32,
    pub cacheOpInfoSwitch: u32,
    pub reserve: [u32; 4],
}

/// Value of a kernel launch attribute.
#[repr(C)]
#[derive(Clone, Copy)]
pub union aclrtLaunchKernelAttrValue {
    pub schemMode: u8,
    pub localMemorySize: u32,
    pub engineType: u32,
    pub blockDimOffset: u32,
    pub isBlockTaskPrefetch: u8,
    pub isDataDump: u8,
    pub timeout: u16,
    pub rsv: [u32; 4],
}

/// Value of a binary load option.
#[repr(C)]
#[derive(Clone, Copy)]
pub union aclrtBinaryLoadOptionValue {
    pub isLazyLoad: u32,
    pub magic: u32,
    pub cpuKernelMode: i32,
    pub rsv: [u32; 4],
}

/// Value of an allocation attribute.
#[repr(C)]
#[derive(Clone, Copy)]
pub union aclrtMallocAttrValue {
    pub moduleId: u16,
    pub deviceId: u32,
    pub rsv: [u8; 8],
}

/// Details of an error that [`aclrtErrorInfo`] reports.
#[repr(C)]
#[derive(Clone, Copy)]
pub union aclrtErrorInfoDetail {
    pub bytes: [u64; 321],
}

macro_rules! structs {
    ($($name:ident [$size:literal] { $($field:ident : $ty:ty => $c:literal),* $(,)? })*) => {
        $(
            #[doc = concat!("C structure `", stringify!($name), "`.")]
            #[repr(C)]
            #[derive(Clone, Copy)]
            pub struct $name { $(pub $field: $ty),* }
            const _: () = assert!(std::mem::size_of::<$name>() == $size);
        )*
        /// Every structure: name, size, and each field's name, C type and byte offset.
        pub const STRUCTS: &[(&str, usize, &[(&str, &str, usize)])] = &[$(
            (stringify!($name), $size, &[$((stringify!($field), $c, std::mem::offset_of!($name, $field))),*])
        ),*];
    };
}

structs! {
    aclCANNPackageVersion [512] {
        version: [c_char; 128] => "char[128]", majorVersion: [c_char; 64] => "char[64]", minorVersion: [c_char; 64] => "char[64]",
        releaseVersion: [c_char; 64] => "char[64]", patchVersion: [c_char; 64] => "char[64]", reserved: [c_char; 128] => "char[128]",
    }
    aclrtBinaryLoadOption [20] { type_: aclrtBinaryLoadOptionType => "aclrtBinaryLoadOptionType", value: aclrtBinaryLoadOptionValue => "aclrtBinaryLoadOptionValue" }
    aclrtBinaryLoadOptions [16] { options: *mut aclrtBinaryLoadOption => "aclrtBinaryLoadOption *", numOpt: usize => "size_t" }
    aclrtLaunchKernelAttr [20] { id: aclrtLaunchKernelAttrId => "aclrtLaunchKernelAttrId", value: aclrtLaunchKernelAttrValue => "aclrtLaunchKernelAttrValue" }
    aclrtLaunchKernelCfg [16] { attrs: *mut aclrtLaunchKernelAttr => "aclrtLaunchKernelAttr *", numAttrs: usize => "size_t" }
    aclrtMallocAttribute [12] { attr: aclrtMallocAttrType => "aclrtMallocAttrType", value: aclrtMallocAttrValue => "aclrtMallocAttrValue" }
    aclrtMallocConfig [16] { attrs: *mut aclrtMallocAttribute => "aclrtMallocAttribute *", numAttrs: usize => "size_t" }
    aclrtMemLocation [8] { id: u32 => "uint32_t", type_: aclrtMemLocationType => "aclrtMemLocationType" }
    aclrtMemAccessDesc [24] { flags: aclrtMemAccessFlags => "aclrtMemAccessFlags", location: aclrtMemLocation => "aclrtMemLocation", rsv: [u8; 12] => "uint8_t[12]" }
    aclrtMemUsageInfo [112] { name: [c_char; 32] => "char[32]", curMemSize: u64 => "uint64_t", memPeakSize: u64 => "uint64_t", reserved: [usize; 8] => "size_t[8]" }
    aclrtMemcpyBatchAttr [32] { dstLoc: aclrtMemLocation => "aclrtMemLocation", srcLoc: aclrtMemLocation => "aclrtMemLocation", rsv: [u8; 16] => "uint8_t[16]" }
    aclrtPhysicalMemProp [32] {
        handleType: aclrtMemHandleType => "aclrtMemHandleType", allocationType: aclrtMemAllocationType => "aclrtMemAllocationType",
        memAttr: aclrtMemAttr => "aclrtMemAttr", location: aclrtMemLocation => "aclrtMemLocation", reserve: u64 => "uint64_t",
    }
    aclrtPlaceHolderInfo [8] { addrOffset: u32 => "uint32_t", dataOffset: u32 => "uint32_t" }
    aclrtPtrAttributes [28] { location: aclrtMemLocation => "aclrtMemLocation", pageSize: u32 => "uint32_t", rsv: [u32; 4] => "uint32_t[4]" }
    aclrtStreamConfigHandle [32] { workptr: *mut c_void => "void *", workSize: usize => "size_t", flag: usize => "size_t", priority: u32 => "uint32_t" }
    aclrtUtilizationInfo [24] {
        cubeUtilization: i32 => "int32_t", vectorUtilization: i32 => "int32_t", aicpuUtilization: i32 => "int32_t", memoryUtilization: i32 => "int32_t",
        utilizationExtend: *mut aclrtUtilizationExtendInfo => "aclrtUtilizationExtendInfo *",
    }
    aclrtUuid [16] { bytes: [c_char; 16] => "char[16]" }
    aclrtErrorInfo [2576] {
        tryRepair: u8 => "uint8_t", hasDetail: u8 => "uint8_t", reserved: [u8; 2] => "uint8_t[2]", errorType: aclrtErrorType => "aclrtErrorType",
        detail: aclrtErrorInfoDetail => "aclrtErrorInfoDetail",
    }
}
