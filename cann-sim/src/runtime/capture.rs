//! Graphs: the tasks that streams were given while they were being captured, to run again and again.
//!
//! A graph runs its tasks one after another, in the order in which they were issued, on the stream that executes it.
//! That order keeps every dependency; what is given up is only that branches overlap in time. Accesses of different
//! branches that no event of the capture orders are found all the same: a run remembers who touched what in it.

use super::clock::Clock;
use super::cost::{self, Cost, Issue};
use super::event::Point;
use super::handles::{Kind, Table};
use super::memory::{self, Site};
use super::stream::{Maker, Stream, Task, Work};
use super::track::{Accesses, Branch, Epoch};
use crate::fail;
use crate::status::{Result, Status};
use acl_sys::error::*;
use std::cell::Cell;
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::ThreadId;

/// What a recorded task is.
#[derive(Clone)]
pub enum Step {
    Kernel(Work, Cost),
    Numbered(Maker, Cost),
    Record,
    Wait,
}

impl Step {
    /// The step's work, as it is issued now; none for what only orders.
    pub fn issued(&self) -> Option<Work> {
        match self {
            Self::Kernel(work, _) => Some(work.clone()),
            Self::Numbered(make, _) => Some(make()),
            Self::Record | Self::Wait => None,
        }
    }

    /// What a task of the step costs; none for what only orders.
    pub fn cost(&self) -> Option<Cost> {
        match self {
            Self::Kernel(_, cost) | Self::Numbered(_, cost) => Some(*cost),
            Self::Record | Self::Wait => None,
        }
    }
}

/// One recorded task.
#[derive(Clone)]
pub struct Recorded {
    pub op: &'static str,
    /// Number of the stream that it was issued to.
    pub stream: u32,
    pub step: Step,
    /// Device addresses that it was given, each with the number of the block that it lay in then.
    pub addresses: Vec<(u64, Option<u64>)>,
    /// Its place in the capture, and what is finished before it by the capture's own order.
    pub position: u64,
    pub clock: Arc<Clock>,
}

impl Recorded {
    /// Refuses to run when memory that the task was captured with is gone, also when its addresses have been given to
    /// somebody else: a card would read and write there.
    fn check(&self, graph: u32) -> Result<()> {
        let gone = self.addresses.iter().find(|(address, block)| memory::block_number(*address) != *block);
        match gone {
            None => Ok(()),
            Some((address, block)) => fail!(
                ACL_ERROR_RT_PARAM_INVALID,
                "graph {graph}: {} was captured with {address:#x} in block {}, which was freed since; keep what a graph uses \
                 until it is destroyed",
                self.op,
                block.unwrap_or_default()
            ),
        }
    }
}

/// A capture that is going on.
pub struct Capture {
    /// Number of the stream that the capture began on.
    pub origin: u32,
    pub mode: i32,
    pub thread: ThreadId,
    /// Handle of the graph that it becomes.
    pub graph: u64,
    steps: Mutex<Vec<Recorded>>,
    /// What each stream of the capture knows to be finished before its next task.
    clocks: Mutex<HashMap<u32, Clock>>,
    /// Streams that joined by waiting for an event of this capture, and whether they were joined back.
    branches: Mutex<Vec<(Arc<Stream>, bool)>>,
    invalid: AtomicBool,
}

impl std::fmt::Debug for Capture {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "capture of stream {}", self.origin)
    }
}

/// A finished graph.
pub struct Graph {
    pub id: u32,
    pub name: Mutex<String>,
    pub steps: Vec<Recorded>,
    pub ready: bool,
    /// Runs that were issued and are not finished.
    pub running: AtomicU32,
}

pub(super) static GRAPHS: Table<Arc<Graph>> = Table::new(Kind::Graph);
/// Captures that are going on, for the calls that are forbidden meanwhile.
static ACTIVE: Mutex<Vec<Arc<Capture>>> = Mutex::new(Vec::new());
static ANY: AtomicBool = AtomicBool::new(false);

fn active() -> MutexGuard<'static, Vec<Arc<Capture>>> {
    ACTIVE.lock().unwrap_or_else(|e| e.into_inner())
}

/// `ACL_MODEL_RI_CAPTURE_MODE_RELAXED`: nothing is forbidden.
const RELAXED: i32 = 2;
const GLOBAL: i32 = 0;

thread_local! {
    static THREAD_MODE: Cell<i32> = const { Cell::new(GLOBAL) };
}

/// `aclmdlRICaptureThreadExchangeMode`: sets what this thread may do during captures, and answers what it was.
pub fn exchange_thread_mode(mode: i32) -> i32 {
    THREAD_MODE.with(|own| own.replace(mode))
}

/// Refuses a call that is unsafe while something is being captured: in mode GLOBAL on every thread that did not take
/// another mode itself, in mode THREAD_LOCAL on the capturing one, unless that is RELAXED itself.
pub fn forbid(call: &str) -> Result<()> {
    let mode = THREAD_MODE.with(Cell::get);
    if !ANY.load(Ordering::Acquire) || mode == RELAXED {
        return Ok(());
    }
    let me = std::thread::current().id();
    let active = active();
    let hit = active.iter().find(|c| c.mode != RELAXED && (c.thread == me || (c.mode == GLOBAL && mode == GLOBAL)));
    match hit {
        None => Ok(()),
        Some(capture) => {
            capture.invalidate();
            fail!(
                ACL_ERROR_RT_CAPTURE_MODE_NOT_SUPPORT,
                "{call} is not allowed while stream {} is being captured in mode {}",
                capture.origin,
                capture.mode
            )
        }
    }
}

/// `aclmdlRICaptureBegin`.
pub fn begin(stream: &Arc<Stream>, mode: i32, is_default: bool) -> Result<()> {
    if !(GLOBAL..=RELAXED).contains(&mode) {
        fail!(ACL_ERROR_RT_PARAM_INVALID, "{mode} is no capture mode");
    }
    if is_default {
        fail!(ACL_ERROR_RT_STREAM_CAPTURE_IMPLICIT, "the default stream cannot be captured; create a stream");
    }
    let mut slot = stream.capture.lock().unwrap_or_else(|e| e.into_inner());
    if let Some(capture) = &*slot {
        fail!(ACL_ERROR_RT_STREAM_CAPTURED, "stream {} is already part of the {capture:?}", stream.id);
    }
    static NEXT: AtomicU32 = AtomicU32::new(1);
    let id = NEXT.fetch_add(1, Ordering::Relaxed);
    let graph = GRAPHS.insert(Arc::new(Graph {
        id,
        name: Mutex::default(),
        steps: Vec::new(),
        ready: false,
        running: AtomicU32::new(0),
    }));
    let capture = Arc::new(Capture {
        origin: stream.id,
        mode,
        thread: std::thread::current().id(),
        graph,
        steps: Mutex::default(),
        clocks: Mutex::default(),
        branches: Mutex::default(),
        invalid: AtomicBool::new(false),
    });
    *slot = Some(capture.clone());
    active().push(capture);
    ANY.store(true, Ordering::Release);
    Ok(())
}

/// `aclmdlRICaptureEnd`: the graph's handle.
pub fn end(stream: &Arc<Stream>) -> Result<u64> {
    let Some(capture) = stream.capturing() else {
        fail!(ACL_ERROR_RT_STREAM_NOT_CAPTURED, "stream {} is not being captured", stream.id);
    };
    if capture.origin != stream.id {
        let origin = capture.origin;
        fail!(
            ACL_ERROR_RT_STREAM_CAPTURE_UNMATCHED,
            "the capture began on stream {origin} and cannot end on stream {}",
            stream.id
        );
    }
    if capture.mode != RELAXED && capture.thread != std::thread::current().id() {
        fail!(
            ACL_ERROR_RT_STREAM_CAPTURE_WRONG_THREAD,
            "the capture of stream {} must end on the thread it began on",
            stream.id
        );
    }
    let branches = std::mem::take(&mut *capture.branches.lock().unwrap_or_else(|e| e.into_inner()));
    let unjoined: Vec<_> = branches.iter().filter(|(_, joined)| !joined).map(|(stream, _)| stream.id).collect();
    for stream in branches.iter().map(|(stream, _)| stream).chain([stream]) {
        *stream.capture.lock().unwrap_or_else(|e| e.into_inner()) = None;
    }
    let mut active = active();
    active.retain(|other| !Arc::ptr_eq(other, &capture));
    ANY.store(!active.is_empty(), Ordering::Release);
    drop(active);
    let handle = super::handles::pointer(capture.graph);
    let verdict = if capture.invalid.load(Ordering::Acquire) {
        let text = format!("the capture of stream {} was broken off by a call that it does not allow", stream.id);
        Err(Status::new(ACL_ERROR_RT_STREAM_CAPTURE_INVALIDATED, text))
    } else if !unjoined.is_empty() {
        let text = format!(
            "streams {unjoined:?} joined the capture and were not joined back to stream {} by an event",
            stream.id
        );
        Err(Status::new(ACL_ERROR_RT_STREAM_UNJOINED, text))
    } else {
        Ok(())
    };
    if let Err(status) = verdict {
        GRAPHS.remove(handle, ACL_ERROR_RT_INTERNAL_ERROR, "graph")?;
        return Err(status);
    }
    let steps = std::mem::take(&mut *capture.steps.lock().unwrap_or_else(|e| e.into_inner()));
    GRAPHS.with(handle, ACL_ERROR_RT_INTERNAL_ERROR, "graph", |graph| {
        *graph =
            Arc::new(Graph { id: graph.id, name: Mutex::default(), steps, ready: true, running: AtomicU32::new(0) });
    })?;
    Ok(capture.graph)
}

impl Capture {
    /// A call broke the capture; its end will say so.
    pub fn invalidate(&self) {
        self.invalid.store(true, Ordering::Release);
    }

    pub fn is_invalid(&self) -> bool {
        self.invalid.load(Ordering::Acquire)
    }

    /// Whether the capture has ended.
    pub fn is_over(self: &Arc<Self>) -> bool {
        !active().iter().any(|other| Arc::ptr_eq(other, self))
    }

    /// Appends a task that `stream` was given, and answers its place and what is finished after it.
    pub fn record(&self, op: &'static str, stream: u32, step: Step, addresses: Vec<u64>) -> (u64, Arc<Clock>) {
        let addresses = addresses.into_iter().map(|address| (address, memory::block_number(address))).collect();
        let mut steps = self.steps.lock().unwrap_or_else(|e| e.into_inner());
        let mut clocks = self.clocks.lock().unwrap_or_else(|e| e.into_inner());
        let own = clocks.entry(stream).or_default();
        let (position, clock) = (steps.len() as u64 + 1, Arc::new(own.clone()));
        own.advance(stream, position);
        let after = Arc::new(own.clone());
        steps.push(Recorded { op, stream, step, addresses, position, clock });
        (position, after)
    }

    /// From now on `stream` comes after what `point` marks.
    fn order_after(&self, stream: u32, point: &Point) {
        let mut clocks = self.clocks.lock().unwrap_or_else(|e| e.into_inner());
        clocks.entry(stream).or_default().join(&point.clock);
    }

    /// Handles of nothing yet: number of tasks recorded so far.
    pub fn len(&self) -> usize {
        self.steps.lock().unwrap_or_else(|e| e.into_inner()).len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// `stream` waits for an event that this capture recorded: it joins the capture, or is joined back to the origin.
    pub fn joined_by(self: &Arc<Self>, stream: &Arc<Stream>, point: &Point) -> Result<()> {
        let mut slot = stream.capture.lock().unwrap_or_else(|e| e.into_inner());
        match &*slot {
            Some(other) if !Arc::ptr_eq(other, self) => {
                self.invalidate();
                other.invalidate();
                fail!(
                    ACL_ERROR_STREAM_CAPTURE_CONFLICT,
                    "stream {} would join the {self:?} to the {other:?}",
                    stream.id
                );
            }
            Some(_) => {}
            None => {
                *slot = Some(self.clone());
                self.branches.lock().unwrap_or_else(|e| e.into_inner()).push((stream.clone(), false));
            }
        }
        for (branch, joined) in self.branches.lock().unwrap_or_else(|e| e.into_inner()).iter_mut() {
            *joined |= branch.id == point.stream && stream.id != branch.id;
        }
        self.order_after(stream.id, point);
        Ok(())
    }
}

/// The graph that `handle` names, if its capture has ended.
pub fn graph<H>(handle: *const H) -> Result<Arc<Graph>> {
    let graph = GRAPHS.get(handle, ACL_ERROR_RT_PARAM_INVALID, "graph")?;
    if !graph.ready {
        fail!(ACL_ERROR_RT_MODEL_CAPTURED, "graph {} is still being captured", graph.id);
    }
    Ok(graph)
}

/// Puts one run of the graph into `stream`.
pub fn execute(graph: &Arc<Graph>, stream: &Arc<Stream>) -> Result<()> {
    stream.not_capturing("aclmdlRIExecuteAsync")?;
    graph.steps.iter().try_for_each(|step| step.check(graph.id))?;
    let kernels = graph.steps.iter().filter_map(|step| Some((step.op, step.step.cost()?)));
    for (at, (op, cost)) in kernels.enumerate() {
        // One call gives the stream all of the tasks.
        let issue = if at == 0 { Issue::Call } else { Issue::Graph };
        cost::issued(stream.device, stream.id, op, &cost, issue);
    }
    stream.issue("aclmdlRIExecuteAsync", |site| {
        for step in &graph.steps {
            let epoch = Epoch { op: step.op, stream: site.stream, position: site.position };
            step.addresses.iter().for_each(|&(address, _)| memory::note_use(address, epoch));
        }
        let run = Run(graph.clone());
        run.0.running.fetch_add(1, Ordering::AcqRel);
        let works: Vec<_> = graph.steps.iter().map(|step| step.step.issued()).collect();
        Task::Compute(Arc::new(move |site| {
            // One stream is its own order; branches are watched.
            let branched = run.0.steps.iter().any(|step| step.stream != run.0.steps[0].stream);
            let accesses = branched.then(|| Arc::new(Accesses::default()));
            let mut steps = run.0.steps.iter().zip(&works).filter_map(|(step, work)| Some((step, work.as_ref()?)));
            steps.try_for_each(|(step, work)| self::run(&run.0, step, work, site, accesses.as_ref()))
        }))
    });
    Ok(())
}

/// One issued run; it is over when its task is dropped, whether it ran or was left out.
struct Run(Arc<Graph>);

impl Drop for Run {
    fn drop(&mut self) {
        self.0.running.fetch_sub(1, Ordering::AcqRel);
    }
}

fn run(graph: &Graph, step: &Recorded, work: &Work, site: &Site, accesses: Option<&Arc<Accesses>>) -> Result<()> {
    let branch = accesses.map(|accesses| {
        let (stream, position, clock) = (step.stream, step.position, step.clock.clone());
        Arc::new(Branch { accesses: accesses.clone(), stream, position, clock })
    });
    let site = Site { op: step.op, branch, ..site.clone() };
    work(&site).map_err(|status| Status::new(status.code, format!("graph {}: {}", graph.id, status.message)))
}
