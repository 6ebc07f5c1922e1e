//! The key and value cache of one batch of sequences of equal length.

use anyhow::{Result, ensure};
use candle_ascend::Tensor;

/// Positions are reserved in blocks of this many: growing copies, and a copy per token would be quadratic.
const BLOCK: usize = 256;

/// Keys and values of every layer, for positions `0..len()`.
#[derive(Default)]
pub struct Cache {
    layers: Vec<LayerCache>,
    length: usize,
}

impl Cache {
    /// An empty cache for a model of `layers` layers.
    pub fn new(layers: usize) -> Self {
        Self { layers: (0..layers).map(|_| LayerCache::default()).collect(), length: 0 }
    }

    /// A cache that keeps nothing and hands on what it is given: training has whole sequences, and gradients do not go through
    /// what is written in place.
    pub(crate) fn passing() -> Self {
        Self { layers: vec![LayerCache { passes: true, ..LayerCache::default() }], length: 0 }
    }

    /// Positions held, which is the position of the next token.
    pub fn len(&self) -> usize {
        self.length
    }

    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// Forgets the positions from `length` on, and keeps the memory.
    pub fn truncate(&mut self, length: usize) {
        self.length = self.length.min(length);
    }

    /// Makes `tokens` more positions count, once every layer has appended them.
    pub(crate) fn advance(&mut self, tokens: usize) {
        self.length += tokens;
    }

    pub(crate) fn layer(&mut self, layer: usize) -> LayerView<'_> {
        LayerView { length: self.length, layer: &mut self.layers[layer] }
    }

    pub(crate) fn layers(&self) -> usize {
        self.layers.len()
    }
}

/// `[B, KvH, capacity, D]` each, or nothing before the first token.
#[derive(Default)]
struct LayerCache {
    held: Option<(Tensor, Tensor)>,
    passes: bool,
}

pub(crate) struct LayerView<'a> {
    length: usize,
    layer: &'a mut LayerCache,
}

impl LayerView<'_> {
    /// Appends `key` and `value`, `[B, KvH, T, D]`, and gives all positions so far, `[B, KvH, len + T, D]`.
    pub fn append(&mut self, key: &Tensor, value: &Tensor) -> Result<(Tensor, Tensor)> {
        if self.layer.passes {
            return Ok((key.clone(), value.clone()));
        }
        let (batch, heads, tokens, width) = key.dims4()?;
        let wanted = self.length + tokens;
        let capacity = match &self.layer.held {
            Some((held, _)) => {
                let (held_batch, held_heads, capacity, held_width) = held.dims4()?;
                let (same, got) = ((held_batch, held_heads, held_width), (batch, heads, width));
                ensure!(
                    same == got,
                    "the cache holds (batch, heads, width) {same:?} and got {got:?}; a cache belongs to one batch"
                );
                capacity
            }
            None => 0,
        };
        if wanted > capacity {
            let shape = (batch, heads, wanted.next_multiple_of(BLOCK), width);
            let grown =
                (Tensor::zeros(shape, key.dtype(), key.device())?, Tensor::zeros(shape, key.dtype(), key.device())?);
            if let (Some((keys, values)), 1..) = (&self.layer.held, self.length) {
                grown.0.slice_set(&keys.narrow(2, 0, self.length)?.contiguous()?, 2, 0)?;
                grown.1.slice_set(&values.narrow(2, 0, self.length)?.contiguous()?, 2, 0)?;
            }
            self.layer.held = Some(grown);
        }
        let Some((keys, values)) = &self.layer.held else { unreachable!("the cache was grown above") };
        keys.slice_set(&key.contiguous()?, 2, self.length)?;
        values.slice_set(&value.contiguous()?, 2, self.length)?;
        Ok((keys.narrow(2, 0, wanted)?, values.narrow(2, 0, wanted)?))
    }
}
