//! Cross entropy of a projection, without its logits.

use super::cpu;
use super::fused::expect_float;
use super::kernels::overrides;
use super::linear_loss::{chunked, logits_of};
use crate::{D, DType, Error, Result, Tensor};

/// How [`linear_cross_entropy`] adds up and what it leaves out.
#[derive(Clone, Copy, Debug)]
pub struct CrossEntropy {
    /// Rows with this target count for nothing.
    pub ignore_index: i64,
    /// Whether the sum is divided by the number of rows that count. Accumulation over several passes wants the sum, and one
    /// division by the number of all of them.
    pub mean: bool,
    /// Rows whose logits are held at a time.
    pub chunk: usize,
}

impl Default for CrossEntropy {
    fn default() -> Self {
        Self { ignore_index: -100, mean: true, chunk: 256 }
    }
}

/// Cross entropy (a rank-0 tensor, F32; F64 for F64 operands) of `targets` `[N]` (I64) under the logits `hidden·headᵀ`, for
/// `hidden` `[N, H]` and `head` `[V, H]`. No more than `chunk` rows of logits exist at a time.
///
/// The gradients are computed in the same pass, from the logits while they are there, and kept: `[N, H]`, and `[V, H]` where
/// `head` is trained. NaN when no row counts and the mean is asked for.
pub fn linear_cross_entropy(hidden: &Tensor, head: &Tensor, targets: &Tensor, how: CrossEntropy) -> Result<Tensor> {
    check(hidden, head, targets, how)?;
    let sum = if overrides() {
        chunked("linear_cross_entropy", hidden, head, how.chunk, &mut |logits, range, differentiate| {
            let targets = targets.narrow(0, range.start, range.len())?;
            if let Some(done) = cpu::cross_entropy(&logits, &targets, how.ignore_index, differentiate)? {
                return Ok(done);
            }
            let rows = Rows::of(logits, &targets, how)?;
            Ok((rows.loss()?, if differentiate { Some(rows.of_logits()?) } else { None }))
        })?
    } else {
        Rows::of(logits_of(hidden, head)?, targets, how)?.loss()?
    };
    scaled(&sum, targets, how)
}

fn check(hidden: &Tensor, head: &Tensor, targets: &Tensor, how: CrossEntropy) -> Result<()> {
    expect_float(hidden, "linear-cross-entropy")?;
    hidden.same_dtype(head, "linear-cross-entropy")?;
    let ((rows, width), (_, inner)) = (hidden.dims2()?, head.dims2()?);
    if width != inner || targets.dims() != [rows] || targets.dtype() != DType::I64 || how.chunk == 0 {
        return Err(Error::Msg(format!(
            "linear_cross_entropy: hidden {:?}, head {:?}, targets {:?} {:?} and chunks of {} rows do not fit: wanted [N, H], \
             [V, H], [N] of I64 and at least one row",
            hidden.shape(),
            head.shape(),
            targets.shape(),
            targets.dtype(),
            how.chunk
        ))
        .bt());
    }
    Ok(())
}

/// `sum`, divided by the number of rows that count if the mean is asked for.
fn scaled(sum: &Tensor, targets: &Tensor, how: CrossEntropy) -> Result<Tensor> {
    if !how.mean {
        return Ok(sum.clone());
    }
    sum / targets.ne(how.ignore_index)?.to_dtype(sum.dtype())?.sum_all()?
}

/// The logits of some rows, shifted by their largest.
struct Rows {
    shifted: Tensor,
    /// Logarithm of the sum of exponentials of `shifted`.
    log_sum: Tensor,
    /// `[rows, 1]`, zero where the row is left out.
    targets: Tensor,
    /// `[rows, 1]`, one where the row counts, else zero.
    counts: Tensor,
}

impl Rows {
    fn of(logits: Tensor, targets: &Tensor, how: CrossEntropy) -> Result<Self> {
        // Whatever is subtracted from all logits of a row leaves the loss as it is, so that the maximum is a constant.
        let shifted = logits.broadcast_sub(&logits.detach().max_keepdim(D::Minus1)?)?;
        // A chunk is large: each form of it goes before the one after the next comes, so that two exist at a time.
        drop(logits);
        let log_sum = shifted.exp()?.sum_keepdim(D::Minus1)?.log()?;
        let counts = targets.ne(how.ignore_index)?.unsqueeze(1)?;
        let targets = targets.unsqueeze(1)?;
        let targets = counts.where_cond(&targets, &targets.zeros_like()?)?;
        Ok(Self { counts: counts.to_dtype(shifted.dtype())?, shifted, log_sum, targets })
    }

    fn loss(&self) -> Result<Tensor> {
        ((&self.log_sum - self.shifted.gather(&self.targets, 1)?)? * &self.counts)?.sum_all()
    }

    /// The softmax, less one at the target; zero where the row is left out.
    fn of_logits(self) -> Result<Tensor> {
        let Self { shifted, log_sum, targets, counts } = self;
        let log_probs = shifted.broadcast_sub(&log_sum)?;
        drop(shifted);
        let probs = log_probs.exp()?;
        drop(log_probs);
        let counted = probs.broadcast_mul(&counts)?;
        drop(probs);
        counted.scatter_add(&targets, &counts.neg()?, 1)
    }
}
