//! Recurrent layers.

use crate::ops::sigmoid;
use crate::{Init, VarBuilder, init};
use candle_ascend::{DType, Device, IndexOp, Result, Tensor};

/// A layer that goes through a sequence with a state.
#[allow(clippy::upper_case_acronyms)]
pub trait RNN {
    type State: Clone;

    /// The state before the first element.
    fn zero_state(&self, batch_dim: usize) -> Result<Self::State>;

    /// The state after one more element `[B, features]`.
    fn step(&self, input: &Tensor, state: &Self::State) -> Result<Self::State>;

    /// The states after each element of `[B, S, features]`.
    fn seq(&self, input: &Tensor) -> Result<Vec<Self::State>> {
        self.seq_init(input, &self.zero_state(input.dim(0)?)?)
    }

    /// As [`RNN::seq`], beginning with `init_state`.
    fn seq_init(&self, input: &Tensor, init_state: &Self::State) -> Result<Vec<Self::State>> {
        let (_, length, _) = input.dims3()?;
        let mut states: Vec<Self::State> = Vec::with_capacity(length);
        for position in 0..length {
            let element = input.i((.., position, ..))?.contiguous()?;
            let next = self.step(&element, states.last().unwrap_or(init_state))?;
            states.push(next);
        }
        Ok(states)
    }

    /// The outputs of a sequence of states as one tensor.
    fn states_to_tensor(&self, states: &[Self::State]) -> Result<Tensor>;
}

/// Declares the configuration of a layer: how its weights begin, and whatever else it has.
macro_rules! config {
    ($config:ident { $($field:ident: $ty:ty = $value:expr),* }) => {
        /// How the weights of a layer begin; no bias where its initial value is none.
        #[allow(clippy::upper_case_acronyms)]
        #[derive(Debug, Clone, Copy)]
        pub struct $config {
            pub w_ih_init: Init,
            pub w_hh_init: Init,
            pub b_ih_init: Option<Init>,
            pub b_hh_init: Option<Init>,
            $(pub $field: $ty,)*
        }

        impl Default for $config {
            fn default() -> Self {
                let zero = Some(Init::Const(0.));
                Self { b_ih_init: zero, b_hh_init: zero, ..Self::default_no_bias() }
            }
        }

        impl $config {
            pub fn default_no_bias() -> Self {
                let weight = init::DEFAULT_KAIMING_UNIFORM;
                Self { w_ih_init: weight, w_hh_init: weight, b_ih_init: None, b_hh_init: None, $($field: $value,)* }
            }
        }
    };
}

/// Which way a layer of a bidirectional pair goes, which its weights' names tell.
#[derive(Debug, Clone, Copy)]
pub enum Direction {
    Forward,
    Backward,
}

config!(LSTMConfig { layer_idx: usize = 0, direction: Direction = Direction::Forward });
config!(GRUConfig {});

/// The projections of input and state to the gates, and where the state lives.
#[derive(Clone, Debug)]
struct Gates {
    w_ih: Tensor,
    w_hh: Tensor,
    b_ih: Option<Tensor>,
    b_hh: Option<Tensor>,
    hidden_dim: usize,
    device: Device,
    dtype: DType,
}

impl Gates {
    /// `count` gates from `weight_ih`, `weight_hh`, `bias_ih` and `bias_hh` with the suffix `_l…`.
    fn new(
        count: usize,
        in_dim: usize,
        hidden_dim: usize,
        suffix: &str,
        ([w_ih, w_hh], [b_ih, b_hh]): ([Init; 2], [Option<Init>; 2]),
        vb: &VarBuilder,
    ) -> Result<Self> {
        let rows = count * hidden_dim;
        let weight = |name: &str, width: usize, init: Init| {
            vb.get_with_hints((rows, width), &format!("weight_{name}_{suffix}"), init)
        };
        let bias = |name: &str, init: Option<Init>| {
            init.map(|init| vb.get_with_hints(rows, &format!("bias_{name}_{suffix}"), init)).transpose()
        };
        Ok(Self {
            w_ih: weight("ih", in_dim, w_ih)?,
            w_hh: weight("hh", hidden_dim, w_hh)?,
            b_ih: bias("ih", b_ih)?,
            b_hh: bias("hh", b_hh)?,
            hidden_dim,
            device: vb.device().clone(),
            dtype: vb.dtype(),
        })
    }

    fn zeros(&self, batch: usize) -> Result<Tensor> {
        Tensor::zeros((batch, self.hidden_dim), self.dtype, &self.device)
    }

    /// What the input and what the state contribute, `[B, gates · hidden]` each.
    fn project(&self, input: &Tensor, h: &Tensor) -> Result<(Tensor, Tensor)> {
        let project = |x: &Tensor, weight: &Tensor, bias: &Option<Tensor>| {
            let product = x.matmul(&weight.t()?)?;
            bias.as_ref().map_or(Ok(product.clone()), |bias| product.broadcast_add(bias))
        };
        Ok((project(input, &self.w_ih, &self.b_ih)?, project(h, &self.w_hh, &self.b_hh)?))
    }
}

/// Output and cell of an [`LSTM`].
#[allow(clippy::upper_case_acronyms)]
#[derive(Debug, Clone)]
pub struct LSTMState {
    pub h: Tensor,
    pub c: Tensor,
}

impl LSTMState {
    pub fn new(h: Tensor, c: Tensor) -> Self {
        Self { h, c }
    }

    pub fn h(&self) -> &Tensor {
        &self.h
    }

    pub fn c(&self) -> &Tensor {
        &self.c
    }
}

/// Long short-term memory (Hochreiter and Schmidhuber, 1997), one layer and direction.
#[allow(clippy::upper_case_acronyms)]
#[derive(Clone, Debug)]
pub struct LSTM {
    gates: Gates,
    config: LSTMConfig,
}

impl LSTM {
    /// From `vb`, by the names that PyTorch gives.
    pub fn new(in_dim: usize, hidden_dim: usize, config: LSTMConfig, vb: VarBuilder) -> Result<Self> {
        let reverse = match config.direction {
            Direction::Forward => "",
            Direction::Backward => "_reverse",
        };
        let suffix = format!("l{}{reverse}", config.layer_idx);
        let inits = ([config.w_ih_init, config.w_hh_init], [config.b_ih_init, config.b_hh_init]);
        Ok(Self { gates: Gates::new(4, in_dim, hidden_dim, &suffix, inits, &vb)?, config })
    }

    pub fn config(&self) -> &LSTMConfig {
        &self.config
    }
}

/// As [`LSTM::new`].
pub fn lstm(in_dim: usize, hidden_dim: usize, config: LSTMConfig, vb: VarBuilder) -> Result<LSTM> {
    LSTM::new(in_dim, hidden_dim, config, vb)
}

impl RNN for LSTM {
    type State = LSTMState;

    fn zero_state(&self, batch_dim: usize) -> Result<LSTMState> {
        let zeros = self.gates.zeros(batch_dim)?;
        Ok(LSTMState::new(zeros.clone(), zeros))
    }

    fn step(&self, input: &Tensor, state: &LSTMState) -> Result<LSTMState> {
        let (from_input, from_state) = self.gates.project(input, &state.h)?;
        let gates = (from_input + from_state)?.chunk(4, 1)?;
        let (enter, keep, cell, show) =
            (sigmoid(&gates[0])?, sigmoid(&gates[1])?, gates[2].tanh()?, sigmoid(&gates[3])?);
        let c = ((keep * &state.c)? + (enter * cell)?)?;
        let h = (show * c.tanh()?)?;
        Ok(LSTMState { h, c })
    }

    /// `[B, S, hidden]`.
    fn states_to_tensor(&self, states: &[LSTMState]) -> Result<Tensor> {
        let outputs: Vec<&Tensor> = states.iter().map(LSTMState::h).collect();
        Tensor::stack(&outputs, 1)
    }
}

/// Output of a [`GRU`].
#[allow(clippy::upper_case_acronyms)]
#[derive(Debug, Clone)]
pub struct GRUState {
    pub h: Tensor,
}

impl GRUState {
    pub fn h(&self) -> &Tensor {
        &self.h
    }
}

/// Gated recurrent unit (Cho et al., 2014), one layer.
#[allow(clippy::upper_case_acronyms)]
#[derive(Clone, Debug)]
pub struct GRU {
    gates: Gates,
    config: GRUConfig,
}

impl GRU {
    /// From `vb`, by the names that PyTorch gives.
    pub fn new(in_dim: usize, hidden_dim: usize, config: GRUConfig, vb: VarBuilder) -> Result<Self> {
        let inits = ([config.w_ih_init, config.w_hh_init], [config.b_ih_init, config.b_hh_init]);
        Ok(Self { gates: Gates::new(3, in_dim, hidden_dim, "l0", inits, &vb)?, config })
    }

    pub fn config(&self) -> &GRUConfig {
        &self.config
    }
}

/// As [`GRU::new`].
pub fn gru(in_dim: usize, hidden_dim: usize, config: GRUConfig, vb: VarBuilder) -> Result<GRU> {
    GRU::new(in_dim, hidden_dim, config, vb)
}

impl RNN for GRU {
    type State = GRUState;

    fn zero_state(&self, batch_dim: usize) -> Result<GRUState> {
        Ok(GRUState { h: self.gates.zeros(batch_dim)? })
    }

    fn step(&self, input: &Tensor, state: &GRUState) -> Result<GRUState> {
        let (from_input, from_state) = self.gates.project(input, &state.h)?;
        let (from_input, from_state) = (from_input.chunk(3, 1)?, from_state.chunk(3, 1)?);
        let reset = sigmoid(&(&from_input[0] + &from_state[0])?)?;
        let keep = sigmoid(&(&from_input[1] + &from_state[1])?)?;
        let new = (&from_input[2] + (reset * &from_state[2])?)?.tanh()?;
        let h = ((&keep * &state.h)? + ((1. - keep)? * new)?)?;
        Ok(GRUState { h })
    }

    /// `[B, S · hidden]`, as candle has it.
    fn states_to_tensor(&self, states: &[GRUState]) -> Result<Tensor> {
        let outputs: Vec<&Tensor> = states.iter().map(GRUState::h).collect();
        Tensor::cat(&outputs, 1)
    }
}
