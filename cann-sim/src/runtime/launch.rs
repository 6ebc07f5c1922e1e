//! From the second phase of an operator, a copy or a host function to a task of a stream.

use super::capture::Step;
use super::cost::{self, Cost, Issue};
use super::device;
use super::memory::{self, Site};
use super::stream::{Maker, Stream, Task, Work};
use super::track::Epoch;
use super::{faults, stats};
use crate::aclnn::call::{Executor, Launch};
use crate::aclnn::meta;
use crate::status::{Result, Status};
use crate::{ensure, fail};
use acl_sys::error::*;
use acl_sys::{aclOpExecutor, aclrtStream};
use std::sync::Arc;

/// What a first phase needs before anything else: a device that this thread works on.
pub fn before_first_phase(op: &'static str) -> Result<()> {
    device::current()
        .map(drop)
        .map_err(|status| Status::new(ACLNN_ERR_RUNTIME_ERROR, format!("{op} needs a device: {}", status.message)))
}

/// The second phase of operator `op`.
pub fn operator(
    op: &'static str,
    workspace: u64,
    workspace_size: u64,
    executor: *mut aclOpExecutor,
    stream: aclrtStream,
) -> Result<()> {
    ensure!(!executor.is_null(), ACLNN_ERR_PARAM_NULLPTR, "executor is null");
    let stream = device::stream(stream).map_err(|status| {
        let code = if status.code == ACL_ERROR_RT_CONTEXT_NULL { ACLNN_ERR_RUNTIME_ERROR } else { status.code };
        Status::new(code, status.message)
    })?;
    meta::with_executor(executor, |executor| {
        ensure!(
            executor.op == op,
            ACLNN_ERR_PARAM_INVALID,
            "the executor comes from {}GetWorkspaceSize, not from {op}GetWorkspaceSize",
            executor.op
        );
        check_workspace(executor, workspace, workspace_size)?;
        issue(executor, workspace, workspace_size, &stream);
        Ok(())
    })
}

fn check_workspace(executor: &Executor, workspace: u64, size: u64) -> Result<()> {
    let needed = executor.workspace;
    if needed == 0 {
        return Ok(());
    }
    ensure!(workspace != 0, ACLNN_ERR_PARAM_NULLPTR, "workspace is null, wanted {needed} bytes of device memory");
    ensure!(
        size >= needed,
        ACLNN_ERR_PARAM_INVALID,
        "workspaceSize is {size}, wanted {needed} as the first phase said"
    );
    let Some(arena) = memory::owner(workspace) else {
        fail!(ACLNN_ERR_PARAM_INVALID, "the workspace at {workspace:#x} is not device memory");
    };
    match arena.block(workspace, size) {
        Ok(_) => Ok(()),
        Err(status) => fail!(ACLNN_ERR_PARAM_INVALID, "the workspace: {}", status.message),
    }
}

/// Puts the launch into the stream, or into the graph that the stream is being captured into.
fn issue(executor: &Executor, workspace: u64, workspace_size: u64, stream: &Arc<Stream>) {
    let op = executor.op;
    stats::launched(op);
    let addresses: Vec<u64> = executor.slots.iter().map(|slot| slot.address).collect();
    let mut used = addresses.clone();
    if executor.workspace > 0 {
        used.push(workspace);
    }
    let kernel = executor.kernel.clone();
    let fault = faults::launch(op);
    let work: Work = Arc::new(move |site| match &fault {
        Some(status) => Err(status.clone()),
        None => {
            let workspace = (workspace, workspace_size);
            kernel(&Launch { op, addresses: addresses.clone(), workspace, site: site.clone() })
        }
    });
    submit(stream, op, used, executor.cost, Issue::Operator, work);
}

/// Issues `work`, which was given `addresses` and costs `cost`, to `stream` or to its capture.
pub fn submit(stream: &Stream, op: &'static str, addresses: Vec<u64>, cost: Cost, issue: Issue, work: Work) {
    put(stream, op, addresses, Step::Kernel(work, cost), issue);
}

/// As [`submit`], for work that `make` makes when it is issued: now, or with each run of the graph that holds it.
pub fn submit_numbered(stream: &Stream, op: &'static str, addresses: Vec<u64>, cost: Cost, make: Maker) {
    put(stream, op, addresses, Step::Numbered(make, cost), Issue::Call);
}

fn put(stream: &Stream, op: &'static str, addresses: Vec<u64>, step: Step, issue: Issue) {
    if let Some(capture) = stream.capturing() {
        capture.record(op, stream.id, step, addresses);
        return;
    }
    cost::issued(stream.device, stream.id, op, &step.cost().unwrap_or_default(), issue);
    stream.issue(op, |site: &Site| {
        let epoch = Epoch { op, stream: site.stream, position: site.position };
        addresses.iter().for_each(|&address| memory::note_use(address, epoch));
        step.issued().map_or_else(|| Task::Always(Arc::new(|_| Ok(()))), Task::Compute)
    });
}
