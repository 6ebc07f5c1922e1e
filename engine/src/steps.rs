//! A model and its cache, driven token by token; by a captured graph where the device has them.
//!
//! A step finds its token and its position in tensors and leaves the likeliest next token in the first of them. So a
//! greedy answer is the same graph again and again: one call a token, and the reading of the token. Sampling reads all
//! logits and writes the token that was drawn, which costs two copies more.

use anyhow::{Context, Result, ensure};
use candle_ascend::{D, DType, Device, Graph, Tensor};
use npu_models::{Cache, CausalLm, Logits};

/// One batch of sequences of equal length.
pub(crate) struct Steps<'m> {
    model: &'m dyn CausalLm,
    device: &'m Device,
    cache: Cache,
    decoding: Decoding,
    /// Whether steps may be captured.
    graphs: bool,
}

/// How single tokens are decoded.
enum Decoding {
    /// Pass by pass: on this device the host computes or waits anyway, or the model has no steps.
    Plain,
    /// By steps, not begun.
    New,
    /// The step has run as it will be captured, so that all it needs is made.
    Warm(Fixed),
    /// By steps that are launched one operator after another: the device has no graphs, or is not to use them.
    Eager(Fixed),
    Captured {
        fixed: Fixed,
        graph: Graph,
        outcome: Outcome,
    },
}

/// What a step reads and changes, at the same addresses each time.
#[derive(Clone)]
struct Fixed {
    /// `[B, 1]`, U32
    token: Tensor,
    /// `[B]`, I64
    positions: Tensor,
}

/// What a pass leaves on the device.
#[derive(Clone)]
pub(crate) struct Outcome {
    /// `[B, 1, V]`
    logits: Tensor,
    /// The likeliest token of each sequence and its logit, `[B, 2]`, F32.
    likeliest: Option<Tensor>,
}

impl<'m> Steps<'m> {
    pub fn new(model: &'m dyn CausalLm, device: &'m Device) -> Self {
        let decoding = if device.is_npu() { Decoding::New } else { Decoding::Plain };
        Self { model, device, cache: model.new_cache(), decoding, graphs: true }
    }

    /// From now on each operator is launched for each token.
    pub fn enforce_eager(&mut self) {
        self.graphs = false;
    }

    /// A pass over `rows`, one a sequence, of equal length.
    pub fn prefill(&mut self, rows: &[Vec<u32>]) -> Result<Outcome> {
        let (model, device, cache) = (self.model, self.device, &mut self.cache);
        let length = rows.first().map_or(0, Vec::len);
        let logits = device.timed(|| {
            let ids = Tensor::from_vec(rows.concat(), (rows.len(), length), device)?;
            model.forward(&ids, cache, Logits::Last)
        })?;
        Ok(Outcome { logits, likeliest: None })
    }

    /// Goes on with the sequences `rows`, in this order; a sequence may occur several times.
    pub fn select(&mut self, rows: &[usize]) -> Result<()> {
        // What was captured is of another number of sequences, at other addresses.
        if !matches!(self.decoding, Decoding::Plain) {
            self.decoding = Decoding::New;
        }
        self.cache.select(rows)
    }

    /// One more token a sequence. A step that left `tokens` itself, as the `likeliest`, need not be told them.
    pub fn step(&mut self, tokens: &[u32], likeliest: bool) -> Result<Outcome> {
        let device = self.device;
        device.timed(|| self.issue(tokens, likeliest))
    }

    fn issue(&mut self, tokens: &[u32], likeliest: bool) -> Result<Outcome> {
        let context = self.model.config().max_position_embeddings;
        ensure!(self.cache.len() < context, "the model's context of {context} tokens is full");
        if self.cache.len() == self.cache.capacity() && !matches!(self.decoding, Decoding::Plain) {
            // Larger memory stands elsewhere: what was captured is of no use any more.
            self.decoding = Decoding::New;
            self.cache.reserve(1)?;
        }
        match std::mem::replace(&mut self.decoding, Decoding::Plain) {
            Decoding::Plain => self.plain(tokens),
            Decoding::New => self.first(tokens),
            Decoding::Warm(fixed) => self.capture(fixed, tokens),
            Decoding::Eager(fixed) => self.eager(fixed, tokens),
            Decoding::Captured { fixed, graph, outcome } => {
                if !likeliest {
                    fixed.set(tokens)?;
                }
                graph.replay()?;
                self.cache.advance(1);
                self.decoding = Decoding::Captured { fixed, graph, outcome: outcome.clone() };
                Ok(outcome)
            }
        }
    }

    fn plain(&mut self, tokens: &[u32]) -> Result<Outcome> {
        let ids = Tensor::from_slice(tokens, (tokens.len(), 1), self.device)?;
        Ok(Outcome { logits: self.model.forward(&ids, &mut self.cache, Logits::Last)?, likeliest: None })
    }

    fn first(&mut self, tokens: &[u32]) -> Result<Outcome> {
        let fixed = Fixed::new(tokens, self.cache.len(), self.device)?;
        let Some(outcome) = fixed.run(self.model, &mut self.cache)? else { return self.plain(tokens) };
        self.cache.advance(1);
        self.decoding = if self.graphs { Decoding::Warm(fixed) } else { Decoding::Eager(fixed) };
        Ok(outcome)
    }

    fn eager(&mut self, fixed: Fixed, tokens: &[u32]) -> Result<Outcome> {
        fixed.set(tokens)?;
        let outcome = fixed.run(self.model, &mut self.cache)?.context(STEPS_NO_MORE)?;
        self.cache.advance(1);
        self.decoding = Decoding::Eager(fixed);
        Ok(outcome)
    }

    fn capture(&mut self, fixed: Fixed, tokens: &[u32]) -> Result<Outcome> {
        let (model, cache) = (self.model, &mut self.cache);
        let captured = self.device.capture(|| fixed.run(model, cache)).context("capturing a step")?;
        let Some((graph, outcome)) = captured else { return self.eager(fixed, tokens) };
        let outcome = outcome.context(STEPS_NO_MORE)?;
        fixed.set(tokens)?;
        graph.replay()?;
        self.cache.advance(1);
        self.decoding = Decoding::Captured { fixed, graph, outcome: outcome.clone() };
        Ok(outcome)
    }
}

const STEPS_NO_MORE: &str = "the model made a step once and now cannot";

impl Fixed {
    fn new(tokens: &[u32], position: usize, device: &Device) -> Result<Self> {
        let token = Tensor::from_slice(tokens, (tokens.len(), 1), device)?;
        let positions = Tensor::from_vec(vec![position as i64; tokens.len()], tokens.len(), device)?;
        Ok(Self { token, positions })
    }

    fn set(&self, tokens: &[u32]) -> Result<()> {
        let tokens = Tensor::from_slice(tokens, self.token.shape(), self.token.device())?;
        Ok(self.token.slice_set(&tokens, 0, 0)?)
    }

    /// One step, which leaves the likeliest tokens and the next positions for the one after it.
    fn run(&self, model: &dyn CausalLm, cache: &mut Cache) -> Result<Option<Outcome>> {
        let Some(logits) = model.step(&self.token, &self.positions, cache)? else { return Ok(None) };
        let rows = logits.squeeze(1)?;
        let best = rows.argmax_keepdim(D::Minus1)?;
        let most = rows.max_keepdim(D::Minus1)?;
        self.token.slice_set(&best, 0, 0)?;
        self.positions.slice_set(&(&self.positions + 1.0)?, 0, 0)?;
        let likeliest = Tensor::cat(&[best.to_dtype(DType::F32)?, most.to_dtype(DType::F32)?], 1)?;
        Ok(Some(Outcome { logits, likeliest: Some(likeliest) }))
    }
}

impl Outcome {
    /// The logits of the sequences, one after another.
    pub fn logits(&self) -> Result<Vec<f32>> {
        Ok(self.logits.to_dtype(DType::F32)?.flatten_all()?.to_vec1()?)
    }

    /// The likeliest token of each sequence, the first of equals. A few bytes are read where the device has chosen.
    pub fn likeliest(&self) -> Result<Vec<u32>> {
        let Some(likeliest) = &self.likeliest else {
            let (logits, vocabulary) = (self.logits()?, self.logits.dim(D::Minus1)?);
            return logits.chunks(vocabulary).map(crate::sampling::greedy).collect();
        };
        // Token ids are exact in F32: there are fewer than 2^24.
        let pairs = likeliest.to_vec2::<f32>()?;
        pairs
            .iter()
            .map(|pair| {
                ensure!(!pair[1].is_nan(), "a logit is not a number; the model computed garbage in this dtype");
                Ok(pair[0] as u32)
            })
            .collect()
    }
}
