//! Qwen3, dense: each head of query and key is normed before the rotary embedding.

use crate::decoder::{AttentionKind, Decoder, Layer};
use crate::{CausalLm, Config, Loader, Row};
use anyhow::Result;

pub const ROW: Row = Row { architecture: "Qwen3ForCausalLM", model_type: "qwen3", load };

fn load(config: Config, loader: &Loader) -> Result<Box<dyn CausalLm>> {
    let bias = config.attention_bias;
    let kind = AttentionKind { qkv_bias: bias, output_bias: bias, qk_norm: true };
    let layer = |index| Layer::load(loader, &config, index, kind, false);
    Ok(Box::new(Decoder::load(config.clone(), loader, layer)?))
}
