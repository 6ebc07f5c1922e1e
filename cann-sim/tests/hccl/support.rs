//! What the tests share: ranks as threads, their buffers, and what calls answer.

use acl_sys::Acl;
use acl_sys::enums::*;
use cann_sim::{Config, Embedded};
use hccl_sys::*;
use std::ffi::{CStr, c_void};
use std::mem::MaybeUninit;
use std::ptr::null_mut;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

struct Functions {
    acl: Acl,
    hccl: Hccl,
}

fn functions() -> &'static Functions {
    static FUNCTIONS: OnceLock<Functions> = OnceLock::new();
    FUNCTIONS.get_or_init(|| {
        let config = Config::from_env().unwrap();
        // A lock-up shall fail the test in a minute, not in half an hour.
        let limit = config.hccl_timeout.unwrap_or(Duration::from_secs(60));
        let source = Arc::new(Embedded::with(Config { hccl_timeout: Some(limit), ..config }).unwrap());
        Functions { acl: Acl::new(source.clone()), hccl: Hccl::new(source) }
    })
}

pub fn acl() -> &'static Acl {
    &functions().acl
}

pub fn hccl() -> &'static Hccl {
    &functions().hccl
}

/// The text of this thread's last failure.
pub fn message() -> String {
    // SAFETY: no arguments; the answer is null or a text that lives until the next call on this thread.
    let text = unsafe { acl().aclGetRecentErrMsg().unwrap() };
    if text.is_null() {
        return String::new();
    }
    // SAFETY: as above.
    unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned()
}

/// Asserts that a call succeeded.
#[track_caller]
pub fn ok(code: Result<i32, acl_sys::MissingSymbol>) {
    assert_eq!(code.unwrap(), 0, "{}", message());
}

/// Asserts that a call failed with `code`, and that the text says each of `parts`.
#[track_caller]
pub fn refused(got: Result<i32, acl_sys::MissingSymbol>, code: i32, parts: &[&str]) {
    let (got, text) = (got.unwrap(), message());
    assert_eq!(got, code, "{text}");
    says(&text, parts);
}

#[track_caller]
pub fn says(text: &str, parts: &[&str]) {
    for part in parts {
        assert!(text.contains(part), "{text:?} does not say {part:?}");
    }
}

/// A fresh root, as rank 0 makes it.
pub fn root_info() -> HcclRootInfo {
    let mut info = MaybeUninit::uninit();
    // SAFETY: writes the structure.
    unsafe {
        ok(hccl().HcclGetRootInfo(info.as_mut_ptr()));
        info.assume_init()
    }
}

/// A configuration that only limits how long collectives wait.
pub fn patience(seconds: i32) -> HcclCommConfig {
    HcclCommConfig { hcclExecTimeOut: seconds, ..HcclCommConfig::new(ConfigLayout::V10) }
}

/// Device memory that is freed when the test is done with it.
pub struct Buffer {
    pub data: *mut c_void,
    pub bytes: usize,
}

impl Buffer {
    pub fn of<T: Copy>(values: &[T]) -> Self {
        let bytes = size_of_val(values);
        let mut data = null_mut();
        // SAFETY: the pointers are valid for what is written and read.
        unsafe {
            ok(acl().aclrtMalloc(&mut data, bytes.max(1), ACL_MEM_MALLOC_HUGE_FIRST));
            if bytes > 0 {
                ok(acl().aclrtMemcpy(data, bytes, values.as_ptr().cast(), bytes, ACL_MEMCPY_HOST_TO_DEVICE));
            }
        }
        Self { data, bytes }
    }

    pub fn room<T: Copy + Default>(count: usize) -> Self {
        Self::of(&vec![T::default(); count])
    }

    pub fn values<T: Copy + Default>(&self) -> Vec<T> {
        let mut values = vec![T::default(); self.bytes / size_of::<T>()];
        if self.bytes > 0 {
            // SAFETY: the destination has that many bytes.
            unsafe {
                let to = values.as_mut_ptr().cast();
                ok(acl().aclrtMemcpy(to, self.bytes, self.data, self.bytes, ACL_MEMCPY_DEVICE_TO_HOST));
            }
        }
        values
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            // SAFETY: the memory is alive until here.
            unsafe { ok(acl().aclrtFree(self.data)) };
        }
    }
}

/// One rank: its communicator, its stream and its place.
#[derive(Clone, Copy)]
pub struct Rank {
    pub comm: HcclComm,
    pub stream: *mut c_void,
    pub rank: usize,
}

impl Rank {
    /// Joins as rank `rank`, on the device of that number.
    pub fn join(info: &HcclRootInfo, rank: usize, size: usize, config: Option<&HcclCommConfig>) -> Self {
        let mut comm = null_mut();
        let stream = Self::device(rank);
        // SAFETY: all pointers are valid.
        unsafe {
            match config {
                None => ok(hccl().HcclCommInitRootInfo(size as u32, info, rank as u32, &mut comm)),
                Some(config) => {
                    ok(hccl().HcclCommInitRootInfoConfig(size as u32, info, rank as u32, config, &mut comm))
                }
            }
        }
        Self { comm, stream, rank }
    }

    /// Makes device `device` current and answers a stream of it.
    pub fn device(device: usize) -> *mut c_void {
        let mut stream = null_mut();
        // SAFETY: writes one handle.
        unsafe {
            ok(acl().aclrtSetDevice(device as i32));
            ok(acl().aclrtCreateStream(&mut stream));
        }
        stream
    }

    /// Waits for the stream.
    #[track_caller]
    pub fn done(&self) {
        // SAFETY: handles are checked by the callee.
        unsafe { ok(acl().aclrtSynchronizeStream(self.stream)) };
    }

    /// Waits for the stream, which must have failed: its code and text.
    pub fn failed(&self) -> (i32, String) {
        // SAFETY: handles are checked by the callee.
        let code = unsafe { acl().aclrtSynchronizeStream(self.stream).unwrap() };
        (code, message())
    }

    pub fn async_error(&self) -> i32 {
        let mut error = -1;
        // SAFETY: writes one code.
        unsafe { ok(hccl().HcclGetCommAsyncError(self.comm, &mut error)) };
        error
    }

    pub fn leave(self) {
        // SAFETY: handles are checked by the callee.
        unsafe {
            ok(hccl().HcclCommDestroy(self.comm));
            ok(acl().aclrtDestroyStream(self.stream));
        }
    }
}

/// Runs `work` as each of `size` ranks, one a thread, and answers what they answered, by rank.
pub fn ranks<T: Send>(size: usize, work: impl Fn(Rank) -> T + Sync) -> Vec<T> {
    configured(size, None, work)
}

/// As [`ranks`], with a configuration.
pub fn configured<T: Send>(size: usize, config: Option<HcclCommConfig>, work: impl Fn(Rank) -> T + Sync) -> Vec<T> {
    let info = root_info();
    std::thread::scope(|scope| {
        let run = |rank| {
            let (info, config, work) = (&info, &config, &work);
            scope.spawn(move || {
                let rank = Rank::join(info, rank, size, config.as_ref());
                let answer = work(rank);
                rank.leave();
                answer
            })
        };
        let threads: Vec<_> = (0..size).map(run).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    })
}

/// Numbers that look random and are the same in every run.
pub fn noise(seed: usize) -> impl FnMut() -> u64 {
    let mut state = (seed as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    }
}
