//! A C program, compiled by the system's compiler and linked against the simulator under CANN's library names.
//!
//! It is compiled with declarations of its own; where `CANN_INCLUDE` names the header folders of an installed CANN
//! (separated by colons), also with those, as C++, which the aclnn headers need.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Names that CANN installs its libraries under; here they are all the one file.
const LIBRARIES: [&str; 5] = ["ascendcl", "nnopbase", "opapi", "hccl", "acl_op_compiler"];

/// The shared object that cargo built beside this test.
fn simulator() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let library = test.parent().unwrap().join("libcann_sim.so");
    assert!(library.is_file(), "{} is not there; cargo builds it with the test", library.display());
    library
}

/// A folder with the simulator under every name of CANN's libraries.
fn library_folder(of: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(of);
    std::fs::create_dir_all(&folder).unwrap();
    for name in LIBRARIES {
        let link = folder.join(format!("lib{name}.so"));
        let _ = std::fs::remove_file(&link);
        std::os::unix::fs::symlink(simulator(), link).unwrap();
    }
    folder
}

/// Compiles the client and links it; answers the program and the folder of its libraries.
fn compile(of: &str, compiler: &str, flags: &[OsString]) -> (PathBuf, PathBuf) {
    let folder = library_folder(of);
    let program = folder.join("client");
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/c/client.c");
    let mut command = Command::new(std::env::var_os(compiler.to_uppercase()).unwrap_or_else(|| compiler.into()));
    command.args(flags).args(["-Wall", "-Werror", "-o"]).arg(&program).arg(source).arg("-L").arg(&folder);
    command.args(["-x", "none"]).args(LIBRARIES.map(|name| format!("-l{name}"))).arg("-lm");
    let output = command.output().unwrap_or_else(|error| panic!("{compiler} cannot be run: {error}"));
    assert!(output.status.success(), "{command:?}\n{}", String::from_utf8_lossy(&output.stderr));
    (program, folder)
}

/// Runs the client: what it printed, and whether it succeeded.
fn run(program: &Path, folder: &Path, settings: &[(&str, &str)]) -> (bool, String, String) {
    let mut command = Command::new(program);
    command.env("LD_LIBRARY_PATH", folder).envs(settings.iter().copied());
    let output = command.output().unwrap();
    let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
    (output.status.success(), text(&output.stdout), text(&output.stderr))
}

const PARTS: [&str; 7] = ["add ok", "matmul ok", "rms_norm ok", "events ok", "errors ok", "collectives ok", "all ok"];

#[test]
fn a_c_program_runs_on_the_simulator() {
    let (program, folder) = compile("c-client", "cc", &["-std=c11".into()]);
    for settings in
        [vec![], vec![("CANN_SIM_SEED", "1")], vec![("CANN_SIM_SOC", "910b4"), ("CANN_SIM_NUMERICS", "exact")]]
    {
        let (ok, out, err) = run(&program, &folder, &settings);
        assert!(ok, "{settings:?}\n{out}{err}");
        for part in PARTS {
            assert!(out.contains(part), "{part:?} is missing in\n{out}");
        }
        let soc = if settings.iter().any(|(_, value)| *value == "910b4") { "Ascend910B4\n" } else { "Ascend910B3\n" };
        assert!(out.contains(soc), "{out}");
        assert!(!err.contains("leak"), "the client frees everything: {err}");
    }
}

#[test]
fn faults_reach_a_c_program() {
    let (program, folder) = compile("c-client-faults", "cc", &["-std=c11".into()]);
    for (faults, says) in
        [("oom@1", "got 207001"), ("op:aclnnMatmul=507018", "got 507018"), ("device_lost@1", "got 507010")]
    {
        let (ok, out, err) = run(&program, &folder, &[("CANN_SIM_FAULTS", faults)]);
        assert!(!ok && err.contains(says), "{faults}: {says:?} is missing in\n{out}{err}");
    }
    let (ok, _, err) = run(&program, &folder, &[("CANN_SIM_SOC", "910c9")]);
    assert!(!ok && err.contains("no simulated chip is called \"910c9\"; there are Ascend910B1"), "{err}");
}

#[test]
fn the_client_compiles_with_cann_headers() {
    let Some(include) = std::env::var_os("CANN_INCLUDE") else {
        eprintln!("not run with CANN's own headers: CANN_INCLUDE is not set");
        return;
    };
    let mut flags: Vec<OsString> = ["-x", "c++", "-std=c++17", "-DCANN_HEADERS"].map(OsString::from).to_vec();
    for folder in std::env::split_paths(&include) {
        flags.push("-isystem".into());
        flags.push(folder.into());
    }
    let (program, folder) = compile("c-client-headers", "c++", &flags);
    let (ok, out, err) = run(&program, &folder, &[]);
    assert!(ok && out.contains("all ok"), "{out}{err}");
}
