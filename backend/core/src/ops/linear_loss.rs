//! Any loss over the logits of a projection, without holding them for more than a chunk of rows.

use super::fused::{expect_float, wide};
use super::kernels::overrides;
use crate::autograd::{Gradient, no_grad, record, tracked, wanted};
use crate::{Error, Result, Tensor};
use std::ops::Range;

/// The logits `[rows, V]` of some rows, F32 (F64 for F64 operands), and which rows they are.
pub type OfRows<'a> = dyn FnMut(&Tensor, Range<usize>) -> Result<Tensor> + 'a;

/// The sum of `loss` over the rows of the logits `hidden·headᵀ`, for `hidden` `[N, H]` and `head` `[V, H]`; rank 0. `loss` gives
/// the sum of some rows, rank 0 in the type of the logits. No more than `chunk` rows of logits exist at a time.
///
/// `loss` is asked once a chunk and differentiated there and then; what is kept for backward are the gradients, `[N, H]`, and
/// `[V, H]` where `head` is trained. So gradients go to `hidden` and `head`, and to nothing else that `loss` looks at.
pub fn linear_loss(hidden: &Tensor, head: &Tensor, chunk: usize, loss: &mut OfRows<'_>) -> Result<Tensor> {
    check(hidden, head, chunk)?;
    let rows = hidden.dim(0)?;
    if !overrides() && rows > 0 {
        return loss(&logits_of(hidden, head)?, 0..rows);
    }
    chunked("linear_loss", hidden, head, chunk, &mut |logits, range, differentiate| {
        if !differentiate {
            return Ok((loss(&logits, range)?, None));
        }
        let logits = logits.leaf();
        let sum = loss(&logits, range)?;
        let value = sum.detach();
        let grad = match sum.into_grads()?.remove(&logits) {
            Some(grad) => grad,
            None => logits.zeros_like()?,
        };
        Ok((value, Some(grad)))
    })
}

/// Makes of the logits of some rows the sum of their losses and, if that is asked for, its gradient for the logits.
pub(super) type OfChunk<'a> = dyn FnMut(Tensor, Range<usize>, bool) -> Result<(Tensor, Option<Tensor>)> + 'a;

/// The sum over the chunks of what `of_chunk` makes of each, recorded under `name` with the gradients that it gives.
pub(super) fn chunked(
    name: &'static str,
    hidden: &Tensor,
    head: &Tensor,
    chunk: usize,
    of_chunk: &mut OfChunk<'_>,
) -> Result<Tensor> {
    let mut sum = Tensor::zeros((), wide(hidden.dtype()), hidden.device())?;
    let (differentiate, mut grads) = (tracked(&[hidden, head]), Grads::default());
    for range in ranges(hidden.dim(0)?, chunk) {
        let part = no_grad(|| hidden.narrow(0, range.start, range.len()))?;
        let logits = no_grad(|| logits_of(&part, head))?;
        let (of_rows, grad) = of_chunk(logits, range, differentiate)?;
        sum = (sum + of_rows.detach())?;
        if let Some(grad) = grad {
            no_grad(|| grads.add(&part, head, &grad, (hidden.track_op(), head.track_op())))?;
        }
    }
    Ok(record(sum, &grads.joined(name)?, [hidden, head]))
}

/// What `f` makes of the rows of the logits `hidden·headᵀ`, one or more values a row, joined along the rows; not recorded. No
/// more than `chunk` rows of logits exist at a time.
pub fn linear_map(hidden: &Tensor, head: &Tensor, chunk: usize, f: &mut OfRows<'_>) -> Result<Tensor> {
    check(hidden, head, chunk)?;
    no_grad(|| {
        let of_range = |range: Range<usize>| {
            let part = hidden.narrow(0, range.start, range.len())?;
            f(&logits_of(&part, head)?, range)
        };
        let parts = ranges(hidden.dim(0)?, chunk).map(of_range).collect::<Result<Vec<_>>>()?;
        if parts.is_empty() { Tensor::zeros(0, wide(hidden.dtype()), hidden.device()) } else { Tensor::cat(&parts, 0) }
    })
}

fn check(hidden: &Tensor, head: &Tensor, chunk: usize) -> Result<()> {
    expect_float(hidden, "linear-loss")?;
    hidden.same_dtype(head, "linear-loss")?;
    let ((_, width), (_, inner)) = (hidden.dims2()?, head.dims2()?);
    if width == inner && chunk > 0 {
        return Ok(());
    }
    Err(Error::Msg(format!(
        "a loss over logits: hidden {:?}, head {:?} and chunks of {chunk} rows do not fit: wanted [N, H], [V, H] and at least \
         one row",
        hidden.shape(),
        head.shape()
    ))
    .bt())
}

fn ranges(rows: usize, chunk: usize) -> impl Iterator<Item = Range<usize>> {
    (0..rows).step_by(chunk).map(move |start| start..(start + chunk).min(rows))
}

pub(super) fn logits_of(rows: &Tensor, head: &Tensor) -> Result<Tensor> {
    super::linear(rows, head, None)?.to_dtype(wide(rows.dtype()))
}

/// The gradients that the chunks have added up to.
#[derive(Default)]
struct Grads {
    of_hidden: Vec<Tensor>,
    of_head: Option<Tensor>,
}

impl Grads {
    /// Adds what the gradient `of_logits` of some rows says of the rows and of the head.
    fn add(&mut self, rows: &Tensor, head: &Tensor, of_logits: &Tensor, wanted: (bool, bool)) -> Result<()> {
        let of_logits = of_logits.to_dtype(rows.dtype())?;
        if wanted.0 {
            self.of_hidden.push(of_logits.matmul(head)?);
        }
        if wanted.1 {
            // Added up in F32: a chunk is a small part of the sum.
            let part = of_logits.t()?.matmul(rows)?.to_dtype(wide(rows.dtype()))?;
            self.of_head = Some(match self.of_head.take() {
                Some(sum) => (sum + part)?,
                None => part,
            });
        }
        Ok(())
    }

    fn joined(self, name: &'static str) -> Result<LinearLoss> {
        let of_hidden = if self.of_hidden.is_empty() { None } else { Some(Tensor::cat(&self.of_hidden, 0)?) };
        Ok(LinearLoss { name, of_hidden, of_head: self.of_head })
    }
}

#[derive(Clone)]
struct LinearLoss {
    name: &'static str,
    of_hidden: Option<Tensor>,
    of_head: Option<Tensor>,
}

impl Gradient<2> for LinearLoss {
    fn name(&self) -> &'static str {
        self.name
    }

    fn backward(&self, [hidden, head]: [&Tensor; 2], _: &Tensor, grad: &Tensor) -> Result<[Option<Tensor>; 2]> {
        Ok([
            wanted(hidden, || scaled(self.of_hidden.as_ref(), grad, hidden))?,
            wanted(head, || scaled(self.of_head.as_ref(), grad, head))?,
        ])
    }
}

/// `sum`, the gradient of an operand `like`, times `factor` (rank 0); zeros without a sum.
fn scaled(sum: Option<&Tensor>, factor: &Tensor, like: &Tensor) -> Result<Tensor> {
    match sum {
        Some(sum) => sum.to_dtype(factor.dtype())?.broadcast_mul(factor)?.to_dtype(like.dtype()),
        None => like.zeros_like(),
    }
}
