//! HCCL: whether it is there, and an all-reduce over every device that this CANN sees.

use super::Check;
use anyhow::{Context as _, Result, anyhow, ensure};
use candle_ascend::comm::{Communicator, Reduction, RootInfo};
use candle_ascend::{Device, NpuDevice, Tensor};
use std::time::{Duration, Instant};

pub fn checks(npu: &NpuDevice) -> Vec<Check> {
    vec![Check::new("HCCL", present(npu)), Check::new("all-reduce", all_reduce(npu))]
}

fn present(npu: &NpuDevice) -> Result<String> {
    let status = npu.context().hccl()?;
    Ok(format!("{} functions, {} missing", status.present, status.missing.len()))
}

/// Elements of the all-reduce: 4 MiB.
const COUNT: usize = 1 << 20;

/// Each device is a rank, driven by a thread.
fn all_reduce(npu: &NpuDevice) -> Result<String> {
    let ranks = npu.context().count()?;
    let info = RootInfo::new(npu.context()).context("opening a root")?;
    let times = std::thread::scope(|scope| {
        let rank = |rank: usize| {
            let info = &info;
            scope.spawn(move || reduce(npu, info, rank, ranks).with_context(|| format!("rank {rank} of {ranks}")))
        };
        let threads: Vec<_> = (0..ranks).map(rank).collect();
        let died = || Err(anyhow!("a rank's thread died"));
        threads.into_iter().map(|thread| thread.join().unwrap_or_else(|_| died())).collect::<Result<Vec<_>>>()
    })?;
    let slowest = times.into_iter().max().unwrap_or_default();
    let rate = (4 * COUNT) as f64 / slowest.as_secs_f64() / 1e9;
    Ok(format!("4 MiB over {ranks} device(s) in threads, the sum is right on each; {rate:.2} GB/s of the buffer"))
}

/// Sums over the ranks, once to connect and once more for the time, and checks every element.
fn reduce(npu: &NpuDevice, info: &RootInfo, rank: usize, ranks: usize) -> Result<Duration> {
    let npu = if rank == npu.ordinal() { npu.clone() } else { npu.sibling(rank)? };
    let communicator = Communicator::join(&npu, info, rank, ranks)?;
    let device = Device::Npu(npu);
    // Small whole numbers: every partial sum is exact.
    let values: Vec<f32> = (0..COUNT).map(|i| ((i % 11) * (rank + 1)) as f32).collect();
    let tensor = Tensor::from_vec(values, COUNT, &device)?;
    communicator.all_reduce(&tensor, Reduction::Sum)?;
    communicator.barrier()?;
    let start = Instant::now();
    let sum = communicator.all_reduce(&tensor, Reduction::Sum)?;
    communicator.synchronize()?;
    let time = start.elapsed();
    let weight = ranks * (ranks + 1) / 2;
    let wrong =
        sum.to_vec1::<f32>()?.iter().enumerate().find(|&(i, &x)| x != ((i % 11) * weight) as f32).map(|(i, &x)| (i, x));
    ensure!(wrong.is_none(), "element and value {wrong:?} are wrong");
    communicator.barrier()?;
    Ok(time)
}
