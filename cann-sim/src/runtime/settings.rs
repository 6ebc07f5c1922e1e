//! Timeouts and modes that a process sets once for its devices.

use std::sync::atomic::{AtomicI32, AtomicU64, Ordering};
use std::time::Duration;

static OP_WAIT_SECONDS: AtomicU64 = AtomicU64::new(0);
static OP_EXECUTE_MICROS: AtomicU64 = AtomicU64::new(0);
static SATURATION: AtomicI32 = AtomicI32::new(1);

/// How long a stream waits for an event (`aclrtSetOpWaitTimeout`); without a limit where unset or 0.
pub fn op_wait_limit() -> Option<Duration> {
    match OP_WAIT_SECONDS.load(Ordering::Relaxed) {
        0 => None,
        seconds => Some(Duration::from_secs(seconds)),
    }
}

pub fn set_op_wait_limit(seconds: u32) {
    OP_WAIT_SECONDS.store(seconds as u64, Ordering::Relaxed);
}

/// How long an operator may run, in microseconds; 0 is without a limit.
pub fn op_execute_limit() -> u64 {
    OP_EXECUTE_MICROS.load(Ordering::Relaxed)
}

pub fn set_op_execute_limit(micros: u64) {
    OP_EXECUTE_MICROS.store(micros, Ordering::Relaxed);
}

/// `aclrtFloatOverflowMode`.
pub fn overflow_mode() -> i32 {
    SATURATION.load(Ordering::Relaxed)
}
