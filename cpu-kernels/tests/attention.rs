//! Attention in every form against plain `f64` loops.

use half::{bf16, f16};
use npu_cpu_kernels::{Float, Form, Heads, Sight, attention_by};
use rand::{Rng, SeedableRng, rngs::StdRng};

/// batch, heads, key heads, queries, keys, key width, value width.
const SHAPES: [[usize; 7]; 7] = [
    [1, 1, 1, 1, 1, 1, 1],
    [1, 14, 2, 1, 300, 64, 64],
    [2, 4, 4, 3, 7, 33, 17],
    [1, 6, 2, 130, 130, 16, 40],
    [2, 3, 1, 5, 257, 8, 96],
    [1, 2, 1, 40, 44, 20, 7],
    [1, 8, 8, 2, 128, 64, 128],
];

/// A tensor and its strides where heads lie beside each other (`[B, S, H, D]`), as a projection leaves them, or where the
/// positions of a head do, in a cache with room for more.
fn heads<T: Float>(rng: &mut StdRng, [b, h, s, d]: [usize; 4], projected: bool) -> (Vec<T>, [usize; 3]) {
    let room = s + 3;
    let strides = if projected { [s * h * d, d, h * d] } else { [h * room * d, room * d, d] };
    ((0..b * h * room * d).map(|_| T::round(rng.random_range(-1.0..1.0))).collect(), strides)
}

fn agrees<T: Float>(form: Form, rounding: f64) {
    let mut rng = StdRng::seed_from_u64(9);
    for [b, h, g, s, t, d, e] in SHAPES {
        for sight in [Sight::All, Sight::Causal { offset: t - s.min(t) }, Sight::Causal { offset: 0 }] {
            let ((q, qs), (k, ks), (v, vs)) = (
                heads::<T>(&mut rng, [b, h, s, d], true),
                heads::<T>(&mut rng, [b, g, t, d], false),
                heads::<T>(&mut rng, [b, g, t, e], false),
            );
            let mut out = vec![T::default(); b * s * h * e];
            let scale = 1.5 / (d as f32).sqrt();
            let views = (Heads::new(&q, [b, h, s, d], qs), Heads::new(&k, [b, g, t, d], ks));
            attention_by(form, views.0, views.1, Heads::new(&v, [b, g, t, e], vs), scale, sight, &mut out);
            for index in 0..b * s * h {
                let (bi, si, hi) = (index / (s * h), index / h % s, index % h);
                let gi = hi / (h / g);
                let seen = if let Sight::Causal { offset } = sight { t.min(si + offset + 1) } else { t };
                let score = |ti: usize| {
                    let at = |x: &[T], s: [usize; 3], head: usize, row: usize, i: usize| {
                        x[bi * s[0] + head * s[1] + row * s[2] + i].widen() as f64
                    };
                    scale as f64 * (0..d).map(|i| at(&q, qs, hi, si, i) * at(&k, ks, gi, ti, i)).sum::<f64>()
                };
                let weights: Vec<f64> = (0..seen).map(|ti| score(ti).exp()).collect();
                let total: f64 = weights.iter().sum();
                for i in 0..e {
                    let value = |ti: usize| v[bi * vs[0] + gi * vs[1] + ti * vs[2] + i].widen() as f64;
                    let wanted = (0..seen).map(|ti| weights[ti] / total * value(ti)).sum::<f64>();
                    let got = out[index * e + i].widen() as f64;
                    // Values below one in size: the output's own rounding, and some f32 roundings of scores (at most
                    // d·2^-24 of what their terms add up to), weights and sums.
                    let tolerance =
                        rounding + (2.0 * d as f64 + 20.0) * 2f64.powi(-24) * (1.0 + 1.5 * (d as f64).sqrt());
                    assert!(
                        (got - wanted).abs() <= tolerance,
                        "{form:?} {:?} {sight:?} row {index}, {i}: {got}, wanted {wanted}",
                        [b, h, g, s, t, d, e]
                    );
                }
            }
        }
    }
}

#[test]
fn every_form_agrees_with_the_definition() {
    for form in Form::available() {
        agrees::<f32>(form, 0.0);
        agrees::<bf16>(form, 2f64.powi(-9));
        agrees::<f16>(form, 2f64.powi(-12));
    }
}

#[test]
fn a_query_that_sees_no_key_gives_nan() {
    let (q, k) = ([1f32; 4], [1f32; 4]);
    let mut out = [0f32; 4];
    let (none, q) = (Heads::new(&k, [1, 1, 0, 4], [4, 4, 4]), Heads::new(&q, [1, 1, 1, 4], [4, 4, 4]));
    for form in Form::available() {
        attention_by(form, q, none, none, 1.0, Sight::All, &mut out);
        assert!(out.iter().all(|value| value.is_nan()), "{form:?}: {out:?}");
    }
}
