//! Rewards of a completion's form, whatever it says.

use super::{Answer, CLOSE, OPEN, Reward};
use anyhow::{Result, ensure};
use std::collections::HashSet;

/// One where the completion is a thought and then something, `<think>…</think>…`, with one thought only; else zero. The
/// `<think>` that the template has opened counts.
#[derive(Clone, Copy, Debug, Default)]
pub struct Format;

impl Reward for Format {
    fn score(&mut self, answers: &[Answer<'_>]) -> Result<Vec<Option<f64>>> {
        let fits = |answer: &Answer<'_>| {
            let inside = match answer.prompt.thinking {
                true => Some(answer.text),
                false => answer.text.strip_prefix(OPEN),
            };
            inside.is_some_and(|inside| inside.contains(CLOSE) && !inside.contains(OPEN))
        };
        Ok(answers.iter().map(|answer| Some(f64::from(fits(answer)))).collect())
    }
}

/// DAPO's soft punishment of what is too long (arXiv 2503.14476, equation 13): zero up to `max - cache` tokens, falling to -1 at
/// `max`, and -1 beyond.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Length {
    max: usize,
    cache: usize,
}

impl Length {
    pub fn new(max: usize, cache: usize) -> Result<Self> {
        ensure!(
            cache <= max,
            "the length reward falls over the last {cache} of {max} tokens; it must be at most all of them"
        );
        Ok(Self { max, cache })
    }
}

impl Reward for Length {
    fn score(&mut self, answers: &[Answer<'_>]) -> Result<Vec<Option<f64>>> {
        let Self { max, cache } = *self;
        let value = |tokens: usize| match tokens {
            _ if tokens > max => -1.,
            _ if tokens > max - cache => -((tokens + cache - max) as f64) / cache as f64,
            _ => 0.,
        };
        Ok(answers.iter().map(|answer| Some(value(answer.tokens.len()))).collect())
    }
}

/// `penalty` times the share of runs of `size` tokens that have occurred before (arXiv 2502.03373, C.2).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Repetition {
    size: usize,
    penalty: f64,
}

impl Repetition {
    pub fn new(size: usize, penalty: f64) -> Result<Self> {
        ensure!(size > 0, "the repetition reward looks at runs of 0 tokens, wanted at least 1");
        ensure!(penalty <= 0., "the repetition reward is {penalty} for what only repeats itself, wanted 0 or less");
        Ok(Self { size, penalty })
    }
}

impl Reward for Repetition {
    fn score(&mut self, answers: &[Answer<'_>]) -> Result<Vec<Option<f64>>> {
        let value = |tokens: &[u32]| {
            let runs = (tokens.len() + 1).saturating_sub(self.size);
            let distinct = tokens.windows(self.size).collect::<HashSet<_>>().len();
            if runs == distinct { 0. } else { self.penalty * (1. - distinct as f64 / runs as f64) }
        };
        Ok(answers.iter().map(|answer| Some(value(answer.tokens))).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{prompt, scores, scores_of};
    use super::*;
    use crate::data::Prompt;

    #[test]
    fn a_thought_comes_first_and_once() {
        let texts = [
            "<think>so</think>7",
            "<think>so",
            "7",
            "7<think>so</think>",
            "<think>a</think><think>b</think>",
            "so</think>7",
            "<think></think>",
        ];
        assert_eq!(scores(&mut Format, None, &texts).unwrap(), [1., 0., 0., 0., 0., 0., 1.].map(Some));
        let opened = Prompt { thinking: true, ..prompt(None) };
        assert_eq!(scores_of(&mut Format, &opened, &texts).unwrap(), [0., 0., 0., 0., 0., 1., 0.].map(Some));
    }

    #[test]
    fn length_is_punished_softly_towards_its_limit() {
        let texts = ["a", "a a a a a a", "a a a a a a a", "a a a a a a a a a a", "a a a a a a a a a a a"];
        let mut soft = Length::new(10, 4).unwrap();
        // Of 1, 6, 7, 10 and 11 tokens: the fall begins after 10 - 4.
        assert_eq!(scores(&mut soft, None, &texts).unwrap(), [0., 0., -0.25, -1., -1.].map(Some));
        let mut hard = Length::new(10, 0).unwrap();
        assert_eq!(scores(&mut hard, None, &texts).unwrap(), [0., 0., 0., 0., -1.].map(Some));
        assert!(Length::new(3, 4).is_err());
    }

    #[test]
    fn what_repeats_itself_loses() {
        let mut pairs = Repetition::new(2, -1.).unwrap();
        // Four runs of two in `e e e e e` are one run; no run of two in one word.
        assert_eq!(
            scores(&mut pairs, None, &["a b c d", "e e e e e", "a", ""]).unwrap(),
            [0., -0.75, 0., 0.].map(Some)
        );
        let mut triples = Repetition::new(3, -0.5).unwrap();
        assert_eq!(scores(&mut triples, None, &["a b c a b c"]).unwrap(), [Some(-0.125)]);
        assert!(Repetition::new(0, -1.).is_err() && Repetition::new(2, 1.).is_err());
    }
}
