//! What the tape does besides computing gradients.

use crate::operands::devices;
use candle_ascend::autograd::{Checkpoint, checkpoint};
use candle_ascend::{CpuStorage, CustomOp1, DType, Device, Layout, Result, Shape, Tensor, Var, no_grad};

fn variable(values: &[f32], device: &Device) -> Var {
    Var::from_slice(values, values.len(), device).expect("variable")
}

/// A simulated NPU that no other test of this suite computes on.
fn own_card() -> Result<Device> {
    devices();
    Device::new_sim("", 1)
}

fn values(tensor: &Tensor) -> Vec<f32> {
    tensor.to_device(&Device::Cpu).and_then(|t| t.flatten_all()?.to_vec1()).expect("values")
}

#[test]
fn tracking_follows_variables_and_stops_where_told() -> Result<()> {
    let x = variable(&[1., 2.], &Device::Cpu);
    let constant = Tensor::new(&[3f32, 4.], &Device::Cpu)?;
    let y = (x.as_tensor() * &constant)?;
    assert!(x.is_variable() && x.track_op() && !constant.track_op());
    assert!(y.track_op() && !y.is_variable() && y.narrow(0, 0, 1)?.track_op());
    assert!(!y.detach().track_op() && !x.as_detached_tensor().track_op());
    assert!(!no_grad(|| x.sqr())?.track_op());
    assert!(!y.gt(&constant)?.track_op() && !y.to_dtype(DType::U32)?.track_op());
    // A detached value has the elements of the variable, not a copy.
    assert!(y.detach().same_storage(&y));
    let grads = (y.detach() * x.as_tensor())?.sum_all()?.backward()?;
    assert_eq!(values(grads.get(&x).expect("gradient")), [3., 8.]);
    assert!(grads.get(&constant).is_none() && grads.get_ids().count() == 1);
    Ok(())
}

#[test]
fn recording_comes_back_after_a_panic() {
    let caught = std::panic::catch_unwind(|| no_grad(|| panic!("inside")));
    assert!(caught.is_err() && candle_ascend::autograd::is_recording());
}

#[test]
fn a_variable_set_anew_gives_new_gradients_and_backward_can_be_repeated() -> Result<()> {
    for device in devices() {
        let x = variable(&[1., -2.], &device);
        let y = x.sqr()?.sum_all()?;
        for _ in 0..2 {
            assert_eq!(values(y.backward()?.get(&x).expect("gradient")), [2., -4.]);
        }
        x.set(&Tensor::new(&[5f32, 7.], &device)?)?;
        assert_eq!(values(x.sqr()?.sum_all()?.backward()?.get(&x).expect("gradient")), [10., 14.]);
    }
    Ok(())
}

#[test]
fn stores_add_up() -> Result<()> {
    let (x, z) = (variable(&[1., 2.], &Device::Cpu), variable(&[1.], &Device::Cpu));
    let mut grads = x.sqr()?.sum_all()?.backward()?;
    grads.extend(((x.as_tensor() * 3.)?.sum_all()? + z.sum_all()?)?.backward()?)?;
    assert_eq!(values(grads.get(&x).expect("gradient")), [5., 7.]);
    assert_eq!(values(&grads.remove(&z).expect("gradient")), [1.]);
    assert!(grads.get(&z).is_none() && grads.insert(&z, z.zeros_like()?).is_none());
    assert!(grads.get_id(z.id()).is_some());
    Ok(())
}

/// Recursion over the chain, forth or back or in dropping it, would overflow the stack of a test's thread.
#[test]
fn a_hundred_thousand_operators_in_a_row() -> Result<()> {
    let x = variable(&[1.], &Device::Cpu);
    let mut y = x.as_tensor().clone();
    for _ in 0..100_000 {
        y = (y + 1.)?;
    }
    assert_eq!(values(y.backward()?.get(&x).expect("gradient")), [1.]);
    Ok(())
}

#[test]
fn gradients_come_as_soon_as_they_are_complete() -> Result<()> {
    let weights: Vec<Var> = (1..=3).map(|i| variable(&[i as f32], &Device::Cpu)).collect();
    let mut y = Tensor::new(&[1f32], &Device::Cpu)?;
    for weight in &weights {
        y = (y * weight.as_tensor())?;
    }
    let seed = y.ones_like()?;
    let mut order = Vec::new();
    y.walk_back(seed, &mut |variable, grad| {
        order.push((variable.id(), values(&grad)[0]));
        Ok(())
    })?;
    let wanted = [(weights[2].id(), 2.), (weights[1].id(), 3.), (weights[0].id(), 6.)];
    assert_eq!(order, wanted);
    Ok(())
}

#[test]
fn a_walk_frees_what_nothing_else_holds() -> Result<()> {
    // A card of its own: the other tests' tensors would count among its bytes.
    let device = own_card()?;
    let Device::Npu(npu) = &device else { panic!("not an NPU") };
    // Bytes in use when the gradient has come through sixteen operators.
    let in_use = |consume: bool| -> Result<usize> {
        let x = Var::ones((256, 256), DType::F32, &device)?;
        let mut y = x.as_tensor().clone();
        for _ in 0..16 {
            y = y.tanh()?;
        }
        let seed = y.ones_like()?;
        let kept = if consume { None } else { Some(y.clone()) };
        let mut bytes = 0;
        y.walk_back(seed, &mut |_, _| {
            bytes = npu.memory_info()?.in_use;
            Ok(())
        })?;
        drop(kept);
        Ok(bytes)
    };
    let (kept, freed) = (in_use(false)?, in_use(true)?);
    let one = 256 * 256 * 4;
    assert!(kept >= freed + 15 * one, "{kept} bytes in use after a walk that keeps, {freed} after one that frees");
    Ok(())
}

fn block(inputs: &[Tensor], weight: &Var, bias: &Var) -> Result<Tensor> {
    (inputs[0].broadcast_mul(weight)?.tanh()? + inputs[1].broadcast_add(bias)?.sin()?)? * inputs[0].exp()?
}

#[test]
fn a_checkpointed_block_gives_the_same_gradients() -> Result<()> {
    for device in devices() {
        let x = variable(&[0.3, -0.7, 1.1], &device);
        let (weight, bias) = (variable(&[0.5, 1.5, -0.5], &device), variable(&[0.1], &device));
        let constant = Tensor::new(&[1f32, 2., 3.], &device)?;
        let run = |how: Option<Checkpoint>| -> Result<(Vec<f32>, Vec<Vec<f32>>)> {
            // The first result is what the second block keeps, and its own gradient wants its elements.
            let first = x.exp()?;
            let second = match how {
                None => block(&[first, constant.clone()], &weight, &bias)?,
                Some(how) => {
                    let (weight, bias) = (weight.clone(), bias.clone());
                    checkpoint(how, &[&first, &constant], move |inputs| block(inputs, &weight, &bias))?
                }
            };
            let third = match how {
                None => block(&[second, constant.clone()], &weight, &bias)?,
                Some(how) => {
                    let (weight, bias) = (weight.clone(), bias.clone());
                    checkpoint(how, &[&second, &constant], move |inputs| block(inputs, &weight, &bias))?
                }
            };
            let value = values(&third);
            let grads = third.sum_all()?.into_grads()?;
            let grads = [&x, &weight, &bias].map(|v| values(grads.get(v).expect("gradient")));
            Ok((value, grads.to_vec()))
        };
        let plain = run(None)?;
        for how in [Checkpoint::Keep, Checkpoint::Offload] {
            assert_eq!(run(Some(how))?, plain, "{how:?} on {}", device.kind());
        }
    }
    Ok(())
}

#[test]
fn a_checkpoint_of_constants_is_a_constant() -> Result<()> {
    let x = Tensor::new(&[1f32], &Device::Cpu)?;
    assert!(!checkpoint(Checkpoint::Keep, &[&x], |x| x[0].sqr())?.track_op());
    let v = variable(&[2.], &Device::Cpu);
    let captured = v.clone();
    let y = checkpoint(Checkpoint::Keep, &[&x], move |x| x[0].sqr()? * captured.as_tensor())?;
    assert_eq!(values(y.backward()?.get(&v).expect("gradient")), [1.]);
    Ok(())
}

/// Cubes on the CPU; candle's interface, with its gradient or without.
struct Cube {
    differentiable: bool,
}

impl CustomOp1 for Cube {
    fn name(&self) -> &'static str {
        "cube"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let elements = &storage.as_slice::<f32>()?[layout.start_offset()..][..layout.shape().elem_count()];
        Ok((CpuStorage::F32(elements.iter().map(|x| x * x * x).collect()), layout.shape().clone()))
    }

    fn bwd(
        &self,
        x: &candle_core::Tensor,
        _: &candle_core::Tensor,
        grad: &candle_core::Tensor,
    ) -> Result<Option<candle_core::Tensor>> {
        match self.differentiable {
            true => Ok(Some((grad * (x.sqr()? * 3.)?)?)),
            false => Err(candle_ascend::Error::BackwardNotSupported { op: "cube" }),
        }
    }
}

#[test]
fn a_custom_operator_brings_its_gradient() -> Result<()> {
    let x = variable(&[2., -3.], &Device::Cpu);
    let y = x.apply_op1(Cube { differentiable: true })?;
    assert_eq!(values(&y), [8., -27.]);
    assert_eq!(values(y.backward()?.get(&x).expect("gradient")), [12., 27.]);
    assert!(!x.apply_op1_no_bwd(&Cube { differentiable: true })?.track_op());
    let error = x.apply_op1(Cube { differentiable: false })?.backward().expect_err("no gradient").to_string();
    assert!(error.contains("cube"), "{error}");
    Ok(())
}

#[test]
fn logits_are_never_held_for_more_than_a_chunk() -> Result<()> {
    use candle_ascend::ops::{CrossEntropy, linear_cross_entropy, linear_loss};
    // A card of its own: the other tests' tensors would count among its bytes.
    let device = own_card()?;
    let Device::Npu(npu) = &device else { panic!("not an NPU") };
    let (width, vocabulary, chunk) = (8, 4096, 32);
    let peak = |rows: usize, any: bool| -> Result<usize> {
        let hidden = Var::ones((rows, width), DType::F32, &device)?;
        let head = Var::ones((vocabulary, width), DType::F32, &device)?;
        let targets = Tensor::zeros(rows, DType::I64, &device)?;
        let before = npu.memory_info()?.in_use;
        npu.context().reset_peak_memory();
        let how = CrossEntropy { chunk, ..CrossEntropy::default() };
        let loss = match any {
            false => linear_cross_entropy(&hidden, &head, &targets, how)?,
            true => linear_loss(&hidden, &head, chunk, &mut |logits, _| logits.sqr()?.sum_all())?,
        };
        let grads = loss.into_grads()?;
        assert!(grads.get(&hidden).is_some() && grads.get(&head).is_some());
        Ok(npu.memory_info()?.peak - before)
    };
    for any in [false, true] {
        let (few, many) = (peak(64, any)?, peak(512, any)?);
        // Eight times the rows take a few of their hidden states more, and none of their logits, which are 16 KiB a row.
        let (more, logits) = (many.saturating_sub(few), (512 - 64) * vocabulary * 4);
        assert!(more <= logits / 16, "{more} bytes more for 448 rows, whose logits are {logits}; any loss: {any}");
    }
    Ok(())
}
