use crate::support::*;

/// Runs a float operator in each narrow type and compares it with a formula in `f64` on the rounded inputs.
macro_rules! float_cases {
    ($($test:ident $name:ident $inputs:expr, |$x:ident| $formula:expr;)*) => {$(
        #[test]
        fn $test() {
            let inputs: Vec<f64> = $inputs;
            // One rounding to the type; `f32` functions themselves are within two units of the last place.
            for (dtype, tolerance) in [(F32, 4e-7), (F16, 6e-4), (BF16, 4.5e-3)] {
                let x = array(dtype, &[inputs.len()], &inputs);
                let out = output(dtype, &[inputs.len()]);
                run!($name(&x, &out)).unwrap();
                let wanted: Vec<f64> = x.values().iter().map(|&$x| $formula).collect();
                close(&out.values(), &wanted, tolerance);
            }
        }
    )*};
}

fn gelu_tanh(x: f64) -> f64 {
    0.5 * x * (1.0 + (0.7978845608028654 * (x + 0.044715 * x * x * x)).tanh())
}

/// The error function by its series, which converges everywhere.
fn erf(x: f64) -> f64 {
    let (mut term, mut sum) = (x, x);
    for n in 1..200 {
        term *= -x * x / n as f64;
        sum += term / (2 * n + 1) as f64;
    }
    sum * 2.0 / std::f64::consts::PI.sqrt()
}

fn positive(seed: u64) -> Vec<f64> {
    noise(seed, 131).iter().map(|x| x.abs() + 0.01).collect()
}

float_cases! {
    exp Exp noise(1, 131), |x| x.exp();
    log Log positive(2), |x| x.ln();
    log2 Log2 positive(3), |x| x.log2();
    log1p Log1p positive(4), |x| x.ln_1p();
    expm1 Expm1 noise(5, 131), |x| x.exp() - 1.0;
    sqrt Sqrt positive(6), |x| x.sqrt();
    rsqrt Rsqrt positive(7), |x| 1.0 / x.sqrt();
    sin Sin noise(8, 131), |x| x.sin();
    cos Cos noise(9, 131), |x| x.cos();
    tan Tan noise(10, 131).iter().map(|x| x / 2.0).collect(), |x| x.sin() / x.cos();
    tanh Tanh noise(11, 131), |x| 1.0 - 2.0 / ((2.0 * x).exp() + 1.0);
    error_function Erf noise(12, 131), |x| erf(x);
    sigmoid Sigmoid noise(13, 131), |x| 1.0 / (1.0 + (-x).exp());
    silu Silu noise(14, 131), |x| x / (1.0 + (-x).exp());
    gelu Gelu noise(15, 131), |x| gelu_tanh(x);
    mish Mish noise(16, 131), |x| x * x.exp().ln_1p().tanh();
    log_sigmoid LogSigmoid noise(17, 131), |x| -(-x).exp().ln_1p();
    hardswish Hardswish noise(18, 131).iter().map(|x| x * 3.0).collect(), |x| x * (x + 3.0).clamp(0.0, 6.0) / 6.0;
    hardsigmoid Hardsigmoid noise(19, 131).iter().map(|x| x * 3.0).collect(), |x| (x / 6.0 + 0.5).clamp(0.0, 1.0);
    reciprocal Reciprocal positive(20), |x| 1.0 / x;
    trunc Trunc noise(21, 131), |x| (x as i64) as f64;
    frac Frac noise(22, 131), |x| x - (x as i64) as f64;
}

#[test]
fn gelu_v2_knows_both_formulas() {
    let inputs = noise(23, 57);
    for (mode, formula) in [(0i64, (|x| 0.5 * x * (1.0 + erf(x / 2f64.sqrt()))) as fn(f64) -> f64), (1, gelu_tanh)] {
        let (x, y) = (array(F32, &[57], &inputs), output(F32, &[57]));
        run!(GeluV2(&x, mode, &y)).unwrap();
        close(&y.values(), &x.values().into_iter().map(formula).collect::<Vec<_>>(), 4e-7);
    }
    let (x, y) = (array(F32, &[57], &inputs), output(F32, &[57]));
    refused(run!(GeluV2(&x, 2i64, &y)), 161002, &["approximate is 2"]);
}

#[test]
fn operators_with_slopes() {
    let inputs = noise(24, 33);
    let (x, out) = (array(F32, &[3, 11], &inputs), output(F32, &[3, 11]));
    let x_values = x.values();
    run!(LeakyRelu(&x, &number(F32, 0.25), &out)).unwrap();
    close(&out.values(), &x_values.iter().map(|&x| if x > 0.0 { x } else { x / 4.0 }).collect::<Vec<_>>(), 0.0);
    run!(Elu(&x, &number(F32, 1.5), &number(F32, 2.0), &number(F32, 0.5), &out)).unwrap();
    let elu = |x: f64| if x > 0.0 { 2.0 * x } else { 3.0 * ((x / 2.0).exp() - 1.0) };
    close(&out.values(), &x_values.iter().map(|&x| elu(x)).collect::<Vec<_>>(), 4e-7);
    run!(Softplus(&x, &number(F32, 2.0), &number(F32, 1.0), &out)).unwrap();
    let softplus = |x: f64| if 2.0 * x > 1.0 { x } else { (2.0 * x).exp().ln_1p() / 2.0 };
    close(&out.values(), &x_values.iter().map(|&x| softplus(x)).collect::<Vec<_>>(), 4e-7);
}

#[test]
fn rounding_goes_where_it_says() {
    let inputs = [-2.5, -1.5, -0.5, -0.2, 0.0, 0.5, 1.5, 2.5, 3.7];
    let x = array(F32, &[9], &inputs);
    let out = output(F32, &[9]);
    run!(Round(&x, &out)).unwrap();
    close(&out.values(), &[-2.0, -2.0, 0.0, 0.0, 0.0, 0.0, 2.0, 2.0, 4.0], 0.0);
    assert!(out.values()[2].is_sign_positive());
    run!(Ceil(&x, &out)).unwrap();
    close(&out.values(), &[-2.0, -1.0, 0.0, 0.0, 0.0, 1.0, 2.0, 3.0, 4.0], 0.0);
    run!(Floor(&x, &out)).unwrap();
    close(&out.values(), &[-3.0, -2.0, -1.0, -1.0, 0.0, 0.0, 1.0, 2.0, 3.0], 0.0);
    run!(Sign(&x, &out)).unwrap();
    close(&out.values(), &[-1.0, -1.0, -1.0, -1.0, 0.0, 1.0, 1.0, 1.0, 1.0], 0.0);
}

#[test]
fn integers_stay_integers() {
    for dtype in [I8, I32, I64] {
        let x = array(dtype, &[4], &[-128.0, -1.0, 0.0, 100.0]);
        let out = output(dtype, &[4]);
        run!(Neg(&x, &out)).unwrap();
        // The smallest INT8 has no opposite: it wraps.
        close(&out.values(), &[if dtype == I8 { -128.0 } else { 128.0 }, 1.0, 0.0, -100.0], 0.0);
        run!(Relu(&x, &out)).unwrap();
        close(&out.values(), &[0.0, 0.0, 0.0, 100.0], 0.0);
    }
    let large = array(I64, &[1], &[-(2f64.powi(53))]);
    let out = output(I64, &[1]);
    run!(Abs(&large, &out)).unwrap();
    assert_eq!(out.values(), [2f64.powi(53)]);
    let bits = array(U8, &[3], &[0.0, 1.0, 170.0]);
    let out = output(U8, &[3]);
    run!(BitwiseNot(&bits, &out)).unwrap();
    assert_eq!(out.values(), [255.0, 254.0, 85.0]);
    let (truth, out) = (array(Bool, &[2], &[0.0, 1.0]), output(Bool, &[2]));
    run!(BitwiseNot(&truth, &out)).unwrap();
    assert_eq!(out.values(), [1.0, 0.0]);
}

#[test]
fn integers_become_float_in_float_functions() {
    let (x, out) = (array(I32, &[3], &[1.0, 4.0, 9.0]), output(F16, &[3]));
    run!(Sqrt(&x, &out)).unwrap();
    assert_eq!(out.values(), [1.0, 2.0, 3.0]);
}

#[test]
fn double_keeps_its_precision() {
    let (x, out) = (array(F64, &[1], &[0.1]), output(F64, &[1]));
    run!(Exp(&x, &out)).unwrap();
    close(&out.values(), &[0.1f64.exp()], 1e-15);
}

#[test]
fn a_view_is_read_and_written_where_it_lies() {
    // Columns 1 and 3 of a 2x4 matrix go into a transposed output.
    let x = array(F32, &[8], &[0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0]);
    let view = x.view(&[2, 2], &[4, 2], 1);
    let memory = output(F32, &[6]);
    let target = memory.view(&[2, 2], &[1, 2], 1);
    run!(Neg(&view, &target)).unwrap();
    assert_eq!(memory.values(), [77.0, -1.0, -5.0, -3.0, -7.0, 77.0]);
}

#[test]
fn in_place_operators_overwrite() {
    let x = array(F32, &[2], &[-1.0, 4.0]);
    run!(InplaceRelu(&x)).unwrap();
    run!(InplaceSqrt(&x)).unwrap();
    run!(InplaceNeg(&x)).unwrap();
    assert_eq!(x.values(), [0.0, -2.0]);
    run!(InplaceExp(&x)).unwrap();
    run!(InplaceSigmoid(&x)).unwrap();
    let wanted: Vec<f64> = [1.0, (-2f64).exp()].iter().map(|x: &f64| 1.0 / (1.0 + (-x).exp())).collect();
    close(&x.values(), &wanted, 4e-7);
}

#[test]
fn tests_of_numbers() {
    let x = array(F32, &[5], &[0.0, 1.0, f64::NAN, f64::INFINITY, -0.0]);
    let out = output(Bool, &[5]);
    run!(IsFinite(&x, &out)).unwrap();
    assert_eq!(out.values(), [1.0, 1.0, 0.0, 0.0, 1.0]);
    run!(LogicalNot(&x, &out)).unwrap();
    assert_eq!(out.values(), [1.0, 0.0, 0.0, 0.0, 1.0]);
}

#[test]
fn an_empty_tensor_is_no_work() {
    let (x, out) = (array(F32, &[0, 3], &[]), output(F32, &[0, 3]));
    run!(Exp(&x, &out)).unwrap();
}
