//! One rank's end of an HCCL communicator: its handle, its stream, and the calls on buffers.
//!
//! Collectives run on a stream of their own, so that they overlap with the operators of the [`Context`]. A call begins
//! after everything that the context was given so far; [`Group::join`] lets what the context is given next wait for it.

use super::context::{Handle, Inner};
use super::{Buffer, Context, Error};
use acl_sys::{ACL_EVENT_RECORDED_STATUS_COMPLETE, MissingSymbol};
use hccl_sys::*;
use std::collections::VecDeque;
use std::ffi::CString;
use std::mem::MaybeUninit;
use std::path::Path;
use std::ptr::null_mut;
use std::sync::{Mutex, PoisonError};

/// What rank 0 gives to the others, so that they find it.
#[derive(Clone, PartialEq, Eq)]
pub struct RootInfo(pub(super) Box<[u8; HCCL_ROOT_INFO_BYTES as usize]>);

impl RootInfo {
    /// Opens a root on this host. It waits for the other ranks as long as `HCCL_CONNECT_TIMEOUT` says.
    pub fn new(context: &Context) -> Result<Self, Error> {
        context.0.ready()?;
        let api = &context.0.api;
        let mut info = MaybeUninit::<HcclRootInfo>::zeroed();
        // SAFETY: the call fills the structure that it is given.
        api.check_hccl("HcclGetRootInfo", unsafe { api.hccl.HcclGetRootInfo(info.as_mut_ptr()) })?;
        // SAFETY: any bytes are a root info, and these were zero before the call wrote them.
        let info = unsafe { info.assume_init() };
        Ok(Self(Box::new(info.internal.map(|byte| byte as u8))))
    }

    pub fn as_bytes(&self) -> &[u8] {
        &self.0[..]
    }

    /// What [`RootInfo::as_bytes`] gave on another rank; `None` when the length is not that of a root info.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        Some(Self(Box::new(bytes.try_into().ok()?)))
    }
}

/// Marks in the two streams: the context's work is ready, the collective is done, the context has passed its wait.
#[derive(Clone, Copy)]
pub(crate) struct Marks {
    ready: Handle,
    done: Handle,
    passed: Handle,
}

/// A communicator on the device of one context.
pub(crate) struct Group {
    context: Context,
    comm: Handle,
    stream: Handle,
    /// Marks whose waits may not be over, oldest first.
    marks: Mutex<VecDeque<Marks>>,
}

impl Group {
    /// Joins as `rank` of `size`; waits for the other ranks.
    pub(crate) fn from_root_info(context: &Context, info: &RootInfo, rank: u32, size: u32) -> Result<Self, Error> {
        let root = HcclRootInfo { internal: info.0.map(|byte| byte as _) };
        Self::make(context, "HcclCommInitRootInfo", |hccl, comm| {
            // SAFETY: both structures are valid for the call.
            unsafe { hccl.HcclCommInitRootInfo(size, &root, rank, comm) }
        })
    }

    /// Joins as `rank` of the job that the table lists.
    pub(crate) fn from_rank_table(context: &Context, table: &Path, rank: u32) -> Result<Self, Error> {
        let path = CString::new(table.as_os_str().as_encoded_bytes()).map_err(|_| Error::Arguments {
            op: "HcclCommInitClusterInfo",
            why: format!("the path {} of the rank table holds a zero byte", table.display()),
        })?;
        Self::make(context, "HcclCommInitClusterInfo", |hccl, comm| {
            // SAFETY: the path is NUL-terminated, and one handle is written.
            unsafe { hccl.HcclCommInitClusterInfo(path.as_ptr(), rank, comm) }
        })
    }

    fn make(
        context: &Context,
        call: &'static str,
        init: impl FnOnce(&Hccl, *mut HcclComm) -> Result<HcclResult, MissingSymbol>,
    ) -> Result<Self, Error> {
        context.0.ready()?;
        let api = &context.0.api;
        let (mut comm, mut stream) = (null_mut(), null_mut());
        // SAFETY: writes one handle through a valid pointer.
        api.check("aclrtCreateStream", unsafe { api.acl.aclrtCreateStream(&mut stream) })?;
        if let Err(error) = api.check_hccl(call, init(&api.hccl, &mut comm)) {
            // SAFETY: made above, and nothing was given to it.
            let _ = unsafe { api.acl.aclrtDestroyStream(stream) };
            return Err(error);
        }
        let (comm, stream) = (Handle(comm), Handle(stream));
        Ok(Self { context: context.clone(), comm, stream, marks: Mutex::default() })
    }

    fn number(
        &self,
        call: &'static str,
        get: impl FnOnce(&Hccl, HcclComm, *mut u32) -> Result<HcclResult, MissingSymbol>,
    ) -> Result<u32, Error> {
        self.context.0.ready()?;
        let (api, mut number) = (&self.context.0.api, 0);
        api.check_hccl(call, get(&api.hccl, self.comm.0, &mut number))?;
        Ok(number)
    }

    pub(crate) fn rank(&self) -> Result<u32, Error> {
        // SAFETY: the communicator is alive; one number is written.
        self.number("HcclGetRankId", |hccl, comm, out| unsafe { hccl.HcclGetRankId(comm, out) })
    }

    pub(crate) fn size(&self) -> Result<u32, Error> {
        // SAFETY: as above.
        self.number("HcclGetRankSize", |hccl, comm, out| unsafe { hccl.HcclGetRankSize(comm, out) })
    }

    /// The code of an asynchronous failure, 0 when there is none.
    pub(crate) fn async_error(&self) -> Result<HcclResult, Error> {
        self.context.0.ready()?;
        let (api, mut code) = (&self.context.0.api, 0);
        // SAFETY: the communicator is alive; one code is written.
        let answer = unsafe { api.hccl.HcclGetCommAsyncError(self.comm.0, &mut code) };
        api.check_hccl("HcclGetCommAsyncError", answer)?;
        Ok(code)
    }

    /// Waits until every collective given so far is over.
    pub(crate) fn synchronize(&self) -> Result<(), Error> {
        let inner = &self.context.0;
        inner.ready()?;
        inner.counting.host_syncs.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        // SAFETY: the stream is alive.
        let answer = unsafe { inner.api.acl.aclrtSynchronizeStream(self.stream.0) };
        inner.api.check("aclrtSynchronizeStream", answer)
    }

    /// Gives the stream of collectives one call, after all work that the context was given so far.
    fn issue(
        &self,
        call: &'static str,
        run: impl FnOnce(&Hccl, HcclComm, acl_sys::aclrtStream) -> Result<HcclResult, MissingSymbol>,
    ) -> Result<Marks, Error> {
        let inner = &self.context.0;
        inner.ready()?;
        let (api, marks) = (&inner.api, self.fresh_marks()?);
        self.order(marks.ready, inner.stream, self.stream)?;
        let answer = api.check_hccl(call, run(&api.hccl, self.comm.0, self.stream.0));
        // SAFETY: both handles are alive.
        let record = unsafe { api.acl.aclrtRecordEvent(marks.done.0, self.stream.0) };
        match answer.and_then(|()| api.check("aclrtRecordEvent", record)) {
            Ok(()) => Ok(marks),
            Err(error) => {
                // The marks go back the usual way; the call's own error is the one to hear of.
                let _ = self.join(marks);
                Err(error)
            }
        }
    }

    /// Lets what the context is given from now on wait for the call that `marks` belongs to.
    pub(crate) fn join(&self, marks: Marks) -> Result<(), Error> {
        let inner = &self.context.0;
        inner.bind()?;
        // SAFETY: all handles are alive.
        unsafe {
            let wait = inner.api.acl.aclrtStreamWaitEvent(inner.stream.0, marks.done.0);
            inner.api.check("aclrtStreamWaitEvent", wait)?;
            inner.api.check("aclrtRecordEvent", inner.api.acl.aclrtRecordEvent(marks.passed.0, inner.stream.0))?;
        }
        self.lock().push_back(marks);
        Ok(())
    }

    /// `later` waits for what `earlier` was given so far.
    fn order(&self, mark: Handle, earlier: Handle, later: Handle) -> Result<(), Error> {
        let api = &self.context.0.api;
        // SAFETY: all handles are alive.
        unsafe {
            api.check("aclrtRecordEvent", api.acl.aclrtRecordEvent(mark.0, earlier.0))?;
            api.check("aclrtStreamWaitEvent", api.acl.aclrtStreamWaitEvent(later.0, mark.0))
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, VecDeque<Marks>> {
        self.marks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The oldest marks if both streams have passed them, else new ones: an event that is recorded again while someone
    /// still waits for its last record would order the wrong things.
    fn fresh_marks(&self) -> Result<Marks, Error> {
        let api = &self.context.0.api;
        let mut marks = self.lock();
        if let Some(&oldest) = marks.front() {
            let mut status = 0;
            // SAFETY: the event is alive; one status is written.
            let answer = unsafe { api.acl.aclrtQueryEventStatus(oldest.passed.0, &mut status) };
            api.check("aclrtQueryEventStatus", answer)?;
            if status == ACL_EVENT_RECORDED_STATUS_COMPLETE {
                marks.pop_front();
                return Ok(oldest);
            }
        }
        let event = || {
            let mut event = null_mut();
            // SAFETY: writes one handle through a valid pointer.
            api.check("aclrtCreateEvent", unsafe { api.acl.aclrtCreateEvent(&mut event) })?;
            Ok::<_, Error>(Handle(event))
        };
        Ok(Marks { ready: event()?, done: event()?, passed: event()? })
    }

    fn close(&self) -> Result<(), Error> {
        let inner: &Inner = &self.context.0;
        inner.bind()?;
        let api = &inner.api;
        // The context's stream may wait for marks that go below.
        // SAFETY: the handles were made by this object, are alive, and are not used after this.
        unsafe {
            let idle = api.check("aclrtSynchronizeStream", api.acl.aclrtSynchronizeStream(self.stream.0));
            let passed = inner.synchronize();
            let destroyed = api.check_hccl("HcclCommDestroy", api.hccl.HcclCommDestroy(self.comm.0));
            for marks in self.lock().drain(..) {
                for event in [marks.ready, marks.done, marks.passed] {
                    api.check("aclrtDestroyEvent", api.acl.aclrtDestroyEvent(event.0))?;
                }
            }
            api.check("aclrtDestroyStream", api.acl.aclrtDestroyStream(self.stream.0))?;
            idle.and(passed).and(destroyed)
        }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let closed = self.close();
        self.context.0.record(closed);
    }
}

/// Elements in a buffer: what a collective reads or writes.
#[derive(Clone, Copy)]
pub(crate) struct Span<'a> {
    pub(crate) buffer: &'a Buffer,
    /// First byte.
    pub(crate) offset: usize,
    pub(crate) bytes: usize,
}

impl Span<'_> {
    fn pointer(&self, op: &'static str) -> Result<*mut std::ffi::c_void, Error> {
        let end = self.offset.checked_add(self.bytes);
        match end.filter(|&end| end <= self.buffer.size()) {
            Some(_) => Ok(self.buffer.pointer_at(self.offset)),
            None => Err(Error::Arguments {
                op,
                why: format!("{} bytes at {} are not in a buffer of {}", self.bytes, self.offset, self.buffer.size()),
            }),
        }
    }
}

/// The collectives. `count` counts elements; a [`Span`] that is too short for it is the caller's mistake, which HCCL
/// itself cannot see, so the safe layer above computes both from one shape.
impl Group {
    pub(crate) fn all_reduce(&self, send: Span, recv: Span, count: u64, dtype: i32, op: i32) -> Result<Marks, Error> {
        let (from, to) = (send.pointer("all_reduce")?, recv.pointer("all_reduce")?);
        // SAFETY: both spans are memory of this device and hold `count` elements.
        self.issue("HcclAllReduce", |hccl, comm, stream| unsafe {
            hccl.HcclAllReduce(from, to, count, dtype, op, comm, stream)
        })
    }

    pub(crate) fn broadcast(&self, data: Span, count: u64, dtype: i32, root: u32) -> Result<Marks, Error> {
        let at = data.pointer("broadcast")?;
        // SAFETY: as above.
        self.issue("HcclBroadcast", |hccl, comm, stream| unsafe {
            hccl.HcclBroadcast(at, count, dtype, root, comm, stream)
        })
    }

    pub(crate) fn all_gather(&self, send: Span, recv: Span, count: u64, dtype: i32) -> Result<Marks, Error> {
        let (from, to) = (send.pointer("all_gather")?, recv.pointer("all_gather")?);
        // SAFETY: as above; the second span holds `count` elements for each rank.
        self.issue("HcclAllGather", |hccl, comm, stream| unsafe {
            hccl.HcclAllGather(from, to, count, dtype, comm, stream)
        })
    }

    pub(crate) fn reduce_scatter(
        &self,
        send: Span,
        recv: Span,
        count: u64,
        dtype: i32,
        op: i32,
    ) -> Result<Marks, Error> {
        let (from, to) = (send.pointer("reduce_scatter")?, recv.pointer("reduce_scatter")?);
        // SAFETY: as above; the first span holds `count` elements for each rank.
        self.issue("HcclReduceScatter", |hccl, comm, stream| unsafe {
            hccl.HcclReduceScatter(from, to, count, dtype, op, comm, stream)
        })
    }

    pub(crate) fn barrier(&self) -> Result<Marks, Error> {
        // SAFETY: takes no memory.
        self.issue("HcclBarrier", |hccl, comm, stream| unsafe { hccl.HcclBarrier(comm, stream) })
    }
}
