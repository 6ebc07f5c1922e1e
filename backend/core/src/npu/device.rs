//! An NPU: of the installed CANN, or simulated.

use super::storage::NpuStorage;
use crate::acl::{self, Buffer, Context, Counters, LibraryStatus, MemoryInfo, launch};
use acl_sys::loader::op;
use candle_core::backend::BackendDevice;
use candle_core::{CpuStorage, DType, DeviceLocation, Result, Shape, WithDType};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

/// Seed of a device that was not given one.
const DEFAULT_SEED: u64 = 299792458;

/// A handle to one NPU; clones share its stream, memory pool and random state.
#[derive(Clone)]
pub struct NpuDevice {
    context: Context,
    state: Arc<State>,
}

struct State {
    random: Mutex<Random>,
    /// The mask that fused attention wants for causal attention, made at its first use.
    pub(super) causal_mask: Mutex<Option<Arc<NpuMask>>>,
}

/// Side of the causal mask, fixed by the operator.
pub(super) const MASK_SIDE: usize = 2048;

pub(super) struct NpuMask(pub(super) Buffer);

/// Seed and how many numbers have been drawn with it.
struct Random {
    seed: u64,
    offset: u64,
}

impl NpuDevice {
    /// NPU `index` of the CANN installed at `cann_home`, or found in the environment and the usual folders.
    pub fn installed(index: usize, cann_home: Option<&Path>) -> Result<Self> {
        Ok(Self::over(Context::open(acl::installed(cann_home)?, index)?))
    }

    /// Simulated NPU `index` of chip `soc` (for instance `910b4`; empty: the simulator's default). An error unless the
    /// program has registered a simulator ([`crate::register_simulator`]).
    pub fn simulated(soc: &str, index: usize) -> Result<Self> {
        Ok(Self::over(Context::open(acl::simulated(soc)?, index)?))
    }

    /// Number of NPUs that the CANN installed at `cann_home` sees.
    pub fn installed_count(cann_home: Option<&Path>) -> Result<usize> {
        Ok(Context::device_count(&*acl::installed(cann_home)?)?)
    }

    /// NPU `index` of the CANN that this device belongs to.
    pub fn sibling(&self, index: usize) -> Result<Self> {
        Ok(Self::over(self.context.sibling(index)?))
    }

    fn over(context: Context) -> Self {
        let random = Mutex::new(Random { seed: DEFAULT_SEED, offset: 0 });
        Self { context, state: Arc::new(State { random, causal_mask: Mutex::default() }) }
    }

    /// The device below the tensors: events, memory, launches.
    pub fn context(&self) -> &Context {
        &self.context
    }

    /// Index of the device.
    pub fn ordinal(&self) -> usize {
        self.context.device()
    }

    /// The chip's name, for instance `Ascend910B4`.
    pub fn soc(&self) -> &str {
        self.context.soc()
    }

    /// What the runtime was asked to do so far.
    pub fn counters(&self) -> Counters {
        self.context.counters()
    }

    /// Memory of the device and of the pool over it.
    pub fn memory_info(&self) -> Result<MemoryInfo> {
        Ok(self.context.memory_info()?)
    }

    /// Most bytes that tensors and workspaces may take; `None` leaves it to the device.
    pub fn set_memory_limit(&self, limit: Option<usize>) {
        self.context.set_memory_limit(limit);
    }

    /// Release of the loaded CANN.
    pub fn cann_version(&self) -> Result<String> {
        Ok(self.context.version()?)
    }

    /// One line: which CANN this is and where it was found.
    pub fn source(&self) -> String {
        self.context.source()
    }

    /// One line for the user: index, chip, memory and which CANN drives it.
    pub fn describe(&self) -> String {
        let memory =
            self.memory_info().map_or_else(|_| "memory unknown".to_owned(), |info| format!("{} GiB", info.total >> 30));
        format!("npu:{} {} ({memory}), {}", self.ordinal(), self.soc(), self.source())
    }

    /// Each library of CANN with what is missing of its declared interface.
    pub fn libraries(&self) -> Vec<LibraryStatus> {
        self.context.libraries()
    }

    /// Storage of `count` elements with unknown content.
    pub(crate) fn uninit(&self, dtype: DType, count: usize) -> Result<NpuStorage> {
        super::dtype::acl_type(dtype)?;
        let buffer = self.context.allocate(count * dtype.size_in_bytes())?;
        Ok(NpuStorage::new(buffer, dtype, self.clone(), count))
    }

    /// Storage with the elements that are `data` byte by byte.
    fn upload(&self, dtype: DType, data: &[u8]) -> Result<NpuStorage> {
        super::dtype::acl_type(dtype)?;
        let count = data.len() / dtype.size_in_bytes();
        Ok(NpuStorage::new(self.context.upload(data)?, dtype, self.clone(), count))
    }

    /// Seed and offset for drawing `count` numbers. A graph would draw the same ones at each run.
    fn draw(&self, count: usize) -> Result<(u64, u64)> {
        if self.context.is_capturing() {
            let why = "random numbers cannot become part of a graph: each run would draw the same".into();
            return Err(acl::Error::Arguments { op: "rand", why }.into());
        }
        let mut random = self.state.random.lock().unwrap_or_else(PoisonError::into_inner);
        let offset = random.offset;
        // The generator makes four numbers from one step of its counter.
        random.offset += count.next_multiple_of(4) as u64;
        Ok((random.seed, offset))
    }

    /// The upper triangle, without the diagonal, of ones: what fused attention must not see.
    pub(super) fn causal_mask(&self) -> Result<Arc<NpuMask>> {
        let held = || self.state.causal_mask.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(mask) = held().as_ref() {
            return Ok(mask.clone());
        }
        // Made outside of the lock: uploading may wait for a thread that captures, and that thread for the mask.
        let side = MASK_SIDE;
        let bytes: Vec<u8> = (0..side * side).map(|i| u8::from(i % side > i / side)).collect();
        let made = Arc::new(NpuMask(self.context.upload(&bytes)?));
        Ok(held().get_or_insert(made).clone())
    }
}

impl std::fmt::Debug for NpuDevice {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.context.fmt(f)
    }
}

impl BackendDevice for NpuDevice {
    type Storage = NpuStorage;

    /// NPU `index` of the installed CANN.
    fn new(index: usize) -> Result<Self> {
        Self::installed(index, None)
    }

    /// candle's locations have no NPU; only the ordinal means something.
    fn location(&self) -> DeviceLocation {
        DeviceLocation::Metal { gpu_id: self.ordinal() }
    }

    fn same_device(&self, other: &Self) -> bool {
        self.context.same(&other.context)
    }

    fn zeros_impl(&self, shape: &Shape, dtype: DType) -> Result<NpuStorage> {
        super::dtype::acl_type(dtype)?;
        let count = shape.elem_count();
        let buffer = self.context.allocate_zeroed(count * dtype.size_in_bytes())?;
        Ok(NpuStorage::new(buffer, dtype, self.clone(), count))
    }

    acl::candle_alloc_uninit!();

    fn storage_from_slice<T: WithDType>(&self, data: &[T]) -> Result<NpuStorage> {
        self.upload(T::DTYPE, acl::bytes_of(data))
    }

    fn storage_from_cpu_storage(&self, storage: &CpuStorage) -> Result<NpuStorage> {
        match storage {
            CpuStorage::U8(data) => self.storage_from_slice(data),
            CpuStorage::U32(data) => self.storage_from_slice(data),
            CpuStorage::I16(data) => self.storage_from_slice(data),
            CpuStorage::I32(data) => self.storage_from_slice(data),
            CpuStorage::I64(data) => self.storage_from_slice(data),
            CpuStorage::BF16(data) => self.storage_from_slice(data),
            CpuStorage::F16(data) => self.storage_from_slice(data),
            CpuStorage::F32(data) => self.storage_from_slice(data),
            CpuStorage::F64(data) => self.storage_from_slice(data),
            CpuStorage::F8E4M3(data) => self.storage_from_slice(data),
            other => Err(super::dtype::acl_type(candle_core::backend::BackendStorage::dtype(other)).err().map_or_else(
                || candle_core::Error::Msg("a host storage of a type unknown here".into()),
                candle_core::Error::from,
            )),
        }
    }

    fn storage_from_cpu_storage_owned(&self, storage: CpuStorage) -> Result<NpuStorage> {
        self.storage_from_cpu_storage(&storage)
    }

    fn rand_uniform(&self, shape: &Shape, dtype: DType, lo: f64, up: f64) -> Result<NpuStorage> {
        super::dtype::require("rand_uniform", dtype, super::dtype::FLOATS_AND_DOUBLE)?;
        let out = self.uninit(dtype, shape.elem_count())?;
        if !out.is_empty() {
            let (seed, offset) = self.draw(out.len())?;
            launch::<op::InplaceUniform, _>(&self.context, (&out.flat()?.desc()?, lo, up, seed, offset))?;
        }
        Ok(out)
    }

    fn rand_normal(&self, shape: &Shape, dtype: DType, mean: f64, std: f64) -> Result<NpuStorage> {
        super::dtype::require("rand_normal", dtype, super::dtype::FLOATS_AND_DOUBLE)?;
        let out = self.uninit(dtype, shape.elem_count())?;
        if !out.is_empty() {
            let (seed, offset) = self.draw(out.len())?;
            let arguments = (&out.flat()?.desc()?, mean as f32, std as f32, seed as i64, offset as i64);
            launch::<op::InplaceNormal, _>(&self.context, arguments)?;
        }
        Ok(out)
    }

    fn set_seed(&self, seed: u64) -> Result<()> {
        *self.state.random.lock().unwrap_or_else(PoisonError::into_inner) = Random { seed, offset: 0 };
        Ok(())
    }

    fn get_current_seed(&self) -> Result<u64> {
        Ok(self.state.random.lock().unwrap_or_else(PoisonError::into_inner).seed)
    }

    fn synchronize(&self) -> Result<()> {
        Ok(self.context.synchronize()?)
    }
}
