//! Convolution layers.

use crate::{BatchNorm, Init, Module, VarBuilder, init};
use candle_ascend::conv::CudnnFwdAlgo;
use candle_ascend::{Result, Tensor, bail};

/// A layer of a weight, an optional bias a channel and a configuration.
macro_rules! layer {
    ($(#[$doc:meta])* $layer:ident, $config:ident, $bias:expr, |$x:ident, $w:ident, $c:ident| $forward:expr) => {
        $(#[$doc])*
        #[derive(Clone, Debug)]
        pub struct $layer {
            weight: Tensor,
            bias: Option<Tensor>,
            config: $config,
        }

        impl $layer {
            pub fn new(weight: Tensor, bias: Option<Tensor>, config: $config) -> Self {
                Self { weight, bias, config }
            }

            pub fn config(&self) -> &$config {
                &self.config
            }

            pub fn weight(&self) -> &Tensor {
                &self.weight
            }

            pub fn bias(&self) -> Option<&Tensor> {
                self.bias.as_ref()
            }
        }

        impl Module for $layer {
            fn forward(&self, $x: &Tensor) -> Result<Tensor> {
                let ($w, $c) = (&self.weight, &self.config);
                let y = $forward?;
                match &self.bias {
                    Some(bias) => y.broadcast_add(&bias.reshape($bias)?),
                    None => Ok(y),
                }
            }
        }
    };
}

macro_rules! config {
    ($(#[$doc:meta])* $config:ident { $($field:ident: $ty:ty = $value:expr),* $(,)? }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub struct $config {
            $(pub $field: $ty,)*
        }

        impl Default for $config {
            fn default() -> Self {
                Self { $($field: $value),* }
            }
        }
    };
}

config! {
    /// How the kernel of a [`Conv1d`] moves. The choice of a cuDNN algorithm means nothing here.
    Conv1dConfig {
        padding: usize = 0, stride: usize = 1, dilation: usize = 1, groups: usize = 1,
        cudnn_fwd_algo: Option<CudnnFwdAlgo> = None,
    }
}
config! {
    /// How the kernel of a [`Conv2d`] moves. The choice of a cuDNN algorithm means nothing here.
    Conv2dConfig {
        padding: usize = 0, stride: usize = 1, dilation: usize = 1, groups: usize = 1,
        cudnn_fwd_algo: Option<CudnnFwdAlgo> = None,
    }
}
config! {
    /// How the kernel of a [`ConvTranspose1d`] moves.
    ConvTranspose1dConfig {
        padding: usize = 0, output_padding: usize = 0, stride: usize = 1, dilation: usize = 1, groups: usize = 1,
    }
}
config! {
    /// How the kernel of a [`ConvTranspose2d`] moves.
    ConvTranspose2dConfig { padding: usize = 0, output_padding: usize = 0, stride: usize = 1, dilation: usize = 1 }
}

layer! {
    /// Convolution of `[B, C, L]`.
    Conv1d, Conv1dConfig, (1, (), 1), |x, w, c| x.conv1d(w, c.padding, c.stride, c.dilation, c.groups)
}
layer! {
    /// Convolution of `[B, C, H, W]`.
    Conv2d, Conv2dConfig, (1, (), 1, 1), |x, w, c| x.conv2d(w, c.padding, c.stride, c.dilation, c.groups)
}
layer! {
    /// Transposed convolution of `[B, C, L]`.
    ConvTranspose1d, ConvTranspose1dConfig, (1, (), 1),
    |x, w, c| x.conv_transpose1d(w, c.padding, c.output_padding, c.stride, c.dilation, c.groups)
}
layer! {
    /// Transposed convolution of `[B, C, H, W]`.
    ConvTranspose2d, ConvTranspose2dConfig, (1, (), 1, 1),
    |x, w, c| x.conv_transpose2d(w, c.padding, c.output_padding, c.stride, c.dilation)
}

impl Conv2d {
    /// This layer with the normalisation `bn`, as it is outside of training, in its weight and bias.
    pub fn absorb_bn(&self, bn: &BatchNorm) -> Result<Self> {
        let Some((scale, shift)) = bn.weight_and_bias() else { bail!("batch norm does not have weight_and_bias") };
        let scale = scale.div(&(bn.running_var() + bn.eps())?.sqrt()?)?;
        let weight = self.weight.broadcast_mul(&scale.reshape(((), 1, 1, 1))?)?;
        let centre = match &self.bias {
            Some(bias) => bias.sub(bn.running_mean())?,
            None => bn.running_mean().neg()?,
        };
        Ok(Self { weight, bias: Some((shift + scale.mul(&centre)?)?), config: self.config })
    }
}

fn uniform(bound: f64) -> Init {
    Init::Uniform { lo: -bound, up: bound }
}

/// Declares `name` and `name_no_bias`, which take the weight (and bias) from a builder.
macro_rules! from_builder {
    ($layer:ident($config:ident), $name:ident, $no_bias:ident, |$in:ident, $out:ident, $k:ident, $c:ident|
     $shape:expr, $weight:expr, $bias:expr) => {
        #[doc = concat!("A [`", stringify!($layer), "`] from `weight` and `bias` of `vb`.")]
        pub fn $name($in: usize, $out: usize, $k: usize, $c: $config, vb: VarBuilder) -> Result<$layer> {
            let weight = vb.get_with_hints($shape, "weight", $weight)?;
            let bias = vb.get_with_hints($out, "bias", $bias)?;
            Ok($layer::new(weight, Some(bias), $c))
        }

        #[doc = concat!("A [`", stringify!($layer), "`] from `weight` of `vb`.")]
        pub fn $no_bias($in: usize, $out: usize, $k: usize, $c: $config, vb: VarBuilder) -> Result<$layer> {
            Ok($layer::new(vb.get_with_hints($shape, "weight", $weight)?, None, $c))
        }
    };
}

from_builder!(
    Conv1d(Conv1dConfig),
    conv1d,
    conv1d_no_bias,
    |inputs, outputs, k, cfg| (outputs, inputs / cfg.groups, k),
    init::DEFAULT_KAIMING_NORMAL,
    uniform(1. / (inputs as f64).sqrt())
);
from_builder!(
    Conv2d(Conv2dConfig),
    conv2d,
    conv2d_no_bias,
    |inputs, outputs, k, cfg| (outputs, inputs / cfg.groups, k, k),
    init::DEFAULT_KAIMING_NORMAL,
    uniform(1. / (inputs as f64).sqrt())
);
from_builder!(
    ConvTranspose1d(ConvTranspose1dConfig),
    conv_transpose1d,
    conv_transpose1d_no_bias,
    |inputs, outputs, k, cfg| (inputs, outputs / cfg.groups, k),
    uniform(1. / (outputs as f64 * k as f64).sqrt()),
    uniform(1. / (outputs as f64 * k as f64).sqrt())
);
from_builder!(
    ConvTranspose2d(ConvTranspose2dConfig),
    conv_transpose2d,
    conv_transpose2d_no_bias,
    |inputs, outputs, k, cfg| (inputs, outputs, k, k),
    uniform(1. / (outputs as f64).sqrt() / k as f64),
    uniform(1. / (outputs as f64).sqrt() / k as f64)
);
