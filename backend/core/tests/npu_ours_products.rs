//! Our Ascend C kernels with matrix products on a simulated device, against the same operators computed the other two ways.

mod common;

use candle_ascend::ops::{self, AttentionMask, Kernels, with_kernels};
use candle_ascend::{DType, Device, Result, Tensor};

/// A simulated device whose launches nobody else counts.
fn device(index: usize) -> Device {
    // Registers the simulator.
    common::npu_at(index);
    Device::new_sim("", index).expect("the simulated NPU opens")
}

fn launches(device: &Device) -> u64 {
    let Device::Npu(npu) = device else { panic!("no NPU") };
    npu.counters().launches
}

/// Numbers between -1 and 1 that are the same in every run.
fn numbers(dims: &[usize], seed: u64, dtype: DType) -> Result<Tensor> {
    let count = dims.iter().product::<usize>();
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / (1 << 23) as f32 - 1.0
    };
    Tensor::from_vec((0..count).map(|_| next()).collect(), dims, &Device::Cpu)?.to_dtype(dtype)
}

fn worst(a: &Tensor, b: &Tensor) -> Result<f32> {
    let flat = |x: &Tensor| x.to_device(&Device::Cpu)?.to_dtype(DType::F32)?.flatten_all()?.to_vec1::<f32>();
    Ok(flat(a)?.into_iter().zip(flat(b)?).map(|(a, b)| if a == b { 0.0 } else { (a - b).abs() }).fold(
        0.0,
        |most, x| {
            if x.is_nan() { f32::INFINITY } else { most.max(x) }
        },
    ))
}

/// A rounding of numbers up to `size`, and what is left of the roundings of what they are made of.
fn allowed(dtype: DType, size: f32) -> f32 {
    let roundoff = match dtype {
        DType::F32 => 2f32.powi(-20),
        DType::F16 => 2f32.powi(-10),
        _ => 2f32.powi(-7),
    };
    roundoff * size
}

fn compare(
    what: &str,
    dtype: DType,
    size: f32,
    run: impl Fn() -> Result<Tensor>,
    wanted: &Tensor,
    device: &Device,
) -> Result<()> {
    for kernels in [Kernels::Plain, Kernels::Aclnn, Kernels::Ours] {
        let before = launches(device);
        let out = with_kernels(kernels, &run)?;
        device.synchronize()?;
        let counted = launches(device) - before;
        let error = worst(&out, wanted)?;
        println!("{what:<42} {dtype:?} {kernels}: largest error {error:.1e}, {counted} launches");
        assert!(error <= allowed(dtype, size), "{what} {dtype:?} by {kernels}: {error} apart");
        assert!(kernels != Kernels::Ours || counted == 1, "{what} {dtype:?}: {counted} launches of ours");
    }
    Ok(())
}

#[test]
fn grouped_linear_three_ways() -> Result<()> {
    let device = device(1);
    for dtype in [DType::F32, DType::F16, DType::BF16] {
        for (counts, inner, outputs) in [(vec![1], 16, 16), (vec![0, 5, 0, 31, 1], 70, 50), (vec![130, 0, 3], 40, 300)]
        {
            let (rows, experts) = (counts.iter().sum::<usize>(), counts.len());
            let x = numbers(&[rows, inner], 1, dtype)?;
            let weight = numbers(&[experts, outputs, inner], 2, dtype)?;
            let ends: Vec<i64> = counts
                .iter()
                .scan(0, |end, count| {
                    *end += *count as i64;
                    Some(*end)
                })
                .collect();
            let ends = Tensor::from_vec(ends, experts, &Device::Cpu)?;
            let wide = |x: &Tensor| x.to_dtype(DType::F64);
            let wanted = ops::moe::grouped_linear(&wide(&x)?, &wide(&weight)?, &ends)?;
            let [x, weight, ends] = [x.to_device(&device)?, weight.to_device(&device)?, ends.to_device(&device)?];
            let run = || ops::moe::grouped_linear(&x, &weight, &ends);
            let size = 2.0 * (inner as f32).sqrt();
            compare(&format!("grouped_linear {counts:?} {inner} {outputs}"), dtype, size, run, &wanted, &device)?;
        }
    }
    Ok(())
}

#[test]
fn attention_three_ways() -> Result<()> {
    let device = device(2);
    for dtype in [DType::F16, DType::BF16] {
        // Batch, heads, key heads, queries, keys, widths of keys and values.
        let cases = [
            ([2, 4, 2, 1, 37], [64, 64]),
            ([1, 4, 2, 33, 77], [128, 128]),
            ([2, 2, 2, 17, 17], [64, 64]),
            ([1, 4, 4, 5, 5], [192, 128]),
            ([1, 16, 1, 1, 50], [576, 512]),
        ];
        for ([batch, heads, groups, queries, keys], [width, value_width]) in cases {
            let q = numbers(&[batch, heads, queries, width], 3, dtype)?;
            // Keys lie in a longer cache; latent attention's values are the first columns of its keys.
            let cache = numbers(&[batch, groups, keys + 9, width], 4, dtype)?;
            let values =
                if width == 576 { cache.clone() } else { numbers(&[batch, groups, keys + 9, value_width], 5, dtype)? };
            let mask = AttentionMask::Causal { offset: keys - queries };
            let scale = (width as f64).powf(-0.5);
            let pick = |x: &Tensor, width: usize| x.narrow(2, 0, keys)?.narrow(3, 0, width);
            let run = |q: &Tensor, k: &Tensor, v: &Tensor| {
                ops::attention(q, &pick(k, width)?, &pick(v, value_width)?, scale, mask)
            };
            let wide = |x: &Tensor| x.to_dtype(DType::F64);
            let wanted = run(&wide(&q)?, &wide(&cache)?, &wide(&values)?)?;
            let (q, cache) = (q.to_device(&device)?, cache.to_device(&device)?);
            let values = if width == 576 { cache.clone() } else { values.to_device(&device)? };
            let what = format!("attention {batch} {heads}/{groups} {queries}x{keys} {width}/{value_width}");
            compare(&what, dtype, 1.0, || run(&q, &cache, &values), &wanted, &device)?;
        }
    }
    Ok(())
}

#[test]
fn paged_attention_two_ways() -> Result<()> {
    let device = device(3);
    for dtype in [DType::F16, DType::BF16] {
        let (heads, groups, width, size, blocks) = (4, 2, 64, 16, 9);
        let q = numbers(&[3, heads, width], 6, dtype)?;
        let keys = numbers(&[blocks, groups, size, width], 7, dtype)?;
        let values = numbers(&[blocks, groups, size, width], 8, dtype)?;
        // Two blocks and a rest; none; one that is full. What is not used points nowhere.
        let nowhere = u32::MAX;
        let table =
            Tensor::from_vec(vec![7, 2, 5, nowhere, nowhere, nowhere, 1, nowhere, nowhere], (3, 3), &Device::Cpu)?;
        let lengths = Tensor::from_vec(vec![37u32, 0, 16], 3, &Device::Cpu)?;
        let run = |x: &[Tensor; 5]| ops::paged_attention(&x[0], &x[1], &x[2], &x[3], &x[4], 0.125);
        let wide = |x: &Tensor| x.to_dtype(DType::F64);
        let wanted = run(&[wide(&q)?, wide(&keys)?, wide(&values)?, table.clone(), lengths.clone()])?;
        let there = |x: &Tensor| x.to_device(&device);
        let operands = [there(&q)?, there(&keys)?, there(&values)?, there(&table)?, there(&lengths)?];
        compare("paged_attention", dtype, 1.0, || run(&operands), &wanted, &device)?;
        assert!(wanted.get(1)?.abs()?.sum_all()?.to_scalar::<f64>()? == 0.0, "a sequence of no tokens");
    }
    Ok(())
}

#[test]
fn what_the_kernels_do_not_take_is_said_or_computed_plainly() -> Result<()> {
    let device = device(4);
    // F32, and a head of 24 columns: as the definition has them.
    // (The softmax in between is one operator or several: some roundings.)
    for (dtype, width, allowed) in [(DType::F32, 64, 2e-6), (DType::F16, 24, 2e-3)] {
        let x = numbers(&[1, 2, 5, width], 9, dtype)?.to_device(&device)?;
        let run = || ops::attention(&x, &x, &x, 0.2, AttentionMask::None);
        let (ours, plain) = (with_kernels(Kernels::Ours, run)?, with_kernels(Kernels::Plain, run)?);
        let apart = worst(&ours, &plain)?;
        assert!(apart <= allowed, "{dtype:?} {width}: {apart}");
    }
    let q = numbers(&[1, 2, 64], 1, DType::F16)?.to_device(&device)?;
    let pool = numbers(&[2, 2, 8, 64], 1, DType::F16)?.to_device(&device)?;
    let table = Tensor::zeros((1, 1), DType::U32, &device)?;
    let lengths = Tensor::zeros(1, DType::U32, &device)?;
    let run = || ops::paged_attention(&q, &pool, &pool, &table, &lengths, 0.2);
    let said = with_kernels(Kernels::Ours, run).unwrap_err().to_string();
    assert!(said.contains("blocks of 8 tokens") && said.contains("16 to 128"), "{said}");
    Ok(())
}
