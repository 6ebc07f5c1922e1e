//! Values back on the host. Every function here waits for the device.

use super::Tensor;
use crate::{CpuStorage, Error, Result, WithDType};

impl Tensor {
    /// The elements of this view in row-major order.
    pub(crate) fn host_values<T: WithDType>(&self) -> Result<Vec<T>> {
        // Off the host, a view is made compact first, so that only its own elements are transferred.
        let compact;
        let source = if self.device().is_cpu() && self.is_contiguous() {
            self
        } else {
            compact = self.compact()?;
            &compact
        };
        let (offset, count) = (source.layout().start_offset(), source.elem_count());
        match &*source.storage() {
            crate::Storage::Cpu(storage) => Ok(T::cpu_storage_as_slice(storage)?[offset..offset + count].to_vec()),
            storage => {
                let mut values = T::cpu_storage_data(storage.to_cpu_storage()?)?;
                values.truncate(offset + count);
                Ok(if offset == 0 { values } else { values.split_off(offset) })
            }
        }
    }

    /// This view over storage that starts with its first element, in row-major order.
    pub(crate) fn compact(&self) -> Result<Self> {
        if self.is_contiguous() && self.layout().start_offset() == 0 {
            Ok(self.clone())
        } else {
            self.force_contiguous()
        }
    }

    /// The elements of this view as host storage.
    pub(crate) fn to_host_storage(&self) -> Result<CpuStorage> {
        fn of<T: WithDType>(tensor: &Tensor) -> Result<CpuStorage> {
            Ok(T::to_cpu_storage_owned(tensor.host_values::<T>()?))
        }
        use crate::DType::*;
        match self.dtype() {
            U8 => of::<u8>(self),
            U32 => of::<u32>(self),
            I16 => of::<i16>(self),
            I32 => of::<i32>(self),
            I64 => of::<i64>(self),
            BF16 => of::<half::bf16>(self),
            F16 => of::<half::f16>(self),
            F32 => of::<f32>(self),
            F64 => of::<f64>(self),
            F8E4M3 => of::<float8::F8E4M3>(self),
            dtype => Err(Error::UnsupportedDTypeForOp(dtype, "to-host").bt()),
        }
    }

    fn expect_rank(&self, expected: usize) -> Result<()> {
        if self.rank() == expected {
            return Ok(());
        }
        Err(Error::UnexpectedNumberOfDims { expected, got: self.rank(), shape: self.shape().clone() }.bt())
    }

    /// The value of a rank-0 tensor.
    pub fn to_scalar<S: WithDType>(&self) -> Result<S> {
        self.expect_rank(0)?;
        Ok(self.host_values::<S>()?[0])
    }

    /// As [`Tensor::to_scalar`].
    pub fn to_vec0<S: WithDType>(&self) -> Result<S> {
        self.to_scalar()
    }

    /// The elements of a rank-1 tensor.
    pub fn to_vec1<S: WithDType>(&self) -> Result<Vec<S>> {
        self.expect_rank(1)?;
        self.host_values()
    }

    /// The rows of a rank-2 tensor.
    pub fn to_vec2<S: WithDType>(&self) -> Result<Vec<Vec<S>>> {
        let (rows, columns) = self.dims2()?;
        Ok(nested(self.host_values()?, rows, columns))
    }

    /// The matrices of a rank-3 tensor.
    pub fn to_vec3<S: WithDType>(&self) -> Result<Vec<Vec<Vec<S>>>> {
        let (matrices, rows, columns) = self.dims3()?;
        Ok(nested(nested(self.host_values()?, matrices * rows, columns), matrices, rows))
    }
}

/// `values` in `count` groups of `size`.
fn nested<T>(values: Vec<T>, count: usize, size: usize) -> Vec<Vec<T>> {
    let mut values = values.into_iter();
    (0..count).map(|_| values.by_ref().take(size).collect()).collect()
}
