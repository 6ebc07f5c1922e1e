//! Memory that is wanted soon.

use crate::Matrix;

/// Bytes that come at once.
const LINE: usize = 64;

/// The elements of a matrix, to be asked for a line at a time while something else is computed: what is fetched ahead by the
/// processor alone ends with each page, and a core that waits for memory computes nothing.
pub(crate) struct Ahead {
    /// The next line.
    at: *const u8,
    /// Lines of this run, and runs after it.
    lines: usize,
    runs: usize,
    lines_a_run: usize,
    /// Bytes from one run to the next.
    apart: usize,
}

impl Ahead {
    pub fn none() -> Self {
        Self { at: std::ptr::null(), lines: 0, runs: 0, lines_a_run: 0, apart: 0 }
    }

    /// All of a matrix one of whose sides lies without gaps; nothing of another.
    pub fn of<T: Copy>(matrix: Matrix<T>) -> Self {
        let matrix = if matrix.across == 1 { matrix } else { matrix.t() };
        if matrix.across != 1 || matrix.rows == 0 || matrix.columns == 0 {
            return Self::none();
        }
        let lines = (matrix.columns * size_of::<T>()).div_ceil(LINE);
        let at = matrix.data.as_ptr().cast();
        Self { at, lines, runs: matrix.rows - 1, lines_a_run: lines, apart: matrix.down * size_of::<T>() }
    }

    /// Asks for the next line, if there is one.
    #[inline(always)]
    pub fn next(&mut self) {
        if self.lines == 0 {
            return;
        }
        ask(self.at);
        self.lines -= 1;
        self.at = self.at.wrapping_add(LINE);
        if self.lines == 0 && self.runs > 0 {
            self.at = self.at.wrapping_add(self.apart).wrapping_sub(self.lines_a_run * LINE);
            (self.lines, self.runs) = (self.lines_a_run, self.runs - 1);
        }
    }
}

/// Has a line brought to the second-level cache.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
fn ask(at: *const u8) {
    use std::arch::x86_64::{_MM_HINT_T1, _mm_prefetch};
    // SAFETY: every x86-64 processor has the instruction, which reads nothing and faults nowhere.
    unsafe { _mm_prefetch::<_MM_HINT_T1>(at.cast()) }
}

/// Rust names no such instruction here.
#[cfg(not(target_arch = "x86_64"))]
#[inline(always)]
fn ask(_: *const u8) {}

#[cfg(test)]
mod tests {
    use super::*;

    /// Offsets in bytes of the lines that are asked for.
    fn asked(data: &[u16], matrix: Matrix<u16>) -> Vec<usize> {
        let mut ahead = Ahead::of(matrix);
        let mut all = Vec::new();
        while ahead.lines > 0 {
            all.push(ahead.at as usize - data.as_ptr() as usize);
            ahead.next();
        }
        all
    }

    #[test]
    fn each_line_of_each_run_is_asked_for_once() {
        let data = [0u16; 500];
        // Three runs of 70 elements, 140 bytes, 100 elements apart.
        let matrix = Matrix::new(&data, (3, 70), (100, 1));
        let wanted = [0, 64, 128, 200, 264, 328, 400, 464, 528];
        assert_eq!(asked(&data, matrix), wanted);
        assert_eq!(asked(&data, matrix.t()), wanted);
        assert!(asked(&data, Matrix::new(&data, (3, 5), (100, 2))).is_empty());
        assert!(asked(&data, Matrix::new(&data, (0, 70), (100, 1))).is_empty());
    }
}
