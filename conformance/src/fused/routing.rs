//! The choice of experts, the way of rows to them, and the way back.

use super::{Case, Operator, uniform, whole};
use crate::array::{Array, DType};
use crate::case::{Fill, Spec};
use candle_ascend::Tensor;
use candle_ascend::ops::moe::{self, Gating};
use rand::SeedableRng;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;

static SOFTMAX: Operator =
    Operator { name: "route, softmax", aclnn: &["MoeGatingTopKSoftmax"], ours: &["gating_softmax"] };
static SIGMOID: Operator = Operator { name: "route, sigmoid", aclnn: &["MoeGatingTopK"], ours: &["gating_sigmoid"] };
static PERMUTE: Operator = Operator { name: "permute", aclnn: &["MoeInitRouting"], ours: &["permute"] };
static UNPERMUTE: Operator = Operator { name: "unpermute", aclnn: &["MoeFinalizeRouting"], ours: &["unpermute"] };
static UNPERMUTE_ONTO: Operator =
    Operator { name: "unpermute, shared expert", aclnn: &["MoeFinalizeRouting"], ours: &["unpermute"] };

pub fn cases(dtype: DType) -> Vec<Case> {
    let mut all: Vec<Case> = SOFTMAXES.iter().map(|&sizes| softmax(dtype, sizes)).collect();
    all.extend(SIGMOIDS.iter().map(|gate| gate.case(dtype)));
    all.extend(MOVES.iter().map(|&sizes| permute(dtype, sizes)));
    all.extend(MOVES.iter().map(|&sizes| unpermute(dtype, sizes, false)));
    all.extend(MOVES.iter().map(|&sizes| unpermute(dtype, sizes, true)));
    all
}

/// Logits whose order no rounding changes: in each row shuffled steps that BF16 keeps apart.
fn ladders(dtype: DType, tokens: usize, experts: usize) -> Spec {
    let mut rng = StdRng::seed_from_u64((tokens * experts) as u64);
    let row = |_| {
        let mut row: Vec<f64> = (0..experts).map(|i| (i as f64 - experts as f64 / 2.0) / 32.0).collect();
        row.shuffle(&mut rng);
        row
    };
    Spec::new(dtype, [tokens, experts]).fill(Fill::Values((0..tokens).flat_map(row).collect()))
}

/// Indices of the values from the largest down; the first of equals first.
fn descending(values: &[f64]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by(|&a, &b| values[b].total_cmp(&values[a]));
    order
}

/// Weights in F32 and experts of each row, of `choose` of the row.
fn chosen(logits: &Array, k: usize, choose: impl Fn(&[f64]) -> Vec<(usize, f64)>) -> Vec<Array> {
    let (tokens, experts) = (logits.shape[0], logits.shape[1]);
    let (ids, weights) = logits.data.chunks(experts).flat_map(choose).map(|(id, weight)| (id as f64, weight)).unzip();
    vec![Array::new(DType::F32, [tokens, k], weights), Array::new(DType::U32, [tokens, k], ids)]
}

/// Exponentials, a sum and quotients of F32 below 3, rounded where the operator answers in the type of the logits.
fn of_exponentials(case: Case) -> Case {
    case.within(&[(16.0, 0.1)])
}

/// Tokens, experts, chosen of them, and whether these weights add up to one.
const SOFTMAXES: [(usize, usize, usize, bool); 5] =
    [(1, 33, 8, true), (67, 128, 8, true), (9, 60, 6, false), (3, 5, 5, false), (2, 256, 1, true)];

fn softmax(dtype: DType, (tokens, experts, k, renormalise): (usize, usize, usize, bool)) -> Case {
    let label = format!("{k} of {experts} for {tokens}{}", if renormalise { ", renormalised" } else { "" });
    let call = move |x: &[Tensor]| {
        let (weights, experts) = moe::route(&x[0], k, Gating::Softmax { renormalise })?;
        Ok(vec![weights, experts])
    };
    let loops = move |x: &[Array]| {
        chosen(&x[0], k, |row| {
            let best = descending(row)[..k].to_vec();
            let among: Vec<usize> = if renormalise { best.clone() } else { (0..row.len()).collect() };
            let total: f64 = among.iter().map(|&i| row[i].exp()).sum();
            best.into_iter().map(|i| (i, row[i].exp() / total)).collect()
        })
    };
    of_exponentials(Case::new((&SOFTMAX, dtype), label, vec![ladders(dtype, tokens, experts)], call, loops))
}

/// Sizes of a choice by sigmoid within groups (DeepSeek-V3's "noaux_tc").
#[derive(Clone, Copy, Debug)]
struct Gate {
    tokens: usize,
    experts: usize,
    k: usize,
    groups: usize,
    kept_groups: usize,
    biased: bool,
    renormalise: bool,
}

const fn gate([tokens, experts, k]: [usize; 3], [groups, kept_groups]: [usize; 2], biased: bool) -> Gate {
    Gate { tokens, experts, k, groups, kept_groups, biased, renormalise: true }
}

const SIGMOIDS: [Gate; 5] = [
    gate([1, 33, 8], [3, 2], true),
    gate([67, 128, 8], [1, 1], true),
    gate([32, 256, 8], [8, 4], true),
    gate([5, 48, 3], [4, 3], false),
    Gate { renormalise: false, ..gate([4, 64, 6], [8, 3], true) },
];

const FACTOR: f64 = 2.5;

impl Gate {
    fn case(&self, dtype: DType) -> Case {
        let gate = *self;
        let Self { tokens, experts, k, groups, kept_groups, biased, renormalise } = gate;
        let mut inputs = vec![ladders(dtype, tokens, experts)];
        if biased {
            // Of eight bits, which every type holds.
            let bias = (0..experts).map(|i| (i * 7 % experts) as f64 / 4096.0).collect();
            inputs.push(Spec::new(DType::F32, [experts]).fill(Fill::Values(bias)));
        }
        let words =
            [if biased { "" } else { ", no bias" }, if renormalise { "" } else { ", not renormalised" }].concat();
        let label = format!("{k} of {experts} for {tokens} in {kept_groups} of {groups} groups{words}");
        let call = move |x: &[Tensor]| {
            let gating = Gating::Sigmoid { bias: x.get(1), groups, kept_groups, renormalise, factor: FACTOR };
            let (weights, experts) = moe::route(&x[0], k, gating)?;
            Ok(vec![weights, experts])
        };
        let loops = move |x: &[Array]| {
            let bias = x.get(1).map_or(vec![0.0; experts], |bias| bias.data.clone());
            chosen(&x[0], k, |row| gate.choose(row, &bias))
        };
        of_exponentials(Case::new((&SIGMOID, dtype), label, inputs, call, loops))
    }

    /// The bias takes part in the choice and not in the weights; groups rank by the sum of their two best.
    fn choose(&self, row: &[f64], bias: &[f64]) -> Vec<(usize, f64)> {
        let scores: Vec<f64> = row.iter().map(|x| 1.0 / (1.0 + (-x).exp())).collect();
        let ranks: Vec<f64> = scores.iter().zip(bias).map(|(score, bias)| score + bias).collect();
        let size = self.experts / self.groups;
        let two_best = |group: &[f64]| descending(group).into_iter().take(2).map(|i| group[i]).sum();
        let of_groups: Vec<f64> = ranks.chunks(size).map(two_best).collect();
        let kept = &descending(&of_groups)[..self.kept_groups];
        let open = descending(&ranks).into_iter().filter(|i| kept.contains(&(i / size)));
        let best: Vec<usize> = open.take(self.k).collect();
        let total = if self.renormalise { best.iter().map(|&i| scores[i]).sum() } else { 1.0 };
        best.into_iter().map(|i| (i, scores[i] / total * FACTOR)).collect()
    }
}

/// Tokens, experts of a token, experts and width.
const MOVES: [[usize; 4]; 4] = [[1, 1, 1, 16], [7, 3, 33, 17], [60, 8, 16, 40], [130, 2, 5, 72]];

/// Experts of each choice: some are nobody's, the first few take most.
fn experts_of([tokens, k, experts, _]: [usize; 4]) -> Vec<usize> {
    let token = |t: usize| (0..k).map(move |j| (t * t + 3 * j * (t % 5 + 1)) % experts.min(3 * k + 2));
    (0..tokens).flat_map(token).collect()
}

/// The choices of expert 0 in their order, then those of expert 1, and so on.
fn by_expert(chosen: &[usize], experts: usize) -> Vec<usize> {
    (0..experts).flat_map(|expert| (0..chosen.len()).filter(move |&at| chosen[at] == expert)).collect()
}

/// Where each choice stands in `order`.
fn places(order: &[usize]) -> Vec<usize> {
    let mut places = vec![0; order.len()];
    order.iter().enumerate().for_each(|(place, &at)| places[at] = place);
    places
}

fn label_of([tokens, k, experts, width]: [usize; 4]) -> String {
    format!("{tokens} rows of {width}, {k} of {experts} experts")
}

fn permute(dtype: DType, sizes: [usize; 4]) -> Case {
    let [tokens, k, experts, width] = sizes;
    let inputs = vec![uniform(dtype, &[tokens, width], 3.0), whole(DType::U32, &[tokens, k], experts_of(sizes))];
    let call = move |x: &[Tensor]| {
        let permuted = moe::permute(&x[0], &x[1], experts)?;
        Ok(vec![permuted.rows, permuted.places, permuted.ends])
    };
    let loops = move |x: &[Array]| {
        let chosen = experts_of(sizes);
        let order = by_expert(&chosen, experts);
        let rows = order.iter().flat_map(|at| x[0].data[at / k * width..][..width].to_vec()).collect();
        let ends = (0..experts).map(|expert| chosen.iter().filter(|&&other| other <= expert).count() as f64).collect();
        let places = places(&order).into_iter().map(|place| place as f64).collect();
        vec![
            Array::new(dtype, [tokens * k, width], rows),
            Array::new(DType::U32, [tokens * k], places),
            Array::new(DType::I64, [experts], ends),
        ]
    };
    Case::new((&PERMUTE, dtype), label_of(sizes), inputs, call, loops)
}

fn unpermute(dtype: DType, sizes: [usize; 4], onto_shared: bool) -> Case {
    let [tokens, k, experts, width] = sizes;
    let back = move || places(&by_expert(&experts_of(sizes), experts));
    let mut inputs = vec![
        uniform(dtype, &[tokens * k, width], 3.0),
        whole(DType::U32, &[tokens * k], back()),
        uniform(DType::F32, &[tokens, k], 1.0),
    ];
    if onto_shared {
        inputs.push(uniform(dtype, &[tokens, width], 3.0));
    }
    let call = move |x: &[Tensor]| {
        Ok(vec![match onto_shared {
            true => moe::unpermute_onto(&x[3], &x[0], &x[1], &x[2])?,
            false => moe::unpermute(&x[0], &x[1], &x[2])?,
        }])
    };
    let loops = move |x: &[Array]| {
        let back = back();
        let sum = |at: usize| {
            let (token, column) = (at / width, at % width);
            let term = |j: usize| x[2].data[token * k + j] * x[0].data[back[token * k + j] * width + column];
            let shared = if onto_shared { x[3].data[at] } else { 0.0 };
            shared + (0..k).map(term).sum::<f64>()
        };
        vec![Array::new(dtype, [tokens, width], (0..tokens * width).map(sum).collect())]
    };
    let operator = if onto_shared { &UNPERMUTE_ONTO } else { &UNPERMUTE };
    // Up to eight products below 3 that may cancel, in F32; the shared rows are added before the rounding or after it.
    let case = Case::new((operator, dtype), label_of(sizes), inputs, call, loops);
    if dtype == DType::F32 { case.within(&[(8.0, 2.0)]) } else { case.within(&[(1.5, 2.0)]) }
}
