//! Products with weights in ggml's block formats, which GGUF files hold: `y = x·Wᵀ`.
//!
//! Generating a token reads every weight once, so the product of one row is bound by the memory that the weights take; they
//! stay as narrow as they are stored. [`Matrix`] keeps them in tiles of 16 rows, and the input is rounded to eight bits for 32
//! columns at a time, so that the inner sums are integers.

mod activations;
#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod format;
mod plain;
mod tiles;
#[cfg(target_arch = "x86_64")]
mod vector;

pub use format::{Format, Scaling};

use activations::Activations;
use plain::Layout;
use std::fmt;
use std::sync::OnceLock;
use tiles::{Part, ROWS};

/// Input rows that one pass over a tile serves.
const MANY: usize = 4;
/// Tasks a thread, of a product: enough that a thread which is held up does not hold up the others for long.
const TASKS: usize = 4;

/// Why rows were not taken.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{columns} columns are not a multiple of {block}, the block of {format:?}")]
    Columns { columns: usize, format: Format, block: usize },
    #[error("{rows} rows of {columns} columns in {format:?} take {wanted} bytes, got {got}")]
    Bytes { rows: usize, columns: usize, format: Format, wanted: usize, got: usize },
}

/// A weight matrix `[rows, columns]` of one or more parts, one below the other, each in its own format.
pub struct Matrix {
    columns: usize,
    rows: usize,
    parts: Vec<Part>,
}

impl fmt::Debug for Matrix {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let formats: Vec<Format> = self.parts.iter().map(|part| part.format).collect();
        write!(f, "Matrix[{}, {}; {formats:?}]", self.rows, self.columns)
    }
}

impl Matrix {
    /// A matrix without rows.
    pub fn new(columns: usize) -> Self {
        Self { columns, rows: 0, parts: Vec::new() }
    }

    /// Adds `rows` rows, stored as ggml does in `bytes`; the i-th is row `order(i)` of the bytes.
    pub fn push(
        &mut self,
        format: Format,
        rows: usize,
        bytes: &[u8],
        order: &(dyn Fn(usize) -> usize + Sync),
    ) -> Result<(), Error> {
        let (columns, block) = (self.columns, format.block());
        if columns == 0 || !columns.is_multiple_of(block) {
            return Err(Error::Columns { columns, format, block });
        }
        let wanted = rows * (columns / block) * format.bytes();
        if bytes.len() != wanted {
            return Err(Error::Bytes { rows, columns, format, wanted, got: bytes.len() });
        }
        if rows > 0 {
            self.parts.push(Part::pack(format, columns, bytes, order));
        }
        self.rows += rows;
        Ok(())
    }

    pub fn rows(&self) -> usize {
        self.rows
    }

    pub fn columns(&self) -> usize {
        self.columns
    }

    /// Bytes that the weights take in memory, which a product of one row reads.
    pub fn bytes(&self) -> usize {
        self.parts.iter().map(Part::bytes).sum()
    }

    /// The numbers of row `row`.
    ///
    /// # Panics
    /// If there is no such row, or `out` is not `columns` long.
    pub fn row(&self, row: usize, out: &mut [f32]) {
        assert!(row < self.rows && out.len() == self.columns, "row {row} of {self:?} into {} numbers", out.len());
        let mut first = 0;
        for part in &self.parts {
            if row < first + part.rows {
                return part.row(row - first, out);
            }
            first += part.rows;
        }
    }

    /// `out = x·Wᵀ` for `x` `[m, columns]` and `out` `[m, rows]`, row-major.
    ///
    /// # Panics
    /// If a length does not fit.
    pub fn multiply(&self, x: &[f32], out: &mut [f32]) {
        self.multiply_by(Form::best(), x, out);
    }

    /// [`Matrix::multiply`] by a form that the machine has; all give the same bits.
    pub fn multiply_by(&self, form: Form, x: &[f32], out: &mut [f32]) {
        assert!(form.is_available(), "{form:?} on a machine that lacks it");
        let m = x.len() / self.columns.max(1);
        assert!(x.len() == m * self.columns && out.len() == m * self.rows, "{self:?}: {} to {}", x.len(), out.len());
        if out.is_empty() {
            return;
        }
        let x = Activations::new(x, self.columns);
        let out = Output { base: out.as_mut_ptr(), width: self.rows };
        // Tiles of all parts in one row of tasks.
        let tiles: usize = self.parts.iter().map(Part::tiles).sum();
        let task = tiles.div_ceil(TASKS * crate::team::threads());
        crate::share(tiles.div_ceil(task), |index| {
            for tile in index * task..tiles.min((index + 1) * task) {
                self.tile(form, tile, &x, &out);
            }
        });
    }

    /// Tile `tile`, counted through all parts, for every row of `x`.
    fn tile(&self, form: Form, mut tile: usize, x: &Activations, out: &Output) {
        let mut column = 0;
        for part in &self.parts {
            if tile < part.tiles() {
                let (column, width) = (column + tile * ROWS, ROWS.min(part.rows - tile * ROWS));
                let mut row = 0;
                while row < x.rows {
                    // SAFETY: `multiply_by` has checked that the machine has the form.
                    row += unsafe {
                        match x.rows - row {
                            MANY.. => out.put(row, column, width, run::<MANY>(form, part, tile, x, row)),
                            _ => out.put(row, column, width, run::<1>(form, part, tile, x, row)),
                        }
                    };
                }
                return;
            }
            (tile, column) = (tile - part.tiles(), column + part.rows);
        }
    }
}

/// Where tasks put their results.
struct Output {
    base: *mut f32,
    width: usize,
}

// SAFETY: tasks write through it only, each its own columns.
unsafe impl Sync for Output {}

impl Output {
    /// Writes the first `width` numbers of each of `M` results to the rows from `row` on, at `column`; gives `M`.
    ///
    /// # Safety
    /// The rows and columns lie within the output, and no other task writes them.
    unsafe fn put<const M: usize>(&self, row: usize, column: usize, width: usize, results: [[f32; ROWS]; M]) -> usize {
        for (m, result) in results.iter().enumerate() {
            // SAFETY: by the contract of this function.
            let place =
                unsafe { std::slice::from_raw_parts_mut(self.base.add((row + m) * self.width + column), width) };
            place.copy_from_slice(&result[..width]);
        }
        M
    }
}

/// The kernels for a machine's instructions. Each has a product; they differ in nothing but speed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    Plain,
    Avx2,
    AvxVnni,
    Avx512Vnni,
}

impl Form {
    /// From the slowest to the fastest.
    pub const ALL: [Self; 4] = [Self::Plain, Self::Avx2, Self::AvxVnni, Self::Avx512Vnni];

    /// The fastest that the machine has.
    pub fn best() -> Self {
        static BEST: OnceLock<Form> = OnceLock::new();
        *BEST.get_or_init(|| Self::ALL.into_iter().rev().find(|form| form.is_available()).unwrap_or(Self::Plain))
    }

    #[cfg(target_arch = "x86_64")]
    pub fn is_available(self) -> bool {
        let avx2 =
            || is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") && is_x86_feature_detected!("f16c");
        match self {
            Self::Plain => true,
            Self::Avx2 => avx2(),
            Self::AvxVnni => avx2() && is_x86_feature_detected!("avxvnni"),
            Self::Avx512Vnni => {
                is_x86_feature_detected!("avx512f")
                    && is_x86_feature_detected!("avx512bw")
                    && is_x86_feature_detected!("avx512vnni")
            }
        }
    }

    #[cfg(not(target_arch = "x86_64"))]
    pub fn is_available(self) -> bool {
        self == Self::Plain
    }
}

/// The kernel for a part's format.
macro_rules! by_format {
    ($format:expr, $($name:ident),*; $call:ident) => { {
        $(
            struct $name;
            impl Layout for $name {
                const FORMAT: Format = Format::$name;
            }
        )*
        match $format {
            $(Format::$name => $call!($name),)*
        }
    } };
}

/// One tile by one form.
///
/// # Safety
/// The machine has the form.
unsafe fn run<const M: usize>(form: Form, part: &Part, tile: usize, x: &Activations, first: usize) -> [[f32; ROWS]; M] {
    macro_rules! call {
        ($layout:ident) => {
            match form {
                // SAFETY: by the contract of this function.
                #[cfg(target_arch = "x86_64")]
                Form::Avx512Vnni => unsafe { avx512::tile::<$layout, M>(part, tile, x, first) },
                // SAFETY: likewise.
                #[cfg(target_arch = "x86_64")]
                Form::AvxVnni => unsafe { avx2::avx_vnni::tile::<$layout, M>(part, tile, x, first) },
                // SAFETY: likewise.
                #[cfg(target_arch = "x86_64")]
                Form::Avx2 => unsafe { avx2::avx2::tile::<$layout, M>(part, tile, x, first) },
                _ => plain::tile::<$layout, M>(part, tile, x, first),
            }
        };
    }
    #[allow(non_camel_case_types)]
    {
        by_format!(part.format, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q4K, Q5K, Q6K; call)
    }
}
