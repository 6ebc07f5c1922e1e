//! Loading a checkpoint takes its size and little more: no part is held twice, in no memory. A test binary of its own,
//! because it measures this process.

mod common;

use candle_ascend::npu::NpuDevice;
use candle_ascend::{DType, Device};
use common::simulated;
use safetensors::tensor::{Dtype, TensorView};
use std::fs;
use std::path::Path;

const HIDDEN: usize = 1024;
const INNER: usize = 4096;
const LAYERS: usize = 6;
const VOCABULARY: usize = 12_288;
const KV: usize = 256;

/// A Qwen2 of about 170 MB in bf16, all weights alike: what they are does not matter here. With `fp8` the matrices of its layers are
/// FP8. Gives the bytes that it takes in bf16.
fn checkpoint(dir: &Path, fp8: bool) -> usize {
    let mut shapes = vec![
        ("model.embed_tokens.weight".to_owned(), vec![VOCABULARY, HIDDEN]),
        ("model.norm.weight".to_owned(), vec![HIDDEN]),
    ];
    for layer in 0..LAYERS {
        let mut add =
            |name: &str, shape: &[usize]| shapes.push((format!("model.layers.{layer}.{name}"), shape.to_vec()));
        for (projection, out) in [("q", HIDDEN), ("k", KV), ("v", KV)] {
            add(&format!("self_attn.{projection}_proj.weight"), &[out, HIDDEN]);
            add(&format!("self_attn.{projection}_proj.bias"), &[out]);
        }
        add("self_attn.o_proj.weight", &[HIDDEN, HIDDEN]);
        for projection in ["gate", "up"] {
            add(&format!("mlp.{projection}_proj.weight"), &[INNER, HIDDEN]);
        }
        add("mlp.down_proj.weight", &[HIDDEN, INNER]);
        add("input_layernorm.weight", &[HIDDEN]);
        add("post_attention_layernorm.weight", &[HIDDEN]);
    }
    let elements = |shape: &[usize]| shape.iter().product::<usize>();
    let wide = shapes.iter().map(|(_, shape)| 2 * elements(shape)).sum();
    let mut rows: Vec<(String, Dtype, Vec<usize>)> = Vec::new();
    for (name, shape) in shapes {
        let quantised = fp8 && shape.len() == 2 && name.contains("layers");
        if quantised {
            let grid = shape.iter().map(|size| size.div_ceil(128)).collect();
            rows.push((format!("{name}_scale_inv"), Dtype::F32, grid));
        }
        rows.push((name, if quantised { Dtype::F8_E4M3 } else { Dtype::BF16 }, shape));
    }
    // 0.0078125 in bf16, about as much in F32, 0 and 1.5 in FP8, and no zero page anywhere.
    let data = [0x00u8, 0x3c].repeat(VOCABULARY * HIDDEN);
    let views = rows.iter().map(|(name, dtype, shape)| {
        let size = elements(shape) * dtype.bitsize() / 8;
        (name.as_str(), TensorView::new(*dtype, shape.clone(), &data[..size]).expect("a view"))
    });
    safetensors::serialize_to_file(views, None, &dir.join("model.safetensors")).expect("written");
    let mut config = serde_json::json!({
        "architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2", "hidden_act": "silu", "hidden_size": HIDDEN,
        "intermediate_size": INNER, "num_hidden_layers": LAYERS, "num_attention_heads": 16,
        "num_key_value_heads": 4, "max_position_embeddings": 4096, "rms_norm_eps": 1e-6, "rope_theta": 10000.0,
        "vocab_size": VOCABULARY, "tie_word_embeddings": true, "torch_dtype": "bfloat16"
    });
    if fp8 {
        config["quantization_config"] =
            serde_json::json!({"quant_method": "fp8", "fmt": "e4m3", "weight_block_size": [128, 128]});
    }
    fs::write(dir.join("config.json"), config.to_string()).expect("written");
    wide
}

/// Bytes of a line of the kernel's report on this process.
fn status(line: &str) -> Option<usize> {
    let text = fs::read_to_string("/proc/self/status").ok()?;
    let value = text.lines().find_map(|found| found.strip_prefix(line))?;
    Some(value.trim().strip_suffix("kB")?.trim().parse::<usize>().ok()? * 1024)
}

/// Tables and caches of the allocators, and what a part of a merged matrix takes until it is in its place.
fn most(stored: usize) -> usize {
    stored / 10 * 11
}

/// In one test, as both measure this process.
#[test]
fn loading_takes_the_size_of_the_model_and_a_tenth() {
    let first = simulated();
    let second = Device::Npu(NpuDevice::simulated("", 1).expect("a second simulated NPU"));
    loading_takes(true, second);
    loading_takes(false, first);
}

fn loading_takes(fp8: bool, device: Device) {
    let dir = tempfile::tempdir().expect("a folder");
    let stored = checkpoint(dir.path(), fp8);
    assert!(stored > 150 << 20, "{stored} bytes");

    // The mark of the kernel starts anew from here: the data of the checkpoint was made in this process.
    let marked = fs::write("/proc/self/clear_refs", "5").is_ok().then(|| status("VmRSS:")).flatten();
    let loaded = npu_models::load(dir.path(), DType::BF16, &Device::Cpu, &|_, _| {}).expect("loads");
    match (marked, status("VmHWM:")) {
        (Some(before), Some(peak)) => {
            let taken = peak.saturating_sub(before);
            println!("cpu: fp8 {fp8}, model {} MiB, peak {} MiB more than before", stored >> 20, taken >> 20);
            assert!(taken >= stored / 2 && taken <= most(stored), "cpu: {taken} bytes for {stored}");
        }
        _ => println!("NOT RUN: this system does not tell a process its high-water mark"),
    }
    drop(loaded);

    let Device::Npu(npu) = device else { panic!("the simulated NPU is an NPU") };
    let loaded = npu_models::load(dir.path(), DType::BF16, &Device::Npu(npu.clone()), &|_, _| {}).expect("loads");
    let info = npu.memory_info().expect("memory");
    println!("npu: in use at most {} MiB, taken from the device {} MiB", info.peak >> 20, info.reserved >> 20);
    assert!(info.peak >= stored && info.peak <= most(stored), "npu: {} bytes in use for {stored}", info.peak);
    assert!(info.reserved <= most(stored), "npu: {} bytes taken for {stored}", info.reserved);
    assert_eq!(npu.counters().frees, 0, "what was taken meanwhile was not given back either");
    drop(loaded);
}
