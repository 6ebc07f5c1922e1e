//! Host side of add_rms_norm: how many rows make a tile, or how much of a row where one does not fit.

use crate::Launch;
use crate::plan::{BLOCK, Float, LANES, LOCAL, Plan, REPEATS, padded, sum_work, word};

#[path = "../reference.rs"]
pub mod reference;

tiling! {
    /// What the kernel reads: the C struct of the same name.
    pub struct AddRmsNormTiling {
        pub rows: u32,
        pub width: u32,
        pub tile_rows: u32,
        pub chunk: u32,
        pub out_buffers: u32,
        pub epsilon_bits: u32,
        pub mean_bits: u32,
    }
}

/// Shapes: x, residual, y and sum `[rows, width]`, weight `[width]`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AddRmsNormShape {
    pub rows: usize,
    pub width: usize,
    pub float: Float,
    pub epsilon: f32,
}

/// Rows of a tile, and chunks of a row, that the kernel keeps sums for.
const ROWS_MOST: usize = 64;

/// Entries, in the order of [`Float::ALL`].
const ENTRIES: [&str; 3] = ["add_rms_norm_f32", "add_rms_norm_f16", "add_rms_norm_bf16"];

/// The launch for a shape on `cores` vector cores, or why the kernel does not take it.
pub fn launch(shape: AddRmsNormShape, cores: usize) -> Result<Launch, String> {
    Ok(plan(shape, cores)?.launch(ENTRIES[shape.float as usize], |tiling| tiling.bytes()))
}

/// The plan for a shape on `cores` vector cores, or why the kernel does not take it.
pub fn plan(shape: AddRmsNormShape, cores: usize) -> Result<Plan<AddRmsNormTiling>, String> {
    let AddRmsNormShape { rows, width, float, epsilon } = shape;
    if rows == 0 || width == 0 {
        return Err(format!("add_rms_norm: {shape:?}; it takes at least one row of F16, BF16 or F32"));
    }
    let blocks = rows.min(cores);
    let fits = |rows: usize, width: usize, out_buffers: usize| footprint(rows, width, out_buffers, float) <= LOCAL;
    let (tile_rows, chunk, out_buffers) = if width <= REPEATS * LANES && fits(1, width, 1) {
        // Four tiles a core let copies and sums overlap; a lone row has nothing to overlap with.
        let wanted = rows.div_ceil(blocks).div_ceil(4).min(ROWS_MOST);
        let out_buffers = if fits(1, width, 2) { 2 } else { 1 };
        let tile_rows = (1..=wanted).rev().find(|&rows| fits(rows, width, out_buffers)).unwrap_or(1);
        (tile_rows, width, out_buffers)
    } else {
        let chunk = (1..=REPEATS).rev().map(|lanes| lanes * LANES).find(|&chunk| fits(1, chunk, 1)).unwrap_or(LANES);
        (1, chunk, 1)
    };
    if width.div_ceil(chunk) > ROWS_MOST {
        return Err(format!("add_rms_norm: rows of {width} elements; it takes at most {}", chunk * ROWS_MOST));
    }
    let tiling = AddRmsNormTiling {
        rows: word("add_rms_norm", rows)?,
        width: word("add_rms_norm", width)?,
        tile_rows: tile_rows as u32,
        chunk: chunk as u32,
        out_buffers: out_buffers as u32,
        epsilon_bits: epsilon.to_bits(),
        mean_bits: (1.0 / width as f32).to_bits(),
    };
    Ok(Plan { tiling, blocks, workspace: 0 })
}

/// Bytes of local memory with tiles of `rows` rows of `width` elements.
pub fn footprint(rows: usize, width: usize, out_buffers: usize, float: Float) -> usize {
    let element = float.size();
    let width = width.next_multiple_of(BLOCK / element);
    let tile = rows * width;
    (4 + 2 * out_buffers) * padded(tile * element)
        + 2 * padded(tile * 4)
        + padded(width * 4)
        + sum_work(width) * 4
        + ROWS_MOST * (3 * 4 + BLOCK)
}
