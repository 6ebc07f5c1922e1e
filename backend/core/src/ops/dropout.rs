//! Dropout (Srivastava et al., JMLR 15, 2014) whose mask is a function of a key: backward draws it again, and so does a block
//! that is computed again, instead of keeping it.

use super::fused::{expect_float, wide};
use super::kernels::overrides;
use super::{as_one, cpu};
use crate::autograd::Gradient;
use crate::{Result, Tensor, bail};

/// Each element of `x` with probability `1 - p`, divided by that, and otherwise zero.
///
/// The same key and shape give the same mask on devices of one kind. An NPU draws with its own generator, two launches.
pub fn dropout(x: &Tensor, p: f64, key: u64) -> Result<Tensor> {
    expect_float(x, "dropout")?;
    if !(0.0..1.0).contains(&p) {
        bail!("dropout: the probability is {p}, wanted at least 0 and below 1")
    }
    if p == 0.0 {
        return Ok(x.clone());
    }
    let dropout = Dropout { p, key };
    as_one(&dropout, [x], || dropout.of(x))
}

#[derive(Clone, Copy)]
struct Dropout {
    p: f64,
    key: u64,
}

impl Gradient<1> for Dropout {
    fn name(&self) -> &'static str {
        "dropout"
    }

    fn backward(&self, _: [&Tensor; 1], _: &Tensor, grad: &Tensor) -> Result<[Option<Tensor>; 1]> {
        Ok([Some(self.of(grad)?)])
    }
}

impl Dropout {
    fn of(&self, x: &Tensor) -> Result<Tensor> {
        if overrides() {
            if let Some(y) = super::npu::dropout(x, self.p, self.key)? {
                return Ok(y);
            }
            let width = x.dims().last().copied().unwrap_or(1);
            let row = |index: usize, x: &[f32], y: &mut [f32]| {
                for (at, (x, y)) in x.iter().zip(y).enumerate() {
                    *y = x * self.factor(index * width + at);
                }
            };
            if let Some(y) = cpu::map_rows(x, width, row)? {
                return Ok(y);
            }
        }
        let mask = Tensor::from_iter((0..x.elem_count()).map(|at| self.factor(at)), x.device())?;
        let dtype = wide(x.dtype());
        x.to_dtype(dtype)?.mul(&mask.reshape(x.shape())?.to_dtype(dtype)?)?.to_dtype(x.dtype())
    }

    /// What the element at `at` is multiplied with.
    fn factor(&self, at: usize) -> f32 {
        let drawn = (mix(self.key, at as u64) >> 11) as f64 / (1u64 << 53) as f64;
        if drawn < self.p { 0.0 } else { (1.0 / (1.0 - self.p)) as f32 }
    }
}

/// Number `at` of the sequence that `key` begins: SplitMix64 (Steele, Lea and Flood, OOPSLA 2014).
fn mix(key: u64, at: u64) -> u64 {
    let z = key.wrapping_add((at + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
