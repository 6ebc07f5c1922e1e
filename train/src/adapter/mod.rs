//! Low-rank adapters: made or read, trained, saved in PEFT's layout, computed with, and merged.
//!
//! A trained adapter is F32 whatever the base is, as PEFT makes it: it is small, and a step of 1e-4 on a number of 0.02 in BF16
//! would often change nothing. So the optimizer needs no second copy of it. Products are in the base's type, for which A and B
//! are rounded in the pass, as under PyTorch's autocast.

mod config;
mod files;
mod merge;

pub use config::{LoraConfig, Targets};
pub(crate) use files::save;
pub use files::{AdapterDir, Sizes};
pub use merge::{Merged, merge};

use anyhow::{Context, Result, bail, ensure};
use candle_ascend::{DType, Device, Tensor, Var};
use files::{Half, key};
use npu_models::{Adapter, Dropout, Held, Loaded, Parameter, Tuning, load_tuned};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use std::cell::RefCell;
use std::collections::BTreeSet;
use std::path::Path;

/// What training of adapters starts from.
pub enum Start<'a> {
    /// Adapters that add nothing yet: A as PyTorch starts a linear layer, uniform within 1 / √inputs, and B zero.
    New { config: LoraConfig, seed: u64 },
    /// Those of a folder.
    Saved(&'a Path),
}

/// A model with adapters that are trained.
pub(crate) struct Adapted {
    pub loaded: Loaded,
    /// With the targets by their names.
    pub config: LoraConfig,
    pub parameters: Vec<Parameter>,
}

/// The checkpoint at `base` as it is with the adapter in the folder `adapter` beside it, in `dtype` on `device`; `progress` hears the
/// bytes read so far and their total.
pub fn load_with_adapter(
    base: &Path,
    adapter: &Path,
    dtype: DType,
    device: &Device,
    progress: &dyn Fn(u64, u64),
) -> Result<Loaded> {
    let adapter = AdapterDir::open(adapter)?;
    let asked = RefCell::new(Asked::default());
    let of = |module: &str, _: usize, _: usize| -> Result<Option<Adapter>> {
        asked.borrow_mut().offer(module);
        let Some((a, b)) = adapter.load(module, dtype, device)? else { return Ok(None) };
        Ok(Some(Adapter { a, b, scale: adapter.config.scale(module), dropout: None }))
    };
    let tuning = Tuning::new(&|_| false, &of).holding(Held::Stored);
    let fitting = || mismatch(base, adapter.path());
    let loaded = load_tuned(base, dtype, device, progress, &tuning).with_context(fitting)?;
    asked.into_inner().all_of(&adapter).with_context(fitting)?;
    Ok(loaded)
}

/// The checkpoint at `base` with adapters to train.
pub(crate) fn load_trained(
    base: &Path,
    start: &Start,
    held: Held,
    dtype: DType,
    device: &Device,
    progress: &dyn Fn(u64, u64),
) -> Result<Adapted> {
    let (config, seed, saved) = match start {
        Start::New { config, seed } => (config.clone(), *seed, None),
        Start::Saved(dir) => {
            let saved = AdapterDir::open(dir)?;
            (saved.config.clone(), 0, Some(saved))
        }
    };
    config.check()?;
    if let (None, Targets::Pattern(pattern)) = (&saved, &config.target_modules) {
        bail!("the target modules {pattern:?} are a regular expression; give names of modules, or all-linear")
    }
    let (asked, parameters) = (RefCell::new(Asked::default()), RefCell::new(Vec::new()));
    let of = |module: &str, outputs: usize, inputs: usize| -> Result<Option<Adapter>> {
        asked.borrow_mut().offer(module);
        let pair = match &saved {
            Some(saved) => saved.load(module, DType::F32, device)?,
            None => match config.target(module) {
                Some(target) => {
                    asked.borrow_mut().targets.insert(target.to_owned());
                    Some(fresh(module, config.rank(module), outputs, inputs, seed, device)?)
                }
                None => None,
            },
        };
        let Some((a, b)) = pair else { return Ok(None) };
        let variable = |half: Half, tensor: &Tensor| -> Result<Tensor> {
            let var = Var::from_tensor(tensor)?;
            let variable = var.as_tensor().clone();
            parameters.borrow_mut().push(Parameter { parts: vec![(key(module, half), tensor.dim(0)?)], var });
            Ok(variable)
        };
        let (a, b) = (variable(Half::A, &a)?, variable(Half::B, &b)?);
        let dropout = (config.lora_dropout > 0.0)
            .then(|| Dropout { probability: config.lora_dropout, salt: crate::random::hash(module) });
        Ok(Some(Adapter { a, b, scale: config.scale(module), dropout }))
    };
    let tuning = Tuning::new(&|_| false, &of).holding(held);
    let loaded = load_tuned(base, dtype, device, progress, &tuning);
    let (loaded, asked) = match &saved {
        Some(saved) => {
            let fitting = || mismatch(base, saved.path());
            let (loaded, asked) = (loaded.with_context(fitting)?, asked.into_inner());
            asked.all_of(saved).with_context(fitting)?;
            (loaded, asked)
        }
        None => (loaded?, asked.into_inner()),
    };
    let config = match saved {
        Some(_) => config.clone(),
        None => LoraConfig { target_modules: asked.resolve(&config)?, ..config.clone() },
    };
    Ok(Adapted { loaded, config, parameters: parameters.into_inner() })
}

fn mismatch(base: &Path, adapter: &Path) -> String {
    format!("{} is no adapter of {}", adapter.display(), base.display())
}

/// A and B of a new adapter.
fn fresh(
    module: &str,
    rank: usize,
    outputs: usize,
    inputs: usize,
    seed: u64,
    device: &Device,
) -> Result<(Tensor, Tensor)> {
    let mut generator = StdRng::seed_from_u64(crate::random::mix(seed) ^ crate::random::hash(module));
    let bound = 1.0 / (inputs as f32).sqrt();
    let values: Vec<f32> = (0..rank * inputs).map(|_| generator.random_range(-bound..bound)).collect();
    let a = Tensor::from_vec(values, (rank, inputs), device)?;
    Ok((a, Tensor::zeros((outputs, rank), DType::F32, device)?))
}

/// What a model's loading asked about.
#[derive(Default)]
struct Asked {
    /// Projections that can have an adapter.
    modules: Vec<String>,
    /// Of the targets, those that named one of them.
    targets: BTreeSet<String>,
}

impl Asked {
    fn offer(&mut self, module: &str) {
        self.modules.push(module.to_owned());
    }

    /// The last parts of the modules' names, each once.
    fn kinds(&self) -> Vec<String> {
        let kinds: BTreeSet<&str> = self
            .modules
            .iter()
            .filter_map(|module| module.rsplit('.').next())
            .filter(|kind| *kind != "lm_head")
            .collect();
        kinds.into_iter().map(str::to_owned).collect()
    }

    /// An error unless every module of `adapter` was asked for.
    fn all_of(&self, adapter: &AdapterDir) -> Result<()> {
        let missing: Vec<_> = adapter.modules().iter().filter(|(module, _)| !self.modules.contains(module)).collect();
        let Some((module, sizes)) = missing.first() else { return Ok(()) };
        bail!(
            "the adapter has {module} ({} outputs, {} inputs){}, and the model takes adapters of {} in {} layers only",
            sizes.outputs,
            sizes.inputs,
            if missing.len() > 1 { format!(" and {} more", missing.len() - 1) } else { String::new() },
            self.kinds().join(", "),
            self.modules
                .iter()
                .filter_map(|module| module.split(".layers.").nth(1)?.split('.').next())
                .collect::<BTreeSet<_>>()
                .len()
        )
    }

    /// The targets of `config` by names, each of which named a module.
    fn resolve(&self, config: &LoraConfig) -> Result<Targets> {
        for name in config.target_modules.names() {
            ensure!(
                self.targets.contains(name),
                "no projection of the model that takes an adapter is called {name}; there are {}",
                self.kinds().join(", ")
            );
        }
        Ok(match &config.target_modules {
            Targets::AllLinear => Targets::Named(self.kinds()),
            other => other.clone(),
        })
    }
}
