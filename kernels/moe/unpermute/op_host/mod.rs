//! Host side of unpermute: how rows are shared out in pieces, so that a few tokens use every core.

use crate::Launch;
use crate::plan::{BLOCK, Float, LANES, LOCAL, Plan, word};

#[path = "../reference.rs"]
pub mod reference;

tiling! {
    /// What the kernel reads: the C struct of the same name.
    pub struct UnpermuteTiling {
        pub tokens: u32,
        pub k: u32,
        pub width: u32,
        pub chunk: u32,
        pub chunks: u32,
        pub batch: u32,
    }
}

/// Shapes: y `[tokens * k, width]` and out `[tokens, width]`, places `[tokens * k]` in U32, weights
/// `[tokens, k]` in F32.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct UnpermuteShape {
    pub tokens: usize,
    pub k: usize,
    pub width: usize,
    pub float: Float,
}

/// Columns of a piece: fewer make copies that cost more to start than to run, more do not fit with two buffers each.
const LEAST: usize = 256;
const MOST: usize = 4096;
/// Columns that take as long as what each copy of a piece costs beside them.
const START: usize = 1536;
/// Places and weights at hand.
const CHOICES: usize = 512;

/// Entries, in the order of [`Float::ALL`].
const ENTRIES: [&str; 3] = ["unpermute_f32", "unpermute_f16", "unpermute_bf16"];

/// The launch for a shape on `cores` vector cores, or why the kernel does not take it.
pub fn launch(shape: UnpermuteShape, cores: usize) -> Result<Launch, String> {
    Ok(plan(shape, cores)?.launch(ENTRIES[shape.float as usize], |tiling| tiling.bytes()))
}

/// The plan for a shape on `cores` vector cores, or why the kernel does not take it.
pub fn plan(shape: UnpermuteShape, cores: usize) -> Result<Plan<UnpermuteTiling>, String> {
    let UnpermuteShape { tokens, k, width, float } = shape;
    if tokens == 0 || k == 0 || width == 0 {
        return Err(format!("unpermute: {shape:?}; it takes at least one of each, in F16, BF16 or F32"));
    }
    if k > CHOICES {
        return Err(format!("unpermute: {k} experts a token; it takes at most {CHOICES}"));
    }
    let chunk = |chunks: usize| width.div_ceil(chunks).next_multiple_of(LANES).clamp(LEAST, MOST);
    // Columns that the core with the most pieces goes through, and what starting each costs.
    let work = |chunks: &usize| (tokens * chunks).div_ceil(cores) * (chunk(*chunks) + START);
    let wanted = (width.div_ceil(MOST)..=width.div_ceil(LEAST)).min_by_key(work).unwrap_or(1);
    let (chunk, chunks) = (chunk(wanted), width.div_ceil(chunk(wanted)));
    let tiling = UnpermuteTiling {
        tokens: word("unpermute", tokens)?,
        k: k as u32,
        width: word("unpermute", width)?,
        chunk: chunk as u32,
        chunks: chunks as u32,
        batch: (CHOICES / k).min(tokens) as u32,
    };
    word("unpermute", tokens * k * chunks)?;
    debug_assert!(footprint(&tiling, float) <= LOCAL);
    Ok(Plan { tiling, blocks: (tokens * chunks).min(cores), workspace: 0 })
}

/// Bytes of local memory.
pub fn footprint(tiling: &UnpermuteTiling, float: Float) -> usize {
    let element = float.size();
    let [k, chunk, batch] = [tiling.k, tiling.chunk, tiling.batch].map(|x| x as usize);
    (4 + 2) * (chunk * element).next_multiple_of(BLOCK)
        + 2 * chunk.next_multiple_of(LANES) * 4
        + 2 * (batch * k * 4).next_multiple_of(BLOCK)
}
