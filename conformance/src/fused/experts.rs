//! Products of groups of rows with their experts' matrices, and SwiGLU, alone and behind such a product.

use super::{Case, Operator, uniform, whole};
use crate::array::{Array, DType};
use candle_ascend::Tensor;
use candle_ascend::ops::{self, moe};

static LINEAR: Operator = Operator { name: "grouped_linear", aclnn: &["GroupedMatmul"], ours: &["grouped_matmul"] };
static GATED: Operator = Operator { name: "grouped_swiglu", aclnn: &[], ours: &["grouped_matmul_swiglu"] };
static SWIGLU: Operator = Operator { name: "swiglu", aclnn: &["SwiGlu"], ours: &[] };

/// Rows of each expert, columns of a row and of a result; the last is of no whole blocks of 16.
type Groups = (&'static [usize], usize, usize);
const GROUPS: [Groups; 4] =
    [(&[1], 16, 16), (&[0, 5, 0, 31, 1], 70, 48), (&[130, 0, 3], 40, 304), (&[2, 0, 7, 1], 33, 25)];

pub fn cases(dtype: DType) -> Vec<Case> {
    let mut all: Vec<Case> = GROUPS.iter().map(|&groups| product(dtype, groups, false)).collect();
    all.extend(GROUPS.iter().map(|&groups| product(dtype, groups, true)));
    all.extend([[1, 32], [13, 34], [70, 200]].map(|shape| swiglu(dtype, shape)));
    all
}

fn ends(counts: &[usize]) -> Vec<usize> {
    (0..counts.len()).map(|i| counts[..=i].iter().sum()).collect()
}

/// `silu(gate) up` of a row of both.
fn gated(row: &[f64]) -> Vec<f64> {
    let (gate, up) = row.split_at(row.len() / 2);
    gate.iter().zip(up).map(|(gate, up)| gate / (1.0 + (-gate).exp()) * up).collect()
}

fn product(dtype: DType, (counts, inner, columns): Groups, activated: bool) -> Case {
    let (rows, experts) = (counts.iter().sum::<usize>(), counts.len());
    let outputs = if activated { 2 * columns } else { columns };
    let inputs = vec![
        uniform(dtype, &[rows, inner], 2.0),
        uniform(dtype, &[experts, outputs, inner], 0.5),
        whole(DType::I64, &[experts], ends(counts)),
    ];
    let call = move |x: &[Tensor]| {
        let f = if activated { moe::grouped_swiglu } else { moe::grouped_linear };
        Ok(vec![f(&x[0], &x[1], &x[2])?])
    };
    let loops = move |x: &[Array]| {
        let ends = ends(counts);
        let of_row = |row: usize| {
            let expert = ends.iter().position(|&end| row < end).expect("every row is somebody's");
            let matrix = x[1].data[expert * outputs * inner..][..outputs * inner].chunks(inner);
            let values = &x[0].data[row * inner..][..inner];
            let y: Vec<f64> = matrix.map(|line| line.iter().zip(values).map(|(w, x)| w * x).sum()).collect();
            if activated { gated(&y) } else { y }
        };
        vec![Array::new(dtype, [rows, columns], (0..rows).flat_map(of_row).collect())]
    };
    let label = format!("{counts:?} rows, {inner} to {columns}");
    let case = Case::new((if activated { &GATED } else { &LINEAR }, dtype), label, inputs, call, loops);
    match (dtype, activated) {
        // Sums of up to 70 products below 1, added up in F32 in any order.
        (DType::F32, _) => case.within(&[(16.0, 4.0)]),
        (_, false) => case.within(&[(1.0, 1.0)]),
        // Gate and up may be rounded before they are multiplied, the gate's error growing with it.
        (_, true) => case.within(&[(4.0, 1.0)]),
    }
}

fn swiglu(dtype: DType, [rows, both]: [usize; 2]) -> Case {
    let inputs = vec![uniform(dtype, &[rows, both], 6.0)];
    let loops =
        move |x: &[Array]| vec![Array::new(dtype, [rows, both / 2], x[0].data.chunks(both).flat_map(gated).collect())];
    let call = |x: &[Tensor]| Ok(vec![ops::swiglu(&x[0])?]);
    // An exponential, a quotient and a product of F32, and a rounding.
    let case = Case::new((&SWIGLU, dtype), format!("{rows} rows of twice {}", both / 2), inputs, call, loops);
    if dtype == DType::F32 { case.within(&[(8.0, 1.0)]) } else { case.within(&[(1.0, 1.0)]) }
}
