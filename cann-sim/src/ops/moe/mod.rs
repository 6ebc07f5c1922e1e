//! Mixtures of experts: the choice of experts, the routing of rows to them, and what comes back.
//!
//! What only the device sees (experts and places in tensors, logits that are no numbers) is checked when the stream comes
//! there. The pages say what is allowed and not what else happens; here the stream fails and says where.

mod combine;
mod gating;
mod routing;

pub use combine::*;
pub use gating::*;
pub use routing::*;

use crate::aclnn::{Call, Launch, Tensor};
use crate::status::{Result, Status};
use acl_sys::error::{ACL_ERROR_RT_AICORE_EXCEPTION, ACLNN_ERR_INNER_TILING_ERROR};
use std::ops::Range;

/// The error of a shape or an attribute that the device's tiling refuses.
fn tiling<T>(call: &Call, text: String) -> Result<T> {
    Err(Status::new(ACLNN_ERR_INNER_TILING_ERROR, format!("{}: {text}", call.op)))
}

/// The error of values that only the device sees.
fn device_fault<T>(launch: &Launch, text: String) -> Result<T> {
    Err(Status::new(ACL_ERROR_RT_AICORE_EXCEPTION, format!("{}: {text}", launch.op)))
}

/// The elements of a list of experts or places, all of which must lie in `range`.
fn choices(launch: &Launch, list: &Tensor, range: Range<i64>) -> Result<Vec<i64>> {
    let values = list.load_i64(launch)?;
    let Some(at) = values.iter().position(|value| !range.contains(value)) else { return Ok(values) };
    let place = match list.shape[..] {
        [_, k] => format!("row {}, choice {}", at / k, at % k),
        _ => format!("element {at}"),
    };
    device_fault(
        launch,
        format!("{} is {} at {place}; wanted {} to {}", list.name, values[at], range.start, range.end - 1),
    )
}
