//! Normalisation of channels over a batch.

use crate::{Init, ModuleT, VarBuilder};
use candle_ascend::{DType, Result, Tensor, Var, bail};

/// What a [`batch_norm`] does.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct BatchNormConfig {
    pub eps: f64,
    /// Whether training subtracts the batch's mean, which the running mean then follows.
    pub remove_mean: bool,
    /// Whether a scale and a shift a channel come last.
    pub affine: bool,
    /// How much of a batch's mean and variance enters the running ones.
    pub momentum: f64,
}

impl Default for BatchNormConfig {
    fn default() -> Self {
        Self { eps: 1e-5, remove_mean: true, affine: true, momentum: 0.1 }
    }
}

impl From<f64> for BatchNormConfig {
    fn from(eps: f64) -> Self {
        Self { eps, ..Self::default() }
    }
}

/// `(x - mean) / sqrt(variance + eps) * weight + bias` by channel (dimension 1): of the batch while training, which
/// moves the running values towards it; of the running values otherwise.
#[derive(Clone, Debug)]
pub struct BatchNorm {
    running_mean: Var,
    running_var: Var,
    weight_and_bias: Option<(Tensor, Tensor)>,
    remove_mean: bool,
    eps: f64,
    momentum: f64,
}

impl BatchNorm {
    fn checked(
        num_features: usize,
        [mean, variance]: [Tensor; 2],
        weight_and_bias: Option<(Tensor, Tensor)>,
        config: BatchNormConfig,
    ) -> Result<Self> {
        let BatchNormConfig { eps, remove_mean, momentum, .. } = config;
        if eps < 0. {
            bail!("batch-norm eps cannot be negative {eps}")
        }
        if !(0. ..=1.).contains(&momentum) {
            bail!("batch-norm momentum must be between 0 and 1, is {momentum}")
        }
        let affine = weight_and_bias.iter().flat_map(|(weight, bias)| [("weight", weight), ("bias", bias)]);
        for (what, tensor) in [("running mean", &mean), ("running variance", &variance)].into_iter().chain(affine) {
            if tensor.dims() != [num_features] {
                let shape = tensor.shape();
                bail!("batch-norm {what} has unexpected shape {shape:?} should have shape [{num_features}]")
            }
        }
        let (running_mean, running_var) = (Var::from_tensor(&mean)?, Var::from_tensor(&variance)?);
        Ok(Self { running_mean, running_var, weight_and_bias, remove_mean, eps, momentum })
    }

    pub fn new(
        num_features: usize,
        running_mean: Tensor,
        running_var: Tensor,
        weight: Tensor,
        bias: Tensor,
        eps: f64,
    ) -> Result<Self> {
        Self::checked(num_features, [running_mean, running_var], Some((weight, bias)), eps.into())
    }

    pub fn new_no_bias(num_features: usize, running_mean: Tensor, running_var: Tensor, eps: f64) -> Result<Self> {
        Self::checked(num_features, [running_mean, running_var], None, eps.into())
    }

    pub fn new_with_momentum(
        num_features: usize,
        running_mean: Tensor,
        running_var: Tensor,
        weight: Tensor,
        bias: Tensor,
        eps: f64,
        momentum: f64,
    ) -> Result<Self> {
        let config = BatchNormConfig { momentum, ..eps.into() };
        Self::checked(num_features, [running_mean, running_var], Some((weight, bias)), config)
    }

    pub fn new_no_bias_with_momentum(
        num_features: usize,
        running_mean: Tensor,
        running_var: Tensor,
        eps: f64,
        momentum: f64,
    ) -> Result<Self> {
        let config = BatchNormConfig { momentum, ..eps.into() };
        Self::checked(num_features, [running_mean, running_var], None, config)
    }

    pub fn running_mean(&self) -> &Tensor {
        self.running_mean.as_tensor()
    }

    pub fn running_var(&self) -> &Tensor {
        self.running_var.as_tensor()
    }

    pub fn eps(&self) -> f64 {
        self.eps
    }

    pub fn weight_and_bias(&self) -> Option<(&Tensor, &Tensor)> {
        self.weight_and_bias.as_ref().map(|(weight, bias)| (weight, bias))
    }

    pub fn momentum(&self) -> f64 {
        self.momentum
    }

    /// `x` scaled and shifted, its channels along a dimension as `shape` says.
    fn affine(&self, x: Tensor, shape: &[usize]) -> Result<Tensor> {
        match &self.weight_and_bias {
            Some((weight, bias)) => x.broadcast_mul(&weight.reshape(shape)?)?.broadcast_add(&bias.reshape(shape)?),
            None => Ok(x),
        }
    }

    /// Moves `running` towards the value of a batch.
    fn follow(&self, running: &Var, batch: &Tensor, weight: f64) -> Result<()> {
        let kept = (running.as_detached_tensor() * (1. - self.momentum))?;
        running.set(&(kept + (batch.flatten_all()?.detach() * (self.momentum * weight))?)?)
    }

    /// Normalises by the batch `[N, C, …]`, whose variance enters the running one without bias.
    pub fn forward_train(&self, x: &Tensor) -> Result<Tensor> {
        let features = self.running_mean.dim(0)?;
        if x.rank() < 2 {
            bail!("batch-norm input tensor must have at least two dimensions ({:?})", x.shape())
        }
        if x.dim(1)? != features {
            bail!("batch-norm input doesn't have the expected number of features ({:?} <> {features})", x.shape())
        }
        let channels_first = x.to_dtype(wide(x.dtype()))?.transpose(0, 1)?;
        let mut rows = channels_first.flatten_from(1)?;
        if self.remove_mean {
            let mean = rows.mean_keepdim(1)?;
            self.follow(&self.running_mean, &mean, 1.)?;
            rows = rows.broadcast_sub(&mean)?;
        }
        let variance = rows.sqr()?.mean_keepdim(1)?;
        let count = rows.dim(1)? as f64;
        self.follow(&self.running_var, &variance, count / (count - 1.))?;
        let normed = rows.broadcast_div(&(variance + self.eps)?.sqrt()?)?.to_dtype(x.dtype())?;
        self.affine(normed, &[features, 1])?.reshape(channels_first.shape())?.transpose(0, 1)
    }

    fn forward_eval(&self, x: &Tensor) -> Result<Tensor> {
        let shape: Vec<usize> = (0..x.rank()).map(|dim| if dim == 1 { x.dims()[1] } else { 1 }).collect();
        let by_channel = |running: &Var| running.as_detached_tensor().reshape(shape.as_slice());
        let deviation = (by_channel(&self.running_var)? + self.eps)?.sqrt()?;
        self.affine(x.broadcast_sub(&by_channel(&self.running_mean)?)?.broadcast_div(&deviation)?, &shape)
    }
}

/// The type that statistics of `dtype` are computed in.
pub(crate) fn wide(dtype: DType) -> DType {
    match dtype {
        DType::F16 | DType::BF16 => DType::F32,
        other => other,
    }
}

impl ModuleT for BatchNorm {
    fn forward_t(&self, x: &Tensor, train: bool) -> Result<Tensor> {
        if train { self.forward_train(x) } else { self.forward_eval(x) }
    }
}

/// A normalisation from `running_mean`, `running_var` and, unless the configuration says otherwise, `weight` and `bias`
/// of `vb`.
pub fn batch_norm<C: Into<BatchNormConfig>>(num_features: usize, config: C, vb: VarBuilder) -> Result<BatchNorm> {
    let config = config.into();
    let get = |name: &str, value: f64| vb.get_with_hints(num_features, name, Init::Const(value));
    let running = [get("running_mean", 0.)?, get("running_var", 1.)?];
    let affine = if config.affine { Some((get("weight", 1.)?, get("bias", 0.)?)) } else { None };
    BatchNorm::checked(num_features, running, affine, config)
}
