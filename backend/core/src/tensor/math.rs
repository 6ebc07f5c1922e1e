//! Elementwise methods.

use super::Tensor;
use crate::ops::{self, Affine, Binary, Cast, Compare, Elu, Powf, Unary, WhereCond};
use crate::{DType, Device, Result, WithDType};
use candle_core::op::{self, CmpOp};
use std::marker::PhantomData;

/// Right-hand side of an operator that takes a tensor or a number.
pub enum TensorScalar {
    Tensor(Tensor),
    /// A rank-0 tensor on the CPU.
    Scalar(Tensor),
}

/// What can stand on the right of [`Tensor::maximum`], [`Tensor::eq`] and the like.
pub trait TensorOrScalar {
    fn to_tensor_scalar(self) -> Result<TensorScalar>;
}

impl TensorOrScalar for &Tensor {
    fn to_tensor_scalar(self) -> Result<TensorScalar> {
        Ok(TensorScalar::Tensor(self.clone()))
    }
}

impl<T: WithDType> TensorOrScalar for T {
    fn to_tensor_scalar(self) -> Result<TensorScalar> {
        Ok(TensorScalar::Scalar(Tensor::new(self, &Device::Cpu)?))
    }
}

macro_rules! unary {
    ($($(#[$doc:meta])* $method:ident = $op:ident;)*) => { impl Tensor { $(
        $(#[$doc])*
        pub fn $method(&self) -> Result<Self> {
            ops::apply(&Unary::<op::$op>(PhantomData), [self])
        }
    )* } };
}

unary! {
    /// `1 / x`.
    recip = Recip;
    /// `-x`.
    neg = Neg;
    exp = Exp;
    /// Natural logarithm.
    log = Log;
    sin = Sin;
    cos = Cos;
    tanh = Tanh;
    abs = Abs;
    /// `x * x`.
    sqr = Sqr;
    sqrt = Sqrt;
    /// GELU in its tanh approximation.
    gelu = Gelu;
    /// GELU by the error function.
    gelu_erf = GeluErf;
    erf = Erf;
    relu = Relu;
    /// `x * sigmoid(x)`.
    silu = Silu;
    ceil = Ceil;
    floor = Floor;
    /// To the nearest integer, halves away from zero.
    round = Round;
    /// −1, 0 or 1.
    sign = Sign;
}

macro_rules! binary {
    ($($method:ident / $broadcast:ident = $op:ident;)*) => { impl Tensor { $(
        #[doc = concat!("Elementwise `", stringify!($method), "` of tensors of one shape.")]
        pub fn $method(&self, rhs: &Self) -> Result<Self> {
            ops::apply(&Binary::<op::$op>(stringify!($method), PhantomData), [self, rhs])
        }

        #[doc = concat!("As [`Tensor::", stringify!($method), "`], each operand repeated to the common shape.")]
        pub fn $broadcast(&self, rhs: &Self) -> Result<Self> {
            let (lhs, rhs) = self.broadcast_pair(rhs, stringify!($broadcast))?;
            lhs.$method(&rhs)
        }
    )* } };
}

binary! {
    add / broadcast_add = Add;
    sub / broadcast_sub = Sub;
    mul / broadcast_mul = Mul;
    div / broadcast_div = Div;
}

macro_rules! extreme {
    ($($method:ident / $broadcast:ident = $op:ident;)*) => { impl Tensor { $(
        #[doc = concat!("Elementwise `", stringify!($method), "` with a tensor of the same shape or a number.")]
        pub fn $method<T: TensorOrScalar>(&self, rhs: T) -> Result<Self> {
            let rhs = self.operand(rhs)?;
            ops::apply(&Binary::<op::$op>(stringify!($method), PhantomData), [self, &rhs])
        }

        #[doc = concat!("As [`Tensor::", stringify!($method), "`], each operand repeated to the common shape.")]
        pub fn $broadcast(&self, rhs: &Self) -> Result<Self> {
            let (lhs, rhs) = self.broadcast_pair(rhs, stringify!($broadcast))?;
            lhs.$method(&rhs)
        }
    )* } };
}

extreme! {
    maximum / broadcast_maximum = Maximum;
    minimum / broadcast_minimum = Minimum;
}

macro_rules! compare {
    ($($method:ident / $broadcast:ident = $op:ident;)*) => { impl Tensor { $(
        #[doc = concat!("One (U8) where `", stringify!($method), "` holds, else zero.")]
        pub fn $method<T: TensorOrScalar>(&self, rhs: T) -> Result<Self> {
            self.cmp(rhs, CmpOp::$op)
        }

        #[doc = concat!("As [`Tensor::", stringify!($method), "`], each operand repeated to the common shape.")]
        pub fn $broadcast(&self, rhs: &Self) -> Result<Self> {
            let (lhs, rhs) = self.broadcast_pair(rhs, stringify!($broadcast))?;
            lhs.$method(&rhs)
        }
    )* } };
}

compare! {
    eq / broadcast_eq = Eq;
    ne / broadcast_ne = Ne;
    lt / broadcast_lt = Lt;
    le / broadcast_le = Le;
    gt / broadcast_gt = Gt;
    ge / broadcast_ge = Ge;
}

impl Tensor {
    /// Both operands as views of their common shape.
    fn broadcast_pair(&self, rhs: &Self, op: &'static str) -> Result<(Self, Self)> {
        let shape = self.shape().broadcast_shape_binary_op(rhs.shape(), op)?;
        let view = |x: &Self| if *x.shape() == shape { Ok(x.clone()) } else { x.broadcast_as(&shape) };
        Ok((view(self)?, view(rhs)?))
    }

    /// A tensor as it is; a number as a view of the shape of `self`, in its type and on its device.
    fn operand<T: TensorOrScalar>(&self, rhs: T) -> Result<Self> {
        match rhs.to_tensor_scalar()? {
            TensorScalar::Tensor(rhs) => Ok(rhs),
            TensorScalar::Scalar(rhs) => {
                rhs.to_dtype(self.dtype())?.to_device(self.device())?.broadcast_as(self.shape())
            }
        }
    }

    /// One (U8) where the comparison holds, else zero.
    pub fn cmp<T: TensorOrScalar>(&self, rhs: T, op: CmpOp) -> Result<Self> {
        let rhs = self.operand(rhs)?;
        ops::apply(&Compare(op), [self, &rhs])
    }

    /// `mul * x + add`, computed in the element type.
    pub fn affine(&self, mul: f64, add: f64) -> Result<Self> {
        ops::apply(&Affine { mul, add }, [self])
    }

    /// `x` where positive, else `alpha * (exp(x) - 1)`.
    pub fn elu(&self, alpha: f64) -> Result<Self> {
        ops::apply(&Elu(alpha), [self])
    }

    /// `x` to the power of `exponent`.
    pub fn powf(&self, exponent: f64) -> Result<Self> {
        ops::apply(&Powf(exponent), [self])
    }

    /// `x` to the power of `rhs`, by logarithm: negative bases give NaN.
    pub fn pow(&self, rhs: &Self) -> Result<Self> {
        rhs.mul(&self.log()?)?.exp()
    }

    /// As [`Tensor::pow`], each operand repeated to the common shape.
    pub fn broadcast_pow(&self, rhs: &Self) -> Result<Self> {
        rhs.broadcast_mul(&self.log()?)?.exp()
    }

    /// Limited to `min..=max`, each a tensor or a number.
    pub fn clamp<T1: TensorOrScalar, T2: TensorOrScalar>(&self, min: T1, max: T2) -> Result<Self> {
        self.maximum(min)?.minimum(max)
    }

    /// Rounded to `decimals` decimals; a negative count rounds to tens, hundreds, ….
    pub fn round_to(&self, decimals: i32) -> Result<Self> {
        let scale = 10f64.powi(decimals);
        (self * scale)?.round()? * (1. / scale)
    }

    /// `on_true` where this (an integer tensor) is not zero, else `on_false`.
    pub fn where_cond(&self, on_true: &Self, on_false: &Self) -> Result<Self> {
        ops::apply(&WhereCond, [self, on_true, on_false])
    }

    /// The elements converted to another type.
    pub fn to_dtype(&self, dtype: DType) -> Result<Self> {
        if self.dtype() == dtype { Ok(self.clone()) } else { ops::apply(&Cast(dtype), [self]) }
    }

    /// This tensor through a layer.
    pub fn apply<M: crate::Module>(&self, module: &M) -> Result<Self> {
        module.forward(self)
    }

    /// This tensor through a layer that knows whether it is training.
    pub fn apply_t<M: crate::ModuleT>(&self, module: &M, train: bool) -> Result<Self> {
        module.forward_t(self, train)
    }
}
