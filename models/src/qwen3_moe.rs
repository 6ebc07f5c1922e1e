//! Qwen3 with experts in place of the dense feed-forward part, such as Qwen3-30B-A3B.

use crate::decoder::{Attention, AttentionKind, Decoder, FeedForward, Layer, Mixer};
use crate::moe::Moe;
use crate::{CausalLm, Config, Loader, Row};
use anyhow::{Context, Result};

pub const ROW: Row = Row { architecture: "Qwen3MoeForCausalLM", model_type: "qwen3_moe", load };

fn load(config: Config, loader: &Loader) -> Result<Box<dyn CausalLm>> {
    let bias = config.attention_bias;
    let kind = AttentionKind { qkv_bias: bias, output_bias: bias, qk_norm: true };
    let moe = config.moe.clone().context("config.json describes no experts")?;
    let layer = |index| {
        let name = format!("model.layers.{index}");
        let attention = Attention::load(loader, &config, &format!("{name}.self_attn"), kind)?;
        let feed_forward = match moe.is_sparse(index) {
            true => FeedForward::Experts(Moe::load(loader, &config, &moe, &format!("{name}.mlp"))?),
            false => FeedForward::load(loader, &config, &format!("{name}.mlp"), false)?,
        };
        Layer::with(loader, &config, index, Mixer::Heads(attention), feed_forward)
    };
    Ok(Box::new(Decoder::load(config.clone(), loader, layer)?))
}
