//! Weights in four bits: the numbers, the products and their gradients on every device, and the bytes.

mod operands;

use candle_ascend::ops::{self, Nf4, Nf4Packer, Weight};
use candle_ascend::{DType, Device, Result, Tensor, Var};
use operands::{assert_close, devices, operand, ours, rng};
use std::sync::Arc;

/// Levels of arXiv 2305.14314, appendix E, once more.
const LEVELS: [f64; 16] = [
    -1.0,
    -0.6961928009986877,
    -0.5250730514526367,
    -0.39491748809814453,
    -0.28444138169288635,
    -0.18477343022823334,
    -0.09105003625154495,
    0.0,
    0.07958029955625534,
    0.16093020141124725,
    0.24611230194568634,
    0.33791524171829224,
    0.44070982933044434,
    0.5626170039176941,
    0.7229568362236023,
    1.0,
];

/// What quantising and widening make of `values`, in F64, by looking for the nearest of everything.
fn by_definition(values: &[f64]) -> Vec<f64> {
    let blocks: Vec<&[f64]> = values.chunks(64).collect();
    let largest: Vec<f64> = blocks.iter().map(|block| block.iter().fold(0f64, |most, v| most.max(v.abs()))).collect();
    let mean = largest.iter().sum::<f64>() / largest.len() as f64;
    let mut out = Vec::new();
    for (blocks, largest) in blocks.chunks(256).zip(largest.chunks(256)) {
        let most = largest.iter().fold(0f64, |most, l| most.max((l - mean).abs()));
        for (block, largest) in blocks.iter().zip(largest) {
            let scale = if most > 0.0 { ((largest - mean) / most * 127.0).round() / 127.0 * most } else { 0.0 } + mean;
            for value in *block {
                let off = |level: &f64| (value - level * largest).abs();
                let level = LEVELS.iter().min_by(|a, b| off(a).total_cmp(&off(b))).expect("sixteen");
                out.push(level * scale);
            }
        }
    }
    out
}

/// Two parts of 150 and 42 rows of 160 columns, 480 blocks, as a matrix on `device`, and the numbers.
fn matrix(dtype: DType, device: &Device) -> (Arc<Nf4>, Vec<f64>) {
    let mut rng = rng(11);
    let parts = [150, 42].map(|rows| ours(&operand(&mut rng, &[rows, 160], DType::F32), &Device::Cpu));
    let mut packer = Nf4Packer::new(160);
    let mut values = Vec::new();
    for part in &parts {
        // Rows of different size, so that the magnitudes differ.
        let factors = Tensor::arange(1f32, part.dims()[0] as f32 + 1., &Device::Cpu).and_then(|x| x.unsqueeze(1));
        let part = part.broadcast_mul(&factors.expect("a column")).expect("a part");
        packer.push(&part).expect("whole blocks");
        values.extend(part.flatten_all().and_then(|x| x.to_dtype(DType::F64)?.to_vec1::<f64>()).expect("values"));
    }
    (Arc::new(packer.finish(dtype, device).expect("a matrix")), values)
}

#[test]
fn a_matrix_widens_to_what_the_definition_gives() {
    for device in devices() {
        // In F32 a number is a few roundings away from the F64 loop; in BF16 CPUs round once, others three times.
        for (dtype, tolerance) in [(DType::F32, 1e-6), (DType::BF16, 3.0 / 256.0)] {
            let (matrix, values) = matrix(dtype, &device);
            let wanted = by_definition(&values);
            let scale = wanted.iter().fold(0f64, |most, v| most.max(v.abs()));
            for (how, wide) in [("", matrix.widen()), (", decomposed", ops::decomposed(|| matrix.widen()))] {
                let case = format!("{dtype:?} on {}{how}", device.kind());
                let wide = wide.unwrap_or_else(|error| panic!("{case}: {error}"));
                assert_eq!((wide.dims(), wide.dtype()), (&[192, 160][..], dtype), "{case}");
                let on_cpu =
                    wide.to_device(&Device::Cpu).and_then(|x| x.to_dtype(DType::F64)?.flatten_all()?.to_vec1());
                let got: Vec<f64> = on_cpu.expect("values");
                let mut levels = 0;
                for (i, (got, wanted)) in got.iter().zip(&wanted).enumerate() {
                    let near = (got - wanted).abs() <= tolerance * wanted.abs() + 1e-7 * scale;
                    // A number half-way between two levels may go to either.
                    levels += usize::from(!near);
                    assert!(
                        near || (got - wanted).abs() < 0.31 * scale,
                        "{case}: element {i} is {got}, wanted {wanted}"
                    );
                }
                assert!(levels <= 3, "{case}: {levels} of {} numbers have another level", got.len());
            }
        }
    }
}

#[test]
fn products_and_gradients_are_those_of_the_wide_matrix() {
    let run = |device: &Device, dtype: DType| -> Result<()> {
        let (matrix, _) = matrix(dtype, device);
        let (wide, weight) = (matrix.widen()?, Weight::Nf4(matrix.clone()));
        let mut rng = rng(5);
        let x = Var::from_tensor(&ours(&operand(&mut rng, &[3, 7, 160], dtype), device))?;
        let bias = ours(&operand(&mut rng, &[192], dtype), device);
        let slope = ours(&operand(&mut rng, &[3, 7, 192], dtype), device);
        for bias in [None, Some(&bias)] {
            let case = format!("{dtype:?} on {}, bias {}", device.kind(), bias.is_some());
            let (got, wanted) = (weight.linear(&x, bias)?, ops::linear(&x, &wide, bias)?);
            assert_close(&case, &got, &wanted.to_candle()?, 0.0);
            let grad = |y: Tensor| -> Result<Tensor> {
                let grads = (y * &slope)?.sum_all()?.backward()?;
                assert_eq!(grads.get_ids().count(), 1, "{case}: something else has a gradient");
                Ok(grads.get(&x).expect("a gradient").clone())
            };
            assert_close(&case, &grad(got)?, &grad(wanted)?.to_candle()?, 0.0);
        }
        Ok(())
    };
    for device in devices() {
        for dtype in [DType::F32, DType::BF16] {
            run(&device, dtype).unwrap_or_else(|error| panic!("{dtype:?} on {}: {error}", device.kind()));
        }
    }
}

#[test]
fn a_large_matrix_takes_four_and_an_eighth_bits_a_number_and_few_launches() {
    // Which registers the simulator; launches are counted on a device of their own.
    devices();
    let npu = Device::new_sim("", 3).expect("the simulated NPU opens");
    for device in [Device::Cpu, npu] {
        let mut packer = Nf4Packer::new(1024);
        packer.push(&Tensor::ones((1024, 1024), DType::F32, &Device::Cpu).expect("ones")).expect("blocks");
        let matrix = packer.finish(DType::BF16, &device).expect("a matrix");
        let bytes = matrix.bytes() as f64 / (1024. * 1024. * 2.);
        assert!((0.25..=0.26).contains(&bytes), "{bytes} of BF16 on {}", device.kind());
        let wide = matrix.widen().and_then(|x| x.to_dtype(DType::F32)?.sum_all()?.to_scalar::<f32>());
        assert_eq!(wide.expect("a sum"), 1024. * 1024.);
        if let Device::Npu(npu) = &device {
            let before = npu.counters().launches;
            matrix.widen().expect("again");
            assert_eq!(npu.counters().launches - before, 9);
        }
    }
}

#[test]
fn parts_that_are_no_blocks_are_refused() {
    let zeros = |rows, columns| Tensor::zeros((rows, columns), DType::F32, &Device::Cpu).expect("zeros");
    let mut packer = Nf4Packer::new(48);
    for (part, says) in [(zeros(3, 48), "blocks of 64"), (zeros(4, 64), "rows of 48 columns")] {
        let error = packer.push(&part).expect_err(says).to_string();
        assert!(error.contains(says), "{error}");
    }
    let endless = Tensor::full(f32::INFINITY, (4, 48), &Device::Cpu).expect("a part");
    let error = packer.push(&endless).expect_err("no number").to_string();
    assert!(error.contains("inf"), "{error}");
    packer.push(&zeros(4, 48)).expect("three blocks");
    let matrix = Weight::Nf4(Arc::new(packer.finish(DType::F32, &Device::Cpu).expect("a matrix")));
    let error = matrix.linear(&Tensor::zeros((1, 48), DType::BF16, &Device::Cpu).expect("x"), None);
    assert!(error.expect_err("another type").to_string().contains("BF16"));
}
