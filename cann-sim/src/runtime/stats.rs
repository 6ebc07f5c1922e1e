//! What the simulated CANN was asked to do since the process started, for tests and reports.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

/// Counts since the process started.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Second phases per operator.
    pub launches: BTreeMap<&'static str, u64>,
    /// Device allocations, and bytes of them.
    pub mallocs: u64,
    pub malloc_bytes: u64,
    pub frees: u64,
    /// Copies, synchronous and not, and bytes of them.
    pub copies: u64,
    pub copy_bytes: u64,
    /// Host waits for a stream, an event or a device.
    pub syncs: u64,
    /// Largest sum of live device allocations of one device, in bytes.
    pub peak_bytes: u64,
    /// Bytes that ranks in this process sent to others, and received, headers included.
    pub wire_sent: u64,
    pub wire_received: u64,
}

impl Stats {
    /// Launches of all operators.
    pub fn launched(&self) -> u64 {
        self.launches.values().sum()
    }
}

static LAUNCHES: Mutex<BTreeMap<&'static str, u64>> = Mutex::new(BTreeMap::new());
static COUNTERS: [AtomicU64; 9] = [const { AtomicU64::new(0) }; 9];

#[derive(Clone, Copy)]
pub(crate) enum Counter {
    Mallocs,
    MallocBytes,
    Frees,
    Copies,
    CopyBytes,
    Syncs,
    PeakBytes,
    WireSent,
    WireReceived,
}

pub(crate) fn add(counter: Counter, amount: u64) {
    COUNTERS[counter as usize].fetch_add(amount, Ordering::Relaxed);
}

pub(crate) fn peak(bytes: u64) {
    COUNTERS[Counter::PeakBytes as usize].fetch_max(bytes, Ordering::Relaxed);
}

pub(crate) fn launched(op: &'static str) {
    *LAUNCHES.lock().unwrap_or_else(|e| e.into_inner()).entry(op).or_insert(0) += 1;
}

/// The counts so far.
pub fn stats() -> Stats {
    let read = |counter: Counter| COUNTERS[counter as usize].load(Ordering::Relaxed);
    Stats {
        launches: LAUNCHES.lock().unwrap_or_else(|e| e.into_inner()).clone(),
        mallocs: read(Counter::Mallocs),
        malloc_bytes: read(Counter::MallocBytes),
        frees: read(Counter::Frees),
        copies: read(Counter::Copies),
        copy_bytes: read(Counter::CopyBytes),
        syncs: read(Counter::Syncs),
        peak_bytes: read(Counter::PeakBytes),
        wire_sent: read(Counter::WireSent),
        wire_received: read(Counter::WireReceived),
    }
}
