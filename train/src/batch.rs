//! Tokenised samples, and those that go through the model together.

use anyhow::Result;
use candle_ascend::{Device, Tensor};

/// The label of a token that is not to be learnt, as in transformers.
pub const IGNORED: i64 = -100;

/// One tokenised example.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Sample {
    pub tokens: Vec<u32>,
    /// For each token itself, if it is to be predicted from those before it, or [`IGNORED`].
    pub labels: Vec<i64>,
}

impl Sample {
    /// A prompt and what follows it, which alone is to be learnt.
    pub fn completion(prompt: &[u32], completion: &[u32]) -> Self {
        let labels = prompt.iter().map(|_| IGNORED).chain(completion.iter().map(|&token| token.into()));
        Self { labels: labels.collect(), tokens: [prompt, completion].concat() }
    }

    /// Tokens that are predicted. The first has nothing before it.
    pub fn targets(&self) -> usize {
        self.labels.iter().skip(1).filter(|label| **label != IGNORED).count()
    }
}

/// Samples one after the other, without padding: no token sees one of another sample.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Batch {
    pub samples: Vec<Sample>,
}

impl Batch {
    pub fn new(samples: Vec<Sample>) -> Self {
        Self { samples }
    }

    /// Tokens of each sample.
    pub fn lengths(&self) -> Vec<usize> {
        self.samples.iter().map(|sample| sample.tokens.len()).collect()
    }

    /// Tokens of all samples.
    pub fn tokens(&self) -> usize {
        self.samples.iter().map(|sample| sample.tokens.len()).sum()
    }

    /// Tokens that are predicted.
    pub fn targets(&self) -> usize {
        self.samples.iter().map(Sample::targets).sum()
    }

    /// The tokens, `[N]` of U32.
    pub fn ids(&self, device: &Device) -> Result<Tensor> {
        Ok(Tensor::from_iter(self.samples.iter().flat_map(|sample| sample.tokens.iter().copied()), device)?)
    }

    /// What each position is to predict, `[N]` of I64: the label of the token after it, [`IGNORED`] at each sample's end.
    pub fn next_labels(&self, device: &Device) -> Result<Tensor> {
        let next = |sample: &Sample| -> Vec<i64> {
            sample.labels.iter().skip(1).copied().chain((!sample.labels.is_empty()).then_some(IGNORED)).collect()
        };
        Ok(Tensor::from_iter(self.samples.iter().flat_map(next), device)?)
    }

    /// The positions that predict a label, `[M]` of U32, and those labels, `[M]` of I64.
    pub fn predicted(&self, device: &Device) -> Result<(Tensor, Tensor)> {
        let (mut rows, mut labels, mut start) = (Vec::new(), Vec::new(), 0);
        for sample in &self.samples {
            for (i, &label) in sample.labels.iter().enumerate().skip(1).filter(|(_, label)| **label != IGNORED) {
                rows.push((start + i - 1) as u32);
                labels.push(label);
            }
            start += sample.tokens.len();
        }
        let count = rows.len();
        Ok((Tensor::from_vec(rows, count, device)?, Tensor::from_vec(labels, count, device)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_position_predicts_the_label_after_it_and_never_one_of_the_next_sample() {
        let sample = |tokens: &[u32], learnt_from: usize| Sample {
            tokens: tokens.to_vec(),
            labels: tokens.iter().enumerate().map(|(i, &t)| if i < learnt_from { IGNORED } else { t.into() }).collect(),
        };
        let batch = Batch::new(vec![sample(&[5, 6, 7], 1), sample(&[8, 9], 0)]);
        assert_eq!(Sample::completion(&[5], &[6, 7]), batch.samples[0]);
        assert_eq!(batch.ids(&Device::Cpu).unwrap().to_vec1::<u32>().unwrap(), [5, 6, 7, 8, 9]);
        let labels = batch.next_labels(&Device::Cpu).unwrap().to_vec1::<i64>().unwrap();
        assert_eq!(labels, [6, 7, IGNORED, 9, IGNORED]);
        assert_eq!((batch.targets(), batch.tokens(), batch.lengths()), (3, 5, vec![3, 2]));
        let (rows, labels) = batch.predicted(&Device::Cpu).unwrap();
        assert_eq!(rows.to_vec1::<u32>().unwrap(), [0, 1, 3]);
        assert_eq!(labels.to_vec1::<i64>().unwrap(), [6, 7, 9]);
    }
}
