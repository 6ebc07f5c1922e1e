//! The model that is trained.

use crate::adapter::{self, LoraConfig, Start};
use crate::{Batch, Ranks, random};
use anyhow::{Result, ensure};
use candle_ascend::autograd::{Checkpoint, is_recording};
use candle_ascend::{DType, Device, Tensor};
use npu_models::{CausalLm, Config, Held, Parameter, Passes, Tuning, load_tuned};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

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
    /// What a user should know of how the weights are held, a line each.
    pub notes: Vec<String>,
    /// What is trained are adapters of this kind.
    pub lora: Option<LoraConfig>,
    masks: Masks,
}

impl Policy {
    /// The checkpoint at `base` with every weight trained, computing in `dtype` on `device`; `progress` hears the bytes read so
    /// far and their total.
    pub fn full(base: &Path, dtype: DType, device: &Device, progress: &dyn Fn(u64, u64)) -> Result<Self> {
        // What could not be written in the end is said before the weights come.
        crate::save::config(base, Some(dtype))?;
        let tuning = Tuning::new(&|_| true, &|_, _, _| Ok(None));
        let loaded = load_tuned(base, dtype, device, progress, &tuning)?;
        let parameters = tuning.into_parameters();
        let masks = Masks::default();
        Ok(Self {
            model: loaded.model,
            parameters,
            base: base.to_owned(),
            dtype,
            device: device.clone(),
            keep: None,
            notes: loaded.notes,
            lora: None,
            masks,
        })
    }

    /// The checkpoint at `base` with nothing trained: a reference, or a teacher. Otherwise as [`Policy::full`].
    pub fn frozen(base: &Path, dtype: DType, device: &Device, progress: &dyn Fn(u64, u64)) -> Result<Self> {
        let loaded = npu_models::load(base, dtype, device, progress)?;
        Ok(Self {
            model: loaded.model,
            parameters: Vec::new(),
            base: base.to_owned(),
            dtype,
            device: device.clone(),
            keep: None,
            notes: loaded.notes,
            lora: None,
            masks: Masks::default(),
        })
    }

    /// The checkpoint at `base` with adapters that are trained, F32, and nothing else; `held` says how the projections of the frozen
    /// base are held. Otherwise as [`Policy::full`].
    pub fn lora(
        base: &Path,
        start: &Start,
        held: Held,
        dtype: DType,
        device: &Device,
        progress: &dyn Fn(u64, u64),
    ) -> Result<Self> {
        if held == Held::Nf4 {
            ensure!(
                Config::of(base)?.moe.is_none(),
                "{} has experts, which are not held in four bits yet; train its adapters in bf16",
                base.display()
            );
        }
        let adapted = adapter::load_trained(base, start, held, dtype, device, progress)?;
        Ok(Self {
            model: adapted.loaded.model,
            parameters: adapted.parameters,
            base: base.to_owned(),
            dtype,
            device: device.clone(),
            keep: None,
            notes: adapted.loaded.notes,
            lora: Some(adapted.config),
            masks: Masks::default(),
        })
    }

    /// `f` with the adapters off: the model as it was before training, which a penalty on leaving it refers to. Only passes on
    /// this thread are meant, so that others can go on with the adapters.
    pub fn without_adapters<R>(&self, f: impl FnOnce() -> Result<R>) -> Result<R> {
        ensure!(
            self.lora.is_some(),
            "the model is trained whole, so that it has no state without adapters; load the reference beside it"
        );
        Passes::current().without_adapters().run(f)
    }

    /// Says that the optimizer's step `step` begins on this rank. Dropout draws its masks from that, the seed, and the number of
    /// the pass within the step, so that a run which goes on from a checkpoint draws as one that was not interrupted.
    pub fn begin_step(&self, seed: u64, step: usize, ranks: &Ranks) {
        let of = |state: u64, number: usize| random::mix(state ^ number as u64);
        self.masks.step.store(of(of(random::mix(seed), step), ranks.rank()), Ordering::Relaxed);
        self.masks.passes.store(0, Ordering::Relaxed);
    }

    /// Hidden states after the last norm of every token of `batch`, `[N, H]`. Adapters drop elements where gradients are recorded.
    pub fn hidden(&self, batch: &Batch) -> Result<Tensor> {
        self.masks.next().run(|| self.model.hidden_packed(&batch.ids(&self.device)?, &batch.lengths(), self.keep))
    }

    /// The projection `[V, H]` of hidden states to the vocabulary.
    pub fn head(&self) -> Result<&Tensor> {
        self.model.head()
    }
}

/// Which masks dropout draws.
#[derive(Debug, Default)]
struct Masks {
    step: AtomicU64,
    /// Passes of the step so far.
    passes: AtomicU64,
}

impl Masks {
    /// How the next pass is run: with masks of its own if it is recorded, and none otherwise.
    fn next(&self) -> Passes {
        if !is_recording() {
            return Passes::current();
        }
        let pass = self.passes.fetch_add(1, Ordering::Relaxed);
        Passes::current().with_masks(random::mix(self.step.load(Ordering::Relaxed) ^ pass))
    }
}
