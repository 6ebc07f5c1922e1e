//! The fixtures of `tests/fixtures`, and greedy decoding in its plainest form.
#![allow(dead_code)]

use candle_ascend::npu::NpuDevice;
use candle_ascend::{DType, Device, Tensor};
use cann_sim::Embedded;
use npu_models::{CausalLm, Logits};
use safetensors::SafeTensors;
use std::path::PathBuf;
use std::sync::{Arc, Once};

/// The models that transformers computed golden files for.
pub const MODELS: [&str; 5] = ["qwen2-tiny", "qwen3-tiny", "llama-tiny", "qwen3-moe-tiny", "deepseek-v3-tiny"];

/// Checkpoints that take other ways through the same models (`deepseek.py` beside them says which): FP8 in shards with a layer for
/// further predictions behind the last one; and queries without a latent, several dense layers, YaRN's scales apart.
pub const VARIANTS: [&str; 2] = ["deepseek-v3-fp8-tiny", "deepseek-v3-direct-tiny"];

/// Those of [`MODELS`] without experts, which have GGUF files.
pub const DENSE: [&str; 3] = ["qwen2-tiny", "qwen3-tiny", "llama-tiny"];

/// Whether a model routes its tokens: near a tie the choice of experts flips at a rounding, in PyTorch's own runs too.
pub fn routes(name: &str) -> bool {
    !DENSE.contains(&name)
}

pub struct Fixture {
    pub name: String,
    pub dir: PathBuf,
    pub input_ids: Vec<Vec<u32>>,
    /// `[B, T, V]` row-major.
    pub logits: Vec<f32>,
    pub vocab: usize,
    /// Tokens that greedy decoding appends to the first row.
    pub greedy: Vec<u32>,
}

pub fn dir(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures").join(name)
}

impl Fixture {
    pub fn read(name: &str) -> Self {
        let dir = dir(name);
        let bytes = std::fs::read(dir.join("golden.safetensors")).expect("golden.safetensors");
        let file = SafeTensors::deserialize(&bytes).expect("a golden file");
        let integers = |name: &str| -> Vec<u32> {
            let data = file.tensor(name).expect("a golden tensor").data().to_vec();
            data.chunks(8).map(|b| i64::from_le_bytes(b.try_into().expect("eight bytes")) as u32).collect()
        };
        let logits = file.tensor("logits").expect("logits");
        let [_, length, vocab] = *logits.shape() else { panic!("logits of shape {:?}", logits.shape()) };
        let values = logits.data().chunks(4).map(|b| f32::from_le_bytes(b.try_into().expect("four bytes"))).collect();
        let input_ids = integers("input_ids").chunks(length).map(<[u32]>::to_vec).collect();
        Self { name: name.into(), dir, input_ids, logits: values, vocab, greedy: integers("greedy") }
    }
}

/// The index of the largest value, the first of equals.
pub fn argmax(values: &[f32]) -> usize {
    (0..values.len()).fold(0, |best, i| if values[i] > values[best] { i } else { best })
}

/// The `count` tokens that follow `prompt`, the likeliest each time.
pub fn greedy(model: &dyn CausalLm, prompt: &[u32], count: usize, device: &Device) -> anyhow::Result<Vec<u32>> {
    let mut cache = model.new_cache();
    let mut next = prompt.to_vec();
    let mut tokens = Vec::new();
    while tokens.len() < count {
        let ids = Tensor::from_slice(&next, (1, next.len()), device)?;
        let logits = model.forward(&ids, &mut cache, Logits::Last)?;
        let logits: Vec<f32> = logits.to_dtype(DType::F32)?.flatten_all()?.to_vec1()?;
        next = vec![argmax(&logits) as u32];
        tokens.extend(&next);
    }
    Ok(tokens)
}

/// The simulated NPU of this process.
pub fn simulated() -> Device {
    static REGISTER: Once = Once::new();
    REGISTER.call_once(|| {
        candle_ascend::register_simulator(|soc| {
            let source = Embedded::for_soc(soc)?;
            Ok(Arc::new(source))
        });
    });
    Device::Npu(NpuDevice::simulated("", 0).expect("the simulated NPU opens"))
}
