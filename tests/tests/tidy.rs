//! The invariants of ARCHITECTURE.md that a machine can check, over the sources themselves.

use std::fs;
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests/ lies in the workspace").to_owned()
}

/// Every Rust source below `folder`, as (path from the root, text).
fn sources(folder: &str) -> Vec<(String, String)> {
    fn walk(folder: &Path, found: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            let path = entry.path();
            let name = entry.file_name();
            if path.is_dir() && name != "target" && !name.to_string_lossy().starts_with('.') {
                walk(&path, found);
            } else if path.extension().is_some_and(|e| e == "rs") {
                found.push(path);
            }
        }
    }
    let mut found = Vec::new();
    walk(&root().join(folder), &mut found);
    found.sort();
    let relative =
        |path: &Path| path.strip_prefix(root()).map(|p| p.to_string_lossy().into_owned()).unwrap_or_default();
    found.into_iter().map(|path| (relative(&path), fs::read_to_string(&path).unwrap_or_default())).collect()
}

/// Lines of code, comments and strings that only talk about something left out as far as a line shows it.
fn code_lines(text: &str) -> impl Iterator<Item = (usize, &str)> {
    text.lines().enumerate().filter(|(_, line)| !line.trim_start().starts_with("//")).map(|(i, line)| (i + 1, line))
}

fn assert_none(what: &str, found: Vec<String>) {
    assert!(found.is_empty(), "{what}:\n  {}", found.join("\n  "));
}

/// Places in `files` whose code contains one of `words`.
fn places(files: &[(String, String)], words: &[&str]) -> Vec<String> {
    let mut found = Vec::new();
    for (path, text) in files {
        for (number, line) in code_lines(text) {
            if words.iter().any(|word| line.contains(word)) {
                found.push(format!("{path}:{number}: {}", line.trim()));
            }
        }
    }
    found
}

#[test]
fn only_tools_and_tests_name_the_simulator() {
    let product =
        ["acl-sys/src", "hccl-sys/src", "backend", "models/src", "engine/src", "train/src", "conformance/src"];
    let files: Vec<_> =
        product.iter().flat_map(|folder| sources(folder)).filter(|(path, _)| !path.contains("/tests/")).collect();
    assert_none("a product crate names cann-sim", places(&files, &["cann_sim", "if simulated", "is_simulated"]));
}

#[test]
fn the_simulator_imports_nothing_above_the_sys_crates() {
    assert_none(
        "cann-sim imports a crate above it",
        places(&sources("cann-sim/src"), &["candle", "npu_models", "npu_engine"]),
    );
}

#[test]
fn unsafe_stays_at_the_ffi_edge() {
    let allowed = [
        "acl-sys/",
        "hccl-sys/",
        "cann-sim/",
        "kernels/cuda/",
        "kernels/src/twin.rs",
        "backend/core/src/acl/",
        "backend/core/src/comm/",
    ];
    let folders = ["backend", "models", "engine", "train", "tools", "conformance", "demo", "xtask", "kernels"];
    let files: Vec<_> = folders.iter().flat_map(|folder| sources(folder)).collect();
    let files: Vec<_> = files.into_iter().filter(|(path, _)| !allowed.iter().any(|a| path.starts_with(a))).collect();
    assert_none("unsafe away from the FFI edge", places(&files, &["unsafe ", "unsafe{"]));
}

#[test]
fn models_name_no_device() {
    let words = [
        "Device::Npu",
        "Device::Cuda",
        "Device::Cpu",
        "NpuDevice",
        "CudaDevice",
        "acl_sys",
        "npu_engine",
        "is_cuda",
        "is_npu",
        "is_cpu",
    ];
    assert_none("a model names a device", places(&sources("models/src"), &words));
}

#[test]
fn files_stay_readable() {
    // The two tables are one row an item and are read by searching, not from top to bottom.
    let tables = ["acl-sys/src/aclnn.rs", "acl-sys/src/runtime.rs", "acl-sys/src/error.rs", "acl-sys/src/enums.rs"];
    let long =
        sources(".").into_iter().filter(|(path, text)| text.lines().count() > 600 && !tables.contains(&path.as_str()));
    assert_none("files over 600 lines", long.map(|(path, text)| format!("{path}: {}", text.lines().count())).collect());
}

#[test]
fn no_placeholders_and_no_ignored_tests() {
    let files: Vec<_> = sources(".").into_iter().filter(|(path, _)| !path.ends_with("tidy.rs")).collect();
    assert_none("placeholders", places(&files, &["todo!(", "unimplemented!(", "#[ignore"]));
}

#[test]
fn the_readme_claims_no_card() {
    let readme = fs::read_to_string(root().join("README.md")).expect("README.md");
    let table: Vec<_> = readme.lines().filter(|line| line.starts_with('|')).collect();
    let header = table
        .iter()
        .find(|line| line.contains("simulator") && line.contains("card"))
        .expect("a support table with a card column");
    let column = header.split('|').position(|cell| cell.contains("card")).expect("card column");
    for row in table.iter().skip_while(|line| *line != header).skip(2) {
        let cell = row.split('|').nth(column).unwrap_or("").trim();
        assert!(cell.starts_with("not run"), "the card column says {cell:?} in: {row}");
    }
}
