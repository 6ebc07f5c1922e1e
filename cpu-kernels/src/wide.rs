//! Products of many rows with a right operand of 16 bits, in `f32`.
//!
//! The rows of the left operand are laid side by side, so that a vector holds one element of each, and the elements of the
//! right operand are broadcast to them one by one: it is widened a block at a time and never turned or packed, which at a few
//! dozen rows would take as long as the product. While a block is multiplied, the next one is asked for.

use crate::forms::{Ahead, Form, Kernels, Panel, SIDE, sums};
use crate::packed::{Into, pieces};
use crate::product::Columns;
use crate::team::{share, threads};
use crate::{Float, Matrix, Rows};
use std::ops::Range;
use std::sync::{Mutex, PoisonError};

/// Rows of a panel at most: as many as the largest tile of a form has.
const PANEL: usize = 64;
/// Rows that are left over at most to be multiplied one by one, instead of filling up a panel with zeros.
const REST: usize = 8;
/// Columns and inner size of the right operand that are widened at a time: a part of the second-level cache.
const COLUMNS: usize = 96;
const DEPTH: usize = 512;
/// Elements between the rows that were widened: sizes of models are powers of two, and rows as far apart as that would share
/// one set of the first-level cache.
const GAP: usize = 16;
/// Rows of a group that are laid in panels at a time, whose sums stay in the second-level cache.
const ROWS: usize = 1024;
/// Inner size of them, and elements of all groups of a job, which bound the memory that they take.
const INNER: usize = 8192;
const JOB: usize = ROWS * INNER;
/// Tasks a thread where several groups are one job.
const TASKS: usize = 4;

/// One product: `x` `[R, K]`, `w` `[K, N]`, and the row of the result that its first one is.
pub(crate) struct Group<'a, X, W> {
    pub x: Matrix<'a, X>,
    pub w: Matrix<'a, W>,
    pub row: usize,
}

/// `y = x · w`: `x` `[R, K]`, `w` `[K, N]`, `y` `[R, N]` row-major; summed in `f32`, rounded once. For 16-bit operands
/// of many rows, however they lie. Panics where the sizes do not fit.
pub fn multiply_wide<X: Float, W: Float, Y: Float>(x: Matrix<X>, w: Matrix<W>, y: &mut [Y]) {
    assert_eq!(y.len(), x.rows * w.columns, "the result of a product has another size");
    multiply_groups(&[Group { x, w, row: 0 }], None, y);
}

/// The products of some groups, whose rows are all the rows of `y`, with `bias` added to each row.
pub(crate) fn multiply_groups<X: Float, W: Float, Y: Float>(groups: &[Group<X, W>], bias: Option<&[Y]>, y: &mut [Y]) {
    let Some(Group { x, w, .. }) = groups.first() else { return };
    let (inner, width) = (x.columns, w.columns);
    let of_one_size = |group: &Group<X, W>| (group.x.columns, group.w.rows, group.w.columns) == (inner, inner, width);
    assert!(groups.iter().all(of_one_size), "sizes of a product differ");
    assert_eq!(y.len(), groups.iter().map(|group| group.x.rows).sum::<usize>() * width, "a result has another size");
    if inner <= INNER {
        return one_pass(groups, 0..inner, bias, Into::Overwrite, y);
    }
    let mut sums = vec![0f32; y.len()];
    for start in (0..inner).step_by(INNER) {
        one_pass::<X, W, f32>(groups, start..(start + INNER).min(inner), None, Into::Add, &mut sums);
    }
    let bias = bias.map(crate::float::widened);
    for (sums, y) in sums.chunks_exact_mut(width.max(1)).zip(y.chunks_exact_mut(width.max(1))) {
        if let Some(bias) = &bias {
            sums.iter_mut().zip(&**bias).for_each(|(sum, bias)| *sum += bias);
        }
        Y::round_slice(sums, y);
    }
}

/// The rows of a group that a job has at a time, laid in panels.
struct Part<'a, W> {
    panels: Panels,
    w: Matrix<'a, W>,
    row: usize,
}

/// The products over a part of the inner size.
fn one_pass<X: Float, W: Float, Y: Float>(
    groups: &[Group<X, W>],
    inner: Range<usize>,
    bias: Option<&[Y]>,
    into: Into,
    y: &mut [Y],
) {
    let width = groups[0].w.columns;
    let to = Columns { pointer: y.as_mut_ptr(), width };
    let of_group = |group| {
        let Group { x, .. }: &Group<X, W> = group;
        (0..x.rows).step_by(ROWS).map(move |start| (group, start..(start + ROWS).min(x.rows)))
    };
    let mut waiting = groups.iter().flat_map(of_group).peekable();
    while waiting.peek().is_some() {
        let (mut rows, mut parts) = (0, Vec::new());
        let fits = |rows: usize| rows * inner.len() <= JOB;
        while let Some((group, range)) = waiting.next_if(|(_, range)| rows == 0 || fits(rows + range.len())) {
            rows += range.len();
            let w = group.w.part(inner.clone(), 0..width);
            let (row, x) = (group.row + range.start, group.x.part(range, inner.clone()));
            parts.push(Part { row, panels: Panels::of(x, w.down == 1), w });
        }
        let columns = match parts.len() {
            1 => pieces(width, COLUMNS, threads()),
            many => {
                let size = width.div_ceil((TASKS * threads()).div_ceil(many)).next_multiple_of(COLUMNS);
                (0..width).step_by(size).map(|start| start..(start + size).min(width)).collect()
            }
        };
        let task = |task: usize| Some((parts.get(task / columns.len())?, columns[task % columns.len()].clone()));
        share(parts.len() * columns.len(), |number| {
            let Some((part, range)) = task(number) else { return };
            let mut scratch = Scratch::default();
            let block = |from: usize, end: usize| from..(from + COLUMNS).min(end);
            for start in range.clone().step_by(COLUMNS) {
                let columns = block(start, range.end);
                let next = match columns.end < range.end {
                    true => Some((part, block(columns.end, range.end))),
                    // What this thread is likely to come to when each has done a task.
                    false => task(number + threads()).map(|(part, range)| (part, block(range.start, range.end))),
                };
                let next = next.map(|(part, columns)| part.w.part(0..DEPTH.min(part.panels.inner), columns));
                part.columns(columns.clone(), next, &mut scratch, |row, sums| {
                    // SAFETY: the result is borrowed for this call, and tasks differ in their rows or their columns.
                    let y = unsafe { to.part(part.row + row, columns.start, columns.len()) };
                    finish(sums, bias.map(|bias| &bias[columns.clone()]), into, y);
                });
            }
        });
    }
}

/// Rounds sums of neighbouring columns, with the bias and what is there already, to their place.
fn finish<Y: Float>(sums: &mut [f32], bias: Option<&[Y]>, into: Into, y: &mut [Y]) {
    if let Some(bias) = bias {
        sums.iter_mut().zip(bias).for_each(|(sum, bias)| *sum += bias.widen());
    }
    if into == Into::Add {
        sums.iter_mut().zip(&*y).for_each(|(sum, y)| *sum += y.widen());
    }
    Y::round_slice(sums, y);
}

/// What a task writes anew for each of its columns.
#[derive(Default)]
struct Scratch {
    wide: Vec<f32>,
    /// Of each panel a column after the other.
    sums: Lines,
    /// Of the rows that are in none, row by row.
    rest: Lines,
}

impl<W: Float> Part<'_, W> {
    /// The sums of at most [`COLUMNS`] columns, row by row; `next` is what is widened after them.
    fn columns(
        &self,
        columns: Range<usize>,
        next: Option<Matrix<W>>,
        scratch: &mut Scratch,
        mut row: impl FnMut(usize, &mut [f32]),
    ) {
        let (panels, count) = (&self.panels, columns.len());
        let Scratch { wide, sums: to, rest } = scratch;
        let to = to.zeros(panels.height() * count);
        let rest = rest.zeros(panels.rest.len() / panels.inner.max(1) * count);
        let depth = |start: usize| start..(start + DEPTH).min(panels.inner);
        for start in (0..panels.inner).step_by(DEPTH) {
            let depth_of = depth(start);
            let w = widened(self.w.part(depth_of.clone(), columns.clone()), wide);
            let mut ahead = match depth_of.end < panels.inner {
                true => Ahead::of(self.w.part(depth(depth_of.end), columns.clone())),
                false => next.map_or_else(Ahead::none, Ahead::of),
            };
            let mut to = &mut to[..];
            for panel in panels.each(depth_of.clone()) {
                let (of_panel, others) = to.split_at_mut(panel.height * count);
                sums(Form::fastest())(panel, w, of_panel, &mut ahead);
                to = others;
            }
            panels.add_rest(depth_of, w, rest);
        }
        let mut line = [0f32; COLUMNS];
        let line = &mut line[..count];
        for (index, to) in panels.lines(to, count) {
            line.iter_mut().zip(to).for_each(|(sum, to)| *sum = *to);
            row(index, line);
        }
        for (index, rest) in rest.chunks_exact_mut(count).enumerate() {
            row(panels.rows + index, rest);
        }
    }
}

/// Numbers from the start of a cache line on: registers of the widest form are as long, and one that lies in two lines is read twice.
#[derive(Default)]
struct Lines(Vec<f32>);

impl Lines {
    fn zeros(&mut self, count: usize) -> &mut [f32] {
        self.0.clear();
        self.0.resize(count + SIDE, 0.0);
        let start = self.start();
        &mut self.0[start..start + count]
    }

    fn start(&self) -> usize {
        self.0.as_ptr().align_offset(SIDE * size_of::<f32>()).min(SIDE)
    }
}

/// A part of the right operand in `f32`, in the order in which it lies.
fn widened<'a, W: Float>(w: Matrix<W>, wide: &'a mut Vec<f32>) -> Matrix<'a> {
    let turned = w.down == 1;
    let w = if turned { w.t() } else { w };
    let apart = w.columns + GAP;
    wide.resize(w.rows * apart, 0.0);
    widen_rows(w, wide, apart);
    let wide = Matrix::new(wide, (w.rows, w.columns), (apart, 1));
    if turned { wide.t() } else { wide }
}

/// A matrix row by row, `apart` from one to the next.
fn widen_rows<W: Float>(w: Matrix<W>, wide: &mut [f32], apart: usize) {
    for (row, wide) in wide.chunks_mut(apart.max(1)).enumerate() {
        let (start, wide) = (row * w.down, &mut wide[..w.columns]);
        if w.across == 1 {
            W::widen_slice(&w.data[start..start + w.columns], wide);
        } else {
            wide.iter_mut().enumerate().for_each(|(column, wide)| *wide = w.data[start + column * w.across].widen());
        }
    }
}

/// Rows laid side by side, in panels of [`PANEL`] and a smaller one; rows that fill up the last are zero.
struct Panels {
    data: Lines,
    /// Rows in panels.
    rows: usize,
    inner: usize,
    /// Rows that are in none, as they lie in memory.
    rest: Vec<f32>,
}

impl Panels {
    /// Elements of the inner size of one task.
    const TASK: usize = 64;

    /// All rows in panels, or few of them in none.
    fn of<X: Float>(x: Matrix<X>, few_in_none: bool) -> Self {
        let inner = x.columns;
        let few = Some(x.rows % SIDE).filter(|few| few_in_none && inner > 0 && *few <= REST).unwrap_or(0);
        let rows = x.rows - few;
        let mut rest = vec![0f32; few * inner];
        widen_rows(x.narrow(rows, few), &mut rest, inner);
        let mut data = Lines::default();
        let tasks: Vec<_> = data
            .zeros(rows.next_multiple_of(SIDE) * inner)
            .chunks_mut((PANEL * inner).max(1))
            .enumerate()
            .flat_map(|(panel, data)| {
                let height = data.len() / inner;
                let of_task = move |(task, data)| (panel * PANEL, height, task * Self::TASK, data);
                data.chunks_mut(height * Self::TASK).enumerate().map(of_task)
            })
            .map(|task| Mutex::new(Some(task)))
            .collect();
        share(tasks.len(), |task| {
            let task = tasks[task].lock().unwrap_or_else(PoisonError::into_inner).take();
            if let Some((row, height, start, data)) = task {
                let x = x.part(row..rows.min(row + height), start..start + data.len() / height);
                lay(x, height, data);
            }
        });
        drop(tasks);
        Self { data, rows, inner, rest }
    }

    /// Rows of all panels together.
    fn height(&self) -> usize {
        self.rows.next_multiple_of(SIDE)
    }

    /// A part of the inner size of each panel.
    fn each(&self, inner: Range<usize>) -> impl Iterator<Item = Panel<'_>> {
        let data = &self.data.0[self.data.start()..][..self.height() * self.inner];
        data.chunks((PANEL * self.inner).max(1)).map(move |data| {
            let height = data.len() / self.inner;
            Panel { data: &data[inner.start * height..inner.end * height], height }
        })
    }

    /// Adds the products of the rows that are in no panel.
    fn add_rest(&self, inner: Range<usize>, w: Matrix, sums: &mut [f32]) {
        let few = self.rest.len() / self.inner.max(1);
        if few == 0 {
            return;
        }
        let x = Rows::strided(&self.rest[inner.start..], few, inner.len(), self.inner);
        let count = w.columns;
        f32::dots(Form::fastest())(
            x,
            Rows::strided(w.data, count, inner.len(), w.across),
            &mut |column, columns, of| {
                for (sums, of) in sums.chunks_exact_mut(count).zip(of.chunks_exact(columns)) {
                    sums[column..].iter_mut().zip(of).for_each(|(sum, of)| *sum += of);
                }
            },
        );
    }

    /// Number and sums of each row in a panel, of sums that lie as the kernel leaves them.
    fn lines<'a>(
        &self,
        sums: &'a [f32],
        columns: usize,
    ) -> impl Iterator<Item = (usize, impl Iterator<Item = &'a f32>)> {
        let height = self.height();
        (0..self.rows).map(move |row| {
            let panel = row - row % PANEL;
            let down = PANEL.min(height - panel);
            (row, sums[panel * columns + row - panel..].iter().step_by(down))
        })
    }
}

/// The columns of `x` one after the other, `height` apart.
fn lay<X: Float>(x: Matrix<X>, height: usize, data: &mut [f32]) {
    if x.down == 1 {
        let column =
            |(k, data): (usize, &mut [f32])| X::widen_slice(&x.data[k * x.across..][..x.rows], &mut data[..x.rows]);
        return data.chunks_exact_mut(height).enumerate().for_each(column);
    }
    let mut wide = vec![0f32; x.columns];
    for row in 0..x.rows {
        widen_rows(x.narrow(row, 1), &mut wide, x.columns);
        wide.iter().enumerate().for_each(|(k, value)| data[k * height + row] = *value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use half::{bf16, f16};

    /// Small whole numbers, whose sums of products are exact in any order.
    fn values<T: Float>(count: usize, salt: usize) -> Vec<T> {
        (0..count).map(|i| T::round(((i * 31 + salt * 7) % 11) as f32 - 5.0)).collect()
    }

    fn check<X: Float, W: Float, Y: Float>((rows, inner, columns): (usize, usize, usize), turned: (bool, bool)) {
        let (x, w) = (values::<X>(rows * inner, 1), values::<W>(inner * columns, 2));
        let left = if turned.0 { Matrix::rows(&x, inner, rows).t() } else { Matrix::rows(&x, rows, inner) };
        let right = if turned.1 { Matrix::rows(&w, columns, inner).t() } else { Matrix::rows(&w, inner, columns) };
        let mut y = vec![Y::round(f32::NAN); rows * columns];
        multiply_wide(left, right, &mut y);
        for (at, got) in y.iter().enumerate() {
            let (row, column) = (at / columns, at % columns);
            let of_x = |k: usize| x[if turned.0 { k * rows + row } else { row * inner + k }].widen();
            let of_w = |k: usize| w[if turned.1 { column * inner + k } else { k * columns + column }].widen();
            let wanted: f32 = (0..inner).map(|k| of_x(k) * of_w(k)).sum();
            assert_eq!(got.widen(), Y::round(wanted).widen(), "{rows}x{inner}x{columns}, turned {turned:?}, at {at}");
        }
    }

    #[test]
    fn products_are_those_of_plain_loops() {
        for size in [(1, 1, 1), (70, 33, 130), (130, 700, 50), (16, 65, 48), (33, 0, 3), (1030, 20, 5), (3, 8200, 7)] {
            for turned in [(false, false), (false, true), (true, false), (true, true)] {
                check::<bf16, bf16, bf16>(size, turned);
                check::<f32, f16, f32>(size, turned);
            }
        }
    }

    #[test]
    fn groups_have_their_own_weights_and_rows() {
        let (sizes, inner, width) = ([3usize, 0, 1100, 17], 40, 100);
        let total: usize = sizes.iter().sum();
        let (x, w) = (values::<bf16>(total * inner, 3), values::<bf16>(sizes.len() * inner * width, 4));
        let bias: Vec<bf16> = values(width, 5);
        let mut row = 0;
        let groups: Vec<_> = sizes
            .iter()
            .enumerate()
            .map(|(index, &size)| {
                let group = Group {
                    x: Matrix::rows(&x[row * inner..], size, inner),
                    w: Matrix::rows(&w[index * inner * width..], width, inner).t(),
                    row,
                };
                row += size;
                group
            })
            .collect();
        let mut y = vec![bf16::NAN; total * width];
        multiply_groups(&groups, Some(&bias), &mut y);
        for (row, y) in y.chunks(width).enumerate() {
            let index = (0..sizes.len()).find(|&index| row < sizes[..=index].iter().sum()).expect("a group");
            for (column, got) in y.iter().enumerate() {
                let w = &w[(index * width + column) * inner..][..inner];
                let sum: f32 = x[row * inner..][..inner].iter().zip(w).map(|(x, w)| x.widen() * w.widen()).sum();
                assert_eq!(*got, bf16::round(sum + bias[column].widen()), "row {row}, column {column}");
            }
        }
    }
}
