//! Checkpoints cut from fixtures, and what a simulated NPU was asked to do for them.
#![allow(dead_code)]

#[path = "../../src/testing.rs"]
mod testing;

use candle_ascend::acl::Counters;
use candle_ascend::npu::NpuDevice;
use candle_ascend::{DType, Device};
use cann_sim::Embedded;
use npu_engine::{GenerateOptions, Generation, Generator, SamplingOptions};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

/// Simulated NPU `index`; each test counts on one of its own.
pub fn npu(index: usize) -> NpuDevice {
    candle_ascend::register_simulator(|soc| Ok(Arc::new(Embedded::for_soc(soc)?)));
    NpuDevice::simulated("", index).expect("the simulated NPU opens")
}

pub fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures").join(name)
}

/// A checkpoint folder of the fixture, cut to its first `layers` layers.
pub fn checkpoint(name: &str, layers: usize) -> tempfile::TempDir {
    let (fixture, dir) = (fixture(name), tempfile::tempdir().expect("a folder"));
    for file in ["generation_config.json", "model.safetensors"] {
        std::fs::copy(fixture.join(file), dir.path().join(file)).expect("copied");
    }
    let text = std::fs::read_to_string(fixture.join("config.json")).expect("config.json");
    let mut config: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    config["num_hidden_layers"] = layers.into();
    config["layer_types"] = serde_json::Value::Null;
    std::fs::write(dir.path().join("config.json"), config.to_string()).expect("written");
    let (tokenizer, settings) = testing::byte_tokenizer_files();
    std::fs::write(dir.path().join("tokenizer.json"), tokenizer).expect("written");
    std::fs::write(dir.path().join("tokenizer_config.json"), settings).expect("written");
    dir
}

pub fn golden(name: &str, tensor: &str) -> Vec<u32> {
    let golden = candle_ascend::safetensors::load(fixture(name).join("golden.safetensors"), &Device::Cpu);
    let row: Vec<i64> =
        golden.expect("golden")[tensor].get(0).and_then(|row| row.to_vec1()).expect("a row of integers");
    row.into_iter().map(|id| id as u32).collect()
}

pub fn load(dir: &tempfile::TempDir, dtype: DType, device: &Device) -> Generator {
    Generator::load(dir.path(), dtype, device, &|_, _| {}).expect("the checkpoint")
}

pub fn answer(generator: &Generator, prompt: &[u32], count: usize, sampling: &SamplingOptions) -> Generation {
    let options =
        GenerateOptions { max_tokens: count, ignore_eos: true, sampling: sampling.clone(), ..Default::default() };
    generator.generate(prompt, &options, &AtomicBool::new(false), &mut |_| Ok(())).expect("an answer")
}

/// What the device was asked to do meanwhile.
pub fn counted<R>(npu: &NpuDevice, work: impl FnOnce() -> R) -> (R, Counters) {
    let before = npu.counters();
    let answer = work();
    (answer, npu.counters().since(&before))
}

pub const GREEDY: SamplingOptions =
    SamplingOptions { temperature: 0.0, top_k: 0, top_p: 1.0, min_p: 0.0, repetition_penalty: 1.0, seed: 0 };
