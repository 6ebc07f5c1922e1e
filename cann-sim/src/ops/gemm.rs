//! The matrix product that all operators share: strided operands, the kernels of the CPU device where what is summed over
//! lies together or rows are few, and otherwise the `gemm` library over narrow types widened block by block.

use crate::aclnn::{Launch, Tensor};
use crate::dtype::Element;
use crate::runtime::config;
use crate::status::Result;
use gemm::Parallelism;
use half::{bf16, f16};
use npu_cpu_kernels::Rows;
use rayon::prelude::*;
use std::borrow::Cow;

/// Rows of the left operand up to which a row-major right one is streamed through instead of being packed.
const FEW_ROWS: usize = 8;
/// Columns of a narrow right operand that are widened at a time.
const PANEL: usize = 256;
/// Multiplications from which a product is worth sharing among threads.
const PARALLEL: usize = 1 << 17;

/// A type that matrices are stored in.
pub(crate) trait Stored: Element + npu_cpu_kernels::Float {}
impl Stored for f32 {}
impl Stored for bf16 {}
impl Stored for f16 {}

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

    /// The same matrix, which is not empty, where its rows lie without gaps and in order.
    fn as_rows(&self) -> Option<Rows<'a, T>> {
        let stride = if self.rows == 1 { self.cols } else { usize::try_from(self.row_stride).ok()? };
        let together = self.col_stride == 1 || self.cols == 1;
        together.then(|| Rows::strided(&self.data[self.start..], self.rows, self.cols, stride))
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
    let packed;
    let rows = match a.as_rows() {
        Some(rows) => rows,
        None => {
            packed = a.map(|value| value);
            Rows::new(&packed, m, k)
        }
    };
    match (b.t().as_rows(), b.as_rows()) {
        (Some(columns), _) => npu_cpu_kernels::product(rows, columns, None, out),
        (None, Some(b)) if m <= FEW_ROWS => npu_cpu_kernels::weighted_sums(rows, b, out),
        _ => blocked(a, b, out, threads),
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
