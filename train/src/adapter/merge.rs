//! An adapter added to the weights of its base: a checkpoint that needs no adapter.

use super::files::AdapterDir;
use crate::files::{self, Entry};
use crate::save;
use anyhow::{Context, Result, bail, ensure};
use candle_ascend::safetensors::MmapedSafetensors;
use candle_ascend::{DType, Device, Tensor};
use npu_models::gguf::Gguf;
use safetensors::Dtype;
use serde_json::Value;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// What was written.
#[derive(Clone, Copy, Debug)]
pub struct Merged {
    /// Projections that the adapter was added to.
    pub modules: usize,
    pub tensors: usize,
    pub bytes: u64,
}

/// Writes the checkpoint `base` with the adapter in the folder `adapter` added into the folder `output`, which must not hold anything:
/// `W + scale · B A`, computed in F32 and rounded once to `dtype`, or to the type that the base has it in. `progress` hears the
/// bytes written so far and their total.
///
/// One tensor at a time is in memory, and the folder is there whole or not at all.
pub fn merge(
    base: &Path,
    adapter: &Path,
    output: &Path,
    dtype: Option<DType>,
    progress: &dyn Fn(u64, u64),
) -> Result<Merged> {
    if Gguf::is(base) {
        bail!(
            "{} is a GGUF file, and a merged checkpoint is a folder in Hugging Face layout; merge into the checkpoint that the \
             file was made from",
            base.display()
        )
    }
    ensure!(
        !output.exists() || output.is_dir() && files::entries(output)?.is_empty(),
        "{} is there already and not empty; name another folder for the merged checkpoint",
        output.display()
    );
    let adapter = AdapterDir::open(adapter)?;
    let weights = MmapedSafetensors::multi(&weight_files(base)?)?;
    let entries = entries(&weights, dtype)?;
    if let Some(entry) = entries.iter().find(|entry| weights.get(&entry.name).is_ok_and(|view| is_fp8(view.dtype()))) {
        bail!(
            "{}: {} is stored as FP8, whose scales a merged checkpoint would not fit; merge into the bf16 checkpoint that it was \
             quantised from, or run the adapter beside this one with --adapter",
            base.display(),
            entry.name
        )
    }
    fits(&adapter, base, &entries)?;
    let total: u64 = entries.iter().map(Entry::bytes).sum();
    files::folder(output, |folder| {
        save::companions(base, dtype, folder)?;
        let mut done = 0;
        files::weights(folder, &entries, files::SHARD_BYTES, |i| {
            let entry = &entries[i];
            let tensor = tensor(&adapter, &weights, entry).with_context(|| format!("merging {}", entry.name))?;
            done += entry.bytes();
            progress(done, total);
            Ok(tensor)
        })
    })?;
    Ok(Merged { modules: adapter.modules().len(), tensors: entries.len(), bytes: total })
}

fn is_fp8(dtype: Dtype) -> bool {
    matches!(dtype, Dtype::F8_E4M3 | Dtype::F8_E5M2)
}

/// The tensor of `entry`, with what the adapter adds to it.
fn tensor(adapter: &AdapterDir, weights: &MmapedSafetensors, entry: &Entry) -> Result<Tensor> {
    let host = Device::Cpu;
    let stored = weights.load(&entry.name, &host)?;
    let module = entry.name.strip_suffix(".weight").unwrap_or_default();
    let Some((a, b)) = adapter.load(module, DType::F32, &host)? else { return Ok(stored.to_dtype(entry.dtype)?) };
    let added = (b.matmul(&a)? * adapter.config.scale(module))?;
    Ok((stored.to_dtype(DType::F32)? + added)?.to_dtype(entry.dtype)?)
}

/// The tensors of the merged checkpoint, sorted. What is no number of F64, F32, F16 or BF16 keeps its type.
fn entries(weights: &MmapedSafetensors, dtype: Option<DType>) -> Result<Vec<Entry>> {
    let mut entries = Vec::new();
    for (name, view) in weights.tensors()? {
        let stored = DType::try_from(view.dtype()).with_context(|| format!("{name} is {:?}", view.dtype()))?;
        let dtype = dtype.filter(|_| stored.is_float()).unwrap_or(stored);
        entries.push(Entry { name, dtype, dims: view.shape().to_vec() });
    }
    entries.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(entries)
}

/// An error unless each module of `adapter` is a matrix of the base of its size.
fn fits(adapter: &AdapterDir, base: &Path, entries: &[Entry]) -> Result<()> {
    let (adapter_name, base) = (adapter.path().display(), base.display());
    for (module, sizes) in adapter.modules() {
        let name = format!("{module}.weight");
        let Ok(found) = entries.binary_search_by(|entry| entry.name.cmp(&name)) else {
            bail!("{adapter_name} is no adapter of {base}: it has {module}, and there is no tensor {name} in the base")
        };
        ensure!(
            entries[found].dims == [sizes.outputs, sizes.inputs],
            "{adapter_name} is no adapter of {base}: its {module} is made for a weight of shape {:?}, and the base's has {:?}",
            [sizes.outputs, sizes.inputs],
            entries[found].dims
        );
    }
    Ok(())
}

/// The files that hold the weights of the checkpoint folder `base`.
fn weight_files(base: &Path) -> Result<Vec<PathBuf>> {
    let single = base.join("model.safetensors");
    if single.exists() {
        return Ok(vec![single]);
    }
    let path = base.join("model.safetensors.index.json");
    let text = std::fs::read_to_string(&path).with_context(|| {
        format!("{} has neither model.safetensors nor a readable model.safetensors.index.json", base.display())
    })?;
    let index: Value = serde_json::from_str(&text).with_context(|| format!("{} is not JSON", path.display()))?;
    let Some(map) = index.get("weight_map").and_then(Value::as_object) else {
        bail!("{} has no weight_map", path.display())
    };
    let names: BTreeSet<&str> = map.values().filter_map(Value::as_str).collect();
    Ok(names.into_iter().map(|name| base.join(name)).collect())
}
