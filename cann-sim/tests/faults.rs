//! Faults that a test asks for. They hold for the whole process, so this is one test with one part after another.

use acl_sys::enums::*;
use acl_sys::error::*;
use acl_sys::loader::op;
use acl_sys::{Acl, Aclnn, SymbolSource};
use cann_sim::runtime::faults::{self, Plan};
use cann_sim::runtime::stats;
use cann_sim::{Config, Embedded};
use std::ffi::{CStr, c_void};
use std::ptr::{null, null_mut};
use std::sync::Arc;

fn message(acl: &Acl) -> String {
    // SAFETY: the answer is null or a text that lives until the next call on this thread.
    unsafe {
        let text = acl.aclGetRecentErrMsg().unwrap();
        if text.is_null() { String::new() } else { CStr::from_ptr(text).to_string_lossy().into_owned() }
    }
}

/// Allocates 64 bytes.
fn malloc(acl: &Acl) -> (i32, *mut c_void) {
    let mut pointer = null_mut();
    // SAFETY: the pointer is writable.
    (unsafe { acl.aclrtMalloc(&mut pointer, 64, ACL_MEM_MALLOC_HUGE_FIRST).unwrap() }, pointer)
}

/// Runs `aclnnNeg` in place on the 16 floats at `data`, and answers what the synchronisation says.
fn negate(acl: &Acl, aclnn: &Aclnn, data: *mut c_void) -> i32 {
    let shape = [16i64];
    let (mut size, mut executor) = (0, null_mut());
    let (first, second) = aclnn.pair::<op::Neg>().unwrap();
    // SAFETY: the pointers are valid where the callee does not check them.
    unsafe {
        let tensor = acl
            .aclCreateTensor(shape.as_ptr(), 1, ACL_FLOAT, null(), 0, ACL_FORMAT_ND, shape.as_ptr(), 1, data)
            .unwrap();
        assert_eq!(first(tensor, tensor, &mut size, &mut executor), 0, "{}", message(acl));
        assert_eq!(second(null_mut(), size, executor, null_mut()), 0, "{}", message(acl));
        assert_eq!(acl.aclDestroyTensor(tensor), Ok(0));
        acl.aclrtSynchronizeStream(null_mut()).unwrap()
    }
}

#[test]
fn faults_strike_where_they_were_asked_for() {
    let config = Config { memory: 1 << 20, devices: 1, ..Config::soc("910_9391").unwrap() };
    let source = Arc::new(Embedded::with(config.clone()).unwrap());
    assert!(source.describe().contains("1 x Ascend910_9391, 1 MiB each"), "{}", source.describe());
    let other = Embedded::with(Config { devices: 2, ..config.clone() }).unwrap_err();
    assert!(other.message.contains("a process simulates one machine"), "{}", other.message);
    assert!(Plan::parse("oom@x").unwrap_err().contains("oom@x"));

    let (acl, aclnn) = (Acl::new(source.clone()), Aclnn::new(source));
    // SAFETY: no pointers.
    assert_eq!(unsafe { acl.aclrtSetDevice(0) }, Ok(0));
    let (_, data) = malloc(&acl);

    faults::install(Plan::parse("oom@2").unwrap());
    let (one, two, three) = (malloc(&acl), malloc(&acl), malloc(&acl));
    assert_eq!((one.0, two.0, three.0), (0, ACL_ERROR_RT_MEMORY_ALLOCATION, 0));
    assert!(message(&acl).contains("oom@2"));

    let leaks = cann_sim::runtime::device::leaks();
    assert!(leaks.iter().any(|leak| leak.starts_with("device 0: 3 blocks, 192 bytes")), "{leaks:?}");

    faults::install(Plan::parse("op:aclnnNeg@2=507018").unwrap());
    let before = stats().launches.get("aclnnNeg").copied().unwrap_or(0);
    assert_eq!(negate(&acl, &aclnn, data), 0, "{}", message(&acl));
    assert_eq!(negate(&acl, &aclnn, data), ACL_ERROR_RT_AICPU_EXCEPTION);
    assert!(message(&acl).contains("aclnnNeg: launch 2 fails"));
    assert_eq!(negate(&acl, &aclnn, data), 0, "the stream goes on once its failure was told");
    assert_eq!(stats().launches["aclnnNeg"] - before, 3);

    faults::install(Plan::parse("slow_stream=30").unwrap());
    let begun = std::time::Instant::now();
    assert_eq!(negate(&acl, &aclnn, data), 0);
    assert!(begun.elapsed().as_millis() >= 30);
    // SAFETY: no pointers.
    assert_eq!(unsafe { acl.aclrtSetOpExecuteTimeOutWithMs(10) }, Ok(0));
    assert_eq!(negate(&acl, &aclnn, data), ACL_ERROR_RT_AICORE_TIMEOUT);

    faults::install(Plan::parse("device_lost@1").unwrap());
    assert_eq!(negate(&acl, &aclnn, data), ACL_ERROR_RT_LOST_HEARTBEAT);
    assert_eq!(malloc(&acl).0, ACL_ERROR_RT_LOST_HEARTBEAT);

    faults::install(Plan::default());
    assert_eq!(malloc(&acl).0, 0);
    let mut large = null_mut();
    // SAFETY: the pointer is writable.
    let code = unsafe { acl.aclrtMalloc(&mut large, 1 << 20, 0).unwrap() };
    assert_eq!(code, ACL_ERROR_RT_MEMORY_ALLOCATION);
    assert!(
        message(&acl).contains("1048576 bytes requested, 1046528 of 1048576 free, 4 live blocks"),
        "{}",
        message(&acl)
    );
}
