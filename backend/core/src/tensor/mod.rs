//! [`Tensor`]: shared storage, a layout over it, and everything that can be asked of it without computing.

mod arith;
mod conv;
mod convert;
mod create;
mod index;
mod join;
mod linalg;
mod math;
mod read;
mod reduce;
mod view;

use crate::autograd::Node;
use crate::shape::{Dim, Dims};
use crate::{DType, Device, Error, Layout, Result, Shape, Storage};
use parking_lot::{RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

pub use math::{TensorOrScalar, TensorScalar};

/// Identity of a tensor value: clones share it, results of operators do not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TensorId(usize);

impl TensorId {
    fn new() -> Self {
        static NEXT: AtomicUsize = AtomicUsize::new(1);
        Self(NEXT.fetch_add(1, Ordering::Relaxed))
    }
}

/// An array of elements of one type on one device. Cloning shares the elements.
#[derive(Clone)]
pub struct Tensor(Arc<Inner>);

struct Inner {
    id: TensorId,
    storage: Arc<RwLock<Storage>>,
    layout: Layout,
    dtype: DType,
    device: Device,
    is_variable: bool,
    /// What this was computed from, if a variable went into it while operators were recorded.
    origin: Option<Arc<Node>>,
}

impl AsRef<Tensor> for Tensor {
    fn as_ref(&self) -> &Tensor {
        self
    }
}

impl Tensor {
    /// A tensor over fresh storage that holds the elements of `shape` in row-major order.
    pub(crate) fn from_storage(storage: Storage, shape: impl Into<Shape>) -> Self {
        Self::assemble(storage, shape.into(), false)
    }

    pub(crate) fn assemble(storage: Storage, shape: Shape, is_variable: bool) -> Self {
        let (dtype, device) = (storage.dtype(), storage.device());
        let layout = Layout::contiguous(shape);
        let storage = Arc::new(RwLock::new(storage));
        Self(Arc::new(Inner { id: TensorId::new(), storage, layout, dtype, device, is_variable, origin: None }))
    }

    /// Another view of the same elements, which knows nothing of where they come from.
    pub(crate) fn with_layout(&self, layout: Layout) -> Self {
        Self(Arc::new(self.view_of(layout)))
    }

    fn view_of(&self, layout: Layout) -> Inner {
        Inner {
            id: TensorId::new(),
            storage: self.0.storage.clone(),
            layout,
            dtype: self.0.dtype,
            device: self.0.device.clone(),
            is_variable: false,
            origin: None,
        }
    }

    /// A variable with the same elements, not a copy: where a gradient is to end.
    pub(crate) fn leaf(&self) -> Self {
        Self(Arc::new(Inner { is_variable: true, ..self.view_of(self.layout().clone()) }))
    }

    /// This tensor, computed as `node` says.
    pub(crate) fn with_origin(mut self, node: Node) -> Self {
        if Arc::get_mut(&mut self.0).is_none() {
            self = self.with_layout(self.layout().clone());
        }
        if let Some(inner) = Arc::get_mut(&mut self.0) {
            inner.origin = Some(Arc::new(node));
        }
        self
    }

    pub(crate) fn origin(&self) -> Option<&Node> {
        self.0.origin.as_deref()
    }

    /// What this tensor was computed from, if this is the last handle to it.
    pub(crate) fn into_origin(self) -> Option<Arc<Node>> {
        Arc::into_inner(self.0)?.origin
    }

    /// The same value, identity and origin, with its elements on the host until [`Tensor::restored`] brings them back.
    pub(crate) fn offloaded(&self) -> Result<Self> {
        if self.device().is_cpu() {
            return Ok(self.clone());
        }
        Ok(self.same_value(Storage::Cpu(self.to_host_storage()?)))
    }

    /// This value with its elements on its device.
    pub(crate) fn restored(&self) -> Result<Self> {
        match &*self.storage() {
            Storage::Cpu(elements) if !self.device().is_cpu() => {
                Ok(self.same_value(self.device().storage_from_cpu(elements.clone())?))
            }
            _ => Ok(self.clone()),
        }
    }

    /// This value in other storage, row-major.
    fn same_value(&self, storage: Storage) -> Self {
        Self(Arc::new(Inner {
            id: self.0.id,
            storage: Arc::new(RwLock::new(storage)),
            is_variable: self.0.is_variable,
            origin: self.0.origin.clone(),
            ..self.view_of(Layout::contiguous(self.shape()))
        }))
    }

    /// A variable with a copy of the elements.
    pub(crate) fn make_var(&self) -> Result<Self> {
        let storage = self.fresh_copy()?;
        Ok(Self::assemble(storage, self.shape().clone(), true))
    }

    /// The elements that this view selects, in row-major order, in storage of their own.
    pub(crate) fn fresh_copy(&self) -> Result<Storage> {
        let mut storage = self.device().alloc(self.shape(), self.dtype())?;
        self.storage().copy_strided(&mut storage, 0, self.layout())?;
        Ok(storage)
    }

    /// Locks the storage for reading. Recursive, because one tensor may be both operands of an operator.
    pub(crate) fn storage(&self) -> RwLockReadGuard<'_, Storage> {
        self.0.storage.read_recursive()
    }

    pub(crate) fn storage_mut(&self) -> RwLockWriteGuard<'_, Storage> {
        self.0.storage.write()
    }

    /// The storage, locked for reading, and the layout over it.
    pub fn storage_and_layout(&self) -> (RwLockReadGuard<'_, Storage>, &Layout) {
        (self.storage(), self.layout())
    }

    /// Whether both tensors are views of the same storage.
    pub fn same_storage(&self, rhs: &Self) -> bool {
        Arc::ptr_eq(&self.0.storage, &rhs.0.storage)
    }

    /// Whether gradients flow to this tensor: it is a variable, or was computed from one.
    pub fn track_op(&self) -> bool {
        self.0.is_variable || self.0.origin.is_some()
    }

    pub fn id(&self) -> TensorId {
        self.0.id
    }

    pub fn dtype(&self) -> DType {
        self.0.dtype
    }

    pub fn device(&self) -> &Device {
        &self.0.device
    }

    pub fn layout(&self) -> &Layout {
        &self.0.layout
    }

    pub fn shape(&self) -> &Shape {
        self.0.layout.shape()
    }

    pub fn dims(&self) -> &[usize] {
        self.shape().dims()
    }

    /// Distance between neighbours along each dimension, in elements.
    pub fn stride(&self) -> &[usize] {
        self.0.layout.stride()
    }

    pub fn rank(&self) -> usize {
        self.shape().rank()
    }

    pub fn elem_count(&self) -> usize {
        self.shape().elem_count()
    }

    /// Whether this tensor is a trainable variable.
    pub fn is_variable(&self) -> bool {
        self.0.is_variable
    }

    /// Whether the elements lie in row-major order without gaps.
    pub fn is_contiguous(&self) -> bool {
        self.layout().is_contiguous()
    }

    /// Whether the elements lie in column-major order without gaps.
    pub fn is_fortran_contiguous(&self) -> bool {
        self.layout().is_fortran_contiguous()
    }

    /// Size of one dimension.
    pub fn dim<D: Dim>(&self, dim: D) -> Result<usize> {
        Ok(self.dims()[dim.to_index(self.shape(), "dim")?])
    }

    /// Index of a dimension that may be counted from the end (−1 is the last).
    pub fn normalize_axis(&self, axis: i64) -> Result<usize> {
        let rank = self.rank() as i64;
        if (-rank..rank).contains(&axis) {
            Ok(axis.rem_euclid(rank) as usize)
        } else {
            crate::bail!("axis {axis} is out of range for a tensor of rank {rank}")
        }
    }

    /// The one size of a rank-1 tensor.
    pub fn dims1(&self) -> Result<usize> {
        self.shape().dims1()
    }

    /// Both sizes of a rank-2 tensor.
    pub fn dims2(&self) -> Result<(usize, usize)> {
        self.shape().dims2()
    }

    /// The sizes of a rank-3 tensor.
    pub fn dims3(&self) -> Result<(usize, usize, usize)> {
        self.shape().dims3()
    }

    /// The sizes of a rank-4 tensor.
    pub fn dims4(&self) -> Result<(usize, usize, usize, usize)> {
        self.shape().dims4()
    }

    /// The sizes of a rank-5 tensor.
    pub fn dims5(&self) -> Result<(usize, usize, usize, usize, usize)> {
        self.shape().dims5()
    }

    /// The common shape of both operands, or candle's mismatch error.
    pub(crate) fn same_shape(&self, rhs: &Self, op: &'static str) -> Result<&Shape> {
        if self.shape() != rhs.shape() {
            let (lhs, rhs) = (self.shape().clone(), rhs.shape().clone());
            return Err(Error::ShapeMismatchBinaryOp { lhs, rhs, op }.bt());
        }
        Ok(self.shape())
    }

    pub(crate) fn same_dtype(&self, rhs: &Self, op: &'static str) -> Result<DType> {
        if self.dtype() != rhs.dtype() {
            return Err(Error::DTypeMismatchBinaryOp { lhs: self.dtype(), rhs: rhs.dtype(), op }.bt());
        }
        Ok(self.dtype())
    }

    /// Indexes of the dimensions, each valid and named once.
    pub(crate) fn dim_indexes<D: Dims>(&self, dims: D, op: &'static str) -> Result<Vec<usize>> {
        dims.to_indexes(self.shape(), op)
    }
}
