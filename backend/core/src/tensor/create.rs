//! New tensors.

use super::Tensor;
use crate::scalar::Scalar;
use crate::shape::ShapeWithOneHole;
use crate::{DType, Device, Error, FloatDType, NdArray, Result, Shape, Storage, WithDType, bail};

impl Device {
    /// Storage whose elements are about to be overwritten: zeros, except on NPUs, where clearing is a launch of its own.
    pub(crate) fn alloc(&self, shape: &Shape, dtype: DType) -> Result<Storage> {
        match self {
            Self::Npu(device) => Ok(Storage::Npu(device.uninit(dtype, shape.elem_count())?)),
            Self::Cpu | Self::Cuda(_) => self.zeros(shape, dtype),
        }
    }
}

impl Tensor {
    /// All elements zero.
    pub fn zeros<S: Into<Shape>>(shape: S, dtype: DType, device: &Device) -> Result<Self> {
        let shape = shape.into();
        Ok(Self::from_storage(device.zeros(&shape, dtype)?, shape))
    }

    /// All elements one.
    pub fn ones<S: Into<Shape>>(shape: S, dtype: DType, device: &Device) -> Result<Self> {
        Self::filled(Scalar::one(dtype), shape.into(), device)
    }

    /// Zeros of the same shape, type and device.
    pub fn zeros_like(&self) -> Result<Self> {
        Self::zeros(self.shape(), self.dtype(), self.device())
    }

    /// Ones of the same shape, type and device.
    pub fn ones_like(&self) -> Result<Self> {
        Self::ones(self.shape(), self.dtype(), self.device())
    }

    /// A tensor whose elements are to be written. They are zero: reading them early is wrong but never undefined.
    pub fn empty<S: Into<Shape>>(shape: S, dtype: DType, device: &Device) -> Result<Self> {
        Self::zeros(shape, dtype, device)
    }

    /// As [`Tensor::empty`], with the shape, type and device of `self`.
    pub fn empty_like(&self) -> Result<Self> {
        self.zeros_like()
    }

    /// All elements `value`.
    pub fn full<D: WithDType, S: Into<Shape>>(value: D, shape: S, device: &Device) -> Result<Self> {
        Self::filled(value.to_scalar(), shape.into(), device)
    }

    fn filled(value: Scalar, shape: Shape, device: &Device) -> Result<Self> {
        let tensor = Self::from_storage(device.alloc(&shape, value.dtype())?, shape);
        if tensor.elem_count() > 0 {
            tensor.const_set(value)?;
        }
        Ok(tensor)
    }

    /// Sets every element that this view selects, in place.
    pub fn const_set(&self, value: Scalar) -> Result<()> {
        self.storage_mut().const_set(value, self.layout())
    }

    /// Sets every element to zero, in place.
    pub fn zero_set(&self) -> Result<()> {
        self.const_set(Scalar::zero(self.dtype()))
    }

    /// Sets every element to one, in place.
    pub fn one_set(&self) -> Result<()> {
        self.const_set(Scalar::one(self.dtype()))
    }

    /// The elements and shape of a scalar, (nested) array, slice or vector.
    pub fn new<A: NdArray>(array: A, device: &Device) -> Result<Self> {
        let shape = array.shape()?;
        Ok(Self::from_storage(device.storage_from_cpu(array.to_cpu_storage())?, shape))
    }

    /// The elements of `data` in row-major order; moved when `device` is the CPU.
    pub fn from_vec<S: ShapeWithOneHole, D: WithDType>(data: Vec<D>, shape: S, device: &Device) -> Result<Self> {
        let shape = shape.into_shape(data.len())?;
        Ok(Self::from_storage(device.storage_from_cpu(D::to_cpu_storage_owned(data))?, shape))
    }

    /// The elements of `data` in row-major order.
    pub fn from_slice<S: ShapeWithOneHole, D: WithDType>(data: &[D], shape: S, device: &Device) -> Result<Self> {
        let shape = shape.into_shape(data.len())?;
        Ok(Self::from_storage(device.storage_from_slice(data)?, shape))
    }

    /// A rank-1 tensor of what the iterator yields.
    pub fn from_iter<D: WithDType>(iter: impl IntoIterator<Item = D>, device: &Device) -> Result<Self> {
        let data: Vec<D> = iter.into_iter().collect();
        let count = data.len();
        Self::from_vec(data, count, device)
    }

    /// `start`, `start + 1`, … below `end`.
    pub fn arange<D: WithDType>(start: D, end: D, device: &Device) -> Result<Self> {
        Self::arange_step(start, end, D::one(), device)
    }

    /// `start`, `start + step`, … short of `end`; `step` may be negative.
    pub fn arange_step<D: WithDType>(start: D, end: D, step: D, device: &Device) -> Result<Self> {
        if step.is_zero() {
            bail!("step cannot be zero")
        }
        let upwards = step >= D::zero();
        let mut data = Vec::new();
        let mut current = start;
        while if upwards { current < end } else { current > end } {
            data.push(current);
            current += step;
        }
        Self::from_iter(data, device)
    }

    /// Uniform in `[lo, up)`.
    pub fn rand<S: Into<Shape>, T: FloatDType>(lo: T, up: T, shape: S, device: &Device) -> Result<Self> {
        Self::rand_f64(lo.to_f64(), up.to_f64(), shape, T::DTYPE, device)
    }

    /// Normal with the given mean and standard deviation.
    pub fn randn<S: Into<Shape>, T: FloatDType>(mean: T, std: T, shape: S, device: &Device) -> Result<Self> {
        Self::randn_f64(mean.to_f64(), std.to_f64(), shape, T::DTYPE, device)
    }

    pub(crate) fn rand_f64<S: Into<Shape>>(lo: f64, up: f64, shape: S, dtype: DType, device: &Device) -> Result<Self> {
        let shape = shape.into();
        Ok(Self::from_storage(device.rand_uniform(&shape, dtype, lo, up)?, shape))
    }

    pub(crate) fn randn_f64<S: Into<Shape>>(
        mean: f64,
        std: f64,
        shape: S,
        dtype: DType,
        device: &Device,
    ) -> Result<Self> {
        let shape = shape.into();
        Ok(Self::from_storage(device.rand_normal(&shape, dtype, mean, std)?, shape))
    }

    /// Uniform in `[lo, up)`, with the shape, type and device of `self`.
    pub fn rand_like(&self, lo: f64, up: f64) -> Result<Self> {
        Self::rand_f64(lo, up, self.shape(), self.dtype(), self.device())
    }

    /// Normal, with the shape, type and device of `self`.
    pub fn randn_like(&self, mean: f64, std: f64) -> Result<Self> {
        Self::randn_f64(mean, std, self.shape(), self.dtype(), self.device())
    }

    /// The identity matrix `[n, n]`.
    pub fn eye(n: usize, dtype: DType, device: &Device) -> Result<Self> {
        Self::index_mask(n, device, |column, row| column.eq(row))?.to_dtype(dtype)
    }

    /// Ones on and below the diagonal of `[n, n]`, zeros above.
    pub fn tril2(n: usize, dtype: DType, device: &Device) -> Result<Self> {
        Self::index_mask(n, device, |column, row| column.le(row))?.to_dtype(dtype)
    }

    /// Ones on and above the diagonal of `[n, n]`, zeros below.
    pub fn triu2(n: usize, dtype: DType, device: &Device) -> Result<Self> {
        Self::index_mask(n, device, |column, row| column.ge(row))?.to_dtype(dtype)
    }

    /// A `[n, n]` mask of a comparison between column and row index. I64 because NPUs do not compare U32.
    fn index_mask(n: usize, device: &Device, compare: impl Fn(&Self, &Self) -> Result<Self>) -> Result<Self> {
        let index = Self::arange(0i64, n as i64, device)?;
        let column = index.reshape((1, n))?.broadcast_as((n, n))?;
        let row = index.reshape((n, 1))?.broadcast_as((n, n))?;
        compare(&column, &row)
    }

    /// Coordinate grids of rank-1 tensors; with `xy_indexing` the first two run as x and y do.
    pub fn meshgrid<A: AsRef<Tensor>>(args: &[A], xy_indexing: bool) -> Result<Vec<Self>> {
        if args.len() < 2 {
            return Err(Error::OpRequiresAtLeastTwoTensors { op: "meshgrid" }.bt());
        }
        let mut args: Vec<&Tensor> = args.iter().map(AsRef::as_ref).collect();
        if xy_indexing {
            args.reverse();
        }
        let shape = args.iter().map(|arg| arg.dims1()).collect::<Result<Vec<_>>>()?;
        let mut grids = Vec::with_capacity(args.len());
        for (axis, arg) in args.iter().enumerate() {
            let mut own = vec![1; shape.len()];
            own[axis] = shape[axis];
            grids.push(arg.reshape(own)?.broadcast_as(shape.as_slice())?);
        }
        if xy_indexing {
            grids.reverse();
        }
        Ok(grids)
    }
}
