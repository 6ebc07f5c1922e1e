//! A tokenizer of one token a byte, for the tests of this crate.

use serde_json::{Map, Value, json};

/// Byte-level tokens 0 to 255, and `<s>` 256, `</s>` 257 (special), `<think>` 258, `</think>` 259 (not):
/// the content of `tokenizer.json` and of `tokenizer_config.json`.
pub fn byte_tokenizer_files() -> (String, &'static str) {
    let mut vocab = Map::new();
    // The byte-level alphabet: printable bytes stand for themselves, the others for letters from U+0100 on.
    let mut next = 256;
    for byte in 0..=255u32 {
        let plain = (33..=126).contains(&byte) || (161..=172).contains(&byte) || (174..=255).contains(&byte);
        let code = if plain { byte } else { next };
        next += u32::from(!plain);
        vocab.insert(char::from_u32(code).unwrap().to_string(), Value::from(byte));
    }
    let added = |id: u32, content: &str, special: bool| json!({"id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": special});
    let byte_level = json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false});
    let file = json!({
        "version": "1.0", "truncation": null, "padding": null, "normalizer": null, "post_processor": null,
        "added_tokens": [added(256, "<s>", true), added(257, "</s>", true), added(258, "<think>", false), added(259, "</think>", false)],
        "pre_tokenizer": byte_level, "decoder": byte_level,
        "model": {"type": "BPE", "vocab": vocab, "merges": []},
    });
    (file.to_string(), r#"{"bos_token": "<s>", "eos_token": "</s>"}"#)
}
