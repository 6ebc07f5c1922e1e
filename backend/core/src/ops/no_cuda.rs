//! What stands in for `cuda.rs` in a build without the feature `cuda`: no operand is on a GPU, and no operator has an
//! override there.

use super::AttentionMask;
use super::moe::{Gating, Permuted};
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

pub(super) fn paged_attention(_: &Tensor, _: [&Tensor; 2], _: [&Tensor; 2], _: f64) -> Result<Option<Tensor>> {
    Ok(None)
}

pub(super) fn route(_: &Tensor, _: usize, _: Gating<'_>) -> Result<Option<(Tensor, Tensor)>> {
    Ok(None)
}

pub(super) fn permute(_: &Tensor, _: &Tensor, _: usize) -> Result<Option<Permuted>> {
    Ok(None)
}

pub(super) fn grouped_linear(_: &Tensor, _: &Tensor, _: &Tensor) -> Result<Option<Tensor>> {
    Ok(None)
}

pub(super) fn unpermute(_: &Tensor, _: &Tensor, _: &Tensor, _: Option<&Tensor>) -> Result<Option<Tensor>> {
    Ok(None)
}
