//! The cases, a file a family of the operator table.
//!
//! Shapes are odd on purpose: sizes that are no multiple of a vector, a scalar, views that are not contiguous.

mod activation;
mod args;
mod attention;
mod binary;
mod elementwise;
mod index;
mod linalg;
mod loss;
mod moe;
mod norm;
mod optim;
mod quant;
mod random;
mod reduce;
mod rope;
mod scatter;
mod shape;
mod sort;

use crate::array::DType;
use crate::case::{Case, View};

/// The types that language models compute in.
pub(crate) const FLOATS: &[DType] = &[DType::F32, DType::F16, DType::BF16];

/// Shapes and views that every elementwise row is tried with.
pub(crate) const SHAPES: &[(&[usize], View)] = &[
    (&[5, 7, 11], View::Contiguous),
    (&[3, 13], View::Transposed),
    (&[2, 3, 17], View::Window),
    (&[1], View::Contiguous),
];

/// Every case of the suite.
pub fn all() -> Vec<Case> {
    let families = [
        elementwise::cases,
        binary::cases,
        reduce::cases,
        shape::cases,
        index::cases,
        scatter::cases,
        sort::cases,
        random::cases,
        optim::cases,
        linalg::cases,
        norm::cases,
        loss::cases,
        activation::cases,
        rope::cases,
        attention::cases,
        moe::cases,
        quant::cases,
    ];
    families.into_iter().flat_map(|cases| cases()).collect()
}
