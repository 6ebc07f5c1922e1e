//! NCCL's functions, by their declarations in NCCL's documentation.

use super::error::{Error, Version};
use crate::entries::nccl::TABLE;
use crate::libraries::NCCL;
use crate::stream::Handle;
use std::ffi::{CStr, c_char, c_int, c_void};
use std::ptr::null_mut;

/// What rank 0 gives to the others, so that they find it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct UniqueId([u8; Self::BYTES]);

impl UniqueId {
    pub const BYTES: usize = 128;

    /// Opens a root on this host, which waits for the other ranks.
    ///
    /// # Errors
    /// NCCL is not there, is too old, or finds no network.
    pub fn new() -> Result<Self, Error> {
        loaded()?;
        let mut id = Self([0; Self::BYTES]);
        // SAFETY: the type is that of the interface, and the call fills the structure that it is given.
        let code = unsafe { TABLE.function::<unsafe extern "C" fn(*mut Self) -> c_int>(c"ncclGetUniqueId")(&mut id) };
        checked("ncclGetUniqueId", code, Handle(null_mut()))?;
        Ok(id)
    }

    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// What [`UniqueId::as_bytes`] gave on another rank; `None` when the length is another.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        Some(Self(bytes.try_into().ok()?))
    }
}

/// Element types, by NCCL's numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i32)]
pub enum Element {
    U8 = 1,
    I32 = 2,
    U32 = 3,
    I64 = 4,
    F16 = 6,
    F32 = 7,
    F64 = 8,
    BF16 = 9,
}

/// Reductions, by NCCL's numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i32)]
pub enum Fold {
    Sum = 0,
    Prod = 1,
    Max = 2,
    Min = 3,
}

/// The oldest release with all that is called here.
const OLDEST: Version = Version(21300);

/// Loads NCCL at the first call.
pub(super) fn loaded() -> Result<(), Error> {
    NCCL.path()?;
    let mut number: c_int = 0;
    // SAFETY: the type is that of the interface, and the pointer is to an integer that lives.
    let code = unsafe { TABLE.function::<unsafe extern "C" fn(*mut c_int) -> c_int>(c"ncclGetVersion")(&mut number) };
    checked("ncclGetVersion", code, Handle(null_mut()))?;
    match Version(number) {
        found if found < OLDEST => Err(Error::TooOld { found, wanted: OLDEST }),
        _ => Ok(()),
    }
}

/// An error unless `code` is success, with NCCL's own words for it.
pub(super) fn checked(call: &'static str, code: c_int, comm: Handle) -> Result<(), Error> {
    if code == 0 {
        return Ok(());
    }
    let text = match call {
        "ncclGetVersion" => std::ptr::null(),
        // SAFETY: the type is that of the interface, which takes no communicator as well. The function is there in all releases
        // that get so far, but for the call that finds the release out.
        _ => unsafe {
            TABLE.function::<unsafe extern "C" fn(*mut c_void) -> *const c_char>(c"ncclGetLastError")(comm.0)
        },
    };
    let said = match text.is_null() {
        true => String::new(),
        // SAFETY: the text is NUL-terminated and NCCL's own; it is copied at once.
        false => unsafe { CStr::from_ptr(text) }.to_string_lossy().trim().to_owned(),
    };
    let said = if said.is_empty() { said } else { format!("\n  NCCL says: {said}") };
    Err(Error::Code { call, code, said })
}

type Init = unsafe extern "C" fn(*mut *mut c_void, c_int, UniqueId, c_int) -> c_int;
type OnComm = unsafe extern "C" fn(*mut c_void) -> c_int;
type AsyncError = unsafe extern "C" fn(*mut c_void, *mut c_int) -> c_int;

/// Joins as `rank` of `size`; waits for the other ranks. The context of this rank's GPU is current.
pub(super) fn init(id: &UniqueId, rank: usize, size: usize) -> Result<Handle, Error> {
    let mut comm = null_mut();
    // SAFETY: the type is that of the interface; one handle is written.
    let code = unsafe { TABLE.function::<Init>(c"ncclCommInitRank")(&mut comm, size as c_int, *id, rank as c_int) };
    checked("ncclCommInitRank", code, Handle(null_mut()))?;
    Ok(Handle(comm))
}

/// The code of an asynchronous failure, 0 when there is none.
///
/// # Safety
/// `comm` is alive.
pub(super) unsafe fn async_error(comm: Handle) -> Result<c_int, Error> {
    let mut code = 0;
    // SAFETY: by the caller's promise; one number is written.
    let answer = unsafe { TABLE.function::<AsyncError>(c"ncclCommGetAsyncError")(comm.0, &mut code) };
    checked("ncclCommGetAsyncError", answer, comm).map(|()| code)
}

/// Ends what is under way and the communicator.
///
/// # Safety
/// `comm` is alive, and not used after this.
pub(super) unsafe fn abort(comm: Handle) {
    // There is nobody to tell of a failure: an abort follows one that is told.
    // SAFETY: by the caller's promise.
    let _ = unsafe { TABLE.function::<OnComm>(c"ncclCommAbort")(comm.0) };
}

/// Ends the communicator, of which nothing is under way.
///
/// # Safety
/// As [`abort`].
pub(super) unsafe fn destroy(comm: Handle) -> Result<(), Error> {
    // SAFETY: by the caller's promise.
    let code = unsafe { TABLE.function::<OnComm>(c"ncclCommDestroy")(comm.0) };
    checked("ncclCommDestroy", code, Handle(null_mut()))
}

/// One collective, with the addresses of device memory that it reads and writes. Counts are of elements.
#[derive(Clone, Copy, Debug)]
pub(super) enum Collective {
    AllReduce {
        from: u64,
        to: u64,
        count: usize,
        fold: Fold,
    },
    Broadcast {
        at: u64,
        count: usize,
        root: usize,
    },
    /// `count` is of what a rank gives.
    AllGather {
        from: u64,
        to: u64,
        count: usize,
    },
    /// `count` is of what a rank gets.
    ReduceScatter {
        from: u64,
        to: u64,
        count: usize,
        fold: Fold,
    },
}

type Reduce = unsafe extern "C" fn(u64, u64, usize, c_int, c_int, *mut c_void, *mut c_void) -> c_int;
type Gather = unsafe extern "C" fn(u64, u64, usize, c_int, *mut c_void, *mut c_void) -> c_int;

impl Collective {
    pub(super) fn name(&self) -> &'static str {
        match self {
            Self::AllReduce { .. } => "ncclAllReduce",
            Self::Broadcast { .. } => "ncclBroadcast",
            Self::AllGather { .. } => "ncclAllGather",
            Self::ReduceScatter { .. } => "ncclReduceScatter",
        }
    }

    /// Gives the call to `stream`; the status is NCCL's.
    ///
    /// # Safety
    /// `comm` and `stream` are alive, and the addresses are memory of its device that holds the elements until the call is over.
    pub(super) unsafe fn issue(&self, element: Element, comm: Handle, stream: Handle) -> c_int {
        let kind = element as c_int;
        // SAFETY: the types are those of the interface, in which a pointer to device memory is as wide as its address; the rest
        // is the caller's promise.
        unsafe {
            match *self {
                Self::AllReduce { from, to, count, fold } => {
                    TABLE.function::<Reduce>(c"ncclAllReduce")(from, to, count, kind, fold as c_int, comm.0, stream.0)
                }
                Self::Broadcast { at, count, root } => {
                    TABLE.function::<Reduce>(c"ncclBroadcast")(at, at, count, kind, root as c_int, comm.0, stream.0)
                }
                Self::AllGather { from, to, count } => {
                    TABLE.function::<Gather>(c"ncclAllGather")(from, to, count, kind, comm.0, stream.0)
                }
                Self::ReduceScatter { from, to, count, fold } => {
                    let call = TABLE.function::<Reduce>(c"ncclReduceScatter");
                    call(from, to, count, kind, fold as c_int, comm.0, stream.0)
                }
            }
        }
    }
}
