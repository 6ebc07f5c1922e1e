//! Attention of training, backward: the weights are computed again from the statistics that the forward kept.

use super::engine::{Attention, Loaded, load, matrix};
use super::infer::refuse_features;
use super::layout::{Grid, LoadedMask};
use super::train::{Training, statistic};
use crate::aclnn::{Call, Kernel, Launch, Tensor};
use crate::dtype::DType::{BF16, F16};
use crate::ops::gemm::{Matrix, Stored, product};
use crate::status::Result;
use half::{bf16, f16};
use rayon::prelude::*;

/// Query rows whose weights are held at a time.
const ROWS: usize = 64;

/// What the gradient reads and writes besides the operands.
struct Gradient {
    attention: Attention,
    dy: Grid,
    output: Grid,
    max: Grid,
    sum: Grid,
    dq: Grid,
    dk: Grid,
    dv: Grid,
}

/// Loaded inputs.
struct Inputs<'a, T: Copy> {
    query: Loaded<'a, T>,
    key: Loaded<'a, T>,
    value: Loaded<'a, T>,
    dy: Loaded<'a, T>,
    output: Loaded<'a, T>,
    max: Loaded<'a, f32>,
    sum: Loaded<'a, f32>,
    mask: Option<LoadedMask>,
}

/// Gradients of one sequence's key head: of the queries of each head of its group, of the keys, of the values.
struct Part {
    dq: Vec<Vec<f32>>,
    dk: Vec<f32>,
    dv: Vec<f32>,
}

fn add(to: &mut [f32], values: &[f32]) {
    to.iter_mut().zip(values).for_each(|(to, value)| *to += value);
}

impl Gradient {
    fn run<T: Stored>(&self, launch: &Launch) -> Result<()> {
        let (key, value) = &self.attention.keys[0];
        let inputs = Inputs {
            query: load::<T>(&self.attention.query, launch)?,
            key: load::<T>(key, launch)?,
            value: load::<T>(value, launch)?,
            dy: load::<T>(&self.dy, launch)?,
            output: load::<T>(&self.output, launch)?,
            max: load::<f32>(&self.max, launch)?,
            sum: load::<f32>(&self.sum, launch)?,
            mask: self.attention.mask.as_ref().map(|mask| mask.load(launch)).transpose()?,
        };
        let heads = key.heads;
        let tasks: Vec<(usize, usize)> = (0..self.attention.sequences.len())
            .flat_map(|sequence| (0..heads).map(move |head| (sequence, head)))
            .collect();
        let parts: Vec<Part> = tasks.par_iter().map(|&(sequence, head)| self.part(&inputs, sequence, head)).collect();
        let (q, k, v) = (self.dq.row_major(), self.dk.row_major(), self.dv.row_major());
        let mut sums = [&q, &k, &v].map(|grid| vec![0f32; grid.tensor.count()]);
        let group = self.attention.group();
        for (&(sequence, head), part) in tasks.iter().zip(&parts) {
            let (queries, keys) = &self.attention.sequences[sequence];
            for (g, dq) in part.dq.iter().enumerate() {
                place(&mut sums[0], &q, (queries.batch, head * group + g, queries.first), dq);
            }
            place(&mut sums[1], &k, (keys.span.batch, head, keys.span.first), &part.dk);
            place(&mut sums[2], &v, (keys.span.batch, head, keys.span.first), &part.dv);
        }
        self.dq.tensor.store_f32(launch, &sums[0])?;
        self.dk.tensor.store_f32(launch, &sums[1])?;
        self.dv.tensor.store_f32(launch, &sums[2])
    }

    fn part<T: Stored>(&self, inputs: &Inputs<T>, sequence: usize, key_head: usize) -> Part {
        let (span, keys) = &self.attention.sequences[sequence];
        let (key, value) = &self.attention.keys[0];
        let (dim, value_dim, skv) = (key.dim, value.dim, keys.span.len);
        let at = (keys.span.batch, key_head, keys.span.first);
        let k = matrix(key, &inputs.key, at, skv).map(T::to_f32);
        let v = matrix(value, &inputs.value, at, skv).map(T::to_f32);
        let (k, v) = (Matrix::row_major(&k, skv, dim), Matrix::row_major(&v, skv, value_dim));
        let mut part = Part { dq: Vec::new(), dk: vec![0.0; skv * dim], dv: vec![0.0; skv * value_dim] };
        let group = self.attention.group();
        for head in key_head * group..(key_head + 1) * group {
            let mut dq = Vec::with_capacity(span.len * dim);
            for first in (0..span.len).step_by(ROWS) {
                let count = ROWS.min(span.len - first);
                let at = (span.batch, head, span.first + first);
                let q = matrix(&self.attention.query, &inputs.query, at, count).map(T::to_f32);
                let dy = matrix(&self.dy, &inputs.dy, at, count).map(T::to_f32);
                let (q, dy) = (Matrix::row_major(&q, count, dim), Matrix::row_major(&dy, count, value_dim));
                let (weights, slopes) = self.weights(inputs, (sequence, head, first), q, dy, (k, v));
                let (weights, slopes) =
                    (Matrix::row_major(&weights, count, skv), Matrix::row_major(&slopes, count, skv));
                let times = |a: Matrix<f32>, b: Matrix<f32>| {
                    let mut out = vec![0f32; a.rows * b.cols];
                    product(a, b, &mut out, false);
                    out
                };
                dq.extend(times(slopes, k));
                add(&mut part.dk, &times(slopes.t(), q));
                add(&mut part.dv, &times(weights.t(), dy));
            }
            part.dq.push(dq);
        }
        part
    }

    /// The softmax's weights of a block of queries, and the gradients of its unscaled scores.
    fn weights<T: Stored>(
        &self,
        inputs: &Inputs<T>,
        (sequence, head, first): (usize, usize, usize),
        q: Matrix<f32>,
        dy: Matrix<f32>,
        (k, v): (Matrix<f32>, Matrix<f32>),
    ) -> (Vec<f32>, Vec<f32>) {
        let (span, keys) = &self.attention.sequences[sequence];
        let (skv, scale) = (keys.span.len, self.attention.scale);
        let mut weights = vec![0f32; q.rows * skv];
        product(q, k.t(), &mut weights, false);
        let mut slopes = vec![0f32; q.rows * skv];
        product(dy, v.t(), &mut slopes, false);
        let (max, sum) = (&inputs.max, &inputs.sum);
        for row in 0..q.rows {
            let at = (span.batch, head, span.first + first + row);
            let output = matrix(&self.output, &inputs.output, at, 1).map(T::to_f32);
            let dy_row = matrix(&self.dy, &inputs.dy, at, 1).map(T::to_f32);
            let mean: f32 = output.iter().zip(&dy_row).map(|(o, g)| o * g).sum();
            let max = max.0[max.1 + self.max.offset(at.0, at.1, at.2)];
            let sum = sum.0[sum.1 + self.sum.offset(at.0, at.1, at.2)];
            let (low, high) = self.attention.band.range(first + row, span.len, skv);
            let hidden = inputs.mask.as_ref().map(|mask| mask.row(sequence, head, first + row));
            for key in 0..skv {
                let seen = sum != 0.0 && (low..high).contains(&key) && !hidden.is_some_and(|hidden| hidden[key]);
                let cell = row * skv + key;
                weights[cell] = if seen { (weights[cell] * scale - max).exp() / sum } else { 0.0 };
                slopes[cell] = weights[cell] * (slopes[cell] - mean) * scale;
            }
        }
        (weights, slopes)
    }
}

/// Puts the rows of consecutive tokens of a head where they lie in a row-major tensor.
fn place(values: &mut [f32], grid: &Grid, (batch, head, token): (usize, usize, usize), rows: &[f32]) {
    for (i, row) in rows.chunks_exact(grid.dim.max(1)).enumerate() {
        values[grid.offset(batch, head, token + i)..][..row.len()].copy_from_slice(row);
    }
}

/// Tensors of the gradient: what the forward kept, and where the gradients go.
struct Kept {
    dy: Tensor,
    max: Option<Tensor>,
    sum: Option<Tensor>,
    output: Option<Tensor>,
    dq: Tensor,
    dk: Tensor,
    dv: Tensor,
}

fn backward(call: &mut Call, training: Training, kept: Kept) -> Result<Kernel> {
    let (attention, layout) = training.plan(call)?;
    let Kept { dy, max: Some(max), sum: Some(sum), output: Some(output), dq, dk, dv } = kept else {
        return call.invalid("softmaxMax, softmaxSum and attentionIn are needed, one of them is null");
    };
    for (tensor, like) in [(&dy, &output), (&dq, &training.query), (&dk, &training.key), (&dv, &training.value)] {
        call.same_dtype(tensor, &training.query)?;
        call.shape_is(tensor, &like.shape)?;
    }
    call.same_dtype(&output, &training.query)?;
    // The scores come again, and the gradients of scores, query, key and value are a product each.
    attention.note_cost(call, [3, 2], training.mask.as_ref());
    let (heads, key_heads) = (attention.query.heads, attention.keys[0].0.heads);
    let (dy, output) = (Grid::new(call, &dy, layout, heads)?, Grid::new(call, &output, layout, heads)?);
    let sizes = (attention.query.batch, attention.query.tokens, attention.keys[0].1.dim);
    if (output.batch, output.tokens, output.dim) != sizes {
        return call.invalid(format!("attentionIn {:?} does not fit query and value", output.tensor.shape));
    }
    let gradient = Gradient {
        dy,
        output,
        max: statistic(call, &max, &attention.query, layout)?,
        sum: statistic(call, &sum, &attention.query, layout)?,
        dq: Grid::new(call, &dq, layout, heads)?,
        dk: Grid::new(call, &dk, layout, key_heads)?,
        dv: Grid::new(call, &dv, layout, key_heads)?,
        attention,
    };
    call.needs_workspace(training.query.count() * 4);
    let dtype = training.query.dtype;
    Ok(Box::new(move |launch| match dtype {
        F16 => gradient.run::<f16>(launch),
        BF16 => gradient.run::<bf16>(launch),
        _ => gradient.run::<f32>(launch),
    }))
}

/// A version of the backward operator; `after` are arguments that must be null.
macro_rules! flash_attention_grad {
    ($(#[$doc:meta])* $name:ident, ends ($($ends:ident),*), after ($($after:ident),*), ints ($($int:ident),*)) => {
        $(#[$doc])*
        #[allow(clippy::too_many_arguments)]
        pub fn $name(
            call: &mut Call, query: Tensor, key_in: Tensor, value: Tensor, dy: Tensor, pse_shift: Option<Tensor>,
            drop_mask: Option<Tensor>, padding_mask: Option<Tensor>, atten_mask: Option<Tensor>, softmax_max: Option<Tensor>,
            softmax_sum: Option<Tensor>, _softmax_in: Option<Tensor>, attention_in: Option<Tensor>, prefix: Option<Vec<i64>>,
            $($ends: Option<Vec<i64>>,)* $($after: Option<Vec<i64>>,)* scale_value: f64, keep_prob: f64, pre_tokens: i64,
            next_tokens: i64, head_num: i64, input_layout: String, _inner_precise: i64, sparse_mode: i64, $($int: i64,)* dq_out: Tensor,
            dk_out: Tensor, dv_out: Tensor, _dpse_out: Option<Tensor>,
        ) -> Result<Kernel> {
            refuse_features(call, &[
                ("pseShift", pse_shift.is_some()), ("dropMask", drop_mask.is_some()), ("paddingMask", padding_mask.is_some()),
                ("prefix", prefix.is_some()), $((stringify!($after), $after.is_some()),)*
            ])?;
            // Without a position bias its kind says nothing.
            $(let _ = $int;)*
            let ends: Vec<Vec<i64>> = vec![$($ends.unwrap_or_default()),*];
            let ends = <[Vec<i64>; 2]>::try_from(ends).ok().map(|[q, k]| (q, k));
            let training = Training {
                query, key: key_in, value, mask: atten_mask, ends, scale: scale_value, keep_prob, before: pre_tokens, after: next_tokens,
                heads: head_num, layout: input_layout, sparse_mode,
            };
            let kept = Kept { dy, max: softmax_max, sum: softmax_sum, output: attention_in, dq: dq_out, dk: dk_out, dv: dv_out };
            backward(call, training, kept)
        }
    };
}

flash_attention_grad! {
    /// Gradients of [`super::flash_attention_score`] for query, key and value.
    flash_attention_score_grad, ends (), after (), ints ()
}
flash_attention_grad! {
    /// As [`flash_attention_score_grad`], with arguments for position biases, which must be null.
    flash_attention_score_grad_v2, ends (), after (q_start_idx, kv_start_idx), ints (pse_type)
}
flash_attention_grad! {
    /// As [`flash_attention_score_grad`] for sequences that lie one after the other.
    flash_attention_unpadding_score_grad, ends (actual_seq_q_len, actual_seq_kv_len), after (), ints ()
}
flash_attention_grad! {
    /// As [`flash_attention_unpadding_score_grad`], with arguments for position biases, which must be null.
    flash_attention_unpadding_score_grad_v2, ends (actual_seq_q_len, actual_seq_kv_len), after (q_start_idx, kv_start_idx), ints (pse_type)
}
