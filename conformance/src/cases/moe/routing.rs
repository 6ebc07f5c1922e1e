//! Rows brought to their experts, and back.

use super::super::FLOATS;
use super::super::args::{build, out, t};
use crate::array::{Array, DType};
use crate::case::{Arg, Case, Fill, Spec, View};
use DType::*;

const TOKENS: usize = 5;
const K: usize = 3;
const EXPERTS: usize = 6;
const WIDTH: usize = 7;

pub fn cases() -> Vec<Case> {
    let mut all = vec![expert_tokens()];
    for &dtype in FLOATS {
        all.extend([first(dtype, TOKENS + 2), first(dtype, 2)]);
        all.extend([(0, 1), (0, 2), (8, 0)].map(|(active, counted)| second(dtype, active, counted)));
        all.push(with_capacity(dtype));
        all.extend([(0, 0), (1, 1), (2, 0)].map(|(count, scatter)| third(dtype, count, scatter)));
        all.extend([0, 9, -2].map(|kept| permute(dtype, kept)));
        all.push(permute_gradient(dtype));
        all.extend([true, false].map(|weighted| unpermute(dtype, weighted)));
        all.extend([true, false].map(|weighted| unpermute_gradient(dtype, weighted)));
        all.push(finalize(dtype));
        all.extend([0, 1, 2, 3].map(|mode| finalize_second(dtype, mode, dtype)));
    }
    all.push(finalize_second(BF16, 2, F32));
    all
}

/// Expert of each choice: one (the fourth) is nobody's, one takes many.
fn chosen() -> Vec<usize> {
    (0..TOKENS * K).map(|at| [0, 5, 2, 5, 1, 0, 4, 5, 2, 5, 0, 1, 2, 5, 4][at]).collect()
}

fn indices(dtype: DType, shape: &[usize], values: impl IntoIterator<Item = usize>) -> Arg {
    let values = values.into_iter().map(|value| value as f64).collect();
    Arg::In(Spec::new(dtype, shape).fill(Fill::Values(values)))
}

/// The choices of expert 0 in their order, then those of expert 1 …: a walk over experts, not a sort.
fn by_expert(chosen: &[usize]) -> Vec<usize> {
    (0..EXPERTS).flat_map(|expert| (0..chosen.len()).filter(move |&at| chosen[at] == expert)).collect()
}

/// Where each choice stands in `order`.
fn places(order: &[usize]) -> Vec<usize> {
    (0..order.len()).map(|at| order.iter().position(|&x| x == at).expect("a permutation")).collect()
}

fn counts(chosen: &[usize]) -> Vec<usize> {
    (0..EXPERTS).map(|expert| chosen.iter().filter(|&&x| x == expert).count()).collect()
}

fn ends(chosen: &[usize]) -> Vec<usize> {
    let counts = counts(chosen);
    (0..EXPERTS).map(|i| counts[..=i].iter().sum()).collect()
}

fn integers(dtype: DType, shape: &[usize], values: impl IntoIterator<Item = usize>) -> Array {
    Array::new(dtype, shape, values.into_iter().map(|value| value as f64).collect())
}

/// Rows of `x` one below the other.
fn rows(x: &Array, from: impl IntoIterator<Item = usize>) -> Array {
    let width = x.shape[1];
    let data: Vec<f64> = from.into_iter().flat_map(|row| x.data[row * width..][..width].to_vec()).collect();
    Array::new(x.dtype, [data.len() / width, width], data)
}

fn first(dtype: DType, active: usize) -> Case {
    let kept = active.min(TOKENS) * K;
    // Each choice's place where the first choices of all tokens come first.
    let by_choice = (0..TOKENS * K).map(|at| at % K * TOKENS + at / K);
    let args = vec![
        t(dtype, &[TOKENS, WIDTH]),
        indices(I32, &[TOKENS, K], by_choice),
        indices(I32, &[TOKENS, K], chosen()),
        Arg::Int(active as i64),
        out(dtype, &[kept, WIDTH]),
        out(I32, &[TOKENS * K]),
        out(I32, &[TOKENS * K]),
    ];
    let case = Case::new("MoeInitRouting", args, move |x| {
        let chosen = chosen();
        let order = by_expert(&chosen);
        let back = places(&order);
        // Column by column: the first choice of all tokens, then the second.
        let columns = (0..TOKENS * K).map(|at| back[at % TOKENS * K + at / TOKENS]);
        vec![
            rows(&x[0], order[..kept].iter().map(|at| at / K)),
            integers(I32, &[TOKENS * K], columns),
            integers(I32, &[TOKENS * K], order.iter().map(|&at| chosen[at])),
        ]
    });
    case.exact()
}

/// Without a capacity: all rows or the first `active`, and the experts' ends (`counted` 1) or counts (2).
fn second(dtype: DType, active: usize, counted: i64) -> Case {
    let kept = if active == 0 { TOKENS * K } else { active };
    let mut args =
        vec![Arg::In(Spec::new(dtype, [TOKENS, WIDTH]).view(View::Window)), indices(I32, &[TOKENS, K], chosen())];
    args.extend([active as i64, 0, EXPERTS as i64, 0, counted].map(Arg::Int));
    args.extend([Arg::Bool(false), out(dtype, &[kept, WIDTH]), out(I32, &[TOKENS * K])]);
    args.extend([if counted > 0 { out(I32, &[EXPERTS]) } else { Arg::Null }, Arg::Null]);
    let case = Case::new("MoeInitRoutingV2", args, move |x| {
        let chosen = chosen();
        let order = by_expert(&chosen);
        let mut answer =
            vec![rows(&x[0], order[..kept].iter().map(|at| at / K)), integers(I32, &[TOKENS * K], places(&order))];
        match counted {
            1 => answer.push(integers(I32, &[EXPERTS], ends(&chosen))),
            2 => answer.push(integers(I32, &[EXPERTS], counts(&chosen))),
            _ => {}
        }
        answer
    });
    case.exact()
}

/// Room for two rows an expert.
fn with_capacity(dtype: DType) -> Case {
    const ROOM: usize = 2;
    let mut args = vec![t(dtype, &[TOKENS, WIDTH]), indices(I32, &[TOKENS, K], chosen())];
    args.extend([0, ROOM as i64, EXPERTS as i64, 1, 0].map(Arg::Int));
    args.extend([Arg::Bool(true), out(dtype, &[EXPERTS, ROOM, WIDTH]), out(I32, &[TOKENS * K])]);
    args.extend([Arg::Null, out(I32, &[EXPERTS])]);
    let case = Case::new("MoeInitRoutingV2", args, move |x| {
        let chosen = chosen();
        // How many choices of the same expert come before this one.
        let before = |at: usize| chosen[..at].iter().filter(|&&expert| expert == chosen[at]).count();
        let place = |at: usize| (before(at) < ROOM).then(|| chosen[at] * ROOM + before(at));
        let expanded = build(dtype, &[EXPERTS, ROOM, WIDTH], |at| {
            let here = (0..TOKENS * K).find(|&choice| place(choice) == Some(at[0] * ROOM + at[1]));
            here.map_or(0.0, |choice| x[0].at(&[choice / K, at[2]]))
        });
        let places = (0..TOKENS * K).map(|at| place(at).map_or(-1.0, |place| place as f64)).collect();
        vec![expanded, Array::new(I32, [TOKENS * K], places), integers(I32, &[EXPERTS], counts(&chosen))]
    });
    case.exact()
}

/// Counts as ends (`count` 0), numbers (1) or pairs (2); places by row or by choice.
fn third(dtype: DType, count: i64, scatter: i64) -> Case {
    let mut args = vec![t(dtype, &[TOKENS, WIDTH]), indices(I32, &[TOKENS, K], chosen()), Arg::Null, Arg::Null];
    args.extend([(TOKENS * K) as i64, 0, EXPERTS as i64, 0, count].map(Arg::Int));
    args.extend([Arg::Bool(true), Arg::Int(-1), Arg::Ints(vec![0, EXPERTS as i64]), Arg::Int(scatter)]);
    let shape = if count == 2 { vec![EXPERTS, 2] } else { vec![EXPERTS] };
    args.extend([out(dtype, &[TOKENS * K, WIDTH]), out(I32, &[TOKENS * K]), out(I64, &shape), Arg::Null]);
    let case = Case::new("MoeInitRoutingV3", args, move |x| {
        let chosen = chosen();
        let order = by_expert(&chosen);
        let counts = counts(&chosen);
        let counted = match count {
            0 => ends(&chosen),
            1 => counts,
            _ => {
                let busy = (0..EXPERTS).filter(|&expert| counts[expert] > 0);
                let mut pairs: Vec<usize> = busy.flat_map(|expert| [expert, counts[expert]]).collect();
                pairs.resize(2 * EXPERTS, 0);
                pairs
            }
        };
        let rows = rows(&x[0], order.iter().map(|at| at / K));
        let places = if scatter == 1 { order } else { places(&order) };
        vec![rows, integers(I32, &[TOKENS * K], places), integers(I64, &shape, counted)]
    });
    case.exact()
}

fn expert_tokens() -> Case {
    let mut sorted = chosen();
    sorted.sort_unstable();
    let args = vec![indices(I32, &[TOKENS * K], sorted), Arg::Int(EXPERTS as i64), out(I32, &[EXPERTS])];
    Case::new("MoeComputeExpertTokens", args, |_| vec![integers(I32, &[EXPERTS], ends(&chosen()))]).exact()
}

/// The first `kept` rows, all for 0, all but as many where it is negative; rows of two dimensions.
fn permute(dtype: DType, kept: i64) -> Case {
    let rows_out = match kept {
        0 => TOKENS * K,
        kept if kept < 0 => TOKENS * K - kept.unsigned_abs() as usize,
        kept => kept as usize,
    };
    let args = vec![
        t(dtype, &[TOKENS, 2, WIDTH]),
        indices(if kept == 0 { I64 } else { I32 }, &[TOKENS, K], chosen()),
        Arg::Int(kept),
        Arg::Bool(false),
        out(dtype, &[rows_out, 2, WIDTH]),
        out(I32, &[TOKENS * K]),
    ];
    let case = Case::new("MoeTokenPermute", args, move |x| {
        let order = by_expert(&chosen());
        let flat = Array::new(dtype, [TOKENS, 2 * WIDTH], x[0].data.clone());
        let rows = rows(&flat, order[..rows_out].iter().map(|at| at / K));
        vec![Array::new(dtype, [rows_out, 2, WIDTH], rows.data), integers(I32, &[TOKENS * K], places(&order))]
    });
    case.exact()
}

/// Sums of a few products of numbers below 2 and 2, in `f32` or rounded in between, and rounded to the type.
fn weighted(case: Case, dtype: DType) -> Case {
    if dtype == F32 { case.within(8.0, 4.0) } else { case.within(3.0, 4.0) }
}

fn permute_gradient(dtype: DType) -> Case {
    let back = places(&by_expert(&chosen()));
    let args = vec![
        t(dtype, &[TOKENS * K, WIDTH]),
        indices(I32, &[TOKENS * K], back.clone()),
        Arg::Int(K as i64),
        Arg::Bool(false),
        out(dtype, &[TOKENS, WIDTH]),
    ];
    let case = Case::new("MoeTokenPermuteGrad", args, move |x| {
        let sum = |token: usize, column: usize| (0..K).map(|j| x[0].at(&[back[token * K + j], column])).sum();
        vec![build(dtype, &[TOKENS, WIDTH], |at| sum(at[0], at[1]))]
    });
    weighted(case, dtype)
}

/// `weighted` by the choices' weights, or one row a token.
fn unpermute(dtype: DType, with_weights: bool) -> Case {
    let k = if with_weights { K } else { 1 };
    let back = if with_weights { places(&by_expert(&chosen())) } else { vec![3, 0, 4, 1, 2] };
    let mut args = vec![t(dtype, &[TOKENS * k, WIDTH]), indices(I32, &[TOKENS * k], back.clone())];
    args.push(if with_weights { t(dtype, &[TOKENS, K]) } else { Arg::Null });
    args.extend([Arg::Bool(false), Arg::Null, out(dtype, &[TOKENS, WIDTH])]);
    let case = Case::new("MoeTokenUnpermute", args, move |x| {
        let weight = |i: usize| if with_weights { x[2].data[i] } else { 1.0 };
        let sum = |token: usize, column: usize| {
            (token * k..(token + 1) * k).map(|i| weight(i) * x[0].at(&[back[i], column])).sum()
        };
        vec![build(dtype, &[TOKENS, WIDTH], |at| sum(at[0], at[1]))]
    });
    weighted(case, dtype)
}

fn unpermute_gradient(dtype: DType, with_weights: bool) -> Case {
    let k = if with_weights { K } else { 1 };
    let back = if with_weights { places(&by_expert(&chosen())) } else { vec![3, 0, 4, 1, 2] };
    let mut args = vec![t(dtype, &[TOKENS * k, WIDTH]), t(dtype, &[TOKENS, WIDTH])];
    args.push(indices(I32, &[TOKENS * k], back.clone()));
    args.push(if with_weights { t(dtype, &[TOKENS, K]) } else { Arg::Null });
    args.extend([Arg::Bool(false), Arg::Null, out(dtype, &[TOKENS * k, WIDTH])]);
    args.push(if with_weights { out(dtype, &[TOKENS, K]) } else { Arg::Null });
    let case = Case::new("MoeTokenUnpermuteGrad", args, move |x| {
        let (values, grad) = (&x[0], &x[1]);
        let weight = |i: usize| if with_weights { x[3].data[i] } else { 1.0 };
        let choice_of = |row: usize| back.iter().position(|&place| place == row).expect("a permutation");
        let of_rows = build(dtype, &[TOKENS * k, WIDTH], |at| {
            let choice = choice_of(at[0]);
            weight(choice) * grad.at(&[choice / k, at[1]])
        });
        if !with_weights {
            return vec![of_rows];
        }
        let along = |i: usize| (0..WIDTH).map(|column| values.at(&[back[i], column]) * grad.at(&[i / K, column])).sum();
        vec![of_rows, build(dtype, &[TOKENS, K], |at| along(at[0] * K + at[1]))]
    });
    weighted(case, dtype)
}

/// `x1 + x2 + Σ weight · (row + bias of its expert)`; `place` says which row a token's choice has, if it was not dropped.
fn combined(
    x: [Option<&Array>; 2],
    (rows, bias): (&Array, Option<&Array>),
    weights: &Array,
    place: impl Fn(usize, usize) -> Option<usize>,
) -> Array {
    let flat = Array::new(rows.dtype, [rows.data.len() / WIDTH, WIDTH], rows.data.clone());
    let chosen = chosen();
    build(rows.dtype, &[TOKENS, WIDTH], |at| {
        let (token, column) = (at[0], at[1]);
        let shared: f64 = x.iter().flatten().map(|x| x.at(&[token, column])).sum();
        let routed = (0..K).map(|j| {
            let row = place(token, j).map_or(0.0, |row| flat.at(&[row, column]));
            let bias = bias.map_or(0.0, |bias| bias.at(&[chosen[token * K + j], column]));
            weights.at(&[token, j]) * (row + bias)
        });
        shared + routed.sum::<f64>()
    })
}

fn finalize(dtype: DType) -> Case {
    // Any order of the rows does.
    let place = |token: usize, choice: usize| (choice * TOKENS + token) * 4 % (TOKENS * K);
    let list = (0..TOKENS * K).map(|at| place(at % TOKENS, at / TOKENS));
    let args = vec![
        t(dtype, &[TOKENS * K, WIDTH]),
        t(dtype, &[TOKENS, WIDTH]),
        t(dtype, &[TOKENS, WIDTH]),
        t(dtype, &[EXPERTS, WIDTH]),
        t(dtype, &[TOKENS, K]),
        indices(I32, &[TOKENS * K], list),
        indices(I32, &[TOKENS, K], chosen()),
        out(dtype, &[TOKENS, WIDTH]),
    ];
    let case = Case::new("MoeFinalizeRouting", args, move |x| {
        vec![combined([Some(&x[1]), Some(&x[2])], (&x[0], Some(&x[3])), &x[4], |token, choice| {
            Some(place(token, choice))
        })]
    });
    weighted(case, dtype)
}

/// The four ways in which rows may lie; two of them have room for two rows an expert and drop one choice.
fn finalize_second(dtype: DType, mode: i64, weight_type: DType) -> Case {
    const ROOM: usize = 2;
    let (by_choice, drops) = (mode < 2, mode % 2 == 1);
    let place = move |token: usize, choice: usize| match (drops, token * K + choice) {
        (true, 7) => None,
        (true, at) => Some(at * 5 % (EXPERTS * ROOM)),
        (false, at) => Some(at * 4 % (TOKENS * K)),
    };
    let list = (0..TOKENS * K).map(|at| {
        let (token, choice) = if by_choice { (at % TOKENS, at / TOKENS) } else { (at / K, at % K) };
        place(token, choice).map_or(-1.0, |place| place as f64)
    });
    let rows = if drops { vec![EXPERTS, ROOM, WIDTH] } else { vec![TOKENS * K, WIDTH] };
    let biased = mode != 2;
    let args = vec![
        t(dtype, &rows),
        Arg::In(Spec::new(I32, [TOKENS * K]).fill(Fill::Values(list.collect()))),
        t(dtype, &[TOKENS, WIDTH]),
        if biased { t(dtype, &[TOKENS, WIDTH]) } else { Arg::Null },
        if biased { t(dtype, &[EXPERTS, WIDTH]) } else { Arg::Null },
        t(weight_type, &[TOKENS, K]),
        if biased { indices(I32, &[TOKENS, K], chosen()) } else { Arg::Null },
        Arg::Int(mode),
        out(dtype, &[TOKENS, WIDTH]),
    ];
    let case = Case::new("MoeFinalizeRoutingV2", args, move |x| {
        let (second, bias, weights) = if biased { (Some(&x[3]), Some(&x[4]), &x[5]) } else { (None, None, &x[3]) };
        vec![combined([Some(&x[2]), second], (&x[0], bias), weights, place)]
    });
    weighted(case, dtype)
}
