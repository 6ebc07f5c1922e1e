//! What the logs say of rollouts, by TRL's names and for all ranks together.

use crate::Ranks;
use anyhow::Result;
use candle_ascend::{DType, Tensor, no_grad};

use super::loss::SUMS;

/// Sums of what was seen since the logs were last written.
pub struct Metrics {
    /// The rewards' names.
    names: Vec<String>,
    divergence: bool,
    completions: f64,
    lengths: f64,
    ended: f64,
    ended_lengths: f64,
    shortest: f64,
    longest: f64,
    rewards: f64,
    groups: f64,
    stds: f64,
    flat_groups: f64,
    /// For each reward the number of its values, their sum and that of their squares.
    each: Vec<[f64; 3]>,
    /// Sums over tokens, on the device.
    tokens: Option<Tensor>,
    /// Tokens that those sums are of.
    computed: f64,
    /// And with those of completions without an advantage, whose loss need not be computed.
    counted: f64,
}

impl Metrics {
    /// Of rewards called `names`; `divergence` says whether there is a reference to move away from.
    pub fn new(names: Vec<String>, divergence: bool) -> Self {
        let each = vec![[0.; 3]; names.len()];
        Self {
            names,
            divergence,
            completions: 0.,
            lengths: 0.,
            ended: 0.,
            ended_lengths: 0.,
            shortest: f64::INFINITY,
            longest: 0.,
            rewards: 0.,
            groups: 0.,
            stds: 0.,
            flat_groups: 0.,
            each,
            tokens: None,
            computed: 0.,
            counted: 0.,
        }
    }

    pub fn completion(&mut self, tokens: usize, truncated: bool, reward: f64) {
        let length = tokens as f64;
        self.completions += 1.;
        self.lengths += length;
        self.rewards += reward;
        self.shortest = self.shortest.min(length);
        self.longest = self.longest.max(length);
        if !truncated {
            self.ended += 1.;
            self.ended_lengths += length;
        }
    }

    /// The values that reward `which` gave.
    pub fn values(&mut self, which: usize, values: &[Option<f64>]) {
        for value in values.iter().flatten() {
            let [count, sum, squares] = &mut self.each[which];
            (*count, *sum, *squares) = (*count + 1., *sum + value, *squares + value * value);
        }
    }

    /// The deviations of the rewards of groups.
    pub fn deviations(&mut self, stds: &[f64]) {
        self.groups += stds.len() as f64;
        self.stds += stds.iter().sum::<f64>();
        self.flat_groups += stds.iter().filter(|std| **std < 1e-8).count() as f64;
    }

    /// The sums over `computed` tokens of the `counted` that the loss is of.
    pub fn tokens(&mut self, sums: Option<&Tensor>, computed: usize, counted: usize) -> Result<()> {
        self.counted += counted as f64;
        let Some(sums) = sums else { return Ok(()) };
        self.computed += computed as f64;
        self.tokens = Some(match self.tokens.take() {
            Some(held) => no_grad(|| held + sums)?,
            None => sums.detach(),
        });
        Ok(())
    }

    /// The metrics, for all ranks; begins anew.
    pub fn take(&mut self, ranks: &Ranks) -> Result<Vec<(String, f64)>> {
        let fresh = Self::new(self.names.clone(), self.divergence);
        let own = std::mem::replace(self, fresh);
        let extremes = gathered(&[own.shortest, own.longest], ranks)?;
        let of_tokens = match &own.tokens {
            Some(sums) => sums.to_dtype(DType::F32)?.to_vec1::<f32>()?,
            None => vec![0.; SUMS],
        };
        let scalars = [own.completions, own.lengths, own.ended, own.ended_lengths, own.rewards];
        let groups = [own.groups, own.stds, own.flat_groups, own.computed, own.counted];
        let of_tokens = of_tokens.iter().map(|sum| f64::from(*sum));
        let sums: Vec<f64> = scalars.into_iter().chain(groups).chain(of_tokens).chain(own.each.concat()).collect();
        let sums = ranks.sum(&sums)?;
        let [completions, lengths, ended, ended_lengths, rewards] = sums[..5] else { unreachable!("five were summed") };
        let [groups, stds, flat, computed, counted] = sums[5..10] else { unreachable!("and five") };
        let [entropy, divergence, low, high] = sums[10..10 + SUMS] else { unreachable!("and four") };
        let mut metrics: Vec<(String, f64)> = Vec::new();
        let mut mean = |name: &str, sum: f64, count: f64| {
            if count > 0. {
                metrics.push((name.to_owned(), sum / count));
            }
        };
        mean("reward", rewards, completions);
        mean("reward_std", stds, groups);
        mean("frac_reward_zero_std", flat, groups);
        for (name, values) in self.names.iter().zip(sums[10 + SUMS..].chunks(3)) {
            let [count, sum, squares] = values else { unreachable!("three each") };
            mean(&format!("rewards/{name}/mean"), *sum, *count);
            let spread = (squares - sum * sum / count.max(1.)).max(0.) / (count - 1.).max(1.);
            mean(&format!("rewards/{name}/std"), spread.sqrt() * count, *count);
        }
        mean("completions/mean_length", lengths, completions);
        if completions > 0. {
            let shortest = extremes.iter().map(|pair| pair[0]).fold(f64::INFINITY, f64::min);
            let longest = extremes.iter().map(|pair| pair[1]).fold(0., f64::max);
            mean("completions/min_length", shortest, 1.);
            mean("completions/max_length", longest, 1.);
        }
        mean("completions/clipped_ratio", completions - ended, completions);
        mean("completions/mean_terminated_length", ended_lengths, ended);
        mean("entropy", entropy, computed);
        if self.divergence {
            mean("kl", divergence, computed);
        }
        mean("clip_ratio/low_mean", low, counted);
        mean("clip_ratio/high_mean", high, counted);
        mean("clip_ratio/region_mean", low + high, counted);
        Ok(metrics)
    }
}

/// The values of each rank: sums over ranks of which one has added something.
fn gathered(values: &[f64], ranks: &Ranks) -> Result<Vec<Vec<f64>>> {
    let mut places = vec![0.; values.len() * ranks.size()];
    // Infinity stands for nothing, and would make the others' zeros not a number.
    let own = values.iter().map(|value| value.min(f64::from(f32::MAX)));
    places.splice(ranks.rank() * values.len()..(ranks.rank() + 1) * values.len(), own);
    Ok(ranks.sum(&places)?.chunks(values.len()).map(<[f64]>::to_vec).collect())
}
