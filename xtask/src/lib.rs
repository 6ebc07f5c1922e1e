//! Maintenance tasks: the facts of the C interface, their comparison with the declarations, and generated documents.

pub mod bindgen;
pub mod compare;
pub mod ctype;
pub mod cuda_symbols;
pub mod declared;
pub mod facts;
pub mod import;
pub mod operators;

use std::path::{Path, PathBuf};

/// Root of the workspace.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().map(Path::to_owned).unwrap_or_default()
}
