//! The learning rate, step by step.

use anyhow::{Error, bail};
use serde::{Deserialize, Serialize};
use std::f64::consts::PI;
use std::str::FromStr;

/// How the learning rate goes on after the warm-up, under transformers' names.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Decay {
    #[default]
    Linear,
    Cosine,
    Constant,
    ConstantWithWarmup,
}

impl FromStr for Decay {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self, Error> {
        Ok(match name {
            "linear" => Self::Linear,
            "cosine" => Self::Cosine,
            "constant" => Self::Constant,
            "constant_with_warmup" => Self::ConstantWithWarmup,
            other => bail!("{other}: unknown schedule; use linear, cosine, constant or constant_with_warmup"),
        })
    }
}

/// The learning rate of every step: as transformers' schedulers have it, the first step of a warm-up has a rate of zero.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Schedule {
    pub peak: f64,
    pub decay: Decay,
    pub warmup_steps: usize,
    pub max_steps: usize,
}

impl Schedule {
    /// The rate of the step `step`, which counts from 0.
    pub fn at(&self, step: usize) -> f64 {
        if self.decay != Decay::Constant && step < self.warmup_steps {
            return self.peak * step as f64 / self.warmup_steps as f64;
        }
        let (done, all) = (step.saturating_sub(self.warmup_steps), self.max_steps.saturating_sub(self.warmup_steps));
        let progress = done as f64 / all.max(1) as f64;
        let factor = match self.decay {
            Decay::Constant | Decay::ConstantWithWarmup => 1.,
            Decay::Linear => 1. - progress,
            Decay::Cosine => (1. + (PI * progress).cos()) / 2.,
        };
        self.peak * factor.max(0.)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What transformers' `get_scheduler` gave for these arguments.
    #[test]
    fn rates_are_those_of_transformers() {
        let cases = [
            (Decay::Linear, [0., 0.5, 1., 0.75, 0.5, 0.25]),
            (Decay::Cosine, [0., 0.5, 1., 0.853_553_390_593_273_8, 0.5, 0.146_446_609_406_726_2]),
            (Decay::ConstantWithWarmup, [0., 0.5, 1., 1., 1., 1.]),
            (Decay::Constant, [1.; 6]),
        ];
        for (decay, wanted) in cases {
            let schedule = Schedule { peak: 2e-5, decay, warmup_steps: 2, max_steps: 6 };
            for (step, wanted) in wanted.into_iter().enumerate() {
                assert!(
                    (schedule.at(step) / 2e-5 - wanted).abs() < 1e-12,
                    "{decay:?} step {step}: {}",
                    schedule.at(step)
                );
            }
        }
    }
}
