//! Attention by plain loops in F64, shared by the three kernels.

/// softmax(scale · q·kᵀ)·v for one head of one sequence: q `[queries, width]`, k `[keys, width]`, v `[keys, value_width]`.
/// Query i sees the first `visible(i)` keys; one that sees none gives zeros.
pub fn attention(
    q: &[f64],
    k: &[f64],
    v: &[f64],
    [width, value_width]: [usize; 2],
    scale: f64,
    visible: impl Fn(usize) -> usize,
) -> Vec<f64> {
    let keys: Vec<_> = k.chunks(width).collect();
    let mut y = Vec::new();
    for (i, query) in q.chunks(width).enumerate() {
        let seen = &keys[..visible(i).min(keys.len())];
        let scores: Vec<f64> =
            seen.iter().map(|key| scale * query.iter().zip(*key).map(|(a, b)| a * b).sum::<f64>()).collect();
        let greatest = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let weights: Vec<f64> = scores.iter().map(|score| (score - greatest).exp()).collect();
        let total: f64 = weights.iter().sum();
        for column in 0..value_width {
            let mixed: f64 = weights.iter().enumerate().map(|(j, weight)| weight * v[j * value_width + column]).sum();
            y.push(if seen.is_empty() { 0.0 } else { mixed / total });
        }
    }
    y
}
