//! Normalisation of the last dimension.

use crate::{Init, Module, VarBuilder};
use candle_ascend::{D, DType, Result, Tensor, ops};

/// What a [`layer_norm`] does.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LayerNormConfig {
    pub eps: f64,
    /// Whether the mean is subtracted first, which RMS normalisation does not.
    pub remove_mean: bool,
    /// Whether a bias is added last.
    pub affine: bool,
}

impl Default for LayerNormConfig {
    fn default() -> Self {
        Self::from(1e-5)
    }
}

impl From<f64> for LayerNormConfig {
    fn from(eps: f64) -> Self {
        Self { eps, remove_mean: true, affine: true }
    }
}

/// `(x - mean) / sqrt(variance + eps) * weight + bias` over the last dimension.
#[derive(Clone, Debug)]
pub struct LayerNorm {
    weight: Tensor,
    bias: Option<Tensor>,
    remove_mean: bool,
    eps: f64,
}

impl LayerNorm {
    pub fn new(weight: Tensor, bias: Tensor, eps: f64) -> Self {
        Self { weight, bias: Some(bias), remove_mean: true, eps }
    }

    pub fn new_no_bias(weight: Tensor, eps: f64) -> Self {
        Self { weight, bias: None, remove_mean: true, eps }
    }

    /// Without mean and bias.
    pub fn rms_norm(weight: Tensor, eps: f64) -> Self {
        Self { weight, bias: None, remove_mean: false, eps }
    }

    pub fn weight(&self) -> &Tensor {
        &self.weight
    }

    pub fn bias(&self) -> Option<&Tensor> {
        self.bias.as_ref()
    }

    pub fn eps(&self) -> f64 {
        self.eps
    }

    pub fn remove_mean(&self) -> bool {
        self.remove_mean
    }
}

impl Module for LayerNorm {
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        if !self.remove_mean && self.bias.is_none() {
            return ops::rms_norm(x, &self.weight, self.eps);
        }
        let wide = if x.dtype() == DType::F64 { DType::F64 } else { DType::F32 };
        let mut centred = x.to_dtype(wide)?;
        if self.remove_mean {
            centred = centred.broadcast_sub(&centred.mean_keepdim(D::Minus1)?)?;
        }
        let variance = centred.sqr()?.mean_keepdim(D::Minus1)?;
        let normed = centred.broadcast_div(&(variance + self.eps)?.sqrt()?)?;
        let scaled = normed.broadcast_mul(&self.weight.to_dtype(wide)?)?;
        let shifted = match &self.bias {
            Some(bias) => scaled.broadcast_add(&bias.to_dtype(wide)?)?,
            None => scaled,
        };
        shifted.to_dtype(x.dtype())
    }
}

/// The first of `names` that `vb` holds, else the first.
fn either<'n>(vb: &VarBuilder, names: [&'n str; 2]) -> &'n str {
    names.into_iter().find(|name| vb.contains_tensor(name)).unwrap_or(names[0])
}

/// A normalisation from `weight` (or `gamma`) and `bias` (or `beta`) of `vb`.
pub fn layer_norm<C: Into<LayerNormConfig>>(size: usize, config: C, vb: VarBuilder) -> Result<LayerNorm> {
    let LayerNormConfig { eps, remove_mean, affine } = config.into();
    let weight = vb.get_with_hints(size, either(&vb, ["weight", "gamma"]), Init::Const(1.))?;
    let bias = match affine {
        true => Some(vb.get_with_hints(size, either(&vb, ["bias", "beta"]), Init::Const(0.))?),
        false => None,
    };
    Ok(LayerNorm { weight, bias, remove_mean, eps })
}

/// A normalisation without bias.
pub fn layer_norm_no_bias(size: usize, eps: f64, vb: VarBuilder) -> Result<LayerNorm> {
    layer_norm(size, LayerNormConfig { eps, remove_mean: true, affine: false }, vb)
}

/// `x / sqrt(mean(x²) + eps) * weight` over the last dimension.
#[derive(Clone, Debug)]
pub struct RmsNorm(LayerNorm);

impl RmsNorm {
    pub fn new(weight: Tensor, eps: f64) -> Self {
        Self(LayerNorm::rms_norm(weight, eps))
    }

    pub fn into_inner(self) -> LayerNorm {
        self.0
    }

    pub fn weight(&self) -> &Tensor {
        self.0.weight()
    }

    pub fn eps(&self) -> f64 {
        self.0.eps()
    }

    /// By primitives only, each of which has a gradient.
    pub fn forward_diff(&self, xs: &Tensor) -> Result<Tensor> {
        ops::decomposed(|| self.0.forward(xs))
    }
}

impl Module for RmsNorm {
    fn forward(&self, xs: &Tensor) -> Result<Tensor> {
        self.0.forward(xs)
    }
}

/// An RMS normalisation from `weight` of `vb`.
pub fn rms_norm(size: usize, eps: f64, vb: VarBuilder) -> Result<RmsNorm> {
    Ok(RmsNorm(layer_norm(size, LayerNormConfig { eps, remove_mean: false, affine: false }, vb)?))
}
