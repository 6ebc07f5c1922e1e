//! Whether all ranks were started alike.

use crate::Ranks;
use anyhow::{Context, Result, bail, ensure};
use candle_ascend::Tensor;
use candle_ascend::comm::Reduction;

impl Ranks {
    /// An error, the same on every rank, unless all of them pass the same `facts`: names, such as flags, with their values.
    /// It names the first that differs, and what it is on which rank.
    pub fn agree(&self, facts: &[(String, String)]) -> Result<()> {
        let Some(communicator) = self.communicator() else { return Ok(()) };
        let device = communicator.device();
        let mut text = serde_json::to_vec(facts)?;
        // Whole numbers up to here are exact in F32.
        ensure!(text.len() < 1 << 24, "{} bytes of facts to compare between the ranks", text.len());
        let length = Tensor::new(&[text.len() as f32], device)?;
        let longest = communicator.all_reduce(&length, Reduction::Max)?.to_vec1::<f32>()?;
        self.check().context("comparing how the ranks were started")?;
        text.resize(longest[0] as usize, b' ');
        let all = communicator.all_gather(&Tensor::new(text.as_slice(), device)?)?.to_vec1::<u8>()?;
        self.check().context("comparing how the ranks were started")?;
        let facts_of = |bytes| serde_json::from_slice(bytes).context("what another rank says about its start");
        let of_ranks = all.chunks(text.len()).map(facts_of).collect::<Result<Vec<Vec<(String, String)>>>>()?;
        match difference(&of_ranks) {
            None => Ok(()),
            Some(differs) => bail!(
                "the ranks were not started alike: {differs}\n  try: start every rank with the same program, command line and files"
            ),
        }
    }
}

/// The first fact that not all ranks have alike, with its values; in the order of the lists.
fn difference(of_ranks: &[Vec<(String, String)>]) -> Option<String> {
    let value = |rank: usize, name: &str| {
        of_ranks[rank].iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    };
    let mut names = of_ranks.iter().flatten().map(|(name, _)| name.as_str());
    let name = names.find(|name| (1..of_ranks.len()).any(|rank| value(rank, name) != value(0, name)))?;
    let mut values: Vec<(Option<&str>, Vec<String>)> = Vec::new();
    for rank in 0..of_ranks.len() {
        let own = value(rank, name);
        match values.iter_mut().find(|(value, _)| *value == own) {
            Some((_, ranks)) => ranks.push(rank.to_string()),
            None => values.push((own, vec![rank.to_string()])),
        }
    }
    let told = values.iter().map(|(value, ranks)| match value {
        Some(value) => format!("{value} on rank {}", ranks.join(", ")),
        None => format!("not given on rank {}", ranks.join(", ")),
    });
    Some(format!("{name} is {}", told.collect::<Vec<_>>().join(" and ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts(facts: &[(&str, &str)]) -> Vec<(String, String)> {
        facts.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect()
    }

    #[test]
    fn the_first_difference_is_named_with_its_ranks() {
        let one = facts(&[("--seed", "1"), ("--learning-rate", "1e-4"), ("--zero", "0")]);
        let other = facts(&[("--seed", "1"), ("--learning-rate", "2e-4"), ("--zero", "1")]);
        assert_eq!(difference(&[one.clone(), one.clone()]), None);
        let told = difference(&[one.clone(), other.clone(), one.clone(), other]).unwrap();
        assert_eq!(told, "--learning-rate is 1e-4 on rank 0, 2 and 2e-4 on rank 1, 3");
        let told = difference(&[one[..2].to_vec(), one]).unwrap();
        assert_eq!(told, "--zero is not given on rank 0 and 0 on rank 1");
    }
}
