//! What the suites share: the simulated NPU, and a list of the devices that a suite runs on.

pub mod gguf;
pub mod hosts;

use candle_ascend::{Device, NpuDevice};
use std::io::Write as _;
use std::sync::Arc;

/// The simulated NPU, as the default chip.
pub fn simulated() -> NpuDevice {
    candle_ascend::register_simulator(|soc| Ok(Arc::new(cann_sim::Embedded::for_soc(soc)?)));
    NpuDevice::simulated("", 0).expect("the simulated NPU opens")
}

/// Straight to the terminal: what a passing test prints is swallowed.
fn say(line: &str) {
    let _ = writeln!(std::io::stderr(), "{line}");
}

/// Every device that is here, with its name. A device that is not here is said on standard error, not passed over.
pub fn devices() -> Vec<(&'static str, Device)> {
    let mut all = vec![("cpu", Device::Cpu), ("sim", Device::Npu(simulated()))];
    match NpuDevice::installed(0, None) {
        Ok(npu) => all.push(("npu", Device::Npu(npu))),
        Err(_) => say("did not run on npu: no CANN is installed here"),
    }
    match Device::new_cuda(0) {
        Ok(cuda) => all.push(("cuda", cuda)),
        Err(error) => say(&format!("did not run on cuda: {error}")),
    }
    all
}
