//! candle-compatible tensors on Ascend NPUs, CUDA and the CPU.
//!
//! Names, signatures and errors are candle-core 0.11's; types that do not name a device (`DType`, `Shape`, `Layout`,
//! `Error`, `D`, …) are candle's own. The device is chosen at run time:
//!
//! ```
//! use candle_ascend::{Device, Tensor};
//! # fn main() -> candle_ascend::Result<()> {
//! let a = Tensor::arange(0f32, 6f32, &Device::Cpu)?.reshape((2, 3))?;
//! let b = a.matmul(&a.t()?)?;
//! assert_eq!(b.to_vec2::<f32>()?, [[5., 14.], [14., 50.]]);
//! # Ok(())
//! # }
//! ```
//!
//! The layers, from below: `acl` (safe wrapper of the C interface) and `npu` (candle's backend traits over it),
//! [`Storage`] (one enum over three backends), [`ops`] (one file a family: checks, shape rule, launch, decomposition),
//! and [`Tensor`].

pub mod acl;
pub mod autograd;
pub mod comm;
pub mod cuda;
mod device;
mod indexer;
mod module;
pub mod npu;
pub mod npy;
pub mod ops;
pub mod pickle;
pub mod quantized;
pub mod safetensors;
mod storage;
pub mod streaming;
mod tensor;
mod var;

pub use acl::{Graph, register_simulator};
pub use autograd::no_grad;
pub use candle_core::{
    Context, CpuStorage, CpuStorageRef, CudaDevice, CudaStorage, CustomOp1, CustomOp2, CustomOp3, D, DType,
    DTypeParseError, Error, FloatDType, InplaceOp1, InplaceOp2, InplaceOp3, IntDType, Layout, NdArray, Result, Shape,
    ToUsize2, WithDType, bail,
};
pub use candle_core::{error, layout, scalar, shape, utils};
pub use device::{Device, DeviceLocation};
pub use indexer::{IndexOp, TensorIndexer};
pub use module::{Module, ModuleT};
pub use npu::{NpuDevice, NpuStorage};
pub use storage::{Operand, Storage};
pub use streaming::{StreamTensor, StreamingBinOp, StreamingModule};
pub use tensor::{Tensor, TensorId, TensorOrScalar, TensorScalar};
pub use var::Var;

/// Gradients, under candle's name.
pub mod backprop {
    pub use crate::autograd::GradStore;
}

/// What candle's convolutions take besides tensors.
pub mod conv {
    pub use candle_core::conv::CudnnFwdAlgo;
}

/// Operator markers of candle, as `candle_core::op` has them.
pub mod op {
    pub use candle_core::op::{BinaryOp, CmpOp, ReduceOp, UnaryOp};
}
