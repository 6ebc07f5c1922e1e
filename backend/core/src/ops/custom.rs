//! candle's custom operators, which bring their own code for CPU and CUDA storage.

use crate::autograd::{Gradient, record};
use crate::{
    CustomOp1, CustomOp2, CustomOp3, Device, InplaceOp1, InplaceOp2, InplaceOp3, Result, Shape, Storage, Tensor, bail,
};
use std::sync::Arc;

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
    pub fn apply_op1_no_bwd<C: CustomOp1 + ?Sized>(&self, op: &C) -> Result<Self> {
        match &*self.storage() {
            Storage::Cpu(s) => wrap(op.cpu_fwd(s, self.layout()), Storage::Cpu),
            Storage::Cuda(s) => wrap(op.cuda_fwd(s, self.layout()), Storage::Cuda),
            Storage::Npu(_) => refuse(op.name(), self.device()),
        }
    }

    /// Runs a custom operator of two operands.
    pub fn apply_op2_no_bwd<C: CustomOp2 + ?Sized>(&self, rhs: &Self, op: &C) -> Result<Self> {
        let (a, b) = (self.storage(), rhs.storage());
        match (&*a, &*b) {
            (Storage::Cpu(a), Storage::Cpu(b)) => wrap(op.cpu_fwd(a, self.layout(), b, rhs.layout()), Storage::Cpu),
            (Storage::Cuda(a), Storage::Cuda(b)) => wrap(op.cuda_fwd(a, self.layout(), b, rhs.layout()), Storage::Cuda),
            _ => refuse(op.name(), self.device()),
        }
    }

    /// Runs a custom operator of three operands.
    pub fn apply_op3_no_bwd<C: CustomOp3 + ?Sized>(&self, t2: &Self, t3: &Self, op: &C) -> Result<Self> {
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

    /// As [`Tensor::apply_op1_no_bwd`], with the gradient that the operator brings.
    pub fn apply_op1<C: 'static + CustomOp1 + Send + Sync>(&self, op: C) -> Result<Self> {
        self.apply_op1_arc(Arc::new(Box::new(op)))
    }

    /// As [`Tensor::apply_op1`].
    pub fn apply_op1_arc(&self, op: Arc<Box<dyn CustomOp1 + Send + Sync>>) -> Result<Self> {
        let result = self.apply_op1_no_bwd(&**op)?;
        Ok(record(result, &Custom(op), [self]))
    }

    /// As [`Tensor::apply_op2_no_bwd`], with the gradients that the operator brings.
    pub fn apply_op2<C: 'static + CustomOp2 + Send + Sync>(&self, rhs: &Self, op: C) -> Result<Self> {
        self.apply_op2_arc(rhs, Arc::new(Box::new(op)))
    }

    /// As [`Tensor::apply_op2`].
    pub fn apply_op2_arc(&self, rhs: &Self, op: Arc<Box<dyn CustomOp2 + Send + Sync>>) -> Result<Self> {
        let result = self.apply_op2_no_bwd(rhs, &**op)?;
        Ok(record(result, &Custom(op), [self, rhs]))
    }

    /// As [`Tensor::apply_op3_no_bwd`], with the gradients that the operator brings.
    pub fn apply_op3<C: 'static + CustomOp3 + Send + Sync>(&self, t2: &Self, t3: &Self, op: C) -> Result<Self> {
        self.apply_op3_arc(t2, t3, Arc::new(Box::new(op)))
    }

    /// As [`Tensor::apply_op3`].
    pub fn apply_op3_arc(&self, t2: &Self, t3: &Self, op: Arc<Box<dyn CustomOp3 + Send + Sync>>) -> Result<Self> {
        let result = self.apply_op3_no_bwd(t2, t3, &**op)?;
        Ok(record(result, &Custom(op), [self, t2, t3]))
    }

    /// Runs a custom operator that changes this tensor's elements.
    pub fn inplace_op1<C: InplaceOp1>(&self, op: &C) -> Result<()> {
        match &mut *self.storage_mut() {
            Storage::Cpu(s) => op.cpu_fwd(s, self.layout()),
            Storage::Cuda(s) => op.cuda_fwd(s, self.layout()),
            Storage::Npu(_) => refuse(op.name(), self.device()).map(drop),
        }
    }

    /// Runs a custom operator that changes this tensor's elements by those of another, in other storage.
    pub fn inplace_op2<C: InplaceOp2>(&self, rhs: &Self, op: &C) -> Result<()> {
        self.apart(&[rhs], op.name())?;
        match (&mut *self.storage_mut(), &*rhs.storage()) {
            (Storage::Cpu(a), Storage::Cpu(b)) => op.cpu_fwd(a, self.layout(), b, rhs.layout()),
            (Storage::Cuda(a), Storage::Cuda(b)) => op.cuda_fwd(a, self.layout(), b, rhs.layout()),
            _ => refuse(op.name(), self.device()).map(drop),
        }
    }

    /// Runs a custom operator that changes this tensor's elements by those of two others, in other storages.
    pub fn inplace_op3<C: InplaceOp3>(&self, t2: &Self, t3: &Self, op: &C) -> Result<()> {
        self.apart(&[t2, t3], op.name())?;
        let (la, lb, lc) = (self.layout(), t2.layout(), t3.layout());
        match (&mut *self.storage_mut(), &*t2.storage(), &*t3.storage()) {
            (Storage::Cpu(a), Storage::Cpu(b), Storage::Cpu(c)) => op.cpu_fwd(a, la, b, lb, c, lc),
            (Storage::Cuda(a), Storage::Cuda(b), Storage::Cuda(c)) => op.cuda_fwd(a, la, b, lb, c, lc),
            _ => refuse(op.name(), self.device()).map(drop),
        }
    }

    /// Refuses operands that share the storage that is written.
    fn apart(&self, others: &[&Self], name: &'static str) -> Result<()> {
        if others.iter().any(|other| self.same_storage(other)) {
            bail!("{name} writes in place and an operand shares the storage that it writes")
        }
        Ok(())
    }
}

/// A custom operator that is kept for its gradient, which it computes on candle's tensors: operands, result and gradients
/// are copied there and back.
struct Custom<C: ?Sized>(Arc<Box<C>>);

impl<C: ?Sized> Clone for Custom<C> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

fn back(grad: Option<candle_core::Tensor>) -> Result<Option<Tensor>> {
    grad.as_ref().map(Tensor::from_candle).transpose()
}

impl Gradient<1> for Custom<dyn CustomOp1 + Send + Sync> {
    fn name(&self) -> &'static str {
        self.0.name()
    }

    fn backward(&self, [x]: [&Tensor; 1], y: &Tensor, grad: &Tensor) -> Result<[Option<Tensor>; 1]> {
        Ok([back(self.0.bwd(&x.to_candle()?, &y.to_candle()?, &grad.to_candle()?)?)?])
    }
}

impl Gradient<2> for Custom<dyn CustomOp2 + Send + Sync> {
    fn name(&self) -> &'static str {
        self.0.name()
    }

    fn backward(&self, [a, b]: [&Tensor; 2], y: &Tensor, grad: &Tensor) -> Result<[Option<Tensor>; 2]> {
        let (a, b) = self.0.bwd(&a.to_candle()?, &b.to_candle()?, &y.to_candle()?, &grad.to_candle()?)?;
        Ok([back(a)?, back(b)?])
    }
}

impl Gradient<3> for Custom<dyn CustomOp3 + Send + Sync> {
    fn name(&self) -> &'static str {
        self.0.name()
    }

    fn backward(&self, operands: [&Tensor; 3], y: &Tensor, grad: &Tensor) -> Result<[Option<Tensor>; 3]> {
        let [a, b, c] = operands.map(Tensor::to_candle);
        let (a, b, c) = self.0.bwd(&a?, &b?, &c?, &y.to_candle()?, &grad.to_candle()?)?;
        Ok([back(a)?, back(b)?, back(c)?])
    }
}
