//! Sequences packed into one pass against each of them alone: the same hidden states, losses and gradients, on every device.

mod common;

use anyhow::{Context, Result, ensure};
use candle_ascend::autograd::Checkpoint;
use candle_ascend::npu::NpuDevice;
use candle_ascend::ops::{self, CrossEntropy, linear_cross_entropy};
use candle_ascend::{DType, Device, Tensor};
use common::{Fixture, MODELS};
use npu_models::{CausalLm, Parameter, Tuning, load_tuned};
use std::collections::HashMap;

/// Two of one length side by side, two apart, and the shortest that there is.
const LENGTHS: [usize; 6] = [9, 9, 5, 1, 14, 5];
/// The products of a row are added up in another order when there are more rows, and by another kernel from 32 on: some dozens of
/// F32's roundings at values of about one.
const HIDDEN: f32 = 1e-5;
/// Of a gradient, of its largest element: sums over all tokens, in another order.
const GRADIENT: f32 = 1e-5;

fn sequences(name: &str) -> Vec<Vec<u32>> {
    let tokens: Vec<u32> = Fixture::read(name).input_ids.concat();
    let mut start = 0;
    let cut = |length: &usize| {
        start += length;
        tokens[start - length..start].to_vec()
    };
    LENGTHS.iter().map(cut).collect()
}

fn values(tensor: &Tensor) -> Result<Vec<f32>> {
    Ok(tensor.to_device(&Device::Cpu)?.to_dtype(DType::F32)?.flatten_all()?.to_vec1()?)
}

fn apart(got: &Tensor, wanted: &Tensor) -> Result<f32> {
    let (got, wanted) = (values(got)?, values(wanted)?);
    ensure!(got.len() == wanted.len(), "{} elements against {}", got.len(), wanted.len());
    Ok(got.iter().zip(&wanted).map(|(a, b)| (a - b).abs()).fold(0., f32::max))
}

/// The sum over the tokens of each sequence of what its next one costs.
fn loss(model: &dyn CausalLm, hidden: &Tensor, sequences: &[Vec<u32>], device: &Device) -> Result<Tensor> {
    let next = |tokens: &Vec<u32>| tokens.iter().skip(1).map(|t| i64::from(*t)).chain([-100]).collect::<Vec<_>>();
    let labels = Tensor::from_vec(sequences.iter().flat_map(next).collect::<Vec<_>>(), hidden.dim(0)?, device)?;
    Ok(linear_cross_entropy(hidden, model.head()?, &labels, CrossEntropy { mean: false, ..Default::default() })?)
}

/// Gradients by the name of their first part.
fn gradients(loss: Tensor, parameters: &[Parameter]) -> Result<HashMap<String, Tensor>> {
    let grads = loss.into_grads()?;
    let of = |parameter: &Parameter| Some((parameter.parts[0].0.clone(), grads.get(&parameter.var)?.clone()));
    Ok(parameters.iter().filter_map(of).collect())
}

fn packed_equals_alone(name: &str, device: &Device) -> Result<()> {
    // Projections whose rows are reordered at load, as DeepSeek's, cannot be variables.
    let reordered = |name: &str| ["q_b_proj", "q_a_proj", "q_proj", "kv_a_proj"].iter().any(|part| name.contains(part));
    let latent = name.starts_with("deepseek");
    let train = |name: &str| !(latent && reordered(name));
    let tuning = Tuning::new(&train, &|_, _, _| Ok(None));
    let model = load_tuned(&common::dir(name), DType::F32, device, &|_, _| {}, &tuning)?.model;
    let (model, parameters) = (model.as_ref(), tuning.into_parameters());
    let sequences = sequences(name);

    let all = Tensor::from_vec(sequences.concat(), LENGTHS.iter().sum::<usize>(), device)?;
    let packed = model.hidden_packed(&all, &LENGTHS, None)?;
    let (mut start, mut off, mut sum) = (0, 0f32, None::<Tensor>);
    for tokens in &sequences {
        let ids = Tensor::from_vec(tokens.clone(), (1, tokens.len()), device)?;
        let alone = model.hidden(&ids, None)?.squeeze(0)?;
        off = off.max(apart(&packed.narrow(0, start, tokens.len())?, &alone)?);
        let loss = loss(model, &alone, std::slice::from_ref(tokens), device)?;
        sum = Some(match sum {
            Some(sum) => (sum + loss)?,
            None => loss,
        });
        start += tokens.len();
    }
    let alone = sum.context("no sequences")?;
    let together = loss(model, &packed, &sequences, device)?;
    let recomputed = loss(model, &model.hidden_packed(&all, &LENGTHS, Some(Checkpoint::Keep))?, &sequences, device)?;
    let (a, b) = (alone.to_scalar::<f32>()?, together.to_scalar::<f32>()?);
    let wanted = gradients(alone, &parameters)?;
    ensure!(!wanted.is_empty(), "nothing has a gradient");
    let mut worst = 0f32;
    for got in [gradients(together, &parameters)?, gradients(recomputed, &parameters)?] {
        ensure!(got.len() == wanted.len(), "{} gradients, alone {}", got.len(), wanted.len());
        for (name, wanted) in &wanted {
            let got = got.get(name).with_context(|| format!("{name} has no gradient"))?;
            let most = values(wanted)?.iter().fold(0f32, |most, x| most.max(x.abs()));
            worst = worst.max(apart(got, wanted)? / most.max(f32::MIN_POSITIVE));
        }
    }
    println!("{name:<16} {}: hidden {off:.1e}, loss {a:.6} and {b:.6}, gradients {worst:.1e}", device.kind());
    ensure!(off <= HIDDEN, "hidden states are {off} apart");
    ensure!((a - b).abs() <= 1e-6 * a, "losses {a} and {b}");
    ensure!(worst <= GRADIENT, "a gradient is {worst} of its largest element apart");
    Ok(())
}

fn on(device: &Device) {
    for name in MODELS {
        packed_equals_alone(name, device).unwrap_or_else(|error| panic!("{name}: {error:#}"));
    }
}

#[test]
fn on_the_cpu() {
    on(&Device::Cpu);
}

#[test]
fn on_the_simulated_npu() {
    on(&common::simulated());
}

/// More sequences cost the launches of their attention and no others; and in BF16 an NPU has one operator for all of them.
#[test]
fn launches_grow_with_sequences_in_attention_alone() -> Result<()> {
    common::simulated();
    // Of its own, so that no other test launches on it.
    let npu = NpuDevice::simulated("", 3)?;
    let device = Device::Npu(npu.clone());
    for dtype in [DType::F32, DType::BF16] {
        let model = npu_models::load(&common::dir("qwen2-tiny"), dtype, &device, &|_, _| {})?.model;
        let config = model.config();
        let launches = |run: &dyn Fn() -> Result<Tensor>| -> Result<u64> {
            // The first run makes tables and masks that stay.
            run()?;
            let before = npu.counters();
            run()?;
            Ok(npu.counters().since(&before).launches)
        };
        let pass = |lengths: &[usize]| {
            let ids = Tensor::full(7u32, lengths.iter().sum::<usize>(), &device)?;
            launches(&|| model.hidden_packed(&ids, lengths, None))
        };
        let heads = |heads, tokens| Tensor::zeros((1, tokens, heads, config.head_dim), dtype, &device)?.transpose(1, 2);
        let attention = |lengths: &[usize]| {
            let tokens = lengths.iter().sum();
            let (q, k) = (heads(config.num_attention_heads, tokens)?, heads(config.num_key_value_heads, tokens)?);
            launches(&|| Ok(ops::attention_packed(&q, &k, &k, 0.3, lengths)?))
        };
        let (few, many): (&[usize], &[usize]) = (&[11, 10], &[7, 5, 4, 3, 2]);
        let (pass_few, pass_many) = (pass(few)?, pass(many)?);
        let more = config.num_hidden_layers as u64 * (attention(many)? - attention(few)?);
        println!("{dtype:?}: {pass_few} launches of {} sequences, {pass_many} of {}", few.len(), many.len());
        assert_eq!(pass_many - pass_few, more);
        assert_eq!(more > 0, dtype == DType::F32, "{more} more in attention");
    }
    Ok(())
}

#[test]
fn what_is_no_row_of_sequences_is_refused() -> Result<()> {
    let model = npu_models::load(&common::dir("qwen2-tiny"), DType::F32, &Device::Cpu, &|_, _| {})?.model;
    let ids = Tensor::zeros(6, DType::U32, &Device::Cpu)?;
    for (lengths, says) in [
        (&[4, 3][..], "6 tokens are not sequences of [4, 3], which are 7"),
        (&[6, 0], "a sequence of 0 tokens"),
        (&[], "not sequences"),
    ] {
        let error = format!("{:#}", model.hidden_packed(&ids, lengths, None).unwrap_err());
        assert!(error.contains(says), "{error}");
    }
    let long = model.config().max_position_embeddings + 1;
    let ids = Tensor::zeros(long, DType::U32, &Device::Cpu)?;
    let error = format!("{:#}", model.hidden_packed(&ids, &[long], None).unwrap_err());
    assert!(error.contains(&format!("a sequence of {long} tokens")), "{error}");
    // Longer than the context together, and each within it.
    let half = long.div_ceil(2);
    assert_eq!(
        model
            .hidden_packed(&Tensor::zeros(2 * half - 1, DType::U32, &Device::Cpu)?, &[half, half - 1], None)?
            .dim(0)?,
        2 * half - 1
    );
    Ok(())
}
