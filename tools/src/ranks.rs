//! `--hccl`: from what a launcher has left in the environment to the ranks that train together.

use crate::cli::{DeviceArgs, ParallelArgs};
use crate::device::{self, Opened};
use anyhow::{Result, bail};
use candle_ascend::comm::Job;
use npu_train::{Ranks, Sharding};

/// Opens this process's device, and joins the other processes if that is asked for.
pub fn open(args: &ParallelArgs, device: &DeviceArgs) -> Result<(Opened, Ranks)> {
    let job = Job::from_env()?;
    if !args.hccl {
        if job.size > 1 && job.launcher == "torchrun" {
            bail!(
                "RANK and WORLD_SIZE say that this is rank {} of {}, but without --hccl each process would train on its own \
                 and write over the others' files\n  try: add --hccl, or start one process",
                job.rank,
                job.size
            );
        }
        return Ok((device::open(device)?, Ranks::single()));
    }
    let opened = device::open_as(device, job.local_rank)?;
    let ranks = Ranks::join(&opened.device, &job, args.rank_table.as_deref())?;
    Ok((opened, ranks))
}

/// How the ranks share the work.
pub fn sharding(args: &ParallelArgs) -> Sharding {
    Sharding { zero: args.zero, bucket_bytes: args.ddp_bucket_cap_mb << 20 }
}
