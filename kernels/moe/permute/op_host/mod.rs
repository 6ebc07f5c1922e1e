//! Host side of permute: how much of a row is copied at a time, and how many tokens' choices are at hand.

use crate::Launch;
use crate::plan::{BLOCK, Float, LOCAL, Plan, word};

#[path = "../reference.rs"]
pub mod reference;

tiling! {
    /// What the kernel reads: the C struct of the same name. Widths are in words of 16 bits.
    pub struct PermuteTiling {
        pub tokens: u32,
        pub k: u32,
        pub experts: u32,
        pub width: u32,
        pub chunk: u32,
        pub batch: u32,
        pub counts: u32,
    }
}

/// Shapes: x `[tokens, width]`, chosen `[tokens, k]` in U32; rows `[tokens * k, width]`, places `[tokens * k]` in U32 and ends
/// `[experts]` in I64.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PermuteShape {
    pub tokens: usize,
    pub k: usize,
    pub experts: usize,
    pub width: usize,
    pub float: Float,
}

/// Choices and counts at hand, and words of 16 bits of a copy.
const CHOICES: usize = 256;
const COUNTS: usize = 8 * 1024;
const CHUNK: usize = 16 * 1024;

/// The launch for a shape on `cores` vector cores, or why the kernel does not take it.
pub fn launch(shape: PermuteShape, cores: usize) -> Result<Launch, String> {
    Ok(plan(shape, cores)?.launch("permute_b16", |tiling| tiling.bytes()))
}

/// The plan for a shape on `cores` vector cores, all of which must run at once, or why the kernel does not take it.
pub fn plan(shape: PermuteShape, cores: usize) -> Result<Plan<PermuteTiling>, String> {
    let PermuteShape { tokens, k, experts, width, float } = shape;
    if tokens == 0 || k == 0 || experts == 0 || width == 0 {
        return Err(format!("permute: {shape:?}; it takes at least one of each"));
    }
    if k > CHOICES {
        return Err(format!("permute: {k} experts a token; it takes at most {CHOICES}"));
    }
    if tokens * k > i32::MAX as usize {
        return Err(format!("permute: {tokens} tokens of {k} experts; it counts to {}", i32::MAX));
    }
    let words = width * float.size() / 2;
    let blocks = tokens.min(cores);
    let tiling = PermuteTiling {
        tokens: word("permute", tokens)?,
        k: k as u32,
        experts: word("permute", experts)?,
        width: word("permute", words)?,
        chunk: words.min(CHUNK) as u32,
        batch: (CHOICES / k).min(tokens) as u32,
        counts: (COUNTS / counters(experts)).clamp(1, blocks) as u32,
    };
    if footprint(&tiling) > LOCAL {
        return Err(format!("permute: counts of {experts} experts do not fit local memory"));
    }
    Ok(Plan { tiling, blocks, workspace: blocks * counters(experts) * 4 })
}

fn counters(experts: usize) -> usize {
    experts.next_multiple_of(BLOCK / 4)
}

/// Bytes of local memory.
pub fn footprint(tiling: &PermuteTiling) -> usize {
    let [k, experts, chunk] = [tiling.k, tiling.experts, tiling.chunk].map(|x| x as usize);
    let [batch, counts] = [tiling.batch, tiling.counts].map(|x| x as usize);
    (2 * counts + 6) * counters(experts) * 4
        + 2 * (chunk * 2).next_multiple_of(BLOCK)
        + 2 * (batch * k * 4).next_multiple_of(BLOCK)
        + (experts * 8).next_multiple_of(BLOCK)
}
