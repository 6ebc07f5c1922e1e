//! Language models of candle-transformers, compiled from cargo's copy of the package and driven alike over whatever
//! `candle` and `candle_nn` are: candle-ascend here, candle itself in `candle-models-reference`, which has the same
//! source. Everything here is written as code for candle is.

include!(concat!(env!("OUT_DIR"), "/models.rs"));

mod configs;
mod decoders;
mod files;
mod weights;

pub use files::MODELS;
pub use weights::write_weights;

use candle::{DType, Device, Result, Tensor};
use candle_nn::VarBuilder;
use std::path::Path;

/// Name and version of the package that the files are from.
pub const PACKAGE: &str = env!("MODELS_PACKAGE");

/// What the models are given: a prompt, then a token at a time. Small vocabularies know them all.
const PROMPT: &[u32] = &[1, 17, 42, 8, 29, 3, 55];
const DECODED: &[u32] = &[11, 23, 60];

/// The logits of model `file` after the prompt and after each decoded token, with its own cache of keys and values.
pub fn run(file: &str, weights: &Path, device: &Device) -> Result<Vec<Vec<f32>>> {
    // SAFETY: candle asks for the promise that nobody changes the file, which a test's own folder keeps.
    #[allow(unused_unsafe)]
    let vb = unsafe { VarBuilder::from_mmaped_safetensors(&[weights], DType::F32, device)? };
    let mut decoder = decoders::load(file, vb)?;
    let mut offset = 0;
    let mut logits = Vec::new();
    for tokens in std::iter::once(PROMPT).chain(DECODED.chunks(1)) {
        let input = Tensor::new(tokens, device)?.unsqueeze(0)?;
        logits.push(decoder(&input, offset)?.flatten_all()?.to_vec1::<f32>()?);
        offset += tokens.len();
    }
    Ok(logits)
}
