//! Virtual memory: physical memory that is mapped into reserved ranges of device addresses.

use super::handles::{Kind, Table};
use super::mapping::{POISON, memory_file};
use super::memory::{self, Arena};
use crate::status::Result;
use crate::{ensure, fail};
use acl_sys::error::*;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

/// Unit of physical memory and of mappings in bytes (a huge page of the device).
pub const GRANULARITY: usize = 2 << 20;

/// Physical memory of one device; it is given back when its handle is freed and nothing maps it.
#[derive(Debug)]
pub struct Physical {
    pub device: u32,
    pub size: usize,
    file: OwnedFd,
    /// Whether it was mapped before; the first mapping poisons it.
    touched: AtomicBool,
}

impl Drop for Physical {
    fn drop(&mut self) {
        if let Some(arena) = memory::existing(self.device) {
            arena.discharge(self.size as u64);
        }
    }
}

pub(super) static PHYSICAL: Table<Arc<Physical>> = Table::new(Kind::Physical);

/// One mapping: start, size, and what is behind it.
struct Mapping {
    start: u64,
    size: usize,
    memory: Arc<Physical>,
}

static MAPPINGS: Mutex<Vec<Mapping>> = Mutex::new(Vec::new());

fn check_size(size: usize, what: &str) -> Result<()> {
    ensure!(
        size > 0 && size.is_multiple_of(GRANULARITY),
        ACL_ERROR_RT_PARAM_INVALID,
        "{what} is {size}, wanted a multiple of {GRANULARITY} as aclrtMemGetAllocationGranularity says"
    );
    Ok(())
}

/// `aclrtMallocPhysical`: the handle.
pub fn allocate(device: u32, size: usize) -> Result<u64> {
    check_size(size, "size")?;
    super::faults::allocation(size)?;
    memory::arena(device)?.charge(size as u64)?;
    let file = memory_file(size).inspect_err(|_| {
        if let Some(arena) = memory::existing(device) {
            arena.discharge(size as u64);
        }
    })?;
    Ok(PHYSICAL.insert(Arc::new(Physical { device, size, file, touched: AtomicBool::new(false) })))
}

/// `aclrtReserveMemAddress`: the start of the range.
pub fn reserve(arena: &Arena, size: usize) -> Result<u64> {
    check_size(size, "size")?;
    arena.reserve(size as u64, GRANULARITY as u64)
}

/// `aclrtMapMem`.
pub fn map(address: u64, size: usize, offset: usize, physical: Arc<Physical>) -> Result<()> {
    check_size(size, "size")?;
    ensure!(offset == 0, ACL_ERROR_RT_PARAM_INVALID, "offset is {offset}, wanted 0");
    ensure!(
        size == physical.size,
        ACL_ERROR_RT_PARAM_INVALID,
        "size is {size}, but the physical memory has {} bytes",
        physical.size
    );
    let Some(arena) = memory::owner(address) else {
        fail!(ACL_ERROR_RT_PARAM_INVALID, "{address:#x} is not in a reserved range");
    };
    ensure!(
        arena.device == physical.device,
        ACL_ERROR_RT_PARAM_INVALID,
        "the range belongs to device {}, the physical memory to device {}",
        arena.device,
        physical.device
    );
    let range = arena.reserved(address, size as u64)?;
    let end = address + size as u64;
    let mut mapped =
        range.mapped.as_ref().expect("a reserved range has a map").write().unwrap_or_else(|e| e.into_inner());
    let clash = mapped.range(..end).next_back().is_some_and(|(_, &upper)| upper > address);
    ensure!(!clash, ACL_ERROR_RT_PARAM_INVALID, "a part of {address:#x} ({size} bytes) is mapped already");
    arena.mirror.attach(address, size, &physical.file, 0)?;
    if !physical.touched.swap(true, Ordering::AcqRel) {
        arena.mirror.fill(address, size, POISON);
    }
    mapped.insert(address, end);
    MAPPINGS.lock().unwrap_or_else(|e| e.into_inner()).push(Mapping { start: address, size, memory: physical });
    Ok(())
}

/// `aclrtUnmapMem`.
pub fn unmap(address: u64) -> Result<()> {
    let mut mappings = MAPPINGS.lock().unwrap_or_else(|e| e.into_inner());
    let Some(at) = mappings.iter().position(|mapping| mapping.start == address) else {
        fail!(ACL_ERROR_RT_PARAM_INVALID, "{address:#x} is not the start of a mapping");
    };
    let arena = memory::arena(mappings[at].memory.device)?;
    if let Some(pending) = arena.pending(address) {
        return Err(pending);
    }
    let mapping = mappings.swap_remove(at);
    let range = arena.reserved(address, mapping.size as u64)?;
    range
        .mapped
        .as_ref()
        .expect("a reserved range has a map")
        .write()
        .unwrap_or_else(|e| e.into_inner())
        .remove(&address);
    arena.mirror.detach(address, mapping.size)
}
