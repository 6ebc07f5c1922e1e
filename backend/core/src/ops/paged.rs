//! Attention over keys and values that lie in blocks of a pool.

use super::attention::{AttentionMask, HiddenKeys, attention};
use super::kernels::{ours, overrides};
use super::npu::tensor;
use crate::autograd::tracked;
use crate::{DType, Error, Result, Storage, Tensor, bail};
use ascend_kernels::paged::check_table;

/// Attention of one query a sequence, `q` `[B, H, D]`, to `keys` `[N, G, P, D]` and `values` `[N, G, P, E]` in N blocks of P tokens:
/// `[B, H, E]`. Row b of `table` `[B, W]` (U32) names the blocks of sequence b in their order, and `lengths` `[B]` (U32) its tokens;
/// entries behind them are not used. A sequence without tokens gives zeros.
///
/// One launch where our Ascend C kernels run (`--kernels ours`, F16 and BF16), one or two on a GPU; elsewhere the blocks are put together first.
/// The table and the lengths may lie on the host, whatever device the rest is on: a block outside of the pool, or more tokens than a row
/// names blocks for, is an error then before anything is launched. What only the device has is not read here: a kernel that meets such
/// a block gives that sequence NaN and reads nothing outside.
pub fn paged_attention(
    q: &Tensor,
    keys: &Tensor,
    values: &Tensor,
    table: &Tensor,
    lengths: &Tensor,
    scale: f64,
) -> Result<Tensor> {
    let ((batch, heads, width), (blocks, groups, size, key_width)) = (q.dims3()?, keys.dims4()?);
    let ((value_blocks, value_groups, value_size, value_width), (rows, entries)) = (values.dims4()?, table.dims2()?);
    let pools = (blocks, groups, size) == (value_blocks, value_groups, value_size) && width == key_width;
    if !pools || groups == 0 || size == 0 || heads % groups != 0 || rows != batch || lengths.dims() != [batch] {
        bail!(
            "paged-attention: queries {:?}, keys {:?}, values {:?}, table {:?} and lengths {:?} do not fit: wanted [B, H, D], \
             [N, G, P, D], [N, G, P, E], [B, W] and [B] with H a multiple of G",
            q.shape(),
            keys.shape(),
            values.shape(),
            table.shape(),
            lengths.shape()
        )
    }
    if table.dtype() != DType::U32 || lengths.dtype() != DType::U32 {
        bail!("paged-attention: a table of {:?} and lengths of {:?}; wanted U32", table.dtype(), lengths.dtype())
    }
    q.same_dtype(keys, "paged-attention")?;
    q.same_dtype(values, "paged-attention")?;
    let [table, lengths] = &checked(q, [table, lengths], [blocks, size, entries])?;
    if ours(q) && matches!(q.dtype(), DType::F16 | DType::BF16) {
        let guards = [q, keys, values, table, lengths].map(Tensor::storage);
        let [Storage::Npu(x), Storage::Npu(k), Storage::Npu(v), Storage::Npu(t), Storage::Npu(l)] =
            guards.each_ref().map(|guard| &**guard)
        else {
            bail!("paged-attention: operands on several devices")
        };
        let pools = [(k, keys.layout()), (v, values.layout())];
        let out = x.paged_attention_ours(q.layout(), pools, [(t, table.layout()), (l, lengths.layout())], scale)?;
        return Ok(tensor(out, &[batch, heads, value_width]));
    }
    if overrides()
        && !tracked(&[q, keys, values])
        && let Some(out) = super::cuda::paged_attention(q, [keys, values], [table, lengths], scale)?
    {
        return Ok(out);
    }
    // Entries that are not used may be anything: the first block stands for them, and its tokens are hidden.
    let tokens = entries * size;
    let place = Tensor::arange(0u32, tokens as u32, q.device())?.unsqueeze(0)?.broadcast_as((batch, tokens))?;
    let seen = place.contiguous()?.lt(&lengths.unsqueeze(1)?.broadcast_as((batch, tokens))?.contiguous()?)?;
    let used = seen.reshape((batch, entries, size))?.narrow(2, 0, 1)?.reshape((batch, entries))?.contiguous()?;
    let table = used.where_cond(table, &table.zeros_like()?)?.flatten_all()?;
    let gather = |pool: &Tensor, width: usize| {
        let rows = pool.contiguous()?.index_select(&table, 0)?.reshape((batch, entries, groups, size, width))?;
        rows.transpose(1, 2)?.reshape((batch, groups, tokens, width))
    };
    let (keys, values) = (gather(keys, width)?, gather(values, value_width)?);
    let hidden = HiddenKeys::new(seen.eq(0u8)?)?;
    let out = attention(&q.unsqueeze(2)?, &keys, &values, scale, AttentionMask::Hidden(&hidden))?.squeeze(2)?;
    let any = lengths.gt(0u32)?.reshape((batch, 1, 1))?.broadcast_as(out.shape())?.contiguous()?;
    any.where_cond(&out, &out.zeros_like()?)
}

/// The table and the lengths on the device of `q`; looked at first where the host has both. `pool` is its blocks, their tokens, and the
/// blocks that a row of the table names.
fn checked(q: &Tensor, [table, lengths]: [&Tensor; 2], pool: [usize; 3]) -> Result<[Tensor; 2]> {
    if !table.device().is_cpu() || !lengths.device().is_cpu() {
        return Ok([table.clone(), lengths.clone()]);
    }
    let (entries, tokens) = (table.flatten_all()?.to_vec1()?, lengths.to_vec1()?);
    check_table("paged-attention", &entries, &tokens, pool).map_err(|why| Error::Msg(why).bt())?;
    Ok([table.to_device(q.device())?, lengths.to_device(q.device())?])
}
