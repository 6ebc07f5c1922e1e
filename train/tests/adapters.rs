//! Adapters against PEFT's files and steps, and what dropout, the reference and bad input must do.

mod common;

use anyhow::{Result, ensure};
use candle_ascend::autograd::Checkpoint;
use candle_ascend::ops::{CrossEntropy, Nf4Packer, linear_cross_entropy};
use candle_ascend::{DType, Device, Tensor, no_grad, safetensors};
use common::{GoldenSteps, golden, numbers, simulated};
use npu_models::{Held, Source};
use npu_train::adapter::{AdapterDir, LoraConfig, Start, Targets, load_with_adapter, merge};
use npu_train::{Batch, Decay, Partition, Plain, Policy, Ranks, Sft, Sharding, TrainOptions, train};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs;
use std::path::{Path, PathBuf};

const QUIET: &dyn Fn(u64, u64) = &|_, _| {};

fn check(result: Result<()>) {
    result.unwrap_or_else(|error| panic!("{error:#}"));
}

fn dir(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures").join(name)
}

fn fixture(which: &str) -> PathBuf {
    dir("qwen2-tiny").join("train").join(which)
}

/// The tensors of an adapter.
fn tensors(dir: &Path) -> Result<HashMap<String, Tensor>> {
    Ok(safetensors::load(dir.join("adapter_model.safetensors"), &Device::Cpu)?)
}

/// The samples of a golden step.
fn batch(step: usize) -> Batch {
    Batch::new(GoldenSteps::new(1).samples[step].clone())
}

/// The largest distance between elements.
fn distance(got: &Tensor, wanted: &Tensor) -> Result<f32> {
    let values = |tensor: &Tensor| -> Result<Vec<f32>> {
        Ok(tensor.to_device(&Device::Cpu)?.to_dtype(DType::F32)?.flatten_all()?.to_vec1()?)
    };
    ensure!(got.dims() == wanted.dims(), "shapes {:?} and {:?}", got.dims(), wanted.dims());
    Ok(values(got)?.iter().zip(values(wanted)?).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max))
}

fn policy(start: &Start, held: Held, dtype: DType, device: &Device) -> Result<Policy> {
    Policy::lora(&dir("qwen2-tiny"), start, held, dtype, device, QUIET)
}

fn config(targets: &[&str]) -> LoraConfig {
    let target_modules = Targets::Named(targets.iter().map(|name| name.to_string()).collect());
    LoraConfig { target_modules, lora_alpha: 16.0, ..LoraConfig::default() }
}

/// The mean loss over the targets of a golden step, and its gradients.
fn step(policy: &Policy, step: usize) -> Result<(f32, Vec<Tensor>)> {
    let batch = batch(step);
    let labels = batch.next_labels(&policy.device)?;
    let loss = linear_cross_entropy(&policy.hidden(&batch)?, policy.head()?, &labels, CrossEntropy::default())?;
    let value = loss.to_scalar::<f32>()?;
    let partition = Partition::new(&policy.parameters, &Ranks::single(), Sharding::default())?;
    let mut gradients = partition.gradients();
    gradients.add(loss, 1.0, true)?;
    Ok((value, gradients.finish()?))
}

fn norm(gradients: &[Tensor]) -> Result<f64> {
    let mut squares = 0.0;
    for gradient in gradients {
        squares += gradient.to_device(&Device::Cpu)?.to_dtype(DType::F64)?.sqr()?.sum_all()?.to_scalar::<f64>()?;
    }
    Ok(squares.sqrt())
}

/// PEFT's ten steps by the trainer, from PEFT's adapter to PEFT's adapter. The tolerances are those of
/// `models/tests/training.rs`: of losses of about six and weights after ten steps of 1e-3, summed in other orders.
fn peft(device: &Device) -> Result<()> {
    let mut policy = policy(&Start::Saved(&fixture("adapter_init")), Held::Wide, DType::F32, device)?;
    policy.keep = Some(Checkpoint::Keep);
    let out = tempfile::tempdir()?;
    let mut options = TrainOptions::new(10, 1e-3);
    options.schedule.decay = Decay::Constant;
    options.optimizer.weight_decay = 0.01;
    (options.max_grad_norm, options.logging_steps, options.save_steps) = (0., 1, 4);
    options.output_dir = Some(out.path().join("trained"));
    let outcome = train(&policy, &mut Sft::new(GoldenSteps::new(2)), &Ranks::single(), &options, &mut Plain)?;
    let logged = |key: &str| outcome.state.log_history.iter().filter_map(|entry| entry.get(key)?.as_f64()).collect();
    let (losses, norms): (Vec<f64>, Vec<f64>) = (logged("loss"), logged("grad_norm"));
    let wanted = golden();
    ensure!((losses.len(), norms.len()) == (10, 10), "{losses:?} {norms:?}");
    for (step, (got, wanted)) in losses.iter().zip(numbers(&wanted, "lora_losses")).enumerate() {
        ensure!((got - wanted).abs() <= 2e-4, "step {step}: loss {got}, golden {wanted}");
    }
    for (step, (got, wanted)) in norms.iter().zip(numbers(&wanted, "lora_grad_norms")).enumerate() {
        ensure!((got / wanted - 1.0).abs() <= 1e-3, "step {step}: norm {got}, golden {wanted}");
    }
    let trained = out.path().join("trained");
    let (end, saved) = (tensors(&fixture("adapter_final"))?, tensors(&trained)?);
    ensure!(saved.keys().collect::<BTreeSet<_>>() == end.keys().collect::<BTreeSet<_>>(), "the keys are not PEFT's");
    for (key, wanted) in &end {
        let off = distance(&saved[key], wanted)?;
        ensure!(off <= 1e-4, "{key}: off by {off}");
    }
    // The configuration that was read is the one that is written, and checkpoints are adapters too.
    for folder in [trained.clone(), trained.join("checkpoint-8")] {
        let written = LoraConfig::from_dir(&folder)?;
        ensure!(written == LoraConfig::from_dir(&fixture("adapter_final"))?, "{written:?}");
        ensure!(AdapterDir::open(&folder)?.modules().len() == 3 * 7, "{}", folder.display());
    }
    Ok(())
}

#[test]
fn ten_steps_of_peft_on_the_cpu() {
    check(peft(&Device::Cpu));
}

#[test]
fn ten_steps_of_peft_on_the_simulated_npu() {
    check(peft(&simulated(0)));
}

/// Logits of the first sample's tokens through `hidden` and the head.
fn logits(policy: &Policy) -> Result<Tensor> {
    Ok(policy.hidden(&batch(0))?.matmul(&policy.head()?.t()?)?)
}

#[test]
fn a_new_adapter_adds_nothing_starts_as_pytorchs_layers_and_depends_on_its_seed_alone() {
    let run = || -> Result<()> {
        let start = |seed| Start::New { config: config(&["q_proj", "down_proj"]), seed };
        let (first, again) = (
            policy(&start(1), Held::Wide, DType::F32, &Device::Cpu)?,
            policy(&start(1), Held::Wide, DType::F32, &simulated(0))?,
        );
        let other = policy(&start(2), Held::Wide, DType::F32, &Device::Cpu)?;
        ensure!(first.parameters.len() == 3 * 2 * 2, "{} tensors", first.parameters.len());
        let mut outer = 0f32;
        for ((a, b), c) in first.parameters.iter().zip(&again.parameters).zip(&other.parameters) {
            ensure!(a.parts == b.parts && distance(&a.var, &b.var)? == 0.0, "{:?}", a.parts);
            if a.parts[0].0.ends_with("lora_B.weight") {
                ensure!(a.var.abs()?.max_all()?.to_scalar::<f32>()? == 0.0, "{:?} is not zero", a.parts);
                continue;
            }
            ensure!(distance(&a.var, &c.var)? > 0.0, "{:?} is the same for another seed", a.parts);
            // Kaiming's uniform distribution with a gain of √(1/3): within 1/√inputs, of deviation 1/√(3·inputs).
            let inputs = a.var.dim(1)? as f32;
            outer = outer.max(a.var.abs()?.max_all()?.to_scalar::<f32>()? * inputs.sqrt());
            let squares = a.var.sqr()?.mean_all()?.to_scalar::<f32>()? * inputs * 3.0;
            // Of at least 512 numbers: the mean of squares deviates by 4 %.
            ensure!((squares - 1.0).abs() < 0.2, "{:?}: {squares} of the variance", a.parts);
        }
        ensure!((0.98..=1.0).contains(&outer), "the largest is {outer} of the bound");
        let base = first.without_adapters(|| logits(&first))?;
        ensure!(distance(&logits(&first)?, &base)? == 0.0, "a new adapter changes the model");
        Ok(())
    };
    check(run());
}

#[test]
fn without_adapters_is_the_base_on_this_thread_only() {
    let run = || -> Result<()> {
        let trained = policy(&Start::Saved(&fixture("adapter_final")), Held::Wide, DType::F32, &Device::Cpu)?;
        let base = Policy::full(&dir("qwen2-tiny"), DType::F32, &Device::Cpu, QUIET)?;
        let adapted = logits(&trained)?;
        ensure!(distance(&adapted, &logits(&base)?)? > 1e-2, "the adapter changes nothing");
        let (reference, beside) = trained.without_adapters(|| {
            let beside = std::thread::scope(|scope| scope.spawn(|| logits(&trained)).join().expect("a pass"))?;
            // What is computed again in backward must be without them too: no adapter then has a gradient.
            let (_, gradients) = step(&trained, 0)?;
            ensure!(norm(&gradients)? == 0.0, "an adapter that is off has a gradient");
            Ok((logits(&trained)?, beside))
        })?;
        ensure!(distance(&reference, &logits(&base)?)? == 0.0, "the reference is not the base");
        ensure!(distance(&beside, &adapted)? == 0.0, "another thread lost its adapters");
        let error = base.without_adapters(|| Ok(())).expect_err("it has none").to_string();
        ensure!(error.contains("reference"), "{error}");
        Ok(())
    };
    check(run());
}

/// The same with and without computing layers again, other in the next pass and step, the same after going on from a
/// checkpoint, and nothing outside of training.
fn dropout(device: &Device) -> Result<()> {
    let saved = tempfile::tempdir()?;
    for file in ["adapter_model.safetensors", "adapter_config.json"] {
        fs::copy(fixture("adapter_final").join(file), saved.path().join(file))?;
    }
    edit(saved.path(), "lora_dropout", serde_json::json!(0.25))?;
    let load = || policy(&Start::Saved(saved.path()), Held::Wide, DType::F32, device);
    let (mut policy, ranks) = (load()?, Ranks::single());
    policy.begin_step(3, 5, &ranks);
    let (first, gradients) = step(&policy, 0)?;
    let (second, _) = step(&policy, 0)?;
    ensure!(first != second, "two passes of a step dropped the same elements");
    policy.keep = Some(Checkpoint::Keep);
    policy.begin_step(3, 5, &ranks);
    let (again, recomputed) = step(&policy, 0)?;
    ensure!(again == first, "the same step lost {first} and then {again}");
    for (a, b) in gradients.iter().zip(&recomputed) {
        // Computed again in the same order: the same bits.
        ensure!(distance(a, b)? == 0.0, "a layer that was computed again dropped other elements");
    }
    policy.begin_step(3, 6, &ranks);
    ensure!(step(&policy, 0)?.0 != first, "the next step dropped the same elements");
    policy.begin_step(4, 5, &ranks);
    ensure!(step(&policy, 0)?.0 != first, "another seed dropped the same elements");
    let resumed = load()?;
    resumed.begin_step(3, 5, &ranks);
    ensure!(step(&resumed, 0)?.0 == first, "a run that goes on dropped other elements");
    let plain = self::policy(&Start::Saved(&fixture("adapter_final")), Held::Wide, DType::F32, device)?;
    let (with, without) = (no_grad(|| logits(&policy))?, no_grad(|| logits(&plain))?);
    ensure!(distance(&with, &without)? == 0.0, "elements are dropped outside of training");
    Ok(())
}

#[test]
fn dropout_follows_seed_and_step_on_the_cpu() {
    check(dropout(&Device::Cpu));
}

#[test]
fn dropout_follows_seed_and_step_on_the_simulated_npu() {
    check(dropout(&simulated(0)));
}

/// Sets a key of the configuration in `dir`.
fn edit(dir: &Path, key: &str, value: serde_json::Value) -> Result<()> {
    let path = dir.join("adapter_config.json");
    let mut config: serde_json::Value = serde_json::from_str(&fs::read_to_string(&path)?)?;
    config[key] = value;
    Ok(fs::write(&path, config.to_string())?)
}

/// Writes an adapter of the given tensors beside the fixture's configuration.
fn adapter_of(tensors: &HashMap<String, Tensor>) -> Result<tempfile::TempDir> {
    let dir = tempfile::tempdir()?;
    safetensors::save(tensors, dir.path().join("adapter_model.safetensors"))?;
    fs::copy(fixture("adapter_init").join("adapter_config.json"), dir.path().join("adapter_config.json"))?;
    Ok(dir)
}

fn said(result: Result<impl Sized>) -> String {
    result.err().map(|error| format!("{error:#}")).unwrap_or_default()
}

#[test]
fn an_adapter_that_is_not_of_the_base_says_both_shapes_and_the_module() {
    let run = || -> Result<()> {
        let own = tensors(&fixture("adapter_init"))?;
        let infer =
            |dir: &Path| said(load_with_adapter(&self::dir("qwen2-tiny"), dir, DType::F32, &Device::Cpu, QUIET));
        let train = |dir: &Path| said(policy(&Start::Saved(dir), Held::Wide, DType::F32, &Device::Cpu));
        let q = "base_model.model.model.layers.1.self_attn.q_proj";
        let zeros = |rows, columns| Tensor::zeros((rows, columns), DType::F32, &Device::Cpu);

        let mut wide = own.clone();
        wide.insert(format!("{q}.lora_A.weight"), zeros(8, 96)?);
        let wide = adapter_of(&wide)?;
        for error in [infer(wide.path()), train(wide.path())] {
            let says = ["model.layers.1.self_attn.q_proj", "[8, 96]", "64 inputs", "is no adapter of"];
            ensure!(says.iter().all(|text| error.contains(text)), "{error}");
        }

        let mut more = own.clone();
        more.insert("base_model.model.model.layers.3.mlp.up_proj.lora_A.weight".into(), zeros(8, 64)?);
        more.insert("base_model.model.model.layers.3.mlp.up_proj.lora_B.weight".into(), zeros(160, 8)?);
        let more = adapter_of(&more)?;
        for error in [infer(more.path()), train(more.path())] {
            let says = ["model.layers.3.mlp.up_proj", "160 outputs", "3 layers"];
            ensure!(says.iter().all(|text| error.contains(text)), "{error}");
        }

        let mut half = own.clone();
        half.remove(&format!("{q}.lora_B.weight"));
        let error = infer(adapter_of(&half)?.path());
        ensure!(error.contains("only one of lora_A and lora_B"), "{error}");

        let mut dora = own.clone();
        dora.insert(format!("{q}.lora_magnitude_vector"), zeros(1, 64)?);
        let error = infer(adapter_of(&dora)?.path());
        ensure!(error.contains("lora_magnitude_vector"), "{error}");

        let other_rank = adapter_of(&own)?;
        edit(other_rank.path(), "r", serde_json::json!(4))?;
        let error = infer(other_rank.path());
        ensure!(error.contains("rank 8") && error.contains("says 4"), "{error}");

        let error = infer(&self::dir("qwen2-tiny"));
        ensure!(error.contains("adapter_config.json"), "{error}");
        Ok(())
    };
    check(run());
}

#[test]
fn targets_that_the_model_has_not_are_refused_and_all_linear_leaves_the_head() {
    let run = || -> Result<()> {
        let new = |model: &str, target_modules: Targets| {
            let start = Start::New { config: LoraConfig { target_modules, ..LoraConfig::default() }, seed: 0 };
            Policy::lora(&dir(model), &start, Held::Wide, DType::F32, &Device::Cpu, QUIET)
        };
        let named = |name: &str| Targets::Named(vec!["q_proj".into(), name.into()]);
        let error = said(new("qwen2-tiny", named("c_attn")));
        ensure!(error.contains("c_attn") && error.contains("up_proj"), "{error}");
        let error = said(new("qwen2-tiny", Targets::Pattern(".*q_proj".into())));
        ensure!(error.contains("regular expression"), "{error}");

        let all = new("qwen2-tiny", Targets::AllLinear)?;
        ensure!(all.parameters.len() == 3 * 7 * 2, "{} tensors", all.parameters.len());
        let out = tempfile::tempdir()?;
        all.save(out.path())?;
        let kinds = ["down_proj", "gate_proj", "k_proj", "o_proj", "q_proj", "up_proj", "v_proj"];
        let wanted = Targets::Named(kinds.iter().map(|kind| kind.to_string()).collect());
        ensure!(LoraConfig::from_dir(out.path())?.target_modules == wanted, "PEFT writes the names");
        ensure!(AdapterDir::open(out.path())?.modules().len() == 3 * 7, "modules");

        // Of a mixture, attention alone: its experts are one tensor, which no adapter reaches.
        let experts = new("qwen3-moe-tiny", Targets::AllLinear)?;
        let reached: BTreeMap<_, usize> = experts.parameters.iter().fold(BTreeMap::new(), |mut counts, parameter| {
            let kind = parameter.parts[0].0.rsplit('.').nth(2).unwrap_or_default().to_owned();
            *counts.entry(kind).or_default() += 1;
            counts
        });
        let attention = ["k_proj", "o_proj", "q_proj", "v_proj"];
        ensure!(attention.iter().all(|kind| reached.contains_key(*kind)), "{reached:?}");
        let error = said(new("qwen3-moe-tiny", named("experts")));
        ensure!(error.contains("experts") && error.contains("o_proj"), "{error}");
        let error = said(new("deepseek-v3-tiny", Targets::Named(vec!["kv_b_proj".into()])));
        ensure!(error.contains("kv_b_proj") && error.contains("kv_a_proj_with_mqa"), "{error}");
        Ok(())
    };
    check(run());
}

#[test]
fn an_adapter_beside_the_base_computes_what_peft_trained() {
    let run = |device: &Device| -> Result<()> {
        let trained = policy(&Start::Saved(&fixture("adapter_final")), Held::Wide, DType::F32, device)?;
        let beside = load_with_adapter(&dir("qwen2-tiny"), &fixture("adapter_final"), DType::F32, device, QUIET)?.model;
        let got = inferred(beside.as_ref(), device)?;
        let wanted = logits(&trained)?.narrow(0, 0, got.dim(0)?)?;
        // Logits of size ten; the last norm is fused with an addition in one of the two.
        let off = distance(&got, &wanted)?;
        ensure!(off <= 1e-4, "off by {off}");
        Ok(())
    };
    check(run(&Device::Cpu));
    check(run(&simulated(0)));
}

/// Logits of one row of tokens by the inference pass.
fn inferred(model: &dyn npu_models::CausalLm, device: &Device) -> Result<Tensor> {
    let tokens = &batch(0).samples[0].tokens.clone();
    let ids = Tensor::from_slice(tokens, (1, tokens.len()), device)?;
    Ok(model.forward(&ids, &mut model.new_cache(), npu_models::Logits::All)?.squeeze(0)?)
}

#[test]
fn a_merged_checkpoint_computes_what_the_adapter_beside_its_base_does() {
    let run = || -> Result<()> {
        let home = tempfile::tempdir()?;
        let (base, adapter) = (dir("qwen2-tiny"), fixture("adapter_final"));
        let (output, device) = (home.path().join("merged"), Device::Cpu);
        let wanted = inferred(load_with_adapter(&base, &adapter, DType::F32, &device, QUIET)?.model.as_ref(), &device)?;
        let merged = merge(&base, &adapter, &output, Some(DType::F32), QUIET)?;
        ensure!(merged.modules == 21, "{merged:?}");
        let got = inferred(npu_models::load(&output, DType::F32, &device, QUIET)?.model.as_ref(), &device)?;
        // The sum of products in another order: a few roundings of logits of order ten.
        let off = distance(&got, &wanted)?;
        ensure!(off <= 1e-4, "off by {off}");
        ensure!(npu_models::Config::of(&output)?.dtype.as_deref() == Some("float32"), "the type in config.json");

        // In the base's own BF16 each weight is rounded once.
        let narrow = home.path().join("bf16");
        merge(&base, &adapter, &narrow, None, QUIET)?;
        let load = |folder: &Path| safetensors::load(folder.join("model.safetensors"), &device);
        let (narrow, wide) = (load(&narrow)?, load(&output)?);
        ensure!(narrow.len() == wide.len() && narrow.len() == merged.tensors, "{} tensors", narrow.len());
        for (name, wide) in &wide {
            let rounded = wide.to_dtype(DType::BF16)?;
            ensure!(narrow[name].dtype() == DType::BF16, "{name} is {:?}", narrow[name].dtype());
            ensure!(distance(&narrow[name], &rounded)? == 0.0, "{name} was rounded more than once");
        }
        let original = load(&base)?;
        let name = "model.layers.1.mlp.up_proj.weight";
        let moved = distance(&wide[name], &original[name].to_dtype(DType::F32)?)?;
        ensure!(moved > 1e-4, "{name} was moved by {moved} only");

        let error = said(merge(&base, &adapter, &output, None, QUIET));
        ensure!(error.contains("not empty"), "{error}");
        let other = said(merge(&dir("qwen3-tiny"), &adapter, &home.path().join("other"), None, QUIET));
        ensure!(other.contains("is no adapter of") && !home.path().join("other").exists(), "{other}");
        Ok(())
    };
    check(run());
}

/// The checkpoint with every projection of its layers as four bits leave it, those that the model merges quantised together.
fn four_bits_and_back(folder: &Path) -> Result<()> {
    let base = dir("qwen2-tiny");
    let mut weights = safetensors::load(base.join("model.safetensors"), &Device::Cpu)?;
    for layer in 0..3 {
        let of = |kind: &&str| format!("model.layers.{layer}.{kind}_proj.weight");
        let merged: [&[&str]; 4] =
            [&["self_attn.q", "self_attn.k", "self_attn.v"], &["self_attn.o"], &["mlp.gate", "mlp.up"], &["mlp.down"]];
        for kinds in merged {
            let names: Vec<String> = kinds.iter().map(of).collect();
            let mut packer = Nf4Packer::new(weights[&names[0]].dim(1)?);
            names.iter().try_for_each(|name| packer.push(&weights[name]))?;
            let wide = packer.finish(DType::F32, &Device::Cpu)?.widen()?;
            let mut start = 0;
            for name in names {
                let rows = weights[&name].dim(0)?;
                weights.insert(name, wide.narrow(0, start, rows)?.contiguous()?);
                start += rows;
            }
        }
    }
    safetensors::save(&weights, folder.join("model.safetensors"))?;
    fs::copy(base.join("config.json"), folder.join("config.json"))?;
    Ok(())
}

/// Training over four bits is training over the numbers that they stand for.
#[test]
fn qlora_is_lora_over_the_widened_weights() {
    let run = |device: &Device| -> Result<()> {
        let folder = tempfile::tempdir()?;
        four_bits_and_back(folder.path())?;
        let start = || Start::New { config: config(&["q_proj", "v_proj", "gate_proj", "down_proj"]), seed: 9 };
        let losses = |base: &Path, held: Held, keep: Option<Checkpoint>| -> Result<Vec<f64>> {
            let mut policy = Policy::lora(base, &start(), held, DType::F32, device, QUIET)?;
            policy.keep = keep;
            let mut options = TrainOptions::new(5, 1e-2);
            options.logging_steps = 1;
            let outcome = train(&policy, &mut Sft::new(GoldenSteps::new(2)), &Ranks::single(), &options, &mut Plain)?;
            Ok(outcome.state.log_history.iter().filter_map(|entry| entry.get("loss")?.as_f64()).collect())
        };
        let wanted = losses(folder.path(), Held::Wide, None)?;
        let got = losses(&dir("qwen2-tiny"), Held::Nf4, Some(Checkpoint::Keep))?;
        let wide = losses(&dir("qwen2-tiny"), Held::Wide, None)?;
        ensure!((got.len(), wanted.len()) == (5, 5), "{got:?} {wanted:?}");
        for (step, (got, wanted)) in got.iter().zip(&wanted).enumerate() {
            // Losses of about six in F32; the devices widen within a rounding.
            ensure!((got - wanted).abs() <= 2e-5, "step {step}: loss {got}, over the widened weights {wanted}");
        }
        ensure!((got[0] - wide[0]).abs() > 1e-3, "four bits change nothing: {} and {}", got[0], wide[0]);
        ensure!(got[4] < got[0] - 0.01, "nothing is learnt: {got:?}");
        let error = said(Policy::lora(&dir("qwen3-moe-tiny"), &start(), Held::Nf4, DType::F32, device, QUIET));
        ensure!(error.contains("experts"), "{error}");
        Ok(())
    };
    check(run(&Device::Cpu));
    check(run(&simulated(0)));
}

/// The models whose queries are reordered at load, and whose experts are out of an adapter's reach.
#[test]
fn adapters_of_other_architectures_merge_to_what_they_compute() {
    let run = |name: &str| -> Result<()> {
        let start = Start::New { config: LoraConfig { target_modules: Targets::AllLinear, ..config(&[]) }, seed: 3 };
        let policy = Policy::lora(&dir(name), &start, Held::Wide, DType::F32, &Device::Cpu, QUIET)?;
        for (i, parameter) in policy.parameters.iter().enumerate() {
            let shape = parameter.var.shape();
            let values = (0..shape.elem_count()).map(|at| ((at * 7 + i) as f32).sin() * 0.1);
            parameter.var.set(&Tensor::from_iter(values, &Device::Cpu)?.reshape(shape)?)?;
        }
        let home = tempfile::tempdir()?;
        policy.save(home.path())?;
        let merged = home.path().join("merged");
        merge(&dir(name), home.path(), &merged, Some(DType::F32), QUIET)?;
        let base =
            inferred(npu_models::load(&dir(name), DType::F32, &Device::Cpu, QUIET)?.model.as_ref(), &Device::Cpu)?;
        let wanted =
            inferred(npu_models::load(&merged, DType::F32, &Device::Cpu, QUIET)?.model.as_ref(), &Device::Cpu)?;
        let got = inferred(policy.model.as_ref(), &Device::Cpu)?;
        let scale = wanted.abs()?.max_all()?.to_scalar::<f32>()?;
        let (off, moved) = (distance(&got, &wanted)?, distance(&base, &wanted)?);
        // Sums of F32 in another order, over a few layers.
        ensure!(off <= 1e-4 * scale, "{name}: off by {off} where logits are up to {scale}");
        ensure!(moved > 1e-2 * scale, "{name}: the adapters moved logits by {moved} only");
        Ok(())
    };
    for name in ["llama-tiny", "qwen3-tiny", "qwen3-moe-tiny", "deepseek-v3-tiny"] {
        check(run(name));
    }
}

/// Adapters beside FP8 weights are adapters beside the numbers that these stand for; merging into FP8 is refused.
#[test]
fn adapters_train_beside_fp8_weights() {
    let run = || -> Result<()> {
        let (base, folder) = (dir("deepseek-v3-fp8-tiny"), tempfile::tempdir()?);
        let config = npu_models::Config::from_dir(&base)?;
        let inventory = npu_models::Inventory::of(&config, &Device::Cpu)?;
        let weights = npu_models::Weights::open(&base, &config)?;
        let wide = |(name, shape): &(String, Vec<usize>)| -> Result<(String, Tensor)> {
            Ok((name.clone(), weights.tensor(name, shape, DType::F32, &Device::Cpu)?.0))
        };
        let wide = inventory.tensors.iter().map(wide).collect::<Result<HashMap<_, _>>>()?;
        safetensors::save(&wide, folder.path().join("model.safetensors"))?;
        fs::copy(dir("deepseek-v3-tiny").join("config.json"), folder.path().join("config.json"))?;
        let out = tempfile::tempdir()?;
        let losses = |base: &Path, out: &Path| -> Result<Vec<f64>> {
            let start = Start::New { config: self::config(&["o_proj", "q_b_proj"]), seed: 9 };
            let policy = Policy::lora(base, &start, Held::Wide, DType::F32, &Device::Cpu, QUIET)?;
            ensure!(policy.notes.iter().any(|note| note.contains("FP8")) == base.ends_with("deepseek-v3-fp8-tiny"));
            let mut options = TrainOptions::new(3, 1e-2);
            options.logging_steps = 1;
            options.output_dir = Some(out.to_owned());
            let outcome = train(&policy, &mut Sft::new(GoldenSteps::new(2)), &Ranks::single(), &options, &mut Plain)?;
            Ok(outcome.state.log_history.iter().filter_map(|entry| entry.get("loss")?.as_f64()).collect())
        };
        let got = losses(&base, &out.path().join("fp8"))?;
        ensure!(got == losses(folder.path(), &out.path().join("wide"))?, "other losses than over the widened weights");
        ensure!(got.len() == 3 && got[2] < got[0], "nothing is learnt: {got:?}");
        load_with_adapter(&base, &out.path().join("fp8"), DType::F32, &Device::Cpu, QUIET)?;
        let merged = out.path().join("merged");
        let error = said(merge(&base, &out.path().join("fp8"), &merged, None, QUIET));
        ensure!(error.contains("is stored as FP8") && error.contains("--adapter") && !merged.exists(), "{error}");
        Ok(())
    };
    check(run());
}
