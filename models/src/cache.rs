//! The key and value cache of one batch of sequences of equal length.

use anyhow::{Result, bail, ensure};
use candle_ascend::Tensor;
use candle_ascend::ops::{self, Turn};

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

    /// Makes `tokens` more positions count, once every layer holds them.
    pub fn advance(&mut self, tokens: usize) {
        self.length += tokens;
    }

    /// Positions that there is memory for; 0 before the first token.
    pub fn capacity(&self) -> usize {
        let layers = self.layers.iter().map(|layer| layer.held.as_ref().and_then(|held| held.dim(3).ok()));
        layers.map(Option::unwrap_or_default).min().unwrap_or_default()
    }

    /// Makes room for `tokens` more positions in layers that have held some, and maybe more.
    pub fn reserve(&mut self, tokens: usize) -> Result<()> {
        let length = self.length;
        self.layers.iter_mut().filter(|layer| layer.held.is_some()).try_for_each(|layer| layer.grow(length, tokens))
    }

    /// Holds the sequences `rows` of the batch, in this order; a sequence may occur several times.
    pub fn select(&mut self, rows: &[usize]) -> Result<()> {
        for layer in &mut self.layers {
            for held in [&mut layer.held, &mut layer.beside] {
                if let Some(tensor) = held {
                    let rows = Tensor::from_iter(rows.iter().map(|row| *row as u32), tensor.device())?;
                    *held = Some(tensor.index_select(&rows, 1)?);
                }
            }
        }
        Ok(())
    }

    pub(crate) fn layer(&mut self, layer: usize) -> LayerView<'_> {
        LayerView { length: self.length, layer: &mut self.layers[layer] }
    }

    pub(crate) fn layers(&self) -> usize {
        self.layers.len()
    }
}

/// Keys and values together, `[2, B, KvH, capacity, D]`, so that one operator can write both, or `[1, B, 1, capacity, D]`, rows
/// that stand for both; nothing before the first token.
#[derive(Default)]
struct LayerCache {
    held: Option<Tensor>,
    /// `[1, B, 1, capacity, R]`: what of rows that stand for both is of the keys alone, where it lies apart.
    beside: Option<Tensor>,
    passes: bool,
}

impl LayerCache {
    /// Room for `tokens` more than the `length` positions held.
    fn grow(&mut self, length: usize, tokens: usize) -> Result<()> {
        for held in [&mut self.held, &mut self.beside] {
            let Some(tensor) = held else { continue };
            let (kinds, batch, heads, capacity, width) = tensor.dims5()?;
            if length + tokens > capacity {
                let grown = empty(kinds, (batch, heads, width), length + tokens, tensor)?;
                if length > 0 {
                    grown.slice_set(&tensor.narrow(3, 0, length)?.contiguous()?, 3, 0)?;
                }
                *held = Some(grown);
            }
        }
        Ok(())
    }

    /// Rows and what is beside them, `[B, 1, capacity, ·]` each.
    fn apart(&self) -> Result<Option<(Tensor, Tensor)>> {
        let (Some(held), Some(beside)) = (&self.held, &self.beside) else { return Ok(None) };
        Ok(Some((held.squeeze(0)?, beside.squeeze(0)?)))
    }

    /// Keys and values, `[B, KvH, capacity, D]` each.
    fn halves(&self) -> Result<Option<(Tensor, Tensor)>> {
        let Some(held) = &self.held else { return Ok(None) };
        let half = |which| held.narrow(0, which, 1)?.squeeze(0);
        Ok(Some((half(0)?, half(1)?)))
    }
}

/// Zeros for at least `positions` positions of `kinds` rows each, of the type and on the device of `like`.
fn empty(
    kinds: usize,
    (batch, heads, width): (usize, usize, usize),
    positions: usize,
    like: &Tensor,
) -> Result<Tensor> {
    let shape = (kinds, batch, heads, positions.next_multiple_of(BLOCK), width);
    Ok(Tensor::zeros(shape, like.dtype(), like.device())?)
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
        let tokens = self.make_room(2, key)?;
        let Some((keys, values)) = self.layer.halves()? else { unreachable!("the cache was grown above") };
        keys.slice_set(&key.contiguous()?, 2, self.length)?;
        values.slice_set(&value.contiguous()?, 2, self.length)?;
        let wanted = self.length + tokens;
        Ok((keys.narrow(2, 0, wanted)?, values.narrow(2, 0, wanted)?))
    }

    /// Appends `rows`, `[B, 1, T, D]`, and gives all positions so far, `[B, 1, len + T, D]`.
    pub fn append_one(&mut self, rows: &Tensor) -> Result<Tensor> {
        if self.layer.passes {
            return Ok(rows.clone());
        }
        let tokens = self.make_room(1, rows)?;
        let Some(held) = &self.layer.held else { unreachable!("the cache was grown above") };
        let held = held.squeeze(0)?;
        held.slice_set(&rows.contiguous()?, 2, self.length)?;
        Ok(held.narrow(2, 0, self.length + tokens)?)
    }

    /// As [`LayerView::append_one`] with what is of the keys alone, `beside` `[B, 1, T, R]`, in a memory of its own.
    pub fn append_apart(&mut self, rows: &Tensor, beside: &Tensor) -> Result<(Tensor, Tensor)> {
        if self.layer.passes {
            return Ok((rows.clone(), beside.clone()));
        }
        if self.layer.held.is_none() {
            let (batch, heads, tokens, width) = beside.dims4()?;
            self.layer.beside = Some(empty(1, (batch, heads, width), self.length + tokens, beside)?);
        }
        let wanted = self.length + self.make_room(1, rows)?;
        let Some((held, held_beside)) = self.layer.apart()? else {
            bail!("the cache was made for rows that are whole")
        };
        held.slice_set(&rows.contiguous()?, 2, self.length)?;
        held_beside.slice_set(&beside.contiguous()?, 2, self.length)?;
        Ok((held.narrow(2, 0, wanted)?, held_beside.narrow(2, 0, wanted)?))
    }

    /// Makes room for `kinds` rows for each position of `new`, `[B, KvH, T, D]`: how many they are.
    fn make_room(&mut self, kinds: usize, new: &Tensor) -> Result<usize> {
        let (batch, heads, tokens, width) = new.dims4()?;
        match &self.layer.held {
            Some(held) => {
                let (_, held_batch, held_heads, _, held_width) = held.dims5()?;
                let (same, got) = ((held_batch, held_heads, held_width), (batch, heads, width));
                ensure!(
                    same == got,
                    "the cache holds (batch, heads, width) {same:?} and got {got:?}; a cache belongs to one batch"
                );
                self.layer.grow(self.length, tokens)?;
            }
            None => self.layer.held = Some(empty(kinds, (batch, heads, width), self.length + tokens, new)?),
        }
        Ok(tokens)
    }

    /// Turns `heads` of queries, keys and values `[B, N, T, D]`, and writes keys and values at the positions that the device
    /// holds in `positions` `[B]`: the queries, and all that there is memory for of both, `[B, KvH, capacity, D]`.
    pub fn turn_and_write_at(
        &mut self,
        heads: [Tensor; 3],
        turn: Turn<'_>,
        positions: &Tensor,
    ) -> Result<(Tensor, (Tensor, Tensor))> {
        let Some(held) = &self.layer.held else { bail!("the cache is empty: a prompt comes before a step") };
        let queries = ops::turn_and_write_at(heads, turn, held, positions)?;
        let Some(halves) = self.layer.halves()? else { unreachable!("the cache is not empty") };
        Ok((queries, halves))
    }

    /// Writes `rows`, `[B, 1, T, D]`, that stand for keys and values, likewise: gives `[B, 1, capacity, D]`.
    pub fn write_one_at(&mut self, rows: &Tensor, positions: &Tensor) -> Result<Tensor> {
        let Some(held) = &self.layer.held else { bail!("the cache is empty: a prompt comes before a step") };
        let held = held.squeeze(0)?;
        ops::write_at(&held, positions, rows)?;
        Ok(held)
    }

    /// All that there is memory for of what [`LayerView::append_apart`] has put apart, which a step writes to.
    pub fn apart(&self) -> Result<(Tensor, Tensor)> {
        let Some(both) = self.layer.apart()? else { bail!("the cache is empty: a prompt comes before a step") };
        Ok(both)
    }

    /// Writes rows and what is beside them likewise: gives all that there is memory for of both.
    pub fn write_apart_at(&mut self, rows: &Tensor, beside: &Tensor, positions: &Tensor) -> Result<(Tensor, Tensor)> {
        let (held, held_beside) = self.apart()?;
        ops::write_at(&held, positions, rows)?;
        ops::write_at(&held_beside, positions, beside)?;
        Ok((held, held_beside))
    }
}
