//! candle's custom operators, which bring their own code for CPU and CUDA storage.

use crate::{CustomOp1, CustomOp2, CustomOp3, Device, Result, Shape, Storage, Tensor, bail};

/// The tensor of what a custom operator returned.
fn wrap<S>(made: Result<(S, Shape)>, on: impl Fn(S) -> Storage) -> Result<Tensor> {
    let (storage, shape) = made?;
    Ok(Tensor::from_storage(on(storage), shape))
}

fn refuse(name: &'static str, device: &Device) -> Result<Tensor> {
    bail!(
        "custom operator {name} has code for cpu and cuda storage of one device, and its operands are on {:?}",
        device.location()
    )
}

impl Tensor {
    /// Runs a custom operator of one operand.
    pub fn apply_op1_no_bwd<C: CustomOp1>(&self, op: &C) -> Result<Self> {
        match &*self.storage() {
            Storage::Cpu(s) => wrap(op.cpu_fwd(s, self.layout()), Storage::Cpu),
            Storage::Cuda(s) => wrap(op.cuda_fwd(s, self.layout()), Storage::Cuda),
            Storage::Npu(_) => refuse(op.name(), self.device()),
        }
    }

    /// Runs a custom operator of two operands.
    pub fn apply_op2_no_bwd<C: CustomOp2>(&self, rhs: &Self, op: &C) -> Result<Self> {
        let (a, b) = (self.storage(), rhs.storage());
        match (&*a, &*b) {
            (Storage::Cpu(a), Storage::Cpu(b)) => wrap(op.cpu_fwd(a, self.layout(), b, rhs.layout()), Storage::Cpu),
            (Storage::Cuda(a), Storage::Cuda(b)) => wrap(op.cuda_fwd(a, self.layout(), b, rhs.layout()), Storage::Cuda),
            _ => refuse(op.name(), self.device()),
        }
    }

    /// Runs a custom operator of three operands.
    pub fn apply_op3_no_bwd<C: CustomOp3>(&self, t2: &Self, t3: &Self, op: &C) -> Result<Self> {
        let (a, b, c) = (self.storage(), t2.storage(), t3.storage());
        let (la, lb, lc) = (self.layout(), t2.layout(), t3.layout());
        match (&*a, &*b, &*c) {
            (Storage::Cpu(a), Storage::Cpu(b), Storage::Cpu(c)) => wrap(op.cpu_fwd(a, la, b, lb, c, lc), Storage::Cpu),
            (Storage::Cuda(a), Storage::Cuda(b), Storage::Cuda(c)) => {
                wrap(op.cuda_fwd(a, la, b, lb, c, lc), Storage::Cuda)
            }
            _ => refuse(op.name(), self.device()),
        }
    }

    /// As [`Tensor::apply_op1_no_bwd`]; the gradient of the operator is not used by this release.
    pub fn apply_op1<C: 'static + CustomOp1 + Send + Sync>(&self, op: C) -> Result<Self> {
        self.apply_op1_no_bwd(&op)
    }

    /// As [`Tensor::apply_op2_no_bwd`]; the gradient of the operator is not used by this release.
    pub fn apply_op2<C: 'static + CustomOp2 + Send + Sync>(&self, rhs: &Self, op: C) -> Result<Self> {
        self.apply_op2_no_bwd(rhs, &op)
    }

    /// As [`Tensor::apply_op3_no_bwd`]; the gradient of the operator is not used by this release.
    pub fn apply_op3<C: 'static + CustomOp3 + Send + Sync>(&self, t2: &Self, t3: &Self, op: C) -> Result<Self> {
        self.apply_op3_no_bwd(t2, t3, &op)
    }
}
