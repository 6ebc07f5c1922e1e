//! `kernels/cuda/symbols.txt`: the functions of the CUDA libraries that cudarc, through which candle calls them, can name.

use anyhow::{Context, Result, bail, ensure};
use std::collections::BTreeSet;
use std::fmt::Write;
use std::path::PathBuf;
use std::process::Command;

/// Libraries that candle makes cudarc link, with cudarc's module and the beginning of their functions' names.
const LIBRARIES: [(&str, &str, &str); 5] = [
    ("cuda", "driver", "cu"),
    ("cublas", "cublas", "cublas"),
    ("cublasLt", "cublaslt", "cublasLt"),
    ("curand", "curand", "curand"),
    ("nvrtc", "nvrtc", "nvrtc"),
];

fn path() -> PathBuf {
    crate::root().join("kernels/cuda/symbols.txt")
}

/// Writes the list from the sources of the cudarc that Cargo.lock names.
///
/// # Errors
/// cargo does not know cudarc's sources, or a file cannot be read or written.
pub fn write() -> Result<()> {
    let path = path();
    std::fs::write(&path, list()?).with_context(|| format!("writing {}", path.display()))
}

/// Fails unless the committed list is what [`write()`] would write.
///
/// # Errors
/// The list is another one, or the errors of [`write()`].
pub fn check() -> Result<()> {
    let path = path();
    let written = std::fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
    ensure!(written == list()?, "{} is not what cudarc has: run `cargo xtask cuda-symbols`", path.display());
    Ok(())
}

fn list() -> Result<String> {
    let sources = cudarc()?;
    let mut text = String::from(
        "# Functions of the CUDA libraries that cudarc can name, by library.\n\
         # Written by `cargo xtask cuda-symbols` from cudarc's sources; do not edit.\n",
    );
    for (library, module, prefix) in LIBRARIES {
        let file = sources.join(format!("src/{module}/sys/mod.rs"));
        let bindings = std::fs::read_to_string(&file).with_context(|| format!("reading {}", file.display()))?;
        let names = functions(&bindings, prefix);
        ensure!(!names.is_empty(), "{} declares no function {prefix}…", file.display());
        let _ = writeln!(text, "\n[{library}]");
        names.iter().for_each(|name| {
            let _ = writeln!(text, "{name}");
        });
    }
    Ok(text)
}

/// Names of the functions that `bindings` declares and that begin with `prefix`.
fn functions<'a>(bindings: &'a str, prefix: &str) -> BTreeSet<&'a str> {
    let declared = bindings.lines().filter_map(|line| line.trim_start().strip_prefix("fn "));
    declared.filter_map(|rest| rest.split_once('(')).map(|(name, _)| name).filter(|n| n.starts_with(prefix)).collect()
}

/// The folder of cudarc's sources, as cargo has it for this workspace.
fn cudarc() -> Result<PathBuf> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .args(["metadata", "--format-version", "1", "--features", "npu-run/cuda"])
        .current_dir(crate::root())
        .output()
        .context("running cargo metadata")?;
    ensure!(output.status.success(), "cargo metadata: {}", String::from_utf8_lossy(&output.stderr));
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout)?;
    let packages = metadata["packages"].as_array().map(Vec::as_slice).unwrap_or_default();
    let manifest =
        packages.iter().find(|package| package["name"] == "cudarc").and_then(|p| p["manifest_path"].as_str());
    match manifest.and_then(|manifest| PathBuf::from(manifest).parent().map(PathBuf::from)) {
        Some(folder) => Ok(folder),
        None => bail!("cargo metadata names no cudarc, which candle-core's feature `cuda` depends on"),
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn functions_are_declarations_of_the_library() {
        let bindings = "pub fn cuA(x: u8) {\n    extern \"C\" {\n        fn cuA(x: u8);\n        fn other();\n fn cuB(";
        let found: Vec<_> = super::functions(bindings, "cu").into_iter().collect();
        assert_eq!(found, ["cuA", "cuB"]);
    }
}
