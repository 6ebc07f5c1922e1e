//! candle's backend traits on an Ascend NPU, operator by operator through aclnn.
//!
//! Every method of [`candle_core::backend::BackendStorage`] is one or a few launches on the device's stream; nothing is
//! computed on the host. What the device has no operator for is a typed error ([`crate::acl::Error`]).
//!
//! **Element types.** aclnn has no arithmetic on UINT32, which candle uses for indexes. Where two's complement makes the
//! bits of the answer those of INT32 (copies, `+ - *`, sums, `== !=`) the operator is told INT32; elsewhere the values
//! are converted to INT64 on the device, and back.
//!
//! **Indexes** are not checked against the dimension on the host, which would mean waiting for the device. As on candle's
//! other devices the largest value of the index type means "nothing": gather and select give 0 there, the adding
//! operators skip it. `scatter_set` has no such value here.

mod backend;
mod binary;
mod device;
mod dtype;
mod fused;
mod grad;
mod index;
mod latent;
mod linalg;
mod moe;
mod ours;
mod ours_products;
mod reduce;
mod storage;
mod unary;

pub use device::NpuDevice;
pub use fused::{AttentionLayout, AttentionMask};
pub use grad::{AdamWStep, RowStatistics};
pub use index::arg_sort_last_dim;
pub use latent::{LatentShape, LatentStep};
pub use moe::SigmoidGate;
pub use ours::Selected;
pub use storage::NpuStorage;
