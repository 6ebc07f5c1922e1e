//! The simulated CANN as a source of symbols for a program that it is linked into.

use crate::runtime::config::{self, Config, Release};
use crate::status::{Result, Status};
use acl_sys::error::ACL_ERROR_INVALID_PARAM;
use acl_sys::{Library, SymbolSource};
use std::collections::HashMap;
use std::ffi::{CStr, c_void};
use std::ptr::NonNull;
use std::sync::OnceLock;

/// The simulated CANN, embedded: symbols are functions of this very program.
#[derive(Clone, Debug)]
pub struct Embedded {
    release: Release,
    missing: Vec<String>,
    description: String,
}

struct Symbol {
    address: usize,
    since: Release,
}

fn symbols() -> &'static HashMap<&'static str, Symbol> {
    static SYMBOLS: OnceLock<HashMap<&'static str, Symbol>> = OnceLock::new();
    SYMBOLS.get_or_init(|| {
        let rows = crate::runtime::exports::table().into_iter();
        let rows = rows.chain(crate::aclnn::exports::table()).chain(crate::hccl::exports::table());
        rows.map(|(name, address, since)| {
            let since = Release::parse(since).expect("the tables name releases");
            (name, Symbol { address: address.expose_provenance(), since })
        })
        .collect()
    })
}

/// A configuration that makes no sense, as the C interface would say it.
fn invalid<T>(result: std::result::Result<T, String>) -> Result<T> {
    result.map_err(|text| Status::new(ACL_ERROR_INVALID_PARAM, text))
}

impl Embedded {
    /// The machine that the environment describes (`CANN_SIM_*`), or the default one.
    pub fn new() -> Result<Self> {
        Self::with(invalid(Config::from_env())?)
    }

    /// As [`Embedded::new`], with the chip `soc` (`"910b4"`) and its memory; empty leaves the environment's. The error
    /// is only a text, as the backend's registration of a simulator wants it.
    pub fn for_soc(soc: &str) -> std::result::Result<Self, String> {
        let mut config = Config::from_env()?;
        if !soc.is_empty() {
            let chosen = Config::soc(soc)?;
            config.soc = chosen.soc;
            if std::env::var_os("CANN_SIM_MEMORY").is_none() {
                config.memory = chosen.memory;
            }
        }
        Self::with(config).map_err(|status| status.message)
    }

    /// The machine that `config` describes. A process simulates one machine: a second configuration that differs in
    /// more than release and missing symbols is refused.
    pub fn with(config: Config) -> Result<Self> {
        let release = config.release;
        let missing = config.faults.missing.clone();
        let description = format!(
            "simulated CANN {release} ({} x {}, {} MiB each, embedded)",
            config.devices,
            config.soc.name,
            config.memory >> 20
        );
        invalid(config::choose(config))?;
        Ok(Self { release, missing, description })
    }

    /// Every symbol that this release has and that is not missing.
    pub fn names(&self) -> Vec<&'static str> {
        let mut names: Vec<_> = symbols().keys().copied().filter(|name| self.has(name)).collect();
        names.sort_unstable();
        names
    }

    fn has(&self, name: &str) -> bool {
        let known = symbols().get(name).is_some_and(|symbol| symbol.since <= self.release);
        let operator = name.strip_suffix("GetWorkspaceSize").unwrap_or(name);
        known && !self.missing.iter().any(|missing| missing == name || missing == operator)
    }
}

impl SymbolSource for Embedded {
    fn address(&self, _library: Library, name: &CStr) -> Option<NonNull<c_void>> {
        let name = name.to_str().ok()?;
        let symbol = symbols().get(name).filter(|_| self.has(name))?;
        NonNull::new(std::ptr::with_exposed_provenance_mut(symbol.address))
    }

    fn describe(&self) -> String {
        self.description.clone()
    }
}
