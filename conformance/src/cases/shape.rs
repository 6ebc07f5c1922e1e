//! Rows that move, convert or make elements without arithmetic.

use super::FLOATS;
use crate::array::{Array, DType, indices};
use crate::case::{Arg, Case, Fill, Spec, View};
use DType::*;

const MOVED: &[DType] = &[F32, F16, BF16, I64, I32, Bool];

/// An array of `shape` whose element at each index is `f` of the index.
fn build(dtype: DType, shape: &[usize], f: impl Fn(&[usize]) -> f64) -> Array {
    Array::new(dtype, shape, indices(shape).map(|at| f(&at)).collect())
}

pub fn cases() -> Vec<Case> {
    let mut all = cast();
    for &dtype in MOVED {
        all.extend(moves(dtype));
        all.extend(joins(dtype));
        all.extend(windows(dtype));
    }
    all.extend(copies());
    all.extend(makes());
    all.extend(sequences());
    all.extend(one_hot());
    all
}

fn cast() -> Vec<Case> {
    let kinds = [F32, F16, BF16, I64, I32, U8, Bool];
    let mut all = Vec::new();
    for from in kinds {
        for to in kinds {
            if from == to {
                continue;
            }
            // Whole numbers that every type holds: rounding of fractions differs by operator page and is tried apart.
            let spec = Spec::new(from, [3, 5, 7]).view(View::Transposed);
            let spec = if from == Bool { spec } else { spec.fill(Fill::Integers(0, 100)) };
            let args = vec![Arg::In(spec), Arg::DType(to), Arg::Out(to, vec![3, 5, 7])];
            all.push(Case::new("Cast", args, move |x| vec![x[0].clone().with_dtype(to)]).exact());
        }
    }
    for (from, to) in [(F32, BF16), (F32, F16), (BF16, F32), (F16, BF16)] {
        let args = vec![Arg::In(Spec::new(from, [257])), Arg::DType(to), Arg::Out(to, vec![257])];
        all.push(Case::new("Cast", args, move |x| vec![x[0].clone().with_dtype(to)]).exact());
    }
    all
}

fn moves(dtype: DType) -> Vec<Case> {
    let x = |shape: &[usize], view| Arg::In(Spec::new(dtype, shape).view(view));
    let out = |shape: &[usize]| Arg::Out(dtype, shape.to_vec());
    let mut all = vec![
        Case::new("Permute", vec![x(&[3, 5, 7], View::Window), Arg::Ints(vec![2, 0, 1]), out(&[7, 3, 5])], |x| {
            vec![x[0].permuted(&[2, 0, 1])]
        }),
        Case::new(
            "Slice",
            vec![x(&[3, 9], View::Transposed), Arg::Int(1), Arg::Int(2), Arg::Int(8), Arg::Int(2), out(&[3, 3])],
            move |x| vec![build(dtype, &[3, 3], |at| x[0].at(&[at[0], 2 + 2 * at[1]]))],
        ),
        Case::new(
            "Expand",
            vec![x(&[3, 1, 4], View::Contiguous), Arg::Ints(vec![2, 3, 5, 4]), out(&[2, 3, 5, 4])],
            move |x| vec![build(dtype, &[2, 3, 5, 4], |at| x[0].at(at))],
        ),
        Case::new("Repeat", vec![x(&[3, 4], View::Contiguous), Arg::Ints(vec![2, 3]), out(&[6, 12])], move |x| {
            vec![build(dtype, &[6, 12], |at| x[0].at(&[at[0] % 3, at[1] % 4]))]
        }),
    ];
    if dtype != Bool {
        let pad =
            vec![x(&[3, 4], View::Contiguous), Arg::Ints(vec![1, 2, 0, 1]), Arg::Scalar(dtype, 3.0), out(&[4, 7])];
        all.push(Case::new("ConstantPadNd", pad, move |x| {
            vec![build(dtype, &[4, 7], |at| match (at[0] < 3, (1..5).contains(&at[1])) {
                (true, true) => x[0].at(&[at[0], at[1] - 1]),
                _ => 3.0,
            })]
        }));
    }
    for (row, upper) in [("Tril", false), ("Triu", true)] {
        let args = vec![x(&[2, 5, 5], View::Contiguous), Arg::Int(1), out(&[2, 5, 5])];
        all.push(Case::new(row, args, move |x| {
            let keeps = |at: &[usize]| if upper { at[2] > at[1] } else { at[2] <= at[1] + 1 };
            vec![build(dtype, &[2, 5, 5], |at| if keeps(at) { x[0].at(at) } else { 0.0 })]
        }));
    }
    all.push(Case::new("Flip", vec![x(&[3, 5], View::Contiguous), Arg::Ints(vec![1]), out(&[3, 5])], move |x| {
        vec![build(dtype, &[3, 5], |at| x[0].at(&[at[0], 4 - at[1]]))]
    }));
    all.into_iter().map(Case::exact).collect()
}

fn joins(dtype: DType) -> Vec<Case> {
    let list = |shapes: &[&[usize]]| Arg::InList(shapes.iter().map(|s| Spec::new(dtype, *s)).collect());
    let cat = Case::new(
        "Cat",
        vec![list(&[&[3, 2, 4], &[3, 5, 4], &[3, 1, 4]]), Arg::Int(1), Arg::Out(dtype, vec![3, 8, 4])],
        move |x| {
            vec![build(dtype, &[3, 8, 4], |at| match at[1] {
                0..2 => x[0].at(at),
                2..7 => x[1].at(&[at[0], at[1] - 2, at[2]]),
                _ => x[2].at(&[at[0], 0, at[2]]),
            })]
        },
    );
    let stack =
        Case::new("Stack", vec![list(&[&[3, 4], &[3, 4]]), Arg::Int(1), Arg::Out(dtype, vec![3, 2, 4])], move |x| {
            vec![build(dtype, &[3, 2, 4], |at| x[at[1]].at(&[at[0], at[2]]))]
        });
    let parts = Arg::OutList(vec![(dtype, vec![4, 3]), (dtype, vec![4, 3]), (dtype, vec![4, 2])]);
    let pieces = move |x: &[Array]| {
        let piece = |from: usize, size: usize| build(dtype, &[4, size], |at| x[0].at(&[at[0], from + at[1]]));
        vec![piece(0, 3), piece(3, 3), piece(6, 2)]
    };
    let x = || Arg::In(Spec::new(dtype, [4, 8]));
    let split = Case::new("SplitTensor", vec![x(), Arg::Int(3), Arg::Int(1), parts.clone()], pieces);
    let sizes = Case::new("SplitWithSize", vec![x(), Arg::Ints(vec![3, 3, 2]), Arg::Int(1), parts], pieces);
    [cat, stack, split, sizes].into_iter().map(Case::exact).collect()
}

fn copies() -> Vec<Case> {
    let mut all = Vec::new();
    for &dtype in MOVED {
        for (to, from) in [(View::Window, View::Transposed), (View::Transposed, View::Contiguous)] {
            let args = vec![Arg::Ref(Spec::new(dtype, [3, 7]).view(to)), Arg::In(Spec::new(dtype, [3, 7]).view(from))];
            all.push(Case::new("InplaceCopy", args, |x| vec![x[1].clone()]).exact());
        }
    }
    let args = vec![Arg::Ref(Spec::new(F32, [3, 7])), Arg::In(Spec::new(BF16, [7]))];
    all.push(Case::new("InplaceCopy", args, |x| vec![x[0].zip(&x[1], |_, b| b)]).exact());
    for &dtype in FLOATS {
        let x = || Arg::Ref(Spec::new(dtype, [3, 7]).view(View::Window));
        all.push(Case::new("InplaceZero", vec![x()], |x| vec![x[0].map(|_| 0.0)]).exact());
        all.push(Case::new("InplaceOne", vec![x()], |x| vec![x[0].map(|_| 1.0)]).exact());
        for shape in [vec![1], vec![]] {
            let value = Arg::In(Spec::new(dtype, shape));
            all.push(Case::new("InplaceFillTensor", vec![x(), value], |x| vec![x[0].map(|_| x[1].data[0])]).exact());
        }
        all.push(Case::new("InplaceFillScalar", vec![x(), Arg::Scalar(F32, 1.5)], |x| vec![x[0].map(|_| 1.5)]).exact());
    }
    all
}

fn makes() -> Vec<Case> {
    let mut all = Vec::new();
    for dtype in [F32, I64, I32] {
        let s = |v: f64| Arg::Scalar(dtype, v);
        let args = vec![s(3.0), s(17.0), s(2.0), Arg::Out(dtype, vec![7])];
        all.push(Case::new("Arange", args, move |_| vec![build(dtype, &[7], |at| 3.0 + 2.0 * at[0] as f64)]).exact());
    }
    let args = vec![Arg::Int(4), Arg::Int(6), Arg::Out(F32, vec![4, 6])];
    all.push(Case::new("Eye", args, |_| vec![build(F32, &[4, 6], |at| (at[0] == at[1]) as u8 as f64)]).exact());
    all
}

/// Slices over several dimensions, rotations and repetitions.
fn windows(dtype: DType) -> Vec<Case> {
    let x = |shape: &[usize], view| Arg::In(Spec::new(dtype, shape).view(view));
    let out = |shape: &[usize]| Arg::Out(dtype, shape.to_vec());
    let ints = |v: &[i64]| Arg::Ints(v.to_vec());
    let mut all = Vec::new();
    let args =
        vec![x(&[3, 9], View::Transposed), ints(&[1, -7]), ints(&[3, 100]), ints(&[0, 1]), ints(&[1, 3]), out(&[2, 3])];
    all.push(Case::new("SliceV2", args, move |x| {
        vec![build(dtype, &[2, 3], |at| x[0].at(&[1 + at[0], 2 + 3 * at[1]]))]
    }));
    let args = vec![x(&[3, 9], View::Contiguous), ints(&[0]), ints(&[-2]), ints(&[-1]), ints(&[2]), out(&[3, 4])];
    all.push(Case::new("SliceV2", args, move |x| vec![build(dtype, &[3, 4], |at| x[0].at(&[at[0], 2 * at[1]]))]));
    all.extend(strided_slices(dtype));
    let args = vec![x(&[3, 4], View::Transposed), Arg::Int(3), Arg::Int(36), out(&[36])];
    all.push(Case::new("RepeatInterleaveInt", args, move |x| vec![build(dtype, &[36], |at| x[0].data[at[0] / 3])]));
    let args = vec![x(&[3, 5], View::Window), ints(&[1, -2]), ints(&[0, 1]), out(&[3, 5])];
    all.push(Case::new("Roll", args, move |x| {
        vec![build(dtype, &[3, 5], |at| x[0].at(&[(at[0] + 2) % 3, (at[1] + 2) % 5]))]
    }));
    for (row, upper) in [("InplaceTril", false), ("InplaceTriu", true)] {
        for diagonal in [-1, 1] {
            let args = vec![Arg::Ref(Spec::new(dtype, [2, 5, 4])), Arg::Int(diagonal)];
            all.push(Case::new(row, args, move |x| {
                let above = |at: &[usize]| at[2] as i64 - at[1] as i64;
                let keeps = |at: &[usize]| if upper { above(at) >= diagonal } else { above(at) <= diagonal };
                vec![build(dtype, &[2, 5, 4], |at| if keeps(at) { x[0].at(at) } else { 0.0 })]
            }));
        }
    }
    all.into_iter().map(Case::exact).collect()
}

/// One slice of a `[4, 6, 5]` tensor: begin, end and stride of each entry, the five masks, the result's shape, and
/// which element goes where.
type StridedSlice = ([[i64; 3]; 3], [i64; 5], &'static [usize], fn(&[usize]) -> [usize; 3]);

fn strided_slices(dtype: DType) -> Vec<Case> {
    let slices: [StridedSlice; 5] = [
        ([[1, 0, -4], [3, 6, 5], [1, 2, 1]], [0; 5], &[2, 3, 4], |at| [1 + at[0], 2 * at[1], 1 + at[2]]),
        ([[2, 1, 0], [3, 2, 4], [1, 2, 1]], [1, 2, 0, 0, 0], &[3, 3, 4], |at| [at[0], 1 + 2 * at[1], at[2]]),
        ([[1, 0, 2], [2, 0, 4], [1, 1, 1]], [0, 0, 2, 0, 0], &[1, 6, 2], |at| [1, at[1], 2 + at[2]]),
        ([[0, 1, 2], [0, 3, 4], [1, 1, 1]], [0, 0, 0, 1, 0], &[1, 2, 2, 5], |at| [1 + at[1], 2 + at[2], at[3]]),
        ([[2, 0, 1], [3, 6, 4], [1, 3, 1]], [0, 0, 0, 0, 1], &[2, 3], |at| [2, 3 * at[0], 1 + at[1]]),
    ];
    let case = |([begin, end, strides], masks, shape, source): StridedSlice| {
        let mut args = vec![Arg::In(Spec::new(dtype, [4, 6, 5]))];
        args.extend([begin, end, strides].map(|v| Arg::Ints(v.to_vec())));
        args.extend(masks.map(Arg::Int));
        args.push(Arg::Out(dtype, shape.to_vec()));
        Case::new("StridedSlice", args, move |x| vec![build(dtype, shape, |at| x[0].at(&source(at)))])
    };
    slices.map(case).into()
}

fn sequences() -> Vec<Case> {
    let mut all = Vec::new();
    // The end belongs to a range where a step meets it.
    for (dtype, start, end, step, count) in
        [(F32, 1.0, 10.0, 2.5, 4), (I64, 3.0, 17.0, 2.0, 8), (I32, 5.0, -1.0, -2.0, 4)]
    {
        let s = |v: f64| Arg::Scalar(dtype, v);
        let args = vec![s(start), s(end), s(step), Arg::Out(dtype, vec![count])];
        all.push(
            Case::new("Range", args, move |_| vec![build(dtype, &[count], |at| start + step * at[0] as f64)]).exact(),
        );
    }
    for (dtype, start, end, steps) in
        [(F32, -1.0, 2.0, 7), (F16, -1.0, 2.0, 7), (BF16, 2.0, -1.0, 7), (I32, 0.0, 9.0, 4), (F32, 3.0, 5.0, 1)]
    {
        let args = vec![
            Arg::Scalar(F32, start),
            Arg::Scalar(F32, end),
            Arg::Int(steps),
            Arg::Out(dtype, vec![steps as usize]),
        ];
        let even = move |at: &[usize]| start + (end - start) / (steps - 1).max(1) as f64 * at[0] as f64;
        let case = Case::new("Linspace", args, move |_| vec![build(dtype, &[steps as usize], even)]);
        // The step is rounded to f32, and then its product with the position.
        all.push(if dtype.is_float() { case.within(2.0, 1.0) } else { case.exact() });
    }
    all
}

fn one_hot() -> Vec<Case> {
    // The 9 is no class: its row is off throughout.
    let classes = vec![0.0, 4.0, 2.0, 9.0, 1.0, 3.0];
    let mut all = Vec::new();
    for (dtype, axis, shape) in [(F32, -1, [2, 3, 5]), (F16, 1, [2, 5, 3]), (I32, 0, [5, 2, 3]), (I64, 2, [2, 3, 5])] {
        let one = |value| Arg::In(Spec::new(dtype, [1]).fill(Fill::Values(vec![value])));
        let x = Spec::new(if dtype == I32 { I32 } else { I64 }, [2, 3]).fill(Fill::Values(classes.clone()));
        let args = vec![Arg::In(x), Arg::Int(5), one(3.0), one(-2.0), Arg::Int(axis), Arg::Out(dtype, shape.to_vec())];
        all.push(
            Case::new("OneHot", args, move |x| {
                vec![build(dtype, &shape, |at| {
                    let mut rest = at.to_vec();
                    let class = rest.remove(if axis < 0 { 2 } else { axis as usize });
                    if x[0].at(&rest) == class as f64 { 3.0 } else { -2.0 }
                })]
            })
            .exact(),
        );
    }
    all
}
