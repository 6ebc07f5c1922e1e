//! Models with experts on the simulated NPU: one call a token, and a routing that the host never sees.

mod common;

use candle_ascend::acl::{Counters, launched};
use candle_ascend::ops::{Kernels, with_kernels};
use candle_ascend::{DType, Device};
use common::{GREEDY, answer, checkpoint, counted, golden, load, npu};
use npu_engine::GenerateOptions;
use std::path::Path;
use std::sync::atomic::AtomicBool;

const MODELS: [&str; 2] = ["qwen3-moe-tiny", "deepseek-v3-tiny"];

#[test]
fn greedy_tokens_are_those_of_transformers_at_one_call_each() {
    let npu = npu(0);
    let device = Device::Npu(npu.clone());
    for (name, layers) in MODELS.into_iter().zip([3, 4]) {
        let prompt = golden(name, "input_ids");
        let dir = checkpoint(name, layers);
        for dtype in [DType::F32, DType::BF16] {
            let generator = load(&dir, dtype, &device);
            let short = answer(&generator, &prompt, 16, &GREEDY);
            if dtype == DType::F32 {
                assert_eq!(short.tokens, golden(name, "greedy"), "{name}");
            }
            // The pool has what both need after the second.
            answer(&generator, &prompt, 48, &GREEDY);
            let (_, few) = counted(&npu, || answer(&generator, &prompt, 16, &GREEDY));
            assert_eq!(few.mallocs, 0, "{name} {}: device allocations of a third answer", dtype.as_str());
            let (long, many) = counted(&npu, || answer(&generator, &prompt, 48, &GREEDY));
            assert_eq!(long.tokens[..16], short.tokens, "{name} {}", dtype.as_str());
            // A token is one start of the graph, one wait, and the eight bytes of the token and its logit: nothing of the
            // routing comes to the host.
            let more = many.since(&few);
            let token = |count: u64| Counters {
                replays: count,
                replayed_launches: count * many.captured_launches,
                host_syncs: count,
                bytes_to_host: 8 * count,
                timed_calls: count,
                timed_host_nanos: more.timed_host_nanos,
                ..Counters::default()
            };
            assert_eq!(more, token(32), "{name} {}: what 32 tokens more cost", dtype.as_str());
            // Operator by operator the same tokens.
            let options =
                GenerateOptions { max_tokens: 16, ignore_eos: true, enforce_eager: true, ..Default::default() };
            let eager = generator.generate(&prompt, &options, &AtomicBool::new(false), &mut |_| Ok(()));
            assert_eq!(eager.expect("an answer").tokens, short.tokens, "{name} {}", dtype.as_str());
        }
    }
}

/// Attention and norms included.
#[test]
fn a_layer_with_experts_is_few_launches() {
    let npu = npu(1);
    let device = Device::Npu(npu.clone());
    println!("launches of a layer with experts and token, by the difference that one layer makes");
    // Latent attention has no fused operator of these widths (`latent.rs` has those that it has one for), and brings a shared expert; in
    // f32 no attention has one.
    for (name, most) in [("qwen3-moe-tiny", [14, 18]), ("deepseek-v3-tiny", [32, 28])] {
        let prompt = golden(name, "input_ids");
        for (dtype, most) in [DType::BF16, DType::F32].into_iter().zip(most) {
            // The first layer may have no experts.
            let captured = |layers: usize| {
                let generator = load(&checkpoint(name, layers), dtype, &device);
                counted(&npu, || answer(&generator, &prompt, 4, &GREEDY)).1.captured_launches
            };
            let launches = captured(3) - captured(2);
            println!("{name:<16} {:<5} {launches}", dtype.as_str());
            assert!((10..=most).contains(&launches), "{name} {}: {launches} launches", dtype.as_str());
        }
    }
}

/// Gate, up and SwiGLU of all experts are one launch of ours, where aclnn's are two.
#[test]
fn our_kernels_take_an_experts_gate_and_up_in_one_launch() {
    let npu = npu(4);
    let device = Device::Npu(npu.clone());
    let (prompt, dir) = (golden("qwen3-moe-tiny", "input_ids"), checkpoint("qwen3-moe-tiny", 1));
    let generator = load(&dir, DType::BF16, &device);
    let of_experts = |kernels: Kernels| {
        let (_, launched) = launched(|| with_kernels(kernels, || answer(&generator, &prompt, 2, &GREEDY)));
        let count = |begin: &str| launched.iter().filter(|name| name.starts_with(begin)).count();
        ["GroupedMatmul", "SwiGlu", "grouped_matmul_bf16", "grouped_matmul_swiglu_bf16"].map(count)
    };
    // The prompt's pass, and a step, once for the capture and not counted again.
    assert_eq!(of_experts(Kernels::Aclnn), [4, 2, 0, 0]);
    assert_eq!(of_experts(Kernels::Ours), [0, 0, 2, 2]);
    // Of a layer: two norms, the turn of heads with the cache's write, attention, the choice, both ways of rows and both products
    // are a kernel of ours each; the projections and the router are aclnn's.
    let captured = |layers: usize| {
        let generator = load(&checkpoint("qwen3-moe-tiny", layers), DType::BF16, &device);
        let answered = || with_kernels(Kernels::Ours, || answer(&generator, &prompt, 4, &GREEDY));
        counted(&npu, answered).1.captured_launches
    };
    assert_eq!(captured(3) - captured(2), 12);
}

#[test]
fn tokens_are_counted_on_the_device_and_read_at_the_end() {
    let npu = npu(2);
    let device = Device::Npu(npu.clone());
    for (name, layers, per_token, experts) in [("qwen3-moe-tiny", 3, 2, 3), ("deepseek-v3-tiny", 4, 4, 3)] {
        let prompt = golden(name, "input_ids");
        let dir = checkpoint(name, layers);
        let [on_npu, on_cpu] = [&device, &Device::Cpu].map(|device| {
            let generator = load(&dir, DType::F32, device);
            let model = generator.model();
            answer(&generator, &prompt, 4, &GREEDY);
            assert!(model.expert_tokens().expect("none").iter().all(|layer| layer.imbalance().is_none()));
            model.count_expert_tokens().expect("counting");
            answer(&generator, &prompt, 12, &GREEDY);
            model.expert_tokens().expect("counts")
        });
        assert_eq!(on_npu, on_cpu, "{name}");
        assert_eq!(on_npu.len(), experts, "{name}: layers with experts");
        for layer in on_npu {
            // The last token is drawn and not computed.
            assert_eq!(layer.tokens.iter().sum::<u64>(), (per_token * (prompt.len() + 11)) as u64, "{name} {layer:?}");
            assert!(layer.imbalance().expect("tokens") >= 1.0);
        }
    }
    // Counting costs launches, and no reading.
    let generator = load(&checkpoint("qwen3-moe-tiny", 3), DType::BF16, &device);
    let prompt = golden("qwen3-moe-tiny", "input_ids");
    let costs = || {
        answer(&generator, &prompt, 16, &GREEDY);
        let (_, few) = counted(&npu, || answer(&generator, &prompt, 16, &GREEDY));
        let (_, many) = counted(&npu, || answer(&generator, &prompt, 24, &GREEDY));
        let more = many.since(&few);
        (more.replays, more.host_syncs, more.bytes_to_host, more.launches)
    };
    let uncounted = costs();
    generator.model().count_expert_tokens().expect("counting");
    assert_eq!(costs(), uncounted);
    assert_eq!(uncounted, (8, 8, 64, 0));
}

/// The checkpoint with not-a-number in the first element of a tensor.
fn spoil(dir: &Path, tensor: &str) {
    let path = dir.join("model.safetensors");
    let mut bytes = std::fs::read(&path).expect("weights");
    let length = u64::from_le_bytes(bytes[..8].try_into().expect("eight bytes")) as usize;
    let header: serde_json::Value = serde_json::from_slice(&bytes[8..8 + length]).expect("a header");
    let start = header[tensor]["data_offsets"][0].as_u64().expect("a tensor of this name") as usize;
    // In bf16.
    let nan = 0x7fc0u16.to_le_bytes();
    bytes[8 + length + start..][..nan.len()].copy_from_slice(&nan);
    std::fs::write(path, bytes).expect("written");
}

#[test]
fn routing_that_is_no_number_is_named() {
    let prompt = golden("qwen3-moe-tiny", "input_ids");
    let dir = checkpoint("qwen3-moe-tiny", 3);
    spoil(dir.path(), "model.layers.1.mlp.gate.weight");
    for (device, says) in [
        (Device::Cpu, &["the experts of model.layers.1.mlp", "expert 0 in row 0 is not a number"][..]),
        (Device::Npu(npu(3)), &["aclnnMoeGatingTopKSoftmaxV2", "is not a number in row 0 at expert 0"]),
    ] {
        let generator = load(&dir, DType::BF16, &device);
        let options = GenerateOptions { max_tokens: 4, ..Default::default() };
        let error = generator.generate(&prompt, &options, &AtomicBool::new(false), &mut |_| Ok(()));
        let error = format!("{:#}", error.expect_err("an error"));
        assert!(says.iter().all(|word| error.contains(word)), "{error}");
    }
}
