//! The exported operators of inference: their parameter lists, in the order of the interface, over one plan.

use super::infer::{DENSE, Inference, Rope, WITH_TND, refuse_features};
use crate::aclnn::{Call, Kernel, Tensor, TensorList};
use crate::status::Result;

/// A version of FusedInferAttentionScore: `optional` are the arguments that it adds after `kv_padding_size`, `rope` those of
/// the rotated part, with whether the newest page's rules hold, `later` those after them, and `ints` those after
/// `softmax_lse_flag`. The optional and the later ones must be null; the last say how quantised arguments are to be read.
macro_rules! fused_infer_attention_score {
    (
        $(#[$doc:meta])* $name:ident, $layouts:ident, optional ($($optional:ident: $type:ty),*),
        $(rope ($query_rope:ident, $key_rope:ident, $newest:literal), later ($($later:ident: $later_type:ty),*),)? ints ($($int:ident),*)
    ) => {
        $(#[$doc])*
        #[allow(clippy::too_many_arguments)]
        pub fn $name(
            call: &mut Call, query: Tensor, key: TensorList, value: TensorList, pse_shift: Option<Tensor>, atten_mask: Option<Tensor>,
            actual_seq_lengths: Option<Vec<i64>>, actual_seq_lengths_kv: Option<Vec<i64>>, deq_scale1: Option<Tensor>,
            quant_scale1: Option<Tensor>, deq_scale2: Option<Tensor>, quant_scale2: Option<Tensor>, quant_offset2: Option<Tensor>,
            antiquant_scale: Option<Tensor>, antiquant_offset: Option<Tensor>, block_table: Option<Tensor>,
            query_padding_size: Option<Tensor>, kv_padding_size: Option<Tensor>, $($optional: $type,)*
            $($query_rope: Option<Tensor>, $key_rope: Option<Tensor>, $($later: $later_type,)*)? num_heads: i64, scale_value: f64,
            pre_tokens: i64, next_tokens: i64, input_layout: String, num_key_value_heads: i64, sparse_mode: i64, inner_precise: i64,
            block_size: i64, _antiquant_mode: i64, softmax_lse_flag: bool, $($int: i64,)* attention_out: Tensor,
            softmax_lse: Option<Tensor>,
        ) -> Result<Kernel> {
            refuse_features(call, &[
                ("pseShift", pse_shift.is_some()), ("deqScale1", deq_scale1.is_some()), ("quantScale1", quant_scale1.is_some()),
                ("deqScale2", deq_scale2.is_some()), ("quantScale2", quant_scale2.is_some()),
                ("quantOffset2", quant_offset2.is_some()), ("antiquantScale", antiquant_scale.is_some()),
                ("antiquantOffset", antiquant_offset.is_some()), ("queryPaddingSize", query_padding_size.is_some()),
                ("kvPaddingSize", kv_padding_size.is_some()), $((stringify!($optional), $optional.is_some()),)*
                $($((stringify!($later), $later.is_some()),)*)?
            ])?;
            let rope: Option<Rope> = None$(.or(Rope::of(call, $query_rope, $key_rope, $newest)?))?;
            refuse_features(call, &[$((stringify!($int), $int != 0)),*])?;
            if softmax_lse_flag && softmax_lse.is_none() {
                return call.invalid("softmaxLse is null although softmaxLseFlag asks for it");
            }
            let inference = Inference {
                query, key, value, mask: atten_mask, query_lengths: actual_seq_lengths, key_lengths: actual_seq_lengths_kv, block_table,
                heads: num_heads, key_heads: num_key_value_heads, scale: scale_value, before: pre_tokens, after: next_tokens,
                layout: input_layout, layouts: $layouts, sparse_mode, inner_precise, block_size, out: attention_out,
                lse: softmax_lse.filter(|_| softmax_lse_flag), rope,
            };
            inference.plan(call)
        }
    };
}

fused_infer_attention_score! {
    /// Attention of queries over keys and values, dense or in pages, with grouped heads and masks.
    fused_infer_attention_score, DENSE, optional (), ints ()
}
fused_infer_attention_score! {
    /// As [`fused_infer_attention_score`], with arguments for quantised keys and shared prefixes, which must be null.
    fused_infer_attention_score_v2, DENSE, optional (
        key_antiquant_scale: Option<Tensor>, key_antiquant_offset: Option<Tensor>, value_antiquant_scale: Option<Tensor>,
        value_antiquant_offset: Option<Tensor>, key_shared_prefix: Option<Tensor>, value_shared_prefix: Option<Tensor>,
        actual_shared_prefix_len: Option<Vec<i64>>
    ), ints (key_antiquant_mode, value_antiquant_mode)
}
fused_infer_attention_score! {
    /// As [`fused_infer_attention_score_v2`], with layout TND, and the rotated part of latent queries and keys apart.
    fused_infer_attention_score_v3, WITH_TND, optional (
        key_antiquant_scale: Option<Tensor>, key_antiquant_offset: Option<Tensor>, value_antiquant_scale: Option<Tensor>,
        value_antiquant_offset: Option<Tensor>, key_shared_prefix: Option<Tensor>, value_shared_prefix: Option<Tensor>,
        actual_shared_prefix_len: Option<Vec<i64>>
    ), rope (query_rope, key_rope, false), later (key_rope_antiquant_scale: Option<Tensor>),
    ints (key_antiquant_mode, value_antiquant_mode)
}
fused_infer_attention_score! {
    /// As [`fused_infer_attention_score_v3`], with arguments for quantised queries and sinks, which must be null.
    fused_infer_attention_score_v4, WITH_TND, optional (
        key_antiquant_scale: Option<Tensor>, key_antiquant_offset: Option<Tensor>, value_antiquant_scale: Option<Tensor>,
        value_antiquant_offset: Option<Tensor>, key_shared_prefix: Option<Tensor>, value_shared_prefix: Option<Tensor>,
        actual_shared_prefix_len: Option<Vec<i64>>
    ), rope (query_rope, key_rope, false), later (
        key_rope_antiquant_scale: Option<Tensor>, dequant_scale_query: Option<Tensor>, learnable_sink: Option<Tensor>
    ), ints (key_antiquant_mode, value_antiquant_mode, query_quant_mode)
}
fused_infer_attention_score! {
    /// As [`fused_infer_attention_score_v4`], with arguments for position biases, which must be null.
    fused_infer_attention_score_v5, WITH_TND, optional (
        key_antiquant_scale: Option<Tensor>, key_antiquant_offset: Option<Tensor>, value_antiquant_scale: Option<Tensor>,
        value_antiquant_offset: Option<Tensor>, key_shared_prefix: Option<Tensor>, value_shared_prefix: Option<Tensor>,
        actual_shared_prefix_len: Option<Vec<i64>>
    ), rope (query_rope, key_rope, true), later (
        key_rope_antiquant_scale: Option<Tensor>, dequant_scale_query: Option<Tensor>, learnable_sink: Option<Tensor>,
        q_start_idx: Option<Vec<i64>>, kv_start_idx: Option<Vec<i64>>
    ), ints (key_antiquant_mode, value_antiquant_mode, query_quant_mode, pse_type)
}

/// Attention of whole prompts; without a mask mode, as mode 0.
#[allow(clippy::too_many_arguments)]
pub fn prompt_flash_attention(
    call: &mut Call,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    pse_shift: Option<Tensor>,
    atten_mask: Option<Tensor>,
    actual_seq_lengths: Option<Vec<i64>>,
    num_heads: i64,
    scale_value: f64,
    pre_tokens: i64,
    next_tokens: i64,
    input_layout: String,
    num_key_value_heads: i64,
    attention_out: Tensor,
) -> Result<Kernel> {
    prompt_flash_attention_v3(
        call,
        query,
        key,
        value,
        pse_shift,
        atten_mask,
        actual_seq_lengths,
        None,
        None,
        None,
        None,
        None,
        None,
        num_heads,
        scale_value,
        pre_tokens,
        next_tokens,
        input_layout,
        num_key_value_heads,
        0,
        1,
        attention_out,
    )
}

/// As [`prompt_flash_attention`], with key lengths, mask modes, and arguments for quantisation, which must be null.
#[allow(clippy::too_many_arguments)]
pub fn prompt_flash_attention_v3(
    call: &mut Call,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    pse_shift: Option<Tensor>,
    atten_mask: Option<Tensor>,
    actual_seq_lengths: Option<Vec<i64>>,
    actual_seq_lengths_kv: Option<Vec<i64>>,
    deq_scale1: Option<Tensor>,
    quant_scale1: Option<Tensor>,
    deq_scale2: Option<Tensor>,
    quant_scale2: Option<Tensor>,
    quant_offset2: Option<Tensor>,
    num_heads: i64,
    scale_value: f64,
    pre_tokens: i64,
    next_tokens: i64,
    input_layout: String,
    num_key_value_heads: i64,
    sparse_mode: i64,
    inner_precise: i64,
    attention_out: Tensor,
) -> Result<Kernel> {
    refuse_features(
        call,
        &[
            ("pseShift", pse_shift.is_some()),
            ("deqScale1", deq_scale1.is_some()),
            ("quantScale1", quant_scale1.is_some()),
            ("deqScale2", deq_scale2.is_some()),
            ("quantScale2", quant_scale2.is_some()),
            ("quantOffset2", quant_offset2.is_some()),
        ],
    )?;
    let inference = Inference {
        query,
        key: vec![key],
        value: vec![value],
        mask: atten_mask,
        query_lengths: actual_seq_lengths,
        key_lengths: actual_seq_lengths_kv,
        block_table: None,
        heads: num_heads,
        key_heads: num_key_value_heads,
        scale: scale_value,
        before: pre_tokens,
        after: next_tokens,
        layout: input_layout,
        layouts: DENSE,
        sparse_mode,
        inner_precise,
        block_size: 0,
        out: attention_out,
        lse: None,
        rope: None,
    };
    inference.plan(call)
}

/// Attention of one query a sequence over its keys; the lengths are those of the keys.
#[allow(clippy::too_many_arguments)]
pub fn incre_flash_attention(
    call: &mut Call,
    query: Tensor,
    key: TensorList,
    value: TensorList,
    pse_shift: Option<Tensor>,
    atten_mask: Option<Tensor>,
    actual_seq_lengths: Option<Vec<i64>>,
    num_heads: i64,
    scale_value: f64,
    input_layout: String,
    num_key_value_heads: i64,
    attention_out: Tensor,
) -> Result<Kernel> {
    incre_flash_attention_v4(
        call,
        query,
        key,
        value,
        pse_shift,
        atten_mask,
        actual_seq_lengths,
        None,
        None,
        None,
        None,
        None,
        None,
        None,
        None,
        None,
        num_heads,
        scale_value,
        input_layout,
        num_key_value_heads,
        0,
        1,
        attention_out,
    )
}

/// As [`incre_flash_attention`], with pages, and arguments for quantisation, which must be null.
#[allow(clippy::too_many_arguments)]
pub fn incre_flash_attention_v4(
    call: &mut Call,
    query: Tensor,
    key: TensorList,
    value: TensorList,
    pse_shift: Option<Tensor>,
    atten_mask: Option<Tensor>,
    actual_seq_lengths: Option<Vec<i64>>,
    dequant_scale1: Option<Tensor>,
    quant_scale1: Option<Tensor>,
    dequant_scale2: Option<Tensor>,
    quant_scale2: Option<Tensor>,
    quant_offset2: Option<Tensor>,
    antiquant_scale: Option<Tensor>,
    antiquant_offset: Option<Tensor>,
    blocktable: Option<Tensor>,
    kv_padding_size: Option<Tensor>,
    num_heads: i64,
    scale_value: f64,
    input_layout: String,
    num_key_value_heads: i64,
    block_size: i64,
    inner_precise: i64,
    attention_out: Tensor,
) -> Result<Kernel> {
    refuse_features(
        call,
        &[
            ("pseShift", pse_shift.is_some()),
            ("dequantScale1", dequant_scale1.is_some()),
            ("quantScale1", quant_scale1.is_some()),
            ("dequantScale2", dequant_scale2.is_some()),
            ("quantScale2", quant_scale2.is_some()),
            ("quantOffset2", quant_offset2.is_some()),
            ("antiquantScale", antiquant_scale.is_some()),
            ("antiquantOffset", antiquant_offset.is_some()),
            ("kvPaddingSize", kv_padding_size.is_some()),
        ],
    )?;
    let queries = if input_layout == "BNSD" { query.shape.get(2) } else { query.shape.get(1) };
    if queries != Some(&1) {
        return call.invalid(format!("query {:?} in layout {input_layout} has not one query a sequence", query.shape));
    }
    let inference = Inference {
        query,
        key,
        value,
        mask: atten_mask,
        query_lengths: None,
        key_lengths: actual_seq_lengths,
        block_table: blocktable,
        heads: num_heads,
        key_heads: num_key_value_heads,
        scale: scale_value,
        before: i64::MAX,
        after: i64::MAX,
        layout: input_layout,
        layouts: DENSE,
        sparse_mode: 0,
        inner_precise,
        block_size,
        out: attention_out,
        lse: None,
        rope: None,
    };
    inference.plan(call)
}
