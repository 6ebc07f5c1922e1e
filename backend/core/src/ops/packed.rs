//! Attention of several sequences that lie one after the other, without padding.

use super::attention::{Attention, AttentionMask, Mask, attend_kept, attention, check};
use super::kernels::overrides;
use super::npu_grad;
use crate::autograd::{Gradient, no_grad, record, tracked};
use crate::npu::RowStatistics;
use crate::{Result, Tensor, bail};
use std::sync::Arc;

/// Each token of a sequence sees what came before it in that sequence, and itself.
const CAUSAL: AttentionMask<'static> = AttentionMask::Causal { offset: 0 };

/// Causal [`attention`] within each of several sequences of these `lengths`, which lie one after the other.
///
/// `q` is `[1, H, N, D]`, `k` is `[1, G, N, D]` and `v` `[1, G, N, E]`, N being the sum of the lengths; the result is
/// `[1, H, N, E]`. It is one step of the tape whatever their number, and for 16-bit types on an NPU one launch. Elsewhere sequences of
/// one length that lie side by side are computed together, all others one by one.
pub fn attention_packed(q: &Tensor, k: &Tensor, v: &Tensor, scale: f64, lengths: &[usize]) -> Result<Tensor> {
    check(q, k, v)?;
    let (rows, total) = (q.dim(2)?, lengths.iter().sum::<usize>());
    if q.dim(0)? != 1 || k.dim(2)? != rows || total != rows || lengths.contains(&0) {
        bail!(
            "attention_packed: queries {:?} and keys {:?} are not one row of sequences of {lengths:?} tokens",
            q.shape(),
            k.shape()
        )
    }
    if lengths.len() == 1 {
        return attention(q, k, v, scale, CAUSAL);
    }
    if !tracked(&[q, k, v])
        && let Some(out) = super::npu::attention_packed(q, k, v, scale, lengths)?
    {
        return Ok(out);
    }
    if overrides()
        && let Some((out, kept)) = no_grad(|| at_once(q, k, v, scale, lengths))?
    {
        return Ok(record(out, &Packed { scale, how: How::AtOnce(kept) }, [q, k, v]));
    }
    let runs = runs(lengths);
    if !overrides() || !tracked(&[q, k, v]) {
        let part = |run: &Run| attention(&run.of(q)?, &run.of(k)?, &run.of(v)?, scale, CAUSAL);
        return join(runs.iter().map(part).collect::<Result<_>>()?);
    }
    let part = |run: &Run| attend_kept(&run.of(q)?, &run.of(k)?, &run.of(v)?, scale, CAUSAL);
    let (outs, kept): (Vec<_>, Vec<_>) =
        no_grad(|| runs.iter().map(part).collect::<Result<Vec<_>>>())?.into_iter().unzip();
    let out = no_grad(|| join(outs))?;
    Ok(record(out, &Packed { scale, how: How::Runs(runs.into_iter().zip(kept).collect()) }, [q, k, v]))
}

/// All sequences in one launch, where the device has an operator for that.
fn at_once(
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    scale: f64,
    lengths: &[usize],
) -> Result<Option<(Tensor, Arc<RowStatistics>)>> {
    let mut end = 0;
    let ends = lengths.iter().map(|&length| {
        end += length as i64;
        end
    });
    let ends: Vec<i64> = ends.collect();
    let (q, k, v) = (tokens_first(q)?, tokens_first(k)?, tokens_first(v)?);
    let Some((out, kept)) = npu_grad::packed_kept(&q, &k, &v, &ends, scale)? else { return Ok(None) };
    Ok(Some((heads_first(&out)?, kept)))
}

/// `[1, H, N, D]` as `[N, H, D]`.
fn tokens_first(x: &Tensor) -> Result<Tensor> {
    x.squeeze(0)?.transpose(0, 1)
}

/// `[N, H, D]` as `[1, H, N, D]`.
fn heads_first(x: &Tensor) -> Result<Tensor> {
    x.transpose(0, 1)?.unsqueeze(0)
}

/// Sequences of one length that lie side by side.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Run {
    start: usize,
    count: usize,
    length: usize,
}

fn runs(lengths: &[usize]) -> Vec<Run> {
    let mut start = 0;
    let run = |same: &[usize]| {
        let run = Run { start, count: same.len(), length: same[0] };
        start += same.len() * same[0];
        run
    };
    lengths.chunk_by(|a, b| a == b).map(run).collect()
}

impl Run {
    /// The rows of `x` `[1, H, N, D]` that belong to the run, a sequence each `[count, H, length, D]`.
    fn of(&self, x: &Tensor) -> Result<Tensor> {
        let rows = x.narrow(2, self.start, self.count * self.length)?;
        if self.count == 1 {
            return Ok(rows);
        }
        let (_, heads, _, width) = rows.dims4()?;
        rows.transpose(1, 2)?.reshape((self.count, self.length, heads, width))?.transpose(1, 2)
    }
}

/// Sequences `[count, H, length, D]` of several runs as one row, `[1, H, N, D]`.
fn join(parts: Vec<Tensor>) -> Result<Tensor> {
    let row = |part: &Tensor| -> Result<Tensor> {
        let (count, heads, length, width) = part.dims4()?;
        let tokens = part.transpose(1, 2)?;
        if count == 1 { Ok(tokens) } else { tokens.reshape((1, count * length, heads, width)) }
    };
    let rows = parts.iter().map(row).collect::<Result<Vec<_>>>()?;
    Tensor::cat(&rows, 1)?.transpose(1, 2)
}

#[derive(Clone)]
struct Packed {
    scale: f64,
    how: How,
}

/// How it was computed, with what the device's gradient wants.
#[derive(Clone)]
enum How {
    AtOnce(Arc<RowStatistics>),
    Runs(Vec<(Run, Option<Arc<RowStatistics>>)>),
}

impl Gradient<3> for Packed {
    fn name(&self) -> &'static str {
        "attention_packed"
    }

    fn backward(&self, operands: [&Tensor; 3], out: &Tensor, grad: &Tensor) -> Result<[Option<Tensor>; 3]> {
        let runs = match &self.how {
            How::AtOnce(kept) => return at_once_grads(operands, out, grad, kept, self.scale),
            How::Runs(runs) => runs,
        };
        let wanted = operands.map(Tensor::track_op);
        let mut parts: [Vec<Tensor>; 3] = Default::default();
        for (run, kept) in runs {
            let [q, k, v] = operands.map(|x| run.of(x));
            let one = Attention { scale: self.scale, mask: Mask::Causal { offset: 0 }, kept: kept.clone() };
            let grads = one.grads([&q?, &k?, &v?], wanted, &run.of(out)?, &run.of(grad)?)?;
            parts.iter_mut().zip(grads).for_each(|(parts, grad)| parts.extend(grad));
        }
        let [of_q, of_k, of_v] = parts.map(|parts| if parts.is_empty() { Ok(None) } else { join(parts).map(Some) });
        Ok([of_q?, of_k?, of_v?])
    }
}

fn at_once_grads(
    operands: [&Tensor; 3],
    out: &Tensor,
    grad: &Tensor,
    kept: &RowStatistics,
    scale: f64,
) -> Result<[Option<Tensor>; 3]> {
    let [q, k, v] = operands.map(tokens_first);
    let (out, grad) = (tokens_first(out)?, tokens_first(grad)?);
    match npu_grad::attention([&q?, &k?, &v?], &out, &grad, kept, true, scale)? {
        Some([q, k, v]) => Ok([Some(heads_first(&q)?), Some(heads_first(&k)?), Some(heads_first(&v)?)]),
        None => bail!("attention_packed: the gradient is on {:?}, not where the result is", grad.device().location()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sequences_of_one_length_side_by_side_are_a_run() {
        let run = |start, count, length| Run { start, count, length };
        assert_eq!(runs(&[3, 3, 2, 3]), [run(0, 2, 3), run(6, 1, 2), run(8, 1, 3)]);
        assert_eq!(runs(&[1, 1, 1]), [run(0, 3, 1)]);
    }
}
