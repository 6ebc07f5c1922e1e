//! Rows that write where an index says.
//!
//! Where a row replaces, its indices never meet: the pages leave open which of two writes stays.

use super::FLOATS;
use super::index::{build, index};
use crate::array::{Array, DType, indices};
use crate::case::{Arg, Case, Fill, Spec};
use DType::*;

pub fn cases() -> Vec<Case> {
    let mut all = Vec::new();
    for &dtype in FLOATS {
        all.extend(writes(dtype));
        all.extend(in_place(dtype));
        all.extend(rows(dtype));
        all.extend(slices(dtype));
        all.extend(subscripts(dtype));
        all.extend(pages(dtype));
    }
    all
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
    let scatter =
        vec![t(&[6, 2]), Arg::Int(0), Arg::In(distinct()), t(&[3, 2]), Arg::Int(0), Arg::Out(dtype, vec![6, 2])];
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
    let index_add = vec![
        t(&[6, 5]),
        Arg::Int(0),
        Arg::In(index(I64, &[9], 6)),
        t(&[9, 5]),
        Arg::Scalar(F32, 1.0),
        Arg::Out(dtype, vec![6, 5]),
    ];
    let backward = |x: &[Array]| {
        let mut out = Array::new(x[0].dtype, [7, 4], vec![0.0; 28]);
        for (i, &row) in x[1].data.iter().enumerate() {
            for j in 0..4 {
                out.data[row as usize * 4 + j] += x[0].at(&[i, j]);
            }
        }
        vec![out]
    };
    let dense = vec![
        t(&[10, 4]),
        Arg::In(index(I64, &[10], 7)),
        Arg::Int(7),
        Arg::Int(-1),
        Arg::Bool(false),
        Arg::Out(dtype, vec![7, 4]),
    ];
    vec![
        Case::new("Scatter", scatter, move |x| scattered(x, false)).exact(),
        // A card may add in any order and round between additions: a unit for each of up to nine of them.
        Case::new("ScatterAdd", add, move |x| scattered(x, true)).within(9.0, 4.0),
        Case::new("IndexAdd", index_add, rows).within(9.0, 4.0),
        Case::new("EmbeddingDenseBackward", dense, backward).within(10.0, 4.0),
    ]
}

/// Elements of a list of rows, each written to the row that `index` names: `x` is the tensor, the index and the rows.
fn placed(x: &[Array], write: impl Fn(f64, f64) -> f64) -> Array {
    let mut out = x[0].clone();
    let width: usize = out.shape[1..].iter().product();
    for (i, &row) in x[1].data.iter().enumerate() {
        for j in 0..width {
            let slot = row as usize * width + j;
            out.data[slot] = write(out.data[slot], x[2].data[i * width + j]);
        }
    }
    out
}

/// What is left of the old and the new element.
type Write = fn(f64, f64) -> f64;

/// `Scatter` in place: replaces, adds or multiplies.
fn in_place(dtype: DType) -> Vec<Case> {
    let mut all = Vec::new();
    let modes: [(i64, Write); 3] = [(0, |_, new| new), (1, |old, new| old + new), (2, |old, new| old * new)];
    for (mode, write) in modes {
        let places = if mode == 0 { distinct() } else { index(I32, &[3, 2], 6) };
        let args = vec![
            Arg::Ref(Spec::new(dtype, [6, 2])),
            Arg::Int(0),
            Arg::In(places),
            Arg::In(Spec::new(dtype, [3, 2])),
            Arg::Int(mode),
        ];
        let case = Case::new("InplaceScatter", args, move |x| {
            let mut out = x[0].clone();
            for at in indices(&[3, 2]) {
                let slot = x[1].at(&at) as usize * 2 + at[1];
                out.data[slot] = write(out.data[slot], x[2].at(&at));
            }
            vec![out]
        });
        // Up to three writes to one element, each rounded.
        all.push(if mode == 0 { case.exact() } else { case.within(3.0, 4.0) });
    }
    for (axis, shape) in [(-2, [4, 3, 2, 5]), (3, [4, 3, 6, 2])] {
        let starts = Spec::new(I64, [4]).fill(Fill::Values(vec![0.0, 3.0, 2.0, 1.0]));
        let args = vec![
            Arg::Ref(Spec::new(dtype, [4, 3, 6, 5])),
            Arg::In(starts),
            Arg::In(Spec::new(dtype, shape)),
            Arg::Int(axis),
        ];
        let updated = move |x: &[Array]| {
            let mut out = x[0].clone();
            for at in indices(&shape) {
                let mut place = at.clone();
                place[if axis < 0 { 2 } else { 3 }] += x[1].data[at[0]] as usize;
                let slot = place.iter().zip([4, 3, 6, 5]).fold(0, |slot, (i, size)| slot * size + i);
                out.data[slot] = x[2].at(&at);
            }
            vec![out]
        };
        all.push(Case::new("InplaceScatterUpdate", args, updated).exact());
    }
    all
}

/// Whole rows along one dimension.
fn rows(dtype: DType) -> Vec<Case> {
    let mut all = Vec::new();
    let t = |shape: &[usize]| Arg::In(Spec::new(dtype, shape));
    let row_numbers = || Spec::new(I64, [3]).fill(Fill::Values(vec![4.0, 0.0, 3.0]));
    for (mode, alpha) in [(0, 0.5), (1, 0.5), (2, -1.0)] {
        // Mode 0, which is fast, adds the rows as they are, whatever alpha says.
        let factor = if mode == 0 { 1.0 } else { alpha };
        let args = vec![
            t(&[6, 5]),
            Arg::Int(0),
            Arg::In(index(I32, &[9], 6)),
            t(&[9, 5]),
            Arg::Scalar(F32, alpha),
            Arg::Int(mode),
            Arg::Out(dtype, vec![6, 5]),
        ];
        // As IndexAdd: a unit for each addition.
        all.push(
            Case::new("IndexAddV2", args, move |x| vec![placed(x, |old, new| old + factor * new)]).within(9.0, 4.0),
        );
    }
    let args = vec![t(&[6, 5]), Arg::Int(0), Arg::In(row_numbers()), t(&[3, 5]), Arg::Out(dtype, vec![6, 5])];
    all.push(Case::new("IndexCopy", args, |x| vec![placed(x, |_, new| new)]).exact());
    let args = vec![Arg::Ref(Spec::new(dtype, [6, 5])), Arg::Int(-2), Arg::In(row_numbers()), t(&[3, 5])];
    all.push(Case::new("InplaceIndexCopy", args, |x| vec![placed(x, |_, new| new)]).exact());
    let args = vec![
        t(&[3, 6, 2]),
        Arg::Int(1),
        Arg::Ints(vec![0, 4, 2]),
        Arg::Scalar(F32, -7.5),
        Arg::Out(dtype, vec![3, 6, 2]),
    ];
    let filled = move |x: &[Array]| {
        vec![build(dtype, &[3, 6, 2], |at| if [0, 4, 2].contains(&at[1]) { -7.5 } else { x[0].at(at) })]
    };
    all.push(Case::new("IndexFillTensor", args, filled).exact());
    all
}

/// Slices at coordinates in the last dimension of the index.
fn slices(dtype: DType) -> Vec<Case> {
    let at_rows = || Spec::new(I64, [3, 1]).fill(Fill::Values(vec![4.0, 0.0, 2.0]));
    let args = vec![
        Arg::In(Spec::new(dtype, [6, 4])),
        Arg::In(at_rows()),
        Arg::In(Spec::new(dtype, [3, 4])),
        Arg::Out(dtype, vec![6, 4]),
    ];
    let out_of_place = Case::new("ScatterNd", args, |x| vec![placed(x, |_, new| new)]);
    let args = vec![Arg::Ref(Spec::new(dtype, [6, 4])), Arg::In(at_rows()), Arg::In(Spec::new(dtype, [3, 4]))];
    let of_rows = Case::new("ScatterNdUpdate", args, |x| vec![placed(x, |_, new| new)]);
    let pairs = Spec::new(I32, [3, 2]).fill(Fill::Values(vec![3.0, 5.0, 0.0, 0.0, 3.0, 4.0]));
    let args = vec![Arg::Ref(Spec::new(dtype, [4, 6, 5])), Arg::In(pairs), Arg::In(Spec::new(dtype, [3, 5]))];
    let of_pairs = Case::new("ScatterNdUpdate", args, |x| vec![at_pairs(x, 3, |_, new| new)]);
    [out_of_place, of_rows, of_pairs].into_iter().map(Case::exact).collect()
}

/// Writes row `i` of `x[2]`, five wide, to row `(x[1][i, 0], x[1][i, 1])` of the `[4, 6, 5]` tensor `x[0]`.
fn at_pairs(x: &[Array], count: usize, write: impl Fn(f64, f64) -> f64) -> Array {
    let mut out = x[0].clone();
    for i in 0..count {
        let row = x[1].at(&[i, 0]) as usize * 6 + x[1].at(&[i, 1]) as usize;
        for j in 0..5 {
            out.data[row * 5 + j] = write(out.data[row * 5 + j], x[2].at(&[i, j]));
        }
    }
    out
}

fn subscripts(dtype: DType) -> Vec<Case> {
    let list = |values: Vec<f64>| Spec::new(I64, [values.len()]).fill(Fill::Values(values));
    let mut all = Vec::new();
    // Adding, two of the four meet.
    for (accumulate, last) in [(false, 2.0), (true, 0.0)] {
        let places = vec![list(vec![3.0, 0.0, 1.0, last]), list(vec![5.0, 1.0, 1.0, 1.0])];
        let args = vec![
            Arg::Ref(Spec::new(dtype, [4, 6, 5])),
            Arg::InList(places),
            Arg::In(Spec::new(dtype, [4, 5])),
            Arg::Bool(accumulate),
            Arg::Bool(false),
        ];
        let case = Case::new("IndexPutImpl", args, move |x| {
            let pairs = build(I64, &[4, 2], |at| x[1 + at[1]].data[at[0]]);
            let x = [x[0].clone(), pairs, x[3].clone()];
            vec![at_pairs(&x, 4, |old, new| if accumulate { old + new } else { new })]
        });
        // Two additions to one element, each rounded.
        all.push(if accumulate { case.within(2.0, 4.0) } else { case.exact() });
    }
    let mask = Spec::new(Bool, [4]).fill(Fill::Values(vec![1.0, 0.0, 1.0, 1.0]));
    let args = vec![
        Arg::Ref(Spec::new(dtype, [4, 6])),
        Arg::InList(vec![mask]),
        Arg::In(Spec::new(dtype, [3, 6])),
        Arg::Bool(false),
        Arg::Bool(false),
    ];
    let masked =
        move |x: &[Array]| {
            vec![build(dtype, &[4, 6], |at| {
                if at[0] == 1 { x[0].at(at) } else { x[2].at(&[at[0].saturating_sub(1), at[1]]) }
            })]
        };
    all.push(Case::new("IndexPutImpl", args, masked).exact());
    all
}

/// Six tokens of two heads of sixteen go to slots of a cache of three blocks of four.
fn pages(dtype: DType) -> Vec<Case> {
    let slots = |kind| Arg::In(Spec::new(kind, [6]).fill(Fill::Values(vec![7.0, 0.0, 11.0, 4.0, 1.0, 8.0])));
    let c0 = 32 / dtype.size();
    let layouts: [(Option<&'static str>, [usize; 4]); 3] =
        [(None, [3, 4, 2, 16]), (Some("Norm"), [3, 4, 2, 16]), (Some("PA_NZ"), [3, 32 / c0, 4, c0])];
    let mut all = Vec::new();
    for (mode, cache) in layouts {
        let tokens = || Arg::In(Spec::new(dtype, [6, 2, 16]));
        let pages = || Arg::Ref(Spec::new(dtype, cache));
        let mut args = vec![tokens(), pages(), slots(if mode.is_none() { I32 } else { I64 }), tokens(), pages()];
        args.extend([
            Arg::Null,
            Arg::Null,
            Arg::Null,
            mode.map_or(Arg::Null, Arg::Str),
            Arg::Null,
            Arg::Null,
            Arg::Null,
        ]);
        let written = move |cache: &Array, tokens: &Array, slots: &Array| {
            let mut cache = cache.clone();
            for at in indices(&[6, 32]) {
                let (block, place) = (slots.data[at[0]] as usize / 4, slots.data[at[0]] as usize % 4);
                let slot = match mode {
                    Some("PA_NZ") => ((block * (32 / c0) + at[1] / c0) * 4 + place) * c0 + at[1] % c0,
                    _ => (block * 4 + place) * 32 + at[1],
                };
                cache.data[slot] = tokens.data[at[0] * 32 + at[1]];
            }
            cache
        };
        let both = move |x: &[Array]| vec![written(&x[1], &x[0], &x[2]), written(&x[4], &x[3], &x[2])];
        all.push(Case::new("ScatterPaKvCache", args, both).exact());
    }
    all
}
