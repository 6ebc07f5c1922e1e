//! `x · Wᵀ` and `p · V`: the right operand's columns, or its rows, lie in memory one after the other.

use crate::float::{same, same_mut, same_vec, widened};
use crate::forms::{Dots, Form, Kernels, Mix, dots_of_bf16};
use crate::packed::{multiply, multiply_over, transposed};
use crate::team::{share, threads};
use crate::wide::{Group, multiply_groups, multiply_wide};
use crate::{Float, Matrix, Rows};
use half::{bf16, f16};
use std::borrow::Cow;

/// Multiplications from which a product is worth sharing among threads.
const PARALLEL: usize = 1 << 16;
/// Rows from which a product of `f32` is worth packing its operands.
const PACKED: usize = 32;
/// Rows from which a 16-bit weight is worth widening.
const WIDE: usize = 32;
/// The same of an average group: its weight comes from memory, and widening asks for the next one meanwhile.
const WIDE_GROUP: usize = 16;
/// Bytes of `x` that are multiplied at a time, so that they stay in the second-level cache while `W` streams by.
const RESIDENT: usize = 5 << 18;
/// Columns of one task are a multiple of this, which is a multiple of every form's tile.
const GRAIN: usize = 24;
/// Tasks a thread, so that a thread that starts late or is taken from its core leaves its share to the others.
const TASKS: usize = 4;

/// `y = x · Wᵀ + bias`: `x` `[R, K]`, `weight` `[N, K]`, `bias` `[N]`, `y` `[R, N]` row-major. Summed in `f32`, in an order
/// that depends on the machine; rounded once, with the bias. Panics where the sizes do not fit.
pub fn product<X: Float, W: Float, Y: Float>(x: Rows<X>, weight: Rows<W>, bias: Option<&[Y]>, y: &mut [Y]) {
    if x.count >= PACKED
        && let (Some(x32), Some(w32), Some(y32)) = (same(x.data()), same(weight.data()), same_mut(y))
    {
        let (x, weight) = fitting(x.over(x32), weight.over(w32), bias);
        multiply_over(1, |_| (x.matrix(), weight.matrix().t()), y32);
        return add_bias(y32, bias);
    }
    if x.count >= WIDE && size_of::<W>() < size_of::<f32>() {
        return multiply_groups(&[Group { x: x.matrix(), w: weight.matrix().t(), row: 0 }], bias, y);
    }
    product_by(Form::fastest(), x, weight, bias, y);
}

/// As [`product`], in memory of its own, which is not written twice where the product writes it whole.
pub fn product_of<T: Float>(x: Rows<T>, weight: Rows<T>, bias: Option<&[T]>) -> Vec<T> {
    if x.count >= PACKED
        && let (Some(x32), Some(w32)) = (same(x.data()), same(weight.data()))
    {
        let (x, weight) = fitting(x.over(x32), weight.over(w32), bias);
        let mut y = multiply(1, |_| (x.matrix(), weight.matrix().t()));
        add_bias(&mut y, bias);
        return same_vec(y).expect("the operands are of this type");
    }
    let mut y = vec![T::default(); x.count * weight.count];
    product(x, weight, bias, &mut y);
    y
}

/// `a[i] · b[i]` for a batch of products of one size, as [`multiply`], of 16-bit operands: summed in `f32`, rounded once. With few
/// rows, what is summed over must lie without gaps in both operands: one that holds it otherwise is turned first.
pub fn multiply_halves<'a, T: Float>(
    batch: usize,
    operands: impl Fn(usize) -> (Matrix<'a, T>, Matrix<'a, T>),
) -> Vec<T> {
    let mut out = Vec::new();
    for (a, b) in (0..batch).map(operands) {
        let start = out.len();
        out.resize(start + a.rows * b.columns, T::default());
        if a.rows >= WIDE {
            multiply_wide(a, b, &mut out[start..]);
            continue;
        }
        let (mut turned_a, mut turned_b) = (Vec::new(), Vec::new());
        product(dense_rows(a, &mut turned_a), dense_rows(b.t(), &mut turned_b), None, &mut out[start..]);
    }
    out
}

/// A matrix whose rows have no gaps, turned to `room` if it has.
fn dense_rows<'a, T: Float>(matrix: Matrix<'a, T>, room: &'a mut Vec<T>) -> Rows<'a, T> {
    let Matrix { data, rows, columns, down, across } = matrix;
    if across == 1 || columns <= 1 {
        return Rows::strided(data, rows, columns, down);
    }
    assert!(down == 1 || rows <= 1, "neither rows nor columns of a matrix are without gaps");
    *room = transposed(data, (columns, rows), across);
    Rows::new(room, rows, columns)
}

/// The operands of a product that are worth packing, looked at.
fn fitting<'a, Y: Float>(
    x: Rows<'a, f32>,
    weight: Rows<'a, f32>,
    bias: Option<&[Y]>,
) -> (Rows<'a, f32>, Rows<'a, f32>) {
    assert_eq!(x.width, weight.width, "inner sizes of a product differ");
    assert!(bias.is_none_or(|bias| bias.len() == weight.count), "the bias of a product has another size");
    (x, weight)
}

fn add_bias<Y: Float>(y: &mut [f32], bias: Option<&[Y]>) {
    if let Some(bias) = bias {
        let bias = widened(bias);
        let add = |row: &mut [f32]| row.iter_mut().zip(&*bias).for_each(|(y, bias)| *y += bias);
        y.chunks_exact_mut(bias.len().max(1)).for_each(add);
    }
}

/// As [`product`], by the given form, which must be one of [`Form::available`].
pub fn product_by<X: Float, W: Float, Y: Float>(
    form: Form,
    x: Rows<X>,
    weight: Rows<W>,
    bias: Option<&[Y]>,
    y: &mut [Y],
) {
    assert!(bias.is_none_or(|bias| bias.len() == weight.count), "the bias of a product has another size");
    of_groups(form, x, weight, &[x.count], bias, y);
}

/// For each group of rows of `x` the product with its own weight: group `i` ends before row `ends[i]`, and its weight is part `i` of
/// as many equal parts of `weight`, one below the other: `x` `[R, K]`, `weight` `[G N, K]`, `y` `[R, N]`. Otherwise as [`product`].
///
/// All groups are one job. A weight is read once where its rows fit in the second-level cache, and not at all where it has none.
pub fn grouped_product<X: Float, W: Float, Y: Float>(x: Rows<X>, weight: Rows<W>, ends: &[usize], y: &mut [Y]) {
    let filled = (0..ends.len()).filter(|&group| ends[group] > group.checked_sub(1).map_or(0, |before| ends[before]));
    if x.count < WIDE_GROUP * filled.clone().count().max(1) || size_of::<W>() == size_of::<f32>() {
        return grouped_product_by(Form::fastest(), x, weight, ends, y);
    }
    check_groups(x.count, weight.count, ends);
    let outputs = weight.count / ends.len();
    let group = |group: usize| {
        let row = if group == 0 { 0 } else { ends[group - 1] };
        let w = weight.narrow(group * outputs, outputs).matrix().t();
        Group { x: x.narrow(row, ends[group] - row).matrix(), w, row }
    };
    multiply_groups(&filled.map(group).collect::<Vec<_>>(), None, y);
}

fn check_groups(rows: usize, weights: usize, ends: &[usize]) {
    let whole = ends.is_sorted() && ends.last().copied().unwrap_or(0) == rows;
    assert!(whole, "groups do not cover the rows of a product");
    assert!(ends.is_empty() || weights.is_multiple_of(ends.len()), "the groups of a product have no equal weights");
}

/// As [`grouped_product`], by the given form, which must be one of [`Form::available`].
pub fn grouped_product_by<X: Float, W: Float, Y: Float>(
    form: Form,
    x: Rows<X>,
    weight: Rows<W>,
    ends: &[usize],
    y: &mut [Y],
) {
    check_groups(x.count, weight.count, ends);
    of_groups(form, x, weight, ends, None, y);
}

fn of_groups<X: Float, W: Float, Y: Float>(
    form: Form,
    x: Rows<X>,
    weight: Rows<W>,
    ends: &[usize],
    bias: Option<&[Y]>,
    y: &mut [Y],
) {
    assert_eq!(x.width, weight.width, "inner sizes of a product differ");
    assert_eq!(y.len(), x.count * (weight.count / ends.len().max(1)), "the result of a product has another size");
    if y.is_empty() {
        return;
    }
    if let (Some(x16), Some(w16), Some(dots)) = (same(x.data()), same(weight.data()), dots_of_bf16(form)) {
        return shared::<bf16, bf16, Y>(dots, x.over(x16), weight.over(w16), ends, bias, y);
    }
    let x32: Cow<[f32]> = widened(x.data());
    let x = x.over(&x32);
    if let Some(w) = same(weight.data()) {
        shared::<f32, bf16, Y>(bf16::dots(form), x, weight.over(w), ends, bias, y)
    } else if let Some(w) = same(weight.data()) {
        shared::<f32, f16, Y>(f16::dots(form), x, weight.over(w), ends, bias, y)
    } else {
        let w = widened(weight.data());
        shared::<f32, f32, Y>(f32::dots(form), x, weight.over(&w), ends, bias, y)
    }
}

/// A part of the result that one thread computes.
struct Task {
    row: usize,
    rows: usize,
    column: usize,
    columns: usize,
    /// Which part of the weight.
    group: usize,
}

/// Cuts the groups in tasks, as many for each as its share of the work.
fn tasks(ends: &[usize], outputs: usize, inner: usize, size: usize) -> Vec<Task> {
    let rows = ends.last().copied().unwrap_or(0);
    let wanted = if rows * outputs * inner < PARALLEL { 1 } else { TASKS * threads() };
    let mut tasks = Vec::new();
    let mut first = 0;
    for (group, &end) in ends.iter().enumerate() {
        let count = end - first;
        if count > 0 {
            let most = (RESIDENT / (inner * size).max(1)).clamp(16, count.max(16));
            let height = count.div_ceil(count.div_ceil(most));
            let columns = outputs.div_ceil((wanted * count).div_ceil(rows)).next_multiple_of(GRAIN);
            for row in (first..end).step_by(height) {
                for column in (0..outputs).step_by(columns) {
                    let (rows, columns) = (height.min(end - row), columns.min(outputs - column));
                    tasks.push(Task { row, rows, column, columns, group });
                }
            }
        }
        first = end;
    }
    tasks
}

/// A result that tasks write disjoint columns of.
pub(crate) struct Columns<Y> {
    pub pointer: *mut Y,
    pub width: usize,
}

// SAFETY: tasks write disjoint elements, which `shared` sees to.
unsafe impl<Y: Send> Sync for Columns<Y> {}

impl<Y> Columns<Y> {
    /// # Safety
    /// The elements must lie in the result, which must outlive the slice, and no other task may have them.
    #[allow(clippy::mut_from_ref, reason = "tasks share the result and have disjoint parts of it")]
    pub unsafe fn part(&self, row: usize, col: usize, count: usize) -> &mut [Y] {
        // SAFETY: the caller's promise.
        unsafe { std::slice::from_raw_parts_mut(self.pointer.add(row * self.width + col), count) }
    }
}

/// Sums of neighbouring columns, [`GRAIN`] at most, that are rounded together: a vector unit does it for many at once.
struct Strip {
    /// `[rows, GRAIN]`
    sums: Vec<f32>,
    first: usize,
    count: usize,
}

impl Strip {
    fn push(&mut self, col: usize, count: usize, sums: &[f32]) {
        if self.count == 0 {
            self.first = col;
        }
        for (row, sums) in self.sums.chunks_exact_mut(GRAIN).zip(sums.chunks_exact(count)) {
            row[self.count..self.count + count].copy_from_slice(sums);
        }
        self.count += count;
    }
}

fn shared<X: Float, W: Float, Y: Float>(
    dots: Dots<X, W>,
    x: Rows<X>,
    weight: Rows<W>,
    ends: &[usize],
    bias: Option<&[Y]>,
    y: &mut [Y],
) {
    let (outputs, inner) = (weight.count / ends.len(), x.width);
    let to = Columns { pointer: y.as_mut_ptr(), width: outputs };
    let tasks = tasks(ends, outputs, inner, size_of::<X>());
    let compute = |task: usize| {
        let Task { row: first_row, rows, column: first, columns, group } = tasks[task];
        let x = x.narrow(first_row, rows);
        let weight = weight.narrow(group * outputs + first, columns);
        let mut strip = Strip { sums: vec![0f32; x.count * GRAIN], first: 0, count: 0 };
        let write = |strip: &mut Strip| {
            let (at, count) = (first + strip.first, std::mem::take(&mut strip.count));
            let mut wide = [0f32; GRAIN];
            if let Some(bias) = bias {
                Y::widen_slice(&bias[at..at + count], &mut wide[..count]);
            }
            for (row, sums) in strip.sums.chunks_exact_mut(GRAIN).enumerate() {
                sums.iter_mut().zip(&wide).for_each(|(sum, bias)| *sum += bias);
                // SAFETY: the result is borrowed for this call, and tasks differ in their rows or their columns.
                Y::round_slice(&sums[..count], unsafe { to.part(first_row + row, at, count) });
            }
        };
        dots(x, weight, &mut |col, count, sums| {
            if strip.count > 0 && (strip.first + strip.count != col || strip.count + count > GRAIN) {
                write(&mut strip);
            }
            strip.push(col, count, sums);
        });
        if strip.count > 0 {
            write(&mut strip);
        }
    };
    if x.count * outputs * inner < PARALLEL { (0..tasks.len()).for_each(compute) } else { share(tasks.len(), compute) }
}

/// Rows of `v` that are gone through for all columns of a task before the next, so that their pages stay known.
const DEEP: usize = 128;

/// `out = p · v`: `p` `[R, T]`, `v` `[T, E]`, `out` `[R, E]` row-major; summed in `f32`. For few rows: `v` is read once for
/// every four of them. Panics where the sizes do not fit.
pub fn weighted_sums<V: Float>(p: Rows<f32>, v: Rows<V>, out: &mut [f32]) {
    weighted_sums_by(Form::fastest(), p, v, out);
}

/// As [`weighted_sums`], by the given form, which must be one of [`Form::available`].
pub fn weighted_sums_by<V: Float>(form: Form, p: Rows<f32>, v: Rows<V>, out: &mut [f32]) {
    assert_eq!(p.width, v.count, "inner sizes of a product differ");
    assert_eq!(out.len(), p.count * v.width, "the result of a product has another size");
    if let Some(data) = same(v.data()) {
        by_columns(bf16::mix(form), p, v.over::<bf16>(data), out);
    } else if let Some(data) = same(v.data()) {
        by_columns(f16::mix(form), p, v.over::<f16>(data), out);
    } else {
        let data = widened(v.data());
        by_columns(f32::mix(form), p, v.over::<f32>(&data), out);
    }
}

fn by_columns<V: Float>(mix: Mix<V>, p: Rows<f32>, v: Rows<V>, out: &mut [f32]) {
    let (rows, inner, outputs) = (p.count, v.count, v.width);
    if out.is_empty() {
        return;
    }
    let to = Columns { pointer: out.as_mut_ptr(), width: outputs };
    let tasks = if rows * outputs * inner < PARALLEL { 1 } else { TASKS * threads() };
    let columns = outputs.div_ceil(tasks).next_multiple_of(64);
    share(outputs.div_ceil(columns), |task| {
        let first = task * columns;
        let width = columns.min(outputs - first);
        let mut sums = vec![0f32; rows * width];
        for start in (0..inner).step_by(DEEP) {
            let count = DEEP.min(inner - start);
            mix(p.columns(start, count), v.narrow(start, count).columns(first, width), &mut sums);
        }
        for (row, sums) in sums.chunks_exact(width).enumerate() {
            // SAFETY: the result is borrowed for this call, and tasks differ in their columns.
            unsafe { to.part(row, first, width) }.copy_from_slice(sums);
        }
    });
}
