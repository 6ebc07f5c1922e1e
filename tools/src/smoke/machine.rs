//! The machine: libraries, memory, copies, a matrix product.

use super::Check;
use crate::report::bytes;
use anyhow::{Context as _, Result, ensure};
use candle_ascend::acl::Context;
use candle_ascend::{DType, Device, NpuDevice, Tensor};
use serde::Serialize;
use std::time::Instant;

/// A library of CANN with what it lacks.
#[derive(Debug, Serialize)]
pub struct Library {
    pub name: String,
    pub present: usize,
    /// Missing symbols, each with the oldest release that has it.
    pub missing: Vec<String>,
}

pub fn libraries(context: &Context) -> Vec<Library> {
    let text = |(name, since): &(String, &str)| format!("{name} (CANN {since})");
    let statuses = context.libraries();
    statuses
        .iter()
        .map(|status| Library {
            name: format!("{:?}", status.library),
            present: status.present,
            missing: status.missing.iter().map(text).collect(),
        })
        .collect()
}

pub fn checks(npu: &NpuDevice) -> Vec<Check> {
    let context = npu.context();
    let mut checks = vec![Check::new("driver", driver(context))];
    checks.extend(context.files().into_iter().map(|(name, found)| Check::new(name, Ok(found))));
    checks.extend(devices(npu));
    checks.extend([
        Check::new("CANN", npu.cann_version().map(|v| format!("{v}: {}", npu.source())).map_err(Into::into)),
        Check::new("copies", copies(context)),
    ]);
    checks
}

/// Every device that this CANN sees, with its memory.
fn devices(npu: &NpuDevice) -> Vec<Check> {
    let memory = |index: usize| -> Result<String> {
        let device = if index == npu.ordinal() { npu.clone() } else { npu.sibling(index)? };
        let info = device.memory_info()?;
        ensure!(info.total > 0, "the device reports no memory");
        Ok(format!("{}, {} free of {}", device.soc(), bytes(info.free as u64), bytes(info.total as u64)))
    };
    match npu.context().count() {
        Ok(count) => (0..count).map(|index| Check::new(format!("npu:{index}"), memory(index))).collect(),
        Err(error) => vec![Check::new("devices", Err(error.into()))],
    }
}

/// The driver's release, from the file that its installer leaves. A CANN that comes from no file needs no driver.
fn driver(context: &Context) -> Result<String> {
    const FILE: &str = "/usr/local/Ascend/driver/version.info";
    if context.files().is_empty() {
        return Ok("not needed by this CANN".into());
    }
    match std::fs::read_to_string(FILE) {
        Ok(text) => Ok(text.lines().find(|line| line.contains("ersion")).unwrap_or("present").to_owned()),
        Err(error) => Ok(format!("its release is unknown: {FILE}: {error}")),
    }
}

/// Copies both ways and back to back, checks the data, and gives the rates by the wall clock.
fn copies(context: &Context) -> Result<String> {
    const SIZE: usize = 64 << 20;
    let data: Vec<u8> = (0..SIZE).map(|i| (i * 31 + i / 251) as u8).collect();
    // The first copy pays for memory that has never been touched; the second is measured.
    drop(context.upload(&data)?);
    let start = Instant::now();
    let buffer = context.upload(&data)?;
    context.synchronize()?;
    let up = start.elapsed();
    let copy = context.allocate(SIZE)?;
    let start = Instant::now();
    context.copy((&buffer, 0), (&copy, 0), SIZE)?;
    context.synchronize()?;
    let across = start.elapsed();
    let mut back = vec![0; SIZE];
    let start = Instant::now();
    context.download(&copy, &mut back)?;
    let down = start.elapsed();
    let wrong = data.iter().zip(&back).position(|(a, b)| a != b);
    ensure!(wrong.is_none(), "byte {} came back changed", wrong.unwrap_or_default());
    let rate = |time: std::time::Duration| SIZE as f64 / time.as_secs_f64() / 1e9;
    Ok(format!(
        "host to device {:.1} GB/s, device to host {:.1}, within the device {:.1}",
        rate(up),
        rate(down),
        rate(across)
    ))
}

/// A square product in the type that the device is built for, checked in one corner, with its rate by the wall clock.
pub fn matmul_rate(device: &Device) -> Check {
    let (size, dtype) = match device {
        Device::Cpu => (512, DType::F32),
        _ => (1024, DType::BF16),
    };
    Check::new(
        format!("matmul {size}³ {}", dtype.as_str()),
        product(device, size, dtype).context("multiplying matrices"),
    )
}

fn product(device: &Device, size: usize, dtype: DType) -> Result<String> {
    // Small whole numbers: exact in every type, so the corner has one right answer.
    let ramp = |step: usize| (0..size * size).map(move |i| ((i * step) % 7) as f32 - 3.0);
    let (a, b): (Vec<f32>, Vec<f32>) = (ramp(3).collect(), ramp(5).collect());
    let wanted: f32 = (0..size).map(|k| a[k] * b[k * size]).sum();
    let tensor = |data: Vec<f32>| Tensor::from_vec(data, (size, size), device)?.to_dtype(dtype);
    let (a, b) = (tensor(a)?, tensor(b)?);
    a.matmul(&b)?;
    device.synchronize()?;
    let start = Instant::now();
    let c = a.matmul(&b)?;
    device.synchronize()?;
    let seconds = start.elapsed().as_secs_f64();
    let corner = c.narrow(0, 0, 1)?.narrow(1, 0, 1)?.to_dtype(DType::F32)?.flatten_all()?.to_vec1::<f32>()?[0];
    // The sum is a whole number below 9·1024, which bf16 holds to 1 part in 256.
    ensure!((corner - wanted).abs() <= wanted.abs() / 256.0 + 0.5, "the corner is {corner}, wanted {wanted}");
    Ok(format!("{:.3} TFLOP/s", 2.0 * (size as f64).powi(3) / seconds / 1e12))
}
