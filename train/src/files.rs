//! Files that are there whole or not at all, and checkpoints in Hugging Face layout.

use anyhow::{Context, Result, ensure};
use candle_ascend::{DType, Tensor};
use half::{bf16, f16};
use serde_json::{Map, Value, json};
use std::fs::{self, File, Permissions};
use std::io::{BufWriter, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// Bytes of a file of weights, above which they are spread over several, as transformers does.
pub const SHARD_BYTES: u64 = 5_000_000_000;
/// What is written begins with this until it is whole; a killed process may leave it behind.
const PART: &str = ".part-";

/// Makes the folder `path` with what `fill` puts into it: written beside it, flushed to the disk, and renamed. A folder that
/// is there is replaced.
pub fn folder(path: &Path, fill: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    let parent = parent(path);
    fs::create_dir_all(parent).with_context(|| format!("creating {}", parent.display()))?;
    let part = part_beside(path)?;
    fill(part.path())?;
    flush(part.path())?;
    if path.exists() {
        let old = part_beside(path)?;
        let aside = old.path().join("old");
        rename(path, &aside)?;
        if let Err(error) = rename(&part.keep(), path) {
            rename(&aside, path)?;
            return Err(error);
        }
    } else {
        rename(&part.keep(), path)?;
    }
    flush_folder(parent)
}

/// Puts the files that `fill` makes into the folder `path`, each of them whole; the others stay.
pub fn into_folder(path: &Path, fill: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    fs::create_dir_all(path).with_context(|| format!("creating {}", path.display()))?;
    let part = part_beside(&path.join("files"))?;
    fill(part.path())?;
    flush(part.path())?;
    for entry in entries(part.path())? {
        rename(&entry, &path.join(entry.file_name().unwrap_or_default()))?;
    }
    flush_folder(path)
}

/// Writes the file `path` with `bytes`.
pub fn file(path: &Path, bytes: &[u8]) -> Result<()> {
    let parent = parent(path);
    fs::create_dir_all(parent).with_context(|| format!("creating {}", parent.display()))?;
    let mut part = builder(0o666).tempfile_in(parent).with_context(|| beside(path))?;
    part.write_all(bytes).and_then(|()| part.as_file().sync_all()).with_context(|| writing(path))?;
    part.persist(path).map_err(|error| error.error).with_context(|| writing(path))?;
    flush_folder(parent)
}

/// Removes what killed processes have left in `folder`.
pub fn sweep(folder: &Path) -> Result<()> {
    for entry in entries(folder)? {
        if entry.file_name().is_some_and(|name| name.to_string_lossy().starts_with(PART)) {
            let removed = if entry.is_dir() { fs::remove_dir_all(&entry) } else { fs::remove_file(&entry) };
            removed.with_context(|| format!("removing {}", entry.display()))?;
        }
    }
    Ok(())
}

/// What is in `folder`, sorted.
pub fn entries(folder: &Path) -> Result<Vec<PathBuf>> {
    let read = || fs::read_dir(folder)?.map(|entry| Ok(entry?.path())).collect::<std::io::Result<Vec<_>>>();
    let mut found = read().with_context(|| format!("reading {}", folder.display()))?;
    found.sort();
    Ok(found)
}

/// The folder that `path` is in, also where `path` is a mere name.
pub fn parent(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

fn part_beside(path: &Path) -> Result<tempfile::TempDir> {
    builder(0o777).tempdir_in(parent(path)).with_context(|| beside(path))
}

/// What will be renamed has the permissions that any new file has.
fn builder(mode: u32) -> tempfile::Builder<'static, 'static> {
    let mut builder = tempfile::Builder::new();
    builder.prefix(PART).permissions(Permissions::from_mode(mode));
    builder
}

fn beside(path: &Path) -> String {
    format!("making a temporary file or folder beside {}", path.display())
}

fn writing(path: &Path) -> String {
    format!("writing {}", path.display())
}

fn rename(from: &Path, to: &Path) -> Result<()> {
    fs::rename(from, to).with_context(|| format!("renaming {} to {}", from.display(), to.display()))
}

/// Waits until the files of `folder` are on the disk.
fn flush(folder: &Path) -> Result<()> {
    for path in entries(folder)? {
        File::open(&path).and_then(|file| file.sync_all()).with_context(|| format!("flushing {}", path.display()))?;
    }
    flush_folder(folder)
}

fn flush_folder(folder: &Path) -> Result<()> {
    File::open(folder).and_then(|file| file.sync_all()).with_context(|| format!("flushing {}", folder.display()))
}

/// What a safetensors file says of a tensor before its bytes come.
#[derive(Clone, Debug)]
pub struct Entry {
    pub name: String,
    pub dtype: DType,
    pub dims: Vec<usize>,
}

impl Entry {
    pub fn of(name: &str, tensor: &Tensor) -> Self {
        Self { name: name.to_owned(), dtype: tensor.dtype(), dims: tensor.dims().to_vec() }
    }

    pub fn bytes(&self) -> u64 {
        self.dims.iter().product::<usize>() as u64 * self.dtype.size_in_bytes() as u64
    }
}

/// Writes the safetensors file `path` with `entries`, whose tensors `tensor` gives one after the other: no more than one is on
/// the host at a time.
pub fn safetensors(path: &Path, entries: &[Entry], mut tensor: impl FnMut(usize) -> Result<Tensor>) -> Result<()> {
    let mut file = BufWriter::new(File::create(path).with_context(|| writing(path))?);
    let header = header(entries)?;
    let start = [&(header.len() as u64).to_le_bytes()[..], header.as_bytes()].concat();
    file.write_all(&start).with_context(|| writing(path))?;
    for (i, entry) in entries.iter().enumerate() {
        let bytes = bytes(&tensor(i)?).with_context(|| entry.name.clone())?;
        ensure!(
            bytes.len() as u64 == entry.bytes(),
            "{} has {} bytes, announced {}",
            entry.name,
            bytes.len(),
            entry.bytes()
        );
        file.write_all(&bytes).with_context(|| writing(path))?;
    }
    file.flush().with_context(|| writing(path))
}

/// Writes the safetensors file `path` with `tensors`.
pub fn safetensors_of(path: &Path, tensors: &[(String, Tensor)]) -> Result<()> {
    let entries: Vec<Entry> = tensors.iter().map(|(name, tensor)| Entry::of(name, tensor)).collect();
    safetensors(path, &entries, |i| Ok(tensors[i].1.clone()))
}

/// Writes `entries` into `folder` as Hugging Face lays weights out: `model.safetensors`, or above `limit` bytes shards with an
/// index.
pub fn weights(
    folder: &Path,
    entries: &[Entry],
    limit: u64,
    mut tensor: impl FnMut(usize) -> Result<Tensor>,
) -> Result<()> {
    let shards = shards(entries, limit);
    if shards.len() == 1 {
        return safetensors(&folder.join("model.safetensors"), entries, tensor);
    }
    let mut map = Map::new();
    for (number, range) in shards.iter().enumerate() {
        let name = format!("model-{:05}-of-{:05}.safetensors", number + 1, shards.len());
        safetensors(&folder.join(&name), &entries[range.clone()], |i| tensor(range.start + i))?;
        map.extend(entries[range.clone()].iter().map(|entry| (entry.name.clone(), json!(name))));
    }
    let total: u64 = entries.iter().map(Entry::bytes).sum();
    let index = json!({ "metadata": { "total_size": total }, "weight_map": map });
    let path = folder.join("model.safetensors.index.json");
    fs::write(&path, serde_json::to_string_pretty(&index)? + "\n").with_context(|| writing(&path))
}

/// Consecutive entries of at most `limit` bytes together; a larger one is alone.
fn shards(entries: &[Entry], limit: u64) -> Vec<std::ops::Range<usize>> {
    let (mut shards, mut start, mut held) = (Vec::new(), 0, 0);
    for (i, entry) in entries.iter().enumerate() {
        if i > start && held + entry.bytes() > limit {
            shards.push(start..i);
            (start, held) = (i, 0);
        }
        held += entry.bytes();
    }
    shards.push(start..entries.len());
    shards
}

/// The header of a safetensors file: padded to eight bytes, with the format that transformers asks for.
fn header(entries: &[Entry]) -> Result<String> {
    let mut fields = Map::from_iter([("__metadata__".to_owned(), json!({ "format": "pt" }))]);
    let mut offset = 0;
    for entry in entries {
        let end = offset + entry.bytes();
        let value = json!({ "dtype": code(entry.dtype)?, "shape": entry.dims, "data_offsets": [offset, end] });
        ensure!(fields.insert(entry.name.clone(), value).is_none(), "{} is to be written twice", entry.name);
        offset = end;
    }
    let mut text = Value::Object(fields).to_string();
    text.extend(std::iter::repeat_n(' ', text.len().next_multiple_of(8) - text.len()));
    Ok(text)
}

fn code(dtype: DType) -> Result<&'static str> {
    Ok(match dtype {
        DType::U8 => "U8",
        DType::I64 => "I64",
        DType::BF16 => "BF16",
        DType::F16 => "F16",
        DType::F32 => "F32",
        other => anyhow::bail!("{} is written nowhere", other.as_str()),
    })
}

/// The elements of `tensor`, row-major and little-endian.
fn bytes(tensor: &Tensor) -> Result<Vec<u8>> {
    fn of<T, const N: usize>(values: Vec<T>, bytes: impl Fn(T) -> [u8; N]) -> Vec<u8> {
        let mut all = Vec::with_capacity(values.len() * N);
        values.into_iter().for_each(|value| all.extend_from_slice(&bytes(value)));
        all
    }
    let flat = tensor.detach().flatten_all()?;
    Ok(match tensor.dtype() {
        DType::U8 => flat.to_vec1::<u8>()?,
        DType::I64 => of(flat.to_vec1()?, i64::to_le_bytes),
        DType::BF16 => of(flat.to_vec1()?, bf16::to_le_bytes),
        DType::F16 => of(flat.to_vec1()?, f16::to_le_bytes),
        DType::F32 => of(flat.to_vec1()?, f32::to_le_bytes),
        other => anyhow::bail!("{} is written nowhere", other.as_str()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_ascend::Device;
    use candle_ascend::safetensors::MmapedSafetensors;

    fn numbers(name: &str, from: u32, count: u32) -> (String, Tensor) {
        let values = (from..from + count).map(|value| value as f32);
        (name.to_owned(), Tensor::from_iter(values, &Device::Cpu).unwrap())
    }

    #[test]
    fn weights_over_the_limit_are_shards_that_load_like_one_file() {
        let folder = tempfile::tempdir().unwrap();
        let all = [numbers("a", 0, 10), numbers("b", 10, 6), numbers("c", 16, 1), numbers("d", 17, 20)];
        let entries: Vec<_> = all.iter().map(|(name, tensor)| Entry::of(name, tensor)).collect();
        // 40 and 24 bytes fit 64 and 4 more do not; 80 are over the limit alone.
        weights(folder.path(), &entries, 64, |i| Ok(all[i].1.clone())).unwrap();
        let names: Vec<_> = entries_named(folder.path(), ".safetensors");
        assert_eq!(names.len(), 3, "{names:?}");
        let index = fs::read_to_string(folder.path().join("model.safetensors.index.json")).unwrap();
        let index: Value = serde_json::from_str(&index).unwrap();
        assert_eq!(index["metadata"]["total_size"], 37 * 4);
        assert_eq!(index["weight_map"]["a"], index["weight_map"]["b"]);
        for (name, tensor) in &all {
            let file = folder.path().join(index["weight_map"][name].as_str().unwrap());
            let loaded = MmapedSafetensors::new(file).unwrap().load(name, &Device::Cpu).unwrap();
            assert_eq!(loaded.to_vec1::<f32>().unwrap(), tensor.to_vec1::<f32>().unwrap(), "{name}");
        }
    }

    fn entries_named(folder: &Path, ending: &str) -> Vec<PathBuf> {
        entries(folder).unwrap().into_iter().filter(|path| path.to_string_lossy().ends_with(ending)).collect()
    }

    #[test]
    fn a_folder_that_cannot_be_filled_leaves_the_old_one() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("kept");
        let put = |text: &'static str| move |folder: &Path| Ok(fs::write(folder.join("x"), text)?);
        folder(&path, put("first")).unwrap();
        let failed = folder(&path, |part| {
            fs::write(part.join("x"), "half")?;
            anyhow::bail!("the disk is full")
        });
        assert!(failed.is_err());
        assert_eq!(fs::read_to_string(path.join("x")).unwrap(), "first");
        assert_eq!(entries(home.path()).unwrap().len(), 1, "nothing is left over");
        folder(&path, put("second")).unwrap();
        assert_eq!(fs::read_to_string(path.join("x")).unwrap(), "second");
        assert_eq!(entries(home.path()).unwrap(), [path], "nothing is left over");
    }
}
