//! From a prompt to an answer: tokenizer, chat template, sampling and the generation loop.
//!
//! ```no_run
//! use candle_ascend::{DType, Device};
//! use npu_engine::{GenerateOptions, Generator, Message};
//! use std::{path::Path, sync::atomic::AtomicBool};
//!
//! # fn main() -> anyhow::Result<()> {
//! let generator = Generator::load(Path::new("checkpoint"), DType::F32, &Device::Cpu, &|_, _| {})?;
//! let prompt = generator.chat(&[Message::new("user", "What is 2 + 2?")], true)?;
//! let answer = generator.generate(&prompt.tokens, &GenerateOptions::default(), &AtomicBool::new(false), &mut |text| {
//!     print!("{text}");
//!     Ok(())
//! })?;
//! println!("{}", answer.stats);
//! # Ok(())
//! # }
//! ```

mod generate;
mod gguf_tokenizer;
mod rollout;
mod sampling;
mod stats;
mod steps;
mod template;
#[cfg(test)]
mod testing;
mod think;
mod tokenizer;
mod tokenizer_config;

pub use generate::{EncodedPrompt, GenerateOptions, Generation, Generator, StopReason, continue_greedily, end_tokens};
pub use rollout::{Completion, RolloutOptions, sample_groups};
pub use sampling::{Sampler, SamplingOptions, argmax};
pub use stats::{LoadStats, PerToken, Stats};
pub use template::{ChatTemplate, Message, Prompt};
pub use think::{Segment, ThinkParser};
pub use tokenizer::{Detokenizer, Tokenizer};
pub use tokenizer_config::TokenizerConfig;
