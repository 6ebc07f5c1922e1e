//! Communicators over simulated NPUs: collectives on tensors, and their errors.

use candle_ascend::comm::{Communicator, Error, Reduction, RootInfo};
use candle_ascend::{DType, Device, NpuDevice, Result, Tensor};
use std::sync::{Arc, Mutex, Once, PoisonError};

/// All users of a device share its stream of operators. Two jobs at a time on one pair of devices could each wait, on one
/// device, for what the other device has put behind the other job's: as on a card, that would never end.
static ONE_JOB: Mutex<()> = Mutex::new(());

/// Runs `work` on `size` ranks, each a thread with a simulated NPU of its own.
fn ranks<T: Send>(size: usize, work: impl Fn(&Communicator, &Device) -> Result<T> + Sync) -> Vec<Result<T>> {
    let _job = ONE_JOB.lock().unwrap_or_else(PoisonError::into_inner);
    static REGISTERED: Once = Once::new();
    REGISTERED.call_once(|| {
        candle_ascend::register_simulator(|soc| Ok(Arc::new(cann_sim::Embedded::for_soc(soc)?)));
    });
    let first = NpuDevice::simulated("", 0).unwrap();
    let info = RootInfo::new(first.context()).unwrap();
    std::thread::scope(|scope| {
        let run = |rank: usize| {
            let (info, work) = (&info, &work);
            scope.spawn(move || {
                let npu = NpuDevice::simulated("", rank)?;
                let communicator = Communicator::join(&npu, info, rank, size)?;
                work(&communicator, &Device::Npu(npu))
            })
        };
        let threads: Vec<_> = (0..size).map(run).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    })
}

fn succeed<T: Send>(size: usize, work: impl Fn(&Communicator, &Device) -> Result<T> + Sync) -> Vec<T> {
    ranks(size, work).into_iter().map(|answer| answer.unwrap()).collect()
}

/// Rank `rank`'s matrix of 4 × 3: whole numbers, so that sums are exact.
fn matrix(rank: usize) -> Vec<f32> {
    (0..12).map(|i| (i * (rank + 1)) as f32).collect()
}

#[test]
fn collectives_on_tensors() {
    for size in [1, 2, 4] {
        succeed(size, |ranks, device| {
            let rank = ranks.rank();
            let own = Tensor::from_vec(matrix(rank), (4, 3), device)?;
            let weight = size * (size + 1) / 2;
            let sum: Vec<f32> = (0..12).map(|i| (i * weight) as f32).collect();
            assert_eq!(ranks.all_reduce(&own, Reduction::Sum)?.flatten_all()?.to_vec1::<f32>()?, sum);

            // A view that is not row-major is made so first.
            let turned = ranks.all_reduce(&own.t()?, Reduction::Max)?;
            let largest: Vec<f32> = matrix(size - 1);
            assert_eq!(turned.dims(), [3, 4]);
            assert_eq!(turned.t()?.flatten_all()?.to_vec1::<f32>()?, largest);

            let root = size - 1;
            let cast = ranks.broadcast(&own.narrow(0, 1, 2)?, root)?;
            assert_eq!(cast.flatten_all()?.to_vec1::<f32>()?, matrix(root)[3..9]);
            assert_eq!(own.flatten_all()?.to_vec1::<f32>()?, matrix(rank), "the input stays");

            let all = ranks.all_gather(&own)?;
            assert_eq!(all.dims(), [4 * size, 3]);
            assert_eq!(all.flatten_all()?.to_vec1::<f32>()?, (0..size).flat_map(matrix).collect::<Vec<_>>());

            let share = ranks.reduce_scatter(&own, Reduction::Sum)?;
            assert_eq!(share.dims(), [4 / size, 3]);
            assert_eq!(share.flatten_all()?.to_vec1::<f32>()?, sum[rank * 12 / size..(rank + 1) * 12 / size]);
            ranks.barrier()?;
            ranks.check()
        });
    }
}

#[test]
fn collectives_run_beside_operators_and_results_are_ordered() {
    succeed(2, |ranks, device| {
        let mut weights = Tensor::ones((64, 64), DType::F32, device)?;
        for step in 0..20 {
            // Two buckets are under way while the next operators are launched, as in a backward pass.
            let (a, b) = ((&weights * 0.5)?, (&weights * 0.25)?);
            let first = ranks.start_all_reduce(&a, Reduction::Sum)?;
            let second = ranks.start_all_reduce(&b, Reduction::Sum)?;
            drop((a, b));
            let unrelated = (&weights + 1.0)?.sum_all()?;
            weights = (first.wait()? + (second.wait()? * 2.0)?)?;
            // 2·0.5·w + 2·2·0.25·w = 2·w: doubles each time; every number is a power of two.
            let (got, before) = (weights.flatten_all()?.to_vec1::<f32>()?, 2f32.powi(step));
            assert!(got.iter().all(|&x| x == 2.0 * before), "step {step}: {}", got[0]);
            assert_eq!(unrelated.to_scalar::<f32>()?, (before + 1.0) * 4096.0);
        }
        Ok(())
    });
}

#[test]
fn a_collective_that_nobody_waits_for_does_no_harm() {
    succeed(2, |ranks, device| {
        let tensor = Tensor::ones(1 << 16, DType::F32, device)?;
        for _ in 0..50 {
            drop(ranks.start_all_reduce(&tensor.affine(2.0, 0.0)?, Reduction::Sum)?);
        }
        let sum = ranks.all_reduce(&tensor, Reduction::Sum)?;
        assert_eq!(sum.sum_all()?.to_scalar::<f32>()?, (2 << 16) as f32);
        Ok(())
    });
}

#[test]
fn what_does_not_fit_is_said_before_anything_runs() {
    succeed(2, |ranks, device| {
        let says = |result: Result<Tensor>, part: &str| {
            let text = result.unwrap_err().to_string();
            assert!(text.contains(part), "{text:?} does not say {part:?}");
        };
        let own = Tensor::ones((3, 2), DType::F32, device)?;
        says(ranks.reduce_scatter(&own, Reduction::Sum), "does not divide among 2 ranks");
        says(ranks.all_reduce(&own.to_device(&Device::Cpu)?, Reduction::Sum), "the tensor is on Cpu");
        let error = ranks.all_reduce(&own.to_dtype(DType::U8)?, Reduction::Sum).unwrap_err();
        let typed = Error::of(&error).expect("a typed error");
        assert_eq!((typed.rank, typed.size, typed.operation, typed.code), (ranks.rank(), 2, "all_reduce", Some(5)));
        assert!(typed.to_string().contains("uint8 with sum is not supported"), "{typed}");
        // A refused call leaves the communicator as it was.
        assert_eq!(ranks.all_reduce(&own, Reduction::Sum)?.sum_all()?.to_scalar::<f32>()?, 12.0);
        let error = ranks.broadcast(&own, 2).unwrap_err();
        assert!(Error::of(&error).is_some_and(|error| error.why.contains("root is 2")), "{error}");
        Ok(())
    });
}

#[test]
fn ranks_that_differ_are_named_when_someone_waits() {
    for answer in ranks(2, |ranks, device| {
        let tensor = Tensor::ones(4 + ranks.rank(), DType::F32, device)?;
        let pending = ranks.start_all_reduce(&tensor, Reduction::Sum)?;
        let error = ranks.synchronize().unwrap_err();
        let text = error.to_string();
        assert!(text.contains("rank 0: HcclAllReduce(count 4, float32, sum); rank 1: HcclAllReduce(count 5"), "{text}");
        assert_eq!(Error::of(&error).and_then(|error| error.code), Some(507048));
        let error = ranks.check().unwrap_err();
        assert_eq!(Error::of(&error).and_then(|error| error.code), Some(21));
        drop(pending);
        let error = ranks.all_reduce(&tensor, Reduction::Sum).unwrap_err();
        assert_eq!(Error::of(&error).and_then(|error| error.code), Some(1041), "{error}");
        Ok(())
    }) {
        answer.unwrap();
    }
}
