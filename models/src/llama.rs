//! Llama 2 and 3, and the checkpoints that keep its layout: no biases unless the configuration says so.

use crate::decoder::{AttentionKind, Decoder, Layer};
use crate::{CausalLm, Config, Loader, Row};
use anyhow::Result;

pub const ROW: Row = Row { architecture: "LlamaForCausalLM", model_type: "llama", load };

fn load(config: Config, loader: &Loader) -> Result<Box<dyn CausalLm>> {
    let bias = config.attention_bias;
    let kind = AttentionKind { qkv_bias: bias, output_bias: bias, qk_norm: false };
    let layer = |index| Layer::load(loader, &config, index, kind, config.mlp_bias);
    Ok(Box::new(Decoder::load(config.clone(), loader, layer)?))
}
