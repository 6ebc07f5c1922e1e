//! Products of groups of rows.

use super::super::FLOATS;
use super::super::linalg::product;
use crate::array::{Array, DType};
use crate::case::{Arg, Case, Fill, Spec, View};
use DType::*;

pub fn cases() -> Vec<Case> {
    let mut all = Vec::new();
    for &dtype in FLOATS {
        all.extend(of_rows("GroupedMatmulV4", dtype));
        all.extend(of_rows("GroupedMatmulV5", dtype));
        all.extend(of_columns(dtype));
        all.extend(of_lists(dtype));
    }
    all
}

const GROUPS: [usize; 4] = [3, 0, 5, 3];
const K: usize = 16;
const N: usize = 9;

/// Sums of at most 16 products of numbers below 4 in `f32`, which a narrower type rounds once.
fn summed(case: Case, dtype: DType) -> Case {
    if dtype == F32 { case.within(8.0, 4.0) } else { case.within(1.0, 1.0) }
}

/// Eleven rows in four groups, one of them empty; the list holds the groups' ends or sizes.
fn of_rows(row: &'static str, dtype: DType) -> Vec<Case> {
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
        if row == "GroupedMatmulV5" {
            // What an expert is likely to get: changes no number.
            args.push(if biased { Arg::Ints(vec![3]) } else { Arg::Null });
        }
        args.extend([Arg::OutList(vec![(dtype, vec![rows, N])]), Arg::Null, Arg::Null]);
        let case = Case::new(row, args, move |x| vec![grouped_product(x, stacked, biased)]);
        all.push(summed(case, dtype));
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

/// Eleven columns of `x` in four groups, and as many rows of the weight: what the gradient of a stack of weights is.
fn of_columns(dtype: DType) -> Vec<Case> {
    let (m, inner, n) = (5, GROUPS.iter().sum::<usize>(), 6);
    let ends: Vec<f64> = (0..GROUPS.len()).map(|i| GROUPS[..=i].iter().sum::<usize>() as f64).collect();
    let mut args = vec![Arg::InList(vec![Spec::new(dtype, [m, inner]).view(View::Transposed)])];
    args.push(Arg::InList(vec![Spec::new(dtype, [inner, n])]));
    args.extend(vec![Arg::Null; 6]);
    args.push(Arg::In(Spec::new(I64, [GROUPS.len()]).fill(Fill::Values(ends))));
    args.extend(vec![Arg::Null; 3]);
    args.extend([3, 2, 0, 0].map(Arg::Int));
    args.extend([Arg::OutList(vec![(dtype, vec![GROUPS.len(), m, n])]), Arg::Null, Arg::Null]);
    let case = Case::new("GroupedMatmulV4", args, move |x| {
        let (a, b) = (&x[0].data, &x[1].data);
        let sum = |group: usize, i: usize, j: usize| {
            let first: usize = GROUPS[..group].iter().sum();
            (first..first + GROUPS[group]).map(|k| a[i * inner + k] * b[k * n + j]).sum()
        };
        let count = GROUPS.len() * m * n;
        vec![Array::new(
            dtype,
            [GROUPS.len(), m, n],
            (0..count).map(|at| sum(at / (m * n), at / n % m, at % n)).collect(),
        )]
    });
    vec![summed(case, dtype)]
}

/// Three products of different heights: with a tensor each of `x` and of the result, or one for all, in all four combinations.
fn of_lists(dtype: DType) -> Vec<Case> {
    let heights = [2usize, 1, 4];
    let total: usize = heights.iter().sum();
    let mut all = Vec::new();
    for (one_x, one_y, biased) in [(false, false, true), (true, false, false), (true, true, true), (false, true, false)]
    {
        let list = |one: bool, width: usize| match one {
            true => vec![vec![total, width]],
            false => heights.iter().map(|&rows| vec![rows, width]).collect::<Vec<_>>(),
        };
        let xs = list(one_x, K).into_iter().map(|shape| Spec::new(dtype, shape)).collect();
        let weights = vec![Spec::new(dtype, [K, N]); 3];
        let biases = vec![Spec::new(if dtype == F16 { F16 } else { F32 }, [N]); 3];
        let reference = move |x: &[Array]| {
            let rows: Vec<f64> = x[..if one_x { 1 } else { 3 }].iter().flat_map(|x| x.data.clone()).collect();
            let rest = &x[if one_x { 1 } else { 3 }..];
            let mut first = 0;
            let mut parts = Vec::new();
            for (i, &height) in heights.iter().enumerate() {
                let part = rows[first * K..(first + height) * K].to_vec();
                first += height;
                let mut y = product(&Array::new(dtype, [height, K], part), &rest[i]);
                if biased {
                    for (at, y) in y.data.iter_mut().enumerate() {
                        *y += rest[3 + i].data[at % N];
                    }
                }
                parts.push(y);
            }
            match one_y {
                true => vec![Array::new(dtype, [total, N], parts.into_iter().flat_map(|part| part.data).collect())],
                false => parts,
            }
        };
        let outs = Arg::OutList(list(one_y, N).into_iter().map(|shape| (dtype, shape)).collect());
        // The oldest interface takes 16-bit types only.
        if dtype != F32 {
            let mut args = vec![Arg::InList(Vec::clone(&xs)), Arg::InList(weights.clone())];
            args.push(if biased { Arg::InList(biases.clone()) } else { Arg::Null });
            args.extend(vec![Arg::Null; 4]);
            args.push(if one_x || one_y { Arg::Ints(vec![2, 3, 7]) } else { Arg::Null });
            args.extend([Arg::Int(if one_y { 2 } else { 0 }), outs.clone()]);
            all.push(summed(Case::new("GroupedMatmul", args, reference), dtype));
        }
        if !one_x && !one_y {
            let mut args = vec![Arg::InList(xs), Arg::InList(weights)];
            args.push(if biased { Arg::InList(biases) } else { Arg::Null });
            args.extend(vec![Arg::Null; 9]);
            args.extend([0, -1, 0, 0].map(Arg::Int));
            args.extend([Arg::Null, outs, Arg::Null, Arg::Null]);
            all.push(summed(Case::new("GroupedMatmulV5", args, reference), dtype));
        }
    }
    all
}
