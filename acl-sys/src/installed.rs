//! The CANN that is installed on this machine: where it is searched, and its libraries, each loaded at its first use.

use crate::loader::{Library, SymbolSource};
use libloading::os::unix::{Library as Handle, RTLD_GLOBAL, RTLD_NOW};
use std::ffi::{CStr, c_void};
use std::fmt;
use std::path::{Path, PathBuf};
use std::ptr::NonNull;
use std::sync::OnceLock;

/// Files that hold the runtime. CANN 9 keeps the first name as a thin layer over the second.
const RUNTIME: &[&str] = &["libascendcl.so", "libacl_rt.so"];
/// Files that hold the operators, in the order in which CANN itself asks them: the user's own, those that CANN 9 splits
/// them into, the single one of CANN 8.
const OPERATORS: &[&str] = &[
    "libcust_opapi.so",
    "libopapi_math.so",
    "libopapi_nn.so",
    "libopapi_cv.so",
    "libopapi_transformer.so",
    "libopapi_oam.so",
    "libopapi_legacy.so",
    "libopapi.so",
];

/// The files that may hold `library`, in the order in which they are asked.
fn files_of(library: Library) -> &'static [&'static str] {
    match library {
        Library::ascendcl => RUNTIME,
        Library::nnopbase => &["libnnopbase.so"],
        Library::msprofiler => &["libmsprofiler.so"],
        Library::math | Library::nn | Library::transformer => OPERATORS,
        Library::hccl => &["libhccl.so", "libhcomm.so"],
    }
}

/// Every file that is ever loaded, for [`Installed::libraries`].
const FILES: [&str; 14] = [
    "libascendcl.so",
    "libacl_rt.so",
    "libnnopbase.so",
    "libmsprofiler.so",
    "libcust_opapi.so",
    "libopapi_math.so",
    "libopapi_nn.so",
    "libopapi_cv.so",
    "libopapi_transformer.so",
    "libopapi_oam.so",
    "libopapi_legacy.so",
    "libopapi.so",
    "libhccl.so",
    "libhcomm.so",
];

/// Where to search. [`Search::on_this_machine`] is what programs use; tests make their own.
#[derive(Clone, Debug, Default)]
pub struct Search {
    /// The folder that the user named. When it is given, nothing else is searched.
    pub cann_home: Option<PathBuf>,
    /// Folders that environment variables name, with the variables' names; `None` where a variable is not set.
    pub variables: Vec<(&'static str, Option<PathBuf>)>,
    /// Whether to ask the dynamic loader by the bare file name (`LD_LIBRARY_PATH`, the loader's cache).
    pub loader_path: bool,
    /// Folders where CANN is installed when nobody says otherwise.
    pub defaults: Vec<PathBuf>,
    /// Folders of custom operators, from `ASCEND_CUSTOM_OPP_PATH`.
    pub custom_operators: Vec<PathBuf>,
}

impl Search {
    /// The search order of a program: `cann_home`, `ASCEND_HOME_PATH`, `ASCEND_TOOLKIT_HOME`, the loader path, the default
    /// folders.
    pub fn on_this_machine(cann_home: Option<&Path>) -> Self {
        let path = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        let installs = ["cann", "ascend-toolkit/latest", "latest"];
        let home = path("HOME").map(|home| home.join("Ascend"));
        let roots = [Some(PathBuf::from("/usr/local/Ascend")), home];
        let custom = std::env::var_os("ASCEND_CUSTOM_OPP_PATH").unwrap_or_default();
        Self {
            cann_home: cann_home.map(Path::to_owned),
            variables: ["ASCEND_HOME_PATH", "ASCEND_TOOLKIT_HOME"].map(|name| (name, path(name))).to_vec(),
            loader_path: true,
            defaults: roots.iter().flatten().flat_map(|root| installs.map(|install| root.join(install))).collect(),
            custom_operators: std::env::split_paths(&custom).filter(|path| !path.as_os_str().is_empty()).collect(),
        }
    }

    /// Loads the runtime of the first place that has it.
    ///
    /// # Errors
    /// No place has a runtime that can be loaded.
    pub fn run(self) -> Result<Installed, NotFound> {
        let mut tried = Vec::new();
        for (how, home) in self.places(&mut tried) {
            let found = Installed::new(how, home, self.custom_operators.clone());
            match found.runtime() {
                Ok(()) => return Ok(found),
                Err(mut why) => tried.append(&mut why),
            }
        }
        Err(NotFound { tried })
    }

    /// The places in order, each with the words that say how it was named. Variables that are not set go to `tried`.
    fn places(&self, tried: &mut Vec<String>) -> Vec<(&'static str, Option<PathBuf>)> {
        if let Some(home) = &self.cann_home {
            return vec![("the given folder", Some(home.clone()))];
        }
        let mut places = Vec::new();
        for (name, home) in &self.variables {
            match home {
                Some(home) => places.push((*name, Some(home.clone()))),
                None => tried.push(format!("{name}: not set")),
            }
        }
        if self.loader_path {
            places.push(("the loader path (LD_LIBRARY_PATH)", None));
        }
        places.extend(self.defaults.iter().map(|home| ("the default folder", Some(home.clone()))));
        places
    }
}

/// No CANN was found: everything that was tried, and what would fix it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NotFound {
    /// One line a place: what was looked for there and what came of it.
    pub tried: Vec<String>,
}

impl fmt::Display for NotFound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "no CANN that can be loaded was found. Tried:")?;
        for line in &self.tried {
            writeln!(f, "  {line}")?;
        }
        if self.tried.iter().any(|line| line.contains("libascend_hal.so")) {
            writeln!(
                f,
                "libascend_hal.so belongs to the NPU driver: install it, or add its folder to LD_LIBRARY_PATH"
            )?;
            writeln!(f, "(usually /usr/local/Ascend/driver/lib64/driver).")?;
        }
        write!(
            f,
            "If CANN is installed, source its set_env.sh, which sets ASCEND_HOME_PATH, or name its folder (--cann-home)."
        )
    }
}

impl std::error::Error for NotFound {}

/// One library file of the installed CANN, as far as it has been needed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Loading {
    /// Nothing has asked for it yet.
    NotNeeded,
    /// Loaded from this path; a bare name was found by the dynamic loader.
    Loaded(PathBuf),
    /// Not there, or not loadable: one line a path that was tried.
    Failed(Vec<String>),
}

/// A loaded file and its path, or one line a path that was tried.
type Opened = Result<(PathBuf, Handle), Vec<String>>;

/// The installed CANN.
pub struct Installed {
    /// How the place was named: a variable, the user, a default.
    how: &'static str,
    /// The toolkit's folder; `None` when the dynamic loader finds the files.
    home: Option<PathBuf>,
    custom_operators: Vec<PathBuf>,
    release: Option<String>,
    opened: [OnceLock<Opened>; FILES.len()],
}

impl fmt::Debug for Installed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Installed")
            .field("how", &self.how)
            .field("home", &self.home)
            .field("release", &self.release)
            .finish()
    }
}

impl Installed {
    /// Finds the CANN of this machine, or the one in `cann_home`; see [`Search::on_this_machine`] for the order.
    ///
    /// # Errors
    /// [`NotFound`] lists every path that was tried and what would fix it.
    pub fn find(cann_home: Option<&Path>) -> Result<Self, NotFound> {
        Search::on_this_machine(cann_home).run()
    }

    fn new(how: &'static str, home: Option<PathBuf>, custom_operators: Vec<PathBuf>) -> Self {
        let release = home.as_deref().and_then(read_release);
        Self { how, home, custom_operators, release, opened: Default::default() }
    }

    /// Loads the runtime, or says what was tried.
    fn runtime(&self) -> Result<(), Vec<String>> {
        let mut tried = Vec::new();
        for file in RUNTIME {
            match self.file(file) {
                Ok(_) => return Ok(()),
                Err(why) => tried.extend(why.iter().map(|line| format!("{}: {line}", self.how))),
            }
        }
        Err(tried)
    }

    /// The toolkit's folder, where it is known.
    pub fn home(&self) -> Option<&Path> {
        self.home.as_deref()
    }

    /// The release that the toolkit's files state, such as `8.1.RC1`.
    pub fn release(&self) -> Option<&str> {
        self.release.as_deref()
    }

    /// Every library file with what has become of it so far.
    pub fn libraries(&self) -> Vec<(&'static str, Loading)> {
        let state = |opened: &OnceLock<Opened>| match opened.get() {
            None => Loading::NotNeeded,
            Some(Ok((path, _))) => Loading::Loaded(path.clone()),
            Some(Err(why)) => Loading::Failed(why.clone()),
        };
        FILES.iter().zip(&self.opened).map(|(file, opened)| (*file, state(opened))).collect()
    }

    /// The loaded file of that name, loading it at the first request.
    fn file(&self, name: &str) -> Result<&Handle, &[String]> {
        let Some(index) = FILES.iter().position(|file| *file == name) else { return Err(&[]) };
        let opened = self.opened[index].get_or_init(|| self.load(name));
        opened.as_ref().map(|(_, handle)| handle).map_err(Vec::as_slice)
    }

    fn load(&self, name: &str) -> Opened {
        let mut tried = Vec::new();
        for path in self.paths(name) {
            if path.is_absolute() && !path.exists() {
                tried.push(format!("{}: no such file", path.display()));
                continue;
            }
            // Global, because CANN's libraries look for one another's symbols among those already loaded.
            // SAFETY: loading runs the initialisers of the vendor's library, which is what the user asked for.
            match unsafe { Handle::open(Some(&path), RTLD_NOW | RTLD_GLOBAL) } {
                Ok(handle) => return Ok((path, handle)),
                Err(error) => tried.push(format!("{}: {}", path.display(), reason(&error))),
            }
        }
        Err(tried)
    }

    /// Where the file of that name may lie, best first.
    fn paths(&self, name: &str) -> Vec<PathBuf> {
        if name == "libcust_opapi.so" {
            return self.custom_folders().into_iter().map(|folder| folder.join("op_api/lib").join(name)).collect();
        }
        match &self.home {
            None => vec![PathBuf::from(name)],
            Some(home) => {
                let home = std::path::absolute(home).unwrap_or_else(|_| home.clone());
                [home.join("lib64"), home.join(format!("{}-linux/lib64", std::env::consts::ARCH))]
                    .map(|f| f.join(name))
                    .into()
            }
        }
    }

    /// Folders of custom operators: those the user names, then those that the toolkit's configuration puts in order.
    fn custom_folders(&self) -> Vec<PathBuf> {
        let absolute = |path: &PathBuf| std::path::absolute(path).unwrap_or_else(|_| path.clone());
        let mut folders: Vec<_> = self.custom_operators.iter().map(absolute).collect();
        if let Some(home) = &self.home {
            let vendors = absolute(&home.join("opp/vendors"));
            let config = std::fs::read_to_string(vendors.join("config.ini")).unwrap_or_default();
            let priority = config.lines().find_map(|line| line.trim().strip_prefix("load_priority="));
            folders.extend(
                priority.unwrap_or_default().split(',').filter(|v| !v.is_empty()).map(|v| vendors.join(v.trim())),
            );
        }
        folders
    }
}

impl SymbolSource for Installed {
    fn address(&self, library: Library, name: &CStr) -> Option<NonNull<c_void>> {
        files_of(library).iter().find_map(|file| {
            let handle = self.file(file).ok()?;
            // SAFETY: the symbol is only taken as an address here; who calls it vouches for its type.
            let symbol = unsafe { handle.get::<*mut c_void>(name.to_bytes_with_nul()) }.ok()?;
            NonNull::new(symbol.into_raw())
        })
    }

    fn describe(&self) -> String {
        let release = self.release.as_deref().map_or("CANN".to_owned(), |release| format!("CANN {release}"));
        match &self.home {
            Some(home) => format!("{release} in {} ({})", home.display(), self.how),
            None => format!("{release} found by {}", self.how),
        }
    }

    fn files(&self) -> Vec<(String, String)> {
        let words = |loading| match loading {
            Loading::NotNeeded => "not needed so far".to_owned(),
            Loading::Loaded(path) => path.display().to_string(),
            Loading::Failed(why) => format!("not loaded: {}", why.join("; ")),
        };
        self.libraries().into_iter().map(|(name, loading)| (name.to_owned(), words(loading))).collect()
    }
}

/// The loader's own words without the wrapping, because they name the dependency that is missing.
fn reason(error: &libloading::Error) -> String {
    std::error::Error::source(error).map_or_else(|| error.to_string(), |source| source.to_string())
}

/// The release that the toolkit's files state.
fn read_release(home: &Path) -> Option<String> {
    let arch = std::env::consts::ARCH;
    let files =
        [format!("{arch}-linux/ascend_toolkit_install.info"), "version.info".into(), "runtime/version.info".into()];
    files.iter().find_map(|file| {
        let text = std::fs::read_to_string(home.join(file)).ok()?;
        let line = |line: &str| {
            let (key, value) = line.split_once('=')?;
            (key.trim().eq_ignore_ascii_case("version")).then(|| value.trim().to_owned())
        };
        text.lines().find_map(line).filter(|version| !version.is_empty())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_file_that_is_asked_for_has_its_place() {
        let libraries = crate::loader::FUNCTIONS.iter().map(|row| row.library);
        let libraries = libraries.chain(crate::loader::OPERATORS.iter().map(|row| row.library)).chain([Library::hccl]);
        for library in libraries {
            for file in files_of(library) {
                assert!(FILES.contains(file), "{file} of {library:?} is not in FILES");
            }
        }
    }
}
