//! unpermute by plain loops in F64.

/// `out[t] = Σ weights[t][j] · y[places[t][j]]`, rows of `width` elements.
pub fn unpermute(y: &[f64], places: &[u32], weights: &[f64], k: usize, width: usize) -> Vec<f64> {
    let row = |token: usize, column: usize| {
        let choices = token * k..(token + 1) * k;
        choices.map(|choice| weights[choice] * y[places[choice] as usize * width + column]).sum()
    };
    (0..places.len() / k).flat_map(|token| (0..width).map(move |column| row(token, column))).collect()
}
