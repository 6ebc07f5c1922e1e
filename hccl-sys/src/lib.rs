//! Raw declarations of HCCL, Huawei's collective communication library.
//!
//! Every function of CANN 8.1 and 9.1 is declared ([`hccl_functions!`]): the communicators and collectives of `hccl.h`,
//! and what authors of communication kernels use (channels, teams, rank graph). Like `acl-sys`, this crate declares and
//! loads, and decides nothing.

pub mod enums;
pub mod error;
pub mod functions;
pub mod types;

pub use enums::*;
pub use functions::{FUNCTIONS, Hccl};
pub use types::*;
