//! Communicators and their collectives, on tensors.

use super::error::Error;
use super::job::Job;
use super::rendezvous::exchange;
use crate::acl::{self, Group, Marks, RootInfo, Span};
use crate::npu::NpuStorage;
use crate::{DType, Device, NpuDevice, Result, Shape, Storage, Tensor};
use candle_core::backend::BackendStorage;
use hccl_sys::*;
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

impl Reduction {
    fn code(self) -> HcclReduceOp {
        match self {
            Self::Sum => HCCL_REDUCE_SUM,
            Self::Prod => HCCL_REDUCE_PROD,
            Self::Max => HCCL_REDUCE_MAX,
            Self::Min => HCCL_REDUCE_MIN,
        }
    }
}

/// One rank's end of a communicator; clones share it. Collectives run beside the operators of the device: each begins
/// after everything that was computed before the call, and what is computed after [`Pending::wait`] comes after it.
/// Results are outside of any gradient.
#[derive(Clone)]
pub struct Communicator(Arc<Inner>);

struct Inner {
    group: Group,
    device: NpuDevice,
    rank: usize,
    size: usize,
}

/// How long the processes of a job wait for each other before there is a communicator.
const MEETING: Duration = Duration::from_secs(120);

impl Communicator {
    /// Joins all processes of `job`, which must make the same call; rank 0's address travels over MASTER_ADDR.
    pub fn connect(device: &NpuDevice, job: &Job) -> Result<Self> {
        let info = match job.rank {
            0 => Some(RootInfo::new(device.context())?),
            _ => None,
        };
        let bytes = exchange(job, info.as_ref().map(RootInfo::as_bytes), MEETING)?;
        let info = RootInfo::from_bytes(&bytes).ok_or_else(|| Error {
            rank: job.rank,
            size: job.size,
            operation: "joining a communicator",
            code: None,
            why: format!("rank 0 sent {} bytes, which are no root info", bytes.len()),
            advice: "run the same npu-run on every host".into(),
        })?;
        Self::join(device, &info, job.rank, job.size)
    }

    /// Joins as `rank` of `size` the ranks that have the same root info; waits for them.
    pub fn join(device: &NpuDevice, info: &RootInfo, rank: usize, size: usize) -> Result<Self> {
        let group = Group::from_root_info(device.context(), info, rank as u32, size as u32);
        Self::over(device, group, rank, size)
    }

    /// Joins as `rank` of the job that the rank table at `table` lists.
    pub fn from_rank_table(device: &NpuDevice, table: &Path, rank: usize) -> Result<Self> {
        Self::over(device, Group::from_rank_table(device.context(), table, rank as u32), rank, rank + 1)
    }

    fn over(
        device: &NpuDevice,
        group: std::result::Result<Group, acl::Error>,
        rank: usize,
        size: usize,
    ) -> Result<Self> {
        let named = |error| Error::below(rank, size, "joining a communicator", error);
        let group = group.map_err(named)?;
        let (rank, size) = (group.rank().map_err(named)? as usize, group.size().map_err(named)? as usize);
        Ok(Self(Arc::new(Inner { group, device: device.clone(), rank, size })))
    }

    pub fn rank(&self) -> usize {
        self.0.rank
    }

    /// Number of ranks.
    pub fn size(&self) -> usize {
        self.0.size
    }

    pub fn device(&self) -> &NpuDevice {
        &self.0.device
    }

    /// A tensor of the same shape with the reduction of every rank's `tensor`, bit for bit the same on all.
    pub fn all_reduce(&self, tensor: &Tensor, reduction: Reduction) -> Result<Tensor> {
        self.start_all_reduce(tensor, reduction)?.wait()
    }

    /// As [`Communicator::all_reduce`], without holding up what is computed before [`Pending::wait`].
    pub fn start_all_reduce(&self, tensor: &Tensor, reduction: Reduction) -> Result<Pending> {
        let call = self.call("all_reduce", tensor)?;
        let (count, shape) = (tensor.elem_count() as u64, tensor.shape().clone());
        call.out_of_place(&shape, |group, send, recv| group.all_reduce(send, recv, count, call.code, reduction.code()))
    }

    /// As [`Communicator::start_all_reduce`], in the memory of `tensor`, which nobody else may hold.
    pub fn start_all_reduce_in_place(&self, tensor: Tensor, reduction: Reduction) -> Result<Pending> {
        let call = self.call("all_reduce", &tensor)?;
        let count = tensor.elem_count() as u64;
        call.in_place(|group, data| group.all_reduce(data, data, count, call.code, reduction.code()))
    }

    /// `root`'s tensor on every rank; the others only say its shape and type with theirs.
    pub fn broadcast(&self, tensor: &Tensor, root: usize) -> Result<Tensor> {
        let call = self.call("broadcast", &tensor.detach().copy()?)?;
        let count = tensor.elem_count() as u64;
        call.in_place(|group, data| group.broadcast(data, count, call.code, root as u32))?.wait()
    }

    /// The tensors of all ranks, joined along their first dimension in the order of the ranks.
    pub fn all_gather(&self, tensor: &Tensor) -> Result<Tensor> {
        self.start_all_gather(tensor)?.wait()
    }

    /// As [`Communicator::all_gather`], without holding up what is computed before [`Pending::wait`].
    pub fn start_all_gather(&self, tensor: &Tensor) -> Result<Pending> {
        let call = self.call("all_gather", tensor)?;
        let mut dims = tensor.dims().to_vec();
        match dims.first_mut() {
            Some(first) => *first *= self.size(),
            None => dims.push(self.size()),
        }
        let count = tensor.elem_count() as u64;
        call.out_of_place(&Shape::from(dims), |group, send, recv| group.all_gather(send, recv, count, call.code))
    }

    /// This rank's share of the reduction of every rank's `tensor`: the first dimension is divided among the ranks.
    pub fn reduce_scatter(&self, tensor: &Tensor, reduction: Reduction) -> Result<Tensor> {
        self.start_reduce_scatter(tensor, reduction)?.wait()
    }

    /// As [`Communicator::reduce_scatter`], without holding up what is computed before [`Pending::wait`].
    pub fn start_reduce_scatter(&self, tensor: &Tensor, reduction: Reduction) -> Result<Pending> {
        let call = self.call("reduce_scatter", tensor)?;
        let mut dims = tensor.dims().to_vec();
        match dims.first_mut() {
            Some(first) if *first % self.size() == 0 => *first /= self.size(),
            _ => crate::bail!("reduce_scatter: {:?} does not divide among {} ranks", tensor.dims(), self.size()),
        }
        let count = dims.iter().product::<usize>() as u64;
        call.out_of_place(&Shape::from(dims), |group, send, recv| {
            group.reduce_scatter(send, recv, count, call.code, reduction.code())
        })
    }

    /// Waits until every rank has come here and its device has done everything that it was given before.
    pub fn barrier(&self) -> Result<()> {
        let marks = self.0.group.barrier().map_err(|error| self.named("barrier", error))?;
        self.0.group.join(marks).map_err(|error| self.named("barrier", error))?;
        self.synchronize()
    }

    /// Waits until this rank's collectives are over. An error says which rank failed, and how.
    pub fn synchronize(&self) -> Result<()> {
        Ok(self.0.group.synchronize().map_err(|error| self.named("a collective", error))?)
    }

    /// An error if the communicator has failed, without waiting for anything. A collective that fails does not stop the
    /// device's operators: a loop asks here whenever it has read a value, before it trusts it.
    pub fn check(&self) -> Result<()> {
        let code = self.0.group.async_error().map_err(|error| self.named("check", error))?;
        if code == HCCL_SUCCESS {
            return Ok(());
        }
        let row = hccl_sys::error::lookup(code);
        let (rank, size) = (self.rank(), self.size());
        let (name, meaning) = row.map_or(("", ""), |row| (row.name, row.meaning));
        let why = format!("HcclGetCommAsyncError answers {code} {name}: {meaning}");
        let advice = row.map_or("", |row| row.advice).to_string();
        Err(Error { rank, size, operation: "check", code: Some(code), why, advice }.into())
    }

    fn named(&self, operation: &'static str, error: acl::Error) -> Error {
        Error::below(self.rank(), self.size(), operation, error)
    }

    /// A collective on `tensor`, which must be on this communicator's device, in row-major order.
    fn call(&self, operation: &'static str, tensor: &Tensor) -> Result<Call<'_>> {
        let same = tensor.device().same_device(&Device::Npu(self.0.device.clone()));
        if !same {
            let wanted = self.0.device.ordinal();
            crate::bail!("{operation}: the tensor is on {:?}, wanted npu {wanted}", tensor.device().location());
        }
        let Some(code) = element_type(tensor.dtype()) else {
            crate::bail!("{operation}: HCCL has no type for {:?}: convert with to_dtype first", tensor.dtype());
        };
        Ok(Call { ranks: self, operation, input: tensor.detach().contiguous()?, code })
    }
}

impl std::fmt::Debug for Communicator {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Communicator(rank {} of {} on {:?})", self.rank(), self.size(), self.0.group.context())
    }
}

/// HCCL's name of an element type.
fn element_type(dtype: DType) -> Option<HcclDataType> {
    Some(match dtype {
        DType::U8 => HCCL_DATA_TYPE_UINT8,
        DType::U32 => HCCL_DATA_TYPE_UINT32,
        DType::I16 => HCCL_DATA_TYPE_INT16,
        DType::I32 => HCCL_DATA_TYPE_INT32,
        DType::I64 => HCCL_DATA_TYPE_INT64,
        DType::BF16 => HCCL_DATA_TYPE_BFP16,
        DType::F16 => HCCL_DATA_TYPE_FP16,
        DType::F32 => HCCL_DATA_TYPE_FP32,
        DType::F64 => HCCL_DATA_TYPE_FP64,
        DType::F8E4M3 => HCCL_DATA_TYPE_FP8E4M3,
        _ => return None,
    })
}

/// A collective that is being put together.
struct Call<'a> {
    ranks: &'a Communicator,
    operation: &'static str,
    input: Tensor,
    code: HcclDataType,
}

impl Call<'_> {
    /// Runs `issue` on the input's elements and those of a new tensor of `shape`.
    fn out_of_place(
        &self,
        shape: &Shape,
        issue: impl FnOnce(&Group, Span, Span) -> std::result::Result<Marks, acl::Error>,
    ) -> Result<Pending> {
        let output =
            Tensor::from_storage(Device::Npu(self.ranks.0.device.clone()).alloc(shape, self.input.dtype())?, shape);
        let (from, to) = (self.input.storage(), output.storage());
        let marks = issue(&self.ranks.0.group, span(&from, &self.input)?, span(&to, &output)?);
        let marks = marks.map_err(|error| self.ranks.named(self.operation, error))?;
        drop((from, to));
        Ok(self.pending(marks, output))
    }

    /// Runs `issue` on the input's elements, which it changes; nobody else may hold them.
    fn in_place(&self, issue: impl FnOnce(&Group, Span) -> std::result::Result<Marks, acl::Error>) -> Result<Pending> {
        let storage = self.input.storage();
        let marks = issue(&self.ranks.0.group, span(&storage, &self.input)?);
        let marks = marks.map_err(|error| self.ranks.named(self.operation, error))?;
        drop(storage);
        Ok(self.pending(marks, self.input.clone()))
    }

    fn pending(&self, marks: Marks, output: Tensor) -> Pending {
        let (ranks, operation) = (self.ranks.clone(), self.operation);
        Pending { ranks, operation, marks: Some(marks), input: self.input.clone(), output }
    }
}

/// The elements of a row-major tensor.
fn span<'a>(storage: &'a Storage, tensor: &Tensor) -> Result<Span<'a>> {
    let Storage::Npu(storage) = storage else { crate::bail!("the tensor is not on an npu") };
    let storage: &NpuStorage = storage;
    let width = storage.dtype().size_in_bytes();
    let offset = tensor.layout().start_offset() * width;
    Ok(Span { buffer: storage.buffer(), offset, bytes: tensor.elem_count() * width })
}

/// A collective that was started. The tensors live until the device's operators wait for it, because their memory may
/// be used again by what those compute.
#[must_use = "a collective that nobody waits for holds up the operators when it is dropped"]
pub struct Pending {
    ranks: Communicator,
    operation: &'static str,
    marks: Option<Marks>,
    #[allow(dead_code)]
    input: Tensor,
    output: Tensor,
}

impl Pending {
    /// The result, which operators may use from now on; the host does not wait.
    pub fn wait(mut self) -> Result<Tensor> {
        if let Some(marks) = self.marks.take() {
            let joined = self.ranks.0.group.join(marks);
            joined.map_err(|error| self.ranks.named(self.operation, error))?;
        }
        Ok(self.output.clone())
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        if let Some(marks) = self.marks.take() {
            // A failure here means that the streams are broken, which the next call on either will say.
            let _ = self.ranks.0.group.join(marks);
        }
    }
}
