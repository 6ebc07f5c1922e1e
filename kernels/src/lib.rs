//! Our own Ascend C operators for attention, mixture of experts and norms, on dav-2201 (Atlas A2 and A3).
//!
//! Each operator lies in `<group>/<name>/`: `op_kernel/` the Ascend C source, `op_host/` the tiling computed from its
//! shapes, `reference.rs` the same arithmetic in plain loops. [`twin`] runs the sources on the host and checks what the
//! card would punish; `kernels/README.md` says what each computes and what bounds it.

pub mod bench;
pub mod twin;

#[macro_use]
mod tiling;

#[path = "../norm/add_rms_norm/op_host/mod.rs"]
pub mod add_rms_norm;
#[path = "../common/cube.rs"]
pub mod cube;
#[path = "../attention/common/flash.rs"]
pub mod flash;
#[path = "../attention/flash_attention/op_host/mod.rs"]
pub mod flash_attention;
#[path = "../moe/gating/op_host/mod.rs"]
pub mod gating;
#[path = "../moe/grouped_matmul/op_host/mod.rs"]
pub mod grouped_matmul;
#[path = "../attention/mla_decode/op_host/mod.rs"]
pub mod mla_decode;
#[path = "../attention/common/paged.rs"]
pub mod paged;
#[path = "../attention/paged_decode/op_host/mod.rs"]
pub mod paged_decode;
#[path = "../moe/permute/op_host/mod.rs"]
pub mod permute;
#[path = "../common/plan.rs"]
pub mod plan;
#[path = "../attention/rotary_cache/op_host/mod.rs"]
pub mod rotary_cache;
#[path = "../moe/unpermute/op_host/mod.rs"]
pub mod unpermute;

/// The library of all operators compiled for the host, as [`twin`] and a simulated device load it.
pub static TWIN: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/libascend_twin.so"));

/// One launch of a kernel, as the host computes it from shapes.
#[derive(Clone, Debug, PartialEq)]
pub struct Launch {
    /// Name of the entry: `<operator>_<dtype>`.
    pub kernel: &'static str,
    /// Blocks: vector cores, or pairs of a cube core and its vector cores.
    pub blocks: u32,
    /// The tiling struct as it lies in device memory.
    pub tiling: Vec<u8>,
    /// Bytes of device memory that the kernel works in.
    pub workspace: u64,
}
