//! Graph capture and execution.

use crate::runtime::capture::{self, GRAPHS};
use crate::runtime::device;
use crate::runtime::handles::pointer;
use crate::status::put;
use crate::{ensure, fail};
use acl_sys::error::*;
use acl_sys::*;
use std::ffi::{CStr, c_char};

export! {
    /// From now on the stream's tasks are recorded, not run.
    fn aclmdlRICaptureBegin(stream: aclrtStream, mode: aclmdlRICaptureMode) {
        let context = device::current()?;
        let stream = device::stream(stream)?;
        let is_default = std::sync::Arc::ptr_eq(&stream, &context.default_stream);
        capture::begin(&stream, mode, is_default)
    }

    /// Ends the recording and answers the graph.
    fn aclmdlRICaptureEnd(stream: aclrtStream, model_ri: *mut aclmdlRI) {
        ensure!(!model_ri.is_null(), ACL_ERROR_INVALID_PARAM, "modelRI is null");
        put(model_ri, "modelRI", std::ptr::null_mut())?;
        put(model_ri, "modelRI", pointer(capture::end(&device::stream(stream)?)?))
    }

    fn aclmdlRICaptureGetInfo(stream: aclrtStream, status: *mut aclmdlRICaptureStatus, model_ri: *mut aclmdlRI) {
        let capture = device::stream(stream)?.capturing();
        let state = match &capture {
            None => ACL_MODEL_RI_CAPTURE_STATUS_NONE,
            Some(capture) if capture.is_invalid() => ACL_MODEL_RI_CAPTURE_STATUS_INVALIDATED,
            Some(_) => ACL_MODEL_RI_CAPTURE_STATUS_ACTIVE,
        };
        put(status, "status", state)?;
        if !model_ri.is_null() {
            put(model_ri, "modelRI", capture.map_or(std::ptr::null_mut(), |capture| pointer(capture.graph)))?;
        }
        Ok(())
    }

    /// Exchanges this thread's capture mode, which relaxes what other calls may do.
    fn aclmdlRICaptureThreadExchangeMode(mode: *mut aclmdlRICaptureMode) {
        ensure!(!mode.is_null(), ACL_ERROR_INVALID_PARAM, "mode is null");
        // SAFETY: not null, and the interface asks for a readable and writable value.
        let wanted = unsafe { *mode };
        ensure!((0..=2).contains(&wanted), ACL_ERROR_RT_PARAM_INVALID, "{wanted} is no capture mode");
        put(mode, "mode", capture::exchange_thread_mode(wanted))
    }

    /// Puts one run of the graph into the stream.
    fn aclmdlRIExecuteAsync(model_ri: aclmdlRI, stream: aclrtStream) {
        capture::execute(&capture::graph(model_ri)?, &device::stream(stream)?)
    }

    /// Runs the graph on the default stream and waits for it.
    fn aclmdlRIExecute(model_ri: aclmdlRI, timeout: i32) {
        let stream = device::current()?.default_stream.clone();
        capture::execute(&capture::graph(model_ri)?, &stream)?;
        stream.synchronize(super::context::limit(timeout)?)
    }

    fn aclmdlRIDestroy(model_ri: aclmdlRI) {
        let graph = capture::graph(model_ri)?;
        let running = graph.running.load(std::sync::atomic::Ordering::Acquire);
        ensure!(running == 0, ACL_ERROR_RT_MODEL_RUNNING, "{running} runs of graph {} are not finished; synchronise first", graph.id);
        GRAPHS.remove(model_ri, ACL_ERROR_RT_PARAM_INVALID, "modelRI").map(drop)
    }

    /// Prints the graph's tasks on the standard output.
    fn aclmdlRIDebugPrint(model_ri: aclmdlRI) {
        let graph = capture::graph(model_ri)?;
        println!("graph {}: {} tasks", graph.id, graph.steps.len());
        graph.steps.iter().enumerate().for_each(|(i, step)| println!("{i:5} stream {:3} {}", step.stream, step.op));
        Ok(())
    }

    fn aclmdlRIGetId(model_ri: aclmdlRI, model_riid: *mut u32) { put(model_riid, "modelRIId", capture::graph(model_ri)?.id) }

    fn aclmdlRISetName(model_ri: aclmdlRI, name: *const c_char) {
        ensure!(!name.is_null(), ACL_ERROR_INVALID_PARAM, "name is null");
        let graph = capture::graph(model_ri)?;
        // SAFETY: not null, and the interface asks for a NUL-terminated text.
        let text = unsafe { CStr::from_ptr(name) }.to_string_lossy().into_owned();
        *graph.name.lock().unwrap_or_else(|e| e.into_inner()) = text;
        Ok(())
    }

    fn aclmdlRIGetName(model_ri: aclmdlRI, max_len: u32, name: *mut c_char) {
        let graph = capture::graph(model_ri)?;
        let text = graph.name.lock().unwrap_or_else(|e| e.into_inner()).clone();
        super::info::put_text(name, max_len as usize, &text, "name")
    }

    fn aclmdlInitDump() { fail!(ACL_ERROR_RT_FEATURE_NOT_SUPPORT, "the simulated CANN does not dump models") }
}

refuse! {
    "graphs of the simulated CANN are not changed or taken apart";
    fn aclmdlRIAbort(model_ri: aclmdlRI);
    fn aclmdlRIDebugJsonPrint(model_ri: aclmdlRI, path: *const c_char, flags: u32);
    fn aclmdlRIGetStreams(model_ri: aclmdlRI, streams: *mut aclrtStream, num_streams: *mut u32);
    fn aclmdlRIGetTasksByStream(stream: aclrtStream, tasks: *mut aclmdlRITask, num_tasks: *mut u32);
    fn aclmdlRITaskGetSeqId(task: aclmdlRITask, id: *mut u32);
    fn aclmdlRITaskGetType(task: aclmdlRITask, type_: *mut aclmdlRITaskType);
    fn aclmdlRIUpdate(model_ri: aclmdlRI);
    fn aclmdlRICaptureTaskGrpBegin(stream: aclrtStream);
    fn aclmdlRICaptureTaskGrpEnd(stream: aclrtStream, handle: *mut aclrtTaskGrp);
    fn aclmdlRICaptureTaskUpdateBegin(stream: aclrtStream, handle: aclrtTaskGrp);
    fn aclmdlRICaptureTaskUpdateEnd(stream: aclrtStream);
}

refuse! {
    "it does not dump models";
    fn aclmdlFinalizeDump();
    fn aclmdlSetDump(dump_cfg_path: *const c_char);
}
