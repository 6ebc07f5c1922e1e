//! The fixtures against what transformers computed, on every device of this machine that is asked for.
//!
//! `golden.safetensors` holds logits computed in f32 from the bf16 weights, and 16 tokens of greedy decoding.

mod common;

use candle_ascend::ops::{self, Kernels};
use candle_ascend::{DType, Device, Result, Tensor};
use common::{Fixture, MODELS, VARIANTS, greedy};
use npu_models::Logits;
use std::io::Write;

/// How one run compares with golden.
struct Comparison {
    max: f32,
    mean: f32,
    /// 99.9th percentile of the absolute error.
    p999: f32,
    /// Positions whose argmax agrees, of all.
    agree: (usize, usize),
    /// The same among positions whose two likeliest tokens are more than 0.2 apart in golden.
    clear: (usize, usize),
    greedy: bool,
}

fn compare(fixture: &Fixture, dtype: DType, device: &Device) -> anyhow::Result<Comparison> {
    let loaded = npu_models::load(&fixture.dir, dtype, device, &|_, _| {})?;
    assert!(loaded.unused.is_empty(), "{}: unused tensors {:?}", fixture.name, loaded.unused);
    let model = loaded.model.as_ref();
    let ids =
        Tensor::from_vec(fixture.input_ids.concat(), (fixture.input_ids.len(), fixture.input_ids[0].len()), device)?;
    let logits = model.forward(&ids, &mut model.new_cache(), Logits::All)?;
    let got: Vec<f32> = logits.to_dtype(DType::F32)?.flatten_all()?.to_vec1()?;
    assert_eq!(got.len(), fixture.logits.len());
    let mut errors: Vec<f32> = got.iter().zip(&fixture.logits).map(|(g, w)| (g - w).abs()).collect();
    assert!(errors.iter().all(|e| e.is_finite()), "{}: logits are not finite", fixture.name);
    errors.sort_by(f32::total_cmp);
    let (mut agree, mut clear) = ((0, 0), (0, 0));
    for (got, wanted) in got.chunks(fixture.vocab).zip(fixture.logits.chunks(fixture.vocab)) {
        let same = common::argmax(got) == common::argmax(wanted);
        agree = (agree.0 + usize::from(same), agree.1 + 1);
        let mut sorted = wanted.to_vec();
        sorted.sort_by(|a, b| b.total_cmp(a));
        if sorted[0] - sorted[1] > 0.2 {
            clear = (clear.0 + usize::from(same), clear.1 + 1);
        }
    }
    let tokens = greedy(model, &fixture.input_ids[0], fixture.greedy.len(), device)?;
    Ok(Comparison {
        max: errors[errors.len() - 1],
        mean: errors.iter().sum::<f32>() / errors.len() as f32,
        p999: errors[errors.len() * 999 / 1000],
        agree,
        clear,
        greedy: tokens == fixture.greedy,
    })
}

/// Compares every model in f32 and bf16 on `device`, prints the table, and holds it against the tolerances.
fn golden_on(name: &str, device: &Device) {
    let mut failures = Vec::new();
    let mut table = String::new();
    for model in MODELS.into_iter().chain(VARIANTS) {
        let fixture = Fixture::read(model);
        for dtype in [DType::F32, DType::BF16] {
            let c = compare(&fixture, dtype, device).unwrap_or_else(|e| panic!("{model} {name} {dtype:?}: {e:#}"));
            let row = format!(
                "{model:<23} {name:<4} {:<5} max {:.2e} mean {:.2e} p99.9 {:.2e} argmax {}/{} (clear {}/{}) greedy {}",
                dtype.as_str(),
                c.max,
                c.mean,
                c.p999,
                c.agree.0,
                c.agree.1,
                c.clear.0,
                c.clear.1,
                if c.greedy { "equal" } else { "differs" }
            );
            let good = match dtype {
                // Two orders of f32 summation over 64 to 176 terms, three layers deep, at logits of about ten.
                DType::F32 => c.max <= 2e-3 && c.agree.0 == c.agree.1 && c.greedy,
                // PyTorch's own bf16 run has means of 0.010 and 0.045 here, a flipped choice of experts being an error of its own.
                _ if common::routes(model) => c.mean <= 0.06 && c.clear.0 as f64 >= 0.93 * c.clear.1 as f64,
                // PyTorch's own bf16 run of these models has a mean of 0.010 to 0.023 and a percentile of 0.05 to 0.13.
                _ => c.mean <= 0.03 && c.p999 <= 0.2 && c.clear.0 == c.clear.1,
            };
            if !good {
                failures.push(row.clone());
            }
            table += &format!("{row}\n");
        }
    }
    // Straight to the terminal: the table is the point of the test, and a passing test's prints are swallowed.
    let _ = std::io::stderr().write_all(table.as_bytes());
    assert!(failures.is_empty(), "out of tolerance:\n{}", failures.join("\n"));
}

#[test]
fn cpu() {
    golden_on("cpu", &Device::Cpu);
}

#[test]
fn sim() {
    golden_on("sim", &common::simulated());
}

#[test]
fn cuda() {
    match Device::new_cuda(0) {
        Ok(gpu) => golden_on("cuda", &gpu),
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "did not run on cuda: {error}");
        }
    }
}

/// The fused operators' decompositions, which other devices than this one may run.
#[test]
fn cpu_decomposed() {
    ops::with_kernels(Kernels::Plain, || golden_on("cpu*", &Device::Cpu));
}

#[test]
fn sim_decomposed() {
    ops::with_kernels(Kernels::Plain, || golden_on("sim*", &common::simulated()));
}

/// Our Ascend C kernels, whose sources run on the simulated device; other operators are aclnn's.
#[test]
fn sim_ours() {
    ops::with_kernels(Kernels::Ours, || golden_on("ours", &common::simulated()));
}

/// A cache filled in pieces gives the logits of one pass, beyond the block that it is first made for.
fn pieces_on(device: &Device) -> Result<()> {
    for name in MODELS {
        let fixture = Fixture::read(name);
        let loaded = npu_models::load(&fixture.dir, DType::F32, device, &|_, _| {}).expect("a fixture loads");
        let model = loaded.model.as_ref();
        // Both rows four times over: 384 positions, one and a half blocks.
        let rows: Vec<Vec<u32>> = fixture.input_ids.iter().map(|row| row.repeat(4)).collect();
        let ids = Tensor::from_vec(rows.concat(), (2, 384), device)?;
        let whole = model.forward(&ids, &mut model.new_cache(), Logits::All).expect("one pass");
        let mut cache = model.new_cache();
        let mut pieces = Vec::new();
        let mut at = 0;
        for length in [1, 200, 1, 53, 2, 126, 1] {
            let piece = model.forward(&ids.narrow(1, at, length)?, &mut cache, Logits::All).expect("a piece");
            pieces.push(piece);
            at += length;
            assert_eq!(cache.len(), at);
        }
        assert_eq!(at, 384);
        let apart = (Tensor::cat(&pieces, 1)? - &whole)?.abs()?.max_all()?.to_scalar::<f32>()?;
        // The same sums in another order.
        assert!(apart <= 1e-3, "{name}: pieces differ from one pass by {apart}");
        // The last position alone, after the cache was cut back.
        cache.truncate(300);
        let last = model.forward(&ids.narrow(1, 300, 84)?, &mut cache, Logits::Last).expect("the last position");
        let apart = (last - whole.narrow(1, 383, 1)?)?.abs()?.max_all()?.to_scalar::<f32>()?;
        assert!(apart <= 1e-3, "{name}: the last position differs by {apart}");
    }
    Ok(())
}

#[test]
fn pieces_cpu() {
    pieces_on(&Device::Cpu).unwrap();
}

#[test]
fn pieces_sim() {
    pieces_on(&common::simulated()).unwrap();
}
