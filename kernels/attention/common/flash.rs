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
/// Heads that are wider than this take one tile of queries in L1, and half as many keys a step.
const WIDE: usize = 256;
/// Keys in L1 at a time, half of them where they are wider than that.
const KEYS_AT_HAND: usize = 128;
/// Rows of a sum in L0C, keys of one product, columns of values, and elements of a row of queries and keys in L0.
const SUM_ROWS: usize = 64;
const SUM_KEYS: usize = 64;
const COLUMNS: usize = 128;
const DEPTH: usize = 128;
/// Columns of ones behind those of values, and how many of their sums are kept.
const ONES: usize = SIDE;
const TOTALS: usize = 8;
/// Columns of 64 that scores are folded to first.
const FOLDED: usize = 2;
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

/// The bytes of workspace of one block: a slot a step of weights and of mixed values (F32) with their totals, one more of
/// scores (F32), and a fractal of ones.
pub fn slots(value_width: usize) -> usize {
    let row = KEYS * ((SLOTS + 1) * 4 + SLOTS * ELEMENT) + SLOTS * (value_width + TOTALS) * 4;
    TASK_ROWS * row + SIDE * SIDE * ELEMENT
}

/// What a kernel takes of each memory.
pub fn footprint(width: usize, value_width: usize) -> [Footprint; 5] {
    let (rows, columns) = (TASK_ROWS / 2, COLUMNS.min(value_width));
    let (tiles, keys) = if width.max(value_width) > WIDE { (1, KEYS / 2) } else { (2, KEYS) };
    let at_hand = if width > KEYS_AT_HAND { KEYS_AT_HAND / 2 } else { KEYS_AT_HAND };
    let queries = tiles * TASK_ROWS * width;
    let l1 = queries + 2 * (at_hand * width + SUM_ROWS * keys + keys * columns) + SIDE * SIDE;
    let chunk = match value_width {
        ..=128 => 32,
        129..=256 => 16,
        _ => 8,
    };
    let mixed = (value_width + TOTALS) * 4;
    let queues = chunk * (2 * 4 * keys + mixed + (keys * ELEMENT).max((value_width + 16) * 4));
    let kept = rows * (mixed + (2 * (SLOTS + 1) + 1) * 4);
    let ub = queues + kept + chunk * (FOLDED * 64 * 4 + 2 * 32) + 256;
    [
        Footprint { memory: "L1", bytes: ELEMENT * l1, of: L1 },
        Footprint { memory: "L0A", bytes: 4 * SUM_ROWS * DEPTH * ELEMENT, of: L0A },
        Footprint { memory: "L0B", bytes: 3 * SUM_KEYS * (COLUMNS + ONES) * ELEMENT, of: L0B },
        Footprint { memory: "L0C", bytes: SUM_ROWS * (3 * SUM_KEYS + 2 * (COLUMNS + ONES)) * 4, of: L0C },
        Footprint { memory: "UB", bytes: ub, of: UB },
    ]
}
