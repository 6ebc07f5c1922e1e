//! Language models, written once for every device: configuration, weights, and one file a model.
//!
//! A checkpoint folder in Hugging Face layout goes in, [`CausalLm::forward`] comes out. No file here names a device: the
//! fused operators of `candle_ascend::ops` decompose where a device lacks them.
//!
//! A new model is a file like `qwen2.rs`, a row in [`MODELS`] and a golden file.

mod cache;
mod config;
pub mod decoder;
mod deepseek_v3;
mod fields;
mod generation_config;
mod header;
mod llama;
mod mla;
mod moe;
mod qwen2;
mod qwen3;
mod qwen3_moe;
mod rope;
mod rotary;
mod weights;

pub use cache::Cache;
pub use config::{Config, MoeConfig};
pub use fields::Fields;
pub use generation_config::GenerationConfig;
pub use mla::MlaConfig;
pub use moe::Router;
pub use rope::{Rope, RopeScaling, Yarn};
pub use weights::{Loader, Weights};

use anyhow::{Context, Result, bail};
use candle_ascend::{DType, Device, Tensor};
use std::path::Path;

/// Which positions' logits a pass computes. The projection to the vocabulary is the largest product of a short pass, and
/// generation needs one row of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Logits {
    /// `[B, T, V]`
    All,
    /// `[B, 1, V]`
    Last,
}

/// A language model that continues token sequences.
pub trait CausalLm: Send + Sync {
    fn config(&self) -> &Config;

    /// Logits after `input_ids` [B, T] (u32), the tokens that follow the ones in `cache`, to which they are added.
    ///
    /// Token ids must be below `vocab_size`; [`Config::check_tokens`] tells on the host. A pass beyond
    /// `max_position_embeddings` is an error and leaves the cache as it was.
    fn forward(&self, input_ids: &Tensor, cache: &mut Cache, logits: Logits) -> Result<Tensor>;

    /// An empty cache for this model.
    fn new_cache(&self) -> Cache {
        Cache::new(self.config().num_hidden_layers)
    }
}

/// An architecture and how it loads.
pub struct Row {
    /// As in `architectures`.
    pub architecture: &'static str,
    /// As in `model_type`.
    pub model_type: &'static str,
    pub load: fn(Config, &Loader) -> Result<Box<dyn CausalLm>>,
}

/// Every architecture that loads.
pub const MODELS: &[Row] = &[deepseek_v3::ROW, llama::ROW, qwen2::ROW, qwen3::ROW, qwen3_moe::ROW];

/// The row for a configuration: by `architectures`, or by `model_type` where that is absent.
pub fn find(config: &Config) -> Result<&'static Row> {
    let found = match (&config.architecture, &config.model_type) {
        (Some(name), _) => MODELS.iter().find(|row| row.architecture == name),
        (None, Some(name)) => MODELS.iter().find(|row| row.model_type == name),
        (None, None) => bail!("config.json has neither architectures nor model_type, so the architecture is unknown"),
    };
    let name = config.architecture.as_deref().or(config.model_type.as_deref()).unwrap_or_default();
    let known: Vec<_> = MODELS.iter().map(|row| row.architecture).collect();
    found.with_context(|| format!("unknown architecture {name}; {} are supported", known.join(", ")))
}

/// A loaded checkpoint.
pub struct Loaded {
    pub model: Box<dyn CausalLm>,
    pub dtype: DType,
    /// Tensors of the files that the model has no use for.
    pub unused: Vec<String>,
    /// Bytes of the tensors as stored.
    pub stored_bytes: u64,
}

/// Loads the checkpoint in `dir` in `dtype` to `device`; `progress` hears the bytes read so far and their total.
pub fn load(dir: &Path, dtype: DType, device: &Device, progress: &dyn Fn(u64, u64)) -> Result<Loaded> {
    let config = Config::from_dir(dir)?;
    let row = find(&config)?;
    let weights = Weights::open(dir)?;
    let loader = weights.loader(dtype, device, progress);
    let tied = config.tie_word_embeddings;
    let model = (row.load)(config, &loader)?;
    let mut unused = loader.unused();
    if tied {
        // Some checkpoints store the tied projection as well; it is the embedding.
        unused.retain(|name| name != "lm_head.weight");
    }
    Ok(Loaded { model, dtype, unused, stored_bytes: weights.stored_bytes() })
}
