//! The simulated CANN: the C interface of ACL, aclnn and HCCL, implemented on the CPU.
//!
//! It is a product and stricter than a card: device memory cannot be touched by the host, streams are asynchronous,
//! memory is hostile, handles have lives, and what an operator's page does not allow is refused with the real code.
//! [`Embedded`] gives its symbols to a program that it is linked into; the `cdylib` gives them to any C program.

pub mod aclnn;
pub mod dtype;
mod embedded;
pub mod hccl;
pub mod ops;
pub mod runtime;
pub mod status;

pub use embedded::Embedded;
pub use runtime::config::Config;
pub use runtime::cost::{Modelled, modelled};
