//! Gradients of what moves elements without computing: views, copies, joining.

use crate::autograd::{Gradient, Recorded, record_any, tracked, wanted};
use crate::{Result, Tensor};

/// How a view or copy shows the elements of its one operand.
#[derive(Clone)]
pub(crate) enum View {
    /// Under another shape, in the same order.
    Reshape,
    Transpose(usize, usize),
    /// Dimension `i` of the result is dimension `self.0[i]` of the operand.
    Permute(Vec<usize>),
    /// From element `start` on along `dim`.
    Narrow {
        dim: usize,
        start: usize,
    },
    /// Repeated.
    Broadcast,
    /// Windows every `step` elements along `dim`, the window being the last dimension.
    Unfold {
        dim: usize,
        step: usize,
    },
    Copy,
    ToDevice,
}

impl Gradient<1> for View {
    fn name(&self) -> &'static str {
        match self {
            Self::Reshape => "reshape",
            Self::Transpose(..) => "transpose",
            Self::Permute(_) => "permute",
            Self::Narrow { .. } => "narrow",
            Self::Broadcast => "broadcast_as",
            Self::Unfold { .. } => "unfold",
            Self::Copy => "copy",
            Self::ToDevice => "to_device",
        }
    }

    fn backward(&self, [x]: [&Tensor; 1], _: &Tensor, grad: &Tensor) -> Result<[Option<Tensor>; 1]> {
        let grad = match self {
            Self::Reshape => grad.reshape(x.shape()),
            Self::Transpose(dim1, dim2) => grad.transpose(*dim1, *dim2),
            Self::Permute(dims) => {
                let mut inverse = vec![0; dims.len()];
                dims.iter().enumerate().for_each(|(i, &dim)| inverse[dim] = i);
                grad.permute(inverse)
            }
            Self::Narrow { dim, start } => {
                let after = x.dims()[*dim] - start - grad.dims()[*dim];
                grad.pad_with_zeros(*dim, *start, after)
            }
            Self::Broadcast => sum_to(grad, x),
            Self::Unfold { dim, step } => fold(grad, x, *dim, *step),
            Self::Copy => Ok(grad.clone()),
            Self::ToDevice => grad.to_device(x.device()),
        };
        Ok([Some(grad?)])
    }
}

/// `grad` summed over the dimensions in which `x` was repeated.
fn sum_to(grad: &Tensor, x: &Tensor) -> Result<Tensor> {
    let leading = grad.rank() - x.rank();
    let repeated = |&i: &usize| i < leading || x.dims()[i - leading] != grad.dims()[i];
    let dims: Vec<usize> = (0..grad.rank()).filter(repeated).collect();
    grad.sum_keepdim(dims)?.reshape(x.shape())
}

/// Each window of `grad` added where it was taken from.
fn fold(grad: &Tensor, x: &Tensor, dim: usize, step: usize) -> Result<Tensor> {
    let windows = grad.dims()[dim];
    let last = grad.rank() - 1;
    let mut sum = x.zeros_like()?;
    for window in 0..windows {
        // `[.., 1, .., size]` becomes `[.., size, ..]`.
        let part = grad.narrow(dim, window, 1)?.transpose(dim, last)?.squeeze(last)?;
        let (before, size) = (window * step, part.dims()[dim]);
        sum = sum.add(&part.pad_with_zeros(dim, before, x.dims()[dim] - before - size)?)?;
    }
    Ok(sum)
}

/// Zeros before and after the operand along `dim`.
#[derive(Clone)]
pub(crate) struct Pad {
    pub dim: usize,
    pub left: usize,
}

impl Gradient<1> for Pad {
    fn name(&self) -> &'static str {
        "pad_with_zeros"
    }

    fn backward(&self, [x]: [&Tensor; 1], _: &Tensor, grad: &Tensor) -> Result<[Option<Tensor>; 1]> {
        Ok([Some(grad.narrow(self.dim, self.left, x.dims()[self.dim])?)])
    }
}

/// The first operand with the second in place of elements `start..` along `dim`.
#[derive(Clone)]
pub(crate) struct SliceScatter {
    pub dim: usize,
    pub start: usize,
}

impl Gradient<2> for SliceScatter {
    fn name(&self) -> &'static str {
        "slice_scatter"
    }

    fn backward(&self, [base, source]: [&Tensor; 2], _: &Tensor, grad: &Tensor) -> Result<[Option<Tensor>; 2]> {
        Ok([
            wanted(base, || grad.slice_scatter(&source.zeros_like()?, self.dim, self.start))?,
            wanted(source, || grad.narrow(self.dim, self.start, source.dims()[self.dim]))?,
        ])
    }
}

/// Operands one after another along a dimension.
struct Cat(usize);

impl Recorded for Cat {
    fn name(&self) -> &'static str {
        "cat"
    }

    fn reads_result(&self) -> bool {
        false
    }

    fn backward(&self, operands: &[Tensor], _: &Tensor, grad: &Tensor) -> Result<Vec<Option<Tensor>>> {
        let mut start = 0;
        operands
            .iter()
            .map(|operand| {
                let size = operand.dims()[self.0];
                start += size;
                wanted(operand, || grad.narrow(self.0, start - size, size))
            })
            .collect()
    }
}

/// `joined`, recorded as what [`Tensor::cat`] made of `operands`.
pub(crate) fn record_cat<A: AsRef<Tensor>>(joined: Tensor, operands: &[A], dim: usize) -> Tensor {
    if !operands.iter().any(|operand| tracked(&[operand.as_ref()])) {
        return joined;
    }
    record_any(joined, Cat(dim), operands.iter().map(|operand| operand.as_ref().clone()).collect())
}
