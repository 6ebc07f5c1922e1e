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
pub mod embedding;
pub mod func;
pub mod init;
pub mod kv_cache;
pub mod layer_norm;
pub mod linear;
pub mod loss;
pub mod ops;
pub mod optim;
pub mod rotary_emb;
pub mod sequential;
mod sources;
pub mod var_builder;
pub mod var_map;

pub use activation::{Activation, PReLU, prelu};
pub use embedding::{Embedding, embedding};
pub use func::{Func, FuncT, func, func_t};
pub use init::Init;
pub use layer_norm::{LayerNorm, LayerNormConfig, RmsNorm, layer_norm, layer_norm_no_bias, rms_norm};
pub use linear::{Linear, linear, linear_b, linear_no_bias};
pub use ops::Dropout;
pub use optim::{AdamW, Optimizer, ParamsAdamW, SGD};
pub use sequential::{Sequential, seq};
pub use var_builder::VarBuilder;
pub use var_map::VarMap;

pub use candle_ascend::{Module, ModuleT};
