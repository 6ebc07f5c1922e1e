use crate::support::*;
use acl_sys::enums::*;
use acl_sys::error::*;
use std::ptr::{null, null_mut};

#[test]
fn handles_have_lives_and_kinds() {
    let acl = acl(0);
    let (stream, event) = (stream(acl), event(acl));
    // SAFETY: handles are checked by the callee.
    unsafe {
        refused(
            acl,
            acl.aclrtDestroyEvent(stream).unwrap(),
            ACL_ERROR_RT_PARAM_INVALID,
            &["handle of a stream", "wanted a event"],
        );
        assert_eq!(acl.aclrtDestroyEvent(event), Ok(0));
        refused(acl, acl.aclrtDestroyEvent(event).unwrap(), ACL_ERROR_RT_PARAM_INVALID, &["was destroyed"]);
        refused(acl, acl.aclrtRecordEvent(event, stream).unwrap(), ACL_ERROR_RT_PARAM_INVALID, &["was destroyed"]);
        assert_eq!(acl.aclrtDestroyStream(stream), Ok(0));
        refused(acl, acl.aclrtSynchronizeStream(stream).unwrap(), ACL_ERROR_RT_PARAM_INVALID, &["was destroyed"]);
        let stray = std::ptr::without_provenance_mut(0x1234);
        refused(acl, acl.aclrtSynchronizeStream(stray).unwrap(), ACL_ERROR_RT_PARAM_INVALID, &["0x1234", "no handle"]);
        refused(acl, acl.aclrtDestroyEvent(null_mut()).unwrap(), ACL_ERROR_INVALID_PARAM, &["null"]);
    }
}

#[test]
fn tensors_tell_what_they_were_told() {
    let acl = acl(0);
    let (shape, strides, storage) = ([2i64, 3], [1i64, 2], [6i64]);
    // SAFETY: the arrays have the lengths that are passed; what is read back is freed once.
    unsafe {
        let tensor = acl
            .aclCreateTensor(
                shape.as_ptr(),
                2,
                ACL_FLOAT16,
                strides.as_ptr(),
                4,
                ACL_FORMAT_ND,
                storage.as_ptr(),
                1,
                null_mut(),
            )
            .unwrap();
        assert!(!tensor.is_null(), "{}", message(acl));
        let (mut dims, mut rank, mut dtype, mut offset) = (null_mut(), 0, 0, 0);
        assert_eq!(acl.aclGetViewShape(tensor, &mut dims, &mut rank), Ok(0));
        assert_eq!(std::slice::from_raw_parts(dims, rank as usize), shape);
        libc::free(dims.cast());
        assert_eq!(acl.aclGetViewStrides(tensor, &mut dims, &mut rank), Ok(0));
        assert_eq!(std::slice::from_raw_parts(dims, rank as usize), strides);
        libc::free(dims.cast());
        assert_eq!((acl.aclGetDataType(tensor, &mut dtype), dtype), (Ok(0), ACL_FLOAT16));
        assert_eq!((acl.aclGetViewOffset(tensor, &mut offset), offset), (Ok(0), 4));
        assert_eq!(acl.aclDestroyTensor(tensor), Ok(0));
        refused(acl, acl.aclDestroyTensor(tensor).unwrap(), ACLNN_ERR_PARAM_INVALID, &["was destroyed"]);
        refused(acl, acl.aclDestroyTensor(null()).unwrap(), ACLNN_ERR_PARAM_NULLPTR, &["null"]);
        let unknown = acl
            .aclCreateTensor(shape.as_ptr(), 2, 99, null(), 0, ACL_FORMAT_ND, storage.as_ptr(), 1, null_mut())
            .unwrap();
        assert!(unknown.is_null() && message(acl).contains("data type 99"));
    }
}

#[test]
fn a_list_owns_its_tensors() {
    let acl = acl(0);
    let shape = [4i64];
    // SAFETY: the arrays have the lengths that are passed.
    unsafe {
        let make = || {
            acl.aclCreateTensor(shape.as_ptr(), 1, ACL_FLOAT, null(), 0, ACL_FORMAT_ND, shape.as_ptr(), 1, null_mut())
                .unwrap()
                .cast_const()
        };
        let tensors = [make(), make()];
        let list = acl.aclCreateTensorList(tensors.as_ptr(), 2).unwrap();
        let mut size = 0;
        assert_eq!((acl.aclGetTensorListSize(list, &mut size), size), (Ok(0), 2));
        assert_eq!(acl.aclDestroyTensorList(list), Ok(0));
        refused(acl, acl.aclDestroyTensor(tensors[0]).unwrap(), ACLNN_ERR_PARAM_INVALID, &["was destroyed"]);
    }
}

#[test]
fn a_thread_without_a_context_is_told_so() {
    let acl = acl(0);
    std::thread::spawn(move || {
        let mut pointer = null_mut();
        // SAFETY: the pointers are writable.
        unsafe {
            let code = acl.aclrtMalloc(&mut pointer, 64, 0).unwrap();
            refused(acl, code, ACL_ERROR_RT_CONTEXT_NULL, &["aclrtSetDevice"]);
            assert_eq!(acl.aclrtGetLastError(0), Ok(ACL_ERROR_RT_CONTEXT_NULL));
            assert_eq!(acl.aclrtGetLastError(0), Ok(0), "reading forgets");
            refused(acl, acl.aclrtSetDevice(8).unwrap(), ACL_ERROR_RT_INVALID_DEVICEID, &["device 8", "there are 8"]);
        }
    })
    .join()
    .unwrap();
}
