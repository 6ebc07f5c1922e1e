//! Host side of rotary_cache: how many heads of a token make a piece of work.

use crate::Launch;
use crate::plan::{BLOCK, Float, LANES, LOCAL, Plan, REPEATS, padded, word};

#[path = "../reference.rs"]
pub mod reference;

tiling! {
    /// What the kernel reads: the C struct of the same name.
    pub struct RotaryCacheTiling {
        pub batch: u32,
        pub tokens: u32,
        pub heads: u32,
        pub kv_heads: u32,
        pub width: u32,
        pub capacity: u32,
        pub rows: u32,
        pub pieces: u32,
        pub table_width: u32,
        pub table_batch: u32,
        pub normed: u32,
        pub epsilon_bits: u32,
        pub mean_bits: u32,
    }
}

/// Shapes: qkv `[batch, tokens, heads + 2 kv_heads, width]`, tables `[tokens, table_width]`, or `[batch, tokens, table_width]`
/// when `apart`; positions `[batch]` in I64; queries `[batch, tokens, heads, width]`, caches [batch, kv_heads, capacity,
/// width]. With `norm`, an epsilon, heads of queries and keys are normed first.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RotaryCacheShape {
    pub batch: usize,
    pub tokens: usize,
    pub heads: usize,
    pub kv_heads: usize,
    pub width: usize,
    pub capacity: usize,
    pub table_width: usize,
    pub apart: bool,
    pub norm: Option<f32>,
    pub float: Float,
}

/// The halves of a row of F32 start at blocks.
const STEP: usize = 16;

/// Entries, in the order of [`Float::ALL`].
const ENTRIES: [&str; 3] = ["rotary_cache_f32", "rotary_cache_f16", "rotary_cache_bf16"];

/// The launch for a shape on `cores` vector cores, or why the kernel does not take it.
pub fn launch(shape: RotaryCacheShape, cores: usize) -> Result<Launch, String> {
    Ok(plan(shape, cores)?.launch(ENTRIES[shape.float as usize], |tiling| tiling.bytes()))
}

/// The plan for a shape on `cores` vector cores, or why the kernel does not take it.
pub fn plan(shape: RotaryCacheShape, cores: usize) -> Result<Plan<RotaryCacheTiling>, String> {
    let RotaryCacheShape { batch, tokens, heads, kv_heads, width, capacity, table_width, float, .. } = shape;
    let element = float.size();
    if batch == 0 || tokens == 0 || heads == 0 || kv_heads == 0 || capacity == 0 {
        return Err(format!("rotary_cache: {shape:?}; it takes at least one of each, in F16, BF16 or F32"));
    }
    let widest = REPEATS * BLOCK / 4 / STEP * STEP;
    if width == 0 || !width.is_multiple_of(STEP) || width > widest || table_width < width / 2 {
        return Err(format!(
            "rotary_cache: heads of {width} with tables of {table_width} columns; it takes multiples of {STEP} to {widest}"
        ));
    }
    // A copy states the distance between the rows of two heads in bytes of 32 bits.
    word("rotary_cache", capacity * width * element)?;
    let all = heads + 2 * kv_heads;
    let wanted = (batch * tokens * all).div_ceil(cores).min(all).min(REPEATS);
    let Some(rows) = (1..=wanted).rev().find(|&rows| footprint(rows, width, element) <= LOCAL) else {
        return Err(format!("rotary_cache: a head of {width} does not fit local memory"));
    };
    let pieces = all.div_ceil(rows);
    let tiling = RotaryCacheTiling {
        batch: word("rotary_cache", batch)?,
        tokens: word("rotary_cache", tokens)?,
        heads: word("rotary_cache", heads)?,
        kv_heads: word("rotary_cache", kv_heads)?,
        width: width as u32,
        capacity: word("rotary_cache", capacity)?,
        rows: rows as u32,
        pieces: pieces as u32,
        table_width: word("rotary_cache", table_width)?,
        table_batch: if shape.apart { tokens as u32 } else { 0 },
        normed: shape.norm.is_some() as u32,
        epsilon_bits: shape.norm.unwrap_or_default().to_bits(),
        mean_bits: (1.0 / width as f32).to_bits(),
    };
    let work = word("rotary_cache", batch * tokens * pieces)?;
    Ok(Plan { tiling, blocks: work.min(cores as u32) as usize, workspace: 0 })
}

/// Bytes of local memory with pieces of `rows` heads.
pub fn footprint(rows: usize, width: usize, element: usize) -> usize {
    let tile = rows * width;
    4 * padded(tile * element)
        + 4 * padded(width * element)
        + 3 * padded(tile * 4)
        + 2 * padded(width / 2 * 4)
        + padded(2 * width * 4)
        + 2 * rows.next_multiple_of(LANES) * 4
        + rows.next_multiple_of(BLOCK / 4) * BLOCK
}
