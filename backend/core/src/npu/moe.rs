//! The way of tokens to their experts and back, a launch each. What is chosen stays on the device.
//!
//! Each answers `None` when the loaded CANN has no operator for it; the caller composes it from simpler ones then.

use super::dtype::{FLOATS, require};
use super::fused::Contiguous;
use super::storage::NpuStorage;
use crate::acl::{IntArray, TensorDesc, launch};
use acl_sys::loader::op;
use candle_core::{DType, Layout, Result};

const NO: Option<&TensorDesc<'static>> = None;
/// Most experts that the operators choose among and, of one token, choose.
const MOST_EXPERTS: usize = 2048;
const MOST_CHOSEN: usize = 1024;
/// What keeps a quotient of vanishing scores a number; it is below the rounding of F32 otherwise.
const EPS: f64 = 1e-20;

/// How a choice by sigmoid is restricted and scaled; see [`crate::ops::moe::Gating`].
#[derive(Clone, Copy, Debug)]
pub struct SigmoidGate {
    pub groups: usize,
    pub kept_groups: usize,
    pub factor: f64,
}

impl NpuStorage {
    /// Room for weights `[T, K]`, of the type of these logits `[T, E]`, and experts `[T, K]` in U32.
    fn room_for_choices(&self, layout: &Layout, k: usize) -> Result<(Self, Self, [usize; 2])> {
        require("route", self.element(), FLOATS)?;
        let dims = [layout.dims()[0], k];
        let count = dims.iter().product();
        Ok((self.npu().uninit(self.element(), count)?, self.npu().uninit(DType::U32, count)?, dims))
    }

    /// The `k` largest of each row by softmax, whose weights add up to one with `renormalise`.
    pub fn gate_by_softmax(&self, layout: &Layout, k: usize, renormalise: bool) -> Result<Option<(Self, Self)>> {
        if !self.context().has::<op::MoeGatingTopKSoftmaxV2>() || k > MOST_CHOSEN {
            return Ok(None);
        }
        let (weights, experts, dims) = self.room_for_choices(layout, k)?;
        let (x, y, chosen) = (self.view(layout)?, weights.shaped(&dims)?, experts.shaped_bits(&dims)?);
        // A softmax of the chosen logits is the softmax of all, divided by the sum of the chosen.
        let order = i64::from(renormalise);
        #[rustfmt::skip]
        launch::<op::MoeGatingTopKSoftmaxV2, _>(self.context(), (
            &x.desc()?, NO, k as i64, order, false, &y.desc()?, &chosen.desc()?, NO,
        ))?;
        Ok(Some((weights, experts)))
    }

    /// The `k` largest of each row by sigmoid and bias `[E]`, of the best groups; the weights add up to the gate's factor.
    pub fn gate_by_sigmoid(
        &self,
        layout: &Layout,
        bias: Option<(&Self, &Layout)>,
        k: usize,
        gate: SigmoidGate,
    ) -> Result<Option<(Self, Self)>> {
        let size = layout.dims()[1] / gate.groups;
        let fits = size.next_multiple_of(32) * gate.groups <= MOST_EXPERTS && (gate.groups == 1 || size > 2);
        if !self.context().has::<op::MoeGatingTopK>() || !fits || k > size * gate.kept_groups {
            return Ok(None);
        }
        // Groups rank by their two best; scores are a sigmoid each.
        const BY_TWO: i64 = 1;
        const SIGMOID: i64 = 1;
        let (weights, experts, dims) = self.room_for_choices(layout, k)?;
        let bias = bias.map(|(bias, layout)| bias.operand(layout)).transpose()?;
        let (x, y, chosen) = (self.view(layout)?, weights.shaped(&dims)?, experts.shaped_bits(&dims)?);
        #[rustfmt::skip]
        launch::<op::MoeGatingTopK, _>(self.context(), (
            &x.desc()?, bias.as_ref(), k as i64, gate.kept_groups as i64, gate.groups as i64, BY_TWO, 0i64, SIGMOID, false,
            gate.factor, EPS, &y.desc()?, &chosen.desc()?, NO,
        ))?;
        Ok(Some((weights, experts)))
    }

    /// These rows `[T, H]` repeated for their `chosen` experts `[T, K]` (U32) and sorted by them: the rows `[T·K, H]`, which
    /// of them each choice is `[T·K]` (U32), and where each of the `experts` ends `[E]` (I64).
    pub fn sort_by_expert(
        &self,
        layout: &Layout,
        chosen: (&Self, &Layout),
        experts: usize,
    ) -> Result<Option<(Self, Self, Self)>> {
        require("permute", self.element(), FLOATS)?;
        let context = self.context();
        let newest = context.has::<op::MoeInitRoutingV3>();
        if !newest && !context.has::<op::MoeInitRoutingV2>() {
            return Ok(None);
        }
        let (width, count) = (layout.dims()[1], chosen.1.shape().elem_count());
        let rows = self.npu().uninit(self.element(), count * width)?;
        let places = self.npu().uninit(DType::U32, count)?;
        let ends = self.npu().uninit(if newest { DType::I64 } else { DType::I32 }, experts)?;
        let (x, at) = (self.view(layout)?, chosen.0.bits(chosen.1)?);
        let (sorted, back, to) =
            (rows.shaped(&[count, width])?, places.shaped_bits(&[count])?, ends.shaped(&[experts])?);
        const KEEP_ALL: i64 = 0;
        const NO_DROPS: i64 = 0;
        if newest {
            const ENDS: i64 = 0;
            const NOT_QUANTISED: i64 = -1;
            const BY_CHOICE: i64 = 0;
            let all = IntArray::new(context, &[0, experts as i64])?;
            #[rustfmt::skip]
            launch::<op::MoeInitRoutingV3, _>(context, (
                &x.desc()?, &at.desc()?, NO, NO, count as i64, 0i64, experts as i64, NO_DROPS, ENDS, true, NOT_QUANTISED, Some(&all),
                BY_CHOICE, &sorted.desc()?, &back.desc()?, &to.desc()?, NO,
            ))?;
            return Ok(Some((rows, places, ends)));
        }
        const ENDS: i64 = 1;
        #[rustfmt::skip]
        launch::<op::MoeInitRoutingV2, _>(context, (
            &x.desc()?, &at.desc()?, KEEP_ALL, 0i64, experts as i64, NO_DROPS, ENDS, false, &sorted.desc()?, &back.desc()?,
            Some(&to.desc()?), NO,
        ))?;
        // Grouped products take their groups in I64.
        let ends = ends.cast(&Layout::contiguous(experts), DType::I64)?;
        Ok(Some((rows, places, ends)))
    }

    /// The sum of each token's rows, `places` `[T·K]` saying which of these `[T·K, H]` they are, by `weights` `[T, K]`, and the
    /// token's row of `shared` `[T, H]` if there is one.
    pub fn add_up_experts(
        &self,
        layout: &Layout,
        places: (&Self, &Layout),
        weights: (&Self, &Layout),
        shared: Option<(&Self, &Layout)>,
    ) -> Result<Option<Self>> {
        require("unpermute", self.element(), FLOATS)?;
        let context = self.context();
        // BFLOAT16 rows with FLOAT weights came with the release that has the newest routing; other types are not mixed.
        let mixed = self.element() == DType::BF16 && context.has::<op::MoeInitRoutingV3>();
        let given = weights.0.element();
        let fits = given == self.element() || (mixed && given == DType::F32);
        if !context.has::<op::MoeFinalizeRoutingV2>() || !fits {
            return Ok(None);
        }
        let dims = [weights.1.dims()[0], layout.dims()[1]];
        let out = self.npu().uninit(self.element(), dims.iter().product())?;
        let shared = shared.map(|(shared, layout)| Contiguous::new(shared, layout)).transpose()?;
        let shared = match &shared {
            Some(shared) => Some(shared.view()?.desc()?),
            None => None,
        };
        const BY_TOKEN: i64 = 2;
        let (x, at, y) = (self.view(layout)?, places.0.bits(places.1)?, out.shaped(&dims)?);
        #[rustfmt::skip]
        launch::<op::MoeFinalizeRoutingV2, _>(context, (
            &x.desc()?, &at.desc()?, shared.as_ref(), NO, NO, Some(&weights.0.operand(weights.1)?), NO, BY_TOKEN, &y.desc()?,
        ))?;
        Ok(Some(out))
    }
}
