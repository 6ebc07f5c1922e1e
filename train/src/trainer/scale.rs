//! The factor that keeps gradients in the range of F16.

use anyhow::{Result, bail};
use serde::{Deserialize, Serialize};

const START: f64 = 65536.;
/// Steps without an overflow after which the factor is doubled.
const WINDOW: usize = 1000;

/// A dynamic loss scale, as mixed precision with F16 wants it: the loss is multiplied by it before backward and the gradients
/// are divided by it after.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct LossScale {
    factor: f64,
    passed: usize,
}

impl Default for LossScale {
    fn default() -> Self {
        Self { factor: START, passed: 0 }
    }
}

impl LossScale {
    pub fn factor(&self) -> f64 {
        self.factor
    }

    /// A step's gradients were finite.
    pub fn passed(&mut self) {
        self.passed += 1;
        if self.passed == WINDOW {
            *self = Self { factor: self.factor * 2., passed: 0 };
        }
    }

    /// A step's gradients were not: the next one is tried with half the factor. `what` is not finite, for the error when
    /// there is nothing left to halve.
    pub fn overflowed(&mut self, what: &str) -> Result<()> {
        if self.factor <= 1. {
            bail!("{what} is not finite in f16 though the loss is no longer scaled: train in bf16 or f32")
        }
        *self = Self { factor: self.factor / 2., passed: 0 };
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn doubles_after_a_window_halves_at_once_and_ends_at_one() {
        let mut scale = LossScale::default();
        (0..WINDOW - 1).for_each(|_| scale.passed());
        assert_eq!(scale.factor(), 65536.);
        scale.passed();
        assert_eq!(scale.factor(), 131072.);
        (0..WINDOW - 1).for_each(|_| scale.passed());
        scale.overflowed("x").unwrap();
        scale.passed();
        assert_eq!(scale.factor(), 65536., "an overflow begins a new window");
        (0..16).for_each(|_| scale.overflowed("x").unwrap());
        assert_eq!(scale.factor(), 1.);
        assert!(scale.overflowed("the gradient of w").unwrap_err().to_string().contains("gradient of w"));
    }
}
