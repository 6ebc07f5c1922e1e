//! `npu-run train`: a file a subcommand, and what they share.

mod args;
mod distill;
mod grpo;
mod lora;
mod screen;
mod setup;
mod sft;

pub use args::TrainCommand;

use anyhow::Result;
use std::process::ExitCode;

pub fn run(command: &TrainCommand) -> Result<ExitCode> {
    match command {
        TrainCommand::Sft(args) => sft::run(args),
        TrainCommand::Distill(args) => distill::run(args),
        TrainCommand::Grpo(args) => grpo::run(args),
    }
}
