//! Language models, written once for every device: configuration, weights, and one file a model.
//!
//! A checkpoint, a folder in Hugging Face layout or a GGUF file, goes in, [`CausalLm::forward`] comes out. No file here names a device: the
//! fused operators of `candle_ascend::ops` decompose where a device lacks them.
//!
//! A new model is a file like `qwen2.rs`, a row in [`MODELS`] and a golden file.

mod adapter;
mod cache;
mod config;
pub mod decoder;
mod deepseek_v3;
mod fields;
mod fp8;
mod generation_config;
pub mod gguf;
mod header;
mod llama;
mod loader;
mod mla;
mod moe;
mod qwen2;
mod qwen3;
mod qwen3_moe;
mod random;
mod rope;
mod rotary;
mod shapes;
mod tuning;
mod weights;

pub use adapter::{Adapter, Dropout, Passes};
pub use cache::Cache;
pub use config::{Config, MoeConfig};
pub use fields::Fields;
pub use fp8::Fp8;
pub use generation_config::GenerationConfig;
pub use loader::{Loader, Source};
pub use mla::MlaConfig;
pub use moe::{ExpertTokens, Moe, Router};
pub use random::{Inventory, Random, normal_values};
pub use rope::{Rope, RopeScaling, Yarn};
pub use shapes::{EXPERT_SHAPES, ExpertShape, SHAPES, Shape};
pub use tuning::{AdapterOf, Held, Parameter, Tuning};
pub use weights::Weights;

use anyhow::{Context, Result, bail};
use candle_ascend::autograd::Checkpoint;
use candle_ascend::{DType, Device, Tensor};
use gguf::Gguf;
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

    /// Logits [B, 1, V] after one more token a sequence, `input_ids` [B, 1] (u32), that stands at `positions` `[B]` (i64,
    /// all the same). Where that is the device alone knows: nothing that this asks of it changes from one token to the
    /// next as long as the cache has the same capacity, so that a device which has graphs can capture it once and run it
    /// for every token.
    ///
    /// The cache must have room ([`Cache::reserve`]), and the caller counts the token ([`Cache::advance`]) and moves
    /// `positions`. `None` from models that cannot decode this way.
    fn step(&self, _input_ids: &Tensor, _positions: &Tensor, _cache: &mut Cache) -> Result<Option<Tensor>> {
        Ok(None)
    }

    /// From now on counts on the device which experts tokens go to, from zero.
    fn count_expert_tokens(&self) -> Result<()> {
        Ok(())
    }

    /// What was counted, layer by layer; nothing for models without experts. Waits for the device.
    fn expert_tokens(&self) -> Result<Vec<ExpertTokens>> {
        Ok(Vec::new())
    }

    /// Hidden states `[N, H]` after the last norm of whole sequences of these `lengths`, one after the other in `input_ids`
    /// `[N]` (u32): the pass of training, without a cache and without padding, in which no sequence sees another. Those of
    /// one length that lie side by side share the launches of their attention; everything else is one launch for all. With
    /// `keep`, layers are computed again in backward instead of keeping what is inside of them.
    fn hidden_packed(&self, _input_ids: &Tensor, _lengths: &[usize], _keep: Option<Checkpoint>) -> Result<Tensor> {
        bail!("this architecture has no pass for training yet")
    }

    /// [`Self::hidden_packed`] of sequences of one length, `input_ids` [B, T] to `[B, T, H]`.
    fn hidden(&self, input_ids: &Tensor, keep: Option<Checkpoint>) -> Result<Tensor> {
        let (batch, tokens) = input_ids.dims2().context("input_ids, wanted [B, T]")?;
        let hidden = self.hidden_packed(&input_ids.flatten_all()?, &vec![tokens; batch], keep)?;
        let width = hidden.dim(1)?;
        Ok(hidden.reshape((batch, tokens, width))?)
    }

    /// The projection `[V, H]` of hidden states to the vocabulary.
    fn head(&self) -> Result<&Tensor> {
        bail!("this architecture has no pass for training yet")
    }

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
    /// What a user should know of how they are held here, a line each.
    pub notes: Vec<String>,
}

/// Loads the checkpoint at `path`, a folder in Hugging Face layout or a GGUF file, to `device`, computing in `dtype`; `progress`
/// hears the bytes read so far and their total.
pub fn load(path: &Path, dtype: DType, device: &Device, progress: &dyn Fn(u64, u64)) -> Result<Loaded> {
    let (config, weights) = open(path)?;
    load_from(config, &weights, dtype, device, progress)
}

/// As [`load`], with variables and adapters as `tuning` says, and projections held as it says.
pub fn load_tuned(
    path: &Path,
    dtype: DType,
    device: &Device,
    progress: &dyn Fn(u64, u64),
    tuning: &Tuning<'_>,
) -> Result<Loaded> {
    let (config, weights) = open(path)?;
    build(config, &Loader::new(&weights, dtype, device, progress).tuned(tuning))
}

/// Loads a model of `config` with tensors from `source`; as [`load`] otherwise.
pub fn load_from(
    config: Config,
    source: &dyn Source,
    dtype: DType,
    device: &Device,
    progress: &dyn Fn(u64, u64),
) -> Result<Loaded> {
    build(config, &Loader::new(source, dtype, device, progress))
}

/// An architecture that does not load is said before the weights are looked for.
fn open(path: &Path) -> Result<(Config, Weights)> {
    if Gguf::is(path) {
        let file = Gguf::open(path)?;
        let config = file.config()?;
        let weights = Weights::of_gguf(file, &config);
        return Ok((config, weights));
    }
    let config = Config::from_dir(path)?;
    find(&config)?;
    let weights = Weights::open(path, &config)?;
    Ok((config, weights))
}

fn build(config: Config, loader: &Loader) -> Result<Loaded> {
    let row = find(&config)?;
    let tied = config.tie_word_embeddings;
    let model = (row.load)(config, loader)?;
    let mut unused = loader.unused();
    if tied {
        // Some checkpoints store the tied projection as well; it is the embedding.
        unused.retain(|name| name != "lm_head.weight");
    }
    let (stored_bytes, notes) = (loader.stored_bytes(), loader.notes());
    Ok(Loaded { model, dtype: loader.dtype(), unused, stored_bytes, notes })
}
