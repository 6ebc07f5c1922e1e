use crate::arguments::*;
use crate::support::*;

fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

fn gelu(x: f64, tanh: bool) -> f64 {
    match tanh {
        true => 0.5 * x * (1.0 + ((2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x * x * x)).tanh()),
        false => 0.5 * x * libm::erfc(-x / std::f64::consts::SQRT_2),
    }
}

/// One rounding, and in f32 the error of `exp` and a few operations.
const TYPES: [(DType, f64); 3] = [(F32, 1e-6), (F16, 6e-4), (BF16, 4.5e-3)];

#[test]
fn gated_activations_halve_a_dimension() {
    for (dtype, tolerance) in TYPES {
        let x = array(dtype, &[2, 6, 3], &noise(1, 36));
        let v = x.values();
        let pair = |i: usize| (v[i / 9 * 18 + i % 9], v[i / 9 * 18 + 9 + i % 9]);
        let wanted = |f: fn(f64, f64) -> f64| (0..18).map(|i| f(pair(i).0, pair(i).1)).collect::<Vec<_>>();
        let (out, gate) = (output(dtype, &[2, 3, 3]), output(dtype, &[2, 3, 3]));
        run!(SwiGlu(&x, 1i64, &out)).unwrap();
        close(&out.values(), &wanted(|a, b| a * sigmoid(a) * b), tolerance);
        run!(Glu(&x, -2i64, &out)).unwrap();
        close(&out.values(), &wanted(|a, b| a * sigmoid(b)), tolerance);
        run!(GeGluV3(&x, 1i64, 1i64, false, &out, &gate)).unwrap();
        close(&out.values(), &wanted(|a, b| a * gelu(b, true)), tolerance);
        close(&gate.values(), &wanted(|_, b| gelu(b, true)), tolerance);
        let (grad, dx) = (array(dtype, &[2, 3, 3], &noise(2, 18)), output(dtype, &[2, 6, 3]));
        run!(SwiGluGrad(&grad, &x, 1i64, &dx)).unwrap();
        let g = grad.values();
        let slope = |i: usize| {
            let (a, b) = pair(i / 18 * 9 + i % 9);
            let (g, s) = (g[i / 18 * 9 + i % 9], sigmoid(a));
            if i % 18 < 9 { g * (s + s * (1.0 - s) * a) * b } else { g * s * a }
        };
        close(&dx.values(), &(0..36).map(slope).collect::<Vec<_>>(), tolerance);
    }
    let x = array(F32, &[2, 3], &noise(1, 6));
    refused(run!(SwiGlu(&x, 1i64, &output(F32, &[2, 1]))), 161002, &["3 elements", "even"]);
    refused(run!(SwiGlu(&x.view(&[2, 2], &[3, 1], 0), 1i64, &output(F32, &[2, 1]))), 161002, &["contiguous"]);
}

#[test]
fn gradients_are_slopes() {
    let slope = |f: &dyn Fn(f64) -> f64, x: f64| (f(x + 1e-5) - f(x - 1e-5)) / 2e-5;
    for (dtype, tolerance) in TYPES {
        let (x, g) = (array(dtype, &[3, 4], &noise(1, 12)), array(dtype, &[3, 4], &noise(2, 12)));
        let (xs, gs, out) = (x.values(), g.values(), output(dtype, &[3, 4]));
        let wanted = |f: &dyn Fn(f64) -> f64| (0..12).map(|i| gs[i] * slope(f, xs[i])).collect::<Vec<_>>();
        run!(SiluBackward(&g, &x, &out)).unwrap();
        close(&out.values(), &wanted(&|x| x * sigmoid(x)), tolerance);
        run!(GeluBackward(&g, &x, &out)).unwrap();
        close(&out.values(), &wanted(&|x| gelu(x, false)), tolerance);
        run!(GeluBackwardV2(&g, &x, &text("tanh"), &out)).unwrap();
        close(&out.values(), &wanted(&|x| gelu(x, true)), tolerance);
        run!(SoftplusBackward(&g, &x, &number(F32, 2.0), &number(F32, 20.0), &out)).unwrap();
        close(&out.values(), &wanted(&|x| (2.0 * x).exp().ln_1p() / 2.0), tolerance);
        run!(TanhBackward(&g, &x, &out)).unwrap();
        close(&out.values(), &(0..12).map(|i| gs[i] * (1.0 - xs[i] * xs[i])).collect::<Vec<_>>(), tolerance);
        run!(SigmoidBackward(&g, &x, &out)).unwrap();
        close(&out.values(), &(0..12).map(|i| gs[i] * xs[i] * (1.0 - xs[i])).collect::<Vec<_>>(), tolerance);
        run!(ThresholdBackward(&g, &x, &number(F32, 0.5), &out)).unwrap();
        assert_eq!(out.values(), (0..12).map(|i| if xs[i] > 0.5 { gs[i] } else { 0.0 }).collect::<Vec<_>>());
        run!(Swish(&x, &number(F32, 2.0), &out)).unwrap();
        close(&out.values(), &xs.iter().map(|x| x * sigmoid(2.0 * x)).collect::<Vec<_>>(), tolerance);
        run!(Swish(&x, Nothing, &out)).unwrap();
        close(&out.values(), &xs.iter().map(|x| x * sigmoid(*x)).collect::<Vec<_>>(), tolerance);
    }
    let x = array(F32, &[2], &[1.0, 2.0]);
    refused(run!(GeluBackwardV2(&x, &x, &text("erf"), &output(F32, &[2]))), 161002, &["erf", "tanh"]);
    refused(run!(SiluBackward(&x, &array(F32, &[1], &[1.0]), &output(F32, &[2]))), 161002, &["shape"]);
}
