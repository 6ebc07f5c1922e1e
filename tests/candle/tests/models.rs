//! The files of candle-transformers over candle-ascend give what they give over candle.
//!
//! Prints the table that `docs/candle.md` holds, and fails when that one says otherwise (`CANDLE_TABLE=write` writes it).

use candle_models_check as ours;
use candle_models_reference as theirs;
use std::fmt::Write as _;
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::path::Path;
use std::sync::Arc;

/// Logits here are between 1 and 30 in size and come through two layers. Both sides compute in F32 and differ in the
/// order of their sums (over at most 48 terms), which is worth a few units in the last place each; errors of
/// arithmetic or of a wrong element are orders of magnitude larger.
const TOLERANCE: f32 = 1e-5;

/// Largest difference, relative to the largest logit of the step.
fn difference(got: &[Vec<f32>], wanted: &[Vec<f32>]) -> Result<f32, String> {
    let mut worst = 0f32;
    if got.len() != wanted.len() {
        return Err(format!("{} steps instead of {}", got.len(), wanted.len()));
    }
    for (step, (got, wanted)) in got.iter().zip(wanted).enumerate() {
        if got.len() != wanted.len() || got.is_empty() {
            return Err(format!("step {step} has {} logits instead of {}", got.len(), wanted.len()));
        }
        let size = wanted.iter().fold(0f32, |size, logit| size.max(logit.abs()));
        for (got, wanted) in got.iter().zip(wanted) {
            let off = (got - wanted).abs() / size;
            if off.is_nan() {
                return Err(format!("step {step} gives {got} where candle gives {wanted}"));
            }
            worst = worst.max(off);
        }
    }
    Ok(worst)
}

/// What came of running a model on a device.
fn outcome(file: &str, weights: &Path, wanted: &[Vec<f32>], device: &candle::Device) -> Result<f32, String> {
    let run = catch_unwind(AssertUnwindSafe(|| ours::run(file, weights, device)))
        .map_err(|_| "panics".to_owned())?
        .map_err(|error| error.to_string())?;
    let off = difference(&run, wanted)?;
    if off <= TOLERANCE {
        Ok(off)
    } else {
        Err(format!("differs by {off:.1e}"))
    }
}

fn status(outcome: &Result<f32, String>) -> String {
    outcome.as_ref().map_or_else(|why| format!("no: {}", why.lines().next().unwrap_or("")), |_| "yes".to_owned())
}

/// The power of ten above.
fn magnitude(off: &Result<f32, String>) -> String {
    match off {
        Ok(0.) => "none".to_owned(),
        Ok(off) => format!("below 1e{}", off.log10().ceil()),
        Err(_) => "–".to_owned(),
    }
}

#[test]
fn models_of_candle_transformers_run_and_agree() {
    candle::register_simulator(|_| Ok(Arc::new(cann_sim::Embedded::new().map_err(|status| status.message)?)));
    let folder = tempfile::tempdir().expect("a folder");
    let simulated = candle::Device::new_sim("", 0).expect("the simulated NPU opens");
    let mut table = format!("| file of {} | compiles | on the CPU | on the simulated NPU | difference CPU | difference NPU |\n|---|---|---|---|---|---|\n", ours::PACKAGE);
    let mut failed = Vec::new();
    for file in ours::MODELS {
        let weights = folder.path().join(format!("{file}.safetensors"));
        let wanted = theirs::write_weights(file, &weights)
            .and_then(|()| theirs::run(file, &weights, &candle_core::Device::Cpu))
            .unwrap_or_else(|error| panic!("{file} over candle itself: {error}"));
        let usable = wanted.len() >= 3 && wanted.iter().flatten().all(|logit| logit.is_finite());
        assert!(usable, "{file} over candle itself gives no usable logits");
        let cpu = outcome(file, &weights, &wanted, &candle::Device::Cpu);
        let npu = outcome(file, &weights, &wanted, &simulated);
        for (device, outcome) in [("CPU", &cpu), ("simulated NPU", &npu)] {
            if let Err(why) = outcome {
                failed.push(format!("{file} on the {device}: {why}"));
            }
        }
        writeln!(
            table,
            "| {file} | yes | {} | {} | {} | {} |",
            status(&cpu),
            status(&npu),
            magnitude(&cpu),
            magnitude(&npu)
        )
        .expect("a string takes everything");
    }
    println!("{table}");
    assert!(failed.is_empty(), "{} of the runs fail:\n{}", failed.len(), failed.join("\n"));
    check_document(&table);
}

/// Columns of the table that the document must have as they are; differences vary with the machine's vector units.
const FIRM_COLUMNS: usize = 4;

/// Compares the table of `docs/candle.md` with this run's, or writes it there.
fn check_document(table: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/candle.md");
    let document = std::fs::read_to_string(&path).expect("docs/candle.md");
    let is_row = |line: &&str| line.starts_with("| ") || line.starts_with("|--");
    let held: Vec<&str> = document.lines().filter(is_row).collect();
    if std::env::var_os("CANDLE_TABLE").is_some_and(|value| value == "write") {
        let (before, _) = document.split_once(held[0]).expect("the first row is in the document");
        let (_, after) = document.rsplit_once(held[held.len() - 1]).expect("the last row is in the document");
        let written = format!("{before}{}{after}", table.trim_end());
        return std::fs::write(&path, written).expect("docs/candle.md is written");
    }
    let firm = |row: &&str| row.split('|').map(str::trim).take(FIRM_COLUMNS + 1).collect::<Vec<_>>().join("|");
    let held: Vec<String> = held.iter().map(firm).collect();
    let found: Vec<String> = table.lines().collect::<Vec<_>>().iter().map(firm).collect();
    assert_eq!(
        held, found,
        "the table of docs/candle.md is out of date: CANDLE_TABLE=write cargo test -p candle-models-check"
    );
}
