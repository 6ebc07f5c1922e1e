//! Raw declarations of CANN's ACL runtime, of the aclnn meta interface and of the aclnn operators.
//!
//! This crate only declares and loads: the functions ([`acl_functions!`]), the operators ([`aclnn_operators!`]),
//! enumerations, structures, error codes with advice, and the search for the installed libraries. On request it measures
//! the time spent in the functions ([`timing`]). It frees nothing and decides nothing; that is the backend's work.

pub mod aclnn;
pub mod enums;
pub mod error;
pub mod installed;
pub mod loader;
mod messages;
pub mod runtime;
pub mod timing;
pub mod types;

pub use enums::*;
pub use installed::Installed;
pub use loader::{Acl, Aclnn, Library, MissingSymbol, Operator, SymbolSource};
pub use types::*;
