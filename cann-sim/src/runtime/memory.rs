//! Device memory: blocks with guard zones and poison, the capacity of the chip, and the way from a device address to
//! the data that the simulator works on.

use super::clock::{self, Clock};
use super::mapping::{Mirror, PAGE};
use super::stats::{self, Counter};
use super::track::{Branch, Epoch, Track};
use super::{config, faults};
use crate::fail;
use crate::status::{Result, Status};
use acl_sys::error::*;
use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, OnceLock, RwLock};

/// What is done with a range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    Read,
    Write,
}

/// Where a piece of work stands: what it is, its place in its stream, and what is known to be finished before it.
#[derive(Clone, Debug)]
pub struct Site {
    pub op: &'static str,
    /// Number of the stream; [`clock::HOST`] for the host's own copies.
    pub stream: u32,
    pub position: u64,
    pub clock: Arc<Clock>,
    /// Its place in the graph that it is part of, where that has branches.
    pub branch: Option<Arc<Branch>>,
}

impl Site {
    /// A synchronous call of the host.
    pub fn host(op: &'static str) -> Self {
        let clock = Arc::new(clock::host());
        Self { op, stream: clock::HOST, position: clock::host_access(), clock, branch: None }
    }
}

/// Alignment of blocks, and size of the guard zone on either side, in bytes.
pub const ALIGN: u64 = 512;
const GUARD: u8 = 0xA5;
/// Freed ranges rest this long before their addresses are used again, so that stale pointers are recognised.
const QUARANTINE: usize = 256;
const REMEMBERED: usize = 4096;

/// One live allocation, or one reserved range of virtual addresses.
#[derive(Debug)]
pub struct Block {
    pub address: u64,
    pub size: u64,
    pub serial: u64,
    /// Start and size of the addresses that the block takes, guard zones and alignment included.
    span: (u64, u64),
    /// For a reserved range: start and end of what is mapped.
    pub mapped: Option<RwLock<BTreeMap<u64, u64>>>,
    track: Mutex<Track>,
    /// For each stream, the last task that was given an address inside this block.
    uses: Mutex<Vec<Epoch>>,
}

impl Block {
    fn end(&self) -> u64 {
        self.address + self.size
    }

    fn name(&self) -> String {
        let kind = if self.mapped.is_some() { "reserved range" } else { "block" };
        format!("{kind} {} ({:#x}, {} bytes)", self.serial, self.address, self.size)
    }

    /// Notes that the task at `epoch` was given an address inside this block.
    pub fn note_use(&self, epoch: Epoch) {
        let mut uses = self.uses.lock().unwrap_or_else(|e| e.into_inner());
        match uses.iter_mut().find(|seen| seen.stream == epoch.stream) {
            Some(seen) => *seen = epoch,
            None => uses.push(epoch),
        }
    }

    /// A task that was given this block and that the host has not waited for.
    fn pending(&self) -> Option<Epoch> {
        let host = clock::host();
        let uses = self.uses.lock().unwrap_or_else(|e| e.into_inner());
        uses.iter().find(|epoch| !host.covers(epoch.stream, epoch.position)).copied()
    }

    /// Whether all of `[start, end)` is backed by memory.
    fn backed(&self, start: u64, end: u64) -> bool {
        let Some(mapped) = &self.mapped else { return true };
        let mapped = mapped.read().unwrap_or_else(|e| e.into_inner());
        let mut at = start;
        while at < end {
            match mapped.range(..=at).next_back() {
                Some((_, &upper)) if upper > at => at = upper,
                _ => return false,
            }
        }
        true
    }
}

#[derive(Debug)]
struct Gone {
    size: u64,
    serial: u64,
    by: &'static str,
}

#[derive(Debug, Default)]
struct State {
    blocks: BTreeMap<u64, Arc<Block>>,
    /// Holes below `top`, start to size.
    holes: BTreeMap<u64, u64>,
    resting: VecDeque<(u64, u64)>,
    gone: BTreeMap<u64, Gone>,
    top: u64,
    used: u64,
    serial: u64,
}

/// The memory of one device.
#[derive(Debug)]
pub struct Arena {
    pub device: u32,
    pub capacity: u64,
    pub(super) mirror: Mirror,
    state: RwLock<State>,
}

const MAX_DEVICES: usize = 64;
static ARENAS: [OnceLock<Result<Arena>>; MAX_DEVICES] = [const { OnceLock::new() }; MAX_DEVICES];

/// The memory of device `device`, reserved at its first use.
pub fn arena(device: u32) -> Result<&'static Arena> {
    let Some(slot) = ARENAS.get(device as usize) else {
        fail!(ACL_ERROR_RT_INVALID_DEVICEID, "device {device} does not exist");
    };
    slot.get_or_init(|| Arena::new(device, config::current()?.memory)).as_ref().map_err(Clone::clone)
}

/// The memory of device `device`, if something used it already.
pub fn existing(device: u32) -> Option<&'static Arena> {
    ARENAS.get(device as usize)?.get()?.as_ref().ok()
}

/// The memory that `address` belongs to, if it is a device address at all.
pub fn owner(address: u64) -> Option<&'static Arena> {
    ARENAS.iter().filter_map(|slot| slot.get()?.as_ref().ok()).find(|arena| arena.mirror.contains(address))
}

/// Host view of `[address, address + length)` of device memory, after checking that the range lies in one live block
/// and that nothing else uses it at the same time.
pub fn resolve(address: u64, length: usize, access: Access, site: &Site) -> Result<*mut u8> {
    let Some(arena) = owner(address) else {
        let what = if address == 0 { "null".to_string() } else { format!("{address:#x}, which is not device memory") };
        fail!(ACL_ERROR_RT_PARAM_INVALID, "the address is {what}");
    };
    let block = arena.block(address, length as u64)?;
    let start = address - block.address;
    let end = start + length as u64;
    let race = block.track.lock().unwrap_or_else(|e| e.into_inner()).access(start, end, access, site);
    let within = site.branch.as_ref().and_then(|branch| branch.access(block.serial, start, end, access, site.op));
    if let Some(race) = race.or(within) {
        let verb = |wrote| if wrote { "writes" } else { "reads" };
        let (stream, position) = match (&site.branch, within) {
            (Some(branch), Some(_)) => (branch.stream, branch.position),
            _ => (site.stream, site.position),
        };
        let now = Epoch { op: site.op, stream, position };
        let code =
            if site.stream == clock::HOST { ACL_ERROR_RT_STREAM_NOT_COMPLETE } else { ACL_ERROR_RT_AICORE_EXCEPTION };
        fail!(
            code,
            "race: {now} {} bytes {start}..{} of {} while {} {} them, and no event or synchronisation orders the two",
            verb(access == Access::Write),
            end,
            block.name(),
            race.earlier,
            verb(race.earlier_wrote)
        );
    }
    Ok(arena.mirror.data(address))
}

/// Start and end of the usable memory around `address`, and where the host sees its start; none outside of live blocks.
pub fn extent(address: u64) -> Option<(u64, u64, *mut u8)> {
    let arena = owner(address)?;
    let block = arena.block(address, 1).ok()?;
    let (start, end) = match &block.mapped {
        None => (block.address, block.end()),
        Some(mapped) => {
            let mapped = mapped.read().unwrap_or_else(|e| e.into_inner());
            let (&start, &end) = mapped.range(..=address).next_back()?;
            (start, end)
        }
    };
    Some((start, end, arena.mirror.data(start)))
}

/// Number of the live block that `address` lies in; none when there is no such block.
pub fn block_number(address: u64) -> Option<u64> {
    Some(owner(address)?.block(address, 0).ok()?.serial)
}

/// Notes that a task which is being issued was given `address`; an address that no block has is found when it runs.
pub fn note_use(address: u64, epoch: Epoch) {
    if let Some(block) = owner(address).and_then(|arena| arena.block(address, 0).ok()) {
        block.note_use(epoch);
    }
}

impl Arena {
    fn new(device: u32, capacity: u64) -> Result<Self> {
        // Four times the capacity, so that addresses are rarely used again and reserved ranges have room.
        let mirror = Mirror::reserve((4 * capacity as usize).max(64 << 30).next_multiple_of(2 << 20))?;
        let state = State { top: mirror.device.next_multiple_of(2 << 20), ..State::default() };
        Ok(Self { device, capacity, mirror, state: RwLock::new(state) })
    }

    fn read(&self) -> std::sync::RwLockReadGuard<'_, State> {
        self.state.read().unwrap_or_else(|e| e.into_inner())
    }

    fn write(&self) -> std::sync::RwLockWriteGuard<'_, State> {
        self.state.write().unwrap_or_else(|e| e.into_inner())
    }

    /// The live block that holds all of `[address, address + length)`.
    pub fn block(&self, address: u64, length: u64) -> Result<Arc<Block>> {
        let state = self.read();
        let below = state.blocks.range(..=address).next_back().map(|(_, block)| block);
        match below {
            Some(block) if address < block.end() || (length == 0 && address == block.end()) => {
                let over = (address + length).saturating_sub(block.end());
                if over > 0 {
                    let at = address - block.address;
                    fail!(
                        ACL_ERROR_RT_PARAM_INVALID,
                        "{length} bytes at offset {at} of {} run {over} bytes over",
                        block.name()
                    );
                }
                if !block.backed(address, address + length) {
                    fail!(
                        ACL_ERROR_RT_PARAM_INVALID,
                        "{length} bytes at {address:#x} of {} are not all mapped",
                        block.name()
                    );
                }
                Ok(block.clone())
            }
            _ => self.explain(&state, address, below),
        }
    }

    fn explain<T>(&self, state: &State, address: u64, below: Option<&Arc<Block>>) -> Result<T> {
        let gone = state.gone.range(..=address).next_back().filter(|(start, gone)| address < **start + gone.size);
        if let Some((start, gone)) = gone {
            let (size, serial, by) = (gone.size, gone.serial, gone.by);
            fail!(
                ACL_ERROR_RT_PARAM_INVALID,
                "{address:#x} lies in block {serial} ({start:#x}, {size} bytes), which was freed by {by}"
            );
        }
        let near =
            below.map_or(String::new(), |b| format!("; {} bytes past the end of {}", address - b.end(), b.name()));
        fail!(ACL_ERROR_RT_PARAM_INVALID, "{address:#x} is in no live block of device {}{near}", self.device)
    }

    /// Free bytes and the largest block that one allocation can get.
    pub fn free_bytes(&self) -> u64 {
        self.capacity - self.read().used
    }

    /// Allocates `size` bytes, poisoned, between guard zones.
    pub fn allocate(&self, size: usize) -> Result<u64> {
        faults::allocation(size)?;
        let padded = (size as u64).next_multiple_of(ALIGN);
        let mut state = self.write();
        state.charge(padded, self)?;
        // Large blocks start on a page, so that nearly all of them is poisoned by mapping.
        let align = if size >= 4 << 20 { PAGE as u64 } else { ALIGN };
        let placed = state.enter(size as u64, align, None, self);
        if placed.is_err() {
            state.used -= padded;
        }
        let start = placed?;
        let in_use = state.used;
        drop(state);
        stats::add(Counter::Mallocs, 1);
        stats::add(Counter::MallocBytes, size as u64);
        stats::peak(in_use);
        Ok(start)
    }

    /// Frees the block that starts at `address`.
    pub fn free(&self, address: u64, by: &'static str) -> Result<()> {
        let mut state = self.write();
        let Some(block) = state.blocks.get(&address).filter(|block| block.mapped.is_none()).cloned() else {
            let below = state.blocks.range(..=address).next_back().map(|(_, block)| block);
            if let Some(block) = below.filter(|block| address < block.end()) {
                let at = address - block.address;
                fail!(ACL_ERROR_RT_PARAM_INVALID, "{address:#x} is offset {at} of {}, not its start", block.name());
            }
            return self.explain(&state, address, below);
        };
        if let Some(epoch) = block.pending() {
            fail!(
                ACL_ERROR_RT_PARAM_INVALID,
                "{} is freed by {by} while {epoch} may still use it; synchronise with that stream first",
                block.name()
            );
        }
        let damage = self.damage(&block);
        let padded = block.size.next_multiple_of(ALIGN);
        state.blocks.remove(&address);
        state.used -= padded;
        state.rest(block.span);
        state.gone.retain(|start, gone| *start + gone.size <= address || *start >= address + block.size);
        state.gone.insert(address, Gone { size: block.size, serial: block.serial, by });
        if state.gone.len() > REMEMBERED {
            state.gone.pop_first();
        }
        // Before the lock is given up: another thread could be given these addresses.
        self.mirror.poison(address, block.size as usize)?;
        stats::add(Counter::Frees, 1);
        damage
    }

    /// An error if something wrote over the guard zones of `block`.
    fn damage(&self, block: &Block) -> Result<()> {
        let padded = block.size.next_multiple_of(ALIGN);
        let before = self.mirror.holds(block.address - ALIGN, ALIGN as usize, GUARD);
        let after = self.mirror.holds(block.end(), (padded + ALIGN - block.size) as usize, GUARD);
        if before && after {
            return Ok(());
        }
        let side = if before { "after" } else { "before" };
        fail!(ACL_ERROR_RT_DEVICE_MEM_ERROR, "the guard zone {side} {} was overwritten", block.name())
    }

    /// Looks at the guard zones of every block.
    pub fn check_guards(&self) -> Result<()> {
        let blocks: Vec<_> = self.read().blocks.values().filter(|block| block.mapped.is_none()).cloned().collect();
        blocks.iter().try_for_each(|block| self.damage(block))
    }

    /// Live blocks, for the list of leaks.
    pub fn live(&self) -> Vec<Arc<Block>> {
        self.read().blocks.values().cloned().collect()
    }

    /// Forgets every block, as resetting the device does.
    pub fn reset(&self) {
        let mut state = self.write();
        let blocks = std::mem::take(&mut state.blocks);
        for block in blocks.values() {
            state.rest(block.span);
            state.gone.insert(block.address, Gone { size: block.size, serial: block.serial, by: "aclrtResetDevice" });
        }
        state.used = 0;
    }

    /// Accounts for `bytes` of memory that no block holds, such as physical memory.
    pub fn charge(&self, bytes: u64) -> Result<()> {
        self.write().charge(bytes, self)
    }

    /// Gives back what [`Arena::charge`] took.
    pub fn discharge(&self, bytes: u64) {
        let mut state = self.write();
        state.used = state.used.saturating_sub(bytes);
    }

    /// Reserves addresses without memory behind them.
    pub fn reserve(&self, size: u64, align: u64) -> Result<u64> {
        self.write().enter(size, align.max(ALIGN), Some(RwLock::default()), self)
    }

    /// The reserved range that holds all of `[address, address + size)`, mapped or not.
    pub fn reserved(&self, address: u64, size: u64) -> Result<Arc<Block>> {
        let state = self.read();
        let below = state.blocks.range(..=address).next_back().map(|(_, block)| block);
        match below {
            Some(block) if block.mapped.is_some() && address + size <= block.end() => Ok(block.clone()),
            _ => fail!(ACL_ERROR_RT_PARAM_INVALID, "{size} bytes at {address:#x} are not in one reserved range"),
        }
    }

    /// Gives a reserved range back; it must be empty.
    pub fn release(&self, address: u64) -> Result<()> {
        let mut state = self.write();
        let Some(block) = state.blocks.get(&address).filter(|block| block.mapped.is_some()).cloned() else {
            fail!(ACL_ERROR_RT_PARAM_INVALID, "{address:#x} is not the start of a reserved range");
        };
        let mapped = block.mapped.as_ref().map_or(0, |mapped| mapped.read().unwrap_or_else(|e| e.into_inner()).len());
        if mapped > 0 {
            fail!(ACL_ERROR_RT_PARAM_INVALID, "{} still has {mapped} mappings; unmap them first", block.name());
        }
        state.blocks.remove(&address);
        state.rest(block.span);
        Ok(())
    }

    /// A task that was given an address of the reserved range or block at `address` and may not be finished.
    pub fn pending(&self, address: u64) -> Option<Status> {
        let block = self.block(address, 0).ok()?;
        let epoch = block.pending()?;
        Some(Status::new(ACL_ERROR_RT_PARAM_INVALID, format!("{} is still in use by {epoch}", block.name())))
    }
}

impl State {
    /// Takes `bytes` of the capacity.
    fn charge(&mut self, bytes: u64, arena: &Arena) -> Result<()> {
        let free = arena.capacity - self.used;
        if bytes > free {
            let largest = self.blocks.values().filter(|block| block.mapped.is_none()).max_by_key(|block| block.size);
            let largest = largest.map_or(String::from("none"), |block| block.name());
            fail!(
                ACL_ERROR_RT_MEMORY_ALLOCATION,
                "out of memory on device {}: {bytes} bytes requested, {free} of {} free, {} live blocks, the largest {largest}",
                arena.device,
                arena.capacity,
                self.blocks.len()
            );
        }
        self.used += bytes;
        Ok(())
    }

    /// Makes a block of `size` bytes that starts at a multiple of `align`, and answers its address.
    fn enter(
        &mut self,
        size: u64,
        align: u64,
        mapped: Option<RwLock<BTreeMap<u64, u64>>>,
        arena: &Arena,
    ) -> Result<u64> {
        let span = size.next_multiple_of(ALIGN) + 2 * ALIGN + (align - ALIGN);
        let at = self.place(span, arena)?;
        let address = (at + ALIGN).next_multiple_of(align);
        if mapped.is_none() {
            // Before the block can be seen, because its guard zones are checked from then on.
            arena.mirror.poison(address, size as usize)?;
            arena.mirror.fill(address - ALIGN, ALIGN as usize, GUARD);
            arena.mirror.fill(address + size, (size.next_multiple_of(ALIGN) + ALIGN - size) as usize, GUARD);
        }
        self.serial += 1;
        let (track, uses) = (Mutex::default(), Mutex::default());
        let block = Block { address, size, serial: self.serial, span: (at, span), mapped, track, uses };
        self.blocks.insert(address, Arc::new(block));
        Ok(address)
    }

    /// Finds `size` bytes of addresses: in the first hole that fits, else at the top.
    fn place(&mut self, size: u64, arena: &Arena) -> Result<u64> {
        let hole = self.holes.iter().find(|(_, room)| **room >= size).map(|(&at, &room)| (at, room));
        if let Some((at, room)) = hole {
            self.holes.remove(&at);
            if room > size {
                self.holes.insert(at + size, room - size);
            }
            return Ok(at);
        }
        let at = self.top;
        if at + size > arena.mirror.device + arena.mirror.size as u64 {
            fail!(ACL_ERROR_RT_MEMORY_ALLOCATION, "device {} has no {size} contiguous addresses left", arena.device);
        }
        self.top += size;
        Ok(at)
    }

    /// Lets freed addresses rest, and makes a hole of the ones that rested longest.
    fn rest(&mut self, span: (u64, u64)) {
        self.resting.push_back(span);
        if self.resting.len() <= QUARANTINE {
            return;
        }
        let Some((mut start, mut size)) = self.resting.pop_front() else { return };
        if let Some((&below, &room)) = self.holes.range(..start).next_back()
            && below + room == start
        {
            self.holes.remove(&below);
            (start, size) = (below, size + room);
        }
        if let Some(room) = self.holes.remove(&(start + size)) {
            size += room;
        }
        self.holes.insert(start, size);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_overwritten_guard_zone_is_found() {
        let arena = arena(0).unwrap();
        for (offset, side) in [(-1i64, "before"), (100, "after")] {
            let block = arena.allocate(100).unwrap();
            arena.check_guards().unwrap();
            arena.mirror.fill(block.wrapping_add_signed(offset), 1, 0);
            for found in [arena.check_guards(), arena.free(block, "a test")] {
                let status = found.unwrap_err();
                assert_eq!(status.code, ACL_ERROR_RT_DEVICE_MEM_ERROR);
                assert!(status.message.starts_with(&format!("the guard zone {side} block")), "{}", status.message);
            }
        }
    }

    #[test]
    fn addresses_rest_and_are_used_again() {
        let arena = arena(1).unwrap();
        let first = arena.allocate(1 << 10).unwrap();
        arena.free(first, "a test").unwrap();
        assert_ne!(arena.allocate(1 << 10).unwrap(), first, "a fresh stale pointer must not become valid");
        let again = (0..4 * QUARANTINE).any(|_| {
            let block = arena.allocate(1 << 10).unwrap();
            arena.free(block, "a test").unwrap();
            block == first
        });
        assert!(again, "addresses are not used up");
        assert_eq!(arena.free_bytes(), arena.capacity - (1 << 10));
    }
}
