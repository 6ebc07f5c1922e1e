//! rotary_cache by plain loops in F64.

/// One head, normed by `weight` where there is one, and turned by the first halves of `cos` and `sin`. `round` rounds to
/// the element type what a norm of its own would.
pub fn turned(
    head: &[f64],
    (cos, sin): (&[f64], &[f64]),
    norm: Option<(&[f64], f64)>,
    round: impl Fn(f64) -> f64,
) -> Vec<f64> {
    let mut head = head.to_vec();
    if let Some((weight, epsilon)) = norm {
        let mean = head.iter().map(|x| x * x).sum::<f64>() / head.len() as f64;
        let root = (mean + epsilon).sqrt();
        head.iter_mut().zip(weight).for_each(|(x, weight)| *x = round(*x / root * weight));
    }
    let (first, second) = head.split_at(head.len() / 2);
    let of_first = (0..first.len()).map(|i| first[i] * cos[i] - second[i] * sin[i]);
    let of_second = (0..first.len()).map(|i| second[i] * cos[i] + first[i] * sin[i]);
    of_first.chain(of_second).collect()
}
