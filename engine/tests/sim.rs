//! A generation on the simulated NPU: the tokens of transformers, and what the NPU was asked to do for them.

#[path = "../src/testing.rs"]
mod testing;

use candle_ascend::npu::NpuDevice;
use candle_ascend::{DType, Device};
use cann_sim::Embedded;
use npu_engine::{GenerateOptions, Generator};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

#[test]
fn greedy_tokens_and_counters() {
    candle_ascend::register_simulator(|soc| Ok(Arc::new(Embedded::for_soc(soc)?)));
    let device = Device::Npu(NpuDevice::simulated("", 0).expect("the simulated NPU opens"));
    let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/qwen2-tiny");
    let dir = tempfile::tempdir().expect("a folder");
    for file in ["config.json", "generation_config.json", "model.safetensors"] {
        std::fs::copy(fixture.join(file), dir.path().join(file)).expect("copied");
    }
    let (tokenizer, settings) = testing::byte_tokenizer_files();
    std::fs::write(dir.path().join("tokenizer.json"), tokenizer).expect("written");
    std::fs::write(dir.path().join("tokenizer_config.json"), settings).expect("written");

    let golden = candle_ascend::safetensors::load(fixture.join("golden.safetensors"), &Device::Cpu).expect("golden");
    let row = |name: &str| -> Vec<u32> {
        let row: Vec<i64> = golden[name].get(0).and_then(|row| row.to_vec1()).expect("a row of integers");
        row.into_iter().map(|id| id as u32).collect()
    };
    // Twelve operators for each of the three layers and six around them in bf16; in f32 the NPU has no fused attention,
    // so that its parts count. The host waits to read the logits only.
    for (dtype, most) in [(DType::F32, 48.0), (DType::BF16, 42.0)] {
        let generator = Generator::load(dir.path(), dtype, &device, &|_, _| {}).expect("the checkpoint");
        let options = GenerateOptions { max_tokens: 16, ignore_eos: true, ..Default::default() };
        let abort = AtomicBool::new(false);
        let answer = generator.generate(&row("input_ids"), &options, &abort, &mut |_| Ok(())).expect("an answer");
        if dtype == DType::F32 {
            assert_eq!(answer.tokens, row("greedy"));
        }
        // What the first answer took from the device serves the second: nothing more is allocated.
        let mallocs = || device.as_npu_device().expect("an NPU").counters().mallocs;
        let before = mallocs();
        generator.generate(&row("input_ids"), &options, &abort, &mut |_| Ok(())).expect("a second answer");
        assert_eq!(mallocs(), before, "{}: device allocations of a second answer", dtype.as_str());
        let stats = answer.stats;
        println!("{}: {stats}", dtype.as_str());
        let launches = stats.launches_per_token.expect("an NPU counts launches");
        assert!((20.0..=most).contains(&launches), "{}: {launches} launches a token", dtype.as_str());
        assert_eq!(stats.host_syncs_per_token, Some(1.0), "{}: times that the host waited a token", dtype.as_str());
        assert!(stats.peak_memory_bytes.is_some_and(|bytes| bytes > 200_000), "{:?}", stats.peak_memory_bytes);
    }
}
