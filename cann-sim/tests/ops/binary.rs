use crate::support::*;

const FLOATS: [(DType, f64); 4] = [(F32, 2e-7), (F16, 5e-4), (BF16, 4e-3), (F64, 1e-15)];

#[test]
fn add_broadcasts_and_scales() {
    for (dtype, tolerance) in FLOATS {
        let x = array(dtype, &[3, 1, 5], &noise(1, 15));
        let y = array(dtype, &[2, 1], &noise(2, 2));
        let out = output(dtype, &[3, 2, 5]);
        run!(Add(&x, &y, &number(F32, 0.5), &out)).unwrap();
        let (a, b) = (x.values(), y.values());
        let wanted: Vec<f64> = (0..30).map(|i| a[i / 10 * 5 + i % 5] + 0.5 * b[i / 5 % 2]).collect();
        close(&out.values(), &wanted, tolerance);
    }
}

#[test]
fn a_narrow_result_is_rounded_once() {
    // 1 + 2^-9 lies between two BF16 numbers: the product rounded first would lose it.
    let (x, y) = (array(BF16, &[1], &[1.0]), array(BF16, &[1], &[1.0]));
    let out = output(F32, &[1]);
    run!(Sub(&x, &y, &number(F32, 1.0 - 0.001953125), &out)).unwrap();
    assert_eq!(out.values(), [0.001953125]);
}

#[test]
fn types_promote_as_the_table_says() {
    let cases = [
        (F16, BF16, F32),
        (F16, F32, F32),
        (I8, U8, I16),
        (I32, F16, F16),
        (Bool, I8, I8),
        (I64, I32, I64),
        (F64, F32, F64),
    ];
    for (a, b, promoted) in cases {
        let (x, y) = (array(a, &[2], &[1.0, 1.0]), array(b, &[2], &[1.0, 0.0]));
        let out = output(promoted, &[2]);
        run!(Add(&x, &y, &number(promoted, 1.0), &out)).unwrap();
        assert_eq!(out.values(), [2.0, 1.0], "{a} + {b}");
        // Into BOOL goes only BOOL.
        refused(run!(Add(&x, &y, &number(promoted, 1.0), &output(Bool, &[2]))), 161002, &["BOOL", "out"]);
    }
    let (x, y) = (array(I32, &[1], &[2049.0]), array(F16, &[1], &[0.0]));
    let out = output(F32, &[1]);
    run!(Add(&x, &y, &number(F32, 1.0), &out)).unwrap();
    assert_eq!(out.values(), [2048.0], "the sum is FLOAT16 before it is FLOAT");
}

#[test]
fn integers_wrap() {
    let (x, y) = (array(I8, &[2], &[127.0, 100.0]), array(I8, &[2], &[1.0, 3.0]));
    let out = output(I8, &[2]);
    run!(Add(&x, &y, &number(I32, 1.0), &out)).unwrap();
    assert_eq!(out.values(), [-128.0, 103.0]);
    run!(Mul(&x, &y, &out)).unwrap();
    assert_eq!(out.values(), [127.0, 44.0]);
}

#[test]
fn scalars_on_the_right_and_left() {
    let x = array(F32, &[3], &[1.0, -2.0, 4.0]);
    let out = output(F32, &[3]);
    run!(Adds(&x, &number(F32, 3.0), &number(F32, 2.0), &out)).unwrap();
    assert_eq!(out.values(), [7.0, 4.0, 10.0]);
    run!(Subs(&x, &number(I64, 3.0), &number(I64, 2.0), &out)).unwrap();
    assert_eq!(out.values(), [-5.0, -8.0, -2.0]);
    run!(Rsubs(&x, &number(F32, 3.0), &number(F32, 2.0), &out)).unwrap();
    assert_eq!(out.values(), [1.0, 7.0, -5.0]);
    run!(Muls(&x, &number(F32, 0.5), &out)).unwrap();
    assert_eq!(out.values(), [0.5, -1.0, 2.0]);
    run!(Divs(&x, &number(F32, 4.0), &out)).unwrap();
    assert_eq!(out.values(), [0.25, -0.5, 1.0]);
}

#[test]
fn in_place_arithmetic() {
    let (x, y) = (array(F32, &[2, 2], &[1.0, 2.0, 3.0, 4.0]), array(F32, &[2], &[10.0, 20.0]));
    let one = number(F32, 1.0);
    run!(InplaceAdd(&x, &y, &one)).unwrap();
    run!(InplaceSubs(&x, &number(F32, 1.0), &one)).unwrap();
    assert_eq!(x.values(), [10.0, 21.0, 12.0, 23.0]);
    run!(InplaceSub(&x, &y, &one)).unwrap();
    run!(InplaceAdds(&x, &number(F32, 1.0), &one)).unwrap();
    run!(InplaceMul(&x, &y)).unwrap();
    run!(InplaceDivs(&x, &number(F32, 2.0))).unwrap();
    run!(InplaceDiv(&x, &y)).unwrap();
    run!(InplaceMuls(&x, &number(F32, 2.0))).unwrap();
    assert_eq!(x.values(), [1.0, 2.0, 3.0, 4.0]);
    run!(InplaceAddcmul(&x, &y, &y, &number(F32, 0.5))).unwrap();
    assert_eq!(x.values(), [51.0, 202.0, 53.0, 204.0]);
    run!(InplaceAddcdiv(&x, &y, &y, &one)).unwrap();
    assert_eq!(x.values(), [52.0, 203.0, 54.0, 205.0]);
    refused(run!(InplaceAdd(&y, &x, &one)), 161002, &["shape"]);
}

#[test]
fn division_of_integers_is_true_division() {
    let (x, y) = (array(I32, &[3], &[7.0, -7.0, 1.0]), array(I32, &[3], &[2.0, 2.0, 0.0]));
    let out = output(F32, &[3]);
    run!(Div(&x, &y, &out)).unwrap();
    assert_eq!(out.values(), [3.5, -3.5, f64::INFINITY]);
    let whole = output(I32, &[3]);
    let (x, y) = (array(I32, &[3], &[7.0, -7.0, 9.0]), array(I32, &[3], &[2.0, 2.0, -4.0]));
    run!(DivMod(&x, &y, 1i32, &whole)).unwrap();
    assert_eq!(whole.values(), [3.0, -3.0, -2.0]);
    run!(DivMod(&x, &y, 2i32, &whole)).unwrap();
    assert_eq!(whole.values(), [3.0, -4.0, -3.0]);
    refused(run!(DivMod(&x, &y, 3i32, &whole)), 161002, &["mode is 3"]);
}

#[test]
fn remainders_take_a_side() {
    let values = ([7.0, -7.0, 7.0, -7.0], [3.0, 3.0, -3.0, -3.0]);
    for dtype in [F32, I32, F16, I64] {
        let (x, y) = (array(dtype, &[4], &values.0), array(dtype, &[4], &values.1));
        let out = output(dtype, &[4]);
        run!(FmodTensor(&x, &y, &out)).unwrap();
        assert_eq!(out.values(), [1.0, -1.0, 1.0, -1.0]);
        run!(RemainderTensorTensor(&x, &y, &out)).unwrap();
        assert_eq!(out.values(), [1.0, 2.0, -2.0, -1.0]);
        run!(FmodScalar(&x, &number(dtype, 3.0), &out)).unwrap();
        assert_eq!(out.values(), [1.0, -1.0, 1.0, -1.0]);
        run!(RemainderTensorScalar(&x, &number(dtype, 3.0), &out)).unwrap();
        assert_eq!(out.values(), [1.0, 2.0, 1.0, 2.0]);
    }
}

#[test]
fn extremes_pass_nan_on() {
    let nan = f64::NAN;
    let (x, y) = (array(F32, &[4], &[1.0, nan, 3.0, f64::INFINITY]), array(F32, &[4], &[2.0, 1.0, nan, 1.0]));
    let out = output(F32, &[4]);
    run!(Maximum(&x, &y, &out)).unwrap();
    close(&out.values(), &[2.0, nan, nan, f64::INFINITY], 0.0);
    run!(Minimum(&x, &y, &out)).unwrap();
    close(&out.values(), &[1.0, nan, nan, 1.0], 0.0);
}

#[test]
fn powers() {
    let x = array(I32, &[4], &[2.0, -3.0, 0.0, 5.0]);
    let out = output(I32, &[4]);
    run!(PowTensorScalar(&x, &number(I32, 3.0), &out)).unwrap();
    assert_eq!(out.values(), [8.0, -27.0, 0.0, 125.0]);
    refused(run!(PowTensorScalar(&x, &number(I32, -1.0), &out)), 161002, &["exponent is -1"]);
    let (x, e) = (array(F32, &[3], &[2.0, 9.0, 0.5]), array(F32, &[3], &[10.0, 0.5, -1.0]));
    let out = output(F32, &[3]);
    run!(PowTensorTensor(&x, &e, &out)).unwrap();
    close(&out.values(), &[1024.0, 3.0, 2.0], 2e-7);
    run!(PowScalarTensor(&number(F32, 2.0), &e, &out)).unwrap();
    close(&out.values(), &[1024.0, 2f64.sqrt(), 0.5], 2e-7);
}

#[test]
fn limits() {
    let x = array(F32, &[4], &[-3.0, 0.5, 3.0, f64::NAN]);
    let out = output(F32, &[4]);
    run!(Clamp(&x, &number(F32, -1.0), &number(F32, 1.0), &out)).unwrap();
    close(&out.values(), &[-1.0, 0.5, 1.0, f64::NAN], 0.0);
    run!(ClampMin(&x, &number(F32, 0.0), &out)).unwrap();
    close(&out.values(), &[0.0, 0.5, 3.0, f64::NAN], 0.0);
    run!(ClampMax(&x, &number(F32, 0.0), &out)).unwrap();
    close(&out.values(), &[-3.0, 0.0, 0.0, f64::NAN], 0.0);
    let (x, out) = (array(I64, &[3], &[-3.0, 0.0, 9.0]), output(I64, &[3]));
    run!(Clamp(&x, &number(I64, -1.0), &number(I64, 4.0), &out)).unwrap();
    assert_eq!(out.values(), [-1.0, 0.0, 4.0]);
}

#[test]
fn three_operands() {
    let (a, b, c) = (array(F32, &[2], &[1.0, 2.0]), array(F32, &[2, 1], &[3.0, 4.0]), array(F32, &[1], &[2.0]));
    let out = output(F32, &[2, 2]);
    run!(Addcmul(&a, &b, &c, &number(F32, 0.5), &out)).unwrap();
    assert_eq!(out.values(), [4.0, 5.0, 5.0, 6.0]);
    run!(Addcdiv(&a, &b, &c, &number(F32, 2.0), &out)).unwrap();
    assert_eq!(out.values(), [4.0, 5.0, 5.0, 6.0]);
    run!(Lerp(&a, &b, &c, &out)).unwrap();
    assert_eq!(out.values(), [5.0, 4.0, 7.0, 6.0]);
    let (y, x, out) = (array(I32, &[2], &[1.0, -1.0]), array(I32, &[2], &[0.0, -1.0]), output(F32, &[2]));
    run!(Atan2(&y, &x, &out)).unwrap();
    close(&out.values(), &[std::f64::consts::FRAC_PI_2, -0.75 * std::f64::consts::PI], 2e-7);
}

#[test]
fn bits_and_truths() {
    let (x, y) = (array(I32, &[3], &[12.0, -1.0, 5.0]), array(I32, &[3], &[10.0, 3.0, 0.0]));
    let out = output(I32, &[3]);
    run!(BitwiseAndTensor(&x, &y, &out)).unwrap();
    assert_eq!(out.values(), [8.0, 3.0, 0.0]);
    run!(BitwiseOrTensor(&x, &y, &out)).unwrap();
    assert_eq!(out.values(), [14.0, -1.0, 5.0]);
    run!(BitwiseXorTensor(&x, &y, &out)).unwrap();
    assert_eq!(out.values(), [6.0, -4.0, 5.0]);
    run!(LeftShift(&x, &array(I32, &[], &[2.0]), &out)).unwrap();
    assert_eq!(out.values(), [48.0, -4.0, 20.0]);
    run!(RightShift(&x, &array(I32, &[], &[1.0]), &out)).unwrap();
    assert_eq!(out.values(), [6.0, -1.0, 2.0]);
    let (a, b) = (array(F32, &[4], &[0.0, 0.0, 0.5, 2.0]), array(I8, &[4], &[0.0, 1.0, 0.0, -1.0]));
    let out = output(Bool, &[4]);
    run!(LogicalAnd(&a, &b, &out)).unwrap();
    assert_eq!(out.values(), [0.0, 0.0, 0.0, 1.0]);
    run!(LogicalOr(&a, &b, &out)).unwrap();
    assert_eq!(out.values(), [0.0, 1.0, 1.0, 1.0]);
    run!(LogicalXor(&a, &b, &out)).unwrap();
    assert_eq!(out.values(), [0.0, 1.0, 1.0, 0.0]);
}
