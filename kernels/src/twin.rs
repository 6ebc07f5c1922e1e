//! The twin: the operators' own sources, run on the host with every rule checked.
//!
//! Device memory is a set of host buffers with addresses of their own; an access outside of one is a fault, as is
//! everything that `kernels/twin` checks. A fault names the kernel, the line of its source and the rule.

use std::ffi::{CString, c_char, c_void};
use std::io::Write;
use std::sync::OnceLock;

use crate::Launch;

/// Pipes of a core, in the order of [`Report::busy`].
pub const PIPES: [&str; 7] = ["S", "V", "M", "MTE1", "MTE2", "MTE3", "FIX"];

/// Sizes in bytes and rates in bytes a cycle of a chip, per core (`NpuTwinSoc` in `twin/run/abi.h`).
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Soc {
    pub ub: u32,
    pub l1: u32,
    pub l0a: u32,
    pub l0b: u32,
    pub l0c: u32,
    pub bt: u32,
    pub fb: u32,
    /// Blocks that share the memory's rate all the time, where a launch is known to wait for it; 0 to read at the cache's
    /// rate, and leave it to who asked to hold the time against that of the bytes.
    pub sharing: u32,
    pub frequency_mhz: f64,
    /// The memory's rate over all cores.
    pub hbm: f64,
    pub l2_read: f64,
    pub l2_write: f64,
    pub l1_to_l0a: f64,
    pub l1_to_l0b: f64,
    pub l0c_to_gm: f64,
}

impl Soc {
    /// As the platform's configuration of Ascend910B3 has it; of its memory, the published 1600 GB/s.
    pub const ASCEND_910B3: Self = Self {
        ub: 196_608,
        l1: 524_288,
        l0a: 65_536,
        l0b: 65_536,
        l0c: 131_072,
        bt: 1024,
        fb: 7168,
        sharing: 0,
        frequency_mhz: 1800.0,
        hbm: 1600.0 / 1.8,
        l2_read: 110.0,
        l2_write: 86.0,
        l1_to_l0a: 512.0,
        l1_to_l0b: 256.0,
        l0c_to_gm: 256.0,
    };
}

/// What a launch cost (`NpuTwinReport` in `twin/run/abi.h`). Bytes and counts are of all cores, `cycles` and `busy` of
/// the core that ended last.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Report {
    pub cycles: f64,
    pub busy: [f64; 7],
    pub all_busy: [f64; 7],
    pub instructions: [u64; 7],
    pub gm_to_ub: u64,
    pub gm_to_l1: u64,
    pub ub_to_gm: u64,
    pub l0c_to_gm: u64,
    pub l1_to_l0a: u64,
    pub l1_to_l0b: u64,
    pub gm_read_once: u64,
    pub gm_written_once: u64,
    pub cube_macs: u64,
    pub flags: u64,
    pub cross_flags: u64,
    pub cube_cores: u32,
    pub vector_cores: u32,
    limit_pipe: u32,
    limit_cube: u32,
    limit_busy: f64,
    fault: [c_char; 2048],
}

/// A launch that did not come to its end.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{0}")]
    Fault(String),
    /// The host refuses the shape.
    #[error("{0}")]
    Shape(String),
    #[error("the twin has no kernel {0}")]
    NoKernel(String),
    #[error("the twin's library cannot be loaded: {0}")]
    Library(String),
}

/// Device memory of the standalone twin: buffers at addresses that are nobody's on the host.
#[derive(Debug, Default)]
pub struct Memory {
    buffers: Vec<(u64, Vec<u8>)>,
}

const FIRST: u64 = 0x1000_0000_0000;
const ALIGN: u64 = 512;

/// An element of a buffer.
pub trait Element: Copy {
    fn put(self, bytes: &mut Vec<u8>);
    fn get(bytes: &[u8]) -> Self;
    const SIZE: usize;
}

macro_rules! elements {
    ($($kind:ty),*) => {$(
        impl Element for $kind {
            const SIZE: usize = size_of::<$kind>();
            fn put(self, bytes: &mut Vec<u8>) {
                bytes.extend_from_slice(&self.to_le_bytes());
            }
            fn get(bytes: &[u8]) -> Self {
                Self::from_le_bytes(bytes.try_into().expect("an element's bytes"))
            }
        }
    )*};
}
elements!(u8, i8, u16, i16, u32, i32, u64, i64, f32, half::f16, half::bf16);

impl Memory {
    /// A buffer with `values`; its address.
    pub fn put<T: Element>(&mut self, values: &[T]) -> u64 {
        let mut bytes = Vec::with_capacity(size_of_val(values));
        values.iter().for_each(|value| value.put(&mut bytes));
        self.add(bytes)
    }

    /// A buffer of `bytes` bytes that hold nothing useful.
    pub fn room(&mut self, bytes: usize) -> u64 {
        self.add(vec![0xA5; bytes])
    }

    /// What the buffer at `address` holds.
    pub fn get<T: Element>(&self, address: u64) -> Vec<T> {
        let (_, bytes) =
            self.buffers.iter().find(|(start, _)| *start == address).expect("an address that put returned");
        bytes.chunks_exact(T::SIZE).map(T::get).collect()
    }

    fn spans(&mut self) -> Vec<Span> {
        let span = |(base, bytes): &mut (u64, Vec<u8>)| Span {
            base: *base,
            end: *base + bytes.len() as u64,
            host: bytes.as_mut_ptr(),
            writable: 1,
            reserved: 0,
        };
        self.buffers.iter_mut().map(span).collect()
    }

    fn add(&mut self, bytes: Vec<u8>) -> u64 {
        // Two buffers never touch, so that one byte too far is one too far.
        let start = self
            .buffers
            .last()
            .map_or(FIRST, |(start, last)| (start + last.len() as u64 + ALIGN).next_multiple_of(ALIGN));
        self.buffers.push((start, bytes));
        start
    }
}

#[repr(C)]
#[derive(Clone, Copy)]
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
    soc: *const Soc,
    translate: unsafe extern "C" fn(*mut c_void, u64, *mut Span) -> i32,
    touched: Option<unsafe extern "C" fn(*mut c_void, u64, u64, u32)>,
}

type Run = unsafe extern "C" fn(*const Host, *const c_void, *const c_char, u32, *const u64, u32, *mut Report) -> i32;

/// Entry of a library of twin kernels; what marks one.
pub const ENTRY: &str = "npu_twin_run_v2";

/// A library of twin kernels.
#[derive(Debug)]
pub struct Library {
    library: libloading::Library,
}

impl Library {
    /// Loads the library whose file is `bytes`.
    ///
    /// # Errors
    /// Where no file can be written or the loader refuses it.
    pub fn new(bytes: &[u8]) -> Result<Self, Error> {
        let failed = |error: &dyn std::fmt::Display| Error::Library(error.to_string());
        let mut file = tempfile::Builder::new().suffix(".so").tempfile().map_err(|e| failed(&e))?;
        file.write_all(bytes).and_then(|()| file.flush()).map_err(|e| failed(&e))?;
        // SAFETY: the library's initialisers are those of the C++ runtime; it runs nothing else before it is called.
        let library = unsafe { libloading::Library::new(file.path()) }.map_err(|e| failed(&e))?;
        Ok(Self { library })
    }

    /// The operators of this crate.
    ///
    /// # Errors
    /// As for [`Library::new`].
    pub fn own() -> Result<&'static Self, Error> {
        static OWN: OnceLock<Result<Library, String>> = OnceLock::new();
        OWN.get_or_init(|| Self::new(crate::TWIN).map_err(|e| e.to_string()))
            .as_ref()
            .map_err(|text| Error::Library(text.clone()))
    }

    /// Runs `kernel` on `blocks` blocks with the addresses `args`.
    ///
    /// # Errors
    /// [`Error::Fault`] with kernel, file, line and rule where the kernel breaks one.
    pub fn run(
        &self,
        soc: &Soc,
        kernel: &str,
        blocks: u32,
        args: &[u64],
        memory: &mut Memory,
    ) -> Result<Report, Error> {
        let missing = || Error::NoKernel(kernel.to_owned());
        let name = CString::new(kernel).map_err(|_| missing())?;
        let threads = std::thread::available_parallelism().map_or(1, |n| n.get() as u32);
        let mut spans = memory.spans();
        let context = (&raw mut spans).cast();
        let host = Host { version: 2, threads, context, soc, translate, touched: None };
        let mut report = Report::default();
        // SAFETY: the entry has this type in every library that has it; the pointers outlive the call; `translate`
        // hands out ranges of
        // `memory`'s buffers only, which this call alone borrows.
        let broken = unsafe {
            let run = self.library.get::<Run>(ENTRY).map_err(|e| Error::Library(e.to_string()))?;
            let function = self.library.get::<unsafe extern "C" fn()>(kernel).map_err(|_| missing())?;
            let count = args.len() as u32;
            let function = *function as *const c_void;
            run(&host, function, name.as_ptr(), blocks, args.as_ptr(), count, &mut report)
        };
        if broken == 0 { Ok(report) } else { Err(Error::Fault(report.fault())) }
    }
}

impl Report {
    /// The busiest pipe of any core, and the part of the launch's time that it was busy.
    pub fn busiest(&self) -> (&'static str, f64) {
        (PIPES[self.limit_pipe as usize], self.limit_busy / self.cycles.max(1.0))
    }

    /// How much longer that pipe was busy than the same pipe on average over all cores of its kind: 1 where the cores have
    /// equal shares. For pipes that one kind of core has.
    pub fn imbalance(&self) -> f64 {
        let cores = if self.limit_cube != 0 { self.cube_cores } else { self.vector_cores };
        self.limit_busy * f64::from(cores) / self.all_busy[self.limit_pipe as usize].max(1.0)
    }

    fn fault(&self) -> String {
        let bytes: Vec<u8> = self.fault.iter().map(|&c| c as u8).take_while(|&b| b != 0).collect();
        String::from_utf8_lossy(&bytes).into_owned()
    }
}

impl Default for Report {
    fn default() -> Self {
        Self {
            cycles: 0.0,
            busy: [0.0; 7],
            all_busy: [0.0; 7],
            instructions: [0; 7],
            gm_to_ub: 0,
            gm_to_l1: 0,
            ub_to_gm: 0,
            l0c_to_gm: 0,
            l1_to_l0a: 0,
            l1_to_l0b: 0,
            gm_read_once: 0,
            gm_written_once: 0,
            cube_macs: 0,
            flags: 0,
            cross_flags: 0,
            cube_cores: 0,
            vector_cores: 0,
            limit_pipe: 0,
            limit_cube: 0,
            limit_busy: 0.0,
            fault: [0; 2048],
        }
    }
}

/// Finds the buffer around a device address.
///
/// # Safety
/// `context` is the list of spans of the running launch and `span` may be written.
unsafe extern "C" fn translate(context: *mut c_void, address: u64, span: *mut Span) -> i32 {
    // SAFETY: as the contract says; the launch's threads only read the list.
    let spans = unsafe { &*context.cast::<Vec<Span>>() };
    match spans.iter().find(|span| (span.base..span.end).contains(&address)) {
        Some(found) => {
            // SAFETY: as the contract says.
            unsafe { span.write(*found) };
            1
        }
        None => 0,
    }
}

/// Runs one of this crate's operators on an Ascend910B3: `tensors`, then its workspace, then its tiling.
///
/// # Errors
/// As for [`Library::run`].
pub fn run(launch: &Launch, tensors: &[u64], memory: &mut Memory) -> Result<Report, Error> {
    let mut args = tensors.to_vec();
    args.push(memory.room(launch.workspace.max(1) as usize));
    args.push(memory.put(&launch.tiling));
    Library::own()?.run(&Soc::ASCEND_910B3, launch.kernel, launch.blocks, &args, memory)
}
