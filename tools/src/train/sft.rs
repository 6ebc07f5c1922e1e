//! `npu-run train sft`.

use super::args::SftArgs;
use super::setup::Setup;
use anyhow::Result;
use npu_train::Sft;
use std::process::ExitCode;

/// TRL's peak of the learning rate for fine-tuning.
const LEARNING_RATE: f64 = 2e-5;

pub fn run(args: &SftArgs) -> Result<ExitCode> {
    let setup = Setup::new(&args.train, "sft", args)?;
    // Before the weights, which may take minutes: what is wrong with data or flags is said at once.
    let (batches, plan) = setup.samples(&args.data)?;
    let run = setup.run(plan, LEARNING_RATE)?;
    let policy = setup.policy()?;
    setup.train(&policy, &mut Sft::new(batches), &run)
}
