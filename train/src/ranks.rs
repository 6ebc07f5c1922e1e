//! The processes that train together.

use anyhow::{Result, bail};
use candle_ascend::comm::{Communicator, Job, Reduction};
use candle_ascend::{Device, Tensor, Var};
use std::path::Path;

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

    /// Joins the processes of `job`, which make the same call, each with a device of its own: NPUs over HCCL, those that the rank
    /// table at `table` lists if there is one, or NVIDIA GPUs over NCCL.
    pub fn join(device: &Device, job: &Job, table: Option<&Path>) -> Result<Self> {
        Ok(Self::over(match (table, device) {
            (None, _) => Communicator::connect(device, job)?,
            (Some(table), Device::Npu(npu)) => Communicator::from_rank_table(npu, table, job.rank)?,
            (Some(table), other) => {
                bail!("the rank table {} is HCCL's, and this is a {} device", table.display(), other.kind())
            }
        }))
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
        let own = Tensor::from_iter(values, communicator.device())?;
        let sums = communicator.all_reduce(&own, Reduction::Sum)?.to_vec1::<f32>()?;
        self.check()?;
        Ok(sums.into_iter().map(f64::from).collect())
    }

    /// The sum over all ranks of `tensor`, which stays on the device.
    pub fn reduce(&self, tensor: &Tensor) -> Result<Tensor> {
        match &self.0 {
            Some(communicator) => Ok(communicator.all_reduce(tensor, Reduction::Sum)?),
            None => Ok(tensor.clone()),
        }
    }

    /// An error, with the rank and the call to blame, if a collective has failed. It does not stop what was computed after
    /// it: ask here whenever values have been read, before they are trusted.
    pub fn check(&self) -> Result<()> {
        let Some(communicator) = &self.0 else { return Ok(()) };
        let Err(failed) = communicator.check() else { return Ok(()) };
        // The communicator only has a code; its stream has who is to blame.
        communicator.synchronize()?;
        Err(failed.into())
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
