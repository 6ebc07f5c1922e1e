//! Choices of experts.

use super::super::FLOATS;
use super::super::args::{build, given, out};
use crate::array::{Array, DType};
use crate::case::{Arg, Case, Fill, Spec};
use DType::*;

pub fn cases() -> Vec<Case> {
    let mut all = Vec::new();
    for &dtype in FLOATS {
        all.extend(GATES.map(|gate| gating(dtype, gate)));
        all.extend(softmax(dtype));
    }
    all
}

const ROWS: usize = 7;
const EXPERTS: usize = 16;

/// Attributes of a choice.
#[derive(Clone, Copy)]
struct Gate {
    k: usize,
    groups: usize,
    kept_groups: usize,
    /// How many of a group's best rank it.
    best: usize,
    sigmoid: bool,
    biased: bool,
}

const GATES: [Gate; 4] = [
    Gate { k: 3, groups: 1, kept_groups: 1, best: 1, sigmoid: false, biased: false },
    Gate { k: 4, groups: 4, kept_groups: 2, best: 2, sigmoid: true, biased: true },
    Gate { k: 5, groups: 4, kept_groups: 3, best: 1, sigmoid: true, biased: false },
    Gate { k: 2, groups: 1, kept_groups: 1, best: 1, sigmoid: true, biased: true },
];

const FACTOR: f64 = 2.5;
const EPS: f64 = 1e-6;

/// Indices of the values from the largest down; the first of equals first.
fn descending(values: &[f64]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by(|&a, &b| values[b].total_cmp(&values[a]));
    order
}

/// Scores of a row, its experts and their weights. The bias takes part in the choice, not in the weights.
fn choose(row: &[f64], bias: &[f64], gate: Gate) -> (Vec<f64>, Vec<usize>, Vec<f64>) {
    let total: f64 = row.iter().map(|x| x.exp()).sum();
    let score = |x: &f64| if gate.sigmoid { 1.0 / (1.0 + (-x).exp()) } else { x.exp() / total };
    let scores: Vec<f64> = row.iter().map(score).collect();
    let ranks: Vec<f64> = scores.iter().enumerate().map(|(i, s)| s + bias.get(i).unwrap_or(&0.0)).collect();
    let size = EXPERTS / gate.groups;
    let rank = |group: &[f64]| descending(group).into_iter().take(gate.best).map(|i| group[i]).sum();
    let kept = &descending(&ranks.chunks(size).map(rank).collect::<Vec<f64>>())[..gate.kept_groups];
    let experts: Vec<usize> =
        descending(&ranks).into_iter().filter(|i| kept.contains(&(i / size))).take(gate.k).collect();
    // Weights of a sigmoid are normalised, those of a softmax are not.
    let sum = if gate.sigmoid { experts.iter().map(|&i| scores[i]).sum::<f64>() + EPS } else { 1.0 };
    let weights = experts.iter().map(|&i| scores[i] / sum * FACTOR).collect();
    (scores, experts, weights)
}

/// Logits that differ by a quarter within a row, so that the order is the same in every type.
fn gating(dtype: DType, gate: Gate) -> Case {
    let logits = build(dtype, &[ROWS, EXPERTS], |at| {
        ((at[1] * 5 + at[0] * 3 + at[0] * at[1] * 2) % EXPERTS) as f64 * 0.25 - 2.0
    });
    let bias = Arg::In(
        Spec::new(dtype, [EXPERTS]).fill(Fill::Values((0..EXPERTS).map(|i| (i * 7 % EXPERTS) as f64 / 64.0).collect())),
    );
    let args = vec![
        given(&logits),
        if gate.biased { bias } else { Arg::Null },
        Arg::Int(gate.k as i64),
        Arg::Int(gate.kept_groups as i64),
        Arg::Int(gate.groups as i64),
        // 0 ranks groups by their best, 1 by the sum of their two best.
        Arg::Int(gate.best as i64 - 1),
        Arg::Int(0),
        Arg::Int(gate.sigmoid as i64),
        Arg::Bool(true),
        Arg::Float(FACTOR),
        Arg::Float(EPS),
        out(dtype, &[ROWS, gate.k]),
        out(I32, &[ROWS, gate.k]),
        out(F32, &[ROWS, EXPERTS]),
    ];
    let case = Case::new("MoeGatingTopK", args, move |x| {
        let bias = if gate.biased { &x[1].data[..] } else { &[] };
        let rows: Vec<_> = x[0].data.chunks(EXPERTS).map(|row| choose(row, bias, gate)).collect();
        let weights = rows.iter().flat_map(|row| row.2.clone()).collect();
        let experts = rows.iter().flat_map(|row| row.1.iter().map(|&i| i as f64)).collect();
        let scores = rows.iter().flat_map(|row| row.0.clone()).collect();
        vec![
            Array::new(dtype, [ROWS, gate.k], weights),
            Array::new(I32, [ROWS, gate.k], experts),
            Array::new(F32, [ROWS, EXPERTS], scores),
        ]
    });
    // An exponential, a sum of at most 16 and two divisions in f32.
    case.within(8.0, 0.1)
}

/// Shares of the softmax over `row`.
fn shares(row: &[f64]) -> Vec<f64> {
    let total: f64 = row.iter().map(|x| x.exp()).sum();
    row.iter().map(|x| x.exp() / total).collect()
}

/// The choice by softmax in its two interfaces: before and after the choice, with rows that are finished, of two and three
/// dimensions.
fn softmax(dtype: DType) -> Vec<Case> {
    let mut all = Vec::new();
    for (shape, k, renorm, finished) in
        [(&[ROWS, EXPERTS][..], 3, false, true), (&[2, 3, 33], 8, true, false), (&[1, 5], 5, false, false)]
    {
        let (dims, experts) = (shape[..shape.len() - 1].to_vec(), shape[shape.len() - 1]);
        let rows: usize = dims.iter().product();
        let logits = build(dtype, shape, |at| {
            let row = at[..at.len() - 1].iter().fold(0, |row, i| row * 4 + i);
            ((at[at.len() - 1] * 7 + row * 3) % experts) as f64 * 0.25 - 2.0
        });
        let done: Vec<f64> = (0..rows).map(|row| if finished && row % 3 == 1 { 1.0 } else { 0.0 }).collect();
        let done_arg = match finished {
            true => Arg::In(Spec::new(Bool, dims.clone()).fill(Fill::Values(done.clone()))),
            false => Arg::Null,
        };
        let chosen_shape = [&dims[..], &[k]].concat();
        let answer = {
            let (shape, chosen_shape, done) = (shape.to_vec(), chosen_shape.clone(), done.clone());
            move |x: &Array| {
                let (mut weights, mut ids, mut scores) = (Vec::new(), Vec::new(), Vec::new());
                for (row, done) in x.data.chunks(experts).zip(&done) {
                    let chosen = &descending(row)[..k];
                    let all = shares(row);
                    let few = shares(&chosen.iter().map(|&i| row[i]).collect::<Vec<_>>());
                    weights.extend((0..k).map(|i| if renorm { few[i] } else { all[chosen[i]] }));
                    ids.extend(chosen.iter().map(|&i| if *done != 0.0 { experts } else { i } as f64));
                    scores.extend(all);
                }
                let chosen = |dtype, values| Array::new(dtype, chosen_shape.clone(), values);
                (chosen(dtype, weights), chosen(I32, ids), Array::new(F32, shape.clone(), scores))
            }
        };
        let mut args = vec![given(&logits), done_arg.clone(), Arg::Int(k as i64), Arg::Int(renorm as i64)];
        args.extend([Arg::Bool(!renorm), out(dtype, &chosen_shape), out(I32, &chosen_shape)]);
        args.push(if renorm { Arg::Null } else { out(F32, shape) });
        let second = answer.clone();
        let case = Case::new("MoeGatingTopKSoftmaxV2", args, move |x| {
            let (weights, experts, scores) = second(&x[0]);
            if renorm { vec![weights, experts] } else { vec![weights, experts, scores] }
        });
        // An exponential, a sum of at most 33 and a division in f32.
        all.push(case.within(8.0, 0.1));
        if renorm {
            continue;
        }
        let mut args = vec![given(&logits), done_arg, Arg::Int(k as i64), out(dtype, &chosen_shape)];
        args.extend([out(I32, &chosen_shape), out(I32, &chosen_shape)]);
        let case = Case::new("MoeGatingTopKSoftmax", args, move |x| {
            let (weights, experts, _) = answer(&x[0]);
            let places = (0..rows * k).map(|i| (i % k * rows + i / k) as f64).collect();
            vec![weights, experts.clone(), Array::new(I32, experts.shape, places)]
        });
        all.push(case.within(8.0, 0.1));
    }
    all
}
