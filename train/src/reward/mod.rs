//! What completions are worth.
//!
//! A reward gives each completion a number, or none where it has nothing to say of it. Several are added up by their weights:
//! the built-in ones, a reward model, and programs of the user's.

mod accuracy;
mod model;
mod number;
mod program;
mod shape;
mod spec;

pub use accuracy::Accuracy;
pub use model::RewardModel;
pub use program::Program;
pub use shape::{Format, Length, Repetition};
pub use spec::{Kind as RewardKind, RewardRun, RewardSpec, Rewards, Scores};

use crate::data::Prompt;
use anyhow::Result;

/// A completion that is to be rewarded.
#[derive(Clone, Copy, Debug)]
pub struct Answer<'a> {
    /// Its place among those that are rewarded together, for errors.
    pub index: usize,
    pub prompt: &'a Prompt,
    /// Without special tokens.
    pub text: &'a str,
    /// With the one that ended it.
    pub tokens: &'a [u32],
}

impl Answer<'_> {
    /// The words by which errors name the completion.
    fn named(&self) -> String {
        let text = self.prompt.messages.last().map_or(self.prompt.text.as_str(), |message| message.content.as_str());
        let mut start: String = text.chars().take(60).collect();
        if start.len() < text.len() {
            start.push('…');
        }
        format!("completion {} (of the prompt {start:?})", self.index)
    }

    /// The thought and what follows it. No thought where none was begun; nothing that follows where it was not ended.
    fn parts(&self) -> (Option<&str>, Option<&str>) {
        match self.text.rsplit_once(CLOSE) {
            Some((thought, rest)) => (Some(thought), Some(rest)),
            None if self.prompt.thinking || self.text.contains(OPEN) => (Some(self.text), None),
            None => (None, Some(self.text)),
        }
    }
}

const OPEN: &str = "<think>";
const CLOSE: &str = "</think>";

/// Judges completions.
pub trait Reward {
    /// The value of each of `answers`; none where it has nothing to say.
    fn score(&mut self, answers: &[Answer<'_>]) -> Result<Vec<Option<f64>>>;
}

#[cfg(test)]
mod testing {
    use super::*;

    /// The values that `reward` gives to answers of `texts` to a prompt whose answer is `answer`; a token a word.
    pub fn scores(reward: &mut dyn Reward, answer: Option<&str>, texts: &[&str]) -> Result<Vec<Option<f64>>> {
        let prompt = prompt(answer);
        scores_of(reward, &prompt, texts)
    }

    pub fn prompt(answer: Option<&str>) -> Prompt {
        Prompt {
            messages: vec![npu_engine::Message::new("user", "How much?")],
            tokens: vec![1],
            text: "How much?".to_owned(),
            thinking: false,
            answer: answer.map(str::to_owned),
            columns: serde_json::Map::new(),
        }
    }

    pub fn scores_of(reward: &mut dyn Reward, prompt: &Prompt, texts: &[&str]) -> Result<Vec<Option<f64>>> {
        let token = |word: &str| word.bytes().fold(7u32, |token, byte| token.wrapping_mul(31) + u32::from(byte));
        let tokens: Vec<Vec<u32>> = texts.iter().map(|text| text.split_whitespace().map(token).collect()).collect();
        let answers = texts.iter().zip(&tokens).enumerate();
        let answers: Vec<Answer> =
            answers.map(|(index, (text, tokens))| Answer { index, prompt, text, tokens }).collect();
        reward.score(&answers)
    }
}
