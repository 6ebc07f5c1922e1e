//! Multi-head latent attention (DeepSeek-V2, arXiv 2405.04434): keys and values of all heads are products of one narrow
//! latent row a token, and only that row and a small rotated key are cached.
//!
//! Shapes: B sequences of T tokens, S positions in the cache, N heads; a query and a key are `nope` columns without
//! position and `rope` rotated ones; L is the latent's width, V a value's.

use crate::cache::LayerView;
use crate::decoder::{Linear, Pass, RmsNorm};
use crate::{Config, Fields, Loader};
use anyhow::Result;
use candle_ascend::ops::{LatentStep, LatentWeights};
use candle_ascend::{D, Tensor, ops};

/// Widths of multi-head latent attention.
#[derive(Clone, Debug, PartialEq)]
pub struct MlaConfig {
    /// Width of the queries' own latent; queries are projected directly without it.
    pub q_lora_rank: Option<usize>,
    pub kv_lora_rank: usize,
    pub qk_nope_head_dim: usize,
    pub qk_rope_head_dim: usize,
    pub v_head_dim: usize,
    /// The rotated columns pair neighbours rather than halves.
    pub interleaved: bool,
}

impl MlaConfig {
    pub(crate) fn from_fields(fields: &mut Fields) -> Result<Self> {
        let widest = 1 << 16;
        let mla = Self {
            q_lora_rank: fields.size("q_lora_rank", widest)?,
            kv_lora_rank: fields.want_size("kv_lora_rank", widest)?,
            qk_nope_head_dim: fields.want_size("qk_nope_head_dim", widest)?,
            qk_rope_head_dim: fields.want_size("qk_rope_head_dim", widest)?,
            v_head_dim: fields.want_size("v_head_dim", widest)?,
            interleaved: fields.flag("rope_interleave")?.unwrap_or(true),
        };
        let whole = mla.qk_nope_head_dim + mla.qk_rope_head_dim;
        let given = fields.size("qk_head_dim", widest)?.unwrap_or(whole);
        anyhow::ensure!(
            given == whole,
            "qk_head_dim is {given}, and qk_nope_head_dim and qk_rope_head_dim add up to {whole}"
        );
        Ok(mla)
    }
}

/// Where queries come from.
enum Query {
    Direct(Linear),
    /// Through a latent of their own, which the same product gives as the keys' latent.
    Latent {
        norm: RmsNorm,
        up: Linear,
    },
}

/// One layer's latent attention.
pub struct Mla {
    query: Query,
    /// The latents' products of the hidden state, `[q_lora? + L + rope, H]`.
    down: Linear,
    norm: RmsNorm,
    /// Keys and values of all heads from the latent, `[N · (nope + V), L]`.
    up: Tensor,
    output: Linear,
    heads: usize,
    widths: MlaConfig,
    scale: f64,
    /// What stands before attention in one launch, and attention in another, where the device has both. The cache then holds
    /// latent rows and rotated keys apart.
    step: Option<LatentStep>,
}

/// What is cached of all positions that a pass sees.
struct Cached {
    /// `[B, 1, S, L]`
    rows: Tensor,
    /// `[B, 1, S, rope]`
    turned: Tensor,
    /// Both side by side, where they lie so.
    both: Option<Tensor>,
}

impl Cached {
    fn keys(&self) -> Result<Tensor> {
        Ok(match &self.both {
            Some(both) => both.clone(),
            None => Tensor::cat(&[&self.rows, &self.turned], D::Minus1)?,
        })
    }
}

impl Mla {
    pub fn load(loader: &Loader, config: &Config, widths: &MlaConfig, name: &str) -> Result<Self> {
        let (heads, hidden) = (config.num_attention_heads, config.hidden_size);
        let (nope, rope, latent) = (widths.qk_nope_head_dim, widths.qk_rope_head_dim, widths.kv_lora_rank);
        let norm = |which: &str, width| {
            RmsNorm::load(loader, &format!("{name}.{which}_layernorm"), width, config.rms_norm_eps)
        };
        let key_part = (format!("{name}.kv_a_proj_with_mqa"), latent + rope);
        let rows = heads * (nope + widths.v_head_dim);
        let up = loader.tensor(&format!("{name}.kv_b_proj.weight"), &[rows, latent])?;
        let key_norm = norm("kv_a", latent)?;
        let mut step = None;
        let (query, down) = match widths.q_lora_rank {
            None => {
                let query = Linear::load(loader, &format!("{name}.q_proj"), heads * (nope + rope), hidden, false)?;
                let down = Linear::load(loader, &key_part.0, key_part.1, hidden, config.attention_bias)?;
                (Query::Direct(query.by_halves(widths, heads)?), down)
            }
            Some(rank) => {
                let up_query = Linear::load(loader, &format!("{name}.q_b_proj"), heads * (nope + rope), rank, false)?;
                let parts = [(format!("{name}.q_a_proj"), rank), key_part];
                let down = Linear::merged(loader, &parts, hidden, config.attention_bias)?;
                let query_norm = norm("q_a", rank)?;
                // What is trained changes, and a copy in blocks would not.
                if !loader.is_tuned()
                    && widths.interleaved
                    && let (Some(down), Some(up_query)) = (down.alone(), up_query.alone())
                {
                    step = LatentStep::new(LatentWeights {
                        down_query: &down.narrow(0, 0, rank)?,
                        up_query,
                        down_key: &down.narrow(0, rank, latent + rope)?,
                        up_key: &up_parts(&up, heads, widths)?.0,
                        query_norm: query_norm.weight(),
                        key_norm: key_norm.weight(),
                        eps: key_norm.eps(),
                    })?;
                }
                (Query::Latent { norm: query_norm, up: up_query.by_halves(widths, heads)? }, down)
            }
        };
        let output = format!("{name}.o_proj");
        Ok(Self {
            query,
            down: down.last_by_halves(widths)?,
            norm: key_norm,
            up,
            output: Linear::load(loader, &output, hidden, heads * widths.v_head_dim, config.attention_bias)?,
            heads,
            widths: widths.clone(),
            scale: ((nope + rope) as f64).powf(-0.5) * config.rope.score_factor(),
            step,
        })
    }

    /// `x` [B, T, H] → [B, T, H].
    pub(crate) fn forward(&self, x: &Tensor, pass: &Pass, mut cache: LayerView) -> Result<Tensor> {
        let (batch, tokens, _) = x.dims3()?;
        let MlaConfig { kv_lora_rank: latent, qk_nope_head_dim: nope, qk_rope_head_dim: rope, .. } = self.widths;
        if let Some(mixed) = self.step(x, pass, &cache)? {
            return self.project(&self.values_of(&mixed.transpose(1, 2)?)?);
        }
        let down = self.down.forward(x)?;
        let (query, own) = match &self.query {
            Query::Direct(query) => (query.forward(x)?, 0),
            Query::Latent { norm, up } => {
                let rank = down.dim(D::Minus1)? - latent - rope;
                (up.forward(&norm.forward(&down.narrow(D::Minus1, 0, rank)?.contiguous()?)?)?, rank)
            }
        };
        let query = query.reshape((batch, tokens, self.heads, nope + rope))?.transpose(1, 2)?;
        let row = self.norm.forward(&down.narrow(D::Minus1, own, latent)?.contiguous()?)?.unsqueeze(1)?;
        let key_rope = down.narrow(D::Minus1, own + latent, rope)?.unsqueeze(1)?;
        let query_rope = query.narrow(D::Minus1, nope, rope)?;
        let (query_rope, key_rope) = pass.rotate(&query_rope, &key_rope)?;
        let cached = self.keep(&row, &key_rope, pass, &mut cache)?;
        let query = (query.narrow(D::Minus1, 0, nope)?, query_rope);
        // One token reads each cached row once and shares it among the heads; many tokens pay less for expanded keys.
        let mixed =
            if tokens == 1 { self.absorbed(query, &cached, pass)? } else { self.expanded(query, &cached, pass)? };
        self.project(&mixed)
    }

    /// What attention gives `[B, 1, N, L]` where the device does it and all before it by itself; none elsewhere.
    fn step(&self, x: &Tensor, pass: &Pass, cache: &LayerView) -> Result<Option<Tensor>> {
        let (Some(step), Some(_)) = (&self.step, pass.positions()) else { return Ok(None) };
        let (rows, turned) = cache.apart()?;
        let Some(places) = pass.latent_places(rows.dim(2)?)? else { return Ok(None) };
        Ok(step.attend(x, places, (&rows, &turned), self.scale)?)
    }

    /// Puts latent rows `[B, 1, T, L]` and rotated keys `[B, 1, T, rope]` into the cache.
    fn keep(&self, row: &Tensor, turned: &Tensor, pass: &Pass, cache: &mut LayerView) -> Result<Cached> {
        if self.step.is_some() {
            let (rows, turned) = match pass.positions() {
                None => cache.append_apart(row, turned)?,
                Some(positions) => cache.write_apart_at(row, turned, positions)?,
            };
            return Ok(Cached { rows, turned, both: None });
        }
        let row = Tensor::cat(&[row, turned], D::Minus1)?;
        let both = match pass.positions() {
            None => cache.append_one(&row)?,
            Some(positions) => cache.write_one_at(&row, positions)?,
        };
        let MlaConfig { kv_lora_rank: latent, qk_rope_head_dim: rope, .. } = self.widths;
        let (rows, turned) = (both.narrow(D::Minus1, 0, latent)?, both.narrow(D::Minus1, latent, rope)?);
        Ok(Cached { rows, turned, both: Some(both) })
    }

    /// `mixed` [B, N, T, V] → [B, T, H].
    fn project(&self, mixed: &Tensor) -> Result<Tensor> {
        let (batch, heads, tokens, value) = mixed.dims4()?;
        self.output.forward(&mixed.transpose(1, 2)?.reshape((batch, tokens, heads * value))?)
    }

    /// Attention in the latent space: the keys' projection is applied to the query, the values' to the result. → [B, N, 1, V].
    fn absorbed(&self, (nope, rope): (Tensor, Tensor), cached: &Cached, pass: &Pass) -> Result<Tensor> {
        let (keys, _) = up_parts(&self.up, self.heads, &self.widths)?;
        let query = by_batch(&by_head(&nope)?.matmul(&keys)?)?;
        let query = Tensor::cat(&[&query, &rope], D::Minus1)?;
        self.values_of(&pass.attention(&query, &cached.keys()?, &cached.rows, self.scale)?)
    }

    /// Values of what attention gives in the latent space, [B, N, 1, L] → [B, N, 1, V].
    fn values_of(&self, mixed: &Tensor) -> Result<Tensor> {
        let (_, values) = up_parts(&self.up, self.heads, &self.widths)?;
        by_batch(&by_head(mixed)?.matmul(&values.transpose(1, 2)?)?)
    }

    /// Attention over keys and values of every head, made from the cached rows. → [B, N, T, V].
    fn expanded(&self, (nope, rope): (Tensor, Tensor), cached: &Cached, pass: &Pass) -> Result<Tensor> {
        let (batch, _, positions, _) = cached.rows.dims4()?;
        let MlaConfig { kv_lora_rank: latent, qk_nope_head_dim, qk_rope_head_dim, v_head_dim, .. } = self.widths;
        let rows = cached.rows.reshape((batch * positions, latent))?;
        let both = ops::linear(&rows, &self.up, None)?;
        let both = both.reshape((batch, positions, self.heads, qk_nope_head_dim + v_head_dim))?.transpose(1, 2)?;
        let shared = cached.turned.broadcast_as((batch, self.heads, positions, qk_rope_head_dim))?;
        let keys = Tensor::cat(&[&both.narrow(D::Minus1, 0, qk_nope_head_dim)?, &shared.contiguous()?], D::Minus1)?;
        let values = both.narrow(D::Minus1, qk_nope_head_dim, v_head_dim)?.contiguous()?;
        let query = Tensor::cat(&[&nope, &rope], D::Minus1)?;
        pass.attention(&query, &keys, &values, self.scale)
    }
}

/// The up-projection's parts, `[N, nope, L]` for keys and `[N, V, L]` for values.
fn up_parts(up: &Tensor, heads: usize, widths: &MlaConfig) -> Result<(Tensor, Tensor)> {
    let (nope, value) = (widths.qk_nope_head_dim, widths.v_head_dim);
    let up = up.reshape((heads, nope + value, widths.kv_lora_rank))?;
    Ok((up.narrow(1, 0, nope)?, up.narrow(1, nope, value)?))
}

/// `[B, N, 1, ·]` as `[N, B, ·]`: a view, as with one token to a sequence nothing has to be moved.
fn by_head(x: &Tensor) -> Result<Tensor> {
    Ok(x.squeeze(2)?.transpose(0, 1)?)
}

/// And back.
fn by_batch(x: &Tensor) -> Result<Tensor> {
    Ok(x.transpose(0, 1)?.unsqueeze(2)?)
}

impl Linear {
    /// Queries' rows with the rotated columns of each head in halves instead of neighbouring pairs, so that one rotation
    /// serves all models. The score of a query and a key does not change when both are reordered alike.
    fn by_halves(self, widths: &MlaConfig, heads: usize) -> Result<Self> {
        let (nope, rope) = (widths.qk_nope_head_dim, widths.qk_rope_head_dim);
        let order = (0..heads).flat_map(|head| {
            let first = head * (nope + rope);
            (first..first + nope).chain(halves(first + nope, rope))
        });
        if widths.interleaved { self.select_rows(order.collect()) } else { Ok(self) }
    }

    /// The same for the last `rope` rows, the shared key's.
    fn last_by_halves(self, widths: &MlaConfig) -> Result<Self> {
        let kept = self.outputs()? - widths.qk_rope_head_dim;
        let order = (0..kept).chain(halves(kept, widths.qk_rope_head_dim));
        if widths.interleaved { self.select_rows(order.collect()) } else { Ok(self) }
    }
}

/// Even places first, then odd ones, of `width` places from `first`.
fn halves(first: usize, width: usize) -> impl Iterator<Item = usize> {
    (0..width).step_by(2).chain((1..width).step_by(2)).map(move |i| first + i)
}
