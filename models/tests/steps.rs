//! A step, whose place is data, against a pass, whose place the host knows: the same logits, token after token.

mod common;

use candle_ascend::ops::{self, Kernels};
use candle_ascend::{DType, Device, Tensor};
use common::{Fixture, MODELS, simulated};
use npu_models::{CausalLm, Logits};

fn logits(tensor: &Tensor) -> Vec<f32> {
    let flat = tensor.to_dtype(DType::F32).and_then(|tensor| tensor.flatten_all());
    flat.and_then(|tensor| tensor.to_vec1()).expect("logits")
}

/// Between the logits of steps and of passes over `tokens` that follow the prompt.
fn largest_difference(
    model: &dyn CausalLm,
    (prompt, rows): (Vec<u32>, usize),
    tokens: &[u32],
    device: &Device,
) -> anyhow::Result<f32> {
    let (mut passes, mut steps) = (model.new_cache(), model.new_cache());
    let length = prompt.len() / rows;
    let prompt = Tensor::from_vec(prompt, (rows, length), device)?;
    model.forward(&prompt, &mut passes, Logits::Last)?;
    model.forward(&prompt, &mut steps, Logits::Last)?;
    let mut most = 0f32;
    for &token in tokens {
        let ids = Tensor::full(token, (rows, 1), device)?;
        let positions = Tensor::full(steps.len() as i64, rows, device)?;
        steps.reserve(1)?;
        let Some(step) = model.step(&ids, &positions, &mut steps)? else { panic!("the model has no step") };
        steps.advance(1);
        let pass = model.forward(&ids, &mut passes, Logits::Last)?;
        let (step, pass) = (logits(&step), logits(&pass));
        assert!(step.len() == pass.len() && step.iter().all(|logit| logit.is_finite()));
        most = step.iter().zip(pass).map(|(a, b)| (a - b).abs()).fold(most, f32::max);
    }
    Ok(most)
}

fn steps_equal_passes(device: &Device) -> anyhow::Result<()> {
    for name in MODELS {
        let fixture = Fixture::read(name);
        // The same sums with zeros among them: f32 differs by the order of addition, bf16 by a step of its eight bits
        // at logits of about ten where a sum falls to the other side.
        // Where a rounding flips the choice of an expert, bf16 has no bound.
        for (dtype, most) in [(DType::F32, 1e-4), (DType::BF16, if common::routes(name) { f32::MAX } else { 0.13 })] {
            let loaded = npu_models::load(&fixture.dir, dtype, device, &|_, _| {})?;
            let model = loaded.model.as_ref();
            // One sequence takes shorter ways than several.
            for rows in [1, fixture.input_ids.len().max(2)] {
                let prompt: Vec<u32> = fixture.input_ids.iter().cycle().take(rows).flatten().copied().collect();
                let apart = largest_difference(model, (prompt, rows), &fixture.greedy, device)?;
                println!("{name:<11} {:<5} {rows} rows: {apart:.1e}", dtype.as_str());
                assert!(apart <= most, "{name} {dtype:?}, {rows} rows: {apart}");
            }
        }
    }
    Ok(())
}

/// Decomposed experts are grouped by the host, so that a step could not be captured: they say so before anything is written, and
/// are run pass by pass.
#[test]
fn decomposed_experts_have_no_step() -> anyhow::Result<()> {
    for name in MODELS.into_iter().filter(|name| common::routes(name)) {
        let loaded = npu_models::load(&Fixture::read(name).dir, DType::F32, &Device::Cpu, &|_, _| {})?;
        let mut cache = loaded.model.new_cache();
        loaded.model.forward(&Tensor::full(7u32, (1, 4), &Device::Cpu)?, &mut cache, Logits::Last)?;
        let (ids, positions) = (Tensor::full(7u32, (1, 1), &Device::Cpu)?, Tensor::full(4i64, 1, &Device::Cpu)?);
        let step = ops::with_kernels(Kernels::Plain, || loaded.model.step(&ids, &positions, &mut cache))?;
        assert!(step.is_none(), "{name}");
        assert_eq!(cache.len(), 4);
    }
    Ok(())
}

#[test]
fn on_the_cpu() -> anyhow::Result<()> {
    steps_equal_passes(&Device::Cpu)
}

#[test]
fn on_the_simulated_npu() -> anyhow::Result<()> {
    steps_equal_passes(&simulated())
}
