//! Views of tensors: shape operators, reductions and broadcasts are strided views that are read or written once.

use crate::aclnn::tensor::TensorMeta;
use crate::aclnn::{Call, Launch, Tensor};
use crate::dtype::{DType, Element};
use crate::status::Result;
use std::borrow::Cow;
use std::sync::Arc;

/// Runs `$body` with `$T` bound to the integer that [`Tensor::bits`] reads elements as.
macro_rules! with_bits {
    ($dtype:expr, $T:ident => $body:expr) => {
        match $dtype.size() {
            1 => {
                type $T = u8;
                $body
            }
            2 => {
                type $T = u16;
                $body
            }
            4 => {
                type $T = u32;
                $body
            }
            _ => {
                type $T = u64;
                $body
            }
        }
    };
}
pub(crate) use with_bits;

impl Tensor {
    /// Another view of the same storage.
    pub(crate) fn reviewed(&self, shape: Vec<usize>, strides: Vec<i64>, offset: i64) -> Tensor {
        let meta = TensorMeta { shape, strides, offset, ..(*self.meta).clone() };
        Tensor { meta: Arc::new(meta), ..self.clone() }
    }

    /// The tensor repeated to `shape`, which it must broadcast to.
    pub(crate) fn broadcast_view(&self, shape: &[usize]) -> Tensor {
        let missing = shape.len() - self.rank();
        let strides = (0..shape.len())
            .map(|i| if i < missing || self.shape[i - missing] == 1 { 0 } else { self.strides[i - missing] })
            .collect();
        self.reviewed(shape.to_vec(), strides, self.offset)
    }

    /// The dimensions in another order.
    pub(crate) fn permuted_view(&self, order: &[usize]) -> Tensor {
        let shape = order.iter().map(|&i| self.shape[i]).collect();
        let strides = order.iter().map(|&i| self.strides[i]).collect();
        self.reviewed(shape, strides, self.offset)
    }

    /// Dimension `dim` moved to the end; a scalar becomes one element of one dimension.
    pub(crate) fn axis_last_view(&self, dim: usize) -> Tensor {
        if self.rank() == 0 {
            return self.reviewed(vec![1], vec![1], self.offset);
        }
        let order: Vec<usize> = (0..self.rank()).filter(|&i| i != dim).chain([dim]).collect();
        self.permuted_view(&order)
    }

    /// `count` elements of dimension `dim`, from `start` on, `step` apart.
    pub(crate) fn sliced_view(&self, dim: usize, start: usize, count: usize, step: usize) -> Tensor {
        let (mut shape, mut strides) = (self.shape.clone(), self.strides.clone());
        shape[dim] = count;
        let offset = if count == 0 { self.offset } else { self.offset + start as i64 * strides[dim] };
        strides[dim] *= step as i64;
        self.reviewed(shape, strides, offset)
    }

    /// Element `index` of dimension `dim`, which disappears.
    pub(crate) fn selected_view(&self, dim: usize, index: usize) -> Tensor {
        let (mut shape, mut strides) = (self.shape.clone(), self.strides.clone());
        shape.remove(dim);
        let offset = self.offset + index as i64 * strides.remove(dim);
        self.reviewed(shape, strides, offset)
    }

    /// Dimension `dim` read backwards.
    pub(crate) fn flipped_view(&self, dim: usize) -> Tensor {
        let mut strides = self.strides.clone();
        let offset = self.offset + (self.shape[dim] as i64 - 1).max(0) * strides[dim];
        strides[dim] = -strides[dim];
        self.reviewed(self.shape.clone(), strides, offset)
    }

    /// A new dimension of one element at `dim`.
    pub(crate) fn unsqueezed_view(&self, dim: usize) -> Tensor {
        let (mut shape, mut strides) = (self.shape.clone(), self.strides.clone());
        shape.insert(dim, 1);
        strides.insert(dim, 0);
        self.reviewed(shape, strides, self.offset)
    }

    /// The tensor with the shape that a result turned out to have, contiguous; `aclGetViewShape` answers it from now on.
    /// A result with more elements than its owner made room for would be written over other data.
    pub(crate) fn resized(&self, shape: Vec<usize>) -> Result<Tensor> {
        let (wanted, room) = (shape.iter().product::<usize>(), self.count());
        crate::ensure!(
            wanted <= room,
            acl_sys::error::ACL_ERROR_RT_AICORE_EXCEPTION,
            "{}: the result has {wanted} elements ({shape:?}), and the tensor has room for {room}",
            self.name
        );
        crate::aclnn::meta::reshape_tensor(self.handle, &shape);
        let strides = super::index::row_major(&shape);
        Ok(self.reviewed(shape, strides, self.offset))
    }

    /// The same elements as unsigned integers of their size: what operators see that only move them.
    pub(crate) fn bits(&self) -> Tensor {
        let dtype = match self.dtype.size() {
            1 => DType::U8,
            2 => DType::U16,
            4 => DType::U32,
            _ => DType::U64,
        };
        Tensor { meta: Arc::new(TensorMeta { dtype, ..(*self.meta).clone() }), ..self.clone() }
    }

    /// The elements, without a copy where they already lie in order.
    pub(crate) fn elements<'a, T: Element>(&self, launch: &'a Launch) -> Result<Cow<'a, [T]>> {
        Ok(match self.contiguous::<T>(launch)? {
            Some(slice) => Cow::Borrowed(slice),
            None => Cow::Owned(self.read::<T>(launch)?),
        })
    }
}

/// A scalar, given as a float and as an integer, as one element.
pub(crate) fn element<T: Element>(float: f64, int: i64) -> T {
    if T::DTYPE.is_float() { T::from_f64(float) } else { T::from_i64(int) }
}

/// Copies `from` to `to`, views of the same shape, converting the element type where they differ.
pub(crate) fn copy(launch: &Launch, from: &Tensor, to: &Tensor) -> Result<()> {
    if from.dtype == to.dtype {
        let (from, to) = (from.bits(), to.bits());
        return with_bits!(from.dtype, T => to.write::<T>(launch, &from.read::<T>(launch)?));
    }
    match (from.dtype, to.dtype) {
        // Through the integer, so that no bit of a wide integer is lost; a large UINT64 has no such integer.
        (DType::U64, other) if other.is_float() => to.store_f64(launch, &from.load_f64(launch)?),
        (source, _) if !source.is_float() => to.store_i64(launch, &from.load_i64(launch)?),
        (DType::F64, _) | (_, DType::F64) => to.store_f64(launch, &from.load_f64(launch)?),
        _ => to.store_f32(launch, &from.load_f32(launch)?),
    }
}

/// Where reading each output of a reduction starts: a view with the reduced dimensions last, and their element count.
pub(crate) struct Rows {
    pub view: Tensor,
    pub inner: usize,
    /// The output's shape.
    pub shape: Vec<usize>,
}

/// Prepares the reduction of `x` over `dims` (all of them when empty).
pub(crate) fn rows(call: &Call, x: &Tensor, dims: &[i64], keep: bool) -> Result<Rows> {
    let mut reduced = vec![dims.is_empty(); x.rank()];
    for &dim in dims {
        let axis = x.axis(dim)?;
        if x.rank() > 0 && std::mem::replace(&mut reduced[axis], true) {
            return call.invalid(format!("dimension {dim} of {} is named twice", x.name));
        }
    }
    let order: Vec<usize> =
        (0..x.rank()).filter(|&i| !reduced[i]).chain((0..x.rank()).filter(|&i| reduced[i])).collect();
    let inner = (0..x.rank()).filter(|&i| reduced[i]).map(|i| x.shape[i]).product();
    let shape =
        (0..x.rank()).filter(|&i| keep || !reduced[i]).map(|i| if reduced[i] { 1 } else { x.shape[i] }).collect();
    Ok(Rows { view: x.permuted_view(&order), inner, shape })
}
