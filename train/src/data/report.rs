//! What became of the lines.

use std::fmt;

/// How many bad lines are shown.
const SHOWN: usize = 5;

/// What a corpus made of its files.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct DataReport {
    /// Samples that can be trained on.
    pub samples: usize,
    /// Their tokens.
    pub tokens: u64,
    /// Those of them that the loss is on.
    pub targets: u64,
    /// Bad lines that were left out.
    pub skipped: usize,
    /// Samples that were cut to `max_length`.
    pub truncated: usize,
    /// Samples that were left out: longer than `max_length`, or with nothing to learn within it.
    pub dropped: usize,
    /// Conversations of which only the last answer is learnt, because the chat template writes earlier ones anew.
    pub last_only: usize,
    /// Samples put together without a chat template.
    pub joined: usize,
    pub max_length: usize,
    /// The first of the bad lines, with their reasons.
    pub bad: Vec<String>,
}

impl DataReport {
    pub(super) fn skip(&mut self, why: &anyhow::Error) {
        self.skipped += 1;
        if self.bad.len() < SHOWN {
            self.bad.push(format!("{why:#}"));
        }
    }
}

impl fmt::Display for DataReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { samples, tokens, targets, max_length, .. } = self;
        write!(f, "{samples} samples of {tokens} tokens")?;
        if *targets > 0 {
            write!(f, ", {targets} of them learnt")?;
        }
        let mut say = |count: usize, what: &str| if count > 0 { write!(f, "\n{count} {what}") } else { Ok(()) };
        say(self.truncated, &format!("cut to {max_length} tokens"))?;
        say(self.dropped, &format!("left out: too long for {max_length} tokens, or nothing to learn within them"))?;
        say(self.last_only, "learnt in their last answer only: the chat template writes earlier answers anew")?;
        say(self.joined, "put together without a chat template")?;
        say(self.skipped, "bad lines left out:")?;
        self.bad.iter().try_for_each(|line| write!(f, "\n  {line}"))?;
        if self.skipped > self.bad.len() { write!(f, "\n  …") } else { Ok(()) }
    }
}
