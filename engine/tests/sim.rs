//! Generations on the simulated NPU: the tokens of transformers and of the CPU, and what the NPU was asked to do for them.

mod common;

use candle_ascend::acl::Counters;
use candle_ascend::{DType, Device};
use common::{GREEDY, answer, checkpoint, counted, golden, load, npu};
use npu_engine::{GenerateOptions, SamplingOptions};
use std::sync::atomic::AtomicBool;

#[test]
fn greedy_tokens_are_those_of_transformers_at_one_call_each() {
    let npu = npu(0);
    let device = Device::Npu(npu.clone());
    let prompt = golden("qwen2-tiny", "input_ids");
    let dir = checkpoint("qwen2-tiny", 3);
    for dtype in [DType::F32, DType::BF16] {
        let generator = load(&dir, dtype, &device);
        // The first answer makes what all need: tables, memory.
        let short = answer(&generator, &prompt, 16, &GREEDY);
        if dtype == DType::F32 {
            assert_eq!(short.tokens, golden("qwen2-tiny", "greedy"));
        }
        let (_, few) = counted(&npu, || answer(&generator, &prompt, 16, &GREEDY));
        assert_eq!(few.mallocs, 0, "{}: device allocations of a second answer", dtype.as_str());
        let (long, many) = counted(&npu, || answer(&generator, &prompt, 48, &GREEDY));
        assert_eq!(long.tokens[..16], short.tokens, "{}", dtype.as_str());
        println!("{}: {}\n{few:?}\n{many:?}", dtype.as_str(), long.stats);
        // Beyond the capture, which both answers pay, a token is one start of the graph, one wait, and the eight bytes of
        // the token and its logit.
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
        assert_eq!(more, token(32), "{}: what 32 tokens more cost", dtype.as_str());
        assert!(long.stats.peak_memory_bytes.is_some_and(|bytes| bytes > 200_000), "{:?}", long.stats);
    }
}

#[test]
fn enforced_eager_launches_every_operator_and_gives_the_same_tokens() {
    let npu = npu(4);
    let generator = load(&checkpoint("qwen2-tiny", 2), DType::BF16, &Device::Npu(npu.clone()));
    let prompt = golden("qwen2-tiny", "input_ids");
    let options = GenerateOptions { max_tokens: 8, ignore_eos: true, ..Default::default() };
    let run = |enforce_eager| {
        let options = GenerateOptions { enforce_eager, ..options.clone() };
        generator.generate(&prompt, &options, &AtomicBool::new(false), &mut |_| Ok(())).expect("an answer")
    };
    let (graphs, _) = counted(&npu, || run(false));
    let (eager, counters) = counted(&npu, || run(true));
    assert_eq!(eager.tokens, graphs.tokens);
    assert_eq!((counters.replays, counters.captured_launches), (0, 0));
    let (with, without) = (graphs.stats.per_token.expect("counted"), eager.stats.per_token.expect("counted"));
    assert!(with.replays > 0.0 && without.launches > with.launches, "{with:?} {without:?}");
}

#[test]
fn a_layer_is_at_most_twelve_launches() {
    let npu = npu(1);
    let device = Device::Npu(npu.clone());
    println!("launches of a decoder layer and token, by the difference that one layer makes");
    for name in ["qwen2-tiny", "qwen3-tiny", "llama-tiny"] {
        let prompt = golden(name, "input_ids");
        for dtype in [DType::BF16, DType::F32] {
            let captured = |layers: usize| {
                let generator = load(&checkpoint(name, layers), dtype, &device);
                counted(&npu, || answer(&generator, &prompt, 4, &GREEDY)).1.captured_launches
            };
            let launches = captured(2) - captured(1);
            println!("{name:<11} {:<5} {launches}", dtype.as_str());
            // In f32 CANN has no fused attention: two products, scale, mask and softmax stand in its place.
            let most = if dtype == DType::BF16 { 12 } else { 17 };
            assert!((8..=most).contains(&launches), "{name} {}: {launches} launches", dtype.as_str());
        }
    }
}

#[test]
fn long_and_sampled_answers_are_those_of_the_cpu() {
    let device = Device::Npu(npu(2));
    let dir = checkpoint("qwen2-tiny", 3);
    let (cpu, npu) = (load(&dir, DType::F32, &Device::Cpu), load(&dir, DType::F32, &device));
    let prompt = golden("qwen2-tiny", "input_ids");
    // Past the 256 positions that a cache begins with: the graph is captured anew over a larger one.
    let count = 264 - prompt.len();
    let sampled = SamplingOptions { temperature: 0.7, top_k: 20, seed: 11, ..GREEDY };
    let penalised = SamplingOptions { repetition_penalty: 1.3, ..GREEDY };
    for (sampling, count) in [(&GREEDY, count), (&sampled, 24), (&penalised, 24)] {
        let (wanted, got) = (answer(&cpu, &prompt, count, sampling), answer(&npu, &prompt, count, sampling));
        assert_eq!(got.tokens, wanted.tokens, "{sampling:?}");
    }
}

#[test]
fn rows_are_continued_together() {
    let device = Device::Npu(npu(3));
    let dir = checkpoint("llama-tiny", 3);
    let prompt = golden("llama-tiny", "input_ids");
    let rows = [prompt[..8].to_vec(), prompt[8..16].to_vec(), prompt[4..12].to_vec()];
    let continued = |device: &Device| {
        let generator = load(&dir, DType::F32, device);
        npu_engine::continue_greedily(generator.model(), &rows, 12, device).expect("answers")
    };
    assert_eq!(continued(&device), continued(&Device::Cpu));
}
