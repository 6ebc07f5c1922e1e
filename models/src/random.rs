//! Models that no checkpoint holds: what tensors a configuration asks for, and random values for them.

use crate::loader::Source;
use crate::{Config, Loader, find};
use anyhow::{Result, bail};
use candle_ascend::{DType, Device, Tensor, WithDType};
use half::{bf16, f16};
use rand::rngs::StdRng;
use rand::{Rng, RngCore, SeedableRng};
use rayon::prelude::*;
use std::cell::RefCell;
use std::collections::BTreeMap;

/// The tensors that a model of some configuration is made of, as checkpoints name and shape them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Inventory {
    /// In the order in which the model asks for them.
    pub tensors: Vec<(String, Vec<usize>)>,
}

impl Inventory {
    /// Loads the model on any `device` without memory for its tensors and notes what it asks for; so there is no second list.
    pub fn of(config: &Config, device: &Device) -> Result<Self> {
        let recorder = Recorder::default();
        (find(config)?.load)(config.clone(), &Loader::new(&recorder, DType::F32, device, &|_, _| {}))?;
        Ok(Self { tensors: recorder.0.into_inner() })
    }

    /// Elements of all tensors.
    pub fn parameters(&self) -> u64 {
        self.tensors.iter().map(|(_, shape)| shape.iter().product::<usize>() as u64).sum()
    }
}

/// Answers every question with one element, repeated by strides of zero.
#[derive(Default)]
struct Recorder(RefCell<Vec<(String, Vec<usize>)>>);

impl Source for Recorder {
    fn names(&self) -> Vec<String> {
        Vec::new()
    }

    fn stored_bytes(&self) -> u64 {
        0
    }

    fn tensor(&self, name: &str, shape: &[usize], dtype: DType, device: &Device) -> Result<(Tensor, u64)> {
        self.0.borrow_mut().push((name.to_owned(), shape.to_vec()));
        Ok((self.room(shape, dtype, device)?, 0))
    }

    fn room(&self, shape: &[usize], dtype: DType, device: &Device) -> Result<Tensor> {
        Ok(Tensor::zeros(vec![1; shape.len()], dtype, device)?.broadcast_as(shape)?)
    }

    fn place(&self, name: &str, shape: &[usize], _: &Tensor, _: usize) -> Result<u64> {
        self.0.borrow_mut().push((name.to_owned(), shape.to_vec()));
        Ok(0)
    }
}

/// Draws of the standard normal distribution that all values are taken from: few enough to stay in the first-level cache.
const DRAWS: usize = 4096;

/// Values made by one generator; the chunks are independent, so that threads share the work and the result does not depend
/// on how many there are.
const CHUNK: usize = 1 << 16;

/// Random tensors for a model of some configuration, the same for the same seed, name and shape.
///
/// Matrices are normal with a deviation of one over the root of their columns, which keeps activations of the size that
/// trained models have; norm weights are about one.
pub struct Random {
    seed: u64,
    shapes: BTreeMap<String, Vec<usize>>,
    dtype: DType,
}

impl Random {
    /// Tensors for `config`, whose [`Source::stored_bytes`] are counted in `dtype`.
    pub fn new(config: &Config, dtype: DType, seed: u64, device: &Device) -> Result<Self> {
        Ok(Self { seed, shapes: Inventory::of(config, device)?.tensors.into_iter().collect(), dtype })
    }

    /// The values of tensor `name` in row-major order, converted by `convert`.
    fn values<T: Copy + Send + Sync>(&self, name: &str, shape: &[usize], zero: T, convert: fn(f32) -> T) -> Vec<T> {
        let (mean, deviation) = match shape {
            [_] if name.ends_with("norm.weight") => (1.0, 0.05),
            [_] => (0.0, 0.02),
            _ => (0.0, 1.0 / (shape[shape.len() - 1].max(1) as f32).sqrt()),
        };
        let convert = |draw: f32| convert(mean + deviation * draw);
        fill(self.seed, name, vec![zero; shape.iter().product()], convert)
    }

    fn made<T: WithDType>(
        &self,
        name: &str,
        shape: &[usize],
        convert: fn(f32) -> T,
        device: &Device,
    ) -> Result<Tensor> {
        Ok(Tensor::from_vec(self.values(name, shape, T::zero(), convert), shape, device)?)
    }
}

impl Source for Random {
    fn names(&self) -> Vec<String> {
        self.shapes.keys().cloned().collect()
    }

    fn stored_bytes(&self) -> u64 {
        let elements: usize = self.shapes.values().map(|shape| shape.iter().product::<usize>()).sum();
        (elements * self.dtype.size_in_bytes()) as u64
    }

    fn tensor(&self, name: &str, shape: &[usize], dtype: DType, device: &Device) -> Result<(Tensor, u64)> {
        let tensor = match dtype {
            DType::F32 => self.made::<f32>(name, shape, |v| v, device)?,
            DType::F16 => self.made(name, shape, f16::from_f32, device)?,
            DType::BF16 => self.made(name, shape, bf16::from_f32, device)?,
            other => bail!("random weights are made in f32, f16 or bf16, not in {}", other.as_str()),
        };
        Ok((tensor, (shape.iter().product::<usize>() * self.dtype.size_in_bytes()) as u64))
    }
}

/// `count` normal values of mean 0, the same for the same seed and name.
pub fn normal_values(seed: u64, name: &str, count: usize, deviation: f32) -> Vec<f32> {
    fill(seed, name, vec![0.0; count], |draw| deviation * draw)
}

/// Fills `values` with draws of the standard normal distribution, converted by `convert`.
fn fill<T: Copy + Send + Sync>(seed: u64, name: &str, mut values: Vec<T>, convert: impl Fn(f32) -> T) -> Vec<T> {
    let mut generator = StdRng::seed_from_u64(seed ^ hash(name));
    let draws: Vec<T> = (0..DRAWS).map(|_| convert(normal(&mut generator))).collect();
    let seed = generator.next_u64();
    values.par_chunks_mut(CHUNK).enumerate().for_each(|(chunk, values)| {
        let mut state = seed.wrapping_add(chunk as u64).wrapping_mul(ODD);
        for four in values.chunks_mut(4) {
            let bits = mix(&mut state);
            for (at, value) in four.iter_mut().enumerate() {
                *value = draws[(bits >> (16 * at)) as usize % DRAWS];
            }
        }
    });
    values
}

/// Odd, with bits spread evenly: the golden ratio in 64 bits, as Weyl sequences use it.
const ODD: u64 = 0x9e37_79b9_7f4a_7c15;

/// The next value of a Weyl sequence, mixed (Steele, Lea and Flood, "Fast splittable pseudorandom number generators").
fn mix(state: &mut u64) -> u64 {
    *state = state.wrapping_add(ODD);
    let z = (*state ^ (*state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

fn hash(name: &str) -> u64 {
    name.bytes().fold(0, |state, byte| mix(&mut (state ^ u64::from(byte))))
}

/// A draw of the standard normal distribution (Box and Muller).
fn normal(generator: &mut StdRng) -> f32 {
    let radius = (-2.0 * (1.0 - generator.random::<f32>()).ln()).sqrt();
    radius * (std::f32::consts::TAU * generator.random::<f32>()).cos()
}
