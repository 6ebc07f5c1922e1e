//! Loading a checkpoint takes its size and little more: no part is held twice, in no memory. A test binary of its own,
//! because it measures this process.

mod common;

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

/// A Qwen2 of about 170 MB in bf16, all weights alike: what they are does not matter here.
fn checkpoint(dir: &Path) -> usize {
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
    let sizes: Vec<usize> = shapes.iter().map(|(_, shape)| 2 * shape.iter().product::<usize>()).collect();
    // 0.0078125 in bf16, and no zero page anywhere.
    let data = [0x00u8, 0x3c].repeat(sizes.iter().max().expect("tensors") / 2);
    let views = shapes.iter().zip(&sizes).map(|((name, shape), &size)| {
        (name.as_str(), TensorView::new(Dtype::BF16, shape.clone(), &data[..size]).expect("a view"))
    });
    safetensors::serialize_to_file(views, None, &dir.join("model.safetensors")).expect("written");
    let config = serde_json::json!({
        "architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2", "hidden_act": "silu", "hidden_size": HIDDEN,
        "intermediate_size": INNER, "num_hidden_layers": LAYERS, "num_attention_heads": 16,
        "num_key_value_heads": 4, "max_position_embeddings": 4096, "rms_norm_eps": 1e-6, "rope_theta": 10000.0,
        "vocab_size": VOCABULARY, "tie_word_embeddings": true, "torch_dtype": "bfloat16"
    });
    fs::write(dir.join("config.json"), config.to_string()).expect("written");
    sizes.iter().sum()
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

#[test]
fn loading_takes_the_size_of_the_checkpoint_and_a_tenth() {
    let dir = tempfile::tempdir().expect("a folder");
    let stored = checkpoint(dir.path());
    assert!(stored > 150 << 20, "{stored} bytes");

    // The mark of the kernel starts anew from here: the data of the checkpoint was made in this process.
    let marked = fs::write("/proc/self/clear_refs", "5").is_ok().then(|| status("VmRSS:")).flatten();
    let loaded = npu_models::load(dir.path(), DType::BF16, &Device::Cpu, &|_, _| {}).expect("loads");
    match (marked, status("VmHWM:")) {
        (Some(before), Some(peak)) => {
            let taken = peak.saturating_sub(before);
            println!("cpu: checkpoint {} MiB, peak {} MiB more than before", stored >> 20, taken >> 20);
            assert!(taken >= stored / 2 && taken <= most(stored), "cpu: {taken} bytes for {stored}");
        }
        _ => println!("NOT RUN: this system does not tell a process its high-water mark"),
    }
    drop(loaded);

    let Device::Npu(npu) = simulated() else { panic!("the simulated NPU is an NPU") };
    let loaded = npu_models::load(dir.path(), DType::BF16, &Device::Npu(npu.clone()), &|_, _| {}).expect("loads");
    let info = npu.memory_info().expect("memory");
    println!("npu: in use at most {} MiB, taken from the device {} MiB", info.peak >> 20, info.reserved >> 20);
    assert!(info.peak >= stored && info.peak <= most(stored), "npu: {} bytes in use for {stored}", info.peak);
    assert!(info.reserved <= most(stored), "npu: {} bytes taken for {stored}", info.reserved);
    assert_eq!(npu.counters().frees, 0, "what was taken meanwhile was not given back either");
    drop(loaded);
}
