//! The CUDA libraries: their files, where they are searched, and the tables that they fill, once, when CUDA is first
//! asked for.

use crate::entries::{self, Table, absent};
use crate::{BUILT, Error};
use libloading::os::unix::{Library as Handle, RTLD_LOCAL, RTLD_NOW};
use std::ffi::c_void;
use std::fmt::Write;
use std::path::PathBuf;
use std::sync::OnceLock;

/// One of the libraries that candle calls.
pub struct Library {
    /// As linkers name it: `cuda`, `cublas`, …
    pub name: &'static str,
    /// The file, in which `{}` stands for the major release of the toolkit that this program was built with.
    file: &'static str,
    /// Whether opening a device calls it.
    pub needed: bool,
    table: &'static Table,
    loaded: OnceLock<Result<PathBuf, String>>,
}

const fn library(name: &'static str, file: &'static str, needed: bool, table: &'static Table) -> Library {
    Library { name, file, needed, table, loaded: OnceLock::new() }
}

/// The driver first. cublasLt is asked for before cublas, which depends on it and then finds it loaded.
pub static LIBRARIES: [Library; 5] = [
    library("cuda", "libcuda.so.1", true, &entries::cuda::TABLE),
    library("cublasLt", "libcublasLt.so.{}", true, &entries::cublasLt::TABLE),
    library("cublas", "libcublas.so.{}", true, &entries::cublas::TABLE),
    library("curand", "libcurand.so.10", true, &entries::curand::TABLE),
    // candle compiles nothing at run time unless its user does.
    library("nvrtc", "libnvrtc.so.{}", false, &entries::nvrtc::TABLE),
];

pub(crate) static DRIVER: &Library = &LIBRARIES[0];

/// Loaded when the first communicator is made: a program of one GPU does without it.
pub static NCCL: Library = library("nccl", "libnccl.so.2", false, &entries::nccl::TABLE);

/// Loads what can be loaded of all libraries; what cannot is told by [`Library::path`].
pub(crate) fn load_all() {
    for library in &LIBRARIES {
        let _ = library.path();
    }
}

impl Library {
    /// The file's name.
    pub fn file(&self) -> String {
        self.file.replace("{}", &BUILT.major.to_string())
    }

    /// Where the library was loaded from; loads it at the first call.
    ///
    /// # Errors
    /// No place has a library that can be loaded: the driver is then [`Error::NoDriver`].
    pub fn path(&self) -> Result<&PathBuf, Error> {
        let loaded = self.loaded.get_or_init(|| self.load());
        loaded.as_ref().map_err(|tried| match std::ptr::eq(self, DRIVER) {
            true => Error::NoDriver { tried: tried.clone() },
            false => Error::NoLibrary { file: self.file(), built: BUILT, tried: tried.clone() },
        })
    }

    fn load(&self) -> Result<PathBuf, String> {
        let mut tried = String::new();
        for (how, path) in places(&self.file()) {
            // SAFETY: the libraries of a CUDA installation are made to be loaded; their initialisers ask nothing of us.
            match unsafe { Handle::open(Some(&path), RTLD_NOW | RTLD_LOCAL) } {
                Ok(handle) => {
                    self.fill(&handle);
                    // The slots point into the library for the rest of the process.
                    std::mem::forget(handle);
                    return Ok(path);
                }
                Err(error) => {
                    let _ = write!(tried, "\n  {how}: {error}");
                }
            }
        }
        Err(tried)
    }

    fn fill(&self, handle: &Handle) {
        for (name, slot) in self.table.names.iter().zip(self.table.slots) {
            // SAFETY: the symbol is only taken as an address; the entry points call it by its C declaration.
            match unsafe { handle.get::<*mut c_void>(name.to_bytes_with_nul()) } {
                Ok(function) => slot.set(function.into_raw()),
                Err(_) if std::ptr::eq(self, DRIVER) => slot.set(absent::newer_driver as *mut c_void),
                Err(_) => {}
            }
        }
    }
}

/// Where a library may be, each place with the words that say how it was named, in the order in which they are asked.
fn places(file: &str) -> Vec<(String, PathBuf)> {
    let inside = ["lib64", "lib", "targets/x86_64-linux/lib"];
    let mut places = Vec::new();
    for variable in ["NCCL_HOME", "CUDA_HOME", "CUDA_PATH"] {
        if let Some(root) = std::env::var_os(variable).filter(|root| !root.is_empty()).map(PathBuf::from) {
            places.extend(inside.map(|folder| (variable.to_owned(), root.join(folder).join(file))));
        }
    }
    places.push(("loader path (LD_LIBRARY_PATH)".to_owned(), PathBuf::from(file)));
    // Where a toolkit, a container's driver and the driver of Windows' Linux are.
    let usual = ["/usr/local/cuda/lib64", "/usr/local/nvidia/lib64", "/usr/lib/wsl/lib"];
    places.extend(usual.map(|folder| ("usual place".to_owned(), PathBuf::from(folder).join(file))));
    // The loader's own message names a file that it was given with a folder; the bare name it searches.
    places.retain(|(_, path)| path.components().count() == 1 || path.is_file());
    places
}
