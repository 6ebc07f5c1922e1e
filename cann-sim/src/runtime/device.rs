//! Devices and contexts: what `aclrtSetDevice` makes current on a thread.

use super::handles::{self, Kind, Table};
use super::memory::{self, Arena};
use super::stream::{self, STREAMS, Stream};
use super::{config, hostmem};
use crate::fail;
use crate::status::Result;
use acl_sys::error::*;
use std::cell::RefCell;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

/// A context: a device and its default stream.
#[derive(Debug)]
pub struct Context {
    pub handle: AtomicU64,
    pub device: u32,
    pub default_stream: Arc<Stream>,
    /// Handle of the default stream.
    pub default_handle: u64,
    alive: AtomicBool,
}

pub(super) static CONTEXTS: Table<Arc<Context>> = Table::new(Kind::Context);
/// For each device, its primary context and how often `aclrtSetDevice` asked for it.
type Primaries = Vec<Option<(Arc<Context>, u64)>>;

static PRIMARY: Mutex<Primaries> = Mutex::new(Vec::new());
static INITIALISED: AtomicU64 = AtomicU64::new(0);

thread_local! {
    static CURRENT: RefCell<Option<Arc<Context>>> = const { RefCell::new(None) };
}

fn primary() -> MutexGuard<'static, Primaries> {
    PRIMARY.lock().unwrap_or_else(|e| e.into_inner())
}

/// Checks a device number.
pub fn index(device: i32) -> Result<u32> {
    let count = config::current()?.devices;
    match u32::try_from(device) {
        Ok(device) if device < count => Ok(device),
        _ => fail!(ACL_ERROR_RT_INVALID_DEVICEID, "device {device} does not exist; there are {count}, numbered from 0"),
    }
}

/// `aclInit`.
pub fn initialise() -> Result<()> {
    config::current()?;
    match INITIALISED.compare_exchange(0, 1, Ordering::SeqCst, Ordering::SeqCst) {
        Ok(_) => Ok(()),
        Err(_) => {
            INITIALISED.fetch_add(1, Ordering::SeqCst);
            fail!(ACL_ERROR_REPEAT_INITIALIZE, "aclInit was called before in this process")
        }
    }
}

/// `aclFinalize`: lists what was not freed.
pub fn finalise() -> Result<()> {
    if INITIALISED.swap(0, Ordering::SeqCst) == 0 {
        fail!(
            ACL_ERROR_REPEAT_FINALIZE,
            "there is nothing to finalize: aclInit was not called, or aclFinalize was already"
        );
    }
    for leak in leaks() {
        eprintln!("[cann-sim] leak at aclFinalize: {leak}");
    }
    Ok(())
}

/// `aclFinalizeReference`: gives up one of the calls of aclInit; answers how many are left.
pub fn release_reference() -> Result<u64> {
    match INITIALISED.load(Ordering::SeqCst) {
        0 | 1 => finalise().map(|()| 0),
        _ => Ok(INITIALISED.fetch_sub(1, Ordering::SeqCst) - 1),
    }
}

/// One line for each kind of thing that is still allocated.
pub fn leaks() -> Vec<String> {
    let mut found = Vec::new();
    for device in 0..config::current().map_or(0, |config| config.devices) {
        let Some(arena) = memory::existing(device) else { continue };
        let blocks = arena.live();
        let total: u64 = blocks.iter().map(|block| block.size).sum();
        if !blocks.is_empty() {
            let first: Vec<_> = blocks.iter().take(8).map(|b| format!("{} ({} bytes)", b.serial, b.size)).collect();
            let more = if blocks.len() > 8 { ", …" } else { "" };
            found.push(format!("device {device}: {} blocks, {total} bytes: {}{more}", blocks.len(), first.join(", ")));
        }
    }
    let defaults = CONTEXTS.len();
    let counts = [
        ("streams", STREAMS.len().saturating_sub(defaults)),
        ("events", super::event::EVENTS.len()),
        ("page-locked host blocks", hostmem::live()),
        ("graphs", super::capture::GRAPHS.len()),
        ("communicators", crate::hccl::comm::live()),
    ];
    found.extend(counts.iter().filter(|(_, n)| *n > 0).map(|(what, n)| format!("{n} {what}")));
    found.extend(crate::aclnn::meta::leaks());
    found
}

/// Makes a context of `device`, not yet current anywhere.
pub fn create_context(device: u32) -> Result<Arc<Context>> {
    memory::arena(device)?;
    let default_stream = stream::create(device, 0, 0, 0)?;
    let default_handle = STREAMS.insert(default_stream.clone());
    let context = Arc::new(Context {
        handle: AtomicU64::new(0),
        device,
        default_stream,
        default_handle,
        alive: AtomicBool::new(true),
    });
    context.handle.store(CONTEXTS.insert(context.clone()), Ordering::Release);
    Ok(context)
}

/// `aclrtSetDevice`.
pub fn set_device(device: i32) -> Result<()> {
    let device = index(device)? as usize;
    let mut primary = primary();
    if primary.len() <= device {
        primary.resize_with(device + 1, || None);
    }
    let context = match &mut primary[device] {
        Some((context, count)) => {
            *count += 1;
            context.clone()
        }
        none => {
            let context = create_context(device as u32)?;
            *none = Some((context.clone(), 1));
            context
        }
    };
    make_current(Some(context));
    Ok(())
}

/// `aclrtResetDevice`: at the last reset of as many as there were sets, or when forced, everything of the device goes.
pub fn reset_device(device: i32, force: bool) -> Result<()> {
    let device = index(device)?;
    let mut primary = primary();
    let Some((context, count)) = primary.get_mut(device as usize).and_then(Option::as_mut) else {
        fail!(ACL_ERROR_RT_CONTEXT_NULL, "device {device} is not set, so there is nothing to reset");
    };
    *count -= 1;
    if *count > 0 && !force {
        return Ok(());
    }
    let context = context.clone();
    primary[device as usize] = None;
    drop(primary);
    let synchronised = synchronize(device, None);
    let guards = memory::arena(device)?.check_guards();
    stream::of_device(device).iter().for_each(|stream| stream.close());
    destroy(&context)?;
    memory::arena(device)?.reset();
    synchronised.and(guards)
}

/// Ends a context and its default stream.
pub fn destroy(context: &Arc<Context>) -> Result<()> {
    let drained = context.default_stream.synchronize(None);
    context.alive.store(false, Ordering::Release);
    CONTEXTS.remove(handles::pointer(context.handle.load(Ordering::Acquire)), ACL_ERROR_RT_PARAM_INVALID, "context")?;
    STREAMS.remove(handles::pointer(context.default_handle), ACL_ERROR_RT_PARAM_INVALID, "default stream")?;
    context.default_stream.close();
    drained
}

pub fn make_current(context: Option<Arc<Context>>) {
    CURRENT.with(|current| *current.borrow_mut() = context);
}

/// Whether `context` is a device's primary context.
pub fn is_primary(context: &Arc<Context>) -> bool {
    primary().iter().flatten().any(|(primary, _)| Arc::ptr_eq(primary, context))
}

/// Whether `aclrtSetDevice` holds device `device`.
pub fn is_set(device: u32) -> bool {
    primary().get(device as usize).is_some_and(Option::is_some)
}

/// The context of this thread.
pub fn current() -> Result<Arc<Context>> {
    match CURRENT.with(|current| current.borrow().clone()) {
        Some(context) if context.alive.load(Ordering::Acquire) => Ok(context),
        Some(_) => fail!(ACL_ERROR_RT_CONTEXT_NULL, "the context of this thread was destroyed or its device reset"),
        None => fail!(
            ACL_ERROR_RT_CONTEXT_NULL,
            "this thread has no context; call aclrtSetDevice or aclrtSetCurrentContext on it"
        ),
    }
}

/// The memory of this thread's device.
pub fn arena() -> Result<&'static Arena> {
    memory::arena(current()?.device)
}

/// The stream that `handle` names; null names the default stream. It must be a stream of this thread's context.
pub fn stream<H>(handle: *const H) -> Result<Arc<Stream>> {
    let context = current()?;
    if handle.is_null() {
        return Ok(context.default_stream.clone());
    }
    let stream = STREAMS.get(handle, ACL_ERROR_RT_PARAM_INVALID, "stream")?;
    let mine = context.handle.load(Ordering::Acquire);
    if stream.context != mine && !Arc::ptr_eq(&stream, &context.default_stream) {
        fail!(
            ACL_ERROR_RT_STREAM_CONTEXT,
            "stream {} belongs to another context (device {}) than this thread's (device {})",
            stream.id,
            stream.device,
            context.device
        );
    }
    Ok(stream)
}

/// Waits for every stream of `device`, and answers the first failure.
pub fn synchronize(device: u32, limit: Option<Duration>) -> Result<()> {
    stream::of_device(device).iter().map(|stream| stream.synchronize(limit)).fold(Ok(()), Result::and)
}

/// Pairs of devices whose memory the first may reach.
static PEERS: Mutex<Vec<(u32, u32)>> = Mutex::new(Vec::new());

/// Whether `device` may copy from and to `peer`.
pub fn is_peer(device: u32, peer: u32) -> bool {
    PEERS.lock().unwrap_or_else(|e| e.into_inner()).contains(&(device, peer))
}

/// Allows or forbids copies of `device` from and to `peer`.
pub fn set_peer(device: u32, peer: u32, allowed: bool) -> Result<()> {
    let mut peers = PEERS.lock().unwrap_or_else(|e| e.into_inner());
    peers.retain(|pair| *pair != (device, peer));
    if allowed {
        peers.push((device, peer));
    }
    Ok(())
}
