//! CUDA devices through candle: opened with words for what is missing, and candle's errors in those words.
//!
//! In a build without the feature `cuda`, candle answers every call with an error that says so.

use crate::{CudaDevice, Error, Result};
use candle_core::backend::BackendDevice;

/// GPU `ordinal`, after the driver, its age and the toolkit's libraries have been looked at.
pub(crate) fn open(ordinal: usize) -> Result<CudaDevice> {
    open_with(ordinal, CudaDevice::new)
}

/// As [`open`], by the constructor `new`.
pub(crate) fn open_with(ordinal: usize, new: fn(usize) -> Result<CudaDevice>) -> Result<CudaDevice> {
    #[cfg(feature = "cuda")]
    npu_cuda::open(ordinal).map_err(npu_cuda::launch::to_candle)?;
    new(ordinal).map_err(explained)
}

/// Whether `error` says that this machine has no such GPU, rather than one that cannot be used.
pub(crate) fn is_absent(error: &Error) -> bool {
    #[cfg(feature = "cuda")]
    return npu_cuda::launch::error_in(error).is_some_and(npu_cuda::Error::is_absent);
    #[cfg(not(feature = "cuda"))]
    return matches!(error, Error::NotCompiledWithCudaSupport);
}

/// Name, memory and driver of GPU `ordinal`, in one line.
///
/// # Errors
/// As opening it; in a build without the feature `cuda`, that the build has none.
pub fn describe(ordinal: usize) -> Result<String> {
    #[cfg(feature = "cuda")]
    return npu_cuda::open(ordinal).map(|gpu| gpu.to_string()).map_err(npu_cuda::launch::to_candle);
    #[cfg(not(feature = "cuda"))]
    return CudaDevice::new(ordinal).map(|_| String::new());
}

/// An error of an operation on a GPU with what it means and what to do, where that is known.
pub(crate) fn explained(error: Error) -> Error {
    #[cfg(feature = "cuda")]
    return npu_cuda::launch::explained(error);
    #[cfg(not(feature = "cuda"))]
    return error;
}
