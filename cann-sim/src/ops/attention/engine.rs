//! The computation: for blocks of queries that share a key head, scores, masked softmax and the weighted values.

use super::layout::{Band, Grid, LoadedMask, Mask, Span};
use crate::aclnn::{Call, Launch, Tensor};
use crate::dtype::DType::F32;
use crate::ops::gemm::{Matrix, Stored, product};
use crate::runtime::config;
use crate::runtime::cost::Cost;
use crate::status::{Result, Status};
use acl_sys::error::ACL_ERROR_RT_AICORE_EXCEPTION;
use npu_cpu_kernels::{Form, share_chunks};
use std::borrow::Cow;

/// Rows (queries times heads of a group) whose scores are held at a time.
const ROWS: usize = 64;
/// Multiplications of scores, at most, from which blocks are worth sharing among threads.
const PARALLEL: usize = 1 << 16;

/// Vector operations on each score: scaling, the mask, the running maximum, its subtraction, the exponential, the running
/// sum, the type of the product that follows, and the correction of the earlier sum.
const SOFTENING: usize = 8;

/// Where the keys and values of one sequence lie.
#[derive(Clone, Debug)]
pub(super) struct KeySpan {
    /// Which of the key tensors: a list has one a sequence.
    pub source: usize,
    pub span: Span,
}

/// Keys kept in blocks: the table's row of a sequence names its blocks in order.
#[derive(Clone, Debug)]
pub(super) struct Pages {
    pub table: Tensor,
    pub block_size: usize,
}

/// An attention call, checked.
pub(super) struct Attention {
    pub query: Grid,
    /// Keys and values: one pair, or one a sequence.
    pub keys: Vec<(Grid, Grid)>,
    pub sequences: Vec<(Span, KeySpan)>,
    pub pages: Option<Pages>,
    pub scale: f32,
    pub band: Band,
    pub mask: Option<Mask>,
    /// The rotated parts of queries and keys, which lie apart; their products add to the scores.
    pub rope: Option<(Grid, Grid)>,
}

/// Keys and values of one head that each are a matrix, and the keys' rotated part where it lies apart.
struct Segment<'a, T> {
    key: Matrix<'a, T>,
    value: Matrix<'a, T>,
    rope: Option<Matrix<'a, T>>,
}

/// The result of one block of queries of one key head: for each head of its group, for each query.
pub(super) struct Block {
    pub sequence: usize,
    /// First query head of the group, and first query of the block.
    pub head: usize,
    pub first: usize,
    /// Number of queries.
    pub count: usize,
    /// Heads of the group × queries × elements of a value.
    pub output: Vec<f32>,
    /// Largest score and sum of exponentials; minus infinity and 0 for a query that sees no key.
    pub max: Vec<f32>,
    pub sum: Vec<f32>,
}

/// A tensor's storage and where its first element lies.
pub(super) type Loaded<'a, T> = (Cow<'a, [T]>, usize);

/// Loads a grid; a copy has other strides, so the grid comes back with it.
pub(super) fn load<'a, T: Stored>(grid: &Grid, launch: &'a Launch) -> Result<Loaded<'a, T>> {
    let (data, start, view) = grid.tensor.in_place::<T>(launch)?;
    match view.strides == grid.tensor.strides {
        true => Ok((data, start)),
        false => Err(Status::new(
            acl_sys::error::ACLNN_ERR_PARAM_INVALID,
            format!("{}: {} is neither aligned to its type nor contiguous", launch.op, grid.tensor.name),
        )),
    }
}

/// `count` tokens of a head as a matrix of tokens × elements.
pub(super) fn matrix<'a, T: Copy>(
    grid: &Grid,
    loaded: &'a Loaded<T>,
    at: (usize, usize, usize),
    count: usize,
) -> Matrix<'a, T> {
    let start = loaded.1 + if count == 0 { 0 } else { grid.offset(at.0, at.1, at.2) };
    Matrix::new(&loaded.0, start, (count, grid.dim), grid.matrix_strides())
}

impl Attention {
    /// Query heads that share a key head.
    pub(super) fn group(&self) -> usize {
        self.query.heads / self.keys[0].0.heads
    }

    /// For the cost model: keys and values up to each sequence's length are read once, and each visible pair of query and key
    /// is softened on the vector cores and takes `products` on the cube cores over a key's elements, and over a value's. Of a mask, which can
    /// be a triangle for any length, no more is read than there are pairs.
    pub(super) fn note_cost(&self, call: &mut Call, products: [u64; 2], mask: Option<&Tensor>) {
        let (heads, group) = (self.keys[0].0.heads, self.group());
        for (source, (key, value)) in self.keys.iter().enumerate() {
            let of_source = self.sequences.iter().filter(|(_, keys)| keys.source == source);
            let tokens: usize = of_source.map(|(_, keys)| keys.span.len).sum();
            call.touches(&key.tensor, tokens * heads * key.dim);
            // Latent keys are the values: they are read once.
            call.touches(&value.tensor, if self.rope.is_some() { 0 } else { tokens * heads * value.dim });
            if let Some((_, rope)) = &self.rope {
                call.touches(&rope.tensor, tokens * heads * rope.dim);
            }
        }
        if let Some(mask) = mask {
            let pairs: usize = self.sequences.iter().map(|(span, keys)| span.len * keys.span.len).sum();
            call.touches(mask, mask.count().min(pairs));
        }
        for (span, keys) in &self.sequences {
            let visible = |i| self.band.range(i, span.len, keys.span.len);
            let pairs: usize = (0..span.len).map(|i| visible(i).1 - visible(i).0).sum();
            // As one product of all of a group's queries with the mean number of keys that they see.
            let (rows, seen) = (group * span.len, pairs.div_ceil(span.len.max(1)));
            let dtype = self.query.tensor.dtype;
            let width = self.query.dim + self.rope.as_ref().map_or(0, |(query, _)| query.dim);
            for (dim, products) in [width, self.keys[keys.source].1.dim].into_iter().zip(products) {
                call.works(Cost::products(heads, (rows, dim, seen), dtype, false).times(products));
            }
            call.works(Cost::vector(heads * group * pairs, SOFTENING, F32));
        }
    }

    /// Runs all blocks, in parallel.
    pub(super) fn run<T: Stored>(&self, launch: &Launch) -> Result<Vec<Block>> {
        let query = load::<T>(&self.query, launch)?;
        let load_pair = |(k, v): &(Grid, Grid)| Ok((load::<T>(k, launch)?, load::<T>(v, launch)?));
        let loaded = self.keys.iter().map(load_pair).collect::<Result<Vec<_>>>()?;
        let rope = self.rope.as_ref().map(load_pair).transpose()?;
        let mask = self.mask.as_ref().map(|mask| mask.load(launch)).transpose()?;
        let table = self.pages.as_ref().map(|pages| self.checked_table(pages, launch)).transpose()?;
        let step = (ROWS / self.group()).max(1);
        let mut tasks = Vec::new();
        for (index, (span, _)) in self.sequences.iter().enumerate() {
            for head in 0..self.keys[0].0.heads {
                tasks.extend((0..span.len).step_by(step).map(|first| (index, head, first, step.min(span.len - first))));
            }
        }
        let block = |&(sequence, key_head, first, count): &(usize, usize, usize, usize)| {
            let source = self.sequences[sequence].1.source;
            let pages = table.as_ref().map(|table| &table[sequence][..]);
            let segments = self.segments(sequence, key_head, &loaded[source], rope.as_ref().map(|rope| &rope.1), pages);
            let queries = (&query, rope.as_ref().map(|rope| &rope.0));
            self.block(queries, &segments, mask.as_ref(), (sequence, key_head, first, count))
        };
        let mut blocks: Vec<_> = tasks.iter().map(|_| None).collect();
        let longest = self.sequences.iter().map(|(_, keys)| keys.span.len).max().unwrap_or(0);
        let multiplications = tasks.iter().map(|task| task.3).sum::<usize>() * self.group() * longest * self.query.dim;
        match multiplications < PARALLEL {
            true => blocks.iter_mut().zip(&tasks).for_each(|(slot, task)| *slot = Some(block(task))),
            false => share_chunks(&mut blocks, 1, |index, slot| slot[0] = Some(block(&tasks[index]))),
        }
        Ok(blocks.into_iter().flatten().collect())
    }

    /// The blocks of each sequence, all of which exist.
    fn checked_table(&self, pages: &Pages, launch: &Launch) -> Result<Vec<Vec<usize>>> {
        let width = pages.table.shape[1];
        let ids = pages.table.load_i64(launch)?;
        let blocks = self.keys[0].0.batch;
        let row = |(index, (_, keys)): (usize, &(Span, KeySpan))| {
            let used = keys.span.len.div_ceil(pages.block_size);
            ids[index * width..][..used]
                .iter()
                .map(|&id| match usize::try_from(id) {
                    Ok(id) if id < blocks => Ok(id),
                    _ => Err(Status::new(
                        ACL_ERROR_RT_AICORE_EXCEPTION,
                        format!(
                            "{}: blockTable of sequence {index} names block {id}, the cache has {blocks}",
                            launch.op
                        ),
                    )),
                })
                .collect()
        };
        self.sequences.iter().enumerate().map(row).collect()
    }

    /// Keys and values of one head of a sequence, in pieces that each are a matrix.
    fn segments<'a, T: Stored>(
        &self,
        sequence: usize,
        head: usize,
        (k, v): &'a (Loaded<T>, Loaded<T>),
        rope: Option<&'a Loaded<T>>,
        pages: Option<&[usize]>,
    ) -> Vec<Segment<'a, T>> {
        let KeySpan { source, span } = &self.sequences[sequence].1;
        let (key, value) = &self.keys[*source];
        let piece = |at, count| Segment {
            key: matrix(key, k, at, count),
            value: matrix(value, v, at, count),
            rope: self.rope.as_ref().zip(rope).map(|((_, grid), loaded)| matrix(grid, loaded, at, count)),
        };
        match (pages, &self.pages) {
            (Some(ids), Some(Pages { block_size, .. })) => ids
                .iter()
                .enumerate()
                .map(|(i, &id)| piece((id, head, 0), (span.len - i * block_size).min(*block_size)))
                .collect(),
            _ => vec![piece((span.batch, head, span.first), span.len)],
        }
    }

    fn block<T: Stored>(
        &self,
        (query, rope): (&Loaded<T>, Option<&Loaded<T>>),
        segments: &[Segment<T>],
        mask: Option<&LoadedMask>,
        (sequence, key_head, first, count): (usize, usize, usize, usize),
    ) -> Block {
        let (span, keys) = &self.sequences[sequence];
        let (group, skv) = (self.group(), keys.span.len);
        let head = key_head * group;
        let rows_of = |grid: &Grid, loaded: &Loaded<T>| {
            let of_head = |h| matrix(grid, loaded, (span.batch, h, span.first + first), count).map(T::to_f32);
            (head..head + group).flat_map(of_head).collect::<Vec<f32>>()
        };
        let rows = rows_of(&self.query, query);
        let rope = self.rope.as_ref().zip(rope).map(|((grid, _), loaded)| rows_of(grid, loaded));
        // Keys past the last one that any query of the block sees need no scores.
        let visible = (first..first + count).map(|i| self.band.range(i, span.len, skv).1).max().unwrap_or(0);
        let mut scores = vec![0f32; group * count * visible];
        let queries = Matrix::row_major(&rows, group * count, self.query.dim);
        for_segments(segments, visible, |at, count, segment| {
            let mut add = |queries: Matrix<f32>, keys: Matrix<T>| {
                let mut part = vec![0f32; queries.rows * count];
                product(queries, keys.first_rows(count).t(), &mut part, false);
                for (row, part) in part.chunks_exact(count).enumerate() {
                    scores[row * visible + at..][..count].iter_mut().zip(part).for_each(|(to, score)| *to += score);
                }
            };
            add(queries, segment.key);
            if let Some((rows, keys)) = rope.as_ref().zip(segment.rope) {
                add(Matrix::row_major(rows, queries.rows, keys.cols), keys);
            }
        });
        let (mut max, mut sum) = (Vec::with_capacity(group * count), Vec::with_capacity(group * count));
        for row in 0..group * count {
            let i = first + row % count;
            let range = self.band.range(i, span.len, skv);
            let hidden = mask.map(|mask| mask.row(sequence, head + row / count, i));
            let (m, s) = soften(&mut scores[row * visible..][..visible], self.scale, range, hidden);
            max.push(m);
            sum.push(s);
        }
        let dim = self.keys[keys.source].1.dim;
        let mut output = vec![0f32; group * count * dim];
        for_segments(segments, visible, |at, keys, segment| {
            let weights: Vec<f32> =
                (0..group * count).flat_map(|row| &scores[row * visible + at..][..keys]).copied().collect();
            let mut part = vec![0f32; output.len()];
            product(Matrix::row_major(&weights, group * count, keys), segment.value.first_rows(keys), &mut part, false);
            output.iter_mut().zip(part).for_each(|(to, value)| *to += value);
        });
        for (row, sum) in sum.iter().enumerate() {
            // A query that sees nothing answers zero.
            let factor = if *sum == 0.0 { 0.0 } else { 1.0 / sum };
            output[row * dim..][..dim].iter_mut().for_each(|value| *value *= factor);
        }
        Block { sequence, head, first, count, output, max, sum }
    }
}

/// Calls `visit` with the first key of each segment, how many of its keys are before the `visible`-th, and the segment.
fn for_segments<T: Copy>(segments: &[Segment<T>], visible: usize, mut visit: impl FnMut(usize, usize, &Segment<T>)) {
    let mut at = 0;
    for segment in segments {
        let count = segment.key.rows.min(visible - at);
        if count == 0 {
            return;
        }
        visit(at, count, segment);
        at += count;
    }
}

/// Turns scores into unnormalised weights in place; the largest scaled score and the weights' sum.
fn soften(scores: &mut [f32], scale: f32, (low, high): (usize, usize), hidden: Option<&[bool]>) -> (f32, f32) {
    let high = high.min(scores.len());
    let low = low.min(high);
    scores[..low].fill(0.0);
    scores[high..].fill(0.0);
    let seen = &mut scores[low..high];
    let mut max = f32::NEG_INFINITY;
    for (key, score) in seen.iter_mut().enumerate() {
        *score = if hidden.is_some_and(|hidden| hidden[low + key]) { f32::NEG_INFINITY } else { *score * scale };
        max = max.max(*score);
    }
    // NaN, which `max` skips, is not hidden: it goes on to the result.
    if seen.iter().all(|score| *score == f32::NEG_INFINITY) {
        seen.fill(0.0);
        return (max, 0.0);
    }
    if !config::exact() {
        return (max, Form::fastest().exp_and_sum(seen, max));
    }
    let mut sum = 0f64;
    for score in seen {
        *score = (*score - max).exp();
        sum += *score as f64;
    }
    (max, sum as f32)
}
