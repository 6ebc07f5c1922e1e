//! candle-nn's layers over [`candle_ascend`]: the same names, signatures and tensor names in checkpoints.
//!
//! ```
//! use candle_ascend::{DType, Device, Tensor};
//! use candle_ascend_nn::{Module, VarBuilder, VarMap, linear};
//! # fn main() -> candle_ascend::Result<()> {
//! let weights = VarMap::new();
//! let layer = linear(3, 2, VarBuilder::from_varmap(&weights, DType::F32, &Device::Cpu).pp("layer"))?;
//! let y = layer.forward(&Tensor::ones((4, 3), DType::F32, &Device::Cpu)?)?;
//! assert_eq!(y.dims(), [4, 2]);
//! # Ok(())
//! # }
//! ```

pub mod activation;
pub mod attention;
pub mod batch_norm;
pub mod conv;
pub mod embedding;
pub mod encoding;
pub mod func;
pub mod group_norm;
pub mod init;
pub mod kv_cache;
pub mod layer_norm;
pub mod linear;
pub mod loss;
pub mod moe;
pub mod ops;
pub mod optim;
pub mod rnn;
pub mod rotary_emb;
pub mod sampling;
pub mod sequential;
pub mod var_builder;
pub mod var_map;

pub use activation::{Activation, PReLU, prelu};
pub use batch_norm::{BatchNorm, BatchNormConfig, batch_norm};
pub use conv::{
    Conv1d, Conv1dConfig, Conv2d, Conv2dConfig, ConvTranspose1d, ConvTranspose1dConfig, ConvTranspose2d,
    ConvTranspose2dConfig, conv_transpose1d, conv_transpose1d_no_bias, conv_transpose2d, conv_transpose2d_no_bias,
    conv1d, conv1d_no_bias, conv2d, conv2d_no_bias,
};
pub use embedding::{Embedding, embedding};
pub use func::{Func, FuncT, func, func_t};
pub use group_norm::{GroupNorm, group_norm};
pub use init::Init;
pub use layer_norm::{LayerNorm, LayerNormConfig, RmsNorm, layer_norm, layer_norm_no_bias, rms_norm};
pub use linear::{Linear, linear, linear_b, linear_no_bias};
pub use ops::Dropout;
pub use optim::{AdamW, Optimizer, ParamsAdamW, SGD};
pub use rnn::{GRU, GRUConfig, LSTM, LSTMConfig, RNN, gru, lstm};
pub use sequential::{Sequential, seq};
pub use var_builder::VarBuilder;
pub use var_map::VarMap;

/// candle's other name for [`attention::varlen`].
pub mod varlen_attention {
    pub use crate::attention::varlen::*;
}

pub use candle_ascend::{Module, ModuleT};
