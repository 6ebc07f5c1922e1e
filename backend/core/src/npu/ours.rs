//! Our own Ascend C kernels for the vector cores (`kernels/`), a launch each.
//!
//! What a kernel does not take is an error that says what it takes, before anything is launched.

use super::dtype::{FLOATS, require};
use super::storage::NpuStorage;
use crate::acl::{Buffer, Error, launch_kernel};
use ascend_kernels::add_rms_norm::{self, AddRmsNormShape};
use ascend_kernels::gating::{self, GatingShape};
use ascend_kernels::permute::{self, PermuteShape};
use ascend_kernels::plan::Float;
use ascend_kernels::rotary_cache::{self, RotaryCacheShape};
use ascend_kernels::unpermute::{self, UnpermuteShape};
use candle_core::{DType, Layout, Result};

/// A storage and the elements of it that a kernel reads.
pub type Selected<'a> = (&'a NpuStorage, &'a Layout);

/// What a kernel reads: elements where they lie, or a copy of them.
pub(super) struct Operand<'a> {
    copy: Option<(NpuStorage, Layout)>,
    selected: Selected<'a>,
}

impl<'a> Operand<'a> {
    /// As they lie, where `fits`; otherwise one after the other.
    pub(super) fn new(selected: Selected<'a>, fits: impl Fn(&Layout) -> bool) -> Result<Self> {
        let (storage, layout) = selected;
        let copy = match fits(layout) {
            true => None,
            false => Some((storage.compact(layout)?, Layout::contiguous(layout.shape()))),
        };
        Ok(Self { copy, selected })
    }

    pub(super) fn gapless(selected: Selected<'a>) -> Result<Self> {
        Self::new(selected, Layout::is_contiguous)
    }

    /// The same as F32.
    fn wide(selected: Selected<'a>) -> Result<Self> {
        let (storage, layout) = selected;
        if storage.element() == DType::F32 {
            return Self::gapless(selected);
        }
        let copy = Some((storage.cast(layout, DType::F32)?, Layout::contiguous(layout.shape())));
        Ok(Self { copy, selected })
    }

    pub(super) fn layout(&self) -> &Layout {
        self.copy.as_ref().map_or(self.selected.1, |(_, layout)| layout)
    }

    pub(super) fn place(&self) -> (&Buffer, usize) {
        let storage = self.copy.as_ref().map_or(self.selected.0, |(storage, _)| storage);
        (storage.buffer(), self.layout().start_offset() * storage.element().size_in_bytes())
    }
}

/// What the kernels of this shape's operator would be told: their element type.
pub(super) fn float(op: &'static str, dtype: DType) -> Result<Float> {
    require(op, dtype, FLOATS)?;
    Ok(match dtype {
        DType::F32 => Float::F32,
        DType::F16 => Float::F16,
        _ => Float::BF16,
    })
}

impl NpuStorage {
    pub(super) fn start(&self) -> (&Buffer, usize) {
        (self.buffer(), 0)
    }

    /// Launches what the host computed, or says why the kernel does not take it.
    pub(super) fn launch_ours(
        &self,
        op: &'static str,
        launch: std::result::Result<ascend_kernels::Launch, String>,
        tensors: &[(&Buffer, usize)],
    ) -> Result<()> {
        let launch = launch.map_err(|why| Error::Arguments { op, why })?;
        Ok(launch_kernel(self.context(), &launch, tensors)?)
    }

    fn cores(&self) -> usize {
        self.context().vector_cores()
    }

    /// The norm of the sum with `residual` and the sum, of rows as wide as `weight`.
    pub fn add_rms_norm_ours(
        &self,
        layout: &Layout,
        residual: Selected,
        weight: Selected,
        epsilon: f64,
    ) -> Result<(Self, Self)> {
        const OP: &str = "add_rms_norm";
        let (count, width) = (layout.shape().elem_count(), weight.1.shape().elem_count());
        let shape = AddRmsNormShape {
            rows: count / width.max(1),
            width,
            float: float(OP, self.element())?,
            epsilon: epsilon as f32,
        };
        let [x, residual, weight] =
            [Operand::gapless((self, layout))?, Operand::gapless(residual)?, Operand::gapless(weight)?];
        let (y, sum) = (self.npu().uninit(self.element(), count)?, self.npu().uninit(self.element(), count)?);
        let tensors = [x.place(), residual.place(), weight.place(), y.start(), sum.start()];
        self.launch_ours(OP, add_rms_norm::launch(shape, self.cores()), &tensors)?;
        Ok((y, sum))
    }

    /// Weights `[T, K]` in F32 and experts `[T, K]` in U32 of these logits `[T, E]`; `gating` without the sizes that follow
    /// from them.
    pub fn gate_ours(&self, layout: &Layout, bias: Option<Selected>, gating: GatingShape) -> Result<(Self, Self)> {
        const OP: &str = "route";
        let &[tokens, experts] = layout.dims() else {
            return Err(Error::Arguments { op: OP, why: format!("logits {:?}, wanted [T, E]", layout.dims()) }.into());
        };
        let shape =
            GatingShape { tokens, experts, has_bias: bias.is_some(), float: float(OP, self.element())?, ..gating };
        let logits = Operand::gapless((self, layout))?;
        let bias = bias.map(Operand::wide).transpose()?;
        let weights = self.npu().uninit(DType::F32, tokens * shape.k)?;
        let chosen = self.npu().uninit(DType::U32, tokens * shape.k)?;
        let mut tensors = vec![logits.place()];
        if shape.sigmoid {
            // Without a bias the kernel reads none; the place of the logits stands for it.
            tensors.push(bias.as_ref().map_or(logits.place(), Operand::place));
        }
        tensors.extend([weights.start(), chosen.start()]);
        self.launch_ours(OP, gating::launch(shape, self.cores()), &tensors)?;
        Ok((weights, chosen))
    }

    /// These rows `[T, H]` repeated for their `chosen` experts `[T, K]` (U32) and sorted by them: the rows `[T·K, H]`, which
    /// of them each choice is `[T·K]` (U32), and where each of the `experts` ends `[E]` (I64).
    pub fn permute_ours(&self, layout: &Layout, chosen: Selected, experts: usize) -> Result<(Self, Self, Self)> {
        const OP: &str = "permute";
        let (&[tokens, width], &[_, k]) = (layout.dims(), chosen.1.dims()) else {
            let why = format!("rows {:?} and experts {:?}, wanted [T, H] and [T, K]", layout.dims(), chosen.1.dims());
            return Err(Error::Arguments { op: OP, why }.into());
        };
        let shape = PermuteShape { tokens, k, experts, width, float: float(OP, self.element())? };
        let (x, chosen) = (Operand::gapless((self, layout))?, Operand::gapless(chosen)?);
        let rows = self.npu().uninit(self.element(), tokens * k * width)?;
        let places = self.npu().uninit(DType::U32, tokens * k)?;
        let ends = self.npu().uninit(DType::I64, experts)?;
        let tensors = [x.place(), chosen.place(), rows.start(), places.start(), ends.start()];
        self.launch_ours(OP, permute::launch(shape, self.cores()), &tensors)?;
        Ok((rows, places, ends))
    }

    /// The sum of each token's rows, `places` `[T·K]` (U32) saying which of these `[T·K, H]` they are, by `weights` `[T, K]`.
    pub fn unpermute_ours(&self, layout: &Layout, places: Selected, weights: Selected) -> Result<Self> {
        const OP: &str = "unpermute";
        let (&[_, width], &[tokens, k]) = (layout.dims(), weights.1.dims()) else {
            let why =
                format!("rows {:?} and weights {:?}, wanted [T·K, H] and [T, K]", layout.dims(), weights.1.dims());
            return Err(Error::Arguments { op: OP, why }.into());
        };
        let shape = UnpermuteShape { tokens, k, width, float: float(OP, self.element())? };
        let (y, places, weights) =
            (Operand::gapless((self, layout))?, Operand::gapless(places)?, Operand::wide(weights)?);
        let out = self.npu().uninit(self.element(), tokens * width)?;
        let tensors = [y.place(), places.place(), weights.place(), out.start()];
        self.launch_ours(OP, unpermute::launch(shape, self.cores()), &tensors)?;
        Ok(out)
    }

    /// The rotated queries `[B, T, N, D]` of these heads of queries, keys and values `[B, T, N + 2 KvN, D]`, whose keys and
    /// values go to the caches `[2, B, KvN, S, D]` at `positions` `[B]` (I64). With weights and an epsilon in `norms`, heads
    /// of queries and keys are normed first.
    pub fn turn_and_write_ours(
        &self,
        layout: &Layout,
        kv_heads: usize,
        norms: Option<([Selected; 2], f64)>,
        tables: [Selected; 2],
        caches: Selected,
        positions: Selected,
    ) -> Result<Self> {
        const OP: &str = "turn_and_write_at";
        let (&[batch, tokens, all, width], &[2, _, _, capacity, _]) = (layout.dims(), caches.1.dims()) else {
            let why = format!(
                "heads {:?} and caches {:?}, wanted [B, T, N, D] and [2, B, N, S, D]",
                layout.dims(),
                caches.1.dims()
            );
            return Err(Error::Arguments { op: OP, why }.into());
        };
        let table = tables[0].1.dims();
        let shape = RotaryCacheShape {
            batch,
            tokens,
            heads: all.saturating_sub(2 * kv_heads),
            kv_heads,
            width,
            capacity,
            table_width: table.last().copied().unwrap_or_default(),
            apart: table.len() == 3,
            norm: norms.as_ref().map(|(_, epsilon)| *epsilon as f32),
            float: float(OP, self.element())?,
        };
        let heads = Operand::gapless((self, layout))?;
        let [cos, sin] = tables.map(Operand::gapless);
        let (cos, sin, positions) = (cos?, sin?, Operand::gapless(positions)?);
        let weights = norms.map(|(weights, _)| weights.map(Operand::gapless));
        let weights = weights.map(|[q, k]| Ok::<_, candle_core::Error>([q?, k?])).transpose()?;
        // Without norms the kernel reads no weights; the place of the heads stands for them.
        let [q_weight, k_weight] = match &weights {
            Some(weights) => [weights[0].place(), weights[1].place()],
            None => [heads.place(); 2],
        };
        let queries = self.npu().uninit(self.element(), batch * tokens * shape.heads * width)?;
        let element = self.element().size_in_bytes();
        let keys = (caches.0.buffer(), caches.1.start_offset() * element);
        let values = (keys.0, keys.1 + caches.1.shape().elem_count() / 2 * element);
        let tensors = [
            heads.place(),
            cos.place(),
            sin.place(),
            positions.place(),
            q_weight,
            k_weight,
            queries.start(),
            keys,
            values,
        ];
        self.launch_ours(OP, rotary_cache::launch(shape, self.cores()), &tensors)?;
        Ok(queries)
    }
}
