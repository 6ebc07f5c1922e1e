//! Joining, repeating, padding, and writing slices in place.

use super::Tensor;
use crate::autograd::record;
use crate::ops::{self, Pad};
use crate::shape::Dim;
use crate::storage::device_mismatch;
use crate::{Error, Layout, Result, Shape, bail};

impl Tensor {
    /// Tensors that differ in the size of `dim` only, one after another along it.
    pub fn cat<A: AsRef<Tensor>, D: Dim>(args: &[A], dim: D) -> Result<Self> {
        let Some(first) = args.first().map(AsRef::as_ref) else {
            return Err(Error::OpRequiresAtLeastOneTensor { op: "cat" }.bt());
        };
        let dim = dim.to_index(first.shape(), "cat")?;
        if args.len() == 1 {
            return Ok(first.clone());
        }
        let mut dims = first.dims().to_vec();
        dims[dim] = 0;
        for (n, arg) in args.iter().map(AsRef::as_ref).enumerate() {
            first.check_cat(arg, n, dim)?;
            dims[dim] += arg.dims()[dim];
        }
        let shape = Shape::from(dims);
        let out = Self::from_storage(first.device().alloc(&shape, first.dtype())?, shape);
        let mut start = 0;
        for arg in args.iter().map(AsRef::as_ref) {
            out.write_slice(arg, dim, start)?;
            start += arg.dims()[dim];
        }
        Ok(ops::record_cat(out, args, dim))
    }

    fn check_cat(&self, nth: &Self, n: usize, dim: usize) -> Result<()> {
        self.same_dtype(nth, "cat")?;
        if self.rank() != nth.rank() {
            let (expected, got, shape) = (self.rank(), nth.rank(), nth.shape().clone());
            return Err(Error::UnexpectedNumberOfDims { expected, got, shape }.bt());
        }
        let differs = |&i: &usize| i != dim && self.dims()[i] != nth.dims()[i];
        match (0..self.rank()).find(differs) {
            Some(dim) => {
                let (first_shape, nth_shape) = (self.shape().clone(), nth.shape().clone());
                Err(Error::ShapeMismatchCat { dim, first_shape, n: n + 1, nth_shape }.bt())
            }
            None => Ok(()),
        }
    }

    /// Copies `source` over elements `start..` along `dim` of this row-major tensor; shapes have been checked.
    fn write_slice(&self, source: &Self, dim: usize, start: usize) -> Result<()> {
        if source.elem_count() == 0 {
            return Ok(());
        }
        // A row is what lies together in the target: `dim` and everything inside it.
        let Some(stride) = row_stride(source.layout(), dim) else {
            return self.write_slice(&source.force_contiguous()?, dim, start);
        };
        let inner: usize = source.dims()[dim + 1..].iter().product();
        let rows: usize = source.dims()[..dim].iter().product();
        let columns = source.dims()[dim] * inner;
        let offset = self.layout().start_offset() + start * inner;
        source.storage().copy_2d(
            &mut self.storage_mut(),
            (rows, columns),
            (stride, self.dims()[dim] * inner),
            (source.layout().start_offset(), offset),
        )
    }

    /// Writes `source` over elements `offset..` along `dim`, in place. Both must be row-major, in different storages.
    pub fn slice_set<D: Dim>(&self, source: &Self, dim: D, offset: usize) -> Result<()> {
        let dim = dim.to_index(self.shape(), "slice-set")?;
        if !self.is_contiguous() || !source.is_contiguous() {
            return Err(Error::RequiresContiguous { op: "slice-set" }.bt());
        }
        if self.same_storage(source) {
            bail!("cannot use slice_set when self and src share their storage")
        }
        self.same_dtype(source, "slice-set")?;
        if !self.device().same_device(source.device()) {
            return Err(device_mismatch("slice-set", &[self.device().location(), source.device().location()]));
        }
        if self.rank() != source.rank() {
            let (expected, got, shape) = (self.rank(), source.rank(), self.shape().clone());
            return Err(Error::UnexpectedNumberOfDims { expected, got, shape }.bt());
        }
        for (i, (&to, &from)) in self.dims().iter().zip(source.dims()).enumerate() {
            if i == dim && from + offset > to {
                bail!("shape mismatch on target dim, dst: {to}, src: {from} + {offset}")
            }
            if i != dim && to != from {
                bail!("shape mismatch on dim {i}, {to} <> {from}")
            }
        }
        self.write_slice(source, dim, offset)
    }

    /// Tensors of one shape side by side along a new dimension `dim`.
    pub fn stack<A: AsRef<Tensor>, D: Dim>(args: &[A], dim: D) -> Result<Self> {
        let Some(first) = args.first().map(AsRef::as_ref) else {
            return Err(Error::OpRequiresAtLeastOneTensor { op: "stack" }.bt());
        };
        let dim = dim.to_index_plus_one(first.shape(), "stack")?;
        let slices = args.iter().map(|arg| arg.as_ref().unsqueeze(dim)).collect::<Result<Vec<_>>>()?;
        Self::cat(&slices, dim)
    }

    /// Repeated `repeats[i]` times along dimension `i`, with new leading dimensions as needed.
    pub fn repeat<S: Into<Shape>>(&self, repeats: S) -> Result<Self> {
        let repeats = repeats.into();
        let leading = repeats.rank().saturating_sub(self.rank());
        let mut out = self.reshape([&vec![1; leading], self.dims()].concat())?;
        for (dim, &count) in repeats.dims().iter().enumerate().filter(|(_, count)| **count != 1) {
            out = if count == 0 { out.narrow(dim, 0, 0)? } else { Self::cat(&vec![&out; count], dim)? };
        }
        Ok(out)
    }

    /// With `left` zeros before and `right` zeros after along `dim`.
    pub fn pad_with_zeros<D: Dim>(&self, dim: D, left: usize, right: usize) -> Result<Self> {
        let dim = dim.to_index(self.shape(), "pad_with_zeros")?;
        if left == 0 && right == 0 {
            return Ok(self.clone());
        }
        let mut dims = self.dims().to_vec();
        dims[dim] += left + right;
        let out = Self::zeros(dims, self.dtype(), self.device())?;
        out.write_slice(self, dim, left)?;
        Ok(record(out, &Pad { dim, left }, [self]))
    }

    /// With the first element repeated `left` times before and the last `right` times after, along `dim`.
    pub fn pad_with_same<D: Dim>(&self, dim: D, left: usize, right: usize) -> Result<Self> {
        let dim = dim.to_index(self.shape(), "pad_with_same")?;
        if left == 0 && right == 0 {
            return Ok(self.clone());
        }
        let size = self.dims()[dim];
        if size == 0 {
            bail!("dim size cannot be 0 when padding with same")
        }
        let (head, tail) = (self.narrow(dim, 0, 1)?, self.narrow(dim, size - 1, 1)?);
        let mut parts = vec![&head; left];
        parts.push(self);
        parts.resize(left + 1 + right, &tail);
        Self::cat(&parts, dim)
    }

    /// Elements moved by `shift` along `dim`, those that leave one end entering at the other.
    pub fn roll<D: Dim + Clone>(&self, shift: i32, dim: D) -> Result<Self> {
        let dim = dim.to_index(self.shape(), "roll")?;
        let size = self.dims()[dim];
        if size == 0 {
            return Ok(self.clone());
        }
        let shift = (shift as i64).rem_euclid(size as i64) as usize;
        if shift == 0 {
            return Ok(self.clone());
        }
        Self::cat(&[&self.narrow(dim, size - shift, shift)?, &self.narrow(dim, 0, size - shift)?], dim)
    }

    /// Elements in reverse order along each of `dims`.
    pub fn flip(&self, dims: &[usize]) -> Result<Self> {
        let mut out = self.clone();
        for &dim in dims {
            let size = out.dim(dim)? as i64;
            let indexes = Self::from_iter((0..size).rev(), self.device())?;
            out = out.index_select(&indexes, dim)?;
        }
        Ok(out)
    }
}

/// Distance between the rows of `layout` when dimensions `dim..` are one gapless row and those before it have a single
/// stride; none otherwise.
fn row_stride(layout: &Layout, dim: usize) -> Option<usize> {
    let (dims, strides) = (layout.dims(), layout.stride());
    let mut expected = 1;
    for i in (dim..dims.len()).rev() {
        if dims[i] != 1 && strides[i] != expected {
            return None;
        }
        expected *= dims[i];
    }
    // `expected` is now the length of a row; outer dimensions must nest without gaps of their own.
    let mut rows: Option<(usize, usize)> = None;
    for i in (0..dim).rev().filter(|&i| dims[i] != 1) {
        rows = Some(match rows {
            None => (strides[i], strides[i] * dims[i]),
            Some((stride, next)) if strides[i] == next => (stride, next * dims[i]),
            Some(_) => return None,
        });
    }
    Some(rows.map_or(expected, |(stride, _)| stride)).filter(|&stride| stride >= expected)
}
