//! The kernels with matrix products on the twin against plain loops in F64, in shapes that fill no tile.

#[allow(dead_code, reason = "other tests use the rest")]
mod support;

use ascend_kernels::flash::reference::attention;
use ascend_kernels::flash::{Strides, footprint as flash_footprint};
use ascend_kernels::flash_attention::{self, FlashAttentionShape};
use ascend_kernels::grouped_matmul::{self, GroupedMatmulShape, reference};
use ascend_kernels::plan::Float;
use support::{Numbers, Numeric, Table, bytes_of, run};

const CORES: usize = 20;
const SIXTEEN_BITS: [Float; 2] = [Float::F16, Float::BF16];

fn ends_of(counts: &[usize]) -> Vec<i64> {
    counts
        .iter()
        .scan(0, |end, count| {
            *end += *count as i64;
            Some(*end)
        })
        .collect()
}

/// The kernel's product of groups of these sizes, and what it should be.
fn grouped(float: Float, counts: &[usize], inner: usize, columns: usize, swiglu: bool) -> (Vec<f64>, Vec<f64>) {
    let (rows, experts) = (counts.iter().sum::<usize>(), counts.len());
    let mut numbers = Numbers::new(rows * inner + columns);
    let x = numbers.rounded(float, rows * inner, 1.0);
    let height = if swiglu { 2 * columns } else { columns };
    let weight = numbers.rounded(float, experts * height * inner, 1.0 / (inner as f64).sqrt());
    let ends = ends_of(counts);
    let launch =
        grouped_matmul::launch(GroupedMatmulShape { rows, inner, columns, experts, float, swiglu }, CORES).unwrap();
    let inputs = [float.bytes(&x), float.bytes(&weight), bytes_of(&ends)];
    let [y] = run(&launch, inputs, [vec![0x7f; rows * columns * float.size()]]).unwrap();
    let product = if swiglu { reference::grouped_matmul_swiglu } else { reference::grouped_matmul };
    (product(&x, &weight, &ends, [inner, columns]), float.numbers(&y))
}

#[test]
fn grouped_matmul_matches_loops() {
    let mut table = Table::new("grouped_matmul");
    for float in Float::ALL {
        // A lone row; experts without rows, at both ends too; groups of more than a tile; several tiles of columns; an
        // inner width that no block divides.
        let cases: [(&[usize], usize, usize); 5] = [
            (&[1], 16, 16),
            (&[0, 5, 0, 31, 1, 0], 70, 50),
            (&[130, 0, 3], 40, 300),
            (&[2, 1], 600, 24),
            (&[16, 16], 1, 1),
        ];
        for (counts, inner, columns) in cases {
            let (wanted, got) = grouped(float, counts, inner, columns, false);
            // Products of a row of `inner` numbers added up in F32, in another order.
            table.compare(float, &wanted, &got, 1e-6);
        }
    }
    table.print();
}

#[test]
fn grouped_matmul_swiglu_matches_loops() {
    let mut table = Table::new("grouped_matmul_swiglu");
    for float in Float::ALL {
        let cases: [(&[usize], usize, usize); 4] =
            [(&[1], 16, 16), (&[5, 0, 31, 1], 70, 48), (&[130, 0, 7], 40, 272), (&[0, 2], 300, 128)];
        for (counts, inner, columns) in cases {
            let (wanted, got) = grouped(float, counts, inner, columns, true);
            // As above, through an exponential and a division; rounded once.
            table.compare(float, &wanted, &got, 3e-6);
        }
    }
    table.print();
}

#[test]
fn groups_that_end_beyond_the_rows_read_nothing_else() {
    let float = Float::F16;
    let shape = GroupedMatmulShape { rows: 4, inner: 16, columns: 16, experts: 3, float, swiglu: false };
    let launch = grouped_matmul::launch(shape, CORES).unwrap();
    let x = vec![1.0; 4 * 16];
    let weight: Vec<f64> = (0..3 * 16 * 16).map(|i| (i / 256 + 1) as f64).collect();
    // The second group ends before the first, the third after the last row.
    let inputs = [float.bytes(&x), float.bytes(&weight), bytes_of(&[2i64, 1, 99])];
    let [y] = run(&launch, inputs, [vec![0; 4 * 16 * 2]]).unwrap();
    assert_eq!(float.numbers(&y), [[16.0; 32], [48.0; 32]].concat());
}

#[test]
fn tiles_of_grouped_matmul_fit_the_memories() {
    let sizes = [1, 15, 16, 17, 100, 128, 129, 1000, 7168, 65535];
    for (rows, inner) in sizes.iter().flat_map(|rows| sizes.map(|inner| (*rows, inner))) {
        for (columns, float) in [1, 16, 48, 128, 250, 4096].into_iter().flat_map(|c| Float::ALL.map(|f| (c, f))) {
            for swiglu in [false, true] {
                let shape = GroupedMatmulShape { rows, inner, columns, experts: 7, float, swiglu };
                let plan = match grouped_matmul::plan(shape, CORES) {
                    Ok(plan) => plan,
                    Err(said) => {
                        assert!(swiglu && columns % 16 != 0, "{shape:?}: {said}");
                        continue;
                    }
                };
                for used in grouped_matmul::footprint(&plan.tiling, &shape) {
                    assert!(used.bytes <= used.of, "{shape:?} takes {used:?}");
                }
                let t = &plan.tiling;
                assert!(t.tile_rows % 16 == 0 && t.tile_columns % 16 == 0, "{t:?}: whole fractals");
                assert!(
                    t.depth_l1 % t.depth_l0 == 0 && (t.depth_l0 as usize * float.size()).is_multiple_of(32),
                    "{t:?}: whole blocks"
                );
                assert!((1..=CORES).contains(&plan.blocks));
            }
        }
    }
}

#[test]
fn grouped_matmul_says_what_it_takes() {
    let shape =
        GroupedMatmulShape { rows: 4, inner: 65_536, columns: 24, experts: 1, float: Float::F16, swiglu: false };
    let said = |shape| grouped_matmul::launch(shape, CORES).unwrap_err();
    assert!(said(shape).contains("65535"), "{}", said(shape));
    let gate = GroupedMatmulShape { inner: 64, swiglu: true, ..shape };
    assert!(said(gate).contains("multiples of 16"), "{}", said(gate));
    assert!(said(GroupedMatmulShape { rows: 0, ..gate }).contains("empty"));
}

/// Sequences of these numbers of queries and keys, heads and key heads, and the widths of keys and values.
struct Attend<'a> {
    lengths: &'a [(usize, usize)],
    heads: (usize, usize),
    widths: [usize; 2],
    /// The keys before the first query, where there is a mask and lengths are the same.
    causal: Option<i32>,
    ragged: bool,
}

impl Attend<'_> {
    /// What the kernel gives for [tokens, heads, width] tensors, and what it should.
    fn both(&self, float: Float) -> (Vec<f64>, Vec<f64>) {
        let (heads, key_heads) = self.heads;
        let [width, value_width] = self.widths;
        let (queries, keys): (Vec<_>, Vec<_>) = self.lengths.iter().copied().unzip();
        let (all_queries, all_keys) = (queries.iter().sum::<usize>(), keys.iter().sum::<usize>());
        let mut numbers = Numbers::new(all_queries * 7 + all_keys + width);
        let q = numbers.rounded(float, all_queries * heads * width, 2.0);
        let k = numbers.rounded(float, all_keys * key_heads * width, 2.0);
        let v = numbers.rounded(float, all_keys * key_heads * value_width, 1.0);
        let scale = 1.0 / (width as f32).sqrt();
        let of = |heads, width, rows| Strides {
            batch: if self.ragged { 0 } else { rows * heads * width },
            head: width,
            row: heads * width,
        };
        let most = |lengths: &[usize]| lengths.iter().copied().max().unwrap_or(0);
        let (longest, most_keys) = (most(&queries), most(&keys));
        let shape = FlashAttentionShape {
            batch: self.lengths.len(),
            heads,
            key_heads,
            queries: longest,
            keys: most_keys,
            width,
            value_width,
            strides: [
                of(heads, width, longest),
                of(key_heads, width, most_keys),
                of(key_heads, value_width, most_keys),
                of(heads, value_width, longest),
            ],
            ragged: self.ragged,
            causal: self.causal,
            scale,
            float,
        };
        let launch = flash_attention::launch(&shape, CORES).unwrap();
        let starts = |lengths: &[usize]| [vec![0], ends_of(lengths)].concat();
        let inputs =
            [float.bytes(&q), float.bytes(&k), float.bytes(&v), bytes_of(&[starts(&queries), starts(&keys)].concat())];
        let [y] = run(&launch, inputs, [vec![0x7f; all_queries * heads * value_width * 2]]).unwrap();
        let mut wanted = vec![0.0; all_queries * heads * value_width];
        let (mut first, mut first_key) = (0, 0);
        for &(queries, keys) in self.lengths {
            let offset = if self.ragged { keys as i32 - queries as i32 } else { self.causal.unwrap_or(0) };
            for head in 0..heads {
                let of_key = head / (heads / key_heads);
                let pick =
                    |x: &[f64], heads: usize, head: usize, width: usize, rows: std::ops::Range<usize>| -> Vec<f64> {
                        rows.flat_map(|row| x[(row * heads + head) * width..][..width].to_vec()).collect()
                    };
                let q = pick(&q, heads, head, width, first..first + queries);
                let k = pick(&k, key_heads, of_key, width, first_key..first_key + keys);
                let v = pick(&v, key_heads, of_key, value_width, first_key..first_key + keys);
                let visible =
                    |i: usize| if self.causal.is_some() { (i as i32 + offset + 1).max(0) as usize } else { keys };
                let y = attention(&q, &k, &v, self.widths, f64::from(scale), visible);
                for (row, y) in y.chunks(value_width).enumerate() {
                    wanted[((first + row) * heads + head) * value_width..][..value_width].copy_from_slice(y);
                }
            }
            first += queries;
            first_key += keys;
        }
        (wanted, float.numbers(&y))
    }
}

/// Weights are rounded to the type before they meet the values. Errors of n weights cancel as the values do, so that what is
/// left is a rounding of the root mean square of the results; of thousands of results the worst is some three times that.
fn slack(float: Float) -> f64 {
    3.0 * float.roundoff()
}

#[test]
fn flash_attention_matches_loops() {
    let mut table = Table::new("flash_attention");
    let uniform = |lengths, heads, widths, causal| Attend { lengths, heads, widths, causal, ragged: false };
    for float in SIXTEEN_BITS {
        let cases = [
            uniform(&[(1, 1)], (1, 1), [64, 64], None),
            uniform(&[(5, 7), (5, 7)], (2, 1), [64, 64], None),
            // A prefix before the queries; keys of more than a step; keys and values of several widths.
            uniform(&[(33, 77)], (4, 2), [128, 128], Some(44)),
            uniform(&[(130, 700)], (1, 1), [192, 128], Some(570)),
            uniform(&[(20, 530)], (2, 2), [256, 256], None),
            uniform(&[(17, 90)], (3, 1), [16, 48], Some(73)),
            // The first queries see no key.
            uniform(&[(40, 20)], (1, 1), [64, 64], Some(-20)),
            Attend {
                lengths: &[(1, 1), (0, 5), (17, 17), (3, 600), (130, 130), (2, 0), (140, 20)],
                heads: (4, 2),
                widths: [64, 64],
                causal: Some(0),
                ragged: true,
            },
        ];
        for case in cases {
            let (wanted, got) = case.both(float);
            table.compare(float, &wanted, &got, slack(float));
        }
    }
    table.print();
}

#[test]
fn tiles_of_attention_fit_the_memories() {
    for (width, value_width) in (16..=576).step_by(16).flat_map(|w| (16..=512).step_by(16).map(move |v| (w, v))) {
        for used in flash_footprint(width, value_width) {
            assert!(used.bytes <= used.of, "widths {width} and {value_width} take {used:?}");
        }
    }
}

#[test]
fn flash_attention_says_what_it_takes() {
    let strides = [Strides::of([2, 8, 64]); 4];
    let shape = FlashAttentionShape {
        batch: 1,
        heads: 2,
        key_heads: 2,
        queries: 8,
        keys: 8,
        width: 64,
        value_width: 64,
        strides,
        ragged: false,
        causal: None,
        scale: 0.125,
        float: Float::BF16,
    };
    assert!(flash_attention::launch(&shape, CORES).is_ok());
    let refused = [
        (FlashAttentionShape { width: 640, ..shape }, "up to 576"),
        (FlashAttentionShape { value_width: 576, ..shape }, "up to 512"),
        (FlashAttentionShape { value_width: 40, ..shape }, "multiples of 16"),
        (FlashAttentionShape { key_heads: 3, ..shape }, "multiple of the key heads"),
        (FlashAttentionShape { scale: -1.0, ..shape }, "positive"),
        (FlashAttentionShape { float: Float::F32, ..shape }, "F16 and BF16"),
        (FlashAttentionShape { strides: [Strides { row: 70_000, ..strides[0] }; 4], ..shape }, "65535"),
    ];
    for (shape, word) in refused {
        let said = flash_attention::launch(&shape, CORES).unwrap_err();
        assert!(said.contains(word), "{said}");
    }
}
