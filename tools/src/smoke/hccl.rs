//! HCCL: whether it is there and answers.

use super::Check;
use anyhow::{Result, bail};
use candle_ascend::NpuDevice;
use hccl_sys::{HCCL_E_NOT_SUPPORT, HCCL_SUCCESS};

pub fn check(npu: &NpuDevice) -> Check {
    Check::new("HCCL", status(npu))
}

/// Collectives are not used by inference on one device, so an honest "not supported" passes; anything else but success
/// does not.
fn status(npu: &NpuDevice) -> Result<String> {
    let status = npu.context().hccl()?;
    let answer = match status.root_info {
        HCCL_SUCCESS => "HcclGetRootInfo answers".to_owned(),
        HCCL_E_NOT_SUPPORT => "collectives are not supported here (HcclGetRootInfo: HCCL_E_NOT_SUPPORT)".to_owned(),
        code => {
            let row = hccl_sys::error::lookup(code);
            let (name, advice) = row.map_or(("", ""), |row| (row.name, row.advice));
            bail!("HcclGetRootInfo answers {code} {name}; {advice}");
        }
    };
    Ok(format!("{} functions, {} missing; {answer}", status.present, status.missing.len()))
}
