//! `npu-run merge`: an adapter added to the weights of its base.

use crate::cli::MergeArgs;
use crate::model;
use crate::{progress, report};
use anyhow::Result;
use candle_ascend::Device;
use npu_train::adapter::merge;
use serde::Serialize;
use std::process::ExitCode;

/// What `--json` prints.
#[derive(Debug, Serialize)]
struct Report {
    output: String,
    modules: usize,
    tensors: usize,
    bytes: u64,
}

pub fn run(args: &MergeArgs) -> Result<ExitCode> {
    let dtype = match args.dtype.as_str() {
        "auto" => None,
        name => Some(model::dtype_named(name, None, &Device::Cpu, false)?),
    };
    let bar = progress::bytes("merging", args.json);
    let merged = merge(&args.model, &args.adapter, &args.output, dtype, &|done, total| {
        bar.set_length(total);
        bar.set_position(done);
    })?;
    bar.finish_and_clear();
    if args.json {
        let output = args.output.display().to_string();
        report::json(&Report { output, modules: merged.modules, tensors: merged.tensors, bytes: merged.bytes })?;
    } else {
        println!(
            "merged {} into {} of the {} tensors of {} → {}, {}",
            args.adapter.display(),
            merged.modules,
            merged.tensors,
            args.model.display(),
            args.output.display(),
            report::bytes(merged.bytes)
        );
    }
    Ok(ExitCode::SUCCESS)
}
