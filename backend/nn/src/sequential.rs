//! Layers one after another.

use crate::func;
use candle_ascend::{Module, Result, Tensor};

/// A stack of layers.
pub struct Sequential {
    layers: Vec<Box<dyn Module>>,
}

/// An empty stack, which gives back its input.
pub fn seq() -> Sequential {
    Sequential { layers: Vec::new() }
}

impl Sequential {
    pub fn len(&self) -> i64 {
        self.layers.len() as i64
    }

    pub fn is_empty(&self) -> bool {
        self.layers.is_empty()
    }

    /// With `layer` last.
    #[allow(clippy::should_implement_trait)]
    pub fn add<M: Module + 'static>(mut self, layer: M) -> Self {
        self.layers.push(Box::new(layer));
        self
    }

    /// With the closure `f` last.
    pub fn add_fn<F: 'static + Fn(&Tensor) -> Result<Tensor> + Send + Sync>(self, f: F) -> Self {
        self.add(func(f))
    }

    /// The result of every layer.
    pub fn forward_all(&self, xs: &Tensor) -> Result<Vec<Tensor>> {
        let mut results: Vec<Tensor> = Vec::with_capacity(self.layers.len());
        for layer in &self.layers {
            let next = layer.forward(results.last().unwrap_or(xs))?;
            results.push(next);
        }
        Ok(results)
    }
}

impl Module for Sequential {
    fn forward(&self, xs: &Tensor) -> Result<Tensor> {
        self.layers.iter().try_fold(xs.clone(), |xs, layer| layer.forward(&xs))
    }
}
