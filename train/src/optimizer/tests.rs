use super::dynamic::{Quantised, Tables};
use super::*;
use candle_ascend::npu::NpuDevice;

fn devices() -> Vec<Device> {
    npu_tests::simulated();
    vec![Device::Cpu, Device::Npu(NpuDevice::simulated("", 2).expect("the simulated NPU opens"))]
}

/// Numbers over many orders of magnitude, of both signs, the same each time.
fn spread(count: usize, seed: u64) -> Vec<f32> {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (state >> 40) as f64 / (1u64 << 24) as f64
    };
    (0..count).map(|_| ((next() - 0.5) * 10f64.powf(-4. * next())) as f32).collect()
}

fn tensor(values: &[f32], device: &Device) -> Tensor {
    Tensor::from_slice(values, values.len(), device).unwrap()
}

fn numbers(tensor: &Tensor) -> Vec<f64> {
    tensor.to_device(&Device::Cpu).unwrap().to_dtype(DType::F64).unwrap().flatten_all().unwrap().to_vec1().unwrap()
}

/// AdamW as its paper has it, in f64: parameter, first moment and second.
fn plain_step(held: &mut [(f64, f64, f64)], grads: &[f64], step: i32, lr: f64, decay: f64, o: AdamWOptions) {
    for ((x, m, v), g) in held.iter_mut().zip(grads) {
        *m = o.beta1 * *m + (1. - o.beta1) * g;
        *v = o.beta2 * *v + (1. - o.beta2) * g * g;
        let (m_hat, v_hat) = (*m / (1. - o.beta1.powi(step)), *v / (1. - o.beta2.powi(step)));
        *x -= lr * (m_hat / (v_hat.sqrt() + o.eps) + decay * *x);
    }
}

#[test]
fn steps_are_those_of_the_paper_and_small_ones_are_not_lost_in_bf16() {
    let options = AdamWOptions { weight_decay: 10., ..AdamWOptions::default() };
    for device in devices() {
        let start = spread(300, 1);
        let matrix = Var::from_tensor(&tensor(&start, &device).reshape((30, 10)).unwrap()).unwrap();
        let bias = Var::from_tensor(&tensor(&start[..10], &device).to_dtype(DType::BF16).unwrap()).unwrap();
        let parameter =
            |name: &str, var: &Var| Parameter { parts: vec![(name.into(), var.dim(0).unwrap())], var: var.clone() };
        let slots = [parameter("matrix", &matrix), parameter("bias", &bias)].map(|p| Slot::of(&p).unwrap());
        assert!(slots[0].target.is_none() && slots[1].target.is_some());
        let mut optimizer = AdamW::new(slots.to_vec(), options).unwrap();
        let mut plain: Vec<Vec<_>> =
            [numbers(&matrix), numbers(&bias)].map(|x| x.into_iter().map(|x| (x, 0., 0.)).collect()).into();
        for step in 1..=5 {
            let grads = [spread(300, 10 + step), spread(10, 20 + step)];
            let given = [tensor(&grads[0], &device).reshape((30, 10)).unwrap(), tensor(&grads[1], &device)];
            // As gradients of a scaled loss are: four times as large, which is exact.
            let given = given.map(|grad| (grad * 4.).unwrap());
            optimizer.step(&given, 0.25, 1e-5).unwrap();
            for (held, (grads, decay)) in plain.iter_mut().zip(grads.iter().zip([10., 0.])) {
                let grads: Vec<f64> = grads.iter().map(|g| f64::from(*g)).collect();
                plain_step(held, &grads, step as i32, 1e-5, decay, options);
            }
        }
        for (slot, plain) in optimizer.slots().zip(&plain) {
            for (got, (wanted, ..)) in numbers(&slot.master).iter().zip(plain) {
                // Five sums in F32 of numbers below one.
                assert!((got - wanted).abs() < 3e-7, "{} on {}: {got}, wanted {wanted}", slot.name, device.kind());
            }
        }
        let rounded: Vec<f64> = plain[1].iter().map(|(x, ..)| half::bf16::from_f64(*x).to_f64()).collect();
        let got = numbers(&bias);
        let near = |(got, wanted): (&f64, &f64)| (got - wanted).abs() <= wanted.abs() / 128.;
        assert!(got.iter().zip(&rounded).all(near), "{got:?}, wanted {rounded:?}");
    }
}

/// The map as the paper draws it: a sign bit or none, zeros that count powers of ten, a one, and a linear fraction.
fn value_of_bits(pattern: u32, bits: u32) -> f64 {
    let zeros = pattern.leading_zeros() - (32 - bits);
    let fraction_bits = bits - zeros - 1;
    let fraction = f64::from(pattern - (1 << fraction_bits));
    let parts = f64::from(1 << fraction_bits);
    10f64.powi(-(zeros as i32)) * (0.1 + 0.9 * (fraction + 0.5) / parts)
}

#[test]
fn codes_are_the_nearest_values_of_the_map() {
    for device in devices() {
        let tables = Tables::new(&device).unwrap();
        for (table, signed) in [(&tables.signed, true), (&tables.unsigned, false)] {
            let positive: Vec<f64> = match signed {
                true => (1..128).map(|pattern| value_of_bits(pattern, 7)).collect(),
                // The one code that has seven zeros stands for one.
                false => (2..256).map(|pattern| value_of_bits(pattern, 8)).collect(),
            };
            let negative = positive.iter().filter(|_| signed).map(|value| -value);
            let all: Vec<f64> = negative.chain(positive.iter().copied()).chain([0., 1.]).collect();
            assert_eq!(all.len(), 256);
            // Blocks of 256 do not divide it.
            let mut values = spread(1000, 5);
            if !signed {
                values.iter_mut().for_each(|value| *value = value.abs());
            }
            (values[300], values[301]) = (0., 1e-9);
            let held = Quantised::of(&tensor(&values, &device), table).unwrap();
            assert_eq!((held.codes.dims(), held.scales.dims()), (&[4usize, 256][..], &[4usize][..]));
            let got = numbers(&held.wide(table).unwrap());
            assert_eq!(got[301] > 0., !signed, "only a zero is coded as zero where a root of it is a divisor");
            for (block, (values, got)) in values.chunks(256).zip(got.chunks(256)).enumerate() {
                let most = values.iter().fold(0f64, |most, value| most.max(f64::from(value.abs())));
                for (value, got) in values.iter().zip(got) {
                    let x = f64::from(*value) / most;
                    let distance = |v: f64| (v - x).abs();
                    let choices = all.iter().filter(|v| signed || x == 0. || **v > 0.);
                    let nearest = choices.map(|v| distance(*v)).fold(f64::MAX, f64::min);
                    let off = distance(got / most) - nearest;
                    assert!(off < 1e-6, "block {block} on {}: {value} became {got}", device.kind());
                }
            }
        }
    }
}

/// Towards a goal by noisy gradients: with moments in eight bits it comes as far.
#[test]
fn eight_bits_train_like_f32_in_a_quarter_of_the_memory() {
    let run = |eight_bits: bool| -> (f64, usize) {
        let count = 5000;
        let goal = spread(count, 3);
        let var = Var::zeros(count, DType::F32, &Device::Cpu).unwrap();
        let slot = Slot { name: "x".into(), master: var.clone(), target: None, decays: false };
        let mut optimizer = AdamW::new(vec![slot], AdamWOptions { eight_bits, ..AdamWOptions::default() }).unwrap();
        let goal = tensor(&goal, &Device::Cpu);
        for step in 0..150 {
            let noise = (tensor(&spread(count, 100 + step), &Device::Cpu) * 0.1).unwrap();
            let grad = ((var.as_detached_tensor() - &goal).unwrap() + noise).unwrap();
            optimizer.step(&[grad], 1., 5e-3).unwrap();
        }
        let left = (var.as_detached_tensor() - &goal).unwrap().sqr().unwrap().mean_all().unwrap();
        (left.sqrt().unwrap().to_scalar::<f32>().unwrap().into(), optimizer.state_bytes())
    };
    let ((wide, wide_bytes), (eight, eight_bytes)) = (run(false), run(true));
    println!("left {wide:.5} in F32, {eight:.5} in eight bits; {wide_bytes} and {eight_bytes} bytes");
    assert!(wide < 0.02 && eight < 1.2 * wide, "left {wide} in F32, {eight} in eight bits");
    // Two bytes and two scales of four bytes in 256 elements, of eight; the last block is filled up.
    assert!(eight_bytes as f64 <= 0.26 * wide_bytes as f64, "{eight_bytes} of {wide_bytes} bytes");
}

#[test]
fn small_tensors_stay_in_f32() {
    let slot = |count| Slot {
        name: "x".into(),
        master: Var::zeros(count, DType::F32, &Device::Cpu).unwrap(),
        target: None,
        decays: false,
    };
    let bytes = |count| {
        let options = AdamWOptions { eight_bits: true, ..AdamWOptions::default() };
        AdamW::new(vec![slot(count)], options).unwrap().state_bytes()
    };
    assert_eq!((bytes(4095), bytes(4096)), (4095 * 8, 4096 * 2 + 16 * 8));
}
