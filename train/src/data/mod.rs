//! From the user's files to samples, and in which order a run sees them.
//!
//! A [`Corpus`] opens JSONL, JSON and Parquet files, checks every line once, and from then on reads and tokenises a sample
//! when it is asked for: what it keeps of each is where it lies and how long it is. A [`Plan`] says which samples each step
//! takes, by their numbers alone.

mod corpus;
mod encode;
mod format;
mod packing;
mod parquet;
mod plan;
mod report;
mod source;

pub use corpus::{Corpus, Prompt};
pub use encode::Encoder;
pub use format::Format;
pub use plan::{Length, Plan, PlanOptions};
pub use report::DataReport;

/// How files become samples. The default is TRL's where TRL has one.
#[derive(Clone, Debug)]
pub struct DataOptions {
    /// What the lines hold; recognised by their fields where nothing is said.
    pub format: Option<Format>,
    /// Tokens of the longest sample; none is 1024, or the model's context where that is less.
    pub max_length: Option<usize>,
    /// Longer samples are left out rather than cut at their end.
    pub drop_long: bool,
    /// The loss is on all tokens rather than on the assistant's (or the completion's) alone.
    pub learn_all: bool,
    /// Lines that cannot be used are left out and counted; else the first is an error.
    pub skip_bad_lines: bool,
    /// Prompts as `npu-run infer` makes them without `--no-think`.
    pub think: bool,
    /// Prompt and answer one after the other as they stand, without the checkpoint's chat template.
    pub raw: bool,
}

impl Default for DataOptions {
    fn default() -> Self {
        Self {
            format: None,
            max_length: None,
            drop_long: false,
            learn_all: false,
            skip_bad_lines: false,
            think: true,
            raw: false,
        }
    }
}
