//! The cost model: what a task would take on the simulated chip. Modelled, never measured, and said so wherever it is shown.
//!
//! A task takes the time that a device needs to start it, and then the longest of three: its operands' bytes over the
//! memory's rate, its multiply-adds over the cube cores' rate, its other operations over the vector cores' rate. Copies
//! between host and device take their bytes over the link's rate. The units work side by side without ever waiting for
//! each other, every core has the same share, nothing is found in the second-level cache, and tilings lose nothing: so a
//! card takes longer, and how much longer is what a kernel's quality is.
//!
//! Time is kept twice. Each host thread has a clock that moves on by the cost of each call; each stream has one that says
//! when its last task ends. A task begins when both its stream and its host have come there. So a loop that launches
//! faster than the device works is bound by the device, and otherwise by the host, as on a card. All of it is computed
//! when a task is issued, so that it is the same for each run.

use super::config;
use super::soc::Soc;
use super::timeline;
use crate::dtype::DType;
use std::cell::Cell;
use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard};

/// Nanoseconds from a task's turn to its first instruction and from its last to the next task's turn, together. Assumed:
/// profiles of small operators on such chips show about this.
const START_NS: f64 = 2_000.0;
/// Host nanoseconds of issuing an operator, both phases. Assumed.
const HOST_LAUNCH_NS: f64 = 5_000.0;
/// Host nanoseconds of any other call that gives a stream work: copies, fills, graphs. Assumed.
const HOST_CALL_NS: f64 = 3_000.0;
/// Bytes a nanosecond between host and device: PCIe 4.0 with 16 lanes, without its framing. Assumed.
const LINK_RATE: f64 = 25.0;
/// Bytes a nanosecond of the wire between two NPUs of a server, each way; every pair has one. What HCCL itself reckons with
/// for a 910B (hcomm, device_capacity.cc).
const WIRE_RATE: f64 = 18.3;
/// Edge of the blocks that a cube core multiplies: 16 × 16 results a cycle.
const EDGE: usize = 16;
/// Bytes of the reduced dimension that a cube core takes a cycle, and of each operand that a vector core takes.
const CUBE_DEPTH: usize = 32;
const VECTOR_WIDTH: usize = 256;

/// The work of one task, in units that hold for every chip.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cost {
    /// Bytes read and written in device memory.
    pub bytes: u64,
    /// Cycles of all cube cores together.
    pub cube_cycles: u64,
    /// Cycles of all vector cores together.
    pub vector_cycles: u64,
    /// Bytes between host and device.
    pub link_bytes: u64,
    /// Bytes on the busiest wire between this device and another.
    pub wire_bytes: u64,
}

/// What a task's time is spent on, mostly.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Unit {
    /// Starting it takes longer than doing it.
    Launch,
    Memory,
    Cube,
    Vector,
    Link,
    Wire,
}

impl Unit {
    pub fn as_str(self) -> &'static str {
        match self {
            Unit::Launch => "launch",
            Unit::Memory => "memory",
            Unit::Cube => "cube",
            Unit::Vector => "vector",
            Unit::Link => "link",
            Unit::Wire => "wire",
        }
    }
}

impl Cost {
    /// A copy of `bytes` within the device, which reads and writes them.
    pub fn device_copy(bytes: usize) -> Self {
        Self { bytes: 2 * bytes as u64, ..Self::default() }
    }

    /// A copy of `bytes` between host and device.
    pub fn link_copy(bytes: usize) -> Self {
        Self { bytes: bytes as u64, link_bytes: bytes as u64, ..Self::default() }
    }

    /// A call that sends `bytes` from this device to one other, and no more to any.
    pub fn on_wire(bytes: u64) -> Self {
        Self { wire_bytes: bytes, ..Self::default() }
    }

    /// `batch` products of an `m` × `k` by a `k` × `n` matrix on the cube cores, in whole blocks. `f32` as it is stored takes two
    /// passes; `single_pass` says that it is rounded to `HFLOAT32` first.
    pub fn products(batch: usize, (m, k, n): (usize, usize, usize), dtype: DType, single_pass: bool) -> Self {
        let depth = CUBE_DEPTH / dtype.size().clamp(1, 4);
        let passes = if dtype.size() >= 4 && !single_pass { 2 } else { 1 };
        let blocks = m.div_ceil(EDGE) * k.div_ceil(depth) * n.div_ceil(EDGE);
        Self { cube_cycles: (passes * batch * blocks) as u64, ..Self::default() }
    }

    /// `operations` on each of `elements` on the vector cores.
    pub fn vector(elements: usize, operations: usize, dtype: DType) -> Self {
        let lanes = VECTOR_WIDTH / dtype.size().max(1);
        Self { vector_cycles: (operations * elements.div_ceil(lanes)) as u64, ..Self::default() }
    }

    /// The same work `count` times.
    pub fn times(self, count: u64) -> Self {
        Self {
            bytes: self.bytes * count,
            cube_cycles: self.cube_cycles * count,
            vector_cycles: self.vector_cycles * count,
            link_bytes: self.link_bytes * count,
            wire_bytes: self.wire_bytes * count,
        }
    }

    pub fn plus(self, other: Self) -> Self {
        Self {
            bytes: self.bytes + other.bytes,
            cube_cycles: self.cube_cycles + other.cube_cycles,
            vector_cycles: self.vector_cycles + other.vector_cycles,
            link_bytes: self.link_bytes + other.link_bytes,
            wire_bytes: self.wire_bytes + other.wire_bytes,
        }
    }

    /// Nanoseconds on `soc` from the task's turn to its end, and what they are spent on.
    pub fn duration(&self, soc: &Soc) -> (f64, Unit) {
        let cycle = 1e3 / f64::from(soc.cube_mhz);
        let times = [
            (self.bytes as f64 / soc.hbm_rate as f64, Unit::Memory),
            (self.cube_cycles as f64 * cycle / f64::from(soc.cube_cores), Unit::Cube),
            (self.vector_cycles as f64 * cycle / f64::from(soc.vector_cores), Unit::Vector),
            (self.link_bytes as f64 / LINK_RATE, Unit::Link),
            (self.wire_bytes as f64 / WIRE_RATE, Unit::Wire),
        ];
        let (work, unit) =
            times.into_iter().fold((0.0, Unit::Launch), |most, next| if next.0 > most.0 { next } else { most });
        (START_NS + work, if work < START_NS { Unit::Launch } else { unit })
    }
}

/// What a host thread does to issue a task.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Issue {
    /// Both phases of an operator.
    Operator,
    /// One call.
    Call,
    /// Nothing of its own: a task of a graph.
    Graph,
}

/// Modelled time of one stream since the process started, in nanoseconds.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct StreamTime {
    pub device: u32,
    pub stream: u32,
    /// When the last task given so far ends, on the clock that starts with the first task.
    pub end: f64,
    /// Time in which tasks run.
    pub busy: f64,
    /// [`StreamTime::busy`] by what limits each task.
    pub by_unit: BTreeMap<Unit, f64>,
    pub tasks: u64,
    /// Work of all tasks.
    pub work: Cost,
    /// Part of `busy` that was only known once a task had run: kernels are counted as they run.
    pub late: f64,
}

/// Modelled time since the process started.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Modelled {
    /// Name of the chip.
    pub soc: &'static str,
    pub streams: Vec<StreamTime>,
    /// Nanoseconds that host threads spent issuing work.
    pub host: f64,
}

impl Modelled {
    /// When the last task of `device` ends, in nanoseconds.
    pub fn end(&self, device: u32) -> f64 {
        self.of(device).fold(0.0, |end, stream| end.max(stream.end))
    }

    /// Nanoseconds in which tasks of `device` run; streams side by side count each.
    pub fn busy(&self, device: u32) -> f64 {
        self.of(device).map(|stream| stream.busy).sum()
    }

    /// [`Modelled::busy`] by what limits each task.
    pub fn by_unit(&self, device: u32) -> BTreeMap<Unit, f64> {
        let mut sums = BTreeMap::new();
        for (unit, time) in self.of(device).flat_map(|stream| &stream.by_unit) {
            *sums.entry(*unit).or_insert(0.0) += time;
        }
        sums
    }

    fn of(&self, device: u32) -> impl Iterator<Item = &StreamTime> {
        self.streams.iter().filter(move |stream| stream.device == device)
    }
}

#[derive(Default)]
struct Model {
    streams: BTreeMap<u32, StreamTime>,
    host: f64,
}

static MODEL: Mutex<Model> = Mutex::new(Model { streams: BTreeMap::new(), host: 0.0 });

thread_local! {
    /// The modelled clock of this host thread.
    static HOST: Cell<f64> = const { Cell::new(0.0) };
}

fn model() -> MutexGuard<'static, Model> {
    MODEL.lock().unwrap_or_else(|e| e.into_inner())
}

/// Modelled time so far.
pub fn modelled() -> Modelled {
    let model = model();
    let soc = config::current().map_or("", |config| config.soc.name);
    Modelled { soc, streams: model.streams.values().cloned().collect(), host: model.host }
}

fn host_spends(model: &mut Model, issue: Issue) -> f64 {
    let spent = match issue {
        Issue::Operator => HOST_LAUNCH_NS,
        Issue::Call => HOST_CALL_NS,
        Issue::Graph => 0.0,
    };
    model.host += spent;
    HOST.set(HOST.get() + spent);
    HOST.get()
}

/// A task that `stream` of `device` was given.
pub(super) fn issued(device: u32, stream: u32, op: &'static str, cost: &Cost, issue: Issue) {
    let Ok(config) = config::current() else { return };
    let (time, unit) = cost.duration(config.soc);
    let mut model = model();
    let issued = host_spends(&mut model, issue);
    let own = model.streams.entry(stream).or_insert_with(|| StreamTime { device, stream, ..StreamTime::default() });
    let start = own.end.max(issued);
    own.end = start + time;
    own.busy += time;
    own.tasks += 1;
    own.work = own.work.plus(*cost);
    *own.by_unit.entry(unit).or_insert(0.0) += time;
    timeline::note(timeline::Span { device, stream, op, start, time, unit, cost: *cost });
}

/// A kernel of `stream` of `device` has run: it took `time` beyond its start, bound by `unit`, and moved `bytes`.
///
/// What a kernel does is known when it has done it and not, as for an operator, when it is issued. So the tasks that were
/// issued meanwhile begin too early by that time, and the stream's end is right again.
pub(super) fn ran(device: u32, stream: u32, time: f64, unit: Unit, bytes: u64) {
    let mut model = model();
    let own = model.streams.entry(stream).or_insert_with(|| StreamTime { device, stream, ..StreamTime::default() });
    own.end += time;
    own.busy += time;
    own.late += time;
    own.work.bytes += bytes;
    *own.by_unit.entry(unit).or_insert(0.0) += time;
}

/// What [`ran`] has added to `stream`.
pub(super) fn late(stream: u32) -> f64 {
    model().streams.get(&stream).map_or(0.0, |stream| stream.late)
}

/// A copy that the host waits for.
pub(super) fn host_copies(cost: &Cost) {
    let Ok(config) = config::current() else { return };
    host_spends(&mut model(), Issue::Call);
    HOST.set(HOST.get() + cost.duration(config.soc).0);
}

/// When the last task of `stream` ends: what an event that is recorded now stands for.
pub(super) fn end(stream: u32) -> f64 {
    model().streams.get(&stream).map_or(0.0, |stream| stream.end)
}

/// `stream` of `device` goes on after `time`.
pub(super) fn waits(device: u32, stream: u32, time: f64) {
    let mut model = model();
    let own = model.streams.entry(stream).or_insert_with(|| StreamTime { device, stream, ..StreamTime::default() });
    own.end = own.end.max(time);
}

/// This host thread has waited until `time`.
pub(super) fn host_waited(time: f64) {
    HOST.set(HOST.get().max(time));
}
