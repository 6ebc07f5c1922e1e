//! `config.json`: one [`Config`] from both layouts that Hugging Face checkpoints come in.
//!
//! transformers 4 writes `rope_theta`, `rope_scaling` and `torch_dtype` at the top; transformers 5 writes `rope_parameters`
//! and `dtype`. Every key is either read, known to change nothing at inference, or refused by name: a key that is skipped
//! in silence can change the arithmetic, and a model that answers slightly wrong is worse than one that does not load.

use crate::fields::Fields;
use crate::fp8::Fp8;
use crate::gguf::Gguf;
use crate::mla::MlaConfig;
use crate::moe::{self, Router};
use crate::rope::{Rope, RopeScaling};
use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use std::path::Path;

/// What a decoder-only checkpoint says about itself.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// First entry of `architectures`, such as `Qwen2ForCausalLM`.
    pub architecture: Option<String>,
    /// Such as `qwen2`.
    pub model_type: Option<String>,
    /// Rows of the embedding.
    pub vocab_size: usize,
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Width inside the feed-forward part.
    pub intermediate_size: usize,
    pub num_hidden_layers: usize,
    pub num_attention_heads: usize,
    /// Heads of key and value; divides `num_attention_heads`.
    pub num_key_value_heads: usize,
    /// Width of a head; even, as the rotary embedding pairs its halves.
    pub head_dim: usize,
    /// Longest sequence, prompt and answer together, in tokens.
    pub max_position_embeddings: usize,
    pub rms_norm_eps: f64,
    pub rope: Rope,
    /// The output projection is the embedding.
    pub tie_word_embeddings: bool,
    /// Biases on the attention projections, for architectures that leave it open.
    pub attention_bias: bool,
    /// Biases on the feed-forward projections, for architectures that leave it open.
    pub mlp_bias: bool,
    /// Experts, for architectures that have them.
    pub moe: Option<MoeConfig>,
    /// Latent attention, for architectures that have it; `head_dim` is then the width of the rotated part of a head.
    pub mla: Option<MlaConfig>,
    /// Layers behind the last one that predict further tokens at once; they are not loaded.
    pub further_predictions: usize,
    /// How FP8 weights are scaled, where some are.
    pub fp8: Option<Fp8>,
    /// Dtype that the weights were saved in, such as `bfloat16`.
    pub dtype: Option<String>,
    pub bos_token_id: Option<u32>,
    /// Tokens that end an answer; `generation_config.json` may name others.
    pub eos_token_ids: Vec<u32>,
}

/// The experts of a checkpoint, and which layers have them.
#[derive(Clone, Debug, PartialEq)]
pub struct MoeConfig {
    pub experts: usize,
    /// Experts that a token takes.
    pub per_token: usize,
    /// Width inside an expert.
    pub intermediate_size: usize,
    /// Experts that every token takes, held as one of their common width.
    pub shared: usize,
    /// Layers in front that are dense.
    pub first_dense: usize,
    /// From there every so-many-th layer has experts, counted from `offset`.
    pub every: usize,
    pub offset: usize,
    /// Further dense layers.
    pub dense_layers: Vec<usize>,
    pub router: Router,
}

/// Keys that describe training, bookkeeping or interfaces of transformers and change no logit.
const HARMLESS: &[&str] = &[
    "_name_or_path",
    "_commit_hash",
    "_attn_implementation",
    "_attn_implementation_autoset",
    "_attn_implementation_internal",
    "attention_dropout",
    "aux_loss_alpha",
    "auto_map",
    "bad_words_ids",
    "custom_pipelines",
    "dropout",
    "embd_pdrop",
    "ep_size",
    "eos_token",
    "finetuning_task",
    "hidden_dropout",
    "id2label",
    "initializer_range",
    "keys_to_ignore_at_inference",
    "label2id",
    "license",
    "model_max_length",
    "output_attentions",
    "output_hidden_states",
    "output_router_logits",
    "pad_token_id",
    "prefix",
    "problem_type",
    "resid_pdrop",
    "router_aux_loss_coef",
    "return_dict",
    "return_dict_in_generate",
    "sep_token_id",
    "seq_aux",
    "task_specific_params",
    "tokenizer_class",
    "torchscript",
    "transformers_version",
    "unsloth_fixed",
    "unsloth_version",
    "use_bfloat16",
    "use_cache",
    "do_sample",
    "max_length",
    "min_length",
    "temperature",
    "top_k",
    "top_p",
    "repetition_penalty",
    "num_beams",
    "output_scores",
    "is_decoder",
    "begin_suppress_tokens",
    "diversity_penalty",
    "early_stopping",
    "encoder_no_repeat_ngram_size",
    "length_penalty",
    "max_new_tokens",
    "no_repeat_ngram_size",
    "num_beam_groups",
    "num_return_sequences",
    "remove_invalid_values",
    "suppress_tokens",
    "tf_legacy_loss",
    "typical_p",
];

/// Keys that change nothing while they have the value given here.
const NEUTRAL: &[(&str, &str)] = &[
    ("add_cross_attention", "false"),
    ("chunk_size_feed_forward", "0"),
    ("is_encoder_decoder", "false"),
    ("num_nextn_predict_layers", "0"),
    ("partial_rotary_factor", "1.0"),
    ("pretraining_tp", "1"),
    ("pruned_heads", "{}"),
    ("rope_interleave", "false"),
    ("rope_interleaved", "false"),
    ("tie_encoder_decoder", "false"),
    ("use_mrope", "false"),
];

impl Config {
    /// Reads the configuration of the checkpoint at `path`, a folder in Hugging Face layout or a GGUF file.
    pub fn of(path: &Path) -> Result<Self> {
        if Gguf::is(path) { Gguf::open(path)?.config() } else { Self::from_dir(path) }
    }

    /// Reads `config.json` in the checkpoint folder `dir`.
    pub fn from_dir(dir: &Path) -> Result<Self> {
        let path = dir.join("config.json");
        let text = std::fs::read_to_string(&path).with_context(|| {
            format!("cannot read {}; --model wants a checkpoint folder in Hugging Face layout", path.display())
        })?;
        Self::from_json(&text).with_context(|| format!("in {}", path.display()))
    }

    /// Parses and checks the text of a `config.json`.
    pub fn from_json(text: &str) -> Result<Self> {
        let mut fields = Fields::parse(text)?;
        let fp8 = fields.take("quantization_config").map(Fp8::from_config).transpose()?;
        let model_type = fields.text("model_type")?;
        let mut further_predictions = 0;
        let (moe, mla) = match model_type.as_deref() {
            Some("qwen3_moe") => (Some(moe::qwen3_moe(&mut fields)?), None),
            Some("deepseek_v3") => {
                further_predictions = fields.size_or_zero("num_nextn_predict_layers")?.unwrap_or(0);
                (Some(moe::deepseek_v3(&mut fields)?), Some(MlaConfig::from_fields(&mut fields)?))
            }
            _ => (None, None),
        };
        let num_hidden_layers = fields.want_size("num_hidden_layers", 1 << 12)?;
        let hidden_size = fields.want_size("hidden_size", 1 << 20)?;
        let num_attention_heads = fields.want_size("num_attention_heads", 1 << 14)?;
        let max_position_embeddings = fields.want_size("max_position_embeddings", 1 << 28)?;
        let config = Config {
            architecture: first_architecture(&mut fields)?,
            vocab_size: fields.want_size("vocab_size", 1 << 24)?,
            hidden_size,
            intermediate_size: fields.want_size("intermediate_size", 1 << 22)?,
            num_hidden_layers,
            num_attention_heads,
            num_key_value_heads: fields.size("num_key_value_heads", 1 << 14)?.unwrap_or(num_attention_heads),
            head_dim: match &mla {
                Some(mla) => rotated_width(&mut fields, mla.qk_rope_head_dim)?,
                None => head_dim(&mut fields, model_type.as_deref(), hidden_size, num_attention_heads)?,
            },
            max_position_embeddings,
            rms_norm_eps: fields.number("rms_norm_eps")?.unwrap_or(1e-6),
            rope: rope(&mut fields, max_position_embeddings)?,
            tie_word_embeddings: fields.flag("tie_word_embeddings")?.unwrap_or(false),
            attention_bias: fields.flag("attention_bias")?.unwrap_or(false),
            mlp_bias: fields.flag("mlp_bias")?.unwrap_or(false),
            moe,
            mla,
            further_predictions,
            fp8,
            dtype: dtype(&mut fields)?,
            bos_token_id: fields.token("bos_token_id")?,
            eos_token_ids: fields.tokens("eos_token_id")?,
            model_type,
        };
        let activation = fields.text("hidden_act")?.unwrap_or_else(|| "silu".into());
        ensure!(activation == "silu", "hidden_act is {activation:?}; the models here compute \"silu\" only");
        full_attention_only(&mut fields, num_hidden_layers)?;
        fields.finish(HARMLESS, NEUTRAL)?;
        config.check()?;
        Ok(config)
    }

    pub(crate) fn check(&self) -> Result<()> {
        let (heads, kv_heads) = (self.num_attention_heads, self.num_key_value_heads);
        ensure!(
            heads.is_multiple_of(kv_heads),
            "num_attention_heads {heads} is not a multiple of num_key_value_heads {kv_heads}"
        );
        ensure!(
            self.head_dim.is_multiple_of(2),
            "head_dim {} is odd; the rotary embedding pairs the two halves of a head",
            self.head_dim
        );
        if let Some(moe) = &self.moe {
            moe.check()?;
        }
        let eps = self.rms_norm_eps;
        ensure!((0.0..1.0).contains(&eps), "rms_norm_eps is {eps}, wanted a small positive number");
        for id in self.eos_token_ids.iter().chain(&self.bos_token_id) {
            ensure!((*id as usize) < self.vocab_size, "token id {id} is outside of vocab_size {}", self.vocab_size);
        }
        Ok(())
    }

    /// Refuses token ids that the embedding has no row for; on a device such an id reads memory that is not the model's.
    pub fn check_tokens(&self, ids: &[u32]) -> Result<()> {
        match ids.iter().position(|id| *id as usize >= self.vocab_size) {
            Some(at) => {
                bail!("token {} at position {at} is outside of the model's vocabulary of {}", ids[at], self.vocab_size)
            }
            None => Ok(()),
        }
    }
}

fn first_architecture(fields: &mut Fields) -> Result<Option<String>> {
    match fields.take("architectures") {
        None => Ok(None),
        Some(Value::Array(names)) => match names.first() {
            None => Ok(None),
            Some(Value::String(name)) => Ok(Some(name.clone())),
            Some(other) => bail!("architectures holds {other}, wanted names"),
        },
        Some(other) => bail!("architectures is {other}, wanted a list of names"),
    }
}

fn head_dim(fields: &mut Fields, model_type: Option<&str>, hidden: usize, heads: usize) -> Result<usize> {
    if let Some(dim) = fields.size("head_dim", 1 << 12)? {
        return Ok(dim);
    }
    if matches!(model_type, Some("qwen3" | "qwen3_moe")) {
        // Qwen3's heads do not divide the hidden size; this is the value its configuration class falls back to.
        return Ok(128);
    }
    ensure!(
        hidden.is_multiple_of(heads),
        "hidden_size {hidden} is not a multiple of num_attention_heads {heads}, and head_dim is not given"
    );
    Ok(hidden / heads)
}

/// Latent attention rotates a part of each head only; `head_dim`, where it is given, is that part's width.
fn rotated_width(fields: &mut Fields, rotated: usize) -> Result<usize> {
    let given = fields.size("head_dim", 1 << 12)?.unwrap_or(rotated);
    ensure!(given == rotated, "head_dim is {given} and qk_rope_head_dim is {rotated}");
    Ok(rotated)
}

/// Both names of the saved dtype; they must agree when both are there.
fn dtype(fields: &mut Fields) -> Result<Option<String>> {
    let (new, old) = (fields.text("dtype")?, fields.text("torch_dtype")?);
    if let (Some(new), Some(old)) = (&new, &old) {
        ensure!(new == old, "dtype says {new:?} and torch_dtype says {old:?}");
    }
    Ok(new.or(old))
}

/// Sliding windows are refused when a layer would use one; the keys are harmless otherwise.
fn full_attention_only(fields: &mut Fields, layers: usize) -> Result<()> {
    let window = fields.size("sliding_window", usize::MAX)?;
    let enabled = fields.flag("use_sliding_window")?;
    let first_windowed = fields.size_or_zero("max_window_layers")?;
    if let Some(types) = fields.take("layer_types") {
        let Value::Array(types) = types else { bail!("layer_types is {types}, wanted a list of names") };
        ensure!(types.len() == layers, "layer_types has {} entries for {layers} layers", types.len());
        if let Some((i, other)) = types.iter().enumerate().find(|(_, kind)| kind.as_str() != Some("full_attention")) {
            bail!("layer_types names {other} for layer {i}; only \"full_attention\" is supported");
        }
        return Ok(());
    }
    let Some(window) = window else { return Ok(()) };
    let reaches_a_layer = first_windowed.is_none_or(|first| first < layers);
    // A checkpoint without the switch (Mistral's layout) uses the window whenever there is one.
    if enabled.unwrap_or(true) && reaches_a_layer {
        bail!("the checkpoint attends through a sliding window of {window} tokens, which is not supported");
    }
    Ok(())
}

/// The rotary embedding's parameters from either layout.
fn rope(fields: &mut Fields, max_position_embeddings: usize) -> Result<Rope> {
    let theta = fields.number("rope_theta")?;
    let (scaling, key) = match (fields.take("rope_parameters"), fields.take("rope_scaling")) {
        (Some(new), Some(old)) if new != old => bail!("rope_parameters and rope_scaling are both given and differ"),
        (Some(new), _) => (Some(new), "rope_parameters"),
        (None, old) => (old, "rope_scaling"),
    };
    let Some(scaling) = scaling else {
        return Rope::new(theta.unwrap_or(10_000.0), RopeScaling::Default);
    };
    let mut inner = Fields::of(scaling, key)?;
    let inner_theta = inner.number("rope_theta")?;
    if let (Some(a), Some(b)) = (theta, inner_theta) {
        ensure!(a == b, "rope_theta is {a} and {key}.rope_theta is {b}");
    }
    let scaling = RopeScaling::from_fields(&mut inner, max_position_embeddings)?;
    inner.finish(&[], &[("partial_rotary_factor", "1.0")])?;
    Rope::new(inner_theta.or(theta).unwrap_or(10_000.0), scaling)
}

#[cfg(test)]
#[path = "config_tests.rs"]
mod tests;
