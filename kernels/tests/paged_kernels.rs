//! The decode kernels on the twin against plain loops in F64: sequences of many lengths over blocks in no order.

#[allow(dead_code, reason = "other tests use the rest")]
mod support;

use ascend_kernels::flash::{self, Strides, reference::attention};
use ascend_kernels::mla_decode::{self, MlaShape};
use ascend_kernels::paged::{self, PagedShape};
use ascend_kernels::paged_decode;
use ascend_kernels::plan::Float;
use support::{Numbers, Numeric, Table, bytes_of, run};

const CORES: usize = 20;
const SIXTEEN_BITS: [Float; 2] = [Float::F16, Float::BF16];

/// A pool with more blocks than are used, and a table of them in no order. Entries behind a sequence's end lie outside.
fn table_of(lengths: &[usize], block_size: usize, numbers: &mut Numbers) -> (usize, usize, Vec<u32>) {
    let used: Vec<usize> = lengths.iter().map(|length| length.div_ceil(block_size)).collect();
    let (blocks, width) = (used.iter().sum::<usize>() + 3, used.iter().copied().max().unwrap_or(0).max(1));
    let mut order: Vec<f64> = (0..blocks).map(|block| block as f64).collect();
    numbers.shuffle(&mut order);
    let mut next = order.into_iter();
    let row = |used: &usize| -> Vec<u32> {
        let own: Vec<u32> = next.by_ref().take(*used).map(|block| block as u32).collect();
        own.into_iter().chain(std::iter::repeat(u32::MAX)).take(width).collect()
    };
    let table = used.iter().map(row).collect::<Vec<_>>().concat();
    (blocks, width, table)
}

/// Rows of `columns` columns for head `head` of a pool [blocks, heads, block_size, width], in a sequence's order.
fn rows_of(
    pool: &[f64],
    table: &[u32],
    shape: &PagedShape,
    head: usize,
    length: usize,
    columns: usize,
    s: Strides,
) -> Vec<f64> {
    let row = |token: usize| {
        let block = table[token / shape.block_size] as usize;
        let at = block * s.batch + head * s.head + token % shape.block_size * s.row;
        pool[at..at + columns].to_vec()
    };
    (0..length).flat_map(row).collect()
}

/// What each sequence's heads should be.
fn wanted(q: &[f64], k: &[f64], v: &[f64], table: &[u32], lengths: &[usize], shape: &PagedShape) -> Vec<f64> {
    let mut y = Vec::new();
    for (sequence, &length) in lengths.iter().enumerate() {
        let table = &table[sequence * shape.table_width..];
        for head in 0..shape.heads {
            let of_key = head / (shape.heads / shape.key_heads);
            let keys = rows_of(k, table, shape, of_key, length, shape.width, shape.k);
            let values = rows_of(v, table, shape, of_key, length, shape.value_width, shape.v);
            let query = &q[sequence * shape.q[0] + head * shape.q[1]..][..shape.width];
            let widths = [shape.width, shape.value_width];
            y.extend(attention(query, &keys, &values, widths, f64::from(shape.scale), |_| length));
        }
    }
    y
}

fn words(numbers: &[usize]) -> Vec<u32> {
    numbers.iter().map(|x| *x as u32).collect()
}

/// Weights are rounded to the type before they meet the values, as in flash_attention.
fn slack(float: Float) -> f64 {
    3.0 * float.roundoff()
}

#[test]
fn paged_decode_matches_loops() {
    let mut table = Table::new("paged_decode");
    // A lone key; an empty sequence; lengths of no whole block; one long sequence, which all cores share; blocks of several
    // sizes; heads of their own and shared ones.
    /// Lengths, heads and those that share, widths, and tokens of a block.
    type Case = (&'static [usize], (usize, usize), [usize; 2], usize);
    let cases: [Case; 6] = [
        (&[1], (1, 1), [64, 64], 16),
        (&[5, 0, 37, 129], (4, 2), [64, 64], 16),
        (&[500, 1, 400], (8, 2), [128, 128], 128),
        (&[1500], (2, 1), [64, 64], 32),
        (&[33], (3, 3), [192, 128], 48),
        (&[900, 10], (6, 3), [32, 256], 64),
    ];
    for float in SIXTEEN_BITS {
        for (lengths, (heads, key_heads), [width, value_width], block_size) in cases {
            let mut numbers = Numbers::new(lengths[0] * heads + width);
            let (blocks, table_width, entries) = table_of(lengths, block_size, &mut numbers);
            let shape = PagedShape {
                batch: lengths.len(),
                heads,
                key_heads,
                width,
                value_width,
                blocks,
                block_size,
                table_width,
                longest: lengths.iter().copied().max().unwrap_or(0),
                q: [heads * width, width],
                y: [heads * value_width, value_width],
                k: Strides::of([key_heads, block_size, width]),
                // Tokens outside of heads, as a cache written row by row has them.
                v: Strides {
                    batch: block_size * key_heads * value_width,
                    head: value_width,
                    row: key_heads * value_width,
                },
                scale: 1.0 / (width as f32).sqrt(),
            };
            let q = numbers.rounded(float, lengths.len() * heads * width, 2.0);
            let k = numbers.rounded(float, blocks * shape.k.batch, 2.0);
            let v = numbers.rounded(float, blocks * shape.v.batch, 1.0);
            let launch = paged_decode::launch(&shape, float, CORES).unwrap();
            let inputs =
                [float.bytes(&q), float.bytes(&k), float.bytes(&v), bytes_of(&entries), bytes_of(&words(lengths))];
            let [y] = run(&launch, inputs, [vec![0x7f; lengths.len() * heads * value_width * 2]]).unwrap();
            let wanted = wanted(&q, &k, &v, &entries, lengths, &shape);
            table.compare(float, &wanted, &float.numbers(&y), slack(float));
        }
    }
    table.print();
}

fn mla(
    lengths: &[usize],
    heads: usize,
    [width, latent]: [usize; 2],
    block_size: usize,
    float: Float,
) -> (Vec<f64>, Vec<f64>) {
    let mut numbers = Numbers::new(lengths[0] * heads + width);
    let (blocks, table_width, entries) = table_of(lengths, block_size, &mut numbers);
    let longest = lengths.iter().copied().max().unwrap_or(0);
    let scale = 1.0 / (width as f32).sqrt();
    let shape =
        MlaShape { batch: lengths.len(), heads, width, latent, blocks, block_size, table_width, longest, scale };
    let q = numbers.rounded(float, lengths.len() * heads * width, 2.0);
    let cache = numbers.rounded(float, blocks * block_size * width, 1.0);
    let launch = mla_decode::launch(&shape, float, CORES).unwrap();
    let inputs = [float.bytes(&q), float.bytes(&cache), bytes_of(&entries), bytes_of(&words(lengths))];
    let [y] = run(&launch, inputs, [vec![0x7f; lengths.len() * heads * latent * 2]]).unwrap();
    let wanted = wanted(&q, &cache, &cache, &entries, lengths, &mla_decode::paged(&shape));
    (wanted, float.numbers(&y))
}

#[test]
fn mla_decode_matches_loops() {
    let mut table = Table::new("mla_decode");
    for float in SIXTEEN_BITS {
        let cases: [(&[usize], usize, [usize; 2], usize); 4] = [
            (&[1], 1, [576, 512], 16),
            (&[100, 0, 430], 16, [576, 512], 16),
            (&[800], 128, [320, 256], 128),
            (&[5, 6], 3, [48, 32], 16),
        ];
        for (lengths, heads, widths, block_size) in cases {
            let (wanted, got) = mla(lengths, heads, widths, block_size, float);
            table.compare(float, &wanted, &got, slack(float));
        }
    }
    table.print();
}

#[test]
fn a_block_outside_of_the_pool_makes_its_sequence_no_number() {
    let float = Float::F16;
    let lengths = [20u32, 20];
    let shape = MlaShape {
        batch: 2,
        heads: 2,
        width: 32,
        latent: 16,
        blocks: 2,
        block_size: 32,
        table_width: 1,
        longest: 20,
        scale: 1.0,
    };
    let launch = mla_decode::launch(&shape, float, CORES).unwrap();
    let inputs =
        [float.bytes(&[0.5; 2 * 2 * 32]), float.bytes(&[0.25; 2 * 32 * 32]), bytes_of(&[2u32, 1]), bytes_of(&lengths)];
    let [y] = run(&launch, inputs, [vec![0; 2 * 2 * 16 * 2]]).unwrap();
    let y = float.numbers(&y);
    assert!(y[..32].iter().all(|x| x.is_nan()), "{y:?}");
    assert!(y[32..].iter().all(|x| *x == 0.25), "{y:?}");
    // Where the host has the table it says so before anything is launched.
    let said = paged::check_table("mla_decode", &[2, 1], &lengths, [2, 32, 1]).unwrap_err();
    assert!(said.contains("block 0 of sequence 0 is 2, and the pool has 2"), "{said}");
    let said = paged::check_table("mla_decode", &[0, 1], &[20, 33], [2, 32, 1]).unwrap_err();
    assert!(said.contains("33 tokens and only 1"), "{said}");
    assert!(paged::check_table("mla_decode", &[0, 1], &lengths, [2, 32, 1]).is_ok());
}

#[test]
fn parts_cover_every_key_once_and_use_every_core() {
    let shape = |batch, key_heads, longest| {
        let (width, block_size) = (128, 128);
        let table_width = usize::div_ceil(longest, block_size).max(1);
        let strides = Strides::of([key_heads, block_size, width]);
        let [heads, value_width, blocks] = [key_heads * 4, width, batch * table_width];
        let rows = [heads * width, width];
        PagedShape {
            batch,
            heads,
            key_heads,
            width,
            value_width,
            blocks,
            block_size,
            table_width,
            longest,
            q: rows,
            y: rows,
            k: strides,
            v: strides,
            scale: 0.1,
        }
    };
    for (batch, key_heads) in [(1, 1), (1, 4), (3, 2), (32, 8)] {
        for longest in [0, 1, 383, 384, 385, 4096, 100_000] {
            let plan = paged::plan("paged_decode", &shape(batch, key_heads, longest), CORES).unwrap();
            let t = &plan.tiling;
            assert!((t.part_keys as usize).is_multiple_of(flash::KEYS), "{t:?}: whole steps");
            let covered = (t.parts * t.part_keys) as usize;
            assert!(covered >= longest && covered - (t.part_keys as usize) < longest.max(1), "{t:?}: {longest} keys");
            assert!(paged::joining(t).bytes <= paged::joining(t).of, "{t:?}");
            assert!(plan.blocks <= CORES);
            let whole = longest.div_ceil(flash::KEYS).max(1) * batch * key_heads;
            // A core is left over only where parts of whole steps do not come out even.
            assert!(plan.blocks * 2 > CORES.min(whole), "{t:?}: {} blocks", plan.blocks);
        }
    }
    for used in flash::footprint(576, 512) {
        assert!(used.bytes <= used.of, "latent attention takes {used:?}");
    }
}

#[test]
fn decode_says_what_it_takes() {
    let shape = MlaShape {
        batch: 1,
        heads: 16,
        width: 576,
        latent: 512,
        blocks: 4,
        block_size: 64,
        table_width: 4,
        longest: 256,
        scale: 0.1,
    };
    assert!(mla_decode::launch(&shape, Float::BF16, CORES).is_ok());
    let refused = [
        (MlaShape { block_size: 8, ..shape }, "16 to 128"),
        (MlaShape { block_size: 256, ..shape }, "16 to 128"),
        (MlaShape { heads: 256, ..shape }, "128 a key head"),
        (MlaShape { width: 1024, ..shape }, "of 576"),
        (MlaShape { latent: 500, ..shape }, "multiples of 16"),
        (MlaShape { scale: 0.0, ..shape }, "positive"),
        (MlaShape { batch: 0, ..shape }, "0 sequences"),
    ];
    for (shape, word) in refused {
        let said = mla_decode::launch(&shape, Float::F16, CORES).unwrap_err();
        assert!(said.contains(word), "{said}");
    }
    assert!(mla_decode::launch(&shape, Float::F32, CORES).unwrap_err().contains("F16 and BF16"));
}
