//! The same device under CANN 8.1, which lacks the operators of release 9.

mod common;

use acl_sys::loader::op;
use candle_ascend::npu::{AttentionLayout, AttentionMask};
use candle_ascend::{DType, Layout, NpuDevice};
use candle_core::backend::BackendStorage;
use cann_sim::runtime::config::Release;
use cann_sim::{Config, Embedded};
use common::{both, close, tolerance, values};
use std::sync::Arc;

fn npu() -> NpuDevice {
    candle_ascend::register_simulator(|_| {
        let config = Config { release: Release { major: 8, minor: 1 }, ..Config::default() };
        Ok(Arc::new(Embedded::with(config).map_err(|status| status.message)?))
    });
    NpuDevice::simulated("", 0).expect("the simulated NPU opens")
}

#[test]
fn rotary_takes_heads_of_128_in_both_layouts() {
    let device = npu();
    assert!(!device.context().has::<op::RotaryPositionEmbedding>());
    let (batch, heads, sequence, width) = (2, 3, 2, 128);
    let count = batch * heads * sequence * width;
    for order in [AttentionLayout::Bnsd, AttentionLayout::Bsnd] {
        let layout = match order {
            AttentionLayout::Bnsd => Layout::contiguous((batch, heads, sequence, width)),
            AttentionLayout::Bsnd => Layout::contiguous((batch, sequence, heads, width)),
        };
        let ((q, cq), (k, _)) = (both(&device, DType::F32, count, 1), both(&device, DType::F32, count, 2));
        let ((cos, ccos), (sin, csin)) =
            (both(&device, DType::F32, sequence * 64, 3), both(&device, DType::F32, sequence * 64, 4));
        let half = Layout::contiguous((sequence, 64));
        let rotated = q.rotary(&layout, (&k, &layout), (&cos, &half), (&sin, &half), order).expect("rotary");
        let (got, _) = rotated.expect("CANN 8 has the operator for heads of 128");
        let (x, cos, sin) = (values(&cq), values(&ccos), values(&csin));
        let wanted: Vec<f64> = (0..count)
            .map(|i| {
                let (column, row) = (i % width, i / width);
                let position = if order == AttentionLayout::Bnsd { row % sequence } else { row / heads % sequence };
                let at = position * 64 + column % 64;
                let other = if column < 64 { -x[i + 64] } else { x[i - 64] };
                x[i] * cos[at] + other * sin[at]
            })
            .collect();
        close(&format!("{order:?}"), &values(&got.to_cpu_storage().expect("read")), &wanted, tolerance(DType::F32));
    }
}

#[test]
fn other_widths_are_left_to_the_caller() {
    let device = npu();
    let ((x, _), (table, _)) = (both(&device, DType::F32, 24, 1), both(&device, DType::F32, 12, 2));
    let (layout, half) = (Layout::contiguous((1, 1, 3, 8)), Layout::contiguous((3, 4)));
    let rotated = x.rotary(&layout, (&x, &layout), (&table, &half), (&table, &half), AttentionLayout::Bnsd);
    assert!(rotated.expect("no error").is_none());
}

#[test]
fn attention_goes_through_the_older_interface() {
    let device = npu();
    assert!(!device.context().has::<op::FusedInferAttentionScoreV4>());
    let layout = Layout::contiguous((1, 2, 1, 16));
    let ((q, _), (v, cv)) = (both(&device, DType::F16, 32, 1), both(&device, DType::F16, 32, 2));
    let out = q.fused_attention(
        &layout,
        (&v, &layout),
        (&v, &layout),
        AttentionMask::Causal,
        None,
        0.25,
        AttentionLayout::Bnsd,
    );
    let out = out.expect("attention").expect("CANN 8 has it").to_cpu_storage().expect("read");
    // One key: its weight is 1, whatever the score.
    assert_eq!(values(&out), values(&cv));
}

#[test]
fn a_missing_operator_names_the_release_that_has_it() {
    let device = npu();
    let error = candle_ascend::acl::launch::<op::InterleaveRope, _>(device.context(), {
        const NONE: Option<&candle_ascend::acl::TensorDesc<'static>> = None;
        (NONE, NONE, NONE, NONE)
    })
    .expect_err("CANN 8.1 has no aclnnInterleaveRope");
    let text = error.to_string();
    assert!(text.contains("aclnnInterleaveRope") && text.contains("9.1") && text.contains("8.1"), "{text}");
}
