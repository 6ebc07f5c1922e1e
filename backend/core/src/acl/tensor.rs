//! The arguments of operators: tensors, scalars, arrays and lists, as owned handles.

use super::context::Context;
use super::{Buffer, Error};
use acl_sys::{
    ACL_BF16, ACL_DOUBLE, ACL_FLOAT, ACL_FLOAT16, ACL_FORMAT_FRACTAL_NZ, ACL_FORMAT_ND, ACL_INT32, ACL_INT64,
    aclDataType, aclIntArray, aclScalar, aclTensor, aclTensorList,
};
use candle_core::Layout;
use std::marker::PhantomData;

/// Most dimensions that aclnn operators take.
pub const MAX_RANK: usize = 8;

/// A strided view of device memory: what a tensor handle is made from. Copying one costs nothing on the device.
#[derive(Clone, Copy, Debug)]
pub struct View<'a> {
    buffer: &'a Buffer,
    dtype: aclDataType,
    /// Bytes of one element.
    width: usize,
    rank: usize,
    dims: [i64; MAX_RANK],
    /// In elements; 0 repeats.
    strides: [i64; MAX_RANK],
    /// Elements before the first.
    offset: usize,
    /// Whether the dimensions are those of a matrix in blocks, as the cube cores read it.
    fractal: bool,
}

impl<'a> View<'a> {
    /// The elements of `buffer`, each `width` bytes of type `dtype`, that `layout` selects.
    pub fn new(buffer: &'a Buffer, dtype: aclDataType, width: usize, layout: &Layout) -> Result<Self, Error> {
        Self::strided(buffer, dtype, width, layout.dims(), layout.stride(), layout.start_offset())
    }

    /// Row-major elements without gaps from element `offset` on.
    pub fn contiguous(
        buffer: &'a Buffer,
        dtype: aclDataType,
        width: usize,
        dims: &[usize],
        offset: usize,
    ) -> Result<Self, Error> {
        let mut strides = [1; MAX_RANK];
        for i in (1..dims.len().min(MAX_RANK)).rev() {
            strides[i - 1] = strides[i] * dims[i];
        }
        Self::strided(buffer, dtype, width, dims, &strides[..dims.len().min(MAX_RANK)], offset)
    }

    /// Any strided view. A scalar becomes one dimension of one element, which every operator takes.
    pub fn strided(
        buffer: &'a Buffer,
        dtype: aclDataType,
        width: usize,
        dims: &[usize],
        strides: &[usize],
        offset: usize,
    ) -> Result<Self, Error> {
        let rank = dims.len();
        if rank > MAX_RANK || strides.len() != rank {
            let why = format!("a view of shape {dims:?}, but operators of the npu take {MAX_RANK} dimensions at most");
            return Err(Error::Arguments { op: "view", why });
        }
        let mut view = Self {
            buffer,
            dtype,
            width,
            rank: rank.max(1),
            dims: [1; MAX_RANK],
            strides: [1; MAX_RANK],
            offset,
            fractal: false,
        };
        let mut last = offset;
        for i in 0..rank {
            view.dims[i] = dims[i] as i64;
            view.strides[i] = strides[i] as i64;
            last += strides[i] * dims[i].saturating_sub(1);
        }
        let empty = dims.contains(&0);
        if !empty && (last + 1) * width > buffer.size() {
            let why = format!(
                "shape {dims:?}, strides {strides:?}, offset {offset} leave a buffer of {} elements",
                buffer.size() / width
            );
            return Err(Error::Arguments { op: "view", why });
        }
        Ok(view)
    }

    pub fn dims(&self) -> &[i64] {
        &self.dims[..self.rank]
    }

    /// Number of elements.
    pub fn count(&self) -> usize {
        self.dims().iter().product::<i64>() as usize
    }

    /// The same bits as another type of the same width.
    pub fn reinterpret(mut self, dtype: aclDataType) -> Self {
        self.dtype = dtype;
        self
    }

    /// Whether dimension `dim` repeats one element.
    pub fn repeats(&self, dim: usize) -> bool {
        self.strides[dim] == 0 && self.dims[dim] > 1
    }

    /// The view with dimension `dim`, which [`Self::repeats`], reduced to the one element; operators broadcast it again.
    pub fn once(mut self, dim: usize) -> Self {
        (self.dims[dim], self.strides[dim]) = (1, 1);
        self
    }

    /// The view without dimensions, for the few operators that ask for a scalar as such.
    pub fn scalar(mut self) -> Self {
        self.rank = 0;
        self
    }

    /// The view, whose shape is `[n/16, k/16, 16, 16]`, as the matrix `[k, n]` in format FRACTAL_NZ.
    pub fn fractal(mut self) -> Self {
        self.fractal = true;
        self
    }

    /// The handle that operators take.
    pub fn desc(&self) -> Result<TensorDesc<'a>, Error> {
        let context = &self.buffer.context;
        context.0.ready()?;
        let (api, rank) = (&context.0.api, self.rank as u64);
        let whole = [(self.buffer.size() / self.width) as i64];
        // Operators know the blocks by the shape of the storage.
        let (format, storage) =
            if self.fractal { (ACL_FORMAT_FRACTAL_NZ, self.dims()) } else { (ACL_FORMAT_ND, &whole[..]) };
        // SAFETY: the arrays hold as many numbers as the call is told and are copied by it; the view lies in the buffer, as
        // the constructor checked, and the handle borrows the buffer.
        let answer = unsafe {
            api.acl.aclCreateTensor(
                self.dims.as_ptr(),
                rank,
                self.dtype,
                self.strides.as_ptr(),
                self.offset as i64,
                format,
                storage.as_ptr(),
                storage.len() as u64,
                self.buffer.pointer(),
            )
        };
        Ok(TensorDesc { raw: api.handle("aclCreateTensor", answer)?, context, buffer: PhantomData })
    }
}

/// A tensor handle. It borrows the memory: the operator that uses it is launched before the memory can return to the
/// pool, and the pool works in the order of the stream.
pub struct TensorDesc<'a> {
    pub(super) raw: *mut aclTensor,
    context: &'a Context,
    buffer: PhantomData<&'a Buffer>,
}

impl TensorDesc<'_> {
    /// The shape as CANN has it now: operators whose results vary in size write it here, once the stream has run them.
    pub fn dims(&self) -> Result<Vec<usize>, Error> {
        let api = &self.context.0.api;
        let (mut dims, mut rank) = (std::ptr::null_mut(), 0);
        // SAFETY: the handle is alive, and the call writes one pointer and one number.
        let answer = unsafe { api.acl.aclGetViewShape(self.raw, &mut dims, &mut rank) };
        api.check("aclGetViewShape", answer)?;
        // SAFETY: the call answered with as many numbers as it said; they stay until they are freed below, once.
        let shape = (0..rank as usize).map(|i| unsafe { *dims.add(i) } as usize).collect();
        // SAFETY: as above; the caller owns the array, which is of plain numbers from the C heap.
        unsafe { libc::free(dims.cast()) };
        Ok(shape)
    }
}

impl Drop for TensorDesc<'_> {
    fn drop(&mut self) {
        let inner = &self.context.0;
        // SAFETY: made by `View::desc`, destroyed once (a list takes it over without dropping it).
        let answer = unsafe { inner.api.acl.aclDestroyTensor(self.raw) };
        inner.record(inner.api.check("aclDestroyTensor", answer));
    }
}

/// A list of tensors, which owns its tensors: destroying the list destroys them.
pub struct TensorList<'a> {
    pub(super) raw: *mut aclTensorList,
    context: &'a Context,
    buffers: PhantomData<&'a Buffer>,
}

impl<'a> TensorList<'a> {
    pub fn new(context: &'a Context, tensors: Vec<TensorDesc<'a>>) -> Result<Self, Error> {
        context.0.ready()?;
        let raw: Vec<_> = tensors.iter().map(|tensor| tensor.raw.cast_const()).collect();
        let api = &context.0.api;
        // SAFETY: the array holds as many live tensors as the call is told.
        let answer = unsafe { api.acl.aclCreateTensorList(raw.as_ptr(), raw.len() as u64) };
        let raw = api.handle("aclCreateTensorList", answer)?;
        tensors.into_iter().for_each(std::mem::forget);
        Ok(Self { raw, context, buffers: PhantomData })
    }
}

impl Drop for TensorList<'_> {
    fn drop(&mut self) {
        let inner = &self.context.0;
        // SAFETY: made by `new`, destroyed once.
        let answer = unsafe { inner.api.acl.aclDestroyTensorList(self.raw) };
        inner.record(inner.api.check("aclDestroyTensorList", answer));
    }
}

/// A number that an operator reads on the host.
pub struct Scalar<'a> {
    pub(super) raw: *mut aclScalar,
    context: &'a Context,
}

impl<'a> Scalar<'a> {
    /// `value` for an operator on tensors of type `dtype`: a double for double, an integer for integers (truncated), a
    /// float for the other floating-point types, whose operators compute in float.
    pub fn like(context: &'a Context, dtype: aclDataType, value: f64) -> Result<Self, Error> {
        match dtype {
            ACL_DOUBLE => Self::new(context, ACL_DOUBLE, &mut { value }),
            ACL_FLOAT | ACL_FLOAT16 | ACL_BF16 => Self::new(context, ACL_FLOAT, &mut { value as f32 }),
            _ => Self::int(context, dtype, value as i64),
        }
    }

    /// An integer for an operator on integers of type `dtype`.
    pub fn int(context: &'a Context, dtype: aclDataType, value: i64) -> Result<Self, Error> {
        match dtype {
            ACL_INT32 => Self::new(context, ACL_INT32, &mut { value as i32 }),
            _ => Self::new(context, ACL_INT64, &mut { value }),
        }
    }

    fn new<T: Copy>(context: &'a Context, dtype: aclDataType, value: &mut T) -> Result<Self, Error> {
        context.0.ready()?;
        let api = &context.0.api;
        // SAFETY: the callers pass a value of the type that they name; the call copies it.
        let answer = unsafe { api.acl.aclCreateScalar(std::ptr::from_mut(value).cast(), dtype) };
        Ok(Self { raw: api.handle("aclCreateScalar", answer)?, context })
    }
}

impl Drop for Scalar<'_> {
    fn drop(&mut self) {
        let inner = &self.context.0;
        // SAFETY: made by `new`, destroyed once.
        let answer = unsafe { inner.api.acl.aclDestroyScalar(self.raw) };
        inner.record(inner.api.check("aclDestroyScalar", answer));
    }
}

/// Integers that an operator reads on the host.
pub struct IntArray<'a> {
    pub(super) raw: *mut aclIntArray,
    context: &'a Context,
}

impl<'a> IntArray<'a> {
    pub fn new(context: &'a Context, values: &[i64]) -> Result<Self, Error> {
        context.0.ready()?;
        let api = &context.0.api;
        // SAFETY: the array holds as many numbers as the call is told; the call copies them.
        let answer = unsafe { api.acl.aclCreateIntArray(values.as_ptr(), values.len() as u64) };
        Ok(Self { raw: api.handle("aclCreateIntArray", answer)?, context })
    }
}

impl Drop for IntArray<'_> {
    fn drop(&mut self) {
        let inner = &self.context.0;
        // SAFETY: made by `new`, destroyed once.
        let answer = unsafe { inner.api.acl.aclDestroyIntArray(self.raw) };
        inner.record(inner.api.check("aclDestroyIntArray", answer));
    }
}
