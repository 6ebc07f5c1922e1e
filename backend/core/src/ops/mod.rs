//! Operators, one file a family. What belongs to an operator (its checks, shape rule, launch on each device,
//! decomposition) is a small type here; a method of [`Tensor`] only names it.
//!
//! `apply` is the one door through which primitives run, so that recording for gradients has one place: an `Operator` is a
//! value that can be kept, with its operands, and has its `backward` beside its `launch`. Fused operators are recorded by
//! `as_one`, with a fused backward; under [`decomposed`] it is their primitives that are recorded instead.

pub mod attention;
mod cache;
mod columns;
mod cpu;
mod cpu_moe;
mod cross_entropy;
#[cfg_attr(not(feature = "cuda"), path = "no_cuda.rs")]
mod cuda;
mod custom;
mod dropout;
mod elementwise;
mod fp8;
mod fused;
mod indexing;
mod kernels;
mod latent;
mod linear;
mod linear_loss;
mod matmul;
pub mod moe;
mod nf4;
mod norm;
mod npu;
mod npu_grad;
mod optim;
mod ours;
mod packed;
mod paged;
mod reduction;
mod rotary;
mod slope;
mod sort;
mod turn;
mod view;
mod weight;

use crate::autograd::{Gradient, no_grad, record, tracked};
use crate::{DType, Operand, Result, Shape, Storage, Tensor};

pub use attention::{AttentionMask, HiddenKeys, attention};
pub use cache::{write_at, write_pair_at};
pub use columns::add_columns;
pub use cross_entropy::{CrossEntropy, linear_cross_entropy};
pub use dropout::dropout;
pub(crate) use elementwise::{Affine, Binary, Cast, Compare, Elu, Powf, Unary, WhereCond};
pub use fp8::ScaledBlocks;
pub use fused::{softmax_last_dim, swiglu};
pub use indexing::embedding;
pub(crate) use indexing::{Gather, IndexAdd, IndexSelect, Scatter};
pub use kernels::{Kernels, decomposed, kernels, set_kernels, with_kernels};
pub use latent::{LatentPlaces, LatentStep, LatentWeights};
pub use linear::linear;
pub use linear_loss::{OfRows, linear_loss, linear_map};
pub(crate) use matmul::MatMul;
pub use nf4::{Nf4, Nf4Packer};
pub use norm::{add_rms_norm, add_rms_norm_wide, rms_norm};
pub use optim::{AdamWStep, adamw_step, sum_of_squares};
pub use packed::attention_packed;
pub use paged::paged_attention;
pub(crate) use reduction::Reduce;
pub use rotary::{norm_rotary, rotary};
pub(crate) use sort::arg_sort_last_dim;
pub use turn::{Turn, turn_and_write_at};
pub(crate) use view::{Pad, SliceScatter, View, record_cat};
pub use weight::{Blocks, Format, Weight, widen};

/// Shape and element type of a result.
pub(crate) struct Spec {
    pub shape: Shape,
    pub dtype: DType,
}

/// A primitive of `N` operands with one result in fresh, row-major storage.
pub(crate) trait Operator<const N: usize>: Gradient<N> {
    /// Checks the operands and says what the result will be.
    fn infer(&self, operands: [&Tensor; N]) -> Result<Spec>;

    /// Computes on the device of the operands, which [`Operator::infer`] has checked. Neither they nor the result
    /// are empty, except that a reduction may be asked to reduce nothing.
    fn launch(&self, operands: [Operand<'_>; N]) -> Result<Storage>;
}

/// Runs `operator` on `operands`.
pub(crate) fn apply<const N: usize>(operator: &impl Operator<N>, operands: [&Tensor; N]) -> Result<Tensor> {
    let Spec { shape, dtype } = operator.infer(operands)?;
    if shape.elem_count() == 0 {
        return Tensor::zeros(shape, dtype, operands[0].device());
    }
    let guards = operands.map(Tensor::storage);
    let views = std::array::from_fn(|i| Operand { storage: &guards[i], layout: operands[i].layout() });
    let result = Tensor::from_storage(operator.launch(views)?, shape);
    // Integers have no gradient.
    Ok(if dtype.is_float() { record(result, operator, operands) } else { result })
}

/// Runs `forward` as one step of the tape, whose gradient is `gradient`; its intermediates are not kept. Without recording,
/// and where fused operators are decomposed, this is `forward` and nothing else.
fn as_one<const N: usize>(
    gradient: &impl Gradient<N>,
    operands: [&Tensor; N],
    forward: impl FnOnce() -> Result<Tensor>,
) -> Result<Tensor> {
    if !kernels::overrides() || !tracked(&operands) {
        return forward();
    }
    Ok(record(no_grad(forward)?, gradient, operands))
}

/// The spec of a result like `operand`.
fn like(operand: &Tensor) -> Spec {
    Spec { shape: operand.shape().clone(), dtype: operand.dtype() }
}
