//! `+ - * /` between tensors, results of tensors and `f64`.

use super::Tensor;
use crate::{Error, Result};
use std::borrow::Borrow;
use std::ops::{Add, Div, Mul, Sub};

macro_rules! between_tensors {
    ($($trait:ident :: $method:ident, $scale:expr, $shift:expr;)*) => { $(
        impl<B: Borrow<Tensor>> $trait<B> for Tensor {
            type Output = Result<Tensor>;
            fn $method(self, rhs: B) -> Self::Output {
                Tensor::$method(&self, rhs.borrow())
            }
        }

        impl<B: Borrow<Tensor>> $trait<B> for &Tensor {
            type Output = Result<Tensor>;
            fn $method(self, rhs: B) -> Self::Output {
                Tensor::$method(self, rhs.borrow())
            }
        }

        impl<B: Borrow<Tensor>> $trait<Tensor> for std::result::Result<B, Error> {
            type Output = Result<Tensor>;
            fn $method(self, rhs: Tensor) -> Self::Output {
                Tensor::$method(self?.borrow(), &rhs)
            }
        }

        impl<B: Borrow<Tensor>> $trait<&Tensor> for std::result::Result<B, Error> {
            type Output = Result<Tensor>;
            fn $method(self, rhs: &Tensor) -> Self::Output {
                Tensor::$method(self?.borrow(), rhs)
            }
        }

        impl<B: Borrow<Tensor>> $trait<std::result::Result<B, Error>> for Tensor {
            type Output = Result<Tensor>;
            fn $method(self, rhs: std::result::Result<B, Error>) -> Self::Output {
                Tensor::$method(&self, rhs?.borrow())
            }
        }

        impl<B: Borrow<Tensor>> $trait<std::result::Result<B, Error>> for &Tensor {
            type Output = Result<Tensor>;
            fn $method(self, rhs: std::result::Result<B, Error>) -> Self::Output {
                Tensor::$method(self, rhs?.borrow())
            }
        }

        impl $trait<f64> for Tensor {
            type Output = Result<Tensor>;
            fn $method(self, rhs: f64) -> Self::Output {
                self.affine($scale(rhs), $shift(rhs))
            }
        }

        impl $trait<f64> for &Tensor {
            type Output = Result<Tensor>;
            fn $method(self, rhs: f64) -> Self::Output {
                self.affine($scale(rhs), $shift(rhs))
            }
        }

        impl $trait<Tensor> for f64 {
            type Output = Result<Tensor>;
            fn $method(self, rhs: Tensor) -> Self::Output {
                self.$method(&rhs)
            }
        }
    )* };
}

between_tensors! {
    Add::add, |_| 1., |v: f64| v;
    Sub::sub, |_| 1., |v: f64| -v;
    Mul::mul, |v: f64| v, |_| 0.;
    Div::div, |v: f64| 1. / v, |_| 0.;
}

impl Add<&Tensor> for f64 {
    type Output = Result<Tensor>;
    fn add(self, rhs: &Tensor) -> Self::Output {
        rhs.affine(1., self)
    }
}

impl Sub<&Tensor> for f64 {
    type Output = Result<Tensor>;
    fn sub(self, rhs: &Tensor) -> Self::Output {
        rhs.affine(-1., self)
    }
}

impl Mul<&Tensor> for f64 {
    type Output = Result<Tensor>;
    fn mul(self, rhs: &Tensor) -> Self::Output {
        rhs.affine(self, 0.)
    }
}

impl Div<&Tensor> for f64 {
    type Output = Result<Tensor>;
    // Taking the reciprocal first rounds twice in the tensor's type, as candle does.
    #[allow(clippy::suspicious_arithmetic_impl)]
    fn div(self, rhs: &Tensor) -> Self::Output {
        rhs.recip()? * self
    }
}
