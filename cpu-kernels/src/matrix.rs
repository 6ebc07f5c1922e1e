//! A matrix of any strides.

use std::ops::Range;

/// A matrix as it lies in memory: element `(i, j)` is at `i * down + j * across`.
#[derive(Clone, Copy, Debug)]
pub struct Matrix<'a, T = f32> {
    pub(crate) data: &'a [T],
    pub(crate) rows: usize,
    pub(crate) columns: usize,
    pub(crate) down: usize,
    pub(crate) across: usize,
}

impl<'a, T: Copy> Matrix<'a, T> {
    /// Panics where an element lies outside `data`.
    pub fn new(data: &'a [T], (rows, columns): (usize, usize), (down, across): (usize, usize)) -> Self {
        let reach = if rows == 0 || columns == 0 { 0 } else { (rows - 1) * down + (columns - 1) * across + 1 };
        assert!(reach <= data.len(), "{rows} by {columns}, {down} and {across} apart, need {reach}: {}", data.len());
        Self { data, rows, columns, down, across }
    }

    /// Without gaps, row by row.
    pub fn rows(data: &'a [T], rows: usize, columns: usize) -> Self {
        Self::new(data, (rows, columns), (columns, 1))
    }

    /// The transpose, which moves nothing.
    pub fn t(self) -> Self {
        Self { rows: self.columns, columns: self.rows, down: self.across, across: self.down, ..self }
    }

    /// `count` rows from `first` on.
    pub(crate) fn narrow(self, first: usize, count: usize) -> Self {
        let start = if count == 0 || self.columns == 0 { 0 } else { first * self.down };
        Self::new(&self.data[start..], (count, self.columns), (self.down, self.across))
    }

    /// The rows and columns in those ranges.
    pub(crate) fn part(self, rows: Range<usize>, columns: Range<usize>) -> Self {
        self.narrow(rows.start, rows.len()).t().narrow(columns.start, columns.len()).t()
    }
}
