//! Our own Ascend C kernels with matrix products (`kernels/`), a launch each.

use super::ours::{Operand, Selected, float};
use super::storage::NpuStorage;
use crate::acl::Error;
use ascend_kernels::flash::{self, Strides};
use ascend_kernels::flash_attention::{self, FlashAttentionShape};
use ascend_kernels::grouped_matmul::{self, GroupedMatmulShape};
use ascend_kernels::paged::PagedShape;
use ascend_kernels::paged_decode;
use candle_core::{DType, Layout, Result};

/// Of [batch, heads, rows, width].
fn strides(operand: &Operand) -> Strides {
    let stride = operand.layout().stride();
    Strides { batch: stride[0], head: stride[1], row: stride[2] }
}

/// Whether the attention kernels can read `[.., rows, width]` as it lies: rows are gapless, and no further apart than a copy
/// to L1 can say.
fn rows_fit(layout: &Layout) -> bool {
    let stride = layout.stride();
    stride[3] == 1 && stride[2] <= ascend_kernels::cube::WIDEST_ROW
}

impl NpuStorage {
    /// Groups of rows of `self` `[R, I]`, each times its matrix of `weights` `[E, O, I]`; `ends` `[E]` in I64 says where the
    /// groups end. With `swiglu` a matrix is `O / 2` rows of gate above as many of up, and the result is as narrow.
    pub fn grouped_matmul_ours(
        &self,
        layout: &Layout,
        weights: Selected,
        ends: Selected,
        swiglu: bool,
    ) -> Result<Self> {
        const OP: &str = "grouped_matmul";
        let (&[rows, inner], &[experts, outputs, _]) = (layout.dims(), weights.1.dims()) else {
            let why = format!("{:?} and {:?}, wanted [R, I] and [E, O, I]", layout.dims(), weights.1.dims());
            return Err(Error::Arguments { op: OP, why }.into());
        };
        let columns = if swiglu { outputs / 2 } else { outputs };
        let shape = GroupedMatmulShape { rows, inner, columns, experts, float: float(OP, self.element())?, swiglu };
        let [x, weight, ends] =
            [Operand::gapless((self, layout))?, Operand::gapless(weights)?, Operand::gapless(ends)?];
        let out = self.npu().uninit(self.element(), rows * columns)?;
        let tensors = [x.place(), weight.place(), ends.place(), out.start()];
        self.launch_ours(OP, grouped_matmul::launch(shape, self.context().cube_cores()), &tensors)?;
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
            strides: [strides(&q), strides(&k), strides(&v), y],
            ragged: false,
            causal: causal.map(|offset| offset.min(length) as i32),
            scale: scale as f32,
            float: float(OP, self.element())?,
        };
        if queries == 1 && shape.strides[0].head <= ascend_kernels::cube::WIDEST_ROW {
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
        let tensors = [q.place(), k.place(), v.place(), q.place(), out.start()];
        self.launch_ours(OP, flash_attention::launch(&shape, self.context().cube_cores()), &tensors)?;
        Ok(Some(out))
    }

    /// Causal attention of several sequences that lie one after the other: queries `[1, H, N, D]`, keys `[1, G, N, D]` and values
    /// `[1, G, N, E]`: `[N, H, E]`. `starts` `[2 (B + 1)]` (I64) says where each sequence's queries begin and where the last end,
    /// then the same of its keys; none is longer than `longest`. `None` where the kernel has not this type or these widths.
    pub fn attention_packed_ours(
        &self,
        layout: &Layout,
        keys: Selected,
        values: Selected,
        (starts, longest): (Selected, usize),
        scale: f64,
    ) -> Result<Option<Self>> {
        const OP: &str = "attention_packed";
        let (&[_, heads, rows, width], &[_, groups, ..]) = (layout.dims(), keys.1.dims()) else {
            let why = format!("queries {:?} and keys {:?}, wanted rank 4", layout.dims(), keys.1.dims());
            return Err(Error::Arguments { op: OP, why }.into());
        };
        let value_width = values.1.dims()[3];
        let typed = matches!(self.element(), DType::F16 | DType::BF16);
        if !typed || flash::check(OP, (heads, groups), (width, value_width), scale as f32).is_err() {
            return Ok(None);
        }
        let [q, k, v] = [(self, layout), keys, values].map(|operand| Operand::new(operand, rows_fit));
        let (q, k, v, starts) = (q?, k?, v?, Operand::gapless(starts)?);
        let one_row = |s: Strides| Strides { batch: 0, ..s };
        let shape = FlashAttentionShape {
            batch: starts.layout().shape().elem_count() / 2 - 1,
            heads,
            key_heads: groups,
            queries: longest,
            keys: longest,
            width,
            value_width,
            strides: [
                one_row(strides(&q)),
                one_row(strides(&k)),
                one_row(strides(&v)),
                Strides { batch: 0, head: value_width, row: heads * value_width },
            ],
            ragged: true,
            causal: Some(0),
            scale: scale as f32,
            float: float(OP, self.element())?,
        };
        let out = self.npu().uninit(self.element(), rows * heads * value_width)?;
        let tensors = [q.place(), k.place(), v.place(), starts.place(), out.start()];
        self.launch_ours(OP, flash_attention::launch(&shape, self.context().cube_cores()), &tensors)?;
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
            k: strides(&k),
            v: strides(&v),
            scale: scale as f32,
        };
        let out = self.npu().uninit(self.element(), batch * heads * value_width)?;
        let tensors = [q.place(), k.place(), v.place(), table.place(), lengths.place(), out.start()];
        let launch = paged_decode::launch(&shape, float(OP, self.element())?, self.context().cube_cores());
        self.launch_ours(OP, launch, &tensors)?;
        Ok(out)
    }
}
