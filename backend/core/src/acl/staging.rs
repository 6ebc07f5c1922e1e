//! Copies between host and device.
//!
//! Host data goes through a ring of pinned buffers, because the device copies asynchronously only from pinned memory,
//! and because an asynchronous copy keeps the order of the stream: the destination may be a block that earlier work
//! still reads. Reading back waits for the stream once.

use super::api::Api;
use super::context::{Context, Handle, Inner, lock};
use super::{Buffer, Error};
use acl_sys::{ACL_MEMCPY_DEVICE_TO_DEVICE, ACL_MEMCPY_DEVICE_TO_HOST, ACL_MEMCPY_HOST_TO_DEVICE};
use std::ptr::null_mut;
use std::sync::atomic::Ordering;

const SLOTS: usize = 3;
const SLOT_SIZE: usize = 4 << 20;
/// Uploads start at multiples of this in a slot.
const ALIGN: usize = 64;

/// Pinned memory that uploads are copied through.
#[derive(Default)]
pub(super) struct Staging {
    slots: Vec<Slot>,
    current: usize,
}

struct Slot {
    memory: Handle,
    /// Recorded after the last copy out of the slot.
    event: Handle,
    used: usize,
    in_flight: bool,
}

impl Staging {
    fn new(inner: &Inner) -> Result<Self, Error> {
        let api = &inner.api;
        let mut staging = Self::default();
        for _ in 0..SLOTS {
            let (mut memory, mut event) = (null_mut(), null_mut());
            // SAFETY: writes one pointer through a valid one.
            api.check("aclrtMallocHost", unsafe { api.acl.aclrtMallocHost(&mut memory, SLOT_SIZE) })?;
            // SAFETY: as above.
            api.check("aclrtCreateEvent", unsafe { api.acl.aclrtCreateEvent(&mut event) })?;
            staging.slots.push(Slot { memory: Handle(memory), event: Handle(event), used: 0, in_flight: false });
        }
        Ok(staging)
    }

    /// Room for at most `wanted` bytes in the ring: the slot and the place in it.
    fn room(&mut self, inner: &Inner, wanted: usize) -> Result<(usize, usize, usize), Error> {
        if self.slots.is_empty() {
            *self = Self::new(inner)?;
        }
        let api = &inner.api;
        if self.slots[self.current].used == SLOT_SIZE {
            let full = &mut self.slots[self.current];
            // SAFETY: event and stream are alive as long as the context.
            inner.enqueue("aclrtRecordEvent", |stream| unsafe { api.acl.aclrtRecordEvent(full.event.0, stream) })?;
            full.in_flight = true;
            self.current = (self.current + 1) % SLOTS;
            let next = &mut self.slots[self.current];
            if std::mem::take(&mut next.in_flight) {
                // SAFETY: as above.
                api.check("aclrtSynchronizeEvent", unsafe { api.acl.aclrtSynchronizeEvent(next.event.0) })?;
            }
            next.used = 0;
        }
        let slot = &mut self.slots[self.current];
        let (at, count) = (slot.used, wanted.min(SLOT_SIZE - slot.used));
        slot.used = (at + count).next_multiple_of(ALIGN).min(SLOT_SIZE);
        Ok((self.current, at, count))
    }

    /// Gives the pinned memory back; the stream must be idle.
    pub(super) fn free(&mut self, api: &Api) {
        for slot in self.slots.drain(..) {
            // SAFETY: made by `new`, and no copy uses them any more.
            let _ = unsafe { api.acl.aclrtDestroyEvent(slot.event.0) };
            // SAFETY: as above.
            let _ = unsafe { api.acl.aclrtFreeHost(slot.memory.0) };
        }
    }
}

impl Context {
    /// A buffer with `data`, copied in the order of the stream; `data` may change as soon as this returns.
    pub fn upload(&self, data: &[u8]) -> Result<Buffer, Error> {
        self.0.outside_capture("upload", "host data cannot become part of a graph")?;
        let buffer = self.allocate(data.len())?;
        let acl = &self.0.api.acl;
        let mut staging = lock(&self.0.staging);
        let mut done = 0;
        while done < data.len() {
            let (slot, at, count) = staging.room(&self.0, data.len() - done)?;
            let pinned = staging.slots[slot].memory.0.cast::<u8>().wrapping_add(at);
            // SAFETY: `room` gave `count` bytes of the slot that no copy in flight reads, and `data` holds as many.
            unsafe { std::ptr::copy_nonoverlapping(data[done..].as_ptr(), pinned, count) };
            // SAFETY: source as above; the destination lies in the buffer, which holds `data.len()` bytes.
            self.0.enqueue("aclrtMemcpyAsync", |stream| unsafe {
                let (target, room) = (buffer.pointer_at(done), data.len() - done);
                acl.aclrtMemcpyAsync(target, room, pinned.cast(), count, ACL_MEMCPY_HOST_TO_DEVICE, stream)
            })?;
            done += count;
        }
        self.0.counting.bytes_to_device.fetch_add(data.len() as u64, Ordering::Relaxed);
        Ok(buffer)
    }

    /// Fills `data` with the first bytes of `buffer`; waits for the device once.
    pub fn download(&self, buffer: &Buffer, data: &mut [u8]) -> Result<(), Error> {
        self.0.ready()?;
        let (size, wanted) = (buffer.size(), data.len());
        if wanted > size {
            return Err(Error::Arguments {
                op: "download",
                why: format!("{wanted} bytes wanted of a buffer of {size}"),
            });
        }
        self.0.synchronize()?;
        if data.is_empty() {
            return Ok(());
        }
        let api = &self.0.api;
        // SAFETY: both sides hold `data.len()` bytes, and the stream is idle, so nothing writes the source now.
        let answer = unsafe {
            api.acl.aclrtMemcpy(data.as_mut_ptr().cast(), wanted, buffer.pointer(), wanted, ACL_MEMCPY_DEVICE_TO_HOST)
        };
        api.check("aclrtMemcpy", answer)?;
        self.0.counting.bytes_to_host.fetch_add(wanted as u64, Ordering::Relaxed);
        Ok(())
    }

    /// Copies `count` bytes between two buffers of this device, in the order of the stream.
    pub fn copy(&self, from: (&Buffer, usize), to: (&Buffer, usize), count: usize) -> Result<(), Error> {
        self.0.ready()?;
        let fits = |(buffer, at): (&Buffer, usize)| at.checked_add(count).is_some_and(|end| end <= buffer.size());
        if !fits(from) || !fits(to) {
            let why = format!("{count} bytes from {} of {} to {} of {}", from.1, from.0.size(), to.1, to.0.size());
            return Err(Error::Arguments { op: "copy", why });
        }
        if count == 0 {
            return Ok(());
        }
        let acl = &self.0.api.acl;
        // SAFETY: both ranges lie in their buffers, which stay allocated until the stream has passed.
        self.0.enqueue("aclrtMemcpyAsync", |stream| unsafe {
            let (source, target) = (from.0.pointer_at(from.1), to.0.pointer_at(to.1));
            acl.aclrtMemcpyAsync(target, count, source, count, ACL_MEMCPY_DEVICE_TO_DEVICE, stream)
        })
    }
}
