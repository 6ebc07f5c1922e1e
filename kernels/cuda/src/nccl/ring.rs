//! One rank's end of a communicator: its stream, the order of calls, and who notices that one does not end.

use super::calls::{self, Collective, Element, Fold, UniqueId};
use super::error::Error;
use crate::stream::{self, Event, Handle, Stream};
use std::collections::VecDeque;
use std::ffi::{c_int, c_void};
use std::ptr::null_mut;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How often a thread looks for failures.
const BEAT: Duration = Duration::from_millis(20);
const IN_PROGRESS: c_int = 7;

/// One rank's end of a communicator. Collectives run on a stream of their own: each begins after everything that the
/// computing stream was given before the call, and [`Ring::join`] lets what that is given next wait for it.
pub struct Ring {
    shared: Arc<Shared>,
    watch: Option<JoinHandle<()>>,
    rank: usize,
    size: usize,
}

/// A call that was given to the stream.
#[derive(Clone, Debug)]
pub struct Mark(Arc<Event>);

struct Shared {
    state: Mutex<State>,
    /// Tells the thread that looks after the calls to end.
    closing: Condvar,
    stream: Stream,
    computing: Handle,
    context: Handle,
    /// How long a call may take.
    limit: Duration,
}

struct State {
    /// Null once the communicator was aborted.
    comm: Handle,
    /// Those that were not over when they were looked at last, the oldest first.
    calls: VecDeque<Call>,
    /// Calls so far.
    count: u64,
    /// The call that was over last.
    over: &'static str,
    failed: Option<Error>,
    closed: bool,
}

struct Call {
    number: u64,
    name: &'static str,
    done: Arc<Event>,
    since: Instant,
}

impl Ring {
    /// Joins as `rank` of `size`, on the GPU whose context is current on this thread; waits for the other ranks. A call that
    /// takes longer than `limit` fails, and the communicator with it.
    ///
    /// # Safety
    /// `computing` is a stream of the current context, and both live as long as this object.
    pub unsafe fn new(
        id: &UniqueId,
        (rank, size): (usize, usize),
        computing: *mut c_void,
        limit: Duration,
    ) -> Result<Self, Error> {
        calls::loaded()?;
        let (stream, context) = (Stream::new()?, stream::context()?);
        let comm = calls::init(id, rank, size)?;
        let state =
            State { comm, calls: VecDeque::new(), count: 0, over: "ncclCommInitRank", failed: None, closed: false };
        let (state, closing, computing) = (Mutex::new(state), Condvar::new(), Handle(computing));
        let shared = Arc::new(Shared { state, closing, stream, computing, context, limit });
        let watched = shared.clone();
        let watch = std::thread::Builder::new().name("nccl-watch".into()).spawn(move || watched.watch());
        // Without the thread a lost rank would hold this one up for ever.
        let watch = watch.map_err(|error| Error::Code {
            call: "starting a thread",
            code: error.raw_os_error().unwrap_or(0),
            said: format!("\n  {error}"),
        });
        let mut ring = Self { shared, watch: None, rank, size };
        ring.watch = Some(watch?);
        Ok(ring)
    }

    pub fn rank(&self) -> usize {
        self.rank
    }

    /// Number of ranks.
    pub fn size(&self) -> usize {
        self.size
    }

    /// The reduction of every rank's `count` elements at `from`, to `to`, which may be the same.
    ///
    /// # Safety
    /// The addresses are memory of this GPU that holds the elements until the call is over.
    pub unsafe fn all_reduce(
        &self,
        (from, to): (u64, u64),
        count: usize,
        element: Element,
        fold: Fold,
    ) -> Result<Mark, Error> {
        // SAFETY: the caller's promise is the one that is asked for.
        unsafe { self.shared.issue(Collective::AllReduce { from, to, count, fold }, element) }
    }

    /// `root`'s `count` elements at `at`, on every rank.
    ///
    /// # Safety
    /// As [`Ring::all_reduce`].
    pub unsafe fn broadcast(&self, at: u64, count: usize, element: Element, root: usize) -> Result<Mark, Error> {
        // SAFETY: as above.
        unsafe { self.shared.issue(Collective::Broadcast { at, count, root }, element) }
    }

    /// Every rank's `count` elements at `from`, in the order of the ranks, to `to`.
    ///
    /// # Safety
    /// As [`Ring::all_reduce`]; at `to` there is place for `count` elements of each rank.
    pub unsafe fn all_gather(&self, (from, to): (u64, u64), count: usize, element: Element) -> Result<Mark, Error> {
        // SAFETY: as above.
        unsafe { self.shared.issue(Collective::AllGather { from, to, count }, element) }
    }

    /// This rank's `count` elements of the reduction of every rank's elements at `from`, to `to`.
    ///
    /// # Safety
    /// As [`Ring::all_reduce`]; at `from` there are `count` elements for each rank.
    pub unsafe fn reduce_scatter(
        &self,
        (from, to): (u64, u64),
        count: usize,
        element: Element,
        fold: Fold,
    ) -> Result<Mark, Error> {
        // SAFETY: as above.
        unsafe { self.shared.issue(Collective::ReduceScatter { from, to, count, fold }, element) }
    }

    /// Lets what the computing stream is given from now on wait for a call.
    pub fn join(&self, mark: &Mark) -> Result<(), Error> {
        Ok(mark.0.hold_up(self.shared.computing)?)
    }

    /// Waits until every call given so far is over, or the communicator has failed.
    pub fn synchronize(&self) -> Result<(), Error> {
        self.shared.stream.synchronize()?;
        self.check()
    }

    /// An error if the communicator has failed, without waiting for anything.
    pub fn check(&self) -> Result<(), Error> {
        let mut state = self.shared.lock();
        state.look(self.shared.limit);
        state.failed.clone().map_or(Ok(()), Err)
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        let shared = &self.shared;
        // The thread that looks after the calls is still there, so that this ends whatever becomes of the other ranks.
        let _ = stream::enter(shared.context).and_then(|()| shared.stream.synchronize());
        shared.lock().closed = true;
        shared.closing.notify_all();
        if let Some(watch) = self.watch.take() {
            let _ = watch.join();
        }
        let comm = std::mem::replace(&mut shared.lock().comm, Handle(null_mut()));
        if !comm.0.is_null() {
            // A failure is nobody's any more: what was computed is there.
            // SAFETY: nothing is under way, and the handle was taken out of its place.
            let _ = unsafe { calls::destroy(comm) };
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives the stream one call, after all that the computing stream was given so far.
    ///
    /// # Safety
    /// As [`Collective::issue`].
    unsafe fn issue(&self, call: Collective, element: Element) -> Result<Mark, Error> {
        let mut state = self.lock();
        if let Some(failed) = &state.failed {
            return Err(failed.clone());
        }
        let (stream, name) = (self.stream.0, call.name());
        let (ready, done) = (Event::new()?, Arc::new(Event::new()?));
        ready.record(self.computing)?;
        ready.hold_up(stream)?;
        // SAFETY: communicator and stream are alive, since neither has been taken out of its place; the rest is the caller's promise.
        calls::checked(name, unsafe { call.issue(element, state.comm, stream) }, state.comm)?;
        done.record(stream)?;
        state.count += 1;
        let number = state.count;
        state.calls.push_back(Call { number, name, done: done.clone(), since: Instant::now() });
        Ok(Mark(done))
    }

    /// Looks after the calls until the communicator is closed or has failed.
    fn watch(&self) {
        let entered = stream::enter(self.context);
        let mut state = self.lock();
        if let Err(error) = entered {
            state.fail(error.into());
        }
        while !state.closed && state.failed.is_none() {
            state = self.closing.wait_timeout(state, BEAT).unwrap_or_else(PoisonError::into_inner).0;
            state.look(self.limit);
        }
    }
}

impl State {
    /// Notes a failure, if there is one.
    fn look(&mut self, limit: Duration) {
        if self.failed.is_some() || self.comm.0.is_null() {
            return;
        }
        if let Err(error) = self.found(limit) {
            self.fail(error);
        }
    }

    fn found(&mut self, limit: Duration) -> Result<(), Error> {
        while let Some(oldest) = self.calls.front()
            && oldest.done.is_over()?
        {
            self.over = oldest.name;
            self.calls.pop_front();
        }
        let oldest = self.calls.front().map_or(self.over, |call| call.name);
        // SAFETY: the communicator is alive, since it has not been taken out of its place.
        match unsafe { calls::async_error(self.comm)? } {
            0 | IN_PROGRESS => {}
            code => calls::checked(oldest, code, self.comm)?,
        }
        match self.calls.front() {
            Some(&Call { number, name: call, since, .. }) if since.elapsed() > limit => {
                Err(Error::Late { number, call, seconds: limit.as_secs() })
            }
            _ => Ok(()),
        }
    }

    /// The communicator has failed: what is under way ends now, so that whoever waits for it goes on and asks.
    fn fail(&mut self, error: Error) {
        self.failed = Some(error);
        self.calls.clear();
        let comm = std::mem::replace(&mut self.comm, Handle(null_mut()));
        // SAFETY: the handle was taken out of its place.
        unsafe { calls::abort(comm) };
    }
}
