//! What a generation cost: time, memory, and what the device was asked to do.

use anyhow::Result;
use candle_ascend::Device;
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
    /// Operators launched on an NPU per token after the first.
    pub launches_per_token: Option<f64>,
    /// Times the host waited for an NPU per token after the first.
    pub host_syncs_per_token: Option<f64>,
}

/// Counts while a generation runs.
pub(crate) struct Meter {
    device: Device,
    start: Instant,
    /// When the first token came, and the counters then.
    first: Option<(Instant, Counts)>,
    last: Option<(Instant, Counts)>,
    generated: usize,
}

/// Launches and host waits of an NPU.
type Counts = Option<(u64, u64)>;

impl Meter {
    pub fn start(device: &Device) -> Self {
        Self { device: device.clone(), start: Instant::now(), first: None, last: None, generated: 0 }
    }

    /// Notes that a token was drawn.
    pub fn token(&mut self, first: bool) {
        let now = Some((Instant::now(), counts(&self.device)));
        self.generated += 1;
        if first {
            self.first = now;
        }
        self.last = now;
    }

    pub fn finish(self, load: &LoadStats, prompt_tokens: usize, device: &Device) -> Result<Stats> {
        let later = self.generated.saturating_sub(1);
        let (prefill, decode) = match (self.first, self.last) {
            (Some((first, _)), Some((last, _))) => ((first - self.start).as_secs_f64(), (last - first).as_secs_f64()),
            _ => (self.start.elapsed().as_secs_f64(), 0.0),
        };
        let counted = match (self.first, self.last) {
            (Some((_, Some(first))), Some((_, Some(last)))) if later > 0 => Some((last.0 - first.0, last.1 - first.1)),
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
            launches_per_token: counted.map(|(launches, _)| launches as f64 / later as f64),
            host_syncs_per_token: counted.map(|(_, syncs)| syncs as f64 / later as f64),
        })
    }
}

fn counts(device: &Device) -> Counts {
    let counters = device.as_npu_device().ok()?.counters();
    Some((counters.launches, counters.host_syncs))
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
        if let Some(launches) = self.launches_per_token {
            write!(f, " · {launches:.1} launches/token")?;
        }
        Ok(())
    }
}
