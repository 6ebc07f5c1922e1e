//! How an answer is held against the reference.

use crate::array::Array;
use crate::case::Tolerance;

/// What a comparison found.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Difference {
    /// Largest |got − wanted|, over finite elements.
    pub max_abs: f64,
    /// Largest difference in units of the tolerance; over 1 fails.
    pub worst: f64,
    /// Flat index of the worst element, with what was got and wanted there.
    pub at: Option<(usize, f64, f64)>,
}

impl Difference {
    pub fn passed(&self) -> bool {
        self.worst <= 1.0
    }
}

/// Compares `got` with `wanted`; NaN matches NaN, infinities match by sign, everything else by the tolerance.
pub fn compare(got: &Array, wanted: &Array, tolerance: Tolerance) -> Result<Difference, String> {
    if got.dtype != wanted.dtype || got.shape != wanted.shape {
        return Err(format!("got {}{:?}, wanted {}{:?}", got.dtype, got.shape, wanted.dtype, wanted.shape));
    }
    let mut found = Difference::default();
    for (i, (&g, &w)) in got.data.iter().zip(&wanted.data).enumerate() {
        let w = wanted.dtype.round(w);
        let same_kind = (g.is_nan() && w.is_nan()) || g == w;
        let (distance, excess) = if same_kind {
            (0.0, 0.0)
        } else if !g.is_finite() || !w.is_finite() {
            (0.0, f64::INFINITY)
        } else {
            let distance = (g - w).abs();
            let allowed = match tolerance {
                Tolerance::Exact => 0.0,
                Tolerance::Units { units, scale } => units * got.dtype.epsilon() * w.abs().max(scale),
            };
            (distance, if allowed > 0.0 { distance / allowed } else { f64::INFINITY })
        };
        found.max_abs = found.max_abs.max(distance);
        if excess > found.worst {
            found.worst = excess;
            found.at = Some((i, g, w));
        }
    }
    Ok(found)
}
