//! The two phases of an operator.

use crate::support::*;
use acl_sys::enums::*;
use acl_sys::error::*;
use acl_sys::types::*;
use acl_sys::{Aclnn, loader::op};
use cann_sim::{Config, Embedded};
use std::ffi::c_void;
use std::ptr::{null, null_mut};
use std::sync::Arc;

/// A vector of floats on the device, and its tensor.
struct Vector {
    data: *mut c_void,
    tensor: *mut aclTensor,
}

fn vector(acl: &acl_sys::Acl, values: &[f32]) -> Vector {
    let shape = [values.len() as i64];
    let data = malloc(acl, size_of_val(values));
    upload(acl, data, values);
    // SAFETY: one dimension is passed.
    let tensor = unsafe {
        acl.aclCreateTensor(shape.as_ptr(), 1, ACL_FLOAT, null(), 0, ACL_FORMAT_ND, shape.as_ptr(), 1, data).unwrap()
    };
    Vector { data, tensor }
}

impl Vector {
    fn drop(self, acl: &acl_sys::Acl) {
        // SAFETY: the tensor lives until here.
        assert_eq!(unsafe { acl.aclDestroyTensor(self.tensor) }, Ok(0));
        free(acl, self.data);
    }
}

fn operators() -> Aclnn {
    Aclnn::new(Arc::new(Embedded::with(Config::default()).unwrap()))
}

#[test]
fn an_executor_serves_one_launch() {
    let acl = acl(4);
    let (first, second) = operators().pair::<op::Mul>().unwrap();
    let stream = stream(acl);
    let (a, b, out) = (vector(acl, &[1., 2., 3.]), vector(acl, &[4., 5., 6.]), vector(acl, &[0.; 3]));
    let (mut size, mut executor) = (0, null_mut());
    // SAFETY: handles are checked by the callee, the pointers are writable.
    unsafe {
        refused(acl, second(null_mut(), 0, null_mut(), stream), ACLNN_ERR_PARAM_NULLPTR, &["executor is null"]);
        assert_eq!(first(a.tensor, b.tensor, out.tensor, &mut size, &mut executor), 0, "{}", message(acl));
        assert_eq!(second(null_mut(), size, executor, stream), 0, "{}", message(acl));
        refused(
            acl,
            second(null_mut(), size, executor, stream),
            ACLNN_ERR_PARAM_INVALID,
            &["was destroyed", "aclSetAclOpExecutorRepeatable"],
        );
        synchronize(acl, stream);
        assert_eq!(download::<f32>(acl, out.data, 3), [4., 10., 18.]);
        assert_eq!(acl.aclrtDestroyStream(stream), Ok(0));
    }
    [a, b, out].into_iter().for_each(|v| v.drop(acl));
}

#[test]
fn a_repeatable_executor_takes_new_addresses() {
    let acl = acl(4);
    let (first, second) = operators().pair::<op::Mul>().unwrap();
    let stream = stream(acl);
    let (a, b, out) = (vector(acl, &[1., 2.]), vector(acl, &[3., 4.]), vector(acl, &[0.; 2]));
    let other = vector(acl, &[10., 20.]);
    let (mut size, mut executor) = (0, null_mut());
    // SAFETY: handles are checked by the callee, the pointers are writable.
    unsafe {
        assert_eq!(first(a.tensor, b.tensor, out.tensor, &mut size, &mut executor), 0);
        let code = acl.aclSetInputTensorAddr(executor, 1, b.tensor, other.data).unwrap();
        refused(acl, code, ACLNN_ERR_PARAM_INVALID, &["not made repeatable"]);
        assert_eq!(acl.aclSetAclOpExecutorRepeatable(executor), Ok(0));
        assert_eq!(second(null_mut(), size, executor, stream), 0);
        synchronize(acl, stream);
        assert_eq!(download::<f32>(acl, out.data, 2), [3., 8.]);
        assert_eq!(acl.aclSetInputTensorAddr(executor, 1, b.tensor, other.data), Ok(0));
        assert_eq!(second(null_mut(), size, executor, stream), 0);
        synchronize(acl, stream);
        assert_eq!(download::<f32>(acl, out.data, 2), [10., 40.]);
        refused(
            acl,
            acl.aclSetOutputTensorAddr(executor, 1, out.tensor, out.data).unwrap(),
            ACLNN_ERR_PARAM_INVALID,
            &["no output 1"],
        );
        assert_eq!(acl.aclDestroyAclOpExecutor(executor), Ok(0));
        refused(acl, acl.aclDestroyAclOpExecutor(executor).unwrap(), ACLNN_ERR_PARAM_INVALID, &["was destroyed"]);
        assert_eq!(acl.aclrtDestroyStream(stream), Ok(0));
    }
    [a, b, out, other].into_iter().for_each(|v| v.drop(acl));
}

#[test]
fn a_tensor_that_is_freed_too_early_is_named_with_its_operator() {
    let acl = acl(4);
    let (first, second) = operators().pair::<op::Mul>().unwrap();
    let stream = stream(acl);
    let (a, b, out) = (vector(acl, &[1.; 64]), vector(acl, &[2.; 64]), vector(acl, &[0.; 64]));
    let (mut size, mut executor) = (0, null_mut());
    // SAFETY: handles are checked by the callee, the pointers are writable.
    unsafe {
        hold(acl, stream, 20);
        assert_eq!(first(a.tensor, b.tensor, out.tensor, &mut size, &mut executor), 0);
        assert_eq!(second(null_mut(), size, executor, stream), 0);
        refused(
            acl,
            acl.aclrtFree(a.data).unwrap(),
            ACL_ERROR_RT_PARAM_INVALID,
            &["aclnnMul (task 2 of stream", "aclrtFree"],
        );
        synchronize(acl, stream);
    }
    // SAFETY: as above.
    unsafe {
        // A view that reaches past its block is found when the operator runs, with the parameter's name.
        let shape = [65i64];
        let long = |data| {
            acl.aclCreateTensor(shape.as_ptr(), 1, ACL_FLOAT, null(), 0, ACL_FORMAT_ND, shape.as_ptr(), 1, data)
                .unwrap()
        };
        let (x, y, z) = (long(a.data), long(b.data), long(out.data));
        assert_eq!(first(x, y, z, &mut size, &mut executor), 0);
        assert_eq!(second(null_mut(), size, executor, stream), 0);
        let code = acl.aclrtSynchronizeStream(stream).unwrap();
        refused(acl, code, ACL_ERROR_RT_PARAM_INVALID, &["aclnnMul: self_", "260 bytes", "run 4 bytes over"]);
        assert_eq!(acl.aclrtSynchronizeStream(stream), Ok(0), "a failure is told once");
        for tensor in [x, y, z] {
            assert_eq!(acl.aclDestroyTensor(tensor), Ok(0));
        }
        assert_eq!(acl.aclrtDestroyStream(stream), Ok(0));
    }
    [a, b, out].into_iter().for_each(|v| v.drop(acl));
}

#[test]
fn operators_on_two_streams_race_unless_an_event_orders_them() {
    let acl = acl(4);
    let (first, second) = operators().pair::<op::Mul>().unwrap();
    let streams = [stream(acl), stream(acl)];
    let event = event(acl);
    let (a, b, out) = (vector(acl, &[1.; 16]), vector(acl, &[2.; 16]), vector(acl, &[0.; 16]));
    let (mut size, mut executor) = (0, null_mut());
    // SAFETY: handles are checked by the callee, the pointers are writable.
    unsafe {
        for ordered in [false, true] {
            assert_eq!(first(a.tensor, b.tensor, out.tensor, &mut size, &mut executor), 0);
            assert_eq!(second(null_mut(), size, executor, streams[0]), 0);
            if ordered {
                assert_eq!(acl.aclrtRecordEvent(event, streams[0]), Ok(0));
                assert_eq!(acl.aclrtStreamWaitEvent(streams[1], event), Ok(0));
            }
            assert_eq!(first(out.tensor, b.tensor, out.tensor, &mut size, &mut executor), 0);
            assert_eq!(second(null_mut(), size, executor, streams[1]), 0);
            let codes = streams.map(|stream| {
                let code = acl.aclrtSynchronizeStream(stream).unwrap();
                (code, message(acl))
            });
            match codes.iter().find(|(code, _)| *code != 0) {
                None => assert!(ordered, "the race was not found"),
                Some((code, text)) => {
                    assert!(!ordered, "{text}");
                    assert_eq!(*code, ACL_ERROR_RT_AICORE_EXCEPTION);
                    assert_eq!(text.matches("aclnnMul (task").count(), 2, "both sites are named: {text}");
                }
            }
        }
        assert_eq!(download::<f32>(acl, out.data, 16), [4.; 16]);
        assert_eq!(acl.aclrtDestroyEvent(event), Ok(0));
        streams.iter().for_each(|&stream| assert_eq!(acl.aclrtDestroyStream(stream), Ok(0)));
    }
    [a, b, out].into_iter().for_each(|v| v.drop(acl));
}

#[test]
fn a_first_phase_needs_a_device() {
    let acl = acl(4);
    let (first, _) = operators().pair::<op::Mul>().unwrap();
    std::thread::spawn(move || {
        let (mut size, mut executor) = (0, null_mut());
        // SAFETY: the pointers are writable.
        let code = unsafe { first(null(), null(), null_mut(), &mut size, &mut executor) };
        refused(acl, code, ACLNN_ERR_RUNTIME_ERROR, &["needs a device", "aclrtSetDevice"]);
    })
    .join()
    .unwrap();
}
