//! From logits to a token: pure functions over a slice of logits.
//!
//! The order is that of transformers: repetition penalty, temperature, top-k, top-p, min-p, then a draw.

use anyhow::{Result, ensure};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

/// How tokens are drawn. The default is greedy: the likeliest token, always.
#[derive(Clone, Debug, PartialEq)]
pub struct SamplingOptions {
    /// 0 takes the likeliest token; above, the logits are divided by it before the draw.
    pub temperature: f64,
    /// Keep this many of the likeliest tokens; 0 keeps all.
    pub top_k: usize,
    /// Keep the fewest likeliest tokens whose probabilities reach this sum; 1 keeps all.
    pub top_p: f64,
    /// Keep tokens at least this likely relative to the likeliest; 0 keeps all.
    pub min_p: f64,
    /// Divides positive logits of tokens that have occurred and multiplies negative ones; 1 changes nothing.
    pub repetition_penalty: f64,
    pub seed: u64,
}

impl Default for SamplingOptions {
    fn default() -> Self {
        Self { temperature: 0.0, top_k: 0, top_p: 1.0, min_p: 0.0, repetition_penalty: 1.0, seed: 0 }
    }
}

impl SamplingOptions {
    pub fn check(&self) -> Result<()> {
        let Self { temperature, top_p, min_p, repetition_penalty, .. } = *self;
        ensure!(temperature.is_finite() && temperature >= 0.0, "temperature is {temperature}, wanted 0 or more");
        ensure!(top_p > 0.0 && top_p <= 1.0, "top_p is {top_p}, wanted a number above 0 and up to 1");
        ensure!((0.0..=1.0).contains(&min_p), "min_p is {min_p}, wanted a number from 0 to 1");
        ensure!(
            repetition_penalty.is_finite() && repetition_penalty > 0.0,
            "repetition_penalty is {repetition_penalty}, wanted a positive number"
        );
        Ok(())
    }
}

impl SamplingOptions {
    /// Whether the likeliest token is taken, whatever came before.
    pub fn is_greedy(&self) -> bool {
        self.temperature == 0.0 && self.repetition_penalty == 1.0
    }
}

/// A seeded sampler: the same options and logits give the same tokens.
pub struct Sampler {
    options: SamplingOptions,
    random: StdRng,
}

impl Sampler {
    pub fn new(options: SamplingOptions) -> Result<Self> {
        options.check()?;
        let random = StdRng::seed_from_u64(options.seed);
        Ok(Self { options, random })
    }

    /// The next token after `history`, from `logits` over the vocabulary, which it may change.
    pub fn sample(&mut self, logits: &mut [f32], history: &[u32]) -> Result<u32> {
        check_logits(logits)?;
        penalize_repetition(logits, history, self.options.repetition_penalty as f32);
        if self.options.temperature == 0.0 {
            return Ok(argmax(logits));
        }
        let SamplingOptions { temperature, top_k, top_p, min_p, .. } = self.options;
        if top_k == 0 && top_p >= 1.0 && min_p == 0.0 {
            // Sorting a vocabulary costs more than all else, and where all tokens stay their order is of no consequence.
            return Ok(draw(&probabilities(logits, temperature), self.random.random()));
        }
        let mut candidates = candidates(logits, temperature);
        keep_top_k(&mut candidates, top_k);
        keep_top_p(&mut candidates, top_p);
        keep_min_p(&mut candidates, min_p);
        Ok(draw(&candidates, self.random.random()))
    }
}

fn check_logits(logits: &[f32]) -> Result<()> {
    ensure!(!logits.is_empty(), "there are no logits to draw from");
    if let Some(bad) = logits.iter().position(|logit| logit.is_nan()) {
        anyhow::bail!("the logit of token {bad} is not a number; the model computed garbage in this dtype");
    }
    Ok(())
}

/// [`argmax`], with an error for logits that are not numbers.
pub(crate) fn greedy(logits: &[f32]) -> Result<u32> {
    check_logits(logits)?;
    Ok(argmax(logits))
}

/// The index of the largest logit, the first of equals.
pub fn argmax(logits: &[f32]) -> u32 {
    let best = logits
        .iter()
        .enumerate()
        .fold((0, f32::NEG_INFINITY), |best, (i, &logit)| if logit > best.1 { (i, logit) } else { best });
    best.0 as u32
}

/// Makes tokens that have occurred less likely, each once however often it occurred.
pub fn penalize_repetition(logits: &mut [f32], history: &[u32], penalty: f32) {
    if penalty == 1.0 {
        return;
    }
    let mut seen = history.to_vec();
    seen.sort_unstable();
    seen.dedup();
    for token in seen {
        if let Some(logit) = logits.get_mut(token as usize) {
            *logit = if *logit > 0.0 { *logit / penalty } else { *logit * penalty };
        }
    }
}

/// Every token with its probability at `temperature`, likeliest first; ties in the order of ids.
pub fn candidates(logits: &[f32], temperature: f64) -> Vec<(u32, f64)> {
    let mut candidates = probabilities(logits, temperature);
    candidates.sort_unstable_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
    candidates
}

/// Every token with its probability at `temperature`, in the order of ids.
fn probabilities(logits: &[f32], temperature: f64) -> Vec<(u32, f64)> {
    let most = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max) as f64;
    let weight = |logit: f32| if logit as f64 == most { 1.0 } else { ((logit as f64 - most) / temperature).exp() };
    let mut all: Vec<(u32, f64)> = logits.iter().enumerate().map(|(i, &logit)| (i as u32, weight(logit))).collect();
    normalize(&mut all);
    all
}

/// Keeps the `k` likeliest; 0 keeps all.
pub fn keep_top_k(candidates: &mut Vec<(u32, f64)>, k: usize) {
    if k > 0 && k < candidates.len() {
        candidates.truncate(k);
        normalize(candidates);
    }
}

/// Keeps the fewest likeliest whose probabilities reach `p` in sum, at least one.
pub fn keep_top_p(candidates: &mut Vec<(u32, f64)>, p: f64) {
    if p >= 1.0 {
        return;
    }
    let mut sum = 0.0;
    let reach = candidates.iter().position(|(_, probability)| {
        sum += probability;
        sum >= p
    });
    if let Some(last) = reach {
        candidates.truncate(last + 1);
        normalize(candidates);
    }
}

/// Keeps those at least `p` times as likely as the likeliest.
pub fn keep_min_p(candidates: &mut Vec<(u32, f64)>, p: f64) {
    if p > 0.0 {
        let least = p * candidates[0].1;
        candidates.retain(|(_, probability)| *probability >= least);
        normalize(candidates);
    }
}

fn normalize(candidates: &mut [(u32, f64)]) {
    let sum: f64 = candidates.iter().map(|(_, weight)| weight).sum();
    candidates.iter_mut().for_each(|(_, weight)| *weight /= sum);
}

/// The candidate at `point`, from 0 to below 1, of the running sum of probabilities.
pub fn draw(candidates: &[(u32, f64)], point: f64) -> u32 {
    let mut sum = 0.0;
    let found = candidates.iter().find(|(_, probability)| {
        sum += probability;
        point < sum
    });
    // Rounding can leave the whole sum a hair under 1; the last candidate then takes the rest.
    found.or(candidates.last()).map_or(0, |(token, _)| *token)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Logits whose softmax is 0.5, 0.25, 0.15, 0.1 for the tokens 2, 0, 3, 1.
    fn logits() -> Vec<f32> {
        [0.25f32, 0.1, 0.5, 0.15].map(f32::ln).to_vec()
    }

    fn assert_candidates(got: &[(u32, f64)], wanted: &[(u32, f64)]) {
        assert_eq!(got.len(), wanted.len(), "{got:?}");
        for (g, w) in got.iter().zip(wanted) {
            // Logits are f32: seven digits.
            assert!(g.0 == w.0 && (g.1 - w.1).abs() < 1e-6, "got {got:?}, wanted {wanted:?}");
        }
    }

    #[test]
    fn filters_by_hand() {
        let all = candidates(&logits(), 1.0);
        assert_candidates(&all, &[(2, 0.5), (0, 0.25), (3, 0.15), (1, 0.1)]);
        let mut k = all.clone();
        keep_top_k(&mut k, 2);
        assert_candidates(&k, &[(2, 2.0 / 3.0), (0, 1.0 / 3.0)]);
        let mut p = all.clone();
        keep_top_p(&mut p, 0.8);
        assert_candidates(&p, &[(2, 0.5 / 0.9), (0, 0.25 / 0.9), (3, 0.15 / 0.9)]);
        let mut least = all.clone();
        keep_top_p(&mut least, 0.01);
        assert_candidates(&least, &[(2, 1.0)]);
        let mut m = all.clone();
        keep_min_p(&mut m, 0.4);
        assert_candidates(&m, &[(2, 2.0 / 3.0), (0, 1.0 / 3.0)]);
    }

    #[test]
    fn temperature_sharpens_and_flattens() {
        // At temperature 1/2 probabilities are squared: 0.25, 0.0625, 0.0225, 0.01 over their sum 0.345.
        let sharp = candidates(&logits(), 0.5);
        assert_candidates(&sharp, &[(2, 0.25 / 0.345), (0, 0.0625 / 0.345), (3, 0.0225 / 0.345), (1, 0.01 / 0.345)]);
        let tiny = candidates(&logits(), 1e-300);
        assert_candidates(&tiny, &[(2, 1.0), (0, 0.0), (1, 0.0), (3, 0.0)]);
    }

    #[test]
    fn penalty_counts_a_token_once_and_respects_the_sign() {
        let mut logits = vec![2.0, -2.0, 3.0];
        penalize_repetition(&mut logits, &[0, 1, 0, 900], 2.0);
        assert_eq!(logits, [1.0, -4.0, 3.0]);
    }

    #[test]
    fn draw_walks_the_running_sum() {
        let all = candidates(&logits(), 1.0);
        let points = [(0.0, 2), (0.49, 2), (0.51, 0), (0.74, 0), (0.76, 3), (0.91, 1), (0.9999999999, 1)];
        for (point, token) in points {
            assert_eq!(draw(&all, point), token, "at {point}");
        }
    }

    #[test]
    fn greedy_takes_the_first_of_equals() {
        let mut sampler = Sampler::new(SamplingOptions::default()).unwrap();
        assert_eq!(sampler.sample(&mut [1.0, 3.0, 3.0, -1.0], &[]).unwrap(), 1);
    }

    #[test]
    fn the_same_seed_gives_the_same_tokens_in_the_right_shares() {
        let run = |seed| -> Vec<u32> {
            let mut sampler = Sampler::new(SamplingOptions { temperature: 1.0, seed, ..Default::default() }).unwrap();
            (0..4000).map(|_| sampler.sample(&mut logits(), &[]).unwrap()).collect()
        };
        let (a, b, c) = (run(7), run(7), run(8));
        assert_eq!(a, b);
        assert_ne!(a, c);
        for (token, wanted) in [(2, 0.5), (0, 0.25), (3, 0.15), (1, 0.1)] {
            let share = a.iter().filter(|t| **t == token).count() as f64 / 4000.0;
            // Four standard deviations of a share near one half in 4000 draws.
            assert!((share - wanted).abs() < 0.032, "token {token}: {share}");
        }
    }

    #[test]
    fn nonsense_is_refused() {
        for options in [
            SamplingOptions { temperature: -1.0, ..Default::default() },
            SamplingOptions { temperature: f64::NAN, ..Default::default() },
            SamplingOptions { top_p: 0.0, ..Default::default() },
            SamplingOptions { min_p: 1.5, ..Default::default() },
            SamplingOptions { repetition_penalty: 0.0, ..Default::default() },
        ] {
            assert!(Sampler::new(options.clone()).is_err(), "{options:?}");
        }
        let mut sampler = Sampler::new(SamplingOptions::default()).unwrap();
        assert!(sampler.sample(&mut [0.0, f32::NAN], &[]).unwrap_err().to_string().contains("token 1"));
        assert!(sampler.sample(&mut [], &[]).is_err());
    }
}
