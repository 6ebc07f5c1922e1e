//! What stands between the projection of queries, keys and values and attention, when a step decodes one place further.

use super::kernels::ours;
use super::{cache, norm_rotary, rotary, write_pair_at};
use crate::autograd::tracked;
use crate::{Result, Tensor, bail};

/// How heads are turned to their positions.
#[derive(Clone, Copy, Debug)]
pub struct Turn<'a> {
    /// Weights `[D]` by which heads of queries and of keys are normed first, and the norms' epsilon.
    pub norms: Option<(&'a Tensor, &'a Tensor, f64)>,
    /// Tables as [`rotary`] takes them.
    pub cos: &'a Tensor,
    pub sin: &'a Tensor,
}

/// Turns queries and keys `[B, N, T, D]`, and writes the keys and `v` to `cache` `[2, B, N, S, D]` at `positions` as
/// [`write_pair_at`] does. Gives the queries; they may take the place of `q` in its storage, of which no other view may be
/// used any more.
///
/// One launch with our kernels, however the positions differ.
pub fn turn_and_write_at([q, k, v]: [Tensor; 3], turn: Turn<'_>, cache: &Tensor, positions: &Tensor) -> Result<Tensor> {
    let Turn { norms, cos, sin } = turn;
    if ours(&q) && !tracked(&[&q, &k, &v, cos, sin]) {
        let (two, batch, heads, capacity, width) = cache.dims5()?;
        if two != 2 {
            bail!("turn-and-write-at: a cache of shape {:?}, wanted [2, B, N, S, D]", cache.shape())
        }
        rotary::check(&q, cos, sin)?;
        rotary::check(&k, cos, sin)?;
        for (which, rows) in [&k, &v].into_iter().enumerate() {
            cache::check(&cache.narrow(0, which, 1)?.reshape((batch, heads, capacity, width))?, positions, rows)?;
        }
        return super::ours::turn_and_write_at([&q, &k, &v], norms, [cos, sin], cache, positions);
    }
    let [q, k, v] = match norms {
        None => {
            let (q, k) = rotary::rotary(&q, &k, cos, sin)?;
            [q, k, v]
        }
        Some((of_q, of_k, eps)) => norm_rotary([q, k, v], (of_q, of_k), eps, cos, sin)?,
    };
    write_pair_at(cache, positions, &k, &v)?;
    Ok(q)
}
