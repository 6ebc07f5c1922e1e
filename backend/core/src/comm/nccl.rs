//! A rank's end over NCCL: NVIDIA GPUs.

use super::communicator::{Collective, End, Join, Reduction, stranger};
use super::error::Error;
use super::job::Job;
use super::rendezvous::exchange;
use crate::{CudaDevice, DType, Device, Result, Storage, Tensor, bail};
use npu_cuda::collective::{Group, Place, element};
use npu_cuda::nccl::{self, Fold, Mark, UniqueId};
use std::sync::Arc;
use std::time::Duration;

/// Seconds that a collective may take, in the environment; without it as many as transformers' `--ddp-timeout` has.
const TIMEOUT: &str = "NPU_RUN_NCCL_TIMEOUT";
const USUAL_TIMEOUT: Duration = Duration::from_secs(1800);

pub(super) struct Nccl {
    group: Group,
    device: Device,
    /// What a barrier adds up.
    one: Tensor,
}

impl Nccl {
    /// Joins all processes of `job`; rank 0's address travels over MASTER_ADDR.
    pub(super) fn connect(device: &CudaDevice, job: &Job, meeting: Duration) -> Result<Self> {
        let (rank, size) = (job.rank, job.size);
        let named = |error| named((rank, size), "joining a communicator", error);
        let limit = timeout(std::env::var(TIMEOUT).ok().as_deref())?;
        let own = (rank == 0).then(UniqueId::new).transpose().map_err(named)?;
        let bytes = exchange(job, own.as_ref().map(UniqueId::as_bytes), meeting)?;
        let id = UniqueId::from_bytes(&bytes).ok_or_else(|| stranger(job, bytes.len()))?;
        let group = Group::join(device, &id, (rank, size), limit).map_err(named)?;
        let device = Device::Cuda(device.clone());
        Ok(Self { group, one: Tensor::ones(1, DType::F32, &device)?, device })
    }

    fn named(&self, operation: &'static str, error: nccl::Error) -> Error {
        named(self.place(), operation, error)
    }

    fn start(&self, what: Collective, from: &Tensor, to: &Tensor) -> Result<Mark> {
        if element(from.dtype()).is_none() {
            bail!("{}: NCCL has no type for {:?}: convert with to_dtype first", what.name(), from.dtype());
        }
        let (read, written) = (from.storage(), to.storage());
        let (Storage::Cuda(read), Storage::Cuda(written)) = (&*read, &*written) else {
            bail!("{}: the tensor is not on a GPU", what.name())
        };
        let given = Place { storage: read, offset: from.layout().start_offset(), count: from.elem_count() };
        let got = Place { storage: written, offset: to.layout().start_offset(), count: to.elem_count() };
        let mark = match what {
            Collective::AllReduce(reduction) => self.group.all_reduce(given, got, fold(reduction)),
            Collective::Broadcast(root) => self.group.broadcast(got, root),
            Collective::AllGather => self.group.all_gather(given, got),
            Collective::ReduceScatter(reduction) => self.group.reduce_scatter(given, got, fold(reduction)),
        };
        Ok(mark.map_err(|error| self.named(what.name(), error))?)
    }
}

impl End for Nccl {
    fn device(&self) -> &Device {
        &self.device
    }

    fn place(&self) -> (usize, usize) {
        (self.group.ring().rank(), self.group.ring().size())
    }

    fn issue(self: Arc<Self>, what: Collective, from: &Tensor, to: &Tensor) -> Result<Join> {
        let mark = self.start(what, from, to)?;
        Ok(Box::new(move || self.group.ring().join(&mark).map_err(|error| self.named(what.name(), error))))
    }

    fn barrier(&self) -> Result<()> {
        // NCCL has none: a sum is over when every rank has come to it.
        let mark = self.start(Collective::AllReduce(Reduction::Sum), &self.one, &self.one)?;
        self.group.ring().join(&mark).map_err(|error| self.named("barrier", error))?;
        Ok(self.synchronize()?)
    }

    fn synchronize(&self) -> std::result::Result<(), Error> {
        self.group.ring().synchronize().map_err(|error| self.named("a collective", error))
    }

    fn check(&self) -> std::result::Result<(), Error> {
        self.group.ring().check().map_err(|error| self.named("check", error))
    }
}

fn named((rank, size): (usize, usize), operation: &'static str, error: nccl::Error) -> Error {
    Error { rank, size, operation, code: error.code(), why: error.to_string(), advice: String::new() }
}

fn fold(reduction: Reduction) -> Fold {
    match reduction {
        Reduction::Sum => Fold::Sum,
        Reduction::Prod => Fold::Prod,
        Reduction::Max => Fold::Max,
        Reduction::Min => Fold::Min,
    }
}

fn timeout(told: Option<&str>) -> Result<Duration> {
    let Some(told) = told else { return Ok(USUAL_TIMEOUT) };
    match told.parse::<u64>() {
        Ok(seconds) if seconds > 0 => Ok(Duration::from_secs(seconds)),
        _ => bail!("{TIMEOUT}={told}: wanted whole seconds, at least 1"),
    }
}
