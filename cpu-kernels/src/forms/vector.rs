//! The kernels over any vector unit. Everything is inlined into a function that has the unit's instructions enabled.

#![allow(
    clippy::needless_range_loop,
    reason = "indexes into tiles of known size are unrolled, iterators are not always"
)]

use super::{COLUMNS, Sink};
use crate::{Float, Rows};
use std::marker::PhantomData;

/// A register of `f32` lanes. The machine that runs a method must have the unit's instructions, and pointers must be good
/// for as many elements as there are lanes.
pub(super) trait Vector: Copy {
    const LANES: usize;

    unsafe fn splat(value: f32) -> Self;
    unsafe fn load(from: *const f32) -> Self;
    unsafe fn store(self, to: *mut f32);
    /// `a * b + self`, rounded once.
    unsafe fn add_product(self, a: Self, b: Self) -> Self;
    unsafe fn add(self, other: Self) -> Self;
    unsafe fn total(self) -> f32;
}

/// A unit that widens elements of `W` while it loads them; the pointer as for [`Vector::load`].
pub(super) trait Widen<W>: Vector {
    unsafe fn widen(from: *const W) -> Self;
}

/// One step of a dot product: a register of each operand into a register of sums. Its demands are those of [`Vector`].
pub(super) trait Step {
    type X: Float;
    type W: Float;
    type Xs: Copy;
    type Ws: Copy;
    type Sums: Copy;
    /// Elements of each operand in a step.
    const LENGTH: usize;

    unsafe fn zero() -> Self::Sums;
    unsafe fn x(from: *const Self::X) -> Self::Xs;
    unsafe fn w(from: *const Self::W) -> Self::Ws;
    unsafe fn add(sums: Self::Sums, x: Self::Xs, w: Self::Ws) -> Self::Sums;
    unsafe fn total(sums: Self::Sums) -> f32;
}

/// The step of a unit that widens.
pub(super) struct Widening<V, W>(PhantomData<(V, W)>);

impl<V: Widen<f32> + Widen<W>, W: Float> Step for Widening<V, W> {
    type X = f32;
    type W = W;
    type Xs = V;
    type Ws = V;
    type Sums = V;
    const LENGTH: usize = V::LANES;

    #[inline(always)]
    unsafe fn zero() -> V {
        // SAFETY: the trait's demands are the same.
        unsafe { V::splat(0.0) }
    }

    #[inline(always)]
    unsafe fn x(from: *const f32) -> V {
        // SAFETY: as above.
        unsafe { V::load(from) }
    }

    #[inline(always)]
    unsafe fn w(from: *const W) -> V {
        // SAFETY: as above.
        unsafe { <V as Widen<W>>::widen(from) }
    }

    #[inline(always)]
    unsafe fn add(sums: V, x: V, w: V) -> V {
        // SAFETY: as above.
        unsafe { sums.add_product(x, w) }
    }

    #[inline(always)]
    unsafe fn total(sums: V) -> f32 {
        // SAFETY: as above.
        unsafe { sums.total() }
    }
}

/// Longest step of any unit.
const LONGEST: usize = 32;

/// The first `count` of a step's elements, and zeros.
#[inline(always)]
unsafe fn padded<T: Float>(from: *const T, count: usize) -> [T; LONGEST] {
    let mut buffer = [T::default(); LONGEST];
    // SAFETY: the caller's pointer is good for `count` elements, fewer than a step has.
    unsafe { std::ptr::copy_nonoverlapping(from, buffer.as_mut_ptr(), count) };
    buffer
}

/// Sums over products of every row of `x` with every row of `w`, in tiles of `R` rows by `C` columns whose sums stay in
/// registers: what is loaded once for a tile is used `R` or `C` times.
///
/// # Safety
/// The machine must have the instructions of `S`.
#[inline(always)]
pub(super) unsafe fn dots<S: Step, const R: usize, const C: usize>(x: Rows<S::X>, w: Rows<S::W>, sink: &mut Sink) {
    const { assert!(C <= COLUMNS && S::LENGTH <= LONGEST) };
    assert_eq!(x.width, w.width, "inner sizes differ");
    if x.count == 1 {
        // SAFETY: the caller's promise.
        return unsafe { streams::<S, C>(x, w, sink) };
    }
    let mut sums = vec![0f32; x.count * C];
    let mut col = 0;
    while col < w.count {
        let columns = if col + C <= w.count { C } else { 1 };
        let group = w.narrow(col, columns);
        // SAFETY: the caller's promise; both matrices hold their rows.
        unsafe {
            match columns == C {
                true => group_of::<S, R, C>(x, group, &mut sums),
                false => group_of::<S, R, 1>(x, group, &mut sums),
            }
        }
        sink(col, columns, &sums[..x.count * columns]);
        col += columns;
    }
}

/// Sums over products of the one row of `x` with every row of `w`. Nothing is used twice, so that what counts is how memory is
/// read: `C` streams, each through its own share of the rows in their order, are what processors fetch ahead of the program.
/// Neighbouring rows at once would be several streams within one page, which they do not tell apart.
///
/// # Safety
/// The machine must have the instructions of `S`.
#[inline(always)]
unsafe fn streams<S: Step, const C: usize>(x: Rows<S::X>, w: Rows<S::W>, sink: &mut Sink) {
    let share = w.count / C;
    for first in (0..share).step_by(COLUMNS) {
        let count = COLUMNS.min(share - first);
        let mut sums = [[0f32; COLUMNS]; C];
        for next in 0..count {
            let mut of_each = [0f32; C];
            // SAFETY: the caller's promise.
            unsafe { tile::<S, 1, C>(x, w.every(first + next, share, C), &mut of_each) };
            for c in 0..C {
                sums[c][next] = of_each[c];
            }
        }
        for c in 0..C {
            sink(c * share + first, count, &sums[c][..count]);
        }
    }
    for row in C * share..w.count {
        let mut sum = [0f32];
        // SAFETY: the caller's promise.
        unsafe { tile::<S, 1, 1>(x, w.narrow(row, 1), &mut sum) };
        sink(row, 1, &sum);
    }
}

#[inline(always)]
unsafe fn group_of<S: Step, const R: usize, const C: usize>(x: Rows<S::X>, w: Rows<S::W>, sums: &mut [f32]) {
    let mut row = 0;
    while row < x.count {
        // What is left of a few dozen rows, as experts get, is worth a tile of its own.
        let rows = match x.count - row {
            left if left >= R => R,
            left => left.min(2),
        };
        let (some, to) = (x.narrow(row, rows), &mut sums[row * C..][..rows * C]);
        // SAFETY: the caller's promise.
        unsafe {
            match rows {
                1 => tile::<S, 1, C>(some, w, to),
                2 => tile::<S, 2, C>(some, w, to),
                _ => tile::<S, R, C>(some, w, to),
            }
        }
        row += rows;
    }
}

/// # Safety
/// The machine must have the instructions of `S`.
#[inline(always)]
unsafe fn tile<S: Step, const R: usize, const C: usize>(x: Rows<S::X>, w: Rows<S::W>, to: &mut [f32]) {
    assert!(x.count == R && w.count == C && x.width == w.width && to.len() == R * C);
    let (x_stride, w_stride, width) = (x.stride, w.stride, x.width);
    let whole = width - width % S::LENGTH;
    let (x, w) = (x.pointer(), w.pointer());
    // SAFETY: the matrices have R and C rows of `width` elements; `at` leaves a step of them, or what `padded` is told.
    unsafe {
        let mut sums = [[S::zero(); C]; R];
        let mut at = 0;
        while at < whole {
            let mut ws = [S::w(w.add(at)); C];
            for c in 1..C {
                ws[c] = S::w(w.add(c * w_stride + at));
            }
            for r in 0..R {
                let xs = S::x(x.add(r * x_stride + at));
                for c in 0..C {
                    sums[r][c] = S::add(sums[r][c], xs, ws[c]);
                }
            }
            at += S::LENGTH;
        }
        if at < width {
            for r in 0..R {
                let xs = S::x(padded(x.add(r * x_stride + at), width - at).as_ptr());
                for c in 0..C {
                    let ws = S::w(padded(w.add(c * w_stride + at), width - at).as_ptr());
                    sums[r][c] = S::add(sums[r][c], xs, ws);
                }
            }
        }
        for r in 0..R {
            for c in 0..C {
                to[r * C + c] = S::total(sums[r][c]);
            }
        }
    }
}

/// Adds `p · v` to `out`, in tiles of `R` rows by `C` registers.
///
/// # Safety
/// The machine must have the instructions of `V`.
#[inline(always)]
pub(super) unsafe fn mix<V: Widen<W>, W: Float, const R: usize, const C: usize>(
    p: Rows<f32>,
    v: Rows<W>,
    out: &mut [f32],
) {
    let width = v.width;
    assert!(p.width == v.count && out.len() == p.count * width, "sizes of a product do not fit");
    let mut row = 0;
    while row < p.count {
        let rows = if row + R <= p.count { R } else { 1 };
        let (some, to) = (p.narrow(row, rows), &mut out[row * width..][..rows * width]);
        let mut first = 0;
        while first + V::LANES <= width {
            let wide = first + C * V::LANES <= width;
            // SAFETY: the caller's promise, and as many columns are left.
            unsafe {
                match (rows == R, wide) {
                    (true, true) => mix_tile::<V, W, R, C>(some, v, to, first),
                    (true, false) => mix_tile::<V, W, R, 1>(some, v, to, first),
                    (false, true) => mix_tile::<V, W, 1, C>(some, v, to, first),
                    (false, false) => mix_tile::<V, W, 1, 1>(some, v, to, first),
                }
            }
            first += if wide { C * V::LANES } else { V::LANES };
        }
        for (r, to) in to.chunks_exact_mut(width.max(1)).enumerate() {
            for (col, to) in to.iter_mut().enumerate().skip(first) {
                *to += some.row(r).iter().enumerate().map(|(t, p)| p * v.row(t)[col].widen()).sum::<f32>();
            }
        }
        row += rows;
    }
}

/// # Safety
/// The machine must have the instructions of `V`, and `v` `C` registers of columns from `first` on.
#[inline(always)]
unsafe fn mix_tile<V: Widen<W>, W: Float, const R: usize, const C: usize>(
    p: Rows<f32>,
    v: Rows<W>,
    out: &mut [f32],
    first: usize,
) {
    let width = v.width;
    assert!(p.count == R && out.len() == R * width && first + C * V::LANES <= width && p.width == v.count);
    let (p_stride, v_stride, steps) = (p.stride, v.stride, v.count);
    let (p, v, out) = (p.pointer(), v.pointer(), out.as_mut_ptr());
    // SAFETY: every offset stays in the sizes that were asserted.
    unsafe {
        let mut sums = [[V::splat(0.0); C]; R];
        for r in 0..R {
            for c in 0..C {
                sums[r][c] = V::load(out.add(r * width + first + c * V::LANES));
            }
        }
        for t in 0..steps {
            let from = v.add(t * v_stride + first);
            let mut values = [V::widen(from); C];
            for c in 1..C {
                values[c] = V::widen(from.add(c * V::LANES));
            }
            for r in 0..R {
                let factor = V::splat(*p.add(r * p_stride + t));
                for c in 0..C {
                    sums[r][c] = sums[r][c].add_product(factor, values[c]);
                }
            }
        }
        for r in 0..R {
            for c in 0..C {
                sums[r][c].store(out.add(r * width + first + c * V::LANES));
            }
        }
    }
}
