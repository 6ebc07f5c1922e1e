//! Page-locked host memory: which ranges of host memory the device may reach while the host goes on.

use crate::fail;
use crate::status::Result;
use acl_sys::error::*;
use std::collections::{BTreeMap, VecDeque};
use std::sync::{Mutex, MutexGuard};

/// Freed blocks whose addresses are kept from being used again.
const QUARANTINE: usize = 64;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Origin {
    Allocated,
    Registered,
}

#[derive(Debug, Default)]
struct State {
    live: BTreeMap<u64, (usize, Origin)>,
    /// Freed and not yet given back to the system, to tell a double free from a wrong pointer.
    freed: BTreeMap<u64, usize>,
    resting: VecDeque<u64>,
}

static STATE: Mutex<State> =
    Mutex::new(State { live: BTreeMap::new(), freed: BTreeMap::new(), resting: VecDeque::new() });

fn state() -> MutexGuard<'static, State> {
    STATE.lock().unwrap_or_else(|e| e.into_inner())
}

/// Allocates `size` bytes of page-locked memory, poisoned.
pub fn allocate(size: usize) -> Result<*mut u8> {
    let address = super::mapping::host_pages(size)?;
    let pointer = std::ptr::with_exposed_provenance_mut::<u8>(address as usize);
    // SAFETY: the pages were just mapped with at least this size.
    unsafe { std::ptr::write_bytes(pointer, super::mapping::POISON, size) };
    state().live.insert(address, (size, Origin::Allocated));
    Ok(pointer)
}

/// Frees what [`allocate`] gave.
pub fn free(address: u64) -> Result<()> {
    let mut state = state();
    match state.live.get(&address).copied() {
        Some((size, Origin::Allocated)) => {
            state.live.remove(&address);
            // The pages stay, out of reach, for a while: a stale pointer faults, and no one else gets the address.
            super::mapping::close_host_pages(address, size);
            state.freed.insert(address, size);
            state.resting.push_back(address);
            if state.resting.len() > QUARANTINE
                && let Some(oldest) = state.resting.pop_front()
                && let Some(size) = state.freed.remove(&oldest)
            {
                super::mapping::release_host_pages(oldest, size);
            }
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
