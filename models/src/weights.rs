//! Weights from safetensors, one file or shards with an index, or from a GGUF file: memory-mapped, checked before use.

use crate::Config;
use crate::gguf::{self, Gguf};
use crate::header;
use crate::loader::Source;
use anyhow::{Context, Result, bail, ensure};
use candle_ascend::acl::MappedFile;
use candle_ascend::ops::{self, Blocks, Format, Weight};
use candle_ascend::{DType, Device, Tensor};
use safetensors::Dtype;
use serde_json::Value;
use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::path::{Path, PathBuf};

const SINGLE: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";

struct Shard {
    path: PathBuf,
    bytes: MappedFile,
}

impl Shard {
    /// Lets the system have the memory of a tensor that has been read.
    fn release(&self, entry: &Entry) -> Result<()> {
        self.bytes.release(entry.range.clone()).with_context(|| format!("releasing memory of {}", self.path.display()))
    }
}

/// What a tensor is stored in.
enum Kind {
    Float(DType),
    Blocks(Format),
    /// Not read: its name, and those of what is.
    Other(String, String),
}

/// Where one tensor lies in its file, and how it is to be read.
struct Entry {
    kind: Kind,
    shape: Vec<usize>,
    range: Range<usize>,
    /// The rows of each of so many heads are stored with the two halves interleaved: first of one half, first of the other.
    interleaved: Option<usize>,
}

impl Entry {
    /// The stored row that is row `row` of the tensor.
    fn row(&self, row: usize) -> usize {
        let Some(heads) = self.interleaved else { return row };
        let width = self.shape[0] / heads;
        let (head, row) = (row / width, row % width);
        head * width + row % (width / 2) * 2 + row / (width / 2)
    }

    /// The tensor's blocks, if it is made of them.
    fn blocks<'a>(&'a self, shard: &'a Shard) -> Option<Blocks<'a>> {
        let Kind::Blocks(format) = self.kind else { return None };
        let rows = self.shape[..self.shape.len() - 1].iter().product();
        Some(Blocks {
            format,
            rows,
            bytes: &shard.bytes.bytes()[self.range.clone()],
            order: Box::new(|row| self.row(row)),
        })
    }

    /// The stored bytes with the rows in the tensor's order.
    fn in_order<'a>(&self, bytes: &'a [u8]) -> Cow<'a, [u8]> {
        if self.interleaved.is_none() || bytes.is_empty() {
            return Cow::Borrowed(bytes);
        }
        let width = bytes.len() / self.shape[0];
        let rows = (0..self.shape[0]).map(|row| &bytes[self.row(row) * width..][..width]);
        Cow::Owned(rows.flatten().copied().collect())
    }
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
            let other = || Kind::Other(format!("{:?}", entry.dtype), "F32, F16, BF16 or F64".into());
            let kind = float_dtype(entry.dtype).map_or_else(other, Kind::Float);
            let entry = Entry { kind, shape: entry.shape, range: entry.range, interleaved: None };
            self.tensors.insert(name, (shard, entry));
        }
        self.shards.push(Shard { path: path.to_owned(), bytes });
        Ok(())
    }

    /// The tensors of a GGUF file, which holds a model of `config`.
    pub fn of_gguf(file: Gguf, config: &Config) -> Self {
        let path = file.path().to_owned();
        let (bytes, tensors) = file.into_tensors(config);
        let tensors = tensors.into_iter().map(|(name, gguf::Entry { kind, shape, range }, interleaved)| {
            let kind = match kind {
                gguf::Kind::Float(dtype) => Kind::Float(dtype),
                gguf::Kind::Blocks(format) => Kind::Blocks(format),
                gguf::Kind::Other(name) => Kind::Other(name.into(), gguf::supported()),
            };
            (name, (0, Entry { kind, shape, range, interleaved }))
        });
        Weights { tensors: tensors.collect(), shards: vec![Shard { path, bytes }] }
    }

    /// The tensor `name`, which must have `shape`.
    fn find(&self, name: &str, shape: &[usize]) -> Result<(&Shard, &Entry)> {
        let Some((shard, entry)) = self.tensors.get(name) else {
            let files = self.shards.len();
            let place = self.shards.first().map(|shard| shard.path.display().to_string()).unwrap_or_default();
            let others = if files > 1 { format!(" and {} more files", files - 1) } else { String::new() };
            bail!("tensor {name} is missing in {place}{others}");
        };
        let shard = &self.shards[*shard];
        ensure!(
            entry.shape == shape,
            "{}: tensor {name} has shape {:?}, wanted {shape:?} from the configuration",
            shard.path.display(),
            entry.shape
        );
        Ok((shard, entry))
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
        let (shard, entry) = self.find(name, shape)?;
        let bytes = &shard.bytes.bytes()[entry.range.clone()];
        let tensor = match &entry.kind {
            Kind::Float(stored) => Tensor::from_raw_buffer(&entry.in_order(bytes), *stored, shape, device)
                .and_then(|tensor| tensor.to_dtype(dtype)),
            Kind::Blocks(_) => {
                let parts: Vec<_> = entry.blocks(shard).into_iter().collect();
                let columns = shape.last().copied().unwrap_or(1);
                ops::widen(&parts, columns, dtype, device).and_then(|tensor| tensor.reshape(shape))
            }
            Kind::Other(stored, wanted) => {
                bail!("{}: tensor {name} is stored as {stored}, wanted {wanted}", shard.path.display())
            }
        };
        let tensor = tensor.with_context(|| format!("{}: loading tensor {name} {shape:?}", shard.path.display()))?;
        shard.release(entry)?;
        Ok((tensor, entry.range.len() as u64))
    }

    fn blocks(
        &self,
        names: &[String],
        rows: &[usize],
        columns: usize,
        dtype: DType,
        device: &Device,
    ) -> Result<Option<(Weight, u64)>> {
        let found = names.iter().zip(rows).map(|(name, rows)| self.find(name, &[*rows, columns]));
        let found = found.collect::<Result<Vec<_>>>()?;
        let parts: Option<Vec<_>> = found.iter().map(|(shard, entry)| entry.blocks(shard)).collect();
        let Some(parts) = parts else { return Ok(None) };
        let weight = Weight::from_blocks(&parts, columns, dtype, device)
            .with_context(|| format!("{}: loading {}", found[0].0.path.display(), names.join(", ")))?;
        found.iter().try_for_each(|(shard, entry)| shard.release(entry))?;
        Ok(Some((weight, found.iter().map(|(_, entry)| entry.range.len() as u64).sum())))
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
