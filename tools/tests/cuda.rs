//! `npu-run` and GPUs: a build with the feature `cuda` starts and says what it finds, with no driver and with one that the
//! system's C compiler makes (`kernels/cuda/tests/stub`). Nothing here computes on a GPU.

mod common;

/// In a build without the feature there is nothing to find, and that is said.
#[cfg(not(feature = "cuda"))]
#[test]
fn a_build_without_cuda() {
    use std::io::Write as _;
    common::npu_run(&["infer", "1+1", "--device", "cuda:1"], b"").refused(&["built without CUDA", "--features cuda"]);
    let _ = writeln!(std::io::stderr(), "did not run with a driver: npu-run is built without the feature cuda");
}

#[cfg(feature = "cuda")]
mod with_cuda {
    use super::common::Ran;
    use std::io::Write as _;
    use std::path::{Path, PathBuf};
    use std::process::Command;

    /// A folder with `names`, all of them the stub.
    fn folder(of: &str, names: &[&str]) -> PathBuf {
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(of);
        std::fs::create_dir_all(&folder).unwrap();
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("../kernels/cuda/tests/stub/cuda.c");
        for name in names {
            let mut command = Command::new(std::env::var_os("CC").unwrap_or_else(|| "cc".into()));
            command.args(["-shared", "-fPIC", "-o"]).arg(folder.join(name)).arg(&source);
            assert!(command.status().expect("the C compiler runs").success(), "{command:?}");
        }
        folder
    }

    const WHOLE: [&str; 4] = ["libcuda.so.1", "libcublas.so.13", "libcublasLt.so.13", "libcurand.so.10"];

    fn run(arguments: &[&str], libraries: &Path, settings: &[(&str, &str)]) -> Ran {
        let mut command = Command::new(env!("CARGO_BIN_EXE_npu-run"));
        command.args(arguments).env("LD_LIBRARY_PATH", libraries).env_remove("CUDA_HOME").env_remove("CUDA_PATH");
        super::common::run(command.envs(settings.iter().copied()), b"")
    }

    #[test]
    fn it_starts_without_a_driver() {
        let nothing = folder("nothing", &[]);
        let ran = run(&["infer", "What is 2 + 2?", "--device", "auto"], &nothing, &[]);
        if !ran.stderr.contains("no NVIDIA driver was found") {
            let _ = writeln!(std::io::stderr(), "did not run: this machine has an NVIDIA driver\n{}", ran.stderr);
            return;
        }
        ran.ok();
        let ran = run(&["infer", "1+1", "--device", "cuda"], &nothing, &[]);
        ran.refused(&["opening cuda:0", "no NVIDIA driver was found", "install the driver", "Tried:"]);
    }

    #[test]
    fn drivers_that_cannot_be_used() {
        let whole = folder("whole", &WHOLE);
        let ask = |device, settings: &[(&str, &str)]| run(&["infer", "1+1", "--device", device], &whole, settings);
        ask("cuda", &[("STUB_VERSION", "12040")]).refused(&["too old", "supports CUDA 12.4", "update the driver"]);
        ask("cuda:2", &[]).refused(&["cuda:2 does not exist", "1 device(s)"]);
        ask("cuda", &[("STUB_INIT", "100")]).refused(&["CUDA_ERROR_NO_DEVICE", "CUDA_VISIBLE_DEVICES"]);
        let bare = folder("bare", &WHOLE[..3]);
        run(&["infer", "1+1", "--device", "cuda"], &bare, &[]).refused(&["libcurand.so.10", "CUDA_HOME"]);
    }

    #[test]
    fn a_gpu_without_memory() {
        let whole = folder("full", &WHOLE);
        let ran = run(&["infer", "1+1", "--device", "cuda"], &whole, &[]);
        ran.refused(&["out of memory on the GPU: 3 MiB free of 8192 MiB", "use a smaller batch"]);
    }
}
