//! What a piece of work costs the calling thread: inside the C interface, and around it.
//!
//! Nothing is measured outside of [`timed`]: two readings of the clock a call are a tenth of what a call costs.

use std::cell::Cell;
use std::time::{Duration, Instant};

/// The cost of a piece of work on the thread that ran it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Spent {
    /// Calls of C functions.
    pub calls: u64,
    /// Time in them.
    pub inside: Duration,
    /// Time from the beginning to the end.
    pub total: Duration,
}

impl Spent {
    /// Time outside of the C functions: the program's own.
    pub fn outside(&self) -> Duration {
        self.total.saturating_sub(self.inside)
    }
}

thread_local! {
    /// Calls and time inside them since the innermost [`timed`] of this thread began; nothing when there is none.
    static INSIDE: Cell<Option<(u64, Duration)>> = const { Cell::new(None) };
}

/// Runs `work` and measures what it costs this thread. Within another measurement it counts for both.
pub fn timed<R>(work: impl FnOnce() -> R) -> (R, Spent) {
    let around = INSIDE.replace(Some((0, Duration::ZERO)));
    let start = Instant::now();
    let answer = work();
    let total = start.elapsed();
    let (calls, inside) = INSIDE.get().unwrap_or_default();
    INSIDE.set(around.map(|(more, longer)| (more + calls, longer + inside)));
    (answer, Spent { calls, inside, total })
}

/// Runs one call of a C function, which counts for the thread's measurement if there is one.
#[inline]
pub fn call<R>(function: impl FnOnce() -> R) -> R {
    let Some((calls, inside)) = INSIDE.get() else { return function() };
    let start = Instant::now();
    let answer = function();
    INSIDE.set(Some((calls + 1, inside + start.elapsed())));
    answer
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_count_for_every_measurement_around_them_and_for_no_other() {
        let pause = || std::thread::sleep(Duration::from_millis(2));
        call(pause);
        let (inner, outer) = timed(|| {
            call(pause);
            std::thread::sleep(Duration::from_millis(2));
            timed(|| (call(pause), call(pause))).1
        });
        assert_eq!((inner.calls, outer.calls), (2, 3));
        assert!(inner.inside >= Duration::from_millis(4) && outer.inside >= Duration::from_millis(6));
        assert!(outer.outside() >= Duration::from_millis(2) && outer.total >= outer.inside);
        assert_eq!(timed(|| ()).1.calls, 0);
    }
}
