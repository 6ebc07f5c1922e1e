//! Reductions along dimensions and over everything.

use super::Tensor;
use crate::ops::{self, Reduce};
use crate::shape::{Dim, Dims};
use crate::{Result, Shape};
use candle_core::op::ReduceOp;

macro_rules! along_one {
    ($($(#[$doc:meta])* $method:ident / $keepdim:ident = $op:ident;)*) => { impl Tensor { $(
        $(#[$doc])*
        pub fn $method<D: Dim>(&self, dim: D) -> Result<Self> {
            let dim = dim.to_index(self.shape(), stringify!($method))?;
            self.reduce(ReduceOp::$op, vec![dim])?.without(&[dim])
        }

        #[doc = concat!("As [`Tensor::", stringify!($method), "`]; the dimension stays, with size one.")]
        pub fn $keepdim<D: Dim>(&self, dim: D) -> Result<Self> {
            let dim = dim.to_index(self.shape(), stringify!($method))?;
            self.reduce(ReduceOp::$op, vec![dim])
        }
    )* } };
}

along_one! {
    /// Largest element along `dim`.
    max / max_keepdim = Max;
    /// Smallest element along `dim`.
    min / min_keepdim = Min;
    /// Index (U32) of the largest element along `dim`, the first of equals.
    argmax / argmax_keepdim = ArgMax;
    /// Index (U32) of the smallest element along `dim`, the first of equals.
    argmin / argmin_keepdim = ArgMin;
}

impl Tensor {
    fn reduce(&self, op: ReduceOp, dims: Vec<usize>) -> Result<Self> {
        if dims.is_empty() {
            return Ok(self.clone());
        }
        ops::apply(&Reduce { op, dims }, [self])
    }

    /// Without the dimensions `dims`, whose size is one.
    fn without(&self, dims: &[usize]) -> Result<Self> {
        let kept: Vec<usize> = (0..self.rank()).filter(|i| !dims.contains(i)).map(|i| self.dims()[i]).collect();
        self.reshape(Shape::from(kept))
    }

    /// Sum along `dims`, which stay with size one.
    pub fn sum_keepdim<D: Dims>(&self, dims: D) -> Result<Self> {
        self.reduce(ReduceOp::Sum, self.dim_indexes(dims, "sum-keepdim")?)
    }

    /// Sum along `dims`.
    pub fn sum<D: Dims>(&self, dims: D) -> Result<Self> {
        let dims = self.dim_indexes(dims, "sum")?;
        self.reduce(ReduceOp::Sum, dims.clone())?.without(&dims)
    }

    /// Mean along `dims`, which stay with size one.
    pub fn mean_keepdim<D: Dims>(&self, dims: D) -> Result<Self> {
        let dims = self.dim_indexes(dims, "mean-keepdim")?;
        let count: usize = dims.iter().map(|&dim| self.dims()[dim]).product();
        self.reduce(ReduceOp::Sum, dims)? * (1. / count as f64)
    }

    /// Mean along `dims`.
    pub fn mean<D: Dims>(&self, dims: D) -> Result<Self> {
        let dims = self.dim_indexes(dims, "mean")?;
        self.mean_keepdim(dims.as_slice())?.without(&dims)
    }

    /// Unbiased variance along `dim`, which stays with size one.
    pub fn var_keepdim<D: Dim>(&self, dim: D) -> Result<Self> {
        let dim = dim.to_index(self.shape(), "var")?;
        let deviation = self.broadcast_sub(&self.mean_keepdim(dim)?)?;
        deviation.sqr()?.sum_keepdim(dim)? / (self.dims()[dim] as f64 - 1.)
    }

    /// Unbiased variance along `dim`.
    pub fn var<D: Dim>(&self, dim: D) -> Result<Self> {
        let dim = dim.to_index(self.shape(), "var")?;
        self.var_keepdim(dim)?.squeeze(dim)
    }

    /// Logarithm of the sum of exponentials along `dims`, shifted by the maximum so that it does not overflow.
    pub fn log_sum_exp<D: Dims>(&self, dims: D) -> Result<Self> {
        let dims = self.dim_indexes(dims, "log-sum-exp")?;
        let mut max = self.clone();
        for &dim in &dims {
            max = max.max_keepdim(dim)?;
        }
        let sum = self.broadcast_sub(&max)?.exp()?.sum(dims.as_slice())?;
        sum.log()? + max.without(&dims)?
    }

    /// Sum of all elements, as a rank-0 tensor.
    pub fn sum_all(&self) -> Result<Self> {
        let dims: Vec<usize> = (0..self.rank()).collect();
        self.sum(dims)
    }

    /// Mean of all elements, as a rank-0 tensor.
    pub fn mean_all(&self) -> Result<Self> {
        self.sum_all()? / self.elem_count() as f64
    }

    /// Largest of all elements, as a rank-0 tensor.
    pub fn max_all(&self) -> Result<Self> {
        if self.rank() == 0 { Ok(self.clone()) } else { self.flatten_all()?.max(0) }
    }

    /// Smallest of all elements, as a rank-0 tensor.
    pub fn min_all(&self) -> Result<Self> {
        if self.rank() == 0 { Ok(self.clone()) } else { self.flatten_all()?.min(0) }
    }
}
