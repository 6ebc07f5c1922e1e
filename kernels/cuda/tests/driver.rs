//! What is said of a driver that is missing, too old or refuses, with a driver that the system's C compiler makes.
//!
//! Libraries are found once a process. Each case therefore runs this program again as a child, with an environment.

use npu_cuda::{BUILT, Error, open};
use std::path::{Path, PathBuf};
use std::process::Command;

unsafe extern "C" {
    fn cuInit(flags: u32) -> i32;
    fn cuStreamSynchronize(stream: usize) -> i32;
    fn cuMemcpyPeerAsync(to: u64, c: usize, from: u64, d: usize, bytes: usize, stream: usize, more: i32) -> i32;
    fn cublasCreate_v2(handle: *mut usize) -> i32;
}

/// A folder with the stub as `libcuda.so.1`, and the names of other libraries given to files that hold nothing else.
fn folder(name: &str, others: &[&str]) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    std::fs::create_dir_all(&folder).unwrap();
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/stub/cuda.c");
    for file in std::iter::once(&"libcuda.so.1").chain(others) {
        let mut command = Command::new(std::env::var_os("CC").unwrap_or_else(|| "cc".into()));
        command.args(["-shared", "-fPIC", "-Wall", "-Werror", "-o"]).arg(folder.join(file)).arg(&source);
        let output = command.output().expect("the C compiler runs");
        assert!(output.status.success(), "{command:?}\n{}", String::from_utf8_lossy(&output.stderr));
    }
    folder
}

const TOOLKIT: [&str; 3] = ["libcublas.so.13", "libcublasLt.so.13", "libcurand.so.10"];

/// What `child` prints in an environment with these libraries and settings.
fn child(libraries: &Path, settings: &[(&str, &str)]) -> String {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args(["--exact", "child_process", "--nocapture"])
        .env("NPU_CUDA_CHILD", "1")
        .env("LD_LIBRARY_PATH", libraries);
    command.env_remove("CUDA_HOME").env_remove("CUDA_PATH").envs(settings.iter().copied());
    let output = command.output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    text
}

/// Not a test of its own: what the others start.
#[test]
fn child_process() {
    if std::env::var_os("NPU_CUDA_CHILD").is_none() {
        return println!("started by the other tests of this file");
    }
    // SAFETY: the entry points are called with the arguments of their declarations; the stub dereferences none.
    unsafe {
        let mut handle = 0;
        println!("before: sync {} cublas {}", cuStreamSynchronize(0), cublasCreate_v2(&mut handle));
        println!("init {}", cuInit(0));
        println!("after: sync {} seven {}", cuStreamSynchronize(0), cuMemcpyPeerAsync(1, 2, 3, 4, 5, 6, 7));
    }
    let index = std::env::var("STUB_INDEX").map_or(0, |index| index.parse().unwrap());
    match open(index) {
        Ok(gpu) => println!("opened {gpu}"),
        Err(error) => println!("{}: {error}", kind(&error)),
    }
}

fn kind(error: &Error) -> &'static str {
    match error {
        Error::NoDriver { .. } => "NoDriver",
        Error::DriverTooOld { .. } => "DriverTooOld",
        Error::NoLibrary { .. } => "NoLibrary",
        Error::NoDevice { .. } => "NoDevice",
        Error::Driver { .. } => "Driver",
        Error::OutOfMemory { .. } => "OutOfMemory",
    }
}

#[track_caller]
fn says(text: &str, parts: &[&str]) {
    for part in parts {
        assert!(text.contains(part), "{part:?} is not in\n{text}");
    }
}

#[test]
fn without_a_driver_every_call_says_so() {
    let empty = Path::new(env!("CARGO_TARGET_TMPDIR")).join("nothing");
    std::fs::create_dir_all(&empty).unwrap();
    let text = child(&empty, &[]);
    if text.contains("opened") || text.contains("DriverTooOld") {
        return println!("did not run: this machine has an NVIDIA driver, and the test is of one that has none");
    }
    says(&text, &["before: sync 34 cublas 1", "init 34", "after: sync 34 seven 34"]);
    says(
        &text,
        &["NoDriver: no NVIDIA driver was found (libcuda.so.1)", "install the driver", "Tried:\n  loader path"],
    );
}

#[test]
fn an_entry_point_passes_its_arguments_on() {
    let text = child(&folder("whole", &TOOLKIT), &[]);
    // The stub has no cuStreamSynchronize: a driver without a function is too old for it.
    says(&text, &["init 0", "after: sync 36 seven 77", "opened Stub 0, 8 GiB, driver for CUDA 13.0"]);
}

#[test]
fn a_driver_older_than_the_build() {
    let text = child(&folder("old", &TOOLKIT), &[("STUB_VERSION", "12040")]);
    says(&text, &["DriverTooOld: ", "supports CUDA 12.4", &format!("built with CUDA {BUILT}"), "update the driver"]);
}

#[test]
fn a_newer_driver_is_taken() {
    says(&child(&folder("new", &TOOLKIT), &[("STUB_VERSION", "14020")]), &["opened Stub 0", "driver for CUDA 14.2"]);
}

#[test]
fn a_driver_that_refuses() {
    let folder = folder("refusing", &TOOLKIT);
    let text = child(&folder, &[("STUB_INIT", "100")]);
    says(&text, &["init 100", "Driver: cuInit failed with 100 CUDA_ERROR_NO_DEVICE", "CUDA_VISIBLE_DEVICES"]);
    says(&child(&folder, &[("STUB_INIT", "803")]), &["CUDA_ERROR_SYSTEM_DRIVER_MISMATCH", "restart the machine"]);
    says(&child(&folder, &[("STUB_INIT", "12345")]), &["cuInit failed with 12345 (a code that is not known here"]);
}

#[test]
fn a_gpu_that_is_not_there() {
    let folder = folder("few", &TOOLKIT);
    let text = child(&folder, &[("STUB_INDEX", "3"), ("STUB_COUNT", "2")]);
    says(&text, &["NoDevice: cuda:3 does not exist: the driver has 2 device(s)"]);
}

#[test]
fn a_toolkit_that_is_not_there() {
    let text = child(&folder("bare", &TOOLKIT[..2]), &[]);
    says(&text, &["NoLibrary: libcurand.so.10 of CUDA 13.0 was not found", "CUDA_HOME", "Tried:"]);
    // Named by a variable, it is found.
    let home = Path::new(env!("CARGO_TARGET_TMPDIR")).join("home");
    let inside = folder("home/lib64", &TOOLKIT);
    std::fs::remove_file(inside.join("libcuda.so.1")).unwrap();
    let text = child(&folder("bare", &[]), &[("CUDA_HOME", home.to_str().unwrap())]);
    says(&text, &["opened Stub 0"]);
}
