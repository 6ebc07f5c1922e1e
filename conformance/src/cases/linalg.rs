//! Matrix products.

use super::FLOATS;
use super::args::{build, out, scalar, t};
use crate::array::{Array, DType};
use crate::case::{Arg, Case, Spec, View};
use DType::*;
use candle_ascend::{Tensor, ops};

/// `a[…, m, k] · b[…, k, n]`, the leading dimensions broadcast.
pub fn product(a: &Array, b: &Array) -> Array {
    let (ra, rb) = (a.rank(), b.rank());
    let k = a.shape[ra - 1];
    let mut shape = crate::array::broadcast(&a.shape[..ra - 2], &b.shape[..rb - 2]);
    shape.extend([a.shape[ra - 2], b.shape[rb - 1]]);
    let rank = shape.len();
    build(a.dtype, &shape, |at| {
        let (mut left, mut right) = (at.to_vec(), at.to_vec());
        let term = |i: usize| {
            left[rank - 1] = i;
            right[rank - 2] = i;
            a.at(&left) * b.at(&right)
        };
        (0..k).map(term).sum()
    })
}

/// Sums of up to 67 products of numbers below 4 in `f32`: in that type a result near zero keeps the error of its largest
/// terms, in a narrower one it is rounded once more, and an addend may have been rounded on its way.
fn summed(case: Case, dtype: DType) -> Case {
    if dtype == F32 { case.within(16.0, 8.0) } else { case.within(2.0, 2.0) }
}

pub fn cases() -> Vec<Case> {
    let mut all = Vec::new();
    for &dtype in FLOATS {
        all.extend(products(dtype));
        all.extend(with_addend(dtype));
        all.extend(with_vectors(dtype));
    }
    // Integers wrap around in their own type; these sums do not reach its end.
    let args = vec![t(I32, &[67]), t(I32, &[67]), out(I32, &[])];
    all.push(Case::new("Dot", args, dot).exact());
    all
}

fn products(dtype: DType) -> Vec<Case> {
    let mut all = Vec::new();
    for (m, k, n, view) in [(5, 67, 9, View::Contiguous), (1, 64, 33, View::Transposed), (17, 3, 8, View::Transposed)] {
        // The last argument 0 keeps the inputs' precision.
        let args =
            || vec![t(dtype, &[m, k]), Arg::In(Spec::new(dtype, [k, n]).view(view)), out(dtype, &[m, n]), Arg::Int(0)];
        let reference = |x: &[Array]| vec![product(&x[0], &x[1])];
        let mut matmul =
            summed(Case::new("Matmul", args(), reference), dtype).tensors(|x| Ok(vec![x[0].matmul(&x[1])?]));
        if m == 1 {
            // A projection keeps its weight as [outputs, inputs], whose transpose is what the operator is given.
            matmul = matmul.tensors(|x: &[Tensor]| Ok(vec![ops::linear(&x[0], &x[1].t()?, None)?]));
        }
        all.push(matmul);
        all.push(summed(Case::new("Mm", args(), reference), dtype));
    }
    let batch = vec![
        t(dtype, &[3, 5, 7]),
        Arg::In(Spec::new(dtype, [3, 7, 4]).view(View::Transposed)),
        out(dtype, &[3, 5, 4]),
        Arg::Int(0),
    ];
    all.push(
        summed(Case::new("BatchMatMul", batch, |x| vec![product(&x[0], &x[1])]), dtype)
            .tensors(|x| Ok(vec![x[0].matmul(&x[1])?])),
    );
    let broadcast = vec![t(dtype, &[2, 3, 5, 7]), t(dtype, &[3, 7, 4]), out(dtype, &[2, 3, 5, 4]), Arg::Int(0)];
    all.push(summed(Case::new("Matmul", broadcast, |x| vec![product(&x[0], &x[1])]), dtype));
    all
}

fn with_addend(dtype: DType) -> Vec<Case> {
    let addmm = |x: &[Array]| vec![product(&x[1], &x[2]).zip(&x[0], |p, c| 0.5 * c + 2.0 * p)];
    let tail = |shape: &[usize]| vec![scalar(0.5), scalar(2.0), out(dtype, shape), Arg::Int(0)];
    let operands = |lead: &[usize]| {
        let shape = |m, n| [lead, &[m, n]].concat();
        vec![t(dtype, &shape(5, 9)), t(dtype, &shape(5, 7)), t(dtype, &shape(7, 9))]
    };
    let mut all = vec![
        Case::new("Addmm", [operands(&[]), tail(&[5, 9])].concat(), addmm),
        Case::new("Baddbmm", [operands(&[2]), tail(&[2, 5, 9])].concat(), addmm),
    ];
    let mut inplace = operands(&[]);
    inplace[0] = Arg::Ref(Spec::new(dtype, [5, 9]));
    inplace.extend([scalar(0.5), scalar(2.0), Arg::Int(0)]);
    all.push(Case::new("InplaceAddmm", inplace, addmm));
    for (trans_a, trans_b) in [(0, 0), (1, 0), (0, 1), (1, 1)] {
        let operand =
            |flag: i64, shape: [usize; 2]| if flag != 0 { t(dtype, &[shape[1], shape[0]]) } else { t(dtype, &shape) };
        let args = vec![
            operand(trans_a, [5, 7]),
            operand(trans_b, [7, 9]),
            t(dtype, &[5, 9]),
            Arg::Float(2.0),
            Arg::Float(0.5),
            Arg::Int(trans_a),
            Arg::Int(trans_b),
            out(dtype, &[5, 9]),
            Arg::Int(0),
        ];
        all.push(Case::new("Gemm", args, move |x| {
            let turned = |x: &Array, flag: i64| if flag != 0 { x.permuted(&[1, 0]) } else { x.clone() };
            vec![product(&turned(&x[0], trans_a), &turned(&x[1], trans_b)).zip(&x[2], |p, c| 2.0 * p + 0.5 * c)]
        }));
    }
    all.into_iter().map(|case| summed(case, dtype)).collect()
}

fn dot(x: &[Array]) -> Vec<Array> {
    vec![Array::new(x[0].dtype, [], vec![x[0].data.iter().zip(&x[1].data).map(|(a, b)| a * b).sum()])]
}

fn with_vectors(dtype: DType) -> Vec<Case> {
    let args = vec![t(dtype, &[5, 7]), t(dtype, &[7]), out(dtype, &[5]), Arg::Int(0)];
    let mv = Case::new("Mv", args, |x| vec![product(&x[0], &x[1].clone().reshaped(&[7, 1])).reshaped(&[5])]);
    let dot = Case::new("Dot", vec![t(dtype, &[67]), t(dtype, &[67]), out(dtype, &[])], dot);
    vec![summed(mv, dtype), summed(dot, dtype)]
}
