//! What the hosts of the vector operators share: what a launch needs, and what they know of a vector core.

use crate::Launch;

/// The element types of kernels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Float {
    F32,
    F16,
    BF16,
}

impl Float {
    pub const ALL: [Self; 3] = [Self::F32, Self::F16, Self::BF16];

    /// Bytes of an element.
    pub fn size(self) -> usize {
        if self == Self::F32 { 4 } else { 2 }
    }
}

/// A tiling for its kernel, the number of blocks, and the bytes of workspace.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Plan<T> {
    pub tiling: T,
    pub blocks: usize,
    pub workspace: usize,
}

impl<T> Plan<T> {
    /// The launch of the entry called `kernel`, whose tiling has these `bytes`.
    pub fn launch(&self, kernel: &'static str, bytes: impl Fn(&T) -> Vec<u8>) -> Launch {
        Launch { kernel, blocks: self.blocks as u32, tiling: bytes(&self.tiling), workspace: self.workspace as u64 }
    }
}

/// Bytes of a vector core's local memory that kernels use: some of a toolkit's instructions keep the last eight KiB of
/// the 192 to themselves.
pub const LOCAL: usize = 184 * 1024;
/// Bytes of a block, the unit of local memory.
pub const BLOCK: usize = 32;
/// Floats that a vector instruction works on in a repeat, and the most repeats of one instruction.
pub const LANES: usize = 64;
pub const REPEATS: usize = 255;

/// Bytes of a buffer, up to a multiple of 256.
pub fn padded(bytes: usize) -> usize {
    bytes.next_multiple_of(256)
}

/// Floats of work of `SumInto` (common/vector.h) for rows of `count`.
pub fn sum_work(count: usize) -> usize {
    count.next_multiple_of(LANES * LANES) / LANES + LANES
}

/// `value` as the kernel reads it, or that `operator` is asked for too much.
pub fn word(operator: &str, value: usize) -> Result<u32, String> {
    u32::try_from(value).map_err(|_| format!("{operator}: a size of {value} is beyond 32 bits"))
}
