//! Faults on request.
//!
//! `CANN_SIM_FAULTS` is a list, separated by commas or semicolons, of
//!
//! | fault | effect |
//! |---|---|
//! | `oom@N` | the N-th allocation of device memory (from 1) fails with 207001 |
//! | `op:aclnnAdd=507018` | every launch of that operator fails on its stream with that code |
//! | `op:aclnnAdd@N=507018` | only the N-th launch of that operator does |
//! | `device_lost@N` | from the N-th operator launch on, the device is lost: launches, copies and allocations fail with 507010 |
//! | `slow_stream=MS` | every task waits that many milliseconds before it runs; longer than the limit of `aclrtSetOpExecuteTimeOut`, it fails with 507014 |
//! | `op:HcclAllReduce=507018` | as `op:aclnnAdd`, for a collective; the other ranks of it fail with 507057 |
//! | `slow_rank@R=MS` | rank R of every communicator waits that many milliseconds before each collective or message |
//! | `dead_rank@R=N` | rank R breaks its connections at its N-th collective or message (from 1), which fails with 507010, and takes no part in later ones |
//! | `missing:aclnnX` | the symbol does not exist |
//! | `release=8.1` | only the symbols of that CANN release exist |

use super::config::{Release, current};
use crate::status::{Result, Status};
use acl_sys::error::{ACL_ERROR_RT_LOST_HEARTBEAT, ACL_ERROR_RT_MEMORY_ALLOCATION};
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, RwLock};
use std::time::Duration;

/// The faults that a run asks for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    pub oom: Option<u64>,
    pub ops: Vec<OpFault>,
    pub device_lost: Option<u64>,
    pub slow_stream: Duration,
    /// Ranks that wait before each collective, and ranks that die at one of that number.
    pub slow_ranks: Vec<(u32, Duration)>,
    pub dead_ranks: Vec<(u32, u64)>,
    pub missing: Vec<String>,
    pub release: Option<Release>,
}

/// A launch that fails.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OpFault {
    pub op: String,
    /// Which launch, from 1; every one where unset.
    pub nth: Option<u64>,
    pub code: i32,
}

impl Plan {
    /// Reads the list that the module describes.
    pub fn parse(text: &str) -> std::result::Result<Self, String> {
        let mut plan = Self::default();
        for item in text.split([',', ';']).map(str::trim).filter(|item| !item.is_empty()) {
            plan.add(item)
                .ok_or_else(|| format!("cannot read the fault {item:?}; see the table in runtime/faults.rs"))?;
        }
        Ok(plan)
    }

    fn add(&mut self, item: &str) -> Option<()> {
        if let Some(rest) = item.strip_prefix("op:") {
            let (op, code) = rest.split_once('=')?;
            let (op, nth) = match op.split_once('@') {
                Some((op, nth)) => (op, Some(nth.parse().ok()?)),
                None => (op, None),
            };
            self.ops.push(OpFault { op: op.to_string(), nth, code: code.parse().ok()? });
        } else if let Some(name) = item.strip_prefix("missing:") {
            self.missing.push(name.to_string());
        } else if let Some(nth) = item.strip_prefix("oom@") {
            self.oom = Some(nth.parse().ok()?);
        } else if let Some(nth) = item.strip_prefix("device_lost@") {
            self.device_lost = Some(nth.parse().ok()?);
        } else if let Some(rest) = item.strip_prefix("slow_rank@") {
            let (rank, ms) = rest.split_once('=')?;
            self.slow_ranks.push((rank.parse().ok()?, Duration::from_millis(ms.parse().ok()?)));
        } else if let Some(rest) = item.strip_prefix("dead_rank@") {
            let (rank, nth) = rest.split_once('=')?;
            self.dead_ranks.push((rank.parse().ok()?, nth.parse().ok()?));
        } else if let Some(ms) = item.strip_prefix("slow_stream=") {
            self.slow_stream = Duration::from_millis(ms.parse().ok()?);
        } else {
            self.release = Some(Release::parse(item.strip_prefix("release=")?).ok()?);
        }
        Some(())
    }
}

static OVERRIDE: RwLock<Option<Plan>> = RwLock::new(None);
static LOST: AtomicBool = AtomicBool::new(false);
static OVERRIDDEN: AtomicBool = AtomicBool::new(false);
static LAUNCHES: AtomicU64 = AtomicU64::new(0);
static MALLOCS: AtomicU64 = AtomicU64::new(0);
static PER_OP: Mutex<Option<HashMap<String, u64>>> = Mutex::new(None);

/// Replaces the plan from now on and starts its counts again; `missing` and `release` do not change what was resolved.
pub fn install(plan: Plan) {
    *OVERRIDE.write().unwrap_or_else(|e| e.into_inner()) = Some(plan);
    *PER_OP.lock().unwrap_or_else(|e| e.into_inner()) = None;
    LAUNCHES.store(0, Ordering::SeqCst);
    MALLOCS.store(0, Ordering::SeqCst);
    LOST.store(false, Ordering::SeqCst);
    OVERRIDDEN.store(true, Ordering::SeqCst);
}

/// Runs `look` on the plan that holds now.
fn plan<T>(look: impl FnOnce(&Plan) -> T) -> T {
    if OVERRIDDEN.load(Ordering::Acquire)
        && let Some(plan) = &*OVERRIDE.read().unwrap_or_else(|e| e.into_inner())
    {
        return look(plan);
    }
    match current() {
        Ok(config) => look(&config.faults),
        Err(_) => look(&Plan::default()),
    }
}

/// An error once the fault `device_lost` has struck.
pub fn alive(what: &str) -> Result<()> {
    match LOST.load(Ordering::Relaxed) {
        false => Ok(()),
        true => Err(Status::new(
            ACL_ERROR_RT_LOST_HEARTBEAT,
            format!("{what}: the device is lost because a fault asked for it"),
        )),
    }
}

/// Whether this allocation is the one that shall fail.
pub fn allocation(size: usize) -> Result<()> {
    alive("allocation")?;
    let count = MALLOCS.fetch_add(1, Ordering::Relaxed) + 1;
    plan(|plan| match plan.oom {
        Some(nth) if nth == count => Err(Status::new(
            ACL_ERROR_RT_MEMORY_ALLOCATION,
            format!("allocation {count} of {size} bytes fails because the fault oom@{nth} asks for it"),
        )),
        _ => Ok(()),
    })
}

/// What a launch of `op` shall fail with, if anything.
pub fn launch(op: &str) -> Option<Status> {
    let count = LAUNCHES.fetch_add(1, Ordering::Relaxed) + 1;
    plan(|plan| {
        if let Some(nth) = plan.device_lost
            && count >= nth
        {
            LOST.store(true, Ordering::Relaxed);
            let text = format!("{op}: the device is lost because the fault device_lost@{nth} asks for it");
            return Some(Status::new(ACL_ERROR_RT_LOST_HEARTBEAT, text));
        }
        let faults = plan.ops.iter().filter(|fault| fault.op == op).collect::<Vec<_>>();
        if faults.is_empty() {
            return None;
        }
        let mut counts = PER_OP.lock().unwrap_or_else(|e| e.into_inner());
        let count = counts.get_or_insert_default().entry(op.to_string()).or_insert(0);
        *count += 1;
        let hit = faults.iter().find(|fault| fault.nth.is_none_or(|nth| nth == *count))?;
        Some(Status::new(hit.code, format!("{op}: launch {count} fails because a fault asks for it")))
    })
}

/// How long every task waits before it runs.
pub fn delay() -> Duration {
    plan(|plan| plan.slow_stream)
}

/// How long rank `rank` waits before a collective.
pub fn rank_delay(rank: u32) -> Duration {
    plan(|plan| plan.slow_ranks.iter().filter(|slow| slow.0 == rank).map(|slow| slow.1).sum())
}

/// The collective at which rank `rank` dies.
pub fn rank_death(rank: u32) -> Option<u64> {
    plan(|plan| plan.dead_ranks.iter().filter(|dead| dead.0 == rank).map(|dead| dead.1).min())
}
