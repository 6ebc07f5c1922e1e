//! Our own Ascend C kernels with matrix products (`kernels/`), a launch each.

use super::ours::{Selected, float};
use super::storage::NpuStorage;
use crate::acl::{Buffer, Error, launch_kernel};
use ascend_kernels::flash::{self, Strides};
use ascend_kernels::flash_attention::{self, FlashAttentionShape};
use ascend_kernels::grouped_matmul::{self, GroupedMatmulShape};
use ascend_kernels::paged::PagedShape;
use ascend_kernels::paged_decode;
use candle_core::{DType, Layout, Result};

/// What a kernel reads: elements where they lie, or a copy of them.
struct Operand<'a> {
    copy: Option<(NpuStorage, Layout)>,
    selected: Selected<'a>,
}

impl<'a> Operand<'a> {
    /// As they lie, where `fits`; otherwise one after the other.
    fn new(selected: Selected<'a>, fits: impl Fn(&Layout) -> bool) -> Result<Self> {
        let (storage, layout) = selected;
        let copy = match fits(layout) {
            true => None,
            false => Some((storage.compact(layout)?, Layout::contiguous(layout.shape()))),
        };
        Ok(Self { copy, selected })
    }

    fn gapless(selected: Selected<'a>) -> Result<Self> {
        Self::new(selected, Layout::is_contiguous)
    }

    fn layout(&self) -> &Layout {
        self.copy.as_ref().map_or(self.selected.1, |(_, layout)| layout)
    }

    fn place(&self) -> (&Buffer, usize) {
        let storage = self.copy.as_ref().map_or(self.selected.0, |(storage, _)| storage);
        (storage.buffer(), self.layout().start_offset() * storage.element().size_in_bytes())
    }

    /// Of [batch, heads, rows, width].
    fn strides(&self) -> Strides {
        let stride = self.layout().stride();
        Strides { batch: stride[0], head: stride[1], row: stride[2] }
    }
}

/// Whether the attention kernels can read `[.., rows, width]` as it lies: rows are gapless, and no further apart than a copy
/// to L1 can say.
fn rows_fit(layout: &Layout) -> bool {
    let stride = layout.stride();
    stride[3] == 1 && stride[2] <= ascend_kernels::cube::WIDEST_ROW
}

impl NpuStorage {
    fn launch_product(
        &self,
        op: &'static str,
        launch: std::result::Result<ascend_kernels::Launch, String>,
        tensors: &[(&Buffer, usize)],
    ) -> Result<()> {
        let launch = launch.map_err(|why| Error::Arguments { op, why })?;
        Ok(launch_kernel(self.context(), &launch, tensors)?)
    }

    /// Groups of rows of `self` `[R, I]`, each times its matrix of `weights` `[E, O, I]`; `ends` `[E]` in I64 says where the
    /// groups end.
    pub fn grouped_matmul_ours(&self, layout: &Layout, weights: Selected, ends: Selected) -> Result<Self> {
        const OP: &str = "grouped_matmul";
        let (&[rows, inner], &[experts, columns, _]) = (layout.dims(), weights.1.dims()) else {
            let why = format!("{:?} and {:?}, wanted [R, I] and [E, O, I]", layout.dims(), weights.1.dims());
            return Err(Error::Arguments { op: OP, why }.into());
        };
        let shape =
            GroupedMatmulShape { rows, inner, columns, experts, float: float(OP, self.element())?, swiglu: false };
        let [x, weight, ends] =
            [Operand::gapless((self, layout))?, Operand::gapless(weights)?, Operand::gapless(ends)?];
        let out = self.npu().uninit(self.element(), rows * columns)?;
        let tensors = [x.place(), weight.place(), ends.place(), (out.buffer(), 0)];
        self.launch_product(OP, grouped_matmul::launch(shape, self.context().cube_cores()), &tensors)?;
        Ok(out)
    }

    /// Attention of queries `[B, H, S, D]` to keys `[B, G, T, D]` and values `[B, G, T, E]`, of which query `i` sees the first
    /// `i + causal + 1`, or all: `[B, S, H, E]`. `None` where the kernel has not this type or these widths.
    pub fn attention_ours(
        &self,
        layout: &Layout,
        keys: Selected,
        values: Selected,
        causal: Option<usize>,
        scale: f64,
    ) -> Result<Option<Self>> {
        const OP: &str = "attention";
        let (&[batch, heads, queries, width], &[_, groups, length, _]) = (layout.dims(), keys.1.dims()) else {
            let why = format!("queries {:?} and keys {:?}, wanted rank 4", layout.dims(), keys.1.dims());
            return Err(Error::Arguments { op: OP, why }.into());
        };
        let value_width = values.1.dims()[3];
        let typed = matches!(self.element(), DType::F16 | DType::BF16);
        let count = batch * heads * queries;
        if !typed
            || count == 0
            || length == 0
            || flash::check(OP, (heads, groups), (width, value_width), scale as f32).is_err()
        {
            return Ok(None);
        }
        let [q, k, v] = [(self, layout), keys, values].map(|operand| Operand::new(operand, rows_fit));
        let (q, k, v) = (q?, k?, v?);
        let out = self.npu().uninit(self.element(), count * value_width)?;
        let row = heads * value_width;
        let y = Strides { batch: queries * row, head: value_width, row };
        let mut shape = FlashAttentionShape {
            batch,
            heads,
            key_heads: groups,
            queries,
            keys: length,
            width,
            value_width,
            strides: [q.strides(), k.strides(), v.strides(), y],
            ragged: false,
            causal: causal.map(|offset| offset.min(length) as i32),
            scale: scale as f32,
            float: float(OP, self.element())?,
        };
        if queries == 1 && q.strides().head <= ascend_kernels::cube::WIDEST_ROW {
            // Heads that share a key head are rows of one product, so that its keys are read once.
            let share = heads / groups;
            let stacked = |s: Strides| Strides { batch: s.batch, head: share * s.head, row: s.head };
            shape.strides[0] = stacked(shape.strides[0]);
            shape.strides[3] = stacked(y);
            // The one query sees as many keys as there are before it, and itself.
            let seen = shape.causal.map_or(length, |offset| (offset as usize + 1).min(length));
            shape = FlashAttentionShape { heads: groups, queries: share, keys: seen, causal: None, ..shape };
        }
        // The lengths of ragged sequences are not read here; the place of the queries stands for them.
        let tensors = [q.place(), k.place(), v.place(), q.place(), (out.buffer(), 0)];
        self.launch_product(OP, flash_attention::launch(&shape, self.context().cube_cores()), &tensors)?;
        Ok(Some(out))
    }

    /// Attention of one query a sequence `[B, H, D]` to paged keys and values `[N, G, P, D]` and `[N, G, P, E]`; `table` `[B, W]`
    /// and `lengths` `[B]` in U32: `[B, H, E]`.
    pub fn paged_attention_ours(
        &self,
        layout: &Layout,
        [keys, values]: [Selected; 2],
        [table, lengths]: [Selected; 2],
        scale: f64,
    ) -> Result<Self> {
        const OP: &str = "paged_attention";
        let (&[batch, heads, width], &[blocks, key_heads, block_size, _]) = (layout.dims(), keys.1.dims()) else {
            let why =
                format!("queries {:?} and keys {:?}, wanted [B, H, D] and [N, G, P, D]", layout.dims(), keys.1.dims());
            return Err(Error::Arguments { op: OP, why }.into());
        };
        let (value_width, table_width) = (values.1.dims()[3], table.1.dims()[1]);
        let [k, v] = [keys, values].map(|operand| Operand::new(operand, rows_fit));
        let [q, table, lengths] = [(self, layout), table, lengths].map(Operand::gapless);
        let (q, k, v, table, lengths) = (q?, k?, v?, table?, lengths?);
        let shape = PagedShape {
            batch,
            heads,
            key_heads,
            width,
            value_width,
            blocks,
            block_size,
            table_width,
            longest: table_width * block_size,
            q: [heads * width, width],
            y: [heads * value_width, value_width],
            k: k.strides(),
            v: v.strides(),
            scale: scale as f32,
        };
        let out = self.npu().uninit(self.element(), batch * heads * value_width)?;
        let tensors = [q.place(), k.place(), v.place(), table.place(), lengths.place(), (out.buffer(), 0)];
        let launch = paged_decode::launch(&shape, float(OP, self.element())?, self.context().cube_cores());
        self.launch_product(OP, launch, &tensors)?;
        Ok(out)
    }
}
