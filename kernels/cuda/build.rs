//! Generates the entry points of the CUDA libraries and, with the feature `candle`, compiles the kernels.

use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

/// Sources that nvcc compiles to PTX, one module each.
const KERNELS: [&str; 5] = ["rows", "attention", "paged", "moe", "grouped"];

fn main() {
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-changed=symbols.txt");
    let symbols = fs::read_to_string("symbols.txt").expect("symbols.txt is beside build.rs");
    fs::write(out.join("entries.rs"), entries(&symbols)).expect("OUT_DIR can be written");
    if env::var_os("CARGO_FEATURE_CANDLE").is_some() {
        let nvcc = env::var_os("NVCC").map_or_else(|| PathBuf::from("nvcc"), PathBuf::from);
        println!("cargo:rerun-if-env-changed=NVCC");
        compile(&nvcc, &out);
        link(&nvcc, &symbols, &out);
    }
}

/// Name and functions of each library.
fn libraries(symbols: &str) -> Vec<(&str, Vec<&str>)> {
    let mut all: Vec<(&str, Vec<&str>)> = Vec::new();
    for line in symbols.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
        match line.strip_prefix('[').and_then(|line| line.strip_suffix(']')) {
            Some(library) => all.push((library, Vec::new())),
            None => all.last_mut().expect("symbols.txt names a library first").1.push(line),
        }
    }
    all
}

/// One invocation of the macro `entries!` a library; `cuInit` has code of its own and no entry point.
fn entries(symbols: &str) -> String {
    let mut text = String::new();
    for (library, functions) in libraries(symbols) {
        let _ = writeln!(text, "entries! {{ {library}, {} =>", functions.len());
        for (index, function) in functions.iter().enumerate() {
            let own = if *function == "cuInit" { "own" } else { "jump" };
            let _ = writeln!(text, "    {index} {function} {own},");
        }
        text.push_str("}\n");
    }
    text
}

/// `cu/<name>.cu` to `<name>.ptx` for the architecture that candle's kernels are built for.
fn compile(nvcc: &Path, out: &Path) {
    println!("cargo:rerun-if-changed=cu");
    println!("cargo:rerun-if-env-changed=CUDA_COMPUTE_CAP");
    let architecture = match env::var("CUDA_COMPUTE_CAP") {
        Ok(capability) => format!("compute_{}", capability.trim_start_matches("sm_").replace('.', "")),
        // As candle does: the GPU of this machine.
        Err(_) => "native".to_owned(),
    };
    for kernel in KERNELS {
        let mut command = Command::new(nvcc);
        command.args(["--ptx", "-std=c++17", "-O3", "-arch", &architecture]);
        command.args(["--default-stream", "per-thread", "-o"]).arg(out.join(kernel).with_extension("ptx"));
        let status = command.arg(format!("cu/{kernel}.cu")).status();
        match status {
            Ok(status) if status.success() => {}
            Ok(status) => panic!("{command:?}: {status}"),
            Err(error) => panic!(
                "{}: {error}; the feature `cuda` is built with nvcc, which kernels/cuda/build-npu-run brings",
                nvcc.display()
            ),
        }
    }
}

/// Makes the linker take the entry points of this crate for the CUDA libraries, which then need not be there.
fn link(nvcc: &Path, symbols: &str, out: &Path) {
    let ours = env::var("CARGO_CFG_TARGET_ARCH").as_deref() == Ok("x86_64")
        && env::var("CARGO_CFG_TARGET_OS").as_deref() == Ok("linux");
    if !ours {
        return println!("cargo:warning=entry points exist for x86-64 Linux only: this build needs CUDA at its start");
    }
    // candle and cudarc ask for `-lcuda` and the others: empty archives, since what they would give is in this crate, or, of
    // the runtime that candle's kernels ask for as a shared library, in its static form below.
    let folder = out.join("placeholders");
    fs::create_dir_all(&folder).expect("OUT_DIR can be written");
    for library in libraries(symbols).into_iter().map(|(library, _)| library).chain(["cudart"]) {
        fs::write(folder.join(format!("lib{library}.a")), "!<arch>\n").expect("OUT_DIR can be written");
    }
    println!("cargo:rustc-link-search=native={}", folder.display());
    // The CUDA runtime, which candle's compiled kernels call, opens the driver itself at its first use when it is
    // linked statically.
    let root = which(nvcc).and_then(|path| Some(path.parent()?.parent()?.to_owned()));
    let places = ["lib64", "lib", "targets/x86_64-linux/lib"];
    let runtime = root.iter().flat_map(|root| places.map(|place| root.join(place)));
    for folder in runtime.filter(|folder| folder.join("libcudart_static.a").is_file()) {
        println!("cargo:rustc-link-search=native={}", folder.display());
    }
    println!("cargo:rustc-link-lib=static:+whole-archive,-bundle=cudart_static");
    for library in ["rt", "dl", "pthread"] {
        println!("cargo:rustc-link-lib=dylib={library}");
    }
}

/// The file that running `program` starts.
fn which(program: &Path) -> Option<PathBuf> {
    let found = match program.components().count() {
        1 => env::split_paths(&env::var_os("PATH")?).map(|folder| folder.join(program)).find(|file| file.is_file()),
        _ => Some(program.to_owned()),
    };
    found.and_then(|file| fs::canonicalize(file).ok())
}
