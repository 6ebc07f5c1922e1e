//! What objectives do with logits: only at the tokens that are learnt, and never for more than a chunk of them.

use crate::{Batch, Policy};
use anyhow::Result;
use candle_ascend::{D, DType, Tensor, no_grad, ops};

/// Numbers of a chunk of logits at most: 64 MiB in F32, of which a loss holds a few copies. On the CPU the projection is packed
/// anew for each chunk, so that small ones cost time.
const CHUNK: usize = 1 << 24;

/// Rows of logits over `vocabulary` tokens that are held at a time.
pub fn rows_of_chunk(vocabulary: usize) -> usize {
    (CHUNK / vocabulary.max(1)).clamp(16, 1024)
}

/// Logits at a temperature, less the largest of each row, and the logarithm of the sum of their exponentials `[n, 1]`.
pub fn shifted(logits: &Tensor, temperature: f64) -> candle_ascend::Result<(Tensor, Tensor)> {
    let logits = if temperature == 1. { logits.clone() } else { (logits / temperature)? };
    // Whatever is subtracted from all logits of a row leaves the probabilities as they are, so that it is a constant.
    let shifted = logits.broadcast_sub(&logits.detach().max_keepdim(D::Minus1)?)?;
    let log_sum = shifted.exp()?.sum_keepdim(D::Minus1)?.log()?;
    Ok((shifted, log_sum))
}

/// Log-probabilities `[n]` of `targets` `[n, 1]`, and without a gradient the entropies `[n]` of the distributions.
pub fn log_probs(logits: &Tensor, targets: &Tensor, temperature: f64) -> candle_ascend::Result<(Tensor, Tensor)> {
    let (shifted, log_sum) = shifted(logits, temperature)?;
    let log_probs = (shifted.gather(targets, 1)? - &log_sum)?.squeeze(1)?;
    let entropy = no_grad(|| {
        let all = shifted.broadcast_sub(&log_sum)?;
        (all.exp()? * all)?.sum(D::Minus1)?.neg()
    })?;
    Ok((log_probs, entropy))
}

/// Log-probabilities, one after another, that `policy` gives the learnt tokens of `batch` at `temperature`.
pub fn log_probs_of(policy: &Policy, batch: &Batch, temperature: f64) -> Result<Vec<f32>> {
    no_grad(|| {
        if batch.targets() == 0 {
            return Ok(Vec::new());
        }
        let (rows, targets) = batch.predicted(&policy.device)?;
        let (hidden, head) = (policy.hidden(batch)?.index_select(&rows, 0)?, policy.head()?);
        let targets = targets.unsqueeze(1)?;
        let probs = ops::linear_map(&hidden, head, rows_of_chunk(head.dim(0)?), &mut |logits, rows| {
            let targets = targets.narrow(0, rows.start, rows.len())?;
            Ok(log_probs(logits, &targets, temperature)?.0)
        })?;
        Ok(probs.to_dtype(DType::F32)?.to_vec1()?)
    })
}
