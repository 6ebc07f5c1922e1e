//! Scaled dot-product attention with an online softmax, which reads keys and values where a cache holds them.

use crate::float::same;
use crate::forms::{Form, Kernels, dots_of_bf16};
use crate::team::share_chunks;
use crate::{Float, Rows};
use half::{bf16, f16};

/// Keys of one step of the online softmax.
const KEYS: usize = 128;
/// Rows of queries (those of all heads that share a key head) of one task, about.
const ROWS: usize = 64;
/// Multiplications of a sequence's scores from which its heads are worth sharing among threads.
const PARALLEL: usize = 1 << 16;

/// `[B, H, S, D]` whose last dimension lies in memory without gaps; strides count elements.
#[derive(Clone, Copy, Debug)]
pub struct Heads<'a, T> {
    data: &'a [T],
    pub(crate) shape: [usize; 4],
    strides: [usize; 3],
}

impl<'a, T> Heads<'a, T> {
    /// Panics where an element lies outside `data`.
    pub fn new(data: &'a [T], shape: [usize; 4], strides: [usize; 3]) -> Self {
        if shape.iter().all(|size| *size > 0) {
            let reach: usize = (0..3).map(|dim| (shape[dim] - 1) * strides[dim]).sum::<usize>() + shape[3];
            assert!(reach <= data.len(), "heads {shape:?} with strides {strides:?} reach outside of their data");
        }
        Self { data, shape, strides }
    }

    /// The rows of one head, from `first` on.
    pub(crate) fn rows(&self, batch: usize, head: usize, first: usize, count: usize) -> Rows<'a, T> {
        let start = batch * self.strides[0] + head * self.strides[1] + first * self.strides[2];
        Rows::strided(&self.data[start..], count, self.shape[3], self.strides[2])
    }
}

/// Which keys a query sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sight {
    All,
    /// Query `i` sees keys `0..=i + offset`.
    Causal {
        offset: usize,
    },
}

impl Sight {
    /// How many of `keys` the query sees.
    pub(crate) fn keys(self, query: usize, keys: usize) -> usize {
        match self {
            Sight::All => keys,
            Sight::Causal { offset } => keys.min(query + offset + 1),
        }
    }
}

/// `softmax(scale · q·kᵀ)·v` over the keys that each query sees, in `f32`, rounded once: `q` `[B, H, S, D]`, `k` `[B, G, T, D]`,
/// `v` `[B, G, T, E]`, where `G` divides `H` and query head `h` uses key head `h / (H / G)`; `out` is `[B, S, H, E]` row-major,
/// as the projection that follows reads it. A query that sees no key gives NaN. Panics where the sizes do not fit.
pub fn attention<T: Float>(q: Heads<T>, k: Heads<T>, v: Heads<T>, scale: f32, sight: Sight, out: &mut [T]) {
    attention_by(Form::fastest(), q, k, v, scale, sight, out);
}

/// As [`attention`], by the given form, which must be one of [`Form::available`].
pub fn attention_by<T: Float>(
    form: Form,
    q: Heads<T>,
    k: Heads<T>,
    v: Heads<T>,
    scale: f32,
    sight: Sight,
    out: &mut [T],
) {
    // One arm is the type that `T` is.
    macro_rules! typed {
        ($($ty:ty),*) => { $(
            if let (Some(q16), Some(k16), Some(v16)) = (same::<T, $ty>(q.data), same(k.data), same(v.data)) {
                let over = |heads: &Heads<T>, data| Heads::<$ty>::new(data, heads.shape, heads.strides);
                let out = crate::float::same_mut(out).unwrap_or(&mut []);
                return typed::<$ty>(form, over(&q, q16), over(&k, k16), over(&v, v16), scale, sight, out);
            }
        )* };
    }
    typed!(bf16, f16, f32);
}

fn typed<T: Kernels>(form: Form, q: Heads<T>, k: Heads<T>, v: Heads<T>, scale: f32, sight: Sight, out: &mut [T]) {
    let ([batch, heads, queries, _], [_, groups, keys, _], width) = (q.shape, k.shape, v.shape[3]);
    assert!(groups > 0 && heads.is_multiple_of(groups), "{heads} query heads do not share {groups} key heads");
    assert_eq!(
        (k.shape[0], q.shape[3], v.shape),
        (batch, k.shape[3], [batch, groups, keys, width]),
        "sizes do not fit"
    );
    assert_eq!(out.len(), batch * queries * heads * width, "the result has another size");
    if out.is_empty() {
        return;
    }
    let shared = heads / groups;
    let per_task = ROWS.div_ceil(shared).min(queries);
    let blocks = queries.div_ceil(per_task);
    let stacked = shared * per_task;
    // By task, [head within the group, query, E]; each task's part is put in its place below.
    let mut parts = vec![0f32; batch * groups * blocks * stacked * width];
    let one = |task: usize, part: &mut [f32]| {
        let (batch, group, block) = (task / (groups * blocks), task / blocks % groups, task % blocks);
        let first = block * per_task;
        let place = Place { batch, group, first, queries: per_task.min(queries - first) };
        one_task(form, (q, k, v), scale, sight, place, &mut part[..shared * place.queries * width]);
    };
    match heads * queries * keys * q.shape[3] < PARALLEL {
        true => parts.chunks_mut(stacked * width).enumerate().for_each(|(task, part)| one(task, part)),
        false => share_chunks(&mut parts, stacked * width, one),
    }
    for (task, part) in parts.chunks_exact(stacked * width).enumerate() {
        let (batch, group, first) = (task / (groups * blocks), task / blocks % groups, task % blocks * per_task);
        let here = per_task.min(queries - first);
        for (index, row) in part.chunks_exact(width).take(shared * here).enumerate() {
            let (head, query) = (group * shared + index / here, first + index % here);
            let at = ((batch * queries + query) * heads + head) * width;
            T::round_slice(row, &mut out[at..at + width]);
        }
    }
}

/// The queries of one task.
#[derive(Clone, Copy)]
struct Place {
    batch: usize,
    group: usize,
    first: usize,
    queries: usize,
}

fn one_task<T: Kernels>(
    form: Form,
    (q, k, v): (Heads<T>, Heads<T>, Heads<T>),
    scale: f32,
    sight: Sight,
    place: Place,
    out: &mut [f32],
) {
    let Place { batch, group, first, queries } = place;
    let (shared, depth, keys, width) = (q.shape[1] / k.shape[1], q.shape[3], k.shape[2], v.shape[3]);
    let rows = shared * queries;
    let mut stacked = Vec::with_capacity(rows * depth);
    for head in 0..shared {
        let from = q.rows(batch, group * shared + head, first, queries);
        (0..queries).for_each(|query| stacked.extend_from_slice(from.row(query)));
    }
    let stacked = Queries::new(form, stacked, rows, depth);
    let (mut scores, mut softmax) = (vec![0f32; rows * KEYS], vec![(f32::NEG_INFINITY, 0f32); rows]);
    let seen = sight.keys(first + queries - 1, keys);
    for start in (0..seen).step_by(KEYS) {
        let count = KEYS.min(seen - start);
        let scores = &mut scores[..rows * count];
        stacked.scores(form, k.rows(batch, group, start, count), scores);
        for (row, scores) in scores.chunks_exact_mut(count).enumerate() {
            let visible = sight.keys(first + row % queries, keys).saturating_sub(start).min(count);
            let (scores, hidden) = scores.split_at_mut(visible);
            hidden.fill(0.0);
            scores.iter_mut().for_each(|score| *score *= scale);
            let (max, sum) = softmax[row];
            let new_max = scores.iter().copied().fold(max, f32::max);
            if new_max == f32::NEG_INFINITY {
                scores.fill(0.0);
                continue;
            }
            let kept = (max - new_max).exp();
            let added = form.exp_and_sum(scores, new_max);
            softmax[row] = (new_max, sum * kept + added);
            if kept != 1.0 {
                out[row * width..][..width].iter_mut().for_each(|value| *value *= kept);
            }
        }
        T::mix(form)(Rows::new(scores, rows, count), v.rows(batch, group, start, count), out);
    }
    for (out, (_, sum)) in out.chunks_exact_mut(width).zip(&softmax) {
        out.iter_mut().for_each(|value| *value /= sum);
    }
}

/// The stacked queries of a task, in the type that the form multiplies.
enum Queries {
    Pairs(Vec<bf16>, usize, usize),
    Wide(Vec<f32>, usize, usize),
}

impl Queries {
    fn new<T: Float>(form: Form, stacked: Vec<T>, rows: usize, depth: usize) -> Self {
        match same::<T, bf16>(&stacked) {
            Some(pairs) if dots_of_bf16(form).is_some() => Self::Pairs(pairs.to_vec(), rows, depth),
            _ => Self::Wide(crate::float::widened(&stacked).into_owned(), rows, depth),
        }
    }

    /// Products with every key, row by row.
    fn scores<T: Kernels>(&self, form: Form, keys: Rows<T>, scores: &mut [f32]) {
        let width = keys.count;
        let mut place = |col: usize, count: usize, sums: &[f32]| {
            for (row, sums) in sums.chunks_exact(count).enumerate() {
                scores[row * width + col..][..count].copy_from_slice(sums);
            }
        };
        match self {
            Self::Wide(q, rows, depth) => T::dots(form)(Rows::new(q, *rows, *depth), keys, &mut place),
            Self::Pairs(q, rows, depth) => {
                let pairs = dots_of_bf16(form).zip(same(keys.data()));
                let Some((dots, data)) = pairs else { unreachable!("made for BF16 in a form that multiplies it") };
                dots(Rows::new(q, *rows, *depth), keys.over(data), &mut place)
            }
        }
    }
}
