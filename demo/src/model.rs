//! A differentiable Qwen2 forward pass over plain candle tensors, and its files in Hugging Face's layout.
//!
//! Only operators with a gradient are used: candle's fused normalisation, softmax and rotary operators have none.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use anyhow::{Context, Result, ensure};
use candle_core::{D, DType, Device, Tensor, Var};
use rand::Rng;
use safetensors::tensor::TensorView;
use serde_json::{Value, json};

/// The sizes of the model; the rest of `config.json` follows from them.
#[derive(Clone, Debug)]
pub struct Config {
    pub vocab: usize,
    pub hidden: usize,
    pub layers: usize,
    pub heads: usize,
    pub kv_heads: usize,
    pub intermediate: usize,
    pub max_positions: usize,
}

const EPS: f64 = 1e-6;
const ROPE_THETA: f64 = 10_000.0;

impl Config {
    /// The demo model for a vocabulary of `vocab` tokens.
    pub fn demo(vocab: usize) -> Self {
        Config { vocab, hidden: 64, layers: 3, heads: 4, kv_heads: 2, intermediate: 192, max_positions: 256 }
    }

    fn head_dim(&self) -> usize {
        self.hidden / self.heads
    }

    /// `config.json` as transformers 4 writes it for `Qwen2ForCausalLM`.
    pub fn to_json(&self, eos: u32, pad: u32) -> Value {
        json!({
            "architectures": ["Qwen2ForCausalLM"],
            "model_type": "qwen2",
            "attention_dropout": 0.0,
            "bos_token_id": null,
            "eos_token_id": eos,
            "pad_token_id": pad,
            "hidden_act": "silu",
            "hidden_size": self.hidden,
            "initializer_range": 0.02,
            "intermediate_size": self.intermediate,
            "max_position_embeddings": self.max_positions,
            "max_window_layers": self.layers,
            "num_attention_heads": self.heads,
            "num_hidden_layers": self.layers,
            "num_key_value_heads": self.kv_heads,
            "rms_norm_eps": EPS,
            "rope_scaling": null,
            "rope_theta": ROPE_THETA,
            "sliding_window": null,
            "tie_word_embeddings": true,
            "torch_dtype": "bfloat16",
            "transformers_version": "4.46.0",
            "use_cache": true,
            "use_sliding_window": false,
            "vocab_size": self.vocab,
        })
    }

    /// Reads the sizes back from `config.json`.
    pub fn from_json(value: &Value) -> Result<Self> {
        let size = |key: &str| {
            value[key].as_u64().map(|n| n as usize).with_context(|| format!("config.json: {key} is not a number"))
        };
        Ok(Config {
            vocab: size("vocab_size")?,
            hidden: size("hidden_size")?,
            layers: size("num_hidden_layers")?,
            heads: size("num_attention_heads")?,
            kv_heads: size("num_key_value_heads")?,
            intermediate: size("intermediate_size")?,
            max_positions: size("max_position_embeddings")?,
        })
    }

    /// Name and shape of every weight, in a fixed order.
    fn shapes(&self) -> BTreeMap<String, Vec<usize>> {
        let (hidden, kv, inner) = (self.hidden, self.kv_heads * self.head_dim(), self.intermediate);
        let mut shapes = BTreeMap::new();
        shapes.insert("model.embed_tokens.weight".to_string(), vec![self.vocab, hidden]);
        shapes.insert("model.norm.weight".to_string(), vec![hidden]);
        for layer in 0..self.layers {
            let mut add = |name: &str, shape: &[usize]| {
                shapes.insert(format!("model.layers.{layer}.{name}"), shape.to_vec());
            };
            for (name, rows) in [("q_proj", hidden), ("k_proj", kv), ("v_proj", kv)] {
                add(&format!("self_attn.{name}.weight"), &[rows, hidden]);
                add(&format!("self_attn.{name}.bias"), &[rows]);
            }
            add("self_attn.o_proj.weight", &[hidden, hidden]);
            add("mlp.gate_proj.weight", &[inner, hidden]);
            add("mlp.up_proj.weight", &[inner, hidden]);
            add("mlp.down_proj.weight", &[hidden, inner]);
            add("input_layernorm.weight", &[hidden]);
            add("post_attention_layernorm.weight", &[hidden]);
        }
        shapes
    }
}

/// Keys and values of the tokens seen so far, one pair a layer, each `[batch, kv_heads, tokens, head_dim]`.
pub type Cache = Vec<Option<(Tensor, Tensor)>>;

/// The weights, in f32, by their Hugging Face names.
pub struct Model {
    pub config: Config,
    weights: BTreeMap<String, Var>,
    cos: Tensor,
    sin: Tensor,
}

impl Model {
    /// Fresh weights drawn from `rng`: matrices by their fan-in, those that write into the residual stream scaled down
    /// by depth; the embedding small enough that the tied output starts near uniform.
    pub fn init(config: Config, rng: &mut impl Rng) -> Result<Self> {
        let depth = (2.0 * config.layers as f32).sqrt();
        let mut weights = BTreeMap::new();
        for (name, shape) in config.shapes() {
            let count: usize = shape.iter().product();
            let values: Vec<f32> = if name.ends_with("norm.weight") {
                vec![1.0; count]
            } else if name.ends_with("bias") {
                vec![0.0; count]
            } else {
                let fan_in = (shape[1] as f32).sqrt();
                let std = match () {
                    () if name.contains("embed") => 0.08,
                    () if name.contains("o_proj") || name.contains("down_proj") => 1.0 / (fan_in * depth),
                    () => 1.0 / fan_in,
                };
                (0..count).map(|_| std * normal(rng)).collect()
            };
            weights.insert(name, Var::from_vec(values, shape, &Device::Cpu)?);
        }
        Self::assemble(config, weights)
    }

    /// Reads `config.json` and `model.safetensors` of a folder.
    pub fn load(folder: &Path) -> Result<Self> {
        let path = folder.join("config.json");
        let text = std::fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
        let config = Config::from_json(&serde_json::from_str(&text)?)?;
        let path = folder.join("model.safetensors");
        let mut tensors = candle_core::safetensors::load(&path, &Device::Cpu)
            .with_context(|| format!("reading {}", path.display()))?;
        let mut weights = BTreeMap::new();
        for (name, shape) in config.shapes() {
            let tensor = tensors.remove(&name).with_context(|| format!("{}: no tensor {name}", path.display()))?;
            ensure!(tensor.dims() == shape, "{}: {name} is {:?}, want {shape:?}", path.display(), tensor.dims());
            weights.insert(name, Var::from_tensor(&tensor.to_dtype(DType::F32)?)?);
        }
        ensure!(tensors.is_empty(), "{}: unknown tensors {:?}", path.display(), tensors.keys());
        Self::assemble(config, weights)
    }

    /// A copy whose weights went through bf16: the model as it is shipped.
    pub fn rounded(&self) -> Result<Self> {
        let round = |var: &Var| Var::from_tensor(&var.to_dtype(DType::BF16)?.to_dtype(DType::F32)?);
        let weights = self.weights.iter().map(|(name, var)| Ok((name.clone(), round(var)?))).collect::<Result<_>>()?;
        Self::assemble(self.config.clone(), weights)
    }

    fn assemble(config: Config, weights: BTreeMap<String, Var>) -> Result<Self> {
        let dim = config.head_dim();
        let frequencies: Vec<f32> =
            (0..dim / 2).map(|i| ROPE_THETA.powf(-2.0 * i as f64 / dim as f64) as f32).collect();
        let positions: Vec<f32> = (0..config.max_positions).map(|t| t as f32).collect();
        let angles = Tensor::new(positions, &Device::Cpu)?
            .unsqueeze(1)?
            .broadcast_mul(&Tensor::new(frequencies, &Device::Cpu)?.unsqueeze(0)?)?;
        Ok(Model { config, weights, cos: angles.cos()?, sin: angles.sin()? })
    }

    /// The trainable variables, in the order of their names.
    pub fn vars(&self) -> Vec<Var> {
        self.weights.values().cloned().collect()
    }

    /// How many numbers the model consists of.
    pub fn parameters(&self) -> usize {
        self.weights.values().map(|var| var.elem_count()).sum()
    }

    /// The file's bytes: bf16, with the metadata that transformers asks for.
    pub fn to_safetensors(&self) -> Result<Vec<u8>> {
        let mut buffers = BTreeMap::new();
        for (name, var) in &self.weights {
            let values = var.flatten_all()?.to_dtype(DType::BF16)?.to_vec1::<half::bf16>()?;
            let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
            buffers.insert(name, (var.dims().to_vec(), bytes));
        }
        let views = buffers
            .iter()
            .map(|(name, (shape, bytes))| Ok((*name, TensorView::new(safetensors::Dtype::BF16, shape.clone(), bytes)?)))
            .collect::<Result<Vec<_>>>()?;
        let metadata = HashMap::from([("format".to_string(), "pt".to_string())]);
        Ok(safetensors::serialize(views, Some(metadata))?)
    }

    fn weight(&self, name: &str) -> &Tensor {
        self.weights[name].as_tensor()
    }

    /// Final hidden states `[batch, tokens, hidden]` of `ids` `[batch, tokens]`, which follow the tokens in `cache`.
    pub fn hidden(&self, ids: &Tensor, cache: Option<&mut Cache>) -> Result<Tensor> {
        let (batch, tokens) = ids.dims2()?;
        let past = cache.as_deref().and_then(|c| c.first()?.as_ref()).map_or(Ok(0), |(k, _)| k.dim(2))?;
        ensure!(
            past + tokens <= self.config.max_positions,
            "{} tokens, at most {}",
            past + tokens,
            self.config.max_positions
        );
        let mask = causal_mask(tokens, past)?;
        let mut none = vec![None; self.config.layers];
        let recording = cache.is_some();
        let cache = cache.unwrap_or(&mut none);
        let embedding = self.weight("model.embed_tokens.weight");
        let mut x = embedding.index_select(&ids.flatten_all()?, 0)?.reshape((batch, tokens, self.config.hidden))?;
        for (layer, slot) in cache.iter_mut().enumerate() {
            let name = |part: &str| format!("model.layers.{layer}.{part}");
            let normed = rms_norm(&x, self.weight(&name("input_layernorm.weight")))?;
            x = (&x + self.attention(layer, &normed, &mask, slot, recording, past)?)?;
            let normed = rms_norm(&x, self.weight(&name("post_attention_layernorm.weight")))?;
            let gate = linear(&normed, self.weight(&name("mlp.gate_proj.weight")))?.silu()?;
            let up = linear(&normed, self.weight(&name("mlp.up_proj.weight")))?;
            x = (&x + linear(&(gate * up)?, self.weight(&name("mlp.down_proj.weight")))?)?;
        }
        rms_norm(&x, self.weight("model.norm.weight"))
    }

    /// Logits `[rows, vocab]` of hidden states `[rows, hidden]`, by the tied embedding.
    pub fn logits(&self, hidden: &Tensor) -> Result<Tensor> {
        Ok(hidden.matmul(&self.weight("model.embed_tokens.weight").t()?)?)
    }

    fn attention(
        &self,
        layer: usize,
        x: &Tensor,
        mask: &Tensor,
        slot: &mut Option<(Tensor, Tensor)>,
        recording: bool,
        past: usize,
    ) -> Result<Tensor> {
        let Config { hidden, heads, kv_heads, .. } = self.config;
        let (dim, groups) = (self.config.head_dim(), heads / kv_heads);
        let (batch, tokens, _) = x.dims3()?;
        let project = |part: &str, heads: usize| -> Result<Tensor> {
            let weight = self.weight(&format!("model.layers.{layer}.self_attn.{part}.weight"));
            let bias = self.weight(&format!("model.layers.{layer}.self_attn.{part}.bias"));
            let out = linear(x, weight)?.broadcast_add(bias)?;
            Ok(out.reshape((batch, tokens, heads, dim))?.transpose(1, 2)?.contiguous()?)
        };
        let cos = self.cos.narrow(0, past, tokens)?;
        let sin = self.sin.narrow(0, past, tokens)?;
        let q = candle_nn::rotary_emb::rope_slow(&project("q_proj", heads)?, &cos, &sin)?;
        let mut k = candle_nn::rotary_emb::rope_slow(&project("k_proj", kv_heads)?, &cos, &sin)?;
        let mut v = project("v_proj", kv_heads)?;
        if let Some((past_k, past_v)) = slot.as_ref() {
            k = Tensor::cat(&[past_k, &k], 2)?;
            v = Tensor::cat(&[past_v, &v], 2)?;
        }
        if recording {
            *slot = Some((k.clone(), v.clone()));
        }
        // The query heads of one group share their key head: they are stacked as rows of one product.
        let q = (q.reshape((batch, kv_heads, groups * tokens, dim))? * (dim as f64).powf(-0.5))?;
        let scores = q.matmul(&k.t()?)?.reshape((batch, heads, tokens, past + tokens))?.broadcast_add(mask)?;
        let weights = softmax(&scores)?.reshape((batch, kv_heads, groups * tokens, past + tokens))?;
        let mixed = weights.matmul(&v)?.reshape((batch, heads, tokens, dim))?.transpose(1, 2)?;
        let mixed = mixed.reshape((batch, tokens, hidden))?;
        linear(&mixed, self.weight(&format!("model.layers.{layer}.self_attn.o_proj.weight")))
    }
}

/// `x` `[batch, tokens, in]` times the transpose of `weight` `[out, in]`, as one flat product.
fn linear(x: &Tensor, weight: &Tensor) -> Result<Tensor> {
    let (batch, tokens, width) = x.dims3()?;
    let out = x.reshape((batch * tokens, width))?.matmul(&weight.t()?)?;
    Ok(out.reshape((batch, tokens, weight.dim(0)?))?)
}

fn rms_norm(x: &Tensor, weight: &Tensor) -> Result<Tensor> {
    Ok(candle_nn::ops::rms_norm_slow(x, weight, EPS as f32)?)
}

/// Softmax over the last dimension. The maximum is detached: it cancels out of the value, and so out of the gradient.
fn softmax(x: &Tensor) -> Result<Tensor> {
    let shifted = x.broadcast_sub(&x.detach().max_keepdim(D::Minus1)?)?.exp()?;
    Ok(shifted.broadcast_div(&shifted.sum_keepdim(D::Minus1)?)?)
}

/// `[tokens, past + tokens]`: 0 where a token may look, a large negative number ahead of it.
fn causal_mask(tokens: usize, past: usize) -> Result<Tensor> {
    let width = past + tokens;
    let values = (0..tokens * width).map(|i| if i % width > past + i / width { -1e9f32 } else { 0.0 });
    Ok(Tensor::from_iter(values, &Device::Cpu)?.reshape((tokens, width))?)
}

/// A standard normal number, by Box and Muller.
fn normal(rng: &mut impl Rng) -> f32 {
    let (u, v): (f32, f32) = (1.0 - rng.random::<f32>(), rng.random());
    (-2.0 * u.ln()).sqrt() * (std::f32::consts::TAU * v).cos()
}

#[cfg(test)]
mod tests {
    use rand::{SeedableRng, rngs::StdRng};

    use super::*;

    fn tiny() -> Model {
        let config =
            Config { vocab: 11, hidden: 16, layers: 2, heads: 4, kv_heads: 2, intermediate: 24, max_positions: 16 };
        Model::init(config, &mut StdRng::seed_from_u64(7)).unwrap()
    }

    fn max_difference(a: &Tensor, b: &Tensor) -> f32 {
        (a - b).unwrap().abs().unwrap().max_all().unwrap().to_scalar().unwrap()
    }

    #[test]
    fn tokens_one_by_one_through_the_cache_equal_all_at_once() {
        let model = tiny();
        let ids = Tensor::new(&[[1u32, 5, 2, 10, 0, 3], [4, 4, 9, 7, 7, 1]], &Device::Cpu).unwrap();
        let whole = model.hidden(&ids, None).unwrap();
        let mut cache = vec![None; 2];
        for (from, count) in [(0, 2), (2, 1), (3, 3)] {
            let part = model.hidden(&ids.narrow(1, from, count).unwrap(), Some(&mut cache)).unwrap();
            // Both are f32 sums of at most 24 terms of order one in different orders: a few units of 1e-7.
            assert!(max_difference(&part, &whole.narrow(1, from, count).unwrap()) < 1e-5, "tokens from {from}");
        }
    }

    #[test]
    fn later_tokens_do_not_change_earlier_states() {
        let model = tiny();
        let states = |ids: [u32; 4]| model.hidden(&Tensor::new(&[ids], &Device::Cpu).unwrap(), None).unwrap();
        let (a, b) = (states([1, 2, 3, 4]), states([1, 2, 3, 9]));
        assert_eq!(max_difference(&a.narrow(1, 0, 3).unwrap(), &b.narrow(1, 0, 3).unwrap()), 0.0);
        assert!(max_difference(&a, &b) > 1e-3);
    }

    #[test]
    fn gradient_of_every_weight_agrees_with_finite_differences() {
        let model = tiny();
        let ids = Tensor::new(&[[1u32, 5, 2, 10, 0]], &Device::Cpu).unwrap();
        let value = || {
            let hidden = model.hidden(&ids, None).unwrap().flatten_to(1).unwrap();
            model.logits(&hidden).unwrap().sin().unwrap().sum_all().unwrap()
        };
        let grads = value().backward().unwrap();
        for (name, var) in &model.weights {
            let grad = grads.get(var).unwrap_or_else(|| panic!("{name} has no gradient"));
            let slope: f32 = grad.sqr().unwrap().sum_all().unwrap().to_scalar().unwrap();
            let original = var.as_tensor().copy().unwrap();
            // A small step along the gradient changes the value by its squared norm times the step.
            let step = 1e-3 / slope.sqrt().max(1e-3);
            let at = |sign: f64| -> f32 {
                var.set(&(&original + (grad * (sign * f64::from(step))).unwrap()).unwrap()).unwrap();
                value().to_scalar().unwrap()
            };
            let measured = (at(1.0) - at(-1.0)) / (2.0 * step);
            var.set(&original).unwrap();
            // The value is an f32 of order 10, so its rounding leaves about 1e-3 in the quotient; the rest is curvature.
            assert!((measured - slope).abs() < 0.02 * slope + 5e-3 * slope.sqrt(), "{name}: {measured}, want {slope}");
        }
    }

    #[test]
    fn a_written_model_reads_back_rounded() {
        let model = tiny();
        let folder = std::env::temp_dir().join(format!("npu-demo-test-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join("config.json"), model.config.to_json(1, 2).to_string()).unwrap();
        std::fs::write(folder.join("model.safetensors"), model.to_safetensors().unwrap()).unwrap();
        let read = Model::load(&folder);
        std::fs::remove_dir_all(&folder).unwrap();
        let (read, rounded) = (read.unwrap(), model.rounded().unwrap());
        for (name, var) in &rounded.weights {
            assert_eq!(max_difference(var, &read.weights[name]), 0.0, "{name}");
        }
        assert_eq!(model.vars().len(), 2 + 2 * 12);
    }
}
