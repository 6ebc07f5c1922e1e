//! Functions of a row of `f32`, written so that a compiler makes vectors of them for the unit that they are inlined for.

use super::Form;
use crate::Float;
use half::bf16;

/// What the elements of a step of AdamW share.
#[derive(Clone, Copy, Debug)]
pub struct Decayed {
    pub beta1: f32,
    pub beta2: f32,
    /// The reciprocal of `1 - beta2^step`.
    pub second_scale: f32,
    pub eps: f32,
    /// The learning rate over `1 - beta1^step`.
    pub rate: f32,
    /// What gradients are multiplied with before they are used.
    pub grad_scale: f32,
    /// What decay leaves of a weight.
    pub kept: f32,
}

/// Independent sums, as many as the longest register has lanes.
const LANES: usize = 16;

/// `eˣ` to within two units in the last place; zero below the smallest normal result, infinity above the largest.
///
/// `x = n·ln 2 + r` with `|r| ≤ ln 2 / 2`, where eʳ is its Taylor series to r⁷, which is off by less than 2⁻²⁷ there.
#[inline(always)]
fn exp(x: f32) -> f32 {
    // The sum rounds to a multiple of one, and so does the difference.
    const ROUND: f32 = 12_582_912.0;
    // ln 2 in two parts; the first has so few bits that its product with n is exact.
    const LN2_HIGH: f32 = 0.693_359_4;
    const LN2_LOW: f32 = -2.121_944_4e-4;
    let bounded = x.clamp(-87.336_54, 88.722_83);
    let shifted = bounded * std::f32::consts::LOG2_E + ROUND;
    let n = shifted - ROUND;
    let r = (bounded - n * LN2_HIGH) - n * LN2_LOW;
    let tail =
        1.0 / 2.0 + r * (1.0 / 6.0 + r * (1.0 / 24.0 + r * (1.0 / 120.0 + r * (1.0 / 720.0 + r * (1.0 / 5040.0)))));
    let power = 1.0 + (r + r * r * tail);
    // The fraction of the shifted number is n. (For a NaN it is anything, and `power` is the NaN.)
    let n = (shifted.to_bits() as i32).wrapping_sub(ROUND.to_bits() as i32);
    // In two factors, since 2¹²⁸ alone is no `f32`.
    let scale = |n: i32| f32::from_bits((n.wrapping_add(127) << 23) as u32);
    let value = power * scale(n >> 1) * scale(n - (n >> 1));
    let value = if x < -87.336_54 { 0.0 } else { value };
    if x > 88.722_83 { f32::INFINITY } else { value }
}

#[inline(always)]
fn exp_and_sum_of(row: &mut [f32], less: f32) -> f32 {
    let mut sums = [0f32; LANES];
    let mut chunks = row.chunks_exact_mut(LANES);
    for chunk in &mut chunks {
        for (value, sum) in chunk.iter_mut().zip(&mut sums) {
            *value = exp(*value - less);
            *sum += *value;
        }
    }
    let mut sum = 0.0;
    for value in chunks.into_remainder() {
        *value = exp(*value - less);
        sum += *value;
    }
    sums.iter().sum::<f32>() + sum
}

#[inline(always)]
fn swiglu_of(gate: &[f32], up: &[f32], out: &mut [f32]) {
    for ((out, gate), up) in out.iter_mut().zip(gate).zip(up) {
        *out = gate / (1.0 + exp(-gate)) * up;
    }
}

/// The gradients of gate and up beside each other, as the operand has them.
#[inline(always)]
fn swiglu_grad_of(gate: &[f32], up: &[f32], grad: &[f32], of_gate: &mut [f32], of_up: &mut [f32]) {
    for ((((gate, up), grad), of_gate), of_up) in gate.iter().zip(up).zip(grad).zip(of_gate).zip(of_up) {
        let sigmoid = 1.0 / (1.0 + exp(-gate));
        let silu = gate * sigmoid;
        *of_up = grad * silu;
        *of_gate = grad * up * (silu * (1.0 - sigmoid) + sigmoid);
    }
}

#[inline(always)]
fn dot_of(x: &[f32], y: &[f32], z: &[f32]) -> f32 {
    let mut sums = [0f32; LANES];
    let whole = x.len() / LANES * LANES;
    for ((x, y), z) in x.chunks_exact(LANES).zip(y.chunks_exact(LANES)).zip(z.chunks_exact(LANES)) {
        sums.iter_mut().zip(x).zip(y).zip(z).for_each(|(((sum, x), y), z)| *sum += x * y * z);
    }
    let rest: f32 = (whole..x.len()).map(|i| x[i] * y[i] * z[i]).sum();
    sums.iter().sum::<f32>() + rest
}

#[inline(always)]
fn max_of(row: &[f32]) -> f32 {
    let mut largest = [f32::NEG_INFINITY; LANES];
    let chunks = row.chunks_exact(LANES);
    let rest = chunks.remainder().iter().copied().fold(f32::NEG_INFINITY, f32::max);
    for chunk in chunks {
        largest.iter_mut().zip(chunk).for_each(|(largest, value)| *largest = largest.max(*value));
    }
    largest.into_iter().fold(rest, f32::max)
}

#[inline(always)]
fn adamw_of(at: Decayed, weights: &mut [f32], first: &mut [f32], second: &mut [f32], grads: &[f32]) {
    for (((weight, first), second), grad) in weights.iter_mut().zip(first).zip(second).zip(grads) {
        let grad = grad * at.grad_scale;
        *first = at.beta1 * *first + (1.0 - at.beta1) * grad;
        *second = at.beta2 * *second + (1.0 - at.beta2) * grad * grad;
        let deviation = (*second * at.second_scale).sqrt() + at.eps;
        *weight = *weight * at.kept - at.rate * *first / deviation;
    }
}

#[inline(always)]
fn sum_of_squares_of(row: &[f32]) -> f32 {
    let mut sums = [0f32; LANES];
    let chunks = row.chunks_exact(LANES);
    let rest: f32 = chunks.remainder().iter().map(|value| value * value).sum();
    for chunk in chunks {
        sums.iter_mut().zip(chunk).for_each(|(sum, value)| *sum += value * value);
    }
    sums.iter().sum::<f32>() + rest
}

#[inline(always)]
fn widen_bf16_of(from: &[bf16], to: &mut [f32]) {
    to.iter_mut().zip(from).for_each(|(to, from)| *to = Float::widen(*from));
}

#[inline(always)]
fn round_bf16_of(from: &[f32], to: &mut [bf16]) {
    to.iter_mut().zip(from).for_each(|(to, from)| *to = Float::round(*from));
}

/// One method a function: the form's unit enabled around the same inlined code.
macro_rules! on_units {
    ($($(#[$doc:meta])* $name:ident = $code:ident($($arg:ident: $ty:ty),*) $(-> $result:ty)?;)*) => { impl Form { $(
        $(#[$doc])*
        pub fn $name(self, $($arg: $ty),*) $(-> $result)? {
            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
                fn avx512($($arg: $ty),*) $(-> $result)? {
                    $code($($arg),*)
                }
                #[target_feature(enable = "avx2,fma,f16c")]
                fn avx2($($arg: $ty),*) $(-> $result)? {
                    $code($($arg),*)
                }
                match self {
                    // SAFETY: a form is named only where the machine has its features.
                    Form::Avx512 | Form::Avx512Bf16 => return unsafe { avx512($($arg),*) },
                    // SAFETY: as above.
                    Form::Avx2 => return unsafe { avx2($($arg),*) },
                    _ => {}
                }
            }
            $code($($arg),*)
        }
    )* } };
}

on_units! {
    /// Replaces each value by `e^(value - less)` and gives their sum.
    exp_and_sum = exp_and_sum_of(row: &mut [f32], less: f32) -> f32;
    /// `silu(gate) * up`, element by element.
    swiglu = swiglu_of(gate: &[f32], up: &[f32], out: &mut [f32]);
    /// The gradients of gate and up of [`swiglu`](Self::swiglu), given that of its result.
    swiglu_grad = swiglu_grad_of(gate: &[f32], up: &[f32], grad: &[f32], of_gate: &mut [f32], of_up: &mut [f32]);
    /// One step of AdamW for some weights, with the running means of their gradients and of those' squares.
    adamw = adamw_of(at: Decayed, weights: &mut [f32], first: &mut [f32], second: &mut [f32], grads: &[f32]);
    /// The sum of products of three elements each.
    dot = dot_of(x: &[f32], y: &[f32], z: &[f32]) -> f32;
    /// The largest that is no NaN; minus infinity of none.
    max = max_of(row: &[f32]) -> f32;
    /// `from` in `f32`, one to one.
    widen_bf16 = widen_bf16_of(from: &[bf16], to: &mut [f32]);
    /// `from` rounded to the nearest BF16, one to one.
    round_bf16 = round_bf16_of(from: &[f32], to: &mut [bf16]);
    /// The sum of squares.
    sum_of_squares = sum_of_squares_of(row: &[f32]) -> f32;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_exponential_is_near_the_exact_one() {
        let mut worst = 0f64;
        for i in -1_000_000..=1_000_000i32 {
            let x = i as f32 * 1e-4;
            let (got, exact) = (exp(x) as f64, (x as f64).exp());
            match exact {
                small if small < f32::MIN_POSITIVE as f64 => assert!(got < 1.2e-38, "{x}: {got}"),
                large if large > f32::MAX as f64 => assert!(got == f64::INFINITY, "{x}: {got}"),
                _ => worst = worst.max((got - exact).abs() / exact),
            }
        }
        // Two units in the last place of a result at the lower end of its power of two.
        assert!(worst < 2.0 * 2f64.powi(-23), "off by {worst:e} of the value");
        assert!(exp(f32::NAN).is_nan() && exp(f32::NEG_INFINITY) == 0.0 && exp(f32::INFINITY) == f32::INFINITY);
        assert_eq!(exp(0.0), 1.0);
    }

    #[test]
    fn every_form_has_the_same_functions() {
        let row: Vec<f32> = (0..77).map(|i| (i * 37 % 101) as f32 / 10.0 - 5.0).collect();
        let up: Vec<f32> = row.iter().rev().copied().collect();
        for form in Form::available() {
            let mut powers = row.clone();
            let sum = form.exp_and_sum(&mut powers, 5.0) as f64;
            let wanted: f64 = row.iter().map(|value| (*value as f64 - 5.0).exp()).sum();
            // Rounding of 77 additions and as many exponentials, each at most 2^-22 of the sum.
            assert!((sum - wanted).abs() < 77.0 * 2f64.powi(-22) * wanted, "{form:?}: {sum}, wanted {wanted}");
            let squares: f64 = row.iter().map(|value| (*value as f64).powi(2)).sum();
            assert!((form.sum_of_squares(&row) as f64 - squares).abs() < 77.0 * 2f64.powi(-23) * squares, "{form:?}");
            let products: f64 = row.iter().zip(&up).map(|(x, y)| (x * y) as f64 * *x as f64).sum();
            let size: f64 = row.iter().zip(&up).map(|(x, y)| ((x * y) as f64 * *x as f64).abs()).sum();
            assert!((form.dot(&row, &up, &row) as f64 - products).abs() < 80.0 * 2f64.powi(-24) * size, "{form:?}");
            assert_eq!(form.max(&row), row.iter().copied().fold(f32::MIN, f32::max), "{form:?}");
            assert_eq!(form.max(&[]), f32::NEG_INFINITY);
            let mut gated = vec![0f32; row.len()];
            form.swiglu(&row, &up, &mut gated);
            for ((got, gate), up) in gated.iter().zip(&row).zip(&up) {
                let wanted = *gate as f64 / (1.0 + (-*gate as f64).exp()) * *up as f64;
                // Four rounded operations and the exponential's two units.
                assert!(
                    (*got as f64 - wanted).abs() <= 8.0 * 2f64.powi(-24) * wanted.abs(),
                    "{form:?}: {got}, {wanted}"
                );
            }
        }
    }
}
