//! The clipped surrogate of GRPO and its descendants, over the tokens of completions.

use crate::objective::logits::{log_probs, rows_of_chunk};
use anyhow::Result;
use candle_ascend::{Tensor, no_grad, ops};

/// Over what the losses of tokens are averaged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LossType {
    /// Over the tokens of each completion, then over the completions (arXiv 2402.03300).
    Grpo,
    /// Over the tokens of all completions of the step (arXiv 2503.14476).
    #[default]
    Dapo,
    /// Over all completions of the step as if each had the longest length (arXiv 2503.20783).
    DrGrpo,
}

impl LossType {
    /// What each token of a completion of `length` tokens counts.
    pub fn of_token(self, length: usize, max_completion_length: usize) -> f64 {
        match self {
            Self::Grpo => 1. / length.max(1) as f64,
            Self::Dapo => 1.,
            Self::DrGrpo => 1. / max_completion_length as f64,
        }
    }

    /// What a completion with `learnt` tokens in the loss counts in what the step's sum is divided by.
    pub fn of_completion(self, learnt: usize) -> f64 {
        match self {
            Self::Dapo => learnt as f64,
            Self::Grpo | Self::DrGrpo => 1.,
        }
    }
}

/// How far a policy may move from the one that sampled, and from the reference.
#[derive(Clone, Copy, Debug)]
pub struct Surrogate {
    /// The ratio of probabilities is of no use below 1 less this where that made a bad completion less likely,
    pub epsilon: f64,
    /// and above 1 and this where it made a good one likelier.
    pub epsilon_high: f64,
    /// The weight of the divergence from the reference.
    pub beta: f64,
    /// Logits are divided by it, as they were when the completions were sampled.
    pub temperature: f64,
}

/// What is known of M tokens of completions, `[M]` and F32 where nothing else is said.
pub struct Tokens {
    /// `[M, 1]`, I64
    pub targets: Tensor,
    pub advantages: Tensor,
    /// What each counts in the sum.
    pub weights: Tensor,
    /// Log-probabilities when they were sampled; where there are none the policy has not changed since.
    pub old: Option<Tensor>,
    /// Log-probabilities under the reference.
    pub reference: Option<Tensor>,
}

impl Tokens {
    fn part(&self, rows: &std::ops::Range<usize>) -> candle_ascend::Result<Self> {
        let part = |x: &Tensor| x.narrow(0, rows.start, rows.len());
        Ok(Self {
            targets: part(&self.targets)?,
            advantages: part(&self.advantages)?,
            weights: part(&self.weights)?,
            old: self.old.as_ref().map(part).transpose()?,
            reference: self.reference.as_ref().map(part).transpose()?,
        })
    }
}

/// Sums over tokens that metrics are made of, in this order: entropy, divergence from the reference, and the tokens whose
/// ratio was clipped below and above.
pub const SUMS: usize = 4;

impl Surrogate {
    /// The weighted sum of the tokens' losses, rank 0, and [`SUMS`], for the hidden states `[M, H]` that predict `tokens`.
    pub fn loss(&self, hidden: &Tensor, head: &Tensor, tokens: &Tokens) -> Result<(Tensor, Tensor)> {
        let mut sums = Tensor::zeros(SUMS, tokens.weights.dtype(), hidden.device())?;
        let loss = ops::linear_loss(hidden, head, rows_of_chunk(head.dim(0)?), &mut |logits, rows| {
            let (loss, more) = self.of_logits(logits, &tokens.part(&rows)?)?;
            sums = (&sums + more)?;
            Ok(loss)
        })?;
        Ok((loss, sums))
    }

    fn of_logits(&self, logits: &Tensor, tokens: &Tokens) -> candle_ascend::Result<(Tensor, Tensor)> {
        let (log_probs, entropy) = log_probs(logits, &tokens.targets, self.temperature)?;
        let old = tokens.old.clone().unwrap_or_else(|| log_probs.detach());
        let ratio = (&log_probs - old)?.exp()?;
        let (low, high) = (1. - self.epsilon, 1. + self.epsilon_high);
        let free = (&ratio * &tokens.advantages)?;
        let clipped = (ratio.clamp(low, high)? * &tokens.advantages)?;
        let mut loss = free.minimum(&clipped)?.neg()?;
        let mut divergence = entropy.zeros_like()?;
        if let Some(reference) = &tokens.reference {
            // An estimate of the divergence that is never negative: r - log r - 1, r the ratio of the reference's probability.
            let distance = (reference - &log_probs)?;
            let estimate = ((distance.exp()? - &distance)? - 1.)?;
            loss = (loss + (&estimate * self.beta)?)?;
            divergence = estimate.detach();
        }
        let sums = no_grad(|| {
            let both = |a: Tensor, b: Tensor| a.to_dtype(entropy.dtype())? * b.to_dtype(entropy.dtype())?;
            let too_low = both(ratio.lt(low)?, tokens.advantages.lt(0f64)?)?;
            let too_high = both(ratio.gt(high)?, tokens.advantages.gt(0f64)?)?;
            let sums = [&entropy, &divergence, &too_low, &too_high].map(|x| x.sum_all());
            Tensor::stack(&sums.into_iter().collect::<candle_ascend::Result<Vec<_>>>()?, 0)
        })?;
        Ok(((loss * &tokens.weights)?.sum_all()?, sums))
    }
}
