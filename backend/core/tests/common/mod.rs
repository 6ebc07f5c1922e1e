//! What the NPU tests share: the simulated device, and comparison with candle's CPU storage.

#![allow(dead_code)]

use candle_ascend::{CpuStorage, DType, Layout, NpuDevice, NpuStorage, Result, Shape};
use candle_core::backend::{BackendDevice, BackendStorage};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use std::sync::Arc;

/// Simulated NPU `index`. Tests that count or limit something take one of their own.
pub fn npu_at(index: usize) -> NpuDevice {
    candle_ascend::register_simulator(|_| Ok(Arc::new(cann_sim::Embedded::new().map_err(|status| status.message)?)));
    NpuDevice::simulated("", index).expect("the simulated NPU opens")
}

pub fn npu() -> NpuDevice {
    npu_at(0)
}

/// Random elements, reproducible; small integers for integer types.
pub fn random(dtype: DType, count: usize, seed: u64) -> CpuStorage {
    let mut rng = StdRng::seed_from_u64(seed);
    let floats: Vec<f32> = (0..count).map(|_| rng.random_range(-2f32..2.)).collect();
    let ints: Vec<i64> = (0..count).map(|_| rng.random_range(0i64..100)).collect();
    match dtype {
        DType::F32 => CpuStorage::F32(floats),
        DType::F16 => CpuStorage::F16(floats.iter().map(|&v| half::f16::from_f32(v)).collect()),
        DType::BF16 => CpuStorage::BF16(floats.iter().map(|&v| half::bf16::from_f32(v)).collect()),
        DType::F64 => CpuStorage::F64(floats.iter().map(|&v| v as f64).collect()),
        DType::U8 => CpuStorage::U8(ints.iter().map(|&v| v as u8).collect()),
        DType::U32 => CpuStorage::U32(ints.iter().map(|&v| v as u32).collect()),
        DType::I16 => CpuStorage::I16(ints.iter().map(|&v| (v - 50) as i16).collect()),
        DType::I32 => CpuStorage::I32(ints.iter().map(|&v| (v - 50) as i32).collect()),
        DType::I64 => CpuStorage::I64(ints.iter().map(|&v| v - 50).collect()),
        other => panic!("no random {other:?}"),
    }
}

/// The elements as f64.
pub fn values(storage: &CpuStorage) -> Vec<f64> {
    match storage {
        CpuStorage::F32(v) => v.iter().map(|&v| v as f64).collect(),
        CpuStorage::F16(v) => v.iter().map(|v| v.to_f64()).collect(),
        CpuStorage::BF16(v) => v.iter().map(|v| v.to_f64()).collect(),
        CpuStorage::F64(v) => v.clone(),
        CpuStorage::U8(v) => v.iter().map(|&v| v as f64).collect(),
        CpuStorage::U32(v) => v.iter().map(|&v| v as f64).collect(),
        CpuStorage::I16(v) => v.iter().map(|&v| v as f64).collect(),
        CpuStorage::I32(v) => v.iter().map(|&v| v as f64).collect(),
        CpuStorage::I64(v) => v.iter().map(|&v| v as f64).collect(),
        other => panic!("no values of {:?}", other.dtype()),
    }
}

/// Several steps of the element type, because candle rounds in between where the device computes wider.
pub fn tolerance(dtype: DType) -> f64 {
    match dtype {
        DType::F64 => 1e-12,
        DType::F32 => 4e-6,
        DType::F16 => 4e-3,
        DType::BF16 => 3e-2,
        _ => 0.,
    }
}

/// Asserts that the two answers have one type and agree.
#[track_caller]
pub fn agree(what: &str, npu: Result<NpuStorage>, cpu: Result<CpuStorage>) {
    let npu = npu.unwrap_or_else(|error| panic!("{what} on npu: {error}"));
    let cpu = cpu.unwrap_or_else(|error| panic!("{what} on cpu: {error}"));
    assert_eq!(npu.dtype(), cpu.dtype(), "{what}: element type");
    let got = npu.to_cpu_storage().unwrap_or_else(|error| panic!("{what} read back: {error}"));
    close(what, &values(&got), &values(&cpu), tolerance(cpu.dtype()));
}

/// Asserts that each element is within `tolerance` of the reference, absolutely or of its size.
#[track_caller]
pub fn close(what: &str, got: &[f64], wanted: &[f64], tolerance: f64) {
    assert_eq!(got.len(), wanted.len(), "{what}: number of elements");
    for (i, (got, wanted)) in got.iter().zip(wanted).enumerate() {
        let same = got == wanted
            || (got.is_nan() && wanted.is_nan())
            || (got - wanted).abs() <= tolerance * wanted.abs().max(1.);
        assert!(same, "{what}: element {i} is {got}, wanted {wanted}");
    }
}

/// Storage on the NPU and on the CPU with the same random elements.
pub fn both(device: &NpuDevice, dtype: DType, count: usize, seed: u64) -> (NpuStorage, CpuStorage) {
    let cpu = random(dtype, count, seed);
    (device.storage_from_cpu_storage(&cpu).expect("upload"), cpu)
}

/// Layouts over a buffer of 120 elements: whole, offset, transposed, broadcast, with gaps, scalar.
pub fn layouts() -> Vec<(&'static str, Layout)> {
    let cube = Layout::contiguous((3, 4, 5));
    vec![
        ("contiguous", cube.clone()),
        ("offset", Layout::contiguous_with_offset((4, 5), 17)),
        ("transposed", cube.transpose(0, 2).expect("rank 3")),
        ("narrowed", Layout::contiguous((6, 4, 5)).narrow(1, 1, 2).expect("in range")),
        ("broadcast", Layout::contiguous((1, 4, 1)).broadcast_as((3, 4, 5)).expect("broadcasts")),
        ("scalar", Layout::new(Shape::from(()), vec![], 7)),
        ("one", Layout::contiguous((1, 1))),
    ]
}
