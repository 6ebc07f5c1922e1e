//! Random numbers, all from one counter-based generator: the same seed and offset always give the same tensor.

use super::types::*;
use super::views::copy;
use super::wide::{Wide, tabulate};
use crate::aclnn::{Call, Kernel, Launch, Scalar, Tensor};
use crate::dtype::DType;
use crate::dtype::DType::*;
use crate::fail;
use crate::status::Result;
use acl_sys::error::ACL_ERROR_RT_AICORE_EXCEPTION;

/// Philox 4x32 with ten rounds (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", 2011), the generator of
/// Ascend's vector unit.
#[derive(Clone, Copy, Debug)]
pub(super) struct Philox {
    key: [u32; 2],
    offset: u64,
}

impl Philox {
    pub(super) fn new(seed: u64, offset: u64) -> Self {
        Self { key: [seed as u32, (seed >> 32) as u32], offset }
    }

    /// The four words of one counter.
    fn block(&self, counter: [u32; 4]) -> [u32; 4] {
        let ([mut k0, mut k1], mut c) = (self.key, counter);
        for _ in 0..10 {
            let (p0, p1) = (0xD251_1F53u64 * c[0] as u64, 0xCD9E_8D57u64 * c[2] as u64);
            c = [(p1 >> 32) as u32 ^ c[1] ^ k0, p1 as u32, (p0 >> 32) as u32 ^ c[3] ^ k1, p0 as u32];
            (k0, k1) = (k0.wrapping_add(0x9E37_79B9), k1.wrapping_add(0xBB67_AE85));
        }
        c
    }

    /// The four words that belong to element `index`.
    fn words(&self, index: usize) -> [u32; 4] {
        let (index, offset) = (index as u64, self.offset);
        self.block([index as u32, (index >> 32) as u32, offset as u32, (offset >> 32) as u32])
    }

    /// A number of [0, 1) with 53 random bits.
    fn uniform(&self, index: usize) -> f64 {
        let [a, b, ..] = self.words(index);
        (((a as u64) << 21) ^ (b as u64 >> 11)) as f64 * (-53f64).exp2()
    }

    /// A number of the standard normal distribution, by Box and Muller's transform.
    fn normal(&self, index: usize) -> f64 {
        let [a, b, c, d] = self.words(index);
        let unit = |high: u32, low: u32| ((((high as u64) << 21) ^ (low as u64 >> 11)) as f64 + 0.5) * (-53f64).exp2();
        (-2.0 * unit(a, b).ln()).sqrt() * (std::f64::consts::TAU * unit(c, d)).cos()
    }

    /// An integer of `[0, range)`.
    fn below(&self, index: usize, range: u64) -> u64 {
        let [a, b, ..] = self.words(index);
        (((((a as u64) << 32) | b as u64) as u128 * range as u128) >> 64) as u64
    }
}

/// The kernel that sets each element to `draw(generator, element)`.
fn fill(
    target: Tensor,
    seed: u64,
    offset: u64,
    draw: impl Fn(&Philox, usize) -> f64 + Send + Sync + 'static,
) -> Kernel {
    let philox = Philox::new(seed, offset);
    Box::new(move |launch| {
        let values = tabulate::<f64>(target.count(), &|first, slots| {
            slots.iter_mut().enumerate().for_each(|(i, slot)| *slot = draw(&philox, first + i));
        });
        target.store_f64(launch, &values)
    })
}

/// Normal distribution with the given mean and standard deviation.
pub fn inplace_normal(
    call: &mut Call,
    self_ref: Tensor,
    mean: f32,
    std: f32,
    seed: i64,
    offset: i64,
) -> Result<Kernel> {
    at_most_8d(call, &[&self_ref])?;
    call.dtype_in(&self_ref, REALS)?;
    if std.is_nan() || std < 0.0 {
        return call.invalid(format!("std is {std}, wanted 0 or more"));
    }
    let (mean, std) = (mean as f64, std as f64);
    Ok(fill(self_ref, seed as u64, offset as u64, move |philox, i| mean + std * philox.normal(i)))
}

/// Uniform distribution over `[from, to)`, whole numbers for integer types.
pub fn inplace_uniform(
    call: &mut Call,
    self_ref: Tensor,
    from: f64,
    to: f64,
    seed: u64,
    offset: u64,
) -> Result<Kernel> {
    at_most_8d(call, &[&self_ref])?;
    call.dtype_in(&self_ref, NUMBERS)?;
    if from.is_nan() || to.is_nan() || from > to {
        return call.invalid(format!("from is {from} and to is {to}"));
    }
    let dtype = self_ref.dtype;
    Ok(fill(self_ref, seed, offset, move |philox, i| below(dtype, from + (to - from) * philox.uniform(i), from, to)))
}

/// `value`, unless rounding to `dtype` makes it the excluded upper end: then the lower one.
fn below(dtype: DType, value: f64, from: f64, to: f64) -> f64 {
    let rounded = Wide::rounded(value, dtype);
    if rounded >= to && from < to { from } else { value }
}

/// Whole numbers of `[from, to)`.
pub fn inplace_random(call: &mut Call, self_ref: Tensor, from: i64, to: i64, seed: i64, offset: i64) -> Result<Kernel> {
    at_most_8d(call, &[&self_ref])?;
    call.dtype_in(&self_ref, COMMON)?;
    if from >= to {
        return call.invalid(format!("from is {from} and to is {to}"));
    }
    let philox = Philox::new(seed as u64, offset as u64);
    Ok(Box::new(move |launch| {
        let range = to.wrapping_sub(from) as u64;
        let values = tabulate::<i64>(self_ref.count(), &|first, slots| {
            let draw = |i| from.wrapping_add(philox.below(first + i, range) as i64);
            slots.iter_mut().enumerate().for_each(|(i, slot)| *slot = draw(i));
        });
        self_ref.store_i64(launch, &values)
    }))
}

/// Refuses a probability outside [0, 1].
fn probability(call: &Call, name: &str, p: f64) -> Result<()> {
    match (0.0..=1.0).contains(&p) {
        true => Ok(()),
        false => call.invalid(format!("{name} is {p}, wanted 0 to 1")),
    }
}

/// 1 with probability `prob`, else 0.
pub fn inplace_bernoulli(call: &mut Call, self_ref: Tensor, prob: Scalar, seed: i64, offset: i64) -> Result<Kernel> {
    at_most_8d(call, &[&self_ref])?;
    call.dtype_in(&self_ref, COMMON)?;
    probability(call, "prob", prob.float)?;
    if offset % 4 != 0 {
        return call.invalid(format!("offset is {offset}, wanted a multiple of 4"));
    }
    Ok(fill(self_ref, seed as u64, offset as u64, move |philox, i| (philox.uniform(i) < prob.float) as u8 as f64))
}

/// Positions drawn with probabilities in proportion to the weights of each row.
pub fn multinomial(
    call: &mut Call,
    self_: Tensor,
    numsamples: i64,
    replacement: bool,
    seed: i64,
    offset: i64,
    out: Tensor,
) -> Result<Kernel> {
    call.rank_in(&self_, 1..=2)?;
    call.dtype_in(&self_, REALS)?;
    call.dtype_in(&out, &[I64])?;
    let classes = self_.shape[self_.rank() - 1];
    if numsamples <= 0 || (!replacement && numsamples as usize > classes) || classes > 1 << 24 {
        return call.invalid(format!("numsamples is {numsamples} of {classes} classes"));
    }
    call.shape_is(&out, &[&self_.shape[..self_.rank() - 1], &[numsamples as usize]].concat())?;
    let (samples, philox) = (numsamples as usize, Philox::new(seed as u64, offset as u64));
    Ok(Box::new(move |launch| {
        let weights = self_.load_f64(launch)?;
        let mut drawn = Vec::with_capacity(out.count());
        for (row, weights) in weights.chunks(classes.max(1)).enumerate() {
            drawn.extend(draw_row(&philox, row * samples, samples, replacement, weights.to_vec())?);
        }
        out.store_i64(launch, &drawn)
    }))
}

/// Draws from one row of weights; without replacement a weight is used up by being drawn.
fn draw_row(
    philox: &Philox,
    first: usize,
    samples: usize,
    replacement: bool,
    mut weights: Vec<f64>,
) -> Result<Vec<i64>> {
    if let Some(bad) = weights.iter().find(|weight| !(weight.is_finite() && **weight >= 0.0)) {
        fail!(ACL_ERROR_RT_AICORE_EXCEPTION, "self holds the weight {bad}");
    }
    let mut drawn = Vec::with_capacity(samples);
    for sample in 0..samples {
        let target = philox.uniform(first + sample) * weights.iter().sum::<f64>();
        let mut sum = 0.0;
        let chosen = weights.iter().position(|&weight| {
            sum += weight;
            weight > 0.0 && sum > target
        });
        let Some(chosen) = chosen.or_else(|| weights.iter().rposition(|&weight| weight > 0.0)) else {
            fail!(ACL_ERROR_RT_AICORE_EXCEPTION, "self has fewer than {samples} weights above 0 in a row");
        };
        drawn.push(chosen as i64);
        if !replacement {
            weights[chosen] = 0.0;
        }
    }
    Ok(drawn)
}

/// The numbers from 0 to `n - 1` in random order.
pub fn randperm(call: &mut Call, n: i64, seed: i64, offset: i64, out: Tensor) -> Result<Kernel> {
    call.dtype_in(&out, NUMBERS)?;
    if n < 0 {
        return call.invalid(format!("n is {n}"));
    }
    call.shape_is(&out, &[n as usize])?;
    let philox = Philox::new(seed as u64, offset as u64);
    Ok(Box::new(move |launch| {
        let mut order: Vec<i64> = (0..n).collect();
        for i in (1..n as usize).rev() {
            order.swap(i, philox.below(i, i as u64 + 1) as usize);
        }
        out.store_i64(launch, &order)
    }))
}

/// Bytes of a mask of one bit an element, in units of 128 bits.
fn mask_bytes(elements: usize) -> usize {
    elements.next_multiple_of(128) / 8
}

/// A mask whose bits are 1 with probability `1 - p`.
fn draw_mask(philox: &Philox, bytes: usize, p: f64) -> Vec<i64> {
    (0..bytes).map(|byte| (0..8).map(|bit| ((philox.uniform(byte * 8 + bit) >= p) as i64) << bit).sum()).collect()
}

/// Scales the elements whose bit is 1 and clears the others.
fn apply_mask(launch: &Launch, x: &Tensor, mask: &[i64], scale: f32, out: &Tensor) -> Result<()> {
    let values = x.load_f32(launch)?;
    let kept = |i: usize| mask[i / 8] >> (i % 8) & 1 == 1;
    let scaled = values.into_iter().enumerate().map(|(i, value)| if kept(i) { value * scale } else { 0.0 });
    out.store_f32(launch, &scaled.collect::<Vec<_>>())
}

/// Checks of an operator that masks `x` into `out`.
fn check_masked(call: &Call, x: &Tensor, mask: &Tensor, out: &Tensor) -> Result<()> {
    at_most_8d(call, &[x, mask])?;
    call.dtype_in(x, FLOATS)?;
    call.dtype_in(out, FLOATS)?;
    call.dtype_in(mask, &[U8])?;
    call.shape_is(out, &x.shape)?;
    match mask.count() == mask_bytes(x.count()) {
        true => Ok(()),
        false => call.invalid(format!("{} has {} bytes, wanted {}", mask.name, mask.count(), mask_bytes(x.count()))),
    }
}

/// Clears elements with probability `p` and scales the others by `1 / (1 - p)`, leaving the mask; a copy where not
/// training.
#[allow(clippy::too_many_arguments)]
pub fn dropout(
    call: &mut Call,
    input: Tensor,
    p: f64,
    train: bool,
    seed: i64,
    offset: i64,
    out: Tensor,
    mask_out: Tensor,
) -> Result<Kernel> {
    check_masked(call, &input, &mask_out, &out)?;
    call.rank_in(&mask_out, 1..=1)?;
    probability(call, "p", p)?;
    let philox = Philox::new(seed as u64, offset as u64);
    Ok(Box::new(move |launch| {
        if !train || p == 0.0 {
            return copy(launch, &input, &out);
        }
        if p == 1.0 {
            return out.store_f32(launch, &vec![0.0; out.count()]);
        }
        let mask = draw_mask(&philox, mask_out.count(), p);
        mask_out.store_i64(launch, &mask)?;
        apply_mask(launch, &input, &mask, (1.0 / (1.0 - p)) as f32, &out)
    }))
}

/// A mask for a tensor of the given shape, whose bits are 0 with probability `prob`.
pub fn dropout_gen_mask(
    call: &mut Call,
    shape: Vec<i64>,
    prob: f64,
    seed: i64,
    offset: i64,
    out: Tensor,
) -> Result<Kernel> {
    probability(call, "prob", prob)?;
    call.dtype_in(&out, &[U8])?;
    if shape.is_empty() || shape.len() > 8 || shape.iter().any(|&size| size < 0) {
        return call.invalid(format!("shape is {shape:?}"));
    }
    call.shape_is(&out, &[mask_bytes(shape.iter().product::<i64>() as usize)])?;
    let philox = Philox::new(seed as u64, offset as u64);
    Ok(Box::new(move |launch| out.store_i64(launch, &draw_mask(&philox, out.count(), prob))))
}

/// As [`dropout_gen_mask`], for a probability that was given in `prob_data_type`.
pub fn dropout_gen_mask_v2(
    call: &mut Call,
    shape: Vec<i64>,
    prob: f64,
    seed: i64,
    offset: i64,
    prob_data_type: DType,
    out: Tensor,
) -> Result<Kernel> {
    if !FLOATS.contains(&prob_data_type) {
        return call.invalid(format!("prob_data_type is {prob_data_type}, wanted one of {FLOATS:?}"));
    }
    dropout_gen_mask(call, shape, Wide::rounded(prob, prob_data_type), seed, offset, out)
}

/// Scales the elements whose bit is 1 by `1 / (1 - prob)` and clears the others.
pub fn dropout_do_mask(call: &mut Call, self_: Tensor, mask: Tensor, prob: f64, out: Tensor) -> Result<Kernel> {
    check_masked(call, &self_, &mask, &out)?;
    probability(call, "prob", prob)?;
    let scale = if prob == 1.0 { 0.0 } else { (1.0 / (1.0 - prob)) as f32 };
    Ok(Box::new(move |launch| match prob {
        0.0 => copy(launch, &self_, &out),
        _ => apply_mask(launch, &self_, &mask.load_i64(launch)?, scale, &out),
    }))
}

/// Gradients of the elements whose bit is 1, times `scale`.
pub fn dropout_backward(call: &mut Call, grad_output: Tensor, mask: Tensor, scale: f64, out: Tensor) -> Result<Kernel> {
    check_masked(call, &grad_output, &mask, &out)?;
    if scale != 0.0 && (scale.is_nan() || scale < 1.0) {
        return call.invalid(format!("scale is {scale}, wanted 0 or at least 1"));
    }
    Ok(Box::new(move |launch| apply_mask(launch, &grad_output, &mask.load_i64(launch)?, scale as f32, &out)))
}

#[cfg(test)]
mod tests {
    use super::Philox;

    #[test]
    fn philox_matches_the_published_vectors() {
        // Known answers of the paper's reference implementation.
        let zero = Philox::new(0, 0);
        assert_eq!(zero.block([0; 4]), [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]);
        let ones = Philox::new(u64::MAX, 0);
        assert_eq!(ones.block([u32::MAX; 4]), [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]);
        let pi = Philox::new(0x299f_31d0_a409_3822, 0);
        let counter = [0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344];
        assert_eq!(pi.block(counter), [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1]);
    }
}
