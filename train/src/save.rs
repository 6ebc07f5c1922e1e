//! A policy's weights to files and back.

use crate::{Policy, adapter, files};
use anyhow::{Context, Result, bail};
use candle_ascend::safetensors::MmapedSafetensors;
use candle_ascend::{DType, Tensor, no_grad};
use files::Entry;
use npu_models::Parameter;
use serde_json::Value;
use std::path::{Path, PathBuf};

/// Files of a checkpoint, beside its weights and `config.json`, that go with whatever is trained from it.
const COMPANIONS: &[&str] = &[
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "chat_template.json",
    "tokenizer.model",
    "vocab.json",
    "merges.txt",
];

impl Policy {
    /// Writes what was trained into `folder`: a checkpoint in Hugging Face layout, or an adapter in PEFT's.
    pub fn save(&self, folder: &Path) -> Result<()> {
        let parts = self.parts()?;
        if let Some(config) = &self.lora {
            return adapter::save(config, &self.base, &parts, folder);
        }
        companions(&self.base, Some(self.dtype), folder)?;
        let entries: Vec<Entry> = parts.iter().map(|(name, tensor)| Entry::of(name, tensor)).collect();
        files::weights(folder, &entries, files::SHARD_BYTES, |i| Ok(parts[i].1.clone()))
    }

    /// Gives the parameters the values that [`Policy::save`] wrote into `folder`.
    pub fn restore(&self, folder: &Path) -> Result<()> {
        let is_weights = |path: &PathBuf| {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            name.ends_with(".safetensors") && name.contains("model")
        };
        let paths: Vec<PathBuf> = files::entries(folder)?.into_iter().filter(is_weights).collect();
        let file = MmapedSafetensors::multi(&paths)?;
        for parameter in &self.parameters {
            let var = &parameter.var;
            let part = |(name, _): &(String, usize)| -> Result<Tensor> {
                let tensor = file.load(name, &self.device).with_context(|| format!("in {}", folder.display()))?;
                Ok(tensor.to_dtype(var.dtype())?)
            };
            let parts = parameter.parts.iter().map(part).collect::<Result<Vec<_>>>()?;
            let value = if parts.len() == 1 { parts[0].copy()? } else { Tensor::cat(&parts, 0)? };
            var.set(&value).with_context(|| format!("{} of {}", parameter.parts[0].0, folder.display()))?;
        }
        Ok(())
    }

    /// An error where [`Policy::save`] could not write an adapter, to be said before hours of training. (What a whole checkpoint
    /// needs was looked at before it was loaded.)
    pub fn check_savable(&self) -> Result<()> {
        self.lora.as_ref().map_or(Ok(()), |config| config.to_json(&self.base).map(drop))
    }

    /// The first trained tensor with a value that is infinite or no number; the host reads once.
    pub(crate) fn first_not_finite(&self) -> Result<Option<&str>> {
        // Times zero, all but such values vanish.
        let trace =
            |parameter: &Parameter| Ok((parameter.var.as_detached_tensor().to_dtype(DType::F32)? * 0.)?.sum_all()?);
        let traces = no_grad(|| self.parameters.iter().map(trace).collect::<Result<Vec<Tensor>>>())?;
        let traces = Tensor::stack(&traces, 0)?.to_vec1::<f32>()?;
        let found = traces.iter().position(|trace| !trace.is_finite());
        Ok(found.map(|place| self.parameters[place].parts[0].0.as_str()))
    }

    /// What was trained, by its name in the checkpoint.
    fn parts(&self) -> Result<Vec<(String, Tensor)>> {
        let mut parts = Vec::new();
        for parameter in &self.parameters {
            parts.extend(parameter.tensors()?);
        }
        Ok(parts)
    }
}

/// Puts what goes with weights made from the checkpoint `base` into `folder`: its tokenizer's files as they are, and its
/// `config.json` for weights of `dtype`.
pub fn companions(base: &Path, dtype: Option<DType>, folder: &Path) -> Result<()> {
    let path = folder.join("config.json");
    std::fs::write(&path, config(base, dtype)?).with_context(|| format!("writing {}", path.display()))?;
    for name in COMPANIONS {
        let source = base.join(name);
        if source.exists() {
            std::fs::copy(&source, folder.join(name)).with_context(|| format!("copying {}", source.display()))?;
        }
    }
    Ok(())
}

/// The `config.json` of the checkpoint `base`, or why there is none to write, with the type that the weights have now, if it is another.
pub(crate) fn config(base: &Path, dtype: Option<DType>) -> Result<String> {
    if !base.is_dir() {
        bail!(
            "{} is no folder with a config.json, which the trained checkpoint takes over: train the checkpoint that it was \
             made from",
            base.display()
        )
    }
    let path = base.join("config.json");
    let read = || -> Result<Value> { Ok(serde_json::from_str(&std::fs::read_to_string(&path)?)?) };
    let mut config = read().with_context(|| format!("reading {}", path.display()))?;
    if let Some(keys) = config.as_object_mut() {
        // What was trained is wide, whatever it was read from.
        keys.shift_remove("quantization_config");
    }
    if let Some(dtype) = dtype {
        let key = if config.get("dtype").is_some() { "dtype" } else { "torch_dtype" };
        config[key] = Value::from(match dtype {
            DType::BF16 => "bfloat16",
            DType::F16 => "float16",
            _ => "float32",
        });
    }
    Ok(serde_json::to_string_pretty(&config)? + "\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whole weights that were trained from FP8 are written wide, so that their configuration must not call them FP8.
    #[test]
    fn configurations_lose_the_quantisation_of_their_base() {
        let base = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/deepseek-v3-fp8-tiny");
        let own: Value = serde_json::from_str(&std::fs::read_to_string(base.join("config.json")).unwrap()).unwrap();
        let written: Value = serde_json::from_str(&config(&base, Some(DType::F32)).unwrap()).unwrap();
        assert!(own.get("quantization_config").is_some() && written.get("quantization_config").is_none());
        assert_eq!((&written["torch_dtype"], &written["hidden_size"]), (&Value::from("float32"), &own["hidden_size"]));
    }
}
