//! Lookup of rows by token.

use crate::{Init, Module, VarBuilder};
use candle_ascend::{Result, Tensor};

/// A table `[tokens, hidden]`.
#[derive(Clone, Debug)]
pub struct Embedding {
    embeddings: Tensor,
    hidden_size: usize,
}

impl Embedding {
    pub fn new(embeddings: Tensor, hidden_size: usize) -> Self {
        Self { embeddings, hidden_size }
    }

    pub fn embeddings(&self) -> &Tensor {
        &self.embeddings
    }

    pub fn hidden_size(&self) -> usize {
        self.hidden_size
    }
}

impl Module for Embedding {
    /// The rows of `indexes`, whose shape gains a last dimension of `hidden_size`.
    fn forward(&self, indexes: &Tensor) -> Result<Tensor> {
        let dims = [indexes.dims(), &[self.hidden_size]].concat();
        self.embeddings.index_select(&indexes.flatten_all()?, 0)?.reshape(dims)
    }
}

/// A table from `weight` of `vb`.
pub fn embedding(in_size: usize, out_size: usize, vb: VarBuilder) -> Result<Embedding> {
    let embeddings = vb.get_with_hints((in_size, out_size), "weight", Init::Randn { mean: 0., stdev: 1. })?;
    Ok(Embedding::new(embeddings, out_size))
}
