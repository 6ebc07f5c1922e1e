//! Fused operators by every way that the device has, against plain loops.

use crate::progress;
use crate::report::Table;
use candle_ascend::Device;
use candle_ascend::ops::Kernels;
use npu_conformance::fused::{self, DTYPES, WAYS};
use serde::Serialize;

/// What became of one operator in one type by one way.
#[derive(Debug, Serialize)]
pub struct Line {
    pub operator: &'static str,
    pub dtype: String,
    /// As `--kernels` calls it.
    pub way: String,
    pub cases: usize,
    pub failed: usize,
    /// Largest |got − wanted|.
    pub max_error: f64,
    /// Largest error as a share of its tolerance; over 1 fails.
    pub of_tolerance: f64,
    /// How many of the cases aclnn's own operator computed, our kernel, and simpler operators; none on devices where nobody
    /// counts launches.
    pub by_aclnn: usize,
    pub by_ours: usize,
    pub composed: usize,
    /// The fewest and the most launches of a case.
    pub launches: Option<(usize, usize)>,
    pub failures: Vec<String>,
    #[serde(skip)]
    cell: String,
}

/// Every case by `only` that way, or by each that the device has.
pub fn lines(device: &Device, only: Option<Kernels>, filter: &str, quiet: bool) -> Vec<Line> {
    let all = fused::all();
    let operators: Vec<_> = all
        .chunk_by(|a, b| a.operator.name == b.operator.name)
        .filter(|cases| cases[0].operator.name.contains(filter))
        .collect();
    let bar = progress::steps("fused operators", operators.len(), quiet);
    let ways = ways(device, only);
    let mut lines = Vec::new();
    for cases in operators {
        bar.inc(1);
        for dtype in DTYPES {
            for &way in &ways {
                let line = fused::line(device, cases.iter().filter(|case| case.dtype == dtype), way);
                lines.push(Line {
                    operator: cases[0].operator.name,
                    dtype: dtype.to_string(),
                    way: way.to_string(),
                    cell: line.cell(way),
                    cases: line.cases,
                    failed: line.failures.len(),
                    max_error: line.max_error,
                    of_tolerance: line.of_tolerance,
                    by_aclnn: line.aclnn,
                    by_ours: line.ours,
                    composed: line.composed,
                    launches: line.launches,
                    failures: line.failures,
                });
            }
        }
    }
    bar.finish_and_clear();
    lines
}

/// Our kernels are an NPU's.
fn ways(device: &Device, only: Option<Kernels>) -> Vec<Kernels> {
    let there = |way: &Kernels| only.is_none_or(|only| only == *way) && (*way != Kernels::Ours || device.is_npu());
    WAYS.into_iter().filter(there).collect()
}

/// A row an operator and type, a column a way: cases, the largest error, launches, and who computed what the way did not.
pub fn table(lines: &[Line]) -> Table {
    let mut ways: Vec<&str> = Vec::new();
    lines.iter().for_each(|line| {
        if !ways.contains(&line.way.as_str()) {
            ways.push(&line.way);
        }
    });
    let mut table = Table::new(&[&["fused operator", "type"], &ways[..]].concat());
    for row in lines.chunk_by(|a, b| (a.operator, &a.dtype) == (b.operator, &b.dtype)) {
        let head = [row[0].operator.to_owned(), row[0].dtype.clone()];
        table.row(head.into_iter().chain(row.iter().map(|line| line.cell.clone())));
    }
    table
}
