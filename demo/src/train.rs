//! Training: fresh problems each step, AdamW, warm-up and cosine, loss on the assistant's tokens only.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result};
use candle_core::backprop::GradStore;
use candle_core::{D, Device, Tensor, Var};
use candle_nn::{AdamW, Optimizer, ParamsAdamW};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::{Value, json};
use tokenizers::Tokenizer;

use crate::eval::{self, Case};
use crate::model::{Config, Model};
use crate::task::{self, Problem, Split};
use crate::tokenizer;

/// Share of examples with the empty think block of `enable_thinking=false`.
const NO_THINK: f64 = 0.1;
/// Share of examples with a system prompt.
const SYSTEM_PROMPT: f64 = 0.04;
/// Share of examples that are no sums at all.
const OFF_TOPIC: f64 = 0.02;
/// Size of the published held-out set, and of the set that chooses the checkpoint.
const HELD_OUT_CASES: usize = 500;
const VALIDATION_CASES: usize = 200;
/// Gradients are scaled down to this norm, which keeps a high learning rate from ever diverging.
const MAX_GRAD_NORM: f64 = 1.0;

/// What `train` can be told.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// Optimizer steps.
    #[arg(long, default_value_t = 5000)]
    pub steps: usize,
    /// Examples a step.
    #[arg(long, default_value_t = 24)]
    pub batch: usize,
    /// Peak learning rate.
    #[arg(long, default_value_t = 3e-3)]
    pub lr: f64,
    /// Seed of weights and examples; the held-out set never depends on it.
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Steps between two looks at the validation set.
    #[arg(long, default_value_t = 250)]
    pub every: usize,
    /// Folder to write the model to.
    #[arg(long, default_value = "demo/model")]
    pub out: PathBuf,
}

/// One tokenised example; the loss counts the tokens from `answer_from` on.
struct Example {
    ids: Vec<u32>,
    answer_from: usize,
}

/// Trains a model and writes its folder whenever the validation accuracy of the rounded weights is the best so far (the
/// later of two equals wins).
pub fn train(options: &Options) -> Result<()> {
    let start = Instant::now();
    let tokenizer = tokenizer::build()?;
    let mut rng = StdRng::seed_from_u64(options.seed);
    let model = Model::init(Config::demo(tokenizer.get_vocab_size(true)), &mut rng)?;
    println!("{} parameters, {} tokens in the vocabulary", model.parameters(), model.config.vocab);
    // The held-out file must not depend on the training seed: it is the same set for every model.
    let held_out = draw_cases(Split::HeldOut, HELD_OUT_CASES, &mut StdRng::seed_from_u64(0));
    let validation = draw_cases(Split::Validation, VALIDATION_CASES, &mut StdRng::seed_from_u64(0));
    let params = ParamsAdamW { lr: options.lr, beta2: 0.98, weight_decay: 0.01, ..ParamsAdamW::default() };
    let vars = model.vars();
    let mut optimizer = AdamW::new(vars.clone(), params)?;
    let (mut best, mut mean) = (-1.0, None);
    for step in 1..=options.steps {
        optimizer.set_learning_rate(learning_rate(options, step));
        let batch = (0..options.batch).map(|_| draw_example(&tokenizer, &mut rng)).collect::<Result<Vec<_>>>()?;
        let loss = loss(&model, &batch, tokenizer::marker(&tokenizer, tokenizer::PAD)?)?;
        let mut grads = loss.backward()?;
        clip(&mut grads, &vars)?;
        optimizer.step(&grads)?;
        let loss = f64::from(loss.to_scalar::<f32>()?);
        let smooth = mean.map_or(loss, |mean: f64| 0.98 * mean + 0.02 * loss);
        mean = Some(smooth);
        if step % 50 == 0 {
            println!("step {step} loss {smooth:.4} {:.0} s", start.elapsed().as_secs_f64());
        }
        if step % options.every == 0 || step == options.steps {
            let rounded = model.rounded()?;
            let report = eval::evaluate(&rounded, &tokenizer, &validation, true)?;
            println!("step {step} validation {:.1} %", report.accuracy());
            if let Some((case, response)) = report.wrong.first() {
                println!("  for example {:?} wants {}: {response:?}", case.question, case.answer);
            }
            if report.accuracy() >= best {
                best = report.accuracy();
                write_folder(&rounded, &tokenizer, &held_out, &options.out)?;
            }
        }
    }
    let shipped = Model::load(&options.out)?;
    for thinking in [true, false] {
        let report = eval::evaluate(&shipped, &tokenizer, &held_out, thinking)?;
        println!("held out, thinking {thinking}: {} of {} right", report.right, report.total);
    }
    println!("{:.0} s in all", start.elapsed().as_secs_f64());
    Ok(())
}

/// Linear warm-up over the first 3 % of the steps, then a cosine down to a twentieth of the peak.
fn learning_rate(options: &Options, step: usize) -> f64 {
    let warmup = (options.steps as f64 * 0.03).max(1.0);
    let step = step as f64;
    if step < warmup {
        return options.lr * step / warmup;
    }
    let progress = (step - warmup) / (options.steps as f64 - warmup).max(1.0);
    options.lr * (0.05 + 0.95 * 0.5 * (1.0 + (std::f64::consts::PI * progress).cos()))
}

fn draw_example(tokenizer: &Tokenizer, rng: &mut StdRng) -> Result<Example> {
    let thinking = !rng.random_bool(NO_THINK);
    let (question, response) = if rng.random_bool(OFF_TOPIC) {
        let opening = if thinking { "<think>\n\n</think>\n\n" } else { "" };
        (task::off_topic(rng).to_string(), format!("{opening}{}", task::REFUSAL))
    } else {
        let problem = Problem::sample(rng, Split::Train);
        (problem.question(rng), task::response(&problem, thinking))
    };
    let system =
        if rng.random_bool(SYSTEM_PROMPT) { tokenizer::system(task::system_prompt(rng)) } else { String::new() };
    let mut ids = tokenizer::encode(tokenizer, &(system + &tokenizer::prompt(&question, thinking)))?;
    let answer_from = ids.len();
    ids.extend(tokenizer::encode(tokenizer, &response)?);
    ids.push(tokenizer::marker(tokenizer, tokenizer::END)?);
    Ok(Example { ids, answer_from })
}

/// Mean cross-entropy over the assistant's tokens of a batch, which is padded on the right to its longest example: under
/// a causal mask no token looks at the padding.
fn loss(model: &Model, batch: &[Example], pad: u32) -> Result<Tensor> {
    let width = batch.iter().map(|example| example.ids.len()).max().unwrap_or(1) - 1;
    let (mut inputs, mut positions, mut targets) = (Vec::new(), Vec::new(), Vec::new());
    for (row, example) in batch.iter().enumerate() {
        let last = example.ids.len() - 1;
        inputs.extend_from_slice(&example.ids[..last]);
        inputs.resize((row + 1) * width, pad);
        positions.extend((example.answer_from - 1..last).map(|t| (row * width + t) as u32));
        targets.extend_from_slice(&example.ids[example.answer_from..]);
    }
    let device = &Device::Cpu;
    let count = targets.len();
    let hidden = model.hidden(&Tensor::from_vec(inputs, (batch.len(), width), device)?, None)?;
    let picked = hidden.flatten_to(1)?.index_select(&Tensor::new(positions, device)?, 0)?;
    let logits = model.logits(&picked)?;
    let shifted = logits.broadcast_sub(&logits.detach().max_keepdim(D::Minus1)?)?;
    let chosen = shifted.gather(&Tensor::from_vec(targets, (count, 1), device)?, 1)?;
    let normaliser = shifted.exp()?.sum_keepdim(D::Minus1)?.log()?;
    Ok((normaliser - chosen)?.mean_all()?)
}

fn clip(grads: &mut GradStore, vars: &[Var]) -> Result<()> {
    let mut square = 0.0;
    for var in vars {
        if let Some(grad) = grads.get(var) {
            square += f64::from(grad.sqr()?.sum_all()?.to_scalar::<f32>()?);
        }
    }
    let norm = square.sqrt();
    if norm > MAX_GRAD_NORM {
        for var in vars {
            if let Some(grad) = grads.remove(var) {
                grads.insert(var, (grad * (MAX_GRAD_NORM / norm))?);
            }
        }
    }
    Ok(())
}

/// Distinct problems of a split, each in a random phrasing.
fn draw_cases(split: Split, count: usize, rng: &mut StdRng) -> Vec<Case> {
    let mut seen = HashSet::new();
    let mut cases = Vec::new();
    while cases.len() < count {
        let problem = Problem::sample(rng, split);
        if seen.insert(problem) {
            cases.push(Case { question: problem.question(rng), answer: problem.answer().to_string() });
        }
    }
    cases
}

/// Writes the whole folder; each file appears complete or not at all.
fn write_folder(model: &Model, tokenizer: &Tokenizer, held_out: &[Case], folder: &Path) -> Result<()> {
    std::fs::create_dir_all(folder).with_context(|| format!("creating {}", folder.display()))?;
    let end = tokenizer::marker(tokenizer, tokenizer::END)?;
    let pad = tokenizer::marker(tokenizer, tokenizer::PAD)?;
    let generation = json!({
        "do_sample": false, "eos_token_id": [end, pad], "pad_token_id": pad, "max_new_tokens": 96,
        "transformers_version": "4.46.0",
    });
    let text = tokenizer.to_string(true).map_err(|e| anyhow::anyhow!("tokenizer.json: {e}"))?;
    let line = |case: &Case| json!({"question": case.question, "answer": case.answer}).to_string() + "\n";
    write_file(folder, "config.json", &pretty(&model.config.to_json(end, pad))?)?;
    write_file(folder, "generation_config.json", &pretty(&generation)?)?;
    write_file(folder, "tokenizer.json", text.as_bytes())?;
    write_file(folder, "tokenizer_config.json", &pretty(&tokenizer::config(tokenizer, model.config.max_positions)?)?)?;
    write_file(folder, "heldout.jsonl", held_out.iter().map(line).collect::<String>().as_bytes())?;
    write_file(folder, "model.safetensors", &model.to_safetensors()?)
}

fn pretty(value: &Value) -> Result<Vec<u8>> {
    Ok((serde_json::to_string_pretty(value)? + "\n").into_bytes())
}

fn write_file(folder: &Path, name: &str, bytes: &[u8]) -> Result<()> {
    let (path, temporary) = (folder.join(name), folder.join(format!(".{name}.part")));
    std::fs::write(&temporary, bytes).with_context(|| format!("writing {}", temporary.display()))?;
    std::fs::rename(&temporary, &path).with_context(|| format!("renaming {}", temporary.display()))
}
