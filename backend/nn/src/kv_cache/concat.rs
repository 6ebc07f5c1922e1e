//! A cache that grows by concatenation.

use candle_ascend::{Result, Tensor};

/// Keys and values along `dim`, each step appended by a copy of everything; what it gives is row-major.
#[derive(Debug, Clone)]
pub struct ConcatKvCache {
    held: Option<(Tensor, Tensor)>,
    dim: usize,
}

impl ConcatKvCache {
    /// An empty cache; `dim` is the one of the positions.
    pub fn new(dim: usize) -> Self {
        Self { held: None, dim }
    }

    pub fn current_seq_len(&self) -> usize {
        self.k().and_then(|k| k.dims().get(self.dim).copied()).unwrap_or(0)
    }

    pub fn is_empty(&self) -> bool {
        self.held.is_none()
    }

    pub fn dim(&self) -> usize {
        self.dim
    }

    /// Appends one step and gives everything so far, outside of any gradient.
    pub fn append(&mut self, k: &Tensor, v: &Tensor) -> Result<(Tensor, Tensor)> {
        let (k, v) = (k.contiguous()?.detach(), v.contiguous()?.detach());
        let all = match &self.held {
            Some((keys, values)) => (Tensor::cat(&[keys, &k], self.dim)?, Tensor::cat(&[values, &v], self.dim)?),
            None => (k, v),
        };
        self.held = Some(all.clone());
        Ok(all)
    }

    pub fn reset(&mut self) {
        self.held = None;
    }

    /// The keys so far.
    pub fn k(&self) -> Option<&Tensor> {
        self.held.as_ref().map(|(k, _)| k)
    }

    /// The values so far.
    pub fn v(&self) -> Option<&Tensor> {
        self.held.as_ref().map(|(_, v)| v)
    }

    pub fn k_mut(&mut self) -> Option<&mut Tensor> {
        self.held.as_mut().map(|(k, _)| k)
    }

    pub fn v_mut(&mut self) -> Option<&mut Tensor> {
        self.held.as_mut().map(|(_, v)| v)
    }

    /// Keys and values so far.
    pub fn into_inner(self) -> Option<(Tensor, Tensor)> {
        self.held
    }
}
