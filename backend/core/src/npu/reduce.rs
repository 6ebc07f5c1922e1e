//! Reductions.

use super::dtype::{NUMBERS, acl_type, bits_type, require};
use super::storage::NpuStorage;
use crate::acl::{Error, IntArray, launch};
use acl_sys::loader::op;
use candle_core::op::ReduceOp;
use candle_core::{DType, Layout, Result};

impl NpuStorage {
    /// Reduces `dims`; the result has them as 1. Positions (argmin, argmax) are u32.
    pub(super) fn reduce(&self, reduction: ReduceOp, layout: &Layout, dims: &[usize]) -> Result<Self> {
        require("reduce", self.element(), NUMBERS)?;
        let mut out_dims = layout.dims().to_vec();
        for &dim in dims {
            match out_dims.get_mut(dim) {
                Some(size) => *size = 1,
                None => {
                    let why = format!("dimension {dim} of a tensor of shape {:?}", layout.dims());
                    return Err(Error::Arguments { op: "reduce", why }.into());
                }
            }
        }
        if reduction == ReduceOp::Sum {
            return self.sum(layout, dims, &out_dims);
        }
        if layout.shape().elem_count() == 0 {
            return Err(candle_core::Error::EmptyTensor { op: "reduce" }.bt());
        }
        if self.element() == DType::U32 {
            let wide = self.cast(layout, DType::I64)?;
            let result = wide.reduce(reduction, &Layout::contiguous(layout.shape()), dims)?;
            return result.cast(&Layout::contiguous(result.len()), DType::U32);
        }
        match (reduction, dims) {
            (ReduceOp::Min | ReduceOp::Max, _) => self.extreme(reduction, layout, dims, &out_dims),
            (_, &[dim]) => self.position(reduction, layout, dim, &out_dims),
            _ => Err(candle_core::Error::OnlySingleDimension { op: "argmin/argmax", dims: dims.to_vec() }.bt()),
        }
    }

    fn sum(&self, layout: &Layout, dims: &[usize], out_dims: &[usize]) -> Result<Self> {
        if dims.is_empty() || layout.dims().is_empty() {
            return self.compact(layout);
        }
        let count = out_dims.iter().product();
        if layout.shape().elem_count() == 0 {
            use candle_core::backend::BackendDevice;
            return self.npu().zeros_impl(&candle_core::Shape::from(vec![count]), self.element());
        }
        let out = self.npu().uninit(self.element(), count)?;
        let axes = self.axes(dims)?;
        let (x, y) = (self.bits(layout)?, out.shaped_bits(out_dims)?);
        launch::<op::ReduceSum, _>(self.context(), (&x.desc()?, &axes, true, bits_type(self.element())?, &y.desc()?))?;
        Ok(out)
    }

    fn extreme(&self, reduction: ReduceOp, layout: &Layout, dims: &[usize], out_dims: &[usize]) -> Result<Self> {
        if dims.is_empty() || layout.dims().is_empty() {
            return self.compact(layout);
        }
        let out = self.npu().uninit(self.element(), out_dims.iter().product())?;
        let (x, axes, y) = (self.view(layout)?, self.axes(dims)?, out.shaped(out_dims)?);
        match reduction {
            ReduceOp::Min => launch::<op::Amin, _>(self.context(), (&x.desc()?, &axes, true, &y.desc()?))?,
            _ => launch::<op::Amax, _>(self.context(), (&x.desc()?, &axes, true, &y.desc()?))?,
        }
        Ok(out)
    }

    /// First position of the smallest or largest element along `dim`. The operator's INT32 are the bits of u32.
    fn position(&self, reduction: ReduceOp, layout: &Layout, dim: usize, out_dims: &[usize]) -> Result<Self> {
        let out = self.npu().uninit(DType::U32, out_dims.iter().product())?;
        let (x, y, dim) = (self.view(layout)?, out.shaped_bits(out_dims)?, dim as i64);
        match reduction {
            ReduceOp::ArgMin => launch::<op::ArgMin, _>(self.context(), (&x.desc()?, dim, true, &y.desc()?))?,
            _ => launch::<op::ArgMax, _>(self.context(), (&x.desc()?, dim, true, &y.desc()?))?,
        }
        Ok(out)
    }

    fn axes(&self, dims: &[usize]) -> Result<IntArray<'_>> {
        let dims: Vec<i64> = dims.iter().map(|&dim| dim as i64).collect();
        Ok(IntArray::new(self.context(), &dims)?)
    }

    /// Softmax over the last dimension, in the element type (F32, F16, BF16, F64).
    pub fn softmax_last_dim(&self, layout: &Layout) -> Result<Self> {
        require("softmax", self.element(), super::dtype::FLOATS_AND_DOUBLE)?;
        let out = self.npu().uninit(self.element(), layout.shape().elem_count())?;
        if !out.is_empty() {
            let (x, y) = (self.view(layout)?.desc()?, out.shaped(layout.dims())?.desc()?);
            launch::<op::Softmax, _>(self.context(), (&x, -1i64, &y))?;
        }
        Ok(out)
    }

    /// Logarithm of the softmax over the last dimension (F32, F16, BF16).
    pub fn log_softmax_last_dim(&self, layout: &Layout) -> Result<Self> {
        require("log_softmax", self.element(), super::dtype::FLOATS)?;
        let out = self.npu().uninit(self.element(), layout.shape().elem_count())?;
        if !out.is_empty() {
            let (x, y) = (self.view(layout)?.desc()?, out.shaped(layout.dims())?.desc()?);
            launch::<op::LogSoftmax, _>(self.context(), (&x, -1i64, &y))?;
        }
        Ok(out)
    }

    /// Running sums along `dim`.
    pub fn cumsum(&self, layout: &Layout, dim: usize) -> Result<Self> {
        require("cumsum", self.element(), &[DType::F32, DType::F16, DType::BF16, DType::F64, DType::I64, DType::I32])?;
        let out = self.npu().uninit(self.element(), layout.shape().elem_count())?;
        if !out.is_empty() {
            let (x, y) = (self.view(layout)?.desc()?, out.shaped(layout.dims())?.desc()?);
            launch::<op::Cumsum, _>(self.context(), (&x, dim as i64, acl_type(self.element())?, &y))?;
        }
        Ok(out)
    }
}
