//! Rotary tables that grow with the positions asked for.

use crate::Config;
use crate::rope::Rope;
use anyhow::Result;
use candle_ascend::{DType, Device, Tensor, ops};
use std::sync::{Mutex, PoisonError};

/// Rows are computed for at least this many positions: a context of 131,072 would cost two tenths of a second and 128 MiB.
const LEAST: usize = 1024;

/// Cosines and sines of one model, on its device.
pub struct RotaryTables {
    rope: Rope,
    head_dim: usize,
    dtype: DType,
    device: Device,
    /// Cosines and sines side by side, `[positions, 2 * head_dim]`, so that one lookup finds both.
    table: Mutex<Option<Tensor>>,
}

impl RotaryTables {
    pub fn new(config: &Config, dtype: DType, device: &Device) -> Self {
        let table = Mutex::new(None);
        Self { rope: config.rope.clone(), head_dim: config.head_dim, dtype, device: device.clone(), table }
    }

    /// Cosines and sines of the positions from `start`, `[count, head_dim]` each, both halves of a row alike.
    pub fn rows(&self, start: usize, count: usize) -> Result<(Tensor, Tensor)> {
        self.halves(&self.table(start + count)?.narrow(0, start, count)?)
    }

    /// The same of any positions below `most`, which the device holds: `positions` `[count]`.
    pub fn rows_at(&self, positions: &Tensor, most: usize) -> Result<(Tensor, Tensor)> {
        self.halves(&ops::embedding(&self.table(most)?, positions)?)
    }

    /// The table of at least `positions` positions.
    fn table(&self, positions: usize) -> Result<Tensor> {
        let held = || self.table.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(table) = held().as_ref().filter(|table| table.dims()[0] >= positions) {
            return Ok(table.clone());
        }
        // Made outside of the lock: while a device captures for one thread, what another brings to it has to wait.
        let positions = positions.next_power_of_two().max(LEAST);
        let (cos, sin) = self.rope.tables(self.head_dim, positions, self.dtype, &self.device)?;
        let table = Tensor::cat(&[cos, sin], 1)?;
        Ok(keep_longer(&mut held(), table, 0))
    }

    fn halves(&self, rows: &Tensor) -> Result<(Tensor, Tensor)> {
        Ok((rows.narrow(1, 0, self.head_dim)?, rows.narrow(1, self.head_dim, self.head_dim)?))
    }
}

/// The numbers 0, 1, 2 … as a row that grows, so that no sequence takes it from another that is shorter.
pub struct Places {
    device: Device,
    row: Mutex<Option<Tensor>>,
}

impl Places {
    pub fn new(device: &Device) -> Self {
        Self { device: device.clone(), row: Mutex::new(None) }
    }

    /// `[1, count]`, I64.
    pub fn up_to(&self, count: usize) -> Result<Tensor> {
        let held = || self.row.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(row) = held().as_ref().filter(|row| row.dims()[1] >= count) {
            return Ok(row.narrow(1, 0, count)?);
        }
        let most = count.next_power_of_two().max(LEAST);
        let row = Tensor::arange(0, most as i64, &self.device)?.unsqueeze(0)?;
        Ok(keep_longer(&mut held(), row, 1).narrow(1, 0, count)?)
    }
}

/// Keeps `made` unless another thread has kept a longer one, and answers what is kept.
fn keep_longer(kept: &mut Option<Tensor>, made: Tensor, dim: usize) -> Tensor {
    match kept {
        Some(other) if other.dims()[dim] >= made.dims()[dim] => other.clone(),
        _ => kept.insert(made).clone(),
    }
}
