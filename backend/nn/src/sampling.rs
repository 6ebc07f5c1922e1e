//! Drawing from logits on the device.

use candle_ascend::shape::Dim;
use candle_ascend::{DType, Result, Tensor};

/// Indexes (U32) along `dim` drawn by the softmax of `logits / temperature`, through Gumbel noise; the largest logit's
/// at temperature zero.
pub fn gumbel_softmax<D: Dim>(logits: &Tensor, temperature: f64, dim: D) -> Result<Tensor> {
    if temperature <= 0. {
        return logits.argmax(dim);
    }
    let logits = logits.to_dtype(DType::F32)?;
    // The bounds keep both logarithms finite.
    let noise = logits.rand_like(1e-7, 0.999)?.log()?.neg()?.log()?;
    (logits - (noise * temperature)?)?.argmax(dim)
}
