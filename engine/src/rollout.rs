//! Many completions of many prompts, by a model that somebody else owns: the policy that is being trained, its own weights.

use crate::generate::{PREFILL_CHUNK, StopReason};
use crate::sampling::{Sampler, SamplingOptions};
use crate::steps::Steps;
use anyhow::{Context, Result, ensure};
use candle_ascend::{Device, no_grad};
use npu_models::CausalLm;

/// How completions are sampled.
#[derive(Clone, Debug)]
pub struct RolloutOptions {
    /// Completions of each prompt.
    pub copies: usize,
    /// Tokens of a completion at most, the one that ends it included.
    pub max_tokens: usize,
    /// How tokens are drawn; its seed is not used, as each completion has its own.
    pub sampling: SamplingOptions,
    /// Tokens that end a completion.
    pub ends: Vec<u32>,
    /// Sequences that are decoded together at most; a group of copies is never split.
    pub max_rows: usize,
}

/// A sampled completion.
#[derive(Clone, Debug, PartialEq)]
pub struct Completion {
    /// What was generated, the token that ended it included.
    pub tokens: Vec<u32>,
    pub stop: StopReason,
}

impl Completion {
    /// Whether the completion was cut before the model ended it.
    pub fn truncated(&self) -> bool {
        self.stop != StopReason::Eos
    }
}

/// Samples `options.copies` completions of each of `prompts`. The completion `copy` of the prompt `prompt` is drawn with the
/// seed `seed(prompt, copy)`.
///
/// Prompts of one length go through the model together, and once for all of their copies. Sequences that have ended are
/// dropped from the batch when they are a quarter of it. Nothing is recorded for gradients.
pub fn sample_groups(
    model: &dyn CausalLm,
    device: &Device,
    prompts: &[Vec<u32>],
    options: &RolloutOptions,
    seed: &dyn Fn(usize, usize) -> u64,
) -> Result<Vec<Vec<Completion>>> {
    ensure!(options.copies > 0 && options.max_tokens > 0, "completions and their tokens are 0, wanted at least 1 each");
    options.sampling.check()?;
    let context = model.config().max_position_embeddings;
    for (i, prompt) in prompts.iter().enumerate() {
        ensure!(
            (1..=context).contains(&prompt.len()),
            "prompt {i} has {} tokens, and the model's context holds 1 to {context}",
            prompt.len()
        );
        model.config().check_tokens(prompt).with_context(|| format!("prompt {i}"))?;
    }
    let mut order: Vec<usize> = (0..prompts.len()).collect();
    order.sort_by_key(|&i| prompts[i].len());
    let together = (options.max_rows / options.copies).max(1);
    let mut groups = vec![Vec::new(); prompts.len()];
    no_grad(|| -> Result<()> {
        for equal in order.chunk_by(|&a, &b| prompts[a].len() == prompts[b].len()) {
            for batch in equal.chunks(together) {
                let rows = batch.iter().flat_map(|&prompt| (0..options.copies).map(move |copy| (prompt, copy)));
                let rows = rows.map(|(prompt, copy)| Row::new(&prompts[prompt], seed(prompt, copy), options));
                let mut rows = rows.collect::<Result<Vec<_>>>()?;
                let batch_prompts: Vec<_> = batch.iter().map(|&prompt| prompts[prompt].as_slice()).collect();
                decode(model, device, &batch_prompts, &mut rows, options)?;
                for (&prompt, rows) in batch.iter().zip(rows.chunks(options.copies)) {
                    groups[prompt] = rows.iter().map(Row::completion).collect();
                }
            }
        }
        Ok(())
    })?;
    Ok(groups)
}

/// A sequence on its way.
struct Row {
    sampler: Sampler,
    /// Prompt and completion.
    tokens: Vec<u32>,
    prompt: usize,
    stop: Option<StopReason>,
}

impl Row {
    fn new(prompt: &[u32], seed: u64, options: &RolloutOptions) -> Result<Self> {
        let sampler = Sampler::new(SamplingOptions { seed, ..options.sampling.clone() })?;
        Ok(Self { sampler, tokens: prompt.to_vec(), prompt: prompt.len(), stop: None })
    }

    fn is_live(&self) -> bool {
        self.stop.is_none()
    }

    /// Draws the next token from `logits`, and says whether it was the last.
    fn draw(&mut self, logits: &mut [f32], options: &RolloutOptions, context: usize) -> Result<()> {
        let token = self.sampler.sample(logits, &self.tokens)?;
        self.tokens.push(token);
        self.stop = if options.ends.contains(&token) {
            Some(StopReason::Eos)
        } else if self.tokens.len() - self.prompt == options.max_tokens {
            Some(StopReason::MaxTokens)
        } else if self.tokens.len() > context {
            Some(StopReason::Context)
        } else {
            None
        };
        Ok(())
    }

    /// What the next pass is fed with; of no consequence for a row that has ended.
    fn last(&self) -> u32 {
        self.tokens.last().copied().unwrap_or_default()
    }

    fn completion(&self) -> Completion {
        let stop = self.stop.unwrap_or(StopReason::Aborted);
        Completion { tokens: self.tokens[self.prompt..].to_vec(), stop }
    }
}

/// Completes `rows`, as many for each of `prompts`, which have one length.
fn decode(
    model: &dyn CausalLm,
    device: &Device,
    prompts: &[&[u32]],
    rows: &mut [Row],
    options: &RolloutOptions,
) -> Result<()> {
    let context = model.config().max_position_embeddings;
    let mut steps = Steps::new(model, device);
    let mut outcome = None;
    for start in (0..prompts[0].len()).step_by(PREFILL_CHUNK) {
        let piece = |prompt: &&[u32]| prompt[start..prompt.len().min(start + PREFILL_CHUNK)].to_vec();
        outcome = Some(steps.prefill(&prompts.iter().map(piece).collect::<Vec<_>>())?);
    }
    let mut logits = outcome.context("a prompt without tokens")?.logits()?;
    let vocabulary = logits.len() / prompts.len();
    // Which of `rows` the sequences in the cache are.
    let mut held: Vec<usize> = (0..rows.len()).collect();
    for (i, row) in rows.iter_mut().enumerate() {
        // A copy each: the sampler may change what it draws from.
        let mut own = logits[i / options.copies * vocabulary..][..vocabulary].to_vec();
        row.draw(&mut own, options, context)?;
    }
    steps.select(&held.iter().map(|row| row / options.copies).collect::<Vec<_>>())?;
    loop {
        let live = held.iter().filter(|&&row| rows[row].is_live()).count();
        if live == 0 {
            return Ok(());
        }
        if live * 4 <= held.len() * 3 {
            let kept: Vec<usize> = (0..held.len()).filter(|&place| rows[held[place]].is_live()).collect();
            steps.select(&kept)?;
            held = kept.iter().map(|&place| held[place]).collect();
        }
        let next: Vec<u32> = held.iter().map(|&row| rows[row].last()).collect();
        logits = steps.step(&next, false)?.logits()?;
        for (&row, logits) in held.iter().zip(logits.chunks_mut(vocabulary)) {
            if rows[row].is_live() {
                rows[row].draw(logits, options, context)?;
            }
        }
    }
}

#[cfg(test)]
#[path = "rollout_tests.rs"]
mod tests;
