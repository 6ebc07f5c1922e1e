//! `npu-run bench`: how fast a model of some shape runs here, and how that compares with other programs.

mod gguf;
mod kernels;
mod memory;
mod moe;
mod ours;
mod paged;
mod peers;
mod plan;
mod report;
mod train;

use crate::cli::{BenchArgs, Measured};
use crate::device::Opened;
use crate::modelled::{self, Recording};
use crate::{device, progress, report as output};
use anyhow::{Context, Result};
use candle_ascend::Device;
use ours::Ours;
use peers::{Absent, Contender};
use plan::{Model, Plan};
use report::{Missing, Rates, Ratio, Report, Sample, Spread};
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};
use std::time::Instant;

/// Seed of all random weights.
const SEED: u64 = 0;
/// How the libraries below learn how many threads to use.
const THREADS: &str = "RAYON_NUM_THREADS";

/// Threads that products use.
fn threads() -> usize {
    let set = std::env::var(THREADS).ok().and_then(|text| text.parse().ok()).filter(|&threads| threads > 0);
    set.or_else(|| std::thread::available_parallelism().ok().map(usize::from)).unwrap_or(1)
}

/// How often a pass is done for one measurement: on a device that works beside the host, so often that the last wait for it counts
/// for little, as between the steps of a model.
fn passes(opened: &Opened) -> usize {
    if opened.device.is_cpu() || opened.simulated { 1 } else { 10 }
}

/// Seconds of a pass, of as many that follow each other on a device that has nothing else to do.
fn timed<R>(device: &Device, passes: usize, pass: impl Fn() -> Result<R>) -> Result<f64> {
    device.synchronize()?;
    let start = Instant::now();
    for _ in 0..passes {
        pass()?;
    }
    device.synchronize()?;
    Ok(start.elapsed().as_secs_f64() / passes as f64)
}

/// Seconds of two passes that are measured in turns, so that whatever else the machine does befalls both. Calls `after_round` as often as
/// there are rounds, those to warm up included.
fn in_turns<A, B>(
    args: &BenchArgs,
    opened: &Opened,
    first: impl Fn() -> Result<A>,
    second: impl Fn() -> Result<B>,
    after_round: impl Fn(),
) -> Result<[Spread; 2]> {
    let (passes, mut seconds) = (passes(opened), [Vec::new(), Vec::new()]);
    for _ in 0..args.warmup + args.repeat {
        seconds[0].push(timed(&opened.device, passes, &first)?);
        seconds[1].push(timed(&opened.device, passes, &second)?);
        after_round();
    }
    Ok(seconds.map(|seconds| Spread::of(seconds.into_iter().skip(args.warmup))))
}

pub fn run(args: &BenchArgs) -> Result<ExitCode> {
    if args.what == Some(Measured::Kernels) {
        return kernels::run(args.json);
    }
    if let Some(wanted) = args.threads.map(usize::from).filter(|&wanted| wanted != threads()) {
        return again(wanted);
    }
    if let Some(layer) = &args.moe_layer {
        return moe::run(args, layer);
    }
    if let Some(keys) = args.paged_attention {
        return paged::run(args, keys.get());
    }
    if let Some(trained) = args.train {
        return train::run(args, trained);
    }
    let wanted = plan::peers(&args.against)?;
    let opened = device::open(&args.device)?;
    modelled::only_simulated(opened.simulated, &[("--timeline", args.timeline.is_some())])?;
    let plan = Plan::new(args, &opened.device)?;
    let (ours, load) = Ours::load(&plan, &opened)?;
    output::notes(ours.notes(), args.json);

    let mut missing = Vec::new();
    let mut contenders: Vec<Running> = Vec::new();
    for peer in wanted {
        match peers::open(peer, &plan, args) {
            Ok(contender) => contenders.push(Running { contender, samples: Vec::new() }),
            Err(error) => missing.push(missed(format!("{peer:?}"), &error)),
        }
    }
    let mut own = Vec::new();
    let mut counts = None;
    let bar = progress::steps("measuring", plan.warmup + plan.repeat, args.json);
    for round in 0..plan.warmup + plan.repeat {
        let (sample, counted) = ours.run()?;
        let mut broken = Vec::new();
        for (index, running) in contenders.iter_mut().enumerate() {
            match running.contender.run() {
                Ok(sample) => running.samples.push(sample),
                Err(error) => broken.push((index, error)),
            }
        }
        for (index, error) in broken.into_iter().rev() {
            missing.push(missed(contenders.remove(index).contender.name(), &error));
        }
        if round < plan.warmup {
            contenders.iter_mut().for_each(|running| running.samples.clear());
        } else {
            own.push(sample);
            counts = counted;
        }
        bar.inc(1);
    }
    bar.finish_and_clear();

    let mut rates = vec![Rates::of("npu-run".into(), own)];
    rates.extend(contenders.into_iter().map(|running| Rates::of(running.contender.name(), running.samples)));
    let recording = args.timeline.as_ref().map(|_| Recording::start());
    let modelled = ours.modelled()?;
    if let (Some(recording), Some(path)) = (recording, &args.timeline) {
        recording.finish().write(path)?;
    }
    let report = Report {
        model: plan.name.clone(),
        weights: if matches!(plan.model, Model::Random) { "random" } else { "its own" },
        device: opened.line.clone(),
        dtype: plan.format_name(),
        threads: plan.threads,
        prompt_tokens: plan.prompt_tokens,
        decode_tokens: plan.decode_tokens,
        repeat: plan.repeat,
        load,
        ratios: ratios(&rates),
        rates,
        per_token: counts,
        modelled,
        missing,
    };
    finish(args, &report)
}

/// A peer and what it measured.
struct Running {
    contender: Box<dyn Contender>,
    samples: Vec<Sample>,
}

fn missed(peer: String, error: &anyhow::Error) -> Missing {
    Missing { peer, absent: error.is::<Absent>(), reason: format!("{error:#}") }
}

fn ratios(rates: &[Rates]) -> Vec<Ratio> {
    let Some((own, peers)) = rates.split_first() else { return Vec::new() };
    let ratio = |peer: &Rates| Ratio {
        peer: peer.name.clone(),
        prefill: own.prefill.median / peer.prefill.median,
        decode: own.decode.median / peer.decode.median,
    };
    peers.iter().map(ratio).collect()
}

/// Prints the report; a peer that broke makes the program fail, one that is not here does not.
fn finish(args: &BenchArgs, report: &Report) -> Result<ExitCode> {
    if args.json {
        output::json(report)?
    } else {
        print!("{report}")
    }
    Ok(say_missing(&report.missing))
}

fn say_missing(missing: &[Missing]) -> ExitCode {
    for missing in missing {
        let kind = if missing.absent { "left out" } else { "failed" };
        eprintln!("{}: {kind}: {}", missing.peer, missing.reason);
    }
    let failed = missing.iter().any(|missing| !missing.absent);
    if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

/// Becomes this program with the same arguments and `threads` threads: what computes reads the number from the
/// environment, once.
fn again(threads: usize) -> Result<ExitCode> {
    let program = std::env::current_exe().context("--threads starts this program again and does not find it")?;
    let error = Command::new(program).args(std::env::args_os().skip(1)).env(THREADS, threads.to_string()).exec();
    Err(error).context("--threads starts this program again")
}
