//! Collectives over several NPUs or GPUs: communicators, and how the processes of a job find each other.
//!
//! A [`Job`] says who this process is, from the environment that the launcher made: `npu-run launch`, torchrun, Slurm,
//! MPI or msrun. [`Communicator::connect`] then joins all of its ranks:
//!
//! ```no_run
//! use candle_ascend::comm::{Communicator, Job, Reduction};
//! use candle_ascend::{Device, Tensor};
//! # fn main() -> candle_ascend::Result<()> {
//! let job = Job::from_env()?;
//! let device = Device::new_npu(job.local_rank)?;
//! let ranks = Communicator::connect(&device, &job)?;
//! let sum = ranks.all_reduce(&Tensor::new(&[job.rank as f32], &device)?, Reduction::Sum)?;
//! # Ok(())
//! # }
//! ```

mod communicator;
mod error;
mod hccl;
mod job;
#[cfg(feature = "cuda")]
mod nccl;
mod rendezvous;

pub use crate::acl::RootInfo;
pub use communicator::{Communicator, Pending, Reduction};
pub use error::Error;
pub use job::Job;
pub use rendezvous::exchange;
