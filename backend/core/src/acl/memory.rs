//! Device memory: the pool and the buffers it hands out.

use super::Error;
use super::blocks::{Blocks, Room};
use super::context::{Context, Inner, lock};
use super::pool::Pool;
use acl_sys::ACL_MEM_MALLOC_HUGE_FIRST;
use acl_sys::error::{
    ACL_ERROR_BAD_ALLOC, ACL_ERROR_RT_DEVICE_OOM, ACL_ERROR_RT_MEMORY_ALLOCATION, ACL_ERROR_STORAGE_OVER_LIMIT,
};
use std::ffi::c_void;
use std::fmt;
use std::ptr::null_mut;
use std::sync::atomic::Ordering;

/// A range of device memory; its `Drop` gives it back to the pool, in the order of the stream.
pub struct Buffer {
    pub(super) context: Context,
    address: u64,
    /// Bytes asked for.
    size: usize,
}

impl Context {
    /// Memory for `bytes` bytes with unknown content. Does not call the device when the pool has a block that fits.
    pub fn allocate(&self, bytes: usize) -> Result<Buffer, Error> {
        self.0.ready()?;
        let recording = self.0.captured_here();
        let found = lock(&self.0.pool).take(bytes, recording);
        let address = match found {
            Some(address) => address,
            None => self.0.grow(bytes)?,
        };
        Ok(Buffer { context: self.clone(), address, size: bytes })
    }

    /// Memory for `bytes` bytes, all zero.
    pub fn allocate_zeroed(&self, bytes: usize) -> Result<Buffer, Error> {
        let buffer = self.allocate(bytes)?;
        if bytes > 0 {
            let acl = &self.0.api.acl;
            let start = buffer.pointer();
            // SAFETY: the buffer holds at least `bytes` bytes, and stays allocated until the stream has passed.
            self.0.enqueue("aclrtMemsetAsync", |stream| unsafe {
                acl.aclrtMemsetAsync(start, bytes, 0, bytes, stream)
            })?;
        }
        Ok(buffer)
    }

    /// Most bytes that the pool may take from the device; `None` leaves it to the device.
    pub fn set_memory_limit(&self, limit: Option<usize>) {
        lock(&self.0.pool).limit = limit;
    }

    /// Gives memory that nothing uses back to the device, after waiting for its work.
    pub fn release_cache(&self) -> Result<(), Error> {
        self.0.ready()?;
        let _turn = self.0.take_turn();
        self.0.flush(&mut lock(&self.0.pool))
    }
}

impl Inner {
    /// Makes room for `bytes` by asking the device, if need be after giving back what is free but does not fit, and in the
    /// end for no more than these bytes.
    fn grow(&self, bytes: usize) -> Result<u64, Error> {
        let recording = self.captured_here();
        let _turn = self.take_turn();
        let pool = &mut *lock(&self.pool);
        if let Some(address) = pool.take(bytes, recording) {
            return Ok(address);
        }
        for room in [Room::Usual, Room::Pages, Room::Exact] {
            // A capture cannot wait for the device, so that nothing can be given back within it.
            if room == Room::Pages && !recording {
                self.flush(pool)?;
            }
            let size = Blocks::segment_size(bytes, room);
            if pool.limit.is_some_and(|limit| pool.blocks.reserved() + size > limit) {
                continue;
            }
            if let Some(address) = self.malloc(size)? {
                pool.blocks.add_segment(address, size, bytes);
                return pool.take(bytes, recording).ok_or_else(|| self.out_of_memory(pool, bytes));
            }
        }
        Err(self.out_of_memory(pool, bytes))
    }

    /// Asks the device for memory; `None` when it has not enough.
    fn malloc(&self, size: usize) -> Result<Option<u64>, Error> {
        let mut pointer = null_mut();
        let _relaxed = self.relax_capture()?;
        // SAFETY: writes one pointer through a valid one.
        let answer = unsafe { self.api.acl.aclrtMalloc(&mut pointer, size, ACL_MEM_MALLOC_HUGE_FIRST) };
        match self.api.check("aclrtMalloc", answer) {
            Ok(()) => {
                self.counting.mallocs.fetch_add(1, Ordering::Relaxed);
                Ok(Some(pointer as u64))
            }
            Err(error) => match error.code() {
                Some(
                    ACL_ERROR_BAD_ALLOC
                    | ACL_ERROR_RT_MEMORY_ALLOCATION
                    | ACL_ERROR_RT_DEVICE_OOM
                    | ACL_ERROR_STORAGE_OVER_LIMIT,
                ) => Ok(None),
                _ => Err(error),
            },
        }
    }

    /// Gives unused segments back, once the stream has passed everything that used them.
    fn flush(&self, pool: &mut Pool) -> Result<(), Error> {
        if pool.blocks.reserved() == pool.blocks.in_use() {
            return Ok(());
        }
        self.wait()?;
        for address in pool.blocks.drain_unused() {
            self.counting.frees.fetch_add(1, Ordering::Relaxed);
            // SAFETY: the segment came from aclrtMalloc, no block of it is in use, and the stream is idle.
            self.api.check("aclrtFree", unsafe { self.api.acl.aclrtFree(address as *mut c_void) })?;
        }
        Ok(())
    }
}

impl Buffer {
    /// Bytes that were asked for.
    pub fn size(&self) -> usize {
        self.size
    }

    pub fn context(&self) -> &Context {
        &self.context
    }

    /// Where the buffer begins, for a call that uses it; a graph that is being captured keeps it from now on.
    pub(super) fn pointer(&self) -> *mut c_void {
        self.pointer_at(0)
    }

    /// Pointer to byte `offset`; the caller has checked that the buffer reaches it.
    pub(super) fn pointer_at(&self, offset: usize) -> *mut c_void {
        if self.context.0.captured_here() {
            lock(&self.context.0.pool).pin(self.address);
        }
        (self.address + offset as u64) as *mut c_void
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        lock(&self.context.0.pool).give(self.address);
    }
}

impl fmt::Debug for Buffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Buffer({} bytes on {:?})", self.size, self.context)
    }
}

/// candle declares this method unsafe; here reading uninitialised memory of the device only gives arbitrary elements.
macro_rules! candle_alloc_uninit {
    () => {
        unsafe fn alloc_uninit(&self, shape: &Shape, dtype: DType) -> Result<NpuStorage> {
            self.uninit(dtype, shape.elem_count())
        }
    };
}
pub(crate) use candle_alloc_uninit;

/// The bytes of host elements.
pub(crate) fn bytes_of<T: candle_core::WithDType>(data: &[T]) -> &[u8] {
    // SAFETY: candle's element types are plain numbers without padding, and every byte is a valid u8.
    unsafe { std::slice::from_raw_parts(data.as_ptr().cast(), std::mem::size_of_val(data)) }
}

/// `count` host elements filled with the first bytes of `buffer`; waits for the device once.
pub(crate) fn read_elements<T: candle_core::WithDType>(buffer: &Buffer, count: usize) -> Result<Vec<T>, Error> {
    let mut data = vec![T::zero(); count];
    // SAFETY: candle's element types are plain numbers: every pattern of bits is a value.
    let bytes =
        unsafe { std::slice::from_raw_parts_mut(data.as_mut_ptr().cast(), std::mem::size_of_val(data.as_slice())) };
    buffer.context.download(buffer, bytes)?;
    Ok(data)
}
