//! Overrides of the fused operators on NPUs. Each answers none when the operands are elsewhere, or when the device has
//! no operator for them; the decomposition then runs on the device that they are on.

use super::kernels::ours;
use super::moe::Gating;
use super::{AttentionMask, HiddenKeys};
use crate::npu::{self, AttentionLayout, NpuStorage, SigmoidGate};
use crate::{D, DType, Layout, Result, Storage, Tensor};
use ascend_kernels::cube::SIDE;
use ascend_kernels::flash;

/// The types of aclnn's fused operators.
fn has_fused(dtype: DType) -> bool {
    matches!(dtype, DType::F32 | DType::F16 | DType::BF16)
}

/// Runs `fused` on the NPU storages behind `operands`; none if one is elsewhere or of another type than the first.
pub(super) fn on_npu<const N: usize, R>(
    operands: [&Tensor; N],
    fused: impl FnOnce([(&NpuStorage, &Layout); N]) -> Result<R>,
) -> Result<Option<R>> {
    let dtype = operands[0].dtype();
    if !has_fused(dtype) || operands.iter().any(|x| x.dtype() != dtype || !x.device().is_npu()) {
        return Ok(None);
    }
    let guards = operands.map(Tensor::storage);
    let mut storages = Vec::with_capacity(N);
    for (guard, x) in guards.iter().zip(operands) {
        match &**guard {
            Storage::Npu(storage) => storages.push((storage, x.layout())),
            _ => return Ok(None),
        }
    }
    match <[_; N]>::try_from(storages) {
        Ok(storages) => fused(storages).map(Some),
        Err(_) => Ok(None),
    }
}

/// The NPU's storage of a tensor of any type.
macro_rules! npu_storage {
    ($guard:ident, $tensor:expr) => {
        let $guard = $tensor.storage();
        let Storage::Npu($guard) = &*$guard else { return Ok(None) };
    };
}

pub(super) fn tensor(storage: NpuStorage, dims: &[usize]) -> Tensor {
    Tensor::from_storage(Storage::Npu(storage), dims)
}

pub(super) fn softmax_last_dim(x: &Tensor) -> Result<Option<Tensor>> {
    on_npu([x], |[(x_storage, layout)]| Ok(tensor(x_storage.softmax_last_dim(layout)?, x.dims())))
}

pub(super) fn swiglu(x: &Tensor) -> Result<Option<Tensor>> {
    let mut dims = x.dims().to_vec();
    dims[x.rank() - 1] /= 2;
    on_npu([x], |[(x, layout)]| Ok(tensor(x.swiglu(layout)?, &dims)))
}

pub(super) fn dropout(x: &Tensor, p: f64, key: u64) -> Result<Option<Tensor>> {
    on_npu([x], |[(x_storage, layout)]| Ok(tensor(x_storage.dropout(layout, p, key)?, x.dims())))
}

pub(super) fn rms_norm(x: &Tensor, weight: &Tensor, eps: f64) -> Result<Option<Tensor>> {
    on_npu([x, weight], |[(storage, layout), (weight, weight_layout)]| {
        Ok(tensor(storage.rms_norm(layout, weight, weight_layout, eps)?, x.dims()))
    })
}

pub(super) fn add_rms_norm(
    x: &Tensor,
    residual: &Tensor,
    weight: &Tensor,
    eps: f64,
) -> Result<Option<(Tensor, Tensor)>> {
    on_npu([x, residual, weight], |[(storage, layout), residual, weight]| {
        let (normed, sum) = storage.add_rms_norm(layout, residual, weight, eps)?;
        Ok((tensor(normed, x.dims()), tensor(sum, x.dims())))
    })
}

/// `(norm, norm in F32, sum)`
pub(super) fn add_rms_norm_wide(
    x: &Tensor,
    residual: &Tensor,
    weight: &Tensor,
    eps: f64,
) -> Result<Option<(Tensor, Tensor, Tensor)>> {
    let made = on_npu([x, residual, weight], |[(storage, layout), residual, weight]| {
        storage.add_rms_norm_wide(layout, residual, weight, eps)
    })?;
    let of = |storage| tensor(storage, x.dims());
    Ok(made.flatten().map(|[normed, sum, wide]| (of(normed), of(wide), of(sum))))
}

pub(super) fn rotary(q: &Tensor, k: &Tensor, cos: &Tensor, sin: &Tensor) -> Result<Option<(Tensor, Tensor)>> {
    if !q.device().is_npu() || !has_fused(q.dtype()) {
        return Ok(None);
    }
    // aclnn wants one angle an element, so that both halves of a row hold the same.
    let width = q.dim(D::Minus1)?;
    let whole_rows = |table: &Tensor| -> Result<Tensor> {
        let table = table.to_dtype(q.dtype())?;
        if table.dim(D::Minus1)? == width { Ok(table) } else { Tensor::cat(&[&table, &table], D::Minus1) }
    };
    let (cos, sin) = (whole_rows(cos)?, whole_rows(sin)?);
    let (heads, key_heads) = (q.dim(1)?, k.dim(1)?);
    let rotated = on_npu([q, k, &cos, &sin], |[(storage, layout), keys, cos, sin]| {
        let order = AttentionLayout::Bnsd;
        if let Some(both) = side_by_side((storage, layout), keys)
            && let Some(rotated) = storage.rotary_alone(&both, cos, sin, order)?
        {
            let rotated = tensor(rotated, both.dims());
            return Ok(Some((rotated.narrow(1, 0, heads)?, rotated.narrow(1, heads, key_heads)?)));
        }
        let rotated = storage.rotary(layout, keys, cos, sin, order)?;
        Ok(rotated.map(|(query, key)| (tensor(query, q.dims()), tensor(key, k.dims()))))
    })?;
    Ok(rotated.flatten())
}

/// The layout of queries and keys `[B, H, S, D]` together, when the heads of the keys follow those of the queries in one
/// storage, as those of a merged projection do.
fn side_by_side(
    (storage, layout): (&NpuStorage, &Layout),
    (key_storage, key_layout): (&NpuStorage, &Layout),
) -> Option<Layout> {
    let (&[batch, heads, positions, width], &[key_batch, key_heads, ..]) = (layout.dims(), key_layout.dims()) else {
        return None;
    };
    let follows = layout.start_offset() + heads * layout.stride()[1] == key_layout.start_offset();
    let same = std::ptr::eq(storage, key_storage) && layout.stride() == key_layout.stride() && batch == key_batch;
    (same && follows).then(|| {
        let dims = (batch, heads + key_heads, positions, width);
        Layout::new(dims.into(), layout.stride().to_vec(), layout.start_offset())
    })
}

/// `x·Wᵀ + bias` in one launch, for `x` `[M, K]`.
pub(super) fn linear(x: &Tensor, weight: &Tensor, bias: &Tensor) -> Result<Option<Tensor>> {
    let (rows, outputs) = (x.dim(0)?, weight.dim(0)?);
    if x.elem_count() == 0 || outputs == 0 {
        return Ok(None);
    }
    let transposed = weight.t()?;
    on_npu([x, &transposed, bias], |[(storage, layout), weight, bias]| {
        Ok(tensor(storage.addmm(layout, weight, bias)?, &[rows, outputs]))
    })
}

/// Groups of rows times their experts' matrices `[E, O, I]`.
pub(super) fn grouped_linear(x: &Tensor, weight: &Tensor, ends: &Tensor) -> Result<Option<Tensor>> {
    let (rows, outputs) = (x.dim(0)?, weight.dim(1)?);
    if rows == 0 || weight.elem_count() == 0 {
        return Ok(None);
    }
    npu_storage!(ends_storage, ends);
    if ours(x) {
        let out = on_npu([x, weight], |[(storage, layout), weight]| {
            storage.grouped_matmul_ours(layout, weight, (ends_storage, ends.layout()), false)
        })?;
        return Ok(out.map(|out| tensor(out, &[rows, outputs])));
    }
    let transposed = weight.transpose(1, 2)?;
    let out = on_npu([x, &transposed], |[(storage, layout), weight]| {
        storage.grouped_matmul(layout, weight, (ends_storage, ends.layout()))
    })?;
    Ok(out.flatten().map(|out| tensor(out, &[rows, outputs])))
}

/// SwiGLU of groups of rows times their experts' matrices `[E, 2 O, I]`, by our kernel where it takes their width.
pub(super) fn grouped_swiglu(x: &Tensor, weight: &Tensor, ends: &Tensor) -> Result<Option<Tensor>> {
    let (rows, columns) = (x.dim(0)?, weight.dim(1)? / 2);
    if !ours(x) || rows == 0 || weight.elem_count() == 0 || !columns.is_multiple_of(SIDE) {
        return Ok(None);
    }
    npu_storage!(at, ends);
    let out = on_npu([x, weight], |[(storage, layout), weight]| {
        storage.grouped_matmul_ours(layout, weight, (at, ends.layout()), true)
    })?;
    Ok(out.map(|out| tensor(out, &[rows, columns])))
}

/// Causal attention of sequences that lie one after the other, by our kernel: `[1, H, N, E]`.
pub(super) fn attention_packed(
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    scale: f64,
    lengths: &[usize],
) -> Result<Option<Tensor>> {
    if !ours(q) {
        return Ok(None);
    }
    let ends = lengths.iter().scan(0, |end, &length| {
        *end += length as i64;
        Some(*end)
    });
    let starts: Vec<i64> = std::iter::once(0).chain(ends).collect();
    // Queries and keys begin at the same places.
    let starts = Tensor::from_vec([&starts[..], &starts[..]].concat(), 2 * (lengths.len() + 1), q.device())?;
    let longest = lengths.iter().copied().max().unwrap_or_default();
    npu_storage!(at, starts);
    let out = on_npu([q, k, v], |[(storage, layout), keys, values]| {
        storage.attention_packed_ours(layout, keys, values, ((at, starts.layout()), longest), scale)
    })?;
    let dims = [1, q.dim(2)?, q.dim(1)?, v.dim(3)?];
    out.flatten().map(|out| tensor(out, &dims).transpose(1, 2)).transpose()
}

/// Weights, in the type of the logits, and experts.
pub(super) fn route(logits: &Tensor, k: usize, gating: Gating<'_>) -> Result<Option<(Tensor, Tensor)>> {
    let tokens = logits.dim(0)?;
    if tokens == 0 {
        return Ok(None);
    }
    let chosen = match gating {
        Gating::Softmax { renormalise } => {
            on_npu([logits], |[(storage, layout)]| storage.gate_by_softmax(layout, k, renormalise))?
        }
        Gating::Sigmoid { bias, groups, kept_groups, renormalise: true, factor } => {
            let gate = SigmoidGate { groups, kept_groups, factor };
            match bias {
                None => on_npu([logits], |[(storage, layout)]| storage.gate_by_sigmoid(layout, None, k, gate))?,
                Some(bias) => on_npu([logits, &bias.to_dtype(logits.dtype())?], |[(storage, layout), bias]| {
                    storage.gate_by_sigmoid(layout, Some(bias), k, gate)
                })?,
            }
        }
        Gating::Sigmoid { renormalise: false, .. } => None,
    };
    Ok(chosen.flatten().map(|(weights, experts)| (tensor(weights, &[tokens, k]), tensor(experts, &[tokens, k]))))
}

/// Rows sorted by expert, places, and ends.
pub(super) fn permute(x: &Tensor, chosen: &Tensor, experts: usize) -> Result<Option<(Tensor, Tensor, Tensor)>> {
    let (width, copies) = (x.dim(1)?, chosen.elem_count());
    if chosen.dtype() != DType::U32 || copies * width * experts == 0 {
        return Ok(None);
    }
    npu_storage!(at, chosen);
    let sorted = on_npu([x], |[(storage, layout)]| storage.sort_by_expert(layout, (at, chosen.layout()), experts))?;
    Ok(sorted.flatten().map(|(rows, places, ends)| {
        (tensor(rows, &[copies, width]), tensor(places, &[copies]), tensor(ends, &[experts]))
    }))
}

/// The weighted sum of each token's rows of `y`, and its row of `shared`.
pub(super) fn unpermute(
    y: &Tensor,
    places: &Tensor,
    weights: &Tensor,
    shared: Option<&Tensor>,
) -> Result<Option<Tensor>> {
    let dims = [weights.dim(0)?, y.dim(1)?];
    let same = shared.is_none_or(|shared| shared.dtype() == y.dtype());
    if places.dtype() != DType::U32 || y.elem_count() == 0 || !has_fused(weights.dtype()) || !same {
        return Ok(None);
    }
    npu_storage!(at, places);
    npu_storage!(weight, weights);
    let (at, weight) = ((at, places.layout()), (weight, weights.layout()));
    let out = match shared {
        None => on_npu([y], |[(storage, layout)]| storage.add_up_experts(layout, at, weight, None))?,
        Some(shared) => {
            on_npu([y, shared], |[(storage, layout), shared]| storage.add_up_experts(layout, at, weight, Some(shared)))?
        }
    };
    Ok(out.flatten().map(|out| tensor(out, &dims)))
}

/// Rows of `table` by `ids`.
pub(super) fn embedding(table: &Tensor, ids: &Tensor) -> Result<Option<Tensor>> {
    if table.rank() != 2 || ids.rank() != 1 || ids.elem_count() == 0 {
        return Ok(None);
    }
    let (table_guard, ids_guard) = (table.storage(), ids.storage());
    match (&*table_guard, &*ids_guard) {
        (Storage::Npu(rows), Storage::Npu(at)) => {
            let out = rows.embedding(table.layout(), at, ids.layout())?;
            Ok(Some(tensor(out, &[ids.elem_count(), table.dim(1)?])))
        }
        _ => Ok(None),
    }
}

/// Rows of a cache at positions that the device holds; false when the cache is elsewhere.
pub(super) fn write_at(cache: &Tensor, positions: &Tensor, rows: &Tensor) -> Result<bool> {
    let (mut cache_guard, positions_guard, rows_guard) = (cache.storage_mut(), positions.storage(), rows.storage());
    match (&mut *cache_guard, &*positions_guard, &*rows_guard) {
        (Storage::Npu(target), Storage::Npu(at), Storage::Npu(source)) => {
            target.write_at(cache.layout(), (at, positions.layout()), (source, rows.layout()))?;
            Ok(true)
        }
        _ => Ok(false),
    }
}

/// Rows of keys and of values into the two halves of `cache` `[2, 1, N, S, D]`; false when one view cannot span both.
pub(super) fn write_pair_at(cache: &Tensor, positions: &Tensor, keys: &Tensor, values: &Tensor) -> Result<bool> {
    let (first, second) = (keys.layout(), values.layout());
    let apart = second.start_offset().checked_sub(first.start_offset());
    let Some(apart) = apart.filter(|_| keys.same_storage(values) && first.stride() == second.stride()) else {
        return Ok(false);
    };
    let ((_, heads, tokens, width), capacity) = (keys.dims4()?, cache.dim(3)?);
    let (mut cache_guard, positions_guard, rows_guard) = (cache.storage_mut(), positions.storage(), keys.storage());
    match (&mut *cache_guard, &*positions_guard, &*rows_guard) {
        (Storage::Npu(target), Storage::Npu(at), Storage::Npu(source)) => {
            let stride = [&[apart], &first.stride()[1..]].concat();
            let both = Layout::new((2, heads, tokens, width).into(), stride, first.start_offset());
            let halves = (2, heads, capacity, width);
            let halves = Layout::contiguous_with_offset(halves, cache.layout().start_offset());
            let twice = Layout::new(2.into(), vec![0], positions.layout().start_offset());
            target.write_at(&halves, (at, &twice), (source, &both))?;
            Ok(true)
        }
        _ => Ok(false),
    }
}

/// Queries, keys and values in new memory, side by side: those normed head by head and rotated.
pub(super) fn norm_rotary_all(
    [q, k, v]: [&Tensor; 3],
    weights: (&Tensor, &Tensor),
    eps: f64,
    cos: &Tensor,
    sin: &Tensor,
) -> Result<Option<[Tensor; 3]>> {
    if cos.rank() != 2 || cos.dim(1)? != q.dim(3)? || q.elem_count() == 0 {
        return Ok(None);
    }
    let made = on_npu([q, k, v, weights.0, weights.1, cos, sin], |[q, k, v, q_weight, k_weight, cos, sin]| {
        q.0.norm_rotary_all([q.1, k.1, v.1], [k.0, v.0], [q_weight, k_weight], eps, cos, sin)
    })?;
    let Some(made) = made.flatten() else { return Ok(None) };
    let all = tensor(made, &[q.elem_count() + k.elem_count() + v.elem_count()]);
    let part = |start: usize, like: &Tensor| all.narrow(0, start, like.elem_count())?.reshape(like.shape());
    Ok(Some([part(0, q)?, part(q.elem_count(), k)?, part(q.elem_count() + k.elem_count(), v)?]))
}

/// One token's queries and keys, normed head by head and rotated, in their place; false when they lie apart, belong to
/// several tokens, or the device has no operator for them.
pub(super) fn norm_rotary(
    (q, k): (&Tensor, &Tensor),
    weights: (&Tensor, &Tensor),
    eps: f64,
    cos: &Tensor,
    sin: &Tensor,
) -> Result<bool> {
    let (batch, heads, tokens, width) = q.dims4()?;
    let whole = cos.dim(D::Minus1)? == width && cos.dtype() == q.dtype() && sin.dtype() == q.dtype();
    let weighed = weights.0.dtype() == q.dtype() && weights.1.dtype() == q.dtype();
    if batch != 1 || tokens != 1 || !whole || !weighed || !has_fused(q.dtype()) || !q.same_storage(k) {
        return Ok(false);
    }
    // For writing: the result takes the place of the operands.
    let guard = q.storage_mut();
    let guards = [weights.0, weights.1, cos, sin].map(Tensor::storage);
    match (&*guard, &*guards[0], &*guards[1], &*guards[2], &*guards[3]) {
        (Storage::Npu(x), Storage::Npu(wq), Storage::Npu(wk), Storage::Npu(c), Storage::Npu(s)) => {
            let Some(both) = side_by_side((x, q.layout()), (x, k.layout())) else { return Ok(false) };
            let weights = [(wq, weights.0.layout()), (wk, weights.1.layout())];
            x.norm_rotary(&both, heads, weights, eps, (c, cos.layout()), (s, sin.layout()))
        }
        _ => Ok(false),
    }
}

pub(super) fn attention(
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    scale: f64,
    mask: AttentionMask<'_>,
) -> Result<Option<Tensor>> {
    let (queries, keys) = (q.dim(2)?, k.dim(2)?);
    if ours(q) {
        return attention_ours(q, k, v, scale, mask);
    }
    if let AttentionMask::Hidden(hidden) = mask {
        return attention_hidden(q, k, v, scale, hidden.mask());
    }
    // The fused operator hides or shows a key; it adds nothing.
    let mask = match mask.aligned_at_the_end(queries, keys) {
        Some(true) => npu::AttentionMask::Causal,
        Some(false) => npu::AttentionMask::None,
        None => return Ok(None),
    };
    if k.dims() != v.dims() {
        return Ok(None);
    }
    let out = on_npu([q, k, v], |[(storage, layout), keys, values]| {
        let whole = whole_cache(keys).zip(whole_cache(values)).filter(|((k, _), (v, _))| k.dims() == v.dims());
        let order = AttentionLayout::Bnsd;
        match whole {
            Some(((key_cache, lengths), (value_cache, _))) => {
                let (keys, values) = ((keys.0, &key_cache), (values.0, &value_cache));
                storage.fused_attention(layout, keys, values, mask, Some(&lengths), scale, order)
            }
            None => storage.fused_attention(layout, keys, values, mask, None, scale, order),
        }
    })?;
    Ok(out.flatten().map(|out| tensor(out, q.dims())))
}

/// Our kernel where it has the type, the widths and the mask: F16 and BF16, multiples of 16 columns, causal, none, or one query
/// that does not see what lies behind a position.
fn attention_ours(q: &Tensor, k: &Tensor, v: &Tensor, scale: f64, mask: AttentionMask<'_>) -> Result<Option<Tensor>> {
    let causal = match mask {
        AttentionMask::None => None,
        AttentionMask::Causal { offset } => Some(offset),
        AttentionMask::Hidden(hidden) => return attention_in_blocks(q, k, v, scale, hidden),
        AttentionMask::Additive(_) => return Ok(None),
    };
    let (batch, heads, queries, _) = q.dims4()?;
    let out = on_npu([q, k, v], |[(storage, layout), keys, values]| {
        storage.attention_ours(layout, keys, values, causal, scale)
    })?;
    out.flatten().map(|out| tensor(out, &[batch, queries, heads, v.dim(3)?]).transpose(1, 2)).transpose()
}

/// Attention of one query a sequence to its first keys, by our kernel for keys in blocks: a cache is a pool whose blocks follow
/// each other.
fn attention_in_blocks(q: &Tensor, k: &Tensor, v: &Tensor, scale: f64, hidden: &HiddenKeys) -> Result<Option<Tensor>> {
    let ((batch, heads, queries, width), (_, groups, keys, _)) = (q.dims4()?, k.dims4()?);
    let widths = (width, v.dim(3)?);
    let typed = matches!(q.dtype(), DType::F16 | DType::BF16) && queries == 1 && heads / groups <= flash::TASK_ROWS;
    if !typed || flash::check("attention", (heads, groups), widths, scale as f32).is_err() {
        return Ok(None);
    }
    let Some(size) = [128, 64, 32, 16].into_iter().find(|size| keys.is_multiple_of(*size)) else { return Ok(None) };
    // The pool, and how many blocks lie between the first ones of two sequences.
    let pool = |x: &Tensor| {
        let &[of_sequence, of_head, row, 1] = x.stride() else { return None };
        let block = size * row;
        let apart = if batch == 1 { keys / size } else { of_sequence / block };
        let dims = (batch * apart, groups, size, x.dims()[3]);
        let layout = Layout::new(dims.into(), vec![block, of_head, row, 1], x.layout().start_offset());
        (batch == 1 || of_sequence.is_multiple_of(block)).then_some((layout, apart))
    };
    let Some(((key_pool, apart), (value_pool, same))) = pool(k).zip(pool(v)) else { return Ok(None) };
    if apart != same {
        return Ok(None);
    }
    let Some([table, seen]) = hidden.blocks(keys / size, apart)? else { return Ok(None) };
    npu_storage!(at, table);
    npu_storage!(count, seen);
    let out = on_npu([&q.squeeze(2)?, k, v], |[(storage, layout), keys, values]| {
        let pools = [(keys.0, &key_pool), (values.0, &value_pool)];
        storage.paged_attention_ours(layout, pools, [(at, table.layout()), (count, seen.layout())], scale)
    })?;
    out.map(|out| tensor(out, &[batch, heads, widths.1]).unsqueeze(2)).transpose()
}

/// Attention of one query a sequence to the keys that `mask` `[B, T]` does not hide.
fn attention_hidden(q: &Tensor, k: &Tensor, v: &Tensor, scale: f64, mask: &Tensor) -> Result<Option<Tensor>> {
    let (batch, _, queries, _) = q.dims4()?;
    let keys = k.dim(2)?;
    if k.dims() != v.dims() || queries != 1 || mask.dims() != [batch, keys] {
        return Ok(None);
    }
    let guard = mask.storage();
    let Storage::Npu(hidden) = &*guard else { return Ok(None) };
    let layout = mask.reshape((batch, 1, 1, keys))?.layout().clone();
    let out = on_npu([q, k, v], |[(storage, q_layout), keys, values]| {
        let hidden = npu::AttentionMask::Where(hidden, &layout);
        storage.fused_attention(q_layout, keys, values, hidden, None, scale, AttentionLayout::Bnsd)
    })?;
    Ok(out.flatten().map(|out| tensor(out, q.dims())))
}

/// The row-major buffer `[B, H, capacity, D]` whose first positions these keys (or values) are, and how many they are
/// in each batch row. Passing it whole saves a copy of the cache a step.
fn whole_cache((storage, layout): (&NpuStorage, &Layout)) -> Option<(Layout, Vec<i64>)> {
    let &[batch, heads, positions, width] = layout.dims() else { return None };
    let &[batch_stride, head_stride, position_stride, 1] = layout.stride() else { return None };
    if layout.is_contiguous() || position_stride != width || head_stride % width != 0 {
        return None;
    }
    let capacity = head_stride / width;
    let gapless = batch == 1 || batch_stride == heads * head_stride;
    let end = layout.start_offset() + batch * heads * head_stride;
    if capacity < positions || !gapless || end > storage.len() {
        return None;
    }
    let buffer = Layout::contiguous_with_offset((batch, heads, capacity, width), layout.start_offset());
    Some((buffer, vec![positions as i64; batch]))
}
