//! The blocks that decoders are made of, and the pass through them.
//!
//! Shapes: B sequences of T tokens, H hidden width, D head width. Sublayers hand the residual stream on unadded, so that the
//! addition and the norm that follows it are one operator.

use crate::cache::{Cache, LayerView};
use crate::mla::Mla;
use crate::moe::Moe;
use crate::rotary::RotaryTables;
use crate::weights::Loader;
use crate::{CausalLm, Config, Logits};
use anyhow::{Context, Result, ensure};
use candle_ascend::Tensor;
use candle_ascend::ops::{self, AttentionMask};

/// `y = x Wᵀ + b`, the weight stored `[out, in]`.
pub struct Linear {
    weight: Tensor,
    bias: Option<Tensor>,
}

impl Linear {
    pub fn load(loader: &Loader, name: &str, out: usize, inner: usize, bias: bool) -> Result<Self> {
        Self::merged(loader, &[(name.to_owned(), out)], inner, bias)
    }

    /// Several projections of one input, stacked into one matrix product.
    pub fn merged(loader: &Loader, parts: &[(String, usize)], inner: usize, bias: bool) -> Result<Self> {
        let names = |what: &str| -> Vec<String> { parts.iter().map(|(name, _)| format!("{name}.{what}")).collect() };
        let rows: Vec<usize> = parts.iter().map(|(_, rows)| *rows).collect();
        let load = |what: &str, columns: Option<usize>| match (names(what).as_slice(), rows.as_slice()) {
            ([name], [rows]) => loader.tensor(name, &[*rows].into_iter().chain(columns).collect::<Vec<_>>()),
            (names, rows) => loader.merged(names, rows, columns),
        };
        let weight = load("weight", Some(inner))?;
        let bias = if bias { Some(load("bias", None)?) } else { None };
        Ok(Self { weight, bias })
    }

    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        Ok(ops::linear(x, &self.weight, self.bias.as_ref())?)
    }

    /// Width of the result.
    pub fn outputs(&self) -> Result<usize> {
        Ok(self.weight.dim(0)?)
    }

    /// The same projection with its outputs in another order.
    pub fn select_rows(self, order: Vec<usize>) -> Result<Self> {
        let order = Tensor::from_iter(order.into_iter().map(|row| row as u32), self.weight.device())?;
        let bias = self.bias.map(|bias| bias.index_select(&order, 0)).transpose()?;
        Ok(Self { weight: self.weight.index_select(&order, 0)?, bias })
    }
}

/// Root mean square norm over the last dimension, computed in f32 whatever the dtype.
pub struct RmsNorm {
    weight: Tensor,
    eps: f64,
}

impl RmsNorm {
    pub fn load(loader: &Loader, name: &str, width: usize, eps: f64) -> Result<Self> {
        Ok(Self { weight: loader.tensor(&format!("{name}.weight"), &[width])?, eps })
    }

    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        Ok(ops::rms_norm(x, &self.weight, self.eps)?)
    }

    /// Adds `x` to the residual stream: (norm of the sum, the sum).
    pub fn add_forward(&self, x: &Tensor, residual: &Tensor) -> Result<(Tensor, Tensor)> {
        Ok(ops::add_rms_norm(x, residual, &self.weight, self.eps)?)
    }
}

/// What architectures decide differently about attention.
#[derive(Clone, Copy, Debug)]
pub struct AttentionKind {
    /// Query, key and value projections have biases.
    pub qkv_bias: bool,
    /// The output projection has one.
    pub output_bias: bool,
    /// Each head of query and key is normed before it is rotated.
    pub qk_norm: bool,
}

/// Grouped-query attention with rotary positions and merged query, key and value.
pub struct Attention {
    qkv: Linear,
    output: Linear,
    qk_norm: Option<(RmsNorm, RmsNorm)>,
    heads: usize,
    kv_heads: usize,
    head_dim: usize,
}

/// What a pass knows that every layer needs: where its tokens stand, and the rotary tables' rows for them.
pub(crate) struct Pass {
    cos: Tensor,
    sin: Tensor,
    /// Positions before the pass's first token.
    start: usize,
}

impl Pass {
    /// Queries and keys `[B, N, T, D]` turned to the positions of the pass.
    pub fn rotate(&self, query: &Tensor, key: &Tensor) -> Result<(Tensor, Tensor)> {
        Ok(ops::rotary(query, key, &self.cos, &self.sin)?)
    }

    /// Each token sees what came before it, and itself.
    pub fn mask(&self) -> AttentionMask<'_> {
        AttentionMask::Causal { offset: self.start }
    }
}

impl Attention {
    pub fn load(loader: &Loader, config: &Config, name: &str, kind: AttentionKind) -> Result<Self> {
        let (heads, kv_heads, head_dim) = (config.num_attention_heads, config.num_key_value_heads, config.head_dim);
        let part = |which: &str, heads: usize| (format!("{name}.{which}_proj"), heads * head_dim);
        let parts = [part("q", heads), part("k", kv_heads), part("v", kv_heads)];
        let norm = |which: &str| RmsNorm::load(loader, &format!("{name}.{which}_norm"), head_dim, config.rms_norm_eps);
        Ok(Self {
            qkv: Linear::merged(loader, &parts, config.hidden_size, kind.qkv_bias)?,
            output: Linear::load(
                loader,
                &format!("{name}.o_proj"),
                config.hidden_size,
                heads * head_dim,
                kind.output_bias,
            )?,
            qk_norm: if kind.qk_norm { Some((norm("q")?, norm("k")?)) } else { None },
            heads,
            kv_heads,
            head_dim,
        })
    }

    /// `x` [B, T, H] → [B, T, H].
    fn forward(&self, x: &Tensor, pass: &Pass, mut cache: LayerView) -> Result<Tensor> {
        let (batch, tokens, _) = x.dims3()?;
        let heads = self.heads + 2 * self.kv_heads;
        let qkv = self.qkv.forward(x)?.reshape((batch, tokens, heads, self.head_dim))?;
        // Views: queries and keys lie side by side, which an NPU rotates in one launch.
        let mut query = qkv.narrow(2, 0, self.heads)?;
        let mut key = qkv.narrow(2, self.heads, self.kv_heads)?;
        let value = qkv.narrow(2, self.heads + self.kv_heads, self.kv_heads)?;
        if let Some((query_norm, key_norm)) = &self.qk_norm {
            (query, key) = (query_norm.forward(&query)?, key_norm.forward(&key)?);
        }
        let (query, key) = (query.transpose(1, 2)?, key.transpose(1, 2)?);
        let (query, key) = pass.rotate(&query, &key)?;
        let (keys, values) = cache.append(&key, &value.transpose(1, 2)?)?;
        let scale = 1.0 / (self.head_dim as f64).sqrt();
        let mixed = ops::attention(&query, &keys, &values, scale, pass.mask())?;
        self.output.forward(&mixed.transpose(1, 2)?.reshape((batch, tokens, self.heads * self.head_dim))?)
    }
}

/// The gated feed-forward part: `down(silu(gate x) * up x)`, gate and up merged.
pub struct Mlp {
    gate_up: Linear,
    down: Linear,
}

impl Mlp {
    pub fn load(loader: &Loader, config: &Config, name: &str, bias: bool) -> Result<Self> {
        Self::of_width(loader, config.hidden_size, config.intermediate_size, name, bias)
    }

    /// A part of another width than the configuration's own.
    pub fn of_width(loader: &Loader, hidden: usize, inner: usize, name: &str, bias: bool) -> Result<Self> {
        let parts = ["gate", "up"].map(|which| (format!("{name}.{which}_proj"), inner));
        Ok(Self {
            gate_up: Linear::merged(loader, &parts, hidden, bias)?,
            down: Linear::load(loader, &format!("{name}.down_proj"), hidden, inner, bias)?,
        })
    }

    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        self.down.forward(&ops::swiglu(&self.gate_up.forward(x)?)?)
    }
}

/// What mixes positions.
pub enum Mixer {
    Heads(Attention),
    Latent(Mla),
}

impl Mixer {
    fn forward(&self, x: &Tensor, pass: &Pass, cache: LayerView) -> Result<Tensor> {
        match self {
            Self::Heads(attention) => attention.forward(x, pass, cache),
            Self::Latent(attention) => attention.forward(x, pass, cache),
        }
    }
}

/// What each position goes through by itself.
pub enum FeedForward {
    Dense(Mlp),
    Experts(Moe),
}

impl FeedForward {
    /// A dense part of the configuration's width.
    pub fn load(loader: &Loader, config: &Config, name: &str, bias: bool) -> Result<Self> {
        Ok(Self::Dense(Mlp::load(loader, config, name, bias)?))
    }

    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        match self {
            Self::Dense(mlp) => mlp.forward(x),
            Self::Experts(experts) => experts.forward(x),
        }
    }
}

/// One layer: norm, attention, norm, feed-forward.
pub struct Layer {
    pub input_norm: RmsNorm,
    pub mixer: Mixer,
    pub post_attention_norm: RmsNorm,
    pub feed_forward: FeedForward,
}

impl Layer {
    /// A dense layer under the names that Llama gave and its descendants kept.
    pub fn load(loader: &Loader, config: &Config, index: usize, kind: AttentionKind, mlp_bias: bool) -> Result<Self> {
        let name = format!("model.layers.{index}");
        let attention = Attention::load(loader, config, &format!("{name}.self_attn"), kind)?;
        let feed_forward = FeedForward::load(loader, config, &format!("{name}.mlp"), mlp_bias)?;
        Self::with(loader, config, index, Mixer::Heads(attention), feed_forward)
    }

    /// A layer of these parts with the norms of layer `index`.
    pub fn with(
        loader: &Loader,
        config: &Config,
        index: usize,
        mixer: Mixer,
        feed_forward: FeedForward,
    ) -> Result<Self> {
        let norm = |which: &str| {
            RmsNorm::load(loader, &format!("model.layers.{index}.{which}"), config.hidden_size, config.rms_norm_eps)
        };
        let (input_norm, post_attention_norm) = (norm("input_layernorm")?, norm("post_attention_layernorm")?);
        Ok(Self { input_norm, mixer, post_attention_norm, feed_forward })
    }
}

/// Embedding, layers, norm, and the projection to the vocabulary.
pub struct Decoder {
    config: Config,
    embedding: Tensor,
    layers: Vec<Layer>,
    norm: RmsNorm,
    head: Linear,
    rotary: RotaryTables,
}

impl Decoder {
    /// Loads what all dense decoders share, and each layer by `layer`.
    pub fn load(config: Config, loader: &Loader, layer: impl Fn(usize) -> Result<Layer>) -> Result<Self> {
        let embedding = loader.tensor("model.embed_tokens.weight", &[config.vocab_size, config.hidden_size])?;
        let layers = (0..config.num_hidden_layers).map(&layer).collect::<Result<Vec<_>>>()?;
        let norm = RmsNorm::load(loader, "model.norm", config.hidden_size, config.rms_norm_eps)?;
        let head = if config.tie_word_embeddings {
            Linear { weight: embedding.clone(), bias: None }
        } else {
            Linear::load(loader, "lm_head", config.vocab_size, config.hidden_size, false)?
        };
        let rotary = RotaryTables::new(&config, loader.dtype(), loader.device());
        Ok(Self { config, embedding, layers, norm, head, rotary })
    }

    fn pass(&self, tokens: usize, cache: &Cache) -> Result<Pass> {
        let start = cache.len();
        let (cos, sin) = self.rotary.rows(start, tokens)?;
        Ok(Pass { cos, sin, start })
    }
}

impl CausalLm for Decoder {
    fn config(&self) -> &Config {
        &self.config
    }

    fn forward(&self, input_ids: &Tensor, cache: &mut Cache, logits: Logits) -> Result<Tensor> {
        let (batch, tokens) = input_ids.dims2().context("input_ids, wanted [B, T]")?;
        ensure!(tokens > 0, "input_ids has no tokens");
        ensure!(
            cache.layers() == self.layers.len(),
            "the cache was made for {} layers, the model has {}",
            cache.layers(),
            self.layers.len()
        );
        let (end, most) = (cache.len() + tokens, self.config.max_position_embeddings);
        ensure!(end <= most, "{end} tokens, prompt and answer together, exceed the model's context of {most}");
        let pass = self.pass(tokens, cache)?;
        let rows = ops::embedding(&self.embedding, &input_ids.flatten_all()?)?;
        let mut residual = rows.reshape((batch, tokens, self.config.hidden_size))?;
        let mut sublayer: Option<Tensor> = None;
        for (index, layer) in self.layers.iter().enumerate() {
            let normed = match sublayer {
                None => layer.input_norm.forward(&residual)?,
                Some(output) => {
                    let (normed, sum) = layer.input_norm.add_forward(&output, &residual)?;
                    residual = sum;
                    normed
                }
            };
            let attended = layer.mixer.forward(&normed, &pass, cache.layer(index))?;
            let (normed, sum) = layer.post_attention_norm.add_forward(&attended, &residual)?;
            residual = sum;
            sublayer = Some(layer.feed_forward.forward(&normed)?);
        }
        let Some(output) = sublayer else { unreachable!("the configuration has at least one layer") };
        cache.advance(tokens);
        let (normed, _) = match logits {
            Logits::All => self.norm.add_forward(&output, &residual)?,
            Logits::Last => {
                let last = |x: &Tensor| x.narrow(1, tokens - 1, 1)?.contiguous();
                self.norm.add_forward(&last(&output)?, &last(&residual)?)?
            }
        };
        self.head.forward(&normed)
    }
}
