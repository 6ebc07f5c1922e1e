use crate::support::*;

/// `f` of each group that is left when dimension 1 of a `[3, 4, 5]` tensor is reduced.
fn middle(values: &[f64], f: impl Fn(Vec<f64>) -> f64) -> Vec<f64> {
    (0..15).map(|i| f((0..4).map(|j| values[i / 5 * 20 + j * 5 + i % 5]).collect())).collect()
}

/// Runs the reductions of dimension 1 of a `[3, 4, 5]` tensor in each narrow type.
macro_rules! middle_cases {
    ($($test:ident $name:ident |$dtype:ident, $x:ident, $out:ident| ($($arg:expr),*), $f:expr;)*) => {$(
        #[test]
        fn $test() {
            for ($dtype, tolerance) in [(F32, 1e-6), (F16, 1e-3), (BF16, 8e-3)] {
                let $x = &array($dtype, &[3, 4, 5], &noise(7, 60));
                let $out = &output($dtype, &[3, 5]);
                run!($name($($arg),*)).unwrap();
                close(&$out.values(), &middle(&$x.values(), $f), tolerance);
            }
        }
    )*};
}

fn variance(row: &[f64], correction: f64) -> f64 {
    let mean = row.iter().sum::<f64>() / row.len() as f64;
    row.iter().map(|x| (x - mean) * (x - mean)).sum::<f64>() / (row.len() as f64 - correction)
}

middle_cases! {
    sums ReduceSum |dtype, x, out| (x, &ints(&[1]), false, dtype, out), |row| row.iter().sum();
    means Mean |dtype, x, out| (x, &ints(&[-2]), false, dtype, out), |row| row.iter().sum::<f64>() / 4.0;
    means_v2 MeanV2 |dtype, x, out| (x, &ints(&[1]), false, false, out), |row| row.iter().sum::<f64>() / 4.0;
    largest Amax |dtype, x, out| (x, &ints(&[1]), false, out), |row| row.iter().copied().fold(-9.0, f64::max);
    smallest Amin |dtype, x, out| (x, &ints(&[1]), false, out), |row| row.iter().copied().fold(9.0, f64::min);
    products ProdDim |dtype, x, out| (x, 1i64, false, dtype, out), |row| row.iter().product();
    variances Var |dtype, x, out| (x, &ints(&[1]), true, false, out), |row| variance(&row, 1.0);
    deviations Std |dtype, x, out| (x, &ints(&[1]), 0i64, false, out), |row| variance(&row, 0.0).sqrt();
    log_sums LogSumExp |dtype, x, out| (x, &ints(&[1]), false, out), |row| row.iter().map(|x| x.exp()).sum::<f64>().ln();
    norms Norm |dtype, x, out| (x, &number(F32, 3.0), &ints(&[1]), false, out), |row| row.iter().map(|x| x.abs().powi(3)).sum::<f64>().cbrt();
}

#[test]
fn several_dimensions_and_kept_ones() {
    let x = array(F32, &[2, 2, 2], &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0]);
    let out = output(F32, &[1, 2, 1]);
    run!(ReduceSum(&x, &ints(&[0, -1]), true, F32, &out)).unwrap();
    assert_eq!(out.values(), [14.0, 22.0]);
    let all = output(F32, &[]);
    run!(ReduceSum(&x, &ints(&[]), false, F32, &all)).unwrap();
    assert_eq!(all.values(), [36.0]);
    refused(run!(ReduceSum(&x, &ints(&[0, -3]), false, F32, &out)), 161002, &["named twice"]);
    refused(run!(ReduceSum(&x, &ints(&[0]), false, F16, &out)), 161002, &["shape"]);
    refused(run!(ReduceSum(&x, &ints(&[3]), false, F32, &out)), 161002, &["dimension 3"]);
}

#[test]
fn a_long_sum_keeps_its_digits() {
    let x = array(F32, &[100_001], &[0.1; 100_001]);
    let out = output(F32, &[]);
    run!(ReduceSum(&x, &ints(&[0]), false, F32, &out)).unwrap();
    close(&out.values(), &[100_001.0 * 0.1f32 as f64], 1e-7);
}

#[test]
fn integers_and_truths_are_summed_exactly() {
    let x = array(Bool, &[2, 3], &[1.0, 1.0, 0.0, 1.0, 1.0, 1.0]);
    let out = output(I64, &[2]);
    run!(ReduceSum(&x, &ints(&[1]), false, I64, &out)).unwrap();
    assert_eq!(out.values(), [2.0, 3.0]);
    let empty = array(F32, &[0, 2], &[]);
    let out = output(F32, &[2]);
    run!(ReduceSum(&empty, &ints(&[0]), false, F32, &out)).unwrap();
    assert_eq!(out.values(), [0.0, 0.0]);
    let (x, out) = (array(F32, &[3], &[1.0, f64::NAN, 2.0]), output(F32, &[]));
    run!(ReduceNansum(&x, &ints(&[]), false, F32, &out)).unwrap();
    assert_eq!(out.values(), [3.0]);
    let (a, b, out) = (array(I32, &[2], &[1.0, 2.0]), array(I32, &[1], &[5.0]), output(I32, &[2]));
    run!(Sum(&list(&[&a, &b]), &out)).unwrap();
    assert_eq!(out.values(), [6.0, 7.0]);
}

#[test]
fn extremes_and_where_they_are() {
    let x = array(F32, &[2, 4], &[1.0, 7.0, 7.0, 2.0, 4.0, f64::NAN, -1.0, f64::NAN]);
    let (values, places) = (output(F32, &[2]), output(I32, &[2]));
    run!(MaxDim(&x, 1i64, false, &values, &places)).unwrap();
    close(&values.values(), &[7.0, f64::NAN], 0.0);
    assert_eq!(places.values(), [1.0, 1.0]);
    run!(MinDim(&x, -1i64, false, &values, &places)).unwrap();
    close(&values.values(), &[1.0, f64::NAN], 0.0);
    assert_eq!(places.values(), [0.0, 1.0]);
    let places = output(I64, &[1, 4]);
    run!(ArgMax(&array(I32, &[2, 4], &[1.0, 5.0, 3.0, 3.0, 2.0, 4.0, 3.0, 9.0]), 0i64, true, &places)).unwrap();
    assert_eq!(places.values(), [1.0, 0.0, 0.0, 1.0]);
    let places = output(I64, &[2]);
    run!(ArgMin(&array(I32, &[2, 2], &[1.0, 5.0, 3.0, 3.0]), 1i64, false, &places)).unwrap();
    assert_eq!(places.values(), [0.0, 0.0]);
    let (x, out) = (array(I64, &[3], &[4.0, 9.0, -2.0]), output(I64, &[]));
    run!(Max(&x, &out)).unwrap();
    assert_eq!(out.values(), [9.0]);
    run!(Min(&x, &out)).unwrap();
    assert_eq!(out.values(), [-2.0]);
    run!(Prod(&x, I64, &out)).unwrap();
    assert_eq!(out.values(), [-72.0]);
    run!(Median(&x, &out)).unwrap();
    assert_eq!(out.values(), [4.0]);
    refused(run!(Amax(&array(F32, &[0], &[]), &ints(&[0]), false, &output(F32, &[]))), 161002, &["no element"]);
}

#[test]
fn running_totals() {
    let x = array(F32, &[2, 3], &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
    let out = output(F32, &[2, 3]);
    run!(Cumsum(&x, 0i64, F32, &out)).unwrap();
    assert_eq!(out.values(), [1.0, 2.0, 3.0, 5.0, 7.0, 9.0]);
    run!(Cumsum(&x, -1i64, F32, &out)).unwrap();
    assert_eq!(out.values(), [1.0, 3.0, 6.0, 4.0, 9.0, 15.0]);
    run!(Cumprod(&x, &number(I32, 1.0), F32, &out)).unwrap();
    assert_eq!(out.values(), [1.0, 2.0, 6.0, 4.0, 20.0, 120.0]);
}

#[test]
fn truths_are_gathered() {
    let x = array(F32, &[2, 2], &[0.0, 0.5, 1.0, 2.0]);
    let out = output(Bool, &[2]);
    run!(All(&x, &ints(&[1]), false, &out)).unwrap();
    assert_eq!(out.values(), [0.0, 1.0]);
    run!(Any(&x, &ints(&[0]), false, &out)).unwrap();
    assert_eq!(out.values(), [1.0, 1.0]);
}

#[test]
fn norms_of_every_kind() {
    let x = array(F32, &[4], &[3.0, 0.0, -4.0, 0.0]);
    let out = output(F32, &[]);
    for (p, wanted) in [(0.0, 2.0), (1.0, 7.0), (2.0, 5.0), (f64::INFINITY, 4.0), (f64::NEG_INFINITY, 0.0)] {
        run!(Norm(&x, &number(F32, p), &ints(&[]), false, &out)).unwrap();
        assert_eq!(out.values(), [wanted]);
    }
    let (variance, mean) = (output(F32, &[]), output(F32, &[]));
    run!(VarMean(&x, &ints(&[]), 1i64, false, &variance, &mean)).unwrap();
    close(&variance.values(), &[24.75 / 3.0], 2e-7);
    close(&mean.values(), &[-0.25], 2e-7);
    let positive = array(F32, &[2], &[1.0, 3.0]);
    run!(ReduceLogSum(&positive, &ints(&[0]), false, false, &out)).unwrap();
    close(&out.values(), &[4f64.ln()], 2e-7);
    let huge = array(F32, &[2], &[1000.0, 1000.0]);
    run!(LogSumExp(&huge, &ints(&[0]), false, &out)).unwrap();
    close(&out.values(), &[1000.0 + 2f64.ln()], 2e-7);
}
