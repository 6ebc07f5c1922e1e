//! A teacher's likeliest tokens, written once and read by every run.
//!
//! A safetensors file, so that other programs can read and write it:
//!
//! | tensor | type, shape | is |
//! |---|---|---|
//! | `keys` | U64 `[S]` | what each of S samples is known by: FNV-1a (64 bits) over its tokens, each as four bytes (little endian) and one that is 1 where it is learnt, else 0 |
//! | `ends` | U64 `[S]` | where each sample's rows end; those of the first begin at 0 |
//! | `indices` | U32 `[R, K]` | the K likeliest tokens at each position that predicts a learnt token, likeliest first |
//! | `log_probs` | F32 `[R, K]` | their log-probabilities over the whole vocabulary, at temperature 1 |
//!
//! Its metadata names the `teacher`. A sample is found by what it holds and not by its place, so that order, packing and
//! epochs do not matter; a sample that was tokenised otherwise is not found, which is an error.

use crate::objective::logits::{rows_of_chunk, shifted};
use crate::{Batch, IGNORED, Policy, Sample, files};
use anyhow::{Context, Result, bail, ensure};
use candle_ascend::{DType, ops};
use safetensors::tensor::{Dtype, Metadata, TensorInfo};
use std::collections::HashMap;
use std::fs::File;
use std::io::{BufWriter, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

/// Bytes of an index, and of a log-probability.
const NUMBER: u64 = 4;

/// What a sample is known by.
pub fn key(sample: &Sample) -> u64 {
    let bytes = sample
        .tokens
        .iter()
        .zip(&sample.labels)
        .flat_map(|(token, &label)| token.to_le_bytes().into_iter().chain([u8::from(label != IGNORED)]));
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3))
}

/// A file of a teacher's likeliest tokens.
#[derive(Debug)]
pub struct TeacherLogits {
    path: PathBuf,
    file: File,
    /// The first row of each sample, and their number.
    places: HashMap<u64, (u64, usize)>,
    top_k: usize,
    indices_at: u64,
    log_probs_at: u64,
}

impl TeacherLogits {
    pub fn open(path: &Path) -> Result<Self> {
        Self::read(path).with_context(|| format!("reading the teacher's logits in {}", path.display()))
    }

    fn read(path: &Path) -> Result<Self> {
        let mut file = File::open(path)?;
        let mut length = [0; 8];
        file.read_exact(&mut length).context("it is not a safetensors file")?;
        let header_bytes = u64::from_le_bytes(length);
        ensure!(header_bytes < 1 << 20, "it is not a safetensors file: its header has {header_bytes} bytes");
        let mut header = Vec::new();
        (&mut file).take(header_bytes).read_to_end(&mut header)?;
        let metadata: Metadata = serde_json::from_slice(&header).context("it is not a safetensors file")?;
        let data = 8 + header_bytes;
        let find = |name: &str, dtype: Dtype, rank: usize| -> Result<&TensorInfo> {
            let info = metadata.info(name).with_context(|| format!("it has no tensor {name}"))?;
            ensure!(
                info.dtype == dtype && info.shape.len() == rank,
                "its tensor {name} is {:?} of {:?}, wanted {dtype:?} of {rank} dimensions",
                info.dtype,
                info.shape
            );
            Ok(info)
        };
        let (indices, log_probs) = (find("indices", Dtype::U32, 2)?, find("log_probs", Dtype::F32, 2)?);
        let (keys, ends) = (find("keys", Dtype::U64, 1)?, find("ends", Dtype::U64, 1)?);
        ensure!(
            indices.shape == log_probs.shape && keys.shape == ends.shape && indices.shape[1] > 0,
            "its tensors do not belong together: indices {:?}, log_probs {:?}, keys {:?}, ends {:?}",
            indices.shape,
            log_probs.shape,
            keys.shape,
            ends.shape
        );
        let (whole, wanted) = (file.metadata()?.len(), data + end_of(&metadata));
        ensure!(whole == wanted, "it has {whole} bytes, wanted {wanted}: it was not written to its end");
        let mut numbers = |info: &TensorInfo| -> Result<Vec<u64>> {
            let mut bytes = vec![0; info.data_offsets.1 - info.data_offsets.0];
            file.seek(SeekFrom::Start(data + info.data_offsets.0 as u64))?;
            file.read_exact(&mut bytes)?;
            Ok(bytes.as_chunks::<8>().0.iter().map(|bytes| u64::from_le_bytes(*bytes)).collect())
        };
        let (keys, ends) = (numbers(keys)?, numbers(ends)?);
        let starts = std::iter::once(0).chain(ends.iter().copied());
        let (rows, mut places) = (indices.shape[0] as u64, HashMap::with_capacity(keys.len()));
        for ((key, start), end) in keys.into_iter().zip(starts).zip(&ends) {
            ensure!(start <= *end && *end <= rows, "the rows {start} to {end} of a sample are not among its {rows}");
            places.insert(key, (start, (end - start) as usize));
        }
        let (top_k, at) = (indices.shape[1], |info: &TensorInfo| data + info.data_offsets.0 as u64);
        let (indices_at, log_probs_at) = (at(indices), at(log_probs));
        Ok(Self { path: path.to_owned(), file, places, top_k, indices_at, log_probs_at })
    }

    /// Tokens a position.
    pub fn top_k(&self) -> usize {
        self.top_k
    }

    /// The teacher's likeliest tokens at the learnt positions of `batch`, and their log-probabilities, [`Self::top_k`] a
    /// position, one after another.
    pub fn of_batch(&mut self, batch: &Batch) -> Result<(Vec<u32>, Vec<f32>)> {
        let (mut indices, mut log_probs) = (Vec::new(), Vec::new());
        for sample in batch.samples.iter().filter(|sample| sample.targets() > 0) {
            let &(start, rows) = self.places.get(&key(sample)).with_context(|| {
                format!(
                    "a sample of {} tokens is not in {}: it was written with other data, another tokenizer or template, or \
                     another --max-length",
                    sample.tokens.len(),
                    self.path.display()
                )
            })?;
            let first = start * self.top_k as u64 * NUMBER;
            let (bytes, more) =
                (self.bytes(self.indices_at + first, rows)?, self.bytes(self.log_probs_at + first, rows)?);
            indices.extend(bytes.as_chunks::<4>().0.iter().map(|bytes| u32::from_le_bytes(*bytes)));
            log_probs.extend(more.as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)));
        }
        Ok((indices, log_probs))
    }

    /// Those of `rows` rows, from byte `at` of the file on.
    fn bytes(&mut self, at: u64, rows: usize) -> Result<Vec<u8>> {
        let mut bytes = vec![0; rows * self.top_k * NUMBER as usize];
        self.file.seek(SeekFrom::Start(at))?;
        self.file.read_exact(&mut bytes).with_context(|| format!("reading {}", self.path.display()))?;
        Ok(bytes)
    }
}

/// Bytes of all tensors.
fn end_of(metadata: &Metadata) -> u64 {
    metadata.tensors().values().map(|info| info.data_offsets.1 as u64).max().unwrap_or_default()
}

/// Writes what `teacher`, called `name`, finds likeliest at the learnt positions of `count` samples: the `top_k` likeliest
/// tokens of each. `progress` hears how many samples are done. The file appears complete or not at all.
pub fn write(
    path: &Path,
    (teacher, name): (&Policy, &str),
    top_k: usize,
    count: usize,
    sample: &dyn Fn(usize) -> Result<Sample>,
    progress: &dyn Fn(usize, usize),
) -> Result<()> {
    let vocabulary = teacher.head()?.dim(0)?;
    ensure!((1..=vocabulary).contains(&top_k), "--top-k {top_k}: wanted 1 to the vocabulary's {vocabulary} tokens");
    // Which samples there are has to be known before the first is written. Equal ones are written once.
    let (mut places, mut keys, mut ends, mut rows) = (HashMap::new(), Vec::new(), Vec::new(), 0);
    for index in 0..count {
        let sample = sample(index)?;
        if sample.targets() > 0 && places.insert(key(&sample), index).is_none() {
            rows += sample.targets() as u64;
            keys.push(key(&sample));
            ends.push(rows);
        }
    }
    let Some(file) = path.file_name() else { bail!("{} is no file", path.display()) };
    files::into_folder(files::parent(path), |folder| {
        let (header, starts) = header(name, keys.len(), rows, top_k);
        let mut out = BufWriter::new(File::create(folder.join(file))?);
        out.write_all(&header)?;
        keys.iter().chain(&ends).try_for_each(|number| out.write_all(&number.to_le_bytes()))?;
        let mut row = 0;
        for (done, key) in keys.iter().enumerate() {
            let sample = sample(places[key])?;
            let (indices, log_probs) = likeliest(teacher, &sample, top_k)?;
            let first = row * top_k as u64 * NUMBER;
            out.seek(SeekFrom::Start(starts[0] + first))?;
            indices.iter().try_for_each(|number| out.write_all(&number.to_le_bytes()))?;
            out.seek(SeekFrom::Start(starts[1] + first))?;
            log_probs.iter().try_for_each(|number| out.write_all(&number.to_le_bytes()))?;
            row += sample.targets() as u64;
            progress(done + 1, keys.len());
        }
        Ok(out.flush()?)
    })
    .with_context(|| format!("writing the teacher's logits to {}", path.display()))
}

/// The file's header, and where `indices` and `log_probs` begin.
fn header(teacher: &str, samples: usize, rows: u64, top_k: usize) -> (Vec<u8>, [u64; 2]) {
    let (samples, numbers) = (samples as u64, rows * top_k as u64);
    let mut end = 0;
    let mut tensor = |dtype: &str, shape: &[u64], bytes: u64| {
        let start = end;
        end += bytes;
        serde_json::json!({"dtype": dtype, "shape": shape, "data_offsets": [start, end]})
    };
    let json = serde_json::json!({
        "__metadata__": {"format": "npu-run teacher logits", "teacher": teacher},
        "keys": tensor("U64", &[samples], samples * 8),
        "ends": tensor("U64", &[samples], samples * 8),
        "indices": tensor("U32", &[rows, top_k as u64], numbers * NUMBER),
        "log_probs": tensor("F32", &[rows, top_k as u64], numbers * NUMBER),
    });
    let mut text = json.to_string().into_bytes();
    text.resize(text.len().next_multiple_of(8), b' ');
    let data = 8 + text.len() as u64;
    let starts = [data + samples * 16, data + samples * 16 + numbers * NUMBER];
    ((text.len() as u64).to_le_bytes().into_iter().chain(text).collect(), starts)
}

/// The likeliest tokens at each learnt position of `sample`, and their log-probabilities.
fn likeliest(teacher: &Policy, sample: &Sample, top_k: usize) -> Result<(Vec<u32>, Vec<f32>)> {
    let batch = Batch::new(vec![sample.clone()]);
    let (rows, _) = batch.predicted(&teacher.device)?;
    let hidden = candle_ascend::no_grad(|| anyhow::Ok(teacher.hidden(&batch)?.index_select(&rows, 0)?))?;
    let (mut indices, mut log_probs) = (Vec::new(), Vec::new());
    let head = teacher.head()?;
    ops::linear_map(&hidden, head, rows_of_chunk(head.dim(0)?), &mut |logits, _| {
        let (shifted, log_sum) = shifted(logits, 1.)?;
        for row in shifted.broadcast_sub(&log_sum)?.to_dtype(DType::F32)?.to_vec2::<f32>()? {
            let mut order: Vec<u32> = (0..row.len() as u32).collect();
            let likelier = |a: &u32, b: &u32| row[*b as usize].total_cmp(&row[*a as usize]).then(a.cmp(b));
            if top_k < order.len() {
                order.select_nth_unstable_by(top_k - 1, likelier);
                order.truncate(top_k);
            }
            order.sort_unstable_by(likelier);
            log_probs.extend(order.iter().map(|&token| row[token as usize]));
            indices.extend(order);
        }
        // Nothing is handed on but what was noted.
        log_sum.narrow(0, 0, 0)
    })?;
    Ok((indices, log_probs))
}
