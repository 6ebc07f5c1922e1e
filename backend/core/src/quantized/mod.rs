//! Block-quantised weights, as candle's `quantized` module has them.
//!
//! The blocks are candle's, and so is the arithmetic on CPU and CUDA storage; what is here puts them behind this
//! crate's [`Tensor`] and [`Device`]. CANN has no products of these block formats: a weight "on" an NPU keeps its blocks
//! on the host, and [`QMatMul`] sends the dequantised matrix to the device once.

pub mod ggml_file;
pub mod gguf_file;

use crate::{CpuStorage, CudaStorage, CustomOp1, D, DType, Device, Layout, Module, Result, Shape, Tensor, bail};
use candle_core::quantized as candle;
use std::borrow::Cow;
use std::sync::{Arc, LazyLock};

pub use candle::{GgmlDType, GgmlType, QuantizedType, imatrix_file, k_quants, tokenizer};

/// The device that holds the blocks of a tensor of `device`: an NPU's stay on the host.
fn block_device(device: &Device) -> candle_core::Device {
    match device {
        Device::Cuda(device) => candle_core::Device::Cuda(device.clone()),
        Device::Cpu | Device::Npu(_) => candle_core::Device::Cpu,
    }
}

/// `tensor` where blocks for `device` are made.
fn beside_blocks(tensor: &Tensor, device: &Device) -> Result<candle_core::Tensor> {
    tensor.to_candle()?.to_device(&block_device(device))
}

/// Blocks without a shape.
pub struct QStorage {
    blocks: candle::QStorage,
    device: Device,
}

impl QStorage {
    /// Blocks of the format `dtype` from their bytes as GGUF files hold them.
    pub fn from_data(data: Cow<'_, [u8]>, device: &Device, dtype: GgmlDType) -> Result<Self> {
        Ok(Self { blocks: candle::QStorage::from_data(data, &block_device(device), dtype)?, device: device.clone() })
    }
}

/// A tensor of blocks. Its rows (last dimension) hold whole blocks.
pub struct QTensor {
    blocks: candle::QTensor,
    device: Device,
}

impl std::fmt::Debug for QTensor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.blocks.fmt(f)
    }
}

impl QTensor {
    /// The blocks of `storage` under `shape`; an error unless the last dimension is a multiple of the block size.
    pub fn new<S: Into<Shape>>(storage: QStorage, shape: S) -> Result<Self> {
        Ok(Self { blocks: candle::QTensor::new(storage.blocks, shape)?, device: storage.device })
    }

    fn made(blocks: Result<candle::QTensor>, device: &Device) -> Result<Self> {
        Ok(Self { blocks: blocks?, device: device.clone() })
    }

    /// `src` rounded to blocks of the format `dtype`, for the device of `src`.
    pub fn quantize(src: &Tensor, dtype: GgmlDType) -> Result<Self> {
        let device = src.device();
        Self::made(candle::QTensor::quantize(&beside_blocks(src, device)?, dtype), device)
    }

    /// As [`QTensor::quantize`], the error of each column weighed by `imatrix_weights`.
    pub fn quantize_imatrix(src: &Tensor, imatrix_weights: &[f32], dtype: GgmlDType) -> Result<Self> {
        let (device, values) = (src.device(), beside_blocks(src, src.device())?);
        Self::made(candle::QTensor::quantize_imatrix(&values, imatrix_weights, dtype), device)
    }

    /// As [`QTensor::quantize_imatrix`] for a tensor of the CPU and blocks for `dev`.
    pub fn quantize_imatrix_onto(src: &Tensor, weights: &[f32], dtype: GgmlDType, dev: &Device) -> Result<Self> {
        let values = host_source(src)?;
        Self::made(candle::QTensor::quantize_imatrix_onto(&values, weights, dtype, &block_device(dev)), dev)
    }

    /// As [`QTensor::quantize`] for a tensor of the CPU and blocks for `dev`.
    pub fn quantize_onto(src: &Tensor, dtype: GgmlDType, dev: &Device) -> Result<Self> {
        Self::made(candle::QTensor::quantize_onto(&host_source(src)?, dtype, &block_device(dev)), dev)
    }

    pub fn dtype(&self) -> GgmlDType {
        self.blocks.dtype()
    }

    /// The device that products with this tensor run on.
    pub fn device(&self) -> Device {
        self.device.clone()
    }

    pub fn rank(&self) -> usize {
        self.blocks.rank()
    }

    pub fn shape(&self) -> &Shape {
        self.blocks.shape()
    }

    /// The values (F32) on `device`.
    pub fn dequantize(&self, device: &Device) -> Result<Tensor> {
        Tensor::from_candle(&self.blocks.dequantize(&self.blocks.device())?)?.to_device(device)
    }

    /// The values in F16 on `device`.
    pub fn dequantize_f16(&self, device: &Device) -> Result<Tensor> {
        Tensor::from_candle(&self.blocks.dequantize_f16(&self.blocks.device())?)?.to_device(device)
    }

    /// The rows (F32) that `ids` name, on the device of this tensor; only they are dequantised.
    pub fn embedding(&self, ids: &Tensor) -> Result<Tensor> {
        let rows = self.blocks.embedding(&beside_blocks(ids, &self.device)?)?;
        Tensor::from_candle(&rows)?.to_device(&self.device)
    }

    pub fn storage_size_in_bytes(&self) -> usize {
        self.blocks.storage_size_in_bytes()
    }

    /// The bytes of the blocks, as GGUF files hold them.
    pub fn data(&self) -> Result<Cow<'_, [u8]>> {
        self.blocks.data()
    }

    /// The blocks as candle's tensor, on the host for an NPU.
    pub fn as_candle(&self) -> &candle::QTensor {
        &self.blocks
    }

    /// Products with chosen experts' matrices, which candle has for CUDA only.
    pub fn indexed_moe_forward(&self, x: &Tensor, ids: &Tensor) -> Result<Tensor> {
        if !self.device.is_cuda() {
            bail!("indexed_moe_forward has code for cuda only, and the weight is on {:?}", self.device.location())
        }
        Tensor::from_candle(&self.blocks.indexed_moe_forward(&x.to_candle()?, &ids.to_candle()?)?)
    }
}

fn host_source(src: &Tensor) -> Result<candle_core::Tensor> {
    if !src.device().is_cpu() {
        bail!("`quantize_onto` expects a `src` to be on the cpu, got {:?}.", src.device())
    }
    src.to_candle()
}

/// The product `x·Wᵀ`, so that `x.apply_op1_no_bwd(&weight)` is the quantised product of CPU and CUDA tensors.
impl CustomOp1 for QTensor {
    fn name(&self) -> &'static str {
        "qmatmul"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        self.blocks.cpu_fwd(storage, layout)
    }

    fn cuda_fwd(&self, storage: &CudaStorage, layout: &Layout) -> Result<(CudaStorage, Shape)> {
        self.blocks.cuda_fwd(storage, layout)
    }
}

/// A weight matrix that is multiplied as blocks, or as what they were dequantised to.
#[derive(Clone, Debug)]
pub enum QMatMul {
    QTensor(Arc<QTensor>),
    Tensor(Tensor),
    TensorF16(Tensor),
}

fn asked_for(variable: &str) -> bool {
    std::env::var(variable).is_ok_and(|value| !value.is_empty() && value != "0")
}

/// candle's switches, read once.
static DEQUANTIZE_ALL: LazyLock<bool> = LazyLock::new(|| asked_for("CANDLE_DEQUANTIZE_ALL"));
static DEQUANTIZE_ALL_F16: LazyLock<bool> = LazyLock::new(|| asked_for("CANDLE_DEQUANTIZE_ALL_F16"));

impl QMatMul {
    /// Keeps the blocks where the device multiplies them, and dequantises (F32) where it does not: formats that are
    /// plain floats, and every format on an NPU.
    pub fn from_arc(qtensor: Arc<QTensor>) -> Result<Self> {
        let plain = matches!(qtensor.dtype(), GgmlDType::F32 | GgmlDType::F16 | GgmlDType::BF16);
        let device = qtensor.device();
        Ok(if *DEQUANTIZE_ALL_F16 && !plain && !*DEQUANTIZE_ALL {
            Self::TensorF16(qtensor.dequantize_f16(&device)?)
        } else if plain || *DEQUANTIZE_ALL || device.is_npu() {
            Self::Tensor(qtensor.dequantize(&device)?)
        } else {
            Self::QTensor(qtensor)
        })
    }

    pub fn from_qtensor(qtensor: QTensor) -> Result<Self> {
        Self::from_arc(Arc::new(qtensor))
    }

    /// The matrix in F16.
    pub fn dequantize_f16(&self) -> Result<Tensor> {
        match self {
            Self::QTensor(weight) => weight.dequantize_f16(&weight.device()),
            Self::Tensor(weight) => weight.to_dtype(DType::F16),
            Self::TensorF16(weight) => Ok(weight.clone()),
        }
    }

    /// `x·Wᵀ` computed in F16.
    pub fn forward_via_f16(&self, xs: &Tensor) -> Result<Tensor> {
        product(&xs.to_dtype(DType::F16)?, &self.dequantize_f16()?)?.to_dtype(xs.dtype())
    }

    /// As [`QTensor::indexed_moe_forward`].
    pub fn indexed_moe_forward(&self, x: &Tensor, ids: &Tensor) -> Result<Tensor> {
        match self {
            Self::QTensor(weight) => weight.indexed_moe_forward(x, ids),
            _ => bail!("indexed_moe_forward takes a weight that is kept as blocks, and this one was dequantised"),
        }
    }

    /// The rows that `ids` name.
    pub fn embedding(&self, ids: &Tensor) -> Result<Tensor> {
        match self {
            Self::QTensor(weight) => weight.embedding(ids),
            Self::Tensor(weight) | Self::TensorF16(weight) => {
                let dims = [ids.dims(), &[weight.dim(D::Minus1)?]].concat();
                weight.index_select(&ids.to_device(weight.device())?.flatten_all()?, 0)?.reshape(dims)
            }
        }
    }
}

/// `x·Wᵀ` over the last dimension of `x`.
fn product(x: &Tensor, weight: &Tensor) -> Result<Tensor> {
    x.broadcast_matmul(&weight.t()?)
}

impl Module for QMatMul {
    fn forward(&self, xs: &Tensor) -> Result<Tensor> {
        match self {
            Self::QTensor(weight) => xs.apply_op1_no_bwd(weight.as_ref()),
            Self::Tensor(weight) => product(xs, weight),
            Self::TensorF16(weight) => product(&xs.to_dtype(DType::F16)?, weight)?.to_dtype(xs.dtype()),
        }
    }
}
