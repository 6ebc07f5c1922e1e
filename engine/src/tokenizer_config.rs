//! `tokenizer_config.json` and `chat_template.jinja`: special tokens and the chat template.

use anyhow::{Context, Result, bail};
use serde_json::{Map, Value};
use std::path::Path;

/// What the settings say about text around a prompt. Other keys configure Python classes and are not read.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TokenizerConfig {
    /// Whether a text of its own begins with `bos_token`; none leaves it to `tokenizer.json`.
    pub add_bos_token: Option<bool>,
    pub bos_token: Option<String>,
    pub eos_token: Option<String>,
    pub pad_token: Option<String>,
    pub unk_token: Option<String>,
    /// Source of the chat template in Jinja's language.
    pub chat_template: Option<String>,
}

impl TokenizerConfig {
    /// Reads both files in `dir`; either may be absent. The template's own file wins.
    pub fn from_dir(dir: &Path) -> Result<Self> {
        let path = dir.join("tokenizer_config.json");
        let mut config = if path.exists() {
            let text = std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
            Self::from_json(&text).with_context(|| format!("in {}", path.display()))?
        } else {
            Self::default()
        };
        let path = dir.join("chat_template.jinja");
        if path.exists() {
            let text = std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
            config.chat_template = Some(text);
        }
        Ok(config)
    }

    /// Parses the text of a `tokenizer_config.json`.
    pub fn from_json(text: &str) -> Result<Self> {
        let value: Value = serde_json::from_str(text).context("not valid JSON")?;
        let Value::Object(map) = value else { bail!("the top of the file is no object") };
        let add_bos_token = match map.get("add_bos_token") {
            None | Some(Value::Null) => None,
            Some(Value::Bool(flag)) => Some(*flag),
            Some(other) => bail!("add_bos_token is {other}, wanted true or false"),
        };
        Ok(Self {
            add_bos_token,
            bos_token: token(&map, "bos_token")?,
            eos_token: token(&map, "eos_token")?,
            pad_token: token(&map, "pad_token")?,
            unk_token: token(&map, "unk_token")?,
            chat_template: chat_template(&map)?,
        })
    }
}

/// A token given as its text, or as an object with its text under `content`.
fn token(map: &Map<String, Value>, key: &str) -> Result<Option<String>> {
    match map.get(key) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text.clone())),
        Some(Value::Object(token)) => match token.get("content") {
            Some(Value::String(text)) => Ok(Some(text.clone())),
            _ => bail!("{key} is an object without a string under content"),
        },
        Some(other) => bail!("{key} is {other}, wanted a token's text"),
    }
}

/// A template, or the one called `default` of a list of named ones.
fn chat_template(map: &Map<String, Value>) -> Result<Option<String>> {
    let list = match map.get("chat_template") {
        None | Some(Value::Null) => return Ok(None),
        Some(Value::String(text)) => return Ok(Some(text.clone())),
        Some(Value::Array(list)) => list,
        Some(_) => bail!("chat_template is neither a string nor a list of named templates"),
    };
    let mut names = Vec::new();
    for entry in list {
        let field = |key: &str| entry.get(key).and_then(Value::as_str);
        let (Some(name), Some(template)) = (field("name"), field("template")) else {
            bail!("an entry of chat_template has no name or no template");
        };
        if name == "default" {
            return Ok(Some(template.to_owned()));
        }
        names.push(name);
    }
    bail!("none of the chat templates ({}) is called default", names.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::rngs::StdRng;
    use rand::{Rng, SeedableRng};

    const FULL: &str = r#"{"add_bos_token": true, "bos_token": {"__type": "AddedToken", "content": "<s>"}, "eos_token": "</s>",
        "unk_token": null, "model_max_length": 1e30, "added_tokens_decoder": {"0": {"content": "<s>"}},
        "chat_template": [{"name": "tool_use", "template": "t"}, {"name": "default", "template": "d {{ x }}"}]}"#;

    #[test]
    fn tokens_and_named_templates() {
        let config = TokenizerConfig::from_json(FULL).unwrap();
        assert_eq!(config.bos_token.as_deref(), Some("<s>"));
        assert_eq!(config.eos_token.as_deref(), Some("</s>"));
        assert_eq!((config.unk_token, config.add_bos_token), (None, Some(true)));
        assert_eq!(config.chat_template.as_deref(), Some("d {{ x }}"));
    }

    #[test]
    fn wrong_types_are_named() {
        for (text, says) in [
            ("[]", "no object"),
            ("{", "not valid JSON"),
            (r#"{"bos_token": 3}"#, "bos_token is 3"),
            (r#"{"eos_token": {}}"#, "eos_token is an object without"),
            (r#"{"add_bos_token": "yes"}"#, "add_bos_token"),
            (r#"{"chat_template": 1}"#, "chat_template is neither"),
            (r#"{"chat_template": [{"name": "rag", "template": ""}]}"#, "(rag) is called default"),
            (r#"{"chat_template": ["x"]}"#, "no name"),
        ] {
            let error = format!("{:#}", TokenizerConfig::from_json(text).unwrap_err());
            assert!(error.contains(says), "{text}: {error}");
        }
    }

    /// Any damage to the file is an error or other settings, never a panic.
    #[test]
    fn mutations_do_not_panic() {
        for seed in 0..3000 {
            let mut random = StdRng::seed_from_u64(seed);
            let mut bytes = FULL.as_bytes().to_vec();
            for _ in 0..random.random_range(1..6) {
                if bytes.is_empty() {
                    break;
                }
                let at = random.random_range(0..bytes.len());
                match random.random_range(0..3) {
                    0 => bytes[at] = br#"{}[]",:0e-tn\"#[random.random_range(0..13)],
                    1 => drop(bytes.remove(at)),
                    _ => bytes.truncate(at),
                }
            }
            let text = String::from_utf8_lossy(&bytes).into_owned();
            let outcome = std::panic::catch_unwind(|| TokenizerConfig::from_json(&text).is_ok());
            assert!(outcome.is_ok(), "seed {seed}: panic on {text}");
        }
    }
}
