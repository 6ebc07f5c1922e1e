//! What is simulated: one configuration a process, from the environment or from [`Embedded::with`](crate::Embedded::with).

use super::faults::Plan;
use super::soc::{self, Soc};
use crate::status::{Result, Status};
use acl_sys::error::ACL_ERROR_INVALID_PARAM;
use std::sync::{Mutex, OnceLock};
use std::time::Duration;

/// The simulated machine. The fields' environment variables are read by [`Config::from_env`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// `CANN_SIM_SOC`: the chip, such as `Ascend910B3` or `910b4`.
    pub soc: &'static Soc,
    /// `CANN_SIM_DEVICES`: number of devices.
    pub devices: u32,
    /// `CANN_SIM_MEMORY`: device memory in bytes (suffixes K, M, G); the chip's own where unset.
    pub memory: u64,
    /// `CANN_SIM_SEED`: seed of the delays before tasks; no delays where unset.
    pub seed: Option<u64>,
    /// `CANN_SIM_RELEASE`: the CANN release whose symbols are visible.
    pub release: Release,
    /// `CANN_SIM_NUMERICS=exact`: matrix products accumulate in `f64`.
    pub exact: bool,
    /// `CANN_SIM_FAULTS`: what goes wrong, see [`super::faults`].
    pub faults: Plan,
    /// `CANN_SIM_HCCL_TIMEOUT`: seconds that stand for both `HCCL_CONNECT_TIMEOUT` and `HCCL_EXEC_TIMEOUT`.
    pub hccl_timeout: Option<Duration>,
}

/// A CANN release.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Release {
    pub major: u32,
    pub minor: u32,
}

impl Release {
    /// Reads `8.1`.
    pub fn parse(text: &str) -> std::result::Result<Self, String> {
        let read = || {
            let (major, minor) = text.split_once('.')?;
            Some(Self { major: major.parse().ok()?, minor: minor.parse().ok()? })
        };
        read().ok_or_else(|| format!("{text:?} is no CANN release; wanted for example 8.1 or 9.1"))
    }
}

impl std::fmt::Display for Release {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

impl Default for Config {
    /// Eight Ascend910B3, as a server has, under CANN 9.1.
    fn default() -> Self {
        let soc = soc::find("Ascend910B3").expect("the default chip is in the table");
        Self {
            soc,
            devices: 8,
            memory: soc.hbm_gib << 30,
            seed: None,
            release: Release { major: 9, minor: 1 },
            exact: false,
            faults: Plan::default(),
            hccl_timeout: None,
        }
    }
}

impl Config {
    /// The chip `name` with its own memory, otherwise as by default.
    pub fn soc(name: &str) -> std::result::Result<Self, String> {
        let soc = soc::find(name)?;
        Ok(Self { soc, memory: soc.hbm_gib << 30, ..Self::default() })
    }

    /// The default, changed by the `CANN_SIM_*` variables that are set.
    pub fn from_env() -> std::result::Result<Self, String> {
        let var = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        let named = |name: &str, error: String| format!("{name}: {error}");
        let mut config = match var("CANN_SIM_SOC") {
            Some(soc) => Self::soc(&soc).map_err(|e| named("CANN_SIM_SOC", e))?,
            None => Self::default(),
        };
        if let Some(text) = var("CANN_SIM_DEVICES") {
            let count = text.parse().ok().filter(|n| (1..=64).contains(n));
            config.devices = count.ok_or_else(|| format!("CANN_SIM_DEVICES: {text:?} is no number from 1 to 64"))?;
        }
        if let Some(text) = var("CANN_SIM_MEMORY") {
            config.memory = bytes(&text).map_err(|e| named("CANN_SIM_MEMORY", e))?;
        }
        if let Some(text) = var("CANN_SIM_SEED") {
            config.seed = Some(text.parse().map_err(|_| format!("CANN_SIM_SEED: {text:?} is no whole number"))?);
        }
        if let Some(text) = var("CANN_SIM_RELEASE") {
            config.release = Release::parse(&text).map_err(|e| named("CANN_SIM_RELEASE", e))?;
        }
        match var("CANN_SIM_NUMERICS").as_deref() {
            None | Some("fast") => {}
            Some("exact") => config.exact = true,
            Some(other) => return Err(format!("CANN_SIM_NUMERICS: {other:?} is neither \"fast\" nor \"exact\"")),
        }
        if let Some(text) = var("CANN_SIM_FAULTS") {
            config.faults = Plan::parse(&text).map_err(|e| named("CANN_SIM_FAULTS", e))?;
        }
        if let Some(text) = var("CANN_SIM_HCCL_TIMEOUT") {
            let seconds = text.parse().ok().and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
            let wrong = || format!("CANN_SIM_HCCL_TIMEOUT: {text:?} is no number of seconds above 0");
            config.hccl_timeout = Some(seconds.filter(|limit| !limit.is_zero()).ok_or_else(wrong)?);
        }
        if let Some(release) = config.faults.release {
            config.release = release;
        }
        Ok(config)
    }
}

/// Reads a number of bytes such as `512M`.
fn bytes(text: &str) -> std::result::Result<u64, String> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let shift = match text[digits.len()..].to_ascii_uppercase().as_str() {
        "" => 0,
        "K" | "KIB" => 10,
        "M" | "MIB" => 20,
        "G" | "GIB" => 30,
        other => return Err(format!("{other:?} is no unit; wanted K, M or G")),
    };
    let number: u64 = digits.parse().map_err(|_| format!("{text:?} is no number of bytes"))?;
    let total = number.checked_shl(shift).filter(|total| total >> shift == number && *total >= 1 << 20);
    total.ok_or_else(|| format!("{text:?} is not between 1M and 2^64 bytes"))
}

static WANTED: Mutex<Option<Config>> = Mutex::new(None);
static CURRENT: OnceLock<std::result::Result<Config, String>> = OnceLock::new();

/// The configuration of this process, fixed at its first use; an error where the environment asks for nonsense.
pub fn current() -> Result<&'static Config> {
    let fixed = CURRENT.get_or_init(|| match WANTED.lock() {
        Ok(mut wanted) => wanted.take().map_or_else(Config::from_env, Ok),
        Err(_) => Config::from_env(),
    });
    fixed.as_ref().map_err(|text| Status::new(ACL_ERROR_INVALID_PARAM, text.clone()))
}

/// Chooses the configuration of this process; refused once another one is in use.
pub fn choose(config: Config) -> std::result::Result<(), String> {
    if let Ok(mut wanted) = WANTED.lock() {
        *wanted = Some(config.clone());
    }
    let used = current().map_err(|status| status.message)?;
    // Which symbols exist is the source's affair, not the machine's.
    let machine = |c: &Config| Config {
        release: Release { major: 0, minor: 0 },
        faults: Plan { missing: Vec::new(), release: None, ..c.faults.clone() },
        ..c.clone()
    };
    if machine(used) == machine(&config) {
        return Ok(());
    }
    Err(format!(
        "this process already simulates {} x {} under CANN {}; a process simulates one machine, so start another",
        used.devices, used.soc.name, used.release
    ))
}

/// Whether matrix products shall accumulate in `f64` (`CANN_SIM_NUMERICS=exact`).
pub fn exact() -> bool {
    current().is_ok_and(|config| config.exact)
}
