//! The blocks that decoders are made of, and the pass through them.
//!
//! Shapes: B sequences of T tokens, H hidden width, D head width. Sublayers hand the residual stream on unadded, so that the
//! addition and the norm that follows it are one operator.

use crate::adapter::Adapters;
use crate::cache::{Cache, LayerView};
use crate::loader::Loader;
use crate::mla::Mla;
use crate::moe::{ExpertTokens, Moe};
use crate::rotary::{Places, RotaryTables};
use crate::{CausalLm, Config, Logits};
use anyhow::{Context, Result, bail, ensure};
use candle_ascend::autograd::Checkpoint;
use candle_ascend::ops::{self, AttentionMask, HiddenKeys, Kernels, LatentPlaces, Turn, Weight};
use candle_ascend::{DType, Device, Tensor};
use std::sync::{Arc, OnceLock};

/// `y = x Wᵀ + b`, the weight stored `[out, in]`.
pub struct Linear {
    weight: Weight,
    bias: Option<Tensor>,
    adapters: Adapters,
}

impl Linear {
    pub fn load(loader: &Loader, name: &str, out: usize, inner: usize, bias: bool) -> Result<Self> {
        Self::merged(loader, &[(name.to_owned(), out)], inner, bias)
    }

    /// Several projections of one input, stacked into one matrix product.
    pub fn merged(loader: &Loader, parts: &[(String, usize)], inner: usize, bias: bool) -> Result<Self> {
        let names = |what: &str| -> Vec<String> { parts.iter().map(|(name, _)| format!("{name}.{what}")).collect() };
        let rows: Vec<usize> = parts.iter().map(|(_, rows)| *rows).collect();
        let weight = loader.weight(&names("weight"), &rows, inner)?;
        let bias = if bias { Some(loader.stacked(&names("bias"), &rows, None)?) } else { None };
        let adapter = |(name, rows): &(String, usize)| Ok((*rows, loader.adapter(name, *rows, inner)?));
        let adapters = Adapters::new(parts.iter().map(adapter).collect::<Result<_>>()?);
        Ok(Self { weight, bias, adapters })
    }

    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        self.adapters.add(self.weight.linear(x, self.bias.as_ref())?, x)
    }

    /// The weight, where the projection is it and nothing else: no bias, no adapter, and no blocks.
    pub(crate) fn alone(&self) -> Option<&Tensor> {
        match &self.weight {
            Weight::Dense(weight) if self.bias.is_none() && self.adapters.is_empty() => Some(weight),
            _ => None,
        }
    }

    /// Width of the result.
    pub fn outputs(&self) -> Result<usize> {
        Ok(self.weight.dims2()?.0)
    }

    /// The same projection with its outputs in another order.
    pub fn select_rows(self, order: Vec<usize>) -> Result<Self> {
        let Weight::Dense(weight) = &self.weight else { bail!("the rows of a matrix of blocks cannot be reordered") };
        ensure!(!weight.is_variable(), "a projection whose rows are reordered at load cannot be trained whole yet");
        let order = Tensor::from_iter(order.into_iter().map(|row| row as u32), weight.device())?;
        let bias = self.bias.map(|bias| bias.contiguous()?.index_select(&order, 0)).transpose()?;
        let weight = Weight::Dense(weight.contiguous()?.index_select(&order, 0)?);
        Ok(Self { weight, bias, adapters: self.adapters.reordered(order) })
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

    /// As [`RmsNorm::add_forward`], with the norm in F32 between them.
    fn add_forward_wide(&self, x: &Tensor, residual: &Tensor) -> Result<(Tensor, Tensor, Tensor)> {
        Ok(ops::add_rms_norm_wide(x, residual, &self.weight, self.eps)?)
    }

    pub(crate) fn weight(&self) -> &Tensor {
        &self.weight
    }

    pub(crate) fn eps(&self) -> f64 {
        self.eps
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
    place: Place,
    /// Of a step, for latent attention in one launch, made when it is first wanted.
    latent: OnceLock<[Tensor; 3]>,
}

/// Where the tokens of a pass stand.
enum Place {
    /// After this many positions.
    After(usize),
    /// Whole sequences of these lengths, one after the other in one row.
    Packed(Vec<usize>),
    /// One token a sequence, at positions [B] that the device holds, with the keys that lie beyond them; the sequences are
    /// numbered from 0.
    At { positions: Tensor, beyond: HiddenKeys, numbers: Tensor },
}

impl Pass {
    /// Where the tokens stand, if the device alone knows it.
    pub fn positions(&self) -> Option<&Tensor> {
        match &self.place {
            Place::After(_) | Place::Packed(_) => None,
            Place::At { positions, .. } => Some(positions),
        }
    }

    fn new((cos, sin): (Tensor, Tensor), place: Place) -> Self {
        Self { cos, sin, place, latent: OnceLock::new() }
    }

    /// Where the tokens of a step stand in caches of `capacity` positions a sequence; none of other passes.
    pub fn latent_places(&self, capacity: usize) -> Result<Option<LatentPlaces<'_>>> {
        let Place::At { positions, beyond, numbers } = &self.place else { return Ok(None) };
        let [places, cos, sin] = match self.latent.get() {
            Some(made) => made,
            None => {
                let batch = positions.dim(0)?;
                // One sequence begins where the cache does.
                let places = match batch {
                    1 => positions.clone(),
                    _ => (numbers * capacity as f64)?.add(positions)?,
                };
                let width = self.cos.dim(1)?;
                let table = |rows: &Tensor| rows.reshape((1, 1, width))?.broadcast_as((batch, 1, width))?.contiguous();
                let made = [places.reshape((batch, 1))?, table(&self.cos)?, table(&self.sin)?];
                self.latent.get_or_init(|| made)
            }
        };
        Ok(Some(LatentPlaces { places, cos, sin, mask: AttentionMask::Hidden(beyond) }))
    }

    /// Queries and keys `[B, N, T, D]` turned to the positions of the pass.
    pub fn rotate(&self, query: &Tensor, key: &Tensor) -> Result<(Tensor, Tensor)> {
        Ok(ops::rotary(query, key, &self.cos, &self.sin)?)
    }

    /// Attention `[B, N, T, E]` in which each token sees what came before it in its sequence, and itself.
    pub fn attention(&self, query: &Tensor, keys: &Tensor, values: &Tensor, scale: f64) -> Result<Tensor> {
        Ok(match &self.place {
            Place::After(offset) => {
                ops::attention(query, keys, values, scale, AttentionMask::Causal { offset: *offset })
            }
            Place::Packed(lengths) => ops::attention_packed(query, keys, values, scale, lengths),
            Place::At { beyond, .. } => ops::attention(query, keys, values, scale, AttentionMask::Hidden(beyond)),
        }?)
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
    pub(crate) fn forward(&self, x: &Tensor, pass: &Pass, mut cache: LayerView) -> Result<Tensor> {
        let (batch, tokens, _) = x.dims3()?;
        let heads = self.heads + 2 * self.kv_heads;
        let qkv = self.qkv.forward(x)?.reshape((batch, tokens, heads, self.head_dim))?;
        // Views: queries and keys lie side by side, which an NPU rotates in one launch.
        let query = qkv.narrow(2, 0, self.heads)?.transpose(1, 2)?;
        let key = qkv.narrow(2, self.heads, self.kv_heads)?.transpose(1, 2)?;
        let value = qkv.narrow(2, self.heads + self.kv_heads, self.kv_heads)?.transpose(1, 2)?;
        let (query, (keys, values)) = match &pass.place {
            // A step keeps nothing of a layer, so that the turned heads may take the place of the others.
            Place::At { positions, .. } => {
                let norms = self.qk_norm.as_ref().map(|(q, k)| (&q.weight, &k.weight, q.eps));
                let turn = Turn { norms, cos: &pass.cos, sin: &pass.sin };
                cache.turn_and_write_at([query, key, value], turn, positions)?
            }
            Place::After(_) | Place::Packed(_) => {
                let (query, key) = match &self.qk_norm {
                    None => (query, key),
                    Some((q, k)) => (q.forward(&query)?, k.forward(&key)?),
                };
                let (query, key) = pass.rotate(&query, &key)?;
                (query, cache.append(&key, &value)?)
            }
        };
        let mixed = pass.attention(&query, &keys, &values, 1.0 / (self.head_dim as f64).sqrt())?;
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

    /// `x` [B, T, H] → [B, T, H].
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        self.down.forward(&ops::swiglu(&self.gate_up.forward(x)?)?)
    }
}

/// What mixes positions.
pub enum Mixer {
    Heads(Attention),
    Latent(Box<Mla>),
}

impl Mixer {
    pub(crate) fn forward(&self, x: &Tensor, pass: &Pass, cache: LayerView) -> Result<Tensor> {
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

    pub(crate) fn forward(&self, x: &Tensor) -> Result<Tensor> {
        match self {
            Self::Dense(mlp) => mlp.forward(x),
            Self::Experts(experts) => experts.forward(x),
        }
    }

    /// [`FeedForward::forward`] of the norm of `x` added to the residual stream, and the stream with it.
    fn forward_added(&self, norm: &RmsNorm, x: &Tensor, residual: &Tensor) -> Result<(Tensor, Tensor)> {
        match self {
            // The router computes in F32, and a norm can be had in it at no cost.
            Self::Experts(experts) if experts.routes_wide() => {
                let (normed, wide, sum) = norm.add_forward_wide(x, residual)?;
                Ok((experts.forward_routed_by(&normed, &wide)?, sum))
            }
            _ => {
                let (normed, sum) = norm.add_forward(x, residual)?;
                Ok((self.forward(&normed)?, sum))
            }
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
    embedding: Weight,
    /// Of the residual stream.
    dtype: DType,
    layers: Vec<Arc<Layer>>,
    norm: RmsNorm,
    head: Linear,
    rotary: RotaryTables,
    places: Places,
}

impl Decoder {
    /// Loads what all dense decoders share, and each layer by `layer`.
    pub fn load(config: Config, loader: &Loader, layer: impl Fn(usize) -> Result<Layer>) -> Result<Self> {
        let name = "model.embed_tokens.weight".to_owned();
        let embedding = loader.weight(&[name], &[config.vocab_size], config.hidden_size)?;
        let layers =
            (0..config.num_hidden_layers).map(|index| layer(index).map(Arc::new)).collect::<Result<Vec<_>>>()?;
        let norm = RmsNorm::load(loader, "model.norm", config.hidden_size, config.rms_norm_eps)?;
        let head = if config.tie_word_embeddings {
            Linear { weight: embedding.clone(), bias: None, adapters: Adapters::default() }
        } else {
            Linear::load(loader, "lm_head", config.vocab_size, config.hidden_size, false)?
        };
        let rotary = RotaryTables::new(&config, loader.dtype(), loader.device());
        let places = Places::new(loader.device());
        Ok(Self { config, embedding, dtype: loader.dtype(), layers, norm, head, rotary, places })
    }

    pub(crate) fn layers(&self) -> &[Arc<Layer>] {
        &self.layers
    }

    /// The layers that have experts, with their numbers.
    fn experts(&self) -> impl Iterator<Item = (usize, &Moe)> {
        self.layers.iter().enumerate().filter_map(|(index, layer)| match &layer.feed_forward {
            FeedForward::Experts(experts) => Some((index, experts)),
            FeedForward::Dense(_) => None,
        })
    }

    /// A pass over the tokens that follow the ones in `cache`.
    fn pass_after(&self, start: usize, tokens: usize) -> Result<Pass> {
        Ok(Pass::new(self.rotary.rows(start, tokens)?, Place::After(start)))
    }

    /// A pass over whole sequences of these lengths, one after the other.
    fn pass_packed(&self, lengths: &[usize], device: &Device) -> Result<Pass> {
        let positions = Tensor::from_iter(lengths.iter().flat_map(|&length| 0..length as u32), device)?;
        let longest = lengths.iter().copied().max().unwrap_or_default();
        Ok(Pass::new(self.rotary.rows_at(&positions, longest)?, Place::Packed(lengths.to_vec())))
    }

    /// A pass over one token a sequence, at `positions` [B] of a cache for `capacity` positions. All are the same.
    fn pass_at(&self, positions: &Tensor, capacity: usize) -> Result<Pass> {
        let tables = self.rotary.rows_at(&positions.narrow(0, 0, 1)?, capacity)?;
        let batch = positions.dim(0)?;
        let places = self.places.up_to(capacity)?;
        let beyond = HiddenKeys::behind(positions, &places)?;
        let numbers = self.places.up_to(batch)?.squeeze(0)?;
        Ok(Pass::new(tables, Place::At { positions: positions.clone(), beyond, numbers }))
    }

    /// The layers: `input_ids` [B, T] to what the last of them adds to the residual stream, and that stream before,
    /// [B, T, H] both.
    fn run_layers(&self, input_ids: &Tensor, pass: &Pass, cache: &mut Cache) -> Result<(Tensor, Tensor)> {
        let (batch, tokens) = input_ids.dims2()?;
        let rows = self.embedding.embedding(&input_ids.flatten_all()?, self.dtype)?;
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
            let attended = layer.mixer.forward(&normed, pass, cache.layer(index))?;
            let (output, sum) = layer.feed_forward.forward_added(&layer.post_attention_norm, &attended, &residual)?;
            residual = sum;
            sublayer = Some(output);
        }
        let Some(output) = sublayer else { unreachable!("the configuration has at least one layer") };
        Ok((output, residual))
    }

    fn check(&self, input_ids: &Tensor, cache: &Cache) -> Result<usize> {
        let (_, tokens) = input_ids.dims2().context("input_ids, wanted [B, T]")?;
        ensure!(tokens > 0, "input_ids has no tokens");
        ensure!(
            cache.layers() == self.layers.len(),
            "the cache was made for {} layers, the model has {}",
            cache.layers(),
            self.layers.len()
        );
        let (end, most) = (cache.len() + tokens, self.config.max_position_embeddings);
        ensure!(end <= most, "{end} tokens, prompt and answer together, exceed the model's context of {most}");
        Ok(tokens)
    }
}

impl CausalLm for Decoder {
    fn config(&self) -> &Config {
        &self.config
    }

    fn forward(&self, input_ids: &Tensor, cache: &mut Cache, logits: Logits) -> Result<Tensor> {
        let tokens = self.check(input_ids, cache)?;
        let pass = self.pass_after(cache.len(), tokens)?;
        let (output, residual) = self.run_layers(input_ids, &pass, cache)?;
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

    fn step(&self, input_ids: &Tensor, positions: &Tensor, cache: &mut Cache) -> Result<Option<Tensor>> {
        // Decomposed, experts' groups are made from tensors that the host uploads, and their ends are read by it.
        if ops::kernels() == Kernels::Plain && self.experts().next().is_some() {
            return Ok(None);
        }
        let tokens = self.check(input_ids, cache)?;
        ensure!(tokens == 1, "a step decodes one token a sequence, got {tokens}");
        let pass = self.pass_at(positions, cache.capacity())?;
        let (output, residual) = self.run_layers(input_ids, &pass, cache)?;
        let (normed, _) = self.norm.add_forward(&output, &residual)?;
        Ok(Some(self.head.forward(&normed)?))
    }

    fn count_expert_tokens(&self) -> Result<()> {
        self.experts().try_for_each(|(_, experts)| experts.count_tokens())
    }

    fn expert_tokens(&self) -> Result<Vec<ExpertTokens>> {
        let of = |(layer, experts): (usize, &Moe)| Ok(ExpertTokens { layer, tokens: experts.tokens()? });
        self.experts().map(of).collect()
    }

    fn hidden_packed(&self, input_ids: &Tensor, lengths: &[usize], keep: Option<Checkpoint>) -> Result<Tensor> {
        let (tokens, most) = (input_ids.dims1().context("input_ids, wanted [N]")?, self.config.max_position_embeddings);
        let sum = lengths.iter().sum::<usize>();
        ensure!(sum == tokens, "{tokens} tokens are not sequences of {lengths:?}, which are {sum}");
        for length in lengths {
            ensure!(
                (1..=most).contains(length),
                "a sequence of {length} tokens, wanted 1 to the model's context of {most}"
            );
        }
        let Some(&first) = lengths.first() else { bail!("there are no sequences") };
        // Sequences of one length are the rows of a batch, whose attention is one operator.
        let ((batch, width), pass) = if lengths.iter().all(|length| *length == first) {
            ((lengths.len(), first), self.pass_after(0, first)?)
        } else {
            ((1, tokens), self.pass_packed(lengths, input_ids.device())?)
        };
        let stream =
            self.embedding.embedding(input_ids, self.dtype)?.reshape((batch, width, self.config.hidden_size))?;
        let hidden = self.norm.forward(&self.train_layers(stream, pass, keep)?)?;
        Ok(hidden.reshape((tokens, self.config.hidden_size))?)
    }

    fn head(&self) -> Result<&Tensor> {
        let Weight::Dense(weight) = &self.head.weight else {
            bail!(
                "lm_head is made of quantised blocks, which have no gradients; train the checkpoint in bf16, f16 or f32"
            )
        };
        ensure!(self.head.adapters.is_empty(), "lm_head has an adapter, which a loss over its weight would not see");
        Ok(weight)
    }
}
