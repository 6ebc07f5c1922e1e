//! Rows that read where an index says, and those that count; writing is in `scatter`.

use crate::array::{Array, DType, indices};
use crate::case::{Arg, Case, Fill, Spec, View};
use DType::*;

const MOVED: &[DType] = &[F32, F16, BF16, I64, I32];

pub(super) fn build(dtype: DType, shape: &[usize], f: impl Fn(&[usize]) -> f64) -> Array {
    Array::new(dtype, shape, indices(shape).map(|at| f(&at)).collect())
}

/// Index tensor with values below `limit`.
pub(super) fn index(dtype: DType, shape: &[usize], limit: i64) -> Spec {
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
    all.extend(nonzeros());
    all.extend(counts());
    all
}

fn reads(dtype: DType, kind: DType) -> Vec<Case> {
    let x = |shape: &[usize]| Arg::In(Spec::new(dtype, shape));
    let select =
        move |x: &[Array]| vec![build(dtype, &[4, 9, 5], |at| x[0].at(&[at[0], x[1].data[at[1]] as usize, at[2]]))];
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
    let args = vec![
        Arg::In(Spec::new(dtype, [4, 6])),
        Arg::Int(1),
        Arg::In(index(I64, &[4, 3], 6)),
        Arg::Out(dtype, vec![4, 3]),
    ];
    let gather =
        Case::new("Gather", args, move |x| vec![build(dtype, &[4, 3], |at| x[0].at(&[at[0], x[1].at(at) as usize]))]);
    let args = vec![Arg::In(Spec::new(dtype, [5, 6])), Arg::In(index(I32, &[2, 7], 30)), Arg::Out(dtype, vec![2, 7])];
    let take = Case::new("Take", args, move |x| vec![build(dtype, &[2, 7], |at| x[0].data[x[1].at(at) as usize])]);
    let mut all = vec![gather, take];
    all.extend(slices(dtype));
    all.extend(subscripts(dtype));
    all.into_iter().map(Case::exact).collect()
}

/// Coordinates in the last dimension of the index: of rows, of elements, and counted from the end.
fn slices(dtype: DType) -> Vec<Case> {
    let x = || Arg::In(Spec::new(dtype, [4, 6, 5]));
    let rows = Spec::new(I64, [3, 2]).fill(Fill::Values(vec![3.0, 0.0, 1.0, 5.0, 1.0, 5.0]));
    let args = vec![x(), Arg::In(rows), Arg::Bool(false), Arg::Out(dtype, vec![3, 5])];
    let of_rows = Case::new("GatherNd", args, move |x| {
        vec![build(dtype, &[3, 5], |at| {
            x[0].at(&[x[1].at(&[at[0], 0]) as usize, x[1].at(&[at[0], 1]) as usize, at[1]])
        })]
    });
    let args = vec![x(), Arg::In(index(I32, &[2, 7, 3], 4)), Arg::Bool(false), Arg::Out(dtype, vec![2, 7])];
    let of_elements = Case::new("GatherNd", args, move |x| {
        let place = |at: &[usize], i| x[1].at(&[at[0], at[1], i]) as usize;
        vec![build(dtype, &[2, 7], |at| x[0].at(&[place(at, 0), place(at, 1), place(at, 2)]))]
    });
    let backwards = Spec::new(I64, [5, 1]).fill(Fill::Values(vec![-1.0, 0.0, -4.0, 3.0, -2.0]));
    let args = vec![x(), Arg::In(backwards), Arg::Bool(true), Arg::Out(dtype, vec![5, 6, 5])];
    let from_end = Case::new("GatherNd", args, move |x| {
        let place = |i: usize| (x[1].data[i] as i64).rem_euclid(4) as usize;
        vec![build(dtype, &[5, 6, 5], |at| x[0].at(&[place(at[0]), at[1], at[2]]))]
    });
    vec![of_rows, of_elements, from_end]
}

/// A list of index tensors, which broadcast to each other, or a mask.
fn subscripts(dtype: DType) -> Vec<Case> {
    let x = || Arg::In(Spec::new(dtype, [4, 6, 5]));
    let args = vec![x(), Arg::InList(vec![index(I64, &[7], 4), index(I64, &[7], 6)]), Arg::Out(dtype, vec![7, 5])];
    let pairs = Case::new("Index", args, move |x| {
        vec![build(dtype, &[7, 5], |at| x[0].at(&[x[1].data[at[0]] as usize, x[2].data[at[0]] as usize, at[1]]))]
    });
    let args =
        vec![x(), Arg::InList(vec![index(I64, &[2, 1], 4), index(I64, &[3], 6)]), Arg::Out(dtype, vec![2, 3, 5])];
    let crossed = Case::new("Index", args, move |x| {
        vec![build(dtype, &[2, 3, 5], |at| x[0].at(&[x[1].data[at[0]] as usize, x[2].data[at[1]] as usize, at[2]]))]
    });
    // Three of the four are set.
    let mask = Spec::new(Bool, [4]).fill(Fill::Values(vec![1.0, 0.0, 1.0, 1.0]));
    let args = vec![x(), Arg::InList(vec![mask]), Arg::Out(dtype, vec![3, 6, 5])];
    let masked = Case::new("Index", args, move |x| {
        vec![build(dtype, &[3, 6, 5], |at| x[0].at(&[[0, 2, 3][at[0]], at[1], at[2]]))]
    });
    vec![pairs, crossed, masked]
}

/// Coordinates of what is not zero: a row each, or a column each.
fn nonzeros() -> Vec<Case> {
    let mut all = Vec::new();
    for dtype in [F32, F16, BF16, I64, I32, Bool] {
        for (row, room, by_row) in [("Nonzero", [60, 3], true), ("NonzeroV2", [3, 60], false)] {
            let x = Spec::new(dtype, [3, 4, 5]).fill(Fill::Integers(0, 2)).view(View::Transposed);
            let args = vec![Arg::In(x), Arg::Room(I64, room.to_vec())];
            all.push(
                Case::new(row, args, move |x| {
                    let places: Vec<_> = indices(&x[0].shape).filter(|at| x[0].at(at) != 0.0).collect();
                    let found = build(I64, &[places.len(), 3], |at| places[at[0]][at[1]] as f64);
                    vec![if by_row { found } else { found.permuted(&[1, 0]) }]
                })
                .exact(),
            );
        }
    }
    all
}

fn counts() -> Vec<Case> {
    let mut all = Vec::new();
    let numbers = vec![3.0, 0.0, 6.0, 3.0, 1.0, 6.0, 6.0, 0.0, 3.0, 3.0, 1.0];
    for (dtype, minlength, size) in [(I64, 9, 9), (I32, 0, 7)] {
        let x = || Arg::In(Spec::new(dtype, [11]).fill(Fill::Values(numbers.clone())));
        let times = |x: &[Array], weight: &dyn Fn(usize) -> f64, out: DType, size: usize| {
            let of = |n: usize| (0..x[0].data.len()).filter(|&i| x[0].data[i] == n as f64).map(weight).sum();
            vec![Array::new(out, [size], (0..size).map(of).collect())]
        };
        let args = vec![x(), Arg::Null, Arg::Int(minlength), Arg::Out(I64, vec![size])];
        all.push(Case::new("Bincount", args, move |x| times(x, &|_| 1.0, I64, size)).exact());
        let args = vec![x(), Arg::In(Spec::new(F32, [11])), Arg::Int(minlength), Arg::Out(F32, vec![size])];
        // A card may add up to four weights in any order.
        all.push(Case::new("Bincount", args, move |x| times(x, &|i| x[1].data[i], F32, size)).within(4.0, 4.0));
    }
    for (dtype, low, high) in [(F32, -1.5, 1.25), (F32, 0.0, 0.0), (I32, -4.0, 6.0)] {
        let args = vec![
            Arg::In(Spec::new(dtype, [7, 9])),
            Arg::Int(5),
            Arg::Scalar(dtype, low),
            Arg::Scalar(dtype, high),
            Arg::Out(dtype, vec![5]),
        ];
        all.push(Case::new("Histc", args, move |x| vec![histogram(&x[0], 5, low, high)]).exact());
    }
    all
}

/// How many elements are in each of `bins` intervals; each but the last is without its upper end. Equal bounds stand
/// for the range of the data.
fn histogram(x: &Array, bins: usize, mut low: f64, mut high: f64) -> Array {
    if low == high {
        low = x.data.iter().copied().fold(f64::INFINITY, f64::min);
        high = x.data.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    }
    let width = (high - low) / bins as f64;
    let holds = |bin: usize, v: f64| {
        let (from, to) = (low + bin as f64 * width, low + (bin + 1) as f64 * width);
        if bin + 1 == bins { from <= v && v <= high } else { from <= v && v < to }
    };
    build(x.dtype, &[bins], |at| x.data.iter().filter(|&&v| holds(at[0], v)).count() as f64)
}
