//! The left side of a product: rows rounded to eight bits, 32 columns sharing a scale.
//!
//! ggml rounds the same way before Q8_0 weights, and with one scale for 256 columns before K-formats; the finer scale costs
//! nothing here and serves all formats.

use super::format::GROUP;

/// The largest value of 32 below this rounds to nothing: its reciprocal would overflow.
const LEAST: f32 = 256.0 * f32::MIN_POSITIVE;

/// One group of a row.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct Group {
    /// Signed bytes, four columns a word.
    pub words: [u32; GROUP / 4],
    /// A column is its byte times this; NaN where the group held a value that is not finite.
    pub scale: f32,
    /// Sums of the bytes of the first and the last 16 columns.
    pub sums: [i32; 2],
    /// The sum of all, times the scale.
    pub sum: f32,
}

/// Rows of groups.
pub struct Activations {
    pub rows: usize,
    groups: usize,
    held: Vec<Group>,
}

impl Activations {
    /// Rounds rows of `columns` columns, a multiple of 32.
    pub fn new(x: &[f32], columns: usize) -> Self {
        let (rows, groups) = (x.len() / columns, columns / GROUP);
        let mut held = vec![Group::default(); rows * groups];
        if rows > 1 {
            let task = rows.div_ceil(crate::team::threads());
            crate::share_chunks(&mut held, task * groups, |index, held| round(&x[index * task * columns..], held));
        } else {
            round(x, &mut held);
        }
        Self { rows, groups, held }
    }

    #[inline]
    pub fn row(&self, row: usize) -> &[Group] {
        &self.held[row * self.groups..(row + 1) * self.groups]
    }
}

/// Rounds as many columns of `x` as `groups` take.
fn round(x: &[f32], groups: &mut [Group]) {
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx2") {
        // SAFETY: the machine has the instructions.
        return unsafe { round_avx2(x, groups) };
    }
    round_plain(x, groups);
}

/// The plain form, compiled for wider registers.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn round_avx2(x: &[f32], groups: &mut [Group]) {
    round_plain(x, groups);
}

#[inline(always)]
fn round_plain(x: &[f32], groups: &mut [Group]) {
    for (x, group) in x.as_chunks::<GROUP>().0.iter().zip(groups) {
        // Eight of everything, which a compiler keeps in registers.
        let mut most = [0f32; 8];
        let mut finite = [0f32; 8];
        for x in x.as_chunks::<8>().0 {
            for i in 0..8 {
                most[i] = if x[i].abs() > most[i] { x[i].abs() } else { most[i] };
                finite[i] += x[i] * 0.0;
            }
        }
        let most = most.into_iter().fold(0f32, f32::max);
        let (scale, inverse) = if most < LEAST { (0.0, 0.0) } else { (most / 127.0, 127.0 / most) };
        let mut bytes = [0i8; GROUP];
        for (byte, x) in bytes.iter_mut().zip(x) {
            *byte = nearest(x * inverse);
        }
        let sum = |bytes: &[i8]| bytes.iter().map(|byte| i32::from(*byte)).sum::<i32>();
        group.sums = [sum(&bytes[..GROUP / 2]), sum(&bytes[GROUP / 2..])];
        group.scale = scale + finite.iter().sum::<f32>();
        group.sum = group.scale * (group.sums[0] + group.sums[1]) as f32;
        group.words = std::array::from_fn(|j| {
            u32::from_le_bytes([bytes[4 * j], bytes[4 * j + 1], bytes[4 * j + 2], bytes[4 * j + 3]].map(|b| b as u8))
        });
    }
}

/// To the nearest integer, halves to the even one, for |x| far below 2²²: the sum's last bit is worth one.
#[inline(always)]
fn nearest(x: f32) -> i8 {
    const SHIFT: f32 = 12_582_912.0;
    ((x + SHIFT).to_bits() as i32).wrapping_sub(SHIFT.to_bits() as i32) as i8
}
