//! `--model` and `--dtype`: where the checkpoint is and the type to compute in.

use crate::cli::ModelArgs;
use crate::demo;
use anyhow::{Result, bail};
use candle_ascend::DType;
use npu_models::Config;
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

/// The type that `--dtype` asks for; `auto` is the checkpoint's own.
pub fn dtype(args: &ModelArgs, folder: &Folder) -> Result<DType> {
    let stored = if args.dtype == "auto" { Config::of(folder.path())?.dtype } else { None };
    dtype_named(&args.dtype, stored.as_deref())
}

/// The type called `name`, for a checkpoint whose own is `stored`.
pub fn dtype_named(name: &str, stored: Option<&str>) -> Result<DType> {
    Ok(match name {
        "f32" | "float32" => DType::F32,
        "f16" | "float16" => DType::F16,
        "bf16" | "bfloat16" => DType::BF16,
        "auto" => match stored {
            Some("float32") => DType::F32,
            Some("float16") => DType::F16,
            _ => DType::BF16,
        },
        other => bail!("--dtype {other}: unknown type; use auto, f32, f16 or bf16"),
    })
}
