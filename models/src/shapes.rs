//! The shapes of well-known models, so that speed can be measured without their weights.
//!
//! What does not change the amount of work is left out: the scaling of rotary frequencies for long contexts, special
//! tokens. The numbers are those of the published `config.json` files.

use crate::Config;
use anyhow::{Result, bail};
use serde_json::json;

/// A model's dimensions under the name that people use for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    pub name: &'static str,
    /// As in `model_type`.
    pub family: &'static str,
    pub vocab: usize,
    pub hidden: usize,
    pub intermediate: usize,
    pub layers: usize,
    pub heads: usize,
    pub kv_heads: usize,
    pub head_dim: usize,
    pub context: usize,
    pub tied: bool,
}

/// name, family, vocabulary, (hidden, intermediate), layers, (heads, key and value heads, head's width), context, tied
macro_rules! shapes {
    ($($name:literal $family:ident $vocab:literal ($hidden:literal $inner:literal) $layers:literal
       ($heads:literal $kv:literal $width:literal) $context:literal $tied:literal;)*) => {
        /// Every shape that has a name. The R1-Distill models of DeepSeek have those of Qwen2.5 and Llama 3; `tiny` and
        /// `wide-vocab` are nobody's: a model for tests, and one in which logits are all that takes memory.
        pub const SHAPES: &[Shape] = &[$(Shape {
            name: $name, family: stringify!($family), vocab: $vocab, hidden: $hidden, intermediate: $inner, layers: $layers,
            heads: $heads, kv_heads: $kv, head_dim: $width, context: $context, tied: $tied,
        }),*];
    };
}

shapes! {
    "tiny"            qwen2 512    (256 512)     2  (4 2 64)    2048   true;
    "wide-vocab"      qwen2 151936 (64 128)      1  (1 1 64)    32768  true;
    "qwen2-0.5b"      qwen2 151936 (896 4864)    24 (14 2 64)   131072 true;
    "qwen2.5-0.5b"    qwen2 151936 (896 4864)    24 (14 2 64)   32768  true;
    "qwen2.5-1.5b"    qwen2 151936 (1536 8960)   28 (12 2 128)  131072 true;
    "qwen2.5-3b"      qwen2 151936 (2048 11008)  36 (16 2 128)  32768  true;
    "qwen2.5-7b"      qwen2 152064 (3584 18944)  28 (28 4 128)  131072 false;
    "qwen2.5-14b"     qwen2 152064 (5120 13824)  48 (40 8 128)  131072 false;
    "qwen2.5-32b"     qwen2 152064 (5120 27648)  64 (40 8 128)  131072 false;
    "qwen2.5-72b"     qwen2 152064 (8192 29568)  80 (64 8 128)  131072 false;
    "r1-distill-qwen-1.5b" qwen2 151936 (1536 8960)  28 (12 2 128) 131072 false;
    "r1-distill-qwen-7b"   qwen2 152064 (3584 18944) 28 (28 4 128) 131072 false;
    "r1-distill-qwen-14b"  qwen2 152064 (5120 13824) 48 (40 8 128) 131072 false;
    "r1-distill-qwen-32b"  qwen2 152064 (5120 27648) 64 (40 8 128) 131072 false;
    "qwen3-0.6b"      qwen3 151936 (1024 3072)   28 (16 8 128)  40960  true;
    "qwen3-1.7b"      qwen3 151936 (2048 6144)   28 (16 8 128)  40960  true;
    "qwen3-4b"        qwen3 151936 (2560 9728)   36 (32 8 128)  40960  true;
    "qwen3-8b"        qwen3 151936 (4096 12288)  36 (32 8 128)  40960  false;
    "qwen3-14b"       qwen3 151936 (5120 17408)  40 (40 8 128)  40960  false;
    "qwen3-32b"       qwen3 151936 (5120 25600)  64 (64 8 128)  40960  false;
    "llama3.2-1b"     llama 128256 (2048 8192)   16 (32 8 64)   131072 true;
    "llama3.2-3b"     llama 128256 (3072 8192)   28 (24 8 128)  131072 true;
    "llama3.1-8b"     llama 128256 (4096 14336)  32 (32 8 128)  131072 false;
    "llama3.1-70b"    llama 128256 (8192 28672)  80 (64 8 128)  131072 false;
}

impl Shape {
    /// The shape called `name`, in any case.
    pub fn find(name: &str) -> Result<&'static Self> {
        match SHAPES.iter().find(|shape| shape.name.eq_ignore_ascii_case(name)) {
            Some(shape) => Ok(shape),
            None => {
                let known: Vec<_> = SHAPES.iter().map(|shape| shape.name).collect();
                bail!("no shape is called {name:?}; there are {}", known.join(", "))
            }
        }
    }

    /// The `config.json` that a checkpoint of this shape has.
    pub fn config_json(&self) -> serde_json::Value {
        json!({
            "model_type": self.family,
            "vocab_size": self.vocab,
            "hidden_size": self.hidden,
            "intermediate_size": self.intermediate,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.kv_heads,
            "head_dim": self.head_dim,
            "max_position_embeddings": self.context,
            "rms_norm_eps": 1e-6,
            "rope_theta": if self.family == "llama" { 500_000.0 } else { 1_000_000.0 },
            "tie_word_embeddings": self.tied,
            "torch_dtype": "bfloat16",
        })
    }

    pub fn config(&self) -> Result<Config> {
        Config::from_json(&self.config_json().to_string())
    }
}

/// The experts of one layer, under the name of the model that it belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExpertShape {
    pub name: &'static str,
    /// As in `model_type`.
    pub family: &'static str,
    pub hidden: usize,
    /// Width inside an expert.
    pub intermediate: usize,
    pub experts: usize,
    pub per_token: usize,
    /// Experts that every token takes besides.
    pub shared: usize,
}

/// name, family, (hidden, inside an expert), (experts, of a token, shared)
macro_rules! expert_shapes {
    ($($name:literal $family:ident ($hidden:literal $inner:literal) ($experts:literal $of_token:literal $shared:literal);)*) => {
        /// Every such layer that has a name.
        pub const EXPERT_SHAPES: &[ExpertShape] = &[$(ExpertShape {
            name: $name, family: stringify!($family), hidden: $hidden, intermediate: $inner, experts: $experts,
            per_token: $of_token, shared: $shared,
        }),*];
    };
}

expert_shapes! {
    "tiny-moe"        qwen3_moe   (64 32)     (8 2 0);
    "qwen3-30b-a3b"   qwen3_moe   (2048 768)  (128 8 0);
    "qwen3-235b-a22b" qwen3_moe   (4096 1536) (128 8 0);
    "deepseek-v3"     deepseek_v3 (7168 2048) (256 8 1);
}

impl ExpertShape {
    /// The layer of the model called `name`, in any case.
    pub fn find(name: &str) -> Result<&'static Self> {
        match EXPERT_SHAPES.iter().find(|shape| shape.name.eq_ignore_ascii_case(name)) {
            Some(shape) => Ok(shape),
            None => {
                let known: Vec<_> = EXPERT_SHAPES.iter().map(|shape| shape.name).collect();
                bail!("no layer of experts is called {name:?}; there are {}", known.join(", "))
            }
        }
    }

    /// Weights of all experts; the router's are left out.
    pub fn expert_parameters(&self) -> u64 {
        ((self.experts + self.shared) * 3 * self.hidden * self.intermediate) as u64
    }

    /// Weights of the experts that a token takes.
    pub fn active_parameters(&self) -> u64 {
        ((self.per_token + self.shared) * 3 * self.hidden * self.intermediate) as u64
    }

    /// The configuration of a model of this one layer, whose attention and vocabulary are as small as can be.
    pub fn config(&self) -> Result<Config> {
        let json = json!({
            "model_type": self.family, "vocab_size": 1, "hidden_size": self.hidden, "intermediate_size": self.intermediate,
            "moe_intermediate_size": self.intermediate, "num_hidden_layers": 1, "num_attention_heads": 1,
            "num_experts_per_tok": self.per_token, "norm_topk_prob": true, "max_position_embeddings": 1,
            "tie_word_embeddings": true,
        });
        let own = match self.family {
            "deepseek_v3" => json!({
                "n_routed_experts": self.experts, "n_shared_experts": self.shared, "n_group": 8, "topk_group": 4,
                "routed_scaling_factor": 2.5, "kv_lora_rank": 1, "qk_nope_head_dim": 2, "qk_rope_head_dim": 2, "v_head_dim": 1,
            }),
            _ => json!({"num_experts": self.experts, "head_dim": 2}),
        };
        let keys = [json, own].into_iter().filter_map(|value| value.as_object().cloned()).flatten();
        Config::from_json(&serde_json::Value::Object(keys.collect()).to_string())
    }
}
