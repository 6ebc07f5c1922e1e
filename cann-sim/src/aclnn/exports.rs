//! The exported pair of functions of every row of the operator table.

use super::call::{Call, Executor, Kernel};
use super::decode::Decode;
use super::meta;
use crate::ops;
use crate::runtime::launch;
use crate::status::{Result, report};
use acl_sys::aclnn::kind;
use acl_sys::error::*;
use acl_sys::{aclOpExecutor, aclnnStatus, aclrtStream};
use pastey::paste;
use std::ffi::c_void;

/// The first phase, common to all operators: check where the results go, run the operator's checks, leave an executor.
fn first_phase(
    op: &'static str,
    workspace_size: *mut u64,
    executor: *mut *mut aclOpExecutor,
    plan: impl FnOnce(&mut Call) -> Result<Kernel>,
) -> aclnnStatus {
    crate::status::call(op, || {
        crate::ensure!(!workspace_size.is_null(), ACLNN_ERR_PARAM_NULLPTR, "workspaceSize is null");
        crate::ensure!(!executor.is_null(), ACLNN_ERR_PARAM_NULLPTR, "executor is null");
        launch::before_first_phase(op)?;
        let mut call = Call::new(op);
        let kernel = plan(&mut call)?;
        let finished = Executor::new(call, kernel);
        // SAFETY: both pointers are not null, and the interface asks that they be writable.
        unsafe {
            *workspace_size = finished.workspace;
            *executor = meta::keep_executor(finished);
        }
        Ok(())
    })
}

fn second_phase(
    op: &'static str,
    workspace: *mut c_void,
    workspace_size: u64,
    executor: *mut aclOpExecutor,
    stream: aclrtStream,
) -> aclnnStatus {
    report(op, launch::operator(op, workspace as u64, workspace_size, executor, stream))
}

/// What a row without an implementation answers: the code that the real aclnn gives when no kernel binary is installed.
fn refuse(op: &'static str) -> aclnnStatus {
    let text = format!("the simulated CANN does not implement {op} yet; a card with its kernels installed does");
    report(op, Err(crate::status::Status::new(ACLNN_ERR_INNER_NULLPTR, text)))
}

macro_rules! first_body {
    (sim, $name:ident, $ws:ident, $ex:ident, $($param:ident : $kind:ident),*) => { paste! {
        first_phase(concat!("aclnn", stringify!($name)), $ws, $ex, |call| {
            $(let $param = Decode { call, name: stringify!($param) }.$kind($param)?;)*
            ops::[<$name:snake>](call, $($param),*)
        })
    }};
    (refuse, $name:ident, $ws:ident, $ex:ident, $($param:ident : $kind:ident),*) => {{
        let _ = ($ws, $ex, $($param),*);
        refuse(concat!("aclnn", stringify!($name)))
    }};
}

macro_rules! export_operators {
    ($($name:ident [$library:ident $since:literal $sim:ident] ($($param:ident : $kind:ident),* $(,)?);)*) => { paste! {
        $(
            /// # Safety
            /// As the operator's reference page asks: valid handles, host pointers that may be read or written.
            #[unsafe(no_mangle)]
            #[allow(non_snake_case, clippy::too_many_arguments)]
            pub unsafe extern "C" fn [<aclnn $name GetWorkspaceSize>](
                $($param: kind::$kind,)* workspace_size: *mut u64, executor: *mut *mut aclOpExecutor,
            ) -> aclnnStatus {
                first_body!($sim, $name, workspace_size, executor, $($param : $kind),*)
            }

            /// # Safety
            /// `executor` must come from the first phase of the same operator.
            #[unsafe(no_mangle)]
            #[allow(non_snake_case)]
            pub unsafe extern "C" fn [<aclnn $name>](
                workspace: *mut c_void, workspace_size: u64, executor: *mut aclOpExecutor, stream: aclrtStream,
            ) -> aclnnStatus {
                second_phase(concat!("aclnn", stringify!($name)), workspace, workspace_size, executor, stream)
            }
        )*

        /// Names, addresses and oldest release of the exported operators.
        pub(crate) fn table() -> Vec<(&'static str, *const c_void, &'static str)> {
            vec![$(
                (concat!("aclnn", stringify!($name), "GetWorkspaceSize"), [<aclnn $name GetWorkspaceSize>] as *const c_void, $since),
                (concat!("aclnn", stringify!($name)), [<aclnn $name>] as *const c_void, $since),
            )*]
        }
    }};
}
acl_sys::aclnn_operators!(export_operators);
