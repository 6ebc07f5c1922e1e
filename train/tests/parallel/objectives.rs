//! Objectives that do more than add up samples: several ranks come to what one rank with as much accumulation comes to.

use crate::common::prompts::{Even, home, sums};
use crate::common::{GoldenSteps, qwen2_tiny};
use crate::support::*;
use anyhow::Result;
use candle_ascend::{DType, Device};
use npu_engine::{RolloutOptions, SamplingOptions};
use npu_train::data::Length;
use npu_train::distill::{Distill, Distillation, OnPolicy, Teacher};
use npu_train::grpo::{Grpo, GrpoOptions, GrpoRun, Reference, ScaleRewards};
use npu_train::reward::Rewards;
use npu_train::{LogEntry, Objective, Plain, Policy, Ranks, Sharding, TrainOptions, Zero, train};
use std::path::Path;

/// The logs of a run, and the weights that it ended with.
struct Ran {
    log: Vec<LogEntry>,
    weights: Vec<Vec<f32>>,
}

/// Trains the checkpoint at `base` for some steps on `size` ranks, which must end with the same weights.
fn run<O: Objective>(
    (size, zero): (usize, Zero),
    base: &Path,
    steps: usize,
    make: impl Fn(&Policy, &Ranks) -> Result<O> + Sync,
) -> Ran {
    let mut all = succeed(size, |ranks, device| {
        let policy = Policy::full(base, DType::F32, device, &|_, _| {})?;
        let mut objective = make(&policy, ranks)?;
        if !ranks.leads() {
            // What the other ranks begin with is the first one's.
            let var = &policy.parameters[0].var;
            var.set(&(var.as_detached_tensor() * 2.)?)?;
        }
        let mut options = TrainOptions::new(steps, 1e-3);
        options.logging_steps = 1;
        options.sharding = Sharding { zero, bucket_bytes: 64 << 10 };
        let outcome = train(&policy, &mut objective, ranks, &options, &mut Plain)?;
        Ok(Ran { log: outcome.state.log_history, weights: weights(&policy)? })
    });
    let first = all.swap_remove(0);
    for other in &all {
        assert_eq!(apart(&other.weights, &first.weights), 0., "ranks of {size} differ");
    }
    first
}

/// Holds every number that is logged in a step, but those of time, against another run's.
fn compare(what: &str, got: &Ran, wanted: &Ran, names: &[&str]) {
    let numbers =
        |ran: &Ran, name: &str| -> Vec<f64> { ran.log.iter().filter_map(|entry| entry.get(name)?.as_f64()).collect() };
    let keys = wanted.log[0].keys().filter(|key| *key != "tokens_per_second").map(String::as_str);
    for name in keys.chain(names.iter().copied()) {
        let (got, wanted) = (numbers(got, name), numbers(wanted, name));
        println!("{what}: {name} {got:?}, one rank {wanted:?}");
        assert!(!wanted.is_empty() && got.len() == wanted.len(), "{what}: {name} {got:?}, one rank {wanted:?}");
        for (got, wanted) in got.iter().zip(&wanted) {
            // As for plain steps: F32, after sums in another order. What is larger than one counts relatively.
            let bound = 1e-5 * wanted.abs().max(1.);
            assert!((got - wanted).abs() <= bound, "{what}: {name} is {got}, on one rank {wanted}");
        }
    }
    // The bound of plain steps, for the same reason: AdamW makes a step of a rounding.
    let off = apart(&got.weights, &wanted.weights);
    assert!(off <= 1e-4, "{what}: weights off by {off}");
}

/// The fixture with every weight a tenth larger: one that has other opinions.
fn teacher(device: &Device) -> Result<Policy> {
    let teacher = Policy::full(&qwen2_tiny(), DType::F32, device, &|_, _| {})?;
    for parameter in &teacher.parameters {
        parameter.var.set(&(parameter.var.as_detached_tensor() * 1.1)?)?;
    }
    Ok(teacher)
}

/// With half of the batches answered by the student, by draws that are the same on however many ranks.
#[test]
fn ranks_distil_what_one_rank_distils() {
    let make = |policy: &Policy, _: &Ranks| {
        let how = Distillation { alpha: 0.5, temperature: 2., beta: 0.3 };
        let sampling = SamplingOptions { temperature: 1., ..SamplingOptions::default() };
        let rollout = RolloutOptions { copies: 1, max_tokens: 3, sampling, ends: vec![], max_rows: 8 };
        let own = OnPolicy { lambda: 0.5, rollout, seed: 3 };
        Distill::new(GoldenSteps::new(4), Teacher::Model(teacher(&policy.device)?), how, Some(own))
    };
    let of = |ranks| run(ranks, &qwen2_tiny(), 3, make);
    let alone = of((1, Zero::Off));
    for ranks in [(2, Zero::Off), (4, Zero::Gradients)] {
        compare(&format!("{ranks:?}"), &of(ranks), &alone, &["loss", "soft_loss", "hard_loss", "grad_norm"]);
    }
}

/// Two generations of four prompts, each trained on twice. The prompts, their order and every draw are the same however many
/// ranks share them, so that rewards and lengths are equal, and the ratio, the clipping and the divergence have something to tell.
#[test]
fn ranks_sample_judge_and_learn_what_one_rank_does() {
    let of = |(size, zero): (usize, Zero), scale: ScaleRewards| {
        run((size, zero), home(), 4, |policy, ranks| {
            let start = Policy::frozen(home(), DType::F32, &policy.device, &|_, _| {})?;
            let rewards = Rewards::of(vec![("even".to_owned(), 1., Box::new(Even))]);
            let reference = Reference::Model(Box::new(start));
            let run =
                GrpoRun { prompts: sums(8), held_out: Some(sums(3)), rewards, reference, length: Length::Steps(4) };
            let options = GrpoOptions {
                num_generations: 4,
                per_device_train_batch_size: 4,
                gradient_accumulation_steps: 4 / size,
                max_completion_length: 5,
                num_iterations: 2,
                beta: 0.1,
                scale_rewards: scale,
                ..GrpoOptions::default()
            };
            Grpo::new(run, policy, ranks, options)
        })
    };
    let names = ["reward", "reward_std", "rewards/even/std", "kl", "entropy", "eval_reward", "completions/max_length"];
    for (scale, others) in [
        (ScaleRewards::Group, &[(2, Zero::Off), (4, Zero::Gradients)][..]),
        // A deviation that is taken over the ranks.
        (ScaleRewards::Batch, &[(2, Zero::Off)]),
    ] {
        let alone = of((1, Zero::Off), scale);
        let moved = alone.log.iter().filter_map(|entry| entry.get("kl")?.as_f64()).fold(0., f64::max);
        assert!(moved > 1e-4, "the steps are too small to tell anything: {moved}");
        for &ranks in others {
            compare(&format!("{ranks:?}, {scale:?}"), &of(ranks, scale), &alone, &names);
        }
    }
}
