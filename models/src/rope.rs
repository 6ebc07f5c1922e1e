//! Rotary position embeddings: the inverse frequencies of each scaling, and the tables of cosines and sines.

use crate::fields::Fields;
use anyhow::{Context, Result, bail, ensure};
use candle_ascend::{DType, Device, Tensor};
use std::f64::consts::PI;

/// Base and scaling of a rotary embedding.
#[derive(Clone, Debug, PartialEq)]
pub struct Rope {
    pub theta: f64,
    pub scaling: RopeScaling,
}

/// How the frequencies are stretched beyond the length that the model was trained at first.
#[derive(Clone, Debug, PartialEq)]
pub enum RopeScaling {
    Default,
    /// Positions divided by `factor`.
    Linear {
        factor: f64,
    },
    /// Llama 3: long waves divided by `factor`, short ones kept, a ramp between.
    Llama3 {
        factor: f64,
        low_freq_factor: f64,
        high_freq_factor: f64,
        original_max_position_embeddings: usize,
    },
    /// Each frequency divided by its own number, as GGUF files hold Llama 3's scaling.
    Divided(Vec<f64>),
    /// YaRN (arXiv 2309.00071): a ramp over the dimensions, and a temperature on the attention.
    Yarn(Yarn),
}

/// The parameters of YaRN, defaults filled in.
#[derive(Clone, Debug, PartialEq)]
pub struct Yarn {
    pub factor: f64,
    pub original_max_position_embeddings: usize,
    pub beta_fast: f64,
    pub beta_slow: f64,
    /// Multiplies the cosines and sines.
    pub attention_factor: f64,
    /// Multiplies the scores of latent attention, where the checkpoint states a scale for all dimensions.
    pub score_factor: f64,
    /// The ramp's ends are rounded to whole dimensions.
    pub truncate: bool,
}

impl RopeScaling {
    /// Reads the scaling out of `rope_scaling` (transformers 4) or `rope_parameters` (5).
    pub fn from_fields(fields: &mut Fields, max_position_embeddings: usize) -> Result<Self> {
        let (new, old) = (fields.text("rope_type")?, fields.text("type")?);
        if let (Some(new), Some(old)) = (&new, &old) {
            ensure!(new == old, "the rope scaling's rope_type is {new:?} and its type is {old:?}");
        }
        let kind = new.or(old).unwrap_or_else(|| "default".into());
        match kind.as_str() {
            "default" => Ok(RopeScaling::Default),
            "linear" => Ok(RopeScaling::Linear { factor: factor(fields)? }),
            "llama3" => {
                let original = fields.want_size("original_max_position_embeddings", 1 << 28)?;
                let (low, high) = (fields.want_number("low_freq_factor")?, fields.want_number("high_freq_factor")?);
                ensure!(
                    low > 0.0 && high > low,
                    "llama3 rope scaling wants 0 < low_freq_factor < high_freq_factor, got {low} and {high}"
                );
                Ok(RopeScaling::Llama3 {
                    factor: factor(fields)?,
                    low_freq_factor: low,
                    high_freq_factor: high,
                    original_max_position_embeddings: original,
                })
            }
            "yarn" => Ok(RopeScaling::Yarn(Yarn::from_fields(fields, max_position_embeddings)?)),
            other => bail!("rope scaling {other:?} is not supported; default, linear, llama3 and yarn are"),
        }
    }
}

fn factor(fields: &mut Fields) -> Result<f64> {
    let factor = fields.want_number("factor")?;
    ensure!((1.0..=1e6).contains(&factor), "the rope scaling's factor is {factor}, wanted at least 1");
    Ok(factor)
}

/// A long context that YaRN can keep grows with the logarithm of the stretch (the paper's equation 22).
fn temperature(factor: f64, scale: f64) -> f64 {
    if factor <= 1.0 { 1.0 } else { 0.1 * scale * factor.ln() + 1.0 }
}

impl Yarn {
    /// The paper's own choices, the temperature times `attention`.
    pub fn new(factor: f64, original_max_position_embeddings: usize, attention: f64) -> Self {
        let attention_factor = attention * temperature(factor, 1.0);
        Yarn {
            factor,
            original_max_position_embeddings,
            beta_fast: 32.0,
            beta_slow: 1.0,
            attention_factor,
            score_factor: 1.0,
            truncate: true,
        }
    }

    fn from_fields(fields: &mut Fields, max_position_embeddings: usize) -> Result<Self> {
        let factor = factor(fields)?;
        let temperature = |scale: f64| temperature(factor, scale);
        let (numerator, denominator) = (fields.number("mscale")?, fields.number("mscale_all_dim")?);
        let inferred = match (numerator, denominator) {
            (Some(a), Some(b)) if a != 0.0 && b != 0.0 => temperature(a) / temperature(b),
            _ => temperature(1.0),
        };
        let original = fields.size("original_max_position_embeddings", 1 << 28)?;
        let yarn = Yarn {
            factor,
            original_max_position_embeddings: original.unwrap_or(max_position_embeddings),
            beta_fast: fields.number("beta_fast")?.unwrap_or(32.0),
            beta_slow: fields.number("beta_slow")?.unwrap_or(1.0),
            attention_factor: fields.number("attention_factor")?.unwrap_or(inferred),
            score_factor: denominator.filter(|scale| *scale != 0.0).map_or(1.0, |scale| temperature(scale).powi(2)),
            truncate: fields.flag("truncate")?.unwrap_or(true),
        };
        let (fast, slow, attention) = (yarn.beta_fast, yarn.beta_slow, yarn.attention_factor);
        ensure!(slow > 0.0 && fast >= slow, "yarn wants 0 < beta_slow <= beta_fast, got {slow} and {fast}");
        ensure!(attention > 0.0, "yarn's attention_factor is {attention}, wanted a positive number");
        Ok(yarn)
    }

    fn stretch(&self, frequencies: &mut [f64], theta: f64) {
        let dim = (2 * frequencies.len()) as f64;
        let length = self.original_max_position_embeddings as f64;
        // The dimension whose wave turns `rotations` times over the original length.
        let dimension = |rotations: f64| dim * (length / (rotations * 2.0 * PI)).ln() / (2.0 * theta.ln());
        let (mut low, mut high) = (dimension(self.beta_fast), dimension(self.beta_slow));
        if self.truncate {
            (low, high) = (low.floor(), high.ceil());
        }
        (low, high) = (low.max(0.0), high.min(dim - 1.0));
        if low == high {
            high += 0.001;
        }
        for (i, frequency) in frequencies.iter_mut().enumerate() {
            let stretched = ((i as f64 - low) / (high - low)).clamp(0.0, 1.0);
            *frequency = *frequency / self.factor * stretched + *frequency * (1.0 - stretched);
        }
    }
}

impl Rope {
    /// Checks the base.
    pub fn new(theta: f64, scaling: RopeScaling) -> Result<Self> {
        ensure!(theta > 1.0, "rope_theta is {theta}, wanted a number above 1");
        Ok(Self { theta, scaling })
    }

    /// The angle per position of each of the `head_dim / 2` pairs.
    pub fn inverse_frequencies(&self, head_dim: usize) -> Vec<f64> {
        let mut frequencies: Vec<f64> =
            (0..head_dim / 2).map(|i| self.theta.powf(-((2 * i) as f64) / head_dim as f64)).collect();
        match &self.scaling {
            RopeScaling::Default => {}
            RopeScaling::Linear { factor } => frequencies.iter_mut().for_each(|f| *f /= factor),
            RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_max_position_embeddings } => {
                for frequency in &mut frequencies {
                    let turns = *original_max_position_embeddings as f64 * *frequency / (2.0 * PI);
                    let kept = ((turns - low_freq_factor) / (high_freq_factor - low_freq_factor)).clamp(0.0, 1.0);
                    *frequency *= (1.0 - kept) / factor + kept;
                }
            }
            RopeScaling::Divided(divisors) => frequencies.iter_mut().zip(divisors).for_each(|(f, d)| *f /= d),
            RopeScaling::Yarn(yarn) => yarn.stretch(&mut frequencies, self.theta),
        }
        frequencies
    }

    /// What the cosines and sines are multiplied by.
    pub fn attention_factor(&self) -> f64 {
        match &self.scaling {
            RopeScaling::Yarn(yarn) => yarn.attention_factor,
            _ => 1.0,
        }
    }

    /// What latent attention's scores are multiplied by.
    pub fn score_factor(&self) -> f64 {
        match &self.scaling {
            RopeScaling::Yarn(yarn) => yarn.score_factor,
            _ => 1.0,
        }
    }

    /// Cosines and sines, each `[positions, head_dim]` with the second half of a row like the first, for positions from 0,
    /// computed on the host. Operators of NPUs want one angle an element; whole rows save them a copy in every layer.
    ///
    /// The angle is rounded to f32 before the cosine, and the table to `dtype` after it, as transformers does.
    pub fn tables(&self, head_dim: usize, positions: usize, dtype: DType, device: &Device) -> Result<(Tensor, Tensor)> {
        let frequencies: Vec<f32> = self.inverse_frequencies(head_dim).iter().map(|f| *f as f32).collect();
        let row = || frequencies.iter().chain(&frequencies);
        let angles = (0..positions).flat_map(|p| row().map(move |f| p as f32 * f));
        let scale = self.attention_factor() as f32;
        let (cos, sin): (Vec<f32>, Vec<f32>) = angles.map(|angle| (angle.cos() * scale, angle.sin() * scale)).unzip();
        let shape = (positions, head_dim);
        let table = |values: Vec<f32>| -> Result<Tensor> {
            let table = Tensor::from_vec(values, shape, device)?.to_dtype(dtype)?;
            Ok(table)
        };
        Ok((table(cos).context("the rotary cosines")?, table(sin).context("the rotary sines")?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn close(got: &[f64], wanted: &[f64]) {
        assert_eq!(got.len(), wanted.len());
        for (g, w) in got.iter().zip(wanted) {
            // The wanted values are written with seven digits.
            assert!((g - w).abs() <= 2e-6 * w.abs(), "got {got:?}, wanted {wanted:?}");
        }
    }

    fn scaling(json: &str) -> Result<RopeScaling> {
        RopeScaling::from_fields(&mut Fields::parse(json)?, 4096)
    }

    #[test]
    fn linear_divides_every_frequency() {
        let rope = Rope::new(10_000.0, scaling(r#"{"type": "linear", "factor": 4}"#).unwrap()).unwrap();
        close(&rope.inverse_frequencies(4), &[0.25, 0.0025]);
    }

    #[test]
    fn llama3_keeps_short_waves_and_divides_long_ones() {
        let json = r#"{"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                       "original_max_position_embeddings": 8192}"#;
        let rope = Rope::new(500_000.0, scaling(json).unwrap()).unwrap();
        let got = rope.inverse_frequencies(128);
        let plain = Rope::new(500_000.0, RopeScaling::Default).unwrap().inverse_frequencies(128);
        close(&got[..1], &[1.0]);
        close(&got[63..], &[plain[63] / 8.0]);
        // A wave in the ramp: 8192 * f / 2 pi turns lie between 1 and 4.
        let i = plain.iter().position(|f| 8192.0 * f / (2.0 * PI) < 4.0).unwrap();
        let turns = 8192.0 * plain[i] / (2.0 * PI);
        let smooth = (turns - 1.0) / 3.0;
        close(&got[i..=i], &[(1.0 - smooth) * plain[i] / 8.0 + smooth * plain[i]]);
    }

    /// Values that transformers 5 computes in f32, at some of the dimensions.
    #[test]
    fn frequencies_are_those_of_transformers() {
        type Case = (&'static str, f64, usize, f64, &'static [(usize, f64)]);
        let cases: [Case; 4] = [
            (
                r#"{"type": "yarn", "factor": 40, "mscale": 1, "mscale_all_dim": 1, "original_max_position_embeddings": 128}"#,
                1e4,
                16,
                1.0,
                &[(0, 1.0), (1, 0.21345373), (2, 0.034999998), (3, 7.9056942e-4), (4, 2.5e-4), (7, 7.9056942e-6)],
            ),
            (
                r#"{"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768}"#,
                1e6,
                128,
                1.138629436111989,
                &[(20, 0.013335214), (30, 1.0643609e-3), (40, 4.4456985e-5), (45, 1.510741e-5), (63, 3.1023444e-7)],
            ),
            (
                r#"{"type": "yarn", "factor": 40, "mscale": 1, "mscale_all_dim": 0.707, "original_max_position_embeddings": 4096}"#,
                1e4,
                64,
                1.0857263992561355,
                &[(9, 0.074989421), (12, 0.02687936), (18, 2.2493652e-3), (25, 1.8747355e-5), (31, 3.3338036e-6)],
            ),
            (
                r#"{"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                    "original_max_position_embeddings": 8192}"#,
                5e5,
                128,
                1.0,
                &[
                    (20, 0.01656044),
                    (29, 2.1665708e-3),
                    (32, 5.2484616e-4),
                    (34, 1.7850781e-4),
                    (36, 7.7846553e-5),
                    (63, 3.068926e-7),
                ],
            ),
        ];
        for (json, theta, width, factor, wanted) in cases {
            let rope = Rope::new(theta, scaling(json).unwrap()).unwrap();
            let got = rope.inverse_frequencies(width);
            for (i, wanted) in wanted {
                close(&got[*i..=*i], &[*wanted]);
            }
            close(&[rope.attention_factor()], &[factor]);
        }
    }

    #[test]
    fn yarn_attention_factor_comes_from_the_scales() {
        let Ok(RopeScaling::Yarn(plain)) = scaling(r#"{"type": "yarn", "factor": 4.0}"#) else { panic!() };
        close(&[plain.attention_factor], &[1.138_629_4]);
        assert_eq!(plain.original_max_position_embeddings, 4096);
        let json = r#"{"type": "yarn", "factor": 40, "mscale": 1.0, "mscale_all_dim": 1.0, "original_max_position_embeddings": 128}"#;
        let Ok(RopeScaling::Yarn(even)) = scaling(json) else { panic!() };
        assert_eq!(even.attention_factor, 1.0);
        let Ok(RopeScaling::Yarn(given)) = scaling(r#"{"type": "yarn", "factor": 4, "attention_factor": 1.5}"#) else {
            panic!()
        };
        assert_eq!(given.attention_factor, 1.5);
    }

    #[test]
    fn unsupported_scalings_are_refused_by_name() {
        for kind in ["dynamic", "longrope", "mrope"] {
            let error = scaling(&format!(r#"{{"rope_type": "{kind}", "factor": 2}}"#)).unwrap_err().to_string();
            assert!(error.contains(kind) && error.contains("not supported"), "{error}");
        }
        assert!(scaling(r#"{"type": "yarn", "rope_type": "linear", "factor": 2}"#).is_err());
        assert!(scaling(r#"{"type": "linear"}"#).unwrap_err().to_string().contains("factor is missing"));
    }
}
