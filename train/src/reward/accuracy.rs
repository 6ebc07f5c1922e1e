//! Whether a completion comes to the right answer.

use super::{Answer, Reward, number};
use anyhow::Result;

/// One where the completion's answer is the data's, else zero; none where the data has no answer.
///
/// What stands in the thought does not count, nor does a thought that is not ended. The answer is what the last `\boxed{…}`
/// holds, or what follows the last `####` (as in GSM8K). Where the right answer is a number it is compared as one, and without
/// those marks the last number of the text is taken; any other is compared as text: with the whole, or with its last line.
#[derive(Clone, Copy, Debug, Default)]
pub struct Accuracy;

impl Reward for Accuracy {
    fn score(&mut self, answers: &[Answer<'_>]) -> Result<Vec<Option<f64>>> {
        let right = |answer: &Answer<'_>| -> Option<f64> {
            let wanted = answer.prompt.answer.as_deref()?;
            let (_, given) = answer.parts();
            Some(f64::from(given.is_some_and(|given| is_right(given, wanted))))
        };
        Ok(answers.iter().map(right).collect())
    }
}

fn is_right(given: &str, wanted: &str) -> bool {
    let wanted = marked(wanted).unwrap_or(wanted).trim();
    let marked = marked(given);
    if let Some(wanted) = number::parse(wanted) {
        let got = match marked {
            Some(marked) => number::parse(marked).or_else(|| number::last(marked)),
            None => number::last(given),
        };
        return got.is_some_and(|got| number::same(got, wanted));
    }
    let last_line = || given.lines().map(str::trim).rfind(|line| !line.is_empty()).unwrap_or("");
    let same = |text: &str| normal(text) == normal(wanted);
    match marked {
        Some(marked) => same(marked),
        None => same(given) || same(last_line()),
    }
}

/// What the last `\boxed{…}` holds, or what follows the last `####` on its line.
fn marked(text: &str) -> Option<&str> {
    if let Some((_, rest)) = text.rsplit_once("\\boxed{") {
        let mut depth = 1;
        let end = rest.char_indices().find(|(_, c)| {
            depth += match c {
                '{' => 1,
                '}' => -1,
                _ => 0,
            };
            depth == 0
        });
        return end.map(|(end, _)| rest[..end].trim());
    }
    let (_, rest) = text.rsplit_once("####")?;
    rest.lines().next().map(str::trim)
}

/// `text` in lower case, words one space apart, without a full stop at the end.
fn normal(text: &str) -> String {
    let words: Vec<String> = text.split_whitespace().map(str::to_lowercase).collect();
    words.join(" ").trim_end_matches('.').to_owned()
}

#[cfg(test)]
mod tests {
    use super::super::testing::{prompt, scores, scores_of};
    use super::*;

    #[test]
    fn numbers_count_wherever_they_stand_and_however_they_are_written() {
        let texts = [
            "-41",
            "<think>\n017-058\n-041\n</think>\n\n-41",
            "The result is \u{2212}41.",
            "\\boxed{-41} and not 7",
            "#### -41",
            "41",
            "<think>-41</think> 17",
            "<think>-41",
            "-41 or rather 40",
            "",
            "\\boxed{40}, not -41",
        ];
        let wanted = [1., 1., 1., 1., 1., 0., 0., 0., 0., 0., 0.].map(Some);
        assert_eq!(scores(&mut Accuracy, Some("-41"), &texts).unwrap(), wanted);
        assert_eq!(
            scores(&mut Accuracy, Some("so it is\n#### 1,250"), &["1250.0", "1,25"]).unwrap(),
            [1., 0.].map(Some)
        );
        assert_eq!(
            scores(&mut Accuracy, Some("\\boxed{\\frac{1}{2}}"), &["0.5", "1/2", "2"]).unwrap(),
            [1., 1., 0.].map(Some)
        );
    }

    #[test]
    fn words_are_compared_as_words() {
        let texts = ["Paris", "I think it is\n paris. ", "\\boxed{Paris}", "London", "Paris is in France"];
        assert_eq!(scores(&mut Accuracy, Some("Paris"), &texts).unwrap(), [1., 1., 1., 0., 0.].map(Some));
    }

    #[test]
    fn a_thought_that_the_prompt_opened_must_be_closed() {
        let prompt = crate::data::Prompt { thinking: true, ..prompt(Some("5")) };
        let texts = ["it is 5", "it is 4 </think> 5"];
        assert_eq!(scores_of(&mut Accuracy, &prompt, &texts).unwrap(), [0., 1.].map(Some));
    }

    #[test]
    fn without_an_answer_there_is_nothing_to_say() {
        assert_eq!(scores(&mut Accuracy, None, &["5"]).unwrap(), [None]);
    }
}
