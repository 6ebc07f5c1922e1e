//! `--device`: from the words of the command line to a device, with a line that says what was taken and why.

use crate::cli::DeviceArgs;
use anyhow::{Context, Result, anyhow, bail};
use candle_ascend::ops::{self, Kernels};
use candle_ascend::{Device, NpuDevice};
use cann_sim::Embedded;
use std::sync::Arc;

/// What the user asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Choice {
    Auto,
    Npu(usize),
    Cuda(usize),
    Cpu,
    /// The simulated CANN, as a named SoC or the default one.
    Sim(Option<String>),
}

impl std::str::FromStr for Choice {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let (kind, rest) = match text.split_once(':') {
            Some((kind, rest)) => (kind, Some(rest)),
            None => (text, None),
        };
        let index = || -> Result<usize> {
            let Some(rest) = rest else { return Ok(0) };
            rest.parse().map_err(|_| anyhow!("--device {text}: {rest:?} is not a device index; write {kind}:0"))
        };
        Ok(match (kind, rest) {
            ("auto", None) => Choice::Auto,
            ("cpu", None) => Choice::Cpu,
            ("npu", _) => Choice::Npu(index()?),
            ("cuda" | "gpu", _) => Choice::Cuda(index()?),
            ("sim", soc) => Choice::Sim(soc.map(str::to_owned)),
            _ => bail!("--device {text}: unknown device; use auto, npu[:INDEX], cuda[:INDEX], cpu or sim[:SOC]"),
        })
    }
}

/// A device with the words that describe it.
pub struct Opened {
    pub device: Device,
    /// One line: what was taken, and for `auto` why.
    pub line: String,
    /// Device memory is this machine's own, and times are not a card's.
    pub simulated: bool,
}

/// Makes the simulated CANN that is linked into this program known to the backend, which does not depend on it.
pub fn register_simulator() {
    candle_ascend::register_simulator(|soc| Ok(Arc::new(Embedded::for_soc(soc)?)));
}

/// Opens the device that the arguments name, and has fused operators computed as they say.
pub fn open(args: &DeviceArgs) -> Result<Opened> {
    let choice: Choice = args.device.parse()?;
    with_kernels(args, opened(args, choice)?)
}

fn opened(args: &DeviceArgs, choice: Choice) -> Result<Opened> {
    match choice {
        Choice::Auto => auto(args),
        Choice::Cpu => Ok(Opened { device: Device::Cpu, line: "cpu".into(), simulated: false }),
        Choice::Npu(index) => npu(args, index),
        Choice::Cuda(index) => cuda(index),
        Choice::Sim(soc) => sim(soc.as_deref(), 0),
    }
}

fn with_kernels(args: &DeviceArgs, opened: Opened) -> Result<Opened> {
    let kernels = args.kernels.unwrap_or_default();
    if kernels == Kernels::Ours && !opened.device.is_npu() {
        bail!(
            "--kernels ours: the kernels of this program are Ascend C, and the device is {}; use --device npu or --device sim",
            opened.line
        );
    }
    ops::set_kernels(kernels);
    Ok(opened)
}

/// Opens the device of the process that is `local_rank` on this host, of the kind that the arguments name.
pub fn open_as(args: &DeviceArgs, local_rank: usize) -> Result<Opened> {
    with_kernels(args, opened_as(args, local_rank)?)
}

fn opened_as(args: &DeviceArgs, local_rank: usize) -> Result<Opened> {
    match args.device.parse()? {
        // A process that fell back to the CPU would keep the others waiting.
        Choice::Auto => npu(args, local_rank).or_else(|no_npu| {
            cuda(local_rank).map_err(|no_cuda| no_npu.context(format!("no GPU either: {no_cuda:#}; and no NPU")))
        }),
        Choice::Npu(_) if args.device == "npu" => npu(args, local_rank),
        Choice::Cuda(_) if ["cuda", "gpu"].contains(&args.device.as_str()) => cuda(local_rank),
        Choice::Npu(_) | Choice::Cuda(_) => bail!(
            "--device {} with --hccl: every process takes the device of its local rank; write --device npu or --device cuda, and \
             choose among the host's with ASCEND_RT_VISIBLE_DEVICES or CUDA_VISIBLE_DEVICES",
            args.device
        ),
        Choice::Sim(soc) => sim(soc.as_deref(), local_rank),
        Choice::Cpu => bail!(
            "--device cpu with --hccl: HCCL joins NPUs, and NCCL NVIDIA GPUs; use --device npu, --device cuda or --device sim"
        ),
    }
}

fn sim(soc: Option<&str>, index: usize) -> Result<Opened> {
    let opening = || format!("opening simulated NPU {index}");
    let device = NpuDevice::simulated(soc.unwrap_or(""), index).with_context(opening)?;
    let line = format!("simulated NPU: {}", device.source());
    Ok(Opened { device: Device::Npu(device), line, simulated: true })
}

fn npu(args: &DeviceArgs, index: usize) -> Result<Opened> {
    let device = NpuDevice::installed(index, args.cann_home.as_deref())
        .with_context(|| format!("opening npu:{index} (an NPU that is not there is --device sim)"))?;
    let line = format!("npu:{index}: {}", device.source());
    Ok(Opened { device: Device::Npu(device), line, simulated: false })
}

fn cuda(index: usize) -> Result<Opened> {
    if !cfg!(feature = "cuda") {
        bail!("this npu-run was built without CUDA; rebuild it with `--features cuda` (kernels/cuda/build-npu-run)");
    }
    let opening = || format!("opening cuda:{index}");
    let device = Device::new_cuda(index).with_context(opening)?;
    let line = format!("cuda:{index}: {}", candle_ascend::cuda::describe(index).with_context(opening)?);
    Ok(Opened { device, line, simulated: false })
}

/// The first of NPU, GPU and CPU that opens; the simulated NPU is never taken unasked.
fn auto(args: &DeviceArgs) -> Result<Opened> {
    let first_line = |error: anyhow::Error| error.root_cause().to_string().lines().next().unwrap_or("").to_owned();
    let no_npu = match npu(args, 0) {
        Ok(opened) => return Ok(opened),
        Err(error) => first_line(error),
    };
    let no_cuda = match cuda(0) {
        Ok(opened) => return Ok(opened),
        Err(error) => first_line(error),
    };
    Ok(Opened { device: Device::Cpu, line: format!("cpu (no NPU: {no_npu}; no GPU: {no_cuda})"), simulated: false })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn device_words() {
        assert_eq!("npu:3".parse::<Choice>().unwrap(), Choice::Npu(3));
        assert_eq!("npu".parse::<Choice>().unwrap(), Choice::Npu(0));
        assert_eq!("sim:910b4".parse::<Choice>().unwrap(), Choice::Sim(Some("910b4".into())));
        for (bad, says) in [("tpu", "unknown device"), ("npu:x", "not a device index"), ("cpu:1", "unknown device")] {
            let error = bad.parse::<Choice>().unwrap_err().to_string();
            assert!(error.contains(says), "{bad}: {error}");
        }
    }
}
