//! Text to tokens and back: `tokenizer.json` and the settings beside it, or what a GGUF file holds in their place.

use crate::gguf_tokenizer;
use crate::tokenizer_config::TokenizerConfig;
use anyhow::{Context, Result, anyhow};
use npu_models::gguf::Gguf;
use std::path::Path;

/// A checkpoint's tokenizer.
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    config: TokenizerConfig,
}

impl Tokenizer {
    /// Of the checkpoint at `path`, a folder or a GGUF file.
    pub fn of(path: &Path) -> Result<Self> {
        if !Gguf::is(path) {
            return Self::from_dir(path);
        }
        let (json, config) = gguf_tokenizer::read(&Gguf::open(path)?)?;
        Self::from_parts(json.as_bytes(), config).with_context(|| format!("in {}", path.display()))
    }

    /// Reads `tokenizer.json`, and where they exist `tokenizer_config.json` and `chat_template.jinja`, in `dir`.
    pub fn from_dir(dir: &Path) -> Result<Self> {
        let path = dir.join("tokenizer.json");
        let json = std::fs::read(&path).with_context(|| {
            format!(
                "cannot read {}; a tokenizer in another format must be saved as tokenizer.json first",
                path.display()
            )
        })?;
        let config = TokenizerConfig::from_dir(dir)?;
        Self::from_parts(&json, config).with_context(|| format!("in {}", path.display()))
    }

    /// From the content of `tokenizer.json`.
    pub fn from_parts(json: &[u8], config: TokenizerConfig) -> Result<Self> {
        let inner = tokenizers::Tokenizer::from_bytes(json).map_err(|e| anyhow!("not a tokenizer: {e}"))?;
        Ok(Self { inner, config })
    }

    /// A tokenizer of no tokens: every text is empty.
    pub(crate) fn empty() -> Self {
        let inner = tokenizers::Tokenizer::new(tokenizers::models::bpe::BPE::default());
        Self { inner, config: TokenizerConfig::default() }
    }

    pub fn config(&self) -> &TokenizerConfig {
        &self.config
    }

    /// Tokens of `text`. `add_special` adds what the tokenizer puts around a text of its own, such as the token of its
    /// beginning; a rendered chat template already has it.
    pub fn encode(&self, text: &str, add_special: bool) -> Result<Vec<u32>> {
        let encoding =
            self.inner.encode_fast(text, add_special).map_err(|e| anyhow!("cannot tokenize the text: {e}"))?;
        let mut ids = encoding.get_ids().to_vec();
        // transformers puts the token in by `add_bos_token` even where tokenizer.json does not.
        if let (true, Some(true), Some(bos)) =
            (add_special, self.config.add_bos_token, self.config.bos_token.as_deref())
            && let Some(bos) = self.token_id(bos)
            && ids.first() != Some(&bos)
        {
            ids.insert(0, bos);
        }
        Ok(ids)
    }

    /// Text of `ids`, special tokens left out.
    pub fn decode(&self, ids: &[u32]) -> Result<String> {
        self.inner.decode(ids, true).map_err(|e| anyhow!("cannot decode tokens: {e}"))
    }

    /// The id of one token's text.
    pub fn token_id(&self, token: &str) -> Option<u32> {
        self.inner.token_to_id(token)
    }

    /// Tokens with the added ones.
    pub fn vocab_size(&self) -> usize {
        self.inner.get_vocab_size(true)
    }

    /// A decoder for a stream of tokens.
    pub fn stream(&self) -> Detokenizer<'_> {
        Detokenizer { tokenizer: self, window: Vec::new(), sent: 0 }
    }
}

/// Stands for bytes that are no UTF-8, among them the first bytes of a character whose last are still to come.
const REPLACEMENT: char = '\u{FFFD}';

/// Turns tokens into text as they come, and holds back half characters.
pub struct Detokenizer<'a> {
    tokenizer: &'a Tokenizer,
    /// The last token that was finished, for context (some tokenizers drop the space of a first word), and what follows.
    window: Vec<u32>,
    /// Bytes of the window's text that were given out.
    sent: usize,
}

impl Detokenizer<'_> {
    /// Takes a token and gives the text that is certain by now, possibly none.
    pub fn push(&mut self, id: u32) -> Result<String> {
        self.window.push(id);
        let text = self.tokenizer.decode(&self.window)?;
        // Only the last replacement character can be the beginning of a character: lossy decoding makes one of each
        // beginning that cannot be completed.
        let stable = text.strip_suffix(REPLACEMENT).unwrap_or(&text);
        let piece = stable.get(self.sent..).unwrap_or_default().to_owned();
        if stable.len() == text.len() && !text.is_empty() {
            self.window = vec![id];
            self.sent = self.tokenizer.decode(&self.window)?.len();
        } else {
            self.sent = self.sent.max(stable.len());
        }
        Ok(piece)
    }

    /// What was held back when the stream ends; half a character shows as a replacement character.
    pub fn finish(self) -> Result<String> {
        let text = self.tokenizer.decode(&self.window)?;
        Ok(text.get(self.sent..).unwrap_or_default().to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::byte_tokenizer_files;

    fn byte_tokenizer() -> Tokenizer {
        let (file, settings) = byte_tokenizer_files();
        Tokenizer::from_parts(file.as_bytes(), TokenizerConfig::from_json(settings).expect("settings"))
            .expect("a tokenizer")
    }

    #[test]
    fn a_beginning_is_added_once_where_the_settings_say_so() {
        let (file, _) = byte_tokenizer_files();
        let settings = TokenizerConfig::from_json(r#"{"bos_token": "<s>", "add_bos_token": true}"#).expect("settings");
        let tokenizer = Tokenizer::from_parts(file.as_bytes(), settings).expect("a tokenizer");
        assert_eq!(tokenizer.encode("a", true).expect("tokens"), [256, 97]);
        assert_eq!(tokenizer.encode("<s>a", true).expect("tokens"), [256, 97]);
        assert_eq!(tokenizer.encode("a", false).expect("tokens"), [97]);
        assert_eq!(byte_tokenizer().encode("a", true).expect("tokens"), [97]);
    }

    #[test]
    fn characters_come_whole() {
        let tokenizer = byte_tokenizer();
        let text = "aé漢🙂 é";
        let mut stream = tokenizer.stream();
        let mut pieces = Vec::new();
        for id in tokenizer.encode(text, false).unwrap() {
            let piece = stream.push(id).unwrap();
            assert!(!piece.contains(REPLACEMENT), "{pieces:?} {piece:?}");
            pieces.push(piece);
        }
        pieces.push(stream.finish().unwrap());
        assert_eq!(pieces.concat(), text);
        // One token a byte: a character comes with its last byte.
        assert_eq!(&pieces[..6], ["a", "", "é", "", "", "漢"]);
    }

    #[test]
    fn bytes_that_are_no_text_do_not_block_what_follows() {
        let tokenizer = byte_tokenizer();
        let byte =
            |byte: u8| tokenizer.inner.encode(String::from_utf8_lossy(&[byte]).as_ref(), false).unwrap().get_ids()[0];
        let bytes_of_e_acute = tokenizer.encode("é", false).unwrap();
        let (lead, tail) = (bytes_of_e_acute[0], bytes_of_e_acute[1]);
        let mut stream = tokenizer.stream();
        let ids = [lead, lead, byte(b'a'), tail, byte(b'b'), lead];
        let pieces: Vec<String> = ids.iter().map(|id| stream.push(*id).unwrap()).collect();
        let end = stream.finish().unwrap();
        assert_eq!(pieces.concat() + &end, "\u{FFFD}\u{FFFD}a\u{FFFD}b\u{FFFD}");
        assert_eq!(end, "\u{FFFD}", "half a character waits for the end");
    }
}
