//! What the hosts of the kernels with matrix products know of a cube core.

/// Bytes of a cube core's local memories.
pub const L1: usize = 512 * 1024;
pub const L0A: usize = 64 * 1024;
pub const L0B: usize = 64 * 1024;
pub const L0C: usize = 128 * 1024;
/// Bytes of a vector core's local memory; the attention kernels use no instruction that keeps a part of it.
pub const UB: usize = 192 * 1024;

/// Rows and columns of a fractal of a sum.
pub const SIDE: usize = 16;

/// A copy to L1 states the distance between rows in 16 bits.
pub const WIDEST_ROW: usize = u16::MAX as usize;

/// What a plan takes of a memory, and how much there is of it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Footprint {
    pub memory: &'static str,
    pub bytes: usize,
    pub of: usize,
}
