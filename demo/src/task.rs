//! The task: integer sums and differences of operands from 0 to 999, their written working, and the split into trained
//! and held-out pairs.
//!
//! The working is laid out so that every character depends on few earlier ones at fixed distances: operands padded to
//! three digits, one line a column from the least significant, a carry or borrow written down where it arises. For
//! `17 - 58`:
//!
//! ```text
//! 017-058 =<<      the operands, compared column by column from the left
//! -058-017         the first unequal column says `<`, so the larger goes first and the result is negative
//! 8-7-0=1b0        ones: 8 - 7 - no borrow is 1, borrow 0
//! 5-1-0=4b0
//! 0-0-0=0b0
//! -041             the digits together; `-41` is the answer
//! ```

use std::fmt;

use rand::Rng;
use rand::seq::IndexedRandom;

/// The largest operand.
pub const MAX_OPERAND: u16 = 999;

/// What the model says to anything that is not a sum.
pub const REFUSAL: &str = "I can only add and subtract.";

/// `{a}` and `{b}` stand for the operands, `{op}` for the sign, `{word}` for the operation's name. The commonest
/// phrasings stand more than once, so that they are drawn more often.
const PHRASINGS: [&str; 20] = [
    "What is {a} {op} {b}?",
    "What is {a} {op} {b}?",
    "What is {a} {op} {b}?",
    "What is {a}{op}{b}?",
    "What is {a} {word} {b}?",
    "What's {a} {op} {b}?",
    "what is {a} {op} {b}?",
    "How much is {a} {op} {b}?",
    "{a} {op} {b}",
    "{a} {op} {b}",
    "{a} {op} {b} =",
    "{a} {op} {b} = ?",
    "{a} {op} {b}?",
    "{a}{op}{b}",
    "{a}{op}{b}=",
    "{a} {word} {b}",
    "Calculate {a} {op} {b}.",
    "Calculate {a}{op}{b}",
    "Compute {a} {op} {b}.",
    "Please calculate {a} {op} {b}.",
];

const SYSTEM_PROMPTS: [&str; 3] = ["You are a helpful assistant.", "You are a calculator.", "Be brief."];

const OFF_TOPIC: [&str; 16] = [
    "Hello",
    "Hello!",
    "Hi",
    "Who are you?",
    "What are you?",
    "How are you?",
    "What can you do?",
    "Tell me a story.",
    "Write a poem.",
    "Help",
    "What is the capital of France?",
    "Why is the sky blue?",
    "test",
    "Good morning",
    "Explain gravity.",
    "Thank you!",
];

/// Addition or subtraction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Op {
    Add,
    Sub,
}

impl Op {
    fn sign(self) -> char {
        match self {
            Op::Add => '+',
            Op::Sub => '-',
        }
    }

    fn word(self) -> &'static str {
        match self {
            Op::Add => "plus",
            Op::Sub => "minus",
        }
    }
}

/// Which use a pair of operands is put to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Split {
    /// Training examples, 90 % of the pairs.
    Train,
    /// Choosing the best checkpoint, 5 %.
    Validation,
    /// The published accuracy, 5 %.
    HeldOut,
}

/// One sum: `a op b`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Problem {
    pub a: u16,
    pub op: Op,
    pub b: u16,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {}", self.a, self.op.sign(), self.b)
    }
}

impl Problem {
    /// Draws a problem of the given split. One- and two-digit operands come far more often than uniform numbers would
    /// bring them, because they are what people type first.
    pub fn sample(rng: &mut impl Rng, split: Split) -> Self {
        loop {
            let op = if rng.random_bool(0.5) { Op::Add } else { Op::Sub };
            let problem = Problem { a: sample_operand(rng), op, b: sample_operand(rng) };
            if problem.split() == split {
                return problem;
            }
        }
    }

    /// The split is a hash of the unordered operands alone, so `3 + 5`, `5 + 3`, `3 - 5` and `5 - 3` stay together and
    /// a held-out sum cannot be answered from its mirror image.
    pub fn split(&self) -> Split {
        let key = u64::from(self.a.min(self.b)) << 32 | u64::from(self.a.max(self.b));
        match splitmix64(key) % 20 {
            0 => Split::HeldOut,
            1 => Split::Validation,
            _ => Split::Train,
        }
    }

    /// The right result.
    pub fn answer(&self) -> i32 {
        let (a, b) = (i32::from(self.a), i32::from(self.b));
        match self.op {
            Op::Add => a + b,
            Op::Sub => a - b,
        }
    }

    /// The question in one of the phrasings the model is trained on.
    pub fn question(&self, rng: &mut impl Rng) -> String {
        let phrasing = PHRASINGS.choose(rng).expect("the list of phrasings is not empty");
        phrasing
            .replace("{a}", &self.a.to_string())
            .replace("{b}", &self.b.to_string())
            .replace("{op}", &self.op.sign().to_string())
            .replace("{word}", self.op.word())
    }

    /// The written working, without a final newline; the module's documentation explains the lines.
    pub fn working(&self) -> String {
        let sign = self.op.sign();
        let mut text = format!("{:03}{sign}{:03}", self.a, self.b);
        let (mut a, mut b) = (digits(self.a), digits(self.b));
        let negative = self.op == Op::Sub && self.a < self.b;
        if self.op == Op::Sub {
            text.push(' ');
            text.extend((0..3).rev().map(|column| comparison(a[column], b[column])));
            if negative {
                std::mem::swap(&mut a, &mut b);
            }
            text.push('\n');
            text.push_str(if negative { "-" } else { "" });
            text.push_str(&format!("{}{}{}-{}{}{}", a[2], a[1], a[0], b[2], b[1], b[0]));
        }
        let mut carry = 0;
        let mut result = [0; 3];
        for column in 0..3 {
            let (digit, next) = self.op.column(a[column], b[column], carry);
            let mark = if self.op == Op::Add { 'c' } else { 'b' };
            text.push_str(&format!("\n{}{sign}{}{sign}{carry}={digit}{mark}{next}", a[column], b[column]));
            result[column] = digit;
            carry = next;
        }
        let lead = if negative { "-".to_string() } else { carry.to_string() };
        text.push_str(&format!("\n{lead}{}{}{}", result[2], result[1], result[0]));
        text
    }
}

impl Op {
    /// Digit and carry (or borrow) of one column.
    fn column(self, a: u8, b: u8, carry: u8) -> (u8, u8) {
        match self {
            Op::Add => ((a + b + carry) % 10, (a + b + carry) / 10),
            Op::Sub => ((10 + a - b - carry) % 10, u8::from(a < b + carry)),
        }
    }
}

/// What the assistant writes: with `thinking` the working goes into the `<think>` block and the answer stands alone;
/// without, the block is empty (the chat template writes it) and the working is part of the visible answer, because a
/// model of this size has nowhere else to do it.
pub fn response(problem: &Problem, thinking: bool) -> String {
    let (working, answer) = (problem.working(), problem.answer());
    if thinking { format!("<think>\n{working}\n</think>\n\n{answer}") } else { format!("{working}\n{answer}") }
}

/// A question that is not a sum.
pub fn off_topic(rng: &mut impl Rng) -> &'static str {
    OFF_TOPIC.choose(rng).expect("the list of off-topic prompts is not empty")
}

/// A system prompt; the model learns that it changes nothing.
pub fn system_prompt(rng: &mut impl Rng) -> &'static str {
    SYSTEM_PROMPTS.choose(rng).expect("the list of system prompts is not empty")
}

fn sample_operand(rng: &mut impl Rng) -> u16 {
    match rng.random_range(0..20) {
        0..3 => rng.random_range(0..10),
        3..8 => rng.random_range(0..100),
        _ => rng.random_range(0..=MAX_OPERAND),
    }
}

/// Ones, tens, hundreds.
fn digits(n: u16) -> [u8; 3] {
    [n % 10, n / 10 % 10, n / 100 % 10].map(|digit| digit as u8)
}

fn comparison(a: u8, b: u8) -> char {
    match a.cmp(&b) {
        std::cmp::Ordering::Less => '<',
        std::cmp::Ordering::Equal => '=',
        std::cmp::Ordering::Greater => '>',
    }
}

/// A well-mixed 64-bit hash that stays the same on every machine and release, unlike the standard library's.
fn splitmix64(x: u64) -> u64 {
    let mut z = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use rand::{SeedableRng, rngs::StdRng};

    use super::*;

    fn number(text: &str) -> i32 {
        text.parse().unwrap_or_else(|_| panic!("{text:?} is not a number"))
    }

    /// Checks each line of a working by ordinary arithmetic on what the line itself says.
    fn check(problem: &Problem) {
        let text = problem.working();
        let mut lines: Vec<&str> = text.lines().collect();
        let last = lines.pop().unwrap();
        assert_eq!(number(last), problem.answer(), "{problem}: result line of\n{text}");
        let columns = lines.split_off(lines.len() - 3);
        let mut expected_carry = 0;
        let mut value = 0;
        for (place, line) in [1, 10, 100].into_iter().zip(columns) {
            let at = |i: usize| number(&line[i..=i]);
            let (a, b, carry, digit, next) = (at(0), at(2), at(4), at(6), at(8));
            assert_eq!(carry, expected_carry, "{problem}: {line}");
            match problem.op {
                Op::Add => assert_eq!(a + b + carry, digit + 10 * next, "{problem}: {line}"),
                Op::Sub => assert_eq!(a - b - carry, digit - 10 * next, "{problem}: {line}"),
            }
            expected_carry = next;
            value += place * digit;
        }
        match problem.op {
            Op::Add => assert_eq!(value + 1000 * expected_carry, problem.answer()),
            Op::Sub => assert_eq!((value, expected_carry), (problem.answer().abs(), 0), "{problem}"),
        }
    }

    #[test]
    fn working_is_right_for_random_sums() {
        let mut rng = StdRng::seed_from_u64(1);
        for _ in 0..5000 {
            check(&Problem::sample(&mut rng, Split::Train));
        }
        for (a, b) in [(0, 0), (999, 999), (0, 999), (999, 0), (100, 99), (500, 500)] {
            check(&Problem { a, op: Op::Add, b });
            check(&Problem { a, op: Op::Sub, b });
        }
    }

    #[test]
    fn working_reads_as_documented() {
        let text = Problem { a: 17, op: Op::Sub, b: 58 }.working();
        assert_eq!(text, "017-058 =<<\n-058-017\n8-7-0=1b0\n5-1-0=4b0\n0-0-0=0b0\n-041");
        let text = Problem { a: 478, op: Op::Add, b: 556 }.working();
        assert_eq!(text, "478+556\n8+6+0=4c1\n7+5+1=3c1\n4+5+1=0c1\n1034");
    }

    #[test]
    fn mirrored_problems_share_a_split_and_the_shares_are_as_stated() {
        let mut held_out = 0;
        for a in 0..=MAX_OPERAND {
            for b in 0..=MAX_OPERAND {
                let split = Problem { a, op: Op::Add, b }.split();
                assert_eq!(split, Problem { a: b, op: Op::Sub, b: a }.split());
                held_out += usize::from(split == Split::HeldOut);
            }
        }
        assert!((45_000..55_000).contains(&held_out), "{held_out} of 1000000 pairs are held out, want about 5 %");
    }
}
