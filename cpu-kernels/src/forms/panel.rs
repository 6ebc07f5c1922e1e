//! Products of rows that lie side by side, over any vector unit. Everything is inlined into a function that has the unit's
//! instructions enabled.

#![allow(
    clippy::needless_range_loop,
    reason = "indexes into tiles of known size are unrolled, iterators are not always"
)]

use super::vector::Vector;
use super::{Ahead, Panel};
use crate::Matrix;
use std::ops::Range;

/// Elements of a panel that are multiplied with all columns before the next ones are: they stay in the first-level cache
/// (32 KiB), and the other operand passes by.
const NEAR: usize = 8192;
/// Steps from one line of memory that is asked for to the next: slower than memory gives them, so that nothing waits.
const PACE: usize = 2;

/// Adds `panel · w` to `to`, in tiles of `R` registers of rows, at most four, by `C` columns, whose sums stay in registers. A tile of
/// fewer registers has more columns.
///
/// # Safety
/// The machine must have the instructions of `V`.
#[inline(always)]
pub(super) unsafe fn sums<V: Vector, const R: usize, const C: usize>(
    panel: Panel,
    w: Matrix,
    to: &mut [f32],
    ahead: &mut Ahead,
) {
    let Panel { data, height } = panel;
    assert!(height.is_multiple_of(V::LANES) && data.len() >= height * w.rows, "a panel has another size");
    assert_eq!(to.len(), height * w.columns, "the sums of a panel have another size");
    let mut first = 0;
    while first < height {
        let registers = ((height - first) / V::LANES).min(R);
        // SAFETY: the caller's promise; as many rows are left.
        unsafe {
            match registers {
                _ if registers == R => strip::<V, R, C>(panel, first, w, to, ahead),
                3 => strip::<V, 3, 8>(panel, first, w, to, ahead),
                2 => strip::<V, 2, 12>(panel, first, w, to, ahead),
                _ => strip::<V, 1, 12>(panel, first, w, to, ahead),
            }
        }
        first += registers * V::LANES;
    }
}

/// # Safety
/// The machine must have the instructions of `V`; the panel must have `R` registers of rows from `first` on, and sizes must fit.
#[inline(always)]
unsafe fn strip<V: Vector, const R: usize, const C: usize>(
    panel: Panel,
    first: usize,
    w: Matrix,
    to: &mut [f32],
    ahead: &mut Ahead,
) {
    let near = NEAR / (R * V::LANES);
    for start in (0..w.rows).step_by(near) {
        let steps = start..w.rows.min(start + near);
        let mut column = 0;
        while column < w.columns {
            let whole = column + C <= w.columns;
            // SAFETY: the caller's promise, and as many columns are left.
            unsafe {
                match whole {
                    true => tile::<V, R, C>(panel, first, w, steps.clone(), column, to, ahead),
                    false => tile::<V, R, 1>(panel, first, w, steps.clone(), column, to, ahead),
                }
            }
            column += if whole { C } else { 1 };
        }
    }
}

/// # Safety
/// As [`strip`]; `w` must have the steps, and `C` columns from `column` on.
#[inline(always)]
unsafe fn tile<V: Vector, const R: usize, const C: usize>(
    Panel { data, height }: Panel,
    first: usize,
    w: Matrix,
    steps: Range<usize>,
    column: usize,
    to: &mut [f32],
    ahead: &mut Ahead,
) {
    let (down, across) = (w.down, w.across);
    // SAFETY: the caller's promise: a panel has `height` elements a step, and the sums as many a column.
    unsafe {
        let to = to.as_mut_ptr().add(column * height + first);
        let mut x = data.as_ptr().add(steps.start * height + first);
        let mut w = w.data.as_ptr().add(steps.start * down + column * across);
        let mut sums = [[V::splat(0.0); C]; R];
        for step in steps {
            if step % PACE == 0 {
                ahead.next();
            }
            let mut xs = [V::load(x); R];
            for r in 1..R {
                xs[r] = V::load(x.add(r * V::LANES));
            }
            for c in 0..C {
                let factor = V::splat(*w.add(c * across));
                for r in 0..R {
                    sums[r][c] = sums[r][c].add_product(xs[r], factor);
                }
            }
            x = x.wrapping_add(height);
            w = w.wrapping_add(down);
        }
        for c in 0..C {
            for r in 0..R {
                let to = to.add(c * height + r * V::LANES);
                V::load(to).add(sums[r][c]).store(to);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Form;
    use crate::forms::sums as kernel;

    /// Small whole numbers, whose sums of products are exact in any order.
    fn values(count: usize, salt: usize) -> Vec<f32> {
        (0..count).map(|i| ((i * 31 + salt * 7) % 11) as f32 - 5.0).collect()
    }

    #[test]
    fn every_form_adds_the_products() {
        for form in Form::available() {
            for (height, depth, columns) in [(16, 5, 1), (32, 600, 13), (48, 33, 9), (64, 300, 7), (112, 130, 12)] {
                let (x, w) = (values(height * depth, 1), values(depth * columns, 2));
                for w in [Matrix::rows(&w, depth, columns), Matrix::rows(&w, columns, depth).t()] {
                    let mut sums = values(height * columns, 3);
                    let before = sums.clone();
                    kernel(form)(Panel { data: &x, height }, w, &mut sums, &mut Ahead::none());
                    for (at, (sum, before)) in sums.iter().zip(&before).enumerate() {
                        let (column, row) = (at / height, at % height);
                        let product = |k: usize| x[k * height + row] * w.data[k * w.down + column * w.across];
                        let wanted: f32 = before + (0..depth).map(product).sum::<f32>();
                        assert_eq!(*sum, wanted, "{form:?}: {height}x{depth}x{columns}, row {row}, column {column}");
                    }
                }
            }
        }
    }
}
