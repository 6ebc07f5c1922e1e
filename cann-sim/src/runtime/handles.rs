//! Handles: numbers that no memory answers to, each naming one live object of one kind.

use crate::ensure;
use crate::fail;
use crate::status::Result;
use acl_sys::error::{ACL_ERROR_INVALID_PARAM, ACLNN_ERR_PARAM_INVALID, ACLNN_ERR_PARAM_NULLPTR};
use std::collections::HashMap;
use std::ffi::c_void;
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard};

/// What a handle stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    Context = 1,
    Stream,
    Event,
    Tensor,
    TensorList,
    Scalar,
    ScalarList,
    IntArray,
    BoolArray,
    FloatArray,
    Executor,
    Graph,
    Binary,
    BinaryData,
    Function,
    Physical,
    Communicator,
    Arguments,
}

const KINDS: [&str; 19] = [
    "nothing",
    "context",
    "stream",
    "event",
    "tensor",
    "tensor list",
    "scalar",
    "scalar list",
    "int array",
    "bool array",
    "float array",
    "executor",
    "graph",
    "loaded binary",
    "binary data",
    "function",
    "physical memory",
    "communicator",
    "list of kernel arguments",
];

/// Bits 48 and up: not a canonical address, so a caller that dereferences a handle faults at once.
const MARK: u64 = 0x5C00 << 48;

fn kind_name(handle: u64) -> Option<&'static str> {
    let tag = (handle >> 40) & 0xFF;
    (handle & (0xFFFF << 48) == MARK).then(|| KINDS.get(tag as usize).copied()).flatten()
}

/// Handles are already spread evenly, so their hash is their number.
#[derive(Default)]
pub struct Identity(u64);

impl Hasher for Identity {
    fn finish(&self) -> u64 {
        self.0
    }
    fn write(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.0 = self.0.rotate_left(8) ^ byte as u64;
        }
    }
    fn write_u64(&mut self, value: u64) {
        self.0 = value.wrapping_mul(0x9E37_79B9_7F4A_7C15);
    }
}

type Map<T> = HashMap<u64, T, BuildHasherDefault<Identity>>;

/// The live objects of one kind. Numbers are never used twice, so a number below the next one that names nothing has
/// named something that was destroyed.
pub struct Table<T> {
    kind: Kind,
    next: AtomicU64,
    live: Mutex<Map<T>>,
}

impl<T> Table<T> {
    pub const fn new(kind: Kind) -> Self {
        Self { kind, next: AtomicU64::new(1), live: Mutex::new(HashMap::with_hasher(BuildHasherDefault::new())) }
    }

    fn live(&self) -> MutexGuard<'_, Map<T>> {
        self.live.lock().unwrap_or_else(|e| e.into_inner())
    }

    fn tag(&self) -> u64 {
        MARK | (self.kind as u64) << 40
    }

    /// Keeps `value` and names it.
    pub fn insert(&self, value: T) -> u64 {
        let handle = self.tag() | self.next.fetch_add(1, Ordering::Relaxed);
        self.live().insert(handle, value);
        handle
    }

    /// Forgets the object and gives it back.
    pub fn remove<H>(&self, handle: *const H, code: i32, what: &str) -> Result<T> {
        let removed = self.live().remove(&(handle as u64));
        removed.map_or_else(|| self.explain(handle as u64, code, what), Ok)
    }

    /// Runs `look` on the object.
    pub fn with<H, R>(&self, handle: *const H, code: i32, what: &str, look: impl FnOnce(&mut T) -> R) -> Result<R> {
        if let Some(value) = self.live().get_mut(&(handle as u64)) {
            return Ok(look(value));
        }
        self.explain(handle as u64, code, what)
    }

    /// Why `handle` names no live object of this kind.
    fn explain<R>(&self, handle: u64, code: i32, what: &str) -> Result<R> {
        let wanted = KINDS[self.kind as usize];
        let null = if code == ACLNN_ERR_PARAM_INVALID { ACLNN_ERR_PARAM_NULLPTR } else { ACL_ERROR_INVALID_PARAM };
        ensure!(handle != 0, null, "{what} is null, wanted a {wanted}");
        match kind_name(handle) {
            Some(name) if name == wanted && handle & ((1 << 40) - 1) < self.next.load(Ordering::Relaxed) => {
                fail!(code, "{what} is {wanted} {} which was destroyed", handle & ((1 << 40) - 1))
            }
            Some(name) if name != wanted => fail!(code, "{what} is the handle of a {name}, wanted a {wanted}"),
            _ => fail!(code, "{what} is {handle:#x}, which is no handle of a {wanted}"),
        }
    }

    /// The oldest live object that fits.
    pub fn handle_of(&self, fits: impl Fn(&T) -> bool) -> Option<u64> {
        self.live().iter().filter(|(_, value)| fits(value)).map(|(&handle, _)| handle).min()
    }

    /// Number of live objects.
    pub fn len(&self) -> usize {
        self.live().len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The live objects, in order of their creation.
    pub fn all(&self) -> Vec<T>
    where
        T: Clone,
    {
        let live = self.live();
        let mut found: Vec<_> = live.iter().map(|(&handle, value)| (handle, value.clone())).collect();
        found.sort_unstable_by_key(|&(handle, _)| handle);
        found.into_iter().map(|(_, value)| value).collect()
    }
}

impl<T: Clone> Table<T> {
    /// The object itself.
    pub fn get<H>(&self, handle: *const H, code: i32, what: &str) -> Result<T> {
        self.with(handle, code, what, |value| value.clone())
    }
}

/// The handle as the C interface passes it.
pub fn pointer(handle: u64) -> *mut c_void {
    std::ptr::without_provenance_mut(handle as usize)
}
