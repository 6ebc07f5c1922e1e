//! Cross entropy of a projection, without its logits.

use super::fused::{expect_float, overrides, wide};
use crate::autograd::{Gradient, no_grad, record, tracked, wanted};
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
    if !overrides() || !tracked(&[hidden, head]) {
        let loss = unchunked_or_chunked(hidden, head, targets, how)?;
        return scaled(&loss, targets, how);
    }
    let mut sums = Sums::default();
    let mut pass = || -> Result<Tensor> {
        for (rows, targets) in chunks(hidden, targets, how)? {
            sums.add(&rows, head, &targets, how, (hidden.track_op(), head.track_op()))?;
        }
        let Some(loss) = &sums.loss else { return Tensor::zeros((), wide(hidden.dtype()), hidden.device()) };
        scaled(loss, targets, how)
    };
    let loss = no_grad(&mut pass)?;
    let of_hidden = if sums.of_hidden.is_empty() { None } else { Some(Tensor::cat(&sums.of_hidden, 0)?) };
    let scale = no_grad(|| scaled(&loss.ones_like()?, targets, how))?;
    let gradient = LinearCrossEntropy { of_hidden, of_head: sums.of_head, scale };
    Ok(record(loss, &gradient, [hidden, head]))
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

/// Rows and their targets, chunk by chunk.
fn chunks(hidden: &Tensor, targets: &Tensor, how: CrossEntropy) -> Result<Vec<(Tensor, Tensor)>> {
    let rows = hidden.dim(0)?;
    let part = |start: usize| {
        let count = how.chunk.min(rows - start);
        Ok((hidden.narrow(0, start, count)?, targets.narrow(0, start, count)?))
    };
    (0..rows).step_by(how.chunk).map(part).collect()
}

/// The sum over rows by primitives: chunk by chunk where nothing is recorded, whole for the definition.
fn unchunked_or_chunked(hidden: &Tensor, head: &Tensor, targets: &Tensor, how: CrossEntropy) -> Result<Tensor> {
    let parts = if overrides() { chunks(hidden, targets, how)? } else { vec![(hidden.clone(), targets.clone())] };
    let mut sum = Tensor::zeros((), wide(hidden.dtype()), hidden.device())?;
    for (rows, targets) in parts {
        sum = (sum + Rows::of(&rows, head, &targets, how)?.loss()?)?;
    }
    Ok(sum)
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
    fn of(rows: &Tensor, head: &Tensor, targets: &Tensor, how: CrossEntropy) -> Result<Self> {
        let logits = super::linear(rows, head, None)?.to_dtype(wide(rows.dtype()))?;
        // Whatever is subtracted from all logits of a row leaves the loss as it is, so that the maximum is a constant.
        let shifted = logits.broadcast_sub(&logits.detach().max_keepdim(D::Minus1)?)?;
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
    fn of_logits(&self) -> Result<Tensor> {
        let softmax = self.shifted.broadcast_sub(&self.log_sum)?.exp()?.broadcast_mul(&self.counts)?;
        softmax.scatter_add(&self.targets, &self.counts.neg()?, 1)
    }
}

/// What the chunks have added up to.
#[derive(Default)]
struct Sums {
    loss: Option<Tensor>,
    of_hidden: Vec<Tensor>,
    of_head: Option<Tensor>,
}

impl Sums {
    fn add(
        &mut self,
        rows: &Tensor,
        head: &Tensor,
        targets: &Tensor,
        how: CrossEntropy,
        (hidden_wanted, head_wanted): (bool, bool),
    ) -> Result<()> {
        let logits = Rows::of(rows, head, targets, how)?;
        let loss = logits.loss()?;
        let grad = logits.of_logits()?.to_dtype(rows.dtype())?;
        drop(logits);
        if hidden_wanted {
            self.of_hidden.push(grad.matmul(head)?);
        }
        if head_wanted {
            // Added up in F32: a chunk is a small part of the sum.
            let part = grad.t()?.matmul(rows)?.to_dtype(wide(rows.dtype()))?;
            self.of_head = Some(match self.of_head.take() {
                Some(sum) => (sum + part)?,
                None => part,
            });
        }
        self.loss = Some(match self.loss.take() {
            Some(sum) => (sum + loss)?,
            None => loss,
        });
        Ok(())
    }
}

#[derive(Clone)]
struct LinearCrossEntropy {
    of_hidden: Option<Tensor>,
    of_head: Option<Tensor>,
    /// What a row's gradient is divided by, as a factor.
    scale: Tensor,
}

impl Gradient<2> for LinearCrossEntropy {
    fn name(&self) -> &'static str {
        "linear_cross_entropy"
    }

    fn backward(&self, [hidden, head]: [&Tensor; 2], _: &Tensor, grad: &Tensor) -> Result<[Option<Tensor>; 2]> {
        let factor = (grad * &self.scale)?;
        let times = |sum: &Option<Tensor>, like: &Tensor| super::linear_loss::scaled(sum.as_ref(), &factor, like);
        Ok([wanted(hidden, || times(&self.of_hidden, hidden))?, wanted(head, || times(&self.of_head, head))?])
    }
}
