//! What a run says while it runs.

use super::state::LogEntry;

/// Hears how a run goes; the command line shows it.
pub trait Progress {
    /// The run begins after `done` of `steps` steps.
    fn start(&mut self, _done: usize, _steps: usize) {}

    /// A step is over.
    fn step(&mut self, _at: &StepReport) {}

    /// A line was added to the logs.
    fn logged(&mut self, _entry: &LogEntry) {}

    /// Something that the user should know.
    fn say(&mut self, line: &str);
}

/// How a step went.
#[derive(Clone, Copy, Debug)]
pub struct StepReport {
    /// Steps that are over.
    pub step: usize,
    pub loss: f64,
    pub tokens_per_second: f64,
}

/// Says what is to be known on standard error and nothing else.
pub struct Plain;

impl Progress for Plain {
    fn say(&mut self, line: &str) {
        eprintln!("{line}");
    }
}
