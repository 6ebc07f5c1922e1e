//! Events.

use super::context::limit;
use crate::runtime::capture::Step;
use crate::runtime::event::{self, EVENTS, Event, Point, TIME_LINE};
use crate::runtime::handles::pointer;
use crate::runtime::stream::{Stream, Task};
use crate::runtime::{device, settings};
use crate::status::{Result, put};
use crate::{ensure, fail};
use acl_sys::error::*;
use acl_sys::*;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

/// `ACL_EVENT_SYNC`: streams may wait for the event.
const SYNC: u32 = 1;
const FLAGS: u32 = 0x7B;

fn create(out: *mut aclrtEvent, flags: u32) -> Result<()> {
    ensure!(!out.is_null(), ACL_ERROR_INVALID_PARAM, "event is null");
    device::current()?;
    put(out, "event", pointer(event::create(flags)))
}

fn create_with(out: *mut aclrtEvent, flag: u32) -> Result<()> {
    ensure!(
        flag != 0 && flag & !FLAGS == 0,
        ACL_ERROR_RT_PARAM_INVALID,
        "{flag:#x} is no combination of ACL_EVENT flags"
    );
    create(out, flag)
}

fn record(event: &Arc<Event>, stream: &Arc<Stream>) {
    let mut captured = event.captured.lock().unwrap_or_else(|e| e.into_inner());
    if let Some(capture) = stream.capturing() {
        let (position, clock) = capture.record("aclrtRecordEvent", stream.id, Step::Record, Vec::new());
        // The point never is reached: what waits for it is part of the same graph.
        *event.last.lock().unwrap_or_else(|e| e.into_inner()) = Some(Point::new(stream.id, position, clock));
        *captured = Some(capture);
        return;
    }
    *captured = None;
    stream.issue("aclrtRecordEvent", |site| {
        let point = Point::new(site.stream, site.position, site.clock.clone());
        *event.last.lock().unwrap_or_else(|e| e.into_inner()) = Some(point.clone());
        Task::Record(point)
    });
}

fn wait(call: &'static str, stream: &Arc<Stream>, event: &Arc<Event>, limit: Option<Duration>) -> Result<()> {
    ensure!(
        event.flags == 0 || event.flags & SYNC != 0,
        ACL_ERROR_RT_PARAM_INVALID,
        "event {} was created without ACL_EVENT_SYNC, so streams cannot wait for it",
        event.id
    );
    let point = event.recorded(call)?;
    let captured = event.captured.lock().unwrap_or_else(|e| e.into_inner()).clone();
    if let Some(capture) = captured {
        ensure!(
            !capture.is_over(),
            ACL_ERROR_RT_EVENT_CAPTURED,
            "event {} was recorded into a graph that is finished",
            event.id
        );
        capture.joined_by(stream, &point)?;
        capture.record(call, stream.id, Step::Wait, Vec::new());
        return Ok(());
    }
    if let Some(capture) = stream.capturing() {
        capture.invalidate();
        fail!(
            ACL_ERROR_RT_CAPTURE_DEPENDENCY,
            "stream {} is being captured and waits for event {}, which was recorded outside the capture",
            stream.id,
            event.id
        );
    }
    stream.issue(call, |site| {
        let over = Point::new(site.stream, site.position, site.clock.clone());
        let mut waits = event.waits.lock().unwrap_or_else(|e| e.into_inner());
        waits.retain(|wait| wait.time().is_none());
        waits.push(over.clone());
        Task::Wait(point, limit, over)
    });
    Ok(())
}

fn done(event: &Event) -> bool {
    match event.point() {
        None => true,
        Some(point) => {
            let done = point.time().is_some();
            if done {
                point.learned();
            }
            done
        }
    }
}

fn wait_limit() -> Option<Duration> {
    settings::op_wait_limit()
}

export! {
    fn aclrtCreateEvent(event: *mut aclrtEvent) { create(event, 0) }

    fn aclrtCreateEventWithFlag(event: *mut aclrtEvent, flag: u32) { create_with(event, flag) }

    fn aclrtCreateEventExWithFlag(event: *mut aclrtEvent, flag: u32) { create_with(event, flag) }

    fn aclrtDestroyEvent(event: aclrtEvent) {
        ensure!(!event.is_null(), ACL_ERROR_INVALID_PARAM, "event is null");
        EVENTS.remove(event, ACL_ERROR_RT_PARAM_INVALID, "event").map(drop)
    }

    /// Marks the place in the stream that the event stands for from now on.
    fn aclrtRecordEvent(event: aclrtEvent, stream: aclrtStream) {
        record(&event::get(event)?, &device::stream(stream)?);
        Ok(())
    }

    /// Lets the stream go on only after the event's last recording. An event that was never recorded is refused.
    fn aclrtStreamWaitEvent(stream: aclrtStream, event: aclrtEvent) {
        wait("aclrtStreamWaitEvent", &device::stream(stream)?, &event::get(event)?, wait_limit())
    }

    fn aclrtStreamWaitEventWithTimeout(stream: aclrtStream, event: aclrtEvent, timeout: i32) {
        wait("aclrtStreamWaitEventWithTimeout", &device::stream(stream)?, &event::get(event)?, limit(timeout)?)
    }

    /// Forgets the recording.
    fn aclrtResetEvent(event: aclrtEvent, stream: aclrtStream) {
        let event = event::get(event)?;
        device::stream(stream)?;
        ensure!(event.flags == 0 || event.flags & SYNC != 0, ACL_ERROR_RT_PARAM_INVALID, "event {} was created without ACL_EVENT_SYNC", event.id);
        *event.last.lock().unwrap_or_else(|e| e.into_inner()) = None;
        *event.captured.lock().unwrap_or_else(|e| e.into_inner()) = None;
        Ok(())
    }

    fn aclrtSynchronizeEvent(event: aclrtEvent) {
        let event = event::get(event)?;
        device::current()?;
        crate::runtime::stats::add(crate::runtime::stats::Counter::Syncs, 1);
        event.synchronize(None)
    }

    fn aclrtSynchronizeEventWithTimeout(event: aclrtEvent, timeout: i32) {
        let event = event::get(event)?;
        device::current()?;
        crate::runtime::stats::add(crate::runtime::stats::Counter::Syncs, 1);
        event.synchronize(limit(timeout)?)
    }

    fn aclrtQueryEvent(event: aclrtEvent, status: *mut aclrtEventStatus) {
        let done = done(&*event::get(event)?);
        put(status, "status", if done { ACL_EVENT_STATUS_COMPLETE } else { ACL_EVENT_STATUS_NOT_READY })
    }

    fn aclrtQueryEventStatus(event: aclrtEvent, status: *mut aclrtEventRecordedStatus) {
        let done = done(&*event::get(event)?);
        put(status, "status", if done { ACL_EVENT_RECORDED_STATUS_COMPLETE } else { ACL_EVENT_RECORDED_STATUS_NOT_READY })
    }

    fn aclrtQueryEventWaitStatus(event: aclrtEvent, status: *mut aclrtEventWaitStatus) {
        let event = event::get(event)?;
        let over = event.waits.lock().unwrap_or_else(|e| e.into_inner()).iter().all(|wait| wait.time().is_some());
        put(status, "status", if over { ACL_EVENT_WAIT_STATUS_COMPLETE } else { ACL_EVENT_WAIT_STATUS_NOT_READY })
    }

    fn aclrtEventElapsedTime(ms: *mut f32, start_event: aclrtEvent, end_event: aclrtEvent) {
        let (start, end) = (event::get(start_event)?, event::get(end_event)?);
        put(ms, "ms", end.since(&start)?)
    }

    /// Microseconds since 1970 at which the event was reached.
    fn aclrtEventGetTimestamp(event: aclrtEvent, timestamp: *mut u64) {
        let event = event::get(event)?;
        ensure!(
            event.flags == 0 || event.flags & TIME_LINE != 0, ACL_ERROR_RT_EVENT_TIMESTAMP_INVALID,
            "event {} was created without ACL_EVENT_TIME_LINE and keeps no time", event.id
        );
        let Some(reached) = event.point().and_then(|point| point.time()) else {
            fail!(ACL_ERROR_RT_EVENT_TIMESTAMP_INVALID, "event {} has not been reached", event.id);
        };
        let reached = SystemTime::now() - reached.elapsed();
        let micros = reached.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_micros() as u64);
        put(timestamp, "timestamp", micros)
    }

    fn aclrtGetEventId(event: aclrtEvent, event_id: *mut u32) { put(event_id, "eventId", event::get(event)?.id) }
}

refuse! {
    "simulated events are not counted";
    fn aclrtGetEventAvailNum(event_count: *mut u32);
}
