//! The definition of each kernel, in safe Rust.

use super::{Ahead, COLUMNS, Panel, Sink};
use crate::{Float, Matrix, Rows};

/// Independent sums of a dot product, which a compiler keeps in vector registers.
const LANES: usize = 16;

/// Sums in `f32` over products of every row of `x` with every row of `w`.
pub(super) fn dots<W: Float>(x: Rows<f32>, w: Rows<W>, sink: &mut Sink) {
    let mut wide = vec![0f32; w.width];
    let mut sums = vec![0f32; x.count];
    for col in 0..w.count {
        W::widen_slice(w.row(col), &mut wide);
        sums.iter_mut().enumerate().for_each(|(row, sum)| *sum = dot(x.row(row), &wide));
        sink(col, 1, &sums);
    }
    const { assert!(COLUMNS >= 1) };
}

fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut lanes = [0f32; LANES];
    let (a_chunks, b_chunks) = (a.chunks_exact(LANES), b.chunks_exact(LANES));
    let tail: f32 = a_chunks.remainder().iter().zip(b_chunks.remainder()).map(|(x, y)| x * y).sum();
    for (x, y) in a_chunks.zip(b_chunks) {
        for lane in 0..LANES {
            lanes[lane] += x[lane] * y[lane];
        }
    }
    // By halves, for the smaller rounding error.
    let mut width = LANES / 2;
    while width > 0 {
        for lane in 0..width {
            lanes[lane] += lanes[lane + width];
        }
        width /= 2;
    }
    lanes[0] + tail
}

/// Adds `p · v` to `out`, in `f32`, one row of `v` after the other.
pub(super) fn mix<W: Float>(p: Rows<f32>, v: Rows<W>, out: &mut [f32]) {
    let mut wide = vec![0f32; v.width];
    for t in 0..v.count {
        W::widen_slice(v.row(t), &mut wide);
        for (row, out) in out.chunks_exact_mut(v.width.max(1)).enumerate().take(p.count) {
            let factor = p.row(row)[t];
            out.iter_mut().zip(&wide).for_each(|(out, value)| *out += factor * value);
        }
    }
}

/// Adds `panel · w` to `to`, one step after the other. It asks for nothing ahead.
pub(super) fn sums(panel: Panel, w: Matrix, to: &mut [f32], _: &mut Ahead) {
    let height = panel.height.max(1);
    for (column, to) in to.chunks_exact_mut(height).enumerate() {
        for (step, x) in panel.data.chunks_exact(height).take(w.rows).enumerate() {
            let factor = w.data[step * w.down + column * w.across];
            to.iter_mut().zip(x).for_each(|(to, x)| *to += x * factor);
        }
    }
}
