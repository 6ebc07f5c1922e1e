//! `npu-run smoke`: what a user with a new machine runs first. Each part says what it found; the exit code is 0 only if
//! everything passed.

mod fused;
mod hccl;
mod machine;
mod operators;
mod streams;

use crate::cli::SmokeArgs;
use crate::device;
use crate::report::{self, Table};
use anyhow::Result;
use candle_ascend::Device;
use serde::Serialize;
use std::process::ExitCode;

/// Whether a part passed, as text that says what was found.
#[derive(Debug, Serialize)]
pub struct Check {
    pub name: String,
    pub passed: bool,
    pub found: String,
}

impl Check {
    pub fn new(name: impl Into<String>, result: Result<String>) -> Self {
        let (passed, found) = match result {
            Ok(found) => (true, found),
            Err(error) => (false, format!("{error:#}")),
        };
        Self { name: name.into(), passed, found }
    }
}

/// What `--json` prints.
#[derive(Debug, Default, Serialize)]
struct Report {
    device: String,
    passed: bool,
    checks: Vec<Check>,
    libraries: Vec<machine::Library>,
    operators: Vec<operators::Line>,
    /// Fused operators by each way that computes them.
    fused: Vec<fused::Line>,
    /// Operators of the table that this CANN does not have, and those that the suite has no case for.
    not_run: Vec<operators::NotRun>,
}

pub fn run(args: &SmokeArgs) -> Result<ExitCode> {
    let opened = device::open(&args.device)?;
    let mut report = Report { device: opened.line.clone(), ..Report::default() };
    let filter = args.filter.as_deref().unwrap_or("");
    if !args.json {
        println!("{}\n", opened.line);
    }
    if let Device::Npu(npu) = &opened.device {
        let context = npu.context();
        report.libraries = machine::libraries(context);
        report.checks.extend(machine::checks(npu));
        report.checks.extend(streams::checks(context));
        report.checks.extend(hccl::checks(npu));
        let (lines, not_run) = operators::rows(context, filter, args.json);
        report.operators = lines;
        report.not_run = not_run;
    }
    report.operators.extend(operators::tensors(&opened.device, filter, args.json));
    report.fused = fused::lines(&opened.device, args.device.kernels, filter, args.json);
    report.checks.push(machine::matmul_rate(&opened.device));
    report.passed = report.checks.iter().all(|c| c.passed)
        && report.operators.iter().all(|o| o.failed == 0)
        && report.fused.iter().all(|f| f.failed == 0);
    if args.json {
        report::json(&report)?;
    } else {
        print(&report);
    }
    Ok(if report.passed { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn print(report: &Report) {
    if !report.libraries.is_empty() {
        let mut table = Table::new(&["library", "functions", "missing"]);
        for library in &report.libraries {
            table.row([library.name.clone(), library.present.to_string(), library.missing.join(", ")]);
        }
        println!("{table}");
    }
    let mut table = Table::new(&["check", "", "found"]);
    for check in &report.checks {
        table.row([check.name.clone(), mark(check.passed).into(), check.found.clone()]);
    }
    println!("{table}");
    let mut table = Table::new(&["operator", "", "cases", "max error", "of tolerance", "time/case"]);
    for line in &report.operators {
        let time = format!("{:.1} µs", line.microseconds);
        let share = format!("{:.2}", line.of_tolerance);
        table.row([
            line.name.clone(),
            mark(line.failed == 0).into(),
            line.cases.to_string(),
            format!("{:.2e}", line.max_error),
            share,
            time,
        ]);
    }
    println!("{table}");
    if !report.fused.is_empty() {
        println!("{}", fused::table(&report.fused));
    }
    let failures = report.operators.iter().map(|o| &o.failures).chain(report.fused.iter().map(|f| &f.failures));
    failures.flatten().for_each(|failure| println!("FAILED {failure}"));
    if !report.not_run.is_empty() {
        println!("{} operators of the table were not run:", report.not_run.len());
        let mut reasons: Vec<&str> = report.not_run.iter().map(|n| n.reason.as_str()).collect();
        reasons.sort_unstable();
        reasons.dedup();
        for reason in reasons {
            let names: Vec<&str> =
                report.not_run.iter().filter(|n| n.reason == reason).map(|n| n.name.as_str()).collect();
            println!("  {reason}: {}", names.join(", "));
        }
        println!();
    }
    let failed = report.operators.iter().filter(|o| o.failed > 0).count()
        + report.fused.iter().filter(|f| f.failed > 0).count()
        + report.checks.iter().filter(|c| !c.passed).count();
    let cases = report.operators.iter().map(|o| o.cases).chain(report.fused.iter().map(|f| f.cases)).sum::<usize>();
    let (checks, operators) = (report.checks.len(), report.operators.len());
    match failed {
        0 => println!("passed: {checks} checks, {operators} operators, {cases} cases"),
        n => println!("FAILED: {n} of {} checks and operators", checks + operators + report.fused.len()),
    }
}

fn mark(passed: bool) -> &'static str {
    if passed { "ok" } else { "FAILED" }
}
