//! Prompts with answers, a model of random weights whose completions differ, and a reward that it can learn.

use super::qwen2_tiny;
use anyhow::Result;
use npu_train::data::{Corpus, DataOptions, Encoder};
use npu_train::reward::{Answer, Reward};
use std::path::Path;
use std::sync::{Arc, LazyLock};
use tempfile::TempDir;

/// The checkpoint's folder.
pub fn home() -> &'static Path {
    static HOME: LazyLock<TempDir> = LazyLock::new(|| {
        let folder = tempfile::tempdir().expect("a folder");
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace");
        let tokenizer = ["tokenizer.json", "tokenizer_config.json"].map(|name| root.join("demo/model").join(name));
        for file in ["config.json", "model.safetensors"].map(|name| qwen2_tiny().join(name)).iter().chain(&tokenizer) {
            std::fs::copy(file, folder.path().join(file.file_name().expect("a name"))).expect("a copy");
        }
        folder
    });
    HOME.path()
}

/// `count` sums as a file of prompts with answers.
pub fn sums(count: usize) -> Corpus {
    let path = home().join(format!("sums-{count}.jsonl"));
    let lines = (0..count).map(|i| format!("{{\"prompt\": \"{i} + {}\", \"answer\": \"{}\"}}\n", 3 * i, 4 * i));
    let file = tempfile::NamedTempFile::new_in(home()).expect("a file");
    std::fs::write(file.path(), lines.collect::<String>()).expect("prompts");
    file.persist(&path).expect("prompts");
    let encoder = Arc::new(Encoder::of(home()).expect("the demo's tokenizer"));
    Corpus::open_prompts(&[path], &DataOptions::default(), encoder, &|_, _| {}).expect("prompts")
}

/// The share of a completion's tokens that are even: half, by weights that are random.
pub struct Even;

pub fn even(tokens: &[u32]) -> f64 {
    tokens.iter().filter(|token| *token % 2 == 0).count() as f64 / tokens.len() as f64
}

impl Reward for Even {
    fn score(&mut self, answers: &[Answer<'_>]) -> Result<Vec<Option<f64>>> {
        Ok(answers.iter().map(|answer| Some(even(answer.tokens))).collect())
    }
}
