//! Rows that read or write where an index says, and sorting.

use super::FLOATS;
use crate::array::{Array, DType, indices};
use crate::case::{Arg, Case, Fill, Spec};
use DType::*;

const MOVED: &[DType] = &[F32, F16, BF16, I64, I32];

fn build(dtype: DType, shape: &[usize], f: impl Fn(&[usize]) -> f64) -> Array {
    Array::new(dtype, shape, indices(shape).map(|at| f(&at)).collect())
}

/// Index tensor with values below `limit`.
fn index(dtype: DType, shape: &[usize], limit: i64) -> Spec {
    Spec::new(dtype, shape).fill(Fill::Integers(0, limit))
}

pub fn cases() -> Vec<Case> {
    let mut all = Vec::new();
    for &dtype in MOVED {
        for kind in [I64, I32] {
            all.extend(reads(dtype, kind));
        }
        all.extend(gathers(dtype));
    }
    for &dtype in FLOATS {
        all.extend(writes(dtype));
        all.extend(sorts(dtype));
    }
    all
}

fn reads(dtype: DType, kind: DType) -> Vec<Case> {
    let x = |shape: &[usize]| Arg::In(Spec::new(dtype, shape));
    let select = move |x: &[Array]| vec![build(dtype, &[4, 9, 5], |at| x[0].at(&[at[0], x[1].data[at[1]] as usize, at[2]]))];
    let args = |row| {
        let args = vec![x(&[4, 6, 5]), Arg::Int(1), Arg::In(index(kind, &[9], 6)), Arg::Out(dtype, vec![4, 9, 5])];
        Case::new(row, args, select).exact()
    };
    let embedding = vec![x(&[17, 6]), Arg::In(index(kind, &[2, 5], 17)), Arg::Out(dtype, vec![2, 5, 6])];
    let embedding = Case::new("Embedding", embedding, move |x| {
        vec![build(dtype, &[2, 5, 6], |at| x[0].at(&[x[1].at(&at[..2]) as usize, at[2]]))]
    });
    vec![args("IndexSelect"), args("GatherV2"), embedding.exact()]
}

fn gathers(dtype: DType) -> Vec<Case> {
    let args = vec![Arg::In(Spec::new(dtype, [4, 6])), Arg::Int(1), Arg::In(index(I64, &[4, 3], 6)), Arg::Out(dtype, vec![4, 3])];
    let gather = Case::new("Gather", args, move |x| vec![build(dtype, &[4, 3], |at| x[0].at(&[at[0], x[1].at(at) as usize]))]);
    vec![gather.exact()]
}

/// Indices that never meet within a column, so that the order of writes cannot matter.
fn distinct() -> Spec {
    Spec::new(I64, [3, 2]).fill(Fill::Values(vec![4.0, 0.0, 1.0, 5.0, 2.0, 3.0]))
}

fn writes(dtype: DType) -> Vec<Case> {
    let scattered = |x: &[Array], add: bool| {
        let (mut out, index, source) = (x[0].clone(), &x[1], &x[2]);
        for at in indices(&index.shape) {
            let slot = index.at(&at) as usize * out.shape[1] + at[1];
            out.data[slot] = if add { out.data[slot] + source.at(&at) } else { source.at(&at) };
        }
        vec![out]
    };
    let t = |shape: &[usize]| Arg::In(Spec::new(dtype, shape));
    let scatter = vec![t(&[6, 2]), Arg::Int(0), Arg::In(distinct()), t(&[3, 2]), Arg::Int(0), Arg::Out(dtype, vec![6, 2])];
    let add = vec![t(&[6, 2]), Arg::Int(0), Arg::In(index(I64, &[9, 2], 6)), t(&[9, 2]), Arg::Out(dtype, vec![6, 2])];
    let rows = |x: &[Array]| {
        let mut out = x[0].clone();
        for (i, &row) in x[1].data.iter().enumerate() {
            for j in 0..5 {
                out.data[row as usize * 5 + j] += x[2].at(&[i, j]);
            }
        }
        vec![out]
    };
    let index_add = vec![t(&[6, 5]), Arg::Int(0), Arg::In(index(I64, &[9], 6)), t(&[9, 5]), Arg::Scalar(F32, 1.0), Arg::Out(dtype, vec![6, 5])];
    let backward = |x: &[Array]| {
        let mut out = Array::new(x[0].dtype, [7, 4], vec![0.0; 28]);
        for (i, &row) in x[1].data.iter().enumerate() {
            for j in 0..4 {
                out.data[row as usize * 4 + j] += x[0].at(&[i, j]);
            }
        }
        vec![out]
    };
    let dense = vec![t(&[10, 4]), Arg::In(index(I64, &[10], 7)), Arg::Int(7), Arg::Int(-1), Arg::Bool(false), Arg::Out(dtype, vec![7, 4])];
    vec![
        Case::new("Scatter", scatter, move |x| scattered(x, false)).exact(),
        // A card may add in any order and round between additions: a unit for each of up to nine of them.
        Case::new("ScatterAdd", add, move |x| scattered(x, true)).within(9.0, 4.0),
        Case::new("IndexAdd", index_add, rows).within(9.0, 4.0),
        Case::new("EmbeddingDenseBackward", dense, backward).within(10.0, 4.0),
    ]
}

/// Positions of a lane's elements in sorted order, and the sorted values.
fn sorted(lane: &[f64], descending: bool) -> (Vec<f64>, Vec<f64>) {
    let mut order: Vec<usize> = (0..lane.len()).collect();
    order.sort_by(|&a, &b| if descending { lane[b].total_cmp(&lane[a]) } else { lane[a].total_cmp(&lane[b]) });
    (order.iter().map(|&i| lane[i]).collect(), order.iter().map(|&i| i as f64).collect())
}

fn sorts(dtype: DType) -> Vec<Case> {
    // Distinct whole numbers below 100, exact in every type: the order has one answer.
    let x = || Arg::In(Spec::new(dtype, [7, 13]).fill(Fill::Permutation));
    let mut all = Vec::new();
    for descending in [false, true] {
        let outs = |n: usize| [Arg::Out(dtype, vec![7, n]), Arg::Out(I64, vec![7, n])];
        let both = move |x: &Array, take: usize| {
            let values = x.map_lanes(1, |lane| sorted(lane, descending).0[..take].to_vec());
            let order = x.map_lanes(1, |lane| sorted(lane, descending).1[..take].to_vec()).with_dtype(I64);
            vec![values, order]
        };
        let mut args = vec![x(), Arg::Bool(true), Arg::Int(1), Arg::Bool(descending)];
        args.extend(outs(13));
        all.push(Case::new("Sort", args, move |x| both(&x[0], 13)).exact());
        let args = vec![x(), Arg::Int(-1), Arg::Bool(descending), Arg::Out(I64, vec![7, 13])];
        all.push(Case::new("Argsort", args, move |x| both(&x[0], 13).split_off(1)).exact());
        let mut args = vec![x(), Arg::Int(4), Arg::Int(1), Arg::Bool(descending), Arg::Bool(true)];
        args.extend(outs(4));
        all.push(Case::new("Topk", args, move |x| both(&x[0], 4)).exact());
    }
    all
}
