//! Gradients of the fused operators, and the fused step of an optimizer, each in one launch.
//!
//! Operands are row-major: gradients are fresh results, and what is not is copied first.

use super::device::MASK_SIDE;
use super::dtype::{FLOATS, require};
use super::fused::Contiguous;
use super::storage::NpuStorage;
use crate::acl::{Error, IntArray, TensorDesc, View, launch};
use acl_sys::loader::op;
use acl_sys::{ACL_UINT8, aclDataType};
use candle_core::{DType, Layout, Result};

/// What FlashAttentionScore keeps of each row for its gradient: the largest score and the sum of exponentials, in F32.
#[derive(Debug)]
pub struct RowStatistics {
    /// Where each sequence ends, if several lie one after the other.
    ends: Option<Vec<i64>>,
    max: NpuStorage,
    sum: NpuStorage,
}

/// The statistics come eight times each.
const REPEATS: usize = 8;
/// Most heads and widest head of attention with a gradient; most sequences, and their tokens, of the packed one.
const TRAINED_HEADS: usize = 256;
const TRAINED_WIDTH: usize = 768;
const TRAINED_SEQUENCES: usize = 2048;
const TRAINED_TOKENS: usize = 1 << 20;
/// "No limit" of the windows.
const ALL_TOKENS: i64 = i32::MAX as i64;
/// Kind of a bias on positions, which goes with having none.
const NO_BIAS: i64 = 1;
const NO_INTS: Option<&IntArray<'static>> = None;

/// Numbers of an AdamW step; `step` is counted from 1.
#[derive(Clone, Copy, Debug)]
pub struct AdamWStep {
    pub step: usize,
    pub lr: f64,
    pub beta1: f64,
    pub beta2: f64,
    pub weight_decay: f64,
    pub eps: f64,
    /// What the gradient is multiplied with before it is used: clipping, and the inverse of the loss's scale.
    pub grad_scale: f64,
}

impl NpuStorage {
    /// The gradient of a softmax over the last dimension, of which this is the result.
    pub fn softmax_grad(&self, layout: &Layout, grad: (&Self, &Layout)) -> Result<Self> {
        require("softmax_grad", self.element(), FLOATS)?;
        let out = self.npu().uninit(self.element(), layout.shape().elem_count())?;
        if !out.is_empty() {
            let (y, g) = (self.view(layout)?.desc()?, grad.0.view(grad.1)?.desc()?);
            let dx = out.shaped(layout.dims())?.desc()?;
            launch::<op::SoftmaxBackward, _>(self.context(), (&g, &y, -1i64, &dx))?;
        }
        Ok(out)
    }

    /// The gradient of [`Self::swiglu`] of this.
    pub fn swiglu_grad(&self, layout: &Layout, grad: (&Self, &Layout)) -> Result<Self> {
        require("swiglu_grad", self.element(), FLOATS)?;
        let out = self.npu().uninit(self.element(), layout.shape().elem_count())?;
        if !out.is_empty() {
            let (x, g) = (Contiguous::new(self, layout)?, Contiguous::new(grad.0, grad.1)?);
            let (x, g, dx) = (x.view()?.desc()?, g.view()?.desc()?, out.shaped(layout.dims())?.desc()?);
            launch::<op::SwiGluGrad, _>(self.context(), (&g, &x, -1i64, &dx))?;
        }
        Ok(out)
    }

    /// The gradients of [`Self::rms_norm_kept`] of this `[…, width]`: of the operand, and of the weight in F32. `rstd` is
    /// what the forward kept.
    pub fn rms_norm_grad(
        &self,
        layout: &Layout,
        weight: (&Self, &Layout),
        rstd: &Self,
        grad: (&Self, &Layout),
    ) -> Result<(Self, Self)> {
        require("rms_norm_grad", self.element(), FLOATS)?;
        let (x, g) = (Contiguous::new(self, layout)?, Contiguous::new(grad.0, grad.1)?);
        let width = weight.1.shape().elem_count();
        let of_x = self.npu().uninit(self.element(), layout.shape().elem_count())?;
        let of_weight = self.npu().uninit(DType::F32, width)?;
        let mut rows = layout.dims().to_vec();
        if let Some(last) = rows.last_mut() {
            *last = 1;
        }
        let (x, g, gamma) = (x.view()?.desc()?, g.view()?.desc()?, weight.0.view(weight.1)?.desc()?);
        let rstd = rstd.shaped(&rows)?.desc()?;
        let (dx, dgamma) = (of_x.shaped(layout.dims())?.desc()?, of_weight.shaped(&[width])?.desc()?);
        launch::<op::RmsNormGrad, _>(self.context(), (&g, &x, &rstd, &gamma, &dx, &dgamma))?;
        drop((dx, dgamma));
        Ok((of_x, of_weight))
    }

    /// The rows of this gradient `[count, width]` added up by the row of a table of `rows` that each was read from.
    pub fn embedding_grad(&self, layout: &Layout, ids: (&Self, &Layout), rows: usize) -> Result<Self> {
        require("embedding_grad", self.element(), FLOATS)?;
        let &[_, width] = layout.dims() else {
            let why = format!("a gradient of shape {:?}, wanted [count, width]", layout.dims());
            return Err(Error::Arguments { op: "embedding_grad", why }.into());
        };
        /// No row is padding; the operator compares unsigned, so that this is none.
        const NONE: u64 = u64::MAX;
        let out = self.npu().uninit(self.element(), rows * width)?;
        let (g, at) = (self.view(layout)?.desc()?, ids.0.bits(ids.1)?.desc()?);
        let sums = out.shaped(&[rows, width])?.desc()?;
        launch::<op::EmbeddingDenseBackward, _>(self.context(), (&g, &at, rows as u64, NONE, false, &sums))?;
        drop(sums);
        Ok(out)
    }

    /// Whether attention with a gradient takes these shapes, `[B, H, S, D]` and `[B, G, T, D]`: 16-bit types.
    pub(crate) fn trains_attention(&self, layout: &Layout, keys: &Layout) -> bool {
        let fits = |dims: &[usize]| matches!(dims, &[b, h, s, d] if b * s > 0 && trains_heads(h, d));
        self.trains_type()
            && fits(layout.dims())
            && fits(keys.dims())
            && self.context().has::<op::FlashAttentionScoreGrad>()
    }

    /// The same for so many sequences one after the other, `[N, H, D]` and `[N, G, D]`.
    pub(crate) fn trains_packed(&self, layout: &Layout, keys: &Layout, sequences: usize) -> bool {
        let fits =
            |dims: &[usize]| matches!(dims, &[n, h, d] if (1..=TRAINED_TOKENS).contains(&n) && trains_heads(h, d));
        let few = (1..=TRAINED_SEQUENCES).contains(&sequences);
        let here = self.context().has::<op::FlashAttentionUnpaddingScoreGradV2>();
        self.trains_type() && few && fits(layout.dims()) && fits(keys.dims()) && here
    }

    fn trains_type(&self) -> bool {
        matches!(self.element(), DType::F16 | DType::BF16)
    }

    /// Attention of queries (`self`) `[B, H, S, D]` to keys and values, with what its gradient wants. With `causal` the last
    /// query sees every key, each earlier one sees one less. With `ends` the operands are `[N, H, D]` and `[N, G, D]`, sequences that
    /// end there.
    pub fn trained_attention(
        &self,
        layout: &Layout,
        keys: (&Self, &Layout),
        values: (&Self, &Layout),
        causal: bool,
        scale: f64,
        ends: Option<&[i64]>,
    ) -> Result<(Self, RowStatistics)> {
        const NO: Option<&TensorDesc<'static>> = None;
        // Heads are the second dimension in either order, and each row of queries has its statistics.
        let [before @ .., _] = layout.dims() else {
            let why = format!("queries of shape {:?}, wanted four or three dimensions", layout.dims());
            return Err(Error::Arguments { op: "attention", why }.into());
        };
        let (heads, rows) = (layout.dims()[1] as i64, [before, &[REPEATS]].concat());
        let [q, k, v] = compact([(self, layout), keys, values])?;
        let out = self.npu().uninit(self.element(), layout.shape().elem_count())?;
        let statistic = || self.npu().uninit(DType::F32, rows.iter().product());
        let kept = RowStatistics { max: statistic()?, sum: statistic()?, ends: ends.map(<[i64]>::to_vec) };
        let triangle = if causal { Some(self.npu().causal_mask()?) } else { None };
        let mask = triangle.as_ref().map(|mask| triangle_desc(&mask.0)).transpose()?;
        let (q, k, v) = (q.view()?.desc()?, k.view()?.desc()?, v.view()?.desc()?);
        let (max, sum) = (kept.max.shaped(&rows)?.desc()?, kept.sum.shaped(&rows)?.desc()?);
        let y = out.shaped(layout.dims())?.desc()?;
        match ends {
            #[rustfmt::skip]
            None => launch::<op::FlashAttentionScore, _>(self.context(), (
                &q, &k, &v, NO, NO, NO, mask.as_ref(), NO_INTS, scale, 1f64, ALL_TOKENS, ALL_TOKENS,
                heads, c"BNSD", 0i64, sparse_mode(causal), &max, &sum, NO, &y,
            ))?,
            #[rustfmt::skip]
            Some(ends) => {
                let ends = IntArray::new(self.context(), ends)?;
                launch::<op::FlashAttentionVarLenScoreV2, _>(self.context(), (
                    &q, &k, &v, NO, NO, NO, mask.as_ref(), NO_INTS, Some(&ends), Some(&ends), NO_INTS, NO_INTS, scale, 1f64, ALL_TOKENS,
                    ALL_TOKENS, heads, c"TND", 0i64, sparse_mode(causal), NO_BIAS, &max, &sum, NO, &y,
                ))?;
            }
        };
        drop((max, sum, y));
        Ok((out, kept))
    }

    /// The gradients of [`Self::trained_attention`] for queries (`self`), keys and values, given its result and that
    /// result's gradient.
    #[allow(clippy::too_many_arguments)]
    pub fn attention_grad(
        &self,
        layout: &Layout,
        keys: (&Self, &Layout),
        values: (&Self, &Layout),
        out: (&Self, &Layout),
        grad: (&Self, &Layout),
        kept: &RowStatistics,
        causal: bool,
        scale: f64,
    ) -> Result<[Self; 3]> {
        const NO: Option<&TensorDesc<'static>> = None;
        let dims = layout.dims();
        let (heads, rows) = (dims[1] as i64, [&dims[..dims.len() - 1], &[REPEATS]].concat());
        let operands = compact([(self, layout), keys, values, out, grad])?;
        let fresh = |layout: &Layout| self.npu().uninit(self.element(), layout.shape().elem_count());
        let grads = [fresh(layout)?, fresh(keys.1)?, fresh(values.1)?];
        let triangle = if causal { Some(self.npu().causal_mask()?) } else { None };
        let mask = triangle.as_ref().map(|mask| triangle_desc(&mask.0)).transpose()?;
        let descs = operands.iter().map(|x| Ok(x.view()?.desc()?)).collect::<Result<Vec<_>>>()?;
        let [q, k, v, y, g] = &descs[..] else { unreachable!("five operands were made compact") };
        let (max, sum) = (kept.max.shaped(&rows)?.desc()?, kept.sum.shaped(&rows)?.desc()?);
        let dq = grads[0].shaped(layout.dims())?.desc()?;
        let (dk, dv) = (grads[1].shaped(keys.1.dims())?.desc()?, grads[2].shaped(values.1.dims())?.desc()?);
        match &kept.ends {
            #[rustfmt::skip]
            None => launch::<op::FlashAttentionScoreGrad, _>(self.context(), (
                q, k, v, g, NO, NO, NO, mask.as_ref(), Some(&max), Some(&sum), NO, Some(y), NO_INTS, scale, 1f64, ALL_TOKENS, ALL_TOKENS,
                heads, c"BNSD", 0i64, sparse_mode(causal), &dq, &dk, &dv, NO,
            ))?,
            #[rustfmt::skip]
            Some(ends) => {
                let ends = IntArray::new(self.context(), ends)?;
                launch::<op::FlashAttentionUnpaddingScoreGradV2, _>(self.context(), (
                    q, k, v, g, NO, NO, NO, mask.as_ref(), Some(&max), Some(&sum), NO, Some(y), NO_INTS, Some(&ends), Some(&ends), NO_INTS,
                    NO_INTS, scale, 1f64, ALL_TOKENS, ALL_TOKENS, heads, c"TND", 0i64, sparse_mode(causal), NO_BIAS, &dq, &dk, &dv, NO,
                ))?;
            }
        };
        drop((dq, dk, dv));
        Ok(grads)
    }

    /// One AdamW step of this parameter, in place: `self`, its two moments and the gradient are row-major and of one type.
    pub fn adamw(
        &self,
        layout: &Layout,
        moments: [(&Self, &Layout); 2],
        grad: (&Self, &Layout),
        at: AdamWStep,
    ) -> Result<()> {
        require("adamw", self.element(), FLOATS)?;
        if self.is_empty() {
            return Ok(());
        }
        let (parameter, g) = (self.view(layout)?.desc()?, grad.0.view(grad.1)?.desc()?);
        let [m, v] = [moments[0].0.view(moments[0].1)?.desc()?, moments[1].0.view(moments[1].1)?.desc()?];
        use candle_core::backend::BackendDevice;
        let step = self.npu().storage_from_slice(&[at.step as f32])?;
        let step = step.shaped(&[1])?.desc()?;
        #[rustfmt::skip]
        launch::<op::ApplyAdamWV2, _>(self.context(), (
            &parameter, &m, &v, None::<&TensorDesc<'static>>, &g, &step, at.lr as f32, at.beta1 as f32, at.beta2 as f32,
            at.weight_decay as f32, at.eps as f32, false, false,
        ))?;
        Ok(())
    }
}

fn trains_heads(heads: usize, width: usize) -> bool {
    (1..=TRAINED_HEADS).contains(&heads) && (1..=TRAINED_WIDTH).contains(&width)
}

/// The operator's number for "causal, aligned at the last query".
fn sparse_mode(causal: bool) -> i64 {
    if causal { 3 } else { 0 }
}

fn triangle_desc(mask: &crate::acl::Buffer) -> Result<TensorDesc<'_>> {
    Ok(View::contiguous(mask, ACL_UINT8 as aclDataType, 1, &[MASK_SIDE, MASK_SIDE], 0)?.desc()?)
}

fn compact<'a, const N: usize>(operands: [(&'a NpuStorage, &'a Layout); N]) -> Result<[Contiguous<'a>; N]> {
    let made = operands.into_iter().map(|(x, layout)| Contiguous::new(x, layout)).collect::<Result<Vec<_>>>()?;
    match made.try_into() {
        Ok(made) => Ok(made),
        Err(_) => unreachable!("as many as were given"),
    }
}
