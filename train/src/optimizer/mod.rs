//! AdamW over a list of slots. A slot is a parameter, a piece of one or a piece of many: nothing here knows a model.

mod dynamic;
mod moments;
#[cfg(test)]
mod tests;

use anyhow::{Context, Result, ensure};
use candle_ascend::ops::{AdamWStep, adamw_step};
use candle_ascend::safetensors::MmapedSafetensors;
use candle_ascend::{DType, Device, Tensor, Var, no_grad};
use dynamic::Tables;
use moments::Moments;
use npu_models::Parameter;
use serde::{Deserialize, Serialize};

/// Where the number of steps that were made is kept among the state's tensors.
const STEP: &str = "step";
/// What the state of a slot calls its master.
pub const MASTER: &str = "master";

/// What AdamW is told, with transformers' defaults.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct AdamWOptions {
    pub beta1: f64,
    pub beta2: f64,
    pub eps: f64,
    pub weight_decay: f64,
    /// Moments in eight bits an element instead of F32.
    pub eight_bits: bool,
}

impl Default for AdamWOptions {
    fn default() -> Self {
        Self { beta1: 0.9, beta2: 0.999, eps: 1e-8, weight_decay: 0., eight_bits: false }
    }
}

impl AdamWOptions {
    /// An error that names what is out of its range: such a step would make numbers of the weights that are none.
    pub fn check(&self) -> Result<()> {
        for (name, beta) in [("adam-beta1", self.beta1), ("adam-beta2", self.beta2)] {
            ensure!((0.0..1.0).contains(&beta), "--{name} {beta}: wanted a number from 0 to below 1");
        }
        ensure!(self.eps.is_finite() && self.eps > 0., "--adam-epsilon {}: wanted a number above 0", self.eps);
        let decay = self.weight_decay;
        ensure!(decay.is_finite() && decay >= 0., "--weight-decay {decay}: wanted a number from 0 on");
        Ok(())
    }
}

/// What is optimised as one: of any shape, F32.
#[derive(Clone, Debug)]
pub struct Slot {
    /// Under which its state is kept.
    pub name: String,
    /// What the steps are added to.
    pub master: Var,
    /// What takes the rounded master after each step; none where the master is what the model computes with, or where somebody
    /// else hands it on.
    pub target: Option<Var>,
    /// Whether weight decay pulls at it.
    pub decays: bool,
}

impl Slot {
    /// The slot of a whole parameter: an F32 one is its own master.
    pub fn of(parameter: &Parameter) -> Result<Self> {
        let var = &parameter.var;
        let (master, target) = match var.dtype() {
            DType::F32 => (var.clone(), None),
            _ => (Var::from_tensor(&var.as_detached_tensor().to_dtype(DType::F32)?)?, Some(var.clone())),
        };
        Ok(Self { name: parameter.parts[0].0.clone(), master, target, decays: decays(parameter) })
    }
}

/// Whether weight decay pulls at a parameter: norms and biases, which are vectors, are left alone.
pub fn decays(parameter: &Parameter) -> bool {
    parameter.var.rank() > 1
}

/// Adam with decoupled weight decay (Loshchilov and Hutter, arXiv 1711.05101) in F32.
pub struct AdamW {
    options: AdamWOptions,
    slots: Vec<(Slot, Moments)>,
    tables: Option<Tables>,
    steps: usize,
}

impl AdamW {
    /// Over `slots`, with moments of zero.
    pub fn new(slots: Vec<Slot>, options: AdamWOptions) -> Result<Self> {
        let tables = match slots.first().filter(|_| options.eight_bits) {
            Some(slot) => Some(Tables::new(slot.master.device())?),
            None => None,
        };
        let with_moments = |slot: Slot| -> Result<(Slot, Moments)> {
            ensure!(slot.master.dtype() == DType::F32, "the master of {} is {:?}", slot.name, slot.master.dtype());
            let moments = Moments::zeros(&slot.master, options.eight_bits)?;
            Ok((slot, moments))
        };
        let slots = slots.into_iter().map(with_moments).collect::<Result<_>>()?;
        Ok(Self { options, slots, tables, steps: 0 })
    }

    /// One step by `grads` times `grad_scale`, F32 and in the order of the slots, with the learning rate `lr`.
    pub fn step(&mut self, grads: &[Tensor], grad_scale: f64, lr: f64) -> Result<()> {
        ensure!(grads.len() == self.slots.len(), "{} gradients for {} slots", grads.len(), self.slots.len());
        self.steps += 1;
        let AdamWOptions { beta1, beta2, eps, .. } = self.options;
        for ((slot, moments), grad) in self.slots.iter_mut().zip(grads) {
            let weight_decay = if slot.decays { self.options.weight_decay } else { 0. };
            let at = AdamWStep { step: self.steps, lr, beta1, beta2, eps, weight_decay, grad_scale };
            let update = |first: &Var, second: &Var| Ok(adamw_step(&slot.master, first, second, grad, at)?);
            no_grad(|| moments.update(self.tables.as_ref(), update))
                .with_context(|| format!("updating {}", slot.name))?;
            if let Some(target) = &slot.target {
                target.set(&slot.master.as_detached_tensor().to_dtype(target.dtype())?)?;
            }
        }
        Ok(())
    }

    pub fn slots(&self) -> impl ExactSizeIterator<Item = &Slot> {
        self.slots.iter().map(|(slot, _)| slot)
    }

    /// Bytes of the moments, and of the masters that are not parameters.
    pub fn state_bytes(&self) -> usize {
        let master = |slot: &Slot| if slot.target.is_some() { slot.master.elem_count() * size_of::<f32>() } else { 0 };
        self.slots.iter().map(|(slot, moments)| master(slot) + moments.bytes()).sum()
    }

    /// The number of steps that were made, as a checkpoint has it.
    pub fn steps(&self) -> Result<(String, Tensor)> {
        Ok((STEP.to_owned(), Tensor::new(&[self.steps as i64], &Device::Cpu)?))
    }

    /// The state of each slot: moments under PyTorch's names, and the master where it is not the parameter.
    pub fn state(&self) -> impl ExactSizeIterator<Item = Vec<(String, Tensor)>> {
        self.slots.iter().map(|(slot, moments)| {
            let master = slot.target.is_some().then(|| (MASTER.to_owned(), slot.master.as_detached_tensor()));
            master.into_iter().chain(moments.tensors()).collect()
        })
    }

    /// Takes back what [`AdamW::steps`] and [`AdamW::state`] of equal slots gave: the steps from `file`, and what `get` has of
    /// the state of a slot, by its number and the tensor's name, for the tensor to be replaced.
    pub fn restore(
        &mut self,
        file: &MmapedSafetensors,
        get: impl Fn(usize, &str, &Tensor) -> Result<Tensor>,
    ) -> Result<()> {
        self.steps = file.load(STEP, &Device::Cpu)?.to_vec1::<i64>()?[0] as usize;
        for (number, (slot, moments)) in self.slots.iter_mut().enumerate() {
            if let Some(target) = &slot.target {
                slot.master.set(&get(number, MASTER, &slot.master)?)?;
                target.set(&slot.master.as_detached_tensor().to_dtype(target.dtype())?)?;
            }
            moments.restore(|what, like| get(number, what, like))?;
        }
        Ok(())
    }
}
