//! What a model takes of memory, against what there is.

use crate::device::Opened;
use crate::report;
use anyhow::{Result, bail};
use candle_ascend::Device;

/// A number of a `/proc` file of lines like `MemAvailable:   123 kB`, in bytes.
fn proc_bytes(file: &str, key: &str) -> Option<u64> {
    let text = std::fs::read_to_string(file).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'))?;
    Some(line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? * 1024)
}

/// Refuses a model that does not fit: its weights in the device's memory, and on the simulated device in the host's too,
/// which is where they really lie.
pub fn check_fits(opened: &Opened, name: &str, needed: u64) -> Result<()> {
    let mut places = Vec::new();
    if let Ok(npu) = opened.device.as_npu_device() {
        places.push(("the device", Some(npu.memory_info()?.free as u64)));
    }
    if opened.device.is_cpu() || opened.simulated {
        places.push(("the host", proc_bytes("/proc/meminfo", "MemAvailable")));
    }
    for (place, available) in places {
        if let Some(available) = available.filter(|available| *available < needed) {
            bail!(
                "{name} does not fit: its weights take {}, and {place} has {} available; take a smaller shape or --dtype",
                report::bytes(needed),
                report::bytes(available)
            );
        }
    }
    Ok(())
}

/// Most memory that this process has had, since [`forget_high_water`] where the kernel allows that.
pub fn high_water() -> Option<u64> {
    proc_bytes("/proc/self/status", "VmHWM")
}

/// Sets the kernel's high-water mark back to what the process has now.
pub fn forget_high_water() {
    let _ = std::fs::write("/proc/self/clear_refs", "5");
}

/// Memory of this process while something happens.
pub struct HostPeak(Option<u64>);

impl HostPeak {
    /// From now on; the kernel's high-water mark is set back where it allows that.
    pub fn start() -> Self {
        forget_high_water();
        Self(proc_bytes("/proc/self/status", "VmRSS"))
    }

    /// Bytes above those at the start, at most.
    pub fn finish(self) -> Option<u64> {
        Some(high_water()?.saturating_sub(self.0?))
    }
}

/// Most bytes that tensors took of the device, where it counts them.
pub fn device_peak(device: &Device) -> Result<Option<u64>> {
    Ok(match device.as_npu_device() {
        Ok(npu) => Some(npu.memory_info()?.peak as u64),
        Err(_) => None,
    })
}
