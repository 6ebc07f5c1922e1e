//! The golden steps of qwen2-tiny as an objective's batches, and devices to take them on.
#![allow(dead_code)]

pub mod prompts;

use anyhow::Result;
use candle_ascend::npu::NpuDevice;
use candle_ascend::{DType, Device, Tensor, safetensors};
use npu_train::{Batch, Batches, IGNORED, Ranks, Sample};
use std::collections::HashMap;
use std::path::PathBuf;

pub fn qwen2_tiny() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/qwen2-tiny")
}

/// Simulated NPU `index`: one a test, because a device's counters are shared by all who use it.
pub fn simulated(index: usize) -> Device {
    // Registers the simulator.
    npu_tests::simulated();
    Device::Npu(NpuDevice::simulated("", index).expect("the simulated NPU opens"))
}

/// What PyTorch computed: see `models/tests/training.rs`.
pub fn golden() -> HashMap<String, Tensor> {
    safetensors::load(qwen2_tiny().join("train/golden_train.safetensors"), &Device::Cpu).expect("the golden file")
}

pub fn numbers(golden: &HashMap<String, Tensor>, name: &str) -> Vec<f64> {
    let tensor = golden[name].to_dtype(DType::F64).expect("numbers");
    tensor.flatten_all().and_then(|flat| flat.to_vec1()).expect("numbers")
}

/// Ten steps of four samples, cut into `cut` batches a step, which the ranks take in turns.
pub struct GoldenSteps {
    pub samples: Vec<Vec<Sample>>,
    pub cut: usize,
    pub held_out: Vec<Batch>,
}

impl GoldenSteps {
    pub fn new(cut: usize) -> Self {
        let golden = golden();
        let rows = |name: &str| -> Vec<Vec<Vec<i64>>> { golden[name].to_vec3().expect("three dimensions") };
        let (ids, labels) = (rows("input_ids"), rows("labels"));
        let sample = |(tokens, labels): (Vec<i64>, Vec<i64>)| Sample {
            tokens: tokens.into_iter().map(|token| token as u32).collect(),
            labels,
        };
        let step = |(ids, labels): (Vec<Vec<i64>>, Vec<Vec<i64>>)| ids.into_iter().zip(labels).map(sample).collect();
        Self { samples: ids.into_iter().zip(labels).map(step).collect(), cut, held_out: Vec::new() }
    }
}

impl Batches for GoldenSteps {
    fn of_step(&mut self, step: usize, ranks: &Ranks) -> Result<Vec<Batch>> {
        let samples = &self.samples[step % self.samples.len()];
        let batches = samples.chunks(samples.len() / self.cut).map(|part| Batch::new(part.to_vec()));
        Ok(batches.skip(ranks.rank()).step_by(ranks.size()).collect())
    }

    fn held_out(&mut self, _: &Ranks) -> Result<Vec<Batch>> {
        Ok(self.held_out.clone())
    }

    fn epoch(&self, step: usize) -> Option<f64> {
        Some(step as f64 / self.samples.len() as f64)
    }
}

/// A sample that is learnt from its second token on.
pub fn sample(tokens: &[u32]) -> Sample {
    let label = |(i, token): (usize, &u32)| if i == 0 { IGNORED } else { i64::from(*token) };
    Sample { tokens: tokens.to_vec(), labels: tokens.iter().enumerate().map(label).collect() }
}
