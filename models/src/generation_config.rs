//! `generation_config.json`: how a checkpoint wants to be sampled, and which tokens end its answers.

use crate::fields::Fields;
use anyhow::{Context, Result, ensure};
use std::path::Path;

/// The settings of the file that sampling here knows. Other keys steer methods that are not offered and are not read.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct GenerationConfig {
    /// False makes temperature, top-k and top-p without effect, as in transformers.
    pub do_sample: Option<bool>,
    pub temperature: Option<f64>,
    pub top_k: Option<usize>,
    pub top_p: Option<f64>,
    pub min_p: Option<f64>,
    pub repetition_penalty: Option<f64>,
    pub bos_token_id: Option<u32>,
    pub eos_token_ids: Vec<u32>,
}

impl GenerationConfig {
    /// Reads the file in the checkpoint folder `dir`; a checkpoint without one has no wishes.
    pub fn from_dir(dir: &Path) -> Result<Self> {
        let path = dir.join("generation_config.json");
        if !path.exists() {
            return Ok(Self::default());
        }
        let text = std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        Self::from_json(&text).with_context(|| format!("in {}", path.display()))
    }

    pub fn from_json(text: &str) -> Result<Self> {
        let mut fields = Fields::parse(text)?;
        let config = Self {
            do_sample: fields.flag("do_sample")?,
            temperature: fields.number("temperature")?,
            top_k: fields.size_or_zero("top_k")?,
            top_p: fields.number("top_p")?,
            min_p: fields.number("min_p")?,
            repetition_penalty: fields.number("repetition_penalty")?,
            bos_token_id: fields.token("bos_token_id")?,
            eos_token_ids: fields.tokens("eos_token_id")?,
        };
        let shares = [("top_p", config.top_p), ("min_p", config.min_p)];
        for (name, share) in shares.into_iter().filter_map(|(name, share)| Some((name, share?))) {
            ensure!((0.0..=1.0).contains(&share), "{name} is {share}, wanted a number from 0 to 1");
        }
        ensure!(
            config.temperature.is_none_or(|t| t >= 0.0),
            "temperature is {:?}, wanted at least 0",
            config.temperature
        );
        ensure!(config.repetition_penalty.is_none_or(|r| r > 0.0), "repetition_penalty wants a positive number");
        Ok(config)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn eos_as_a_number_and_as_a_list() {
        let one =
            GenerationConfig::from_json(r#"{"eos_token_id": 7, "temperature": 0.6, "top_p": 0.95, "do_sample": true}"#)
                .unwrap();
        assert_eq!((one.eos_token_ids, one.temperature, one.do_sample), (vec![7], Some(0.6), Some(true)));
        let two =
            GenerationConfig::from_json(r#"{"eos_token_id": [151645, 151643], "top_k": 20, "unheard_of": 1}"#).unwrap();
        assert_eq!((two.eos_token_ids, two.top_k), (vec![151645, 151643], Some(20)));
        assert!(GenerationConfig::from_json(r#"{"top_p": 2}"#).unwrap_err().to_string().contains("from 0 to 1"));
        assert!(GenerationConfig::from_json(r#"{"eos_token_id": "x"}"#).unwrap_err().to_string().contains("token id"));
    }
}
