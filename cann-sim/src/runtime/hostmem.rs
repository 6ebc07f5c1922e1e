//! Page-locked host memory: which ranges of host memory the device may reach while the host goes on.

use crate::fail;
use crate::status::Result;
use acl_sys::error::*;
use std::alloc::Layout;
use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard};

/// Alignment of page-locked memory in bytes.
const ALIGN: usize = 4096;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Origin {
    Allocated,
    Registered,
}

#[derive(Debug, Default)]
struct State {
    live: BTreeMap<u64, (usize, Origin)>,
    /// Freed and not handed out again since, to tell a double free from a wrong pointer.
    freed: BTreeMap<u64, usize>,
}

static STATE: Mutex<State> = Mutex::new(State { live: BTreeMap::new(), freed: BTreeMap::new() });

fn state() -> MutexGuard<'static, State> {
    STATE.lock().unwrap_or_else(|e| e.into_inner())
}

fn layout(size: usize) -> Result<Layout> {
    match Layout::from_size_align(size, ALIGN) {
        Ok(layout) => Ok(layout),
        Err(_) => fail!(ACL_ERROR_RT_PARAM_INVALID, "{size} bytes are more than a host has"),
    }
}

/// Allocates `size` bytes of page-locked memory, poisoned.
pub fn allocate(size: usize) -> Result<*mut u8> {
    // SAFETY: the size is not zero, callers refuse that.
    let pointer = unsafe { std::alloc::alloc(layout(size)?) };
    if pointer.is_null() {
        fail!(ACL_ERROR_RT_MEMORY_ALLOCATION, "the host has no {size} bytes left");
    }
    // SAFETY: the allocation was just made with this size.
    unsafe { std::ptr::write_bytes(pointer, super::mapping::POISON, size) };
    let mut state = state();
    let address = pointer.expose_provenance() as u64;
    state.freed.retain(|&start, &mut length| start + length as u64 <= address || start >= address + size as u64);
    state.live.insert(address, (size, Origin::Allocated));
    Ok(pointer)
}

/// Frees what [`allocate`] gave.
pub fn free(address: u64) -> Result<()> {
    let mut state = state();
    match state.live.get(&address).copied() {
        Some((size, Origin::Allocated)) => {
            state.live.remove(&address);
            state.freed.insert(address, size);
            // SAFETY: the table held this pointer with the size it was allocated with, and holds it no longer.
            unsafe { std::alloc::dealloc(std::ptr::with_exposed_provenance_mut(address as usize), layout(size)?) };
            Ok(())
        }
        Some((_, Origin::Registered)) => {
            fail!(ACL_ERROR_RT_PARAM_INVALID, "{address:#x} was registered, not allocated; call aclrtHostUnregister")
        }
        None if state.freed.contains_key(&address) => {
            fail!(ACL_ERROR_RT_PARAM_INVALID, "{address:#x} was already freed by aclrtFreeHost")
        }
        None => fail!(ACL_ERROR_RT_PARAM_INVALID, "{address:#x} was not allocated by aclrtMallocHost"),
    }
}

/// Page-locks memory that the caller allocated.
pub fn register(address: u64, size: usize) -> Result<()> {
    let mut state = state();
    let below = state.live.range(..address + size as u64).next_back();
    if below.is_some_and(|(&start, &(length, _))| start + length as u64 > address) {
        fail!(ACL_ERROR_HOST_MEMORY_ALREADY_REGISTERED, "a part of {address:#x} ({size} bytes) is page-locked already");
    }
    state.live.insert(address, (size, Origin::Registered));
    Ok(())
}

/// Ends [`register`].
pub fn unregister(address: u64) -> Result<()> {
    let mut state = state();
    match state.live.get(&address) {
        Some((_, Origin::Registered)) => {
            state.live.remove(&address);
            Ok(())
        }
        _ => fail!(ACL_ERROR_HOST_MEMORY_NOT_REGISTERED, "{address:#x} was not registered by aclrtHostRegister"),
    }
}

/// Whether all of `[address, address + length)` is page-locked.
pub fn pinned(address: u64, length: usize) -> bool {
    let state = state();
    let below = state.live.range(..=address).next_back();
    below.is_some_and(|(&start, &(size, _))| address + length as u64 <= start + size as u64)
}

/// A page-locked block that `[address, address + length)` begins in and runs out of, as its size and the overrun.
pub fn overrun(address: u64, length: usize) -> Option<(usize, u64)> {
    let state = state();
    let (&start, &(size, _)) = state.live.range(..=address).next_back()?;
    let end = start + size as u64;
    (address < end && address + length as u64 > end).then(|| (size, address + length as u64 - end))
}

/// Whether `address` lies in page-locked memory that was freed.
pub fn is_freed(address: u64) -> bool {
    let state = state();
    state.freed.range(..=address).next_back().is_some_and(|(&start, &size)| address < start + size as u64)
}

/// Number of blocks that were allocated and not freed.
pub fn live() -> usize {
    state().live.values().filter(|(_, origin)| *origin == Origin::Allocated).count()
}
