//! Marks in a stream, to wait for and to measure with.

use super::Error;
use super::context::{Context, Handle};
use acl_sys::{ACL_EVENT_RECORDED_STATUS_COMPLETE, aclrtEventRecordedStatus};
use std::ptr::null_mut;

/// A mark that can be put into the stream of its context.
pub struct Event {
    context: Context,
    handle: Handle,
}

impl Event {
    pub fn new(context: &Context) -> Result<Self, Error> {
        context.0.ready()?;
        let mut handle = null_mut();
        let api = &context.0.api;
        // SAFETY: writes one handle through a valid pointer.
        api.check("aclrtCreateEvent", unsafe { api.acl.aclrtCreateEvent(&mut handle) })?;
        Ok(Self { context: context.clone(), handle: Handle(handle) })
    }

    /// Puts the mark after all work given so far.
    pub fn record(&self) -> Result<(), Error> {
        self.context.0.ready()?;
        let inner = &self.context.0;
        // SAFETY: both handles are alive.
        inner.enqueue("aclrtRecordEvent", |stream| unsafe { inner.api.acl.aclrtRecordEvent(self.handle.0, stream) })
    }

    /// Whether the device has passed the mark.
    pub fn is_complete(&self) -> Result<bool, Error> {
        self.context.0.ready()?;
        let api = &self.context.0.api;
        let mut status: aclrtEventRecordedStatus = 0;
        // SAFETY: the handle is alive; writes one status through a valid pointer.
        api.check("aclrtQueryEventStatus", unsafe { api.acl.aclrtQueryEventStatus(self.handle.0, &mut status) })?;
        Ok(status == ACL_EVENT_RECORDED_STATUS_COMPLETE)
    }

    /// Waits until the device has passed the mark.
    pub fn synchronize(&self) -> Result<(), Error> {
        self.context.0.ready()?;
        let inner = &self.context.0;
        inner.outside_capture("event", "the device was waited for")?;
        inner.counting.host_syncs.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        // SAFETY: the handle is alive.
        inner.api.check("aclrtSynchronizeEvent", unsafe { inner.api.acl.aclrtSynchronizeEvent(self.handle.0) })
    }

    /// Milliseconds of device time from `start` to this mark; both must have been passed.
    pub fn elapsed_since(&self, start: &Self) -> Result<f32, Error> {
        self.context.0.ready()?;
        let api = &self.context.0.api;
        let mut milliseconds = 0f32;
        // SAFETY: both handles are alive; writes one number through a valid pointer.
        let answer = unsafe { api.acl.aclrtEventElapsedTime(&mut milliseconds, start.handle.0, self.handle.0) };
        api.check("aclrtEventElapsedTime", answer)?;
        Ok(milliseconds)
    }
}

impl Drop for Event {
    fn drop(&mut self) {
        let inner = &self.context.0;
        let result = inner.bind().and_then(|()| {
            // SAFETY: made by `new`, destroyed once.
            inner.api.check("aclrtDestroyEvent", unsafe { inner.api.acl.aclrtDestroyEvent(self.handle.0) })
        });
        inner.record(result);
    }
}
