//! Sums as data for `npu-run train`: the model's own phrasings, or others that it has never seen.

use std::collections::HashSet;

use anyhow::{Result, ensure};
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use serde_json::{Value, json};

use crate::task::{self, Op, Problem, Split};

/// Phrasings that the shipped model was not trained on, so that it guesses at them: in some the operands change places.
const UNSEEN: [(&str, Op); 10] = [
    ("Add {a} and {b}.", Op::Add),
    ("Add {a} to {b}.", Op::Add),
    ("The sum of {a} and {b}?", Op::Add),
    ("Increase {a} by {b}.", Op::Add),
    ("{a} and {b} together?", Op::Add),
    ("Subtract {b} from {a}.", Op::Sub),
    ("Take {b} away from {a}.", Op::Sub),
    ("{b} less than {a}?", Op::Sub),
    ("Decrease {a} by {b}.", Op::Sub),
    ("From {a} take {b}.", Op::Sub),
];

/// Which phrasings questions have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Phrasing {
    /// Those that the shipped model understands.
    Known,
    /// Others.
    Unseen,
}

/// What `sums` can be told.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// How many, all different.
    #[arg(long, default_value_t = 1000)]
    count: usize,
    /// Which pairs of operands: train, validation or held-out.
    #[arg(long, value_enum, default_value_t = Split::Train)]
    split: Split,
    /// Whether the shipped model knows the phrasings.
    #[arg(long, value_enum, default_value_t = Phrasing::Known)]
    phrasing: Phrasing,
    /// Questions with their results, as `eval` and GRPO want them, instead of conversations with the working.
    #[arg(long)]
    results: bool,
    /// With the empty think block of `enable_thinking=false`: the working is part of the visible answer.
    #[arg(long, conflicts_with = "results")]
    no_think: bool,
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

/// The lines of a JSONL file.
pub fn lines(options: &Options) -> Result<Vec<Value>> {
    // Half of what there is, so that drawing until enough are different stays quick.
    ensure!(options.count <= 40_000, "{} sums are asked for, at most 40000 can be drawn", options.count);
    let mut rng = StdRng::seed_from_u64(options.seed);
    let (mut seen, mut lines) = (HashSet::new(), Vec::new());
    while lines.len() < options.count {
        let problem = Problem::sample(&mut rng, options.split);
        if seen.insert(problem) {
            let question = options.phrasing.question(&problem, &mut rng);
            lines.push(match options.results {
                true => json!({ "question": question, "answer": problem.answer().to_string() }),
                false => {
                    let answer = task::response(&problem, !options.no_think);
                    json!({ "messages": [{ "role": "user", "content": question }, { "role": "assistant", "content": answer }] })
                }
            });
        }
    }
    Ok(lines)
}

impl Phrasing {
    fn question(self, problem: &Problem, rng: &mut impl Rng) -> String {
        match self {
            Phrasing::Known => problem.question(rng),
            Phrasing::Unseen => {
                let fitting: Vec<&str> =
                    UNSEEN.iter().filter(|(_, op)| *op == problem.op).map(|(text, _)| *text).collect();
                let phrasing = fitting.choose(rng).expect("both operations have phrasings");
                phrasing.replace("{a}", &problem.a.to_string()).replace("{b}", &problem.b.to_string())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(split: Split, results: bool) -> Options {
        Options { count: 300, split, phrasing: Phrasing::Unseen, results, no_think: false, seed: 1 }
    }

    /// The numbers of a text, in their order.
    fn numbers(text: &str) -> Vec<u16> {
        text.split(|c: char| !c.is_ascii_digit()).filter_map(|digits| digits.parse().ok()).collect()
    }

    #[test]
    fn questions_mean_what_their_answers_say_and_stay_in_their_split() {
        for split in [Split::Train, Split::HeldOut] {
            let all = lines(&options(split, true)).unwrap();
            assert_eq!(all.iter().map(Value::to_string).collect::<HashSet<_>>().len(), 300);
            for line in &all {
                let question = line["question"].as_str().unwrap();
                let (first, second) = (i32::from(numbers(question)[0]), i32::from(numbers(question)[1]));
                let wanted = match question.split(' ').next().unwrap() {
                    "Add" | "The" | "Increase" => first + second,
                    "Subtract" | "Take" => second - first,
                    "Decrease" | "From" => first - second,
                    _ if question.contains("less than") => second - first,
                    _ => first + second,
                };
                assert_eq!(line["answer"], wanted.to_string(), "{question}");
                assert_eq!(Problem { a: first as u16, op: Op::Add, b: second as u16 }.split(), split, "{question}");
            }
        }
        let answer = &lines(&options(Split::Train, false)).unwrap()[0]["messages"][1]["content"];
        assert!(answer.as_str().unwrap().starts_with("<think>\n"), "{answer}");
    }
}
