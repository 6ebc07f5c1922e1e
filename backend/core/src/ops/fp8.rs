//! Matrices of FP8 numbers with a scale for each block, as DeepSeek-V3's checkpoints hold them (arXiv 2412.19437, section 3.3).
//!
//! No device here multiplies them, and the Ascend 910B has no unit that could: they are widened as they are loaded.

use super::cpu::Real;
use crate::{DType, Result, Tensor, bail};
use float8::F8E4M3;
use half::{bf16, f16};
use npu_cpu_kernels::share_chunks;

/// Elements that are worth a task of their own.
const TASK: usize = 1 << 14;

/// A matrix as a file holds it.
pub struct ScaledBlocks<'a> {
    /// E4M3 without infinities, row-major.
    pub numbers: &'a [u8],
    pub rows: usize,
    pub columns: usize,
    /// Rows and columns of a block; the last ones may be cut.
    pub block: [usize; 2],
    /// What the numbers of each block are multiplied by, blocks side by side first.
    pub scales: &'a [f32],
}

impl ScaledBlocks<'_> {
    /// How many blocks lie one below the other, and side by side.
    pub fn grid(rows: usize, columns: usize, block: [usize; 2]) -> [usize; 2] {
        [rows.div_ceil(block[0]), columns.div_ceil(block[1])]
    }

    /// Writes the numbers into `room` `[…, columns]` from row `offset` on: multiplied in F32, rounded once to the type of `room`. No
    /// more than a row of blocks is held in between.
    pub fn widen_into(&self, room: &Tensor, offset: usize) -> Result<()> {
        let [down, across] = Self::grid(self.rows, self.columns, self.block);
        if self.numbers.len() != self.rows * self.columns || self.scales.len() != down * across {
            bail!(
                "widen: {} numbers and {} scales for {} x {} in blocks of {:?}",
                self.numbers.len(),
                self.scales.len(),
                self.rows,
                self.columns,
                self.block
            )
        }
        match room.dtype() {
            DType::F32 => self.widen::<f32>(room, offset),
            DType::BF16 => self.widen::<bf16>(room, offset),
            DType::F16 => self.widen::<f16>(room, offset),
            other => bail!("widen: FP8 numbers become f32, bf16 or f16 here, not {}", other.as_str()),
        }
    }

    fn widen<T: Real>(&self, room: &Tensor, offset: usize) -> Result<()> {
        let values: [f32; 256] = std::array::from_fn(|bits| F8E4M3::from_bits(bits as u8).to_f32());
        let (columns, [height, width]) = (self.columns, self.block);
        if self.numbers.is_empty() {
            return Ok(());
        }
        let of_row = columns.div_ceil(width);
        for (band, numbers) in self.numbers.chunks(height * columns).enumerate() {
            let scales = &self.scales[band * of_row..][..of_row];
            let mut wide = vec![T::zero(); numbers.len()];
            let rows = TASK.div_ceil(columns);
            share_chunks(&mut wide, rows * columns, |task, wide| {
                let mut line = vec![0f32; columns];
                let numbers = numbers[task * rows * columns..].chunks_exact(columns);
                for (wide, numbers) in wide.chunks_exact_mut(columns).zip(numbers) {
                    for ((line, numbers), scale) in line.chunks_mut(width).zip(numbers.chunks(width)).zip(scales) {
                        line.iter_mut().zip(numbers).for_each(|(wide, bits)| *wide = values[*bits as usize] * scale);
                    }
                    T::round_slice(&line, wide);
                }
            });
            let part = Tensor::from_vec(wide, (numbers.len() / columns, columns), room.device())?;
            room.slice_set(&part, 0, offset + band * height)?;
        }
        Ok(())
    }
}
