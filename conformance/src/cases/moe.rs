//! Mixtures of experts: the choice of experts, and products of groups of rows.

use super::FLOATS;
use super::args::{build, given, out};
use super::linalg::product;
use crate::array::{Array, DType};
use crate::case::{Arg, Case, Fill, Spec};
use DType::*;

pub fn cases() -> Vec<Case> {
    let mut all = Vec::new();
    for &dtype in FLOATS {
        all.extend(GATES.map(|gate| gating(dtype, gate)));
        all.extend(grouped(dtype));
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

const GROUPS: [usize; 4] = [3, 0, 5, 3];
const K: usize = 16;
const N: usize = 9;

/// Eleven rows in four groups, one of them empty; the list holds the groups' ends or sizes.
fn grouped(dtype: DType) -> Vec<Case> {
    let rows: usize = GROUPS.iter().sum();
    let ends: Vec<usize> = (0..GROUPS.len()).map(|i| GROUPS[..=i].iter().sum()).collect();
    let mut all = Vec::new();
    // A weight for all experts, or one each; without and with a bias, whose type the page ties to the input's.
    for (stacked, biased, sizes) in
        [(true, false, false), (true, true, true), (false, false, true), (false, true, false)]
    {
        let weight = |shape: &[usize]| Spec::new(dtype, shape);
        let weights = if stacked { vec![weight(&[GROUPS.len(), K, N])] } else { vec![weight(&[K, N]); GROUPS.len()] };
        let bias = |shape: &[usize]| Spec::new(if dtype == F16 { F16 } else { F32 }, shape);
        let biases = if stacked { vec![bias(&[GROUPS.len(), N])] } else { vec![bias(&[N]); GROUPS.len()] };
        let list: Vec<f64> = if sizes { &GROUPS[..] } else { &ends }.iter().map(|&n| n as f64).collect();
        let mut args = vec![Arg::InList(vec![Spec::new(dtype, [rows, K])]), Arg::InList(weights)];
        args.push(if biased { Arg::InList(biases) } else { Arg::Null });
        args.extend(vec![Arg::Null; 5]);
        args.push(Arg::In(Spec::new(I64, [GROUPS.len()]).fill(Fill::Values(list))));
        args.extend(vec![Arg::Null; 3]);
        // splitItem 3: one output tensor; groupType 0: rows are grouped; no activation.
        args.extend([3, 0, sizes as i64, 0].map(Arg::Int));
        args.extend([Arg::OutList(vec![(dtype, vec![rows, N])]), Arg::Null, Arg::Null]);
        let case = Case::new("GroupedMatmulV4", args, move |x| vec![grouped_product(x, stacked, biased)]);
        // Sums of 16 products of numbers below 4 in `f32`, which a narrower type rounds once.
        all.push(if dtype == F32 { case.within(8.0, 4.0) } else { case.within(1.0, 1.0) });
    }
    all
}

fn grouped_product(x: &[Array], stacked: bool, biased: bool) -> Array {
    let experts = if stacked { 1 } else { GROUPS.len() };
    let group_of =
        |row: usize| (0..GROUPS.len()).find(|&i| row < GROUPS[..=i].iter().sum()).expect("every row is in a group");
    // Expert `group`'s matrix or vector of `tensors`, which are one stack or a tensor each.
    let of = |tensors: &[Array], group: usize| match stacked {
        true => {
            let shape = tensors[0].shape[1..].to_vec();
            let size: usize = shape.iter().product();
            Array::new(tensors[0].dtype, shape, tensors[0].data[group * size..][..size].to_vec())
        }
        false => tensors[group].clone(),
    };
    let rows: Vec<f64> = (x[0].data.chunks(K).enumerate())
        .flat_map(|(row, values)| {
            let group = group_of(row);
            let mut y = product(&Array::new(x[0].dtype, [1, K], values.to_vec()), &of(&x[1..1 + experts], group));
            if biased {
                y = y.zip(&of(&x[1 + experts..1 + 2 * experts], group), |y, b| y + b);
            }
            y.data
        })
        .collect();
    Array::new(x[0].dtype, [rows.len() / N, N], rows)
}
