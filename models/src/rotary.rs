//! Rotary tables that grow with the positions asked for.

use crate::Config;
use crate::rope::Rope;
use anyhow::Result;
use candle_ascend::{DType, Device, Tensor};
use std::sync::{Mutex, PoisonError};

/// Rows are computed for at least this many positions: a context of 131,072 would cost two tenths of a second and 128 MiB.
const LEAST: usize = 1024;

/// Cosines and sines of one model, on its device.
pub struct RotaryTables {
    rope: Rope,
    head_dim: usize,
    dtype: DType,
    device: Device,
    tables: Mutex<Option<(Tensor, Tensor)>>,
}

impl RotaryTables {
    pub fn new(config: &Config, dtype: DType, device: &Device) -> Self {
        let tables = Mutex::new(None);
        Self { rope: config.rope.clone(), head_dim: config.head_dim, dtype, device: device.clone(), tables }
    }

    /// Cosines and sines of the positions from `start`, `[count, head_dim]` each, both halves of a row alike.
    pub fn rows(&self, start: usize, count: usize) -> Result<(Tensor, Tensor)> {
        let mut tables = self.tables.lock().unwrap_or_else(PoisonError::into_inner);
        let held = match &*tables {
            Some((cos, _)) => cos.dim(0)?,
            None => 0,
        };
        let wanted = start + count;
        if wanted > held {
            let positions = wanted.next_power_of_two().max(LEAST);
            *tables = Some(self.rope.tables(self.head_dim, positions, self.dtype, &self.device)?);
        }
        let Some((cos, sin)) = &*tables else { unreachable!("the tables were computed above") };
        Ok((cos.narrow(0, start, count)?, sin.narrow(0, start, count)?))
    }
}
