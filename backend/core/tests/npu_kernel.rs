//! Our own kernels launched through ACL, on a simulated device that runs their twins.

mod common;

use ascend_kernels::Launch;
use candle_ascend::acl::{Buffer, Context, Error, launch_kernel};
use candle_ascend::{Device, Result};
use common::npu_at;

const ROWS: usize = 5;
const WIDTH: usize = 40;

/// Residual add and norm of `ROWS` rows: the tiling struct of `add_rms_norm_tiling.h`, put together by hand.
fn launch() -> Launch {
    let words = [ROWS as u32, WIDTH as u32, 2, WIDTH as u32, 2, 1e-6f32.to_bits(), (1.0 / WIDTH as f32).to_bits()];
    let tiling = words.iter().flat_map(|word| word.to_le_bytes()).collect();
    Launch { kernel: "add_rms_norm_f32", blocks: 3, tiling, workspace: 0 }
}

fn upload(context: &Context, values: &[f32]) -> Result<Buffer> {
    Ok(context.upload(&values.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<_>>())?)
}

fn download(context: &Context, buffer: &Buffer) -> Result<Vec<f32>> {
    let mut bytes = vec![0; buffer.size()];
    context.download(buffer, &mut bytes)?;
    Ok(bytes.chunks_exact(4).map(|word| f32::from_le_bytes(word.try_into().expect("four bytes"))).collect())
}

/// Operands of the launch in device memory, and what its rows become.
struct Case {
    buffers: [Buffer; 5],
    wanted: Vec<f64>,
}

fn case(context: &Context) -> Result<Case> {
    let wave = |count: usize, step: f32| (0..count).map(|i| (i as f32 * step).sin()).collect::<Vec<_>>();
    let (x, residual, weight) = (wave(ROWS * WIDTH, 0.37), wave(ROWS * WIDTH, 0.73), wave(WIDTH, 0.11));
    let sums: Vec<f64> = x.iter().zip(&residual).map(|(a, b)| f64::from(a + b)).collect();
    let mut wanted = Vec::new();
    for row in sums.chunks(WIDTH) {
        let mean = row.iter().map(|value| value * value).sum::<f64>() / WIDTH as f64;
        let root = (mean + 1e-6).sqrt();
        wanted.extend(row.iter().zip(&weight).map(|(value, weight)| value / root * f64::from(*weight)));
    }
    let (y, sum) = (context.allocate(ROWS * WIDTH * 4)?, context.allocate(ROWS * WIDTH * 4)?);
    let buffers = [upload(context, &x)?, upload(context, &residual)?, upload(context, &weight)?, y, sum];
    Ok(Case { buffers, wanted })
}

impl Case {
    fn tensors(&self) -> Vec<(&Buffer, usize)> {
        self.buffers.iter().map(|buffer| (buffer, 0)).collect()
    }

    fn check(&self, context: &Context) -> Result<()> {
        let got = download(context, &self.buffers[3])?;
        // A few roundings of f32 to each value, none of which is larger than 7.
        let worst = got.iter().zip(&self.wanted).map(|(a, b)| (f64::from(*a) - b).abs()).fold(0.0, f64::max);
        assert!(worst < 2e-6, "{worst}");
        Ok(())
    }
}

#[test]
fn a_kernel_is_one_launch_and_no_wait() -> Result<()> {
    let npu = npu_at(4);
    let context = npu.context();
    let case = case(context)?;
    let before = context.counters();
    launch_kernel(context, &launch(), &case.tensors())?;
    let spent = context.counters().since(&before);
    assert_eq!((spent.launches, spent.host_syncs, spent.bytes_to_device), (1, 0, 0));
    case.check(context)
}

#[test]
fn a_kernel_is_captured_and_replayed() -> Result<()> {
    let npu = npu_at(5);
    let context = npu.context().clone();
    let case = case(&context)?;
    let device = Device::Npu(npu);
    let work = || -> Result<()> { Ok(launch_kernel(&context, &launch(), &case.tensors())?) };
    let (graph, ()) = device.capture(work)?.expect("the simulated NPU has graphs");
    assert_eq!(graph.launches(), 1);
    graph.replay()?;
    case.check(&context)
}

#[test]
fn a_broken_rule_is_the_error_of_the_stream() -> Result<()> {
    let npu = npu_at(6);
    let context = npu.context();
    let case = case(context)?;
    let mut tensors = case.tensors();
    // Nothing on the host sees that the rows pass the end of the buffer, which is so large that the pool has no other in its memory.
    let alone = context.allocate(64 << 20)?;
    tensors[3] = (&alone, alone.size() - 4 * WIDTH);
    launch_kernel(context, &launch(), &tensors)?;
    let error = context.synchronize().expect_err("a fault of the kernel");
    let text = error.to_string();
    assert_eq!(error.code(), Some(acl_sys::error::ACL_ERROR_RT_VECTOR_CORE_EXCEPTION), "{text}");
    for part in ["add_rms_norm_f32: ", "common/vector.h:", "DataCopyPad: writes"] {
        assert!(text.contains(part), "{part:?} is not in {text}");
    }
    // Which block comes there first is open: the first one's rows begin within the buffer.
    let where_to = ["passes the end of its allocation", "lies in no allocation"];
    assert!(where_to.iter().any(|part| text.contains(part)), "{text}");
    Ok(())
}

#[test]
fn what_cannot_be_launched_is_said_before() -> Result<()> {
    let npu = npu_at(7);
    let context = npu.context();
    let case = case(context)?;
    let mut tensors = case.tensors();
    tensors[1].1 = case.buffers[1].size() + 1;
    let error = launch_kernel(context, &launch(), &tensors).expect_err("an offset outside of the buffer");
    assert!(matches!(error, Error::Arguments { op: "add_rms_norm_f32", .. }), "{error}");
    assert!(error.to_string().contains("argument 1 begins at byte 801 of a buffer of 800"), "{error}");
    let unknown = Launch { kernel: "add_rms_norm_f64", ..launch() };
    let error = launch_kernel(context, &unknown, &case.tensors()).expect_err("no such kernel");
    assert!(error.to_string().contains("the binary has no kernel \"add_rms_norm_f64\""), "{error}");
    Ok(())
}
