//! Ten steps of fine-tuning, ten of LoRA and one distillation loss against what PyTorch and PEFT computed, on every device.
//!
//! `tests/fixtures/qwen2-tiny/train` holds the batches, the losses and gradient norms of each step (f32; AdamW with a rate of
//! 1e-3, betas 0.9 and 0.999, eps 1e-8 and weight decay 0.01, no clipping), three of the weights after ten steps, and the
//! adapters before and after. LoRA is of rank 8 with alpha 16 on all linear layers.

mod common;

use anyhow::{Context, Result, ensure};
use candle_ascend::autograd::Checkpoint;
use candle_ascend::backprop::GradStore;
use candle_ascend::ops::{CrossEntropy, linear_cross_entropy};
use candle_ascend::{DType, Device, Tensor, Var, no_grad, safetensors};
use candle_ascend_nn::{AdamW, Optimizer, ParamsAdamW, loss};
use npu_models::{Adapter, AdapterOf, CausalLm, Tuning, load_tuned};
use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
use std::io::Write as _;

/// Of a loss of about six, after as many as ten steps.
const LOSS: f64 = 2e-4;
/// Of a gradient norm, relative.
const NORM: f64 = 1e-3;
/// Of adapters and weights after ten steps of 1e-3 each.
const WEIGHT: f32 = 1e-4;

struct Golden {
    tensors: HashMap<String, Tensor>,
}

impl Golden {
    fn read(file: &str) -> Result<Self> {
        let path = common::dir("qwen2-tiny").join("train").join(file);
        let tensors = safetensors::load(&path, &Device::Cpu).with_context(|| path.display().to_string())?;
        Ok(Self { tensors })
    }

    fn tensor(&self, name: &str) -> Result<&Tensor> {
        self.tensors.get(name).with_context(|| format!("{name} is missing"))
    }

    fn numbers(&self, name: &str) -> Result<Vec<f32>> {
        Ok(self.tensor(name)?.flatten_all()?.to_vec1()?)
    }

    /// Tokens `[B, T]` (u32) and labels `[B * (T - 1)]` of the tokens after the first, of one step.
    fn batch(&self, step: usize, device: &Device) -> Result<(Tensor, Tensor)> {
        let ids = self.tensor("input_ids")?.get(step)?.to_dtype(DType::U32)?.to_device(device)?;
        let labels = self.tensor("labels")?.get(step)?;
        let labels = labels.narrow(1, 1, labels.dim(1)? - 1)?.flatten_all()?.to_device(device)?;
        Ok((ids, labels))
    }
}

/// Hidden states of all positions but the last, `[B * (T - 1), H]`.
fn predicting(model: &dyn CausalLm, ids: &Tensor, keep: Option<Checkpoint>) -> Result<Tensor> {
    let hidden = model.hidden(ids, keep)?;
    let (batch, tokens, width) = hidden.dims3()?;
    Ok(hidden.narrow(1, 0, tokens - 1)?.reshape((batch * (tokens - 1), width))?)
}

fn cross_entropy(model: &dyn CausalLm, ids: &Tensor, labels: &Tensor, keep: Option<Checkpoint>) -> Result<Tensor> {
    // Chunks that do not divide the 252 rows.
    let how = CrossEntropy { chunk: 100, ..CrossEntropy::default() };
    Ok(linear_cross_entropy(&predicting(model, ids, keep)?, model.head()?, labels, how)?)
}

fn norm(grads: &GradStore, vars: &[Var]) -> Result<f64> {
    let mut squares = 0f64;
    for var in vars {
        let grad = grads.get(var).context("a trained weight without a gradient")?;
        squares += grad.to_device(&Device::Cpu)?.to_dtype(DType::F64)?.sqr()?.sum_all()?.to_scalar::<f64>()?;
    }
    Ok(squares.sqrt())
}

/// Ten steps over `vars`, each held against the golden loss and norm under `prefix`.
fn ten_steps(golden: &Golden, prefix: &str, model: &dyn CausalLm, vars: &[Var], device: &Device) -> Result<()> {
    let (losses, norms) =
        (golden.numbers(&format!("{prefix}_losses"))?, golden.numbers(&format!("{prefix}_grad_norms"))?);
    let params = ParamsAdamW { lr: 1e-3, beta1: 0.9, beta2: 0.999, eps: 1e-8, weight_decay: 0.01 };
    let mut optimizer = AdamW::new(vars.to_vec(), params)?;
    for (step, (wanted_loss, wanted_norm)) in losses.iter().zip(&norms).enumerate() {
        let (ids, labels) = golden.batch(step, device)?;
        // Every other step computes the layers again in backward, which must change nothing.
        let keep = [None, Some(Checkpoint::Keep), None, Some(Checkpoint::Offload)][step % 4];
        let loss = cross_entropy(model, &ids, &labels, keep)?;
        let value = loss.to_scalar::<f32>()?;
        let grads = loss.into_grads()?;
        let norm = norm(&grads, vars)?;
        println!(
            "{prefix} {} step {step}: loss {value:.6} (golden {wanted_loss:.6}) norm {norm:.6} ({wanted_norm:.6})",
            device.kind()
        );
        ensure!((value - wanted_loss).abs() as f64 <= LOSS, "step {step}: loss {value}, golden {wanted_loss}");
        let relative = (norm / *wanted_norm as f64 - 1.).abs();
        ensure!(relative <= NORM, "step {step}: gradient norm {norm}, golden {wanted_norm}");
        optimizer.step(&grads)?;
    }
    Ok(())
}

#[track_caller]
fn near(what: &str, got: &Tensor, wanted: &Tensor) -> Result<()> {
    let got: Vec<f32> = got.to_device(&Device::Cpu)?.flatten_all()?.to_vec1()?;
    let wanted: Vec<f32> = wanted.flatten_all()?.to_vec1()?;
    ensure!(got.len() == wanted.len(), "{what}: {} elements, golden {}", got.len(), wanted.len());
    let off = got.iter().zip(&wanted).map(|(g, w)| (g - w).abs()).fold(0f32, f32::max);
    ensure!(off <= WEIGHT, "{what}: off by {off}, allowed {WEIGHT}");
    Ok(())
}

fn full(device: &Device) -> Result<()> {
    let golden = Golden::read("golden_train.safetensors")?;
    let tuning = Tuning::new(&|_| true, &|_, _, _| Ok(None));
    let dir = common::dir("qwen2-tiny");
    let teacher = load_tuned(&dir, DType::F32, device, &|_, _| {}, &tuning)?.model;
    let parameters = tuning.into_parameters();
    let vars: Vec<Var> = parameters.iter().map(|p| p.var.clone()).collect();
    ten_steps(&golden, "sft", teacher.as_ref(), &vars, device)?;
    let mut trained = BTreeMap::new();
    for parameter in &parameters {
        trained.extend(parameter.tensors()?);
    }
    let finals: Vec<_> =
        golden.tensors.iter().filter_map(|(name, t)| Some((name.strip_prefix("final.")?, t))).collect();
    ensure!(finals.len() == 3, "{} final weights in the golden file", finals.len());
    for (name, wanted) in finals {
        near(name, trained.get(name).with_context(|| format!("{name} was not trained"))?, wanted)?;
    }

    let student = npu_models::load(&dir, DType::F32, device, &|_, _| {})?.model;
    let (ids, labels) = golden.batch(0, device)?;
    let logits = |model: &dyn CausalLm| -> Result<Tensor> {
        no_grad(|| Ok(predicting(model, &ids, None)?.matmul(&model.head()?.t()?)?))
    };
    let (student, teacher) = (logits(student.as_ref())?, logits(teacher.as_ref())?);
    let got = loss::distillation(&student, &teacher, &labels, 2., 0.5, -100)?.to_scalar::<f32>()?;
    let wanted = golden.numbers("kd_loss")?[0];
    println!("distillation {}: {got:.6} (golden {wanted:.6})", device.kind());
    ensure!((got - wanted).abs() <= 1e-4, "distillation loss {got}, golden {wanted}");
    Ok(())
}

fn lora(device: &Device) -> Result<()> {
    let golden = Golden::read("golden_train.safetensors")?;
    let start = Golden::read("adapter_init/adapter_model.safetensors")?;
    let end = Golden::read("adapter_final/adapter_model.safetensors")?;
    let adapters: RefCell<Vec<(String, Var)>> = RefCell::default();
    let adapter = |name: &str, _: usize, _: usize| -> Result<Option<Adapter>> {
        // PEFT's target modules are those of the layers.
        if name == "lm_head" {
            return Ok(None);
        }
        let load = |which: &str| -> Result<Tensor> {
            let key = format!("base_model.model.{name}.lora_{which}.weight");
            let var = Var::from_tensor(&start.tensor(&key)?.to_device(device)?)?;
            let tensor = var.as_tensor().clone();
            adapters.borrow_mut().push((key, var));
            Ok(tensor)
        };
        Ok(Some(Adapter { a: load("A")?, b: load("B")?, scale: 16. / 8., dropout: None }))
    };
    let tuning = Tuning::new(&|_| false, &adapter);
    let model = load_tuned(&common::dir("qwen2-tiny"), DType::F32, device, &|_, _| {}, &tuning)?.model;
    ensure!(tuning.into_parameters().is_empty(), "LoRA trains no weight of the base");
    let adapters = adapters.into_inner();
    ensure!(adapters.len() == start.tensors.len(), "{} of {} adapter tensors", adapters.len(), start.tensors.len());
    let vars: Vec<Var> = adapters.iter().map(|(_, var)| var.clone()).collect();
    ten_steps(&golden, "lora", model.as_ref(), &vars, device)?;
    for (key, var) in &adapters {
        near(key, &var.as_detached_tensor(), end.tensor(key)?)?;
    }
    Ok(())
}

fn check(result: Result<()>) {
    result.unwrap_or_else(|error| panic!("{error:#}"));
}

#[test]
fn fine_tuning_and_distillation_on_the_cpu() {
    check(full(&Device::Cpu));
}

#[test]
fn fine_tuning_and_distillation_on_the_simulated_npu() {
    check(full(&common::simulated()));
}

#[test]
fn lora_on_the_cpu() {
    check(lora(&Device::Cpu));
}

#[test]
fn lora_on_the_simulated_npu() {
    check(lora(&common::simulated()));
}

/// The first GPU; where there is none, that is said.
fn gpu() -> Option<Device> {
    let opened = Device::new_cuda(0);
    if let Err(error) = &opened {
        let _ = writeln!(std::io::stderr(), "did not run on cuda: {error}");
    }
    opened.ok()
}

#[test]
fn fine_tuning_and_distillation_on_a_gpu() {
    gpu().iter().for_each(|device| check(full(device)));
}

#[test]
fn lora_on_a_gpu() {
    gpu().iter().for_each(|device| check(lora(device)));
}

/// In BF16 an NPU's attention and its gradient are one operator each. Eight bits of mantissa, three layers deep: a hundredth.
#[test]
fn the_first_step_in_bf16_is_near_golden() {
    let run = |device: &Device| -> Result<()> {
        let golden = Golden::read("golden_train.safetensors")?;
        let tuning = Tuning::new(&|_| true, &|_, _, _| Ok(None));
        let dir = common::dir("qwen2-tiny");
        let model = load_tuned(&dir, DType::BF16, device, &|_, _| {}, &tuning)?.model;
        let vars: Vec<Var> = tuning.into_parameters().into_iter().map(|p| p.var).collect();
        let (ids, labels) = golden.batch(0, device)?;
        let loss = cross_entropy(model.as_ref(), &ids, &labels, Some(Checkpoint::Keep))?;
        let value = loss.to_scalar::<f32>()?;
        let norm = norm(&loss.into_grads()?, &vars)?;
        let (wanted_loss, wanted_norm) = (golden.numbers("sft_losses")?[0], golden.numbers("sft_grad_norms")?[0]);
        println!("bf16 {}: loss {value:.4} ({wanted_loss:.4}) norm {norm:.4} ({wanted_norm:.4})", device.kind());
        ensure!((value / wanted_loss - 1.).abs() <= 1e-2, "loss {value}, golden {wanted_loss}");
        ensure!((norm / wanted_norm as f64 - 1.).abs() <= 1e-2, "gradient norm {norm}, golden {wanted_norm}");
        Ok(())
    };
    for device in [Device::Cpu, common::simulated()].into_iter().chain(gpu()) {
        check(run(&device));
    }
}

#[test]
fn an_adapter_must_fit_its_projection_and_the_head_takes_none() {
    let load = |adapter: &AdapterOf| {
        let tuning = Tuning::new(&|_| false, adapter);
        load_tuned(&common::dir("qwen2-tiny"), DType::F32, &Device::Cpu, &|_, _| {}, &tuning)
    };
    let zeros = |rows, columns| Tensor::zeros((rows, columns), DType::F32, &Device::Cpu);
    let narrow =
        load(&|_, outputs, _| Ok(Some(Adapter { a: zeros(2, 3)?, b: zeros(outputs, 2)?, scale: 1., dropout: None })));
    let error = narrow.err().map(|e| format!("{e:#}")).unwrap_or_default();
    assert!(error.contains("q_proj") && error.contains("[2, 3]") && error.contains("inputs"), "{error}");
    let on_head = |name: &str, outputs: usize, inputs: usize| match name {
        "lm_head" => Ok(Some(Adapter { a: zeros(2, inputs)?, b: zeros(outputs, 2)?, scale: 1., dropout: None })),
        _ => Ok(None),
    };
    let model = load(&on_head).expect("it fits").model;
    let error = model.head().expect_err("the loss would not see it").to_string();
    assert!(error.contains("adapter"), "{error}");
}

#[test]
fn weights_that_are_one_tensor_are_trained_together() {
    let tuning = Tuning::new(&|name| name.ends_with("q_proj.weight"), &|_, _, _| Ok(None));
    let loaded = load_tuned(&common::dir("qwen2-tiny"), DType::F32, &Device::Cpu, &|_, _| {}, &tuning);
    let error = loaded.err().map(|e| format!("{e:#}")).unwrap_or_default();
    assert!(error.contains("q_proj") && error.contains("v_proj") && error.contains("all of them or none"), "{error}");
}
