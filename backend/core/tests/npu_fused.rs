//! Fused operators of the NPU against their definitions in f64.

mod common;

use candle_ascend::npu::{AttentionLayout, AttentionMask};
use candle_ascend::{CpuStorage, DType, Layout};
use candle_core::backend::{BackendDevice, BackendStorage};
use common::*;

const HALVES: [DType; 2] = [DType::F16, DType::BF16];
const FLOATS: [DType; 3] = [DType::F32, DType::F16, DType::BF16];

#[test]
fn rms_norm_and_add_rms_norm() {
    let device = npu();
    let (rows, width, eps) = (6, 20, 1e-5);
    for dtype in FLOATS {
        let ((x, cx), (r, cr), (w, cw)) =
            (both(&device, dtype, 120, 1), both(&device, dtype, 120, 2), both(&device, dtype, 20, 3));
        let (layout, weight) = (Layout::contiguous((2, 3, width)), Layout::contiguous(width));
        let (x64, r64, w64) = (values(&cx), values(&cr), values(&cw));
        let norm = |x: &[f64]| -> Vec<f64> {
            (0..rows)
                .flat_map(|row| {
                    let x = &x[row * width..][..width];
                    let scale = (x.iter().map(|v| v * v).sum::<f64>() / width as f64 + eps).sqrt().recip();
                    x.iter().zip(&w64).map(move |(v, w)| v * scale * w).collect::<Vec<_>>()
                })
                .collect()
        };
        let y = x.rms_norm(&layout, &w, &weight, eps).and_then(|s| s.to_cpu_storage()).expect("rms_norm");
        close("rms_norm", &values(&y), &norm(&x64), tolerance(dtype));
        let (y, sum) = x.add_rms_norm(&layout, (&r, &layout), (&w, &weight), eps).expect("add_rms_norm");
        let added: Vec<f64> = x64.iter().zip(&r64).map(|(a, b)| a + b).collect();
        close("sum", &values(&sum.to_cpu_storage().expect("read")), &added, tolerance(dtype));
        close("norm of sum", &values(&y.to_cpu_storage().expect("read")), &norm(&added), tolerance(dtype));
    }
}

#[test]
fn swiglu_of_a_view() {
    let device = npu();
    for dtype in FLOATS {
        let (x, cx) = both(&device, dtype, 120, 1);
        let wide = Layout::contiguous((6, 20)).narrow(1, 2, 16).expect("in range");
        let y = x.swiglu(&wide).and_then(|s| s.to_cpu_storage()).expect("swiglu");
        let x = values(&cx);
        let wanted: Vec<f64> = (0..48)
            .map(|i| {
                let (gate, up) = (x[i / 8 * 20 + 2 + i % 8], x[i / 8 * 20 + 10 + i % 8]);
                gate / (1. + (-gate).exp()) * up
            })
            .collect();
        close("swiglu", &values(&y), &wanted, tolerance(dtype));
    }
    let (x, _) = both(&device, DType::F32, 15, 1);
    assert!(x.swiglu(&Layout::contiguous((3, 5))).is_err(), "an odd width has no halves");
}

#[test]
fn rotary_by_tables_of_a_half_and_of_the_whole_width() {
    let device = npu();
    let (batch, sequence, width) = (2, 3, 8);
    for dtype in FLOATS {
        for order in [AttentionLayout::Bnsd, AttentionLayout::Bsnd] {
            let shape = |heads| match order {
                AttentionLayout::Bnsd => Layout::contiguous((batch, heads, sequence, width)),
                AttentionLayout::Bsnd => Layout::contiguous((batch, sequence, heads, width)),
            };
            let ((q, cq), (k, ck)) = (both(&device, dtype, 2 * 4 * 3 * 8, 1), both(&device, dtype, 2 * 2 * 3 * 8, 2));
            let ((cos, ccos), (sin, csin)) = (both(&device, dtype, 12, 3), both(&device, dtype, 12, 4));
            let half = Layout::contiguous((sequence, width / 2));
            let (rq, rk) = q
                .rotary(&shape(4), (&k, &shape(2)), (&cos, &half), (&sin, &half), order)
                .expect("rotary")
                .expect("CANN 9 has an operator");
            let (cos, sin) = (values(&ccos), values(&csin));
            for (heads, got, x) in [(4, rq, values(&cq)), (2, rk, values(&ck))] {
                let wanted: Vec<f64> = (0..x.len())
                    .map(|i| {
                        let (column, row) = (i % width, i / width);
                        let position =
                            if order == AttentionLayout::Bnsd { row % sequence } else { row / heads % sequence };
                        let at = position * width / 2 + column % (width / 2);
                        let other = if column < width / 2 { -x[i + width / 2] } else { x[i - width / 2] };
                        x[i] * cos[at] + other * sin[at]
                    })
                    .collect();
                close(
                    &format!("rotary {dtype:?} {order:?}"),
                    &values(&got.to_cpu_storage().expect("read")),
                    &wanted,
                    tolerance(dtype),
                );
            }
        }
    }
}

#[test]
fn embedding_is_one_launch() {
    let device = npu_at(3);
    let (table, ctable) = both(&device, DType::BF16, 60, 1);
    let ids = device.storage_from_cpu_storage(&CpuStorage::U32(vec![3, 0, 11, 3])).expect("upload");
    let before = device.counters().launches;
    let out = table.embedding(&Layout::contiguous((12, 5)), &ids, &Layout::contiguous((2, 2))).expect("embedding");
    assert_eq!(device.counters().launches - before, 1);
    let table = values(&ctable);
    let wanted: Vec<f64> = [3, 0, 11, 3].iter().flat_map(|&row| table[row * 5..][..5].to_vec()).collect();
    assert_eq!(values(&out.to_cpu_storage().expect("read")), wanted);
}

/// Softmax of the scaled scores times the values, in f64; `visible(query, key)`.
struct Case {
    batch: usize,
    heads: usize,
    groups: usize,
    queries: usize,
    keys: usize,
    width: usize,
}

impl Case {
    fn reference(
        &self,
        q: &[f64],
        k: &[f64],
        v: &[f64],
        order: AttentionLayout,
        scale: f64,
        visible: impl Fn(usize, usize) -> bool,
    ) -> Vec<f64> {
        let at = |b: usize, h: usize, s: usize, heads: usize, length: usize| match order {
            AttentionLayout::Bnsd => ((b * heads + h) * length + s) * self.width,
            AttentionLayout::Bsnd => ((b * length + s) * heads + h) * self.width,
        };
        let mut out = vec![0.; q.len()];
        for (b, h, i) in
            (0..self.batch).flat_map(|b| (0..self.heads).flat_map(move |h| (0..self.queries).map(move |i| (b, h, i))))
        {
            let g = h / (self.heads / self.groups);
            let from = at(b, h, i, self.heads, self.queries);
            let scores: Vec<f64> = (0..self.keys)
                .map(|j| {
                    let to = at(b, g, j, self.groups, self.keys);
                    let dot: f64 = (0..self.width).map(|d| q[from + d] * k[to + d]).sum();
                    if visible(i, j) { (dot * scale).exp() } else { 0. }
                })
                .collect();
            let total: f64 = scores.iter().sum();
            for (j, score) in scores.iter().enumerate() {
                let to = at(b, g, j, self.groups, self.keys);
                (0..self.width).for_each(|d| out[from + d] += score / total * v[to + d]);
            }
        }
        out
    }
}

#[test]
fn attention_shares_key_heads_and_masks() {
    let device = npu();
    let case = |queries, keys| Case { batch: 2, heads: 4, groups: 2, queries, keys, width: 16 };
    for (dtype, case, order) in HALVES.into_iter().flat_map(|dtype| {
        [case(1, 7), case(5, 5), case(3, 7)].into_iter().flat_map(move |case| {
            [AttentionLayout::Bnsd, AttentionLayout::Bsnd].map(|order| (dtype, Case { ..case }, order))
        })
    }) {
        let Case { batch, heads, groups, queries, keys, width } = case;
        let shape = |n, s| match order {
            AttentionLayout::Bnsd => Layout::contiguous((batch, n, s, width)),
            AttentionLayout::Bsnd => Layout::contiguous((batch, s, n, width)),
        };
        let (ql, kl) = (shape(heads, queries), shape(groups, keys));
        let (q, cq) = both(&device, dtype, ql.shape().elem_count(), 1);
        let ((k, ck), (v, cv)) =
            (both(&device, dtype, kl.shape().elem_count(), 2), both(&device, dtype, kl.shape().elem_count(), 3));
        let hidden: Vec<u8> = (0..queries * keys).map(|i| u8::from(i % 3 == 1)).collect();
        let mask = device.storage_from_slice(&hidden).expect("upload");
        let mask_layout = Layout::contiguous((1, 1, queries, keys));
        let scale = 0.25;
        let run = |mask: AttentionMask<'_>| {
            let out = q.fused_attention(&ql, (&k, &kl), (&v, &kl), mask, None, scale, order).expect("attention");
            values(&out.expect("the device has the operator").to_cpu_storage().expect("read"))
        };
        let (q64, k64, v64) = (values(&cq), values(&ck), values(&cv));
        let wanted = |visible: &dyn Fn(usize, usize) -> bool| case.reference(&q64, &k64, &v64, order, scale, visible);
        let what = format!("{dtype:?} {order:?} {queries}x{keys}");
        // The weights are rounded to the element type before they meet the values.
        let tolerance = tolerance(dtype);
        close(&format!("{what} open"), &run(AttentionMask::None), &wanted(&|_, _| true), tolerance);
        let offset = keys - queries;
        close(&format!("{what} causal"), &run(AttentionMask::Causal), &wanted(&|i, j| j <= i + offset), tolerance);
        let where_mask = run(AttentionMask::Where(&mask, &mask_layout));
        close(&format!("{what} mask"), &where_mask, &wanted(&|i, j| hidden[i * keys + j] == 0), tolerance);
    }
}

#[test]
fn attention_of_a_cache_with_room_for_more() {
    let device = npu();
    let (ql, kl) = (Layout::contiguous((1, 2, 1, 16)), Layout::contiguous((1, 2, 32, 16)));
    let ((q, _), (k, _), (v, _)) =
        (both(&device, DType::F16, 32, 1), both(&device, DType::F16, 1024, 2), both(&device, DType::F16, 1024, 3));
    let order = AttentionLayout::Bnsd;
    let whole = q.fused_attention(&ql, (&k, &kl), (&v, &kl), AttentionMask::Causal, Some(&[9]), 0.25, order);
    let used = kl.narrow(2, 0, 9).expect("in range");
    let cut = q.fused_attention(&ql, (&k, &used), (&v, &used), AttentionMask::Causal, None, 0.25, order);
    let read = |out: candle_ascend::Result<Option<candle_ascend::NpuStorage>>| {
        values(&out.expect("runs").expect("has it").to_cpu_storage().expect("read"))
    };
    assert_eq!(read(whole), read(cut));
}

#[test]
fn what_has_no_fused_operator_is_left_to_the_caller() {
    let device = npu();
    let layout = Layout::contiguous((1, 2, 3, 16));
    let (x, _) = both(&device, DType::F32, 96, 1);
    let out =
        x.fused_attention(&layout, (&x, &layout), (&x, &layout), AttentionMask::None, None, 1., AttentionLayout::Bnsd);
    assert!(out.expect("not an error").is_none(), "fused attention takes no F32");
    let odd = Layout::contiguous((1, 2, 2, 24));
    let (x, _) = both(&device, DType::F16, 96, 1);
    assert!(
        x.fused_attention(&odd, (&x, &odd), (&x, &odd), AttentionMask::None, None, 1., AttentionLayout::Bnsd)
            .expect("no error")
            .is_none()
    );
}
