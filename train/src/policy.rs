//! The model that is trained.

use crate::Batch;
use anyhow::Result;
use candle_ascend::autograd::Checkpoint;
use candle_ascend::{DType, Device, Tensor};
use npu_models::{CausalLm, Parameter, Tuning, load_tuned};
use std::path::{Path, PathBuf};

/// A loaded checkpoint with what of it is trained.
pub struct Policy {
    pub model: Box<dyn CausalLm>,
    /// What the optimizer changes, in the same order on every rank.
    pub parameters: Vec<Parameter>,
    /// Where the checkpoint was loaded from.
    pub base: PathBuf,
    pub dtype: DType,
    pub device: Device,
    /// What is kept of each layer for backward; everything without.
    pub keep: Option<Checkpoint>,
}

impl Policy {
    /// The checkpoint at `base` with every weight trained, computing in `dtype` on `device`; `progress` hears the bytes read so
    /// far and their total.
    pub fn full(base: &Path, dtype: DType, device: &Device, progress: &dyn Fn(u64, u64)) -> Result<Self> {
        let tuning = Tuning::new(&|_| true, &|_, _, _| Ok(None));
        let model = load_tuned(base, dtype, device, progress, &tuning)?.model;
        let parameters = tuning.into_parameters();
        Ok(Self { model, parameters, base: base.to_owned(), dtype, device: device.clone(), keep: None })
    }

    /// Hidden states after the last norm of every token of `batch`, `[N, H]`.
    pub fn hidden(&self, batch: &Batch) -> Result<Tensor> {
        let ids = batch.ids(&self.device)?;
        let mut start = 0;
        let mut parts = Vec::with_capacity(batch.samples.len());
        for length in batch.lengths() {
            parts.push(self.model.hidden(&ids.narrow(0, start, length)?.unsqueeze(0)?, self.keep)?.squeeze(0)?);
            start += length;
        }
        Ok(Tensor::cat(&parts, 0)?)
    }

    /// The projection `[V, H]` of hidden states to the vocabulary.
    pub fn head(&self) -> Result<&Tensor> {
        self.model.head()
    }
}
