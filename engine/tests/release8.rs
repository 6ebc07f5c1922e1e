//! Models with experts under CANN 8.1, which lacks the choice by sigmoid, the newest routing and the fused norm and rotation: the same
//! tokens, by captured steps as well.

mod common;

use candle_ascend::npu::NpuDevice;
use candle_ascend::{DType, Device};
use cann_sim::runtime::config::Release;
use cann_sim::{Config, Embedded};
use common::{GREEDY, answer, checkpoint, counted, golden, load};
use std::sync::Arc;

#[test]
fn greedy_tokens_are_those_of_transformers() {
    candle_ascend::register_simulator(|_| {
        let config = Config { release: Release { major: 8, minor: 1 }, ..Config::default() };
        Ok(Arc::new(Embedded::with(config).map_err(|status| status.message)?))
    });
    let npu = NpuDevice::simulated("", 0).expect("the simulated NPU opens");
    for (name, layers) in [("qwen3-moe-tiny", 3), ("deepseek-v3-tiny", 4)] {
        let prompt = golden(name, "input_ids");
        for dtype in [DType::F32, DType::BF16] {
            let generator = load(&checkpoint(name, layers), dtype, &Device::Npu(npu.clone()));
            let (got, counters) = counted(&npu, || answer(&generator, &prompt, 16, &GREEDY));
            if dtype == DType::F32 {
                assert_eq!(got.tokens, golden(name, "greedy"), "{name}");
            }
            // The prompt gives the first token; the second's step is what is captured then.
            assert_eq!(counters.replays, 14, "{name} {}", dtype.as_str());
        }
    }
}
