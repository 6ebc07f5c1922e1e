//! Captured graphs: what they compute, what they keep, and what a capture refuses.

mod common;

use candle_ascend::{D, DType, Device, Graph, Result, Tensor, ops};
use common::npu_at;
use std::sync::Barrier;

/// `y = x + x` into a tensor that stays.
fn doubling(device: &Device, x: &Tensor) -> (Graph, Tensor) {
    let captured = device.capture(|| x.add(x)?.affine(1.0, 0.5)).expect("a capture");
    captured.expect("the simulated NPU has graphs")
}

#[test]
fn a_replay_computes_from_what_the_inputs_hold_then() -> Result<()> {
    let device = Device::Npu(npu_at(2));
    let x = Tensor::new(&[1f32, 2., 3.], &device)?;
    let (graph, y) = doubling(&device, &x);
    assert_eq!(graph.launches(), 2);
    for value in [1f32, 7.] {
        x.slice_set(&Tensor::full(value, 3, &device)?, 0, 0)?;
        graph.replay()?;
        assert_eq!(y.to_vec1::<f32>()?, [2. * value + 0.5; 3]);
    }
    Ok(())
}

#[test]
fn a_replay_is_one_call_and_takes_no_memory() -> Result<()> {
    let npu = npu_at(3);
    let device = Device::Npu(npu.clone());
    let x = Tensor::ones((64, 64), DType::F32, &device)?;
    let work = || (0..8).try_fold(x.clone(), |x, _| x.matmul(&x)?.affine(0.125, 0.0));
    work()?;
    let (graph, _) = device.capture(work)?.expect("the simulated NPU has graphs");
    device.synchronize()?;
    let before = npu.counters();
    device.timed(|| (0..5).try_for_each(|_| graph.replay()))?;
    let after = npu.counters();
    assert_eq!(after.timed_calls - before.timed_calls, 5);
    assert_eq!((after.replays - before.replays, after.launches), (5, before.launches));
    assert_eq!(after.replayed_launches - before.replayed_launches, 5 * graph.launches());
    assert_eq!((after.mallocs, after.host_syncs), (before.mallocs, before.host_syncs));
    Ok(())
}

/// Operands and results of which every holder is gone are still the graph's.
#[test]
fn nobody_else_gets_the_memory_of_a_graph() -> Result<()> {
    let device = Device::Npu(npu_at(4));
    let total = Tensor::zeros(256, DType::F32, &device)?;
    let (graph, ()) = {
        let x = Tensor::full(3f32, 256, &device)?;
        let work = || total.slice_set(&x.sqr()?.affine(2.0, 1.0)?, 0, 0);
        device.capture(work)?.expect("the simulated NPU has graphs")
    };
    // As many blocks of the same size as would reach those of the graph, were they free.
    let others = (0..64).map(|i| Tensor::full(i as f32, 256, &device)).collect::<Result<Vec<_>>>()?;
    graph.replay()?;
    assert_eq!(total.to_vec1::<f32>()?, [19.; 256]);
    for (i, other) in others.iter().enumerate() {
        assert_eq!(other.to_vec1::<f32>()?, [i as f32; 256], "tensor {i}");
    }
    Ok(())
}

#[test]
fn a_graph_gives_its_memory_back_and_goes_while_it_may_run() -> Result<()> {
    let npu = npu_at(5);
    let device = Device::Npu(npu.clone());
    let x = Tensor::ones(4096, DType::F32, &device)?;
    let in_use = || npu.memory_info().map(|info| info.in_use);
    let before = in_use()?;
    let (graph, y) = doubling(&device, &x);
    assert!(graph.kept_bytes() >= 2 * 4096 * 4 && in_use()? > before);
    graph.replay()?;
    drop(graph);
    // The result is the tensor's, and right although its graph is gone.
    assert_eq!(y.to_vec1::<f32>()?[4095], 2.5);
    drop(y);
    assert_eq!(in_use()?, before);
    npu.context().release_cache()?;
    Ok(())
}

#[test]
fn what_a_graph_cannot_hold_is_refused_and_the_device_stays_usable() -> Result<()> {
    let device = Device::Npu(npu_at(6));
    let x = Tensor::ones(8, DType::F32, &device)?;
    let refused = |work: &dyn Fn() -> Result<()>, words: &str| {
        let error = device.capture(work).expect_err(words).to_string();
        assert!(error.contains(words), "{words} is not in: {error}");
    };
    refused(&|| x.to_vec1::<f32>().map(drop), "a value was read");
    refused(&|| Tensor::new(&[1f32], &device).map(drop), "host data");
    refused(&|| x.rand_like(0.0, 1.0).map(drop), "random numbers");
    refused(&|| device.capture(|| x.exp()).map(drop), "do not nest");
    let (graph, y) = doubling(&device, &x);
    refused(&|| Ok(graph.replay()?), "inside of a capture");
    graph.replay()?;
    assert_eq!(y.to_vec1::<f32>()?, [2.5; 8]);
    Ok(())
}

#[test]
fn another_thread_waits_for_the_capture_and_stays_out_of_it() -> Result<()> {
    let device = Device::Npu(npu_at(7));
    let x = Tensor::ones(8, DType::F32, &device)?;
    let begun = Barrier::new(2);
    let (graph, _) = std::thread::scope(|scope| {
        let other = scope.spawn(|| -> Result<Vec<f32>> {
            begun.wait();
            x.affine(3.0, 0.0)?.to_vec1()
        });
        let captured = device.capture(|| {
            begun.wait();
            // Long enough for the other thread to come to the device.
            std::thread::sleep(std::time::Duration::from_millis(50));
            x.neg()
        });
        assert_eq!(other.join().expect("no panic")?, [3.; 8]);
        captured
    })?
    .expect("the simulated NPU has graphs");
    assert_eq!(graph.launches(), 1);
    Ok(())
}

/// A step of decoding in small: the place of a row is data.
#[test]
fn rows_are_written_where_the_device_says() -> Result<()> {
    for device in [Device::Cpu, Device::Npu(npu_at(2))] {
        for dtype in [DType::F32, DType::BF16] {
            let cache = Tensor::zeros((2, 3, 5, 4), dtype, &device)?;
            let rows = Tensor::arange(0f32, 24., &device)?.reshape((2, 1, 3, 4))?.to_dtype(dtype)?.transpose(1, 2)?;
            let positions = Tensor::new(&[1i64, 4], &device)?;
            ops::write_at(&cache, &positions, &rows)?;
            let cache: Vec<f32> = cache.to_dtype(DType::F32)?.flatten_all()?.to_vec1()?;
            for (i, &value) in cache.iter().enumerate() {
                let (batch, head, position, column) = (i / 60, i / 20 % 3, i / 4 % 5, i % 4);
                let wanted = if position == [1, 4][batch] { (batch * 12 + head * 4 + column) as f32 } else { 0. };
                assert_eq!(value, wanted, "{device:?} {dtype:?} [{batch}, {head}, {position}, {column}]");
            }
            let wrong = ops::write_at(&Tensor::zeros((2, 3, 5, 8), dtype, &device)?, &positions, &rows);
            assert!(wrong.expect_err("another width").to_string().contains("write-at"));
        }
    }
    Ok(())
}

/// Hidden keys are as if they were not there, whichever way attention takes, and whatever stands in them.
#[test]
fn hidden_keys_do_not_count() -> Result<()> {
    for device in [Device::Cpu, Device::Npu(npu_at(2))] {
        for (dtype, tolerance) in [(DType::F32, 1e-5), (DType::BF16, 2e-2)] {
            let make = |count: usize, shape: (usize, usize, usize, usize)| {
                let values: Vec<f32> = (0..count).map(|i| ((i * 37 % 101) as f32 - 50.) / 25.).collect();
                Tensor::from_vec(values, shape, &device)?.to_dtype(dtype)
            };
            let (q, k, v) = (make(256, (2, 4, 1, 32))?, make(1024, (2, 2, 8, 32))?, make(1024, (2, 2, 8, 32))?);
            let hidden = Tensor::new(&[[0u8, 0, 0, 0, 0, 1, 1, 1], [0, 0, 0, 0, 0, 1, 1, 1]], &device)?;
            let hidden = ops::HiddenKeys::new(hidden)?;
            let got = ops::attention(&q, &k, &v, 0.2, ops::AttentionMask::Hidden(&hidden))?;
            let (k, v) = (k.narrow(2, 0, 5)?.contiguous()?, v.narrow(2, 0, 5)?.contiguous()?);
            let wanted = ops::attention(&q, &k, &v, 0.2, ops::AttentionMask::None)?;
            let apart =
                (got.to_dtype(DType::F32)? - wanted.to_dtype(DType::F32)?)?.abs()?.flatten_all()?.max(D::Minus1)?;
            let apart = apart.to_scalar::<f32>()?;
            // The same sums over the same five keys; the order of addition may differ, and bf16 keeps eight bits.
            assert!(apart <= tolerance, "{device:?} {dtype:?}: {apart}");
        }
    }
    Ok(())
}
