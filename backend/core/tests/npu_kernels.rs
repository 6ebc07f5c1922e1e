//! Our Ascend C kernels, given what they do not take or what no result could be right for, through the operators that a model
//! calls. What they compute is held to loops by the conformance suite (`npu_conformance::fused`).

mod common;

use candle_ascend::acl::launched;
use candle_ascend::ops::moe::{self, Gating};
use candle_ascend::ops::{self, Kernels, Turn, with_kernels};
use candle_ascend::{DType, Device, Result, Tensor};

/// A failure of a stream is heard by all who wait for it: a device each.
fn device(index: usize) -> Device {
    Device::Npu(common::npu_at(index))
}

const SOFTMAX: Gating<'static> = Gating::Softmax { renormalise: true };
const SIGMOID: Gating<'static> =
    Gating::Sigmoid { bias: None, groups: 2, kept_groups: 1, renormalise: true, factor: 1.0 };

#[test]
fn what_a_kernel_does_not_take_is_said_before_the_launch() -> Result<()> {
    let device = device(0);
    let logits = Tensor::zeros((2, 100), DType::F32, &device)?;
    let lengths = Tensor::zeros(1, DType::U32, &device)?;
    let paged = |dtype, heads: [usize; 2], width: usize, block: usize| -> Result<Tensor> {
        let q = Tensor::zeros((1, heads[0], width), dtype, &device)?;
        let pool = Tensor::zeros((2, heads[1], block, width), dtype, &device)?;
        ops::paged_attention(&q, &pool, &pool, &Tensor::zeros((1, 1), DType::U32, &device)?, &lengths, 0.2)
    };
    let rows = Tensor::zeros((2, 70_000), DType::F16, &device)?;
    let matrices = Tensor::zeros((1, 16, 70_000), DType::F16, &device)?;
    let ends = Tensor::from_vec(vec![2i64], 1, &device)?;
    let heads = Tensor::zeros((1, 3, 1, 40), DType::F16, &device)?;
    let head = |at| heads.narrow(1, at, 1);
    let (table, cache) =
        (Tensor::zeros((1, 40), DType::F16, &device)?, Tensor::zeros((2, 1, 1, 4, 40), DType::F16, &device)?);
    let at = Tensor::zeros(1, DType::I64, &device)?;
    let turn = Turn { norms: None, cos: &table, sin: &table };
    type Call<'a> = Box<dyn Fn() -> Result<()> + 'a>;
    let calls: [(&str, &str, Call); 7] = [
        ("65 of the 100", "it takes 1 to 64", Box::new(|| moe::route(&logits, 65, SOFTMAX).map(drop))),
        ("blocks of 8 tokens", "16 to 128", Box::new(|| paged(DType::F16, [2, 2], 64, 8).map(drop))),
        ("blocks of 144 tokens", "16 to 128", Box::new(|| paged(DType::F16, [2, 2], 64, 144).map(drop))),
        ("keys of 24 columns", "multiples of 16", Box::new(|| paged(DType::BF16, [2, 2], 24, 16).map(drop))),
        ("keys of 640 columns", "up to 576", Box::new(|| paged(DType::BF16, [2, 2], 640, 16).map(drop))),
        ("rows of 70000", "at most 65535", Box::new(|| moe::grouped_linear(&rows, &matrices, &ends).map(drop))),
        (
            "40",
            "multiples of 16",
            Box::new(|| ops::turn_and_write_at([head(0)?, head(1)?, head(2)?], turn, &cache, &at).map(drop)),
        ),
    ];
    for (given, takes, call) in calls {
        let (said, launches) = launched(|| with_kernels(Kernels::Ours, || (*call)()));
        let said = said.expect_err(given).to_string();
        assert!(said.contains(given) && said.contains(takes), "{given}, {takes}: {said}");
        let ours: Vec<_> = launches.iter().filter(|name| name.contains('_')).collect();
        assert!(ours.is_empty(), "{given}: {ours:?} were launched");
    }
    Ok(())
}

/// Runs `call` with our kernels on device `index`, which must fail when the host waits, naming the kernel and `place`.
#[track_caller]
fn stops(index: usize, kernel: &str, place: &str, call: impl Fn(&Device) -> Result<Tensor>) {
    let device = device(index);
    let started = with_kernels(Kernels::Ours, || call(&device)).expect("only the device sees it");
    let said = started.to_device(&Device::Cpu).and(device.synchronize()).expect_err("no result can be right");
    let said = said.to_string();
    assert!(said.contains(kernel) && said.contains(place), "{kernel}, {place}: {said}");
}

#[test]
fn a_logit_that_is_no_number_stops_the_device() {
    for (index, gating, kernel) in [(1, SOFTMAX, "gating_softmax_f32"), (2, SIGMOID, "gating_sigmoid_f32")] {
        stops(index, kernel, "gating.h", |device| {
            let logits = Tensor::from_vec(vec![0f32, 1.0, f32::NAN, 2.0], (1, 4), device)?;
            Ok(moe::route(&logits, 2, gating)?.0)
        });
    }
}

#[test]
fn an_expert_and_a_row_that_there_is_not_stop_the_device() {
    stops(3, "permute_b", "permute.cpp", |device| {
        let chosen = Tensor::from_vec(vec![0u32, 1, 3, 6], (2, 2), device)?;
        Ok(moe::permute(&Tensor::zeros((2, 16), DType::F32, device)?, &chosen, 6)?.rows)
    });
    stops(4, "unpermute_b", "unpermute.cpp", |device| {
        let places = Tensor::from_vec(vec![0u32, 4, 1, 2], 4, device)?;
        let (y, weights) = (Tensor::zeros((4, 16), DType::BF16, device)?, Tensor::zeros((2, 2), DType::F32, device)?);
        moe::unpermute(&y, &places, &weights)
    });
}

#[test]
fn a_position_outside_of_the_cache_stops_the_device() {
    stops(5, "rotary_cache_f16", "rotary_cache.cpp", |device| {
        let zeros = |dims: &[usize]| Tensor::zeros(dims, DType::F16, device);
        let heads = zeros(&[1, 3, 1, 64])?;
        let head = |at| heads.narrow(1, at, 1);
        let (table, cache) = (zeros(&[1, 64])?, zeros(&[2, 1, 1, 8, 64])?);
        let turn = Turn { norms: None, cos: &table, sin: &table };
        ops::turn_and_write_at([head(0)?, head(1)?, head(2)?], turn, &cache, &Tensor::from_vec(vec![8i64], 1, device)?)
    });
}

/// The second of three sequences names a block that there is not. Our kernel gives that one no numbers and the others theirs;
/// where simpler operators gather the blocks, it is their error.
#[test]
fn a_block_outside_of_the_pool_is_noticed_by_every_way() -> Result<()> {
    let call = |device: &Device| -> Result<Vec<Vec<f32>>> {
        let ones = |dims: &[usize]| Tensor::ones(dims, DType::F16, device);
        let (q, pool) = (ones(&[3, 2, 64])?, ones(&[4, 1, 16, 64])?);
        let table = Tensor::from_vec(vec![0u32, 1, 2, 4, 3, 9], (3, 2), device)?;
        let lengths = Tensor::from_vec(vec![20u32, 17, 16], 3, device)?;
        let out = ops::paged_attention(&q, &pool, &pool, &table, &lengths, 0.125)?;
        out.to_device(&Device::Cpu)?.to_dtype(DType::F32)?.reshape((3, 2 * 64))?.to_vec2()
    };
    let rows = with_kernels(Kernels::Ours, || call(&device(6)))?;
    assert!(rows[1].iter().all(|x| x.is_nan()), "sequence 1 reads block 4 of 4: {:?}", &rows[1][..4]);
    // Block 9 lies behind those in use.
    assert!(rows[0].iter().chain(&rows[2]).all(|x| *x == 1.0), "{:?} {:?}", &rows[0][..4], &rows[2][..4]);
    common::npu();
    for (kernels, device) in [(Kernels::Aclnn, Device::Cpu), (Kernels::Plain, Device::Cpu), (Kernels::Aclnn, device(7))]
    {
        let said = with_kernels(kernels, || call(&device)).expect_err("a block that there is not").to_string();
        assert!(said.contains('4'), "{kernels} on {}: {said}", device.kind());
    }
    Ok(())
}
