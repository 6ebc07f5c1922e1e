//! Normalisation of groups of channels.

use crate::batch_norm::wide;
use crate::{Init, Module, VarBuilder};
use candle_ascend::{Result, Tensor, bail};

/// `(x - mean) / sqrt(variance + eps) * weight + bias`, the mean and variance over a group of channels (dimension 1)
/// and everything after them.
#[derive(Clone, Debug)]
pub struct GroupNorm {
    weight: Tensor,
    bias: Tensor,
    eps: f64,
    num_channels: usize,
    num_groups: usize,
}

impl GroupNorm {
    pub fn new(weight: Tensor, bias: Tensor, num_channels: usize, num_groups: usize, eps: f64) -> Result<Self> {
        if !num_channels.is_multiple_of(num_groups) {
            bail!("GroupNorm: num_groups ({num_groups}) must divide num_channels ({num_channels})")
        }
        Ok(Self { weight, bias, eps, num_channels, num_groups })
    }
}

impl Module for GroupNorm {
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let [batch, channels, _, ..] = *x.dims() else { bail!("input rank for GroupNorm should be at least 3") };
        if channels != self.num_channels {
            bail!("unexpected num-channels in GroupNorm ({channels} <> {})", self.num_channels)
        }
        let rows = x.reshape((batch, self.num_groups, ()))?.to_dtype(wide(x.dtype()))?;
        let rows = rows.broadcast_sub(&rows.mean_keepdim(2)?)?;
        let variance = rows.sqr()?.mean_keepdim(2)?;
        let normed = rows.broadcast_div(&(variance + self.eps)?.sqrt()?)?.to_dtype(x.dtype())?.reshape(x.shape())?;
        let mut by_channel = vec![1; x.rank()];
        by_channel[1] = channels;
        let (weight, bias) = (self.weight.reshape(by_channel.as_slice())?, self.bias.reshape(by_channel)?);
        normed.broadcast_mul(&weight)?.broadcast_add(&bias)
    }
}

/// A normalisation from `weight` and `bias` of `vb`.
pub fn group_norm(num_groups: usize, num_channels: usize, eps: f64, vb: VarBuilder) -> Result<GroupNorm> {
    let get = |name: &str, value: f64| vb.get_with_hints(num_channels, name, Init::Const(value));
    GroupNorm::new(get("weight", 1.)?, get("bias", 0.)?, num_channels, num_groups, eps)
}
