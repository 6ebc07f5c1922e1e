//! The key and value cache of one batch of sequences of equal length.

use anyhow::{Result, anyhow, ensure};
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

/// What a layer keeps of each position: keys and values `[B, KvH, capacity, D]`, or one tensor of rows that stand for both;
/// nothing before the first token.
#[derive(Default)]
struct LayerCache {
    held: Vec<Tensor>,
}

pub(crate) struct LayerView<'a> {
    length: usize,
    layer: &'a mut LayerCache,
}

impl LayerView<'_> {
    /// Appends `key` and `value`, `[B, KvH, T, D]`, and gives all positions so far, `[B, KvH, len + T, D]`.
    pub fn append(&mut self, key: &Tensor, value: &Tensor) -> Result<(Tensor, Tensor)> {
        let [keys, values] = self.append_all([key, value])?;
        Ok((keys, values))
    }

    /// Appends `rows`, `[B, 1, T, D]`, and gives all positions so far, `[B, 1, len + T, D]`.
    pub fn append_one(&mut self, rows: &Tensor) -> Result<Tensor> {
        let [rows] = self.append_all([rows])?;
        Ok(rows)
    }

    fn append_all<const N: usize>(&mut self, new: [&Tensor; N]) -> Result<[Tensor; N]> {
        let (batch, heads, tokens, width) = new[0].dims4()?;
        let wanted = self.length + tokens;
        let capacity = match self.layer.held.first() {
            Some(held) => {
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
            self.grow(&new, wanted.next_multiple_of(BLOCK))?;
        }
        for (held, new) in self.layer.held.iter().zip(new) {
            held.slice_set(&new.contiguous()?, 2, self.length)?;
        }
        let held: Vec<Tensor> =
            self.layer.held.iter().map(|held| held.narrow(2, 0, wanted)).collect::<candle_ascend::Result<_>>()?;
        <[Tensor; N]>::try_from(held)
            .map_err(|held| anyhow!("the cache holds {} tensors a layer and was given {N}", held.len()))
    }

    /// Moves what is held into tensors like `new` with room for `capacity` positions.
    fn grow(&mut self, new: &[&Tensor], capacity: usize) -> Result<()> {
        let mut grown = Vec::with_capacity(new.len());
        for (i, new) in new.iter().enumerate() {
            let (batch, heads, _, width) = new.dims4()?;
            let room = Tensor::zeros((batch, heads, capacity, width), new.dtype(), new.device())?;
            if let (Some(held), 1..) = (self.layer.held.get(i), self.length) {
                room.slice_set(&held.narrow(2, 0, self.length)?.contiguous()?, 2, 0)?;
            }
            grown.push(room);
        }
        self.layer.held = grown;
        Ok(())
    }
}
