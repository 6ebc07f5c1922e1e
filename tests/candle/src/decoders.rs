//! Each model's own way to be loaded and stepped.

use crate::{configs, models};
use candle::{bail, DType, Result, Tensor};
use candle_nn::VarBuilder;

/// Logits for tokens `[1, S]` that follow `offset` earlier ones.
pub type Decoder = Box<dyn FnMut(&Tensor, usize) -> Result<Tensor>>;

/// `Model::new(&config, vb)` and `forward(tokens, offset)`, as most of them have it.
macro_rules! plain {
    ($file:ident :: $model:ident, $vb:expr) => {{
        let mut model = models::$file::$model::new(&configs::of(stringify!($file))?, $vb)?;
        Box::new(move |tokens, offset| model.forward(tokens, offset))
    }};
}

/// As [`plain!`], with a first argument that asks for a flash attention of CUDA.
macro_rules! gemma {
    ($file:ident, $vb:expr) => {{
        let mut model = models::$file::Model::new(false, &configs::of(stringify!($file))?, $vb)?;
        Box::new(move |tokens, offset| model.forward(tokens, offset))
    }};
}

/// A cache apart from the model.
macro_rules! cached {
    ($file:ident :: $model:ident, $config:ident, $vb:expr) => {{
        let (dtype, device) = (DType::F32, $vb.device().clone());
        let config = configs::of::<models::$file::$config>(stringify!($file))?.into_config(false);
        let mut cache = models::$file::Cache::new(true, dtype, &config, &device)?;
        let model = models::$file::$model::load($vb, &config)?;
        Box::new(move |tokens, offset| model.forward(tokens, offset, &mut cache))
    }};
}

/// Models that count positions themselves.
macro_rules! counting {
    ($model:expr) => {{
        let mut model = $model?;
        Box::new(move |tokens, _| model.forward(tokens))
    }};
}

/// Model `file` with its weights from `vb`.
pub fn load(file: &str, vb: VarBuilder) -> Result<Decoder> {
    Ok(match file {
        "qwen2" => plain!(qwen2::ModelForCausalLM, vb),
        "qwen2_moe" => plain!(qwen2_moe::Model, vb),
        "qwen3" => plain!(qwen3::ModelForCausalLM, vb),
        "qwen3_moe" => plain!(qwen3_moe::ModelForCausalLM, vb),
        "llama" => cached!(llama::Llama, LlamaConfig, vb),
        "mistral" => plain!(mistral::Model, vb),
        "mixtral" => plain!(mixtral::Model, vb),
        "gemma" => gemma!(gemma, vb),
        "gemma2" => gemma!(gemma2, vb),
        "gemma3" => gemma!(gemma3, vb),
        "phi" => counting!(models::phi::Model::new(&configs::of("phi")?, vb)),
        "phi3" => plain!(phi3::Model, vb),
        "deepseek2" => plain!(deepseek2::DeepSeekV2, vb),
        "glm4" => counting!(models::glm4::Model::new(&configs::of("glm4")?, vb)),
        "granite" => cached!(granite::Granite, GraniteConfig, vb),
        "olmo" => plain!(olmo::Model, vb),
        "olmo2" => plain!(olmo2::Model, vb),
        "starcoder2" => plain!(starcoder2::Model, vb),
        "stable_lm" => plain!(stable_lm::Model, vb),
        "falcon" => counting!(models::falcon::Falcon::load(vb, configs::of("falcon")?)),
        _ => bail!("no way to load {file} stands here"),
    })
}
