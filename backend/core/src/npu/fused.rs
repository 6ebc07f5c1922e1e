//! Operators that do in one launch what models would otherwise do in several.
//!
//! Those that not every release or shape has answer `None` then; the caller composes them from simpler operators on the
//! same device.

use super::device::MASK_SIDE;
use super::dtype::{FLOATS, require};
use super::storage::NpuStorage;
use crate::acl::{Error, IntArray, TensorDesc, TensorList, View, launch};
use acl_sys::loader::op;
use acl_sys::{ACL_UINT8, aclDataType};
use candle_core::{DType, Layout, Result};
use std::ffi::CStr;

/// Order of the dimensions of queries, keys and values: batch, heads, sequence, width of a head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AttentionLayout {
    /// `[batch, heads, sequence, width]`
    Bnsd,
    /// `[batch, sequence, heads, width]`
    Bsnd,
}

/// What a query may not see.
#[derive(Clone, Copy, Debug)]
pub enum AttentionMask<'a> {
    /// Every query sees every key.
    None,
    /// The last query sees every key, each earlier one sees one less.
    Causal,
    /// u8, 1 where a query does not see a key; shape `[1 or batch, 1, queries, keys]`.
    Where(&'a NpuStorage, &'a Layout),
}

/// ApplyRotaryPosEmb, the only one before CANN 9, takes heads of this width.
const ROTARY_WIDTH_OF_8: usize = 128;
/// Bytes of the unified buffer that it must fit into.
const UNIFIED_BUFFER: usize = 192 << 10;
/// RotaryPositionEmbedding takes heads and batches below these sizes.
const ROTARY_WIDTH: usize = 896;
const ROTARY_BATCH: usize = 1000;
/// Widest head that NormRopeConcat takes.
const NORM_ROPE_WIDTH: usize = 1024;
/// Widest head that fused attention takes.
const ATTENTION_WIDTH: usize = 512;
/// Most query heads that share one key head in fused attention.
const SHARED_HEADS: usize = 64;
/// "No limit" of fused attention's windows.
pub(super) const ALL_TOKENS: i64 = i32::MAX as i64;

/// A contiguous view of what a layout selects, copied when it is not contiguous.
pub(super) struct Contiguous<'a> {
    copy: Option<NpuStorage>,
    storage: &'a NpuStorage,
    layout: &'a Layout,
}

impl<'a> Contiguous<'a> {
    pub(super) fn new(storage: &'a NpuStorage, layout: &'a Layout) -> Result<Self> {
        let copy = if layout.is_contiguous() { None } else { Some(storage.compact(layout)?) };
        Ok(Self { copy, storage, layout })
    }

    pub(super) fn view(&self) -> Result<View<'_>> {
        match &self.copy {
            Some(copy) => copy.shaped(self.layout.dims()),
            None => self.storage.view(self.layout),
        }
    }
}

fn arguments<T>(op: &'static str, why: String) -> Result<T> {
    Err(Error::Arguments { op, why }.into())
}

impl NpuStorage {
    /// `x / rms(x) * weight` over the last dimension, with `eps` added to the mean square. `weight` has the size of the
    /// last dimension.
    pub fn rms_norm(&self, layout: &Layout, weight: &Self, weight_layout: &Layout, eps: f64) -> Result<Self> {
        Ok(self.rms_norm_kept(layout, weight, weight_layout, eps)?.0)
    }

    /// As [`Self::rms_norm`], with the reciprocal roots (F32, one a row) that its gradient wants.
    pub fn rms_norm_kept(
        &self,
        layout: &Layout,
        weight: &Self,
        weight_layout: &Layout,
        eps: f64,
    ) -> Result<(Self, Self)> {
        require("rms_norm", self.element(), FLOATS)?;
        let (out, rstd) = (self.like(layout)?, self.rstd(layout)?);
        if !out.is_empty() {
            let (x, gamma) = (self.view(layout)?.desc()?, weight.view(weight_layout)?.desc()?);
            let (y, roots) = (out.shaped(layout.dims())?.desc()?, rstd.shaped(&kept(layout))?.desc()?);
            launch::<op::RmsNorm, _>(self.context(), (&x, &gamma, eps, &y, &roots))?;
        }
        Ok((out, rstd))
    }

    /// The sum of two tensors and its RMS norm: `(norm, sum)`.
    pub fn add_rms_norm(
        &self,
        layout: &Layout,
        residual: (&Self, &Layout),
        weight: (&Self, &Layout),
        eps: f64,
    ) -> Result<(Self, Self)> {
        require("add_rms_norm", self.element(), FLOATS)?;
        if residual.1.dims() != layout.dims() {
            return arguments("add_rms_norm", format!("shapes {:?} and {:?}", layout.dims(), residual.1.dims()));
        }
        let (out, sum, rstd) = (self.like(layout)?, self.like(layout)?, self.rstd(layout)?);
        if !out.is_empty() {
            let dims = layout.dims();
            let (x1, x2) = (self.view(layout)?.desc()?, residual.0.view(residual.1)?.desc()?);
            let (gamma, rstd) = (weight.0.view(weight.1)?.desc()?, rstd.shaped(&kept(layout))?.desc()?);
            let (y, x) = (out.shaped(dims)?.desc()?, sum.shaped(dims)?.desc()?);
            launch::<op::AddRmsNorm, _>(self.context(), (&x1, &x2, &gamma, eps, &y, &rstd, &x))?;
        }
        Ok((out, sum))
    }

    /// As [`Self::add_rms_norm`], with the norm widened to F32 as well: `(norm, sum, norm in F32)`. `None` when the loaded CANN
    /// has no operator for it.
    pub fn add_rms_norm_wide(
        &self,
        layout: &Layout,
        residual: (&Self, &Layout),
        weight: (&Self, &Layout),
        eps: f64,
    ) -> Result<Option<[Self; 3]>> {
        let narrow = matches!(self.element(), DType::F16 | DType::BF16);
        if !narrow || layout.shape().elem_count() == 0 || !self.context().has::<op::AddRmsNormCast>() {
            return Ok(None);
        }
        let [out, sum] = [self.like(layout)?, self.like(layout)?];
        let (wide, rstd) = (self.npu().uninit(DType::F32, layout.shape().elem_count())?, self.rstd(layout)?);
        let dims = layout.dims();
        let (y1, y2, x, rstd) = (wide.shaped(dims)?, out.shaped(dims)?, sum.shaped(dims)?, rstd.shaped(&kept(layout))?);
        #[rustfmt::skip]
        launch::<op::AddRmsNormCast, _>(self.context(), (
            &self.operand(layout)?, &residual.0.operand(residual.1)?, &weight.0.operand(weight.1)?, eps, &y1.desc()?, &y2.desc()?,
            &rstd.desc()?, &x.desc()?,
        ))?;
        Ok(Some([out, sum, wide]))
    }

    /// What an operator is told of the elements that `layout` selects.
    pub(super) fn operand(&self, layout: &Layout) -> Result<TensorDesc<'_>> {
        Ok(self.view(layout)?.desc()?)
    }

    fn like(&self, layout: &Layout) -> Result<Self> {
        self.npu().uninit(self.element(), layout.shape().elem_count())
    }

    /// Room for the reciprocal deviations that the norms also answer.
    fn rstd(&self, layout: &Layout) -> Result<Self> {
        self.npu().uninit(DType::F32, kept(layout).iter().product())
    }

    /// `silu(first half) * second half` of the last dimension, which must be even.
    pub fn swiglu(&self, layout: &Layout) -> Result<Self> {
        require("swiglu", self.element(), FLOATS)?;
        let mut dims = layout.dims().to_vec();
        let Some(last) = dims.last_mut().filter(|last| **last % 2 == 0) else {
            return arguments("swiglu", format!("shape {:?}, wanted an even last dimension", layout.dims()));
        };
        *last /= 2;
        let out = self.npu().uninit(self.element(), dims.iter().product())?;
        if !out.is_empty() {
            let x = Contiguous::new(self, layout)?;
            launch::<op::SwiGlu, _>(self.context(), (&x.view()?.desc()?, -1i64, &out.shaped(&dims)?.desc()?))?;
        }
        Ok(out)
    }

    /// Elements with probability `1 - p`, divided by that, and otherwise zeros; which, is a function of the key and the shape.
    pub fn dropout(&self, layout: &Layout, p: f64, key: u64) -> Result<Self> {
        require("dropout", self.element(), FLOATS)?;
        let (out, count) = (self.like(layout)?, layout.shape().elem_count());
        if !out.is_empty() {
            // A bit an element, in units of sixteen bytes. The generator is a block cipher of seed and offset.
            let mask = self.npu().uninit(DType::U8, count.div_ceil(128) * 16)?;
            let shape = IntArray::new(self.context(), &[count as i64])?;
            let (bits, seed) = (mask.flat()?.desc()?, key as i64);
            launch::<op::DropoutGenMask, _>(self.context(), (&shape, p, seed, 0i64, &bits))?;
            let x = Contiguous::new(self, layout)?;
            let (x, y) = (x.view()?.desc()?, out.shaped(layout.dims())?.desc()?);
            launch::<op::DropoutDoMask, _>(self.context(), (&x, &bits, p, &y))?;
        }
        Ok(out)
    }

    /// Rotates queries (`self`) and keys by position: `x * cos + rotated halves * sin`. `cos` and `sin` are
    /// `[sequence, width]` or `[batch, sequence, width]`, where both halves of the width are equal; tables of one half are
    /// doubled, at the price of a launch each. `None` when the loaded CANN has no operator for this width.
    pub fn rotary(
        &self,
        layout: &Layout,
        keys: (&Self, &Layout),
        cos: (&Self, &Layout),
        sin: (&Self, &Layout),
        order: AttentionLayout,
    ) -> Result<Option<(Self, Self)>> {
        require("rotary", self.element(), FLOATS)?;
        let (&[batch, _, _, width], 4) = (layout.dims(), keys.1.dims().len()) else {
            return arguments(
                "rotary",
                format!("queries {:?} and keys {:?}, wanted four dimensions", layout.dims(), keys.1.dims()),
            );
        };
        if !rotary_fits_any(batch, width) {
            return Ok(None);
        }
        let doubled = [doubled(cos, width)?, doubled(sin, width)?];
        let [cos, sin] = [(&doubled[0], cos), (&doubled[1], sin)]
            .map(|(doubled, given)| doubled.as_ref().map_or(given, |(storage, layout)| (storage, layout)));
        if self.context().has::<op::RotaryPositionEmbedding>() {
            let q = self.rotate(layout, cos, sin, order)?;
            return Ok(Some((q, keys.0.rotate(keys.1, cos, sin, order)?)));
        }
        let heads = |dims: &[usize]| if order == AttentionLayout::Bnsd { dims[1] } else { dims[2] };
        if width != ROTARY_WIDTH_OF_8 || !rotary_fits(heads(layout.dims()) + heads(keys.1.dims()), self.element()) {
            return Ok(None);
        }
        let (q, k) = (self.compact(layout)?, keys.0.compact(keys.1)?);
        if !q.is_empty() && !k.is_empty() {
            const BSND: i64 = 1;
            let (cos, sin) =
                (table(cos, batch, AttentionLayout::Bsnd, true)?, table(sin, batch, AttentionLayout::Bsnd, true)?);
            let (qv, kv) = (q.as_bsnd(layout.dims(), order)?, k.as_bsnd(keys.1.dims(), order)?);
            launch::<op::ApplyRotaryPosEmb, _>(self.context(), (&qv, &kv, &cos, &sin, BSND))?;
        }
        Ok(Some((q, k)))
    }

    /// As [`Self::rotary`] for one tensor of heads and tables of the whole width, in one launch: `None` when the loaded CANN
    /// rotates queries and keys only together, or not this width.
    pub fn rotary_alone(
        &self,
        layout: &Layout,
        cos: (&Self, &Layout),
        sin: (&Self, &Layout),
        order: AttentionLayout,
    ) -> Result<Option<Self>> {
        require("rotary", self.element(), FLOATS)?;
        let &[batch, _, _, width] = layout.dims() else {
            return arguments("rotary", format!("shape {:?}, wanted four dimensions", layout.dims()));
        };
        let fits = rotary_fits_any(batch, width) && cos.1.dims().last() == Some(&width);
        if !fits || !self.context().has::<op::RotaryPositionEmbedding>() {
            return Ok(None);
        }
        self.rotate(layout, cos, sin, order).map(Some)
    }

    fn rotate(
        &self,
        layout: &Layout,
        cos: (&Self, &Layout),
        sin: (&Self, &Layout),
        order: AttentionLayout,
    ) -> Result<Self> {
        let out = self.like(layout)?;
        if !out.is_empty() {
            self.rotate_into(self.view(layout)?, cos, sin, order, out.shaped(layout.dims())?)?;
        }
        Ok(out)
    }

    fn rotate_into(
        &self,
        x: View<'_>,
        cos: (&Self, &Layout),
        sin: (&Self, &Layout),
        order: AttentionLayout,
        out: View<'_>,
    ) -> Result<()> {
        const HALF: i64 = 0;
        let batch = x.dims()[0] as usize;
        let (cos, sin) = (table(cos, batch, order, false)?, table(sin, batch, order, false)?);
        launch::<op::RotaryPositionEmbedding, _>(self.context(), (&x.desc()?, &cos, &sin, HALF, &out.desc()?))?;
        Ok(())
    }

    /// One token's queries and keys, side by side in `both` `[1, H, 1, D]` with `heads` heads of queries first: each head
    /// normed by the weight of its kind, rotated, and put back in its place. Three launches, none of which writes what it
    /// reads. False, and nothing is changed, when the loaded CANN has no operator for this width.
    pub fn norm_rotary(
        &self,
        both: &Layout,
        heads: usize,
        weights: [(&Self, &Layout); 2],
        eps: f64,
        cos: (&Self, &Layout),
        sin: (&Self, &Layout),
    ) -> Result<bool> {
        require("norm_rotary", self.element(), FLOATS)?;
        let &[1, all, 1, width] = both.dims() else {
            return arguments("norm_rotary", format!("shape {:?}, wanted [1, heads, 1, width]", both.dims()));
        };
        if !rotary_fits_any(1, width) || !self.context().has::<op::RotaryPositionEmbedding>() {
            return Ok(false);
        }
        let normed = self.like(both)?;
        let rstd = self.npu().uninit(DType::F32, all)?;
        for ((start, count), (weight, layout)) in [(0, heads), (heads, all - heads)].into_iter().zip(weights) {
            let dims = [1, count, 1, width];
            let x = self.view(&both.narrow(1, start, count)?)?.desc()?;
            let y = normed.view(&Layout::contiguous_with_offset(&dims, start * width))?.desc()?;
            let rstd = rstd.view(&Layout::contiguous_with_offset((1, count, 1, 1), start))?.desc()?;
            launch::<op::RmsNorm, _>(self.context(), (&x, &weight.view(layout)?.desc()?, eps, &y, &rstd))?;
        }
        self.rotate_into(normed.shaped(both.dims())?, cos, sin, AttentionLayout::Bnsd, self.view(both)?)?;
        Ok(true)
    }

    /// Queries (`self`), keys and values `[B, N, S, D]`, in this order in one new storage, row-major each: queries and keys
    /// normed head by head with their weights `[D]` and rotated by the rows of `cos` and `sin` `[S, D]`. One launch; `None`
    /// when the loaded CANN has no operator for it.
    pub fn norm_rotary_all(
        &self,
        layouts: [&Layout; 3],
        others: [&Self; 2],
        weights: [(&Self, &Layout); 2],
        eps: f64,
        cos: (&Self, &Layout),
        sin: (&Self, &Layout),
    ) -> Result<Option<Self>> {
        require("norm_rotary", self.element(), FLOATS)?;
        let &[_, _, positions, width] = layouts[0].dims() else {
            return arguments("norm_rotary", format!("shape {:?}, wanted four dimensions", layouts[0].dims()));
        };
        let fits = width % 2 == 0 && width <= NORM_ROPE_WIDTH && cos.1.dims() == [positions, width];
        if !fits || !self.context().has::<op::NormRopeConcat>() {
            return Ok(None);
        }
        let counts = layouts.map(|layout| layout.shape().elem_count());
        let out = self.npu().uninit(self.element(), counts.iter().sum())?;
        let starts = [0, counts[0], counts[0] + counts[1]];
        // The operator takes tokens in front of heads, and answers heads in front of tokens.
        let from = [layouts[0].transpose(1, 2)?, layouts[1].transpose(1, 2)?, layouts[2].transpose(1, 2)?];
        let (q, k, v) = (self.operand(&from[0])?, others[0].operand(&from[1])?, others[1].operand(&from[2])?);
        let to = |i: usize| Layout::contiguous_with_offset(layouts[i].shape(), starts[i]);
        let (to_q, to_k, to_v) = (out.view(&to(0))?, out.view(&to(1))?, out.view(&to(2))?);
        let [wq, wk, cos, sin] = [weights[0], weights[1], cos, sin].map(|(storage, layout)| storage.operand(layout));
        let (wq, wk, cos, sin) = (wq?, wk?, cos?, sin?);
        const NO: Option<&TensorDesc<'static>> = None;
        const RMS_WITH_WEIGHT: i64 = 4;
        const HALVES: i64 = 2;
        #[rustfmt::skip]
        launch::<op::NormRopeConcat, _>(self.context(), (
            &q, &k, &v, NO, NO, NO, Some(&wq), NO, Some(&wk), NO, NO, NO, NO, NO, Some(&sin), Some(&cos), RMS_WITH_WEIGHT, 0i64, HALVES,
            0i64, eps, false, &to_q.desc()?, &to_k.desc()?, &to_v.desc()?, NO, NO, NO, NO, NO, NO, NO, NO,
        ))?;
        Ok(Some(out))
    }

    /// A row-major tensor of shape `dims` seen as batch, sequence, heads, width.
    fn as_bsnd(&self, dims: &[usize], order: AttentionLayout) -> Result<TensorDesc<'_>> {
        let view = match (order, dims) {
            (AttentionLayout::Bnsd, &[b, n, s, d]) => self.strided(&[b, s, n, d], &[n * s * d, d, s * d, 1], 0)?,
            _ => self.shaped(dims)?,
        };
        Ok(view.desc()?)
    }

    /// Attention of queries (`self`) to `keys` and `values` in one launch, `softmax(q k^T * scale) v`, with any number of
    /// query heads to a key head. F16 and BF16. `lengths` says how many of the keys of each batch row count (all when
    /// `None`), so that a cache with room for more can be passed whole. The result has the shape of the queries. `None`
    /// when the device has no operator for this type or width.
    #[allow(clippy::too_many_arguments)]
    pub fn fused_attention(
        &self,
        layout: &Layout,
        keys: (&Self, &Layout),
        values: (&Self, &Layout),
        mask: AttentionMask<'_>,
        lengths: Option<&[i64]>,
        scale: f64,
        order: AttentionLayout,
    ) -> Result<Option<Self>> {
        let (q, k) = (split(layout.dims(), order)?, split(keys.1.dims(), order)?);
        if keys.1.dims() != values.1.dims()
            || q.batch != k.batch
            || q.width != k.width
            || k.heads == 0
            || q.heads % k.heads != 0
        {
            let why = format!("queries {:?}, keys {:?}, values {:?}", layout.dims(), keys.1.dims(), values.1.dims());
            return arguments("attention", why);
        }
        let typed = matches!(self.element(), DType::F16 | DType::BF16);
        if !typed || q.width % 16 != 0 || q.width > ATTENTION_WIDTH || q.heads / k.heads > SHARED_HEADS {
            return Ok(None);
        }
        let newest = self.context().has::<op::FusedInferAttentionScoreV4>();
        if !newest && !self.context().has::<op::FusedInferAttentionScoreV3>() {
            return Ok(None);
        }
        let out = self.like(layout)?;
        if out.is_empty() {
            return Ok(Some(out));
        }
        let attention = Attention { q, key_heads: k.heads, scale, order, newest };
        let (query, key, value) =
            (Contiguous::new(self, layout)?, Contiguous::new(keys.0, keys.1)?, Contiguous::new(values.0, values.1)?);
        let context = self.context();
        let key = TensorList::new(context, vec![key.view()?.desc()?])?;
        let value = TensorList::new(context, vec![value.view()?.desc()?])?;
        let lengths = lengths.map(|lengths| IntArray::new(context, lengths)).transpose()?;
        // One query is the last: it sees every key, and the mask is not even made.
        let triangle = match mask {
            AttentionMask::Causal if q.sequence > 1 => Some(self.npu().causal_mask()?),
            _ => None,
        };
        let masked_layout = match mask {
            // With one query to a batch row the operator wants a mask of each row.
            AttentionMask::Where(_, layout) if q.sequence == 1 => {
                Some(layout.broadcast_as((q.batch, 1, 1, k.sequence))?)
            }
            AttentionMask::Where(_, layout) => Some(layout.clone()),
            _ => None,
        };
        let masked = match (mask, &masked_layout) {
            (AttentionMask::Where(mask, _), Some(layout)) => Some(Contiguous::new(mask, layout)?),
            _ => None,
        };
        let side = [MASK_SIDE, MASK_SIDE];
        let (mask, sparse_mode) = match (&masked, &triangle) {
            (Some(mask), _) => (Some(mask.view()?.desc()?), 0i64),
            (None, Some(triangle)) => {
                (Some(View::contiguous(&triangle.0, ACL_UINT8 as aclDataType, 1, &side, 0)?.desc()?), 3)
            }
            _ => (None, 0),
        };
        let operands = (&query.view()?.desc()?, &key, &value);
        attention.launch(
            self,
            operands,
            (mask.as_ref(), sparse_mode),
            lengths.as_ref(),
            &out.shaped(layout.dims())?,
        )?;
        Ok(Some(out))
    }
}

/// The sizes of a tensor of heads.
#[derive(Clone, Copy)]
struct Heads {
    batch: usize,
    heads: usize,
    sequence: usize,
    width: usize,
}

fn split(dims: &[usize], order: AttentionLayout) -> Result<Heads> {
    match (order, dims) {
        (AttentionLayout::Bnsd, &[batch, heads, sequence, width])
        | (AttentionLayout::Bsnd, &[batch, sequence, heads, width]) => Ok(Heads { batch, heads, sequence, width }),
        _ => arguments("attention", format!("shape {dims:?}, wanted four dimensions")),
    }
}

struct Attention {
    q: Heads,
    key_heads: usize,
    scale: f64,
    order: AttentionLayout,
    /// Whether the loaded CANN has the interface of release 9.
    newest: bool,
}

impl Attention {
    // One argument a line would hide which are absent.
    #[rustfmt::skip]
    fn launch(
        &self,
        storage: &NpuStorage,
        (query, key, value): (&TensorDesc<'_>, &TensorList<'_>, &TensorList<'_>),
        (mask, sparse_mode): (Option<&TensorDesc<'_>>, i64),
        lengths: Option<&IntArray<'_>>,
        out: &View<'_>,
    ) -> Result<()> {
        const NO: Option<&TensorDesc<'static>> = None;
        const NO_INTS: Option<&IntArray<'static>> = None;
        const HIGH_PRECISION: i64 = 0;
        let name: &CStr = match self.order {
            AttentionLayout::Bnsd => c"BNSD",
            AttentionLayout::Bsnd => c"BSND",
        };
        let (heads, key_heads) = (self.q.heads as i64, self.key_heads as i64);
        // Asked for or not, the operator wants room for the logarithms of the sums.
        let lse = storage.npu().uninit(DType::F32, 1)?;
        let (out, lse) = (&out.desc()?, lse.shaped(&[1])?.desc()?);
        let context = storage.context();
        if self.newest {
            launch::<op::FusedInferAttentionScoreV4, _>(context, (
                query, key, value, NO, mask, NO_INTS, lengths, NO, NO, NO, NO, NO, NO, NO, NO, NO, NO, NO, NO, NO, NO, NO, NO,
                NO_INTS, NO, NO, NO, NO, NO, heads, self.scale, ALL_TOKENS, ALL_TOKENS, name, key_heads, sparse_mode,
                HIGH_PRECISION, 0i64, 0i64, false, 0i64, 0i64, 0i64, out, &lse,
            ))?;
        } else {
            launch::<op::FusedInferAttentionScoreV3, _>(context, (
                query, key, value, NO, mask, NO_INTS, lengths, NO, NO, NO, NO, NO, NO, NO, NO, NO, NO, NO, NO, NO, NO, NO, NO,
                NO_INTS, NO, NO, NO, heads, self.scale, ALL_TOKENS, ALL_TOKENS, name, key_heads, sparse_mode,
                HIGH_PRECISION, 0i64, 0i64, false, 0i64, 0i64, out, &lse,
            ))?;
        }
        Ok(())
    }
}

/// The shape with the last dimension reduced.
fn kept(layout: &Layout) -> Vec<usize> {
    let mut dims = layout.dims().to_vec();
    if let Some(last) = dims.last_mut() {
        *last = 1;
    }
    dims
}

/// What every operator of rotary embedding asks of a shape.
fn rotary_fits_any(batch: usize, width: usize) -> bool {
    width.is_multiple_of(2) && width < ROTARY_WIDTH && batch < ROTARY_BATCH
}

/// Whether ApplyRotaryPosEmb's working set for this many heads fits the chip, by the formula of its page.
fn rotary_fits(heads: usize, dtype: DType) -> bool {
    let size = dtype.size_in_bytes();
    let (cast, cast_size) = if dtype == DType::BF16 { (1, 4) } else { (0, size) };
    let per_head = 128 * cast_size;
    heads * per_head * 5 + 128 * size * 4 + cast * (128 * 4 * 2) <= UNIFIED_BUFFER
}

/// A table of one half of `width`, repeated for the other half; `None` when it is whole.
fn doubled((storage, layout): (&NpuStorage, &Layout), width: usize) -> Result<Option<(NpuStorage, Layout)>> {
    let (Some((&half, dims)), Some((&step, strides))) = (layout.dims().split_last(), layout.stride().split_last())
    else {
        return Ok(None);
    };
    if half * 2 != width {
        return Ok(None);
    }
    let (mut twice, mut whole) = (dims.to_vec(), dims.to_vec());
    twice.extend([2, half]);
    whole.push(width);
    let mut from = strides.to_vec();
    from.extend([0, step]);
    let out = storage.npu().uninit(storage.element(), whole.iter().product())?;
    if !out.is_empty() {
        storage.copy_rows(storage.strided(&twice, &from, layout.start_offset())?, out.shaped_bits(&twice)?)?;
    }
    Ok(Some((out, Layout::contiguous(whole))))
}

/// Cosines or sines of `[sequence, width]` or `[batch, sequence, width]` as four dimensions; `every` repeats them for
/// each batch row, which operators that do not broadcast want.
fn table<'a>(
    (storage, layout): (&'a NpuStorage, &Layout),
    batch: usize,
    order: AttentionLayout,
    every: bool,
) -> Result<TensorDesc<'a>> {
    let (rows, stride, sequence, width, at) = match (layout.dims(), layout.stride()) {
        (&[sequence, width], &[row, column]) => (1, 0, (sequence, row), (width, column), layout.start_offset()),
        (&[rows, sequence, width], &[stride, row, column]) if rows == batch || rows == 1 => {
            (rows, stride, (sequence, row), (width, column), layout.start_offset())
        }
        (dims, _) => {
            return arguments(
                "rotary",
                format!("a table of shape {dims:?}, wanted [sequence, width] or [batch, sequence, width]"),
            );
        }
    };
    let (rows, stride) = if every && rows == 1 { (batch, 0) } else { (rows, stride) };
    let view = match order {
        AttentionLayout::Bnsd => {
            storage.strided(&[rows, 1, sequence.0, width.0], &[stride, 0, sequence.1, width.1], at)?
        }
        AttentionLayout::Bsnd => {
            storage.strided(&[rows, sequence.0, 1, width.0], &[stride, sequence.1, 0, width.1], at)?
        }
    };
    Ok(view.desc()?)
}
