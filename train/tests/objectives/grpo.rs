//! GRPO from prompts in a file to a trained model: one of random weights, whose completions differ, with the demo's tokenizer.

use crate::common::prompts::{Even, even, home, sums};
use crate::common::simulated;
use candle_ascend::{DType, Device, Tensor, no_grad};
use npu_models::{Held, Logits};
use npu_train::adapter::{LoraConfig, Start, Targets};
use npu_train::data::Length;
use npu_train::grpo::{Grpo, GrpoBatch, GrpoOptions, GrpoRun, LossType, Reference, Rollout};
use npu_train::reward::Rewards;
use npu_train::{LogEntry, Objective, Plain, Policy, Ranks, TrainOptions, train};

fn policy(device: &Device) -> Policy {
    Policy::full(home(), DType::F32, device, &|_, _| {}).expect("the checkpoint")
}

fn start(device: &Device) -> Policy {
    Policy::frozen(home(), DType::F32, device, &|_, _| {}).expect("the checkpoint")
}

fn objective(prompts: usize, policy: &Policy, reference: Reference, options: GrpoOptions) -> Grpo {
    let rewards = Rewards::of(vec![("even".to_owned(), 1., Box::new(Even))]);
    let length = Length::Epochs(1.);
    let run = GrpoRun { prompts: sums(prompts), held_out: Some(sums(2)), rewards, reference, length };
    Grpo::new(run, policy, &Ranks::single(), options).expect("it fits")
}

/// Two prompts of four completions of at most six tokens, in batches of four.
fn small() -> GrpoOptions {
    GrpoOptions {
        num_generations: 4,
        per_device_train_batch_size: 4,
        gradient_accumulation_steps: 2,
        max_completion_length: 6,
        ..GrpoOptions::default()
    }
}

fn taken(batches: &[GrpoBatch]) -> Vec<(Vec<u32>, f64)> {
    let rollouts = batches.iter().flat_map(GrpoBatch::rollouts);
    rollouts.map(|rollout| (rollout.sample.tokens.clone(), rollout.advantage)).collect()
}

#[test]
fn a_step_is_the_same_whatever_ran_before_and_takes_other_prompts_than_the_last() {
    let policy = policy(&Device::Cpu);
    let fresh = || objective(6, &policy, Reference::None, small());
    let mut ran = fresh();
    let first = taken(&ran.batches(0, &policy, &Ranks::single()).expect("step 0"));
    let second = taken(&ran.batches(1, &policy, &Ranks::single()).expect("step 1"));
    assert_eq!(taken(&fresh().batches(1, &policy, &Ranks::single()).expect("step 1")), second);
    assert_eq!((first.len(), second.len()), (8, 8));
    let learnt =
        |batches: &[(Vec<u32>, f64)]| batches.iter().map(|(tokens, _)| tokens[..8].to_vec()).collect::<Vec<_>>();
    assert!(learnt(&first).iter().all(|start| !learnt(&second).contains(start)), "a prompt occurs in both steps");
    assert_eq!(ran.steps(), 3);
    assert!((ran.epoch(3).expect("epochs") - 1.).abs() < 1e-12);
    // Another seed draws other completions.
    let other = GrpoOptions { seed: 7, ..small() };
    let mut other = objective(6, &policy, Reference::None, other);
    assert_ne!(taken(&other.batches(1, &policy, &Ranks::single()).expect("step 1")), second);
}

/// Log-probabilities of a rollout's learnt tokens, from all logits of a pass of inference, in `f64`.
fn log_probs(policy: &Policy, rollout: &Rollout, temperature: f64) -> Vec<f64> {
    let tokens = &rollout.sample.tokens;
    let ids = Tensor::from_slice(tokens, (1, tokens.len()), &policy.device).expect("ids");
    let logits = no_grad(|| policy.model.forward(&ids, &mut policy.model.new_cache(), Logits::All)).expect("logits");
    let rows: Vec<Vec<f32>> = logits.squeeze(0).and_then(|l| l.to_device(&Device::Cpu)?.to_vec2()).expect("rows");
    let first = tokens.len() - rollout.learnt();
    let of = |place: usize| {
        let row: Vec<f64> = rows[place - 1].iter().map(|logit| f64::from(*logit) / temperature).collect();
        let most = row.iter().copied().fold(f64::MIN, f64::max);
        row[tokens[place] as usize] - most - row.iter().map(|logit| (logit - most).exp()).sum::<f64>().ln()
    };
    (first..tokens.len()).map(of).collect()
}

#[test]
fn the_loss_is_the_formulas() {
    let temperature = 0.8;
    for (kind, device) in
        [(LossType::Grpo, Device::Cpu), (LossType::Dapo, simulated(6)), (LossType::DrGrpo, Device::Cpu)]
    {
        let policy = policy(&device);
        let mut options = GrpoOptions { loss_type: kind, num_iterations: 2, beta: 0.1, epsilon: 0.05, ..small() };
        options.sampling.temperature = temperature;
        let mut objective = objective(2, &policy, Reference::Model(Box::new(start(&device))), options);
        // A step large enough for the second pass over its completions to be clipped.
        let mut one = TrainOptions::new(1, 3e-3);
        one.logging_steps = 1;
        train(&policy, &mut objective, &Ranks::single(), &one, &mut Plain).expect("a step");
        let batches = objective.batches(1, &policy, &Ranks::single()).expect("the second pass");
        let start = start(&device);
        let (mut clipped, mut wanted, mut got) = (0, 0., 0.);
        let mut weight = 0.;
        for batch in &batches {
            got +=
                no_grad(|| objective.loss(&policy, batch)).and_then(|l| Ok(l.sum.to_scalar::<f32>()?)).expect("a loss");
            weight += objective.weight(batch);
            for (group, rollout) in batch.rollouts().iter().map(|rollout| (batch.rollouts(), rollout)) {
                let completion = |r: &Rollout| even(&r.sample.tokens[r.sample.tokens.len() - r.learnt()..]);
                let rewards: Vec<f64> = group.iter().map(completion).collect();
                let mean = rewards.iter().sum::<f64>() / 4.;
                let std = (rewards.iter().map(|r| (r - mean).powi(2)).sum::<f64>() / 3.).sqrt();
                let advantage = (completion(rollout) - mean) / (std + 1e-4);
                assert!((advantage - rollout.advantage).abs() < 1e-9, "{advantage}, {}", rollout.advantage);
                let (now, old) = (log_probs(&policy, rollout, temperature), log_probs(&start, rollout, temperature));
                let losses = now.iter().zip(&old).map(|(now, old)| {
                    let ratio = (now - old).exp();
                    clipped += usize::from(!(0.95..=1.05).contains(&ratio));
                    let surrogate = (ratio * advantage).min(ratio.clamp(0.95, 1.05) * advantage);
                    0.1 * ((old - now).exp() - (old - now) - 1.) - surrogate
                });
                let sum: f64 = losses.sum();
                wanted += match kind {
                    LossType::Grpo => sum / rollout.learnt() as f64,
                    LossType::Dapo => sum,
                    LossType::DrGrpo => sum / 6.,
                };
            }
        }
        let count: usize = batches.iter().flat_map(GrpoBatch::rollouts).map(Rollout::learnt).sum();
        let (got, wanted) = (f64::from(got) / weight, wanted / weight);
        println!("{kind:?} on {}: {got:.6}, wanted {wanted:.6}; {clipped} of {count} ratios clipped", device.kind());
        assert!(clipped > 0, "nothing was clipped");
        assert_eq!(weight, if kind == LossType::Dapo { count as f64 } else { 8. });
        // F32 log-probabilities of magnitudes up to ten, of which ratios are exponentials.
        assert!((got - wanted).abs() < 2e-5, "{kind:?}: {got}, wanted {wanted}");
    }
}

/// The value of `name` in each line of the logs that has it.
fn logged(log: &[LogEntry], name: &str) -> Vec<f64> {
    log.iter().filter_map(|entry| entry.get(name)?.as_f64()).collect()
}

#[test]
fn what_is_rewarded_becomes_likelier_and_the_logs_say_so() {
    let policy = policy(&Device::Cpu);
    let options =
        GrpoOptions { num_generations: 8, per_device_train_batch_size: 16, gradient_accumulation_steps: 1, ..small() };
    let mut objective = objective(16, &policy, Reference::None, options);
    let mut run = TrainOptions::new(16, 2e-3);
    (run.logging_steps, run.eval_steps) = (1, 8);
    let outcome = train(&policy, &mut objective, &Ranks::single(), &run, &mut Plain).expect("sixteen steps");
    let log = &outcome.state.log_history;
    let rewards = logged(log, "reward");
    println!("rewards {rewards:?}, held out {:?}", logged(log, "eval_reward"));
    assert_eq!(rewards.len(), 16);
    let mean = |values: &[f64]| values.iter().sum::<f64>() / values.len() as f64;
    let (start, end) = (mean(&rewards[..3]), mean(&rewards[13..]));
    // A mean of 288 tokens is off by 0.03; three times that. What was seen is twice as much.
    assert!(end > start + 0.1, "the mean reward went from {start} to {end}");
    assert_eq!(logged(log, "rewards/even/mean"), rewards, "one reward of weight 1 is the whole");
    for name in [
        "reward_std",
        "frac_reward_zero_std",
        "rewards/even/std",
        "completions/mean_length",
        "completions/min_length",
        "completions/max_length",
        "completions/clipped_ratio",
        "entropy",
        "clip_ratio/low_mean",
        "clip_ratio/high_mean",
        "clip_ratio/region_mean",
        "num_tokens",
    ] {
        assert!(!logged(log, name).is_empty(), "no {name} in the logs");
    }
    assert!(logged(log, "kl").is_empty(), "a divergence from nothing");
    assert!(logged(log, "completions/max_length").iter().all(|length| *length <= 6.));
    let held_out = logged(log, "eval_reward");
    assert_eq!(held_out.len(), 2);
    assert_eq!(logged(log, "eval_loss"), held_out.iter().map(|reward| -reward).collect::<Vec<_>>());
}

/// The reference of adapters is the policy with them off, which a frozen copy of the checkpoint can tell without any.
#[test]
fn the_divergence_from_the_policy_without_its_adapters_begins_at_nothing_and_grows() {
    for device in [Device::Cpu, simulated(7)] {
        let config = LoraConfig { target_modules: Targets::AllLinear, lora_alpha: 16., ..LoraConfig::default() };
        let new = Start::New { config: LoraConfig { lora_dropout: 0., ..config }, seed: 1 };
        let policy = Policy::lora(home(), &new, Held::Wide, DType::F32, &device, &|_, _| {}).expect("adapters");
        let options = GrpoOptions { beta: 0.1, ..small() };
        let mut objective = objective(6, &policy, Reference::AdaptersOff, options);
        let mut run = TrainOptions::new(2, 2e-2);
        run.logging_steps = 1;
        let outcome = train(&policy, &mut objective, &Ranks::single(), &run, &mut Plain).expect("two steps");
        let seen = logged(&outcome.state.log_history, "kl");
        // New adapters add zeros; of the logarithms of the two passes at most a rounding is left, which is squared.
        assert!(seen.len() == 2 && seen[0].abs() < 1e-10 && seen[1] > 1e-4, "{}: {seen:?}", device.kind());

        let batches = objective.batches(2, &policy, &Ranks::single()).expect("the third step's");
        let start = start(&device);
        let (mut wanted, mut tokens, mut moved) = (0., 0., 0f64);
        for rollout in batches.iter().flat_map(GrpoBatch::rollouts) {
            let (now, base) = (log_probs(&policy, rollout, 1.), log_probs(&start, rollout, 1.));
            let reference = rollout.reference.as_ref().expect("a reference");
            assert_eq!(reference.len(), base.len());
            for ((now, base), reference) in now.iter().zip(&base).zip(reference) {
                // F32 log-probabilities of magnitudes up to ten.
                assert!((f64::from(*reference) - base).abs() < 2e-5, "{reference}, the checkpoint's {base}");
                moved = moved.max((now - base).abs());
                wanted += (base - now).exp() - (base - now) - 1.;
                tokens += 1.;
            }
        }
        assert!(moved > 1e-2, "the adapters have moved by {moved} only");
        for batch in &batches {
            no_grad(|| objective.loss(&policy, batch)).expect("a loss");
        }
        let metrics = objective.metrics(&Ranks::single()).expect("metrics");
        let got = metrics.iter().find(|(name, _)| name == "kl").expect("the divergence").1;
        println!("{}: kl {seen:?}, then {got:.6}, wanted {:.6}", device.kind(), wanted / tokens);
        assert!((got - wanted / tokens).abs() < 2e-5, "{got}, wanted {}", wanted / tokens);
    }
}

#[test]
fn masked_completions_are_not_learnt() {
    let policy = policy(&Device::Cpu);
    // None of the sampled completions has ended after three tokens.
    for (masked, kind) in [(true, LossType::Dapo), (true, LossType::Grpo), (false, LossType::Dapo)] {
        let options =
            GrpoOptions { max_completion_length: 3, mask_truncated_completions: masked, loss_type: kind, ..small() };
        let mut objective = objective(2, &policy, Reference::None, options);
        let batches = objective.batches(0, &policy, &Ranks::single()).expect("batches");
        let weight: f64 = batches.iter().map(|batch| objective.weight(batch)).sum();
        assert_eq!(
            weight,
            if kind == LossType::Grpo {
                8.
            } else if masked {
                0.
            } else {
                24.
            }
        );
        let loss = objective.loss(&policy, &batches[0]).expect("a loss").sum;
        assert_eq!(loss.track_op(), !masked, "{masked} {kind:?}");
    }
}

#[test]
fn options_that_cannot_be_met_are_said() {
    let policy = policy(&Device::Cpu);
    let refused = |options: GrpoOptions| {
        let rewards = Rewards::of(vec![("even".to_owned(), 1., Box::new(Even))]);
        let run =
            GrpoRun { prompts: sums(2), held_out: None, rewards, reference: Reference::None, length: Length::Steps(1) };
        format!("{:#}", Grpo::new(run, &policy, &Ranks::single(), options).err().expect("refused"))
    };
    for (options, says) in [
        (GrpoOptions { num_generations: 1, ..small() }, "at least 2"),
        (GrpoOptions { num_generations: 5, ..small() }, "multiple of num_generations (5)"),
        (GrpoOptions { steps_per_generation: Some(3), ..small() }, "multiple of gradient_accumulation_steps (2)"),
        (GrpoOptions { beta: 0.1, ..small() }, "reference"),
        (GrpoOptions { epsilon: -1., ..small() }, "epsilon is -1"),
        (GrpoOptions { max_completion_length: 0, ..small() }, "max_completion_length is 0"),
    ] {
        let error = refused(options);
        assert!(error.contains(says), "no {says:?} in: {error}");
    }
}
