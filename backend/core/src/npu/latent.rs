//! Latent attention of one token a sequence in two launches: what stands before attention, and attention itself.

use super::fused::ALL_TOKENS;
use super::storage::NpuStorage;
use crate::acl::{IntArray, TensorDesc, TensorList, View, launch};
use acl_sys::loader::op;
use candle_core::{DType, Layout, Result};

/// Sizes of latent attention, by the letters of the operators' pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LatentShape {
    /// Hidden width, He.
    pub hidden: usize,
    /// Width of the queries' latent, Hcq.
    pub query_latent: usize,
    /// Width of the keys' latent, Hckv.
    pub latent: usize,
    /// Heads, N.
    pub heads: usize,
    /// Elements of a head without position, D.
    pub nope: usize,
    /// Rotated elements of a head, Dr.
    pub rope: usize,
}

/// What a layer brings along, all in BF16.
pub struct LatentStep<'a> {
    pub shape: LatentShape,
    /// The matrices `[He, Hcq]`, `[Hcq, N · (D + Dr)]` and `[He, Hckv + Dr]` in blocks, `[n/16, k/16, 16, 16]` each.
    pub down_query: &'a NpuStorage,
    pub up_query: &'a NpuStorage,
    pub down_key: &'a NpuStorage,
    /// `[N, D, Hckv]`
    pub up_key: (&'a NpuStorage, &'a Layout),
    pub query_norm: (&'a NpuStorage, &'a Layout),
    pub key_norm: (&'a NpuStorage, &'a Layout),
    pub eps: f64,
}

/// Positions in a block of the cache, which lie one after the other here.
const BLOCK: usize = 128;
/// Rows and columns of a block of a matrix.
const EDGE: usize = 16;
const NO: Option<&TensorDesc<'static>> = None;
const NO_INTS: Option<&IntArray<'static>> = None;

impl LatentShape {
    /// Whether aclnnMlaPrologV3WeightNz and attention over latent rows take these sizes, in every release that has them.
    pub fn fits(&self) -> bool {
        let Self { hidden, query_latent, latent, heads, nope, rope } = *self;
        matches!(hidden, 6144 | 7168 | 7680)
            && (query_latent, latent, nope, rope) == (1536, 512, 128, 64)
            && heads.is_power_of_two()
            && heads <= 128
    }

    /// Whether a cache for this many positions can be seen as blocks.
    pub fn fits_cache(capacity: usize) -> bool {
        capacity.is_multiple_of(BLOCK)
    }
}

impl NpuStorage {
    /// Whether the loaded CANN has both operators, the second one with a mask that only the device knows.
    pub fn has_latent_step(&self) -> bool {
        let context = self.context();
        context.has::<op::MlaPrologV3WeightNz>() && context.has::<op::FusedInferAttentionScoreV5>()
    }

    /// The matrix `[inner, outputs]` that these elements are in blocks.
    fn in_blocks(&self, inner: usize, outputs: usize) -> Result<View<'_>> {
        Ok(self.shaped(&[outputs / EDGE, inner / EDGE, EDGE, EDGE])?.fractal())
    }

    /// From the hidden states (`self`) `[B, 1, He]` to queries `[B, 1, N, Hckv]` and their rotated part `[B, 1, N, Dr]`; each
    /// token's latent row and rotated key go to `places` `[B, 1]` (I64) of `rows` `[B, 1, S, Hckv]` and `turned` `[B, 1, S, Dr]`,
    /// counted over all sequences. `cos` and `sin` are `[B, 1, Dr]`, both halves alike.
    pub fn latent_queries(
        &self,
        layout: &Layout,
        step: &LatentStep<'_>,
        tables: [(&Self, &Layout); 2],
        places: (&Self, &Layout),
        (rows, turned): ((&Self, &Layout), (&Self, &Layout)),
    ) -> Result<(Self, Self)> {
        let LatentShape { hidden, query_latent, latent, heads, nope, rope } = step.shape;
        let batch = layout.dims()[0];
        let query = self.npu().uninit(DType::BF16, batch * heads * latent)?;
        let query_rope = self.npu().uninit(DType::BF16, batch * heads * rope)?;
        let down_query = step.down_query.in_blocks(hidden, query_latent)?;
        let up_query = step.up_query.in_blocks(query_latent, heads * (nope + rope))?;
        let down_key = step.down_key.in_blocks(hidden, latent + rope)?;
        let paged = |layout: &Layout, width: usize| {
            let blocks = layout.dims()[0] * layout.dims()[2] / BLOCK;
            Layout::contiguous_with_offset((blocks, BLOCK, 1, width), layout.start_offset())
        };
        let rows = rows.0.operand(&paged(rows.1, latent))?;
        let turned = turned.0.operand(&paged(turned.1, rope))?;
        let [cos, sin] = tables;
        let (up_key, cos, sin) = (step.up_key.0.operand(step.up_key.1)?, cos.0.operand(cos.1)?, sin.0.operand(sin.1)?);
        let query_norm = step.query_norm.0.operand(step.query_norm.1)?;
        let key_norm = step.key_norm.0.operand(step.key_norm.1)?;
        const NOT_QUANTISED: i64 = 0;
        const APART: i64 = 0;
        const TILE: i64 = 128;
        #[rustfmt::skip]
        launch::<op::MlaPrologV3WeightNz, _>(self.context(), (
            &self.operand(layout)?, &down_query.desc()?, &up_query.desc()?, &up_key, &down_key.desc()?, &query_norm, &key_norm,
            &sin, &cos, &rows, &turned, Some(&places.0.operand(places.1)?), NO, NO, NO, NO, NO, NO,
            NO, NO, NO, step.eps, step.eps, c"PA_BSND", NOT_QUANTISED, NOT_QUANTISED, NOT_QUANTISED, APART, APART, TILE, 1.0f64,
            1.0f64, &query.shaped(&[batch, 1, heads, latent])?.desc()?, &query_rope.shaped(&[batch, 1, heads, rope])?.desc()?,
            NO, NO, NO,
        ))?;
        Ok((query, query_rope))
    }

    /// Attention of these queries to latent rows, which are keys and values at once, and to rotated keys, with `hidden`
    /// `[B, S]` (u8) saying which of them a sequence does not see: `[B, 1, N, Hckv]`.
    pub fn latent_attention(
        &self,
        query_rope: &Self,
        shape: LatentShape,
        (rows, turned): ((&Self, &Layout), (&Self, &Layout)),
        hidden: (&Self, &Layout),
        scale: f64,
    ) -> Result<Self> {
        let (batch, positions, context) = (rows.1.dims()[0], rows.1.dims()[2], self.context());
        let LatentShape { latent, heads, rope, .. } = shape;
        let tokens_first = |layout: &Layout, width: usize| {
            Layout::contiguous_with_offset((batch, positions, 1, width), layout.start_offset())
        };
        let rows_view = rows.0.view(&tokens_first(rows.1, latent))?;
        let turned = turned.0.operand(&tokens_first(turned.1, rope))?;
        let (key, value) =
            (TensorList::new(context, vec![rows_view.desc()?])?, TensorList::new(context, vec![rows_view.desc()?])?);
        let mask = Layout::contiguous_with_offset((batch, 1, 1, positions), hidden.1.start_offset());
        let out = self.npu().uninit(DType::BF16, batch * heads * latent)?;
        let lse = self.npu().uninit(DType::F32, 1)?;
        let query = self.shaped(&[batch, 1, heads, latent])?;
        const WHERE: i64 = 0;
        const HIGH_PRECISION: i64 = 0;
        #[rustfmt::skip]
        launch::<op::FusedInferAttentionScoreV5, _>(context, (
            &query.desc()?, &key, &value, NO, Some(&hidden.0.operand(&mask)?), NO_INTS, NO_INTS, NO, NO, NO, NO, NO, NO, NO, NO, NO,
            NO, NO, NO, NO, NO, NO, NO, NO_INTS, Some(&query_rope.shaped(&[batch, 1, heads, rope])?.desc()?), Some(&turned),
            NO, NO, NO, NO_INTS, NO_INTS, heads as i64, scale, ALL_TOKENS, ALL_TOKENS, c"BSND", 1i64, WHERE, HIGH_PRECISION, 0i64,
            0i64, false, 0i64, 0i64, 0i64, 0i64, &out.shaped(&[batch, 1, heads, latent])?.desc()?, Some(&lse.shaped(&[1])?.desc()?),
        ))?;
        Ok(out)
    }
}
