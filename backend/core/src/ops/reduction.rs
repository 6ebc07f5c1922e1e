//! Reductions along dimensions.

use super::{Operator, Spec};
use crate::autograd::Gradient;
use crate::{DType, Error, Operand, Result, Shape, Storage, Tensor};
use candle_core::op::ReduceOp;

/// A reduction along `dims`, whose size becomes one. Sums take any number of dimensions, the others one.
#[derive(Clone)]
pub(crate) struct Reduce {
    pub op: ReduceOp,
    pub dims: Vec<usize>,
}

impl Reduce {
    fn name(&self) -> &'static str {
        match self.op {
            ReduceOp::Sum => "sum",
            ReduceOp::Min => "min",
            ReduceOp::Max => "max",
            ReduceOp::ArgMin => "argmin",
            ReduceOp::ArgMax => "argmax",
        }
    }
}

impl Gradient<1> for Reduce {
    fn name(&self) -> &'static str {
        Reduce::name(self)
    }

    /// An extreme hands its gradient to every element that equals it, as in candle.
    fn backward(&self, [x]: [&Tensor; 1], y: &Tensor, grad: &Tensor) -> Result<[Option<Tensor>; 1]> {
        let spread = grad.broadcast_as(x.shape())?;
        Ok([match self.op {
            ReduceOp::Sum => Some(spread),
            ReduceOp::Min | ReduceOp::Max => Some((x.broadcast_eq(y)?.to_dtype(x.dtype())? * spread)?),
            ReduceOp::ArgMin | ReduceOp::ArgMax => None,
        }])
    }
}

impl Operator<1> for Reduce {
    fn infer(&self, [x]: [&Tensor; 1]) -> Result<Spec> {
        let mut dims = x.dims().to_vec();
        for &dim in &self.dims {
            // The extreme of nothing does not exist; the sum of nothing is zero.
            if dims[dim] == 0 && self.op != ReduceOp::Sum {
                return Err(Error::EmptyTensor { op: self.name() }.bt());
            }
            dims[dim] = 1;
        }
        let dtype = match self.op {
            ReduceOp::ArgMin | ReduceOp::ArgMax => DType::U32,
            _ => x.dtype(),
        };
        Ok(Spec { shape: Shape::from(dims), dtype })
    }

    fn launch(&self, [x]: [Operand<'_>; 1]) -> Result<Storage> {
        x.storage.reduce(self.op, x.layout, &self.dims)
    }
}
