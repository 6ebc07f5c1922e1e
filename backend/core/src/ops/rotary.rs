//! Rotary position embedding of queries and keys.

use super::cpu;
use super::fused::{expect_float, wide};
use super::kernels::overrides;
use crate::autograd::{Gradient, no_grad, record, tracked};
use crate::{D, Result, Tensor, bail};

/// Rotates each pair `(x[i], x[i + D/2])` of queries and keys `[B, H, S, D]` by the angle of its position and `i`.
///
/// `cos` and `sin` are `[S, D/2]`, or `[B, S, D/2]` when positions differ between sequences. They may also have `D`
/// columns, the second half like the first, which saves NPUs a copy. Queries and keys may have different numbers of
/// heads. Computed in F32 and rounded once.
pub fn rotary(q: &Tensor, k: &Tensor, cos: &Tensor, sin: &Tensor) -> Result<(Tensor, Tensor)> {
    check(q, cos, sin)?;
    check(k, cos, sin)?;
    // Tables are constants to the fused gradient; where they are learned, the primitives know theirs.
    if tracked(&[cos, sin]) {
        return Ok((decomposed(q, cos, sin)?, decomposed(k, cos, sin)?));
    }
    if !overrides() || !tracked(&[q, k]) {
        return rotate(q, k, cos, sin);
    }
    let (turned_q, turned_k) = no_grad(|| rotate(q, k, cos, sin))?;
    let gradient = Rotary { cos: cos.detach(), sin: sin.detach() };
    Ok((record(turned_q, &gradient, [q]), record(turned_k, &gradient, [k])))
}

#[derive(Clone)]
struct Rotary {
    cos: Tensor,
    sin: Tensor,
}

impl Gradient<1> for Rotary {
    fn name(&self) -> &'static str {
        "rotary"
    }

    /// The gradient turned back.
    fn backward(&self, _: [&Tensor; 1], _: &Tensor, grad: &Tensor) -> Result<[Option<Tensor>; 1]> {
        // The operator turns queries and keys at once; one head more is all that the second costs.
        let (turned, _) = rotate(grad, &grad.narrow(1, 0, 1)?, &self.cos, &self.sin.neg()?)?;
        Ok([Some(turned)])
    }
}

fn rotate(q: &Tensor, k: &Tensor, cos: &Tensor, sin: &Tensor) -> Result<(Tensor, Tensor)> {
    if overrides() {
        if let Some(pair) = super::npu::rotary(q, k, cos, sin)? {
            return Ok(pair);
        }
        if let Some(pair) = super::cuda::rotary(q, k, cos, sin)? {
            return Ok(pair);
        }
        if q.device().is_cpu() {
            let (cos, sin) = (half_rows(cos, q)?, half_rows(sin, q)?);
            let (cos32, sin32) = (cpu::values_f32(&cos)?, cpu::values_f32(&sin)?);
            let batched = cos.rank() == 3;
            if let (Some(q), Some(k)) = (on_cpu(q, &cos32, &sin32, batched)?, on_cpu(k, &cos32, &sin32, batched)?) {
                return Ok((q, k));
            }
        }
    }
    Ok((decomposed(q, cos, sin)?, decomposed(k, cos, sin)?))
}

/// [`rotary`] of queries and keys whose heads are normed first, each kind by its weight `[D]`, and the values that belong to
/// them, which come along: on some devices all three move in one launch.
///
/// Without recording the result may take the place of `q` and `k` in their storage, which saves launches: neither may be used any more, nor
/// another view of the same elements.
pub fn norm_rotary(
    [q, k, v]: [Tensor; 3],
    weights: (&Tensor, &Tensor),
    eps: f64,
    cos: &Tensor,
    sin: &Tensor,
) -> Result<[Tensor; 3]> {
    check(&q, cos, sin)?;
    check(&k, cos, sin)?;
    if overrides() && !tracked(&[&q, &k, &v, weights.0, weights.1, cos, sin]) {
        if let Some(all) = super::npu::norm_rotary_all([&q, &k, &v], weights, eps, cos, sin)? {
            return Ok(all);
        }
        if super::npu::norm_rotary((&q, &k), weights, eps, cos, sin)? {
            return Ok([q, k, v]);
        }
    }
    let (q, k) = rotary(&super::rms_norm(&q, weights.0, eps)?, &super::rms_norm(&k, weights.1, eps)?, cos, sin)?;
    Ok([q, k, v])
}

/// The first `D/2` columns of a table.
fn half_rows(table: &Tensor, x: &Tensor) -> Result<Tensor> {
    table.narrow(D::Minus1, 0, x.dim(D::Minus1)? / 2)
}

pub(super) fn check(x: &Tensor, cos: &Tensor, sin: &Tensor) -> Result<()> {
    expect_float(x, "rotary")?;
    let (batch, _, positions, width) = x.dims4()?;
    let columns = if cos.dims().last() == Some(&width) { width } else { width / 2 };
    let wanted = match cos.rank() {
        3 => vec![batch, positions, columns],
        _ => vec![positions, columns],
    };
    if width % 2 != 0 || cos.dims() != wanted || sin.dims() != wanted {
        bail!(
            "rotary: {:?} needs an even last dimension and cos and sin of shape {wanted:?}, got {:?} and {:?}",
            x.shape(),
            cos.shape(),
            sin.shape()
        )
    }
    Ok(())
}

fn on_cpu(x: &Tensor, cos: &[f32], sin: &[f32], batched: bool) -> Result<Option<Tensor>> {
    let (_, heads, positions, width) = x.dims4()?;
    let half = width / 2;
    cpu::map_rows(x, width, |row, x, y| {
        let position = row % positions;
        let start = if batched { (row / (heads * positions) * positions + position) * half } else { position * half };
        let (cos, sin) = (&cos[start..start + half], &sin[start..start + half]);
        for i in 0..half {
            y[i] = x[i] * cos[i] - x[i + half] * sin[i];
            y[i + half] = x[i + half] * cos[i] + x[i] * sin[i];
        }
    })
}

fn decomposed(x: &Tensor, cos: &Tensor, sin: &Tensor) -> Result<Tensor> {
    let dtype = wide(x.dtype());
    let half = x.dim(D::Minus1)? / 2;
    let spread = |t: &Tensor| -> Result<Tensor> {
        let t = half_rows(t, x)?.to_dtype(dtype)?;
        if t.rank() == 3 { t.unsqueeze(1) } else { Ok(t) }
    };
    let (cos, sin) = (spread(cos)?, spread(sin)?);
    let x_wide = x.to_dtype(dtype)?;
    let (first, second) = (x_wide.narrow(D::Minus1, 0, half)?, x_wide.narrow(D::Minus1, half, half)?);
    let rotated_first = (first.broadcast_mul(&cos)? - second.broadcast_mul(&sin)?)?;
    let rotated_second = (second.broadcast_mul(&cos)? + first.broadcast_mul(&sin)?)?;
    Tensor::cat(&[rotated_first, rotated_second], D::Minus1)?.to_dtype(x.dtype())
}
