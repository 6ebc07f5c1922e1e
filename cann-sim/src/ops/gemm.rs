//! The matrix product that all operators share: strided operands, narrow types widened block by block, a path for few
//! rows that reads weights in place, and a blocked one through the `gemm` library.

use crate::aclnn::{Launch, Tensor};
use crate::dtype::Element;
use crate::runtime::config;
use crate::status::Result;
use gemm::Parallelism;
use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};
use rayon::prelude::*;
use std::borrow::Cow;

/// Rows of the left operand up to which the right one is streamed through once instead of being packed.
const FEW_ROWS: usize = 8;
/// Elements of the reduced dimension that are widened at a time; three such blocks fit the first-level cache.
const BLOCK: usize = 1024;
/// Columns of a narrow right operand that are widened at a time.
const PANEL: usize = 256;
/// Multiplications from which a product is worth sharing among threads.
const PARALLEL: usize = 1 << 17;
/// Independent sums of a dot product, which the compiler keeps in vector registers.
const LANES: usize = 32;

/// A type that matrices are stored in.
pub(crate) trait Stored: Element {
    /// `from` in `f32`, through `buffer` (of at least its length) where the type is narrower.
    fn widened<'a>(from: &'a [Self], buffer: &'a mut [f32]) -> &'a [f32];
}

impl Stored for f32 {
    fn widened<'a>(from: &'a [Self], _buffer: &'a mut [f32]) -> &'a [f32] {
        from
    }
}

impl Stored for bf16 {
    #[inline(always)]
    fn widened<'a>(from: &'a [Self], buffer: &'a mut [f32]) -> &'a [f32] {
        let buffer = &mut buffer[..from.len()];
        for (to, value) in buffer.iter_mut().zip(from) {
            *to = f32::from_bits((value.to_bits() as u32) << 16);
        }
        buffer
    }
}

impl Stored for f16 {
    fn widened<'a>(from: &'a [Self], buffer: &'a mut [f32]) -> &'a [f32] {
        let buffer = &mut buffer[..from.len()];
        from.convert_to_f32_slice(buffer);
        buffer
    }
}

impl Tensor {
    /// The tensor's storage, where in it the first element lies, and the view whose strides hold there: the storage
    /// itself, or a row-major copy where it cannot be used in place.
    pub(crate) fn in_place<'a, T: Stored>(&self, launch: &'a Launch) -> Result<(Cow<'a, [T]>, usize, Tensor)> {
        Ok(match self.span::<T>(launch)? {
            Some((data, start)) => (Cow::Borrowed(data), start, self.clone()),
            None => (Cow::Owned(self.read::<T>(launch)?), 0, self.packed_view()),
        })
    }

    /// The view of a row-major copy of the tensor.
    pub(crate) fn packed_view(&self) -> Tensor {
        let mut strides = vec![1; self.rank()];
        for i in (1..self.rank()).rev() {
            strides[i - 1] = strides[i] * self.shape[i].max(1) as i64;
        }
        self.reviewed(self.shape.clone(), strides, 0)
    }
}

/// A strided matrix; strides count elements.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Matrix<'a, T> {
    data: &'a [T],
    start: usize,
    pub rows: usize,
    pub cols: usize,
    row_stride: isize,
    col_stride: isize,
}

impl<'a, T: Copy> Matrix<'a, T> {
    /// The matrix whose element (r, c) is `data[start + r·strides.0 + c·strides.1]`, all of which must lie in `data`.
    pub(crate) fn new(data: &'a [T], start: usize, shape: (usize, usize), strides: (isize, isize)) -> Self {
        let (rows, cols) = shape;
        if rows > 0 && cols > 0 {
            let reach = [(rows - 1) as isize * strides.0, (cols - 1) as isize * strides.1];
            let low = start as isize + reach.iter().filter(|r| **r < 0).sum::<isize>();
            let high = start as isize + reach.iter().filter(|r| **r > 0).sum::<isize>();
            assert!(low >= 0 && (high as usize) < data.len(), "a matrix reaches outside its data");
        }
        Self { data, start, rows, cols, row_stride: strides.0, col_stride: strides.1 }
    }

    /// A row-major matrix without gaps.
    pub(crate) fn row_major(data: &'a [T], rows: usize, cols: usize) -> Self {
        Self::new(data, 0, (rows, cols), (cols as isize, 1))
    }

    /// The transpose.
    pub(crate) fn t(self) -> Self {
        let Self { rows, cols, row_stride, col_stride, .. } = self;
        Self { rows: cols, cols: rows, row_stride: col_stride, col_stride: row_stride, ..self }
    }

    fn index(&self, row: usize, col: usize) -> usize {
        (self.start as isize + row as isize * self.row_stride + col as isize * self.col_stride) as usize
    }

    /// The first `count` rows.
    pub(crate) fn first_rows(self, count: usize) -> Self {
        Self { rows: count.min(self.rows), ..self }
    }

    /// `count` columns from `first` on.
    fn columns(self, first: usize, count: usize) -> Self {
        let start = if count == 0 { self.start } else { self.index(0, first) };
        Self { start, cols: count, ..self }
    }

    /// Elements converted one by one, row by row.
    pub(crate) fn map<U>(self, convert: impl Fn(T) -> U) -> Vec<U> {
        let mut out = Vec::with_capacity(self.rows * self.cols);
        for row in 0..self.rows {
            out.extend((0..self.cols).map(|col| convert(self.data[self.index(row, col)])));
        }
        out
    }

    fn pointer(&self) -> *const T {
        // An empty matrix may start one past its data; `wrapping_add` keeps that harmless.
        self.data.as_ptr().wrapping_add(self.start)
    }
}

/// `out = a · b`, row-major, in `f32` (in `f64`, rounded once, with `CANN_SIM_NUMERICS=exact`). `threads` allows several
/// threads where the size pays for them.
pub(crate) fn product<T: Stored>(a: Matrix<f32>, b: Matrix<T>, out: &mut [f32], threads: bool) {
    let (m, k, n) = (a.rows, a.cols, b.cols);
    assert_eq!(k, b.rows, "inner sizes differ");
    assert_eq!(out.len(), m * n, "the result has another size");
    if m == 0 || n == 0 {
        return;
    }
    if k == 0 {
        return out.fill(0.0);
    }
    let threads = threads && m * n * k >= PARALLEL;
    if config::exact() {
        return exact(a, b, out);
    }
    if m > FEW_ROWS || (b.row_stride != 1 && b.col_stride != 1) {
        return blocked(a, b, out, threads);
    }
    let packed;
    let rows = if a.col_stride == 1 {
        a
    } else {
        packed = a.map(|value| value);
        Matrix::row_major(&packed, m, k)
    };
    let per_task = if threads { n.div_ceil(4 * rayon::current_num_threads()).clamp(8, PANEL) } else { n };
    // Column-major while it is made, so that tasks write disjoint slices.
    let mut columns = vec![0f32; m * n];
    let task = |(index, chunk): (usize, &mut [f32])| {
        let b = b.columns(index * per_task, chunk.len() / m);
        few_rows(rows, b, chunk);
    };
    if threads {
        columns.par_chunks_mut(per_task * m).enumerate().for_each(task);
    } else {
        task((0, &mut columns[..]));
    }
    for (col, column) in columns.chunks_exact(m).enumerate() {
        column.iter().enumerate().for_each(|(row, value)| out[row * n + col] = *value);
    }
}

/// As [`product`] for two operands of any stored type; the smaller side is widened whole.
pub(crate) fn product_of<A: Stored, B: Stored>(a: Matrix<A>, b: Matrix<B>, out: &mut [f32], threads: bool) {
    let (m, n) = (a.rows, b.cols);
    if n < m && n <= FEW_ROWS {
        // A matrix times few columns: the left operand is the one to stream.
        let mut transposed = vec![0f32; m * n];
        product_of(b.t(), a.t(), &mut transposed, threads);
        let transposed = Matrix::row_major(&transposed, n, m).t().map(|value| value);
        return out.copy_from_slice(&transposed);
    }
    let widened = a.map(A::to_f32);
    product(Matrix::row_major(&widened, m, a.cols), b, out, threads);
}

/// Few rows, columns of `b` into `out`, column-major.
fn few_rows<T: Stored>(a: Matrix<f32>, b: Matrix<T>, out: &mut [f32]) {
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
        // SAFETY: the processor has both features, which is all that the function asks for.
        return unsafe { few_rows_avx2(a, b, out) };
    }
    few_rows_with::<T, false>(a, b, out);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
fn few_rows_avx2<T: Stored>(a: Matrix<f32>, b: Matrix<T>, out: &mut [f32]) {
    few_rows_with::<T, true>(a, b, out);
}

#[inline(always)]
fn few_rows_with<T: Stored, const FMA: bool>(a: Matrix<f32>, b: Matrix<T>, out: &mut [f32]) {
    if b.row_stride == 1 { dots::<T, FMA>(a, b, out) } else { sums::<T, FMA>(a, b, out) }
}

/// Columns of `b` lie in memory one after the other: a dot product each.
#[inline(always)]
fn dots<T: Stored, const FMA: bool>(a: Matrix<f32>, b: Matrix<T>, out: &mut [f32]) {
    let (m, k) = (a.rows, a.cols);
    let mut buffer = [0f32; BLOCK];
    for (col, sums) in out.chunks_exact_mut(m).enumerate() {
        let column = &b.data[b.index(0, col)..][..k];
        sums.fill(0.0);
        for (block, stored) in column.chunks(BLOCK).enumerate() {
            let widened = T::widened(stored, &mut buffer);
            for (row, sum) in sums.iter_mut().enumerate() {
                let values = &a.data[a.index(row, block * BLOCK)..][..widened.len()];
                *sum += dot::<FMA>(values, widened);
            }
        }
    }
}

#[inline(always)]
fn multiply_add<const FMA: bool>(a: f32, b: f32, sum: f32) -> f32 {
    // Without the instruction `mul_add` is a library call, far slower than the two operations.
    if FMA { a.mul_add(b, sum) } else { a * b + sum }
}

#[inline(always)]
fn dot<const FMA: bool>(a: &[f32], b: &[f32]) -> f32 {
    let mut lanes = [0f32; LANES];
    let (a_chunks, b_chunks) = (a.chunks_exact(LANES), b.chunks_exact(LANES));
    let mut sum = a_chunks.remainder().iter().zip(b_chunks.remainder()).map(|(x, y)| x * y).sum::<f32>();
    for (x, y) in a_chunks.zip(b_chunks) {
        for lane in 0..LANES {
            lanes[lane] = multiply_add::<FMA>(x[lane], y[lane], lanes[lane]);
        }
    }
    // By halves, for the smaller rounding error.
    let mut width = LANES;
    while width > 1 {
        width /= 2;
        for lane in 0..width {
            lanes[lane] += lanes[lane + width];
        }
    }
    sum += lanes[0];
    sum
}

/// Rows of `b` lie in memory one after the other: a multiple of each is added to all results at once.
#[inline(always)]
fn sums<T: Stored, const FMA: bool>(a: Matrix<f32>, b: Matrix<T>, out: &mut [f32]) {
    let (m, k, n) = (a.rows, a.cols, b.cols);
    let mut buffer = [0f32; PANEL];
    let mut results = [[0f32; PANEL]; FEW_ROWS];
    for first in (0..n).step_by(PANEL) {
        let width = PANEL.min(n - first);
        results[..m].iter_mut().for_each(|row| row[..width].fill(0.0));
        for i in 0..k {
            let widened = T::widened(&b.data[b.index(i, first)..][..width], &mut buffer);
            for (row, result) in results[..m].iter_mut().enumerate() {
                let factor = a.data[a.index(row, i)];
                for (sum, value) in result.iter_mut().zip(widened) {
                    *sum = multiply_add::<FMA>(factor, *value, *sum);
                }
            }
        }
        for (col, column) in out[first * m..][..width * m].chunks_exact_mut(m).enumerate() {
            column.iter_mut().enumerate().for_each(|(row, to)| *to = results[row][col]);
        }
    }
}

/// Many rows: `gemm`, over panels of `b` that are widened where the type is narrow.
fn blocked<T: Stored>(a: Matrix<f32>, b: Matrix<T>, out: &mut [f32], threads: bool) {
    let (m, k, n) = (a.rows, a.cols, b.cols);
    if let Some(b) = as_f32(b) {
        return library(a, b, out, if threads { Parallelism::Rayon(0) } else { Parallelism::None });
    }
    let panel = |first: usize| {
        let panel = b.columns(first, PANEL.min(n - first));
        // Kept in the order it is stored in, so that both sides of the copy are sequential.
        let (data, by_column) =
            if panel.row_stride == 1 { (panel.t().map(T::to_f32), true) } else { (panel.map(T::to_f32), false) };
        let wide = match by_column {
            true => Matrix::row_major(&data, panel.cols, k).t(),
            false => Matrix::row_major(&data, k, panel.cols),
        };
        let mut part = vec![0f32; m * panel.cols];
        library(a, wide, &mut part, Parallelism::None);
        (first, panel.cols, part)
    };
    let starts = (0..n.div_ceil(PANEL)).map(|i| i * PANEL);
    let mut place = |(first, width, part): (usize, usize, Vec<f32>)| {
        for (row, values) in part.chunks_exact(width).enumerate() {
            out[row * n + first..][..width].copy_from_slice(values);
        }
    };
    if threads {
        starts.collect::<Vec<_>>().into_par_iter().map(panel).collect::<Vec<_>>().into_iter().for_each(place);
    } else {
        starts.map(panel).for_each(&mut place);
    }
}

/// The matrix itself where it is stored in `f32`.
fn as_f32<T: Stored>(b: Matrix<T>) -> Option<Matrix<f32>> {
    if T::DTYPE != crate::dtype::DType::F32 {
        return None;
    }
    // SAFETY: each type has its own `DTYPE`, so `T` is `f32`.
    let data = unsafe { std::slice::from_raw_parts(b.data.as_ptr().cast::<f32>(), b.data.len()) };
    let Matrix { start, rows, cols, row_stride, col_stride, .. } = b;
    Some(Matrix { data, start, rows, cols, row_stride, col_stride })
}

fn library<F: 'static + Copy + From<bool>>(a: Matrix<F>, b: Matrix<F>, out: &mut [F], parallelism: Parallelism) {
    let (m, k, n) = (a.rows, a.cols, b.cols);
    assert!(b.rows == k && out.len() == m * n, "sizes of a product do not fit");
    let (zero, one) = (F::from(false), F::from(true));
    // SAFETY: `Matrix::new` checked that every element of both operands lies in its slice, and `out` has m·n elements.
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            out.as_mut_ptr(),
            1,
            n as isize,
            false,
            a.pointer(),
            a.col_stride,
            a.row_stride,
            b.pointer(),
            b.col_stride,
            b.row_stride,
            zero,
            one,
            false,
            false,
            false,
            parallelism,
        );
    }
}

/// The product accumulated in `f64`.
fn exact<T: Stored>(a: Matrix<f32>, b: Matrix<T>, out: &mut [f32]) {
    let (m, k, n) = (a.rows, a.cols, b.cols);
    let (wide_a, wide_b) = (a.map(f64::from), b.map(T::to_f64));
    let mut wide = vec![0f64; m * n];
    let (a, b) = (Matrix::row_major(&wide_a, m, k), Matrix::row_major(&wide_b, k, n));
    library(a, b, &mut wide, Parallelism::Rayon(0));
    out.iter_mut().zip(wide).for_each(|(to, value)| *to = value as f32);
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::{Rng, SeedableRng, rngs::StdRng};

    fn naive(a: &[f32], b: &[f32], (m, k, n): (usize, usize, usize)) -> Vec<f32> {
        let cell = |i: usize| (0..k).map(|x| a[i / n * k + x] as f64 * b[x * n + i % n] as f64).sum::<f64>() as f32;
        (0..m * n).map(cell).collect()
    }

    fn agrees<T: Stored>(seed: u64) {
        let mut rng = StdRng::seed_from_u64(seed);
        for (m, k, n) in
            [(1, 1, 1), (1, 2000, 37), (3, 33, 300), (8, 1025, 17), (9, 40, 515), (70, 65, 3), (0, 3, 2), (2, 0, 3)]
        {
            let mut values =
                |count: usize| (0..count).map(|_| T::from_f32(rng.random_range(-1.0..1.0))).collect::<Vec<T>>();
            let (a, b) = (values(m * k), values(k * n));
            let wide = |values: &[T]| values.iter().map(|v| v.to_f32()).collect::<Vec<_>>();
            let expected = naive(&wide(&a), &wide(&b), (m, k, n));
            let transposed = Matrix::row_major(&b, k, n).t().map(|value| value);
            for b in [Matrix::row_major(&b, k, n), Matrix::row_major(&transposed, n, k).t()] {
                let mut out = vec![f32::NAN; m * n];
                product_of(Matrix::row_major(&a, m, k), b, &mut out, true);
                // Both sides see the same stored values; what differs is the order of k additions in f32.
                let tolerance = 1e-6 * (k as f32).max(1.0);
                let worst = out.iter().zip(&expected).map(|(x, y)| (x - y).abs()).fold(0.0, f32::max);
                assert!(worst <= tolerance, "{} {m}x{k}x{n}, seed {seed}: off by {worst}", T::DTYPE);
            }
        }
    }

    #[test]
    fn every_path_agrees_with_the_definition() {
        agrees::<f32>(1);
        agrees::<bf16>(2);
        agrees::<f16>(3);
    }
}
