//! What can go wrong between this program and a GPU, and what to do then.

use crate::Version;
use std::fmt;

/// Why CUDA cannot be used, or a call of it failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// `tried` has a line for each place, each after a line break.
    #[error(
        "no NVIDIA driver was found (libcuda.so.1)\n  install the driver, or give a container its GPUs \
         (docker run --gpus all). Tried:{tried}"
    )]
    NoDriver { tried: String },
    #[error(
        "the NVIDIA driver is too old: it supports CUDA {found}, and this program was built with CUDA {built}\n  update the \
         driver (nvidia-smi prints the CUDA release that a driver supports), or build with a toolkit of CUDA {found} or \
         older"
    )]
    DriverTooOld { found: Version, built: Version },
    /// A library of the toolkit, which is not part of the driver.
    #[error(
        "{file} of CUDA {built} was not found\n  it comes with the CUDA toolkit and with PyPI's nvidia-* packages: name the \
         folder above its lib or lib64 in CUDA_HOME, or add its folder to LD_LIBRARY_PATH. Tried:{tried}"
    )]
    NoLibrary { file: String, built: Version, tried: String },
    #[error(
        "cuda:{index} does not exist: the driver has {count} device(s), counted from 0 (CUDA_VISIBLE_DEVICES hides some)"
    )]
    NoDevice { index: usize, count: usize },
    /// The driver answered with an error code.
    #[error("{call} failed with {code} {}", Code(*code))]
    Driver { call: &'static str, code: i32 },
    /// Bytes; both zero when the driver did not even say them.
    #[error(
        "out of memory on the GPU: {} free of {}\n  use a smaller batch, context or element type, another GPU \
         (--device cuda:N), or end what else runs on it (nvidia-smi lists it)",
        Mib(*free), Mib(*total)
    )]
    OutOfMemory { free: usize, total: usize },
}

impl Error {
    /// Whether this machine has no such GPU, rather than one that cannot be used.
    pub fn is_absent(&self) -> bool {
        const NO_DEVICE: i32 = 100;
        matches!(self, Self::NoDriver { .. } | Self::NoDevice { .. } | Self::Driver { code: NO_DEVICE, .. })
    }
}

/// The driver's codes that a user can do something about: number, name, meaning, advice.
const CODES: [(i32, &str, &str, &str); 16] = [
    (2, "CUDA_ERROR_OUT_OF_MEMORY", "the GPU has no memory left", "end what else runs on it (nvidia-smi lists it)"),
    (
        3,
        "CUDA_ERROR_NOT_INITIALIZED",
        "CUDA was not initialised",
        "open the device through candle_ascend::Device::new_cuda",
    ),
    (34, "CUDA_ERROR_STUB_LIBRARY", "there is no driver, only what links in its stead", "install the NVIDIA driver"),
    (36, "CUDA_ERROR_CALL_REQUIRES_NEWER_DRIVER", "the driver lacks this function", "update the NVIDIA driver"),
    (46, "CUDA_ERROR_DEVICE_UNAVAILABLE", "the GPU is busy or in exclusive use", "see nvidia-smi, compute mode"),
    (100, "CUDA_ERROR_NO_DEVICE", "the driver sees no GPU", "check nvidia-smi and CUDA_VISIBLE_DEVICES"),
    (101, "CUDA_ERROR_INVALID_DEVICE", "there is no GPU of this index", "check nvidia-smi and CUDA_VISIBLE_DEVICES"),
    (
        209,
        "CUDA_ERROR_NO_BINARY_FOR_GPU",
        "the kernels were built for another architecture",
        "build with CUDA_COMPUTE_CAP of this GPU (nvidia-smi --query-gpu=compute_cap --format=csv)",
    ),
    (
        218,
        "CUDA_ERROR_INVALID_PTX",
        "the kernels were built for a newer architecture",
        "build with CUDA_COMPUTE_CAP of this GPU",
    ),
    (
        222,
        "CUDA_ERROR_UNSUPPORTED_PTX_VERSION",
        "the toolkit of the build is newer than the driver",
        "update the NVIDIA driver",
    ),
    (
        700,
        "CUDA_ERROR_ILLEGAL_ADDRESS",
        "a kernel read or wrote outside of its memory",
        "start again: the GPU's state is lost; please report it",
    ),
    (719, "CUDA_ERROR_LAUNCH_FAILED", "a kernel failed", "start again: the GPU's state is lost; please report it"),
    (802, "CUDA_ERROR_SYSTEM_NOT_READY", "the system is not ready", "check that nvidia-fabricmanager runs"),
    (
        803,
        "CUDA_ERROR_SYSTEM_DRIVER_MISMATCH",
        "libcuda and the kernel's driver differ",
        "restart the machine after a driver update",
    ),
    (
        804,
        "CUDA_ERROR_COMPAT_NOT_SUPPORTED_ON_DEVICE",
        "forward compatibility is not for this GPU",
        "take the compat folder of CUDA out of LD_LIBRARY_PATH, or update the driver",
    ),
    (999, "CUDA_ERROR_UNKNOWN", "the driver says no more", "see dmesg, and whether /dev/nvidia* may be opened"),
];

/// The name of one of the driver's codes, if it is known here.
pub fn code_name(code: i32) -> Option<&'static str> {
    CODES.iter().find(|row| row.0 == code).map(|row| row.1)
}

struct Code(i32);

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match CODES.iter().find(|row| row.0 == self.0) {
            Some((_, name, meaning, advice)) => write!(f, "{name}: {meaning}\n  try: {advice}"),
            None => f.write_str("(a code that is not known here; see CUresult in NVIDIA's driver API)"),
        }
    }
}

struct Mib(usize);

impl fmt::Display for Mib {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} MiB", self.0 >> 20)
    }
}
