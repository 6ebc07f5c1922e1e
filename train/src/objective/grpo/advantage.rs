//! How much better a completion is than the others of its prompt.

use crate::Ranks;
use anyhow::Result;

/// Added to what advantages are divided by, as in TRL.
const EPSILON: f64 = 1e-4;

/// What the distance of a reward from its group's mean is divided by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ScaleRewards {
    /// The standard deviation of the group.
    #[default]
    Group,
    /// The standard deviation of the whole batch, over all ranks (arXiv 2508.08221).
    Batch,
    /// Nothing (Dr. GRPO, arXiv 2503.20783).
    None,
}

/// The advantages of a batch of completions, and what metrics say of its rewards.
#[derive(Clone, Debug, PartialEq)]
pub struct Advantages {
    pub values: Vec<f64>,
    /// The standard deviation that belongs to each group.
    pub stds: Vec<f64>,
}

impl Advantages {
    /// Of `rewards`, in groups of `copies`. Deviations are those of samples (divided by one less than their number), as in
    /// PyTorch; a group of one has none.
    pub fn of(rewards: &[f64], copies: usize, scale: ScaleRewards, ranks: &Ranks) -> Result<Self> {
        let groups = rewards.chunks(copies);
        let stds = match scale {
            ScaleRewards::Batch => vec![deviation_over(rewards, ranks)?; groups.len()],
            ScaleRewards::Group | ScaleRewards::None => groups.clone().map(deviation).collect::<Vec<_>>(),
        };
        let advantages = groups.zip(&stds).flat_map(|(group, std)| {
            let (mean, divisor) = (mean(group), if scale == ScaleRewards::None { 1. } else { std + EPSILON });
            group.iter().map(move |reward| (reward - mean) / divisor)
        });
        Ok(Self { values: advantages.collect(), stds })
    }
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len().max(1) as f64
}

fn deviation(values: &[f64]) -> f64 {
    let mean = mean(values);
    let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
    if values.len() > 1 { (squares / (values.len() - 1) as f64).sqrt() } else { 0. }
}

/// As [`deviation`], of the values of all ranks.
fn deviation_over(values: &[f64], ranks: &Ranks) -> Result<f64> {
    let sums = ranks.sum(&[values.len() as f64, values.iter().sum()])?;
    let (count, mean) = (sums[0], sums[1] / sums[0].max(1.));
    let squares = ranks.sum(&[values.iter().map(|value| (value - mean).powi(2)).sum()])?[0];
    Ok(if count > 1. { (squares / (count - 1.)).sqrt() } else { 0. })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn advantages_by_hand() {
        let rewards = [1., 0., 0., 1., 2., 2., 2., 2.];
        let of = |scale| Advantages::of(&rewards, 4, scale, &Ranks::single()).unwrap();
        // Two of four: the squares of four halves, over three.
        let std = (1f64 / 3.).sqrt();
        let group = of(ScaleRewards::Group);
        assert_eq!(group.stds, [std, 0.]);
        let half = 0.5 / (std + 1e-4);
        assert_eq!(group.values, [half, -half, -half, half, 0., 0., 0., 0.]);
        let none = of(ScaleRewards::None);
        assert_eq!(none.values, [0.5, -0.5, -0.5, 0.5, 0., 0., 0., 0.]);
        // Of all eight the mean is 1.25, and the squares of their distances are 5.5 in sum.
        let batch = of(ScaleRewards::Batch);
        let std = (5.5f64 / 7.).sqrt();
        assert_eq!(batch.stds, [std, std]);
        assert_eq!(batch.values[0], 0.5 / (std + 1e-4));
        assert_eq!(Advantages::of(&[3.], 1, ScaleRewards::Group, &Ranks::single()).unwrap().values, [0.]);
    }
}
