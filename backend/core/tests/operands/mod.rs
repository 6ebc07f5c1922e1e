//! What the suites of the tensor interface share: the devices to run on, random operands, and comparison.
#![allow(dead_code)]

use candle_ascend::{DType, Device, Tensor};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use std::io::Write as _;
use std::sync::{Arc, OnceLock};

/// The CPU, the simulated NPU and, where there is one, a GPU; they stay open for the whole run.
pub fn devices() -> Vec<Device> {
    static OPEN: OnceLock<Vec<Device>> = OnceLock::new();
    let open = OPEN.get_or_init(|| {
        candle_ascend::register_simulator(|_| {
            Ok(Arc::new(cann_sim::Embedded::new().map_err(|status| status.message)?))
        });
        let mut open = vec![Device::Cpu, Device::new_sim("", 0).expect("the simulated NPU opens")];
        match Device::new_cuda(0) {
            Ok(gpu) => open.push(gpu),
            // Straight to the terminal: what a passing test prints is swallowed.
            Err(error) => {
                let _ = writeln!(std::io::stderr(), "did not run on cuda: {error}");
            }
        }
        open
    });
    open.clone()
}

/// A generator for one case; the seed is part of every failure's message.
pub fn rng(seed: u64) -> StdRng {
    StdRng::seed_from_u64(seed)
}

/// Random odd dimensions.
pub fn dims(rng: &mut StdRng, rank: usize) -> Vec<usize> {
    (0..rank).map(|_| rng.random_range(1..=7)).collect()
}

/// A random tensor on the CPU as candle's, in `dtype`; integers are small and never negative.
pub fn operand(rng: &mut StdRng, dims: &[usize], dtype: DType) -> candle_core::Tensor {
    let count = dims.iter().product();
    let values: Vec<f64> = match dtype.is_int() {
        true => (0..count).map(|_| rng.random_range(0..9) as f64).collect(),
        false => (0..count).map(|_| rng.random_range(-3f64..3.)).collect(),
    };
    let on_cpu = candle_core::Tensor::from_vec(values, dims, &candle_core::Device::Cpu).expect("operand");
    on_cpu.to_dtype(dtype).expect("operand type")
}

/// The same elements as `tensor` on `device`.
pub fn ours(tensor: &candle_core::Tensor, device: &Device) -> Tensor {
    Tensor::from_candle(tensor).expect("from candle").to_device(device).expect("to device")
}

/// The elements in F64 with their shape and type.
pub fn values(tensor: &candle_core::Tensor) -> (Vec<usize>, DType, Vec<f64>) {
    let wide = tensor.to_dtype(DType::F64).and_then(|t| t.flatten_all()).and_then(|t| t.to_vec1()).expect("values");
    (tensor.dims().to_vec(), tensor.dtype(), wide)
}

/// Fails unless both have one shape and type and elements that differ by no more than `tolerance`, relative above one.
#[track_caller]
pub fn assert_close(case: &str, got: &Tensor, want: &candle_core::Tensor, tolerance: f64) {
    let (got_dims, got_dtype, got) = values(&got.to_candle().expect("to candle"));
    let (want_dims, want_dtype, want) = values(want);
    assert_eq!((&got_dims, got_dtype), (&want_dims, want_dtype), "{case}: shape and type");
    for (i, (&got, &want)) in got.iter().zip(&want).enumerate() {
        let same = got == want || (got.is_nan() && want.is_nan());
        let near = (got - want).abs() <= tolerance * want.abs().max(1.);
        assert!(same || near, "{case}: element {i} is {got}, wanted {want} (tolerance {tolerance:e})");
    }
}
