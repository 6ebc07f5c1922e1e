//! Four-bit NormalFloat with double quantisation (Dettmers et al., "QLoRA", arXiv 2305.14314).
//!
//! A block of 64 numbers shares its largest magnitude, and each number is the nearest of 16 levels of it: quantiles of the normal
//! distribution, which weights are close to, with an exact zero. The magnitudes are in turn kept in eight bits, as distances
//! from their mean, 256 of them sharing the largest distance. Together that is 4.13 bits a number.
//!
//! The eight bits are evenly spaced. The distances are spread over their range, so that the table of small steps around zero
//! that bitsandbytes takes for them would be coarser where most of them lie.

use crate::{Float, share_chunks};

/// Numbers that share a magnitude.
pub const BLOCK: usize = 64;
/// Magnitudes that share a largest distance from the mean.
pub const GROUP: usize = 256;

/// The levels, as the paper's appendix E lists them.
pub const LEVELS: [f32; 16] = [
    -1.0,
    -0.696_192_8,
    -0.525_073_05,
    -0.394_917_5,
    -0.284_441_38,
    -0.184_773_43,
    -0.091_050_036,
    0.0,
    0.079_580_3,
    0.160_930_2,
    0.246_112_3,
    0.337_915_24,
    0.440_709_83,
    0.562_617,
    0.722_956_84,
    1.0,
];

/// The middle of the eight bits, a distance of zero.
pub const CENTRE: u8 = 128;
/// Steps from the middle to the largest distance.
pub const STEPS: f32 = 127.0;

/// Blocks that a task converts.
const TASK: usize = 256;

/// The codes of `values`, two a byte with the first in the upper half, and the largest magnitude of each block.
///
/// # Panics
/// If `values` are no whole number of blocks.
pub fn encode(values: &[f32]) -> (Vec<u8>, Vec<f32>) {
    assert!(values.len().is_multiple_of(BLOCK), "{} numbers are no blocks of {BLOCK}", values.len());
    let mut codes = vec![0u8; values.len() / 2];
    let mut magnitudes = vec![0f32; values.len() / BLOCK];
    share_chunks(&mut magnitudes, TASK, |task, magnitudes| {
        for (i, magnitude) in magnitudes.iter_mut().enumerate() {
            let block = &values[(task * TASK + i) * BLOCK..][..BLOCK];
            *magnitude = block.iter().fold(0f32, |most, value| most.max(value.abs()));
        }
    });
    share_chunks(&mut codes, TASK * BLOCK / 2, |task, codes| {
        for (i, codes) in codes.chunks_exact_mut(BLOCK / 2).enumerate() {
            let index = task * TASK + i;
            let scale = if magnitudes[index] > 0.0 { 1.0 / magnitudes[index] } else { 0.0 };
            let block = &values[index * BLOCK..][..BLOCK];
            for (code, pair) in codes.iter_mut().zip(block.chunks_exact(2)) {
                *code = (nearest(pair[0] * scale) << 4) | nearest(pair[1] * scale);
            }
        }
    });
    (codes, magnitudes)
}

/// The level nearest to `value`: as many as it has midpoints below it.
fn nearest(value: f32) -> u8 {
    LEVELS.windows(2).map(|pair| u8::from(value > (pair[0] + pair[1]) / 2.0)).sum()
}

/// Magnitudes in eight bits.
#[derive(Clone, Debug, PartialEq)]
pub struct Scales {
    /// One a block, filled up to a whole number of groups.
    pub codes: Vec<u8>,
    /// The largest distance from the mean of each group.
    pub distances: Vec<f32>,
    pub mean: f32,
}

impl Scales {
    pub fn of(magnitudes: &[f32]) -> Self {
        let sum: f64 = magnitudes.iter().map(|&magnitude| f64::from(magnitude)).sum();
        let mean = (sum / magnitudes.len().max(1) as f64) as f32;
        let mut codes = vec![CENTRE; magnitudes.len().next_multiple_of(GROUP)];
        let mut distances = Vec::with_capacity(codes.len() / GROUP);
        for (codes, group) in codes.chunks_mut(GROUP).zip(magnitudes.chunks(GROUP)) {
            let most = group.iter().fold(0f32, |most, magnitude| most.max((magnitude - mean).abs()));
            let scale = if most > 0.0 { STEPS / most } else { 0.0 };
            for (code, magnitude) in codes.iter_mut().zip(group) {
                *code = ((magnitude - mean) * scale + f32::from(CENTRE)).round() as u8;
            }
            distances.push(most);
        }
        Self { codes, distances, mean }
    }
}

/// The numbers of `codes` whose blocks have the magnitudes of `scales`, `distances` and `mean` ([`Scales`]), rounded once.
///
/// # Panics
/// If a length does not fit.
pub fn decode<T: Float>(codes: &[u8], scales: &[u8], distances: &[f32], mean: f32, out: &mut [T]) {
    let blocks = out.len() / BLOCK;
    assert!(out.len() == blocks * BLOCK && codes.len() * 2 == out.len(), "{} codes of {}", codes.len(), out.len());
    assert!(scales.len() >= blocks && distances.len() >= blocks.div_ceil(GROUP), "{} scales of {blocks}", scales.len());
    let pairs: Vec<[f32; 2]> =
        (0..=u8::MAX).map(|code| [LEVELS[usize::from(code >> 4)], LEVELS[usize::from(code & 15)]]).collect();
    share_chunks(out, TASK * BLOCK, |task, out| {
        let mut wide = [0f32; BLOCK];
        for (i, out) in out.chunks_exact_mut(BLOCK).enumerate() {
            let block = task * TASK + i;
            let step = (f32::from(scales[block]) - f32::from(CENTRE)) / STEPS;
            let scale = step * distances[block / GROUP] + mean;
            let codes = &codes[block * BLOCK / 2..][..BLOCK / 2];
            for (wide, code) in wide.chunks_exact_mut(2).zip(codes) {
                let [first, second] = pairs[usize::from(*code)];
                (wide[0], wide[1]) = (first * scale, second * scale);
            }
            T::round_slice(&wide, out);
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::rngs::StdRng;
    use rand::{Rng, SeedableRng};

    /// The distribution function of the normal distribution by Simpson's rule, to far below a level's last digit.
    fn below(x: f64) -> f64 {
        let density = |t: f64| (-t * t / 2.0).exp() / std::f64::consts::TAU.sqrt();
        let (steps, h) = (2000, x / 2000.0);
        let inner = |i: usize| density(i as f64 * h) * if i % 2 == 1 { 4.0 } else { 2.0 };
        0.5 + (density(0.0) + density(x) + (1..steps).map(inner).sum::<f64>()) * h / 3.0
    }

    fn quantile(p: f64) -> f64 {
        let (mut low, mut high) = (0.0, 8.0);
        for _ in 0..80 {
            let middle = (low + high) / 2.0;
            if below(middle) < p { low = middle } else { high = middle }
        }
        low
    }

    /// The paper's construction: evenly spaced quantiles from that of the offset to zero, eight of them above and seven
    /// below, divided by the largest.
    #[test]
    fn the_levels_are_quantiles_of_the_normal_distribution() {
        let offset = (1.0 - 1.0 / 30.0 + 1.0 - 1.0 / 32.0) / 2.0;
        let side = |count: usize| -> Vec<f64> {
            let at = |i: usize| offset + (0.5 - offset) * i as f64 / count as f64;
            (0..count).map(|i| quantile(at(i)) / quantile(offset)).collect()
        };
        let mut wanted: Vec<f64> = side(7).iter().map(|q| -q).chain([0.0]).chain(side(8)).collect();
        wanted.sort_by(f64::total_cmp);
        assert_eq!(wanted.len(), LEVELS.len());
        for (level, wanted) in LEVELS.iter().zip(wanted) {
            assert!((f64::from(*level) - wanted).abs() < 1e-6, "{level}, computed {wanted}");
        }
    }

    /// Each number is off by at most half the gap of its two levels times the magnitude, and by what the magnitude is off.
    #[test]
    fn numbers_come_back_within_half_a_gap() {
        let mut rng = StdRng::seed_from_u64(7);
        // Blocks of different spread; more than a group of them, and not a whole number of groups.
        let values: Vec<f32> =
            (0..300 * BLOCK).map(|i| rng.random_range(-1f32..1.0) * (1.0 + (i / BLOCK % 7) as f32)).collect();
        let (codes, magnitudes) = encode(&values);
        let scales = Scales::of(&magnitudes);
        assert_eq!((scales.codes.len(), scales.distances.len()), (512, 2));
        let mut out = vec![0f32; values.len()];
        decode(&codes, &scales.codes, &scales.distances, scales.mean, &mut out);
        let mut squares = 0.0;
        for (i, (&value, &got)) in values.iter().zip(&out).enumerate() {
            let (block, code) = (i / BLOCK, (codes[i / 2] >> (4 * (1 - i % 2)) & 15) as usize);
            let magnitude = f64::from(magnitudes[block]);
            let step = f64::from(scales.distances[block / GROUP]) / 254.0;
            let gap = |a: usize, b: usize| f64::from(LEVELS[b] - LEVELS[a]) / 2.0;
            let half = if code == 0 { 0.0 } else { gap(code - 1, code) }.max(if code == 15 {
                0.0
            } else {
                gap(code, code + 1)
            });
            // The last term is F32's own rounding.
            let bound = half * magnitude + step * f64::from(LEVELS[code]).abs() + 1e-6 * magnitude;
            assert!(f64::from(value - got).abs() <= bound, "number {i}: {value} came back as {got}, allowed {bound}");
            squares += (f64::from(value - got) / magnitude).powi(2);
        }
        // Evenly spread numbers are off by the root of the sum of gap³/24 over the gaps, which is 0.054 of the magnitude.
        let rms = (squares / values.len() as f64).sqrt();
        assert!((0.05..0.058).contains(&rms), "off by {rms} in the mean");
    }

    #[test]
    fn zeros_and_the_ends_of_a_block_are_kept() {
        let mut values = vec![0f32; 2 * BLOCK];
        (values[BLOCK], values[BLOCK + 1]) = (3.0, -3.0);
        let (codes, magnitudes) = encode(&values);
        assert_eq!(magnitudes, [0.0, 3.0]);
        assert_eq!(codes[BLOCK / 2], 0xf0);
        let scales = Scales::of(&magnitudes);
        let mut out = vec![1f32; values.len()];
        decode(&codes, &scales.codes, &scales.distances, scales.mean, &mut out);
        assert_eq!(out[..BLOCK], values[..BLOCK]);
        assert_eq!((out[BLOCK], out[BLOCK + 1], out[BLOCK + 2]), (3.0, -3.0, 0.0));
    }
}
