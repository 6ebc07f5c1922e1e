//! Kernel binaries: read and checked as the runtime does. Code of an AI core cannot run here; that of a twin can.

use super::handles::{Kind, Table};
use super::twin;
use crate::status::Result;
use crate::{ensure, fail};
use acl_sys::error::*;
use std::sync::{Arc, Mutex};

/// ELF machine number of AI-core code.
const MACHINE: u16 = 0x1029;
/// ELF machine number of the host: of a twin binary.
const HOST: u16 = if cfg!(target_arch = "aarch64") { 183 } else { 62 };
/// Values of the binary load option MAGIC: AI core, vector core, cube core.
const MAGICS: [u32; 3] = [0x4355_4245, 0x4141_5246, 0x4149_4343];

/// A loaded kernel binary.
#[derive(Debug)]
pub enum Binary {
    /// Code of an AI core: the names of its functions.
    Core(Vec<String>),
    Twin(Arc<twin::Library>),
}

/// A kernel of a loaded binary.
#[derive(Clone, Debug)]
pub struct Function {
    /// Handle of the binary.
    pub binary: u64,
    pub name: &'static str,
    /// What can run; none for the code of an AI core.
    pub twin: Option<twin::Kernel>,
}

pub(super) static BINARIES: Table<Arc<Binary>> = Table::new(Kind::Binary);
pub(super) static DATA: Table<Arc<Vec<u8>>> = Table::new(Kind::BinaryData);
pub(super) static FUNCTIONS: Table<Function> = Table::new(Kind::Function);

fn field<const N: usize>(bytes: &[u8], at: usize) -> Result<[u8; N]> {
    match bytes.get(at..at + N).and_then(|slice| slice.try_into().ok()) {
        Some(array) => Ok(array),
        None => {
            fail!(ACL_ERROR_RT_PARAM_INVALID, "the binary ends within its headers, at byte {} of {}", at, bytes.len())
        }
    }
}

fn u16_at(bytes: &[u8], at: usize) -> Result<usize> {
    field(bytes, at).map(|b| u16::from_le_bytes(b) as usize)
}

fn u32_at(bytes: &[u8], at: usize) -> Result<usize> {
    field(bytes, at).map(|b| u32::from_le_bytes(b) as usize)
}

fn u64_at(bytes: &[u8], at: usize) -> Result<usize> {
    field(bytes, at).map(|b| u64::from_le_bytes(b) as usize)
}

/// Checks an explicit MAGIC option.
pub fn check_magic(magic: u32) -> Result<()> {
    ensure!(MAGICS.contains(&magic), ACL_ERROR_RT_PARAM_INVALID, "{magic:#x} is no magic of a kernel binary");
    Ok(())
}

/// Reads a kernel binary.
pub fn load(bytes: &[u8]) -> Result<u64> {
    ensure!(bytes.starts_with(b"\x7fELF"), ACL_ERROR_RT_PARAM_INVALID, "the data is no ELF file");
    ensure!(bytes.get(4) == Some(&2), ACL_ERROR_RT_PARAM_INVALID, "the ELF file is not a 64-bit one");
    let machine = u16_at(bytes, 18)? as u16;
    if machine == HOST {
        return Ok(BINARIES.insert(Arc::new(Binary::Twin(twin::load(bytes)?))));
    }
    ensure!(
        machine == MACHINE,
        ACL_ERROR_RT_PARAM_INVALID,
        "the ELF file is for machine {machine:#x}, wanted {MACHINE:#x} (AI core)"
    );
    Ok(BINARIES.insert(Arc::new(Binary::Core(functions(bytes)?))))
}

/// Names of the functions in the symbol table.
fn functions(bytes: &[u8]) -> Result<Vec<String>> {
    const SYMBOL_TABLE: usize = 2;
    const SYMBOL: usize = 24;
    const FUNCTION: u8 = 2;
    let (start, size, count) = (u64_at(bytes, 40)?, u16_at(bytes, 58)?, u16_at(bytes, 60)?);
    let header = |index: usize| start.saturating_add(index * size);
    let mut names = Vec::new();
    for section in 0..count {
        let section = header(section);
        if u32_at(bytes, section.saturating_add(4))? != SYMBOL_TABLE {
            continue;
        }
        let (table, length) = (u64_at(bytes, section + 24)?, u64_at(bytes, section + 32)?);
        let strings = u64_at(bytes, header(u32_at(bytes, section + 40)?).saturating_add(24))?;
        for symbol in 0..length.min(bytes.len()) / SYMBOL {
            let at = table.saturating_add(symbol * SYMBOL);
            let [info] = field::<1>(bytes, at.saturating_add(4))?;
            if info & 15 != FUNCTION {
                continue;
            }
            let text = bytes.get(strings.saturating_add(u32_at(bytes, at)?)..).unwrap_or_default();
            let end = text.iter().position(|&byte| byte == 0).unwrap_or(text.len());
            names.push(String::from_utf8_lossy(&text[..end]).into_owned());
        }
    }
    Ok(names)
}

impl Binary {
    /// The kernel `name` of this binary, whose handle is `own`.
    pub fn function(&self, own: u64, name: &str) -> Result<Function> {
        let found = match self {
            // A kernel that uses both kinds of cores has a function for each.
            Self::Core(functions) => functions
                .iter()
                .any(|function| {
                    function.strip_prefix(name).is_some_and(|rest| matches!(rest, "" | "_mix_aic" | "_mix_aiv"))
                })
                .then_some(None),
            Self::Twin(library) => library.kernel(name).map(Some),
        };
        let Some(twin) = found else {
            let has = match self {
                Self::Core(functions) => format!("; it has {}", functions.join(", ")),
                Self::Twin(_) => String::new(),
            };
            fail!(ACL_ERROR_RT_PARAM_INVALID, "the binary has no kernel {name:?}{has}");
        };
        Ok(Function { binary: own, name: interned(name), twin })
    }
}

/// A name that lives as long as the program, as those of operators do.
fn interned(name: &str) -> &'static str {
    static NAMES: Mutex<Vec<&'static str>> = Mutex::new(Vec::new());
    let mut names = NAMES.lock().unwrap_or_else(|e| e.into_inner());
    match names.iter().find(|known| **known == name) {
        Some(known) => known,
        None => {
            let kept: &'static str = Box::leak(name.to_owned().into_boxed_str());
            names.push(kept);
            kept
        }
    }
}
