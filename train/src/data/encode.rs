//! From a conversation to tokens, and which of them are learnt.
//!
//! What stands before an answer is tokenised as inference would tokenise it, and the answer after it. Where an answer begins
//! and ends the checkpoint's own template says: the prompt for it is rendered, and the conversation with it.

use super::DataOptions;
use super::format::Record;
use crate::{IGNORED, Sample};
use anyhow::{Context, Result, bail, ensure};
use npu_engine::{ChatTemplate, Message, Tokenizer, end_tokens};
use npu_models::{Config, GenerationConfig};
use std::path::Path;

/// A checkpoint's tokenizer and chat template.
pub struct Encoder {
    tokenizer: Tokenizer,
    template: Option<ChatTemplate>,
    /// Tokens that end an answer.
    ends: Vec<u32>,
    /// The one that is put where the template puts none.
    end: Option<u32>,
    config: Config,
}

/// A record in tokens.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Encoded {
    pub sample: Sample,
    pub last_only: bool,
    pub joined: bool,
}

/// A prompt in tokens.
pub(super) struct Asked {
    pub tokens: Vec<u32>,
    pub text: String,
    /// The prompt opened a `<think>`.
    pub thinking: bool,
}

impl Encoder {
    /// Of the checkpoint at `path`, a folder or a GGUF file; its weights are not touched.
    pub fn of(path: &Path) -> Result<Self> {
        let (tokenizer, config) = (Tokenizer::of(path)?, Config::of(path)?);
        let template = ChatTemplate::new(tokenizer.config()).with_context(|| format!("in {}", path.display()))?;
        Ok(Self::new(tokenizer, template, config, &GenerationConfig::from_dir(path)?))
    }

    fn new(
        tokenizer: Tokenizer,
        template: Option<ChatTemplate>,
        config: Config,
        generation: &GenerationConfig,
    ) -> Self {
        let ends = end_tokens(&config, generation, &tokenizer);
        let own = tokenizer.config().eos_token.as_deref().and_then(|token| tokenizer.token_id(token));
        Self { tokenizer, template, end: own.or(ends.first().copied()), ends, config }
    }

    /// Tokens of the longest sequence that the model takes.
    pub fn context(&self) -> usize {
        self.config.max_position_embeddings
    }

    /// The prompt that `messages` are, as `npu-run infer` would make it.
    pub(super) fn asked(&self, record: &Record, options: &DataOptions) -> Result<Asked> {
        ensure!(record.text.is_none(), "a text is no prompt");
        ensure!(!record.messages.is_empty(), "there is no prompt");
        let asked = match self.template(options) {
            Some(template) => {
                let prompt = template.render(&record.messages, options.think)?;
                let tokens = self.tokenizer.encode(&prompt.text, false)?;
                Asked { tokens, text: prompt.text, thinking: prompt.thinking }
            }
            None => {
                let text = joined(&record.messages, record.glue)?;
                Asked { tokens: self.tokenizer.encode(&text, true)?, text, thinking: false }
            }
        };
        self.check(&asked.tokens)?;
        Ok(asked)
    }

    /// The tokens of a record and their labels, however many they are.
    pub(super) fn encode(&self, record: &Record, options: &DataOptions) -> Result<Encoded> {
        let encoded = match (&record.text, self.template(options)) {
            (Some(text), _) => {
                let mut tokens = Labelled::default();
                tokens.push(self.tokenizer.encode(text, true)?, |_| true);
                Encoded { sample: self.ended(tokens), ..Encoded::default() }
            }
            (None, Some(template)) => self.conversation(template, &record.messages, options.think)?,
            (None, None) => Encoded { sample: self.joined(record)?, joined: true, ..Encoded::default() },
        };
        self.check(&encoded.sample.tokens)?;
        Ok(if options.learn_all { learnt_throughout(encoded) } else { encoded })
    }

    fn template(&self, options: &DataOptions) -> Option<&ChatTemplate> {
        self.template.as_ref().filter(|_| !options.raw)
    }

    fn check(&self, tokens: &[u32]) -> Result<()> {
        self.config.check_tokens(tokens).context("the tokenizer does not belong to the model")
    }

    /// Every answer of a conversation, or the last one where the template writes the earlier ones anew.
    fn conversation(&self, template: &ChatTemplate, messages: &[Message], think: bool) -> Result<Encoded> {
        ensure!(
            messages.first().is_some_and(|message| message.role != "assistant"),
            "the conversation begins with the assistant, wanted a question before its answer"
        );
        if let Some(sample) = self.every_answer(template, messages, think)? {
            return Ok(Encoded { sample, ..Encoded::default() });
        }
        let answers = messages.iter().filter(|message| message.role == "assistant").count();
        let sample = self.last_answer(template, messages, think)?;
        Ok(Encoded { sample, last_only: answers > 1, joined: false })
    }

    /// None where the prompt for an answer does not begin what the template makes of the conversation with it, or where that
    /// leaves the thought of an answer out.
    fn every_answer(&self, template: &ChatTemplate, messages: &[Message], think: bool) -> Result<Option<Sample>> {
        let mut tokens = Labelled::default();
        let mut before = String::new();
        for (i, message) in messages.iter().enumerate().filter(|(_, message)| message.role == "assistant") {
            let prompt = template.render(&messages[..i], think)?.text;
            let whole = template.conversation(&messages[..=i])?;
            let (Some(asked), Some(answer)) = (prompt.strip_prefix(&before), whole.strip_prefix(&prompt)) else {
                return Ok(None);
            };
            if message.content.contains("</think>") && !answer.contains("</think>") {
                return Ok(None);
            }
            tokens.push(self.following(&tokens.0.tokens, &prompt, asked)?, |_| false);
            let answer = self.following(&tokens.0.tokens, &whole, answer)?;
            let learnt = answer.iter().rposition(|token| self.ends.contains(token)).map_or(answer.len(), |end| end + 1);
            tokens.push(answer, |i| i < learnt);
            before = whole;
        }
        tokens.cut_after_the_learnt();
        Ok(Some(self.ended(tokens)))
    }

    /// The last answer after its prompt, written as the model would: after a thought that the prompt has opened, or closing
    /// that at once.
    fn last_answer(&self, template: &ChatTemplate, messages: &[Message], think: bool) -> Result<Sample> {
        let Some((answer, asked)) = messages.split_last() else { bail!("there are no messages") };
        let prompt = template.render(asked, think)?;
        let line_ended = prompt.text.ends_with('\n');
        let without_line = |rest| if line_ended { str::strip_prefix(rest, '\n').unwrap_or(rest) } else { rest };
        let thought = answer.content.strip_prefix("<think>").map(without_line);
        let answer = match (prompt.thinking, thought) {
            (true, Some(rest)) => rest.to_owned(),
            (true, None) if !answer.content.contains("</think>") => format!("\n</think>\n\n{}", answer.content),
            _ => answer.content.clone(),
        };
        let mut tokens = Labelled::default();
        tokens.push(self.tokenizer.encode(&prompt.text, false)?, |_| false);
        let answer = self.following(&tokens.0.tokens, &format!("{}{answer}", prompt.text), &answer)?;
        tokens.push(answer, |_| true);
        let whole = self.tokenizer.encode(&template.conversation(messages)?, false)?;
        let end = whole.iter().rev().copied().find(|token| self.ends.contains(token));
        tokens.push(end.into_iter().collect(), |_| true);
        Ok(self.ended(tokens))
    }

    /// A prompt and its completion without a template.
    fn joined(&self, record: &Record) -> Result<Sample> {
        let Some((answer, asked)) = record.messages.split_last() else { bail!("there are no messages") };
        let prompt = joined(asked, record.glue)?;
        let mut tokens = Labelled::default();
        tokens.push(self.tokenizer.encode(&prompt, true)?, |_| false);
        let whole = self.tokenizer.encode(&format!("{prompt}{}", answer.content), true)?;
        let answer = match whole.strip_prefix(&tokens.0.tokens[..]) {
            Some(answer) => answer.to_vec(),
            None => self.tokenizer.encode(&answer.content, false)?,
        };
        tokens.push(answer, |_| true);
        Ok(self.ended(tokens))
    }

    /// The tokens of `piece`, with which `whole` ends, after `before`: those of the whole where it begins with these, and
    /// where a token would go over the border those of the piece alone.
    fn following(&self, before: &[u32], whole: &str, piece: &str) -> Result<Vec<u32>> {
        match self.tokenizer.encode(whole, false)?.strip_prefix(before) {
            Some(rest) => Ok(rest.to_vec()),
            None => self.tokenizer.encode(piece, false),
        }
    }

    /// With a token that ends the answer, if there is none yet.
    fn ended(&self, mut tokens: Labelled) -> Sample {
        if !tokens.0.tokens.last().is_some_and(|token| self.ends.contains(token)) {
            tokens.push(self.end.into_iter().collect(), |_| true);
        }
        tokens.0
    }
}

/// Tokens with their labels as they come.
#[derive(Default)]
struct Labelled(Sample);

impl Labelled {
    /// Adds `tokens`, of which those are learnt whose place among them `learnt` says.
    fn push(&mut self, tokens: Vec<u32>, learnt: impl Fn(usize) -> bool) {
        let label = |(i, token): (usize, &u32)| if learnt(i) { i64::from(*token) } else { IGNORED };
        self.0.labels.extend(tokens.iter().enumerate().map(label));
        self.0.tokens.extend(tokens);
    }

    /// Leaves out what comes after the last learnt token, such as a line's end after the last turn: nothing is learnt of it.
    fn cut_after_the_learnt(&mut self) {
        let end = self.0.labels.iter().rposition(|label| *label != IGNORED).map_or(0, |last| last + 1);
        self.0.tokens.truncate(end);
        self.0.labels.truncate(end);
    }
}

fn learnt_throughout(mut encoded: Encoded) -> Encoded {
    encoded.sample.labels = encoded.sample.tokens.iter().map(|token| i64::from(*token)).collect();
    encoded
}

/// The prompt that messages are without a template.
fn joined(messages: &[Message], glue: &str) -> Result<String> {
    let turns = messages.iter().filter(|message| message.role == "assistant").count();
    ensure!(turns == 0, "a conversation of several turns needs a chat template, and none is used");
    Ok(messages.iter().flat_map(|message| [message.content.as_str(), glue]).collect())
}

#[cfg(test)]
#[path = "encode_tests.rs"]
mod tests;
