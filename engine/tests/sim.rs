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
    let generator = Generator::load(dir.path(), DType::F32, &device, &|_, _| {}).expect("the checkpoint");
    let options = GenerateOptions { max_tokens: 16, ignore_eos: true, ..Default::default() };
    let answer =
        generator.generate(&row("input_ids"), &options, &AtomicBool::new(false), &mut |_| Ok(())).expect("an answer");
    assert_eq!(answer.tokens, row("greedy"));
    let stats = answer.stats;
    println!("{stats}");
    // Twelve operators for each of the three layers, and six around them; the host waits to read the logits only.
    let launches = stats.launches_per_token.expect("an NPU counts launches");
    let syncs = stats.host_syncs_per_token.expect("an NPU counts waits");
    assert!((20.0..=42.0).contains(&launches), "{launches} launches a token");
    assert_eq!(syncs, 1.0, "times that the host waited a token");
    assert!(stats.peak_memory_bytes.is_some_and(|bytes| bytes > 400_000), "{:?}", stats.peak_memory_bytes);
}
