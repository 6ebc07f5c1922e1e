//! Attention over keys that lie one after the other: many queries or one, shared key heads, latent keys, ragged sequences.

use super::{Case, Operator, uniform, whole};
use crate::array::{Array, DType};
use candle_ascend::ops::{self, AttentionMask, HiddenKeys};

const ACLNN: &[&str] = &["FusedInferAttentionScore"];
const OURS: &[&str] = &["flash_attention"];
static PREFILL: Operator = Operator { name: "attention, prefill", aclnn: ACLNN, ours: OURS };
static STEP: Operator = Operator { name: "attention, one query", aclnn: ACLNN, ours: OURS };
static LATENT: Operator =
    Operator { name: "attention, one latent query", aclnn: ACLNN, ours: &["flash_attention", "mla_decode"] };
static HIDDEN: Operator = Operator { name: "attention, hidden keys", aclnn: ACLNN, ours: &["paged_decode"] };
static RAGGED: Operator = Operator { name: "attention, ragged", aclnn: &["FlashAttentionVarLenScore"], ours: OURS };

pub fn cases(dtype: DType) -> Vec<Case> {
    let dense = |operator: &'static Operator, shapes: &[Dense]| -> Vec<Case> {
        shapes.iter().map(|shape| shape.case(operator, dtype)).collect()
    };
    let mut all = dense(&PREFILL, &PREFILLS);
    all.extend(dense(&STEP, &STEPS));
    all.extend(dense(&LATENT, &LATENTS));
    all.extend(HIDDENS.map(|shape| shape.behind_positions(dtype)));
    all.extend(RAGGEDS.iter().map(|shape| shape.case(dtype)));
    all
}

/// Sizes of a call over sequences of one length.
#[derive(Clone, Copy, Debug)]
struct Dense {
    batch: usize,
    heads: usize,
    key_heads: usize,
    queries: usize,
    keys: usize,
    width: usize,
    value_width: usize,
    causal: bool,
}

const fn dense([batch, heads, key_heads, queries, keys]: [usize; 5], widths: [usize; 2], causal: bool) -> Dense {
    Dense { batch, heads, key_heads, queries, keys, width: widths[0], value_width: widths[1], causal }
}

/// A prefix before the queries; sequences of their own length; keys wider than values; no mask; a width of no whole blocks.
const PREFILLS: [Dense; 7] = [
    dense([1, 4, 2, 33, 77], [128, 128], true),
    dense([2, 2, 2, 17, 17], [64, 64], true),
    dense([1, 3, 1, 150, 150], [64, 64], true),
    dense([1, 4, 4, 5, 5], [192, 128], true),
    dense([1, 2, 1, 19, 23], [256, 256], true),
    dense([2, 6, 2, 9, 31], [80, 80], false),
    dense([1, 2, 2, 5, 9], [24, 24], true),
];

const STEPS: [Dense; 3] = [
    dense([2, 4, 2, 1, 37], [64, 64], true),
    dense([1, 8, 1, 1, 130], [128, 128], true),
    dense([3, 6, 6, 1, 5], [256, 256], true),
];

/// The values are the first columns of the keys.
const LATENTS: [Dense; 2] = [dense([1, 16, 1, 1, 50], [576, 512], true), dense([2, 5, 1, 1, 21], [576, 512], true)];

/// The keys are the room of a cache, of which a captured step knows on the device alone how much is in use; those of a lone
/// sequence and of several, latent ones, and a room of no whole blocks.
const HIDDENS: [Dense; 5] = [
    dense([1, 4, 2, 1, 256], [64, 64], true),
    dense([3, 6, 2, 1, 128], [128, 128], true),
    dense([2, 4, 4, 1, 48], [80, 80], true),
    dense([2, 5, 1, 1, 64], [576, 512], true),
    dense([1, 2, 1, 1, 41], [64, 64], true),
];

/// Positions of a cache behind those in use.
const ROOM: usize = 9;

/// The values of a query that sees these rows of keys, weighted: `softmax(scale q kᵀ) v`.
pub(super) fn attend(q: &[f64], keys: &[&[f64]], values: &[&[f64]], scale: f64) -> Vec<f64> {
    let scores: Vec<f64> = keys.iter().map(|key| scale * key.iter().zip(q).map(|(k, q)| k * q).sum::<f64>()).collect();
    let top = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let weights: Vec<f64> = scores.iter().map(|score| (score - top).exp()).collect();
    let total: f64 = weights.iter().sum();
    let column = |e: usize| weights.iter().zip(values).map(|(w, value)| w * value[e]).sum::<f64>() / total;
    (0..values[0].len()).map(column).collect()
}

/// Scores are sums in F32 of up to 576 products below 4, whose errors the weights inherit. Of a narrower type our kernel and
/// aclnn's round each weight before it meets its value, and the result is rounded; weights add up to one and values lie below 2.
pub(super) fn rounded_weights(case: Case) -> Case {
    if case.dtype == DType::F32 { case.within(&[(32.0, 1.0)]) } else { case.within(&[(2.0, 1.0)]) }
}

/// Row `at` of a tensor `[.., rows, width]`, which is how it lies.
fn row(x: &Array, at: usize) -> &[f64] {
    let width = x.shape[x.rank() - 1];
    &x.data[at * width..][..width]
}

impl Dense {
    fn case(self, operator: &'static Operator, dtype: DType) -> Case {
        let Self { batch, heads, key_heads, queries, keys, width, value_width, causal } = self;
        let latent = width > 512;
        let offset = keys - queries;
        let scale = (width as f64).powf(-0.5);
        let mut inputs = vec![
            uniform(dtype, &[batch, heads, queries, width], 2.0),
            uniform(dtype, &[batch, key_heads, keys + ROOM, width], 2.0),
        ];
        if !latent {
            inputs.push(uniform(dtype, &[batch, key_heads, keys + ROOM, value_width], 2.0));
        }
        let mask = if causal { "causal" } else { "no mask" };
        let label =
            format!("{batch} of {queries} over {keys}, {heads} heads over {key_heads}, {width}/{value_width}, {mask}");
        let call = move |x: &[candle_ascend::Tensor]| {
            let mask = if causal { AttentionMask::Causal { offset } } else { AttentionMask::None };
            let used = |x: &candle_ascend::Tensor| x.narrow(2, 0, keys);
            let values = if latent { used(&x[1])?.narrow(3, 0, value_width)? } else { used(&x[2])? };
            Ok(vec![ops::attention(&x[0], &used(&x[1])?, &values, scale, mask)?])
        };
        let loops = move |x: &[Array]| {
            let (q, k, v) = (&x[0], &x[1], &x[x.len() - 1]);
            let one = |at: usize| {
                let (b, h, i) = (at / queries / heads, at / queries % heads, at % queries);
                let first = (b * key_heads + h / (heads / key_heads)) * (keys + ROOM);
                let seen = if causal { i + offset + 1 } else { keys };
                let rows = |x| (first..first + seen).map(|at| row(x, at)).collect::<Vec<_>>();
                let values: Vec<&[f64]> = rows(v).into_iter().map(|value| &value[..value_width]).collect();
                attend(row(q, at), &rows(k), &values, scale)
            };
            let out = (0..batch * heads * queries).flat_map(one).collect();
            vec![Array::new(q.dtype, [batch, heads, queries, value_width], out)]
        };
        rounded_weights(Case::new((operator, dtype), label, inputs, call, loops))
    }

    /// Each sequence's query sees the keys up to a position of its own.
    fn behind_positions(self, dtype: DType) -> Case {
        let Self { batch, heads, key_heads, keys, width, value_width, .. } = self;
        let latent = width > 512;
        let scale = (width as f64).powf(-0.5);
        let position = move |b: usize| if b == 1 { keys - 1 } else { 17 + b };
        let mut inputs = vec![
            uniform(dtype, &[batch, heads, 1, width], 2.0),
            whole(DType::I64, &[batch], (0..batch).map(position)),
            whole(DType::I64, &[1, keys], 0..keys),
            uniform(dtype, &[batch, key_heads, keys, width], 2.0),
        ];
        if !latent {
            inputs.push(uniform(dtype, &[batch, key_heads, keys, value_width], 2.0));
        }
        let label = format!("{batch} over {keys} at most, {heads} heads over {key_heads}, {width}/{value_width}");
        let call = move |x: &[candle_ascend::Tensor]| {
            let hidden = HiddenKeys::behind(&x[1], &x[2])?;
            let values = if latent { x[3].narrow(3, 0, value_width)? } else { x[4].clone() };
            Ok(vec![ops::attention(&x[0], &x[3], &values, scale, AttentionMask::Hidden(&hidden))?])
        };
        let loops = move |x: &[Array]| {
            let (k, v) = (&x[3], &x[x.len() - 1]);
            let one = |at: usize| {
                let first = (at / heads * key_heads + at % heads / (heads / key_heads)) * keys;
                let rows = |x| (first..=first + position(at / heads)).map(|at| row(x, at)).collect::<Vec<_>>();
                let values: Vec<&[f64]> = rows(v).into_iter().map(|value| &value[..value_width]).collect();
                attend(row(&x[0], at), &rows(k), &values, scale)
            };
            let out = (0..batch * heads).flat_map(one).collect();
            vec![Array::new(x[0].dtype, [batch, heads, 1, value_width], out)]
        };
        rounded_weights(Case::new((&HIDDEN, dtype), label, inputs, call, loops))
    }
}

/// Causal sequences of several lengths, one after the other.
struct Ragged {
    heads: usize,
    key_heads: usize,
    width: usize,
    value_width: usize,
    lengths: &'static [usize],
}

const RAGGEDS: [Ragged; 3] = [
    Ragged { heads: 4, key_heads: 2, width: 64, value_width: 64, lengths: &[5, 1, 33, 7] },
    Ragged { heads: 2, key_heads: 2, width: 128, value_width: 128, lengths: &[40, 40, 3] },
    Ragged { heads: 2, key_heads: 1, width: 192, value_width: 128, lengths: &[9, 20] },
];

impl Ragged {
    fn case(&self, dtype: DType) -> Case {
        let &Self { heads, key_heads, width, value_width, lengths } = self;
        let total: usize = lengths.iter().sum();
        let scale = (width as f64).powf(-0.5);
        let inputs = [(heads, width), (key_heads, width), (key_heads, value_width)];
        let inputs = inputs.map(|(heads, width)| uniform(dtype, &[1, heads, total, width], 2.0)).to_vec();
        let label = format!("{lengths:?}, {heads} heads over {key_heads}, {width}/{value_width}");
        let call =
            move |x: &[candle_ascend::Tensor]| Ok(vec![ops::attention_packed(&x[0], &x[1], &x[2], scale, lengths)?]);
        let loops = move |x: &[Array]| {
            // Where the sequence of each token begins.
            let mut first = 0;
            let begins: Vec<usize> = (lengths.iter())
                .flat_map(|&length| {
                    first += length;
                    vec![first - length; length]
                })
                .collect();
            let one = |at: usize| {
                let (token, of_keys) = (at % total, at / total / (heads / key_heads) * total);
                let rows = |x| (begins[token]..=token).map(|at| row(x, of_keys + at)).collect::<Vec<_>>();
                attend(row(&x[0], at), &rows(&x[1]), &rows(&x[2]), scale)
            };
            vec![Array::new(x[0].dtype, [1, heads, total, value_width], (0..heads * total).flat_map(one).collect())]
        };
        rounded_weights(Case::new((&RAGGED, dtype), label, inputs, call, loops))
    }
}
