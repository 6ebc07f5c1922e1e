//! Views: other layouts over the same elements, and the copies that make a layout row-major.

use super::Tensor;
use crate::autograd::record;
use crate::ops::View;
use crate::shape::{Dim, Dims, ShapeWithOneHole};
use crate::{D, Error, Layout, Result, Shape, bail};

impl Tensor {
    fn view(&self, layout: Layout, how: View) -> Self {
        record(self.with_layout(layout), &how, [self])
    }

    /// Elements `start..start + len` along `dim`.
    pub fn narrow<D: Dim>(&self, dim: D, start: usize, len: usize) -> Result<Self> {
        let dim = dim.to_index(self.shape(), "narrow")?;
        let invalid = |msg| {
            let shape = self.shape().clone();
            Err(Error::NarrowInvalidArgs { shape, dim, start, len, msg }.bt())
        };
        let size = self.dims()[dim];
        match start.checked_add(len) {
            _ if start > size => invalid("start > dim_len"),
            Some(end) if end <= size => {
                if start == 0 && len == size {
                    return Ok(self.clone());
                }
                Ok(self.view(self.layout().narrow(dim, start, len)?, View::Narrow { dim, start }))
            }
            _ => invalid("start + len > dim_len"),
        }
    }

    /// `chunks` parts along `dim`, the first ones larger when it does not divide.
    pub fn chunk<D: Dim>(&self, chunks: usize, dim: D) -> Result<Vec<Self>> {
        let dim = dim.to_index(self.shape(), "chunk")?;
        let size = self.dims()[dim];
        if size < chunks {
            return (0..size).map(|i| self.narrow(dim, i, 1)).collect();
        }
        let (chunk, larger) = (size / chunks, size % chunks);
        let mut start = 0;
        (0..chunks)
            .map(|i| {
                let len = chunk + usize::from(i < larger);
                start += len;
                self.narrow(dim, start - len, len)
            })
            .collect()
    }

    /// Parts of the given sizes along `dim`, which must add up to its size.
    pub fn split<D: Dim>(&self, sizes: &[usize], dim: D) -> Result<Vec<Self>> {
        let dim = dim.to_index(self.shape(), "split")?;
        if sizes.iter().sum::<usize>() != self.dims()[dim] {
            bail!("split: sizes {sizes:?} do not add up to dimension {dim} of {:?}", self.shape())
        }
        let mut start = 0;
        sizes
            .iter()
            .map(|&len| {
                start += len;
                self.narrow(dim, start - len, len)
            })
            .collect()
    }

    /// Both dimensions exchanged.
    pub fn transpose<D1: Dim, D2: Dim>(&self, dim1: D1, dim2: D2) -> Result<Self> {
        let dim1 = dim1.to_index(self.shape(), "transpose")?;
        let dim2 = dim2.to_index(self.shape(), "transpose")?;
        if dim1 == dim2 {
            return Ok(self.clone());
        }
        Ok(self.view(self.layout().transpose(dim1, dim2)?, View::Transpose(dim1, dim2)))
    }

    /// The last two dimensions exchanged.
    pub fn t(&self) -> Result<Self> {
        self.transpose(D::Minus2, D::Minus1)
    }

    /// Dimension `i` of the result is dimension `dims[i]` of this.
    pub fn permute<D: Dims>(&self, dims: D) -> Result<Self> {
        let dims = self.dim_indexes(dims, "permute")?;
        let valid = dims.len() == self.rank() && (0..dims.len()).all(|i| dims.contains(&i));
        if !valid {
            bail!("dimension mismatch in permute, tensor {:?}, dims: {dims:?}", self.dims())
        }
        Ok(self.view(self.layout().permute(&dims)?, View::Permute(dims)))
    }

    /// The same elements in row-major order under another shape; copies only when the layout forbids a view.
    pub fn reshape<S: ShapeWithOneHole>(&self, shape: S) -> Result<Self> {
        let shape = shape.into_shape(self.elem_count())?;
        if shape.elem_count() != self.elem_count() {
            let (lhs, rhs) = (self.shape().clone(), shape);
            return Err(Error::ShapeMismatchBinaryOp { lhs, rhs, op: "reshape" }.bt());
        }
        if shape == *self.shape() {
            return Ok(self.clone());
        }
        match reshaped_strides(self.layout(), shape.dims()) {
            Some(stride) => Ok(self.view(Layout::new(shape, stride, self.layout().start_offset()), View::Reshape)),
            None => Ok(record(Self::from_storage(self.fresh_copy()?, shape), &View::Reshape, [self])),
        }
    }

    /// Dimensions `start..=end` merged into one.
    pub fn flatten<D1: Dim, D2: Dim>(&self, start: D1, end: D2) -> Result<Self> {
        if self.rank() == 0 {
            return self.reshape(1);
        }
        let start = start.to_index(self.shape(), "flatten")?;
        let end = end.to_index(self.shape(), "flatten")?;
        if start >= end {
            return Ok(self.clone());
        }
        let dims = self.dims();
        let merged: usize = dims[start..=end].iter().product();
        self.reshape([&dims[..start], &[merged], &dims[end + 1..]].concat())
    }

    /// All dimensions up to and including `end` merged into one.
    pub fn flatten_to<D: Dim>(&self, end: D) -> Result<Self> {
        self.flatten(0usize, end)
    }

    /// All dimensions from `start` on merged into one.
    pub fn flatten_from<D: Dim>(&self, start: D) -> Result<Self> {
        self.flatten(start, crate::D::Minus1)
    }

    /// All elements in one dimension.
    pub fn flatten_all(&self) -> Result<Self> {
        self.reshape(self.elem_count())
    }

    /// Without dimension `dim` if its size is one, else unchanged.
    pub fn squeeze<D: Dim>(&self, dim: D) -> Result<Self> {
        let dim = dim.to_index(self.shape(), "squeeze")?;
        if self.dims()[dim] != 1 {
            return Ok(self.clone());
        }
        let (mut dims, mut stride) = (self.dims().to_vec(), self.stride().to_vec());
        dims.remove(dim);
        stride.remove(dim);
        Ok(self.view(Layout::new(dims.into(), stride, self.layout().start_offset()), View::Reshape))
    }

    /// With a dimension of size one inserted before `dim`.
    pub fn unsqueeze<D: Dim>(&self, dim: D) -> Result<Self> {
        let dim = dim.to_index_plus_one(self.shape(), "unsqueeze")?;
        let (mut dims, mut stride) = (self.dims().to_vec(), self.stride().to_vec());
        let outer = if dim < dims.len() { dims[dim] * stride[dim] } else { 1 };
        dims.insert(dim, 1);
        stride.insert(dim, outer);
        Ok(self.view(Layout::new(dims.into(), stride, self.layout().start_offset()), View::Reshape))
    }

    /// Dimensions of size one, and missing leading ones, repeated (without a copy) to reach `shape`.
    pub fn broadcast_as<S: Into<Shape>>(&self, shape: S) -> Result<Self> {
        Ok(self.view(self.layout().broadcast_as(shape)?, View::Broadcast))
    }

    /// As [`Tensor::broadcast_as`].
    pub fn expand<S: Into<Shape>>(&self, shape: S) -> Result<Self> {
        self.broadcast_as(shape)
    }

    /// Repeated over new leading dimensions, without a copy.
    pub fn broadcast_left<S: Into<Shape>>(&self, left: S) -> Result<Self> {
        let mut dims = left.into().into_dims();
        dims.extend(self.dims());
        self.broadcast_as(dims)
    }

    /// This tensor if it is in row-major order, else a copy that is.
    pub fn contiguous(&self) -> Result<Self> {
        if self.is_contiguous() { Ok(self.clone()) } else { self.force_contiguous() }
    }

    /// A copy in row-major order, in storage of its own.
    pub fn force_contiguous(&self) -> Result<Self> {
        Ok(record(Self::from_storage(self.fresh_copy()?, self.shape()), &View::Copy, [self]))
    }

    /// A copy in storage of its own.
    pub fn copy(&self) -> Result<Self> {
        self.force_contiguous()
    }

    /// The same elements, outside of any gradient.
    pub fn detach(&self) -> Self {
        if self.track_op() { self.with_layout(self.layout().clone()) } else { self.clone() }
    }

    /// Windows of `size` elements every `step` along `dim`, the window being a new last dimension; no copy.
    pub fn unfold<D: Dim>(&self, dim: D, size: usize, step: usize) -> Result<Self> {
        let dim = dim.to_index(self.shape(), "unfold")?;
        let (mut dims, mut stride) = (self.dims().to_vec(), self.stride().to_vec());
        if size > dims[dim] || step == 0 {
            bail!("unfold: size {size} and step {step} do not fit dimension {dim} of {:?}", self.shape())
        }
        dims[dim] = (dims[dim] - size) / step + 1;
        dims.push(size);
        stride.push(stride[dim]);
        stride[dim] *= step;
        Ok(self.view(Layout::new(dims.into(), stride, self.layout().start_offset()), View::Unfold { dim, step }))
    }
}

/// Strides that show the elements of `layout`, in the same order, under `dims`; none when only a copy can.
///
/// Both shapes are walked from the last dimension; each group of old dimensions that can be traversed with one stride
/// must be covered by whole new dimensions.
fn reshaped_strides(layout: &Layout, dims: &[usize]) -> Option<Vec<usize>> {
    if layout.shape().elem_count() == 0 || layout.is_contiguous() {
        return Some(Layout::contiguous(dims).stride().to_vec());
    }
    // Dimensions of size one say nothing about the order; what is left is merged into runs of one stride.
    let mut runs: Vec<(usize, usize)> = Vec::new();
    for (&size, &stride) in layout.dims().iter().zip(layout.stride()).filter(|(size, _)| **size != 1) {
        match runs.last_mut() {
            Some((run, inner)) if *inner == size * stride => (*run, *inner) = (*run * size, stride),
            _ => runs.push((size, stride)),
        }
    }
    let mut strides = vec![1; dims.len()];
    let (mut left, mut stride) = runs.pop().unwrap_or((1, 1));
    for (dim, &size) in dims.iter().enumerate().rev() {
        if left == 1 && size != 1 {
            (left, stride) = runs.pop()?;
        }
        if left % size != 0 {
            return None;
        }
        strides[dim] = stride;
        stride *= size;
        left /= size;
    }
    Some(strides)
}
