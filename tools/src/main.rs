//! `npu-run`: parse, dispatch, report. What computes lives in the crates below.

mod bench;
mod cli;
mod demo;
mod device;
mod experts;
mod infer;
mod launch;
mod logits;
mod merge;
mod model;
mod modelled;
mod progress;
mod ranks;
mod report;
mod smoke;
mod train;

use clap::Parser;
use cli::{Cli, Command};
use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: npu_cpu_kernels::memory::Allocator = npu_cpu_kernels::memory::Allocator;

fn main() -> ExitCode {
    launch::end_with_launcher();
    npu_cpu_kernels::memory::keep_pages();
    let cli = Cli::parse();
    device::register_simulator();
    let done = match &cli.command {
        Command::Infer(args) => infer::run(args),
        Command::Logits(args) => logits::run(args),
        Command::Merge(args) => merge::run(args),
        Command::Bench(args) => bench::run(args),
        Command::Launch(args) => launch::run(args),
        Command::Smoke(args) => smoke::run(args),
        Command::Train(command) => train::run(command),
    };
    match done {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
