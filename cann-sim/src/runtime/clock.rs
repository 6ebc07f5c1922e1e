//! Vector clocks: which tasks are known to be finished before which.
//!
//! Order is what the program asked for, not what happened to come first: the position in a stream, events that were
//! waited for, and the host's own waits. So a missing wait is found in every run, also in one where nothing went wrong.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock, RwLock};

/// Number of the host's own accesses in clocks; streams count from 1.
pub const HOST: u32 = 0;

/// For each stream, the last position that is known to be finished.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Clock(Vec<(u32, u64)>);

impl Clock {
    /// Whether the task at `position` of `stream` is known to be finished.
    pub fn covers(&self, stream: u32, position: u64) -> bool {
        match self.0.binary_search_by_key(&stream, |entry| entry.0) {
            Ok(at) => self.0[at].1 >= position,
            Err(_) => false,
        }
    }

    /// Learns that the tasks of `stream` up to `position` are finished.
    pub fn advance(&mut self, stream: u32, position: u64) {
        match self.0.binary_search_by_key(&stream, |entry| entry.0) {
            Ok(at) => self.0[at].1 = self.0[at].1.max(position),
            Err(at) => self.0.insert(at, (stream, position)),
        }
    }

    /// Learns what `other` knows.
    pub fn join(&mut self, other: &Clock) {
        for &(stream, position) in &other.0 {
            self.advance(stream, position);
        }
    }
}

/// What the host knows. One for the process: how threads of the host inform each other cannot be seen from here, so
/// what one thread waited for counts for all.
static KNOWN: LazyLock<RwLock<Arc<Clock>>> = LazyLock::new(Default::default);
static VERSION: AtomicU64 = AtomicU64::new(0);
static ACCESSES: AtomicU64 = AtomicU64::new(0);

/// The host's clock, with its own accesses so far, for work that it issues now.
pub fn host() -> Clock {
    let mut clock = Clock::clone(&KNOWN.read().unwrap_or_else(|e| e.into_inner()));
    clock.advance(HOST, ACCESSES.load(Ordering::Acquire));
    clock
}

/// Changes whenever [`host`] would answer differently.
pub fn host_version() -> u64 {
    VERSION.load(Ordering::Acquire) + ACCESSES.load(Ordering::Acquire)
}

/// The host waited for everything in `clock`, and for `stream` up to `position`.
pub fn host_learns(clock: &Clock, stream: u32, position: u64) {
    let mut known = KNOWN.write().unwrap_or_else(|e| e.into_inner());
    let mut learned = Clock::clone(&known);
    learned.join(clock);
    learned.advance(stream, position);
    if learned != **known {
        *known = Arc::new(learned);
        VERSION.fetch_add(1, Ordering::Release);
    }
}

/// Number of a new access by the host itself.
pub fn host_access() -> u64 {
    ACCESSES.fetch_add(1, Ordering::AcqRel) + 1
}
