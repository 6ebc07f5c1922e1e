//! Sorting, selection by rank, distinct values and search.

use super::FLOATS;
use crate::array::{Array, DType};
use crate::case::{Arg, Case, Fill, Spec};
use DType::*;

pub fn cases() -> Vec<Case> {
    let mut all = Vec::new();
    for &dtype in FLOATS {
        all.extend(sorts(dtype));
        all.extend(ranks(dtype));
    }
    for dtype in [F32, F16, BF16, I64, I32] {
        all.extend(distinct(dtype));
    }
    all.extend(searches());
    all
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

/// The k-th smallest along each dimension.
fn ranks(dtype: DType) -> Vec<Case> {
    let mut all = Vec::new();
    for (k, dim, keep, shape) in [(3usize, -1, false, vec![7]), (1, 0, true, vec![1, 13]), (13, 1, true, vec![7, 1])] {
        let x = Arg::In(Spec::new(dtype, [7, 13]).fill(Fill::Permutation));
        let args = vec![
            x,
            Arg::Int(k as i64),
            Arg::Int(dim),
            Arg::Bool(keep),
            Arg::Out(dtype, shape.clone()),
            Arg::Out(I64, shape.clone()),
        ];
        let chosen = move |x: &[Array]| {
            let axis = x[0].axis(dim);
            let values = x[0].map_lanes(axis, |lane| vec![sorted(lane, false).0[k - 1]]).reshaped(&shape);
            let places = x[0].map_lanes(axis, |lane| vec![sorted(lane, false).1[k - 1]]).reshaped(&shape);
            vec![values, places.with_dtype(I64)]
        };
        all.push(Case::new("Kthvalue", args, chosen).exact());
    }
    all
}

fn distinct(dtype: DType) -> Vec<Case> {
    // No zero of either sign among the values: a card may give both.
    let x = Spec::new(dtype, [3, 7]).fill(Fill::Integers(1, 6));
    let flags = |flag: bool| [Arg::Bool(flag), Arg::Bool(flag)];
    let room = |dtype| Arg::Room(dtype, vec![21]);
    let unique = |x: &Array| {
        let mut values = sorted(&x.data, false).0;
        values.dedup();
        let numbers = x.data.iter().map(|v| values.iter().position(|u| u == v).unwrap_or(usize::MAX) as f64).collect();
        let counts = values.iter().map(|u| x.data.iter().filter(|&v| v == u).count() as f64).collect();
        let number = values.len();
        vec![
            Array::new(x.dtype, [number], values),
            Array::new(I64, x.shape.clone(), numbers),
            Array::new(I64, [number], counts),
        ]
    };
    let mut args = vec![Arg::In(x.clone()), Arg::Bool(true)];
    args.extend(flags(true));
    args.extend([room(dtype), Arg::Out(I64, vec![3, 7]), room(I64)]);
    let all_three = Case::new("Unique2", args, move |x| unique(&x[0]));
    // What is not asked for says nothing, so it is not read.
    let unread = || Arg::In(Spec::new(I64, [3, 7]));
    let mut args = vec![Arg::In(x.clone()), Arg::Bool(true)];
    args.extend(flags(false));
    args.extend([room(dtype), unread(), Arg::In(Spec::new(I64, [21]))]);
    let values_only = Case::new("Unique2", args, move |x| unique(&x[0])[..1].to_vec());
    let runs = vec![2.0, 2.0, 5.0, 1.0, 1.0, 1.0, 2.0, 5.0, 5.0];
    let x = Arg::In(Spec::new(dtype, [9]).fill(Fill::Values(runs)));
    let mut args = vec![x];
    args.extend(flags(true));
    let room = |dtype| Arg::Room(dtype, vec![9]);
    args.extend([Arg::Int(1000), room(dtype), Arg::Out(I64, vec![9]), room(I64)]);
    let consecutive = Case::new("UniqueConsecutive", args, move |_| {
        vec![
            Array::new(dtype, [5], vec![2.0, 5.0, 1.0, 2.0, 5.0]),
            Array::new(I64, [9], vec![0.0, 0.0, 1.0, 2.0, 2.0, 2.0, 3.0, 4.0, 4.0]),
            Array::new(I64, [5], vec![2.0, 1.0, 3.0, 1.0, 2.0]),
        ]
    });
    [all_three, values_only, consecutive].into_iter().map(Case::exact).collect()
}

fn searches() -> Vec<Case> {
    let mut all = Vec::new();
    let ascending = vec![-3.0, -1.0, 2.0, 2.0, 2.0, 5.0, 8.0];
    let order = vec![6.0, 3.0, 0.0, 5.0, 1.0, 2.0, 4.0];
    for dtype in [F32, F16, I64, I32] {
        for wanted in [-9.0, 2.0, 3.0, 8.0, 9.0] {
            for (right, shuffled) in [(false, false), (true, false), (true, true)] {
                let mut values = ascending.clone();
                if shuffled {
                    order.iter().zip(&ascending).for_each(|(&at, &value)| values[at as usize] = value);
                }
                let sorter = Spec::new(I64, [7]).fill(Fill::Values(order.clone()));
                let sorter = if shuffled { Arg::In(sorter) } else { Arg::Null };
                let kind = if right { I32 } else { I64 };
                let args = vec![
                    Arg::In(Spec::new(dtype, [7]).fill(Fill::Values(values))),
                    Arg::Scalar(dtype, wanted),
                    Arg::Bool(right),
                    Arg::Bool(right),
                    sorter,
                    Arg::Out(kind, vec![1]),
                ];
                let before = |&&v: &&f64| if right { v <= wanted } else { v < wanted };
                let place = ascending.iter().filter(before).count() as f64;
                all.push(Case::new("SearchSorteds", args, move |_| vec![Array::new(kind, [1], vec![place])]).exact());
            }
        }
    }
    all
}
