//! What a launch costs the host, so that the simulator does not hide what a backend wastes.

use crate::support::*;
use acl_sys::enums::*;
use acl_sys::{Aclnn, loader::op};
use cann_sim::{Config, Embedded};
use std::ptr::{null, null_mut};
use std::sync::Arc;
use std::time::Instant;

#[test]
fn a_launch_costs_microseconds() {
    const LAUNCHES: u32 = 20_000;
    let acl = acl(1);
    let aclnn = Aclnn::new(Arc::new(Embedded::with(Config::default()).unwrap()));
    let (first, second) = aclnn.pair::<op::Neg>().unwrap();
    let (stream, data, shape) = (stream(acl), malloc(acl, 64), [16i64]);
    upload(acl, data, &[1f32; 16]);
    // SAFETY: handles are checked by the callee, the pointers are writable, one dimension is passed.
    unsafe {
        let tensor = acl
            .aclCreateTensor(shape.as_ptr(), 1, ACL_FLOAT, null(), 0, ACL_FORMAT_ND, shape.as_ptr(), 1, data)
            .unwrap();
        let (mut size, mut executor) = (0, null_mut());
        let begun = Instant::now();
        for _ in 0..LAUNCHES {
            assert_eq!(first(tensor, tensor, &mut size, &mut executor), 0);
            assert_eq!(second(null_mut(), size, executor, stream), 0);
        }
        let issued = begun.elapsed() / LAUNCHES;
        synchronize(acl, stream);
        let finished = begun.elapsed() / LAUNCHES;
        println!("{issued:?} to issue a launch, {finished:?} until it is finished");
        // A hundred times what was measured on a slow machine; this finds a lock held too long, not a slow loop.
        assert!(issued.as_micros() < 200, "{issued:?}");
        assert_eq!(download::<f32>(acl, data, 1), [1.0], "an even number of negations");
        assert_eq!(acl.aclDestroyTensor(tensor), Ok(0));
        assert_eq!(acl.aclrtDestroyStream(stream), Ok(0));
    }
    free(acl, data);
}
