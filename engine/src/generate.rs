//! The generation loop of one sequence, and the checkpoint that it runs.

use crate::sampling::{Sampler, SamplingOptions};
use crate::stats::{LoadStats, Meter, Stats};
use crate::steps::{Outcome, Steps};
use crate::template::{ChatTemplate, Message};
use crate::tokenizer::Tokenizer;
use anyhow::{Context, Result, bail, ensure};
use candle_ascend::{DType, Device};
use npu_models::{CausalLm, Config, GenerationConfig, Loaded};
use serde::Serialize;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

/// Prompt tokens a pass: the scores of a pass over a long prompt would otherwise grow with its square.
pub(crate) const PREFILL_CHUNK: usize = 512;

/// How long to generate, and how tokens are drawn.
#[derive(Clone, Debug)]
pub struct GenerateOptions {
    pub max_tokens: usize,
    pub sampling: SamplingOptions,
    /// Go on after the tokens that end an answer.
    pub ignore_eos: bool,
    /// Launch each operator of each token, also where the device has captured graphs.
    pub enforce_eager: bool,
}

impl Default for GenerateOptions {
    fn default() -> Self {
        Self { max_tokens: 512, sampling: SamplingOptions::default(), ignore_eos: false, enforce_eager: false }
    }
}

/// Why generation ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum StopReason {
    /// The model ended its answer.
    Eos,
    /// `max_tokens` were generated.
    MaxTokens,
    /// The model's context is full.
    Context,
    /// The caller asked for it.
    Aborted,
}

/// A prompt in tokens.
#[derive(Clone, Debug, PartialEq)]
pub struct EncodedPrompt {
    pub tokens: Vec<u32>,
    /// The text that the tokens stand for.
    pub text: String,
    /// The prompt opened a `<think>` that the answer will close.
    pub thinking: bool,
}

/// What came of a prompt.
#[derive(Clone, Debug, Serialize)]
pub struct Generation {
    /// Generated text, `<think>` part included, special tokens left out.
    pub text: String,
    /// Generated tokens, without the one that ended the answer.
    pub tokens: Vec<u32>,
    pub stop: StopReason,
    pub stats: Stats,
}

/// A loaded checkpoint with all that a prompt needs.
pub struct Generator {
    model: Box<dyn CausalLm>,
    tokenizer: Tokenizer,
    template: Option<ChatTemplate>,
    generation: GenerationConfig,
    ends: Vec<u32>,
    device: Device,
    load: LoadStats,
}

impl Generator {
    /// Loads the checkpoint at `dir`, a folder or a GGUF file, in `dtype` to `device`; `progress` hears the bytes of weights read so far and their total.
    pub fn load(dir: &Path, dtype: DType, device: &Device, progress: &dyn Fn(u64, u64)) -> Result<Self> {
        Self::of(dir, device, || npu_models::load(dir, dtype, device, progress))
    }

    /// The checkpoint at `dir` whose model `load` brings to `device`.
    pub fn of(dir: &Path, device: &Device, load: impl FnOnce() -> Result<Loaded>) -> Result<Self> {
        let start = Instant::now();
        // What is small and often wrong comes before the gigabytes.
        let tokenizer = Tokenizer::of(dir)?;
        let template = ChatTemplate::new(tokenizer.config()).with_context(|| format!("in {}", dir.display()))?;
        let generation = GenerationConfig::from_dir(dir)?;
        let loaded = load()?;
        device.synchronize()?;
        let ends = end_tokens(loaded.model.config(), &generation, &tokenizer);
        let load = LoadStats {
            seconds: start.elapsed().as_secs_f64(),
            stored_bytes: loaded.stored_bytes,
            unused_tensors: loaded.unused,
            notes: loaded.notes,
        };
        Ok(Self { model: loaded.model, tokenizer, template, generation, ends, device: device.clone(), load })
    }

    /// A model without a tokenizer, loaded in `seconds`: prompts are tokens, and answers have no text.
    pub fn without_text(loaded: Loaded, device: &Device, seconds: f64) -> Self {
        let (stored_bytes, unused_tensors, notes) = (loaded.stored_bytes, loaded.unused, loaded.notes);
        let load = LoadStats { seconds, stored_bytes, unused_tensors, notes };
        Self {
            model: loaded.model,
            tokenizer: Tokenizer::empty(),
            template: None,
            generation: GenerationConfig::default(),
            ends: Vec::new(),
            device: device.clone(),
            load,
        }
    }

    pub fn model(&self) -> &dyn CausalLm {
        self.model.as_ref()
    }

    pub fn tokenizer(&self) -> &Tokenizer {
        &self.tokenizer
    }

    /// Whether the checkpoint has a chat template.
    pub fn has_chat_template(&self) -> bool {
        self.template.is_some()
    }

    pub fn load_stats(&self) -> &LoadStats {
        &self.load
    }

    /// How the checkpoint wants to be sampled: greedily unless its `generation_config.json` asks for a temperature or sampling.
    pub fn default_sampling(&self) -> SamplingOptions {
        default_sampling(&self.generation)
    }

    /// The prompt for an answer to `messages`, by the checkpoint's chat template; see [`ChatTemplate::render`] for `think`.
    pub fn chat(&self, messages: &[Message], think: bool) -> Result<EncodedPrompt> {
        let Some(template) = &self.template else {
            bail!("the checkpoint has no chat template; use --raw to continue the prompt as it is");
        };
        let prompt = template.render(messages, think)?;
        let tokens = self.tokenizer.encode(&prompt.text, false)?;
        Ok(EncodedPrompt { tokens, text: prompt.text, thinking: prompt.thinking })
    }

    /// A prompt that is continued as it is.
    pub fn raw(&self, text: &str) -> Result<EncodedPrompt> {
        let tokens = self.tokenizer.encode(text, true)?;
        Ok(EncodedPrompt { tokens, text: text.to_owned(), thinking: false })
    }

    /// Continues `prompt`. `on_text` gets the text piece by piece, whole characters only; `abort` ends the generation
    /// after the token, or the piece of the prompt, that is being computed.
    pub fn generate(
        &self,
        prompt: &[u32],
        options: &GenerateOptions,
        abort: &AtomicBool,
        on_text: &mut dyn FnMut(&str) -> Result<()>,
    ) -> Result<Generation> {
        let context = self.model.config().max_position_embeddings;
        self.check_prompt(prompt)?;
        ensure!(options.max_tokens > 0, "max_tokens is 0, wanted at least 1");
        let mut sampler = Sampler::new(options.sampling.clone())?;
        let greedy = options.sampling.is_greedy();
        let mut steps = Steps::new(self.model.as_ref(), &self.device);
        if options.enforce_eager {
            steps.enforce_eager();
        }
        let mut meter = Meter::start(&self.device);
        let mut history = prompt.to_vec();
        let mut stream = self.tokenizer.stream();
        let mut text = String::new();
        let mut outcome = prefill(&mut steps, prompt, abort)?;
        let stop = loop {
            let Some(last) = outcome.take() else { break StopReason::Aborted };
            let token = match greedy {
                true => last.likeliest()?[0],
                false => sampler.sample(&mut last.logits()?, &history)?,
            };
            meter.token(history.len() == prompt.len());
            if self.ends.contains(&token) && !options.ignore_eos {
                break StopReason::Eos;
            }
            history.push(token);
            let piece = stream.push(token)?;
            if !piece.is_empty() {
                text.push_str(&piece);
                on_text(&piece)?;
            }
            if history.len() - prompt.len() == options.max_tokens {
                break StopReason::MaxTokens;
            }
            if history.len() > context {
                break StopReason::Context;
            }
            if abort.load(Ordering::Relaxed) {
                break StopReason::Aborted;
            }
            outcome = Some(steps.step(&[token], greedy)?);
        };
        let rest = stream.finish()?;
        if !rest.is_empty() {
            text.push_str(&rest);
            on_text(&rest)?;
        }
        let stats = meter.finish(&self.load, prompt.len(), &self.device)?;
        Ok(Generation { text, tokens: history.split_off(prompt.len()), stop, stats })
    }

    fn check_prompt(&self, prompt: &[u32]) -> Result<()> {
        let context = self.model.config().max_position_embeddings;
        ensure!(!prompt.is_empty(), "the prompt is empty");
        ensure!(
            prompt.len() <= context,
            "the prompt has {} tokens and the model's context holds {context}; shorten the prompt",
            prompt.len()
        );
        self.model.config().check_tokens(prompt).context("the tokenizer does not belong to the model")
    }
}

/// The pass over the prompt, in pieces; none when aborted between them.
fn prefill(steps: &mut Steps<'_>, prompt: &[u32], abort: &AtomicBool) -> Result<Option<Outcome>> {
    let mut outcome = None;
    for chunk in prompt.chunks(PREFILL_CHUNK) {
        if abort.load(Ordering::Relaxed) {
            return Ok(None);
        }
        outcome = Some(steps.prefill(&[chunk.to_vec()])?);
    }
    Ok(outcome)
}

/// Continues each of `rows`, all of one length, by `count` tokens, the likeliest each time, past any end of an answer.
pub fn continue_greedily(
    model: &dyn CausalLm,
    rows: &[Vec<u32>],
    count: usize,
    device: &Device,
) -> Result<Vec<Vec<u32>>> {
    ensure!(
        rows.iter().all(|row| row.len() == rows[0].len()),
        "rows of different lengths cannot be continued together"
    );
    for row in rows {
        model.config().check_tokens(row)?;
    }
    let mut answers = vec![Vec::with_capacity(count); rows.len()];
    if count == 0 {
        return Ok(answers);
    }
    let mut steps = Steps::new(model, device);
    let mut outcome = steps.prefill(rows)?;
    loop {
        let next = outcome.likeliest()?;
        answers.iter_mut().zip(&next).for_each(|(answer, &token)| answer.push(token));
        if answers.iter().all(|answer| answer.len() == count) {
            return Ok(answers);
        }
        outcome = steps.step(&next, true)?;
    }
}

/// Tokens that end an answer: those of `generation_config.json`, else those of `config.json`; and the tokenizer's own.
pub fn end_tokens(config: &Config, generation: &GenerationConfig, tokenizer: &Tokenizer) -> Vec<u32> {
    let mut ends = generation.eos_token_ids.clone();
    if ends.is_empty() {
        ends.extend(&config.eos_token_ids);
    }
    ends.extend(tokenizer.config().eos_token.as_deref().and_then(|token| tokenizer.token_id(token)));
    ends.sort_unstable();
    ends.dedup();
    ends
}

fn default_sampling(generation: &GenerationConfig) -> SamplingOptions {
    let plain =
        SamplingOptions { repetition_penalty: generation.repetition_penalty.unwrap_or(1.0), ..Default::default() };
    let temperature = match (generation.do_sample, generation.temperature) {
        (Some(false), _) | (None, None) => return plain,
        (_, Some(temperature)) => temperature,
        (Some(true), None) => 1.0,
    };
    SamplingOptions {
        temperature,
        top_k: generation.top_k.unwrap_or(0),
        // Zero means "off" in some files; a share of nothing would leave no token.
        top_p: generation.top_p.filter(|p| *p > 0.0).unwrap_or(1.0),
        min_p: generation.min_p.unwrap_or(0.0),
        ..plain
    }
}

#[cfg(test)]
#[path = "generate_tests.rs"]
mod tests;
