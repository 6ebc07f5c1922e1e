//! What a generation cost: time, memory, and what the device was asked to do.

use anyhow::Result;
use candle_ascend::Device;
use candle_ascend::acl::Counters;
use serde::Serialize;
use std::fmt;
use std::time::Instant;

/// What loading a checkpoint took.
#[derive(Clone, Debug, Default, Serialize)]
pub struct LoadStats {
    pub seconds: f64,
    /// Bytes of the weights as stored.
    pub stored_bytes: u64,
    /// Tensors of the files that the model has no use for.
    pub unused_tensors: Vec<String>,
    /// What a user should know of how the weights are held, a line each.
    pub notes: Vec<String>,
}

/// What one generation took. Rates are measured by the wall clock of this process, on the simulated NPU too.
#[derive(Clone, Debug, Serialize)]
pub struct Stats {
    pub load_seconds: f64,
    pub prompt_tokens: usize,
    /// Tokens drawn, the one that ended the answer included.
    pub generated_tokens: usize,
    /// From the start to the first token.
    pub prefill_seconds: f64,
    /// From the first token to the last.
    pub decode_seconds: f64,
    pub prefill_tokens_per_second: Option<f64>,
    /// Tokens after the first per second.
    pub decode_tokens_per_second: Option<f64>,
    /// Most memory in use at once: of the device's pool on an NPU, of this process elsewhere.
    pub peak_memory_bytes: Option<u64>,
    /// What an NPU was asked to do per token after the first.
    #[serde(flatten)]
    pub per_token: Option<PerToken>,
    /// Why an NPU decoded operator by operator, where it could not run a captured graph.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub without_graphs: Option<String>,
}

/// What an NPU was asked to do, per token.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct PerToken {
    /// Operators that the host launched.
    #[serde(rename = "launches_per_token")]
    pub launches: f64,
    /// Captured graphs that the host started, and the operators in them.
    #[serde(rename = "replays_per_token")]
    pub replays: f64,
    #[serde(rename = "replayed_launches_per_token")]
    pub replayed_launches: f64,
    /// Times that the host waited.
    #[serde(rename = "host_syncs_per_token")]
    pub host_syncs: f64,
    /// Calls of CANN's C interface for the pass, the reading of its result left out.
    #[serde(rename = "calls_per_token")]
    pub calls: f64,
    #[serde(rename = "bytes_to_device_per_token")]
    pub bytes_to_device: f64,
    #[serde(rename = "bytes_to_host_per_token")]
    pub bytes_to_host: f64,
    /// Microseconds of this program's own, outside of CANN, for each launch or start of a graph: those of the median token.
    /// The few tokens that make and capture a step would say more of themselves than of what decoding costs.
    pub host_micros_per_launch: f64,
}

impl PerToken {
    fn between(before: &Counters, after: &Counters, tokens: usize, host_micros_per_launch: f64) -> Self {
        let spent = after.since(before);
        let each = |count: u64| count as f64 / tokens as f64;
        Self {
            launches: each(spent.launches),
            replays: each(spent.replays),
            replayed_launches: each(spent.replayed_launches),
            host_syncs: each(spent.host_syncs),
            calls: each(spent.timed_calls),
            bytes_to_device: each(spent.bytes_to_device),
            bytes_to_host: each(spent.bytes_to_host),
            host_micros_per_launch,
        }
    }
}

/// This program's own microseconds for each launch or start of a graph between two readings of the counters.
fn host_micros(before: &Counters, after: &Counters) -> f64 {
    let spent = after.since(before);
    spent.timed_host_nanos as f64 / 1000.0 / (spent.launches + spent.replays).max(1) as f64
}

/// The middle one of `values`; 0 of none.
fn median(mut values: Vec<f64>) -> f64 {
    values.sort_unstable_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or_default()
}

/// Counts while a generation runs.
pub(crate) struct Meter {
    device: Device,
    start: Instant,
    /// When the first token came, and the counters then.
    first: Option<(Instant, Option<Counters>)>,
    last: Option<(Instant, Option<Counters>)>,
    /// Of each token after the first.
    host_micros: Vec<f64>,
    generated: usize,
}

impl Meter {
    pub fn start(device: &Device) -> Self {
        Self {
            device: device.clone(),
            start: Instant::now(),
            first: None,
            last: None,
            host_micros: Vec::new(),
            generated: 0,
        }
    }

    /// Notes that a token was drawn.
    pub fn token(&mut self, first: bool) {
        let now = (Instant::now(), counts(&self.device));
        self.generated += 1;
        if first {
            self.first = Some(now);
        } else if let (Some((_, Some(before))), Some(after)) = (&self.last, &now.1) {
            self.host_micros.push(host_micros(before, after));
        }
        self.last = Some(now);
    }

    pub fn finish(self, load: &LoadStats, prompt_tokens: usize, device: &Device) -> Result<Stats> {
        let later = self.generated.saturating_sub(1);
        let (prefill, decode) = match (self.first, self.last) {
            (Some((first, _)), Some((last, _))) => ((first - self.start).as_secs_f64(), (last - first).as_secs_f64()),
            _ => (self.start.elapsed().as_secs_f64(), 0.0),
        };
        let counted = match (self.first, self.last) {
            (Some((_, Some(first))), Some((_, Some(last)))) if later > 0 => {
                Some(PerToken::between(&first, &last, later, median(self.host_micros)))
            }
            _ => None,
        };
        let rate = |tokens: usize, seconds: f64| (tokens > 0 && seconds > 0.0).then(|| tokens as f64 / seconds);
        Ok(Stats {
            load_seconds: load.seconds,
            prompt_tokens,
            generated_tokens: self.generated,
            prefill_seconds: prefill,
            decode_seconds: decode,
            prefill_tokens_per_second: self.first.and_then(|_| rate(prompt_tokens, prefill)),
            decode_tokens_per_second: rate(later, decode),
            peak_memory_bytes: peak_memory(device)?,
            per_token: counted,
            without_graphs: device.as_npu_device().ok().and_then(|npu| npu.context().why_no_graphs()),
        })
    }
}

fn counts(device: &Device) -> Option<Counters> {
    Some(device.as_npu_device().ok()?.counters())
}

/// The high-water mark of the device's pool, or of this process where there is none.
fn peak_memory(device: &Device) -> Result<Option<u64>> {
    if let Ok(npu) = device.as_npu_device() {
        return Ok(Some(npu.memory_info()?.peak as u64));
    }
    let Ok(status) = std::fs::read_to_string("/proc/self/status") else { return Ok(None) };
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    Ok(line.and_then(|line| line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()).map(|kib| kib * 1024))
}

impl fmt::Display for Stats {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let rate = |rate: Option<f64>| rate.map_or("-".to_owned(), |rate| format!("{rate:.1}"));
        write!(
            f,
            "load {:.2} s · prompt {} tokens, {} tokens/s",
            self.load_seconds,
            self.prompt_tokens,
            rate(self.prefill_tokens_per_second)
        )?;
        write!(f, " · answer {} tokens, {} tokens/s", self.generated_tokens, rate(self.decode_tokens_per_second))?;
        if let Some(bytes) = self.peak_memory_bytes {
            write!(f, " · peak memory {:.1} MiB", bytes as f64 / (1 << 20) as f64)?;
        }
        if let Some(token) = &self.per_token {
            let (operators, micros) = (token.launches + token.replayed_launches, token.host_micros_per_launch);
            write!(f, " · {operators:.1} launches/token in {:.1} calls", token.calls)?;
            write!(f, ", {micros:.1} µs of the host for each launch or graph")?;
        }
        if let Some(why) = &self.without_graphs {
            write!(f, " · no captured graph: {why}")?;
        }
        Ok(())
    }
}
