//! Communicators and their collectives, on tensors.

use super::error::Error;
use super::hccl::Hccl;
use super::job::Job;
use super::rendezvous::exchange;
use crate::acl::RootInfo;
use crate::{Device, NpuDevice, Result, Shape, Tensor, bail};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// What a reduction does with the elements of the ranks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reduction {
    Sum,
    Prod,
    Max,
    Min,
}

/// What a call does with the tensors of the ranks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Collective {
    AllReduce(Reduction),
    /// Of this root's, in place.
    Broadcast(usize),
    AllGather,
    ReduceScatter(Reduction),
}

/// Lets what the device is given from now on wait for a collective; the host does not wait.
pub(super) type Join = Box<dyn FnOnce() -> std::result::Result<(), Error> + Send>;

/// A rank's end of a communicator: HCCL's on NPUs, NCCL's on NVIDIA GPUs.
pub(super) trait End: Send + Sync {
    fn device(&self) -> &Device;

    /// This rank, and the number of ranks.
    fn place(&self) -> (usize, usize);

    /// Starts `what` on the elements of `from` and `to`: row-major, of one type, on this end's device, and as many as `what` asks
    /// for. They may be one tensor.
    fn issue(self: Arc<Self>, what: Collective, from: &Tensor, to: &Tensor) -> Result<Join>;

    /// Waits until every rank has come here and its device has done everything that it was given before.
    fn barrier(&self) -> Result<()>;

    /// Waits until this rank's collectives are over.
    fn synchronize(&self) -> std::result::Result<(), Error>;

    /// An error if a collective has failed, without waiting for anything.
    fn check(&self) -> std::result::Result<(), Error>;
}

/// One rank's end of a communicator; clones share it. Collectives run beside the operators of the device: each begins
/// after everything that was computed before the call, and what is computed after [`Pending::wait`] comes after it.
/// Results are outside of any gradient.
#[derive(Clone)]
pub struct Communicator(Arc<dyn End>);

/// How long the processes of a job wait for each other before there is a communicator.
const MEETING: Duration = Duration::from_secs(120);

impl Communicator {
    /// Joins all processes of `job`, which must make the same call with a device of one kind: NPUs by HCCL, NVIDIA GPUs by NCCL.
    /// What rank 0 tells the others travels over MASTER_ADDR.
    pub fn connect(device: &Device, job: &Job) -> Result<Self> {
        match device {
            Device::Npu(npu) => {
                let info = (job.rank == 0).then(|| RootInfo::new(npu.context())).transpose()?;
                let bytes = exchange(job, info.as_ref().map(RootInfo::as_bytes), MEETING)?;
                let info = RootInfo::from_bytes(&bytes).ok_or_else(|| stranger(job, bytes.len()))?;
                Self::join(npu, &info, job.rank, job.size)
            }
            #[cfg(feature = "cuda")]
            Device::Cuda(cuda) => Ok(Self(Arc::new(super::nccl::Nccl::connect(cuda, job, MEETING)?))),
            other => bail!("communicators join NPUs or NVIDIA GPUs, and this is a {} device", other.kind()),
        }
    }

    /// Joins as `rank` of `size` the ranks that have the same root info; waits for them.
    pub fn join(device: &NpuDevice, info: &RootInfo, rank: usize, size: usize) -> Result<Self> {
        Ok(Self(Arc::new(Hccl::join(device, info, rank, size)?)))
    }

    /// Joins as `rank` of the job that the rank table at `table` lists.
    pub fn from_rank_table(device: &NpuDevice, table: &Path, rank: usize) -> Result<Self> {
        Ok(Self(Arc::new(Hccl::from_rank_table(device, table, rank)?)))
    }

    pub fn rank(&self) -> usize {
        self.0.place().0
    }

    /// Number of ranks.
    pub fn size(&self) -> usize {
        self.0.place().1
    }

    pub fn device(&self) -> &Device {
        self.0.device()
    }

    /// A tensor of the same shape with the reduction of every rank's `tensor`, bit for bit the same on all.
    pub fn all_reduce(&self, tensor: &Tensor, reduction: Reduction) -> Result<Tensor> {
        self.start_all_reduce(tensor, reduction)?.wait()
    }

    /// As [`Communicator::all_reduce`], without holding up what is computed before [`Pending::wait`].
    pub fn start_all_reduce(&self, tensor: &Tensor, reduction: Reduction) -> Result<Pending> {
        self.out_of_place(Collective::AllReduce(reduction), tensor, tensor.shape().clone())
    }

    /// As [`Communicator::start_all_reduce`], in the memory of `tensor`, which nobody else may hold.
    pub fn start_all_reduce_in_place(&self, tensor: Tensor, reduction: Reduction) -> Result<Pending> {
        self.in_place(Collective::AllReduce(reduction), &tensor)
    }

    /// `root`'s tensor on every rank; the others only say its shape and type with theirs.
    pub fn broadcast(&self, tensor: &Tensor, root: usize) -> Result<Tensor> {
        self.in_place(Collective::Broadcast(root), &tensor.detach().copy()?)?.wait()
    }

    /// The tensors of all ranks, joined along their first dimension in the order of the ranks.
    pub fn all_gather(&self, tensor: &Tensor) -> Result<Tensor> {
        self.start_all_gather(tensor)?.wait()
    }

    /// As [`Communicator::all_gather`], without holding up what is computed before [`Pending::wait`].
    pub fn start_all_gather(&self, tensor: &Tensor) -> Result<Pending> {
        let mut dims = tensor.dims().to_vec();
        match dims.first_mut() {
            Some(first) => *first *= self.size(),
            None => dims.push(self.size()),
        }
        self.out_of_place(Collective::AllGather, tensor, Shape::from(dims))
    }

    /// This rank's share of the reduction of every rank's `tensor`: the first dimension is divided among the ranks.
    pub fn reduce_scatter(&self, tensor: &Tensor, reduction: Reduction) -> Result<Tensor> {
        self.start_reduce_scatter(tensor, reduction)?.wait()
    }

    /// As [`Communicator::reduce_scatter`], without holding up what is computed before [`Pending::wait`].
    pub fn start_reduce_scatter(&self, tensor: &Tensor, reduction: Reduction) -> Result<Pending> {
        let mut dims = tensor.dims().to_vec();
        match dims.first_mut() {
            Some(first) if *first % self.size() == 0 => *first /= self.size(),
            _ => bail!("reduce_scatter: {:?} does not divide among {} ranks", tensor.dims(), self.size()),
        }
        self.out_of_place(Collective::ReduceScatter(reduction), tensor, Shape::from(dims))
    }

    /// Waits until every rank has come here and its device has done everything that it was given before.
    pub fn barrier(&self) -> Result<()> {
        self.0.barrier()
    }

    /// Waits until this rank's collectives are over. An error says which rank failed, and how.
    pub fn synchronize(&self) -> Result<()> {
        Ok(self.0.synchronize()?)
    }

    /// An error if the communicator has failed, without waiting for anything. A collective that fails does not stop the
    /// device's operators: a loop asks here whenever it has read a value, before it trusts it.
    pub fn check(&self) -> Result<()> {
        Ok(self.0.check()?)
    }

    /// `what` from the elements of `tensor` to those of a new tensor of `shape`.
    fn out_of_place(&self, what: Collective, tensor: &Tensor, shape: Shape) -> Result<Pending> {
        let input = self.given(what, tensor)?;
        let output = Tensor::from_storage(self.device().alloc(&shape, input.dtype())?, &shape);
        let join = self.0.clone().issue(what, &input, &output)?;
        Ok(Pending { join: Some(join), input, output })
    }

    /// `what` on the elements of `tensor`, which it changes; nobody else may hold them.
    fn in_place(&self, what: Collective, tensor: &Tensor) -> Result<Pending> {
        let input = self.given(what, tensor)?;
        let join = self.0.clone().issue(what, &input, &input)?;
        Ok(Pending { join: Some(join), output: input.clone(), input })
    }

    /// The operand of a call, which must be on this communicator's device, in row-major order.
    fn given(&self, what: Collective, tensor: &Tensor) -> Result<Tensor> {
        if !tensor.device().same_device(self.device()) {
            let (is, wanted) = (tensor.device().location(), self.device().location());
            bail!("{}: the tensor is on {is:?}, wanted {wanted:?}", what.name());
        }
        tensor.detach().contiguous()
    }
}

impl Collective {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::AllReduce(_) => "all_reduce",
            Self::Broadcast(_) => "broadcast",
            Self::AllGather => "all_gather",
            Self::ReduceScatter(_) => "reduce_scatter",
        }
    }
}

/// What rank 0 sent is not what was expected of it.
pub(super) fn stranger(job: &Job, bytes: usize) -> Error {
    Error {
        rank: job.rank,
        size: job.size,
        operation: "joining a communicator",
        code: None,
        why: format!("rank 0 sent {bytes} bytes, which do not say where to meet"),
        advice: "run the same npu-run on every host, with the same kind of device".into(),
    }
}

impl std::fmt::Debug for Communicator {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Communicator(rank {} of {} on {:?})", self.rank(), self.size(), self.device().location())
    }
}

/// A collective that was started. The tensors live until the device's operators wait for it, because their memory may
/// be used again by what those compute.
#[must_use = "a collective that nobody waits for holds up the operators when it is dropped"]
pub struct Pending {
    join: Option<Join>,
    #[allow(dead_code)]
    input: Tensor,
    output: Tensor,
}

impl Pending {
    /// The result, which operators may use from now on; the host does not wait.
    pub fn wait(mut self) -> Result<Tensor> {
        self.join.take().map_or(Ok(()), |join| join())?;
        Ok(self.output.clone())
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        if let Some(join) = self.join.take() {
            // A failure here means that the streams are broken, which the next call on either will say.
            let _ = join();
        }
    }
}
