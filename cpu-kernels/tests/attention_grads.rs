//! Gradients of attention against plain `f64` loops over their definition.

use half::bf16;
use npu_cpu_kernels::{Attended, AttentionGrads, Float, Heads, Sight, attention, attention_grads};
use rand::{Rng, SeedableRng, rngs::StdRng};

/// batch, heads, key heads, queries, keys, key width, value width: more than a block of queries, heads shared and not.
const SHAPES: [[usize; 7]; 5] = [
    [1, 1, 1, 1, 1, 1, 1],
    [2, 6, 2, 5, 9, 4, 7],
    [1, 4, 1, 150, 150, 8, 6],
    [3, 3, 3, 2, 2, 5, 5],
    [1, 2, 1, 129, 140, 3, 4],
];

fn drawn<T: Float>(rng: &mut StdRng, count: usize) -> Vec<T> {
    (0..count).map(|_| T::round(rng.random_range(-1.0..1.0))).collect()
}

/// As `[B, S, H, D]`, which is how projections leave heads.
fn strides([_, h, s, d]: [usize; 4]) -> [usize; 3] {
    [s * h * d, d, h * d]
}

struct Plain {
    q: Vec<f64>,
    k: Vec<f64>,
    v: Vec<f64>,
}

/// Row-major gradients; every loop runs over single elements.
fn plain<T: Float>(at: [&[T]; 4], [b, h, g, s, t, d, e]: [usize; 7], scale: f64, sight: Sight) -> Plain {
    let [q, k, v, grad] = at.map(|x| x.iter().map(|x| x.widen() as f64).collect::<Vec<_>>());
    let row = |bi: usize, heads: usize, head: usize, rows: usize, row: usize, width: usize| {
        ((bi * rows + row) * heads + head) * width
    };
    let to = |bi: usize, heads: usize, head: usize, rows: usize, row: usize, width: usize| {
        ((bi * heads + head) * rows + row) * width
    };
    let mut of = Plain { q: vec![0.; b * h * s * d], k: vec![0.; b * g * t * d], v: vec![0.; b * g * t * e] };
    for index in 0..b * h * s {
        let (bi, hi, si) = (index / (h * s), index / s % h, index % s);
        let gi = hi / (h / g);
        let seen = if let Sight::Causal { offset } = sight { t.min(si + offset + 1) } else { t };
        let (q_at, grad_at) = (row(bi, h, hi, s, si, d), row(bi, h, hi, s, si, e));
        let score = |ti: usize| {
            let k_at = row(bi, g, gi, t, ti, d);
            scale * (0..d).map(|i| q[q_at + i] * k[k_at + i]).sum::<f64>()
        };
        let powers: Vec<f64> = (0..seen).map(|ti| score(ti).exp()).collect();
        let total: f64 = powers.iter().sum();
        let of_weight = |ti: usize| {
            let v_at = row(bi, g, gi, t, ti, e);
            (0..e).map(|i| grad[grad_at + i] * v[v_at + i]).sum::<f64>()
        };
        let along: f64 = (0..seen).map(|ti| powers[ti] / total * of_weight(ti)).sum();
        for (ti, power) in powers.iter().enumerate() {
            let weight = power / total;
            let of_score = weight * (of_weight(ti) - along) * scale;
            let k_at = row(bi, g, gi, t, ti, d);
            let (to_q, to_k, to_v) = (to(bi, h, hi, s, si, d), to(bi, g, gi, t, ti, d), to(bi, g, gi, t, ti, e));
            (0..d).for_each(|i| of.q[to_q + i] += of_score * k[k_at + i]);
            (0..d).for_each(|i| of.k[to_k + i] += of_score * q[q_at + i]);
            (0..e).for_each(|i| of.v[to_v + i] += weight * grad[grad_at + i]);
        }
    }
    of
}

fn agrees<T: Float>(rounding: f64) {
    let mut rng = StdRng::seed_from_u64(4);
    for shape in SHAPES {
        let [b, h, g, s, t, d, e] = shape;
        for sight in [Sight::All, Sight::Causal { offset: t - s }, Sight::Causal { offset: 0 }] {
            let shapes = [[b, h, s, d], [b, g, t, d], [b, g, t, e], [b, h, s, e]];
            let [q, k, v, grad] = shapes.map(|shape| drawn::<T>(&mut rng, shape.iter().product()));
            let heads = |which: usize, data| Heads::new(data, shapes[which], strides(shapes[which]));
            let scale = 1.5 / (d as f32).sqrt();
            let mut out = vec![T::default(); b * s * h * e];
            attention(heads(0, &q), heads(1, &k), heads(2, &v), scale, sight, &mut out);
            let at = Attended {
                q: heads(0, &q),
                k: heads(1, &k),
                v: heads(2, &v),
                out: heads(3, &out),
                grad: heads(3, &grad),
            };
            let AttentionGrads { q: of_q, k: of_k, v: of_v } = attention_grads(at, scale, sight);
            let wanted = plain([&q, &k, &v, &grad], shape, scale.into(), sight);
            for (which, got, wanted) in [("q", of_q, wanted.q), ("k", of_k, wanted.k), ("v", of_v, wanted.v)] {
                assert_eq!(got.len(), wanted.len());
                // Elements are sums of up to `s` numbers of order one, each some dozens of f32 roundings off, and of the result's
                // own rounding, which the gradient of a score takes `along` from.
                let most = wanted.iter().fold(1f64, |most, w| most.max(w.abs()));
                for (i, (got, wanted)) in got.iter().zip(&wanted).enumerate() {
                    let off = (*got as f64 - wanted).abs();
                    assert!(off < (1e-5 + rounding) * most, "{shape:?} {sight:?} {which}[{i}]: {got}, wanted {wanted}");
                }
            }
        }
    }
}

#[test]
fn gradients_are_those_of_plain_loops() {
    agrees::<f32>(0.0);
    // The result that the gradient is computed with is a BF16: 2^-8 of it, in a sum over the head and over the queries.
    agrees::<bf16>(0.02);
}
