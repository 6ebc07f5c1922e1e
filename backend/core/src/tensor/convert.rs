//! Between devices, between this tensor and candle's, and to text.

use super::Tensor;
use crate::autograd::record;
use crate::ops::View;
use crate::{DType, Device, Error, Result, Storage, WithDType, bail};
use candle_core::op::BackpropOp;
use std::fmt;

impl Tensor {
    /// The elements on another device; between accelerators they pass through the host.
    pub fn to_device(&self, device: &Device) -> Result<Self> {
        if self.device().same_device(device) {
            return Ok(self.clone());
        }
        let moved = Self::from_storage(device.storage_from_cpu(self.to_host_storage()?)?, self.shape());
        Ok(record(moved, &View::ToDevice, [self]))
    }

    /// A copy as candle's tensor; elements of an NPU come to the CPU.
    pub fn to_candle(&self) -> Result<candle_core::Tensor> {
        let storage = match self.device() {
            Device::Cuda(_) => match self.fresh_copy()? {
                Storage::Cuda(storage) => candle_core::Storage::Cuda(storage),
                _ => bail!("a tensor on a cuda device has storage elsewhere"),
            },
            Device::Cpu | Device::Npu(_) => candle_core::Storage::Cpu(self.to_host_storage()?),
        };
        Ok(candle_core::Tensor::from_storage(storage, self.shape(), BackpropOp::none(), false))
    }

    /// A copy of candle's tensor on the device it is on.
    pub fn from_candle(tensor: &candle_core::Tensor) -> Result<Self> {
        let tensor = tensor.contiguous()?;
        let (storage, layout) = tensor.storage_and_layout();
        let storage = match &*storage {
            candle_core::Storage::Cpu(storage) => Storage::Cpu(storage.clone()),
            candle_core::Storage::Cuda(storage) => {
                use candle_core::backend::BackendStorage;
                Storage::Cuda(storage.try_clone(layout)?)
            }
            candle_core::Storage::Metal(_) => bail!("tensors on Metal devices cannot be converted"),
        };
        // The clone is of the whole storage, of which the tensor may be a row-major part.
        let whole = Self::from_storage(storage, layout.shape());
        if layout.start_offset() == 0 { Ok(whole) } else { whole.with_layout(layout.clone()).force_contiguous() }
    }

    /// Writes the elements as little-endian bytes in row-major order.
    pub fn write_bytes<W: std::io::Write>(&self, f: &mut W) -> Result<()> {
        Ok(f.write_all(&crate::safetensors::bytes(self)?)?)
    }

    /// A tensor of type `dtype` from its little-endian bytes in row-major order, as safetensors files hold them.
    pub fn from_raw_buffer(data: &[u8], dtype: DType, shape: &[usize], device: &Device) -> Result<Self> {
        fn of<T: WithDType + bytemuck::Pod>(data: &[u8], shape: &[usize], device: &Device) -> Result<Tensor> {
            let count: usize = shape.iter().product();
            if data.len() != count * size_of::<T>() {
                bail!("{} bytes do not hold the {count} {:?} elements of shape {shape:?}", data.len(), T::DTYPE)
            }
            // Aligned bytes (a mapped file) go to the device as they are; others are gathered first.
            match bytemuck::try_cast_slice(data) {
                Ok(values) => Tensor::from_slice::<_, T>(values, shape, device),
                Err(_) => {
                    let mut values = vec![T::zero(); count];
                    bytemuck::cast_slice_mut(&mut values).copy_from_slice(data);
                    Tensor::from_vec(values, shape, device)
                }
            }
        }
        match dtype {
            DType::U8 => of::<u8>(data, shape, device),
            DType::U32 => of::<u32>(data, shape, device),
            DType::I16 => of::<i16>(data, shape, device),
            DType::I32 => of::<i32>(data, shape, device),
            DType::I64 => of::<i64>(data, shape, device),
            DType::BF16 => of::<half::bf16>(data, shape, device),
            DType::F16 => of::<half::f16>(data, shape, device),
            DType::F32 => of::<f32>(data, shape, device),
            DType::F64 => of::<f64>(data, shape, device),
            DType::F8E4M3 => {
                let values: Vec<_> = data.iter().map(|&bits| float8::F8E4M3::from_bits(bits)).collect();
                Self::from_vec(values, shape, device)
            }
            dtype => Err(Error::UnsupportedDTypeForOp(dtype, "from-raw-buffer").bt()),
        }
    }
}

impl TryFrom<&candle_core::Tensor> for Tensor {
    type Error = Error;
    fn try_from(tensor: &candle_core::Tensor) -> Result<Self> {
        Self::from_candle(tensor)
    }
}

impl TryFrom<&Tensor> for candle_core::Tensor {
    type Error = Error;
    fn try_from(tensor: &Tensor) -> Result<Self> {
        tensor.to_candle()
    }
}

macro_rules! into_vec {
    ($vec:ty, $read:ident) => {
        impl TryFrom<&Tensor> for $vec {
            type Error = Error;
            fn try_from(tensor: &Tensor) -> Result<Self> {
                tensor.$read()
            }
        }

        impl TryFrom<Tensor> for $vec {
            type Error = Error;
            fn try_from(tensor: Tensor) -> Result<Self> {
                tensor.$read()
            }
        }
    };
}

// One type at a time: a blanket implementation could overlap with itself if `Vec` ever became an element type.
macro_rules! into_vecs {
    ($($element:ty),*) => { $(
        into_vec!(Vec<$element>, to_vec1);
        into_vec!(Vec<Vec<$element>>, to_vec2);
        into_vec!(Vec<Vec<Vec<$element>>>, to_vec3);
    )* };
}
into_vecs!(u8, u32, i16, i32, i64, half::bf16, half::f16, f32, f64, float8::F8E4M3);

/// The value of a rank-0 tensor, and a rank-0 tensor on the CPU.
macro_rules! scalars {
    ($($element:ty),*) => { $(
        into_vec!($element, to_scalar);

        impl TryFrom<$element> for Tensor {
            type Error = Error;
            fn try_from(value: $element) -> Result<Self> {
                Self::new(value, &Device::Cpu)
            }
        }
    )* };
}
scalars!(u8, u32, i16, i32, i64, half::bf16, half::f16, f32, f64);

impl<T: WithDType> TryFrom<&[T]> for Tensor {
    type Error = Error;
    fn try_from(values: &[T]) -> Result<Self> {
        Self::from_slice(values, values.len(), &Device::Cpu)
    }
}

impl<T: WithDType> TryFrom<Vec<T>> for Tensor {
    type Error = Error;
    fn try_from(values: Vec<T>) -> Result<Self> {
        let count = values.len();
        Self::from_vec(values, count, &Device::Cpu)
    }
}

/// As candle prints tensors, after a copy to the host.
impl fmt::Display for Tensor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.to_candle() {
            Ok(tensor) => fmt::Display::fmt(&tensor, f),
            Err(error) => write!(f, "{self:?} ({error})"),
        }
    }
}

/// Shape, type and device; the elements are not read.
impl fmt::Debug for Tensor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Tensor[{:?}; {}, {:?}]", self.dims(), self.dtype().as_str(), self.device().location())
    }
}
