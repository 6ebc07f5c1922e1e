//! The gradient of scaled dot-product attention, which computes scores again a block of queries at a time instead of keeping
//! them (Dao et al., arXiv 2205.14135).

use crate::Matrix;
use crate::packed::{Into, multiply_here};
use crate::team::{share, threads};
use crate::{Float, Form, Heads, Sight};
use std::sync::{Mutex, PoisonError};

/// Queries of one block.
const QUERIES: usize = 128;

/// What attention was computed from, what came out, and the gradient of that; `out` and `grad` are `[B, H, S, E]`.
#[derive(Clone, Copy, Debug)]
pub struct Attended<'a, T> {
    pub q: Heads<'a, T>,
    pub k: Heads<'a, T>,
    pub v: Heads<'a, T>,
    pub out: Heads<'a, T>,
    pub grad: Heads<'a, T>,
}

/// Gradients of `q` `[B, H, S, D]`, `k` `[B, G, T, D]` and `v` `[B, G, T, E]`, row-major.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct AttentionGrads {
    pub q: Vec<f32>,
    pub k: Vec<f32>,
    pub v: Vec<f32>,
}

/// The gradients of [`attention`](crate::attention) in `f32`. A query that sees no key adds nothing. Panics where the sizes
/// do not fit.
pub fn attention_grads<T: Float>(at: Attended<T>, scale: f32, sight: Sight) -> AttentionGrads {
    let ([batch, heads, queries, depth], [_, groups, keys, _], width) = (at.q.shape, at.k.shape, at.v.shape[3]);
    assert!(groups > 0 && heads.is_multiple_of(groups), "{heads} query heads do not share {groups} key heads");
    assert_eq!(
        (at.k.shape, at.v.shape),
        ([batch, groups, keys, depth], [batch, groups, keys, width]),
        "sizes do not fit"
    );
    assert_eq!(
        (at.out.shape, at.grad.shape),
        {
            let result = [batch, heads, queries, width];
            (result, result)
        },
        "sizes do not fit"
    );
    // The heads of a key head are cut where there are fewer key heads than threads; then each part has its own sums.
    let shared = heads / groups;
    let parts = (1..=shared).find(|&n| shared.is_multiple_of(n) && batch * groups * n >= threads()).unwrap_or(shared);
    let mut of_q = vec![0f32; batch * heads * queries * depth];
    let mut of_k = vec![0f32; batch * groups * parts * keys * depth];
    let mut of_v = vec![0f32; batch * groups * parts * keys * width];
    if !of_q.is_empty() && !of_v.is_empty() {
        let of_task = of_q
            .chunks_mut(shared / parts * queries * depth)
            .zip(of_k.chunks_mut(keys * depth))
            .zip(of_v.chunks_mut(keys * width));
        let tasks: Vec<_> = of_task.map(|((q, k), v)| Mutex::new((q, k, v))).collect();
        share(tasks.len(), |task| {
            let mut grads = tasks[task].lock().unwrap_or_else(PoisonError::into_inner);
            let (of_q, of_k, of_v) = &mut *grads;
            let first = task % (groups * parts) * (shared / parts);
            let mut pass = Pass::new(at, (scale, sight), task / (groups * parts), first / shared);
            for (head, of_q) in of_q.chunks_exact_mut(queries * depth).enumerate() {
                pass.head(first + head, of_q, of_k, of_v);
            }
        });
    }
    AttentionGrads { q: of_q, k: added(of_k, parts, keys * depth), v: added(of_v, parts, keys * width) }
}

/// The sums of `parts` neighbours of `size` elements.
fn added(all: Vec<f32>, parts: usize, size: usize) -> Vec<f32> {
    if parts == 1 || size == 0 {
        return all;
    }
    let sum = |parts: &[f32]| {
        let (first, others) = parts.split_at(size);
        let mut sum = first.to_vec();
        others.chunks_exact(size).for_each(|part| sum.iter_mut().zip(part).for_each(|(sum, value)| *sum += value));
        sum
    };
    all.chunks_exact(parts * size).flat_map(sum).collect()
}

/// What the heads of one task share.
struct Pass<'a, T> {
    at: Attended<'a, T>,
    scale: f32,
    sight: Sight,
    batch: usize,
    keys: Vec<f32>,
    values: Vec<f32>,
    /// Weights of a block of queries, and the gradient of its scores.
    weights: Vec<f32>,
    of_scores: Vec<f32>,
}

impl<'a, T: Float> Pass<'a, T> {
    fn new(at: Attended<'a, T>, (scale, sight): (f32, Sight), batch: usize, group: usize) -> Self {
        let count = at.k.shape[2];
        Self {
            keys: wide(&at.k, batch, group, 0, count),
            values: wide(&at.v, batch, group, 0, count),
            weights: vec![0.0; QUERIES * count],
            of_scores: vec![0.0; QUERIES * count],
            at,
            scale,
            sight,
            batch,
        }
    }

    fn head(&mut self, head: usize, of_q: &mut [f32], of_k: &mut [f32], of_v: &mut [f32]) {
        let ([_, _, queries, depth], [_, _, keys, width]) = (self.at.q.shape, self.at.v.shape);
        for first in (0..queries).step_by(QUERIES) {
            let rows = QUERIES.min(queries - first);
            let seen = self.sight.keys(first + rows - 1, keys);
            let block = |heads: &Heads<T>| wide(heads, self.batch, head, first, rows);
            let (q, out, grad) = (block(&self.at.q), block(&self.at.out), block(&self.at.grad));
            let (q, grad_of) = (Matrix::rows(&q, rows, depth), Matrix::rows(&grad, rows, width));
            let (k, v) = (&self.keys[..seen * depth], &self.values[..seen * width]);
            let (k, v) = (Matrix::rows(k, seen, depth), Matrix::rows(v, seen, width));
            let (weights, of_scores) = (&mut self.weights[..rows * seen], &mut self.of_scores[..rows * seen]);
            multiply_here(q, k.t(), weights, Into::Overwrite);
            multiply_here(grad_of, v.t(), of_scores, Into::Overwrite);
            for row in 0..rows {
                let of_row = row * width..(row + 1) * width;
                let along = out[of_row.clone()].iter().zip(&grad[of_row]).map(|(out, grad)| out * grad).sum();
                let visible = self.sight.keys(first + row, keys).min(seen);
                let (weights, of_scores) = (&mut weights[row * seen..][..seen], &mut of_scores[row * seen..][..seen]);
                weights[visible..].fill(0.0);
                of_scores[visible..].fill(0.0);
                gradient_of_row(&mut weights[..visible], &mut of_scores[..visible], along, self.scale);
            }
            let (weights, of_scores) = (Matrix::rows(weights, rows, seen), Matrix::rows(of_scores, rows, seen));
            multiply_here(of_scores, k, &mut of_q[first * depth..][..rows * depth], Into::Overwrite);
            multiply_here(of_scores.t(), q, &mut of_k[..seen * depth], Into::Add);
            multiply_here(weights.t(), grad_of, &mut of_v[..seen * width], Into::Add);
        }
    }
}

/// Makes of products of query and key the softmax's weights, and of the weights' gradients those of the products. `along` is
/// the sum over keys of weight and its gradient, which is that over the head of result and its gradient.
fn gradient_of_row(weights: &mut [f32], of_scores: &mut [f32], along: f32, scale: f32) {
    weights.iter_mut().for_each(|score| *score *= scale);
    let max = Form::fastest().max(weights);
    let reciprocal = 1.0 / Form::fastest().exp_and_sum(weights, max);
    for (weight, of_score) in weights.iter_mut().zip(of_scores) {
        *weight *= reciprocal;
        *of_score = (*of_score - along) * *weight * scale;
    }
}

/// Some rows of a head in `f32`, without gaps.
fn wide<T: Float>(heads: &Heads<T>, batch: usize, head: usize, first: usize, count: usize) -> Vec<f32> {
    let (rows, width) = (heads.rows(batch, head, first, count), heads.shape[3]);
    let mut wide = vec![0f32; count * width];
    for (index, wide) in wide.chunks_exact_mut(width.max(1)).enumerate() {
        T::widen_slice(rows.row(index), wide);
    }
    wide
}
