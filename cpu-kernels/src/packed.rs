//! Products of `f32` matrices of many rows, by the `gemm` library, which packs both operands for the processor's caches.

use crate::Matrix;
use crate::team::{share, share_chunks, threads};
use std::ops::Range;

/// Multiplications from which a product is worth sharing among threads.
const PARALLEL: usize = 1 << 16;
/// Rows and columns of one task are multiples of these, which are multiples of the library's tiles.
const ROWS: usize = 48;
const COLUMNS: usize = 64;
/// Quarters of a thread's share: a task of three and one of a single one, so that a thread that starts late or is taken from
/// its core leaves little for the others to wait for, and operands are packed no more than twice a thread.
const QUARTERS: usize = 4;

/// What a product does with what the result holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Into {
    Overwrite,
    Add,
}

/// A result, or the part of one that a task writes: element `(i, j)` is at `i * down + j * across`.
#[derive(Clone, Copy)]
pub(crate) struct Target {
    pub pointer: *mut f32,
    pub down: usize,
    pub across: usize,
}

// SAFETY: tasks write disjoint elements, which `write` sees to.
unsafe impl Sync for Target {}

impl Target {
    /// # Safety
    /// The element must lie in the result.
    unsafe fn from(self, element: usize) -> Self {
        // SAFETY: the caller's promise.
        Self { pointer: unsafe { self.pointer.add(element) }, ..self }
    }

    /// # Safety
    /// The result's `a.rows` by `b.columns` elements must be the caller's alone for the time of the call.
    pub unsafe fn multiply(self, a: Matrix, b: Matrix, into: Into) {
        assert_eq!(a.columns, b.rows, "inner sizes of a product differ");
        let signed = |stride: usize| stride as isize;
        // SAFETY: the operands' elements lie in their slices, as `Matrix::new` asserts, and the result's are the caller's.
        unsafe {
            gemm::gemm(
                a.rows,
                b.columns,
                a.columns,
                self.pointer,
                signed(self.across),
                signed(self.down),
                into == Into::Add,
                a.data.as_ptr(),
                signed(a.across),
                signed(a.down),
                b.data.as_ptr(),
                signed(b.across),
                signed(b.down),
                1.0,
                1.0,
                false,
                false,
                false,
                gemm::Parallelism::None,
            );
        }
    }
}

/// `out = a · b`, or that much more, on this thread; the rows of `out` have no gaps.
pub(crate) fn multiply_here(a: Matrix, b: Matrix, out: &mut [f32], into: Into) {
    assert_eq!(out.len(), a.rows * b.columns, "the result of a product has another size");
    if !out.is_empty() {
        // SAFETY: the result is borrowed alone and has that many elements.
        unsafe { Target { pointer: out.as_mut_ptr(), down: b.columns, across: 1 }.multiply(a, b, into) }
    }
}

/// `a[i] · b[i]` for a batch of products of one size, each given by its number, row by row and one after the other. Panics
/// where sizes do not fit.
pub fn multiply<'a>(batch: usize, operands: impl Fn(usize) -> (Matrix<'a>, Matrix<'a>) + Sync) -> Vec<f32> {
    let len = elements(batch, &operands);
    let mut out = Vec::with_capacity(len);
    // SAFETY: as many elements are reserved, and all are written; a task that panics does not come to the second call.
    unsafe {
        write(batch, operands, out.as_mut_ptr());
        out.set_len(len);
    }
    out
}

/// As [`multiply`], to where `out` lies.
pub(crate) fn multiply_over<'a>(
    batch: usize,
    operands: impl Fn(usize) -> (Matrix<'a>, Matrix<'a>) + Sync,
    out: &mut [f32],
) {
    assert_eq!(out.len(), elements(batch, &operands), "the result of a product has another size");
    // SAFETY: the result is borrowed alone and has that many elements.
    unsafe { write(batch, operands, out.as_mut_ptr()) }
}

/// Elements of the results of a batch.
fn elements<'a>(batch: usize, operands: &impl Fn(usize) -> (Matrix<'a>, Matrix<'a>)) -> usize {
    if batch == 0 {
        return 0;
    }
    let (a, b) = operands(0);
    batch * a.rows * b.columns
}

/// Writes every element of the results of a batch and reads none.
///
/// # Safety
/// The [`elements`] at `out` must be the caller's alone for the time of the call.
unsafe fn write<'a>(batch: usize, operands: impl Fn(usize) -> (Matrix<'a>, Matrix<'a>) + Sync, out: *mut f32) {
    if batch == 0 {
        return;
    }
    let (a, b) = operands(0);
    let (rows, columns, inner) = (a.rows, b.columns, a.columns);
    // The longer side is cut, so that what every piece packs anew is the smaller operand.
    let longer = rows.max(columns);
    let grain = if rows >= columns { ROWS } else { COLUMNS };
    let alone = batch * longer * rows.min(columns) * inner < PARALLEL;
    let whole = || std::iter::once(0..longer).collect();
    let pieces = if alone { whole() } else { pieces(longer, grain, threads().div_ceil(batch)) };
    let to = Target { pointer: out, down: columns, across: 1 };
    share(if alone { 1 } else { batch * pieces.len() }, |task| {
        let tasks = if alone { 0..batch } else { task..task + 1 };
        for task in tasks {
            let (index, piece) = (task % batch, pieces[task / batch].clone());
            let (first, count) = (piece.start, piece.len());
            let (a, b) = operands(index);
            assert_eq!(
                (a.rows, b.columns, a.columns, b.rows),
                (rows, columns, inner, inner),
                "sizes in a batch differ"
            );
            let (a, b, start) = match rows >= columns {
                true => (a.narrow(first, count), b, first * columns),
                false => (a, b.t().narrow(first, count).t(), first),
            };
            // SAFETY: tasks differ in their product, or in the rows or columns of it; with no products to add up, what
            // overwrites writes zeros.
            unsafe { to.from(index * rows * columns + start).multiply(a, b, Into::Overwrite) }
        }
    });
}

/// `length` in pieces for `workers`, the greatest first: three quarters of it in one piece each, the rest likewise. Pieces are
/// multiples of `grain`, the last as it comes.
pub(crate) fn pieces(length: usize, grain: usize, workers: usize) -> Vec<Range<usize>> {
    let cut = |share: usize| (length * share).div_ceil(QUARTERS * workers).next_multiple_of(grain);
    let (mut all, mut start) = (Vec::new(), 0);
    while start < length {
        let size = if all.len() < workers { cut(QUARTERS - 1) } else { cut(1) };
        let end = (start + size).min(length);
        all.push(start..end);
        start = end;
    }
    all
}

/// Side of the squares that are turned at once: two of them stay in the first-level cache.
const SQUARE: usize = 32;

/// The columns of `rows` rows of `columns` elements, `down` apart, one after the other. Panics where a row reaches outside
/// of `data`.
pub fn transposed<T: Copy + Default + Send + Sync>(data: &[T], (rows, columns): (usize, usize), down: usize) -> Vec<T> {
    let mut out = vec![T::default(); rows * columns];
    if out.is_empty() {
        return out;
    }
    assert!((rows - 1) * down + columns <= data.len(), "{rows} rows of {columns}, {down} apart: {}", data.len());
    share_chunks(&mut out, SQUARE * rows, |task, out| {
        let width = out.len() / rows;
        for start in (0..rows).step_by(SQUARE) {
            for row in start..rows.min(start + SQUARE) {
                let from = &data[row * down + task * SQUARE..][..width];
                from.iter().enumerate().for_each(|(column, value)| out[column * rows + row] = *value);
            }
        }
    });
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Small whole numbers, whose sums of products are exact in any order.
    fn values(count: usize, salt: usize) -> Vec<f32> {
        (0..count).map(|i| ((i * 31 + salt * 7) % 11) as f32 - 5.0).collect()
    }

    #[test]
    fn products_are_those_of_plain_loops() {
        for (batch, rows, inner, columns) in [
            (1, 1, 1, 1),
            (1, 70, 33, 300),
            (1, 300, 65, 50),
            (3, 5, 7, 2),
            (2, 64, 48, 200),
            (2, 3, 0, 4),
            (1, 0, 3, 2),
        ] {
            for (a_turned, b_turned) in [(false, false), (false, true), (true, false), (true, true)] {
                let (a, b) = (values(batch * rows * inner, 1), values(batch * inner * columns, 2));
                let operands = |index: usize| {
                    let (a, b) = (&a[index * rows * inner..], &b[index * inner * columns..]);
                    (
                        if a_turned { Matrix::rows(a, inner, rows).t() } else { Matrix::rows(a, rows, inner) },
                        if b_turned { Matrix::rows(b, columns, inner).t() } else { Matrix::rows(b, inner, columns) },
                    )
                };
                let out = multiply(batch, operands);
                assert_eq!(out.len(), batch * rows * columns);
                for (at, got) in out.iter().enumerate() {
                    let (index, row, column) = (at / (rows * columns), at / columns % rows, at % columns);
                    let of_a =
                        |k: usize| a[index * rows * inner + if a_turned { k * rows + row } else { row * inner + k }];
                    let of_b = |k: usize| {
                        b[index * inner * columns + if b_turned { column * inner + k } else { k * columns + column }]
                    };
                    let wanted: f32 = (0..inner).map(|k| of_a(k) * of_b(k)).sum();
                    assert_eq!(
                        *got, wanted,
                        "{batch} of {rows}x{inner}x{columns}, turned {a_turned} {b_turned}, at {at}"
                    );
                }
            }
        }
    }

    #[test]
    fn pieces_are_all_of_a_side_and_the_last_are_small() {
        for (length, workers) in [(1, 1), (47, 2), (4864, 2), (9728, 8), (100, 64), (151_936, 3)] {
            let all = pieces(length, 48, workers);
            assert_eq!(all.iter().cloned().flatten().collect::<Vec<_>>(), (0..length).collect::<Vec<_>>());
            assert!(all.len() <= 2 * workers, "{length} for {workers}: {all:?}");
            assert!(all[..all.len() - 1].iter().all(|piece| piece.len() % 48 == 0), "{all:?}");
            let last = all[all.len() - 1].len();
            assert!(
                length < 48 * 4 * workers || last <= length.div_ceil(4 * workers) + 48,
                "{last} of {length} are last"
            );
        }
    }

    #[test]
    fn a_transpose_turns_rows_that_lie_apart() {
        for (rows, columns, down) in [(1, 1, 1), (3, 70, 71), (100, 33, 40), (0, 4, 4)] {
            let data = values(rows * down, 3);
            let turned = transposed(&data, (rows, columns), down);
            assert_eq!(turned.len(), rows * columns);
            for (at, value) in turned.iter().enumerate() {
                assert_eq!(*value, data[at % rows * down + at / rows], "{rows} by {columns}, {down} apart, at {at}");
            }
        }
    }

    #[test]
    fn a_product_can_be_added() {
        let (a, b) = (values(6, 1), values(6, 2));
        let (a, b) = (Matrix::rows(&a, 2, 3), Matrix::rows(&b, 3, 2));
        let mut once = vec![0f32; 4];
        multiply_here(a, b, &mut once, Into::Overwrite);
        let mut twice = once.clone();
        multiply_here(a, b, &mut twice, Into::Add);
        assert!(once.iter().any(|value| *value != 0.0));
        assert_eq!(twice, once.iter().map(|value| 2.0 * value).collect::<Vec<_>>());
    }
}
