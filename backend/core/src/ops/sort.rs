//! Sorting along the last dimension.

use crate::{D, Device, Error, Result, Storage, Tensor, bail};

/// Elements of a row that candle's kernel for GPUs sorts: it keeps an index of each, filled up to a power of two, in shared memory, of
/// which a kernel has 48 KiB unasked.
const MOST_ON_CUDA: usize = 8192;

/// Indexes (U32) that order the last dimension of row-major `x`; ties keep no order, as in candle. Long rows of a GPU are sorted on the host.
pub(crate) fn arg_sort_last_dim(x: &Tensor, ascending: bool) -> Result<Tensor> {
    if !x.is_contiguous() {
        return Err(Error::RequiresContiguous { op: "arg_sort_last_dim" }.bt());
    }
    if x.rank() == 0 {
        bail!("empty last-dim in arg-sort")
    }
    match x.device() {
        Device::Cuda(_) if x.dim(D::Minus1)? > MOST_ON_CUDA => {
            arg_sort_last_dim(&x.to_device(&Device::Cpu)?, ascending)?.to_device(x.device())
        }
        Device::Cpu | Device::Cuda(_) => Tensor::from_candle(&x.to_candle()?.arg_sort_last_dim(ascending)?),
        Device::Npu(_) => match &*x.storage() {
            Storage::Npu(storage) => {
                let sorted = crate::npu::arg_sort_last_dim(storage, x.layout(), ascending)?;
                Ok(Tensor::from_storage(Storage::Npu(sorted), x.shape()))
            }
            _ => bail!("a tensor on an NPU has storage elsewhere"),
        },
    }
}
