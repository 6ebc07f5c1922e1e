//! Host side of both kinds of gating: how a row's experts lie in local memory, and how many rows make a tile.

use crate::Launch;
use crate::plan::{BLOCK, Float, LANES, LOCAL, Plan, padded, sum_work, word};

#[path = "../reference.rs"]
pub mod reference;

tiling! {
    /// What the kernel reads: the C struct of the same name.
    pub struct GatingTiling {
        pub tokens: u32,
        pub experts: u32,
        pub k: u32,
        pub groups: u32,
        pub kept_groups: u32,
        pub segment: u32,
        pub tile_rows: u32,
        pub has_bias: u32,
        pub renormalise: u32,
        pub factor_bits: u32,
        pub merge_pairs: u32,
    }
}

/// Shapes: logits `[tokens, experts]`, bias `[experts]` in F32, weights `[tokens, k]` in F32 and
/// experts `[tokens, k]` in U32. Without `sigmoid` it is
/// a softmax, with one group, no bias and a factor of 1.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct GatingShape {
    pub tokens: usize,
    pub experts: usize,
    pub k: usize,
    pub groups: usize,
    pub kept_groups: usize,
    pub sigmoid: bool,
    pub has_bias: bool,
    pub renormalise: bool,
    pub factor: f32,
    pub float: Float,
}

/// Slots of a sorting instruction, and the most runs of them in a row.
const RUN: usize = 32;
const RUNS_MOST: usize = 64;
const K_MOST: usize = 64;
const ROWS_MOST: usize = 64;

/// Entries of softmax and of sigmoid, in the order of [`Float::ALL`].
const ENTRIES: [[&str; 3]; 2] = [
    ["gating_softmax_f32", "gating_softmax_f16", "gating_softmax_bf16"],
    ["gating_sigmoid_f32", "gating_sigmoid_f16", "gating_sigmoid_bf16"],
];

/// The launch for a shape on `cores` vector cores, or why the kernel does not take it.
pub fn launch(shape: GatingShape, cores: usize) -> Result<Launch, String> {
    Ok(plan(shape, cores)?.launch(ENTRIES[usize::from(shape.sigmoid)][shape.float as usize], |tiling| tiling.bytes()))
}

/// The plan for a shape on `cores` vector cores, or why the kernel does not take it.
pub fn plan(shape: GatingShape, cores: usize) -> Result<Plan<GatingTiling>, String> {
    let GatingShape { tokens, experts, k, groups, kept_groups, .. } = shape;
    if tokens == 0 || experts == 0 {
        return Err(format!("gating: {shape:?}; it takes at least one token and expert, in F16, BF16 or F32"));
    }
    if groups == 0 || groups > RUNS_MOST || !experts.is_multiple_of(groups) || kept_groups == 0 || kept_groups > groups
    {
        return Err(format!(
            "gating: {kept_groups} of {groups} groups over {experts} experts; it takes at most {RUNS_MOST} groups of one size"
        ));
    }
    let size = experts / groups;
    if k == 0 || k > K_MOST || k > kept_groups * size {
        return Err(format!(
            "gating: {k} of the {} experts of the groups kept cannot be chosen; it takes 1 to {K_MOST}",
            kept_groups * size
        ));
    }
    let segment = size.next_multiple_of(RUN);
    if groups * segment > RUNS_MOST * RUN {
        return Err(format!(
            "gating: {experts} experts in {groups} groups; it takes at most {} with groups filled up to multiples of {RUN}",
            RUNS_MOST * RUN
        ));
    }
    let blocks = tokens.min(cores);
    let wanted = tokens.div_ceil(blocks).div_ceil(2).min(ROWS_MOST);
    let Some(tile_rows) = (1..=wanted).rev().find(|&rows| footprint(&shape, rows) <= LOCAL) else {
        return Err(format!("gating: a row of {experts} experts does not fit local memory"));
    };
    let tiling = GatingTiling {
        tokens: word("gating", tokens)?,
        experts: experts as u32,
        k: k as u32,
        groups: groups as u32,
        kept_groups: kept_groups as u32,
        segment: segment as u32,
        tile_rows: tile_rows as u32,
        has_bias: shape.has_bias as u32,
        renormalise: shape.renormalise as u32,
        factor_bits: shape.factor.to_bits(),
        merge_pairs: merge_pairs(&shape) as u32,
    };
    Ok(Plan { tiling, blocks, workspace: 0 })
}

/// Pairs that the merges of a row write, as the kernel merges: four runs at a time, each cut to what is kept.
fn merge_pairs(shape: &GatingShape) -> usize {
    let segment = (shape.experts / shape.groups).next_multiple_of(RUN);
    if shape.kept_groups == shape.groups {
        return merge(vec![RUN; shape.groups * segment / RUN], shape.k).0;
    }
    let (of_group, length) = merge(vec![RUN; segment / RUN], shape.k.max(2));
    shape.groups * of_group + merge(vec![length; shape.kept_groups], shape.k).0
}

/// Pairs written, and the length of the one run that is left.
fn merge(mut runs: Vec<usize>, keep: usize) -> (usize, usize) {
    let mut written = 0;
    while runs.len() > 1 {
        let together = runs.chunks(4).map(|four| match four {
            [one] => *one,
            _ => {
                let length = four.iter().map(|&length| length.min(keep)).sum::<usize>();
                written += length.next_multiple_of(4);
                length
            }
        });
        runs = together.collect();
    }
    (written, runs[0])
}

/// Bytes of local memory with tiles of `rows` tokens.
pub fn footprint(shape: &GatingShape, rows: usize) -> usize {
    let size = shape.experts / shape.groups;
    let slots = shape.groups * size.next_multiple_of(RUN);
    let coming = rows * shape.groups * size.next_multiple_of(BLOCK / shape.float.size()) * shape.float.size();
    let tile = (rows * slots).next_multiple_of(LANES) * 4;
    let out = padded(rows * shape.k.next_multiple_of(BLOCK / 4) * 4);
    2 * padded(coming.max(slots * 4))
        + 4 * out
        + if shape.sigmoid { 3 * tile } else { 2 * tile }
        + padded(slots * 8)
        + padded(merge_pairs(shape) * 8 + 8)
        + 3 * slots * 4
        + padded(shape.k.next_multiple_of(BLOCK / 4) * 4)
        + 2 * out
        + sum_work(slots) * 4
        + rows.next_multiple_of(LANES) * 4
        + rows.next_multiple_of(BLOCK / 4) * BLOCK
}
