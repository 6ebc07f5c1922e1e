//! The product's definition: a tile times some rows, in the order of additions that every form keeps.

use super::activations::Activations;
use super::format::{Format, Scaling};
use super::tiles::{Part, ROWS, Scale, words};

/// A format as a type, so that a kernel is compiled for it.
pub trait Layout {
    const FORMAT: Format;
}

/// The tile's rows times the `M` activation rows from `first` on.
///
/// The integers of a group are summed exactly. Groups follow one another in one F32 sum a row, each by one fused
/// multiplication and addition (two where halves or a minimum are scaled apart), so that the forms agree to the last bit.
pub fn tile<L: Layout, const M: usize>(part: &Part, tile: usize, x: &Activations, first: usize) -> [[f32; ROWS]; M] {
    let format = L::FORMAT;
    std::array::from_fn(|m| {
        let activations = x.row(first + m);
        std::array::from_fn(|row| {
            let mut total = 0f32;
            for (group, (lines, x)) in part.lines(tile).chunks(format.bits()).zip(activations).enumerate() {
                let scale = Scale::read(format, part.scales(tile), group, row);
                let dot = |(w, x): (&u32, &u32)| -> i32 {
                    let (w, x) = (w.to_le_bytes(), x.to_le_bytes());
                    (0..4).map(|i| i32::from(w[i]) * i32::from(x[i] as i8)).sum()
                };
                let words = words(format, lines, row);
                let half =
                    |from: usize| -> i32 { words[from..from + 4].iter().zip(&x.words[from..from + 4]).map(dot).sum() };
                let first = half(0) - format.zero() * x.sums[0];
                let second = half(4) - format.zero() * x.sums[1];
                if format.scaling() == Scaling::SuperScale {
                    total = (first as f32).mul_add(scale.first * x.scale, total);
                    total = (second as f32).mul_add(scale.second * x.scale, total);
                } else {
                    total = ((first + second) as f32).mul_add(scale.first * x.scale, total);
                }
                if matches!(format.scaling(), Scaling::ScaleMin | Scaling::SuperScaleMin) {
                    total = scale.min.mul_add(x.sum, total);
                }
            }
            total
        })
    })
}
