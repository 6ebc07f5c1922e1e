//! Storage of a tensor on any device, and the dispatch of primitives to the device that holds the operands.

use crate::cuda::explained;
use crate::device::{Device, DeviceLocation};
use crate::npu::NpuStorage;
use crate::{CpuStorage, CudaStorage, DType, Error, Layout, Result};
use candle_core::backend::BackendStorage;
use candle_core::op::{BinaryOpT, CmpOp, ReduceOp, UnaryOpT};
use candle_core::scalar::Scalar;

/// The elements behind one or more tensors. Cloning may run out of memory: use [`Storage::try_clone`].
#[derive(Debug)]
pub enum Storage {
    Cpu(CpuStorage),
    Cuda(CudaStorage),
    Npu(NpuStorage),
}

/// Storage and layout of one operand of a primitive.
#[derive(Clone, Copy, Debug)]
pub struct Operand<'a> {
    pub storage: &'a Storage,
    pub layout: &'a Layout,
}

/// Runs a primitive on the one device that holds all its operands; the result is storage on that device.
macro_rules! dispatch {
    ($op:expr, $($storage:expr => $s:ident),+ ; $body:expr) => {
        match ($($storage,)+) {
            ($(Storage::Cpu($s),)+) => Ok(Storage::Cpu($body?)),
            ($(Storage::Cuda($s),)+) => Ok(Storage::Cuda($body.map_err(explained)?)),
            ($(Storage::Npu($s),)+) => Ok(Storage::Npu($body?)),
            #[allow(unreachable_patterns)]
            ($($s,)+) => Err(device_mismatch($op, &[$($s.location()),+])),
        }
    };
}

/// As [`dispatch!`] for primitives that write into an operand.
macro_rules! dispatch_in_place {
    ($op:expr, $($storage:expr => $s:ident),+ ; $body:expr) => {
        match ($($storage,)+) {
            ($(Storage::Cpu($s),)+) => $body,
            ($(Storage::Cuda($s),)+) => $body.map_err(explained),
            ($(Storage::Npu($s),)+) => $body,
            #[allow(unreachable_patterns)]
            ($($s,)+) => Err(device_mismatch($op, &[$($s.location()),+])),
        }
    };
}

/// The error of an operator whose operands are on different devices. candle's own variant cannot name an NPU.
pub(crate) fn device_mismatch(op: &'static str, locations: &[DeviceLocation]) -> Error {
    match locations {
        [lhs, rhs] => match (lhs.to_candle(), rhs.to_candle()) {
            (Some(lhs), Some(rhs)) => Error::DeviceMismatchBinaryOp { lhs, rhs, op }.bt(),
            _ => Error::Msg(format!("device mismatch in {op}, lhs: {lhs:?}, rhs: {rhs:?}")).bt(),
        },
        others => Error::Msg(format!("device mismatch in {op}, operands on {others:?}")).bt(),
    }
}

impl Storage {
    /// The device that holds the elements.
    pub fn device(&self) -> Device {
        match self {
            Self::Cpu(_) => Device::Cpu,
            Self::Cuda(s) => Device::Cuda(s.device().clone()),
            Self::Npu(s) => Device::Npu(s.device().clone()),
        }
    }

    fn location(&self) -> DeviceLocation {
        self.device().location()
    }

    pub fn dtype(&self) -> DType {
        match self {
            Self::Cpu(s) => s.dtype(),
            Self::Cuda(s) => s.dtype(),
            Self::Npu(s) => s.dtype(),
        }
    }

    /// A deep copy of the whole storage.
    pub fn try_clone(&self, layout: &Layout) -> Result<Self> {
        dispatch!("clone", self => s; s.try_clone(layout))
    }

    /// The elements on the host, in storage order; waits for the device.
    pub fn to_cpu_storage(&self) -> Result<CpuStorage> {
        match self {
            Self::Cpu(s) => Ok(s.clone()),
            Self::Cuda(s) => s.to_cpu_storage().map_err(explained),
            Self::Npu(s) => s.to_cpu_storage(),
        }
    }

    pub(crate) fn affine(&self, layout: &Layout, mul: f64, add: f64) -> Result<Self> {
        dispatch!("affine", self => s; s.affine(layout, mul, add))
    }

    pub(crate) fn powf(&self, layout: &Layout, exponent: f64) -> Result<Self> {
        dispatch!("powf", self => s; s.powf(layout, exponent))
    }

    pub(crate) fn elu(&self, layout: &Layout, alpha: f64) -> Result<Self> {
        dispatch!("elu", self => s; s.elu(layout, alpha))
    }

    pub(crate) fn unary<B: UnaryOpT>(&self, layout: &Layout) -> Result<Self> {
        dispatch!(B::NAME, self => s; s.unary_impl::<B>(layout))
    }

    pub(crate) fn to_dtype(&self, layout: &Layout, dtype: DType) -> Result<Self> {
        dispatch!("to-dtype", self => s; s.to_dtype(layout, dtype))
    }

    pub(crate) fn reduce(&self, op: ReduceOp, layout: &Layout, dims: &[usize]) -> Result<Self> {
        dispatch!("reduce", self => s; s.reduce_op(op, layout, dims))
    }

    pub(crate) fn const_set(&mut self, value: Scalar, layout: &Layout) -> Result<()> {
        dispatch_in_place!("const-set", self => s; s.const_set(value, layout))
    }

    /// Copies the elements that `layout` selects, in row-major order, into `dst` from element `offset` on.
    pub(crate) fn copy_strided(&self, dst: &mut Self, offset: usize, layout: &Layout) -> Result<()> {
        dispatch_in_place!("copy", self => src, dst => dst; src.copy_strided_src(dst, offset, layout))
    }

    /// Copies `rows` rows of `cols` elements between two storages; strides and offsets in elements.
    pub(crate) fn copy_2d(
        &self,
        dst: &mut Self,
        (rows, cols): (usize, usize),
        (src_stride, dst_stride): (usize, usize),
        (src_offset, dst_offset): (usize, usize),
    ) -> Result<()> {
        dispatch_in_place!("copy2d", self => src, dst => dst;
            src.copy2d(dst, rows, cols, src_stride, dst_stride, src_offset, dst_offset))
    }

    /// Writes `source` into `self` at `indexes` along `dim`, replacing or (with `add`) adding.
    pub(crate) fn scatter(
        &mut self,
        layout: &Layout,
        indexes: Operand<'_>,
        source: Operand<'_>,
        dim: usize,
        add: bool,
    ) -> Result<()> {
        let (il, sl) = (indexes.layout, source.layout);
        if add {
            dispatch_in_place!("scatter-add", self => d, indexes.storage => i, source.storage => s;
                d.scatter_add_set(layout, i, il, s, sl, dim))
        } else {
            dispatch_in_place!("scatter", self => d, indexes.storage => i, source.storage => s;
                d.scatter_set(layout, i, il, s, sl, dim))
        }
    }
}

impl Operand<'_> {
    pub(crate) fn binary<B: BinaryOpT>(self, rhs: Self) -> Result<Storage> {
        dispatch!(B::NAME, self.storage => l, rhs.storage => r; l.binary_impl::<B>(r, self.layout, rhs.layout))
    }

    pub(crate) fn cmp(self, op: CmpOp, rhs: Self) -> Result<Storage> {
        dispatch!("cmp", self.storage => l, rhs.storage => r; l.cmp(op, r, self.layout, rhs.layout))
    }

    pub(crate) fn where_cond(self, on_true: Self, on_false: Self) -> Result<Storage> {
        dispatch!("where", self.storage => c, on_true.storage => t, on_false.storage => f;
            c.where_cond(self.layout, t, on_true.layout, f, on_false.layout))
    }

    pub(crate) fn gather(self, indexes: Self, dim: usize) -> Result<Storage> {
        dispatch!("gather", self.storage => s, indexes.storage => i; s.gather(self.layout, i, indexes.layout, dim))
    }

    pub(crate) fn index_select(self, indexes: Self, dim: usize) -> Result<Storage> {
        dispatch!("index-select", self.storage => s, indexes.storage => i;
            s.index_select(i, self.layout, indexes.layout, dim))
    }

    pub(crate) fn index_add(self, indexes: Self, source: Self, dim: usize) -> Result<Storage> {
        dispatch!("index-add", self.storage => s, indexes.storage => i, source.storage => src;
            s.index_add(self.layout, i, indexes.layout, src, source.layout, dim))
    }

    /// `bmnk`: batch, rows of the left, columns of the right, shared dimension.
    pub(crate) fn matmul(self, rhs: Self, bmnk: (usize, usize, usize, usize)) -> Result<Storage> {
        dispatch!("matmul", self.storage => l, rhs.storage => r; l.matmul(r, bmnk, self.layout, rhs.layout))
    }
}
