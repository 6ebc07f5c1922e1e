//! Gradients of a step: added up over its batches in F32, and over the ranks.

use crate::Ranks;
use anyhow::{Context, Result};
use candle_ascend::{DType, Tensor, TensorId};
use npu_models::Parameter;
use std::collections::HashMap;

/// The gradients of one step.
pub struct Gradients<'a> {
    parameters: &'a [Parameter],
    ranks: &'a Ranks,
    places: HashMap<TensorId, usize>,
    sums: Vec<Option<Tensor>>,
}

impl<'a> Gradients<'a> {
    pub fn new(parameters: &'a [Parameter], ranks: &'a Ranks) -> Self {
        let places = parameters.iter().enumerate().map(|(i, parameter)| (parameter.var.id(), i)).collect();
        Self { parameters, ranks, places, sums: vec![None; parameters.len()] }
    }

    /// Adds the gradients of `loss` (rank 0) times `scale`. `last` says that none will come after it on this rank, so that
    /// what is complete may be sent.
    pub fn add(&mut self, loss: Tensor, scale: f64, _last: bool) -> Result<()> {
        let seed = (loss.ones_like()? * scale)?;
        let (places, sums) = (&self.places, &mut self.sums);
        loss.walk_back(seed, &mut |variable, grad| {
            // A variable that is no parameter is somebody else's concern.
            let Some(&place) = places.get(&variable.id()) else { return Ok(()) };
            let grad = grad.to_dtype(DType::F32)?;
            sums[place] = Some(match sums[place].take() {
                Some(sum) => (sum + grad)?,
                None => grad,
            });
            Ok(())
        })?;
        Ok(())
    }

    /// The sums over all ranks, in the order of the parameters; zeros where nothing was lost on a parameter.
    pub fn finish(self) -> Result<Vec<Tensor>> {
        let Self { parameters, ranks, sums, .. } = self;
        let finish = |(parameter, sum): (&Parameter, Option<Tensor>)| -> Result<Tensor> {
            let sum = match sum {
                Some(sum) => sum,
                None => Tensor::zeros(parameter.var.shape(), DType::F32, parameter.var.device())?,
            };
            let Some(communicator) = ranks.communicator() else { return Ok(sum) };
            let named = || format!("the gradient of {}", parameter.parts[0].0);
            communicator.all_reduce(&sum, candle_ascend::comm::Reduction::Sum).with_context(named)
        };
        parameters.iter().zip(sums).map(finish).collect()
    }
}
