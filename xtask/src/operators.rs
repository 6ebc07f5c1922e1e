//! `docs/operators.md`, written from the operator table.

use acl_sys::loader::{OPERATORS, OperatorDecl};
use anyhow::{Context, Result};
use std::fmt::Write;
use std::path::PathBuf;

/// Where the document lies.
pub fn path() -> PathBuf {
    crate::root().join("docs/operators.md")
}

/// Writes the document.
///
/// # Errors
/// The file cannot be written.
pub fn write() -> Result<()> {
    let path = path();
    std::fs::write(&path, document()).with_context(|| format!("writing {}", path.display()))
}

/// The document's text.
pub fn document() -> String {
    let simulated = OPERATORS.iter().filter(|row| row.simulated).count();
    let mut text = format!(
        "# Operators\n\n\
         Written by `cargo xtask operators` from the operator table, `acl-sys/src/aclnn.rs`; do not edit.\n\n\
         {} operators are declared, of which the simulated CANN implements {simulated}; the others it refuses with a real\n\
         error code. *Since* is the oldest CANN release that is known to have the operator. What a parameter's kind means\n\
         is said in `acl_sys::aclnn::kind`.\n\n\
         | operator | library | since | simulated | parameters of the first phase |\n\
         |---|---|---|---|---|\n",
        OPERATORS.len()
    );
    let mut rows: Vec<&OperatorDecl> = OPERATORS.iter().collect();
    rows.sort_by_key(|row| row.name);
    for row in rows {
        let params: Vec<_> =
            row.params.iter().map(|(name, kind)| format!("{}: {kind}", name.trim_end_matches('_'))).collect();
        let simulated = if row.simulated { "yes" } else { "no" };
        let _ = writeln!(
            text,
            "| aclnn{} | {:?} | {} | {simulated} | `{}` |",
            row.name,
            row.library,
            row.since,
            params.join(", ")
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_document_is_current() {
        let written = std::fs::read_to_string(path()).unwrap_or_default();
        assert!(
            written == document(),
            "docs/operators.md is not what the operator table gives: run `cargo xtask operators`"
        );
    }

    #[test]
    fn every_operator_has_its_line() {
        let text = document();
        assert_eq!(text.lines().filter(|line| line.starts_with("| aclnn")).count(), OPERATORS.len());
    }
}
