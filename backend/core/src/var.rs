//! Variables: tensors whose value can be replaced.

use crate::{DType, Device, Error, FloatDType, NdArray, Result, Shape, Tensor, WithDType};
use std::fmt;
use std::ops::Deref;

/// A tensor that owns its elements and can be set in place, such as a trained weight.
#[derive(Clone, Debug)]
pub struct Var(Tensor);

impl fmt::Display for Var {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl Deref for Var {
    type Target = Tensor;

    fn deref(&self) -> &Tensor {
        &self.0
    }
}

impl Var {
    /// A variable with a copy of the elements of `tensor`; the same variable if it is one already.
    pub fn from_tensor(tensor: &Tensor) -> Result<Self> {
        if tensor.is_variable() { Ok(Self(tensor.clone())) } else { Ok(Self(tensor.make_var()?)) }
    }

    pub fn zeros<S: Into<Shape>>(shape: S, dtype: DType, device: &Device) -> Result<Self> {
        Self::from_tensor(&Tensor::zeros(shape, dtype, device)?)
    }

    pub fn ones<S: Into<Shape>>(shape: S, dtype: DType, device: &Device) -> Result<Self> {
        Self::from_tensor(&Tensor::ones(shape, dtype, device)?)
    }

    /// Uniform in `[lo, up)`.
    pub fn rand_f64<S: Into<Shape>>(lo: f64, up: f64, shape: S, dtype: DType, device: &Device) -> Result<Self> {
        Self::from_tensor(&Tensor::rand_f64(lo, up, shape, dtype, device)?)
    }

    /// Normal with the given mean and standard deviation.
    pub fn randn_f64<S: Into<Shape>>(mean: f64, std: f64, shape: S, dtype: DType, device: &Device) -> Result<Self> {
        Self::from_tensor(&Tensor::randn_f64(mean, std, shape, dtype, device)?)
    }

    /// Uniform in `[lo, up)`.
    pub fn rand<S: Into<Shape>, T: FloatDType>(lo: T, up: T, shape: S, device: &Device) -> Result<Self> {
        Self::from_tensor(&Tensor::rand(lo, up, shape, device)?)
    }

    /// Normal with the given mean and standard deviation.
    pub fn randn<S: Into<Shape>, T: FloatDType>(mean: T, std: T, shape: S, device: &Device) -> Result<Self> {
        Self::from_tensor(&Tensor::randn(mean, std, shape, device)?)
    }

    /// The elements and shape of a scalar, (nested) array, slice or vector.
    pub fn new<A: NdArray>(array: A, device: &Device) -> Result<Self> {
        Self::from_tensor(&Tensor::new(array, device)?)
    }

    pub fn from_vec<S: Into<Shape>, D: WithDType>(data: Vec<D>, shape: S, device: &Device) -> Result<Self> {
        Self::from_tensor(&Tensor::from_vec(data, shape.into(), device)?)
    }

    pub fn from_slice<S: Into<Shape>, D: WithDType>(data: &[D], shape: S, device: &Device) -> Result<Self> {
        Self::from_tensor(&Tensor::from_slice(data, shape.into(), device)?)
    }

    /// The current elements, outside of any gradient.
    pub fn as_detached_tensor(&self) -> Tensor {
        self.0.detach()
    }

    pub fn as_tensor(&self) -> &Tensor {
        &self.0
    }

    pub fn into_inner(self) -> Tensor {
        self.0
    }

    /// Replaces the elements by those of `source`, of the same shape and type and in other storage.
    pub fn set(&self, source: &Tensor) -> Result<()> {
        if self.same_storage(source) {
            let msg = "cannot set a variable to a tensor that is derived from its value";
            return Err(Error::CannotSetVar { msg }.bt());
        }
        if !self.is_contiguous() {
            return Err(Error::CannotSetVar { msg: "cannot set a non-contiguous variable" }.bt());
        }
        self.0.same_shape(source, "set")?;
        self.0.same_dtype(source, "set")?;
        let offset = self.layout().start_offset();
        source.storage().copy_strided(&mut self.0.storage_mut(), offset, source.layout())
    }
}
