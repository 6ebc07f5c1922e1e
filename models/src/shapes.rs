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
        /// Every shape that has a name. The R1-Distill models of DeepSeek have those of Qwen2.5 and Llama 3.
        pub const SHAPES: &[Shape] = &[$(Shape {
            name: $name, family: stringify!($family), vocab: $vocab, hidden: $hidden, intermediate: $inner, layers: $layers,
            heads: $heads, kv_heads: $kv, head_dim: $width, context: $context, tied: $tied,
        }),*];
    };
}

shapes! {
    "tiny"            qwen2 512    (256 512)     2  (4 2 64)    2048   true;
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
