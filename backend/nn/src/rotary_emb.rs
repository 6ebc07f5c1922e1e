//! Rotary position embedding.

use candle_ascend::{D, Result, Tensor, bail, ops};

/// Rotates the pairs `(x[i], x[i + D/2])` of `[B, H, S, D]`. `cos` and `sin` have `D/2` columns and at least `S` rows,
/// of which the first `S` are used; with three dimensions the first is the batch.
pub fn rope(xs: &Tensor, cos: &Tensor, sin: &Tensor) -> Result<Tensor> {
    let (_, _, positions, _) = xs.dims4()?;
    let (cos, sin) = (rows(cos, positions)?, rows(sin, positions)?);
    // The operator rotates queries and keys at once; one head of `xs` more is all that the second costs.
    let (rotated, _) = ops::rotary(xs, &xs.narrow(1, 0, 1)?, &cos, &sin)?;
    Ok(rotated)
}

/// As [`rope`], by primitives only.
pub fn rope_slow(xs: &Tensor, cos: &Tensor, sin: &Tensor) -> Result<Tensor> {
    ops::decomposed(|| rope(xs, cos, sin))
}

/// As [`rope`] for interleaved pairs `(x[2i], x[2i + 1])`.
pub fn rope_i(xs: &Tensor, cos: &Tensor, sin: &Tensor) -> Result<Tensor> {
    let (batch, heads, positions, width) = xs.dims4()?;
    if width % 2 != 0 {
        bail!("rope-i: the last dimension of {:?} holds pairs and must be even", xs.shape())
    }
    // Gathering the first elements of all pairs, then the second ones, gives the layout that `rope` rotates.
    let pairs = xs.reshape((batch, heads, positions, width / 2, 2))?;
    let halves = pairs.transpose(D::Minus2, D::Minus1)?.reshape((batch, heads, positions, width))?;
    let rotated = rope(&halves, cos, sin)?.reshape((batch, heads, positions, 2, width / 2))?;
    rotated.transpose(D::Minus2, D::Minus1)?.reshape((batch, heads, positions, width))
}

/// As [`rope_i`], by primitives only.
pub fn rope_i_slow(xs: &Tensor, cos: &Tensor, sin: &Tensor) -> Result<Tensor> {
    ops::decomposed(|| rope_i(xs, cos, sin))
}

/// As [`rope`] for `[B, S, H, D]`.
pub fn rope_thd(xs: &Tensor, cos: &Tensor, sin: &Tensor) -> Result<Tensor> {
    rope(&xs.transpose(1, 2)?, cos, sin)?.transpose(1, 2)?.contiguous()
}

fn rows(table: &Tensor, positions: usize) -> Result<Tensor> {
    let dim = table.rank().saturating_sub(2);
    table.narrow(dim, 0, positions)
}
