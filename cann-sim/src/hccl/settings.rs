//! What a communicator is set to: its `HcclCommConfig` before the environment, the environment before the defaults.

use super::interfaces::variable;
use crate::runtime::config;
use crate::status::Result;
use crate::{ensure, fail};
use hccl_sys::*;
use std::ffi::{CStr, c_char};
use std::mem::offset_of;
use std::sync::atomic::{AtomicI32, Ordering};
use std::time::Duration;

/// Settings of one communicator.
#[derive(Clone, Debug)]
pub struct Settings {
    /// `hcclCommName`, where the caller chose one.
    pub name: Option<String>,
    /// Bytes of device memory that the communicator takes: twice its buffer size.
    pub buffers: u64,
    /// How long ranks wait for each other when a communicator begins.
    pub connect: Duration,
    /// How long a collective waits for other ranks; `None` is for ever.
    pub execute: Option<Duration>,
}

impl Settings {
    /// What the environment says.
    pub fn from_environment() -> Result<Self> {
        super::interfaces::no_whitelist()?;
        let megabytes = match variable("HCCL_BUFFSIZE") {
            None => u64::from(HCCL_COMM_DEFAULT_BUFFSIZE),
            Some(text) => match text.parse() {
                Ok(megabytes) if megabytes >= 1 => megabytes,
                _ => fail!(HCCL_E_PARA, "HCCL_BUFFSIZE: {text:?} is no whole number of megabytes"),
            },
        };
        Ok(Self { name: None, buffers: buffers(megabytes), connect: connect()?, execute: execute()? })
    }

    /// What `config` says, and the environment where it says nothing.
    pub fn from_config(config: *const HcclCommConfig) -> Result<Self> {
        let config = read(config)?;
        let mut settings = Self::from_environment()?;
        if config.hcclBufferSize != HCCL_COMM_BUFFSIZE_CONFIG_NOT_SET {
            ensure!(config.hcclBufferSize >= 1, HCCL_E_PARA, "hcclBufferSize is 0, wanted at least 1 megabyte");
            settings.buffers = buffers(config.hcclBufferSize.into());
        }
        let deterministic = config.hcclDeterministic;
        ensure!(
            deterministic <= 2 || deterministic == HCCL_COMM_DETERMINISTIC_CONFIG_NOT_SET,
            HCCL_E_PARA,
            "hcclDeterministic is {deterministic}, wanted 0, 1 or 2"
        );
        let expansion = config.hcclOpExpansionMode;
        ensure!(expansion <= 6, HCCL_E_PARA, "hcclOpExpansionMode is {expansion}, wanted 0 to 6");
        let name = text(&config.hcclCommName, "hcclCommName")?;
        settings.name = (!name.is_empty()).then_some(name);
        match config.hcclExecTimeOut {
            seconds if seconds as u32 == HCCL_COMM_EXECTIMEOUT_CONFIG_NOT_SET => {}
            0 => settings.execute = None,
            seconds if seconds > 0 => settings.execute = Some(Duration::from_secs(seconds as u64)),
            seconds => fail!(HCCL_E_PARA, "hcclExecTimeOut is {seconds}, wanted seconds from 0, which is for ever"),
        }
        Ok(settings)
    }
}

fn buffers(megabytes: u64) -> u64 {
    2 * (megabytes << 20)
}

/// Reads as much of the structure as its caller knew; the rest is left as `HcclCommConfigInit` leaves it.
fn read(config: *const HcclCommConfig) -> Result<HcclCommConfig> {
    ensure!(!config.is_null(), HCCL_E_PTR, "config is null");
    // SAFETY: not null, and every layout begins with this header.
    let header = unsafe { config.cast::<HcclConfigInfo>().read_unaligned() };
    ensure!(
        header.magicWord == HCCL_COMM_CONFIG_MAGIC_WORD,
        HCCL_E_PARA,
        "the configuration begins with {:#x} where {HCCL_COMM_CONFIG_MAGIC_WORD:#x} is wanted; call HcclCommConfigInit first",
        header.magicWord
    );
    let newest = match config::current()?.release.major {
        8 => ConfigLayout::V5,
        _ => ConfigLayout::V11,
    };
    let least = offset_of!(HcclCommConfig, hcclUdi);
    ensure!(
        header.version <= newest.version() && (least..=newest.size()).contains(&header.size),
        HCCL_E_PARA,
        "the configuration has version {} and {} bytes; this CANN takes up to version {} and {} bytes",
        header.version,
        header.size,
        newest.version(),
        newest.size()
    );
    let mut known = HcclCommConfig::new(newest);
    // SAFETY: the caller says that its structure has this many bytes, and ours has at least as many.
    unsafe { std::ptr::copy_nonoverlapping(config.cast::<u8>(), (&raw mut known).cast::<u8>(), header.size) };
    Ok(known)
}

fn text(field: &[c_char], name: &str) -> Result<String> {
    let bytes: Vec<u8> = field.iter().map(|&c| c as u8).collect();
    match CStr::from_bytes_until_nul(&bytes) {
        Ok(text) => Ok(text.to_string_lossy().into_owned()),
        Err(_) => fail!(HCCL_E_PARA, "{name} has no final zero within its {} bytes", field.len()),
    }
}

/// `CANN_SIM_HCCL_TIMEOUT` stands for both time-outs, so that a test need not wait for two minutes.
fn short() -> Result<Option<Duration>> {
    Ok(config::current()?.hccl_timeout)
}

/// `HCCL_CONNECT_TIMEOUT`: 120 to 7200 seconds.
fn connect() -> Result<Duration> {
    let seconds = match variable("HCCL_CONNECT_TIMEOUT") {
        None => 120,
        Some(text) => match text.parse() {
            Ok(seconds) if (120..=7200).contains(&seconds) => seconds,
            _ => fail!(HCCL_E_PARA, "HCCL_CONNECT_TIMEOUT: {text:?} is no whole number of seconds from 120 to 7200"),
        },
    };
    Ok(short()?.unwrap_or(Duration::from_secs(seconds)))
}

/// `HCCL_EXEC_TIMEOUT`: 0, which is for ever, to 2147483647 seconds; 1836 by default.
fn execute() -> Result<Option<Duration>> {
    let seconds = match variable("HCCL_EXEC_TIMEOUT") {
        None => 1836,
        Some(text) => match text.parse::<i32>() {
            Ok(seconds) if seconds >= 0 => seconds as u64,
            _ => fail!(HCCL_E_PARA, "HCCL_EXEC_TIMEOUT: {text:?} is no whole number of seconds from 0 to 2147483647"),
        },
    };
    Ok(short()?.or((seconds > 0).then(|| Duration::from_secs(seconds))))
}

/// How long a rank waits beyond `connect` for the word of the root about who is missing: the 20 seconds of HCCL's page
/// for its shortest time-out, and the same share of another.
pub fn word_of_the_root(connect: Duration) -> Duration {
    Duration::from_secs(20).min(connect / 6).max(Duration::from_secs(1))
}

static DETERMINISTIC: AtomicI32 = AtomicI32::new(0);

/// `HcclSetConfig`. Results are deterministic whatever it says.
pub fn set(config: HcclConfig, value: i32) -> Result<()> {
    ensure!(config == HCCL_DETERMINISTIC, HCCL_E_PARA, "config is {config}, wanted HCCL_DETERMINISTIC (0)");
    ensure!((0..=2).contains(&value), HCCL_E_PARA, "the value of HCCL_DETERMINISTIC is {value}, wanted 0, 1 or 2");
    DETERMINISTIC.store(value, Ordering::Relaxed);
    Ok(())
}

/// `HcclGetConfig`.
pub fn get(config: HcclConfig) -> Result<i32> {
    ensure!(config == HCCL_DETERMINISTIC, HCCL_E_PARA, "config is {config}, wanted HCCL_DETERMINISTIC (0)");
    Ok(DETERMINISTIC.load(Ordering::Relaxed))
}
