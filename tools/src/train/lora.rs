//! Whether all weights are trained or adapters beside them, with TRL's names and defaults.

use anyhow::{Result, ensure};
use candle_ascend::{DType, Device};
use clap::Args;
use npu_models::Held;
use npu_train::Policy;
use npu_train::adapter::{LoraConfig, Start, Targets};
use serde::Serialize;
use std::path::Path;

#[derive(Debug, Args, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct LoraArgs {
    /// Train low-rank adapters (LoRA) and leave the checkpoint's weights as they are
    #[arg(long, visible_alias = "lora", help_heading = "LoRA")]
    pub use_peft: bool,

    /// Rank of the adapters
    #[arg(long, default_value_t = 16, value_name = "N", help_heading = "LoRA")]
    pub lora_r: usize,

    /// What adapters add is multiplied with alpha / rank
    #[arg(long, default_value_t = 32.0, value_name = "ALPHA", help_heading = "LoRA")]
    pub lora_alpha: f64,

    /// Probability with which an element of an adapter's input is dropped in training
    #[arg(long, default_value_t = 0.05, value_name = "P", help_heading = "LoRA")]
    pub lora_dropout: f64,

    /// Modules that get adapters, or all-linear [default: q_proj v_proj]
    #[arg(long, num_args = 1.., value_delimiter = ',', value_name = "NAME", help_heading = "LoRA")]
    pub lora_target_modules: Vec<String>,

    /// Multiply with alpha / √rank instead
    #[arg(long, help_heading = "LoRA")]
    pub use_rslora: bool,

    /// Hold the projections of the checkpoint in four bits (NF4, double quantisation), as QLoRA does
    #[arg(long, help_heading = "LoRA")]
    pub load_in_4bit: bool,
}

impl LoraArgs {
    /// The checkpoint at `base` with what the arguments say trained, from the adapter in the folder `adapter` on if there is one.
    pub fn policy(
        &self,
        base: &Path,
        adapter: Option<&Path>,
        seed: u64,
        dtype: DType,
        device: &Device,
        progress: &dyn Fn(u64, u64),
    ) -> Result<Policy> {
        let held = if self.load_in_4bit { Held::Nf4 } else { Held::Wide };
        let start = match adapter {
            Some(dir) => Start::Saved(dir),
            None if self.use_peft => Start::New { config: self.config(), seed },
            None => {
                ensure!(
                    !self.load_in_4bit,
                    "--load-in-4bit: weights in four bits are not trained themselves, adapters beside them are: add --use-peft"
                );
                return Policy::full(base, dtype, device, progress);
            }
        };
        Policy::lora(base, &start, held, dtype, device, progress)
    }

    fn config(&self) -> LoraConfig {
        let own = LoraConfig::default();
        let target_modules = match self.lora_target_modules.as_slice() {
            [] => own.target_modules.clone(),
            [name] if name == "all-linear" => Targets::AllLinear,
            names => Targets::Named(names.to_vec()),
        };
        LoraConfig {
            r: self.lora_r,
            lora_alpha: self.lora_alpha,
            lora_dropout: self.lora_dropout,
            target_modules,
            use_rslora: self.use_rslora,
            ..own
        }
    }
}
