//! The processes that train together.

use anyhow::Result;
use candle_ascend::comm::{Communicator, Reduction};
use candle_ascend::{Device, Tensor, Var};

/// This process among those that train together; one alone has no communicator.
#[derive(Clone, Debug, Default)]
pub struct Ranks(Option<Communicator>);

impl Ranks {
    /// One process alone.
    pub fn single() -> Self {
        Self(None)
    }

    pub fn over(communicator: Communicator) -> Self {
        Self(Some(communicator))
    }

    pub fn rank(&self) -> usize {
        self.0.as_ref().map_or(0, Communicator::rank)
    }

    /// Number of processes.
    pub fn size(&self) -> usize {
        self.0.as_ref().map_or(1, Communicator::size)
    }

    /// Whether this process speaks for all: it logs and saves.
    pub fn leads(&self) -> bool {
        self.rank() == 0
    }

    pub fn communicator(&self) -> Option<&Communicator> {
        self.0.as_ref()
    }

    /// The sums over all ranks of `values`, in F32.
    pub fn sum(&self, values: &[f64]) -> Result<Vec<f64>> {
        let Some(communicator) = self.0.as_ref().filter(|_| !values.is_empty()) else { return Ok(values.to_vec()) };
        let values = values.iter().map(|value| *value as f32);
        let own = Tensor::from_iter(values, &Device::Npu(communicator.device().clone()))?;
        let sums = communicator.all_reduce(&own, Reduction::Sum)?.to_vec1::<f32>()?;
        communicator.check()?;
        Ok(sums.into_iter().map(f64::from).collect())
    }

    /// The sum over all ranks of `tensor`, which stays on the device.
    pub fn reduce(&self, tensor: &Tensor) -> Result<Tensor> {
        Ok(match &self.0 {
            Some(communicator) => communicator.all_reduce(tensor, Reduction::Sum)?,
            None => tensor.clone(),
        })
    }

    /// An error if a collective has failed, which does not show in the values that it left.
    pub fn check(&self) -> Result<()> {
        if let Some(communicator) = &self.0 {
            communicator.check()?;
        }
        Ok(())
    }

    /// Gives every rank the first one's value of `var`.
    pub fn share(&self, var: &Var) -> Result<()> {
        if let Some(communicator) = &self.0 {
            var.set(&communicator.broadcast(var.as_tensor(), 0)?)?;
        }
        Ok(())
    }

    /// Waits until every rank has come here.
    pub fn barrier(&self) -> Result<()> {
        if let Some(communicator) = &self.0 {
            communicator.barrier()?;
        }
        Ok(())
    }
}
