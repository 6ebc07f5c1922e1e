//! Elements on an NPU, and the views of them that operators take.

use super::device::NpuDevice;
use super::dtype::{acl_type, bits_type, fill_type};
use crate::acl::{Buffer, Context, View, launch};
use acl_sys::ACL_BOOL;
use acl_sys::loader::op;
use candle_core::{DType, Layout, Result};

/// `len` elements of one type in the memory of one NPU.
#[derive(Debug)]
pub struct NpuStorage {
    buffer: Buffer,
    dtype: DType,
    device: NpuDevice,
    len: usize,
}

impl NpuStorage {
    pub(super) fn new(buffer: Buffer, dtype: DType, device: NpuDevice, len: usize) -> Self {
        Self { buffer, dtype, device, len }
    }

    pub(super) fn npu(&self) -> &NpuDevice {
        &self.device
    }

    pub(super) fn context(&self) -> &Context {
        self.device.context()
    }

    /// The memory of the elements.
    pub fn buffer(&self) -> &Buffer {
        &self.buffer
    }

    pub(super) fn element(&self) -> DType {
        self.dtype
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        self.len
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The elements that `layout` selects.
    pub(super) fn view(&self, layout: &Layout) -> Result<View<'_>> {
        Ok(View::new(&self.buffer, acl_type(self.dtype)?, self.width(), layout)?)
    }

    /// The same for operators that only move bits, or whose answer has the bits of INT32.
    pub(super) fn bits(&self, layout: &Layout) -> Result<View<'_>> {
        Ok(self.view(layout)?.reinterpret(bits_type(self.dtype)?))
    }

    /// The first elements as a row-major tensor.
    pub(super) fn shaped(&self, dims: &[usize]) -> Result<View<'_>> {
        Ok(View::contiguous(&self.buffer, acl_type(self.dtype)?, self.width(), dims, 0)?)
    }

    pub(super) fn shaped_bits(&self, dims: &[usize]) -> Result<View<'_>> {
        Ok(self.shaped(dims)?.reinterpret(bits_type(self.dtype)?))
    }

    /// All elements in one dimension.
    pub(super) fn flat(&self) -> Result<View<'_>> {
        self.shaped(&[self.len])
    }

    /// A u8 storage that an operator writes truth values to: 0 and 1 are the same bits as BOOL.
    pub(super) fn truth(&self, dims: &[usize]) -> Result<View<'_>> {
        Ok(self.shaped(dims)?.reinterpret(ACL_BOOL))
    }

    /// For filling with zeros where a mask says.
    pub(super) fn fill_view(&self, dims: &[usize]) -> Result<View<'_>> {
        Ok(self.shaped(dims)?.reinterpret(fill_type(self.dtype)))
    }

    pub(super) fn strided(&self, dims: &[usize], strides: &[usize], offset: usize) -> Result<View<'_>> {
        Ok(View::strided(&self.buffer, bits_type(self.dtype)?, self.width(), dims, strides, offset)?)
    }

    fn width(&self) -> usize {
        self.dtype.size_in_bytes()
    }

    /// New storage with the elements that `layout` selects, row-major.
    pub(super) fn compact(&self, layout: &Layout) -> Result<Self> {
        let out = self.device.uninit(self.dtype, layout.shape().elem_count())?;
        self.copy_into(&out, 0, layout)?;
        Ok(out)
    }

    /// Writes the elements that `layout` selects, row-major, to `out` from element `offset` on.
    pub(super) fn copy_into(&self, out: &Self, offset: usize, layout: &Layout) -> Result<()> {
        let (count, width) = (layout.shape().elem_count(), self.width());
        if count == 0 {
            return Ok(());
        }
        if layout.is_contiguous() {
            let from = (&self.buffer, layout.start_offset() * width);
            return Ok(self.context().copy(from, (&out.buffer, offset * width), count * width)?);
        }
        let target = View::contiguous(&out.buffer, bits_type(out.dtype)?, width, layout.dims(), offset)?;
        Ok(launch::<op::InplaceCopy, _>(self.context(), (&target.desc()?, &self.bits(layout)?.desc()?))?)
    }

    /// New storage with the elements converted to `dtype`, row-major.
    pub(super) fn cast(&self, layout: &Layout, dtype: DType) -> Result<Self> {
        if dtype == self.dtype {
            return self.compact(layout);
        }
        let out = self.device.uninit(dtype, layout.shape().elem_count())?;
        if !out.is_empty() {
            let (from, to) = (self.view(layout)?.desc()?, out.shaped(layout.dims())?.desc()?);
            launch::<op::Cast, _>(self.context(), (&from, acl_type(dtype)?, &to))?;
        }
        Ok(out)
    }
}
