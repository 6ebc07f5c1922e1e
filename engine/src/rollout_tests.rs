//! Completions in batches against completions alone, on the CPU and on the simulated NPU.

use super::*;
use npu_models::Logits;
use std::path::PathBuf;

fn simulated() -> Device {
    Device::Npu(npu_tests::simulated())
}

/// The fixture with a context of `context` tokens.
fn model_of(context: usize, device: &Device) -> Box<dyn CausalLm> {
    let dir = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/qwen2-tiny");
    let config = npu_models::Config::from_dir(&dir).expect("config.json");
    let config = npu_models::Config { max_position_embeddings: context, ..config };
    let weights = npu_models::Weights::open(&dir, &config).expect("weights");
    npu_models::load_from(config, &weights, candle_ascend::DType::F32, device, &|_, _| {}).expect("the fixture").model
}

fn model(device: &Device) -> Box<dyn CausalLm> {
    model_of(64, device)
}

fn options(copies: usize, max_tokens: usize, ends: &[u32]) -> RolloutOptions {
    let sampling = SamplingOptions { temperature: 1.0, ..Default::default() };
    RolloutOptions { copies, max_tokens, sampling, ends: ends.to_vec(), max_rows: 8 }
}

/// The completion of one prompt by whole passes without a cache: the plainest way there is.
fn alone(model: &dyn CausalLm, device: &Device, prompt: &[u32], seed: u64, options: &RolloutOptions) -> Vec<u32> {
    let mut sampler = Sampler::new(SamplingOptions { seed, ..options.sampling.clone() }).expect("a sampler");
    let mut tokens = prompt.to_vec();
    while tokens.len() - prompt.len() < options.max_tokens {
        let ids = candle_ascend::Tensor::from_slice(&tokens, (1, tokens.len()), device).expect("ids");
        let logits = model.forward(&ids, &mut model.new_cache(), Logits::Last).expect("logits");
        let mut logits = logits.flatten_all().and_then(|l| l.to_vec1::<f32>()).expect("values");
        tokens.push(sampler.sample(&mut logits, &tokens).expect("a token"));
        if tokens.last().is_some_and(|token| options.ends.contains(token)) {
            break;
        }
    }
    tokens.split_off(prompt.len())
}

fn seed(prompt: usize, copy: usize) -> u64 {
    (prompt * 100 + copy) as u64
}

#[test]
fn each_completion_is_the_one_that_it_is_alone() {
    // Lengths that repeat and that do not, so that some prompts share a pass and some copies a batch.
    let prompts: Vec<Vec<u32>> = vec![vec![5, 6, 7], vec![9], vec![8, 7, 6], vec![1, 2, 3], vec![4; 5]];
    for device in [Device::Cpu, simulated()] {
        let model = model(&device);
        // An eighth of the vocabulary ends a completion: rows leave their batch at different times, and some stay.
        let ends: Vec<u32> = (0..model.config().vocab_size as u32).filter(|token| token % 8 == 0).collect();
        let options = options(4, 9, &ends);
        let groups = sample_groups(model.as_ref(), &device, &prompts, &options, &seed).expect("completions");
        let (mut ended, mut cut) = (0, 0);
        for (i, group) in groups.iter().enumerate() {
            assert_eq!(group.len(), 4);
            for (copy, completion) in group.iter().enumerate() {
                let wanted = alone(model.as_ref(), &device, &prompts[i], seed(i, copy), &options);
                assert_eq!(completion.tokens, wanted, "prompt {i}, copy {copy} on {}", device.kind());
                let is_end = options.ends.contains(completion.tokens.last().expect("a token"));
                assert_eq!(completion.truncated(), !is_end, "{completion:?}");
                ended += usize::from(is_end);
                cut += usize::from(!is_end);
            }
        }
        println!("{}: {ended} ended, {cut} cut", device.kind());
        assert!(ended >= 5 && cut >= 1, "the ends chosen make no difference: {ended} ended, {cut} cut");
        assert!(!groups[0].iter().all(|completion| completion == &groups[0][0]), "all copies are one");
    }
}

#[test]
fn the_context_ends_a_completion_and_bounds_a_prompt() {
    let device = Device::Cpu;
    let context = 12;
    let model = model_of(context, &device);
    let long = vec![3; context - 2];
    let groups = sample_groups(model.as_ref(), &device, &[long], &options(2, 9, &[]), &seed).expect("completions");
    // Two more positions, and the token after the last needs none.
    assert!(groups[0].iter().all(|c| c.tokens.len() == 3 && c.stop == StopReason::Context), "{groups:?}");
    for (prompt, says) in [(vec![], "0 tokens"), (vec![3; context + 1], "context holds"), (vec![9999], "prompt 1")] {
        let prompts = [vec![1], prompt];
        let error =
            sample_groups(model.as_ref(), &device, &prompts, &options(2, 9, &[]), &seed).expect_err("no prompt");
        assert!(format!("{error:#}").contains(says), "{error:#}");
    }
}

#[test]
fn a_greedy_group_is_one_completion() {
    let device = Device::Cpu;
    let model = model(&device);
    let options = RolloutOptions { sampling: SamplingOptions::default(), ..options(3, 5, &[]) };
    let group = &sample_groups(model.as_ref(), &device, &[vec![1, 2, 3]], &options, &seed).expect("completions")[0];
    let wanted = crate::continue_greedily(model.as_ref(), &[vec![1, 2, 3]], 5, &device).expect("a row");
    assert!(group.iter().all(|completion| completion.tokens == wanted[0]), "{group:?}");
}
