//! Where a CANN comes from: installed on this machine, or a simulator that the program registered.

use super::Error;
use super::api::Api;
use acl_sys::SymbolSource;
use acl_sys::installed::Installed;
use std::path::Path;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

/// Makes a source of simulated symbols for a named chip (empty: the default), or says why it cannot.
pub type Simulator = fn(&str) -> Result<Arc<dyn SymbolSource>, String>;

static SIMULATOR: OnceLock<Simulator> = OnceLock::new();

/// Opened tables by name, so that a CANN is loaded and initialised once in a process.
static OPENED: Mutex<Vec<(String, Arc<Api>)>> = Mutex::new(Vec::new());

/// Gives the program a simulated CANN. Called once, by programs and tests that want one; later calls change nothing.
/// `simulator` gets the name of the chip (`"910b4"`, or empty for its default).
pub fn register_simulator(simulator: Simulator) {
    SIMULATOR.get_or_init(|| simulator);
}

/// The functions of the simulated CANN as chip `soc`.
pub(crate) fn simulated(soc: &str) -> Result<Arc<Api>, Error> {
    let simulator = SIMULATOR.get().ok_or(Error::NoSimulator)?;
    open(format!("sim:{soc}"), || simulator(soc).map_err(Error::Simulator))
}

/// The functions of the CANN installed at `home`, or found where CANN is usually installed.
pub(crate) fn installed(home: Option<&Path>) -> Result<Arc<Api>, Error> {
    if let Some(home) = home.filter(|home| !home.is_dir()) {
        return Err(Error::NoFolder(home.to_owned()));
    }
    let name = format!("installed:{}", home.map(|home| home.display().to_string()).unwrap_or_default());
    open(name, || find(home))
}

fn find(home: Option<&Path>) -> Result<Arc<dyn SymbolSource>, Error> {
    let found = Installed::find(home).map_err(|not_found| Error::NotInstalled(not_found.to_string()))?;
    Ok(Arc::new(found))
}

fn open(name: String, source: impl FnOnce() -> Result<Arc<dyn SymbolSource>, Error>) -> Result<Arc<Api>, Error> {
    let mut opened = OPENED.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some((_, api)) = opened.iter().find(|(other, _)| *other == name) {
        return Ok(api.clone());
    }
    let api = Arc::new(Api::new(source()?));
    // SAFETY: a null path asks for the default configuration.
    match api.check("aclInit", unsafe { api.acl.aclInit(std::ptr::null()) }) {
        // Another user of the runtime in this process came first, which is as good.
        Err(error) if error.code() == Some(acl_sys::error::ACL_ERROR_REPEAT_INITIALIZE) => {}
        other => other?,
    }
    opened.push((name, api.clone()));
    Ok(api)
}
