//! Keys and values of the tokens so far.

mod concat;
mod interleaved;
mod raw;
mod rotating;
mod scattered;

use candle_ascend::{Error, Result, Tensor};

pub use concat::ConcatKvCache;
pub use interleaved::InterleavedKvCache;
pub use raw::{RawInterleavedKvCache, rope_i_inplace};
pub use rotating::{RotatingCache, RotatingKvCache};
pub use scattered::{IndicesAndMask, ScatteredCacheBuilder, ScatteredKvCache};

/// A buffer along `dim` that tensors are appended to; allocated at the first of them, grown when it is full.
#[derive(Debug, Clone)]
pub struct Cache {
    all_data: Option<Tensor>,
    dim: usize,
    current_seq_len: usize,
    grow_by: usize,
    max_seq_len: usize,
}

impl Cache {
    /// An empty buffer of `max_seq_len` positions, which also is what it grows by.
    pub fn new(dim: usize, max_seq_len: usize) -> Self {
        Self { all_data: None, dim, current_seq_len: 0, grow_by: max_seq_len, max_seq_len }
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

    /// The whole buffer.
    pub fn all_data(&self) -> &Option<Tensor> {
        &self.all_data
    }

    /// The positions that have been written, as a view.
    pub fn current_data(&self) -> Result<Option<Tensor>> {
        self.all_data.as_ref().map(|data| data.narrow(self.dim, 0, self.current_seq_len)).transpose()
    }

    /// Empties the buffer and gives its memory back.
    pub fn reset(&mut self) {
        self.current_seq_len = 0;
        self.all_data = None;
    }

    /// Writes `src` after what is there.
    pub fn append(&mut self, src: &Tensor) -> Result<()> {
        let count = src.dim(self.dim)?;
        let mut buffer = match self.all_data.take() {
            Some(buffer) => buffer,
            None => self.room(src, self.max_seq_len)?,
        };
        while self.current_seq_len + count > self.max_seq_len {
            let room = self.room(src, self.grow_by)?;
            buffer = Tensor::cat(&[&buffer, &room], self.dim)?;
            self.max_seq_len += self.grow_by;
        }
        buffer.slice_set(&src.contiguous()?, self.dim, self.current_seq_len)?;
        self.all_data = Some(buffer);
        self.current_seq_len += count;
        Ok(())
    }

    /// Zeros like `src` with `positions` along the dimension of the cache.
    fn room(&self, src: &Tensor, positions: usize) -> Result<Tensor> {
        if positions == 0 {
            return Err(Error::Msg("a cache of zero positions cannot hold anything".into()).bt());
        }
        let mut dims = src.dims().to_vec();
        dims[self.dim] = positions;
        Tensor::zeros(dims, src.dtype(), src.device())
    }
}

/// A cache of keys and one of values.
#[derive(Debug, Clone)]
pub struct KvCache {
    k: Cache,
    v: Cache,
}

impl KvCache {
    pub fn new(dim: usize, max_seq_len: usize) -> Self {
        Self { k: Cache::new(dim, max_seq_len), v: Cache::new(dim, max_seq_len) }
    }

    pub fn k_cache(&self) -> &Cache {
        &self.k
    }

    pub fn v_cache(&self) -> &Cache {
        &self.v
    }

    pub fn k_cache_mut(&mut self) -> &mut Cache {
        &mut self.k
    }

    pub fn v_cache_mut(&mut self) -> &mut Cache {
        &mut self.v
    }

    /// The keys so far.
    pub fn k(&self) -> Result<Option<Tensor>> {
        self.k.current_data()
    }

    /// The values so far.
    pub fn v(&self) -> Result<Option<Tensor>> {
        self.v.current_data()
    }

    /// Appends one step and gives everything so far.
    pub fn append(&mut self, k: &Tensor, v: &Tensor) -> Result<(Tensor, Tensor)> {
        self.k.append(k)?;
        self.v.append(v)?;
        match (self.k.current_data()?, self.v.current_data()?) {
            (Some(k), Some(v)) => Ok((k, v)),
            _ => Err(Error::UnwrapNone.bt()),
        }
    }

    pub fn current_seq_len(&self) -> usize {
        self.k.current_seq_len()
    }

    pub fn reset(&mut self) {
        self.k.reset();
        self.v.reset();
    }
}
