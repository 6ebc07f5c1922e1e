//! The vector kernels on the twin against plain loops in F64, in shapes that fill no tile: one row, widths that are no
//! whole blocks, more cores than rows.

mod support;

use ascend_kernels::add_rms_norm::{self, AddRmsNormShape};
use ascend_kernels::gating::{self, GatingShape};
use ascend_kernels::permute::{self, PermuteShape};
use ascend_kernels::plan::Float;
use ascend_kernels::rotary_cache::{self, RotaryCacheShape};
use ascend_kernels::unpermute::{self, UnpermuteShape};
use support::{Numbers, Numeric, Table, bytes_of, i64s, run, u32s};

const CORES: usize = 40;

#[test]
fn add_rms_norm_matches_loops() {
    let mut table = Table::new("add_rms_norm");
    for float in Float::ALL {
        // A lone element; short rows in tiles with a rest; rows of no whole blocks; a row that fits and one that is split.
        for (rows, width) in [(1, 1), (100, 128), (43, 17), (3, 7168), (2, 16_500), (41, 72)] {
            let mut numbers = Numbers::new(rows * width);
            let [x, residual] = [(); 2].map(|_| numbers.rounded(float, rows * width, 3.0));
            let weight = numbers.rounded(float, width, 1.5);
            let shape = AddRmsNormShape { rows, width, float, epsilon: 1e-5 };
            let launch = add_rms_norm::launch(shape, CORES).unwrap();
            let none = vec![0; rows * width * float.size()];
            let inputs = [&x, &residual, &weight].map(|x| float.bytes(x));
            let out = run(&launch, inputs, [none.clone(), none]).unwrap();
            let (y, sum) = add_rms_norm::reference::add_rms_norm((&x, &residual, &weight), 1e-5, |x| float.round(x));
            table.compare(float, &sum, &float.numbers(&out[1]), 0.0);
            // Pairwise sums of squares in F32 and one rounding of each step of the rest.
            table.compare(float, &y, &float.numbers(&out[0]), 2e-6);
        }
    }
    table.print();
}

/// Logits whose order no rounding changes: a shuffled ladder, of steps that bf16 keeps apart.
fn ladder(numbers: &mut Numbers, experts: usize) -> Vec<f64> {
    let mut ladder: Vec<f64> = (0..experts).map(|i| (i as f64 - experts as f64 / 2.0) / 32.0).collect();
    numbers.shuffle(&mut ladder);
    ladder
}

#[test]
fn gating_softmax_matches_loops() {
    let mut table = Table::new("gating_softmax");
    for float in Float::ALL {
        let shapes = [(1, 1, 1, true), (1, 33, 8, true), (67, 128, 8, true), (90, 60, 6, false), (3, 256, 1, true)];
        for (tokens, experts, k, renormalise) in shapes.into_iter().chain([(2, 256, 64, false), (200, 31, 2, false)]) {
            let mut numbers = Numbers::new(tokens + experts);
            let logits: Vec<f64> = (0..tokens).flat_map(|_| ladder(&mut numbers, experts)).collect();
            let (weights, chosen) = softmax_of(float, (tokens, experts, k, renormalise), &logits);
            let wanted = logits.chunks(experts).map(|row| gating::reference::softmax(row, k, renormalise));
            let (wanted_weights, wanted_experts): (Vec<_>, Vec<_>) = wanted.unzip();
            assert_eq!(chosen, wanted_experts.concat(), "{tokens} tokens, {k} of {experts}");
            // The exponential's error, and that of a sum of `experts` of them.
            table.compare(Float::F32, &wanted_weights.concat(), &weights, 3e-6);
        }
    }
    table.print();
}

fn gating_shape(
    float: Float,
    [tokens, experts, k]: [usize; 3],
    [groups, kept_groups]: [usize; 2],
    sigmoid: bool,
) -> GatingShape {
    let (has_bias, renormalise, factor) = (false, true, 1.0);
    GatingShape { tokens, experts, k, groups, kept_groups, sigmoid, has_bias, renormalise, factor, float }
}

fn softmax_of(
    float: Float,
    (tokens, experts, k, renormalise): (usize, usize, usize, bool),
    logits: &[f64],
) -> (Vec<f64>, Vec<u32>) {
    let shape = GatingShape { renormalise, ..gating_shape(float, [tokens, experts, k], [1, 1], false) };
    let launch = gating::launch(shape, CORES).unwrap();
    let results = [vec![0; tokens * k * 4], vec![0; tokens * k * 4]];
    let out = run(&launch, [float.bytes(logits)], results).unwrap();
    (Float::F32.numbers(&out[0]), u32s(&out[1]))
}

#[test]
fn equal_logits_choose_the_first() {
    let (weights, chosen) = softmax_of(Float::BF16, (2, 70, 5, true), &[1.0; 140]);
    assert_eq!(chosen, [0, 1, 2, 3, 4, 0, 1, 2, 3, 4]);
    assert!(weights.iter().all(|w| (w - 0.2).abs() < 1e-6), "{weights:?}");
}

#[test]
fn gating_sigmoid_matches_loops() {
    let mut table = Table::new("gating_sigmoid");
    for float in Float::ALL {
        let shapes = [(32, 256, 8, 8, 4), (5, 60, 6, 12, 3), (1, 1, 1, 1, 1), (90, 64, 6, 1, 1), (41, 129, 4, 3, 2)];
        for (tokens, experts, k, groups, kept_groups) in
            shapes.into_iter().chain([(3, 12, 2, 12, 5), (2, 160, 6, 2, 1)])
        {
            for has_bias in [false, true] {
                let mut numbers = Numbers::new(tokens + experts + k);
                let logits: Vec<f64> = (0..tokens).flat_map(|_| ladder(&mut numbers, experts)).collect();
                // Steps of a bias far larger than what scores differ by in a rounding, far smaller than between steps.
                let bias: Vec<f64> = (0..experts).map(|i| (i * 7 % experts) as f64 / 4096.0).collect();
                let bias = if has_bias { bias } else { Vec::new() };
                let flags = (true, 2.5);
                let plain = gating_shape(float, [tokens, experts, k], [groups, kept_groups], true);
                let shape = GatingShape { has_bias, factor: 2.5, ..plain };
                let launch = gating::launch(shape, CORES).unwrap();
                let results = [vec![0; tokens * k * 4], vec![0; tokens * k * 4]];
                let inputs = [float.bytes(&logits), Float::F32.bytes(&bias)];
                let out = run(&launch, inputs, results).unwrap();
                let of_row = |row| gating::reference::sigmoid(row, &bias, k, [groups, kept_groups], flags);
                let (weights, chosen): (Vec<_>, Vec<_>) = logits.chunks(experts).map(of_row).unzip();
                assert_eq!(u32s(&out[1]), chosen.concat(), "{shape:?}");
                table.compare(Float::F32, &weights.concat(), &Float::F32.numbers(&out[0]), 2e-6);
            }
        }
    }
    table.print();
}

#[test]
fn permute_and_unpermute_match_loops() {
    let mut table = Table::new("unpermute");
    for float in Float::ALL {
        // One token; fewer tokens than cores; batches with a rest; experts without rows; rows in several chunks.
        for (tokens, k, experts, width) in
            [(1, 1, 1, 1), (7, 3, 33, 17), (300, 8, 16, 40), (50, 2, 5, 128), (3, 2, 256, 20_000)]
        {
            let mut numbers = Numbers::new(tokens * width);
            let x = numbers.rounded(float, tokens * width, 2.0);
            let chosen: Vec<u32> = (0..tokens * k).map(|_| numbers.below(experts.min(20)) as u32).collect();
            let launch = permute::launch(PermuteShape { tokens, k, experts, width, float }, CORES).unwrap();
            let results = [tokens * k * width * float.size(), tokens * k * 4, experts * 8];
            let out = run(&launch, [float.bytes(&x), bytes_of(&chosen)], results.map(|bytes| vec![0; bytes])).unwrap();
            let (order, places, ends) = permute::reference::permute(&chosen, experts);
            assert_eq!((u32s(&out[1]), i64s(&out[2])), (places.clone(), ends));
            let rows: Vec<f64> = order.iter().flat_map(|&i| x[i as usize / k * width..][..width].to_vec()).collect();
            assert!(float.numbers(&out[0]) == rows, "{tokens} tokens of {k} of {experts}, rows of {width} {float:?}");

            let weights = numbers.rounded(Float::F32, tokens * k, 1.0);
            let launch = unpermute::launch(UnpermuteShape { tokens, k, width, float }, CORES).unwrap();
            let inputs = [out[0].clone(), out[1].clone(), Float::F32.bytes(&weights)];
            let out = run(&launch, inputs, [vec![0; tokens * width * float.size()]]).unwrap();
            let wanted = unpermute::reference::unpermute(&rows, &places, &weights, k, width);
            // k products and sums in F32, of terms that may cancel.
            table.compare(float, &wanted, &float.numbers(&out[0]), 5e-7);
        }
    }
    table.print();
}

#[test]
fn a_logit_that_is_no_number_stops_the_kernel() {
    let softmax = gating_shape(Float::F32, [3, 40, 4], [1, 1], false);
    for shape in [softmax, GatingShape { groups: 4, kept_groups: 2, sigmoid: true, ..softmax }] {
        let mut logits = ladder(&mut Numbers::new(1), 40).repeat(3);
        logits[45] = f64::NAN;
        let mut inputs = vec![Float::F32.bytes(&logits)];
        inputs.extend(shape.sigmoid.then(Vec::new));
        let launch = gating::launch(shape, CORES).unwrap();
        let fault = run(&launch, inputs, [vec![0; 48], vec![0; 48]]).unwrap_err();
        assert!(fault.contains("Trap") && fault.contains("gating.h"), "{fault}");
    }
}

#[test]
fn an_expert_out_of_range_stops_the_kernel() {
    let launch =
        permute::launch(PermuteShape { tokens: 2, k: 2, experts: 4, width: 16, float: Float::BF16 }, CORES).unwrap();
    let results = [4 * 32, 16, 32].map(|bytes| vec![0; bytes]);
    let fault = run(&launch, [vec![0; 64], bytes_of(&[0u32, 3, 4, 1])], results).unwrap_err();
    assert!(fault.contains("Trap") && fault.contains("permute.cpp"), "{fault}");
}

#[test]
fn rotary_cache_matches_loops() {
    let mut table = Table::new("rotary_cache");
    for float in Float::ALL {
        // A decoded token; a batch of several tokens whose tables differ; heads that are no power of two; one core.
        let shapes =
            [(1, 1, 28, 4, 128, true), (3, 5, 4, 2, 64, true), (2, 3, 2, 2, 16, false), (2, 1, 6, 3, 192, true)];
        for (batch, tokens, heads, kv_heads, width, apart) in shapes {
            for norm in [None, Some(1e-6)] {
                let (capacity, all, element) = (tokens + 20, heads + 2 * kv_heads, float.size());
                let mut numbers = Numbers::new(batch * tokens * heads);
                let qkv = numbers.rounded(float, batch * tokens * all * width, 2.0);
                let table_rows = if apart { batch * tokens } else { tokens };
                let [cos, sin] = [(); 2].map(|_| numbers.rounded(float, table_rows * width, 1.0));
                let [q_weight, k_weight] = [(); 2].map(|_| numbers.rounded(float, width, 1.5));
                let positions: Vec<i64> = (0..batch).map(|_| numbers.below(20) as i64).collect();
                let shape = RotaryCacheShape {
                    batch,
                    tokens,
                    heads,
                    kv_heads,
                    width,
                    capacity,
                    table_width: width,
                    apart,
                    norm,
                    float,
                };
                let launch = rotary_cache::launch(shape, CORES).unwrap();
                let inputs = [&qkv, &cos, &sin].map(|x| float.bytes(x)).into_iter();
                let inputs = inputs.chain([bytes_of(&positions), float.bytes(&q_weight), float.bytes(&k_weight)]);
                let cache = vec![0u8; batch * kv_heads * capacity * width * element];
                let queries = vec![0u8; batch * tokens * heads * width * element];
                let out = run(&launch, inputs.collect::<Vec<_>>(), [queries, cache.clone(), cache]).unwrap();

                let mut wanted =
                    [vec![0.0; batch * tokens * heads * width], vec![0.0; batch * kv_heads * capacity * width]];
                let mut values = wanted[1].clone();
                for (row, head) in qkv.chunks(width).enumerate() {
                    let (token, head_index) = (row / all, row % all);
                    let (sequence, at) = (token / tokens, token % tokens);
                    let table_row = if apart { token } else { at } * width;
                    let tables = (&cos[table_row..][..width], &sin[table_row..][..width]);
                    let weight = if head_index < heads { &q_weight } else { &k_weight };
                    let norm = norm.map(|epsilon| (&weight[..], f64::from(epsilon)));
                    let turned = || rotary_cache::reference::turned(head, tables, norm, |x| float.round(x));
                    let slot = |kv_head: usize| {
                        ((sequence * kv_heads + kv_head) * capacity + positions[sequence] as usize + at) * width
                    };
                    if head_index < heads {
                        wanted[0][(token * heads + head_index) * width..][..width].copy_from_slice(&turned());
                    } else if head_index < heads + kv_heads {
                        wanted[1][slot(head_index - heads)..][..width].copy_from_slice(&turned());
                    } else {
                        values[slot(head_index - heads - kv_heads)..][..width].copy_from_slice(head);
                    }
                }
                // Where a norm is rounded first, one step of its type may fall the other way.
                let slack = if norm.is_some() { 2.0 * float.roundoff() + 1e-6 } else { 1e-6 };
                table.compare(float, &wanted[0], &float.numbers(&out[0]), slack);
                table.compare(float, &wanted[1], &float.numbers(&out[1]), slack);
                table.compare(float, &values, &float.numbers(&out[2]), 0.0);
            }
        }
    }
    table.print();
}

#[test]
fn a_position_outside_of_the_cache_stops_the_kernel() {
    let shape = RotaryCacheShape {
        batch: 1,
        tokens: 1,
        heads: 1,
        kv_heads: 1,
        width: 16,
        capacity: 4,
        table_width: 16,
        apart: false,
        norm: None,
        float: Float::F32,
    };
    let launch = rotary_cache::launch(shape, CORES).unwrap();
    for position in [4i64, -1] {
        let inputs = vec![vec![0; 192], vec![0; 64], vec![0; 64], bytes_of(&[position]), vec![0; 64], vec![0; 64]];
        let fault = run(&launch, inputs, [vec![0; 64], vec![0; 256], vec![0; 256]]).unwrap_err();
        assert!(fault.contains("Trap") && fault.contains("rotary_cache.cpp"), "{fault}");
    }
}
