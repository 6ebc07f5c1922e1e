//! Element by element: unary and binary functions, comparison, selection, conversion.

use super::cpu;
use super::slope::{BinarySlopes, Slope};
use super::{Operator, Spec, like};
use crate::autograd::{Gradient, wanted};
use crate::{DType, Operand, Result, Storage, Tensor};
use candle_core::op::CmpOp;
use std::marker::PhantomData;

/// `B` of every element.
pub(crate) struct Unary<B>(pub PhantomData<fn() -> B>);

impl<B> Clone for Unary<B> {
    fn clone(&self) -> Self {
        Self(PhantomData)
    }
}

impl<B: Slope> Gradient<1> for Unary<B> {
    fn name(&self) -> &'static str {
        B::NAME
    }

    fn backward(&self, [x]: [&Tensor; 1], y: &Tensor, grad: &Tensor) -> Result<[Option<Tensor>; 1]> {
        Ok([B::backward(x, y, grad)?])
    }
}

impl<B: Slope> Operator<1> for Unary<B> {
    fn infer(&self, [x]: [&Tensor; 1]) -> Result<Spec> {
        Ok(like(x))
    }

    fn launch(&self, [x]: [Operand<'_>; 1]) -> Result<Storage> {
        x.storage.unary::<B>(x.layout)
    }
}

/// `mul * x + add`, in the type of `x`.
#[derive(Clone)]
pub(crate) struct Affine {
    pub mul: f64,
    pub add: f64,
}

impl Gradient<1> for Affine {
    fn name(&self) -> &'static str {
        "affine"
    }

    fn backward(&self, _: [&Tensor; 1], _: &Tensor, grad: &Tensor) -> Result<[Option<Tensor>; 1]> {
        Ok([match self.mul {
            0. => None,
            1. => Some(grad.clone()),
            mul => Some(grad.affine(mul, 0.)?),
        }])
    }
}

impl Operator<1> for Affine {
    fn infer(&self, [x]: [&Tensor; 1]) -> Result<Spec> {
        Ok(like(x))
    }

    fn launch(&self, [x]: [Operand<'_>; 1]) -> Result<Storage> {
        x.storage.affine(x.layout, self.mul, self.add)
    }
}

/// `x` to the power of a constant.
#[derive(Clone)]
pub(crate) struct Powf(pub f64);

impl Gradient<1> for Powf {
    fn name(&self) -> &'static str {
        "powf"
    }

    fn backward(&self, [x]: [&Tensor; 1], _: &Tensor, grad: &Tensor) -> Result<[Option<Tensor>; 1]> {
        Ok([Some((grad * x.powf(self.0 - 1.)?)?.affine(self.0, 0.)?)])
    }
}

impl Operator<1> for Powf {
    fn infer(&self, [x]: [&Tensor; 1]) -> Result<Spec> {
        Ok(like(x))
    }

    fn launch(&self, [x]: [Operand<'_>; 1]) -> Result<Storage> {
        x.storage.powf(x.layout, self.0)
    }
}

/// `x` where positive, else `alpha * (exp(x) - 1)`.
#[derive(Clone)]
pub(crate) struct Elu(pub f64);

impl Gradient<1> for Elu {
    fn name(&self) -> &'static str {
        "elu"
    }

    /// One where positive, else `alpha * exp(x)`, which is the result plus `alpha`.
    fn backward(&self, [x]: [&Tensor; 1], y: &Tensor, grad: &Tensor) -> Result<[Option<Tensor>; 1]> {
        let slope = x.gt(&x.zeros_like()?)?.where_cond(&x.ones_like()?, &y.affine(1., self.0)?)?;
        Ok([Some((grad * slope)?)])
    }
}

impl Operator<1> for Elu {
    fn infer(&self, [x]: [&Tensor; 1]) -> Result<Spec> {
        Ok(like(x))
    }

    fn launch(&self, [x]: [Operand<'_>; 1]) -> Result<Storage> {
        x.storage.elu(x.layout, self.0)
    }
}

/// Conversion to another element type.
#[derive(Clone)]
pub(crate) struct Cast(pub DType);

impl Gradient<1> for Cast {
    fn name(&self) -> &'static str {
        "to_dtype"
    }

    fn backward(&self, [x]: [&Tensor; 1], _: &Tensor, grad: &Tensor) -> Result<[Option<Tensor>; 1]> {
        Ok([if x.dtype().is_float() { Some(grad.to_dtype(x.dtype())?) } else { None }])
    }
}

impl Operator<1> for Cast {
    fn infer(&self, [x]: [&Tensor; 1]) -> Result<Spec> {
        Ok(Spec { shape: x.shape().clone(), dtype: self.0 })
    }

    fn launch(&self, [x]: [Operand<'_>; 1]) -> Result<Storage> {
        x.storage.to_dtype(x.layout, self.0)
    }
}

/// `B` of two elements; both operands have one shape and one type.
pub(crate) struct Binary<B>(pub &'static str, pub PhantomData<fn() -> B>);

impl<B> Clone for Binary<B> {
    fn clone(&self) -> Self {
        Self(self.0, PhantomData)
    }
}

impl<B: BinarySlopes> Gradient<2> for Binary<B> {
    fn name(&self) -> &'static str {
        self.0
    }

    fn backward(&self, [lhs, rhs]: [&Tensor; 2], result: &Tensor, grad: &Tensor) -> Result<[Option<Tensor>; 2]> {
        Ok([wanted(lhs, || B::of_lhs(lhs, rhs, result, grad))?, wanted(rhs, || B::of_rhs(lhs, rhs, result, grad))?])
    }
}

impl<B: BinarySlopes> Operator<2> for Binary<B> {
    fn infer(&self, [lhs, rhs]: [&Tensor; 2]) -> Result<Spec> {
        lhs.same_shape(rhs, self.0)?;
        lhs.same_dtype(rhs, self.0)?;
        Ok(like(lhs))
    }

    fn launch(&self, [lhs, rhs]: [Operand<'_>; 2]) -> Result<Storage> {
        if self.0 == "add"
            && let Some(sum) = cpu::add_halves(lhs, rhs)?
        {
            return Ok(sum);
        }
        lhs.binary::<B>(rhs)
    }
}

/// A comparison; one (U8) where it holds, else zero.
#[derive(Clone)]
pub(crate) struct Compare(pub CmpOp);

impl Gradient<2> for Compare {
    fn name(&self) -> &'static str {
        "cmp"
    }

    fn backward(&self, _: [&Tensor; 2], _: &Tensor, _: &Tensor) -> Result<[Option<Tensor>; 2]> {
        Ok([None, None])
    }
}

impl Operator<2> for Compare {
    fn infer(&self, [lhs, rhs]: [&Tensor; 2]) -> Result<Spec> {
        let name = match self.0 {
            CmpOp::Eq => "eq",
            CmpOp::Ne => "ne",
            CmpOp::Lt => "lt",
            CmpOp::Le => "le",
            CmpOp::Gt => "gt",
            CmpOp::Ge => "ge",
        };
        let shape = lhs.same_shape(rhs, name)?.clone();
        lhs.same_dtype(rhs, "cmp")?;
        Ok(Spec { shape, dtype: DType::U8 })
    }

    fn launch(&self, [lhs, rhs]: [Operand<'_>; 2]) -> Result<Storage> {
        lhs.cmp(self.0, rhs)
    }
}

/// The second operand where the first (an integer) is not zero, else the third.
#[derive(Clone)]
pub(crate) struct WhereCond;

impl Gradient<3> for WhereCond {
    fn name(&self) -> &'static str {
        "where_cond"
    }

    fn backward(
        &self,
        [condition, on_true, on_false]: [&Tensor; 3],
        _: &Tensor,
        grad: &Tensor,
    ) -> Result<[Option<Tensor>; 3]> {
        let zeros = grad.zeros_like()?;
        Ok([
            None,
            wanted(on_true, || condition.where_cond(grad, &zeros))?,
            wanted(on_false, || condition.where_cond(&zeros, grad))?,
        ])
    }
}

impl Operator<3> for WhereCond {
    fn infer(&self, [condition, on_true, on_false]: [&Tensor; 3]) -> Result<Spec> {
        condition.same_shape(on_true, "where_cond")?;
        condition.same_shape(on_false, "where_cond")?;
        on_true.same_dtype(on_false, "where")?;
        Ok(like(on_true))
    }

    fn launch(&self, [condition, on_true, on_false]: [Operand<'_>; 3]) -> Result<Storage> {
        condition.where_cond(on_true, on_false)
    }
}
