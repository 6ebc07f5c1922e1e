//! What is to be measured, checked before anything is loaded.

use super::gguf::{self, Format};
use crate::cli::BenchArgs;
use crate::model;
use anyhow::{Context, Result, bail, ensure};
use candle_ascend::{DType, Device};
use npu_models::gguf::Gguf;
use npu_models::{Config, Shape};
use std::path::PathBuf;

/// Where the weights come from.
pub enum Model {
    Random,
    Folder(PathBuf),
}

/// A benchmark, checked.
pub struct Plan {
    /// The shape's name or the checkpoint's folder.
    pub name: String,
    pub model: Model,
    pub config: Config,
    pub format: Format,
    pub prompt_tokens: usize,
    pub decode_tokens: usize,
    pub repeat: usize,
    pub warmup: usize,
    /// Whether captured graphs are left alone.
    pub enforce_eager: bool,
    /// Whether PyTorch is to run on the GPU, as we do.
    pub on_gpu: bool,
    pub threads: usize,
}

impl Plan {
    pub fn new(args: &BenchArgs, device: &Device) -> Result<Self> {
        let (name, model, config) = match &args.model {
            Some(dir) => {
                let config = Config::of(dir).context("--model")?;
                (dir.display().to_string(), Model::Folder(dir.clone()), config)
            }
            None => {
                let shape = Shape::find(&args.shape).context("--shape")?;
                (shape.name.to_owned(), Model::Random, shape.config()?)
            }
        };
        let format = match Format::parse(&args.dtype) {
            Some(format) => format,
            None => {
                let of_blocks = args.model.as_deref().is_some_and(Gguf::is);
                format_of(model::dtype_named(&args.dtype, config.dtype.as_deref(), device, of_blocks)?)
            }
        };
        for (flag, value) in [
            ("--prompt-tokens", args.prompt_tokens),
            ("--decode-tokens", args.decode_tokens),
            ("--repeat", args.repeat),
        ] {
            ensure!(value > 0, "{flag} is 0, wanted at least 1");
        }
        let (wanted, context) = (args.prompt_tokens + args.decode_tokens + 1, config.max_position_embeddings);
        ensure!(
            wanted <= context,
            "--prompt-tokens {} and --decode-tokens {} need a context of {wanted}, {name} has {context}",
            args.prompt_tokens,
            args.decode_tokens
        );
        Ok(Self {
            name,
            model,
            config,
            format,
            prompt_tokens: args.prompt_tokens,
            decode_tokens: args.decode_tokens,
            repeat: args.repeat,
            warmup: args.warmup,
            enforce_eager: args.enforce_eager,
            on_gpu: device.is_cuda(),
            threads: super::threads(),
        })
    }

    /// The type to compute in, unless the weights are quantised.
    pub fn dtype(&self) -> Option<DType> {
        match self.format {
            Format::F32 => Some(DType::F32),
            Format::F16 => Some(DType::F16),
            Format::Bf16 => Some(DType::BF16),
            Format::Q8_0 | Format::Q4KM => None,
        }
    }

    /// Where PyTorch is to run, in its words.
    pub fn peer_device(&self) -> &'static str {
        if self.on_gpu { "cuda" } else { "cpu" }
    }

    pub fn format_name(&self) -> &'static str {
        self.format.name()
    }

    /// Bytes of the weights in memory.
    pub fn weight_bytes(&self, parameters: u64) -> Result<u64> {
        match self.dtype() {
            Some(dtype) => Ok(parameters * dtype.size_in_bytes() as u64),
            None => gguf::bytes(&self.config, self.format),
        }
    }
}

fn format_of(dtype: DType) -> Format {
    match dtype {
        DType::F16 => Format::F16,
        DType::BF16 => Format::Bf16,
        _ => Format::F32,
    }
}

/// Peers that can be compared with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Peer {
    LlamaBench,
    PyTorch,
}

/// The peers that `--against` names.
pub fn peers(names: &[String]) -> Result<Vec<Peer>> {
    let mut peers = Vec::new();
    for name in names {
        let named: &[Peer] = match name.as_str() {
            "all" => &[Peer::LlamaBench, Peer::PyTorch],
            "llama-bench" | "llama.cpp" => &[Peer::LlamaBench],
            "pytorch" | "torch" => &[Peer::PyTorch],
            other => bail!("--against {other}: unknown peer; there are llama-bench and pytorch, and all for both"),
        };
        peers.extend(named);
    }
    peers.dedup();
    Ok(peers)
}
