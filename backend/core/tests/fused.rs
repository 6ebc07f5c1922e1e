//! Each fused operator against its own decomposition and against its definition in F64, on every device.

mod operands;

use candle_ascend::{D, DType, Device, Result, Tensor, Var, ops};
use operands::{assert_close, devices, operand, ours, rng};

const TYPES: [DType; 3] = [DType::F32, DType::F16, DType::BF16];

/// One rounding of the result, and in F32 the order of a sum over at most a few hundred terms.
fn tolerance(dtype: DType) -> f64 {
    match dtype {
        DType::F16 => 2e-3,
        DType::BF16 => 1.6e-2,
        _ => 2e-5,
    }
}

/// Runs `op` on random operands of the given shapes: fused, decomposed, and in F64 on the CPU, where it decomposes.
fn check<const N: usize>(name: &str, shapes: [&[usize]; N], op: impl Fn([&Tensor; N]) -> Result<Tensor>) {
    for (seed, dtype) in TYPES.into_iter().enumerate() {
        let mut rng = rng(seed as u64);
        let random = shapes.map(|shape| operand(&mut rng, shape, dtype));
        let exact = random.clone().map(|x| {
            let on_cpu = ours(&x, &Device::Cpu);
            on_cpu.to_dtype(DType::F64).expect("widened")
        });
        let exact = op(exact.each_ref()).unwrap_or_else(|error| panic!("{name} in F64: {error}"));
        let want = exact.to_dtype(dtype).and_then(|x| x.to_candle()).expect("rounded");
        for device in devices() {
            let case = format!("{name}, seed {seed}, {dtype:?} on {}", device.kind());
            let x = random.clone().map(|x| ours(&x, &device));
            let fused = op(x.each_ref()).unwrap_or_else(|error| panic!("{case}: {error}"));
            let parts =
                ops::decomposed(|| op(x.each_ref())).unwrap_or_else(|error| panic!("{case}, decomposed: {error}"));
            assert_close(&case, &fused, &want, tolerance(dtype));
            assert_close(&format!("{case}, decomposed"), &parts, &want, tolerance(dtype));
        }
    }
}

#[test]
fn norms() {
    check("rms_norm", [&[3, 5, 48], &[48]], |[x, w]| ops::rms_norm(x, w, 1e-6));
    check("rms_norm of a view", [&[3, 48, 5], &[48]], |[x, w]| ops::rms_norm(&x.transpose(1, 2)?, w, 1e-6));
    check("add_rms_norm's sum", [&[7, 33], &[7, 33], &[33]], |[x, r, w]| Ok(ops::add_rms_norm(x, r, w, 1e-5)?.1));
}

#[test]
fn add_rms_norm_normalises_the_rounded_sum() {
    for device in devices() {
        let (mut first, mut second) = (rng(1), rng(2));
        let x = ours(&operand(&mut first, &[4, 40], DType::F32), &device);
        let residual = ours(&operand(&mut second, &[4, 40], DType::F32), &device);
        let weight = ours(&operand(&mut first, &[40], DType::F32), &device);
        let (normed, sum) = ops::add_rms_norm(&x, &residual, &weight, 1e-6).expect("add_rms_norm");
        let want = ops::rms_norm(&sum, &weight, 1e-6).and_then(|x| x.to_candle()).expect("rms_norm");
        assert_close(device.kind(), &normed, &want, 2e-5);
    }
}

#[test]
fn softmax_and_swiglu() {
    check("softmax", [&[4, 3, 17]], |[x]| ops::softmax_last_dim(x));
    check("softmax of a view", [&[4, 17, 3]], |[x]| ops::softmax_last_dim(&x.t()?));
    check("swiglu", [&[3, 5, 64]], |[x]| ops::swiglu(x));
    let error =
        Tensor::zeros((2, 3), DType::F32, &Device::Cpu).and_then(|x| ops::swiglu(&x)).expect_err("an odd width");
    assert!(error.to_string().contains("must be even"), "{error}");
}

#[test]
fn additions_to_columns() {
    check("add_columns", [&[2, 3, 9], &[2, 3, 2], &[2, 3, 3]], |[y, a, b]| {
        ops::add_columns(y, &[(1, a.clone()), (5, b.clone())])
    });
    let zeros = |columns| Tensor::zeros((2, columns), DType::F32, &Device::Cpu).expect("zeros");
    for parts in [vec![(3, zeros(2))], vec![(0, zeros(3)), (2, zeros(1))]] {
        let error = ops::add_columns(&zeros(4), &parts).expect_err("parts beyond the end or over each other");
        assert!(error.to_string().contains("does not fit [2, 4]"), "{error}");
    }
}

#[test]
fn losses_of_rows() {
    let how = ops::CrossEntropy { chunk: 3, mean: false, ignore_index: -100 };
    check("linear_cross_entropy", [&[7, 6], &[40, 6]], |[hidden, head]| {
        let targets = Tensor::new(&[3i64, -100, 0, 39, 7, -100, 7], hidden.device())?;
        // An eighth is of order one, which is what the tolerance is for.
        (ops::linear_cross_entropy(&hidden.detach(), &head.detach(), &targets, how)? / 8.)?.to_dtype(hidden.dtype())
    });
    let hidden = Tensor::zeros((1, 6), DType::F32, &Device::Cpu).expect("zeros");
    let head = Tensor::zeros((4, 6), DType::F32, &Device::Cpu).expect("zeros");
    let targets = Tensor::new(&[4i64], &Device::Cpu).expect("targets");
    let error = ops::linear_cross_entropy(&hidden, &head, &targets, how).expect_err("no such class");
    assert!(error.to_string().contains("none of 4 classes"), "{error}");
    check("sum_of_squares", [&[5, 7]], |[x]| (ops::sum_of_squares(x)? / 8.)?.to_dtype(x.dtype()));
}

#[test]
fn dropout_keeps_a_share_scales_it_and_hands_gradients_through_the_same_mask() {
    let run = |device: &Device, dtype: DType| -> Result<()> {
        let case = format!("{dtype:?} on {}", device.kind());
        // A view, of 2^16 elements that are all one.
        let x = Var::from_tensor(&Tensor::ones((1024, 64), dtype, device)?)?;
        let view = x.t()?;
        let y = ops::dropout(&view, 0.25, 99)?;
        let values: Vec<f32> = y.to_dtype(DType::F32)?.flatten_all()?.to_vec1()?;
        let kept = values.iter().filter(|value| **value != 0.).count() as f64 / values.len() as f64;
        // Six deviations of the share.
        assert!((kept - 0.75).abs() < 0.0102, "{case}: {kept} of the elements are kept");
        let scaled = 4f64 / 3.;
        assert!(values.iter().all(|v| *v == 0. || (f64::from(*v) - scaled).abs() < tolerance(dtype)), "{case}");
        let grads = y.sum_all()?.backward()?;
        let of_x = grads.get(&x).expect("a gradient");
        assert_close(&case, of_x, &y.t()?.contiguous()?.to_candle()?, 0.);
        let again = ops::dropout(&view, 0.25, 99)?;
        assert_close(&case, &again, &y.to_candle()?, 0.);
        let other = ops::dropout(&view, 0.25, 100)?.to_dtype(DType::F32)?.flatten_all()?.to_vec1::<f32>()?;
        let both = values.iter().zip(&other).filter(|(a, b)| **a != 0. && **b != 0.).count() as f64;
        // Masks of neighbouring keys know nothing of each other.
        assert!((both / values.len() as f64 - 0.5625).abs() < 0.0117, "{case}: {both} elements are kept by both keys");
        assert_close(&case, &ops::dropout(&x, 0., 1)?, &x.to_candle()?, 0.);
        if !device.is_npu() {
            assert_close(&case, &ops::decomposed(|| ops::dropout(&view, 0.25, 99))?, &y.to_candle()?, 0.);
        }
        Ok(())
    };
    for device in devices() {
        for dtype in TYPES {
            run(&device, dtype).unwrap_or_else(|error| panic!("{dtype:?} on {}: {error}", device.kind()));
        }
    }
    let error = Tensor::zeros(3, DType::F32, &Device::Cpu).and_then(|x| ops::dropout(&x, 1., 0)).expect_err("all");
    assert!(error.to_string().contains("below 1"), "{error}");
}

/// `rotary` with tables of the angles that the first operand holds.
fn rotated(angles: &Tensor, q: &Tensor, k: &Tensor) -> Result<Tensor> {
    let (q, k) = ops::rotary(q, k, &angles.cos()?, &angles.sin()?)?;
    Tensor::cat(&[q, k], 1)
}

#[test]
fn rotary_embedding() {
    // The tables are rounded before they are used, which adds as much as the last rounding.
    let shapes: [&[usize]; 3] = [&[5, 32], &[2, 4, 5, 64], &[2, 2, 5, 64]];
    check("rotary, F64 tables", shapes, |[angles, q, k]| {
        let tables = angles.to_dtype(DType::F32)?;
        let exact = if q.dtype() == DType::F64 { angles.clone() } else { tables };
        rotated(&exact, q, k)
    });
    // Whole rows, both halves alike, say the same as half rows.
    for device in devices() {
        let angles = ours(&operand(&mut rng(3), &[5, 32], DType::F32), &device);
        let q = ours(&operand(&mut rng(4), &[1, 2, 5, 64], DType::F32), &device);
        let whole =
            Tensor::cat(&[&angles, &angles], D::Minus1).and_then(|whole| rotated(&whole, &q, &q)).expect("whole rows");
        let half = rotated(&angles, &q, &q).and_then(|x| x.to_candle()).expect("half rows");
        assert_close(device.kind(), &whole, &half, 0.);
    }
}

#[test]
fn attention_with_shared_heads() {
    let shapes: [&[usize]; 3] = [&[2, 6, 5, 32], &[2, 2, 9, 32], &[2, 2, 9, 32]];
    check("attention", shapes, |[q, k, v]| ops::attention(q, k, v, 0.18, ops::AttentionMask::None));
    check("causal attention", shapes, |[q, k, v]| {
        ops::attention(q, k, v, 0.18, ops::AttentionMask::Causal { offset: 4 })
    });
    check("masked attention", [shapes[0], shapes[1], shapes[2], &[5, 9]], |[q, k, v, mask]| {
        ops::attention(q, k, v, 0.18, Some(mask))
    });
    check("attention to the first part of a cache", shapes, |[q, k, v]| {
        let (k, v) = (k.narrow(2, 0, 7)?, v.narrow(2, 0, 7)?);
        ops::attention(q, &k, &v, 0.18, ops::AttentionMask::Causal { offset: 2 })
    });
    check("decoding", [&[2, 6, 1, 32], shapes[1], shapes[2]], |[q, k, v]| {
        ops::attention(q, &k.narrow(2, 0, 4)?, &v.narrow(2, 0, 4)?, 0.18, ops::AttentionMask::Causal { offset: 3 })
    });
}

#[test]
fn packed_attention_is_that_of_each_sequence_alone() {
    let shapes: [&[usize]; 3] = [&[1, 6, 12, 32], &[1, 2, 12, 32], &[1, 2, 12, 32]];
    const LENGTHS: [usize; 4] = [4, 4, 1, 3];
    check("packed attention", shapes, |[q, k, v]| ops::attention_packed(q, k, v, 0.18, &LENGTHS));
    for device in devices() {
        let x: Vec<_> = (0..3).map(|i| ours(&operand(&mut rng(i), shapes[i as usize], DType::F32), &device)).collect();
        let packed = ops::attention_packed(&x[0], &x[1], &x[2], 0.18, &LENGTHS).expect("packed");
        let mut start = 0;
        for length in LENGTHS {
            let part = |x: &Tensor| x.narrow(2, start, length);
            let alone = ops::attention(
                &part(&x[0]).expect("queries"),
                &part(&x[1]).expect("keys"),
                &part(&x[2]).expect("values"),
                0.18,
                ops::AttentionMask::Causal { offset: 0 },
            );
            let alone = alone.and_then(|x| x.to_candle()).expect("alone");
            assert_close(device.kind(), &part(&packed).expect("its rows"), &alone, tolerance(DType::F32));
            start += length;
        }
        let error = ops::attention_packed(&x[0], &x[1], &x[2], 0.18, &[4, 4]).expect_err("tokens are left").to_string();
        assert!(error.contains("[4, 4]"), "{error}");
    }
}

#[test]
fn causal_attention_is_the_mask_that_it_says() {
    let x: Vec<_> =
        (0..3).map(|seed| ours(&operand(&mut rng(seed), &[1, 2, 4, 16], DType::F32), &Device::Cpu)).collect();
    let causal = ops::attention(&x[0], &x[1], &x[2], 0.25, ops::AttentionMask::Causal { offset: 0 }).expect("causal");
    // The first query sees the first key only, so that its result is the first value.
    let first = causal.narrow(2, 0, 1).expect("first query");
    let value = x[2].narrow(2, 0, 1).and_then(|v| v.to_candle()).expect("first value");
    assert_close("first query", &first, &value, 1e-6);
}

#[test]
fn projections() {
    check("linear", [&[2, 3, 40], &[56, 40], &[56]], |[x, w, b]| ops::linear(x, w, Some(b)));
    check("linear of one row", [&[1, 43], &[56, 43]], |[x, w]| ops::linear(x, w, None));
    check("linear of many rows", [&[20, 3, 40], &[24, 40]], |[x, w]| ops::linear(x, w, None));
    check("linear of a view", [&[3, 40, 2], &[24, 40]], |[x, w]| ops::linear(&x.t()?, w, None));
    let zeros = |shape: (usize, usize)| Tensor::zeros(shape, DType::F32, &Device::Cpu).expect("zeros");
    let error = ops::linear(&zeros((2, 3)), &zeros((4, 5)), None).expect_err("widths differ").to_string();
    assert!(error.contains("[2, 3]") && error.contains("[4, 5]"), "{error}");
}
