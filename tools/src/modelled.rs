//! The simulated device's modelled tasks: by operator for people, as a Chrome trace for a browser.

use crate::report::Table;
use anyhow::{Context, Result, bail};
use cann_sim::runtime::timeline::{self, Span};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::BufWriter;
use std::path::Path;

/// Refuses what `flags` ask for, those that are set, on a device that is not simulated and so has no model.
pub fn only_simulated(simulated: bool, flags: &[(&str, bool)]) -> Result<()> {
    match flags.iter().find(|(_, set)| *set && !simulated) {
        Some((flag, _)) => {
            bail!("{flag} shows modelled times, which only the simulated device has; add --device sim")
        }
        None => Ok(()),
    }
}

/// Tasks that are being kept.
#[derive(Debug)]
pub struct Recording(());

impl Recording {
    /// Begins to keep the tasks of the simulated device.
    pub fn start() -> Self {
        timeline::start();
        Self(())
    }

    /// The tasks since then.
    pub fn finish(self) -> Tasks {
        let (spans, dropped) = timeline::take();
        Tasks { spans, dropped }
    }
}

/// Modelled tasks.
#[derive(Debug)]
pub struct Tasks {
    spans: Vec<Span>,
    /// Tasks after the ones that there was room for.
    dropped: u64,
}

impl Tasks {
    /// Writes a trace for `chrome://tracing` or Perfetto.
    pub fn write(&self, path: &Path) -> Result<()> {
        let writing =
            || -> std::io::Result<()> { timeline::write(&self.spans, &mut BufWriter::new(File::create(path)?)) };
        writing().with_context(|| format!("writing {}", path.display()))?;
        let dropped = if self.dropped > 0 { format!(", {} more left out", self.dropped) } else { String::new() };
        eprintln!("{} modelled tasks in {}{dropped}", self.spans.len(), path.display());
        Ok(())
    }

    /// A table by operator, the one with the most time first.
    pub fn by_operator(&self) -> Table {
        let mut sums: BTreeMap<&str, (u64, f64, BTreeMap<&str, f64>)> = BTreeMap::new();
        for span in &self.spans {
            let sum = sums.entry(span.op).or_default();
            sum.0 += 1;
            sum.1 += span.time;
            *sum.2.entry(span.unit.as_str()).or_insert(0.0) += span.time;
        }
        let total: f64 = sums.values().map(|sum| sum.1).sum();
        let mut rows: Vec<_> = sums.into_iter().collect();
        rows.sort_by(|(_, a), (_, b)| b.1.total_cmp(&a.1));
        let mut table = Table::new(&["modelled, not measured", "tasks", "ms", "share", "limited by"]);
        for (op, (tasks, time, limits)) in rows {
            let most = limits.iter().max_by(|a, b| a.1.total_cmp(b.1)).map_or("", |(unit, _)| unit);
            let share = format!("{:.1} %", 100.0 * time / total);
            table.row([op.into(), tasks.to_string(), format!("{:.3}", time / 1e6), share, most.into()]);
        }
        table
    }
}
