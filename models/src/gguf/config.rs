//! The metadata of a GGUF file as a [`Config`].

use super::{Gguf, Kind};
use crate::{Config, Rope, RopeScaling, Yarn};
use anyhow::{Context, Result, bail, ensure};
use candle_ascend::DType;

/// `general.architecture`, and the class whose checkpoints it is made of.
const ARCHITECTURES: &[(&str, &str)] =
    &[("llama", "LlamaForCausalLM"), ("qwen2", "Qwen2ForCausalLM"), ("qwen3", "Qwen3ForCausalLM")];

/// Keys under the architecture's name that are read here, or that change no logit. Any other is refused: it may.
const KNOWN: &[&str] = &[
    "attention.head_count",
    "attention.head_count_kv",
    "attention.key_length",
    "attention.layer_norm_rms_epsilon",
    "attention.value_length",
    "block_count",
    "context_length",
    "embedding_length",
    "feed_forward_length",
    "rope.dimension_count",
    "rope.freq_base",
    "rope.scaling.attn_factor",
    "rope.scaling.factor",
    "rope.scaling.finetuned",
    "rope.scaling.original_context_length",
    "rope.scaling.type",
    "tensor_data_layout",
    "vocab_size",
];

pub fn read(file: &Gguf) -> Result<Config> {
    let name = file.text("general.architecture")?.context("general.architecture is missing, wanted a name")?;
    let known = || ARCHITECTURES.iter().map(|row| row.0).collect::<Vec<_>>().join(", ");
    let Some((_, class)) = ARCHITECTURES.iter().find(|row| row.0 == name) else {
        bail!("unknown architecture {name} in general.architecture; {} are supported", known());
    };
    refuse_unknown(file, name)?;
    let key = |key: &str| format!("{name}.{key}");
    let size = |suffix: &str, most: usize| file.want_size(&key(suffix), most);
    let (hidden_size, heads) = (size("embedding_length", 1 << 20)?, size("attention.head_count", 1 << 14)?);
    let head_dim = head_dim(file, name, hidden_size, heads)?;
    let max_position_embeddings = size("context_length", 1 << 28)?;
    let eps = key("attention.layer_norm_rms_epsilon");
    let has = |tensor: &str| file.header.tensors.contains_key(tensor);
    let config = Config {
        architecture: Some((*class).into()),
        model_type: Some(name.into()),
        vocab_size: vocab_size(file, hidden_size)?,
        hidden_size,
        intermediate_size: size("feed_forward_length", 1 << 22)?,
        num_hidden_layers: size("block_count", 1 << 12)?,
        num_attention_heads: heads,
        num_key_value_heads: file.size(&key("attention.head_count_kv"), 1 << 14)?.filter(|n| *n > 0).unwrap_or(heads),
        head_dim,
        max_position_embeddings,
        rms_norm_eps: file.number(&eps)?.with_context(|| format!("{eps} is missing, wanted a number"))?,
        rope: rope(file, name, head_dim, max_position_embeddings)?,
        tie_word_embeddings: !has("output.weight"),
        attention_bias: has("blk.0.attn_q.bias"),
        mlp_bias: has("blk.0.ffn_down.bias"),
        moe: None,
        mla: None,
        further_predictions: 0,
        fp8: None,
        dtype: stored_dtype(file),
        bos_token_id: token(file, "tokenizer.ggml.bos_token_id")?,
        eos_token_ids: ends(file)?,
    };
    config.check()?;
    Ok(config)
}

fn refuse_unknown(file: &Gguf, name: &str) -> Result<()> {
    let prefix = format!("{name}.");
    let suffixes = file.header.metadata.keys().filter_map(|key| key.strip_prefix(&prefix));
    let unknown: Vec<_> = suffixes.filter(|suffix| !KNOWN.contains(suffix)).map(|s| format!("{prefix}{s}")).collect();
    ensure!(
        unknown.is_empty(),
        "unknown key{} {}: it may change what the model computes, so the file is not loaded",
        if unknown.len() == 1 { "" } else { "s" },
        unknown.join(", ")
    );
    Ok(())
}

fn token(file: &Gguf, key: &str) -> Result<Option<u32>> {
    Ok(file.size(key, u32::MAX as usize)?.map(|id| id as u32))
}

/// What the embedding is stored in, as `config.json` would call it; none where it is made of blocks.
fn stored_dtype(file: &Gguf) -> Option<String> {
    let name = match file.header.tensors.get("token_embd.weight")?.kind {
        Kind::Float(DType::F32) => "float32",
        Kind::Float(DType::F16) => "float16",
        Kind::Float(DType::BF16) => "bfloat16",
        _ => return None,
    };
    Some(name.into())
}

/// Tokens that end a text or a turn.
fn ends(file: &Gguf) -> Result<Vec<u32>> {
    let ids = ["eos", "eot"].map(|name| token(file, &format!("tokenizer.ggml.{name}_token_id")));
    ids.into_iter().filter_map(Result::transpose).collect()
}

/// Rows of the embedding: the key for it is optional, the tensor is not.
fn vocab_size(file: &Gguf, hidden_size: usize) -> Result<usize> {
    match file.header.tensors.get("token_embd.weight") {
        None => bail!("tensor token_embd.weight is missing"),
        Some(entry) => match *entry.shape {
            [vocab, width] if vocab > 0 && width == hidden_size => Ok(vocab),
            _ => bail!("tensor token_embd.weight has shape {:?}, wanted [vocabulary, {hidden_size}]", entry.shape),
        },
    }
}

fn head_dim(file: &Gguf, name: &str, hidden: usize, heads: usize) -> Result<usize> {
    let read = |suffix: &str| file.size(&format!("{name}.{suffix}"), 1 << 12);
    let head_dim = match read("attention.key_length")? {
        Some(length) => length,
        None => {
            ensure!(
                hidden.is_multiple_of(heads),
                "{name}.embedding_length {hidden} is not a multiple of {name}.attention.head_count {heads}, and \
                 {name}.attention.key_length is not given"
            );
            hidden / heads
        }
    };
    for suffix in ["attention.value_length", "rope.dimension_count"] {
        if let Some(other) = read(suffix)? {
            ensure!(
                other == head_dim,
                "{name}.{suffix} is {other}; only the width of a head, {head_dim}, is supported"
            );
        }
    }
    Ok(head_dim)
}

fn rope(file: &Gguf, name: &str, head_dim: usize, context: usize) -> Result<Rope> {
    let key = |suffix: &str| format!("{name}.rope.{suffix}");
    let number = |suffix: &str| file.number(&key(suffix));
    let theta = number("freq_base")?.unwrap_or(10_000.0);
    let want_factor = || {
        let factor = number("scaling.factor")?;
        let factor = factor.with_context(|| format!("{} is missing, wanted a number", key("scaling.factor")))?;
        ensure!((1.0..=1e6).contains(&factor), "{} is {factor}, wanted at least 1", key("scaling.factor"));
        Ok(factor)
    };
    let mut scaling = match file.text(&key("scaling.type"))?.unwrap_or("none") {
        "none" => RopeScaling::Default,
        "linear" => RopeScaling::Linear { factor: want_factor()? },
        "yarn" => {
            let original = file.size(&key("scaling.original_context_length"), 1 << 28)?.filter(|n| *n > 0);
            let attention = number("scaling.attn_factor")?.unwrap_or(1.0);
            RopeScaling::Yarn(Yarn::new(want_factor()?, original.unwrap_or(context), attention))
        }
        other => bail!("{} is {other:?}; none, linear and yarn are supported", key("scaling.type")),
    };
    if let Some(divisors) = divisors(file, head_dim)? {
        ensure!(scaling == RopeScaling::Default, "tensor rope_freqs.weight and {} are both given", key("scaling.type"));
        scaling = RopeScaling::Divided(divisors);
    }
    Rope::new(theta, scaling)
}

/// Llama 3's scaling, which a GGUF file holds as a tensor with a divisor for each frequency.
fn divisors(file: &Gguf, head_dim: usize) -> Result<Option<Vec<f64>>> {
    let Some(entry) = file.header.tensors.get("rope_freqs.weight") else { return Ok(None) };
    let (got, wanted) = (entry.kind.name(), head_dim / 2);
    ensure!(
        entry.kind == Kind::Float(DType::F32) && *entry.shape == [wanted],
        "tensor rope_freqs.weight is {got} {:?}, wanted F32 [{wanted}]",
        entry.shape
    );
    let (numbers, _) = file.bytes.bytes()[entry.range.clone()].as_chunks::<4>();
    let divisors: Vec<f64> = numbers.iter().map(|bytes| f32::from_le_bytes(*bytes).into()).collect();
    ensure!(divisors.iter().all(|d| d.is_finite() && *d > 0.0), "tensor rope_freqs.weight holds {divisors:?}");
    Ok(Some(divisors))
}
