//! Functions of tensors that layers use.

use crate::attention::{AttnMask, attend};
use candle_ascend::shape::Dim;
use candle_ascend::{D, Module, ModuleT, Result, Tensor, bail, ops};

/// Exponentials along `dim` divided by their sum.
pub fn softmax<D: Dim>(xs: &Tensor, dim: D) -> Result<Tensor> {
    let dim = dim.to_index(xs.shape(), "softmax")?;
    let exp = xs.broadcast_sub(&xs.max_keepdim(dim)?)?.exp()?;
    exp.broadcast_div(&exp.sum_keepdim(dim)?)
}

/// As [`softmax`] of the last dimension, by the fused operator.
pub fn softmax_last_dim(xs: &Tensor) -> Result<Tensor> {
    ops::softmax_last_dim(xs)
}

/// Logarithm of the softmax along `dim`, without taking the logarithm of small numbers.
pub fn log_softmax<D: Dim>(xs: &Tensor, dim: D) -> Result<Tensor> {
    let dim = dim.to_index(xs.shape(), "log-softmax")?;
    let shifted = xs.broadcast_sub(&xs.max_keepdim(dim)?)?;
    shifted.broadcast_sub(&shifted.exp()?.sum_keepdim(dim)?.log()?)
}

/// `x * sigmoid(x)`.
pub fn silu(xs: &Tensor) -> Result<Tensor> {
    xs.silu()
}

/// `silu(gate) * up` of the halves of the last dimension.
pub fn swiglu(xs: &Tensor) -> Result<Tensor> {
    ops::swiglu(xs)
}

/// `1 / (1 + exp(-x))`.
pub fn sigmoid(xs: &Tensor) -> Result<Tensor> {
    (xs.neg()?.exp()? + 1.)?.recip()
}

/// `(x + 3) / 6` limited to `0..=1`.
pub fn hard_sigmoid(xs: &Tensor) -> Result<Tensor> {
    ((xs + 3.)? / 6.)?.clamp(0f32, 1f32)
}

/// `x * tanh(ln(1 + exp(x)))`.
pub fn mish(xs: &Tensor) -> Result<Tensor> {
    xs * (1. + xs.exp()?)?.log()?.tanh()?
}

/// `x` where positive, else `negative_slope * x`.
pub fn leaky_relu(xs: &Tensor, negative_slope: f64) -> Result<Tensor> {
    let zeros = xs.zeros_like()?;
    xs.maximum(&zeros)? + (xs.minimum(&zeros)? * negative_slope)?
}

/// Scaled exponential linear unit.
pub fn selu(xs: &Tensor, alpha: f32, gamma: f32) -> Result<Tensor> {
    let positive = xs.relu()?;
    let negative = xs.minimum(&xs.zeros_like()?)?.elu(alpha as f64)?;
    (positive + negative)? * gamma as f64
}

/// Each element zero with probability `drop_p`, else scaled so that the mean stays.
pub fn dropout(xs: &Tensor, drop_p: f32) -> Result<Tensor> {
    if !(0. ..1.).contains(&drop_p) {
        bail!("dropout probability has to be in [0, 1), got {drop_p}")
    }
    let random = Tensor::rand(0f32, 1f32, xs.shape(), xs.device())?;
    let kept = random.ge(drop_p)?.to_dtype(xs.dtype())?;
    xs * (kept * (1. / (1. - drop_p as f64)))?
}

/// [`dropout`] while training, nothing otherwise.
#[derive(Clone, Debug)]
pub struct Dropout {
    drop_p: f32,
}

impl Dropout {
    pub fn new(drop_p: f32) -> Self {
        Self { drop_p }
    }

    pub fn forward(&self, xs: &Tensor, train: bool) -> Result<Tensor> {
        if train { dropout(xs, self.drop_p) } else { Ok(xs.clone()) }
    }
}

impl ModuleT for Dropout {
    fn forward_t(&self, xs: &Tensor, train: bool) -> Result<Tensor> {
        self.forward(xs, train)
    }
}

/// `x / sqrt(mean(x²) + eps) * alpha` over the last dimension.
pub fn rms_norm(xs: &Tensor, alpha: &Tensor, eps: f32) -> Result<Tensor> {
    ops::rms_norm(xs, alpha, eps as f64)
}

/// As [`rms_norm`], by primitives only.
pub fn rms_norm_slow(xs: &Tensor, alpha: &Tensor, eps: f32) -> Result<Tensor> {
    ops::decomposed(|| rms_norm(xs, alpha, eps))
}

/// `(x - mean) / sqrt(variance + eps) * alpha + beta` over the last dimension.
pub fn layer_norm(xs: &Tensor, alpha: &Tensor, beta: &Tensor, eps: f32) -> Result<Tensor> {
    let width = xs.dim(D::Minus1)?;
    if alpha.dims() != [width] || beta.dims() != [width] {
        bail!("shape mismatch in layer-norm src: {:?} alpha: {:?} beta: {:?}", xs.shape(), alpha.shape(), beta.shape())
    }
    xs.apply(&crate::LayerNorm::new(alpha.clone(), beta.clone(), eps as f64))
}

/// As [`layer_norm`], rounding to the type of `xs` before the scale and the shift.
pub fn layer_norm_slow(xs: &Tensor, alpha: &Tensor, beta: &Tensor, eps: f32) -> Result<Tensor> {
    let centred = xs.to_dtype(crate::batch_norm::wide(xs.dtype()))?;
    let centred = centred.broadcast_sub(&centred.mean_keepdim(D::Minus1)?)?;
    let variance = centred.sqr()?.mean_keepdim(D::Minus1)?;
    let normed = centred.broadcast_div(&(variance + eps as f64)?.sqrt()?)?;
    normed.to_dtype(xs.dtype())?.broadcast_mul(alpha)?.broadcast_add(beta)
}

/// `[B, C·r², H, W]` as `[B, C, H·r, W·r]`: channels become neighbouring pixels.
pub fn pixel_shuffle(xs: &Tensor, upscale_factor: usize) -> Result<Tensor> {
    let (batch, channels, h, w) = xs.dims4()?;
    let (r, out) = (upscale_factor, channels / upscale_factor / upscale_factor);
    xs.reshape((batch, out, r, r, h, w))?.permute((0, 1, 4, 2, 5, 3))?.reshape((batch, out, h * r, w * r))
}

/// The inverse of [`pixel_shuffle`].
pub fn pixel_unshuffle(xs: &Tensor, downscale_factor: usize) -> Result<Tensor> {
    let (batch, channels, h, w) = xs.dims4()?;
    let r = downscale_factor;
    xs.reshape((batch, channels, h / r, r, w / r, r))?.permute((0, 1, 3, 5, 2, 4))?.reshape((
        batch,
        channels * r * r,
        h / r,
        w / r,
    ))
}

/// `[B, C, H, W]` with its border repeated outwards.
pub fn replication_pad2d(xs: &Tensor, pad: usize) -> Result<Tensor> {
    xs.dims4()?;
    xs.pad_with_same(3, pad, pad)?.pad_with_same(2, pad, pad)
}

/// Attention of queries `[B, H, S, D]` over keys and values `[B, G, T, D]`, `G` dividing `H`, with a term `mask` that is
/// added to the scores, causal from the end of the keys on demand, and scores bounded by `softcapping` unless it is 1.
pub fn sdpa(
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    mask: Option<&Tensor>,
    do_causal: bool,
    scale: f32,
    softcapping: f32,
) -> Result<Tensor> {
    let offset = k.dim(2)?.saturating_sub(q.dim(2)?);
    let mask = match (mask, do_causal) {
        (None, false) => AttnMask::None,
        (None, true) => AttnMask::causal_with_offset(offset),
        (Some(term), false) => AttnMask::Mask(term.clone()),
        (Some(_), true) => bail!("sdpa takes a mask or causality, not both"),
    };
    let softcap = (softcapping != 1.).then_some(softcapping);
    attend(q, k, v, scale, mask, None, softcap)
}

/// A layer that gives back its input.
#[derive(Clone, Debug, Default)]
pub struct Identity;

impl Identity {
    pub fn new() -> Self {
        Self
    }
}

impl Module for Identity {
    fn forward(&self, xs: &Tensor) -> Result<Tensor> {
        Ok(xs.clone())
    }
}
