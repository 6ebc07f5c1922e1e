//! candle over this crate's entry points: a program with candle's CUDA code in it starts with no driver, and what candle
//! answers on a GPU is put into words. The driver is the one that `driver.rs` makes; nothing computes.
#![cfg(feature = "candle")]

use candle_core::backend::BackendDevice;
use candle_core::{CudaDevice, DType, Shape};
use npu_cuda::launch::{error_in, explained};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A folder with the stub as every library that opening a device needs.
fn stub() -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("candle");
    std::fs::create_dir_all(&folder).unwrap();
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/stub/cuda.c");
    let made = folder.join("libcuda.so.1");
    let mut command = Command::new(std::env::var_os("CC").unwrap_or_else(|| "cc".into()));
    command.args(["-shared", "-fPIC", "-o"]).arg(&made).arg(&source);
    assert!(command.status().expect("the C compiler runs").success(), "{command:?}");
    for library in npu_cuda::libraries::LIBRARIES.iter().filter(|library| library.name != "cuda") {
        std::fs::copy(&made, folder.join(library.file())).unwrap();
    }
    folder
}

/// What this program prints when it runs again with these libraries and opens a device.
fn child(libraries: &Path) -> String {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "child_process", "--nocapture"]).env("NPU_CUDA_CHILD", "1");
    command.env("LD_LIBRARY_PATH", libraries).env_remove("CUDA_HOME").env_remove("CUDA_PATH");
    let output = command.output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    text
}

#[test]
fn child_process() {
    if std::env::var_os("NPU_CUDA_CHILD").is_none() {
        return println!("started by the other tests of this file");
    }
    let zeros = CudaDevice::new(0).and_then(|device| device.zeros_impl(&Shape::from((2, 3)), DType::F32));
    match zeros.map_err(explained) {
        Ok(_) => println!("made zeros"),
        Err(error) => println!("{}: {error}", if error_in(&error).is_some() { "ours" } else { "candle's" }),
    }
}

#[test]
fn without_a_driver() {
    let empty = Path::new(env!("CARGO_TARGET_TMPDIR")).join("candle-nothing");
    std::fs::create_dir_all(&empty).unwrap();
    let text = child(&empty);
    if text.contains("made zeros") {
        let said = "did not run: this machine has a GPU, and the test is of one that has none";
        let _ = writeln!(std::io::stderr(), "{said}");
        return;
    }
    assert!(text.contains("ours: a CUDA operation failed with 34 CUDA_ERROR_STUB_LIBRARY"), "{text}");
}

#[test]
fn a_gpu_without_memory() {
    let text = child(&stub());
    assert!(text.contains("ours: out of memory on the GPU: 3 MiB free of 8192 MiB"), "{text}");
}
