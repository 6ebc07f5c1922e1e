//! `--model`, `--adapter` and `--dtype`: where the checkpoint is, what stands beside it, and the type to compute in.

use crate::cli::ModelArgs;
use crate::demo;
use anyhow::{Result, bail};
use candle_ascend::{DType, Device};
use npu_models::gguf::Gguf;
use npu_models::{Config, Loaded};
use npu_train::adapter::load_with_adapter;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

/// A checkpoint's folder or GGUF file; the demo model's exists as long as this value.
pub enum Folder {
    Given(PathBuf),
    Demo(TempDir),
}

impl Folder {
    pub fn of(args: &ModelArgs) -> Result<Self> {
        match &args.model {
            Some(path) if path.exists() => Ok(Folder::Given(path.clone())),
            Some(path) => bail!(
                "--model {}: no such folder or file; it must be a folder with config.json and model.safetensors, as a Hugging \
                 Face checkpoint is, or a GGUF file",
                path.display()
            ),
            None => Ok(Folder::Demo(demo::unpack()?)),
        }
    }

    pub fn path(&self) -> &Path {
        match self {
            Folder::Given(path) => path,
            Folder::Demo(folder) => folder.path(),
        }
    }

    /// What to call the model in reports.
    pub fn name(&self) -> String {
        match self {
            Folder::Given(path) => path.display().to_string(),
            Folder::Demo(_) => "demo (embedded)".into(),
        }
    }
}

/// The checkpoint in `folder`, with the adapter that the arguments name beside it.
pub fn load(
    args: &ModelArgs,
    folder: &Folder,
    dtype: DType,
    device: &Device,
    progress: &dyn Fn(u64, u64),
) -> Result<Loaded> {
    match &args.adapter {
        Some(adapter) => load_with_adapter(folder.path(), adapter, dtype, device, progress),
        None => npu_models::load(folder.path(), dtype, device, progress),
    }
}

/// The type that `--dtype` asks for on `device`; `auto` is the checkpoint's own.
pub fn dtype(args: &ModelArgs, folder: &Folder, device: &Device) -> Result<DType> {
    let stored = if args.dtype == "auto" { Config::of(folder.path())?.dtype } else { None };
    dtype_named(&args.dtype, stored.as_deref(), device, Gguf::is(folder.path()))
}

/// The type called `name` on `device`, for a checkpoint whose own is `stored`. A file of blocks has none: the CPU multiplies
/// blocks to F32, other devices compute in BF16.
pub fn dtype_named(name: &str, stored: Option<&str>, device: &Device, of_blocks: bool) -> Result<DType> {
    Ok(match name {
        "f32" | "float32" => DType::F32,
        "f16" | "float16" => DType::F16,
        "bf16" | "bfloat16" => DType::BF16,
        "auto" => match stored {
            Some("float32") => DType::F32,
            Some("float16") => DType::F16,
            None if of_blocks && device.is_cpu() => DType::F32,
            _ => DType::BF16,
        },
        other => bail!("--dtype {other}: unknown type; use auto, f32, f16 or bf16"),
    })
}

/// What the user should know about a checkpoint of quantised blocks on `device`, in one line; nothing where nothing changes.
pub fn widened(folder: &Folder, device: &Device, dtype: DType) -> Result<Option<String>> {
    if device.is_cpu() || !Gguf::is(folder.path()) || Config::of(folder.path())?.dtype.is_some() {
        return Ok(None);
    }
    let bits = dtype.size_in_bytes() * 8;
    Ok(Some(format!("quantised weights are widened to {} here: they take {bits} bits each", dtype.as_str())))
}
