//! The device that tensors live on, chosen at run time.

use crate::cuda::explained;
use crate::npu::NpuDevice;
use crate::storage::Storage;
use crate::{CpuStorage, CudaDevice, DType, Error, Graph, Result, Shape, WithDType, bail};
use candle_core::backend::BackendDevice;
use candle_core::cpu_backend::CpuDevice;
use std::result::Result as StdResult;

/// Where a device physically is; several [`Device`] handles may share a location.
#[derive(Debug, Copy, Clone, PartialEq, Eq, Hash)]
pub enum DeviceLocation {
    Cpu,
    Cuda { gpu_id: usize },
    Npu { npu_id: usize },
}

impl DeviceLocation {
    /// candle's location, which has no word for an NPU.
    pub(crate) fn to_candle(self) -> Option<candle_core::DeviceLocation> {
        match self {
            Self::Cpu => Some(candle_core::DeviceLocation::Cpu),
            Self::Cuda { gpu_id } => Some(candle_core::DeviceLocation::Cuda { gpu_id }),
            Self::Npu { .. } => None,
        }
    }
}

/// Why a capture failed.
enum Failed<E> {
    Work(E),
    Device(crate::acl::Error),
}

impl<E> From<crate::acl::Error> for Failed<E> {
    fn from(error: crate::acl::Error) -> Self {
        Self::Device(error)
    }
}

/// The CPU, a CUDA device or an Ascend NPU (a card, or the simulated one: nothing above the loader knows which).
#[derive(Debug, Clone)]
pub enum Device {
    Cpu,
    Cuda(CudaDevice),
    Npu(NpuDevice),
}

impl Device {
    /// CUDA device `ordinal`; an error in a build without the feature `cuda`.
    pub fn new_cuda(ordinal: usize) -> Result<Self> {
        Ok(Self::Cuda(crate::cuda::open(ordinal)?))
    }

    /// CUDA device `ordinal` with a stream of its own; an error in a build without the feature `cuda`.
    pub fn new_cuda_with_stream(ordinal: usize) -> Result<Self> {
        Ok(Self::Cuda(crate::cuda::open_with(ordinal, CudaDevice::new_with_stream)?))
    }

    /// An error: this backend has no Metal device. Kept because code written for candle asks.
    pub fn new_metal(_ordinal: usize) -> Result<Self> {
        Err(Error::NotCompiledWithMetalSupport.bt())
    }

    /// The CPU: this backend has no Metal device.
    pub fn metal_if_available(_ordinal: usize) -> Result<Self> {
        Ok(Self::Cpu)
    }

    /// CUDA device `ordinal` when this build and this machine have one, else the CPU. A GPU that is there and cannot be
    /// used, for one because its driver is too old, is an error.
    pub fn cuda_if_available(ordinal: usize) -> Result<Self> {
        match Self::new_cuda(ordinal) {
            Err(error) if crate::cuda::is_absent(&error) => Ok(Self::Cpu),
            opened => opened,
        }
    }

    /// NPU `ordinal` of the installed CANN.
    pub fn new_npu(ordinal: usize) -> Result<Self> {
        Ok(Self::Npu(NpuDevice::new(ordinal)?))
    }

    /// Simulated NPU `ordinal` of chip `soc` (`"910b4"`; empty for the simulator's default). An error unless the program
    /// has registered a simulator ([`crate::register_simulator`]).
    pub fn new_sim(soc: &str, ordinal: usize) -> Result<Self> {
        Ok(Self::Npu(NpuDevice::simulated(soc, ordinal)?))
    }

    /// The CUDA device, or an error that names what this is.
    pub fn as_cuda_device(&self) -> Result<&CudaDevice> {
        match self {
            Self::Cuda(device) => Ok(device),
            other => bail!("expected a cuda device, got {}", other.kind()),
        }
    }

    /// The NPU, or an error that names what this is.
    pub fn as_npu_device(&self) -> Result<&NpuDevice> {
        match self {
            Self::Npu(device) => Ok(device),
            other => bail!("expected an npu device, got {}", other.kind()),
        }
    }

    /// `cpu`, `cuda` or `npu`.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Cpu => "cpu",
            Self::Cuda(_) => "cuda",
            Self::Npu(_) => "npu",
        }
    }

    pub fn is_cpu(&self) -> bool {
        matches!(self, Self::Cpu)
    }

    pub fn is_cuda(&self) -> bool {
        matches!(self, Self::Cuda(_))
    }

    pub fn is_npu(&self) -> bool {
        matches!(self, Self::Npu(_))
    }

    /// Always false: this backend has no Metal device. Kept because code written for candle asks.
    pub fn is_metal(&self) -> bool {
        false
    }

    /// Runs `f` with what the device keeps ready for many short calls: candle's pool of threads on the CPU.
    pub fn with_context<F: FnOnce() -> R + Send, R: Send>(&self, f: F) -> R {
        match self {
            Self::Cpu => candle_core::utils::with_threadpool(f),
            Self::Cuda(_) | Self::Npu(_) => f(),
        }
    }

    pub fn location(&self) -> DeviceLocation {
        let ordinal = |location| match location {
            candle_core::DeviceLocation::Cpu => 0,
            candle_core::DeviceLocation::Cuda { gpu_id } | candle_core::DeviceLocation::Metal { gpu_id } => gpu_id,
        };
        match self {
            Self::Cpu => DeviceLocation::Cpu,
            Self::Cuda(device) => DeviceLocation::Cuda { gpu_id: ordinal(device.location()) },
            Self::Npu(device) => DeviceLocation::Npu { npu_id: device.ordinal() },
        }
    }

    /// Whether both handles mean the same device, so that one operator may take operands of both.
    pub fn same_device(&self, rhs: &Self) -> bool {
        match (self, rhs) {
            (Self::Cpu, Self::Cpu) => true,
            (Self::Cuda(lhs), Self::Cuda(rhs)) => lhs.same_device(rhs),
            (Self::Npu(lhs), Self::Npu(rhs)) => lhs.same_device(rhs),
            _ => false,
        }
    }

    /// Seeds the device's random numbers; the CPU's generator cannot be seeded, as in candle.
    pub fn set_seed(&self, seed: u64) -> Result<()> {
        match self {
            Self::Cpu => CpuDevice.set_seed(seed),
            Self::Cuda(device) => device.set_seed(seed),
            Self::Npu(device) => device.set_seed(seed),
        }
    }

    pub fn get_current_seed(&self) -> Result<u64> {
        match self {
            Self::Cpu => CpuDevice.get_current_seed(),
            Self::Cuda(device) => device.get_current_seed(),
            Self::Npu(device) => device.get_current_seed(),
        }
    }

    /// Waits until the device has done all work given to it.
    pub fn synchronize(&self) -> Result<()> {
        match self {
            Self::Cpu => Ok(()),
            Self::Cuda(device) => device.synchronize().map_err(explained),
            Self::Npu(device) => device.synchronize(),
        }
    }

    /// Records what `work` gives the device to do, without doing it, to be done as often as wanted by
    /// [`Graph::replay`]: see [`crate::acl::Context::capture`] for what `work` may do and what becomes of its tensors.
    /// `None`, and `work` is not called, on a device that has no graphs.
    pub fn capture<R, E: From<Error>>(
        &self,
        work: impl FnOnce() -> StdResult<R, E>,
    ) -> StdResult<Option<(Graph, R)>, E> {
        match self {
            Self::Npu(device) => {
                // The layer below has errors of its own; those of `work` pass it untouched.
                let captured = device.context().capture(|| work().map_err(Failed::Work));
                captured.map_err(|failed| match failed {
                    Failed::Work(error) => error,
                    Failed::Device(error) => E::from(error.into()),
                })
            }
            Self::Cpu | Self::Cuda(_) => Ok(None),
        }
    }

    /// Runs `work`, which gives this device things to do. An NPU counts what of the time was this program's own
    /// ([`crate::acl::Counters::timed_host_nanos`]); elsewhere nothing is measured.
    pub fn timed<R>(&self, work: impl FnOnce() -> R) -> R {
        match self {
            Self::Npu(device) => device.context().timed(work),
            Self::Cpu | Self::Cuda(_) => work(),
        }
    }

    /// Whether models should run in bf16 here: everywhere, as the CPU has products of its own for it (candle's has not).
    pub fn supports_bf16(&self) -> bool {
        true
    }

    /// BF16 where the device is fast at it, else F32.
    pub fn bf16_default_to_f32(&self) -> DType {
        if self.supports_bf16() { DType::BF16 } else { DType::F32 }
    }

    pub(crate) fn zeros(&self, shape: &Shape, dtype: DType) -> Result<Storage> {
        Ok(match self {
            Self::Cpu => Storage::Cpu(CpuDevice.zeros_impl(shape, dtype)?),
            Self::Cuda(device) => Storage::Cuda(device.zeros_impl(shape, dtype).map_err(explained)?),
            Self::Npu(device) => Storage::Npu(device.zeros_impl(shape, dtype)?),
        })
    }

    pub(crate) fn rand_uniform(&self, shape: &Shape, dtype: DType, lo: f64, up: f64) -> Result<Storage> {
        Ok(match self {
            Self::Cpu => Storage::Cpu(CpuDevice.rand_uniform(shape, dtype, lo, up)?),
            Self::Cuda(device) => Storage::Cuda(device.rand_uniform(shape, dtype, lo, up).map_err(explained)?),
            Self::Npu(device) => Storage::Npu(device.rand_uniform(shape, dtype, lo, up)?),
        })
    }

    pub(crate) fn rand_normal(&self, shape: &Shape, dtype: DType, mean: f64, std: f64) -> Result<Storage> {
        Ok(match self {
            Self::Cpu => Storage::Cpu(CpuDevice.rand_normal(shape, dtype, mean, std)?),
            Self::Cuda(device) => Storage::Cuda(device.rand_normal(shape, dtype, mean, std).map_err(explained)?),
            Self::Npu(device) => Storage::Npu(device.rand_normal(shape, dtype, mean, std)?),
        })
    }

    pub(crate) fn storage_from_slice<T: WithDType>(&self, data: &[T]) -> Result<Storage> {
        Ok(match self {
            Self::Cpu => Storage::Cpu(T::to_cpu_storage(data)),
            Self::Cuda(device) => Storage::Cuda(device.storage_from_slice(data).map_err(explained)?),
            Self::Npu(device) => Storage::Npu(device.storage_from_slice(data)?),
        })
    }

    /// Storage on this device with the elements of host storage, which is moved when this is the CPU.
    pub(crate) fn storage_from_cpu(&self, storage: CpuStorage) -> Result<Storage> {
        Ok(match self {
            Self::Cpu => Storage::Cpu(storage),
            Self::Cuda(device) => Storage::Cuda(device.storage_from_cpu_storage_owned(storage).map_err(explained)?),
            Self::Npu(device) => Storage::Npu(device.storage_from_cpu_storage_owned(storage)?),
        })
    }
}
