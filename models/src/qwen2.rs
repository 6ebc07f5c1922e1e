//! Qwen2 and Qwen2.5, DeepSeek-R1-Distill-Qwen among them: biases on query, key and value, and nowhere else.

use crate::decoder::{AttentionKind, Decoder, Layer};
use crate::{CausalLm, Config, Loader, Row};
use anyhow::Result;

pub const ROW: Row = Row { architecture: "Qwen2ForCausalLM", model_type: "qwen2", load };

const KIND: AttentionKind = AttentionKind { qkv_bias: true, output_bias: false, qk_norm: false };

fn load(config: Config, loader: &Loader) -> Result<Box<dyn CausalLm>> {
    let layer = |index| Layer::load(loader, &config, index, KIND, false);
    Ok(Box::new(Decoder::load(config.clone(), loader, layer)?))
}
