//! The simulator's cost model of fused attention against counts by hand, on a device of its own.

mod common;
use candle_ascend::ops::{self, AttentionMask};
use candle_ascend::{DType, Device, Tensor};
use cann_sim::runtime::cost::Cost;
use common::npu_at;

const DEVICE: usize = 6;
const HEADS: usize = 8;
const KV_HEADS: usize = 2;
const DIM: usize = 128;

/// Work that the device was given so far.
fn work() -> Cost {
    let streams = cann_sim::modelled().streams;
    let own = streams.iter().filter(|stream| stream.device == DEVICE as u32);
    own.fold(Cost::default(), |sum, stream| sum.plus(stream.work))
}

/// What attention of `queries` at the end of `keys` positions adds.
fn attention(queries: usize, keys: usize) -> Cost {
    let device = Device::Npu(npu_at(DEVICE));
    let made = |heads, tokens| Tensor::zeros((1, heads, tokens, DIM), DType::BF16, &device).unwrap();
    let (q, k, v) = (made(HEADS, queries), made(KV_HEADS, keys), made(KV_HEADS, keys));
    let mask = AttentionMask::Causal { offset: keys - queries };
    // The first call may make the mask.
    ops::attention(&q, &k, &v, 1.0, mask).unwrap();
    let before = work();
    ops::attention(&q, &k, &v, 1.0, mask).unwrap();
    let after = work();
    Cost {
        bytes: after.bytes - before.bytes,
        cube_cycles: after.cube_cycles - before.cube_cycles,
        vector_cycles: after.vector_cycles - before.vector_cycles,
        link_bytes: after.link_bytes - before.link_bytes,
        wire_bytes: after.wire_bytes - before.wire_bytes,
    }
}

#[test]
fn attention_multiplies_what_is_visible_and_reads_each_key_once() {
    const N: usize = 1024;
    let prefill = attention(N, N);
    let pairs = N * (N + 1) / 2;
    // Two products of 16 · 16 · 16 multiply-adds a cycle; whole blocks cost at most a block of keys more in 512.
    let ideal = (2 * HEADS * pairs * DIM / 4096) as f64;
    let cube = prefill.cube_cycles as f64 / ideal;
    assert!((1.0..1.04).contains(&cube), "{cube} of {ideal} cycles");
    // Eight operations in f32, 64 a cycle.
    assert_eq!(prefill.vector_cycles as usize, HEADS * pairs * 8 / 64);
    let operands = 2 * 2 * N * DIM * (HEADS + KV_HEADS);
    let bytes = prefill.bytes as usize;
    assert!(bytes >= operands && bytes <= operands + N * N + 1024, "{bytes} bytes for operands of {operands}");

    // A single query: its group of four heads is padded to a block's 16 rows, and the cache is read once.
    let decode = attention(1, N);
    assert_eq!(decode.cube_cycles as usize, 2 * KV_HEADS * (DIM / 16) * (N / 16));
    let operands = 2 * 2 * DIM * (HEADS + KV_HEADS * N);
    let bytes = decode.bytes as usize;
    assert!(bytes >= operands && bytes <= operands + N + 1024, "{bytes} bytes for operands of {operands}");
}
