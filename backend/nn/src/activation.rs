//! Activation functions by the names that configuration files use.

use crate::{Init, Module, VarBuilder, ops};
use candle_ascend::{Result, Tensor, bail};
use serde::{Deserialize, Serialize};

/// An activation function; serialised in lower case, as in Hugging Face configurations.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize, Serialize, Default)]
#[serde(rename_all = "lowercase")]
pub enum Activation {
    #[default]
    Gelu,
    #[serde(alias = "gelu_new")]
    NewGelu,
    Relu,
    Relu2,
    Relu6,
    Silu,
    Sigmoid,
    HardSigmoid,
    Swiglu,
    Swish,
    Mish,
    HardSwish,
    Elu(f64),
    LeakyRelu(f64),
    #[serde(alias = "gelu_pytorch_tanh")]
    GeluPytorchTanh,
}

impl Module for Activation {
    fn forward(&self, xs: &Tensor) -> Result<Tensor> {
        match *self {
            Self::Gelu => xs.gelu_erf(),
            Self::NewGelu | Self::GeluPytorchTanh => xs.gelu(),
            Self::Relu => xs.relu(),
            Self::Relu2 => xs.relu()?.sqr(),
            Self::Relu6 => xs.clamp(0f32, 6f32),
            Self::Silu | Self::Swish => xs.silu(),
            Self::Sigmoid => ops::sigmoid(xs),
            Self::HardSigmoid => ops::hard_sigmoid(xs),
            Self::Swiglu => ops::swiglu(xs),
            Self::HardSwish => xs * ops::hard_sigmoid(xs)?,
            Self::Mish => ops::mish(xs),
            Self::Elu(alpha) => xs.elu(alpha),
            Self::LeakyRelu(slope) => ops::leaky_relu(xs, slope),
        }
    }
}

/// `x` where positive, else a learned multiple of it.
#[derive(Clone, Debug)]
pub struct PReLU {
    weight: Tensor,
    is_scalar: bool,
}

impl PReLU {
    pub fn new(weight: Tensor, is_scalar: bool) -> Self {
        Self { weight, is_scalar }
    }

    pub fn weight(&self) -> &Tensor {
        &self.weight
    }

    pub fn is_scalar(&self) -> bool {
        self.is_scalar
    }

    /// The slopes in a shape that broadcasts to `xs`: one for all, or one a channel (dimension 1).
    fn slopes(&self, xs: &Tensor) -> Result<Tensor> {
        if self.is_scalar {
            return self.weight.reshape(());
        }
        if xs.shape() == self.weight.shape() || xs.rank() < 2 {
            return Ok(self.weight.clone());
        }
        let (channels, slopes) = (xs.dim(1)?, self.weight.elem_count());
        if channels != slopes {
            bail!("error in prelu: unexpected number of channels for the input, got {channels}, weight dim is {slopes}")
        }
        let mut dims = vec![1; xs.rank()];
        dims[1] = slopes;
        self.weight.reshape(dims)
    }
}

impl Module for PReLU {
    fn forward(&self, xs: &Tensor) -> Result<Tensor> {
        let zeros = xs.zeros_like()?;
        xs.maximum(&zeros)? + xs.minimum(&zeros)?.broadcast_mul(&self.slopes(xs)?)?
    }
}

/// A PReLU from `weight` of `vb`, with one slope or one a channel.
pub fn prelu(num_channels: Option<usize>, vb: VarBuilder) -> Result<PReLU> {
    let weight = vb.get_with_hints(num_channels.unwrap_or(1), "weight", Init::Const(0.25))?;
    Ok(PReLU::new(weight, num_channels.is_none()))
}
