//! Streams: queues of tasks, each with a thread that runs them in order.

use super::capture::Capture;
use super::clock::{self, Clock};
use super::event::Point;
use super::handles::{Kind, Table};
use super::memory::Site;
use super::{config, cost, faults, settings, stats};
use crate::fail;
use crate::status::{Result, Status, catch};
use acl_sys::error::*;
use std::collections::VecDeque;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};

/// The work of one task. It can run several times when it is part of a graph.
pub type Work = Arc<dyn Fn(&Site) -> Result<()> + Send + Sync>;

/// Makes the work of a task that depends on when it is issued, such as the number of a collective among all calls.
pub type Maker = Arc<dyn Fn() -> Work + Send + Sync>;

/// What a task is, as far as the queue cares.
#[derive(Clone)]
pub enum Task {
    /// Computes or copies; left out once the stream has failed.
    Compute(Work),
    /// Runs also on a failed stream: host functions that others may wait for.
    Always(Work),
    Record(Arc<Point>),
    /// Waits for the point, at most that long; the second point is reached when the wait is over.
    Wait(Arc<Point>, Option<Duration>, Arc<Point>),
}

struct Queued {
    task: Task,
    site: Site,
}

#[derive(Default)]
struct Queue {
    tasks: VecDeque<Queued>,
    issued: u64,
    finished: u64,
    clock: Arc<Clock>,
    clock_version: Option<u64>,
    failure: Option<Status>,
    aborted: bool,
    closing: bool,
}

/// A stream object.
pub struct Stream {
    /// Number in clocks and messages.
    pub id: u32,
    pub device: u32,
    pub context: u64,
    pub priority: u32,
    pub flags: u32,
    queue: Mutex<Queue>,
    arrived: Condvar,
    progress: Condvar,
    pub capture: Mutex<Option<Arc<Capture>>>,
    /// `aclrtSubscribeReport`: the host thread that runs this stream's callbacks.
    pub subscriber: Mutex<Option<u64>>,
    /// Attributes that the caller set, by number.
    pub attributes: Mutex<[Option<[u32; 4]>; 8]>,
}

impl std::fmt::Debug for Stream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "stream {} of device {}", self.id, self.device)
    }
}

pub(crate) static STREAMS: Table<Arc<Stream>> = Table::new(Kind::Stream);
static NEXT: AtomicU32 = AtomicU32::new(1);

/// Makes a stream and starts its thread; the handle is the caller's business.
pub fn create(device: u32, context: u64, priority: u32, flags: u32) -> Result<Arc<Stream>> {
    let id = NEXT.fetch_add(1, Ordering::Relaxed);
    let stream = Arc::new(Stream {
        id,
        device,
        context,
        priority,
        flags,
        queue: Mutex::default(),
        arrived: Condvar::new(),
        progress: Condvar::new(),
        capture: Mutex::default(),
        subscriber: Mutex::default(),
        attributes: Mutex::default(),
    });
    let worker = stream.clone();
    let started = std::thread::Builder::new().name(format!("sim-stream-{id}")).spawn(move || worker.run());
    match started {
        Ok(_) => Ok(stream),
        Err(error) => {
            fail!(ACL_ERROR_RT_NO_STREAM_RESOURCE, "the simulator cannot start a thread for a stream: {error}")
        }
    }
}

/// The live streams of a device.
pub fn of_device(device: u32) -> Vec<Arc<Stream>> {
    STREAMS.all().into_iter().filter(|stream| stream.device == device).collect()
}

impl Stream {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// The graph that this stream is being recorded into.
    pub fn capturing(&self) -> Option<Arc<Capture>> {
        self.capture.lock().unwrap_or_else(|e| e.into_inner()).clone()
    }

    /// Refuses what cannot be done while the stream is being captured.
    pub fn not_capturing(&self, call: &str) -> Result<()> {
        match self.capturing() {
            None => Ok(()),
            Some(capture) => {
                capture.invalidate();
                fail!(ACL_ERROR_RT_STREAM_CAPTURED, "{call} is not allowed while stream {} is being captured", self.id)
            }
        }
    }

    /// Appends a task. `make` gets the task's place and answers what to do there; `op` names it in messages.
    pub fn issue(&self, op: &'static str, make: impl FnOnce(&Site) -> Task) {
        let mut queue = self.queue();
        queue.refresh();
        queue.issued += 1;
        let site = Site { op, stream: self.id, position: queue.issued, clock: queue.clock.clone(), branch: None };
        let task = make(&site);
        if let Task::Wait(point, _, _) = &task {
            let mut clock = Clock::clone(&queue.clock);
            clock.join(&point.clock);
            clock.advance(point.stream, point.position);
            cost::waits(self.device, self.id, point.modelled);
            queue.clock = Arc::new(clock);
        }
        queue.tasks.push_back(Queued { task, site });
        drop(queue);
        self.arrived.notify_one();
    }

    /// Whether everything issued so far is finished; if so the host knows it.
    pub fn query(&self) -> bool {
        let queue = self.queue();
        let finished = queue.finished == queue.issued;
        if finished {
            clock::host_learns(&queue.clock, self.id, queue.finished);
        }
        finished
    }

    /// Waits until everything issued so far is finished, and answers the failure of a task, once.
    pub fn synchronize(&self, limit: Option<Duration>) -> Result<()> {
        stats::add(stats::Counter::Syncs, 1);
        let mut queue = self.queue();
        let target = queue.issued;
        let clock = queue.clock.clone();
        let modelled = cost::end(self.id) - cost::late(self.id);
        let deadline = limit.map(|limit| Instant::now() + limit);
        while queue.finished < target {
            match deadline.map(|deadline| deadline.saturating_duration_since(Instant::now())) {
                None => queue = self.progress.wait(queue).unwrap_or_else(|e| e.into_inner()),
                Some(left) if left.is_zero() => {
                    let (left, ms) = (target - queue.finished, limit.unwrap_or_default().as_millis());
                    fail!(
                        ACL_ERROR_RT_STREAM_SYNC_TIMEOUT,
                        "{left} tasks of stream {} were not finished within {ms} ms",
                        self.id
                    );
                }
                Some(left) => queue = self.progress.wait_timeout(queue, left).unwrap_or_else(|e| e.into_inner()).0,
            }
        }
        clock::host_learns(&clock, self.id, target);
        cost::host_waited(modelled + cost::late(self.id));
        queue.aborted = false;
        queue.failure.take().map_or(Ok(()), Err)
    }

    /// Drops the tasks that have not started.
    pub fn abort(&self) {
        self.queue().aborted = true;
        self.arrived.notify_all();
    }

    /// Lets the thread end once the queue is empty.
    pub fn close(&self) {
        self.queue().closing = true;
        self.arrived.notify_all();
    }

    fn run(&self) {
        while let Some((next, skip)) = self.next() {
            let outcome = match &next.task {
                Task::Record(point) => {
                    point.reach();
                    Ok(())
                }
                Task::Wait(point, limit, over) => self.wait(point, *limit, over),
                Task::Compute(_) if skip => Ok(()),
                Task::Compute(work) => perturb(&next.site).and_then(|()| catch(|| work(&next.site))),
                Task::Always(work) => catch(|| work(&next.site)),
            };
            // The task goes before the queue moves on, so that what it holds is freed when the host is told.
            let site = next.site.clone();
            drop(next);
            self.finish(outcome, &site);
        }
    }

    fn next(&self) -> Option<(Queued, bool)> {
        let mut queue = self.queue();
        loop {
            if let Some(next) = queue.tasks.pop_front() {
                return Some((next, queue.failure.is_some() || queue.aborted));
            }
            if queue.closing {
                return None;
            }
            queue = self.arrived.wait(queue).unwrap_or_else(|e| e.into_inner());
        }
    }

    fn wait(&self, point: &Point, limit: Option<Duration>, over: &Point) -> Result<()> {
        let reached = point.wait(limit);
        over.reach();
        if !reached {
            let ms = limit.unwrap_or_default().as_millis();
            fail!(ACL_ERROR_RT_EVENT_SYNC_TIMEOUT, "stream {} waited {ms} ms for stream {}", self.id, point.stream);
        }
        Ok(())
    }

    fn finish(&self, outcome: Result<()>, site: &Site) {
        let mut queue = self.queue();
        if let Err(status) = outcome
            && queue.failure.is_none()
        {
            let place = format!("task {} of stream {}, {}", site.position, self.id, site.op);
            queue.failure = Some(Status::new(status.code, format!("{place}: {}", status.message)));
        }
        queue.finished = site.position;
        drop(queue);
        self.progress.notify_all();
    }
}

impl Queue {
    /// Brings in what the host learned since the last task.
    fn refresh(&mut self) {
        let version = clock::host_version();
        if self.clock_version != Some(version) {
            let mut clock = clock::host();
            clock.join(&self.clock);
            self.clock = Arc::new(clock);
            self.clock_version = Some(version);
        }
    }
}

/// Delays a task: by the fault `slow_stream`, and by a small amount that the seed, the stream and the position fix.
fn perturb(site: &Site) -> Result<()> {
    let slow = faults::delay();
    if !slow.is_zero() {
        std::thread::sleep(slow);
        let limit = settings::op_execute_limit();
        if limit > 0 && slow.as_micros() as u64 > limit {
            fail!(
                ACL_ERROR_RT_AICORE_TIMEOUT,
                "{} took {} ms, more than the limit of {limit} us",
                site.op,
                slow.as_millis()
            );
        }
    }
    if let Some(seed) = config::current().ok().and_then(|config| config.seed) {
        let mut x = seed ^ (site.stream as u64) << 48 ^ site.position.wrapping_mul(0x9E37_79B9_7F4A_7C15);
        x = (x ^ x >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        x = (x ^ x >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
        match (x >> 32) % 4 {
            0 => {}
            1 => std::thread::yield_now(),
            _ => std::thread::sleep(Duration::from_micros((x >> 40) % 200)),
        }
    }
    Ok(())
}
