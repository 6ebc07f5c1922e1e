//! CUDA for this workspace, in three parts.
//!
//! **The driver, found at run time.** candle 0.11 has cudarc link the CUDA libraries, so that a program built with the
//! feature `cuda` would not start on a machine without a driver. This crate defines every function of those libraries
//! that cudarc can name ([`libraries`]); each jumps through a table that the first `cuInit` fills from the libraries
//! that it finds. [`open`] does so with words: what is missing, too old or refused, and what to do.
//!
//! **NCCL, found at run time** ([`nccl`]): collectives on a stream of their own, which a thread looks after.
//!
//! **Kernels** (feature `candle`, module `launch`): fused operators that candle has no CUDA code for, or has code that rounds
//! in between, as CUDA C in `cu/`, launched on candle's CUDA storage.

#[cfg(feature = "candle")]
pub mod collective;
mod driver;
mod entries;
mod error;
#[cfg(feature = "candle")]
pub mod launch;
pub mod libraries;
pub mod nccl;
pub mod plan;
mod stream;

pub use driver::{Gpu, open};
pub use error::{Error, code_name};

/// A CUDA release, as drivers and toolkits number it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Version {
    pub major: u32,
    pub minor: u32,
}

impl Version {
    /// From CUDA's own number: 13000 is 13.0, 12040 is 12.4.
    pub const fn from_number(number: u32) -> Self {
        Self { major: number / 1000, minor: number % 1000 / 10 }
    }
}

impl std::fmt::Display for Version {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

/// The toolkit that this program was built with. Without the feature `candle` nothing was, and the one that the build
/// script brings stands here.
pub const BUILT: Version = {
    #[cfg(feature = "candle")]
    let number = candle_core::cuda_backend::cudarc::driver::sys::CUDA_VERSION;
    #[cfg(not(feature = "candle"))]
    let number = 13000;
    Version::from_number(number)
};
