//! Optimizer state and gradients divided among the ranks.

use crate::support::*;
use anyhow::Result;
use candle_ascend::safetensors::MmapedSafetensors;
use candle_ascend::{DType, Device, Tensor, Var};
use npu_models::Parameter;
use npu_train::{Partition, Sharding, Zero, files};
use std::collections::BTreeMap;
use std::path::Path;

const STEPS: usize = 3;

fn sharding(zero: Zero) -> Sharding {
    Sharding { zero, bucket_bytes: 64 << 10 }
}

/// What rank 0 has after some steps.
struct Kept {
    steps: Vec<Step>,
    weights: Vec<Vec<f32>>,
    /// The optimizer's state as a checkpoint has it.
    state: BTreeMap<String, Tensor>,
    /// Bytes of the moments on this rank, and of masters that are pieces.
    bytes: (usize, usize),
    elements: usize,
}

fn run(size: usize, zero: Zero) -> Kept {
    let mut all = succeed(size, |ranks, device| {
        let mut training = Training::new(ranks, device, sharding(zero))?;
        let steps = (0..STEPS).map(|step| training.step(step)).collect::<Result<Vec<_>>>()?;
        let state = training.partition.gather(&training.optimizer)?;
        assert_eq!(state.is_some(), ranks.leads());
        let host = |(name, tensor): (String, Tensor)| Ok((name, tensor.to_device(&Device::Cpu)?));
        let state = state.into_iter().flatten().map(host).collect::<Result<_>>()?;
        let bytes = (training.optimizer.state_bytes(), training.partition.piece_bytes());
        ranks.barrier()?;
        Ok(Kept { steps, weights: training.weights()?, state, bytes, elements: training.elements() })
    });
    for other in &all[1..] {
        assert_eq!(apart(&other.weights, &all[0].weights), 0., "ranks of {size} differ");
    }
    all.swap_remove(0)
}

fn numbers(state: &BTreeMap<String, Tensor>) -> Vec<Vec<f32>> {
    let flat = |tensor: &Tensor| tensor.to_dtype(DType::F32).unwrap().flatten_all().unwrap().to_vec1().unwrap();
    state.values().map(flat).collect()
}

#[test]
fn zero_changes_nothing_but_who_keeps_what() {
    for size in [2, 4] {
        let plain = run(size, Zero::Off);
        assert_eq!(plain.bytes, (8 * plain.elements, 0), "two moments of four bytes");
        for zero in [Zero::State, Zero::Gradients] {
            let sharded = run(size, zero);
            for (a, b) in sharded.steps.iter().zip(&plain.steps) {
                assert_eq!(a.loss, b.loss, "{zero:?} on {size}");
                // Squares are added up by piece instead of by parameter.
                assert!((a.norm / b.norm - 1.).abs() <= 1e-6, "{zero:?} on {size}: {a:?}, without {b:?}");
            }
            let shapes = |kept: &Kept| -> Vec<_> {
                kept.state.iter().map(|(name, tensor)| (name.clone(), tensor.dims().to_vec(), tensor.dtype())).collect()
            };
            assert_eq!(shapes(&sharded), shapes(&plain), "a checkpoint is the same");
            let weights = apart(&sharded.weights, &plain.weights);
            let state = apart(&numbers(&sharded.state), &numbers(&plain.state));
            println!("{zero:?} on {size} ranks: weights off by {weights}, state by {state}");
            assert_eq!((weights, state), (0., 0.), "{zero:?} on {size}: the wire adds up in the same order");
            let share = sharded.bytes.0 as f64 * size as f64 / plain.bytes.0 as f64;
            println!("{zero:?} on {size} ranks: {} bytes of moments, {} without", sharded.bytes.0, plain.bytes.0);
            // What is more than 1/N fills parameters up to blocks of 256.
            assert!((1.0..1.06).contains(&share), "{zero:?} on {size}: {share}");
            assert_eq!(sharded.bytes.1 * 2, sharded.bytes.0, "a master of four bytes beside two moments");
        }
    }
}

/// Two steps, then the state to a file and back into a fresh run on `then` ranks, and one step more there.
fn resumed(
    folder: &Path,
    (first, zero): (usize, Zero),
    (then, zero_then): (usize, Zero),
    eight_bits: bool,
) -> Vec<Step> {
    let (weights, state) = (folder.join("weights.safetensors"), folder.join("state.safetensors"));
    succeed(first, |ranks, device| {
        let mut training = Training::of(ranks, device, sharding(zero), eight_bits)?;
        (0..2).try_for_each(|step| training.step(step).map(drop))?;
        if let Some(tensors) = training.partition.gather(&training.optimizer)? {
            files::safetensors_of(&state, &tensors)?;
            let named =
                training.policy.parameters.iter().map(|p| Ok((p.parts[0].0.clone(), p.var.as_detached_tensor())));
            files::safetensors_of(&weights, &named.collect::<Result<Vec<_>>>()?)?;
        }
        ranks.barrier()
    });
    succeed(then, |ranks, device| {
        let mut training = Training::of(ranks, device, sharding(zero_then), eight_bits)?;
        let file = MmapedSafetensors::new(&weights)?;
        for parameter in &training.policy.parameters {
            parameter.var.set(&file.load(&parameter.parts[0].0, device)?)?;
        }
        training.partition.restore(&mut training.optimizer, &MmapedSafetensors::new(&state)?)?;
        training.step(2)
    })
}

#[test]
fn a_checkpoint_goes_on_with_another_number_of_ranks_and_another_stage() {
    let folder = tempfile::tempdir().unwrap();
    let whole = run(2, Zero::Off).steps[2];
    for (first, then) in [
        ((2, Zero::Gradients), (2, Zero::Gradients)),
        ((2, Zero::State), (4, Zero::Gradients)),
        ((4, Zero::State), (1, Zero::Off)),
        ((1, Zero::Off), (2, Zero::State)),
    ] {
        for step in resumed(folder.path(), first, then, false) {
            println!("{first:?} then {then:?}: {step:?}, uninterrupted {whole:?}");
            // Sums over another number of ranks are of another order.
            assert!((step.loss - whole.loss).abs() <= 1e-5, "{first:?} then {then:?}: {step:?} {whole:?}");
            assert!((step.norm / whole.norm - 1.).abs() <= 1e-5, "{first:?} then {then:?}: {step:?} {whole:?}");
        }
    }
}

#[test]
fn eight_bit_state_is_divided_by_whole_blocks() {
    let folder = tempfile::tempdir().unwrap();
    let whole = succeed(2, |ranks, device| {
        let mut training = Training::of(ranks, device, sharding(Zero::State), true)?;
        let steps = (0..STEPS).map(|step| training.step(step)).collect::<Result<Vec<_>>>()?;
        Ok(steps[2])
    })[0];
    let with = (2, Zero::State);
    for step in resumed(folder.path(), with, with, true) {
        assert_eq!((step.loss, step.norm), (whole.loss, whole.norm), "codes and scales come back as they were");
    }
}

#[test]
fn pieces_of_half_precision_parameters_are_kept_in_full_and_handed_on_rounded() {
    let parameter = |name: &str, shape: &[usize], device: &Device| -> Result<Parameter> {
        let var = Var::from_tensor(&Tensor::ones(shape, DType::BF16, device)?)?;
        Ok(Parameter { parts: vec![(name.into(), shape[0])], var })
    };
    succeed(2, |ranks, device| {
        let parameters = [parameter("matrix", &[20, 30], device)?, parameter("norm", &[30], device)?];
        let partition = Partition::new(&parameters, ranks, sharding(Zero::State))?;
        let slots = partition.slots();
        assert_eq!(slots.iter().map(|slot| slot.decays).collect::<Vec<_>>(), [false, true], "one kind a slot");
        for slot in slots {
            assert!(slot.master.dtype() == DType::F32 && slot.target.is_none());
            // 1 + 2^-9 lies between two BF16 numbers; 1 + 2^-6 is one.
            slot.master.set(&(slot.master.as_detached_tensor() + (0.001953125 + ranks.rank() as f64 * 0.015625))?)?;
        }
        partition.spread()?;
        let norm = parameters[1].var.as_detached_tensor().to_dtype(DType::F32)?.to_vec1::<f32>()?;
        assert_eq!(norm, [1.0; 30], "rank 0 has the first 256 of the norms' bucket");
        let matrix = parameters[0].var.as_detached_tensor().flatten_all()?.to_dtype(DType::F32)?.to_vec1::<f32>()?;
        // 600 elements in a bucket of 1024: each rank has 512.
        assert!(matrix[..512].iter().all(|&x| x == 1.0), "{matrix:?}");
        assert!(matrix[512..].iter().all(|&x| x == 1.015625), "{matrix:?}");
        Ok(())
    });
}
