//! Handles, scalar types, callbacks and structures of the C interface.
#![allow(non_camel_case_types, non_snake_case)]

use crate::enums::*;
use std::ffi::{c_char, c_int, c_void};

/// Declares scalar types, handles and callbacks, and lists them as `TYPES`.
#[macro_export]
macro_rules! c_types {
    ($($(#[$doc:meta])* $name:ident = $ty:ty;)*) => {
        $($(#[$doc])* pub type $name = $ty;)*
        /// Every scalar type, handle and callback, for the test that compares them with the published interface.
        pub const TYPES: &[(&str, &str)] = &[$((stringify!($name), stringify!($ty))),*];
    };
}

c_types! {
    /// Status of an ACL runtime call; see [`crate::error`].
    aclError = c_int;
    /// Status of an aclnn call; see [`crate::error`].
    aclnnStatus = i32;
    /// IEEE half precision, as its bits.
    aclFloat16 = u16;
    /// Queue of work on a device; null is the context's default stream.
    aclrtStream = *mut c_void;
    /// Mark in a stream that other streams and the host can wait for.
    aclrtEvent = *mut c_void;
    /// What a thread must have current before it uses a device.
    aclrtContext = *mut c_void;
    /// Physical memory, to be mapped into reserved addresses.
    aclrtDrvMemHandle = *mut c_void;
    /// Kernel binary in host memory.
    aclrtBinary = *mut c_void;
    /// Loaded kernel binary.
    aclrtBinHandle = *mut c_void;
    /// Kernel in a loaded binary.
    aclrtFuncHandle = *mut c_void;
    /// Arguments of one launch of a kernel.
    aclrtArgsHandle = *mut c_void;
    /// One argument in an [`aclrtArgsHandle`].
    aclrtParamHandle = *mut c_void;
    /// Tasks of a captured graph that can be replaced together.
    aclrtTaskGrp = *mut c_void;
    /// Captured graph that can be executed.
    aclmdlRI = *mut c_void;
    /// One task of a captured graph.
    aclmdlRITask = *mut c_void;
    /// Function that a host thread runs when the stream reaches it.
    aclrtCallback = Option<unsafe extern "C" fn(user_data: *mut c_void)>;
    /// Function that the runtime's own host thread runs when the stream reaches it.
    aclrtHostFunc = Option<unsafe extern "C" fn(args: *mut c_void)>;
    /// Function that hears of tasks that fail.
    aclrtExceptionInfoCallback = Option<unsafe extern "C" fn(info: *mut aclrtExceptionInfo)>;
}

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
    /// C field `failureMode`.
    pub failureMode: u64,
    /// C field `overflowSwitch`.
    pub overflowSwitch: u32,
    /// C field `userCustomTag`.
    pub userCustomTag: u32,
    /// C field `cacheOpInfoSwitch`.
    pub cacheOpInfoSwitch: u32,
    /// C field `streamPriority`.
    pub streamPriority: u32,
    /// C field `reserve`.
    pub reserve: [u32; 4],
}

/// Value of a kernel launch attribute.
#[repr(C)]
#[derive(Clone, Copy)]
pub union aclrtLaunchKernelAttrValue {
    /// C field `schemMode`.
    pub schemMode: u8,
    /// C field `localMemorySize`.
    pub localMemorySize: u32,
    /// C field `dynUBufSize`.
    pub dynUBufSize: u32,
    /// C field `engineType`.
    pub engineType: u32,
    /// C field `blockDimOffset`.
    pub blockDimOffset: u32,
    /// C field `isBlockTaskPrefetch`.
    pub isBlockTaskPrefetch: u8,
    /// C field `isDataDump`.
    pub isDataDump: u8,
    /// C field `timeout`.
    pub timeout: u16,
    /// C field `enableProfiling`.
    pub enableProfiling: u8,
    /// C field `rsv`.
    pub rsv: [u32; 4],
}

/// Value of a binary load option.
#[repr(C)]
#[derive(Clone, Copy)]
pub union aclrtBinaryLoadOptionValue {
    /// C field `isLazyLoad`.
    pub isLazyLoad: u32,
    /// C field `magic`.
    pub magic: u32,
    /// C field `cpuKernelMode`.
    pub cpuKernelMode: i32,
    /// C field `rsv`.
    pub rsv: [u32; 4],
}

/// Value of an allocation attribute.
#[repr(C)]
#[derive(Clone, Copy)]
pub union aclrtMallocAttrValue {
    /// C field `moduleId`.
    pub moduleId: u16,
    /// C field `deviceId`.
    pub deviceId: u32,
    /// C field `vaFlag`.
    pub vaFlag: u32,
    /// C field `rsv`.
    pub rsv: [u8; 8],
}

/// Details of an error that [`aclrtErrorInfo`] reports.
#[repr(C)]
#[derive(Clone, Copy)]
pub union aclrtErrorInfoDetail {
    /// C field `bytes`.
    pub bytes: [u64; 321],
}

// Unions have no fields with offsets to compare: their sizes and alignments are held here.
const _: () = assert!(size_of::<aclrtStreamAttrValue>() == 16 && align_of::<aclrtStreamAttrValue>() == 8);
const _: () = assert!(size_of::<aclrtLaunchKernelAttrValue>() == 16 && align_of::<aclrtLaunchKernelAttrValue>() == 4);
const _: () = assert!(size_of::<aclrtBinaryLoadOptionValue>() == 16 && align_of::<aclrtBinaryLoadOptionValue>() == 4);
const _: () = assert!(size_of::<aclrtMallocAttrValue>() == 8 && align_of::<aclrtMallocAttrValue>() == 4);
const _: () = assert!(size_of::<aclrtErrorInfoDetail>() == 2568 && align_of::<aclrtErrorInfoDetail>() == 8);

/// Declares C structures, checks their sizes at compile time and lists them, with the offsets of their fields, as
/// `STRUCTS`. `field: Type as "Other"` is a field that the headers give another type of the same size.
#[macro_export]
macro_rules! c_structs {
    ($($name:ident [$size:literal] { $($field:ident : $ty:ty $(as $c:literal)?),* $(,)? })*) => {
        $(
            #[doc = concat!("C structure `", stringify!($name), "`.")]
            #[repr(C)]
            #[derive(Clone, Copy)]
            pub struct $name { $(#[doc = concat!("C field `", stringify!($field), "`.")] pub $field: $ty),* }
            const _: () = assert!(std::mem::size_of::<$name>() == $size);
        )*
        /// Every structure: name, size, and each field's name, type and byte offset.
        pub const STRUCTS: &[$crate::types::Struct] = &[$(
            (stringify!($name), $size, &[$(
                (stringify!($field), $crate::c_structs!(@type $ty $(as $c)?), std::mem::offset_of!($name, $field))
            ),*])
        ),*];
    };
    (@type $ty:ty as $c:literal) => { $c };
    (@type $ty:ty) => { stringify!($ty) };
}

/// Name, size and fields (name, type, offset) of a structure.
pub type Struct = (&'static str, usize, &'static [(&'static str, &'static str, usize)]);

c_structs! {
    aclCANNPackageVersion [512] {
        version: [c_char; 128], majorVersion: [c_char; 64], minorVersion: [c_char; 64],
        releaseVersion: [c_char; 64], patchVersion: [c_char; 64], reserved: [c_char; 128],
    }
    aclrtBinaryLoadOption [20] { type_: aclrtBinaryLoadOptionType, value: aclrtBinaryLoadOptionValue }
    aclrtBinaryLoadOptions [16] { options: *mut aclrtBinaryLoadOption, numOpt: usize }
    aclrtLaunchKernelAttr [20] { id: aclrtLaunchKernelAttrId, value: aclrtLaunchKernelAttrValue }
    aclrtLaunchKernelCfg [16] { attrs: *mut aclrtLaunchKernelAttr, numAttrs: usize }
    aclrtMallocAttribute [12] { attr: aclrtMallocAttrType, value: aclrtMallocAttrValue }
    aclrtMallocConfig [16] { attrs: *mut aclrtMallocAttribute, numAttrs: usize }
    aclrtMemLocation [8] { id: u32, type_: aclrtMemLocationType }
    aclrtMemAccessDesc [24] { flags: aclrtMemAccessFlags, location: aclrtMemLocation, rsv: [u8; 12] }
    aclrtMemUsageInfo [112] { name: [c_char; 32], curMemSize: u64, memPeakSize: u64, reserved: [usize; 8] }
    aclrtMemcpyBatchAttr [32] { dstLoc: aclrtMemLocation, srcLoc: aclrtMemLocation, rsv: [u8; 16] }
    aclrtPhysicalMemProp [32] {
        handleType: aclrtMemHandleType, allocationType: aclrtMemAllocationType,
        memAttr: aclrtMemAttr, location: aclrtMemLocation, reserve: u64,
    }
    aclrtPlaceHolderInfo [8] { addrOffset: u32, dataOffset: u32 }
    aclrtPtrAttributes [28] { location: aclrtMemLocation, pageSize: u32, rsv: [u32; 4] }
    aclrtStreamConfigHandle [32] { workptr: *mut c_void, workSize: usize, flag: usize, priority: u32 }
    aclrtUtilizationInfo [24] {
        cubeUtilization: i32, vectorUtilization: i32, aicpuUtilization: i32, memoryUtilization: i32,
        utilizationExtend: *mut aclrtUtilizationExtendInfo,
    }
    aclrtUuid [16] { bytes: [c_char; 16] }
    aclrtErrorInfo [2576] {
        tryRepair: u8, hasDetail: u8, reserved: [u8; 2], errorType: aclrtErrorType,
        detail: aclrtErrorInfoDetail,
    }
}
