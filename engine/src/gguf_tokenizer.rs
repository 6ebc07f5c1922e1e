//! The tokenizer that a GGUF file holds, as the content of a `tokenizer.json`.
//!
//! The file names the way that text is cut before tokens are looked for (`tokenizer.ggml.pre`) and leaves the way itself to
//! the reader: [`PRE`] has the ones of the models that run here.

use crate::tokenizer_config::TokenizerConfig;
use anyhow::{Context, Result, bail, ensure};
use npu_models::gguf::Gguf;
use serde_json::{Map, Value, json};

/// A way to cut text.
struct Pre {
    names: &'static [&'static str],
    /// Digits of a number that stay together at most; none cuts as GPT-2 did, by the rule that ByteLevel has built in.
    digits: Option<&'static str>,
    /// Text is brought to Unicode's composed form first.
    composed: bool,
    /// A word that is a token is one, whatever the merges say.
    whole_words: bool,
    /// A text begins with a token of its own, unless the file says otherwise.
    begins: bool,
}

const PRE: &[Pre] = &[
    Pre { names: &["gpt-2"], digits: None, composed: false, whole_words: false, begins: false },
    Pre {
        names: &["qwen2", "deepseek-r1-qwen"],
        digits: Some(r"\p{N}"),
        composed: true,
        whole_words: false,
        begins: false,
    },
    Pre {
        names: &["llama-bpe", "llama3", "llama-v3"],
        digits: Some(r"\p{N}{1,3}"),
        composed: false,
        whole_words: true,
        begins: true,
    },
];

/// `tokenizer.ggml.token_type` of tokens that text is never merged into.
const CONTROL: i128 = 3;
const USER_DEFINED: i128 = 4;

/// The tokenizer's file and the settings beside it.
pub fn read(file: &Gguf) -> Result<(String, TokenizerConfig)> {
    parts(file).with_context(|| format!("the tokenizer in {}", file.path().display()))
}

fn parts(file: &Gguf) -> Result<(String, TokenizerConfig)> {
    let want = |key: &str| file.text(key)?.with_context(|| format!("{key} is missing, wanted a name"));
    let model = want("tokenizer.ggml.model")?;
    ensure!(model == "gpt2", "tokenizer.ggml.model is {model:?}; only \"gpt2\", byte-level BPE, is supported");
    let name = want("tokenizer.ggml.pre")?;
    let Some(pre) = PRE.iter().find(|pre| pre.names.contains(&name)) else {
        let known: Vec<_> = PRE.iter().flat_map(|pre| pre.names).copied().collect();
        bail!("tokenizer.ggml.pre is {name:?}; {} are known", known.join(", "));
    };
    let tokens = file.want_texts("tokenizer.ggml.tokens")?;
    let merges = file.want_texts("tokenizer.ggml.merges")?;
    let special = |key: &str| -> Result<Option<String>> {
        let key = format!("tokenizer.ggml.{key}_token_id");
        let Some(id) = file.size(&key, u32::MAX as usize)? else { return Ok(None) };
        let token = tokens.get(id).with_context(|| format!("{key} is {id}, and there are {} tokens", tokens.len()))?;
        Ok(Some((*token).to_owned()))
    };
    ensure!(
        !file.flag("tokenizer.ggml.add_eos_token")?.unwrap_or(false),
        "tokenizer.ggml.add_eos_token is true; a prompt that ends itself is not supported"
    );
    let config = TokenizerConfig {
        add_bos_token: Some(file.flag("tokenizer.ggml.add_bos_token")?.unwrap_or(pre.begins)),
        bos_token: special("bos")?,
        eos_token: special("eos")?,
        pad_token: special("padding")?,
        unk_token: special("unknown")?,
        chat_template: file.text("tokenizer.chat_template")?.map(str::to_owned),
    };
    let vocab: Map<String, Value> = tokens.iter().enumerate().map(|(id, token)| ((*token).into(), id.into())).collect();
    let json = json!({
        "version": "1.0", "truncation": null, "padding": null, "post_processor": null,
        "added_tokens": added(file, &tokens)?,
        "normalizer": if pre.composed { json!({"type": "NFC"}) } else { Value::Null },
        "pre_tokenizer": pre.cutter(),
        "decoder": byte_level(true),
        "model": {
            "type": "BPE", "vocab": vocab, "merges": merges, "ignore_merges": pre.whole_words,
            "dropout": null, "unk_token": null, "continuing_subword_prefix": null, "end_of_word_suffix": null,
            "fuse_unk": false, "byte_fallback": false,
        },
    });
    Ok((json.to_string(), config))
}

/// Tokens that are found in text before it is cut: control tokens, which do not show in answers, and the user's, which do.
fn added(file: &Gguf, tokens: &[&str]) -> Result<Vec<Value>> {
    let key = "tokenizer.ggml.token_type";
    let types = file.want_integers(key)?;
    ensure!(types.len() == tokens.len(), "{key} has {} entries for {} tokens", types.len(), tokens.len());
    let row = |id: usize, special: bool| {
        json!({
            "id": id, "content": tokens[id], "special": special,
            "single_word": false, "lstrip": false, "rstrip": false, "normalized": false,
        })
    };
    let rows = types.into_iter().enumerate().filter_map(|(id, kind)| match kind {
        CONTROL => Some(row(id, true)),
        USER_DEFINED => Some(row(id, false)),
        _ => None,
    });
    Ok(rows.collect())
}

fn byte_level(with_rule: bool) -> Value {
    json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false, "use_regex": with_rule})
}

impl Pre {
    /// Cuts before contractions, between letters, digits and signs, and around line ends; then turns bytes to letters.
    fn cutter(&self) -> Value {
        let Some(digits) = self.digits else { return byte_level(true) };
        let branches = [
            r"(?i:'s|'t|'re|'ve|'m|'ll|'d)",
            r"[^\r\n\p{L}\p{N}]?\p{L}+",
            digits,
            r" ?[^\s\p{L}\p{N}]+[\r\n]*",
            r"\s*[\r\n]+",
            r"\s+(?!\S)",
            r"\s+",
        ];
        let split = json!({
            "type": "Split", "pattern": {"Regex": branches.join("|")}, "behavior": "Isolated", "invert": false,
        });
        json!({"type": "Sequence", "pretokenizers": [split, byte_level(false)]})
    }
}
