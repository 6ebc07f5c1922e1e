//! The model's tokenizer, made by code: one token a byte, a few whole words, and the chat markers.
//!
//! Any text encodes, since every byte is a token. Digits never merge, so a number is its digits.

use anyhow::{Context, Result, anyhow};
use serde_json::{Value, json};
use tokenizers::models::bpe::{BPE, Merges, Vocab};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::{AddedToken, Tokenizer};

pub const PAD: &str = "<|endoftext|>";
pub const START: &str = "<|im_start|>";
pub const END: &str = "<|im_end|>";

/// Markers that a decoder may drop.
const SPECIAL: [&str; 3] = [PAD, START, END];
/// Markers that stay in decoded text, since the caller tells the working from the answer by them.
const VISIBLE: [&str; 2] = ["<think>", "</think>"];

/// Words that get a token of their own, most of all the chat roles; a leading `Ġ` is the byte-level spelling of a space.
/// Earlier pieces merge first, so `Ġplus` stands before `user`, whose `us` would split it.
const WORDS: [&str; 14] = [
    "Ġplus",
    "Ġminus",
    "assistant",
    "user",
    "system",
    "What",
    "what",
    "Ġis",
    "Calculate",
    "Compute",
    "How",
    "Ġmuch",
    "Ġcan",
    "Ġonly",
];

/// ChatML; with `enable_thinking` false the assistant's turn opens with an empty think block.
pub const CHAT_TEMPLATE: &str = "{%- for message in messages -%}\
{{- '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' -}}\
{%- endfor -%}\
{%- if add_generation_prompt -%}\
{{- '<|im_start|>assistant\\n' -}}\
{%- if enable_thinking is defined and enable_thinking is false -%}\
{{- '<think>\\n\\n</think>\\n\\n' -}}\
{%- endif -%}\
{%- endif -%}";

/// What `CHAT_TEMPLATE` makes of a system prompt, which goes before the question.
pub fn system(text: &str) -> String {
    format!("{START}system\n{text}{END}\n")
}

/// What `CHAT_TEMPLATE` makes of a single question.
pub fn prompt(question: &str, thinking: bool) -> String {
    let opening = if thinking { "" } else { "<think>\n\n</think>\n\n" };
    format!("{START}user\n{question}{END}\n{START}assistant\n{opening}")
}

/// Builds the tokenizer: bytes 0 to 255 are ids 0 to 255, then the words with their intermediate pieces, then the markers.
pub fn build() -> Result<Tokenizer> {
    let mut vocab = Vocab::default();
    let mut merges = Merges::new();
    for (id, symbol) in byte_symbols().into_iter().enumerate() {
        vocab.insert(symbol.to_string(), id as u32);
    }
    for word in WORDS {
        let mut piece = String::new();
        for symbol in word.chars() {
            let longer = format!("{piece}{symbol}");
            if !vocab.contains_key(&longer) {
                vocab.insert(longer.clone(), vocab.len() as u32);
                merges.push((piece, symbol.to_string()));
            }
            piece = longer;
        }
    }
    let bpe = BPE::builder().vocab_and_merges(vocab, merges).build().map_err(|e| anyhow!("tokenizer model: {e}"))?;
    let mut tokenizer = Tokenizer::new(bpe);
    tokenizer.with_pre_tokenizer(Some(ByteLevel::new(false, false, true)));
    tokenizer.with_decoder(Some(ByteLevel::new(false, false, true)));
    tokenizer.add_special_tokens(SPECIAL.map(|text| AddedToken::from(text, true))).map_err(|e| anyhow!("{e}"))?;
    tokenizer.add_tokens(VISIBLE.map(|text| AddedToken::from(text, false))).map_err(|e| anyhow!("{e}"))?;
    Ok(tokenizer)
}

/// Ids of `text`, markers included.
pub fn encode(tokenizer: &Tokenizer, text: &str) -> Result<Vec<u32>> {
    let encoding = tokenizer.encode(text, false).map_err(|e| anyhow!("encoding {text:?}: {e}"))?;
    Ok(encoding.get_ids().to_vec())
}

/// Text of `ids`, without the special markers.
pub fn decode(tokenizer: &Tokenizer, ids: &[u32]) -> Result<String> {
    tokenizer.decode(ids, true).map_err(|e| anyhow!("decoding {} tokens: {e}", ids.len()))
}

/// Id of a marker.
pub fn marker(tokenizer: &Tokenizer, text: &str) -> Result<u32> {
    tokenizer.token_to_id(text).with_context(|| format!("the tokenizer has no token {text}"))
}

/// The content of `tokenizer_config.json`.
pub fn config(tokenizer: &Tokenizer, max_length: usize) -> Result<Value> {
    let mut added = serde_json::Map::new();
    for (text, special) in SPECIAL.map(|t| (t, true)).into_iter().chain(VISIBLE.map(|t| (t, false))) {
        let entry = json!({
            "content": text, "lstrip": false, "normalized": !special, "rstrip": false, "single_word": false,
            "special": special,
        });
        added.insert(marker(tokenizer, text)?.to_string(), entry);
    }
    Ok(json!({
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": null,
        "eos_token": END,
        "pad_token": PAD,
        "model_max_length": max_length,
        "clean_up_tokenization_spaces": false,
        "added_tokens_decoder": added,
        "chat_template": CHAT_TEMPLATE,
    }))
}

/// The printable character by which byte-level tokenizers spell each byte: itself where printable in Latin-1, else the
/// next free one from U+0100.
fn byte_symbols() -> [char; 256] {
    let mut next = 0x100;
    std::array::from_fn(|byte| {
        let byte = byte as u8;
        match byte {
            b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff => char::from(byte),
            _ => {
                let symbol = char::from_u32(next).expect("U+0100 to U+0143 are characters");
                next += 1;
                symbol
            }
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_symbol_is_in_the_byte_level_alphabet() {
        let alphabet = ByteLevel::alphabet();
        assert!(byte_symbols().iter().all(|symbol| alphabet.contains(symbol)));
        assert_eq!(alphabet.len(), 256);
    }

    #[test]
    fn any_text_survives_a_round_trip_also_through_the_file_format() {
        let built = build().unwrap();
        let read: Tokenizer = built.to_string(false).unwrap().parse().unwrap();
        for text in ["What is 123 + 456?", " 1  2\n\n3\t", "Größe 漢字 🦀 \u{0}\u{7f}", "", "</think> user<assistant"]
        {
            for tokenizer in [&built, &read] {
                let ids = encode(tokenizer, text).unwrap();
                assert_eq!(decode(tokenizer, &ids).unwrap(), text);
            }
            assert_eq!(encode(&built, text).unwrap(), encode(&read, text).unwrap());
        }
    }

    #[test]
    fn words_are_one_token_and_digits_one_each() {
        let tokenizer = build().unwrap();
        for word in WORDS {
            let ids = encode(&tokenizer, &word.replace('Ġ', " ")).unwrap();
            assert_eq!(ids.len(), 1, "{word} is {ids:?}");
        }
        assert_eq!(encode(&tokenizer, "999+12").unwrap().len(), 6);
        assert_eq!(encode(&tokenizer, &prompt("1", true)).unwrap().len(), 9);
    }

    #[test]
    fn prompt_is_what_the_chat_template_makes() {
        let mut env = minijinja::Environment::new();
        env.add_template("chat", CHAT_TEMPLATE).unwrap();
        let render = |thinking: bool| {
            env.get_template("chat")
                .unwrap()
                .render(json!({
                    "messages": [
                        {"role": "system", "content": "Be brief."},
                        {"role": "user", "content": "1 + 2"},
                    ],
                    "add_generation_prompt": true,
                    "enable_thinking": thinking,
                }))
                .unwrap()
        };
        for thinking in [true, false] {
            assert_eq!(render(thinking), system("Be brief.") + &prompt("1 + 2", thinking));
        }
    }
}
