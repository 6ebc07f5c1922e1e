//! Compiles every Ascend C source with the host's compiler against `twin/`, into one library that the crate embeds.
//!
//! Sources are found by walking: a new operator needs nothing here. An object is made again when its source or any
//! header is newer, so that an edit of one kernel compiles that one.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::time::SystemTime;
use std::{env, fs, thread};

/// A source, and how hard it is worth being optimised: the twin's own loops do the work of every kernel.
struct Unit {
    source: PathBuf,
    level: &'static str,
}

fn main() {
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    let compiler = env::var("CXX").unwrap_or_else(|_| "c++".to_owned());
    for watched in ["twin", "common", "attention", "moe", "norm", "build.rs"] {
        println!("cargo:rerun-if-changed={watched}");
    }
    println!("cargo:rerun-if-env-changed=CXX");
    let mut headers = Vec::new();
    let mut units = Vec::new();
    for folder in ["twin", "common", "attention", "moe", "norm"] {
        walk(Path::new(folder), &mut |path| match path.extension().and_then(|e| e.to_str()) {
            Some("h") => headers.push(path.to_owned()),
            Some("cpp") => {
                let level = if path.starts_with("twin") { "-O3" } else { "-O1" };
                units.push(Unit { source: path.to_owned(), level });
            }
            _ => {}
        });
    }
    let newest = headers.iter().filter_map(|path| changed(path)).max();
    let objects: Vec<PathBuf> = units.iter().map(|unit| out.join(object_name(&unit.source))).collect();
    let waiting: Vec<usize> = (0..units.len())
        .filter(|&i| {
            let made = changed(&objects[i]);
            made.is_none() || made < newest || made < changed(&units[i].source)
        })
        .collect();
    let queue = Mutex::new(waiting.into_iter());
    let threads = thread::available_parallelism().map_or(1, |n| n.get());
    thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while let Some(i) = { queue.lock().expect("no thread panics with it").next() } {
                    compile(&compiler, &units[i], &objects[i]);
                }
            });
        }
    });
    let library = out.join("libascend_twin.so");
    let mut link = Command::new(&compiler);
    link.args(["-shared", "-static-libstdc++", "-static-libgcc", "-Wl,-Bsymbolic", "-o"]).arg(&library).args(&objects);
    run(&mut link, &compiler, "the twin's library");
    println!("cargo:rustc-env=NPU_TWIN_OBJECTS={}", out.display());
    println!("cargo:rustc-env=NPU_TWIN_COMPILER={compiler}");
}

fn walk(folder: &Path, visit: &mut impl FnMut(&Path)) {
    let mut entries: Vec<PathBuf> = fs::read_dir(folder).into_iter().flatten().flatten().map(|e| e.path()).collect();
    entries.sort();
    for path in entries {
        if path.is_dir() { walk(&path, visit) } else { visit(&path) }
    }
}

fn changed(path: &Path) -> Option<SystemTime> {
    fs::metadata(path).and_then(|meta| meta.modified()).ok()
}

fn object_name(source: &Path) -> String {
    format!("{}.o", source.to_string_lossy().replace('/', "-"))
}

fn compile(compiler: &str, unit: &Unit, object: &Path) {
    let mut command = Command::new(compiler);
    // Paths stay relative, for a broken rule to name the file as the project does; results stay those of the machine
    // that rounds each operation.
    command.args(["-std=c++17", unit.level, "-fPIC", "-ffp-contract=off", "-Wall", "-Wno-unused-parameter", "-Itwin"]);
    command.arg("-c").arg(&unit.source).arg("-o").arg(object);
    run(&mut command, compiler, &unit.source.to_string_lossy());
}

fn run(command: &mut Command, compiler: &str, what: &str) {
    match command.output() {
        Ok(output) if output.status.success() => {}
        Ok(output) => panic!("{compiler} does not compile {what}:\n{}", String::from_utf8_lossy(&output.stderr)),
        Err(error) => panic!("no C++ compiler: {compiler} cannot be run ({error}); install g++ or clang++, or set CXX"),
    }
}
