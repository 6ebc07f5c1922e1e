//! Attention over keys and values that lie in blocks of a pool.

use super::attention::{AttentionMask, HiddenKeys, attention};
use super::kernels::ours;
use super::npu::tensor;
use crate::{DType, Result, Storage, Tensor, bail};

/// Attention of one query a sequence, `q` `[B, H, D]`, to `keys` `[N, G, P, D]` and `values` `[N, G, P, E]` in N blocks of P tokens:
/// `[B, H, E]`. Row b of `table` `[B, W]` (U32) names the blocks of sequence b in their order, and `lengths` `[B]` (U32) its tokens;
/// entries behind them are not used. A sequence without tokens gives zeros.
///
/// One launch where our kernels run (`--kernels ours`, F16 and BF16); elsewhere the blocks are put together first. A block
/// outside of the pool is an error where the blocks are gathered; our kernel gives that sequence NaN and reads nothing outside.
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
    if !pools || groups == 0 || heads % groups != 0 || rows != batch || lengths.dims() != [batch] {
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
