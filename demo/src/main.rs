//! Trains, measures and questions the demo model that `npu-run` embeds: a Qwen2 of a few hundred kilobytes that adds and
//! subtracts.

mod eval;
mod model;
mod sums;
mod task;
mod tokenizer;
mod train;

use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow};
use clap::{Parser, Subcommand};
use tokenizers::Tokenizer;

use crate::model::Model;

#[derive(Parser)]
#[command(version, about)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Train a model from scratch and write its folder.
    Train(train::Options),
    /// Measure a model on its held-out sums.
    Eval {
        /// The model's folder.
        #[arg(long, default_value = "demo/model")]
        model: PathBuf,
        /// Cases to measure on; the model's own heldout.jsonl if not given.
        #[arg(long)]
        cases: Option<PathBuf>,
        /// Ask with the empty think block of `enable_thinking=false`.
        #[arg(long)]
        no_think: bool,
    },
    /// Print sums as JSON lines, to train or to measure on.
    Sums(sums::Options),
    /// Print the model's whole response to each question.
    Ask {
        #[arg(required = true)]
        questions: Vec<String>,
        /// The model's folder.
        #[arg(long, default_value = "demo/model")]
        model: PathBuf,
        /// Ask with the empty think block of `enable_thinking=false`.
        #[arg(long)]
        no_think: bool,
    },
}

fn main() -> Result<()> {
    match Cli::parse().command {
        Command::Train(options) => train::train(&options),
        Command::Eval { model: folder, cases, no_think } => {
            let (model, tokenizer) = load(&folder)?;
            let cases = eval::read_cases(&cases.unwrap_or_else(|| folder.join("heldout.jsonl")))?;
            let report = eval::evaluate(&model, &tokenizer, &cases, !no_think)?;
            for (case, response) in &report.wrong {
                println!("wrong: {:?} wants {}, response {response:?}", case.question, case.answer);
            }
            println!("{} of {} right, {:.1} %", report.right, report.total, report.accuracy());
            Ok(())
        }
        Command::Sums(options) => {
            let mut out = std::io::stdout().lock();
            sums::lines(&options)?.iter().try_for_each(|line| writeln!(out, "{line}"))?;
            Ok(())
        }
        Command::Ask { questions, model: folder, no_think } => {
            let (model, tokenizer) = load(&folder)?;
            let questions: Vec<&str> = questions.iter().map(String::as_str).collect();
            for (question, response) in questions.iter().zip(eval::respond(&model, &tokenizer, &questions, !no_think)?)
            {
                println!("{question}\n{response}\n");
            }
            Ok(())
        }
    }
}

fn load(folder: &Path) -> Result<(Model, Tokenizer)> {
    let path = folder.join("tokenizer.json");
    let tokenizer = Tokenizer::from_file(&path)
        .map_err(|e| anyhow!("{e}"))
        .with_context(|| format!("reading {}", path.display()))?;
    Ok((Model::load(folder)?, tokenizer))
}
