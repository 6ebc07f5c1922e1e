//! Writing to a cache at a place that only the device knows.

use super::kernels::overrides;
use crate::{DType, Result, Tensor, bail};

/// Writes `rows` `[B, N, T, D]` into `cache` `[B, N, S, D]`, in place: row `t` of sequence `b` to position
/// `positions[b] + t`. `positions` is `[B]`, I64; every position must lie in the cache: an NPU does not check.
///
/// One launch on an NPU. On other devices the host reads the positions.
pub fn write_at(cache: &Tensor, positions: &Tensor, rows: &Tensor) -> Result<()> {
    check(cache, positions, rows)?;
    if overrides() && super::npu::write_at(cache, positions, rows)? {
        return Ok(());
    }
    for (b, position) in positions.to_vec1::<i64>()?.into_iter().enumerate() {
        let (cache, rows) = (cache.narrow(0, b, 1)?, rows.narrow(0, b, 1)?.contiguous()?);
        cache.slice_set(&rows, 2, position as usize)?;
    }
    Ok(())
}

pub(super) fn check(cache: &Tensor, positions: &Tensor, rows: &Tensor) -> Result<()> {
    let ((batch, heads, capacity, width), (b, n, tokens, d)) = (cache.dims4()?, rows.dims4()?);
    if (batch, heads, width) != (b, n, d) || tokens > capacity || positions.dims() != [batch] {
        bail!(
            "write-at: rows {:?} and positions {:?} do not fit a cache {:?}: wanted [B, N, T, D], [B] and [B, N, S, D]",
            rows.shape(),
            positions.shape(),
            cache.shape()
        )
    }
    if positions.dtype() != DType::I64 || !cache.is_contiguous() || cache.same_storage(rows) {
        bail!("write-at: wanted I64 positions, got {:?}; and a contiguous cache apart from the rows", positions.dtype())
    }
    cache.same_dtype(rows, "write-at").map(drop)
}

/// [`write_at`] for keys and values `[B, N, T, D]` into a cache of both, `[2, B, N, S, D]`.
///
/// On an NPU one launch does both when they belong to one sequence and lie in one storage, like views of one projection.
pub fn write_pair_at(cache: &Tensor, positions: &Tensor, keys: &Tensor, values: &Tensor) -> Result<()> {
    let (two, batch, heads, capacity, width) = cache.dims5()?;
    if two != 2 {
        bail!("write-pair-at: a cache of shape {:?}, wanted [2, B, N, S, D]", cache.shape())
    }
    let half = |which| cache.narrow(0, which, 1)?.reshape((batch, heads, capacity, width));
    check(&half(0)?, positions, keys)?;
    check(&half(1)?, positions, values)?;
    if overrides() && batch == 1 && super::npu::write_pair_at(cache, positions, keys, values)? {
        return Ok(());
    }
    write_at(&half(0)?, positions, keys)?;
    write_at(&half(1)?, positions, values)
}
