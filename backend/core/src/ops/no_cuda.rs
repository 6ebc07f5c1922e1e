//! What stands in for `cuda.rs` in a build without the feature `cuda`: no operand is on a GPU, and no operator has an
//! override there.

use super::AttentionMask;
use crate::{Result, Tensor};

pub(super) fn softmax_last_dim(_: &Tensor) -> Result<Option<Tensor>> {
    Ok(None)
}

pub(super) fn swiglu(_: &Tensor) -> Result<Option<Tensor>> {
    Ok(None)
}

pub(super) fn rms_norm(_: &Tensor, _: &Tensor, _: f64) -> Result<Option<Tensor>> {
    Ok(None)
}

pub(super) fn add_rms_norm(_: &Tensor, _: &Tensor, _: &Tensor, _: f64) -> Result<Option<(Tensor, Tensor)>> {
    Ok(None)
}

pub(super) fn rotary(_: &Tensor, _: &Tensor, _: &Tensor, _: &Tensor) -> Result<Option<(Tensor, Tensor)>> {
    Ok(None)
}

pub(super) fn attention(_: &Tensor, _: &Tensor, _: &Tensor, _: f64, _: AttentionMask<'_>) -> Result<Option<Tensor>> {
    Ok(None)
}
