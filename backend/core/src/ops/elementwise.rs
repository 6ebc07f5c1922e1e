//! Element by element: unary and binary functions, comparison, selection, conversion.

use super::{Operator, Spec, like};
use crate::{DType, Operand, Result, Storage, Tensor};
use candle_core::op::{BinaryOpT, CmpOp, UnaryOpT};
use std::marker::PhantomData;

/// `B` of every element.
pub(crate) struct Unary<B>(pub PhantomData<B>);

impl<B: UnaryOpT> Operator<1> for Unary<B> {
    fn infer(&self, [x]: [&Tensor; 1]) -> Result<Spec> {
        Ok(like(x))
    }

    fn launch(&self, [x]: [Operand<'_>; 1]) -> Result<Storage> {
        x.storage.unary::<B>(x.layout)
    }
}

/// `mul * x + add`, in the type of `x`.
pub(crate) struct Affine {
    pub mul: f64,
    pub add: f64,
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
pub(crate) struct Powf(pub f64);

impl Operator<1> for Powf {
    fn infer(&self, [x]: [&Tensor; 1]) -> Result<Spec> {
        Ok(like(x))
    }

    fn launch(&self, [x]: [Operand<'_>; 1]) -> Result<Storage> {
        x.storage.powf(x.layout, self.0)
    }
}

/// `x` where positive, else `alpha * (exp(x) - 1)`.
pub(crate) struct Elu(pub f64);

impl Operator<1> for Elu {
    fn infer(&self, [x]: [&Tensor; 1]) -> Result<Spec> {
        Ok(like(x))
    }

    fn launch(&self, [x]: [Operand<'_>; 1]) -> Result<Storage> {
        x.storage.elu(x.layout, self.0)
    }
}

/// Conversion to another element type.
pub(crate) struct Cast(pub DType);

impl Operator<1> for Cast {
    fn infer(&self, [x]: [&Tensor; 1]) -> Result<Spec> {
        Ok(Spec { shape: x.shape().clone(), dtype: self.0 })
    }

    fn launch(&self, [x]: [Operand<'_>; 1]) -> Result<Storage> {
        x.storage.to_dtype(x.layout, self.0)
    }
}

/// `B` of two elements; both operands have one shape and one type.
pub(crate) struct Binary<B>(pub &'static str, pub PhantomData<B>);

impl<B: BinaryOpT> Operator<2> for Binary<B> {
    fn infer(&self, [lhs, rhs]: [&Tensor; 2]) -> Result<Spec> {
        lhs.same_shape(rhs, self.0)?;
        lhs.same_dtype(rhs, self.0)?;
        Ok(like(lhs))
    }

    fn launch(&self, [lhs, rhs]: [Operand<'_>; 2]) -> Result<Storage> {
        lhs.binary::<B>(rhs)
    }
}

/// A comparison; one (U8) where it holds, else zero.
pub(crate) struct Compare(pub CmpOp);

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
pub(crate) struct WhereCond;

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
