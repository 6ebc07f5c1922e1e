//! Handles, structures and constants of HCCL.
#![allow(non_camel_case_types, non_snake_case)]

use crate::enums::*;
use std::ffi::{c_char, c_void};

acl_sys::c_types! {
    /// A communicator.
    HcclComm = *mut c_void;
    /// A window of symmetric memory.
    HcclCommSymWindow = *mut c_void;
    /// Called when a communicator changes state.
    HcclCommStateCallback =
        Option<unsafe extern "C" fn(comm: HcclComm, state: HcclCommStatePhase, args: *mut c_void) -> HcclResult>;
    /// A channel to another rank.
    ChannelHandle = u64;
    /// A thread of a communication engine.
    ThreadHandle = u64;
    /// Settings of a channel.
    HcclChannelConfig = *mut c_void;
    /// Registered memory.
    HcclMemHandle = *mut c_void;
    /// A team of ranks.
    HcommTeamHandle = *mut u64;
    /// A window of memory that a team shares.
    HcommWindowHandle = *mut u64;
}

/// Value of a configuration item of the whole process.
#[repr(C)]
#[derive(Clone, Copy)]
pub union HcclConfigValue {
    /// The only member.
    pub value: i32,
}

acl_sys::c_constants! {
    /// Bytes of [`HcclRootInfo`].
    HCCL_ROOT_INFO_BYTES = 4108,
    /// Bytes of a communicator's name, the final zero included.
    COMM_NAME_MAX_LENGTH = 128,
    /// Bytes of a user-defined identifier, the final zero included.
    UDI_MAX_LENGTH = 128,
    /// What [`HcclConfigInfo::magicWord`] must be.
    HCCL_COMM_CONFIG_MAGIC_WORD = 0xf0f0f0f0,
    /// Leaves `hcclBufferSize` to the environment.
    HCCL_COMM_BUFFSIZE_CONFIG_NOT_SET = 0xffffffff,
    /// Leaves `hcclDeterministic` to the environment.
    HCCL_COMM_DETERMINISTIC_CONFIG_NOT_SET = 0xffffffff,
    /// Leaves `hcclRdmaTrafficClass` to the environment.
    HCCL_COMM_TRAFFIC_CLASS_CONFIG_NOT_SET = 0xffffffff,
    /// Leaves `hcclRdmaServiceLevel` to the environment.
    HCCL_COMM_SERVICE_LEVEL_CONFIG_NOT_SET = 0xffffffff,
    /// Leaves `hcclExecTimeOut` to the environment.
    HCCL_COMM_EXECTIMEOUT_CONFIG_NOT_SET = 0xffffffff,
    /// Leaves `hcclQos` to the environment.
    HCCL_COMM_QOS_CONFIG_NOT_SET = 0xffffffff,
    /// Leaves `hcclChannelSqDepth` to HCCL.
    HCCL_COMM_SQ_DEPTH_CONFIG_NOT_SET = 0xffffffff,
    /// Where collectives are unfolded: HCCL's own choice.
    HCCL_COMM_DEFAULT_OP_EXPANSION_MODE = 0,
    /// Megabytes of communication buffer when nothing sets it.
    HCCL_COMM_DEFAULT_BUFFSIZE = 200,
    /// Gibibytes of symmetric memory window a rank when nothing sets it.
    HCCL_DEFAULT_SYMMETRIC_MEMORY_STRIDE = 16,
}

acl_sys::c_structs! {
    HcclRootInfo [4108] { internal: [c_char; 4108] }
    HcclSendRecvItem [32] {
        sendRecvType: HcclSendRecvType, buf: *mut c_void, count: u64,
        dataType: HcclDataType, remoteRank: u32,
    }
    HcclCommConfig [2248] {
        reserved: HcclConfigInfo as "[c_char; 24]", hcclBufferSize: u32, hcclDeterministic: u32,
        hcclCommName: [c_char; 128], hcclUdi: [c_char; 128],
        hcclOpExpansionMode: u32, hcclRdmaTrafficClass: u32, hcclRdmaServiceLevel: u32,
        hcclWorldRankID: u32, hcclJobID: u64, aclGraphZeroCopyEnable: u8,
        hcclExecTimeOut: i32, hcclAlgo: [c_char; 1600], hcclRetryEnable: [c_char; 50],
        hcclRetryParams: [c_char; 128], hcclBufferName: [c_char; 128], hcclQos: u32,
        hcclSymWinMaxMemSizePerRank: u64, hcclChannelSqDepth: u32,
    }
    CommAbiHeader [16] { version: u32, magicWord: u32, size: u32, reserved: u32 }
    // `union)` is how the facts spell the type of a union that has no name.
    CommLink [464] {
        header: CommAbiHeader, srcEndpointDesc: EndpointDesc, dstEndpointDesc: EndpointDesc,
        linkAttr: [u32; 32] as "union)",
    }
    CommMem [24] { type_: CommMemType, addr: *mut c_void, size: u64 }
    HcclKernelFuncInfo [528] {
        kernelSoName: [c_char; 256], kernelFuncName: [c_char; 256], args: *mut c_void, argSize: u32,
    }
    HcclKernelLaunchCfg [128] { header: CommAbiHeader, timeOut: u64, reserved: [u8; 104] }
    HcclTeamCreateChannelsDesc [48] {
        header: CommAbiHeader, engine: CommEngine, notifyNum: u32, protocol: CommProtocol,
        channelCnt: u32, reserved: [u32; 4],
    }
    HcclTeamCreateDesc [88] {
        header: CommAbiHeader, rankIds: *const u32, rankNum: u32, selfRankId: u32, netLayer: u32,
        protocol: CommProtocol, requirement: HcommTeamSyncMemRequirement, reserved: [u32; 4],
    }
    HcommTeamSyncMemRequirement [32] { signalCount: u32, counterCount: u32, barrierCount: u32, reserved: [u32; 5] }
    ThreadConfig [32] { header: CommAbiHeader, notifyNumPerThread: u16, reserved: [u8; 14] }
}

/// Structures with a union that has no name in C: `raw` is as long as the union, which the caller fills in by the kind
/// that the structure's other fields say.
macro_rules! open_structs {
    ($($name:ident [$size:literal] { $($field:ident : $ty:ty),* } $raw:ident : [$raw_ty:ty; $count:literal];)*) => {
        $(
            #[doc = concat!("C structure `", stringify!($name), "`, which ends in a union.")]
            #[repr(C)]
            #[derive(Clone, Copy)]
            pub struct $name {
                $(#[doc = concat!("C field `", stringify!($field), "`.")] pub $field: $ty,)*
                /// The union, in elements of its alignment.
                pub $raw: [$raw_ty; $count],
            }
            const _: () = assert!(size_of::<$name>() == $size);
        )*
        /// As [`STRUCTS`], of the structures that end in a union: their size and the fields before it.
        pub const OPEN_STRUCTS: &[acl_sys::Struct] = &[$(
            (stringify!($name), $size, &[$(
                (stringify!($field), stringify!($ty), std::mem::offset_of!($name, $field))
            ),*])
        ),*];
    };
}

open_structs! {
    CommAddr [40] { type_: CommAddrType } raw: [u32; 9];
    EndpointDesc [160] { protocol: CommProtocol, commAddr: CommAddr, loc: EndpointLoc } raw: [u32; 13];
    EndpointLoc [64] { locType: EndpointLocType } raw: [u32; 15];
    HcclChannelDesc [496] {
        header: CommAbiHeader, remoteRank: u32, channelProtocol: CommProtocol, localEndpoint: EndpointDesc,
        remoteEndpoint: EndpointDesc, notifyNum: u32, memHandles: *mut HcclMemHandle, memHandleNum: u32
    } raw: [u64; 16];
    HcclOpDesc [360] { header: CommAbiHeader, opDescType: u32, opName: [c_char; 256] } raw: [u64; 10];
}

/// What HCCL reads first in a [`HcclCommConfig`], to learn which of its fields the caller knew.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HcclConfigInfo {
    /// Bytes of the structure, in the caller's release.
    pub size: usize,
    /// [`HCCL_COMM_CONFIG_MAGIC_WORD`].
    pub magicWord: u32,
    /// Version of the structure, in the caller's release.
    pub version: u32,
    /// Zero.
    pub reserved: u64,
}
const _: () = assert!(size_of::<HcclConfigInfo>() == 24);

/// How much of [`HcclCommConfig`] a release knows; each layout is a prefix of the next.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ConfigLayout {
    /// CANN 8.1: up to `hcclRdmaServiceLevel`.
    V5,
    /// CANN 9: up to `hcclSymWinMaxMemSizePerRank`.
    V10,
    /// The newest CANN 9: with `hcclChannelSqDepth`.
    V11,
}

impl ConfigLayout {
    /// The layout to hand to an HCCL that answers `capability` to `HcclGetCommConfigCapability`.
    ///
    /// HCCL takes an older layout than its own, never a newer one, and the capability does not tell version 10 from
    /// 11: so this is the newest layout that is certain to be known.
    pub fn for_capability(capability: u32) -> Self {
        if capability > HCCL_COMM_CONFIG_BUFFER_NAME as u32 { Self::V10 } else { Self::V5 }
    }

    /// Version number that the layout carries.
    pub fn version(self) -> u32 {
        match self {
            Self::V5 => 5,
            Self::V10 => 10,
            Self::V11 => 11,
        }
    }

    /// Bytes of the structure in this layout.
    pub fn size(self) -> usize {
        match self {
            Self::V5 => 300,
            Self::V10 => 2240,
            Self::V11 => 2248,
        }
    }
}

impl HcclCommConfig {
    /// What the header's inline function `HcclCommConfigInit` gives: every item left to the environment and HCCL.
    pub fn new(layout: ConfigLayout) -> Self {
        Self {
            reserved: HcclConfigInfo {
                size: layout.size(),
                magicWord: HCCL_COMM_CONFIG_MAGIC_WORD,
                version: layout.version(),
                reserved: 0,
            },
            hcclBufferSize: HCCL_COMM_BUFFSIZE_CONFIG_NOT_SET,
            hcclDeterministic: HCCL_COMM_DETERMINISTIC_CONFIG_NOT_SET,
            hcclCommName: [0; 128],
            hcclUdi: [0; 128],
            hcclOpExpansionMode: HCCL_COMM_DEFAULT_OP_EXPANSION_MODE,
            hcclRdmaTrafficClass: HCCL_COMM_TRAFFIC_CLASS_CONFIG_NOT_SET,
            hcclRdmaServiceLevel: HCCL_COMM_SERVICE_LEVEL_CONFIG_NOT_SET,
            hcclWorldRankID: 0,
            hcclJobID: 0,
            aclGraphZeroCopyEnable: 0,
            // The same pattern as the other "not set", in a signed field.
            hcclExecTimeOut: HCCL_COMM_EXECTIMEOUT_CONFIG_NOT_SET as i32,
            hcclAlgo: [0; 1600],
            hcclRetryEnable: [0; 50],
            hcclRetryParams: [0; 128],
            hcclBufferName: [0; 128],
            hcclQos: HCCL_COMM_QOS_CONFIG_NOT_SET,
            hcclSymWinMaxMemSizePerRank: u64::from(HCCL_DEFAULT_SYMMETRIC_MEMORY_STRIDE),
            hcclChannelSqDepth: HCCL_COMM_SQ_DEPTH_CONFIG_NOT_SET,
        }
    }

    /// Names the communicator; `None` when the name is empty, holds a zero byte or does not fit with its final zero.
    pub fn with_name(mut self, name: &str) -> Option<Self> {
        let bytes = name.as_bytes();
        if bytes.is_empty() || bytes.contains(&0) || bytes.len() >= self.hcclCommName.len() {
            return None;
        }
        for (slot, byte) in self.hcclCommName.iter_mut().zip(bytes) {
            *slot = *byte as c_char;
        }
        Some(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::mem::offset_of;

    #[test]
    fn each_layout_ends_after_its_last_field() {
        assert_eq!(ConfigLayout::V5.size(), offset_of!(HcclCommConfig, hcclRdmaServiceLevel) + 4);
        assert_eq!(ConfigLayout::V10.size(), offset_of!(HcclCommConfig, hcclSymWinMaxMemSizePerRank) + 8);
        assert_eq!(ConfigLayout::V11.size(), size_of::<HcclCommConfig>());
    }

    #[test]
    fn a_release_gets_no_layout_it_does_not_know() {
        // 8.1 answers 5 capabilities, 9.1 answers 12; what lies between has layouts that are not declared.
        assert_eq!(ConfigLayout::for_capability(5), ConfigLayout::V5);
        assert_eq!(ConfigLayout::for_capability(8), ConfigLayout::V5);
        assert_eq!(ConfigLayout::for_capability(12), ConfigLayout::V10);
    }

    #[test]
    fn a_fresh_configuration_leaves_everything_to_the_environment() {
        let config = HcclCommConfig::new(ConfigLayout::V5);
        assert_eq!(config.reserved, HcclConfigInfo { size: 300, magicWord: 0xf0f0_f0f0, version: 5, reserved: 0 });
        assert_eq!(config.hcclBufferSize, u32::MAX);
        assert_eq!(config.hcclExecTimeOut, -1);
        assert!(config.hcclCommName.iter().all(|c| *c == 0));
    }

    #[test]
    fn a_name_must_fit_with_its_final_zero() {
        let config = HcclCommConfig::new(ConfigLayout::V11);
        assert!(config.with_name(&"x".repeat(127)).is_some_and(|c| c.hcclCommName[126] == b'x' as c_char));
        assert!(config.with_name(&"x".repeat(128)).is_none());
        assert!(config.with_name("").is_none());
        assert!(config.with_name("a\0b").is_none());
    }
}
