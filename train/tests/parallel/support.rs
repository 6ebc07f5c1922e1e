//! Ranks as threads, and plain training steps of qwen2-tiny over them.

use anyhow::{Context, Result};
use candle_ascend::comm::{Communicator, RootInfo};
use candle_ascend::ops::{CrossEntropy, linear_cross_entropy};
use candle_ascend::{DType, Device, NpuDevice, Tensor, safetensors};
use npu_models::Parameter;
use npu_train::optimizer::{AdamW, AdamWOptions};
use npu_train::{Batch, Partition, Policy, Ranks, Sample, Sharding};
use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

/// All users of a device share its stream of operators. Two jobs at a time on one pair of devices could each wait, on one
/// device, for what the other device has put behind the other job's: as on a card, that would never end.
static ONE_JOB: Mutex<()> = Mutex::new(());

/// Runs `work` on `size` ranks; one alone has no communicator.
pub fn ranks<T: Send>(size: usize, work: impl Fn(&Ranks, &Device) -> Result<T> + Sync) -> Vec<Result<T>> {
    let _job = ONE_JOB.lock().unwrap_or_else(PoisonError::into_inner);
    let first = npu_tests::simulated();
    if size == 1 {
        return vec![work(&Ranks::single(), &Device::Npu(first))];
    }
    let info = RootInfo::new(first.context()).unwrap();
    std::thread::scope(|scope| {
        let rank = |rank: usize| {
            let (info, work) = (&info, &work);
            scope.spawn(move || {
                let npu = NpuDevice::simulated("", rank)?;
                let ranks = Ranks::over(Communicator::join(&npu, info, rank, size)?);
                work(&ranks, &Device::Npu(npu))
            })
        };
        let threads: Vec<_> = (0..size).map(rank).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    })
}

pub fn succeed<T: Send>(size: usize, work: impl Fn(&Ranks, &Device) -> Result<T> + Sync) -> Vec<T> {
    let answers = ranks(size, work).into_iter();
    answers.map(|answer| answer.unwrap_or_else(|error| panic!("{error:#}"))).collect()
}

fn fixture() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/qwen2-tiny")
}

/// What PyTorch computed: see models/tests/training.rs.
pub struct Golden(HashMap<String, Tensor>);

impl Golden {
    pub fn read() -> Result<Self> {
        let path = fixture().join("train/golden_train.safetensors");
        Ok(Self(safetensors::load(&path, &Device::Cpu).with_context(|| path.display().to_string())?))
    }

    pub fn numbers(&self, name: &str) -> Result<Vec<f32>> {
        Ok(self.0.get(name).with_context(|| format!("{name} is missing"))?.flatten_all()?.to_vec1()?)
    }

    /// The rows of a step as samples.
    pub fn samples(&self, step: usize) -> Result<Vec<Sample>> {
        let rows = |name: &str| Ok::<_, anyhow::Error>(self.0[name].get(step)?.to_dtype(DType::I64)?.to_vec2::<i64>()?);
        let samples = rows("input_ids")?.into_iter().zip(rows("labels")?);
        Ok(samples.map(|(ids, labels)| Sample { tokens: ids.iter().map(|&id| id as u32).collect(), labels }).collect())
    }
}

/// Full fine-tuning of qwen2-tiny in F32, as the golden steps do it.
pub struct Training {
    pub policy: Policy,
    pub ranks: Ranks,
    pub partition: Partition,
    pub optimizer: AdamW,
    golden: Golden,
}

/// What a step came to.
#[derive(Clone, Copy, Debug)]
pub struct Step {
    pub loss: f64,
    pub norm: f64,
}

impl Training {
    pub fn new(ranks: &Ranks, device: &Device, how: Sharding) -> Result<Self> {
        Self::of(ranks, device, how, false)
    }

    pub fn of(ranks: &Ranks, device: &Device, how: Sharding, eight_bits: bool) -> Result<Self> {
        let policy = Policy::full(&fixture(), DType::F32, device, &|_, _| {})?;
        policy.parameters.iter().try_for_each(|parameter| ranks.share(&parameter.var))?;
        let partition = Partition::new(&policy.parameters, ranks, how)?;
        let mut slots = partition.slots().to_vec();
        // Weight decay pulls at everything in the golden steps.
        slots.iter_mut().for_each(|slot| slot.decays = true);
        let options = AdamWOptions { weight_decay: 0.01, eight_bits, ..AdamWOptions::default() };
        let optimizer = AdamW::new(slots, options)?;
        Ok(Self { policy, ranks: ranks.clone(), partition, optimizer, golden: Golden::read()? })
    }

    /// This rank's batches of a golden step: every `size`-th row, one after the other.
    pub fn batches(&self, step: usize) -> Result<Vec<Batch>> {
        let samples = self.golden.samples(step)?.into_iter().skip(self.ranks.rank()).step_by(self.ranks.size());
        Ok(samples.map(|sample| Batch::new(vec![sample])).collect())
    }

    pub fn loss(&self, batch: &Batch) -> Result<Tensor> {
        let how = CrossEntropy { mean: false, ..CrossEntropy::default() };
        let labels = batch.next_labels(&self.policy.device)?;
        Ok(linear_cross_entropy(&self.policy.hidden(batch)?, self.policy.head()?, &labels, how)?)
    }

    /// A golden step by its number; they are made in order, from 0.
    pub fn step(&mut self, number: usize) -> Result<Step> {
        let batches = self.batches(number)?;
        let targets = batches.iter().map(|batch| batch.targets() as f64).sum();
        let scale = 1. / self.ranks.sum(&[targets])?[0];
        let mut grads = self.partition.gradients();
        let mut loss = 0f64;
        for (i, batch) in batches.iter().enumerate() {
            let sum = self.loss(batch)?;
            loss += f64::from(sum.to_scalar::<f32>()?);
            grads.add(sum, scale, i + 1 == batches.len())?;
        }
        let grads = grads.finish()?;
        let mut squares = Tensor::zeros((), DType::F32, &self.policy.device)?;
        for grad in &grads {
            squares = (squares + grad.sqr()?.sum_all()?)?;
        }
        let norm = f64::from(self.partition.total(&squares)?.to_scalar::<f32>()?).sqrt();
        let loss = self.ranks.sum(&[loss])?[0] * scale;
        self.ranks.check()?;
        self.optimizer.step(&grads, 1., 1e-3)?;
        self.partition.spread()?;
        Ok(Step { loss, norm })
    }

    pub fn weights(&self) -> Result<Vec<Vec<f32>>> {
        weights(&self.policy)
    }

    /// Elements of all parameters.
    pub fn elements(&self) -> usize {
        self.policy.parameters.iter().map(|parameter| parameter.var.elem_count()).sum()
    }
}

/// The elements of each parameter.
pub fn weights(policy: &Policy) -> Result<Vec<Vec<f32>>> {
    let values = |p: &Parameter| Ok(p.var.as_detached_tensor().flatten_all()?.to_vec1::<f32>()?);
    policy.parameters.iter().map(values).collect()
}

/// The largest difference between two lists of tensors' elements.
pub fn apart(a: &[Vec<f32>], b: &[Vec<f32>]) -> f32 {
    assert_eq!(a.len(), b.len());
    let pair = |(a, b): (&Vec<f32>, &Vec<f32>)| {
        assert_eq!(a.len(), b.len());
        a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0f32, f32::max)
    };
    a.iter().zip(b).map(pair).fold(0f32, f32::max)
}
