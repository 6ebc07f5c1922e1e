//! Attention over keys and values in blocks of a pool.

use super::*;
use npu_cuda::plan::Paged;

/// Sequences of these lengths, their heads, and the pool's blocks.
#[derive(Clone, Copy, Debug)]
struct Case {
    lengths: &'static [usize],
    heads: usize,
    groups: usize,
    widths: (usize, usize),
    block_size: usize,
    multiprocessors: usize,
}

/// What names no block of any pool.
const NOWHERE: u32 = u32::MAX;

/// A pool in which the sequences' blocks lie in no order; whatever no sequence has is NaN, so that reading it shows.
struct Pool {
    table: Vec<u32>,
    table_width: usize,
    blocks: usize,
}

impl Pool {
    /// Room for one block more a sequence than its tokens take, and two blocks of nobody.
    fn new(rng: &mut StdRng, case: Case) -> Self {
        let used = |length: usize| length.div_ceil(case.block_size);
        let table_width = case.lengths.iter().map(|&length| used(length)).max().unwrap_or(0) + 1;
        let blocks = case.lengths.iter().map(|&length| used(length)).sum::<usize>() + 2;
        let mut free: Vec<u32> = (0..blocks as u32).collect();
        let mut table = vec![NOWHERE; case.lengths.len() * table_width];
        for (row, &length) in table.chunks_mut(table_width).zip(case.lengths) {
            row[..used(length)].fill_with(|| free.swap_remove(rng.random_range(0..free.len())));
        }
        Self { table, table_width, blocks }
    }

    /// Where the token of a sequence lies: block, and token of the block.
    fn place(&self, case: Case, sequence: usize, token: usize) -> (usize, usize) {
        let block = self.table[sequence * self.table_width + token / case.block_size];
        (block as usize, token % case.block_size)
    }

    /// `[N, G, P, width]`: numbers where a sequence has tokens.
    fn filled<T: Real>(&self, rng: &mut StdRng, case: Case, width: usize) -> Walled<T> {
        let mut values = vec![f64::NAN; self.blocks * case.groups * case.block_size * width];
        for (sequence, &length) in case.lengths.iter().enumerate() {
            for token in 0..length {
                let (block, row) = self.place(case, sequence, token);
                for group in 0..case.groups {
                    let at = ((block * case.groups + group) * case.block_size + row) * width;
                    values[at..][..width].fill_with(|| rng.random_range(-2.0..2.0));
                }
            }
        }
        Walled::of(f64::NAN, values.into_iter())
    }
}

/// The kernels' result, with the table and the lengths that they are given.
fn attend<T: Real>(
    case: Case,
    pool: &Pool,
    (q, k, v): (&Walled<T>, &Walled<T>, &Walled<T>),
    lengths: &[u32],
) -> Walled<T> {
    let Case { heads, groups, widths: (width, value_width), block_size, .. } = case;
    let batch = lengths.len();
    let latent = std::ptr::eq(k, v);
    let strides = |width: usize| [groups * block_size * width, block_size * width, width];
    let problem = Paged {
        heads,
        groups,
        width,
        value_width,
        blocks: pool.blocks,
        block_size,
        table_width: pool.table_width,
        k_stride: strides(width),
        v_stride: strides(if latent { width } else { value_width }),
        parts: 1,
        latent: latent.into(),
        scale: 0.3,
    };
    let problem = Paged { parts: plan::parts(&problem, batch, case.multiprocessors, T::SUFFIX), ..problem };
    let planned = plan::paged(&problem, batch, T::SUFFIX).expect("a kernel of this width");
    let rows = batch * heads;
    let mut out = Walled::<T>::empty(rows * value_width);
    let mut parts = Walled::<f32>::empty(rows * problem.parts * (value_width + 2));
    // A read beyond the table finds a block that the pool has, and not the sequence.
    let table: Vec<u32> = pool.table.iter().copied().chain([0; 64]).collect();
    let (a, b, c, d, e) = (q.at(), k.at(), v.at(), table.as_ptr(), lengths.as_ptr());
    let (to, of_parts) = (out.at_mut(), parts.at_mut());
    type Attend<T> =
        unsafe extern "C" fn(*const T, *const T, *const T, *const u32, *const u32, *mut T, *mut f32, Paged);
    // SAFETY: `problem` describes the operands, and there is room for so many parts.
    launch(&planned, |entry: Attend<T>| unsafe { entry(a, b, c, d, e, to, of_parts, problem) });
    if problem.parts > 1 {
        type Join<T> = unsafe extern "C" fn(*const f32, *mut T, usize, usize);
        // SAFETY: as above.
        launch(&plan::by_row("join_parts", T::SUFFIX, rows), |entry: Join<T>| unsafe {
            entry(of_parts, to, value_width, problem.parts)
        });
        let (values, end) = (parts.values(), parts.0.len() - WALL);
        assert!(values.iter().all(|value| *value != UNWRITTEN), "{case:?}: parts that nobody wrote");
        let outside = parts.0[..WALL].iter().chain(&parts.0[end..]);
        assert!(outside.copied().all(|v| f64::from(v) == UNTOUCHED), "{case:?}: written outside of the parts");
    }
    out
}

/// The definition in F64, sequence by sequence.
fn wanted<T: Real>(case: Case, pool: &Pool, (q, k, v): (&Walled<T>, &Walled<T>, &Walled<T>)) -> Vec<f64> {
    let Case { heads, groups, widths: (width, value_width), block_size, .. } = case;
    let row_width = if std::ptr::eq(k, v) { width } else { value_width };
    let (q, k, v) = (q.values(), k.values(), v.values());
    let mut all = Vec::new();
    for (sequence, &length) in case.lengths.iter().enumerate() {
        for head in 0..heads {
            let row = |token: usize| {
                let (block, row) = pool.place(case, sequence, token);
                (block * groups + head / (heads / groups)) * block_size + row
            };
            let query = &q[(sequence * heads + head) * width..][..width];
            let score = |token: usize| -> f64 {
                let key = &k[row(token) * width..][..width];
                (0.3 * query.iter().zip(key).map(|(a, b)| a * b).sum::<f64>()).exp()
            };
            let weights: Vec<f64> = (0..length).map(score).collect();
            let total: f64 = weights.iter().sum();
            let column = |e: usize| weights.iter().enumerate().map(|(t, w)| w * v[row(t) * row_width + e]).sum::<f64>();
            all.extend((0..value_width).map(|e| if length == 0 { 0.0 } else { column(e) / total }));
        }
    }
    all
}

fn lengths_of(case: Case) -> Vec<u32> {
    case.lengths.iter().map(|&length| length as u32).collect()
}

/// The case by the kernels and by its definition; latent attention where values are as wide as a part of the keys.
fn check<T: Real>(case: Case, latent: bool) {
    let mut rng = StdRng::seed_from_u64(10);
    let pool = Pool::new(&mut rng, case);
    let q = Walled::<T>::random(&mut rng, case.lengths.len() * case.heads * case.widths.0);
    let k = pool.filled::<T>(&mut rng, case, case.widths.0);
    let of_values = if latent { None } else { Some(pool.filled::<T>(&mut rng, case, case.widths.1)) };
    let v = of_values.as_ref().unwrap_or(&k);
    let out = attend(case, &pool, (&q, &k, v), &lengths_of(case));
    out.is_of_size(size_of::<T>(), &format!("{case:?}"), &wanted(case, &pool, (&q, &k, v)));
}

/// What a result is wrong by, in its tolerances. Tensor cores take weights of 16 bits: each is wrong by half a unit at most, and moves the result by
/// so much of its value's distance from it, which is 1 on average for values within 2. The result's own rounding is as much again.
fn size_of<T: Real>() -> f64 {
    if T::SUFFIX == "f32" { 1.0 } else { 2.0 }
}

const CASE: Case =
    Case { lengths: &[37, 0, 16, 1], heads: 4, groups: 2, widths: (64, 64), block_size: 16, multiprocessors: 1 };

#[test]
fn sequences_in_blocks() {
    // Parts of blocks, whole ones, none; a head of its own each, and more heads than a block takes together; a head that is no
    // multiple of 32 and values of another width; one key head for all.
    for_each_type!(check(CASE, false));
    for_each_type!(check(Case { groups: 4, widths: (128, 128), block_size: 32, ..CASE }, false));
    for_each_type!(check(Case { heads: 22, widths: (40, 72), block_size: 24, lengths: &[50], ..CASE }, false));
    for_each_type!(check(Case { heads: 5, groups: 1, widths: (192, 128), block_size: 128, ..CASE }, false));
    for_each_type!(check(Case { heads: 6, widths: (256, 256), lengths: &[3, 40], ..CASE }, false));
}

#[test]
fn sequences_of_many_tiles() {
    // Seven heads in a tile of 16, and more than a tile has; tiles that end within a block, and blocks within a tile; more tiles than are on
    // their way; rows that are no whole vectors; apart, keys and values as wide as there is a kernel for.
    for_each_type!(check(Case { heads: 14, widths: (128, 128), lengths: &[333, 33], ..CASE }, false));
    for_each_type!(check(Case { heads: 40, widths: (64, 56), block_size: 24, lengths: &[290], ..CASE }, false));
    for_each_type!(check(
        Case { heads: 7, groups: 1, widths: (192, 184), block_size: 5, lengths: &[64, 131], ..CASE },
        false
    ));
    for_each_type!(check(
        Case { heads: 20, groups: 1, widths: (251, 37), block_size: 48, lengths: &[111], ..CASE },
        false
    ));
    for_each_type!(check(Case { heads: 3, groups: 1, widths: (576, 520), lengths: &[50], ..CASE }, false));
}

#[test]
fn a_long_sequence_is_split() {
    // Three parts of one sequence, of the others one and none; a last part of one turn of the warps; of two lengths the longer
    // fills all parts and the shorter not.
    for_each_type!(check(Case { lengths: &[150, 0, 64], multiprocessors: 16, ..CASE }, false));
    for_each_type!(check(Case { lengths: &[129], groups: 1, multiprocessors: 132, ..CASE }, false));
    for_each_type!(check(Case { lengths: &[300, 70], block_size: 128, multiprocessors: 6, ..CASE }, false));
    for_each_type!(check(Case { lengths: &[500, 0, 257], widths: (128, 96), multiprocessors: 40, ..CASE }, false));
    // More parts than a block that puts them together has threads.
    check::<f32>(
        Case { heads: 1, groups: 1, lengths: &[64 * 259 + 1], widths: (8, 5), multiprocessors: 140, ..CASE },
        false,
    );
}

#[test]
fn latent_rows_are_keys_and_values() {
    let latent = Case { heads: 5, groups: 1, widths: (576, 512), lengths: &[19, 0, 70], multiprocessors: 2, ..CASE };
    for_each_type!(check(latent, true));
    for_each_type!(check(Case { widths: (48, 32), multiprocessors: 9, ..latent }, true));
    for_each_type!(check(
        Case { heads: 18, lengths: &[200, 130, 0], block_size: 128, multiprocessors: 9, ..latent },
        true
    ));
    for_each_type!(check(Case { widths: (575, 511), ..latent }, true));
    for_each_type!(check(Case { widths: (96, 96), lengths: &[170], ..latent }, true));
}

/// One block of the second of three sequences is none of the pool's.
fn outside<T: Real>(multiprocessors: usize, block: usize, widths: (usize, usize), latent: bool) {
    let case = Case { lengths: &[40, 150, 20], multiprocessors, widths, ..CASE };
    let mut rng = StdRng::seed_from_u64(11);
    let mut pool = Pool::new(&mut rng, case);
    let q = Walled::<T>::random(&mut rng, 3 * case.heads * widths.0);
    let (k, apart) = (pool.filled::<T>(&mut rng, case, widths.0), pool.filled::<T>(&mut rng, case, widths.1));
    let v = if latent { &k } else { &apart };
    let mut wanted = wanted(case, &pool, (&q, &k, v));
    let of_sequence = case.heads * widths.1;
    wanted[of_sequence..2 * of_sequence].fill(f64::NAN);
    pool.table[pool.table_width + block] = pool.blocks as u32;
    let out = attend(case, &pool, (&q, &k, v), &lengths_of(case));
    out.is_of_size(size_of::<T>(), "a table with an entry beyond the pool", &wanted);
}

#[test]
fn a_block_outside_of_the_pool_is_not_read() {
    // The first block, one of a later tile, and the last, which is in a later part of the keys where there are several.
    for multiprocessors in [1, 16] {
        for block in [0, 6, 9] {
            for_each_type!(outside(multiprocessors, block, (64, 64), false));
        }
        for_each_type!(outside(multiprocessors, 9, (576, 512), true));
    }
}

/// One sequence has all blocks of its row.
fn told_too_much<T: Real>() {
    let case = Case { lengths: &[48], ..CASE };
    let mut rng = StdRng::seed_from_u64(12);
    let mut pool = Pool::new(&mut rng, case);
    pool.table.pop();
    pool.table_width -= 1;
    let q = Walled::<T>::random(&mut rng, case.heads * 64);
    let (k, v) = (pool.filled::<T>(&mut rng, case, 64), pool.filled::<T>(&mut rng, case, 64));
    let wanted = wanted(case, &pool, (&q, &k, &v));
    for length in [49, u32::MAX] {
        let out = attend(case, &pool, (&q, &k, &v), &[length]);
        out.is_of_size(size_of::<T>(), &format!("{length} tokens in three blocks"), &wanted);
    }
}

#[test]
fn no_more_tokens_count_than_the_table_names_blocks_for() {
    for_each_type!(told_too_much());
}

#[test]
fn parts_fill_the_gpu_and_are_worth_their_launch() {
    let problem = |heads, groups, table_width| Paged {
        heads,
        groups,
        width: 128,
        value_width: 128,
        blocks: 1,
        block_size: 16,
        table_width,
        k_stride: [0; 3],
        v_stride: [0; 3],
        parts: 1,
        latent: 0,
        scale: 1.0,
    };
    let parts_of = |problem: Paged, batch, suffix| {
        let parts = plan::parts(&problem, batch, 132, suffix);
        let grid = plan::paged(&Paged { parts, ..problem }, batch, suffix).expect("a kernel").grid;
        assert_eq!(grid[1] as usize, parts);
        (parts, grid[0] * grid[1])
    };
    let parts = |problem, batch| parts_of(problem, batch, "f32");
    // Eight key heads of one long sequence: 33 parts are two blocks for each of 132 multiprocessors.
    assert_eq!(parts(problem(32, 8, 1 << 13), 1), (33, 264));
    // More heads share a key head than a block takes: two blocks each.
    assert_eq!(parts(problem(16, 1, 1 << 13), 1), (132, 264));
    // Enough sequences need no parts; short ones have none to give.
    assert_eq!(parts(problem(32, 8, 1 << 13), 64), (1, 512));
    assert_eq!(parts(problem(32, 8, 4), 1), (1, 8));
    assert_eq!(parts(problem(32, 8, 5), 1), (2, 16));
    // On tensor cores three blocks run on a multiprocessor, of 16 heads; parts of 128 keys are worth their launch.
    let parts = |problem, batch| parts_of(problem, batch, "bf16");
    assert_eq!(parts(problem(28, 4, 1 << 8), 32), (3, 384));
    assert_eq!(parts(problem(16, 1, 1 << 13), 1), (396, 396));
    assert_eq!(parts(problem(17, 1, 1 << 13), 1), (198, 396));
    assert_eq!(parts(problem(32, 8, 8), 1), (1, 8));
    assert_eq!(parts(problem(32, 8, 9), 1), (2, 16));
    assert!(plan::paged(&Paged { value_width: 577, ..problem(1, 1, 1) }, 1, "f32").is_none());
}
