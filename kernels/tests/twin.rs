//! The twin finds each of the faults that it promises to find, names its line, and finds none where there is none.

use ascend_kernels::twin::{Error, Library, Memory, Report, Soc};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

const SOURCE: &str = "tests/faults/faults.cpp";

/// The kernels of `faults.cpp` with the twin's own runtime, compiled once.
fn faults() -> &'static Library {
    static LIBRARY: OnceLock<Library> = OnceLock::new();
    LIBRARY.get_or_init(|| {
        let objects = Path::new(env!("NPU_TWIN_OBJECTS"));
        let runtime: Vec<PathBuf> = std::fs::read_dir(objects)
            .expect("the build's own folder")
            .map(|entry| entry.expect("an entry of it").path())
            .filter(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("twin-run-")))
            .collect();
        let folder = tempfile::tempdir().expect("a folder for the library");
        let library = folder.path().join("faults.so");
        let output = Command::new(env!("NPU_TWIN_COMPILER"))
            .args(["-std=c++17", "-O0", "-fPIC", "-shared", "-Itwin", SOURCE, "-o"])
            .arg(&library)
            .args(runtime)
            .output()
            .expect("the compiler that built the twin");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        Library::new(&std::fs::read(&library).expect("what was just linked")).expect("a library of twin kernels")
    })
}

struct Outcome {
    report: Result<Report, Error>,
    y: Vec<f32>,
}

fn run(kernel: &str, blocks: u32) -> Outcome {
    let mut memory = Memory::default();
    let x = memory.put(&(0..1024).map(|i| i as f32).collect::<Vec<_>>());
    let y = memory.put(&[0f32; 1024]);
    let report = faults().run(&Soc::ASCEND_910B3, kernel, blocks, &[x, y], &mut memory);
    Outcome { report, y: memory.get(y) }
}

/// Lines of the kernel `name` that end in `// fault`.
fn marked(name: &str) -> Vec<usize> {
    let source = std::fs::read_to_string(SOURCE).expect("the faults' source");
    let lines: Vec<_> = source.lines().collect();
    let start = lines.iter().position(|line| line.contains(&format!("({name})"))).expect("a kernel of that name");
    let length = lines[start..].iter().position(|line| *line == "}").expect("its end");
    (start..start + length).filter(|&i| lines[i].ends_with("// fault")).map(|i| i + 1).collect()
}

#[test]
fn each_planted_fault_is_found_where_it_is() {
    let table = [
        ("too_much_ub", 1, "197632 bytes of UB are asked for in all, of 196608"),
        ("too_much_l1", 1, "526336 bytes of L1 are asked for in all, of 524288"),
        ("too_much_l0a", 1, "66560 bytes of L0A are asked for in all, of 65536"),
        ("too_much_l0b", 1, "66560 bytes of L0B are asked for in all, of 65536"),
        ("too_much_l0c", 1, "132096 bytes of L0C are asked for in all, of 131072"),
        ("beyond_its_tensor", 1, "writes beyond its tensor: bytes 0 to 1056 of UB, where the tensor ends at 1024"),
        ("beyond_its_global_tensor", 1, "32 bytes too far"),
        ("outside_of_allocations", 1, "lies in no allocation"),
        ("past_an_allocation", 1, "passes the end of its allocation"),
        ("odd_length", 1, "36 bytes, not a multiple of 32"),
        ("odd_place", 1, "the destination begins at byte 4 of UB, not at a multiple of 32"),
        ("odd_operand", 1, "the first source begins at byte 12 of UB"),
        ("ragged_comparison", 1, "40 elements are no whole number of 256 bytes"),
        ("no_such_conversion", 1, "float to bfloat16_t has no CAST_NONE"),
        ("taken_from_an_empty_queue", 1, "the queue is empty: EnQue comes first"),
        ("allocated_twice", 1, "all 1 buffers of the queue are in use"),
        ("deeper_than_its_depth", 1, "the queue holds 1 tensors, its depth"),
        ("freed_in_the_queue", 1, "the tensor is still in the queue"),
        ("queued_after_it_was_freed", 1, "the tensor was not allocated"),
        ("never_written", 1, "reads byte 32 of UB (32 of its tensor), which was never written"),
        ("reads_what_padding_left", 1, "reads byte 20 of UB (20 of its tensor), which was never written"),
        ("reads_its_last_round", 1, "reads byte 32 of UB (32 of its tensor), which was never written"),
        ("copy_then_vector", 1, "no flag, queue or barrier orders the two"),
        ("vector_then_copy", 1, "no flag, queue or barrier orders the two"),
        ("vector_then_vector", 1, "no PipeBarrier orders the two"),
        ("vector_then_scalar", 1, "on pipe S, which Duplicate at"),
        ("scalar_then_vector", 1, "on pipe V, which SetValue at"),
        ("read_then_overwritten", 1, "may still read them: no flag, queue or barrier"),
        ("out_then_in", 1, "a flag between the two pipes, or a barrier, is missing"),
        ("out_twice", 1, "a flag between the two pipes, or a barrier, is missing"),
        ("flag_left_behind", 1, "flag V_MTE3 0 is set and never waited for"),
        ("flag_set_twice", 1, "flag V_MTE3 0 is set already"),
        ("flag_never_set", 1, "flag V_MTE3 0 was not set before"),
        ("no_such_flag", 1, "event identifier 8"),
        ("scalar_barrier", 1, "the scalar pipe has no barrier"),
        ("vector_on_a_cube_core", 1, "this core has no pipe V"),
        ("one_address_two_blocks", 2, "two blocks write one address"),
        ("no_flag_between_cores", 1, "a cross-core flag is missing"),
        ("flag_of_another_pipe", 1, "a cross-core flag is missing"),
        ("everyone_waits", 1, "waits for a flag that none will set"),
        ("cross_flag_left_behind", 1, "cross-core flag 5 is set 1 times and never waited for"),
    ];
    let mut missed = Vec::new();
    for (kernel, blocks, rule) in table {
        let text = run(kernel, blocks).report.map_or_else(|error| error.to_string(), |_| "nothing was found".into());
        let lines = marked(kernel);
        let named = lines.iter().any(|line| text.contains(&format!("{SOURCE}:{line}: ")));
        if !(named && text.starts_with(&format!("{kernel}: ")) && text.contains(rule)) {
            missed.push(format!("{kernel}, lines {lines:?}, wanted {rule:?}: {text}"));
        }
    }
    assert!(missed.is_empty(), "{}", missed.join("\n"));
}

#[test]
fn kernels_that_break_no_rule_run() {
    let Outcome { report, y } = run("clean_queues", 1);
    let report = report.expect("no fault");
    assert!((0..1024).all(|i| y[i] == 2.0 * i as f32 + 1.0), "{y:?}");
    assert_eq!((report.gm_to_ub, report.ub_to_gm), (4096, 4096));
    let Outcome { report, y } = run("clean_cores", 4);
    let report = report.expect("no fault");
    assert_eq!((report.cube_cores, report.vector_cores), (4, 8));
    assert!((0..8).all(|core| y[core * 8] == (core ^ 3) as f32), "{y:?}");
}

#[test]
fn what_is_no_kernel_is_said() {
    assert!(matches!(run("absent", 1).report, Err(Error::NoKernel(name)) if name == "absent"));
    let text = run("no_task_type", 1).report.expect_err("no task type").to_string();
    assert!(text.contains("before its KERNEL_TASK_TYPE_DEFAULT"), "{text}");
}
