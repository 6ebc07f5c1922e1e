//! The results of a benchmark, as JSON and as tables.

use crate::report::{Table, bytes};
use cann_sim::Modelled;
use cann_sim::runtime::cost::Unit;
use npu_engine::Stats;
use serde::Serialize;
use std::collections::BTreeMap;
use std::fmt;

/// What loading took.
#[derive(Clone, Debug, Serialize)]
pub struct Load {
    pub seconds: f64,
    pub parameters: u64,
    pub weight_bytes: u64,
    /// Most memory of this process above what it had before. On the simulated device that is the device's memory too.
    pub host_peak_bytes: Option<u64>,
    pub device_peak_bytes: Option<u64>,
}

/// Tokens per second of one run.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Sample {
    pub prefill: f64,
    pub decode: f64,
}

/// Several measurements of one thing.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Spread {
    pub median: f64,
    pub min: f64,
    pub max: f64,
}

impl Spread {
    /// Of at least one value.
    pub fn of(values: impl IntoIterator<Item = f64>) -> Self {
        let mut values: Vec<f64> = values.into_iter().collect();
        values.sort_by(f64::total_cmp);
        let middle = |at: usize| values.get(at).copied().unwrap_or(f64::NAN);
        let (low, high) = (middle(values.len().saturating_sub(1) / 2), middle(values.len() / 2));
        Self { median: (low + high) / 2.0, min: middle(0), max: middle(values.len().saturating_sub(1)) }
    }
}

impl fmt::Display for Spread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let digits = |value: f64| if value < 100.0 { 1 } else { 0 };
        let show = |value: f64| format!("{value:.*}", digits(value));
        write!(f, "{} ({} – {})", show(self.median), show(self.min), show(self.max))
    }
}

/// Rates of one contender in tokens per second.
#[derive(Clone, Debug, Serialize)]
pub struct Rates {
    pub name: String,
    pub prefill: Spread,
    pub decode: Spread,
    pub samples: Vec<Sample>,
}

impl Rates {
    pub fn of(name: String, samples: Vec<Sample>) -> Self {
        Self {
            name,
            prefill: Spread::of(samples.iter().map(|sample| sample.prefill)),
            decode: Spread::of(samples.iter().map(|sample| sample.decode)),
            samples,
        }
    }
}

/// Ours over a peer's, by medians.
#[derive(Clone, Debug, Serialize)]
pub struct Ratio {
    pub peer: String,
    pub prefill: f64,
    pub decode: f64,
}

/// What an NPU was asked to do for a decoded token.
#[derive(Clone, Debug, Serialize)]
pub struct DeviceCounts {
    /// Operators, whether the host launched them one by one or started a graph of them.
    pub launches: f64,
    /// Calls of CANN for the pass.
    pub calls: f64,
    pub host_syncs: f64,
    /// Microseconds of this program for each launch or start of a graph.
    pub host_micros_per_launch: f64,
    pub bytes_to_device: f64,
    pub bytes_to_host: f64,
}

impl DeviceCounts {
    pub fn of(stats: &Stats) -> Option<Self> {
        let token = stats.per_token?;
        Some(Self {
            launches: token.launches + token.replayed_launches,
            calls: token.calls,
            host_syncs: token.host_syncs,
            host_micros_per_launch: token.host_micros_per_launch,
            bytes_to_device: token.bytes_to_device,
            bytes_to_host: token.bytes_to_host,
        })
    }
}

/// Modelled times of the simulated device. No card was involved.
#[derive(Clone, Debug, Serialize)]
pub struct ModelledRun {
    pub soc: &'static str,
    pub prefill_seconds: f64,
    pub prefill_tokens_per_second: f64,
    pub decode_seconds_per_token: f64,
    pub decode_tokens_per_second: f64,
    /// Of a decoded token's time, the part in which the device has a task.
    pub decode_busy_seconds_per_token: f64,
    /// What the host spends on issuing a decoded token's work.
    pub decode_host_seconds_per_token: f64,
    /// Shares of the busy time of decoding, by what limits each task.
    pub decode_limits: BTreeMap<&'static str, f64>,
    pub decode_bytes_per_token: f64,
}

impl ModelledRun {
    /// From three readings: before a prefill, after it, and after a second one with `decode` tokens behind it.
    pub fn between(start: &Modelled, prefilled: &Modelled, decoded: &Modelled, prompt: usize, decode: usize) -> Self {
        let once = |count: &dyn Fn(&Modelled) -> f64| count(prefilled) - count(start);
        let each = |count: &dyn Fn(&Modelled) -> f64| (count(decoded) - count(prefilled) - once(count)) / decode as f64;
        let seconds = |nanoseconds: f64| nanoseconds / 1e9;
        let prefill = seconds(once(&|it| it.end(0)));
        let token = seconds(each(&|it| it.end(0)));
        let busy = each(&|it| it.busy(0));
        let share = |unit: Unit| (each(&|it| it.by_unit(0).get(&unit).copied().unwrap_or(0.0)) / busy).max(0.0);
        let limits = decoded.by_unit(0).into_keys().map(|unit| (unit.as_str(), share(unit)));
        Self {
            soc: decoded.soc,
            prefill_seconds: prefill,
            prefill_tokens_per_second: prompt as f64 / prefill,
            decode_seconds_per_token: token,
            decode_tokens_per_second: 1.0 / token,
            decode_busy_seconds_per_token: seconds(busy),
            decode_host_seconds_per_token: seconds(each(&|it| it.host)),
            decode_limits: limits.filter(|(_, share)| *share > 0.0).collect(),
            decode_bytes_per_token: each(&|it| it.streams.iter().map(|stream| stream.work.bytes as f64).sum()),
        }
    }
}

/// A peer that was asked for and gave nothing.
#[derive(Clone, Debug, Serialize)]
pub struct Missing {
    pub peer: String,
    /// It is not on this machine, rather than broken.
    pub absent: bool,
    pub reason: String,
}

/// A whole benchmark.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    pub model: String,
    pub weights: &'static str,
    pub device: String,
    pub dtype: &'static str,
    pub threads: usize,
    pub prompt_tokens: usize,
    pub decode_tokens: usize,
    pub repeat: usize,
    pub load: Load,
    pub rates: Vec<Rates>,
    pub ratios: Vec<Ratio>,
    pub per_token: Option<DeviceCounts>,
    pub modelled: Option<ModelledRun>,
    pub missing: Vec<Missing>,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let load = &self.load;
        let millions = load.parameters as f64 / 1e6;
        writeln!(f, "{} ({} weights), {}, {millions:.0} M parameters", self.model, self.weights, self.dtype)?;
        writeln!(f, "{}, {} threads", self.device, self.threads)?;
        write!(f, "loading   {:.2} s, weights {}", load.seconds, bytes(load.weight_bytes))?;
        for (place, peak) in [("host", load.host_peak_bytes), ("device", load.device_peak_bytes)] {
            if let Some(peak) = peak {
                let ratio = peak as f64 / load.weight_bytes as f64;
                write!(f, ", {place} peak {} ({ratio:.2} of the weights)", bytes(peak))?;
            }
        }
        writeln!(f, "\n")?;
        let heading = format!("median of {} (range)", self.repeat);
        let prefill = format!("prefill of {}, tokens/s", self.prompt_tokens);
        let decode = format!("decode of {}, tokens/s", self.decode_tokens);
        let mut table = Table::new(&[heading.as_str(), prefill.as_str(), decode.as_str()]);
        for rates in &self.rates {
            table.row([rates.name.clone(), rates.prefill.to_string(), rates.decode.to_string()]);
        }
        for ratio in &self.ratios {
            let name = format!("npu-run / {}", ratio.peer);
            table.row([name, format!("{:.2}", ratio.prefill), format!("{:.2}", ratio.decode)]);
        }
        write!(f, "{table}")?;
        if let Some(token) = &self.per_token {
            writeln!(f, "\nper decoded token: {token}")?;
        }
        if let Some(modelled) = &self.modelled {
            write!(f, "\n{modelled}")?;
        }
        Ok(())
    }
}

impl fmt::Display for DeviceCounts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.1} launches in {:.1} calls, {:.1} host waits", self.launches, self.calls, self.host_syncs)?;
        write!(f, ", {:.1} µs of the host for each launch or graph", self.host_micros_per_launch)?;
        write!(f, ", {:.0} bytes to the device and {:.0} to the host", self.bytes_to_device, self.bytes_to_host)
    }
}

impl fmt::Display for ModelledRun {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ms = |seconds: f64| format!("{:.3} ms", seconds * 1e3);
        let limits: Vec<String> =
            self.decode_limits.iter().map(|(unit, share)| format!("{unit} {:.0} %", share * 100.0)).collect();
        writeln!(
            f,
            "modelled, not measured, on {}: prefill {} ({:.0} tokens/s), a decoded token {} ({:.0} tokens/s)",
            self.soc,
            ms(self.prefill_seconds),
            self.prefill_tokens_per_second,
            ms(self.decode_seconds_per_token),
            self.decode_tokens_per_second
        )?;
        writeln!(
            f,
            "modelled decoding of a token: device busy {}, moving {}; host issues for {}; busy time limited by {}",
            ms(self.decode_busy_seconds_per_token),
            bytes(self.decode_bytes_per_token as u64),
            ms(self.decode_host_seconds_per_token),
            limits.join(", ")
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_of_odd_and_even_counts() {
        assert_eq!(Spread::of([3.0, 1.0, 2.0]), Spread { median: 2.0, min: 1.0, max: 3.0 });
        assert_eq!(Spread::of([4.0, 1.0, 2.0, 8.0]).median, 3.0);
        assert_eq!(Spread::of([120.4, 99.0]).to_string(), "110 (99.0 – 120)");
    }
}
