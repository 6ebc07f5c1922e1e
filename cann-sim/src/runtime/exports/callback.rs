//! Host functions that a stream runs in its order, and callbacks that a subscribed host thread runs.

use crate::runtime::device;
use crate::runtime::memory::Site;
use crate::runtime::stream::{Stream, Task, Work};
use crate::status::Result;
use crate::{ensure, fail};
use acl_sys::error::*;
use acl_sys::*;
use std::collections::HashMap;
use std::ffi::c_void;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::Duration;

/// A function of the caller and its argument.
#[derive(Clone, Copy)]
struct Call {
    function: unsafe extern "C" fn(*mut c_void),
    argument: *mut c_void,
}

// SAFETY: whoever passes a callback to the runtime promises that it may run on another thread.
unsafe impl Send for Call {}
// SAFETY: as above.
unsafe impl Sync for Call {}

impl Call {
    fn run(&self) {
        // SAFETY: the interface asks that function and argument stay valid until the stream got there.
        unsafe { (self.function)(self.argument) }
    }
}

/// What streams have ready for one host thread.
#[derive(Default)]
struct Inbox {
    calls: Vec<(Call, Arc<Done>)>,
}

#[derive(Default)]
struct Done {
    flag: Mutex<bool>,
    signal: Condvar,
}

static INBOXES: Mutex<Option<HashMap<u64, Inbox>>> = Mutex::new(None);
static ARRIVED: Condvar = Condvar::new();

fn inboxes() -> MutexGuard<'static, Option<HashMap<u64, Inbox>>> {
    INBOXES.lock().unwrap_or_else(|e| e.into_inner())
}

/// Number of this thread, as the caller's `pthread_self` gives it.
fn this_thread() -> u64 {
    // SAFETY: the function has no preconditions.
    unsafe { libc::pthread_self() as u64 }
}

fn subscribe(thread: u64, stream: aclrtStream) -> Result<()> {
    let stream = device::stream(stream)?;
    let mut subscriber = stream.subscriber.lock().unwrap_or_else(|e| e.into_inner());
    ensure!(subscriber.is_none(), ACL_ERROR_RT_STREAM_SUBSCRIBE, "stream {} has a subscriber already", stream.id);
    *subscriber = Some(thread);
    inboxes().get_or_insert_default().entry(thread).or_default();
    Ok(())
}

fn unsubscribe(thread: u64, stream: aclrtStream) -> Result<()> {
    let stream = device::stream(stream)?;
    let mut subscriber = stream.subscriber.lock().unwrap_or_else(|e| e.into_inner());
    ensure!(
        *subscriber == Some(thread),
        ACL_ERROR_RT_THREAD_SUBSCRIBE,
        "thread {thread:#x} is not subscribed to stream {}",
        stream.id
    );
    *subscriber = None;
    Ok(())
}

fn process(timeout: i32) -> Result<()> {
    let me = this_thread();
    let limit = super::context::limit(timeout)?;
    let guard = inboxes();
    ensure!(
        guard.as_ref().is_some_and(|boxes| boxes.contains_key(&me)),
        ACL_ERROR_RT_THREAD_SUBSCRIBE,
        "this thread is not subscribed to any stream"
    );
    let empty = |boxes: &mut Option<HashMap<u64, Inbox>>| {
        boxes.as_ref().and_then(|b| b.get(&me)).is_none_or(|b| b.calls.is_empty())
    };
    let mut guard = match limit {
        None => ARRIVED.wait_while(guard, empty).unwrap_or_else(|e| e.into_inner()),
        Some(limit) => ARRIVED.wait_timeout_while(guard, limit, empty).unwrap_or_else(|e| e.into_inner()).0,
    };
    let calls = guard
        .as_mut()
        .and_then(|boxes| boxes.get_mut(&me))
        .map_or(Vec::new(), |inbox| std::mem::take(&mut inbox.calls));
    drop(guard);
    ensure!(
        !calls.is_empty(),
        ACL_ERROR_RT_REPORT_TIMEOUT,
        "no stream had a callback for this thread within {timeout} ms"
    );
    for (call, done) in calls {
        call.run();
        *done.flag.lock().unwrap_or_else(|e| e.into_inner()) = true;
        done.signal.notify_all();
    }
    Ok(())
}

/// Puts a callback for a subscribed thread into the stream; a blocking one holds the stream until the thread ran it.
fn launch(stream: &Stream, thread: u64, call: Call, block: bool) {
    let work: Work = Arc::new(move |_: &Site| {
        let done = Arc::new(Done::default());
        inboxes().get_or_insert_default().entry(thread).or_default().calls.push((call, done.clone()));
        ARRIVED.notify_all();
        if block {
            let flag = done.flag.lock().unwrap_or_else(|e| e.into_inner());
            let limit = Duration::from_secs(600);
            let (flag, _) =
                done.signal.wait_timeout_while(flag, limit, |done| !*done).unwrap_or_else(|e| e.into_inner());
            ensure!(
                *flag,
                ACL_ERROR_RT_REPORT_TIMEOUT,
                "no thread ran a blocking callback within {} s",
                limit.as_secs()
            );
        }
        Ok(())
    });
    stream.issue("aclrtLaunchCallback", |_| Task::Always(work));
}

export! {
    fn aclrtSubscribeReport(thread_id: u64, stream: aclrtStream) { subscribe(thread_id, stream) }

    fn aclrtUnSubscribeReport(thread_id: u64, stream: aclrtStream) { unsubscribe(thread_id, stream) }

    fn aclrtSubscribeHostFunc(host_func_thread_id: u64, exe_stream: aclrtStream) { subscribe(host_func_thread_id, exe_stream) }

    fn aclrtUnSubscribeHostFunc(host_func_thread_id: u64, exe_stream: aclrtStream) { unsubscribe(host_func_thread_id, exe_stream) }

    /// Waits for callbacks of the streams that this thread subscribed to, and runs them.
    fn aclrtProcessReport(timeout: i32) { process(timeout) }

    fn aclrtProcessHostFunc(timeout: i32) { process(timeout) }

    /// Has the subscribed thread run a function when the stream gets there.
    fn aclrtLaunchCallback(fn_: aclrtCallback, user_data: *mut c_void, block_type: aclrtCallbackBlockType, stream: aclrtStream) {
        let Some(function) = fn_ else { fail!(ACL_ERROR_INVALID_PARAM, "fn is null") };
        let stream = device::stream(stream)?;
        stream.not_capturing("aclrtLaunchCallback")?;
        let block = match block_type {
            ACL_CALLBACK_NO_BLOCK => false,
            ACL_CALLBACK_BLOCK => true,
            other => fail!(ACL_ERROR_RT_PARAM_INVALID, "{other} is no block type"),
        };
        let Some(thread) = *stream.subscriber.lock().unwrap_or_else(|e| e.into_inner()) else {
            fail!(ACL_ERROR_RT_STREAM_NO_CB_REG, "stream {} has no subscriber; call aclrtSubscribeReport first", stream.id);
        };
        launch(&stream, thread, Call { function, argument: user_data }, block);
        Ok(())
    }

    /// Runs a function on the stream's own thread when the stream gets there.
    fn aclrtLaunchHostFunc(stream: aclrtStream, fn_: aclrtHostFunc, args: *mut c_void) {
        let Some(function) = fn_ else { fail!(ACL_ERROR_INVALID_PARAM, "fn is null") };
        let stream = device::stream(stream)?;
        stream.not_capturing("aclrtLaunchHostFunc")?;
        let call = Call { function, argument: args };
        let work: Work = Arc::new(move |_: &Site| {
            call.run();
            Ok(())
        });
        stream.issue("aclrtLaunchHostFunc", |_| Task::Always(work));
        Ok(())
    }

    /// Accepts only null, which ends the callbacks that nothing started: the simulator reports failures as errors.
    fn aclrtSetExceptionInfoCallback(callback: aclrtExceptionInfoCallback) {
        ensure!(callback.is_none(), ACL_ERROR_RT_FEATURE_NOT_SUPPORT, "the simulated CANN calls no exception callback; synchronise and read the error");
        Ok(())
    }
}
