//! One call of an operator: the checks of its first phase, the executor between the phases, and the launch.

use super::tensor::{Tensor, TensorMeta};
use crate::dtype::DType;
use crate::runtime::cost::Cost;
use crate::runtime::memory::{self, Access, Site};
use crate::status::{Result, Status};
use crate::{ensure, fail};
use acl_sys::error::*;
use std::sync::Arc;

/// What an operator does when its stream reaches it.
pub type Kernel = Box<dyn Fn(&Launch) -> Result<()> + Send + Sync>;

/// Which way an operator uses a tensor argument.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    Input,
    Output,
    InOut,
}

/// A tensor argument as the executor keeps it: its address can be replaced between launches.
#[derive(Clone, Debug)]
pub struct Slot {
    pub name: &'static str,
    pub direction: Direction,
    pub meta: Arc<TensorMeta>,
    pub address: u64,
    /// Elements that the operator reads or writes, where that is not the whole view.
    pub touched: Option<usize>,
}

/// The first phase of one operator call: collects arguments and checks them against the operator's page.
#[derive(Debug)]
pub struct Call {
    /// Name with the prefix: `aclnnAdd`.
    pub op: &'static str,
    pub(super) slots: Vec<Slot>,
    /// Bytes of workspace that the second phase must be given.
    pub workspace: u64,
    /// Operations that the operator noted.
    work: Cost,
}

impl Call {
    pub(super) fn new(op: &'static str) -> Self {
        Self { op, slots: Vec::new(), workspace: 0, work: Cost::default() }
    }

    /// Asks for `bytes` of workspace, rounded up to 512 as CANN does.
    pub fn needs_workspace(&mut self, bytes: usize) {
        self.workspace = bytes.next_multiple_of(512) as u64;
    }

    /// For the cost model: notes operations. An operator that notes none does one on each element of its largest operand.
    pub fn works(&mut self, work: Cost) {
        self.work = self.work.plus(work);
    }

    /// For the cost model: the operator reads or writes `elements` of `tensor`, not the whole of it.
    pub fn touches(&mut self, tensor: &Tensor, elements: usize) {
        self.slots[tensor.slot].touched = Some(elements);
    }

    /// The operations noted, or the usual ones, and the bytes of the operands: each input is read once, each output written once.
    fn cost(&self) -> Cost {
        let bytes = |slot: &Slot| {
            let elements = slot.touched.unwrap_or_else(|| slot.meta.distinct());
            let ways = if slot.direction == Direction::InOut { 2 } else { 1 };
            (ways * elements * slot.meta.dtype.size()) as u64
        };
        let work = if self.work == Cost::default() { self.usual_work() } else { self.work };
        work.plus(Cost { bytes: self.slots.iter().map(bytes).sum(), ..Cost::default() })
    }

    fn usual_work(&self) -> Cost {
        let elements = |slot: &Slot| slot.touched.unwrap_or_else(|| slot.meta.count());
        let largest = self.slots.iter().max_by_key(|slot| elements(slot));
        largest.map_or(Cost::default(), |slot| Cost::vector(elements(slot), 1, slot.meta.dtype))
    }

    /// A parameter error (161002) that names the operator.
    pub fn invalid<T>(&self, text: impl AsRef<str>) -> Result<T> {
        Err(Status::new(ACLNN_ERR_PARAM_INVALID, format!("{}: {}", self.op, text.as_ref())))
    }

    /// Refuses a tensor whose type is not one of `allowed`.
    pub fn dtype_in(&self, tensor: &Tensor, allowed: &[DType]) -> Result<()> {
        let names = || allowed.iter().map(DType::to_string).collect::<Vec<_>>().join(", ");
        ensure!(
            allowed.contains(&tensor.dtype),
            ACLNN_ERR_PARAM_INVALID,
            "{}: {} is {}, wanted one of {}",
            self.op,
            tensor.name,
            tensor.dtype,
            names()
        );
        Ok(())
    }

    /// Refuses `tensor` unless it has the type of `like`.
    pub fn same_dtype(&self, tensor: &Tensor, like: &Tensor) -> Result<()> {
        ensure!(
            tensor.dtype == like.dtype,
            ACLNN_ERR_PARAM_INVALID,
            "{}: {} is {}, wanted {} as {}",
            self.op,
            tensor.name,
            tensor.dtype,
            like.dtype,
            like.name
        );
        Ok(())
    }

    /// Refuses `tensor` unless its shape is `shape`.
    pub fn shape_is(&self, tensor: &Tensor, shape: &[usize]) -> Result<()> {
        ensure!(
            tensor.shape == shape,
            ACLNN_ERR_PARAM_INVALID,
            "{}: {} has shape {:?}, wanted {shape:?}",
            self.op,
            tensor.name,
            tensor.shape
        );
        Ok(())
    }

    /// Refuses a tensor of fewer or more dimensions than the range allows.
    pub fn rank_in(&self, tensor: &Tensor, range: std::ops::RangeInclusive<usize>) -> Result<()> {
        ensure!(
            range.contains(&tensor.rank()),
            ACLNN_ERR_PARAM_INVALID,
            "{}: {} has {} dimensions, wanted {} to {}",
            self.op,
            tensor.name,
            tensor.rank(),
            range.start(),
            range.end()
        );
        Ok(())
    }

    /// Shape that `a` and `b` broadcast to, by the rules of NumPy.
    pub fn broadcast(&self, a: &[usize], b: &[usize]) -> Result<Vec<usize>> {
        let rank = a.len().max(b.len());
        let size = |shape: &[usize], i: usize| (i + shape.len()).checked_sub(rank).map_or(1, |j| shape[j]);
        (0..rank)
            .map(|i| match (size(a, i), size(b, i)) {
                (x, y) if x == y => Ok(x),
                (1, y) => Ok(y),
                (x, 1) => Ok(x),
                _ => self.invalid(format!("shapes {a:?} and {b:?} do not broadcast")),
            })
            .collect()
    }
}

/// One launch: the addresses that hold now, and where the launch stands in its stream.
#[derive(Debug)]
pub struct Launch {
    pub op: &'static str,
    pub addresses: Vec<u64>,
    /// Device address and size of the workspace.
    pub workspace: (u64, u64),
    /// Stream, position and call site, for the race and lifetime checks.
    pub site: Site,
}

impl Launch {
    pub fn address(&self, slot: usize) -> u64 {
        self.addresses[slot]
    }

    /// Host view of `[address, address + length)` of device memory, for the simulator's own loops.
    pub fn resolve(&self, address: u64, length: usize, access: Access, name: &str) -> Result<*mut u8> {
        memory::resolve(address, length, access, &self.site)
            .map_err(|status| Status::new(status.code, format!("{}: {name}: {}", self.op, status.message)))
    }
}

/// What the first phase leaves for the second.
pub struct Executor {
    pub op: &'static str,
    pub slots: Vec<Slot>,
    pub workspace: u64,
    pub cost: Cost,
    pub kernel: Arc<Kernel>,
    pub repeatable: bool,
    pub launched: bool,
}

impl Executor {
    /// Finishes the first phase.
    pub fn new(call: Call, kernel: Kernel) -> Self {
        let cost = call.cost();
        let Call { op, slots, workspace, .. } = call;
        Self { op, slots, workspace, cost, kernel: Arc::new(kernel), repeatable: false, launched: false }
    }

    /// Replaces the address of the `index`-th input or output (in declaration order).
    pub fn readdress(&mut self, output: bool, index: usize, address: u64) -> Result<()> {
        let op = self.op;
        let wanted = |slot: &&mut Slot| (slot.direction == Direction::Output) == output;
        match self.slots.iter_mut().filter(wanted).nth(index) {
            Some(slot) => slot.address = address,
            None => fail!(ACLNN_ERR_PARAM_INVALID, "{op} has no {} {index}", if output { "output" } else { "input" }),
        }
        Ok(())
    }

    /// Replaces the address of the `relative`-th tensor of the list that is the `index`-th parameter among the inputs
    /// (`Some(false)`), the outputs (`Some(true)`) or all tensor parameters (`None`).
    pub fn readdress_in_list(
        &mut self,
        output: Option<bool>,
        index: usize,
        relative: usize,
        address: u64,
    ) -> Result<()> {
        let op = self.op;
        let mut parameters: Vec<&'static str> = Vec::new();
        let wanted = |slot: &Slot| output.is_none_or(|output| (slot.direction == Direction::Output) == output);
        for slot in self.slots.iter().filter(|slot| wanted(slot)) {
            if parameters.last() != Some(&slot.name) {
                parameters.push(slot.name);
            }
        }
        let Some(&name) = parameters.get(index) else {
            fail!(ACLNN_ERR_PARAM_INVALID, "{op} has no parameter {index}")
        };
        match self.slots.iter_mut().filter(|slot| slot.name == name).nth(relative) {
            Some(slot) => slot.address = address,
            None => fail!(ACLNN_ERR_PARAM_INVALID, "{name} of {op} has no tensor {relative}"),
        }
        Ok(())
    }
}
