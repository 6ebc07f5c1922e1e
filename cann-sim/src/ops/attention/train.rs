//! Attention of training, forward: FlashAttentionScore, dense and for sequences that lie one after the other.

use super::engine::{Attention, Block, KeySpan};
use super::infer::{refuse_features, scatter, store};
use super::layout::{Band, Grid, Layout, Mask, Span, check_compressed, packed_spans, spans};
use crate::aclnn::{Call, Kernel, Launch, Tensor};
use crate::dtype::DType::{self, BF16, F16, F32};
use crate::ops::gemm::Stored;
use crate::status::Result;
use half::{bf16, f16};

pub(super) const DENSE: &[(&str, Layout)] =
    &[("BSH", Layout::Bsh), ("SBH", Layout::Sbh), ("BSND", Layout::Bsnd), ("BNSD", Layout::Bnsd)];
pub(super) const PACKED: &[(&str, Layout)] = &[("TND", Layout::Tnd)];

/// The arguments that forward and backward share.
pub(super) struct Training {
    pub query: Tensor,
    pub key: Tensor,
    pub value: Tensor,
    pub mask: Option<Tensor>,
    /// Ends of the packed sequences; none where each batch row is a sequence.
    pub ends: Option<(Vec<i64>, Vec<i64>)>,
    pub scale: f64,
    pub keep_prob: f64,
    pub before: i64,
    pub after: i64,
    pub heads: i64,
    pub layout: String,
    pub sparse_mode: i64,
}

impl Training {
    /// Checks the arguments; the computation and its layout.
    pub(super) fn plan(&self, call: &Call) -> Result<(Attention, Layout)> {
        let layout = Layout::parse(call, &self.layout, if self.ends.is_some() { PACKED } else { DENSE })?;
        call.dtype_in(&self.query, &[F16, BF16, F32])?;
        call.same_dtype(&self.key, &self.query)?;
        call.same_dtype(&self.value, &self.query)?;
        if !(1..=256).contains(&self.heads) {
            return call.invalid(format!("headNum is {}, wanted 1 to 256", self.heads));
        }
        if self.keep_prob != 1.0 {
            return call.invalid(format!(
                "keepProb is {}; the simulated CANN computes attention without dropout, wanted 1",
                self.keep_prob
            ));
        }
        let query = Grid::new(call, &self.query, layout, self.heads as usize)?;
        let key_heads = match layout {
            Layout::Bsh | Layout::Sbh => {
                self.key.shape.last().copied().unwrap_or(0).checked_div(query.dim).unwrap_or(0)
            }
            Layout::Bnsd | Layout::Tnd => self.key.shape.get(1).copied().unwrap_or(0),
            Layout::Bsnd => self.key.shape.get(2).copied().unwrap_or(0),
        };
        if key_heads == 0 || query.heads % key_heads != 0 {
            return call
                .invalid(format!("{} heads of queries are no multiple of {key_heads} heads of keys", query.heads));
        }
        let (k, v) = (Grid::new(call, &self.key, layout, key_heads)?, Grid::new(call, &self.value, layout, key_heads)?);
        let dims = (query.dim, k.dim, v.dim);
        if dims.0 != dims.1 || dims.2 > dims.0 || !(1..=768).contains(&dims.0) {
            return call.invalid(format!("heads of query, key, value have {dims:?} elements, wanted at most 768, as many in key, no more in value"));
        }
        if k.batch != query.batch || (k.batch, k.tokens) != (v.batch, v.tokens) {
            let text = format!(
                "query {:?}, key {:?} and value {:?} do not go together",
                self.query.shape, self.key.shape, self.value.shape
            );
            return call.invalid(text);
        }
        let sequences = self.sequences(call, &query, &k)?;
        let (band, mask) = self.visibility(call, query.heads, &sequences)?;
        let attention = Attention {
            query,
            keys: vec![(k, v)],
            sequences,
            pages: None,
            scale: self.scale as f32,
            band,
            mask,
            rope: None,
        };
        Ok((attention, layout))
    }

    fn sequences(&self, call: &Call, query: &Grid, key: &Grid) -> Result<Vec<(Span, KeySpan)>> {
        let (queries, keys) = match &self.ends {
            None => {
                let whole = |grid: &Grid| spans(call, None, &vec![grid.tokens; grid.batch], "");
                (whole(query)?, whole(key)?)
            }
            Some((q, k)) => (
                packed_spans(call, Some(q), query.tokens, "actualSeqQLen")?,
                packed_spans(call, Some(k), key.tokens, "actualSeqKvLen")?,
            ),
        };
        if queries.len() != keys.len() {
            return call.invalid(format!("{} sequences of queries, {} of keys", queries.len(), keys.len()));
        }
        Ok(queries.into_iter().zip(keys.into_iter().map(|span| KeySpan { source: 0, span })).collect())
    }

    fn visibility(&self, call: &Call, heads: usize, sequences: &[(Span, KeySpan)]) -> Result<(Band, Option<Mask>)> {
        // Without a mask the page ignores the mode and its bounds.
        let Some(mask) = &self.mask else {
            return match self.sparse_mode {
                0..=6 => Ok((Band::ALL, None)),
                other => call.invalid(format!("sparseMode is {other}, wanted 0 to 6")),
            };
        };
        let queries = sequences.iter().map(|(span, _)| span.len).max().unwrap_or(0);
        let keys = sequences.iter().map(|(_, keys)| keys.span.len).max().unwrap_or(0);
        let given = |call: &Call| Mask::new(call, mask, sequences.len(), heads, queries, keys).map(Some);
        let compressed = |band| check_compressed(call, Some(mask), self.sparse_mode).map(|()| (band, None));
        match self.sparse_mode {
            0 => Ok((Band { before: self.before, after: self.after, from_end: false }, given(call)?)),
            1 => Ok((Band::ALL, given(call)?)),
            2 => compressed(Band { before: i64::MAX, after: 0, from_end: false }),
            3 => compressed(Band { before: i64::MAX, after: 0, from_end: true }),
            4 => compressed(Band { before: self.before, after: self.after, from_end: true }),
            other => call.invalid(format!("sparseMode is {other}; the simulated CANN computes modes 0 to 4")),
        }
    }
}

/// A statistic of the softmax: `[B, N, S, 8]`, or `[T, N, 8]`, each value eight times.
pub(super) fn statistic(call: &Call, tensor: &Tensor, query: &Grid, layout: Layout) -> Result<Grid> {
    call.dtype_in(tensor, &[F32])?;
    let (layout, shape) = match layout {
        Layout::Tnd => (Layout::Tnd, vec![query.tokens, query.heads, 8]),
        _ => (Layout::Bnsd, vec![query.batch, query.heads, query.tokens, 8]),
    };
    call.shape_is(tensor, &shape)?;
    Grid::new(call, tensor, layout, query.heads)
}

/// Runs `attention` over elements of type `dtype`.
pub(super) fn run(attention: &Attention, launch: &Launch, dtype: DType) -> Result<Vec<Block>> {
    fn typed<T: Stored>(attention: &Attention, launch: &Launch) -> Result<Vec<Block>> {
        attention.run::<T>(launch)
    }
    match dtype {
        F16 => typed::<f16>(attention, launch),
        BF16 => typed::<bf16>(attention, launch),
        _ => typed::<f32>(attention, launch),
    }
}

fn forward(call: &mut Call, training: Training, max: Tensor, sum: Tensor, out: Tensor) -> Result<Kernel> {
    let (attention, layout) = training.plan(call)?;
    call.same_dtype(&out, &training.query)?;
    let dim = attention.keys[0].1.dim;
    let mut shape = training.query.shape.clone();
    if let Some(last) = shape.last_mut() {
        *last = if matches!(layout, Layout::Bsh | Layout::Sbh) { attention.query.heads * dim } else { dim };
    }
    call.shape_is(&out, &shape)?;
    let out = Grid::new(call, &out, layout, attention.query.heads)?;
    let max = statistic(call, &max, &attention.query, layout)?;
    let sum = statistic(call, &sum, &attention.query, layout)?;
    call.needs_workspace(attention.query.tensor.count() * 4);
    attention.note_cost(call, [1, 1], training.mask.as_ref());
    let dtype = training.query.dtype;
    Ok(Box::new(move |launch| {
        let blocks = run(&attention, launch, dtype)?;
        store(launch, &attention, &blocks, &out)?;
        scatter(launch, &attention, &blocks, &max, f32::NEG_INFINITY, |block, at, to| to.fill(block.max[at]))?;
        scatter(launch, &attention, &blocks, &sum, 0.0, |block, at, to| to.fill(block.sum[at]))
    }))
}

/// A version of the forward operator: `optional` are arguments that must be null, `ints` those that must be 0.
macro_rules! flash_attention {
    ($(#[$doc:meta])* $name:ident, before ($($before:ident: $before_type:ty),*), ends ($($ends:ident),*),
     after ($($after:ident),*), ints ($($int:ident),*)) => {
        $(#[$doc])*
        #[allow(clippy::too_many_arguments)]
        pub fn $name(
            call: &mut Call, query: Tensor, key: Tensor, value: Tensor, real_shift: Option<Tensor>, drop_mask: Option<Tensor>,
            padding_mask: Option<Tensor>, atten_mask: Option<Tensor>, $($before: $before_type,)* prefix: Option<Vec<i64>>,
            $($ends: Option<Vec<i64>>,)* $($after: Option<Vec<i64>>,)* scale_value: f64, keep_prob: f64, pre_tokens: i64, next_tokens: i64,
            head_num: i64, input_layout: String, _inner_precise: i64, sparse_mode: i64, $($int: i64,)* softmax_max_out: Tensor,
            softmax_sum_out: Tensor, _softmax_out_out: Option<Tensor>, attention_out_out: Tensor,
        ) -> Result<Kernel> {
            refuse_features(call, &[
                ("realShift", real_shift.is_some()), ("dropMask", drop_mask.is_some()), ("paddingMask", padding_mask.is_some()),
                ("prefix", prefix.is_some()), $((stringify!($before), $before.is_some()),)* $((stringify!($after), $after.is_some()),)*
            ])?;
            // Without a position bias its kind says nothing.
            $(let _ = $int;)*
            let ends: Vec<Vec<i64>> = vec![$($ends.unwrap_or_default()),*];
            let ends = <[Vec<i64>; 2]>::try_from(ends).ok().map(|[q, k]| (q, k));
            let training = Training {
                query, key, value, mask: atten_mask, ends, scale: scale_value, keep_prob, before: pre_tokens, after: next_tokens,
                heads: head_num, layout: input_layout, sparse_mode,
            };
            forward(call, training, softmax_max_out, softmax_sum_out, attention_out_out)
        }
    };
}

flash_attention! {
    /// Attention that keeps each row's largest score and sum of exponentials for the gradient.
    flash_attention_score, before (), ends (), after (), ints ()
}
flash_attention! {
    /// As [`flash_attention_score`], with arguments for position biases, which must be null.
    flash_attention_score_v2, before (), ends (), after (q_start_idx, kv_start_idx), ints (pse_type)
}
flash_attention! {
    /// As [`flash_attention_score_v2`], with a sink, which must be null.
    flash_attention_score_v3, before (sink: Option<Tensor>), ends (), after (q_start_idx, kv_start_idx), ints (pse_type)
}
flash_attention! {
    /// As [`flash_attention_score`] for sequences that lie one after the other.
    flash_attention_var_len_score, before (), ends (actual_seq_q_len, actual_seq_kv_len), after (), ints ()
}
flash_attention! {
    /// As [`flash_attention_var_len_score`], with arguments for position biases, which must be null.
    flash_attention_var_len_score_v2, before (), ends (actual_seq_q_len, actual_seq_kv_len), after (q_start_idx, kv_start_idx), ints (pse_type)
}
