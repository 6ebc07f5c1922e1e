//! Every operator of the table against plain arithmetic.

use crate::progress;
use acl_sys::loader::{OPERATORS, OperatorDecl};
use candle_ascend::Device;
use candle_ascend::acl::Context;
use npu_conformance::run::{Failure, Outcome};
use npu_conformance::{Case, cases, run_row, run_tensors};
use serde::Serialize;

/// What became of one operator.
#[derive(Debug, Serialize)]
pub struct Line {
    pub name: String,
    pub cases: usize,
    pub failed: usize,
    /// Largest |got − wanted|.
    pub max_error: f64,
    /// Largest error as a share of its tolerance; over 1 fails.
    pub of_tolerance: f64,
    /// Mean time of a case from launch to result, by the host's clock.
    pub microseconds: f64,
    pub failures: Vec<String>,
}

/// An operator that was not run, and why.
#[derive(Debug, Serialize)]
pub struct NotRun {
    pub name: String,
    pub reason: String,
}

/// Each row of the table on an NPU.
pub fn rows(context: &Context, filter: &str, quiet: bool) -> (Vec<Line>, Vec<NotRun>) {
    let all = cases::all();
    let missing: Vec<String> = context.libraries().into_iter().flat_map(|l| l.missing).map(|(name, _)| name).collect();
    let wanted: Vec<&OperatorDecl> = OPERATORS.iter().filter(|row| row.name.contains(filter)).collect();
    let bar = progress::steps("operators", wanted.len(), quiet);
    let (mut lines, mut not_run) = (Vec::new(), Vec::new());
    for row in wanted {
        bar.inc(1);
        let of_row: Vec<&Case> = all.iter().filter(|case| case.row == row.name).collect();
        let absent = missing.iter().any(|name| *name == format!("aclnn{}", row.name));
        match (absent, of_row.is_empty()) {
            (true, _) => not_run.push(NotRun {
                name: row.name.into(),
                reason: format!("this CANN lacks it (CANN {} has it)", row.since),
            }),
            (false, true) => not_run.push(NotRun { name: row.name.into(), reason: reason(row).into() }),
            (false, false) => lines.push(line(row.name, of_row.iter().map(|case| run_row(context, case)))),
        }
    }
    bar.finish_and_clear();
    (lines, not_run)
}

fn reason(row: &OperatorDecl) -> &'static str {
    if row.simulated { "no case in the suite yet" } else { "declared; neither simulated nor in the suite yet" }
}

/// The operators that the tensor interface reaches, on any device.
pub fn tensors(device: &Device, filter: &str, quiet: bool) -> Vec<Line> {
    let all = cases::all();
    let mut names: Vec<&str> = all.iter().filter(|case| case.tensors.is_some()).map(|case| case.row).collect();
    names.retain(|name| name.contains(filter));
    names.dedup();
    let bar = progress::steps("tensor interface", names.len(), quiet);
    let lines = names
        .iter()
        .map(|name| {
            bar.inc(1);
            let outcomes = all.iter().filter(|case| case.row == *name).filter_map(|case| run_tensors(device, case));
            line(&format!("{name} (tensors)"), outcomes)
        })
        .collect();
    bar.finish_and_clear();
    lines
}

fn line(name: &str, outcomes: impl Iterator<Item = Result<Outcome, Failure>>) -> Line {
    let mut line = Line {
        name: name.into(),
        cases: 0,
        failed: 0,
        max_error: 0.0,
        of_tolerance: 0.0,
        microseconds: 0.0,
        failures: Vec::new(),
    };
    for outcome in outcomes {
        line.cases += 1;
        match outcome {
            Ok(outcome) => {
                line.max_error = line.max_error.max(outcome.difference.max_abs);
                line.of_tolerance = line.of_tolerance.max(outcome.difference.worst);
                line.microseconds += outcome.time.as_secs_f64() * 1e6;
            }
            Err(failure) => {
                line.failed += 1;
                line.failures.push(failure.to_string());
            }
        }
    }
    line.microseconds /= (line.cases - line.failed).max(1) as f64;
    line
}
