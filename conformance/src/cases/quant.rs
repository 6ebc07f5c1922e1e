//! Quantisation of activations.

use super::args::{between, out, t};
use crate::array::{Array, DType};
use crate::case::{Arg, Case};
use DType::*;

pub fn cases() -> Vec<Case> {
    let mut all = Vec::new();
    for dtype in [F16, BF16] {
        for smooth in [false, true] {
            let scales = if smooth { between(dtype, &[64], 0.5, 2.0) } else { Arg::Null };
            let args = vec![t(dtype, &[3, 5, 64]), scales, out(I8, &[3, 5, 64]), out(F32, &[3, 5])];
            all.push(Case::new("DynamicQuant", args, dynamic_quant));
        }
    }
    all
}

/// Rows, times the smoothing scales if there are any, over their largest size; 127 is the largest `int8`.
fn dynamic_quant(x: &[Array]) -> Vec<Array> {
    let values = x.get(1).map_or_else(|| x[0].clone(), |scales| x[0].zip(scales, |v, s| v * s));
    let scale = |lane: &[f64]| lane.iter().fold(0.0, |max, v| v.abs().max(max)) / 127.0;
    let y = values.map_lanes(2, |lane| lane.iter().map(|v| (v / scale(lane)).round_ties_even()).collect());
    let scales = values.map_lanes(2, |lane| vec![scale(lane)]).reshaped(&[3, 5]);
    vec![y.with_dtype(I8), scales.with_dtype(F32)]
}
