//! Rows that fold dimensions away, and running folds.

use super::FLOATS;
use crate::array::{Array, DType};
use crate::case::{Arg, Case, Fill, Spec, View};
use DType::*;
use candle_ascend::{D, Tensor};

/// What a lane folds to.
type Fold = fn(&[f64]) -> f64;

/// Folds the dimensions `dims` of `x`, keeping them as size 1 if `keep`.
fn fold(x: &Array, dims: &[usize], keep: bool, f: impl Fn(&[f64]) -> f64) -> Array {
    let rest: Vec<usize> = (0..x.rank()).filter(|d| !dims.contains(d)).collect();
    let order: Vec<usize> = rest.iter().chain(dims).copied().collect();
    let inner: usize = dims.iter().map(|&d| x.shape[d]).product();
    let data = x.permuted(&order).data.chunks(inner).map(f).collect();
    let shape: Vec<usize> = match keep {
        true => (0..x.rank()).map(|d| if dims.contains(&d) { 1 } else { x.shape[d] }).collect(),
        false => rest.iter().map(|&d| x.shape[d]).collect(),
    };
    Array::new(x.dtype, shape, data)
}

fn shape_after(shape: &[usize], dims: &[usize], keep: bool) -> Vec<usize> {
    let sizes = shape.iter().enumerate();
    sizes.filter_map(|(d, &n)| if !dims.contains(&d) { Some(n) } else { keep.then_some(1) }).collect()
}

fn sum(v: &[f64]) -> f64 {
    v.iter().sum()
}

fn mean(v: &[f64]) -> f64 {
    sum(v) / v.len() as f64
}

fn largest(v: &[f64]) -> f64 {
    v.iter().copied().fold(f64::NEG_INFINITY, f64::max)
}

fn smallest(v: &[f64]) -> f64 {
    v.iter().copied().fold(f64::INFINITY, f64::min)
}

fn variance(v: &[f64]) -> f64 {
    let centre = mean(v);
    v.iter().map(|x| (x - centre).powi(2)).sum::<f64>() / (v.len() - 1) as f64
}

/// First position of the value that `fold` picks.
fn position(v: &[f64], pick: fn(&[f64]) -> f64) -> f64 {
    let wanted = pick(v);
    v.iter().position(|&x| x == wanted).unwrap_or(0) as f64
}

const SHAPE: [usize; 3] = [5, 7, 11];

fn ints(dims: &[usize]) -> Arg {
    Arg::Ints(dims.iter().map(|&d| d as i64).collect())
}

pub fn cases() -> Vec<Case> {
    let mut all = over_dimension_lists();
    all.extend(over_one_dimension());
    all.extend(whole());
    all.extend(running());
    all.extend(moments());
    all.extend(with_nan());
    all.extend(medians());
    all.extend(log_sums());
    all
}

fn moments() -> Vec<Case> {
    let mut all = Vec::new();
    for (dims, keep, correction) in [(vec![2], true, 1), (vec![0, 2], false, 0), (vec![], false, 2)] {
        for &dtype in FLOATS {
            let over = if dims.is_empty() { vec![0, 1, 2] } else { dims.clone() };
            let out = || Arg::Out(dtype, shape_after(&SHAPE, &over, keep));
            let args = vec![
                Arg::In(Spec::new(dtype, SHAPE)),
                ints(&dims),
                Arg::Int(correction),
                Arg::Bool(keep),
                out(),
                out(),
            ];
            let spread = move |v: &[f64]| variance(v) * (v.len() - 1) as f64 / (v.len() as i64 - correction) as f64;
            let case = Case::new("VarMean", args, move |x| {
                vec![fold(&x[0], &over, keep, spread), fold(&x[0], &over, keep, mean)]
            });
            // The same sums in f32 as of the other reductions.
            all.push(case.within(16.0, 1.0));
        }
    }
    all
}

fn with_nan() -> Vec<Case> {
    let values: Vec<f64> = (0..60).map(|i| if i % 7 == 3 { f64::NAN } else { (i % 11) as f64 * 0.25 - 1.0 }).collect();
    let mut all = Vec::new();
    for (dims, keep) in [(vec![2], false), (vec![0, 1], true)] {
        for &dtype in FLOATS {
            let x = Spec::new(dtype, [3, 4, 5]).fill(Fill::Values(values.clone()));
            let out = Arg::Out(dtype, shape_after(&[3, 4, 5], &dims, keep));
            let args = vec![Arg::In(x), ints(&dims), Arg::Bool(keep), Arg::DType(dtype), out];
            let dims = dims.clone();
            let numbers = |v: &[f64]| v.iter().filter(|v| !v.is_nan()).sum();
            // Quarters below 20 add up without rounding.
            all.push(Case::new("ReduceNansum", args, move |x| vec![fold(&x[0], &dims, keep, numbers)]).exact());
        }
    }
    all
}

/// Medians of an odd and of an even count: of the latter, the lower of the two in the middle.
fn medians() -> Vec<Case> {
    let mut all = Vec::new();
    for (shape, median) in [([3, 7], 10.0), ([4, 5], 9.0)] {
        for dtype in [F32, F16, BF16, I64, I32] {
            let args = vec![Arg::In(Spec::new(dtype, shape).fill(Fill::Permutation)), Arg::Out(dtype, vec![])];
            all.push(Case::new("Median", args, move |_| vec![Array::new(dtype, [], vec![median])]).exact());
        }
    }
    all
}

fn log_sums() -> Vec<Case> {
    let mut all = Vec::new();
    for dtype in [F32, F16] {
        for (dims, keep) in [(vec![1], false), (vec![0, 2], true)] {
            let x = Arg::In(Spec::new(dtype, SHAPE).fill(Fill::Uniform(0.1, 2.0)));
            let args = vec![
                x,
                ints(&dims),
                Arg::Bool(keep),
                Arg::Bool(false),
                Arg::Out(dtype, shape_after(&SHAPE, &dims, keep)),
            ];
            let log = move |x: &[Array]| vec![fold(&x[0], &dims, keep, |v| sum(v).ln())];
            all.push(Case::new("ReduceLogSum", args, log).within(8.0, 1.0));
        }
        let x = Arg::In(Spec::new(dtype, SHAPE));
        let args = vec![x, ints(&[]), Arg::Bool(true), Arg::Bool(true), Arg::Out(dtype, SHAPE.to_vec())];
        all.push(Case::new("ReduceLogSum", args, |x| vec![x[0].clone()]).exact());
    }
    all
}

fn over_dimension_lists() -> Vec<Case> {
    let mut all = Vec::new();
    for (dims, keep) in [(vec![2], true), (vec![1], false), (vec![0, 2], false), (vec![0, 1, 2], true)] {
        for &dtype in FLOATS {
            let x = |view| Arg::In(Spec::new(dtype, SHAPE).view(view));
            let out = || Arg::Out(dtype, shape_after(&SHAPE, &dims, keep));
            let mut add = |row, middle: Vec<Arg>, f: fn(&[f64]) -> f64, units: f64| {
                let mut args = vec![x(View::Window), ints(&dims)];
                args.extend(middle);
                args.push(out());
                let dims = dims.clone();
                // Sums in f32 of up to 385 numbers: the error grows with the root of the count, far below 32 units.
                all.push(Case::new(row, args, move |x| vec![fold(&x[0], &dims, keep, f)]).within(units, 1.0));
            };
            add("ReduceSum", vec![Arg::Bool(keep), Arg::DType(dtype)], sum, 32.0);
            add("Mean", vec![Arg::Bool(keep), Arg::DType(dtype)], mean, 4.0);
            add("MeanV2", vec![Arg::Bool(keep), Arg::Bool(false)], mean, 4.0);
            add("Amax", vec![Arg::Bool(keep)], largest, 0.0);
            add("Amin", vec![Arg::Bool(keep)], smallest, 0.0);
            add("LogSumExp", vec![Arg::Bool(keep)], |v| v.iter().map(|x| x.exp()).sum::<f64>().ln(), 16.0);
            add("Std", vec![Arg::Int(1), Arg::Bool(keep)], |v| variance(v).sqrt(), 16.0);
            add("Var", vec![Arg::Bool(true), Arg::Bool(keep)], variance, 16.0);
        }
        let truths: [(&str, Fold); 2] = [
            ("All", |v| v.iter().all(|&x| x != 0.0) as u8 as f64),
            ("Any", |v| v.iter().any(|&x| x != 0.0) as u8 as f64),
        ];
        for (row, f) in truths {
            let args = vec![
                Arg::In(Spec::new(Bool, SHAPE)),
                ints(&dims),
                Arg::Bool(keep),
                Arg::Out(Bool, shape_after(&SHAPE, &dims, keep)),
            ];
            let dims = dims.clone();
            all.push(Case::new(row, args, move |x| vec![fold(&x[0], &dims, keep, f)]).exact());
        }
    }
    for &dtype in FLOATS {
        let args = vec![
            Arg::In(Spec::new(dtype, SHAPE)),
            Arg::Scalar(F32, 2.0),
            Arg::Ints(vec![-1]),
            Arg::Bool(false),
            Arg::Out(dtype, vec![5, 7]),
        ];
        let norm = |x: &[Array]| vec![fold(&x[0], &[2], false, |v| v.iter().map(|x| x * x).sum::<f64>().sqrt())];
        all.push(Case::new("Norm", args, norm).within(8.0, 1.0));
    }
    all
}

fn over_one_dimension() -> Vec<Case> {
    let mut all = Vec::new();
    for (axis, keep) in [(2usize, false), (0, true)] {
        for &dtype in FLOATS {
            // Distinct values, so that the position of the extreme has one answer in every type.
            let x = || Arg::In(Spec::new(dtype, [4, 6, 5]).fill(Fill::Permutation));
            let shape = shape_after(&[4, 6, 5], &[axis], keep);
            let pairs: [(&str, &str, Fold); 2] = [("MaxDim", "ArgMax", largest), ("MinDim", "ArgMin", smallest)];
            for (both, position_only, pick) in pairs {
                let values = Arg::Out(dtype, shape.clone());
                let args = vec![x(), Arg::Int(axis as i64), Arg::Bool(keep), values, Arg::Out(I64, shape.clone())];
                let at = move |x: &Array| fold(x, &[axis], keep, move |v| position(v, pick)).with_dtype(I64);
                all.push(Case::new(both, args, move |x| vec![fold(&x[0], &[axis], keep, pick), at(&x[0])]).exact());
                let args = vec![x(), Arg::Int(axis as i64), Arg::Bool(keep), Arg::Out(I64, shape.clone())];
                all.push(Case::new(position_only, args, move |x| vec![at(&x[0])]).exact());
            }
        }
    }
    let args = vec![
        Arg::In(Spec::new(F32, [4, 6, 5])),
        Arg::Int(1),
        Arg::Bool(false),
        Arg::DType(F32),
        Arg::Out(F32, vec![4, 5]),
    ];
    all.push(Case::new("ProdDim", args, |x| vec![fold(&x[0], &[1], false, |v| v.iter().product())]).within(8.0, 0.1));
    all
}

fn whole() -> Vec<Case> {
    let mut all = Vec::new();
    for &dtype in FLOATS {
        let x = || Arg::In(Spec::new(dtype, [3, 7]));
        let out = || Arg::Out(dtype, vec![]);
        let over_all = |x: &Array, f: fn(&[f64]) -> f64| vec![Array::new(x.dtype, [], vec![f(&x.data)])];
        all.push(Case::new("Max", vec![x(), out()], move |x| over_all(&x[0], largest)).exact());
        all.push(Case::new("Min", vec![x(), out()], move |x| over_all(&x[0], smallest)).exact());
    }
    let args = vec![Arg::In(Spec::new(F32, [3, 4])), Arg::DType(F32), Arg::Out(F32, vec![])];
    all.push(
        Case::new("Prod", args, |x| vec![Array::new(F32, [], vec![x[0].data.iter().product()])]).within(16.0, 0.1),
    );
    let list = vec![Spec::new(F32, [3, 4]), Spec::new(F32, [3, 4]), Spec::new(F32, [3, 4])];
    let total = |x: &[Array]| vec![x[0].zip(&x[1], |a, b| a + b).zip(&x[2], |a, b| a + b)];
    all.push(Case::new("Sum", vec![Arg::InList(list), Arg::Out(F32, vec![3, 4])], total).within(2.0, 1.0));
    all.push(
        Case::new(
            "ReduceSum",
            vec![
                Arg::In(Spec::new(F32, [4, 9])),
                Arg::Ints(vec![-1]),
                Arg::Bool(false),
                Arg::DType(F32),
                Arg::Out(F32, vec![4]),
            ],
            |x| vec![fold(&x[0], &[1], false, sum)],
        )
        .within(8.0, 1.0)
        .tensors(|x: &[Tensor]| Ok(vec![x[0].sum(D::Minus1)?])),
    );
    all
}

fn running() -> Vec<Case> {
    let mut all = Vec::new();
    for &dtype in &[F32, F16, I64] {
        let args = vec![Arg::In(Spec::new(dtype, [3, 9])), Arg::Int(1), Arg::DType(dtype), Arg::Out(dtype, vec![3, 9])];
        let cumulative = |x: &[Array]| {
            vec![x[0].map_lanes(1, |lane| {
                let mut total = 0.0;
                lane.iter()
                    .map(|v| {
                        total += v;
                        total
                    })
                    .collect()
            })]
        };
        let case = Case::new("Cumsum", args, cumulative);
        all.push(if dtype.is_float() { case.within(8.0, 1.0) } else { case.exact() });
    }
    for (dtype, dim) in [(F32, 1), (F16, -1), (BF16, 0), (I32, 1)] {
        let x = Spec::new(dtype, [4, 7]);
        let x = if dtype.is_float() { x } else { x.fill(Fill::Integers(-2, 4)) };
        let args = vec![Arg::In(x), Arg::Scalar(I32, dim as f64), Arg::DType(dtype), Arg::Out(dtype, vec![4, 7])];
        let cumulative = move |x: &[Array]| {
            vec![x[0].map_lanes(x[0].axis(dim), |lane| {
                let mut product = 1.0;
                lane.iter()
                    .map(|v| {
                        product *= v;
                        product
                    })
                    .collect()
            })]
        };
        let case = Case::new("Cumprod", args, cumulative);
        // Half a unit for each of up to seven roundings.
        all.push(if dtype.is_float() { case.within(4.0, 0.1) } else { case.exact() });
    }
    all
}
