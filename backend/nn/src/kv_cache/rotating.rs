//! A ring of positions, for attention that looks back a bounded way.

use candle_ascend::{Device, Result, Tensor};

/// A buffer of `max_seq_len` positions along `dim`; the newest overwrite the oldest.
#[derive(Debug, Clone)]
pub struct RotatingCache {
    all_data: Option<Tensor>,
    dim: usize,
    /// Where the next position is written.
    offset: usize,
    /// Positions seen, which may be more than the ring holds.
    current_seq_len: usize,
    max_seq_len: usize,
}

impl RotatingCache {
    pub fn new(dim: usize, max_seq_len: usize) -> Self {
        Self { all_data: None, dim, offset: 0, current_seq_len: 0, max_seq_len }
    }

    pub fn offset(&self) -> usize {
        self.offset
    }

    pub fn dim(&self) -> usize {
        self.dim
    }

    pub fn current_seq_len(&self) -> usize {
        self.current_seq_len
    }

    pub fn max_seq_len(&self) -> usize {
        self.max_seq_len
    }

    /// The whole ring.
    pub fn all_data(&self) -> &Option<Tensor> {
        &self.all_data
    }

    /// The positions that have been written, in the order of the ring.
    pub fn current_data(&self) -> Result<Option<Tensor>> {
        self.all_data.as_ref().map(|ring| self.written(ring)).transpose()
    }

    fn written(&self, ring: &Tensor) -> Result<Tensor> {
        ring.narrow(self.dim, 0, self.current_seq_len.min(self.max_seq_len))
    }

    /// Empties the ring and gives its memory back.
    pub fn reset(&mut self) {
        *self = Self::new(self.dim, self.max_seq_len);
    }

    /// Writes `src` and gives what attention is to see: the ring, or all of `src` when that is longer than the ring.
    pub fn append(&mut self, src: &Tensor) -> Result<Tensor> {
        let count = src.dim(self.dim)?;
        let ring = match self.all_data.take() {
            Some(ring) => ring,
            None => {
                let mut dims = src.dims().to_vec();
                dims[self.dim] = self.max_seq_len;
                Tensor::zeros(dims, src.dtype(), src.device())?
            }
        };
        let write = |from: usize, len: usize, at: usize| -> Result<()> {
            if len == 0 {
                Ok(())
            } else {
                ring.slice_set(&src.narrow(self.dim, from, len)?.contiguous()?, self.dim, at)
            }
        };
        self.current_seq_len += count;
        let seen = if count >= self.max_seq_len {
            write(count - self.max_seq_len, self.max_seq_len, 0)?;
            self.offset = 0;
            src.clone()
        } else {
            let before_wrap = count.min(self.max_seq_len - self.offset);
            write(0, before_wrap, self.offset)?;
            write(before_wrap, count - before_wrap, 0)?;
            self.offset = (self.offset + count) % self.max_seq_len;
            self.written(&ring)?
        };
        self.all_data = Some(ring);
        Ok(seen)
    }

    /// The position of each element that [`RotatingCache::append`] of `seq_len` more would give.
    pub fn positions(&self, seq_len: usize) -> Vec<usize> {
        let total = self.current_seq_len + seq_len;
        if seq_len > self.max_seq_len {
            return (self.current_seq_len..total).collect();
        }
        let next = (self.offset + seq_len) % self.max_seq_len;
        let at = |i: usize| if i < next { total + i - next } else { total + i - next - self.max_seq_len };
        (0..total.min(self.max_seq_len)).map(at).collect()
    }

    /// For the `seq_len` queries of the next append, `[S, T]` in U8: one where a key is hidden, because it comes later or
    /// lies more than the ring's length back. None for a single query, which sees everything.
    pub fn attn_mask(&self, seq_len: usize, device: &Device) -> Result<Option<Tensor>> {
        if seq_len == 1 {
            return Ok(None);
        }
        // Positions of queries and keys; from a prompt as long as the ring on, both are those of the prompt.
        let (first, keys): (usize, Vec<usize>) = match seq_len < self.max_seq_len {
            true => (self.current_seq_len, self.positions(seq_len)),
            false => (0, (0..seq_len).collect()),
        };
        let hides = |query: usize, key: usize| u8::from(key > query || key + self.max_seq_len < query);
        let mask: Vec<u8> =
            (first..first + seq_len).flat_map(|query| keys.iter().map(move |&key| hides(query, key))).collect();
        Tensor::from_vec(mask, (seq_len, keys.len()), device).map(Some)
    }
}

/// A ring of keys and one of values.
#[derive(Debug, Clone)]
pub struct RotatingKvCache {
    k: RotatingCache,
    v: RotatingCache,
}

impl RotatingKvCache {
    pub fn new(dim: usize, max_seq_len: usize) -> Self {
        Self { k: RotatingCache::new(dim, max_seq_len), v: RotatingCache::new(dim, max_seq_len) }
    }

    pub fn k_cache(&self) -> &RotatingCache {
        &self.k
    }

    pub fn v_cache(&self) -> &RotatingCache {
        &self.v
    }

    pub fn k_cache_mut(&mut self) -> &mut RotatingCache {
        &mut self.k
    }

    pub fn v_cache_mut(&mut self) -> &mut RotatingCache {
        &mut self.v
    }

    /// The keys that are held.
    pub fn k(&self) -> Result<Option<Tensor>> {
        self.k.current_data()
    }

    /// The values that are held.
    pub fn v(&self) -> Result<Option<Tensor>> {
        self.v.current_data()
    }

    /// Appends one step and gives what attention is to see.
    pub fn append(&mut self, k: &Tensor, v: &Tensor) -> Result<(Tensor, Tensor)> {
        Ok((self.k.append(k)?, self.v.append(v)?))
    }

    pub fn offset(&self) -> usize {
        self.k.offset()
    }

    pub fn current_seq_len(&self) -> usize {
        self.k.current_seq_len()
    }

    /// As [`RotatingCache::attn_mask`].
    pub fn attn_mask(&self, seq_len: usize, device: &Device) -> Result<Option<Tensor>> {
        self.k.attn_mask(seq_len, device)
    }

    /// As [`RotatingCache::positions`].
    pub fn positions(&self, seq_len: usize) -> Vec<usize> {
        self.k.positions(seq_len)
    }

    pub fn reset(&mut self) {
        self.k.reset();
        self.v.reset();
    }
}
