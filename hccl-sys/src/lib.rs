//! Raw declarations of HCCL, Huawei's collective communication library.
//!
//! The communicator and collective interface of `hccl.h` is declared ([`hccl_functions!`]); the interfaces that only
//! authors of communication kernels use (channels, teams, rank graph) are not. Like `acl-sys`, this crate declares and
//! loads, and decides nothing.

pub mod enums;
pub mod error;
pub mod functions;
pub mod types;

pub use enums::*;
pub use functions::{FUNCTIONS, Hccl};
pub use types::*;
