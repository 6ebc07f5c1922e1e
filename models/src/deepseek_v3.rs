//! DeepSeek-V3 and R1: latent attention, and experts chosen by sigmoids within groups after the first dense layers.
//!
//! The layers for predicting several tokens at once, which follow the last one in the checkpoint, are not loaded; what loads it says
//! so ([`crate::Loaded::notes`]).

use crate::decoder::{Decoder, FeedForward, Layer, Mixer};
use crate::mla::Mla;
use crate::moe::Moe;
use crate::{CausalLm, Config, Loader, Row};
use anyhow::{Context, Result};

pub const ROW: Row = Row { architecture: "DeepseekV3ForCausalLM", model_type: "deepseek_v3", load };

fn load(config: Config, loader: &Loader) -> Result<Box<dyn CausalLm>> {
    let moe = config.moe.clone().context("config.json describes no experts")?;
    let widths = config.mla.clone().context("config.json describes no latent attention")?;
    let layer = |index| {
        let name = format!("model.layers.{index}");
        let mixer = Mixer::Latent(Box::new(Mla::load(loader, &config, &widths, &format!("{name}.self_attn"))?));
        let feed_forward = match moe.is_sparse(index) {
            true => FeedForward::Experts(Moe::load(loader, &config, &moe, &format!("{name}.mlp"))?),
            false => FeedForward::load(loader, &config, &format!("{name}.mlp"), false)?,
        };
        Layer::with(loader, &config, index, mixer, feed_forward)
    };
    Ok(Box::new(Decoder::load(config.clone(), loader, layer)?))
}
