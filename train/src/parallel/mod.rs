//! Training on several devices: each rank computes the gradients of its own batches, and all change the parameters alike.
//!
//! Gradients travel in buckets while backward goes on ([`Gradients`](crate::Gradients)). What the optimizer keeps can be
//! divided among the ranks ([`Zero`], after Rajbhandari et al., arXiv 1910.02054): a rank then changes its piece of each
//! bucket, and the pieces are gathered afterwards. [`Partition`] is both, so that a trainer need not know which.

mod agree;
mod buckets;
mod partition;
mod state;

pub(crate) use buckets::Bucket;
pub use partition::{Partition, Sharding, Zero};
