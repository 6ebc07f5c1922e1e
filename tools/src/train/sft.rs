//! `npu-run train sft`.

use super::args::SftArgs;
use super::setup::Setup;
use anyhow::Result;
use npu_train::Sft;
use std::process::ExitCode;

pub fn run(args: &SftArgs) -> Result<ExitCode> {
    let setup = Setup::new(&args.train, "sft", args)?;
    // Before the weights, which may take minutes: what is wrong with the data is said at once.
    let (batches, plan) = setup.samples(&args.data)?;
    let policy = setup.policy()?;
    let run = setup.run(plan)?;
    setup.train(&policy, &mut Sft::new(batches), &run)
}
