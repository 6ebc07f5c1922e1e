//! Greedy decoding in batches, and the share of held-out sums that come out right.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result};
use candle_core::{D, Device, Tensor};
use serde_json::Value;
use tokenizers::Tokenizer;

use crate::model::Model;
use crate::tokenizer;

/// The longest response (a negative difference) has 65 tokens; one that runs past this many is lost anyway.
const MAX_NEW_TOKENS: usize = 80;
/// Bounds the memory of the key and value caches; larger batches gain nothing on a CPU.
const MAX_BATCH: usize = 64;

/// A question and its right answer.
#[derive(Clone, Debug)]
pub struct Case {
    pub question: String,
    pub answer: String,
}

/// How many were right, and what was said where not.
#[derive(Debug, Default)]
pub struct Report {
    pub right: usize,
    pub total: usize,
    /// The case and the whole response.
    pub wrong: Vec<(Case, String)>,
}

impl Report {
    /// Right answers, in percent.
    pub fn accuracy(&self) -> f64 {
        100.0 * self.right as f64 / self.total.max(1) as f64
    }
}

/// Reads the lines `{"question": …, "answer": …}` of a file.
pub fn read_cases(path: &Path) -> Result<Vec<Case>> {
    let text = std::fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
    let parse = |(number, line): (usize, &str)| {
        let at = || format!("{}:{}", path.display(), number + 1);
        let value: Value = serde_json::from_str(line).with_context(at)?;
        let field = |key: &str| value[key].as_str().map(str::to_string).with_context(|| format!("{}: no {key}", at()));
        Ok(Case { question: field("question")?, answer: field("answer")? })
    };
    text.lines().enumerate().map(parse).collect()
}

/// Answers every case and compares the last line of the response with the right answer.
pub fn evaluate(model: &Model, tokenizer: &Tokenizer, cases: &[Case], thinking: bool) -> Result<Report> {
    let questions: Vec<&str> = cases.iter().map(|case| case.question.as_str()).collect();
    let mut report = Report { total: cases.len(), ..Report::default() };
    for (case, response) in cases.iter().zip(respond(model, tokenizer, &questions, thinking)?) {
        if response.lines().last() == Some(case.answer.as_str()) {
            report.right += 1;
        } else {
            report.wrong.push((case.clone(), response));
        }
    }
    Ok(report)
}

/// The model's responses, by greedy decoding. Prompts of equal length share a batch, so nothing is padded.
pub fn respond(model: &Model, tokenizer: &Tokenizer, questions: &[&str], thinking: bool) -> Result<Vec<String>> {
    let mut by_length: BTreeMap<usize, Vec<(usize, Vec<u32>)>> = BTreeMap::new();
    for (index, question) in questions.iter().enumerate() {
        let ids = tokenizer::encode(tokenizer, &tokenizer::prompt(question, thinking))?;
        by_length.entry(ids.len()).or_default().push((index, ids));
    }
    let mut responses = vec![String::new(); questions.len()];
    for batch in by_length.values().flat_map(|group| group.chunks(MAX_BATCH)) {
        let prompts: Vec<&[u32]> = batch.iter().map(|(_, ids)| ids.as_slice()).collect();
        for ((index, _), ids) in batch.iter().zip(decode_batch(model, tokenizer, &prompts)?) {
            responses[*index] = tokenizer::decode(tokenizer, &ids)?;
        }
    }
    Ok(responses)
}

/// New tokens for prompts of one length, each up to its end marker.
fn decode_batch(model: &Model, tokenizer: &Tokenizer, prompts: &[&[u32]]) -> Result<Vec<Vec<u32>>> {
    let end = tokenizer::marker(tokenizer, tokenizer::END)?;
    let rows = prompts.len();
    let mut cache = vec![None; model.config.layers];
    let mut input = Tensor::from_vec(prompts.concat(), (rows, prompts[0].len()), &Device::Cpu)?;
    let mut outputs = vec![Vec::new(); rows];
    let mut done = vec![false; rows];
    for _ in 0..MAX_NEW_TOKENS {
        let hidden = model.hidden(&input, Some(&mut cache))?;
        let last = hidden.narrow(1, hidden.dim(1)? - 1, 1)?.squeeze(1)?.contiguous()?;
        // Detached, the caches would otherwise carry the whole graph along.
        for (k, v) in cache.iter_mut().flatten() {
            (*k, *v) = (k.detach(), v.detach());
        }
        let next: Vec<u32> = model.logits(&last)?.argmax(D::Minus1)?.to_vec1()?;
        for (row, &token) in next.iter().enumerate() {
            done[row] |= token == end;
            if !done[row] {
                outputs[row].push(token);
            }
        }
        if done.iter().all(|&row| row) {
            break;
        }
        input = Tensor::from_vec(next, (rows, 1), &Device::Cpu)?;
    }
    Ok(outputs)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::task::{Op, Problem, Split};

    fn shipped() -> (&'static Path, Model, Tokenizer) {
        let folder = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/model"));
        (folder, Model::load(folder).unwrap(), Tokenizer::from_file(folder.join("tokenizer.json")).unwrap())
    }

    /// The two numbers of a question, in order; `-` before a digit belongs to the operation, never to an operand.
    fn operands(question: &str) -> (u16, u16) {
        let numbers: Vec<u16> = question
            .split(|c: char| !c.is_ascii_digit())
            .filter(|part| !part.is_empty())
            .map(|part| part.parse().unwrap())
            .collect();
        assert_eq!(numbers.len(), 2, "{question}");
        (numbers[0], numbers[1])
    }

    #[test]
    fn shipped_files_are_what_the_code_makes() {
        let (folder, model, read) = shipped();
        let built = tokenizer::build().unwrap();
        assert_eq!(read.to_string(true).unwrap(), built.to_string(true).unwrap());
        assert_eq!(model.config.vocab, built.get_vocab_size(true));
        let text = std::fs::read_to_string(folder.join("tokenizer_config.json")).unwrap();
        let config: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(config, tokenizer::config(&built, model.config.max_positions).unwrap());
    }

    #[test]
    fn held_out_questions_are_held_out_and_their_answers_right() {
        let cases = read_cases(&shipped().0.join("heldout.jsonl")).unwrap();
        assert_eq!(cases.len(), 500);
        for case in cases {
            let (a, b) = operands(&case.question);
            let op = if case.question.contains(['+']) || case.question.contains("plus") { Op::Add } else { Op::Sub };
            let problem = Problem { a, op, b };
            assert_eq!(problem.split(), Split::HeldOut, "{}", case.question);
            assert_eq!(case.answer, problem.answer().to_string(), "{}", case.question);
        }
    }

    #[test]
    fn shipped_model_answers() {
        let (folder, model, tokenizer) = shipped();
        let asked = ["What is 123 + 456?", "17-58", "Hello"];
        let responses = respond(&model, &tokenizer, &asked, true).unwrap();
        let answers: Vec<_> = responses.iter().filter_map(|response| response.lines().last()).collect();
        assert_eq!(answers, ["579", "-41", crate::task::REFUSAL]);
        let cases = read_cases(&folder.join("heldout.jsonl")).unwrap();
        for thinking in [true, false] {
            // The first hundred of the five hundred, to keep the test short; README.md has the accuracy on all.
            let report = evaluate(&model, &tokenizer, &cases[..100], thinking).unwrap();
            assert!(report.accuracy() >= 95.0, "thinking {thinking}: {:.1} %", report.accuracy());
        }
    }
}
