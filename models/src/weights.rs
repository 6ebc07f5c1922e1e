//! Weights from safetensors: one file or shards with an index, memory-mapped, checked before use.

use crate::header::{self, Entry};
use crate::loader::Source;
use anyhow::{Context, Result, bail, ensure};
use candle_ascend::acl::MappedFile;
use candle_ascend::{DType, Device, Tensor};
use safetensors::Dtype;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

const SINGLE: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";

struct Shard {
    path: PathBuf,
    bytes: MappedFile,
}

/// The tensors of a checkpoint: names, shapes and mapped bytes. Opening reads headers only.
pub struct Weights {
    shards: Vec<Shard>,
    tensors: BTreeMap<String, (usize, Entry)>,
}

impl Weights {
    /// Opens `model.safetensors`, or the shards that `model.safetensors.index.json` names, in `dir`.
    pub fn open(dir: &Path) -> Result<Self> {
        let mut weights = Weights { shards: Vec::new(), tensors: BTreeMap::new() };
        if dir.join(SINGLE).exists() {
            weights.add_shard(&dir.join(SINGLE))?;
        } else if dir.join(INDEX).exists() {
            weights.open_sharded(dir)?;
        } else {
            let pickled = dir.join("pytorch_model.bin").exists() || dir.join("pytorch_model.bin.index.json").exists();
            let hint =
                if pickled { "; it has a pytorch_model.bin, which must be saved as safetensors first" } else { "" };
            bail!("{} has neither {SINGLE} nor {INDEX}{hint}", dir.display());
        }
        Ok(weights)
    }

    fn open_sharded(&mut self, dir: &Path) -> Result<()> {
        let path = dir.join(INDEX);
        let text = std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        let map = weight_map(&text).with_context(|| format!("in {}", path.display()))?;
        let files: BTreeSet<&str> = map.values().map(String::as_str).collect();
        let missing: Vec<&str> = files.iter().copied().filter(|file| !dir.join(file).exists()).collect();
        ensure!(
            missing.is_empty(),
            "{} of {} shards are missing in {}: {}",
            missing.len(),
            files.len(),
            dir.display(),
            missing.join(", ")
        );
        for file in files {
            self.add_shard(&dir.join(file))?;
        }
        for (name, file) in &map {
            let found = self.tensors.get(name).map(|(shard, _)| self.shards[*shard].path.as_path());
            let wanted = dir.join(file);
            ensure!(
                found == Some(&wanted),
                "{} says tensor {name} lies in {file}, which does not hold it",
                path.display()
            );
        }
        Ok(())
    }

    fn add_shard(&mut self, path: &Path) -> Result<()> {
        let bytes = MappedFile::open(path).with_context(|| format!("cannot map {}", path.display()))?;
        let entries = header::read(bytes.bytes()).with_context(|| format!("in {}", path.display()))?;
        let shard = self.shards.len();
        for (name, entry) in entries {
            if let Some((other, _)) = self.tensors.get(&name) {
                bail!("tensor {name} lies in both {} and {}", self.shards[*other].path.display(), path.display());
            }
            self.tensors.insert(name, (shard, entry));
        }
        self.shards.push(Shard { path: path.to_owned(), bytes });
        Ok(())
    }

    fn find(&self, name: &str) -> Result<(&Shard, &Entry)> {
        let Some((shard, entry)) = self.tensors.get(name) else {
            let files = self.shards.len();
            let place = self.shards.first().map(|shard| shard.path.display().to_string()).unwrap_or_default();
            let others = if files > 1 { format!(" and {} more files", files - 1) } else { String::new() };
            bail!("tensor {name} is missing in {place}{others}");
        };
        Ok((&self.shards[*shard], entry))
    }
}

impl Source for Weights {
    fn names(&self) -> Vec<String> {
        self.tensors.keys().cloned().collect()
    }

    fn stored_bytes(&self) -> u64 {
        self.tensors.values().map(|(_, entry)| entry.range.len() as u64).sum()
    }

    fn tensor(&self, name: &str, shape: &[usize], dtype: DType, device: &Device) -> Result<(Tensor, u64)> {
        let (shard, entry) = self.find(name)?;
        let file = shard.path.display();
        ensure!(
            entry.shape == shape,
            "{file}: tensor {name} has shape {:?}, wanted {shape:?} from config.json",
            entry.shape
        );
        let stored = float_dtype(entry.dtype).with_context(|| {
            format!("{file}: tensor {name} is stored as {:?}, wanted F32, F16, BF16 or F64", entry.dtype)
        })?;
        let bytes = &shard.bytes.bytes()[entry.range.clone()];
        let tensor = Tensor::from_raw_buffer(bytes, stored, shape, device)
            .and_then(|tensor| tensor.to_dtype(dtype))
            .with_context(|| format!("{file}: loading tensor {name} {shape:?}"))?;
        shard.bytes.release(entry.range.clone()).with_context(|| format!("{file}: releasing tensor {name}"))?;
        Ok((tensor, entry.range.len() as u64))
    }
}

/// `weight_map` of an index: tensor name to file name.
fn weight_map(text: &str) -> Result<BTreeMap<String, String>> {
    let index: Value = serde_json::from_str(text).context("not valid JSON")?;
    let Some(map) = index.get("weight_map").and_then(Value::as_object) else {
        bail!("weight_map is missing, wanted an object")
    };
    let mut files = BTreeMap::new();
    for (name, file) in map {
        let Some(file) = file.as_str() else { bail!("weight_map gives {file} for {name}, wanted a file name") };
        // A path could point outside of the checkpoint.
        let plain = Path::new(file).file_name().is_some_and(|name| name == file);
        ensure!(plain, "weight_map gives {file:?} for {name}, wanted a plain file name");
        files.insert(name.clone(), file.to_owned());
    }
    Ok(files)
}

fn float_dtype(dtype: Dtype) -> Option<DType> {
    match dtype {
        Dtype::F32 => Some(DType::F32),
        Dtype::F16 => Some(DType::F16),
        Dtype::BF16 => Some(DType::BF16),
        Dtype::F64 => Some(DType::F64),
        _ => None,
    }
}
