//! Host side of flash_attention: strides, lengths and the workspace. The tiles are those of all attention kernels.

use crate::Launch;
use crate::flash::{self, Strides};
use crate::plan::{Float, Plan, word};

tiling! {
    /// What the kernel reads: the C struct of the same name.
    pub struct FlashAttentionTiling {
        pub q_batch: u32,
        pub q_head: u32,
        pub k_batch: u32,
        pub k_head: u32,
        pub v_batch: u32,
        pub v_head: u32,
        pub y_batch: u32,
        pub y_head: u32,
        pub q_row: u32,
        pub k_row: u32,
        pub v_row: u32,
        pub y_row: u32,
        pub batch: u32,
        pub heads: u32,
        pub key_heads: u32,
        pub width: u32,
        pub value_width: u32,
        pub queries: u32,
        pub keys: u32,
        pub ragged: u32,
        pub causal: u32,
        pub offset: i32,
        pub scale_bits: u32,
    }
}

/// q `[batch, heads, queries, width]`, k `[batch, key_heads, keys, width]`, v `[batch, key_heads, keys, value_width]`, and the
/// result `[batch, heads, queries, value_width]`, each with strides of its own.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct FlashAttentionShape {
    pub batch: usize,
    pub heads: usize,
    pub key_heads: usize,
    pub queries: usize,
    pub keys: usize,
    pub width: usize,
    pub value_width: usize,
    /// Of q, k, v and the result.
    pub strides: [Strides; 4],
    /// Sequences have lengths of their own, which the device knows, and follow each other (`batch` strides are 0);
    /// `queries` and `keys` are the greatest. With a mask, the last query sees the last key.
    pub ragged: bool,
    /// The number of keys before the first query; none for no mask.
    pub causal: Option<i32>,
    pub scale: f32,
    pub float: Float,
}

const NAME: &str = "flash_attention";

/// The launch for a shape on `cores` cube cores, or why the kernel does not take it.
pub fn launch(shape: &FlashAttentionShape, cores: usize) -> Result<Launch, String> {
    let kernel = flash::entry(NAME, shape.float, ["flash_attention_f16", "flash_attention_bf16"])?;
    Ok(plan(shape, cores)?.launch(kernel, |tiling| tiling.bytes()))
}

/// The plan for a shape on `cores` cube cores, or why the kernel does not take it.
pub fn plan(shape: &FlashAttentionShape, cores: usize) -> Result<Plan<FlashAttentionTiling>, String> {
    let FlashAttentionShape { batch, heads, key_heads, queries, keys, width, value_width, .. } = *shape;
    if batch == 0 || queries == 0 {
        return Err(format!("{NAME}: {batch} sequences of {queries} queries; it takes at least one of each"));
    }
    flash::check(NAME, (heads, key_heads), (width, value_width), shape.scale)?;
    let [q, k, v, y] = shape.strides;
    for (which, row) in [("queries", q.row), ("keys", k.row), ("values", v.row)] {
        flash::check_row(NAME, which, row)?;
    }
    let blocks = cores.min(batch * heads * queries.div_ceil(flash::TASK_ROWS));
    let word = |value| word(NAME, value);
    let tiling = FlashAttentionTiling {
        q_batch: word(q.batch)?,
        q_head: word(q.head)?,
        k_batch: word(k.batch)?,
        k_head: word(k.head)?,
        v_batch: word(v.batch)?,
        v_head: word(v.head)?,
        y_batch: word(y.batch)?,
        y_head: word(y.head)?,
        q_row: word(q.row)?,
        k_row: word(k.row)?,
        v_row: word(v.row)?,
        y_row: word(y.row)?,
        batch: word(batch)?,
        heads: word(heads)?,
        key_heads: word(key_heads)?,
        width: word(width)?,
        value_width: word(value_width)?,
        queries: word(queries)?,
        keys: word(keys)?,
        ragged: u32::from(shape.ragged),
        causal: u32::from(shape.causal.is_some()),
        offset: shape.causal.unwrap_or(0),
        scale_bits: shape.scale.to_bits(),
    };
    Ok(Plan { tiling, blocks, workspace: blocks * flash::slots(value_width) })
}
