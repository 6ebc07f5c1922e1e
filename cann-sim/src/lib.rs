//! The simulated CANN: the C interface of ACL, aclnn and HCCL, implemented on the CPU.
//!
//! It is a product and stricter than a card: device memory cannot be touched by the host, streams are asynchronous,
//! memory is hostile, handles have lives, and what an operator's page does not allow is refused with the real code.

pub mod aclnn;
pub mod dtype;
pub mod ops;
pub mod runtime;
pub mod status;
