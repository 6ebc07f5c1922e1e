//! Properties of the vector kernels' tilings: every element is worked on once, tiles fit local memory and start at blocks,
//! and no instruction is asked for more repeats than it has.

use ascend_kernels::add_rms_norm::{self, AddRmsNormShape};
use ascend_kernels::gating::{self, GatingShape};
use ascend_kernels::permute::{self, PermuteShape};
use ascend_kernels::plan::{BLOCK, Float, LANES, LOCAL, REPEATS};
use ascend_kernels::rotary_cache::{self, RotaryCacheShape};
use ascend_kernels::unpermute::{self, UnpermuteShape};
use std::ops::Range;

#[test]
fn hosts_and_kernels_agree_on_tilings() {
    for (path, fields) in [
        ("norm/add_rms_norm/op_kernel/add_rms_norm_tiling.h", add_rms_norm::AddRmsNormTiling::FIELDS),
        ("moe/gating/op_kernel/gating_tiling.h", gating::GatingTiling::FIELDS),
        ("moe/permute/op_kernel/permute_tiling.h", permute::PermuteTiling::FIELDS),
        ("moe/unpermute/op_kernel/unpermute_tiling.h", unpermute::UnpermuteTiling::FIELDS),
        ("attention/rotary_cache/op_kernel/rotary_cache_tiling.h", rotary_cache::RotaryCacheTiling::FIELDS),
    ] {
        let text = std::fs::read_to_string(std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap();
        let declared = text.lines().filter_map(|line| line.trim().strip_prefix("uint32_t ")?.split_once(';'));
        let declared: Vec<_> = declared.map(|(name, _)| (name, "u32")).collect();
        assert_eq!(declared, fields, "{path}");
    }
}

/// As `Share` of common/vector.h.
fn share(total: usize, blocks: usize, index: usize) -> Range<usize> {
    let (each, longer) = (total / blocks, total % blocks);
    let first = index * each + index.min(longer);
    first..first + each + usize::from(index < longer)
}

/// Pieces `(start, end)` of tiles of `step`.
fn tiles(of: Range<usize>, step: usize) -> impl Iterator<Item = Range<usize>> {
    of.clone().step_by(step).map(move |start| start..(start + step).min(of.end))
}

/// That `pieces` cover 0..total, each place once, in any order.
fn assert_covers(what: &str, total: usize, pieces: impl Iterator<Item = Range<usize>>) {
    let mut seen = vec![0u8; total];
    for piece in pieces {
        assert!(piece.end <= total, "{what}: {piece:?} of {total}");
        seen[piece].iter_mut().for_each(|seen| *seen += 1);
    }
    assert!(seen.iter().all(|&seen| seen == 1), "{what}: not every place of {total} once");
}

const CORES: [usize; 4] = [1, 7, 40, 48];

fn machines() -> impl Iterator<Item = (usize, Float)> {
    CORES.into_iter().flat_map(|cores| [Float::F32, Float::BF16].map(|float| (cores, float)))
}

#[test]
fn add_rms_norm_takes_each_element_once() {
    for (rows, width) in [(1, 1), (3, 17), (41, 128), (1000, 64), (32, 7168), (5, 8192), (2, 16384), (1, 50_001)] {
        for (cores, float) in machines() {
            let plan = add_rms_norm::plan(AddRmsNormShape { rows, width, float, epsilon: 1e-6 }, cores).unwrap();
            let t = plan.tiling;
            let [tile, chunk, buffers] = [t.tile_rows, t.chunk, t.out_buffers].map(|x| x as usize);
            let what = format!("{rows}x{width} on {cores} cores: {t:?}");
            let blocks = plan.blocks;
            assert_covers(&what, rows, (0..blocks).flat_map(|block| tiles(share(rows, blocks, block), tile)));
            assert_covers(&what, width, tiles(0..width, chunk));
            assert!(add_rms_norm::footprint(tile, chunk, buffers, float) <= LOCAL, "{what}");
            assert!(chunk == width || (tile == 1 && chunk * float.size() % BLOCK == 0), "{what}");
            assert!(chunk.next_multiple_of(BLOCK / float.size()) <= LANES * REPEATS && tile <= 64, "{what}");
        }
    }
    let refusal =
        add_rms_norm::plan(AddRmsNormShape { rows: 0, width: 8, float: Float::F16, epsilon: 0. }, 1).unwrap_err();
    assert!(refusal.contains("at least one row"), "{refusal}");
}

#[test]
fn gating_takes_each_token_once() {
    let shapes = [(1, 1, 1, 1, 1), (33, 33, 8, 1, 1), (4096, 256, 8, 8, 4), (32, 256, 8, 1, 1), (100, 60, 6, 12, 3)];
    for (tokens, experts, k, groups, kept_groups) in shapes.into_iter().chain([(7, 2048, 64, 1, 1), (9, 129, 4, 3, 2)])
    {
        for (cores, float) in machines() {
            let flags = GatingShape { has_bias: true, renormalise: true, factor: 2.5, float, ..SHAPE };
            let shape = GatingShape { tokens, experts, k, groups, kept_groups, ..flags };
            let plan = gating::plan(shape, cores).unwrap();
            let (t, blocks) = (plan.tiling, plan.blocks);
            let what = format!("{shape:?} on {cores} cores: {t:?}");
            let rows = t.tile_rows as usize;
            assert_covers(&what, tokens, (0..blocks).flat_map(|block| tiles(share(tokens, blocks, block), rows)));
            assert!(gating::footprint(&shape, rows) <= LOCAL, "{what}");
            assert!(t.segment % 32 == 0 && t.segment as usize >= experts / groups, "{what}");
            assert!(t.groups * t.segment <= 2048 && rows * groups <= 4095, "{what}");
        }
    }
    for (bad, says) in [
        (GatingShape { experts: 10, groups: 3, ..SHAPE }, "groups of one size"),
        (GatingShape { experts: 8, groups: 4, kept_groups: 1, k: 3, ..SHAPE }, "3 of the 2 experts"),
        (GatingShape { experts: 4096, ..SHAPE }, "at most 2048"),
        (GatingShape { tokens: 0, ..SHAPE }, "at least one token"),
    ] {
        let refusal = gating::plan(bad, 40).unwrap_err();
        assert!(refusal.contains(says), "{refusal}");
    }
}

const SHAPE: GatingShape = GatingShape {
    tokens: 4,
    experts: 8,
    k: 2,
    groups: 1,
    kept_groups: 1,
    sigmoid: true,
    has_bias: false,
    renormalise: false,
    factor: 1.0,
    float: Float::BF16,
};

#[test]
fn permute_takes_each_choice_once() {
    for (tokens, k, experts, width) in
        [(1, 1, 1, 1), (32, 8, 256, 7168), (41, 3, 33, 17), (5000, 8, 128, 40_000), (2, 256, 4, 2)]
    {
        for (cores, float) in machines() {
            let plan = permute::plan(PermuteShape { tokens, k, experts, width, float }, cores).unwrap();
            let (t, blocks) = (plan.tiling, plan.blocks);
            let what = format!("{tokens} tokens of {k} of {experts} experts on {cores} cores: {t:?}");
            assert_covers(&what, tokens, (0..blocks).flat_map(|b| tiles(share(tokens, blocks, b), t.batch as usize)));
            assert_covers(&what, t.width as usize, tiles(0..t.width as usize, t.chunk as usize));
            assert!(t.width as usize * 2 == width * float.size() && permute::footprint(&t) <= LOCAL, "{what}");
            assert!(plan.workspace >= blocks * experts * 4 && plan.workspace.is_multiple_of(BLOCK), "{what}");
        }
    }
    let refusal =
        permute::plan(PermuteShape { tokens: 1, k: 257, experts: 300, width: 8, float: Float::F16 }, 40).unwrap_err();
    assert!(refusal.contains("at most 256"), "{refusal}");
}

#[test]
fn unpermute_takes_each_element_once() {
    for (tokens, k, width) in [(1, 8, 7168), (32, 8, 7168), (41, 3, 17), (3, 1, 4097), (1000, 6, 300)] {
        for (cores, float) in machines() {
            let plan = unpermute::plan(UnpermuteShape { tokens, k, width, float }, cores).unwrap();
            let (t, blocks) = (plan.tiling, plan.blocks);
            let (chunk, chunks) = (t.chunk as usize, t.chunks as usize);
            let what = format!("{tokens} tokens of {width} on {cores} cores: {t:?}");
            let pieces = (0..blocks).flat_map(|block| share(tokens * chunks, blocks, block)).map(|piece| {
                let start = piece % chunks * chunk;
                piece / chunks * width + start..piece / chunks * width + (start + chunk).min(width)
            });
            assert_covers(&what, tokens * width, pieces);
            assert!(unpermute::footprint(&t, float) <= LOCAL && chunk * float.size() % BLOCK == 0, "{what}");
        }
    }
    assert!(unpermute::plan(UnpermuteShape { tokens: 1, k: 0, width: 8, float: Float::F16 }, 40).is_err());
}

#[test]
fn rotary_cache_takes_each_head_once() {
    for (batch, tokens, heads, kv_heads, width) in
        [(1, 1, 28, 4, 128), (3, 5, 4, 4, 64), (2, 700, 32, 8, 256), (1, 1, 1, 1, 16)]
    {
        for (cores, float) in machines() {
            let shape = RotaryCacheShape { batch, tokens, heads, kv_heads, width, float, ..ROTARY };
            let plan = rotary_cache::plan(shape, cores).unwrap();
            let (t, blocks, all) = (plan.tiling, plan.blocks, heads + 2 * kv_heads);
            let (rows, per_token) = (t.rows as usize, t.pieces as usize);
            let what = format!("{shape:?} on {cores} cores: {t:?}");
            let pieces = (0..blocks).flat_map(|block| share(batch * tokens * per_token, blocks, block)).map(|piece| {
                let first = piece % per_token * rows;
                piece / per_token * all + first..piece / per_token * all + (first + rows).min(all)
            });
            assert_covers(&what, batch * tokens * all, pieces);
            assert!(rotary_cache::footprint(rows, width, float.size()) <= LOCAL && rows <= REPEATS, "{what}");
        }
    }
    let refusal = rotary_cache::plan(RotaryCacheShape { width: 72, ..ROTARY }, 40).unwrap_err();
    assert!(refusal.contains("multiples of 16"), "{refusal}");
}

const ROTARY: RotaryCacheShape = RotaryCacheShape {
    batch: 1,
    tokens: 1,
    heads: 1,
    kv_heads: 1,
    width: 64,
    capacity: 1024,
    table_width: 256,
    apart: false,
    norm: Some(1e-6),
    float: Float::BF16,
};
