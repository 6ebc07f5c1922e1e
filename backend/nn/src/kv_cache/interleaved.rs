//! Keys and values of a head side by side.

use candle_ascend::{Result, Tensor};

/// `[S, G, 2·D]` for one sequence: the key of a head and position, then its value.
#[derive(Debug, Clone)]
pub struct InterleavedKvCache {
    kv: Option<Tensor>,
    head_dim: usize,
}

impl InterleavedKvCache {
    pub fn new(head_dim: usize) -> Self {
        Self { kv: None, head_dim }
    }

    pub fn current_seq_len(&self) -> usize {
        self.kv.as_ref().and_then(|kv| kv.dims().first().copied()).unwrap_or(0)
    }

    pub fn is_empty(&self) -> bool {
        self.kv.is_none()
    }

    /// Appends keys and values `[1, G, S, D]` and gives everything so far, outside of any gradient.
    pub fn append(&mut self, k: &Tensor, v: &Tensor) -> Result<Tensor> {
        let positions_first = |x: &Tensor| x.squeeze(0)?.transpose(0, 1);
        let step = Tensor::cat(&[positions_first(k)?, positions_first(v)?], 2)?.detach();
        let all = match &self.kv {
            Some(kv) => Tensor::cat(&[kv, &step], 0)?,
            None => step,
        };
        self.kv = Some(all.clone());
        Ok(all)
    }

    pub fn kv(&self) -> Option<&Tensor> {
        self.kv.as_ref()
    }

    pub fn head_dim(&self) -> usize {
        self.head_dim
    }

    pub fn reset(&mut self) {
        self.kv = None;
    }
}
