//! A device that has been taken into use: its runtime context, its stream, its memory and what went wrong on it.

use super::api::Api;
use super::kernel::Kernels;
use super::pool::Pool;
use super::staging::Staging;
use super::{Error, OutOfMemory};
use acl_sys::{MissingSymbol, aclrtStream, timing};
use std::cell::Cell;
use std::ffi::{CStr, c_void};
use std::fmt;
use std::ptr::null_mut;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, Weak};

/// One device in use; clones share it. All work goes to one stream, in the order of the calls.
#[derive(Clone)]
pub struct Context(pub(super) Arc<Inner>);

/// What the runtime was asked to do since the context was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Operators launched to run now.
    pub launches: u64,
    /// Operators recorded into graphs.
    pub captured_launches: u64,
    /// Runs of captured graphs, and the operators that these ran.
    pub replays: u64,
    pub replayed_launches: u64,
    /// Times the host waited for the device.
    pub host_syncs: u64,
    /// Times the pool asked the device for memory, and gave some back.
    pub mallocs: u64,
    pub frees: u64,
    /// Bytes copied from the host to the device and back.
    pub bytes_to_device: u64,
    pub bytes_to_host: u64,
    /// Calls of the C interface within [`Context::timed`], and the nanoseconds that this spent outside of them.
    pub timed_calls: u64,
    pub timed_host_nanos: u64,
}

impl Counters {
    /// What was counted since `before`.
    pub fn since(&self, before: &Self) -> Self {
        let more = u64::saturating_sub;
        Self {
            launches: more(self.launches, before.launches),
            captured_launches: more(self.captured_launches, before.captured_launches),
            replays: more(self.replays, before.replays),
            replayed_launches: more(self.replayed_launches, before.replayed_launches),
            host_syncs: more(self.host_syncs, before.host_syncs),
            mallocs: more(self.mallocs, before.mallocs),
            frees: more(self.frees, before.frees),
            bytes_to_device: more(self.bytes_to_device, before.bytes_to_device),
            bytes_to_host: more(self.bytes_to_host, before.bytes_to_host),
            timed_calls: more(self.timed_calls, before.timed_calls),
            timed_host_nanos: more(self.timed_host_nanos, before.timed_host_nanos),
        }
    }
}

/// [`Counters`] while they are counted.
#[derive(Default)]
pub(super) struct Counting {
    pub launches: AtomicU64,
    pub captured_launches: AtomicU64,
    pub replays: AtomicU64,
    pub replayed_launches: AtomicU64,
    pub host_syncs: AtomicU64,
    pub mallocs: AtomicU64,
    pub frees: AtomicU64,
    pub bytes_to_device: AtomicU64,
    pub bytes_to_host: AtomicU64,
    pub timed_calls: AtomicU64,
    pub timed_host_nanos: AtomicU64,
}

/// A handle of the C interface.
#[derive(Clone, Copy, Debug)]
pub(super) struct Handle(pub *mut c_void);
// SAFETY: the runtime's contexts, streams and events may be used from any thread that has made the context current.
unsafe impl Send for Handle {}
// SAFETY: as above; the runtime locks what it must.
unsafe impl Sync for Handle {}

pub(super) struct Inner {
    pub(super) id: u64,
    pub(super) api: Arc<Api>,
    pub(super) device: usize,
    handle: Handle,
    pub(super) stream: Handle,
    pub(super) soc: String,
    pub(super) pool: Mutex<Pool>,
    pub(super) staging: Mutex<Staging>,
    pub(super) counting: Counting,
    pub(super) kernels: Mutex<Kernels>,
    /// Held to read by who gives the stream work, to write by who captures it.
    pub(super) turn: RwLock<()>,
    /// Graphs whose owner is gone, to be destroyed once the stream is known to have passed them.
    pub(super) retired: Mutex<Vec<Handle>>,
    /// What the runtime said when it was asked for a graph and has none.
    pub(super) why_no_graphs: Mutex<Option<String>>,
    /// The first failure of a `Drop`, for the next call to return.
    pending: Mutex<Option<Error>>,
    has_pending: AtomicBool,
}

/// A context that is alive, or whose last user is gone and which is giving the device back.
struct Opened {
    id: u64,
    api: Arc<Api>,
    device: usize,
    context: Weak<Inner>,
}

static OPEN: Mutex<Vec<Opened>> = Mutex::new(Vec::new());
/// Rung when a context has left [`OPEN`].
static CLOSED: Condvar = Condvar::new();
static NEXT_ID: AtomicU64 = AtomicU64::new(1);

thread_local! {
    /// Which context this thread made current last.
    static CURRENT: Cell<u64> = const { Cell::new(0) };
}

/// Locks; a panic of another holder leaves bookkeeping that is still consistent, because no call here panics midway.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Context {
    /// Takes device `index` of `api` into use; a second call while the first is alive shares it.
    ///
    /// A context whose last user is gone resets the device, and with it the context that `aclrtSetDevice` gives to
    /// everyone: so a new one begins only after that has ended.
    pub(crate) fn open(api: Arc<Api>, index: usize) -> Result<Self, Error> {
        let mut open = lock(&OPEN);
        while let Some(same) = open.iter().find(|it| Arc::ptr_eq(&it.api, &api) && it.device == index) {
            if let Some(inner) = same.context.upgrade() {
                return Ok(Self(inner));
            }
            open = CLOSED.wait(open).unwrap_or_else(PoisonError::into_inner);
        }
        let inner = Arc::new(Inner::new(api.clone(), index)?);
        open.push(Opened { id: inner.id, api, device: index, context: Arc::downgrade(&inner) });
        Ok(Self(inner))
    }

    /// Device `index` of the same CANN.
    pub(crate) fn sibling(&self, index: usize) -> Result<Self, Error> {
        Self::open(self.0.api.clone(), index)
    }

    /// Number of devices that the loaded CANN sees.
    pub(crate) fn device_count(api: &Api) -> Result<usize, Error> {
        let mut count = 0u32;
        // SAFETY: writes one count through a valid pointer.
        api.check("aclrtGetDeviceCount", unsafe { api.acl.aclrtGetDeviceCount(&mut count) })?;
        Ok(count as usize)
    }

    /// Index of the device.
    pub fn device(&self) -> usize {
        self.0.device
    }

    /// The chip's name, for instance `Ascend910B4`.
    pub fn soc(&self) -> &str {
        &self.0.soc
    }

    /// Whether both mean the same device of the same CANN.
    pub fn same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// Whether the loaded CANN has operator `O`.
    pub fn has<O: acl_sys::Operator>(&self) -> bool {
        self.0.api.aclnn.has::<O>()
    }

    /// Waits until the device has done all work given to it.
    pub fn synchronize(&self) -> Result<(), Error> {
        self.0.ready()?;
        self.0.synchronize()
    }

    /// What the runtime was asked to do so far.
    pub fn counters(&self) -> Counters {
        let counting = &self.0.counting;
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Counters {
            launches: read(&counting.launches),
            captured_launches: read(&counting.captured_launches),
            replays: read(&counting.replays),
            replayed_launches: read(&counting.replayed_launches),
            host_syncs: read(&counting.host_syncs),
            mallocs: read(&counting.mallocs),
            frees: read(&counting.frees),
            bytes_to_device: read(&counting.bytes_to_device),
            bytes_to_host: read(&counting.bytes_to_host),
            timed_calls: read(&counting.timed_calls),
            timed_host_nanos: read(&counting.timed_host_nanos),
        }
    }

    /// Runs `work`, which gives this device things to do, and counts what of the time is this program's own: not spent in
    /// functions of CANN, and so not in a simulated device either. Measuring costs two readings of the clock a call.
    pub fn timed<R>(&self, work: impl FnOnce() -> R) -> R {
        let (answer, spent) = timing::timed(work);
        let counting = &self.0.counting;
        counting.timed_calls.fetch_add(spent.calls, Ordering::Relaxed);
        counting.timed_host_nanos.fetch_add(spent.outside().as_nanos() as u64, Ordering::Relaxed);
        answer
    }
}

impl fmt::Debug for Context {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "npu:{} ({})", self.0.device, self.0.soc)
    }
}

impl Inner {
    fn new(api: Arc<Api>, index: usize) -> Result<Self, Error> {
        let count = Context::device_count(&api)?;
        if index >= count {
            return Err(Error::NoDevice { index, count, source_name: api.describe() });
        }
        let acl = &api.acl;
        // SAFETY: plain values; the device exists.
        api.check("aclrtSetDevice", unsafe { acl.aclrtSetDevice(index as i32) })?;
        let (mut handle, mut stream) = (null_mut(), null_mut());
        // SAFETY: writes one handle through a valid pointer.
        api.check("aclrtGetCurrentContext", unsafe { acl.aclrtGetCurrentContext(&mut handle) })?;
        // SAFETY: as above.
        api.check("aclrtCreateStream", unsafe { acl.aclrtCreateStream(&mut stream) })?;
        // SAFETY: takes nothing; answers null or a string that lives as long as the runtime.
        let soc = unsafe { acl.aclrtGetSocName() }?;
        let soc = match soc.is_null() {
            true => String::new(),
            // SAFETY: not null, and NUL-terminated by the interface.
            false => unsafe { CStr::from_ptr(soc) }.to_string_lossy().into_owned(),
        };
        let id = NEXT_ID.fetch_add(1, Ordering::Relaxed);
        CURRENT.set(id);
        Ok(Self {
            id,
            api,
            device: index,
            handle: Handle(handle),
            stream: Handle(stream),
            soc,
            pool: Mutex::default(),
            staging: Mutex::default(),
            counting: Counting::default(),
            kernels: Mutex::default(),
            turn: RwLock::default(),
            retired: Mutex::default(),
            why_no_graphs: Mutex::default(),
            pending: Mutex::default(),
            has_pending: AtomicBool::new(false),
        })
    }

    /// Makes the context current on this thread and returns what an earlier `Drop` could not.
    pub(super) fn ready(&self) -> Result<(), Error> {
        if self.has_pending.load(Ordering::Acquire) {
            self.has_pending.store(false, Ordering::Release);
            if let Some(error) = lock(&self.pending).take() {
                return Err(error);
            }
        }
        self.bind()
    }

    /// Makes the context current on this thread.
    pub(super) fn bind(&self) -> Result<(), Error> {
        if CURRENT.get() == self.id {
            return Ok(());
        }
        // SAFETY: the context is alive as long as `self`.
        self.api.check("aclrtSetCurrentContext", unsafe { self.api.acl.aclrtSetCurrentContext(self.handle.0) })?;
        CURRENT.set(self.id);
        Ok(())
    }

    /// The right to use the stream. While another thread captures it this waits: what one did would become part of that
    /// graph. Taken before the pool is locked, which a capture needs.
    pub(super) fn take_turn(&self) -> Option<RwLockReadGuard<'_, ()>> {
        (!self.captured_here()).then(|| self.turn.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Gives the stream something to do by the function `call`.
    pub(super) fn enqueue(
        &self,
        call: &'static str,
        issue: impl FnOnce(aclrtStream) -> Result<i32, MissingSymbol>,
    ) -> Result<(), Error> {
        let _turn = self.take_turn();
        self.api.check(call, issue(self.stream.0))
    }

    pub(super) fn synchronize(&self) -> Result<(), Error> {
        let _turn = self.take_turn();
        self.wait()
    }

    /// Waits for the stream; the caller has the turn.
    pub(super) fn wait(&self) -> Result<(), Error> {
        self.outside_capture("capture", "a value was read or the device was waited for")?;
        self.counting.host_syncs.fetch_add(1, Ordering::Relaxed);
        let retired = std::mem::take(&mut *lock(&self.retired));
        // SAFETY: the stream is alive as long as `self`.
        let answer = unsafe { self.api.acl.aclrtSynchronizeStream(self.stream.0) };
        let passed = self.api.check("aclrtSynchronizeStream", answer);
        match passed {
            Ok(()) => self.destroy_graphs(retired),
            Err(_) => lock(&self.retired).extend(retired),
        }
        passed
    }

    /// Keeps the first error of a `Drop` for the next call.
    pub(super) fn record(&self, result: Result<(), Error>) {
        if let Err(error) = result {
            lock(&self.pending).get_or_insert(error);
            self.has_pending.store(true, Ordering::Release);
        }
    }

    /// The error of an allocation that failed.
    pub(super) fn out_of_memory(&self, pool: &Pool, requested: usize) -> Error {
        let (free, total) = self.memory().unwrap_or_default();
        let sizes = pool.blocks.sizes_in_use();
        Error::OutOfMemory(Box::new(OutOfMemory {
            device: self.device,
            requested,
            free,
            total,
            limit: pool.limit,
            reserved: pool.blocks.reserved(),
            in_use: pool.blocks.in_use(),
            largest_free: pool.blocks.largest_free(),
            blocks: sizes.len(),
            largest_in_use: sizes.into_iter().take(3).collect(),
        }))
    }

    /// Waits for the device and gives everything back. Nobody is left to hear of errors.
    fn close(&self) {
        if self.bind().is_err() {
            return;
        }
        let acl = &self.api.acl;
        // SAFETY: the stream is alive; after this call nothing uses the memory that is freed below.
        let _ = unsafe { acl.aclrtSynchronizeStream(self.stream.0) };
        self.destroy_graphs(std::mem::take(&mut *lock(&self.retired)));
        self.unload_kernels();
        lock(&self.staging).free(&self.api);
        for address in lock(&self.pool).blocks.drain_unused() {
            // SAFETY: the segment came from aclrtMalloc, and no block of it is in use.
            let _ = unsafe { acl.aclrtFree(address as *mut c_void) };
        }
        // SAFETY: the stream was made by this object and has no work.
        let _ = unsafe { acl.aclrtDestroyStream(self.stream.0) };
        // SAFETY: pairs with the aclrtSetDevice of `new`.
        let _ = unsafe { acl.aclrtResetDevice(self.device as i32) };
        CURRENT.set(0);
    }
}

impl Drop for Inner {
    /// The last user is gone: who opens the device again has waited for this.
    fn drop(&mut self) {
        self.close();
        lock(&OPEN).retain(|it| it.id != self.id);
        CLOSED.notify_all();
    }
}
