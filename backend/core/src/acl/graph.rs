//! Captured graphs: work that the stream is given once, and then again and again in one call.
//!
//! What a capture records are addresses, not tensors. The pool therefore keeps every block that the work allocated or
//! used as long as the graph lives ([`super::pool`]), and whatever would record something else than work of the device is
//! refused: reading a value, uploading one, drawing random numbers.

use super::context::{Context, Handle, Inner, lock};
use super::{Error, api::Api};
use acl_sys::error::ACL_ERROR_RT_FEATURE_NOT_SUPPORT;
use acl_sys::{ACL_MODEL_RI_CAPTURE_MODE_RELAXED, ACL_MODEL_RI_CAPTURE_MODE_THREAD_LOCAL, aclmdlRICaptureMode};
use std::cell::Cell;
use std::fmt;
use std::ptr::null_mut;
use std::sync::PoisonError;
use std::sync::atomic::Ordering;

thread_local! {
    /// The context whose stream this thread is capturing; 0 is none.
    static CAPTURED: Cell<u64> = const { Cell::new(0) };
}

/// Recorded work of one device, ready to run again on the same memory. Clones do not exist: one graph, one owner.
pub struct Graph {
    context: Context,
    handle: Handle,
    /// Number of what the pool keeps for it.
    kept: u64,
    launches: u64,
}

impl Context {
    /// Records what `work` gives the stream, without running any of it, and answers the graph and what `work` answered.
    ///
    /// Tensors that `work` makes have their values after each [`Graph::replay`], before the first they have none. What
    /// `work` reads and writes it finds at the same addresses each time, also when the tensors themselves are gone.
    /// `None`, and `work` is not called, when the loaded CANN or the chip has no graphs; [`Self::why_no_graphs`] says
    /// more. Other threads that give this device work wait until the capture is over.
    ///
    /// # Errors
    /// Those of `work`; and `work` must not wait for the device, copy from or to the host, or draw random numbers.
    pub fn capture<R, E: From<Error>>(&self, work: impl FnOnce() -> Result<R, E>) -> Result<Option<(Graph, R)>, E> {
        let inner = &self.0;
        inner.outside_capture("capture", "captures do not nest")?;
        if lock(&inner.why_no_graphs).is_some() {
            return Ok(None);
        }
        inner.ready()?;
        let _turn = inner.turn.write().unwrap_or_else(PoisonError::into_inner);
        let Some(capture) = Capture::begin(self)? else { return Ok(None) };
        let answer = work();
        let graph = capture.end();
        let answer = answer?;
        Ok(Some((graph?, answer)))
    }

    /// Why [`Self::capture`] answered `None`, once it has.
    pub fn why_no_graphs(&self) -> Option<String> {
        lock(&self.0.why_no_graphs).clone()
    }

    /// Whether this thread is capturing this device's stream.
    pub fn is_capturing(&self) -> bool {
        self.0.captured_here()
    }
}

/// A capture that has begun; its `Drop` ends it when the work panics.
struct Capture<'a> {
    context: &'a Context,
    kept: u64,
    launches: u64,
    over: bool,
}

impl<'a> Capture<'a> {
    fn begin(context: &'a Context) -> Result<Option<Self>, Error> {
        let inner = &context.0;
        // SAFETY: the stream is alive.
        let answer =
            unsafe { inner.api.acl.aclmdlRICaptureBegin(inner.stream.0, ACL_MODEL_RI_CAPTURE_MODE_THREAD_LOCAL) };
        match inner.api.check("aclmdlRICaptureBegin", answer) {
            Ok(()) => {}
            Err(error) if lacks_graphs(&error) => {
                *lock(&inner.why_no_graphs) = Some(error.to_string());
                return Ok(None);
            }
            Err(error) => return Err(error),
        }
        let kept = lock(&inner.pool).begin_graph();
        CAPTURED.set(inner.id);
        let launches = inner.counting.captured_launches.load(Ordering::Relaxed);
        Ok(Some(Self { context, kept, launches, over: false }))
    }

    fn end(mut self) -> Result<Graph, Error> {
        self.finish()
    }

    fn finish(&mut self) -> Result<Graph, Error> {
        self.over = true;
        let inner = &self.context.0;
        CAPTURED.set(0);
        lock(&inner.pool).end_capture();
        let mut handle = null_mut();
        // SAFETY: the stream is alive and being captured; writes one handle through a valid pointer.
        let answer = unsafe { inner.api.acl.aclmdlRICaptureEnd(inner.stream.0, &mut handle) };
        if let Err(error) = inner.api.check("aclmdlRICaptureEnd", answer) {
            lock(&inner.pool).end_graph(self.kept);
            return Err(error);
        }
        let launches = inner.counting.captured_launches.load(Ordering::Relaxed) - self.launches;
        Ok(Graph { context: self.context.clone(), handle: Handle(handle), kept: self.kept, launches })
    }
}

impl Drop for Capture<'_> {
    fn drop(&mut self) {
        if !self.over {
            let ended = self.finish().map(drop);
            self.context.0.record(ended);
        }
    }
}

/// Whether the error means that there is nothing to capture with.
fn lacks_graphs(error: &Error) -> bool {
    matches!(error, Error::Missing(_)) || error.code() == Some(ACL_ERROR_RT_FEATURE_NOT_SUPPORT)
}

impl Graph {
    /// Gives the stream the recorded work once more: one call, however much it is.
    pub fn replay(&self) -> Result<(), Error> {
        let inner = &self.context.0;
        inner.outside_capture("replay", "a graph does not run inside of a capture")?;
        inner.ready()?;
        let acl = &inner.api.acl;
        // SAFETY: both handles are alive, and the pool keeps the memory that the graph refers to.
        inner.enqueue("aclmdlRIExecuteAsync", |stream| unsafe { acl.aclmdlRIExecuteAsync(self.handle.0, stream) })?;
        inner.counting.replays.fetch_add(1, Ordering::Relaxed);
        inner.counting.replayed_launches.fetch_add(self.launches, Ordering::Relaxed);
        Ok(())
    }

    /// Number of operators in the graph.
    pub fn launches(&self) -> u64 {
        self.launches
    }

    /// Bytes that the pool keeps for what the graph computes in between.
    pub fn kept_bytes(&self) -> usize {
        lock(&self.context.0.pool).kept_for(self.kept)
    }
}

impl Drop for Graph {
    /// The memory is free for whoever comes later in the stream. The graph itself may still run: it is destroyed when the
    /// host next waits for the device.
    fn drop(&mut self) {
        let inner = &self.context.0;
        lock(&inner.retired).push(self.handle);
        lock(&inner.pool).end_graph(self.kept);
    }
}

impl fmt::Debug for Graph {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Graph({} launches on {:?})", self.launches, self.context)
    }
}

/// Until it is dropped, this thread may allocate device memory although it is capturing.
pub(super) struct Relaxed<'a> {
    api: &'a Api,
    before: aclmdlRICaptureMode,
}

impl Inner {
    /// Whether this thread is capturing this device's stream.
    pub(super) fn captured_here(&self) -> bool {
        CAPTURED.get() == self.id
    }

    /// Refuses what a capture cannot record.
    pub(super) fn outside_capture(&self, op: &'static str, why: &str) -> Result<(), Error> {
        if !self.captured_here() {
            return Ok(());
        }
        let why = format!("{why}: the work of a graph is recorded now and done later, without the host");
        Err(Error::Arguments { op, why })
    }

    /// Allocating is no work of the stream; a capture counts it as unsafe unless told otherwise.
    pub(super) fn relax_capture(&self) -> Result<Option<Relaxed<'_>>, Error> {
        if !self.captured_here() {
            return Ok(None);
        }
        let before = exchange_mode(&self.api, ACL_MODEL_RI_CAPTURE_MODE_RELAXED)?;
        Ok(Some(Relaxed { api: &self.api, before }))
    }

    /// Destroys the graphs that `retired` holds; the stream must have passed their last run.
    pub(super) fn destroy_graphs(&self, retired: Vec<Handle>) {
        for handle in retired {
            // SAFETY: made by a capture of this context, taken from the list of its owner's `Drop`, so destroyed once.
            self.record(self.api.check("aclmdlRIDestroy", unsafe { self.api.acl.aclmdlRIDestroy(handle.0) }));
        }
    }
}

fn exchange_mode(api: &Api, mut mode: aclmdlRICaptureMode) -> Result<aclmdlRICaptureMode, Error> {
    // SAFETY: reads and writes one number through a valid pointer.
    let answer = unsafe { api.acl.aclmdlRICaptureThreadExchangeMode(&mut mode) };
    api.check("aclmdlRICaptureThreadExchangeMode", answer)?;
    Ok(mode)
}

impl Drop for Relaxed<'_> {
    fn drop(&mut self) {
        // Nothing was forbidden before that is allowed now, so that an error here hides nothing.
        let _ = exchange_mode(self.api, self.before);
    }
}
