//! A rank's end over HCCL: NPUs.

use super::communicator::{Collective, End, Join, Reduction};
use super::error::Error;
use crate::acl::{self, Group, Marks, RootInfo, Span};
use crate::{DType, Device, NpuDevice, Result, Storage, Tensor, bail};
use hccl_sys::*;
use std::path::Path;
use std::sync::Arc;

pub(super) struct Hccl {
    group: Group,
    device: Device,
    rank: usize,
    size: usize,
}

impl Hccl {
    pub(super) fn join(device: &NpuDevice, info: &RootInfo, rank: usize, size: usize) -> Result<Self> {
        Self::over(device, Group::from_root_info(device.context(), info, rank as u32, size as u32), rank, size)
    }

    pub(super) fn from_rank_table(device: &NpuDevice, table: &Path, rank: usize) -> Result<Self> {
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
        Ok(Self { group, device: Device::Npu(device.clone()), rank, size })
    }

    fn named(&self, operation: &'static str, error: acl::Error) -> Error {
        Error::below(self.rank, self.size, operation, error)
    }
}

impl End for Hccl {
    fn device(&self) -> &Device {
        &self.device
    }

    fn place(&self) -> (usize, usize) {
        (self.rank, self.size)
    }

    fn issue(self: Arc<Self>, what: Collective, from: &Tensor, to: &Tensor) -> Result<Join> {
        let operation = what.name();
        let Some(code) = element_type(from.dtype()) else {
            bail!("{operation}: HCCL has no type for {:?}: convert with to_dtype first", from.dtype());
        };
        let (read, written) = (from.storage(), to.storage());
        let (send, recv) = (span(&read, from)?, span(&written, to)?);
        let marks = start(&self.group, what, (send, from.elem_count()), (recv, to.elem_count()), code);
        let marks = marks.map_err(|error| self.named(operation, error))?;
        drop((read, written));
        Ok(Box::new(move || self.group.join(marks).map_err(|error| self.named(operation, error))))
    }

    fn barrier(&self) -> Result<()> {
        let marks = self.group.barrier().and_then(|marks| self.group.join(marks));
        marks.map_err(|error| self.named("barrier", error))?;
        Ok(self.synchronize()?)
    }

    fn synchronize(&self) -> std::result::Result<(), Error> {
        self.group.synchronize().map_err(|error| self.named("a collective", error))
    }

    fn check(&self) -> std::result::Result<(), Error> {
        let code = self.group.async_error().map_err(|error| self.named("check", error))?;
        if code == HCCL_SUCCESS {
            return Ok(());
        }
        let row = hccl_sys::error::lookup(code);
        let (name, meaning) = row.map_or(("", ""), |row| (row.name, row.meaning));
        let why = format!("HcclGetCommAsyncError answers {code} {name}: {meaning}");
        let advice = row.map_or("", |row| row.advice).to_string();
        Err(Error { rank: self.rank, size: self.size, operation: "check", code: Some(code), why, advice })
    }
}

/// Gives the stream of collectives one call; HCCL's counts are those of the smaller operand.
fn start(
    group: &Group,
    what: Collective,
    (send, given): (Span<'_>, usize),
    (recv, got): (Span<'_>, usize),
    code: HcclDataType,
) -> std::result::Result<Marks, acl::Error> {
    let (given, got) = (given as u64, got as u64);
    match what {
        Collective::AllReduce(reduction) => group.all_reduce(send, recv, given, code, reduce_op(reduction)),
        Collective::Broadcast(root) => group.broadcast(recv, got, code, root as u32),
        Collective::AllGather => group.all_gather(send, recv, given, code),
        Collective::ReduceScatter(reduction) => group.reduce_scatter(send, recv, got, code, reduce_op(reduction)),
    }
}

fn reduce_op(reduction: Reduction) -> HcclReduceOp {
    match reduction {
        Reduction::Sum => HCCL_REDUCE_SUM,
        Reduction::Prod => HCCL_REDUCE_PROD,
        Reduction::Max => HCCL_REDUCE_MAX,
        Reduction::Min => HCCL_REDUCE_MIN,
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

/// The elements of a row-major tensor.
fn span<'a>(storage: &'a Storage, tensor: &Tensor) -> Result<Span<'a>> {
    let Storage::Npu(storage) = storage else { bail!("the tensor is not on an npu") };
    let width = tensor.dtype().size_in_bytes();
    let offset = tensor.layout().start_offset() * width;
    Ok(Span { buffer: storage.buffer(), offset, bytes: tensor.elem_count() * width })
}
