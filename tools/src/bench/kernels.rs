//! `npu-run bench kernels`: modelled times of our own Ascend C operators on Ascend910B3, from what their sources do on the
//! twin.

use crate::report::{self, Table};
use anyhow::{Context, Result};
use ascend_kernels::bench::{self, Case, Outcome};
use serde::Serialize;
use std::process::ExitCode;

/// One operator at one shape.
#[derive(Serialize)]
struct Row {
    kernel: &'static str,
    shape: &'static str,
    ran: &'static str,
    modelled_us: f64,
    bound_us: f64,
    bound_by: &'static str,
    percent_of_bound: f64,
    busiest_pipe: &'static str,
    busy_percent: f64,
}

impl Row {
    fn of(case: &Case, outcome: Outcome) -> Self {
        let Outcome { modelled, bound, bound_by, limited_by, busy } = outcome;
        Self {
            kernel: case.kernel,
            shape: case.shape,
            ran: case.part,
            modelled_us: modelled,
            bound_us: bound,
            bound_by,
            percent_of_bound: 100.0 * bound / modelled,
            busiest_pipe: limited_by,
            busy_percent: 100.0 * busy,
        }
    }
}

pub fn run(json: bool) -> Result<ExitCode> {
    let mut rows = Vec::new();
    for case in bench::cases() {
        let outcome = case.outcome().with_context(|| format!("{}: {}", case.kernel, case.shape))?;
        rows.push(Row::of(&case, outcome));
    }
    if json {
        report::json(&rows)?;
        return Ok(ExitCode::SUCCESS);
    }
    println!("Modelled for Ascend910B3, not measured: bytes, products and instructions that the twin counted.");
    println!("A part of each shape ran and stands for the rest.\n");
    let mut table = Table::new(&["kernel", "shape", "ran", "us", "bound us", "bound by", "of bound", "busiest"]);
    for row in &rows {
        table.row([
            row.kernel.to_owned(),
            row.shape.to_owned(),
            row.ran.to_owned(),
            format!("{:.0}", row.modelled_us),
            format!("{:.0}", row.bound_us),
            row.bound_by.to_owned(),
            format!("{:.0} %", row.percent_of_bound),
            format!("{} {:.0} %", row.busiest_pipe, row.busy_percent),
        ]);
    }
    println!("{table}");
    Ok(ExitCode::SUCCESS)
}
