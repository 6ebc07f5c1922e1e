//! The demo model inside the program: the same files that any checkpoint has.

use anyhow::{Context, Result};
use tempfile::TempDir;

macro_rules! files {
    ($($name:literal),*) => { &[$(($name, include_bytes!(concat!("../../demo/model/", $name)))),*] };
}

const FILES: &[(&str, &[u8])] =
    files!["config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"];

/// Lays the demo model out as a checkpoint folder, which vanishes when the returned value is dropped: so it is loaded
/// by the very code that loads a user's checkpoint.
pub fn unpack() -> Result<TempDir> {
    let folder =
        tempfile::Builder::new().prefix("npu-run-demo-").tempdir().context("making a folder for the demo model")?;
    for (name, bytes) in FILES {
        let path = folder.path().join(name);
        std::fs::write(&path, bytes).with_context(|| format!("writing {}", path.display()))?;
    }
    Ok(folder)
}
