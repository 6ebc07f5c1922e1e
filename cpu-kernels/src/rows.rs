//! A matrix whose rows lie in memory one after the other.

use crate::Matrix;

/// `count` rows of `width` elements, row `i` starting `i * stride` elements into the data.
#[derive(Clone, Copy, Debug)]
pub struct Rows<'a, T> {
    data: &'a [T],
    pub(crate) count: usize,
    pub(crate) width: usize,
    pub(crate) stride: usize,
}

impl<'a, T> Rows<'a, T> {
    /// A matrix without gaps. Panics where `data` has fewer elements.
    pub fn new(data: &'a [T], count: usize, width: usize) -> Self {
        Self::strided(data, count, width, width)
    }

    /// A matrix whose rows start `stride` elements apart. Panics where a row reaches outside `data`.
    pub fn strided(data: &'a [T], count: usize, width: usize, stride: usize) -> Self {
        let reach = if count == 0 || width == 0 { 0 } else { (count - 1) * stride + width };
        assert!(reach <= data.len(), "{count} rows of {width}, {stride} apart, need {reach} elements: {}", data.len());
        Self { data, count, width, stride }
    }

    pub(crate) fn row(&self, index: usize) -> &'a [T] {
        assert!(index < self.count);
        &self.data[index * self.stride..][..self.width]
    }

    /// `count` rows from `first` on.
    pub(crate) fn narrow(&self, first: usize, count: usize) -> Self {
        let start = if count == 0 { 0 } else { first * self.stride };
        Self::strided(&self.data[start..], count, self.width, self.stride)
    }

    /// `count` rows, every `step`th from `first` on.
    #[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
    pub(crate) fn every(&self, first: usize, step: usize, count: usize) -> Self {
        assert!(count > 0 && first + (count - 1) * step < self.count);
        Self::strided(&self.data[first * self.stride..], count, self.width, step * self.stride)
    }

    /// `width` columns from `first` on.
    pub(crate) fn columns(&self, first: usize, width: usize) -> Self {
        let start = if self.count == 0 || width == 0 { 0 } else { first };
        Self::strided(&self.data[start..], self.count, width, self.stride)
    }

    pub(crate) fn pointer(&self) -> *const T {
        self.data.as_ptr()
    }

    /// The same rows over what `convert` makes of the data; it must keep its length.
    pub(crate) fn over<'b, U>(&self, data: &'b [U]) -> Rows<'b, U> {
        Rows::strided(data, self.count, self.width, self.stride)
    }

    pub(crate) fn data(&self) -> &'a [T] {
        self.data
    }
}

impl<'a, T: Copy> Rows<'a, T> {
    pub(crate) fn matrix(&self) -> Matrix<'a, T> {
        Matrix::new(self.data, (self.count, self.width), (self.stride, 1))
    }
}
