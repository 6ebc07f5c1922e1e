//! `adapter_model.safetensors`: the tensors of an adapter under PEFT's keys.

use super::config::{CONFIG, LoraConfig};
use crate::files;
use anyhow::{Context, Result, bail, ensure};
use candle_ascend::safetensors::MmapedSafetensors;
use candle_ascend::{DType, Device, Tensor};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

pub const MODEL: &str = "adapter_model.safetensors";

/// The two matrices of an adapter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Half {
    A,
    B,
}

/// PEFT's key of a matrix of `module`.
pub fn key(module: &str, half: Half) -> String {
    format!("base_model.model.{module}.lora_{half:?}.weight")
}

/// The module and matrix that a key of PEFT's names.
fn parse(key: &str) -> Option<(&str, Half)> {
    let rest = key.strip_prefix("base_model.model.")?.strip_suffix(".weight")?;
    let half = |ending: &str, half: Half| Some((rest.strip_suffix(ending)?, half));
    half(".lora_A", Half::A).or_else(|| half(".lora_B", Half::B))
}

/// An adapter on the disk: its configuration, and its tensors, which are read when they are asked for.
pub struct AdapterDir {
    pub config: LoraConfig,
    path: PathBuf,
    file: MmapedSafetensors,
    /// Outputs, inputs and rank of each module.
    modules: BTreeMap<String, Sizes>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sizes {
    pub outputs: usize,
    pub inputs: usize,
    pub rank: usize,
}

impl AdapterDir {
    /// Opens the adapter in the folder `dir` and checks that it is whole.
    pub fn open(dir: &Path) -> Result<Self> {
        let config = LoraConfig::from_dir(dir)?;
        let path = dir.join(MODEL);
        if !path.exists() {
            let pickled = dir.join("adapter_model.bin").exists();
            let hint =
                if pickled { "; it has an adapter_model.bin, which must be saved as safetensors first" } else { "" };
            bail!("{} has no {MODEL}{hint}", dir.display())
        }
        let file = MmapedSafetensors::new(&path).with_context(|| format!("reading {}", path.display()))?;
        let modules = modules(&file).with_context(|| format!("in {}", path.display()))?;
        for (module, sizes) in &modules {
            let wanted = config.rank(module);
            ensure!(
                sizes.rank == wanted,
                "{}: {module} has rank {}, and {CONFIG} says {wanted}",
                path.display(),
                sizes.rank
            );
        }
        Ok(Self { config, path, file, modules })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The modules that have adapters, sorted, with their sizes.
    pub fn modules(&self) -> &BTreeMap<String, Sizes> {
        &self.modules
    }

    /// A `[rank, inputs]` and B `[outputs, rank]` of `module` in `dtype` on `device`, if it has an adapter.
    pub fn load(&self, module: &str, dtype: DType, device: &Device) -> Result<Option<(Tensor, Tensor)>> {
        if !self.modules.contains_key(module) {
            return Ok(None);
        }
        let load = |half: Half| -> Result<Tensor> {
            let tensor = self.file.load(&key(module, half), device).with_context(|| self.path.display().to_string())?;
            Ok(tensor.to_dtype(dtype)?)
        };
        Ok(Some((load(Half::A)?, load(Half::B)?)))
    }
}

/// The modules of `file`, each with both of its matrices.
fn modules(file: &MmapedSafetensors) -> Result<BTreeMap<String, Sizes>> {
    let mut shapes: BTreeMap<String, [Option<Vec<usize>>; 2]> = BTreeMap::new();
    let mut others = Vec::new();
    for (key, view) in file.tensors()? {
        match parse(&key) {
            Some((module, half)) => {
                shapes.entry(module.to_owned()).or_default()[half as usize] = Some(view.shape().to_vec())
            }
            None => others.push(key),
        }
    }
    others.sort();
    ensure!(
        others.is_empty(),
        "{} is no matrix of a LoRA adapter of a projection (base_model.model.….lora_A.weight or lora_B.weight){}",
        others[0],
        if others.len() > 1 { format!(", and {} more are none", others.len() - 1) } else { String::new() }
    );
    ensure!(!shapes.is_empty(), "there is no adapter in it");
    let sizes = |(module, [a, b]): (String, [Option<Vec<usize>>; 2])| -> Result<(String, Sizes)> {
        let (Some(a), Some(b)) = (&a, &b) else { bail!("{module} has only one of lora_A and lora_B") };
        match (a.as_slice(), b.as_slice()) {
            (&[rank, inputs], &[outputs, other]) if rank == other => Ok((module, Sizes { outputs, inputs, rank })),
            _ => bail!("{module} has A {a:?} and B {b:?}, wanted [rank, inputs] and [outputs, rank]"),
        }
    };
    shapes.into_iter().map(sizes).collect()
}

/// Writes an adapter of the checkpoint `base`, its tensors under PEFT's keys, into the folder `dir`, which is there.
pub fn save(config: &LoraConfig, base: &Path, tensors: &[(String, Tensor)], dir: &Path) -> Result<()> {
    files::safetensors_of(&dir.join(MODEL), tensors)?;
    let path = dir.join(CONFIG);
    std::fs::write(&path, config.to_json(base)?).with_context(|| format!("writing {}", path.display()))
}
