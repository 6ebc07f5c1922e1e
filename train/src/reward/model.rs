//! A reward model: a decoder whose last hidden state is projected to one number.

use super::{Answer, Reward};
use anyhow::{Context, Result, ensure};
use candle_ascend::{DType, Device, Tensor, no_grad, ops};
use npu_engine::{ChatTemplate, Message, Tokenizer};
use npu_models::{CausalLm, Config, Source, Weights};
use std::path::{Path, PathBuf};

/// The tensor that makes a checkpoint a sequence classifier, in transformers' layout.
const SCORE: &str = "score.weight";

/// A checkpoint of `…ForSequenceClassification` with one label, which judges a conversation by its last token.
pub struct RewardModel {
    folder: PathBuf,
    model: Box<dyn CausalLm>,
    /// `[1, H]`
    score: Tensor,
    tokenizer: Tokenizer,
    template: Option<ChatTemplate>,
    device: Device,
}

impl RewardModel {
    /// Whether `path` is a folder with a checkpoint.
    pub fn is_at(path: &Path) -> bool {
        path.join("config.json").is_file()
    }

    /// Loads the checkpoint in `folder`, to compute in `dtype` on `device`.
    pub fn load(folder: &Path, dtype: DType, device: &Device) -> Result<Self> {
        let named = || format!("the reward model {}", folder.display());
        let config = Config::from_dir(folder).with_context(named)?;
        let weights = Weights::open(folder, &config).with_context(named)?;
        let other = config.architecture.clone().unwrap_or_else(|| "no architecture".to_owned());
        ensure!(
            weights.names().iter().any(|name| name == SCORE),
            "{} has no tensor {SCORE}: it is {other}, and a reward model is a …ForSequenceClassification with one label",
            named()
        );
        let (score, _) = weights
            .tensor(SCORE, &[1, config.hidden_size], dtype, device)
            .with_context(|| format!("{}: {SCORE} must have one row, for one label", named()))?;
        // The decoder is that of the causal model of the same type, and has no projection to the vocabulary.
        let config = Config { architecture: None, tie_word_embeddings: true, ..config };
        let loaded = npu_models::load_from(config, &weights, dtype, device, &|_, _| {}).with_context(named)?;
        let tokenizer = Tokenizer::of(folder).with_context(named)?;
        let template = ChatTemplate::new(tokenizer.config()).with_context(named)?;
        let (folder, device) = (folder.to_owned(), device.clone());
        Ok(Self { folder, model: loaded.model, score, tokenizer, template, device })
    }

    /// The conversation with the completion as its last turn, by the model's own template and tokens.
    fn tokens(&self, answer: &Answer<'_>) -> Result<Vec<u32>> {
        let Some(template) = &self.template else {
            let parts: Vec<&str> = answer.prompt.messages.iter().map(|message| message.content.as_str()).collect();
            return self.tokenizer.encode(&(parts.concat() + answer.text), true);
        };
        let mut messages = answer.prompt.messages.clone();
        messages.push(Message::new("assistant", answer.text));
        self.tokenizer.encode(&template.conversation(&messages)?, false)
    }

    fn value(&self, answer: &Answer<'_>) -> Result<f64> {
        let tokens = self.tokens(answer)?;
        let ids = Tensor::from_slice(&tokens, (1, tokens.len()), &self.device)?;
        let hidden = self.model.hidden(&ids, None)?.narrow(1, tokens.len() - 1, 1)?.squeeze(1)?;
        let value = ops::linear(&hidden.contiguous()?, &self.score, None)?.to_dtype(DType::F32)?;
        Ok(f64::from(value.flatten_all()?.to_vec1::<f32>()?[0]))
    }
}

impl Reward for RewardModel {
    fn score(&mut self, answers: &[Answer<'_>]) -> Result<Vec<Option<f64>>> {
        let value = |answer: &Answer<'_>| {
            let failed = || format!("the reward model {} failed at {}", self.folder.display(), answer.named());
            let value = no_grad(|| self.value(answer)).with_context(failed)?;
            ensure!(value.is_finite(), "{}: the value is {value}", failed());
            Ok(Some(value))
        };
        answers.iter().map(value).collect()
    }
}
