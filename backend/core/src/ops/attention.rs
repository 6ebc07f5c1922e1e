//! Scaled dot-product attention with shared key and value heads.

use super::cpu::{Real, elements, on_cpu};
use super::fused::{expect_float, softmax_last_dim, wide};
use super::kernels::{decomposed, overrides};
use super::npu_grad;
use crate::autograd::{Gradient, no_grad, record, tracked};
use crate::npu::RowStatistics;
use crate::{D, DType, Device, Error, Result, Storage, Tensor, bail};
use npu_cpu_kernels::{Attended, AttentionGrads, Heads, Sight, attention_grads};
use std::sync::{Arc, OnceLock};

/// Which keys a query sees.
#[derive(Clone, Copy, Debug)]
pub enum AttentionMask<'a> {
    /// All of them.
    None,
    /// Query `i` sees keys `0..=i + offset`; `offset` is the number of keys before the first query.
    Causal { offset: usize },
    /// A term added to the scaled scores (minus infinity hides), broadcast to `[B, H, S, T]`.
    Additive(&'a Tensor),
    /// Every query of a sequence sees the same keys, and which they are is known to the device alone.
    Hidden(&'a HiddenKeys),
}

/// Keys `[B, T]` that a sequence's queries do not see.
#[derive(Clone, Debug)]
pub struct HiddenKeys {
    mask: Tensor,
    /// The same as a term of scores `[B, 1, 1, T]` in F32, made when it is first wanted.
    term: OnceLock<Tensor>,
    /// Positions `[B]` that they lie behind, where they do, and 0, 1, … `[1, T]`, both in I64.
    behind: Option<(Tensor, Tensor)>,
    /// What [`HiddenKeys::blocks`] made first, and of what; all layers of a step ask for the same.
    blocks: OnceLock<([usize; 2], [Tensor; 2])>,
}

impl HiddenKeys {
    /// `mask` is `[B, T]`, U8, not zero where a key is hidden.
    pub fn new(mask: Tensor) -> Result<Self> {
        if mask.dtype() != DType::U8 || mask.rank() != 2 {
            bail!("hidden keys: {:?} of {:?}, wanted U8 [B, T]", mask.dtype(), mask.shape())
        }
        Ok(Self { mask, term: OnceLock::new(), behind: None, blocks: OnceLock::new() })
    }

    /// Those behind `positions` `[B]` (I64), of the keys at `places` `[1, T]` (I64): 0, 1, … on the same device. A kernel that reads
    /// only the keys in use learns from it how many these are.
    pub fn behind(positions: &Tensor, places: &Tensor) -> Result<Self> {
        let hidden = Self::new(places.broadcast_gt(&positions.unsqueeze(1)?)?)?;
        Ok(Self { behind: Some((positions.clone(), places.clone())), ..hidden })
    }

    /// The keys as `entries` blocks of each sequence, the first of which lie `apart` blocks from each other: the table of blocks
    /// `[B, entries]` and how many keys each sequence sees `[B]`, both in U32. None where that is not known.
    pub(super) fn blocks(&self, entries: usize, apart: usize) -> Result<Option<[Tensor; 2]>> {
        let Some((positions, places)) = &self.behind else { return Ok(None) };
        if let Some((_, blocks)) = self.blocks.get().filter(|(of, _)| *of == [entries, apart]) {
            return Ok(Some(blocks.clone()));
        }
        let (batch, row) = (positions.dim(0)?, places.narrow(1, 0, entries)?);
        // From what the device holds: a captured step uploads nothing.
        let table = match batch {
            1 => row,
            _ if batch > places.dim(1)? => return Ok(None),
            _ => (places.narrow(1, 0, batch)?.t()? * apart as f64)?.broadcast_add(&row)?,
        };
        let blocks = [table.to_dtype(DType::U32)?, (positions + 1.0)?.to_dtype(DType::U32)?];
        // Where others were made first, these serve this call alone.
        let _ = self.blocks.set(([entries, apart], blocks.clone()));
        Ok(Some(blocks))
    }

    pub(super) fn mask(&self) -> &Tensor {
        &self.mask
    }

    fn term(&self) -> Result<Tensor> {
        if let Some(term) = self.term.get() {
            return Ok(term.clone());
        }
        let (batch, keys) = self.mask.dims2()?;
        let (shape, device) = ((batch, keys), self.mask.device());
        let hidden = Tensor::full(f32::NEG_INFINITY, shape, device)?;
        let term = self.mask.where_cond(&hidden, &Tensor::zeros(shape, DType::F32, device)?)?;
        let term = term.reshape((batch, 1, 1, keys))?;
        Ok(self.term.get_or_init(|| term).clone())
    }
}

/// A mask tensor that may be absent.
impl<'a> From<Option<&'a Tensor>> for AttentionMask<'a> {
    fn from(term: Option<&'a Tensor>) -> Self {
        term.map_or(Self::None, Self::Additive)
    }
}

/// `softmax(scale * q·kᵀ + mask)·v`, the softmax in F32 (F64 for F64 operands).
///
/// `q` is `[B, H, S, D]`, `k` is `[B, G, T, D]` and `v` `[B, G, T, E]`, where `G` divides `H`: query head `h` uses key
/// head `h / (H / G)`. The result is `[B, H, S, E]`. A query that sees no key gives NaN, as the definition does.
pub fn attention<'a>(
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    scale: f64,
    mask: impl Into<AttentionMask<'a>>,
) -> Result<Tensor> {
    let mask = mask.into();
    check(q, k, v)?;
    let learned_mask = matches!(mask, AttentionMask::Additive(term) if term.track_op());
    if learned_mask {
        // Its gradient is that of the primitives.
        return decomposed(|| attend(q, k, v, scale, mask));
    }
    if !overrides() || !tracked(&[q, k, v]) {
        return attend(q, k, v, scale, mask);
    }
    let (out, kept) = attend_kept(q, k, v, scale, mask)?;
    Ok(record(out, &Attention { scale, mask: mask.into(), kept }, [q, k, v]))
}

impl AttentionMask<'_> {
    /// Whether the mask is the causal one whose last query sees every key (true), none at all (false), or another.
    pub(super) fn aligned_at_the_end(self, queries: usize, keys: usize) -> Option<bool> {
        match self {
            Self::None => Some(false),
            Self::Causal { offset } if offset + 1 >= keys => Some(false),
            Self::Causal { offset } if offset + queries == keys => Some(true),
            Self::Causal { .. } | Self::Additive(_) | Self::Hidden(_) => None,
        }
    }

    /// The same for the CPU's kernels, which know no other masks.
    fn sight(self) -> Option<Sight> {
        match self {
            Self::None => Some(Sight::All),
            Self::Causal { offset } => Some(Sight::Causal { offset }),
            Self::Additive(_) | Self::Hidden(_) => None,
        }
    }
}

/// [`attend`] without recording, with what the device's gradient wants where that is one launch.
pub(super) fn attend_kept(
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    scale: f64,
    mask: AttentionMask<'_>,
) -> Result<(Tensor, Option<Arc<RowStatistics>>)> {
    if let Some(causal) = mask.aligned_at_the_end(q.dim(2)?, k.dim(2)?)
        && let Some((out, kept)) = npu_grad::attention_kept(q, k, v, causal, scale)?
    {
        return Ok((out, Some(kept)));
    }
    Ok((no_grad(|| attend(q, k, v, scale, mask))?, None))
}

fn attend(q: &Tensor, k: &Tensor, v: &Tensor, scale: f64, mask: AttentionMask<'_>) -> Result<Tensor> {
    if overrides() {
        if let Some(out) = super::npu::attention(q, k, v, scale, mask)? {
            return Ok(out);
        }
        if let Some(out) = super::cuda::attention(q, k, v, scale, mask)? {
            return Ok(out);
        }
        if let Some(sight) = mask.sight()
            && let Some(out) = on_cpu!(q, online(q, k, v, scale, sight))?
        {
            return Ok(out);
        }
    }
    let (batch, heads, queries, _) = q.dims4()?;
    let value_width = v.dim(3)?;
    let weights = weights(q, k, scale, mask)?;
    let out = weights.matmul(&batch_matrix(&v.to_dtype(weights.dtype())?)?)?;
    out.reshape((batch, heads, queries, value_width))?.to_dtype(v.dtype())
}

/// The softmax's weights `[B, G, H / G * S, T]`, in F32 (F64 for F64 operands). The query heads that share a key head are
/// stacked as rows of one matrix, so that keys are never repeated.
fn weights(q: &Tensor, k: &Tensor, scale: f64, mask: AttentionMask<'_>) -> Result<Tensor> {
    let (batch, heads, queries, _) = q.dims4()?;
    let (_, groups, keys, _) = k.dims4()?;
    let dtype = wide(q.dtype());
    let rows = heads / groups * queries;
    let scores = (stacked(q, groups)?.matmul(&batch_matrix(&k.to_dtype(dtype)?)?.t()?)? * scale)?;
    let scores = match mask_term(mask, queries, keys, dtype, q.device())? {
        Some(term) => {
            scores.reshape((batch, heads, queries, keys))?.broadcast_add(&term)?.reshape((batch, groups, rows, keys))?
        }
        None => scores,
    };
    softmax_last_dim(&scores)
}

/// `[B, H, S, D]` as `[B, G, H / G * S, D]`, in F32 or F64.
fn stacked(x: &Tensor, groups: usize) -> Result<Tensor> {
    let (batch, heads, queries, width) = x.dims4()?;
    // Where each head has its own key head nothing is stacked, and the view stays what it was.
    batch_matrix(&x.to_dtype(wide(x.dtype()))?.reshape((batch, groups, heads / groups * queries, width))?)
}

/// One step of the tape: scores and weights are not kept but computed again, which costs a product and saves `H·S·T`
/// elements a layer.
#[derive(Clone)]
pub(super) struct Attention {
    pub scale: f64,
    pub mask: Mask,
    /// What the device's gradient wants, where it computes it in one launch.
    pub kept: Option<Arc<RowStatistics>>,
}

/// An [`AttentionMask`] that can be kept.
#[derive(Clone)]
pub(super) enum Mask {
    None,
    Causal { offset: usize },
    Additive(Tensor),
    Hidden(HiddenKeys),
}

impl From<AttentionMask<'_>> for Mask {
    fn from(mask: AttentionMask<'_>) -> Self {
        match mask {
            AttentionMask::None => Self::None,
            AttentionMask::Causal { offset } => Self::Causal { offset },
            AttentionMask::Additive(term) => Self::Additive(term.clone()),
            AttentionMask::Hidden(keys) => Self::Hidden(keys.clone()),
        }
    }
}

impl Mask {
    fn borrow(&self) -> AttentionMask<'_> {
        match self {
            Self::None => AttentionMask::None,
            Self::Causal { offset } => AttentionMask::Causal { offset: *offset },
            Self::Additive(term) => AttentionMask::Additive(term),
            Self::Hidden(keys) => AttentionMask::Hidden(keys),
        }
    }
}

impl Gradient<3> for Attention {
    fn name(&self) -> &'static str {
        "attention"
    }

    fn backward(&self, operands: [&Tensor; 3], out: &Tensor, grad: &Tensor) -> Result<[Option<Tensor>; 3]> {
        self.grads(operands, operands.map(Tensor::track_op), out, grad)
    }
}

impl Attention {
    /// The gradients of those of the operands that are `wanted`.
    pub fn grads(
        &self,
        [q, k, v]: [&Tensor; 3],
        wanted: [bool; 3],
        out: &Tensor,
        grad: &Tensor,
    ) -> Result<[Option<Tensor>; 3]> {
        if let Some(kept) = &self.kept
            && let Some(causal) = self.mask.borrow().aligned_at_the_end(q.dim(2)?, k.dim(2)?)
            && let Some(grads) = npu_grad::attention([q, k, v], out, grad, kept, causal, self.scale)?
        {
            return Ok(grads.map(Some));
        }
        if overrides()
            && let Some(sight) = self.mask.borrow().sight()
            && let Some(grads) = on_cpu!(q, grads_on_cpu([q, k, v, out, grad], self.scale, sight))?
        {
            return Ok(grads.map(Some));
        }
        let groups = k.dim(1)?;
        let weights = weights(q, k, self.scale, self.mask.borrow())?;
        let (q_rows, out, grad) = (stacked(q, groups)?, stacked(out, groups)?, stacked(grad, groups)?);
        let wide_matrix = |x: &Tensor| batch_matrix(&x.to_dtype(weights.dtype())?);
        let [of_q, of_k, of_v] = wanted;
        let of_v = of_v.then(|| weights.t()?.matmul(&grad)?.to_dtype(v.dtype())).transpose()?;
        if !of_q && !of_k {
            return Ok([None, None, of_v]);
        }
        // The sum over keys of weight and its gradient is that over the head of result and its gradient.
        let along = (&grad * &out)?.sum_keepdim(D::Minus1)?;
        let of_weights = grad.matmul(&wide_matrix(v)?.t()?)?;
        let of_scores = ((of_weights.broadcast_sub(&along)? * &weights)? * self.scale)?;
        let of_q = of_q.then(|| of_scores.matmul(&wide_matrix(k)?)?.reshape(q.shape())?.to_dtype(q.dtype()));
        let of_k = of_k.then(|| of_scores.t()?.matmul(&q_rows)?.to_dtype(k.dtype()));
        Ok([of_q.transpose()?, of_k.transpose()?, of_v])
    }
}

/// The gradients of `q`, `k` and `v`, given also the result and its gradient.
fn grads_on_cpu<T: Real>(operands: [&Tensor; 5], scale: f64, sight: Sight) -> Result<[Tensor; 3]> {
    let gapless = |x: &Tensor| if x.stride()[3] == 1 { Ok(x.clone()) } else { x.contiguous() };
    let [q, k, v, out, grad] = operands;
    let all = [gapless(q)?, gapless(k)?, gapless(v)?, gapless(out)?, gapless(grad)?];
    let guards = all.each_ref().map(|x| x.storage());
    let heads = |index: usize| heads_of::<T>(&guards[index], &all[index]);
    let at = Attended { q: heads(0)?, k: heads(1)?, v: heads(2)?, out: heads(3)?, grad: heads(4)? };
    let AttentionGrads { q: of_q, k: of_k, v: of_v } = attention_grads(at, scale as f32, sight);
    let tensor = |values, like: &Tensor| Tensor::from_vec(values, like.shape(), like.device())?.to_dtype(like.dtype());
    Ok([tensor(of_q, q)?, tensor(of_k, k)?, tensor(of_v, v)?])
}

/// `[B, H, S, D]` whose last dimension lies without gaps.
fn heads_of<'a, T: Real>(storage: &'a Storage, x: &Tensor) -> Result<Heads<'a, T>> {
    let ((b, h, s, d), stride) = (x.dims4()?, x.stride());
    Ok(Heads::new(elements::<T>(storage, x.layout())?, [b, h, s, d], [stride[0], stride[1], stride[2]]))
}

/// Keys and values are read where they lie in a cache. The result lies in memory as `[B, S, H, E]`, as the projection that
/// follows wants it.
fn online<T: Real>(q: &Tensor, k: &Tensor, v: &Tensor, scale: f64, sight: Sight) -> Result<Tensor> {
    let gapless = |x: &Tensor| if x.stride()[3] == 1 { Ok(x.clone()) } else { x.contiguous() };
    let (q, k, v) = (gapless(q)?, gapless(k)?, gapless(v)?);
    let guards = [q.storage(), k.storage(), v.storage()];
    let heads = |index: usize, x: &Tensor| heads_of::<T>(&guards[index], x);
    let ((batch, count, queries, _), width) = (q.dims4()?, v.dims4()?.3);
    let mut out = vec![T::zero(); batch * queries * count * width];
    npu_cpu_kernels::attention(heads(0, &q)?, heads(1, &k)?, heads(2, &v)?, scale as f32, sight, &mut out);
    Tensor::from_vec(out, (batch, queries, count, width), q.device())?.transpose(1, 2)
}

pub(super) fn check(q: &Tensor, k: &Tensor, v: &Tensor) -> Result<()> {
    expect_float(q, "attention")?;
    q.same_dtype(k, "attention")?;
    q.same_dtype(v, "attention")?;
    let ((b, h, _, d), (kb, g, t, kd), (vb, vg, vt, _)) = (q.dims4()?, k.dims4()?, v.dims4()?);
    if (b, d) != (kb, kd) || (kb, g, t) != (vb, vg, vt) || g == 0 || h % g != 0 {
        return Err(Error::Msg(format!(
            "attention: queries {:?}, keys {:?} and values {:?} do not fit: wanted [B,H,S,D], [B,G,T,D] and [B,G,T,E] \
             with H a multiple of G",
            q.shape(),
            k.shape(),
            v.shape()
        ))
        .bt());
    }
    Ok(())
}

/// The matrices of `x` for a batched product, which wants one stride over both batch dimensions and row-major
/// matrices; a cache that is a slice of a longer buffer has them, a transposed projection has not.
fn batch_matrix(x: &Tensor) -> Result<Tensor> {
    let (dims, stride) = (x.dims(), x.stride());
    let one_batch_stride = dims[0] == 1 || dims[1] == 1 || stride[0] == stride[1] * dims[1];
    let row_major = stride[3] == 1 && stride[2] >= dims[3];
    if one_batch_stride && row_major { Ok(x.clone()) } else { x.contiguous() }
}

/// The additive form of `mask`; none when it hides nothing.
fn mask_term(
    mask: AttentionMask<'_>,
    queries: usize,
    keys: usize,
    dtype: DType,
    device: &Device,
) -> Result<Option<Tensor>> {
    match mask {
        AttentionMask::None => Ok(None),
        AttentionMask::Additive(term) => Ok(Some(term.to_dtype(dtype)?)),
        AttentionMask::Hidden(hidden) => Ok(Some(hidden.term()?.to_dtype(dtype)?)),
        AttentionMask::Causal { offset } if offset + 1 >= keys => Ok(None),
        AttentionMask::Causal { offset } => causal_term(queries, keys, offset, device)?.to_dtype(dtype).map(Some),
    }
}

/// `[S, T]` in F32: zero where query `i` sees key `j` (`j <= i + offset`), minus infinity elsewhere.
pub fn causal_term(queries: usize, keys: usize, offset: usize, device: &Device) -> Result<Tensor> {
    if queries == 0 || keys == 0 {
        bail!("a causal mask of {queries} queries and {keys} keys is empty")
    }
    let row = |i: usize| (0..keys).map(move |j| if j <= i + offset { 0f32 } else { f32::NEG_INFINITY });
    Tensor::from_vec((0..queries).flat_map(row).collect(), (queries, keys), device)
}
