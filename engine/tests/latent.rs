//! Latent attention of DeepSeek-V3's own widths on the simulated NPU, where one operator does what stands before attention and another
//! does attention: how many launches a layer is, and that the numbers are those of the composed way.

mod common;

use candle_ascend::ops::{Kernels, with_kernels};
use candle_ascend::{DType, Device, Tensor};
use common::{GREEDY, answer, counted, npu};
use npu_engine::{GenerateOptions, Generator, RolloutOptions, sample_groups};
use npu_models::{Config, Loaded, Logits, Random, load_from};
use std::sync::atomic::AtomicBool;

/// DeepSeek-V3 with attention of its widths but two heads, and few narrow experts.
fn config(layers: usize) -> Config {
    let text = serde_json::json!({
        "architectures": ["DeepseekV3ForCausalLM"], "model_type": "deepseek_v3", "hidden_act": "silu",
        "hidden_size": 7168, "q_lora_rank": 1536, "kv_lora_rank": 512, "qk_nope_head_dim": 128, "qk_rope_head_dim": 64,
        "v_head_dim": 128, "num_attention_heads": 2, "num_key_value_heads": 2, "vocab_size": 96, "intermediate_size": 64,
        "n_routed_experts": 12, "n_shared_experts": 1, "num_experts_per_tok": 3, "moe_intermediate_size": 32, "n_group": 4,
        "topk_group": 2, "norm_topk_prob": true, "routed_scaling_factor": 2.5, "scoring_func": "sigmoid",
        "topk_method": "noaux_tc", "first_k_dense_replace": 1, "num_hidden_layers": layers, "rms_norm_eps": 1e-6,
        "rope_theta": 10000.0, "max_position_embeddings": 1024, "tie_word_embeddings": false
    });
    Config::from_json(&text.to_string()).expect("a configuration")
}

fn load(layers: usize, dtype: DType, device: &Device) -> Loaded {
    let config = config(layers);
    let weights = Random::new(&config, dtype, 11, &Device::Cpu).expect("weights");
    load_from(config, &weights, dtype, device, &|_, _| {}).expect("the model")
}

fn generator(layers: usize, device: &Device) -> Generator {
    Generator::without_text(load(layers, DType::BF16, device), device, 0.0)
}

const PROMPT: [u32; 7] = [5, 80, 33, 2, 61, 17, 44];

#[test]
fn a_layer_with_experts_is_at_most_fourteen_launches() {
    let npu = npu(0);
    let device = Device::Npu(npu.clone());
    let generators = [2, 3].map(|layers| generator(layers, &device));
    for (kernels, most) in [(Kernels::Aclnn, 13), (Kernels::Ours, 14)] {
        let [few, many] = generators.each_ref().map(|generator| {
            with_kernels(kernels, || counted(&npu, || answer(generator, &PROMPT, 4, &GREEDY)).1.captured_launches)
        });
        let launches = many - few;
        println!("{launches} launches of a layer with experts and token, --kernels {kernels}");
        assert!((10..=most).contains(&launches), "{kernels}: {launches} launches");
    }
}

#[test]
fn tokens_are_those_of_the_composed_way() {
    let device = Device::Npu(npu(1));
    let (on_npu, on_cpu) = (generator(2, &device), generator(2, &Device::Cpu));
    let captured = answer(&on_npu, &PROMPT, 12, &GREEDY);
    let options = GenerateOptions { max_tokens: 12, ignore_eos: true, enforce_eager: true, ..Default::default() };
    let eager = on_npu.generate(&PROMPT, &options, &AtomicBool::new(false), &mut |_| Ok(())).expect("an answer");
    assert_eq!(eager.tokens, captured.tokens, "operator by operator");
    for kernels in [Kernels::Ours, Kernels::Plain] {
        let other = with_kernels(kernels, || answer(&on_npu, &PROMPT, 12, &GREEDY));
        assert_eq!(other.tokens, captured.tokens, "--kernels {kernels}");
    }
    assert_eq!(answer(&on_cpu, &PROMPT, 12, &GREEDY).tokens, captured.tokens, "the CPU");
    // Two sequences in one captured step, whose places are counted over both.
    let options = RolloutOptions { copies: 2, max_tokens: 12, sampling: GREEDY, ends: Vec::new(), max_rows: 2 };
    let copies = sample_groups(on_npu.model(), &device, &[PROMPT.to_vec()], &options, &|_, _| 1).expect("completions");
    assert!(copies[0].iter().all(|copy| copy.tokens == captured.tokens), "{copies:?}");
}

fn logits(tensor: &Tensor) -> Vec<f32> {
    tensor
        .to_dtype(DType::F32)
        .and_then(|tensor| tensor.flatten_all())
        .and_then(|tensor| tensor.to_vec1())
        .expect("logits")
}

/// Several sequences share the caches: their rows are counted over all of them.
#[test]
fn steps_of_several_sequences_equal_passes() {
    let device = Device::Npu(npu(2));
    let model = load(2, DType::BF16, &device).model;
    let rows = 3u32;
    let ids = |tokens: Vec<u32>| Tensor::from_vec(tokens, (rows as usize, 7), &device).expect("ids");
    let prompt = ids((0..rows * 7).map(|i| (i * 37 + 11) % 96).collect());
    let (mut passes, mut steps) = (model.new_cache(), model.new_cache());
    for cache in [&mut passes, &mut steps] {
        model.forward(&prompt, cache, Logits::Last).expect("the prompt");
    }
    let mut most = 0f32;
    for token in 0..3u32 {
        let ids = Tensor::from_vec((0..rows).map(|row| 9 + token * 20 + row).collect(), (rows as usize, 1), &device);
        let ids = ids.expect("ids");
        let positions = Tensor::full(steps.len() as i64, rows as usize, &device).expect("positions");
        steps.reserve(1).expect("room");
        let step = model.step(&ids, &positions, &mut steps).expect("a step").expect("the model has steps");
        steps.advance(1);
        let pass = model.forward(&ids, &mut passes, Logits::Last).expect("a pass");
        let (step, pass) = (logits(&step), logits(&pass));
        most = step.iter().zip(&pass).map(|(a, b)| (a - b).abs()).fold(most, f32::max);
        println!("largest logit {:.2}, apart {most:.1e}", step.iter().fold(0f32, |most, x| most.max(x.abs())));
    }
    // A few units of bf16's eight bits at logits of up to four.
    assert!(most <= 0.1, "steps and passes are {most} apart");
}
