//! Rings whose sequences stand at different positions, for batches that sequences enter and leave.

use candle_ascend::{DType, Device, Result, Tensor};

/// Where the next step of each sequence is written, and what its queries see.
#[derive(Debug, Clone)]
pub struct IndicesAndMask {
    indices: Tensor,
    mask: Tensor,
}

impl IndicesAndMask {
    /// What is added to the scores `[B, H, S, T]`.
    pub fn mask(&self) -> &Tensor {
        &self.mask
    }
}

/// Keys and values `[B, H, context, D]` of one layer.
#[derive(Debug, Clone)]
pub struct ScatteredKvCache {
    k: Tensor,
    v: Tensor,
    context: usize,
}

impl ScatteredKvCache {
    /// Writes one step `[B, H, S, D]` where `iam` says and gives the rings; a step as long as a ring is given back.
    pub fn append(&mut self, k: &Tensor, v: &Tensor, iam: &IndicesAndMask) -> Result<(Tensor, Tensor)> {
        if self.context <= k.dim(2)? {
            return Ok((k.clone(), v.clone()));
        }
        let indices = iam.indices.unsqueeze(2)?.unsqueeze(1)?.broadcast_as(k.shape())?.contiguous()?;
        self.k.scatter_set(&indices, k, 2)?;
        self.v.scatter_set(&indices, v, 2)?;
        Ok((self.k.clone(), self.v.clone()))
    }

    pub fn k(&self) -> &Tensor {
        &self.k
    }

    pub fn v(&self) -> &Tensor {
        &self.v
    }
}

/// Where the sequences of a batch stand, for the caches of all layers.
#[derive(Debug, Clone)]
pub struct ScatteredCacheBuilder {
    context: usize,
    /// Positions that each sequence has seen, which may be more than the ring holds.
    positions: Vec<usize>,
    /// Where the next position of each sequence is written.
    indices: Vec<usize>,
    dtype: DType,
    device: Device,
}

impl ScatteredCacheBuilder {
    pub fn new(batch_size: usize, context: usize, dtype: DType, device: &Device) -> Result<Self> {
        let (positions, indices) = (vec![0; batch_size], vec![0; batch_size]);
        Ok(Self { context, positions, indices, dtype, device: device.clone() })
    }

    /// An empty cache for one layer.
    pub fn make_cache(&self, num_heads: usize, head_dim: usize) -> Result<ScatteredKvCache> {
        let zeros = || Tensor::zeros((self.batch_size(), num_heads, self.context, head_dim), self.dtype, self.device());
        Ok(ScatteredKvCache { k: zeros()?, v: zeros()?, context: self.context })
    }

    pub fn positions(&self) -> &[usize] {
        &self.positions
    }

    pub fn reset(&mut self) {
        self.positions.fill(0);
        self.indices.fill(0);
    }

    pub fn batch_size(&self) -> usize {
        self.positions.len()
    }

    /// Starts sequence `batch_index` anew.
    pub fn reset_batch_index(&mut self, batch_index: usize) {
        self.positions[batch_index] = 0;
        self.indices[batch_index] = 0;
    }

    pub fn device(&self) -> &Device {
        &self.device
    }

    /// Moves the sequences that `batch_mask` names on by `seq_len` positions. The mask is `[B, 1, S, context]`, or
    /// `[S, S]` when the step is as long as the rings. A sequence that is not named writes where it stands and sees
    /// everything: its results are not to be used.
    pub fn indices_and_mask(&mut self, seq_len: usize, batch_mask: &[bool]) -> Result<IndicesAndMask> {
        let whole_step = self.context <= seq_len;
        let mut indices: Vec<u32> = Vec::with_capacity(batch_mask.len() * seq_len);
        let mut mask: Vec<f32> = Vec::new();
        for (sequence, &moves) in batch_mask.iter().enumerate() {
            if !moves {
                indices.extend(std::iter::repeat_n(self.indices[sequence] as u32, seq_len));
                mask.extend(std::iter::repeat_n(0., seq_len * self.context));
                continue;
            }
            let first = self.positions[sequence];
            let mut ring = self.ring(sequence);
            for position in first..first + seq_len {
                let index = &mut self.indices[sequence];
                ring[*index] = Some(position);
                indices.push(*index as u32);
                *index = (*index + 1) % self.context;
            }
            self.positions[sequence] += seq_len;
            let sees = |query: usize, key: &Option<usize>| key.is_some_and(|key| key <= query);
            for query in first..first + seq_len {
                mask.extend(ring.iter().map(|key| if sees(query, key) { 0. } else { f32::NEG_INFINITY }));
            }
        }
        let indices = Tensor::from_vec(indices, (batch_mask.len(), seq_len), &self.device)?;
        let mask = if whole_step {
            self.mask_of_step(seq_len)?
        } else {
            Tensor::from_vec(mask, (batch_mask.len(), 1, seq_len, self.context), &self.device)?.to_dtype(self.dtype)?
        };
        Ok(IndicesAndMask { indices, mask })
    }

    /// The position at each place of a sequence's ring; none where nothing has been written.
    fn ring(&self, sequence: usize) -> Vec<Option<usize>> {
        let (seen, next) = (self.positions[sequence], self.indices[sequence]);
        let at = |i: usize| match seen < self.context {
            true => (i < seen).then_some(i),
            false if i < next => Some(seen - next + i),
            false => Some(seen - next + i - self.context),
        };
        (0..self.context).map(at).collect()
    }

    /// `[S, S]` in F32: a query sees itself and what lies at most a ring's length before it.
    fn mask_of_step(&self, seq_len: usize) -> Result<Tensor> {
        let hides = |query: usize, key: usize| key > query || key + self.context < query;
        let value = |query: usize, key: usize| if hides(query, key) { f32::NEG_INFINITY } else { 0. };
        let mask = (0..seq_len).flat_map(|query| (0..seq_len).map(move |key| value(query, key))).collect();
        Tensor::from_vec(mask, (seq_len, seq_len), &self.device)
    }
}
