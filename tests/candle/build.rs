//! Finds cargo's copy of candle-transformers and writes the modules that compile its files where they lie.
//!
//! Nothing is copied: the modules are `#[path]` attributes. `crate::models`, `crate::utils` and the like mean in this
//! crate what they mean in theirs.

#[path = "src/files.rs"]
mod files;

use std::env;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

const PACKAGE: &str = "candle-transformers";

/// Packages whose sources the tests read, and the variable that tells them where.
const READ: &[(&str, &str)] = &[("candle-core", "CANDLE_CORE_SOURCES"), ("candle-nn", "CANDLE_NN_SOURCES")];

/// What the models use of their crate beside each other.
const SHARED: &[&str] = &["utils", "quantized_var_builder", "fused_moe"];

fn main() {
    let sources = sources();
    let mut text = String::new();
    for module in SHARED {
        declare(&mut text, module, &sources.join(format!("{module}.rs")));
    }
    text += "#[allow(warnings, clippy::all)]\npub mod models {\n";
    for module in ["with_tracing"].iter().chain(files::MODELS) {
        declare(&mut text, module, &sources.join("models").join(format!("{module}.rs")));
    }
    text += "}\n";
    let out = PathBuf::from(env::var("OUT_DIR").expect("cargo sets OUT_DIR")).join("models.rs");
    fs::write(&out, text).unwrap_or_else(|error| panic!("{}: {error}", out.display()));
}

fn declare(text: &mut String, module: &str, path: &Path) {
    assert!(
        path.is_file(),
        "{PACKAGE} has no {}: take {module} out of src/files.rs, or name another file",
        path.display()
    );
    println!("cargo::rerun-if-changed={}", path.display());
    writeln!(text, "#[allow(warnings, clippy::all)]\n#[path = {:?}]\npub mod {module};", path.display().to_string())
        .expect("a string takes everything");
}

/// The folder `src` of the package, wherever cargo keeps it; fetched if it is not there yet.
fn sources() -> PathBuf {
    let metadata = metadata(true).or_else(|_| metadata(false)).unwrap_or_else(|error| panic!("{error}"));
    let find = |name: &str| -> (PathBuf, String) {
        let packages = metadata["packages"].as_array().into_iter().flatten();
        let package = packages
            .into_iter()
            .find(|package| package["name"] == name && package["source"].is_string())
            .unwrap_or_else(|| panic!("cargo metadata does not list {name}, which Cargo.toml names"));
        let text = |field: &str| package[field].as_str().expect("cargo writes text here").to_owned();
        let manifest = PathBuf::from(text("manifest_path"));
        (manifest.parent().expect("a manifest lies in a folder").join("src"), text("version"))
    };
    for (name, variable) in READ {
        println!("cargo::rustc-env={variable}={}", find(name).0.display());
    }
    // Another version of a package is another line of the lock file.
    println!(
        "cargo::rerun-if-changed={}/Cargo.lock",
        metadata["workspace_root"].as_str().expect("cargo names its root")
    );
    let (sources, version) = find(PACKAGE);
    println!("cargo::rustc-env=MODELS_PACKAGE={PACKAGE} {version}");
    sources
}

/// `cargo metadata` of the workspace for every platform, because the package is a dependency on none.
fn metadata(offline: bool) -> Result<serde_json::Value, String> {
    let cargo = env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned());
    let mut command = Command::new(cargo);
    command.args(["metadata", "--format-version", "1", "--locked"]);
    command.current_dir(env::var("CARGO_MANIFEST_DIR").expect("cargo sets CARGO_MANIFEST_DIR"));
    if offline {
        command.arg("--offline");
    }
    let output = command.output().map_err(|error| format!("{command:?}: {error}"))?;
    if !output.status.success() {
        return Err(format!("{command:?} failed:\n{}", String::from_utf8_lossy(&output.stderr)));
    }
    serde_json::from_slice(&output.stdout).map_err(|error| format!("{command:?}: {error}"))
}
