//! First values of variables.

use candle_ascend::{DType, Device, Result, Shape, Tensor, Var};

/// Which side of a layer the spread is scaled by.
#[derive(Debug, Copy, Clone)]
pub enum FanInOut {
    FanIn,
    FanOut,
}

impl FanInOut {
    /// Connections of one unit of a weight of this shape.
    pub fn for_shape(&self, shape: &Shape) -> usize {
        let dims = shape.dims();
        let field: usize = dims.iter().skip(2).product();
        match (self, dims) {
            (Self::FanIn, [_, inputs, ..]) => inputs * field,
            (Self::FanOut, [outputs, ..]) => outputs * field,
            _ => 1,
        }
    }
}

#[derive(Debug, Copy, Clone)]
pub enum NormalOrUniform {
    Normal,
    Uniform,
}

/// The function that follows a layer, which decides how much its output is to spread.
#[derive(Debug, Copy, Clone)]
pub enum NonLinearity {
    ReLU,
    Linear,
    Sigmoid,
    Tanh,
    SELU,
    ExplicitGain(f64),
}

impl NonLinearity {
    pub fn gain(&self) -> f64 {
        match *self {
            Self::ReLU => 2f64.sqrt(),
            Self::Tanh => 5. / 3.,
            Self::Linear | Self::Sigmoid => 1.,
            Self::SELU => 0.75,
            Self::ExplicitGain(gain) => gain,
        }
    }
}

/// How a variable that no checkpoint provides begins.
#[derive(Debug, Copy, Clone)]
pub enum Init {
    Const(f64),
    /// Normal.
    Randn {
        mean: f64,
        stdev: f64,
    },
    /// Uniform in `[lo, up)`.
    Uniform {
        lo: f64,
        up: f64,
    },
    /// Scaled so that the spread of activations stays the same from layer to layer (He et al., 2015).
    Kaiming {
        dist: NormalOrUniform,
        fan: FanInOut,
        non_linearity: NonLinearity,
    },
}

pub const ZERO: Init = Init::Const(0.);
pub const ONE: Init = Init::Const(1.);
pub const DEFAULT_KAIMING_UNIFORM: Init =
    Init::Kaiming { dist: NormalOrUniform::Uniform, fan: FanInOut::FanIn, non_linearity: NonLinearity::ReLU };
pub const DEFAULT_KAIMING_NORMAL: Init =
    Init::Kaiming { dist: NormalOrUniform::Normal, fan: FanInOut::FanIn, non_linearity: NonLinearity::ReLU };

impl Init {
    /// A variable with these first values.
    pub fn var<S: Into<Shape>>(&self, shape: S, dtype: DType, device: &Device) -> Result<Var> {
        let shape = shape.into();
        match *self {
            Self::Const(value) => Var::from_tensor(&Tensor::ones(shape, dtype, device)?.affine(value, 0.)?),
            Self::Uniform { lo, up } => Var::rand_f64(lo, up, shape, dtype, device),
            Self::Randn { mean, stdev } => Var::randn_f64(mean, stdev, shape, dtype, device),
            Self::Kaiming { dist, fan, non_linearity } => {
                let deviation = non_linearity.gain() / (fan.for_shape(&shape) as f64).sqrt();
                match dist {
                    NormalOrUniform::Normal => Var::randn_f64(0., deviation, shape, dtype, device),
                    NormalOrUniform::Uniform => {
                        // A uniform distribution of this bound has the wanted deviation.
                        let bound = 3f64.sqrt() * deviation;
                        Var::rand_f64(-bound, bound, shape, dtype, device)
                    }
                }
            }
        }
    }
}

impl Default for Init {
    fn default() -> Self {
        ZERO
    }
}
