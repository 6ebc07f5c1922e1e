//! What the hosts of the attention kernels share: the tiles of flash.h and softmax.h, and what they take.

use crate::cube::{Footprint, L0A, L0B, L0C, L1, SIDE, UB, WIDEST_ROW};
use crate::plan::Float;

#[path = "../reference.rs"]
pub mod reference;

/// Distances in elements between the first elements of sequences, heads and rows.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Strides {
    pub batch: usize,
    pub head: usize,
    pub row: usize,
}

impl Strides {
    /// Of a gapless tensor `[batch, heads, rows, width]`.
    pub fn of([heads, rows, width]: [usize; 3]) -> Self {
        Self { batch: heads * rows * width, head: rows * width, row: width }
    }
}

/// Query rows of a task, keys of a step, and the greatest widths of a head's keys and values.
pub const TASK_ROWS: usize = 128;
pub const KEYS: usize = 384;
pub const WIDEST: usize = 576;
pub const WIDEST_VALUE: usize = 512;
/// Keys that are wider than this take one tile of queries in L1, and half as many keys.
const WIDE: usize = 256;
/// Keys in L1 at a time; columns of the result and elements of a row in L0.
const KEYS_AT_HAND: usize = 128;
const COLUMNS: usize = 128;
const DEPTH: usize = 128;
/// Bytes of an element: F16 or BF16.
const ELEMENT: usize = 2;

/// The entry for a type, of those for F16 and BF16.
pub fn entry(kernel: &str, float: Float, [f16, bf16]: [&'static str; 2]) -> Result<&'static str, String> {
    match float {
        Float::F16 => Ok(f16),
        Float::BF16 => Ok(bf16),
        // The cube transposes no other type on its way to L0.
        Float::F32 => Err(format!("{kernel}: F32; it takes F16 and BF16")),
    }
}

/// That a kernel takes these heads and widths.
pub fn check(
    kernel: &str,
    (heads, key_heads): (usize, usize),
    (width, value_width): (usize, usize),
    scale: f32,
) -> Result<(), String> {
    if heads == 0 || key_heads == 0 || !heads.is_multiple_of(key_heads) {
        return Err(format!(
            "{kernel}: {heads} heads over {key_heads} key heads; it takes a multiple of the key heads"
        ));
    }
    for (which, width, widest) in [("keys", width, WIDEST), ("values", value_width, WIDEST_VALUE)] {
        if width == 0 || width > widest || !width.is_multiple_of(SIDE) {
            return Err(format!("{kernel}: {which} of {width} columns; it takes multiples of {SIDE} up to {widest}"));
        }
    }
    check_scale(kernel, scale)
}

pub fn check_scale(kernel: &str, scale: f32) -> Result<(), String> {
    if scale > 0.0 && scale.is_finite() {
        return Ok(());
    }
    Err(format!("{kernel}: a scale of {scale}; it takes positive ones"))
}

/// That rows lie no further apart than a copy can say.
pub fn check_row(kernel: &str, which: &str, row: usize) -> Result<(), String> {
    if row <= WIDEST_ROW {
        return Ok(());
    }
    Err(format!("{kernel}: rows of {which} lie {row} elements apart; it takes at most {WIDEST_ROW}"))
}

/// Steps under way in a block.
const SLOTS: usize = 3;

/// The bytes of workspace of one block: a slot a step of weights and of mixed values (F32), and one more of scores (F32).
pub fn slots(value_width: usize) -> usize {
    TASK_ROWS * (KEYS * ((SLOTS + 1) * 4 + SLOTS * ELEMENT) + SLOTS * value_width * 4)
}

/// What a kernel takes of each memory.
pub fn footprint(width: usize, value_width: usize) -> [Footprint; 5] {
    let (rows, columns) = (TASK_ROWS / 2, COLUMNS.min(value_width));
    // Wide keys: one tile of queries, and half as many keys at hand.
    let (tiles, at_hand) = if width > WIDE { (1, KEYS_AT_HAND / 2) } else { (2, KEYS_AT_HAND) };
    let l1 = tiles * TASK_ROWS * width + 2 * (at_hand * width + TASK_ROWS * KEYS_AT_HAND + KEYS_AT_HAND * columns);
    let chunk = match value_width {
        ..=128 => 32,
        129..=256 => 16,
        _ => 8,
    };
    let queues = chunk * (2 * 4 * KEYS.max(value_width) + (KEYS * ELEMENT).max((value_width + 16) * 4));
    let ub = queues + chunk * KEYS / 2 * 4 + rows * value_width * 4 + (3 * SLOTS + 2) * rows * 4 + chunk * 32 + 256;
    [
        Footprint { memory: "L1", bytes: ELEMENT * l1, of: L1 },
        Footprint { memory: "L0A", bytes: 2 * TASK_ROWS * DEPTH * ELEMENT, of: L0A },
        Footprint { memory: "L0B", bytes: 2 * COLUMNS * DEPTH * ELEMENT, of: L0B },
        Footprint { memory: "L0C", bytes: 2 * TASK_ROWS * COLUMNS * 4, of: L0C },
        Footprint { memory: "UB", bytes: ub, of: UB },
    ]
}
