//! What the hosts of the decode kernels share: the split of long sequences, and the struct that the kernel reads.

use crate::cube::Footprint;
use crate::flash::{self, KEYS, Strides};
use crate::plan::{Plan, word};

tiling! {
    /// What the kernels read: the C struct of the same name.
    pub struct PagedTiling {
        pub q_batch: u32,
        pub q_head: u32,
        pub y_batch: u32,
        pub y_head: u32,
        pub k_block: u32,
        pub k_head: u32,
        pub k_row: u32,
        pub v_block: u32,
        pub v_head: u32,
        pub v_row: u32,
        pub batch: u32,
        pub heads: u32,
        pub key_heads: u32,
        pub width: u32,
        pub value_width: u32,
        pub scale_bits: u32,
        pub blocks: u32,
        pub block_size: u32,
        pub table_width: u32,
        pub part_keys: u32,
        pub parts: u32,
        pub slot_bytes: u32,
    }
}

/// q `[batch, heads, width]` and the result `[batch, heads, value_width]`; pools of keys and values, [blocks, key_heads, block_size,
/// width] and [.., value_width]; the table `[batch, table_width]` of a sequence's blocks and its length `[batch]`, both in U32.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PagedShape {
    pub batch: usize,
    pub heads: usize,
    pub key_heads: usize,
    pub width: usize,
    pub value_width: usize,
    pub blocks: usize,
    pub block_size: usize,
    pub table_width: usize,
    /// The greatest length, as far as the host knows; the table's width bounds it.
    pub longest: usize,
    /// Distances in elements from sequence to sequence and from head to head of q and of the result.
    pub q: [usize; 2],
    pub y: [usize; 2],
    /// Of the pools; `batch` is that of blocks.
    pub k: Strides,
    pub v: Strides,
    pub scale: f32,
}

/// The sizes of a block that the kernels take.
pub const BLOCK_SIZES: std::ops::RangeInclusive<usize> = 16..=128;
/// Parts of a sequence that are put together at a time.
const MOST_PARTS: usize = 32;

/// The plan for a shape on `cores` cube cores, or why the kernel does not take it.
pub fn plan(kernel: &str, shape: &PagedShape, cores: usize) -> Result<Plan<PagedTiling>, String> {
    let PagedShape { batch, heads, key_heads, width, value_width, block_size, table_width, .. } = *shape;
    if batch == 0 || shape.blocks == 0 || table_width == 0 {
        return Err(format!("{kernel}: {batch} sequences over {} blocks, {table_width} a sequence", shape.blocks));
    }
    if !BLOCK_SIZES.contains(&block_size) || !block_size.is_multiple_of(16) {
        return Err(format!("{kernel}: blocks of {block_size} tokens; it takes multiples of 16 from 16 to 128"));
    }
    if heads / key_heads.max(1) > flash::TASK_ROWS {
        return Err(format!("{kernel}: {heads} heads over {key_heads}; it takes {} a key head", flash::TASK_ROWS));
    }
    for (which, row) in [("queries", shape.q[1]), ("keys", shape.k.row), ("values", shape.v.row)] {
        flash::check_row(kernel, which, row)?;
    }
    let (tasks, longest) = (batch * key_heads, shape.longest.min(table_width * block_size).max(1));
    // One task a core is enough: what all cores read is bounded by the memory that they share.
    let wanted = cores.div_ceil(tasks).min(MOST_PARTS);
    let part_keys = longest.div_ceil(wanted).next_multiple_of(KEYS);
    let parts = longest.div_ceil(part_keys);
    let blocks = cores.min(tasks * parts);
    let slot_bytes = blocks * flash::slots(value_width);
    let part = heads / key_heads * (value_width + 2 * 8) * size_of::<f32>();
    let workspace = slot_bytes + if parts > 1 { tasks * parts * part } else { 0 };
    let word = |value| word(kernel, value);
    let tiling = PagedTiling {
        q_batch: word(shape.q[0])?,
        q_head: word(shape.q[1])?,
        y_batch: word(shape.y[0])?,
        y_head: word(shape.y[1])?,
        k_block: word(shape.k.batch)?,
        k_head: word(shape.k.head)?,
        k_row: word(shape.k.row)?,
        v_block: word(shape.v.batch)?,
        v_head: word(shape.v.head)?,
        v_row: word(shape.v.row)?,
        batch: word(batch)?,
        heads: word(heads)?,
        key_heads: word(key_heads)?,
        width: word(width)?,
        value_width: word(value_width)?,
        scale_bits: shape.scale.to_bits(),
        blocks: word(shape.blocks)?,
        block_size: word(block_size)?,
        table_width: word(table_width)?,
        part_keys: word(part_keys)?,
        parts: word(parts)?,
        slot_bytes: word(slot_bytes)?,
    };
    Ok(Plan { tiling, blocks, workspace })
}

/// That the entries of a table that the host holds lie in the pool: `table` `[batch, table_width]`, `lengths` in tokens.
pub fn check_table(
    kernel: &str,
    table: &[u32],
    lengths: &[u32],
    [blocks, block_size, table_width]: [usize; 3],
) -> Result<(), String> {
    for (sequence, &length) in lengths.iter().enumerate() {
        let (row, used) = (&table[sequence * table_width..][..table_width], (length as usize).div_ceil(block_size));
        if used > table_width {
            return Err(format!("{kernel}: sequence {sequence} has {length} tokens and only {table_width} blocks"));
        }
        if let Some((at, entry)) = row[..used].iter().enumerate().find(|(_, entry)| **entry as usize >= blocks) {
            return Err(format!("{kernel}: block {at} of sequence {sequence} is {entry}, and the pool has {blocks}"));
        }
    }
    Ok(())
}

/// What putting parts together takes of local memory.
pub fn joining(tiling: &PagedTiling) -> Footprint {
    let (parts, width) = (tiling.parts as usize, tiling.value_width as usize);
    Footprint { memory: "UB", bytes: parts * width * 4 + 2 * parts * 32 + width * 2 + 3 * 32, of: crate::cube::UB }
}
