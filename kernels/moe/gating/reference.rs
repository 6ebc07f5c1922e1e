//! Both kinds of gating by plain loops in F64.

/// The k best of `ranks`, the best first; of equals the first.
fn best(ranks: &[f64], k: usize) -> Vec<u32> {
    let mut order: Vec<u32> = (0..ranks.len() as u32).collect();
    order.sort_by(|&a, &b| ranks[b as usize].total_cmp(&ranks[a as usize]));
    order.truncate(k);
    order
}

fn finish(weights: &mut [f64], renormalise: bool, factor: f64) {
    let sum = if renormalise { weights.iter().sum::<f64>() + 1e-20 } else { 1.0 };
    weights.iter_mut().for_each(|weight| *weight *= factor / sum);
}

/// Weights and experts `[k]` of one token with `logits`.
pub fn softmax(logits: &[f64], k: usize, renormalise: bool) -> (Vec<f64>, Vec<u32>) {
    let chosen = best(logits, k);
    let max = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let sum: f64 = logits.iter().map(|x| (x - max).exp()).sum();
    let mut weights: Vec<f64> = chosen.iter().map(|&expert| (logits[expert as usize] - max).exp() / sum).collect();
    finish(&mut weights, renormalise, 1.0);
    (weights, chosen)
}

/// The same of sigmoid gating; `bias` may be empty.
pub fn sigmoid(
    logits: &[f64],
    bias: &[f64],
    k: usize,
    [groups, kept_groups]: [usize; 2],
    (renormalise, factor): (bool, f64),
) -> (Vec<f64>, Vec<u32>) {
    let scores: Vec<f64> = logits.iter().map(|x| 1.0 / (1.0 + (-x).exp())).collect();
    let ranks: Vec<f64> = (0..scores.len()).map(|i| scores[i] + bias.get(i).unwrap_or(&0.0)).collect();
    let size = scores.len() / groups;
    let of_group = |group: &[f64]| best(group, 2).iter().map(|&i| group[i as usize]).sum();
    let group_ranks: Vec<f64> = ranks.chunks(size).map(of_group).collect();
    let kept = best(&group_ranks, kept_groups);
    let open = |(i, &rank): (usize, &f64)| if kept.contains(&((i / size) as u32)) { rank } else { f64::NEG_INFINITY };
    let chosen = best(&ranks.iter().enumerate().map(open).collect::<Vec<_>>(), k);
    let mut weights: Vec<f64> = chosen.iter().map(|&expert| scores[expert as usize]).collect();
    finish(&mut weights, renormalise, factor);
    (weights, chosen)
}
