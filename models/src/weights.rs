//! Weights from safetensors, one file or shards with an index, or from a GGUF file: memory-mapped, checked before use.

use crate::Config;
use crate::fp8::{self, Fp8, SCALES};
use crate::gguf::{self, Gguf};
use crate::header;
use crate::loader::{Source, put};
use anyhow::{Context, Result, bail, ensure};
use candle_ascend::acl::MappedFile;
use candle_ascend::ops::{self, Blocks, Format, ScaledBlocks, Weight};
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
    /// E4M3, with scales in a tensor beside it.
    Fp8,
    /// Not read: its name, and those of what is.
    Other(String, String),
}

/// Where one tensor lies in its file, and how it is to be read.
struct Entry {
    kind: Kind,
    /// The type's name in safetensors.
    stored: Option<Dtype>,
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
    fp8: Option<Fp8>,
    /// What to tell of tensors that were set aside.
    aside: Option<String>,
}

impl Weights {
    /// Opens `model.safetensors`, or the shards that `model.safetensors.index.json` names, in `dir`, whose `config.json` is `config`.
    pub fn open(dir: &Path, config: &Config) -> Result<Self> {
        let mut weights = Weights { shards: Vec::new(), tensors: BTreeMap::new(), fp8: config.fp8, aside: None };
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
        weights.set_aside(config);
        Ok(weights)
    }

    /// Forgets the layers behind the last one, which predict further tokens, and remembers to say so.
    fn set_aside(&mut self, config: &Config) {
        let first = config.num_hidden_layers;
        let further = first..first.saturating_add(config.further_predictions);
        let layer_of = |name: &str| name.strip_prefix("model.layers.")?.split('.').next()?.parse::<usize>().ok();
        let mut layers = BTreeSet::new();
        let before = self.tensors.len();
        self.tensors.retain(|name, _| {
            let Some(layer) = layer_of(name).filter(|layer| further.contains(layer)) else { return true };
            layers.insert(format!("model.layers.{layer}"));
            false
        });
        let names = Vec::from_iter(layers).join(", ");
        let count = before - self.tensors.len();
        self.aside =
            (count > 0).then(|| format!("not loaded: {names}, {count} tensors for predicting further tokens at once"));
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
            let other = || Kind::Other(format!("{:?}", entry.dtype), "F32, F16, BF16, F64 or F8_E4M3".into());
            let kind = match entry.dtype {
                Dtype::F8_E4M3 => Kind::Fp8,
                dtype => float_dtype(dtype).map_or_else(other, Kind::Float),
            };
            let (stored, shape, range) = (Some(entry.dtype), entry.shape, entry.range);
            let entry = Entry { kind, stored, shape, range, interleaved: None };
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
            (name, (0, Entry { kind, stored: None, shape, range, interleaved }))
        });
        Weights { tensors: tensors.collect(), shards: vec![Shard { path, bytes }], fp8: None, aside: None }
    }

    /// The tensor `name`, which must have `shape`.
    fn find(&self, name: &str, shape: &[usize]) -> Result<(&Shard, &Entry)> {
        let Some((shard, entry)) = self.tensors.get(name) else {
            bail!("tensor {name} is missing in {}", self.places());
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

    /// The files.
    fn places(&self) -> String {
        let files = self.shards.len();
        let place = self.shards.first().map(|shard| shard.path.display().to_string()).unwrap_or_default();
        let others = if files > 1 { format!(" and {} more files", files - 1) } else { String::new() };
        place + &others
    }

    /// The scales of the FP8 matrix `name` `[rows, columns]`, and their bytes in the files.
    fn scales(&self, name: &str, shard: &Shard, shape: &[usize]) -> Result<(Fp8, Vec<f32>, u64)> {
        let place = shard.path.display();
        let Some(fp8) = self.fp8 else {
            bail!(
                "{place}: tensor {name} is stored as F8_E4M3, and config.json has no quantization_config, which says what \
                 its numbers are scaled by"
            )
        };
        let &[rows, columns] = shape else {
            bail!("{place}: tensor {name} of shape {shape:?} is stored as F8_E4M3, which is read of matrices only")
        };
        let of = format!("{name}{SCALES}");
        let Some((other, entry)) = self.tensors.get(&of) else {
            bail!("{place}: tensor {name} is stored as F8_E4M3, and its scales {of} are missing in {}", self.places())
        };
        let (wanted, [height, width]) = (fp8.grid(rows, columns), fp8.block);
        let other = &self.shards[*other];
        let place = other.path.display();
        ensure!(
            entry.shape == wanted,
            "{place}: tensor {of} has shape {:?}, wanted {wanted:?}: a scale for each block of {height} x {width} of {name} \
             {shape:?}",
            entry.shape
        );
        let bytes = &other.bytes.bytes()[entry.range.clone()];
        let scales = entry.stored.map_or(Err(""), |stored| fp8::scales(stored, bytes));
        let scales = match scales {
            Ok(scales) => scales,
            Err(wanted) => {
                let stored = entry.stored.map_or_else(String::new, |stored| format!("{stored:?}"));
                bail!("{place}: tensor {of} is stored as {stored}, wanted {wanted}")
            }
        };
        if let Some(at) = scales.iter().position(|scale| !scale.is_finite()) {
            let at = [at / wanted[1], at % wanted[1]];
            bail!("{place}: tensor {of} is not finite at {at:?}, wanted a scale: the file is corrupt")
        }
        Ok((fp8, scales, entry.range.len() as u64))
    }

    /// Whether `name` is of scales, which are read with their matrix.
    fn is_scales(&self, name: &str) -> bool {
        let matrix = name.strip_suffix(SCALES).and_then(|matrix| self.tensors.get(matrix));
        matrix.is_some_and(|(_, entry)| matches!(entry.kind, Kind::Fp8))
    }
}

impl Source for Weights {
    fn names(&self) -> Vec<String> {
        self.tensors.keys().filter(|name| !self.is_scales(name)).cloned().collect()
    }

    fn stored_bytes(&self) -> u64 {
        self.tensors.values().map(|(_, entry)| entry.range.len() as u64).sum()
    }

    fn notes(&self, dtype: Option<DType>) -> Vec<String> {
        let matrices = self.tensors.iter().filter(|(_, (_, entry))| matches!(entry.kind, Kind::Fp8));
        let elements: u64 = matrices.map(|(_, (_, entry))| entry.range.len() as u64).sum();
        let scales = self.tensors.iter().filter(|(name, _)| self.is_scales(name));
        let bytes: u64 = scales.map(|(_, (_, entry))| entry.range.len() as u64).sum();
        let widened = (elements > 0).then(|| fp8::note(elements + bytes, elements, dtype));
        widened.into_iter().chain(self.aside.clone()).collect()
    }

    fn tensor(&self, name: &str, shape: &[usize], dtype: DType, device: &Device) -> Result<(Tensor, u64)> {
        let (shard, entry) = self.find(name, shape)?;
        if let Kind::Fp8 = entry.kind {
            let room = self.room(shape, dtype, device)?;
            let bytes = self.place(name, shape, &room, 0)?;
            return Ok((room, bytes));
        }
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
            Kind::Fp8 => unreachable!("widened in place above"),
        };
        let tensor = tensor.with_context(|| format!("{}: loading tensor {name} {shape:?}", shard.path.display()))?;
        shard.release(entry)?;
        Ok((tensor, entry.range.len() as u64))
    }

    /// FP8 matrices are widened where they are to be, a row of blocks at a time.
    fn place(&self, name: &str, shape: &[usize], room: &Tensor, offset: usize) -> Result<u64> {
        let (shard, entry) = self.find(name, shape)?;
        if !matches!(entry.kind, Kind::Fp8) {
            return put(self, name, shape, room, offset);
        }
        let (fp8, scales, bytes_of_scales) = self.scales(name, shard, shape)?;
        let numbers = &shard.bytes.bytes()[entry.range.clone()];
        let matrix = ScaledBlocks { numbers, rows: shape[0], columns: shape[1], block: fp8.block, scales: &scales };
        let loading = || format!("{}: loading tensor {name} {shape:?}", shard.path.display());
        matrix.widen_into(room, offset).with_context(loading)?;
        shard.release(entry)?;
        Ok(entry.range.len() as u64 + bytes_of_scales)
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
