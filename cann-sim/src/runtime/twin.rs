//! Twin binaries: kernels that were compiled for the host instead of an AI core, which the simulator can run.
//!
//! Such a binary is a shared library with the entry [`ENTRY`]. It brings its own rules (what a core's memories, pipes and
//! flags allow) and gets everything else from here: where device memory lies and how large the chip's buffers are. The
//! structures are those of `kernels/twin/run/abi.h`; a change there changes the entry's name.

use super::memory::{self, Access, Site};
use super::soc::Soc;
use super::{config, cost};
use crate::status::{Result, Status};
use crate::{ensure, fail};
use acl_sys::error::*;
use std::ffi::{CStr, CString, c_char, c_void};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::sync::{Arc, Mutex};

/// What marks a twin binary.
pub const ENTRY: &CStr = c"npu_twin_run_v2";
const PIPES: usize = 7;
const FAULT: usize = 2048;

#[repr(C)]
struct Chip {
    ub: u32,
    l1: u32,
    l0a: u32,
    l0b: u32,
    l0c: u32,
    bt: u32,
    fb: u32,
    sharing: u32,
    frequency_mhz: f64,
    hbm: f64,
    l2_read: f64,
    l2_write: f64,
    l1_to_l0a: f64,
    l1_to_l0b: f64,
    l0c_to_gm: f64,
}

#[repr(C)]
struct Span {
    base: u64,
    end: u64,
    host: *mut u8,
    writable: u32,
    reserved: u32,
}

#[repr(C)]
struct Host {
    version: u32,
    threads: u32,
    context: *mut c_void,
    soc: *const Chip,
    translate: unsafe extern "C" fn(*mut c_void, u64, *mut Span) -> i32,
    touched: unsafe extern "C" fn(*mut c_void, u64, u64, u32),
}

/// What a launch cost; see `abi.h`.
#[repr(C)]
struct Report {
    cycles: f64,
    busy: [f64; PIPES],
    all_busy: [f64; PIPES],
    instructions: [u64; PIPES],
    gm_to_ub: u64,
    gm_to_l1: u64,
    ub_to_gm: u64,
    l0c_to_gm: u64,
    l1_to_l0a: u64,
    l1_to_l0b: u64,
    gm_read_once: u64,
    gm_written_once: u64,
    cube_macs: u64,
    flags: u64,
    cross_flags: u64,
    cube_cores: u32,
    vector_cores: u32,
    limit_pipe: u32,
    limit_cube: u32,
    limit_busy: f64,
    fault: [c_char; FAULT],
}

type Run = unsafe extern "C" fn(*const Host, *mut c_void, *const c_char, u32, *const u64, u32, *mut Report) -> i32;

/// A loaded twin binary. It stays loaded: a stream may still run its code when its handle is gone.
#[derive(Debug)]
pub struct Library {
    handle: *mut c_void,
    run: Run,
    bytes: Vec<u8>,
    /// Keeps the file's number, and with it the name that the loader knows it by, from being used again.
    _file: OwnedFd,
}

// SAFETY: the loader's handle may be used by any thread, and the entry may be called by several at once.
unsafe impl Send for Library {}
// SAFETY: as above.
unsafe impl Sync for Library {}

static LOADED: Mutex<Vec<Arc<Library>>> = Mutex::new(Vec::new());

/// The library whose file is `bytes`; the same one for the same bytes.
pub fn load(bytes: &[u8]) -> Result<Arc<Library>> {
    let mut loaded = LOADED.lock().unwrap_or_else(|e| e.into_inner());
    if let Some(same) = loaded.iter().find(|library| library.bytes == bytes) {
        return Ok(same.clone());
    }
    let library = Arc::new(Library::open(bytes)?);
    loaded.push(library.clone());
    Ok(library)
}

impl Library {
    fn open(bytes: &[u8]) -> Result<Self> {
        // SAFETY: the name is NUL-terminated; the answer is checked.
        let file = unsafe { libc::memfd_create(c"twin-kernels".as_ptr(), libc::MFD_CLOEXEC) };
        ensure!(file >= 0, ACL_ERROR_RT_INTERNAL_ERROR, "no file for the binary: {}", std::io::Error::last_os_error());
        // SAFETY: the descriptor was just made and is nobody else's.
        let mut file = unsafe { std::fs::File::from_raw_fd(file) };
        if let Err(error) = std::io::Write::write_all(&mut file, bytes) {
            fail!(ACL_ERROR_RT_INTERNAL_ERROR, "the binary cannot be kept: {error}");
        }
        let file = OwnedFd::from(file);
        let path = CString::new(format!("/proc/self/fd/{}", file.as_raw_fd())).unwrap_or_default();
        // SAFETY: the path is NUL-terminated; the library's initialisers are those of the C++ runtime.
        let handle = unsafe { libc::dlopen(path.as_ptr(), libc::RTLD_NOW | libc::RTLD_LOCAL) };
        ensure!(!handle.is_null(), ACL_ERROR_RT_PARAM_INVALID, "the binary cannot be loaded: {}", loader_error());
        // SAFETY: the handle is live and the name NUL-terminated.
        let entry = unsafe { libc::dlsym(handle, ENTRY.as_ptr()) };
        if entry.is_null() {
            // SAFETY: the handle is live and used no more.
            unsafe { libc::dlclose(handle) };
            fail!(
                ACL_ERROR_RT_PARAM_INVALID,
                "the ELF file is for the host and no twin binary: it lacks {}",
                ENTRY.to_string_lossy()
            );
        }
        // SAFETY: the entry of this name has this type in every twin binary.
        let run = unsafe { std::mem::transmute::<*mut c_void, Run>(entry) };
        Ok(Self { handle, run, bytes: bytes.to_vec(), _file: file })
    }

    /// The kernel `name`, if the binary has it.
    pub fn kernel(self: &Arc<Self>, name: &str) -> Option<Kernel> {
        let symbol = CString::new(name).ok()?;
        // SAFETY: the handle is live and the name NUL-terminated.
        let function = unsafe { libc::dlsym(self.handle, symbol.as_ptr()) };
        (!function.is_null()).then(|| Kernel { library: self.clone(), function, name: symbol })
    }
}

fn loader_error() -> String {
    // SAFETY: takes nothing; answers null or a text that lives until this thread's next call of the loader.
    let text = unsafe { libc::dlerror() };
    if text.is_null() {
        return "no reason given".into();
    }
    // SAFETY: not null, NUL-terminated.
    unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned()
}

/// A kernel of a twin binary.
#[derive(Clone, Debug)]
pub struct Kernel {
    library: Arc<Library>,
    function: *mut c_void,
    name: CString,
}

// SAFETY: the function's address is only passed on to the library's entry, which any thread may call.
unsafe impl Send for Kernel {}
// SAFETY: as above.
unsafe impl Sync for Kernel {}

/// Data that travels with a launch's arguments, and the address at which its kernel finds it.
pub type Carried = (u64, Vec<u8>);

/// What the callbacks of a running launch work with.
struct Launching<'a> {
    carried: &'a [Carried],
    ranges: Vec<(u64, u64, Access)>,
}

/// Finds the memory around a device address.
///
/// # Safety
/// `context` is the running launch's [`Launching`]; `span` may be written.
unsafe extern "C" fn translate(context: *mut c_void, address: u64, span: *mut Span) -> i32 {
    // SAFETY: as the contract says; while cores run, this is the only use of it, and reads only.
    let launching = unsafe { &*context.cast::<Launching>() };
    let carried = launching.carried.iter().find(|(base, data)| (*base..base + data.len() as u64).contains(&address));
    let found = match carried {
        Some((base, data)) => Some(Span {
            base: *base,
            end: base + data.len() as u64,
            host: data.as_ptr().cast_mut(),
            writable: 0,
            reserved: 0,
        }),
        None => memory::extent(address).map(|(base, end, host)| Span { base, end, host, writable: 1, reserved: 0 }),
    };
    match found {
        Some(found) => {
            // SAFETY: as the contract says.
            unsafe { span.write(found) };
            1
        }
        None => 0,
    }
}

/// Notes a range that the launch touched.
///
/// # Safety
/// `context` is the ended launch's [`Launching`], which one thread calls this with.
unsafe extern "C" fn touched(context: *mut c_void, start: u64, end: u64, written: u32) {
    // SAFETY: as the contract says.
    let launching = unsafe { &mut *context.cast::<Launching>() };
    let access = if written == 0 { Access::Read } else { Access::Write };
    launching.ranges.push((start, end, access));
}

fn chip(soc: &Soc) -> Chip {
    // One core of dav-2201, as the platform's configuration of every chip of the family has it.
    Chip {
        ub: soc.ub as u32,
        l1: 512 << 10,
        l0a: 64 << 10,
        l0b: 64 << 10,
        l0c: 128 << 10,
        bt: 1 << 10,
        fb: 7 << 10,
        sharing: 0,
        frequency_mhz: f64::from(soc.cube_mhz),
        hbm: soc.hbm_rate as f64 * 1e3 / f64::from(soc.cube_mhz),
        l2_read: 110.0,
        l2_write: 86.0,
        l1_to_l0a: 512.0,
        l1_to_l0b: 256.0,
        l0c_to_gm: 256.0,
    }
}

/// Runs `kernel` on `blocks` blocks with the 8-byte arguments `args`, as the task at `site` of `device`.
pub fn run(kernel: &Kernel, blocks: u32, args: &[u64], carried: &[Carried], site: &Site, device: u32) -> Result<()> {
    let soc = config::current()?.soc;
    let chip = chip(soc);
    let mut launching = Launching { carried, ranges: Vec::new() };
    let threads = std::thread::available_parallelism().map_or(1, |n| n.get() as u32);
    let context = (&raw mut launching).cast();
    let host = Host { version: 2, threads, context, soc: &chip, translate, touched };
    // SAFETY: a report is plain numbers and text, for which zero is a value.
    let mut report: Report = unsafe { std::mem::zeroed() };
    let (library, count) = (&kernel.library, args.len() as u32);
    // SAFETY: the function is one of the library's kernels and is given 8-byte arguments only; pointers outlive the call.
    let broken = unsafe {
        (library.run)(&host, kernel.function, kernel.name.as_ptr(), blocks, args.as_ptr(), count, &mut report)
    };
    if broken != 0 {
        let code =
            if report.cube_cores > 0 { ACL_ERROR_RT_AICORE_EXCEPTION } else { ACL_ERROR_RT_VECTOR_CORE_EXCEPTION };
        let text: Vec<u8> = report.fault.iter().map(|&c| c as u8).take_while(|&byte| byte != 0).collect();
        return Err(Status::new(code, String::from_utf8_lossy(&text)));
    }
    for &(start, end, access) in &launching.ranges {
        if !carried.iter().any(|(base, data)| (*base..base + data.len() as u64).contains(&start)) {
            memory::resolve(start, (end - start) as usize, access, site)?;
        }
    }
    let (time, unit) = modelled(&report, soc);
    let bytes = report.gm_read_once + report.gm_written_once;
    cost::ran(device, site.stream, time, unit, bytes);
    Ok(())
}

/// Nanoseconds of a launch beyond its start, and what bounds it: the core that ends last, or the memory of them all.
fn modelled(report: &Report, soc: &Soc) -> (f64, cost::Unit) {
    let memory = (report.gm_read_once + report.gm_written_once) as f64 / soc.hbm_rate as f64;
    let cores = report.cycles * 1e3 / f64::from(soc.cube_mhz);
    let unit = match (memory >= cores, report.limit_pipe) {
        (false, 1) => cost::Unit::Vector,
        // The matrix unit, and what loads its operands.
        (false, 2 | 3) => cost::Unit::Cube,
        _ => cost::Unit::Memory,
    };
    (memory.max(cores), unit)
}
