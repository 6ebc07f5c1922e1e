use crate::arguments::*;
use crate::support::*;

/// One rounding to the type; f32 sums of squares keep their 24 bits.
fn tolerance(dtype: DType) -> f64 {
    match dtype {
        F16 => 6e-4,
        BF16 => 4.5e-3,
        _ => 1e-6,
    }
}

fn rms(row: &[f64], epsilon: f64) -> f64 {
    1.0 / (row.iter().map(|v| v * v).sum::<f64>() / row.len() as f64 + epsilon).sqrt()
}

#[test]
fn rms_norm_over_one_and_two_dimensions() {
    for (dtype, weights) in [(F32, F32), (F16, F16), (BF16, BF16), (F16, F32), (BF16, F32)] {
        for lead in [1, 2] {
            let x = array(dtype, &[3, 2, 7], &noise(1, 42));
            let shape = &[3, 2, 7][lead..];
            let n: usize = shape.iter().product();
            let gamma = array(weights, shape, &noise(2, n));
            let (y, rstd) = (output(dtype, &[3, 2, 7]), output(F32, if lead == 1 { &[3, 1, 1] } else { &[3, 2, 1] }));
            run!(RmsNorm(&x, &gamma, 1e-6, &y, &rstd)).unwrap();
            let (v, g) = (x.values(), gamma.values());
            let wanted: Vec<f64> = (0..42).map(|i| v[i] * rms(&v[i / n * n..][..n], 1e-6) * g[i % n]).collect();
            close(&y.values(), &wanted, tolerance(dtype));
            close(&rstd.values(), &v.chunks(n).map(|row| rms(row, 1e-6)).collect::<Vec<_>>(), 1e-6);
        }
    }
    let (x, gamma) = (array(F32, &[2, 3], &[1.0; 6]), array(F32, &[2], &[1.0; 2]));
    let (y, rstd) = (output(F32, &[2, 3]), output(F32, &[2, 1]));
    refused(run!(RmsNorm(&x, &gamma, 1e-6, &y, &rstd)), 161002, &["gamma [2]", "[2, 3]"]);
    refused(run!(RmsNorm(&x, &array(F16, &[3], &[1.0; 3]), 1e-6, &y, &rstd)), 161002, &["gamma is FLOAT16"]);
    refused(run!(RmsNorm(&x, &array(F32, &[3], &[1.0; 3]), 1e-6, &y, &output(F32, &[2]))), 161002, &["rstd", "[2, 1]"]);
}

#[test]
fn add_rms_norm_normalises_the_rounded_sum() {
    for dtype in [F32, F16, BF16] {
        let (a, b) = (array(dtype, &[4, 16], &noise(1, 64)), array(dtype, &[4, 16], &noise(2, 64)));
        let gamma = array(dtype, &[16], &noise(3, 16));
        let (y, rstd, x) = (output(dtype, &[4, 16]), output(F32, &[4, 1]), output(dtype, &[4, 16]));
        run!(AddRmsNorm(&a, &b, &gamma, 1e-5, &y, &rstd, &x)).unwrap();
        let sums: Vec<f64> = a.values().iter().zip(b.values()).map(|(a, b)| rounded(dtype, a + b)).collect();
        assert_eq!(x.values(), sums);
        let g = gamma.values();
        let wanted: Vec<f64> = (0..64).map(|i| sums[i] * rms(&sums[i / 16 * 16..][..16], 1e-5) * g[i % 16]).collect();
        close(&y.values(), &wanted, tolerance(dtype));
    }
    let (a, gamma, y) =
        (array(F16, &[4, 16], &noise(1, 64)), array(F16, &[1, 16], &noise(3, 16)), output(F16, &[4, 16]));
    run!(AddRmsNorm(&a, &a, &gamma, 1e-5, &y, Nothing, Nothing)).unwrap();
    let gamma = array(F16, &[16], &noise(3, 16));
    refused(run!(AddRmsNorm(&a, &a, &gamma, 1e-5, &y, &output(F32, &[4, 1]), Nothing)), 161001, &["xOut"]);
    refused(run!(AddRmsNorm(&a, &a, &gamma, 1e-5, &y, Nothing, Nothing)), 161002, &["gamma"]);
}

#[test]
fn gemma_adds_one_to_its_weight() {
    let (x, gamma) = (array(F32, &[2, 4], &noise(1, 8)), array(F32, &[4], &[0.0; 4]));
    let (y, rstd) = (output(F32, &[2, 4]), output(F32, &[2]));
    run!(GemmaRmsNorm(&x, &gamma, 1e-6, &y, &rstd)).unwrap();
    let v = x.values();
    close(&y.values(), &(0..8).map(|i| v[i] * rms(&v[i / 4 * 4..][..4], 1e-6)).collect::<Vec<_>>(), 1e-6);
}

/// Slope of `f` for element `i` of `x`, by central differences.
fn slope(x: &[f64], i: usize, f: impl Fn(&[f64]) -> f64) -> f64 {
    let at = |step: f64| {
        let mut x = x.to_vec();
        x[i] += step;
        f(&x)
    };
    (at(1e-5) - at(-1e-5)) / 2e-5
}

#[test]
fn the_gradient_of_rms_norm_is_its_slope() {
    let (n, x, dy, gamma) = (5, noise(1, 15), noise(2, 15), noise(3, 5));
    let loss = |x: &[f64], gamma: &[f64]| -> f64 {
        (0..15).map(|i| dy[i] * x[i] * rms(&x[i / n * n..][..n], 1e-6) * gamma[i % n]).sum()
    };
    let rstds: Vec<f64> = x.chunks(n).map(|row| rms(row, 1e-6)).collect();
    for rstd_shape in [&[3, 1][..], &[3]] {
        let (dx, dgamma) = (output(F32, &[3, 5]), output(F32, &[5]));
        let arrays = (
            array(F32, &[3, 5], &dy),
            array(F32, &[3, 5], &x),
            array(F32, rstd_shape, &rstds),
            array(F32, &[5], &gamma),
        );
        run!(RmsNormGrad(&arrays.0, &arrays.1, &arrays.2, &arrays.3, &dx, &dgamma)).unwrap();
        // Central differences of step 1e-5 are good to about 1e-8, f32 to 1e-6 of the terms.
        close(&dx.values(), &(0..15).map(|i| slope(&x, i, |x| loss(x, &gamma))).collect::<Vec<_>>(), 3e-6);
        close(&dgamma.values(), &(0..5).map(|i| slope(&gamma, i, |gamma| loss(&x, gamma))).collect::<Vec<_>>(), 3e-6);
    }
}

#[test]
fn layer_norm_and_its_gradient() {
    let normal = |x: &[f64], i: usize| {
        let row = &x[i / 6 * 6..][..6];
        let mean = row.iter().sum::<f64>() / 6.0;
        let variance = row.iter().map(|v| (v - mean) * (v - mean)).sum::<f64>() / 6.0;
        (x[i] - mean) / (variance + 1e-5).sqrt()
    };
    let (x, w, b, dy) = (noise(1, 24), noise(2, 6), noise(3, 6), noise(4, 24));
    let arrays = (array(F32, &[4, 6], &x), array(F32, &[6], &w), array(F32, &[6], &b), array(F32, &[4, 6], &dy));
    let (y, mean, rstd) = (output(F32, &[4, 6]), output(F32, &[4, 1]), output(F32, &[4, 1]));
    run!(LayerNorm(&arrays.0, &ints(&[6]), &arrays.1, &arrays.2, 1e-5, &y, &mean, &rstd)).unwrap();
    close(&y.values(), &(0..24).map(|i| normal(&x, i) * w[i % 6] + b[i % 6]).collect::<Vec<_>>(), 2e-6);
    let bare = output(F32, &[4, 6]);
    run!(LayerNorm(&arrays.0, &ints(&[6]), Nothing, Nothing, 1e-5, &bare, Nothing, Nothing)).unwrap();
    close(&bare.values(), &(0..24).map(|i| normal(&x, i)).collect::<Vec<_>>(), 2e-6);
    let (dx, dw, db) = (output(F32, &[4, 6]), output(F32, &[6]), output(F32, &[6]));
    let all = bools(&[true, true, true]);
    run!(LayerNormBackward(&arrays.3, &arrays.0, &ints(&[6]), &mean, &rstd, &arrays.1, &arrays.2, &all, &dx, &dw, &db))
        .unwrap();
    let loss = |x: &[f64], w: &[f64]| -> f64 { (0..24).map(|i| dy[i] * normal(x, i) * w[i % 6]).sum() };
    close(&dx.values(), &(0..24).map(|i| slope(&x, i, |x| loss(x, &w))).collect::<Vec<_>>(), 1e-5);
    close(&dw.values(), &(0..6).map(|i| slope(&w, i, |w| loss(&x, w))).collect::<Vec<_>>(), 1e-5);
    close(&db.values(), &(0..6).map(|i| dy.iter().skip(i).step_by(6).sum()).collect::<Vec<f64>>(), 1e-6);
    let first = bools(&[true, false, false]);
    run!(LayerNormBackward(
        &arrays.3,
        &arrays.0,
        &ints(&[6]),
        &mean,
        &rstd,
        &arrays.1,
        &arrays.2,
        &first,
        &dx,
        Nothing,
        Nothing
    ))
    .unwrap();
    refused(
        run!(LayerNormBackward(
            &arrays.3,
            &arrays.0,
            &ints(&[6]),
            &mean,
            &rstd,
            &arrays.1,
            &arrays.2,
            &all,
            &dx,
            Nothing,
            &db
        )),
        161001,
        &["gradWeightOut"],
    );
    refused(
        run!(LayerNorm(&arrays.0, &ints(&[4]), Nothing, Nothing, 1e-5, &bare, Nothing, Nothing)),
        161002,
        &["normalizedShape"],
    );
}
