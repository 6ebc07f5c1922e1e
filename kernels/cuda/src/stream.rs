//! Streams and events of the driver, as far as collectives are ordered by them.

use crate::Error;
use crate::driver::{checked, function};
use std::ffi::{c_int, c_uint, c_void};
use std::ptr::null_mut;

/// A handle of the driver: a stream, an event or a context.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Handle(pub *mut c_void);

// SAFETY: the driver's handles may be used on any thread that has made the context current.
unsafe impl Send for Handle {}
// SAFETY: as above; the driver does the locking.
unsafe impl Sync for Handle {}

type Make = unsafe extern "C" fn(*mut *mut c_void, c_uint) -> c_int;
type Use = unsafe extern "C" fn(*mut c_void) -> c_int;
type Record = unsafe extern "C" fn(*mut c_void, *mut c_void) -> c_int;
type Wait = unsafe extern "C" fn(*mut c_void, *mut c_void, c_uint) -> c_int;
type GetContext = unsafe extern "C" fn(*mut *mut c_void) -> c_int;

/// Does not wait for the default stream, nor that one for it.
const NON_BLOCKING: c_uint = 1;
const DISABLE_TIMING: c_uint = 2;
const NOT_READY: c_int = 600;

fn made(call: &'static str, name: &'static std::ffi::CStr, flags: c_uint) -> Result<Handle, Error> {
    let mut handle = null_mut();
    // SAFETY: both functions of this type write one handle through a valid pointer.
    checked(call, unsafe { function::<Make>(name)(&mut handle, flags) })?;
    Ok(Handle(handle))
}

/// A mark in a stream.
#[derive(Debug)]
pub(crate) struct Event(Handle);

impl Event {
    /// In the context that is current on this thread.
    pub(crate) fn new() -> Result<Self, Error> {
        Ok(Self(made("cuEventCreate", c"cuEventCreate", DISABLE_TIMING)?))
    }

    /// Marks the end of what `stream` was given so far.
    pub(crate) fn record(&self, stream: Handle) -> Result<(), Error> {
        // SAFETY: both handles are alive.
        checked("cuEventRecord", unsafe { function::<Record>(c"cuEventRecord")(self.0.0, stream.0) })
    }

    /// Lets what `stream` is given from now on wait for the mark.
    pub(crate) fn hold_up(&self, stream: Handle) -> Result<(), Error> {
        // SAFETY: as above.
        checked("cuStreamWaitEvent", unsafe { function::<Wait>(c"cuStreamWaitEvent")(stream.0, self.0.0, 0) })
    }

    /// Whether the stream has come to the mark.
    pub(crate) fn is_over(&self) -> Result<bool, Error> {
        // SAFETY: the handle is alive.
        match unsafe { function::<Use>(c"cuEventQuery")(self.0.0) } {
            NOT_READY => Ok(false),
            code => checked("cuEventQuery", code).map(|()| true),
        }
    }
}

impl Drop for Event {
    fn drop(&mut self) {
        // The driver lets go of it when the stream has passed it. A failure means that the context is gone, and it with it.
        // SAFETY: made by this object, and not used after this.
        let _ = unsafe { function::<Use>(c"cuEventDestroy_v2")(self.0.0) };
    }
}

/// A stream of our own.
#[derive(Debug)]
pub(crate) struct Stream(pub Handle);

impl Stream {
    /// In the context that is current on this thread.
    pub(crate) fn new() -> Result<Self, Error> {
        Ok(Self(made("cuStreamCreate", c"cuStreamCreate", NON_BLOCKING)?))
    }

    pub(crate) fn synchronize(&self) -> Result<(), Error> {
        // SAFETY: the handle is alive.
        checked("cuStreamSynchronize", unsafe { function::<Use>(c"cuStreamSynchronize")(self.0.0) })
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        // As for events.
        // SAFETY: made by this object, and not used after this.
        let _ = unsafe { function::<Use>(c"cuStreamDestroy_v2")(self.0.0) };
    }
}

/// The context that is current on this thread.
pub(crate) fn context() -> Result<Handle, Error> {
    let mut context = null_mut();
    // SAFETY: writes one handle through a valid pointer.
    checked("cuCtxGetCurrent", unsafe { function::<GetContext>(c"cuCtxGetCurrent")(&mut context) })?;
    Ok(Handle(context))
}

/// Makes a context current on this thread.
pub(crate) fn enter(context: Handle) -> Result<(), Error> {
    // SAFETY: whoever has a stream of the context keeps it alive.
    checked("cuCtxSetCurrent", unsafe { function::<Use>(c"cuCtxSetCurrent")(context.0) })
}
