//! Fine-tuning: Hugging Face files in, Hugging Face and PEFT files out, on one device or on many.
//!
//! One trainer, and one small file an objective. Data becomes [`Sample`]s, an [`Objective`] puts them into batches and says
//! what is lost on each, and the trainer does the rest: accumulation, reduction over ranks, clipping, the optimizer's step,
//! logs, checkpoints. Where randomness is wanted it is drawn from the seed and the number of the step, so that a run which
//! goes on from a checkpoint is the run that was never interrupted.

pub mod adapter;
mod batch;
pub mod data;
pub mod files;
mod gradients;
mod objective;
pub mod optimizer;
mod parallel;
mod policy;
mod random;
mod ranks;
pub mod reward;
mod save;
mod trainer;

pub use batch::{Batch, IGNORED, Sample};
pub use gradients::Gradients;
pub use objective::{Batches, Loss, Objective, Planned, Sft, distill, grpo};
pub use parallel::{Partition, Sharding, Zero};
pub use policy::Policy;
pub use ranks::Ranks;
pub use trainer::{
    Decay, LogEntry, Outcome, Plain, Progress, Resume, RunState, Schedule, State, StepReport, TrainOptions, train,
};
