//! A tensor as an operator sees it: a strided view of device memory, read and written in a chosen compute type.

use super::call::Launch;
use crate::dtype::{DType, Element};
use crate::fail;
use crate::runtime::memory::Access;
use crate::status::Result;
use crate::with_element;
use acl_sys::error::ACLNN_ERR_PARAM_INVALID;
use std::ops::Deref;
use std::sync::Arc;

/// What `aclCreateTensor` was told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorMeta {
    pub dtype: DType,
    /// `aclFormat` of the view.
    pub format: i32,
    pub shape: Vec<usize>,
    /// Elements, one a dimension.
    pub strides: Vec<i64>,
    /// Elements from the storage's start to the view's first.
    pub offset: i64,
    pub storage_shape: Vec<usize>,
}

impl TensorMeta {
    pub fn rank(&self) -> usize {
        self.shape.len()
    }

    /// Number of elements of the view.
    pub fn count(&self) -> usize {
        self.shape.iter().product()
    }

    /// Whether the view is row-major without gaps.
    pub fn is_contiguous(&self) -> bool {
        let mut expected = 1;
        self.shape.iter().zip(&self.strides).rev().all(|(&size, &stride)| {
            let fits = size == 1 || stride == expected;
            expected *= size as i64;
            fits
        })
    }

    /// Dimension `dim` with Python's meaning of negative numbers.
    pub fn axis(&self, dim: i64) -> Result<usize> {
        axis(dim, self.rank())
    }

    /// First and one-past-last element, from the storage's start, that the view touches.
    pub fn extent(&self) -> (i64, i64) {
        if self.count() == 0 {
            return (self.offset, self.offset);
        }
        let (mut low, mut high) = (self.offset, self.offset);
        for (&size, &stride) in self.shape.iter().zip(&self.strides) {
            let reach = (size as i64 - 1) * stride;
            if reach < 0 { low += reach } else { high += reach }
        }
        (low, high + 1)
    }

    /// Number of different elements that the view reaches, at most: a broadcast reads its one element once.
    pub fn distinct(&self) -> usize {
        let (low, high) = self.extent();
        self.count().min((high - low) as usize)
    }

    /// Calls `visit` with the storage offset of each element, in row-major order of the view.
    pub fn for_each_offset(&self, mut visit: impl FnMut(usize)) {
        let count = self.count();
        if count == 0 {
            return;
        }
        if self.is_contiguous() {
            (0..count).for_each(|i| visit(self.offset as usize + i));
            return;
        }
        let (inner, inner_stride) = match self.rank() {
            0 => (1, 1),
            rank => (self.shape[rank - 1], self.strides[rank - 1]),
        };
        let outer = self.rank().saturating_sub(1);
        let mut index = vec![0usize; outer];
        let mut base = self.offset;
        loop {
            for i in 0..inner as i64 {
                visit((base + i * inner_stride) as usize);
            }
            let mut dim = outer;
            loop {
                if dim == 0 {
                    return;
                }
                dim -= 1;
                index[dim] += 1;
                base += self.strides[dim];
                if index[dim] < self.shape[dim] {
                    break;
                }
                base -= self.strides[dim] * self.shape[dim] as i64;
                index[dim] = 0;
            }
        }
    }
}

/// `dim` of a tensor of `rank` dimensions, negative numbers counting from the end; a scalar has one imaginary dimension.
pub fn axis(dim: i64, rank: usize) -> Result<usize> {
    let limit = rank.max(1) as i64;
    if dim < -limit || dim >= limit {
        fail!(ACLNN_ERR_PARAM_INVALID, "dimension {dim} is outside [{}, {}]", -limit, limit - 1);
    }
    Ok(if dim < 0 { dim + limit } else { dim } as usize)
}

/// A tensor argument of one call.
#[derive(Clone, Debug)]
pub struct Tensor {
    /// The parameter's name, for messages.
    pub name: &'static str,
    pub meta: Arc<TensorMeta>,
    /// Which of the executor's addresses is this tensor's; executors can be given new addresses between launches.
    pub slot: usize,
    /// The tensor object, for operators whose output takes a shape that only the launch knows.
    pub handle: u64,
}

impl Deref for Tensor {
    type Target = TensorMeta;
    fn deref(&self) -> &TensorMeta {
        &self.meta
    }
}

impl Tensor {
    /// The bytes that the view spans, from its lowest element on, and the lowest element's storage offset.
    fn bytes(&self, launch: &Launch, access: Access) -> Result<(*mut u8, usize, i64)> {
        let (low, high) = self.extent();
        let size = self.dtype.size();
        if low < 0 {
            fail!(ACLNN_ERR_PARAM_INVALID, "{} reaches {} elements before its storage", self.name, -low);
        }
        let length = (high - low) as usize * size;
        if length == 0 {
            return Ok((std::ptr::NonNull::<u64>::dangling().as_ptr().cast(), 0, low));
        }
        let start = launch.address(self.slot) + low as u64 * size as u64;
        let pointer = launch.resolve(start, length, access, self.name)?;
        Ok((pointer, length, low))
    }

    /// The elements in row-major order of the view, as stored.
    pub fn read<T: Element>(&self, launch: &Launch) -> Result<Vec<T>> {
        assert_eq!(T::DTYPE, self.dtype, "{}: read as the wrong type", self.name);
        let (pointer, _, low) = self.bytes(launch, Access::Read)?;
        let mut out = Vec::with_capacity(self.count());
        let base = pointer.cast::<T>();
        // SAFETY: `bytes` checked that every offset of the view lies in live device memory; `read_unaligned` because a
        // view may start at any byte the interface allows.
        self.for_each_offset(|offset| out.push(unsafe { base.add(offset - low as usize).read_unaligned() }));
        Ok(out)
    }

    /// Writes `values`, in row-major order of the view.
    pub fn write<T: Element>(&self, launch: &Launch, values: &[T]) -> Result<()> {
        assert_eq!(T::DTYPE, self.dtype, "{}: written as the wrong type", self.name);
        assert_eq!(values.len(), self.count(), "{}: wrong number of values", self.name);
        let (pointer, _, low) = self.bytes(launch, Access::Write)?;
        let base = pointer.cast::<T>();
        let mut next = values.iter();
        self.for_each_offset(|offset| {
            if let Some(&value) = next.next() {
                // SAFETY: `bytes` checked that every offset of the view lies in live device memory.
                unsafe { base.add(offset - low as usize).write_unaligned(value) };
            }
        });
        Ok(())
    }

    /// The elements widened to `f32`, in row-major order.
    pub fn load_f32(&self, launch: &Launch) -> Result<Vec<f32>> {
        with_element!(self.dtype, T => Ok(self.read::<T>(launch)?.into_iter().map(<T as Element>::to_f32).collect()))
    }

    /// The elements widened to `f64`, in row-major order.
    pub fn load_f64(&self, launch: &Launch) -> Result<Vec<f64>> {
        with_element!(self.dtype, T => Ok(self.read::<T>(launch)?.into_iter().map(<T as Element>::to_f64).collect()))
    }

    /// The elements as `i64`, in row-major order.
    pub fn load_i64(&self, launch: &Launch) -> Result<Vec<i64>> {
        with_element!(self.dtype, T => Ok(self.read::<T>(launch)?.into_iter().map(<T as Element>::to_i64).collect()))
    }

    /// Stores `values`, each rounded once to the tensor's type.
    pub fn store_f32(&self, launch: &Launch, values: &[f32]) -> Result<()> {
        with_element!(self.dtype, T => self.write::<T>(launch, &values.iter().map(|&v| <T as Element>::from_f32(v)).collect::<Vec<_>>()))
    }

    /// Stores `values`, each rounded once to the tensor's type.
    pub fn store_f64(&self, launch: &Launch, values: &[f64]) -> Result<()> {
        with_element!(self.dtype, T => self.write::<T>(launch, &values.iter().map(|&v| <T as Element>::from_f64(v)).collect::<Vec<_>>()))
    }

    /// Stores `values`, converted to the tensor's type.
    pub fn store_i64(&self, launch: &Launch, values: &[i64]) -> Result<()> {
        with_element!(self.dtype, T => self.write::<T>(launch, &values.iter().map(|&v| <T as Element>::from_i64(v)).collect::<Vec<_>>()))
    }

    /// The storage between the view's lowest and highest element, in place, and where in it the view's first element
    /// lies, for operators that walk strides themselves; `None` when the elements are not aligned.
    pub fn span<'a, T: Element>(&self, launch: &'a Launch) -> Result<Option<(&'a [T], usize)>> {
        assert_eq!(T::DTYPE, self.dtype, "{}: read as the wrong type", self.name);
        let (pointer, length, low) = self.bytes(launch, Access::Read)?;
        if !pointer.cast::<T>().is_aligned() {
            return Ok(None);
        }
        // SAFETY: `bytes` checked that the range is live device memory, which stays allocated while the launch runs
        // (frees wait for it), and the alignment was checked above.
        let elements = unsafe { std::slice::from_raw_parts(pointer.cast(), length / size_of::<T>()) };
        Ok(Some((elements, (self.offset - low) as usize)))
    }

    /// A contiguous tensor's elements in place, for operators that must not copy (weights); `None` for other views.
    pub fn contiguous<'a, T: Element>(&self, launch: &'a Launch) -> Result<Option<&'a [T]>> {
        if T::DTYPE != self.dtype || !self.is_contiguous() {
            return Ok(None);
        }
        let (pointer, _, _) = self.bytes(launch, Access::Read)?;
        if !pointer.cast::<T>().is_aligned() {
            return Ok(None);
        }
        // SAFETY: `bytes` checked that the range is live device memory, which stays allocated while the launch runs
        // (frees wait for it), and the alignment was checked above.
        Ok(Some(unsafe { std::slice::from_raw_parts(pointer.cast(), self.count()) }))
    }
}
