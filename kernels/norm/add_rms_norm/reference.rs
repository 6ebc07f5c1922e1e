//! add_rms_norm by plain loops in F64.

/// The norm and the sum of `x` and `residual` `[rows, width]`; `round` rounds to the element type, as the sum is before it
/// is normalised. The norm is not rounded.
pub fn add_rms_norm(
    (x, residual, weight): (&[f64], &[f64], &[f64]),
    epsilon: f64,
    round: impl Fn(f64) -> f64,
) -> (Vec<f64>, Vec<f64>) {
    let sum: Vec<f64> = x.iter().zip(residual).map(|(x, r)| round(x + r)).collect();
    let normed = sum.chunks(weight.len()).flat_map(|row| {
        let mean = row.iter().map(|x| x * x).sum::<f64>() / row.len() as f64;
        let root = (mean + epsilon).sqrt();
        row.iter().zip(weight).map(move |(x, weight)| x / root * weight)
    });
    (normed.collect(), sum)
}
