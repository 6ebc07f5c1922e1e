//! GGUF files: one file with configuration, tokenizer and weights, the weights quantised or not.
//!
//! Names and meanings of keys and tensors are the format's (ggml's `docs/gguf.md`). Tensors get the names that checkpoints of
//! Hugging Face have, so that a model's code does not know which it reads.

mod config;
mod header;
mod names;

pub use header::Value;
pub(crate) use header::{Entry, Kind, supported};
pub use names::in_gguf;

use crate::Config;
use anyhow::{Context, Result, bail};
use candle_ascend::acl::MappedFile;
use header::Header;
use std::path::{Path, PathBuf};

/// An open file. Opening reads the header only.
pub struct Gguf {
    path: PathBuf,
    bytes: MappedFile,
    header: Header,
}

impl Gguf {
    /// Whether `path` is to be read as a GGUF file: any file is, as the other checkpoints are folders.
    pub fn is(path: &Path) -> bool {
        path.is_file()
    }

    pub fn open(path: &Path) -> Result<Self> {
        let bytes = MappedFile::open(path).with_context(|| format!("cannot map {}", path.display()))?;
        let header = header::read(bytes.bytes()).with_context(|| format!("in {}", path.display()))?;
        Ok(Self { path: path.to_owned(), bytes, header })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The configuration of the model.
    pub fn config(&self) -> Result<Config> {
        config::read(self).with_context(|| format!("in {}", self.path.display()))
    }

    /// The value of `key`, or none.
    pub fn value(&self, key: &str) -> Option<&Value> {
        self.header.metadata.get(key)
    }

    /// A string, or none.
    pub fn text(&self, key: &str) -> Result<Option<&str>> {
        match self.value(key) {
            None => Ok(None),
            Some(Value::Text(text)) => Ok(Some(text)),
            Some(other) => self.wrong(key, other, "a string"),
        }
    }

    pub fn flag(&self, key: &str) -> Result<Option<bool>> {
        match self.value(key) {
            None => Ok(None),
            Some(Value::Flag(flag)) => Ok(Some(*flag)),
            Some(other) => self.wrong(key, other, "true or false"),
        }
    }

    /// A number of either kind.
    pub fn number(&self, key: &str) -> Result<Option<f64>> {
        match self.value(key) {
            None => Ok(None),
            Some(Value::Float(number)) if number.is_finite() => Ok(Some(*number)),
            Some(Value::Integer(number)) => Ok(Some(*number as f64)),
            Some(other) => self.wrong(key, other, "a number"),
        }
    }

    /// An integer from 0 to `most`.
    pub fn size(&self, key: &str, most: usize) -> Result<Option<usize>> {
        match self.value(key) {
            None => Ok(None),
            Some(Value::Integer(n)) if (0..=most as i128).contains(n) => Ok(Some(*n as usize)),
            Some(other) => self.wrong(key, other, &format!("an integer from 0 to {most}")),
        }
    }

    /// A size of at least 1 that must be there.
    pub fn want_size(&self, key: &str, most: usize) -> Result<usize> {
        match self.size(key, most)? {
            Some(0) => bail!("{key} is 0, wanted an integer from 1 to {most}"),
            Some(n) => Ok(n),
            None => bail!("{key} is missing, wanted an integer from 1 to {most}"),
        }
    }

    /// A list of strings that must be there.
    pub fn want_texts(&self, key: &str) -> Result<Vec<&str>> {
        self.want_list(key, "a list of strings", |item| match item {
            Value::Text(text) => Some(text.as_str()),
            _ => None,
        })
    }

    /// A list of integers that must be there.
    pub fn want_integers(&self, key: &str) -> Result<Vec<i128>> {
        self.want_list(key, "a list of integers", |item| match item {
            Value::Integer(integer) => Some(*integer),
            _ => None,
        })
    }

    fn want_list<'a, T>(&'a self, key: &str, wanted: &str, take: impl Fn(&'a Value) -> Option<T>) -> Result<Vec<T>> {
        match self.value(key) {
            None => bail!("{key} is missing, wanted {wanted}"),
            Some(Value::List(list)) => {
                list.iter().map(|item| take(item).map_or_else(|| self.wrong(key, item, wanted), Ok)).collect()
            }
            Some(other) => self.wrong(key, other, wanted),
        }
    }

    fn wrong<T>(&self, key: &str, got: &Value, wanted: &str) -> Result<T> {
        let mut shown = format!("{got:?}");
        if shown.chars().count() > 60 {
            shown = format!("{}…", shown.chars().take(60).collect::<String>());
        }
        bail!("{key} is {shown}, wanted {wanted}")
    }

    /// The content of the file, and its tensors under the names of Hugging Face, each with the number of heads whose rows are
    /// interleaved.
    pub(crate) fn into_tensors(self, config: &Config) -> (MappedFile, Vec<(String, Entry, Option<usize>)>) {
        // llama.cpp rotates pairs of neighbours in this architecture, where others pair the halves of a head.
        let llama = config.model_type.as_deref() == Some("llama");
        let rows = self.header.tensors.into_iter().map(|(name, entry)| {
            let name = names::hugging_face(&name).unwrap_or(name);
            let heads = match llama {
                true if names::is_projection(&name, "q_proj") => Some(config.num_attention_heads),
                true if names::is_projection(&name, "k_proj") => Some(config.num_key_value_heads),
                _ => None,
            };
            (name, entry, heads)
        });
        (self.bytes, rows.collect())
    }
}
