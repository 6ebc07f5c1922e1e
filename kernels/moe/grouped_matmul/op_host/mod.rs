//! Host side of grouped_matmul: the tiles of a product of groups of rows with their experts' matrices.
//!
//! A tile of 128 rows and 256 columns fills L0C (128 KiB of F32) and so reuses its operands best: it brings 768 bytes into
//! L1 for 8 cycles of the cube. With SwiGLU the 256 columns are 128 of the gate and the 128 of up that go with them.

use crate::Launch;
use crate::cube::{Footprint, L0A, L0B, L0C, L1, SIDE, WIDEST_ROW};
use crate::plan::{Float, LOCAL, Plan, word};

#[path = "../reference.rs"]
pub mod reference;

tiling! {
    /// What the kernel reads: the C struct of the same name.
    pub struct GroupedMatmulTiling {
        pub rows: u32,
        pub inner: u32,
        pub columns: u32,
        pub experts: u32,
        pub tile_rows: u32,
        pub tile_columns: u32,
        pub depth_l1: u32,
        pub depth_l0: u32,
        pub chunk_rows: u32,
    }
}

/// x `[rows, inner]`, weight `[experts, columns, inner]` (twice the columns with SwiGLU), y `[rows, columns]`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct GroupedMatmulShape {
    pub rows: usize,
    pub inner: usize,
    pub columns: usize,
    pub experts: usize,
    pub float: Float,
    pub swiglu: bool,
}

const TILE_ROWS: usize = 128;
const TILE_COLUMNS: usize = 256;
/// Bytes of a tile's row that lie in L1 and in L0 at a time: two buffers of both operands take 384 of the 512 KiB of L1, and
/// those of the right one all of L0B.
const DEPTH_L1: usize = 512;
const DEPTH_L0: usize = 128;
/// Rows of a tile that a vector core takes at a time.
const CHUNK_ROWS: usize = 32;
/// Tiles of the workspace that a block works with: one is filled while the other is read.
const SLOTS: usize = 2;

/// The launch for a shape on `cores` cube cores, or why the kernel does not take it.
pub fn launch(shape: GroupedMatmulShape, cores: usize) -> Result<Launch, String> {
    let kernel = match (shape.swiglu, shape.float) {
        (false, Float::F32) => "grouped_matmul_f32",
        (false, Float::F16) => "grouped_matmul_f16",
        (false, Float::BF16) => "grouped_matmul_bf16",
        (true, Float::F32) => "grouped_matmul_swiglu_f32",
        (true, Float::F16) => "grouped_matmul_swiglu_f16",
        (true, Float::BF16) => "grouped_matmul_swiglu_bf16",
    };
    Ok(plan(shape, cores)?.launch(kernel, |tiling| tiling.bytes()))
}

/// The plan for a shape on `cores` cube cores, or why the kernel does not take it.
pub fn plan(shape: GroupedMatmulShape, cores: usize) -> Result<Plan<GroupedMatmulTiling>, String> {
    let GroupedMatmulShape { rows, inner, columns, experts, float, swiglu } = shape;
    let element = float.size();
    if rows == 0 || inner == 0 || columns == 0 || experts == 0 {
        return Err(format!("grouped_matmul: {shape:?} is empty"));
    }
    if inner > WIDEST_ROW {
        return Err(format!("grouped_matmul: rows of {inner} elements; it takes at most {WIDEST_ROW}"));
    }
    if swiglu && !columns.is_multiple_of(SIDE) {
        return Err(format!("grouped_matmul: SwiGLU of {columns} columns; it takes multiples of {SIDE}"));
    }
    let tile_rows = TILE_ROWS.min(rows.next_multiple_of(SIDE));
    let widest = if swiglu { TILE_COLUMNS / 2 } else { TILE_COLUMNS };
    let tile_columns = widest.min(columns.next_multiple_of(SIDE));
    let most_tiles = (rows.div_ceil(tile_rows) + experts) * columns.div_ceil(tile_columns);
    let blocks = cores.min(most_tiles);
    let slot = if swiglu { tile_rows * 2 * tile_columns * size_of::<f32>() } else { 0 };
    let tiling = GroupedMatmulTiling {
        rows: word("grouped_matmul", rows)?,
        inner: inner as u32,
        columns: word("grouped_matmul", columns)?,
        experts: word("grouped_matmul", experts)?,
        tile_rows: tile_rows as u32,
        tile_columns: tile_columns as u32,
        depth_l1: (DEPTH_L1 / element) as u32,
        depth_l0: (DEPTH_L0 / element) as u32,
        chunk_rows: CHUNK_ROWS.min(tile_rows) as u32,
    };
    Ok(Plan { tiling, blocks, workspace: blocks * SLOTS * slot })
}

/// What the plan for a shape takes of each memory.
pub fn footprint(tiling: &GroupedMatmulTiling, shape: &GroupedMatmulShape) -> [Footprint; 5] {
    let [rows, columns, l1, l0, chunk] =
        [tiling.tile_rows, tiling.tile_columns, tiling.depth_l1, tiling.depth_l0, tiling.chunk_rows]
            .map(|x| x as usize);
    let width = if shape.swiglu { 2 * columns } else { columns };
    // Two inputs of both halves and two outputs, and one buffer for work.
    let gates = if shape.swiglu { chunk * columns * (2 * 2 * 4 + 2 * shape.float.size() + 4) } else { 0 };
    [
        Footprint { memory: "L1", bytes: 2 * (rows + width) * l1 * shape.float.size(), of: L1 },
        Footprint { memory: "L0A", bytes: 2 * rows * l0 * shape.float.size(), of: L0A },
        Footprint { memory: "L0B", bytes: 2 * width * l0 * shape.float.size(), of: L0B },
        Footprint { memory: "L0C", bytes: rows * width * 4, of: L0C },
        Footprint { memory: "UB", bytes: gates, of: LOCAL },
    ]
}
