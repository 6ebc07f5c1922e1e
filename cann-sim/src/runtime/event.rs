//! Events: points in a stream that other streams and the host wait for.

use super::clock::{self, Clock};
use super::handles::{Kind, Table};
use crate::fail;
use crate::status::Result;
use acl_sys::error::*;
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

/// One recording of an event: done when its stream gets there.
#[derive(Debug)]
pub struct Point {
    pub stream: u32,
    pub position: u64,
    /// What is known to be finished before the recording.
    pub clock: Arc<Clock>,
    /// When that is in the cost model, in nanoseconds.
    pub modelled: f64,
    done: Mutex<Option<Instant>>,
    signal: Condvar,
}

impl Point {
    pub fn new(stream: u32, position: u64, clock: Arc<Clock>) -> Arc<Self> {
        let modelled = super::cost::end(stream);
        Arc::new(Self { stream, position, clock, modelled, done: Mutex::new(None), signal: Condvar::new() })
    }

    /// The stream got here.
    pub fn reach(&self) {
        *self.done.lock().unwrap_or_else(|e| e.into_inner()) = Some(Instant::now());
        self.signal.notify_all();
    }

    pub fn time(&self) -> Option<Instant> {
        *self.done.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// Waits until the stream got here; false if `limit` passed first.
    pub fn wait(&self, limit: Option<Duration>) -> bool {
        let done = self.done.lock().unwrap_or_else(|e| e.into_inner());
        match limit {
            None => {
                drop(self.signal.wait_while(done, |done| done.is_none()));
                true
            }
            Some(limit) => {
                self.signal.wait_timeout_while(done, limit, |done| done.is_none()).is_ok_and(|(done, _)| done.is_some())
            }
        }
    }

    /// The host saw that the stream got here, so it knows what came before.
    pub fn learned(&self) {
        clock::host_learns(&self.clock, self.stream, self.position);
        super::cost::host_waited(self.modelled);
    }
}

/// An event object.
#[derive(Debug)]
pub struct Event {
    pub id: u32,
    /// `ACL_EVENT_*` bits.
    pub flags: u32,
    pub last: Mutex<Option<Arc<Point>>>,
    /// The graph that recorded it last, while that is being captured.
    pub captured: Mutex<Option<Arc<super::capture::Capture>>>,
    /// How many waits streams were given, and how many of them are over.
    pub waits: Mutex<Vec<Arc<Point>>>,
}

/// `ACL_EVENT_TIME_LINE`: the event keeps times.
pub const TIME_LINE: u32 = 8;

pub(super) static EVENTS: Table<Arc<Event>> = Table::new(Kind::Event);

/// Makes an event.
pub fn create(flags: u32) -> u64 {
    static NEXT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(1);
    let id = NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    EVENTS.insert(Arc::new(Event {
        id,
        flags,
        last: Mutex::default(),
        captured: Mutex::default(),
        waits: Mutex::default(),
    }))
}

/// The event that `handle` names.
pub fn get<H>(handle: *const H) -> Result<Arc<Event>> {
    EVENTS.get(handle, ACL_ERROR_RT_PARAM_INVALID, "event")
}

impl Event {
    pub fn point(&self) -> Option<Arc<Point>> {
        self.last.lock().unwrap_or_else(|e| e.into_inner()).clone()
    }

    /// The last recording, or an error that names the event when there is none.
    pub fn recorded(&self, call: &str) -> Result<Arc<Point>> {
        match self.point() {
            Some(point) => Ok(point),
            None => fail!(
                ACL_ERROR_RT_PARAM_INVALID,
                "{call}: event {} was never recorded, so the wait would not end",
                self.id
            ),
        }
    }

    /// Waits on the host for the last recording.
    pub fn synchronize(&self, limit: Option<Duration>) -> Result<()> {
        if self.captured.lock().unwrap_or_else(|e| e.into_inner()).is_some() {
            fail!(
                ACL_ERROR_RT_EVENT_CAPTURED,
                "event {} was recorded into a graph; the host cannot wait for it",
                self.id
            );
        }
        let Some(point) = self.point() else { return Ok(()) };
        if !point.wait(limit) {
            let ms = limit.unwrap_or_default().as_millis();
            fail!(ACL_ERROR_RT_EVENT_SYNC_TIMEOUT, "event {} was not reached within {ms} ms", self.id);
        }
        point.learned();
        Ok(())
    }

    /// Milliseconds from the recording of `start` to that of `self`.
    pub fn since(&self, start: &Event) -> Result<f32> {
        let time = |event: &Event, which: &str| {
            if event.flags != 0 && event.flags & TIME_LINE == 0 {
                fail!(
                    ACL_ERROR_RT_EVENT_TIMESTAMP_INVALID,
                    "the {which} event {} was created without ACL_EVENT_TIME_LINE and keeps no time",
                    event.id
                );
            }
            match event.point().and_then(|point| point.time()) {
                Some(time) => Ok(time),
                None => fail!(
                    ACL_ERROR_RT_EVENT_TIMESTAMP_INVALID,
                    "the {which} event {} has not been reached; synchronise with it first",
                    event.id
                ),
            }
        };
        let (from, to) = (time(start, "start")?, time(self, "end")?);
        if to < from {
            fail!(ACL_ERROR_RT_EVENT_TIMESTAMP_REVERSAL, "event {} was reached before event {}", self.id, start.id);
        }
        Ok((to - from).as_secs_f32() * 1e3)
    }
}
