//! The layout that the kernels read: tiles of 16 rows.
//!
//! A vector register takes four columns of each of 16 rows, so that a product needs no sum across a register and the
//! weights of a tile are one stream of memory. It holds what the stored format holds, integers as narrow as they were, and is
//! at most three hundredths larger (the six-bit scales of Q4_K and Q5_K become bytes).

use super::format::{Format, GROUP, Scaling};
use half::f16;
use rayon::prelude::*;

/// Rows of a tile.
pub const ROWS: usize = 16;

/// 64 bytes: a word of four columns for each row of a tile.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C, align(64))]
pub struct Line(pub [u32; ROWS]);

/// Rows of one format, in tiles.
///
/// A group is `bits` lines. Of eight bits, line `j` holds columns `4j..4j+4`. Of fewer, line `j` of the first four holds columns
/// `4j..` in the low halves of its bytes and columns `16 + 4j..` in the high ones; the fifth bits of all are one more line, bit
/// `j` of a byte for columns `4j..`; two further bits are two lines of four such pairs each.
pub struct Part {
    pub format: Format,
    pub rows: usize,
    /// Groups of a row.
    pub groups: usize,
    lines: Vec<Line>,
    /// For each tile and block: `d` of 16 rows and then what else the rule has, F16 and bytes.
    scales: Vec<u8>,
}

impl Part {
    /// Packs rows of `columns` columns as stored in `bytes`; row `i` of the part is row `order(i)` of the bytes.
    pub fn pack(format: Format, columns: usize, bytes: &[u8], order: &(dyn Fn(usize) -> usize + Sync)) -> Self {
        let blocks = columns / format.block();
        let row_bytes = blocks * format.bytes();
        let rows = bytes.len() / row_bytes;
        let (tiles, groups) = (rows.div_ceil(ROWS), columns / GROUP);
        let tile_lines = groups * format.bits();
        let tile_scales = blocks * record(format);
        let mut lines = vec![Line::default(); tiles * tile_lines];
        let mut scales = vec![0u8; tiles * tile_scales];
        lines.par_chunks_mut(tile_lines).zip(scales.par_chunks_mut(tile_scales)).enumerate().for_each(
            |(tile, (lines, scales))| {
                for row in 0..ROWS.min(rows - tile * ROWS) {
                    let stored = order(tile * ROWS + row) * row_bytes;
                    for (index, block) in bytes[stored..stored + row_bytes].chunks(format.bytes()).enumerate() {
                        let lines = &mut lines[index * format.groups() * format.bits()..];
                        for (group, lines) in lines.chunks_mut(format.bits()).take(format.groups()).enumerate() {
                            put_words(format, lines, row, &format.integers(block, group));
                        }
                        put_scales(format, &mut scales[index * record(format)..], row, block);
                    }
                }
            },
        );
        Self { format, rows, groups, lines, scales }
    }

    pub fn tiles(&self) -> usize {
        self.rows.div_ceil(ROWS)
    }

    /// Bytes held.
    pub fn bytes(&self) -> usize {
        size_of_val(&self.lines[..]) + self.scales.len()
    }

    /// The lines of a tile: `groups` times `bits`.
    #[inline]
    pub fn lines(&self, tile: usize) -> &[Line] {
        let lines = self.groups * self.format.bits();
        &self.lines[tile * lines..(tile + 1) * lines]
    }

    /// The scales of a tile: a record a block.
    #[inline]
    pub fn scales(&self, tile: usize) -> &[u8] {
        let bytes = self.groups / self.format.groups() * record(self.format);
        &self.scales[tile * bytes..(tile + 1) * bytes]
    }

    /// The numbers of one row.
    pub fn row(&self, row: usize, out: &mut [f32]) {
        let (tile, row) = (row / ROWS, row % ROWS);
        let lines = self.lines(tile).chunks(self.format.bits());
        for (group, (out, lines)) in out.chunks_mut(GROUP).zip(lines).enumerate() {
            let scale = Scale::read(self.format, self.scales(tile), group, row);
            let integers = words(self.format, lines, row).map(u32::to_le_bytes);
            for (i, (out, q)) in out.iter_mut().zip(integers.as_flattened()).enumerate() {
                let factor = if i < GROUP / 2 { scale.first } else { scale.second };
                *out = (i32::from(*q) - self.format.zero()) as f32 * factor + scale.min;
            }
        }
    }
}

/// Bytes of the scales of one block of a tile.
pub const fn record(format: Format) -> usize {
    match format.scaling() {
        Scaling::Scale => 2 * ROWS,
        Scaling::ScaleMin => 4 * ROWS,
        Scaling::SuperScaleMin => 4 * ROWS + 2 * ROWS * format.groups(),
        Scaling::SuperScale => 2 * ROWS + 2 * ROWS * format.groups(),
    }
}

/// Where in a record the small integers of a K-format's group begin: 16 of the first kind, then 16 of the second.
pub const fn small_at(format: Format, group: usize) -> usize {
    let halves = if matches!(format.scaling(), Scaling::SuperScaleMin) { 2 } else { 1 };
    2 * ROWS * halves + 2 * ROWS * group
}

fn put_words(format: Format, lines: &mut [Line], row: usize, integers: &[u8; GROUP]) {
    let words: [u32; 8] = std::array::from_fn(|j| {
        u32::from_le_bytes([integers[4 * j], integers[4 * j + 1], integers[4 * j + 2], integers[4 * j + 3]])
    });
    if format.bits() == 8 {
        return lines.iter_mut().zip(words).for_each(|(line, word)| line.0[row] = word);
    }
    for j in 0..4 {
        lines[j].0[row] = words[j] & 0x0f0f_0f0f | (words[j + 4] & 0x0f0f_0f0f) << 4;
    }
    for (j, word) in words.iter().enumerate() {
        match format.bits() {
            5 => lines[4].0[row] |= (word >> 4 & 0x0101_0101) << j,
            6 => lines[4 + j / 4].0[row] |= (word >> 4 & 0x0303_0303) << (2 * (j % 4)),
            _ => {}
        }
    }
}

/// The integers of a row's group, four columns a word: what [`put_words`] took.
pub fn words(format: Format, lines: &[Line], row: usize) -> [u32; 8] {
    std::array::from_fn(|j| match format.bits() {
        8 => lines[j].0[row],
        bits => {
            let low = lines[j % 4].0[row] >> (j / 4 * 4) & 0x0f0f_0f0f;
            match bits {
                5 => low | (lines[4].0[row] >> j & 0x0101_0101) << 4,
                6 => low | (lines[4 + j / 4].0[row] >> (2 * (j % 4)) & 0x0303_0303) << 4,
                _ => low,
            }
        }
    })
}

fn put_scales(format: Format, record: &mut [u8], row: usize, block: &[u8]) {
    let (scale, min) = format.scales(block);
    let mut put = |at: usize, half: u16| record[at..at + 2].copy_from_slice(&half.to_le_bytes());
    put(2 * row, scale);
    if matches!(format.scaling(), Scaling::ScaleMin | Scaling::SuperScaleMin) {
        put(2 * (ROWS + row), min);
    }
    if matches!(format.scaling(), Scaling::SuperScaleMin | Scaling::SuperScale) {
        for group in 0..format.groups() {
            let at = small_at(format, group) + row;
            (record[at], record[at + ROWS]) = format.small(block, group);
        }
    }
}

/// The rule of one group of one row, with its factors multiplied out: `first·(q − zero) + min` for its first 16 columns,
/// `second` for the others.
pub struct Scale {
    pub first: f32,
    pub second: f32,
    pub min: f32,
}

impl Scale {
    #[inline]
    pub fn read(format: Format, scales: &[u8], group: usize, row: usize) -> Self {
        let record = &scales[group / format.groups() * record(format)..][..record(format)];
        let half = |at: usize| f16::from_le_bytes([record[at], record[at + 1]]).to_f32();
        let (d, small) = (half(2 * row), small_at(format, group % format.groups()) + row);
        match format.scaling() {
            Scaling::Scale => Self { first: d, second: d, min: 0.0 },
            Scaling::ScaleMin => Self { first: d, second: d, min: half(2 * (ROWS + row)) },
            Scaling::SuperScaleMin => {
                let factor = d * f32::from(record[small]);
                Self { first: factor, second: factor, min: -half(2 * (ROWS + row)) * f32::from(record[small + ROWS]) }
            }
            Scaling::SuperScale => {
                let [first, second] = [record[small], record[small + ROWS]].map(|s| d * f32::from(s as i8));
                Self { first, second, min: 0.0 }
            }
        }
    }
}
