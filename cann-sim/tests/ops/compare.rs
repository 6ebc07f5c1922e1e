use crate::support::*;

#[test]
fn all_six_comparisons_of_tensors_and_scalars() {
    let values = [1.0, 2.0, 3.0];
    for dtype in [F32, F16, BF16, F64, I64, I32, I8, U8] {
        let (x, y) = (array(dtype, &[3], &values), array(dtype, &[1], &[2.0]));
        let (two, out) = (number(dtype, 2.0), output(Bool, &[3]));
        macro_rules! check {
            ($($tensor:ident $scalar:ident $wanted:expr;)*) => {$(
                run!($tensor(&x, &y, &out)).unwrap();
                assert_eq!(out.values(), $wanted, "{dtype} {}", stringify!($tensor));
                run!($scalar(&x, &two, &out)).unwrap();
                assert_eq!(out.values(), $wanted, "{dtype} {}", stringify!($scalar));
            )*};
        }
        check! {
            EqTensor EqScalar [0.0, 1.0, 0.0];
            NeTensor NeScalar [1.0, 0.0, 1.0];
            LtTensor LtScalar [1.0, 0.0, 0.0];
            LeTensor LeScalar [1.0, 1.0, 0.0];
            GtTensor GtScalar [0.0, 0.0, 1.0];
            GeTensor GeScalar [0.0, 1.0, 1.0];
        }
    }
}

#[test]
fn nan_equals_nothing() {
    let x = array(F32, &[1], &[f64::NAN]);
    let out = output(Bool, &[1]);
    run!(EqTensor(&x, &x, &out)).unwrap();
    assert_eq!(out.values(), [0.0]);
    run!(NeTensor(&x, &x, &out)).unwrap();
    assert_eq!(out.values(), [1.0]);
    run!(GeTensor(&x, &x, &out)).unwrap();
    assert_eq!(out.values(), [0.0]);
}

#[test]
fn the_result_may_be_a_number() {
    let (x, out) = (array(F32, &[2], &[1.0, 2.0]), output(F16, &[2]));
    run!(EqScalar(&x, &number(F32, 2.0), &out)).unwrap();
    assert_eq!(out.values(), [0.0, 1.0]);
}

#[test]
fn equal_compares_whole_tensors() {
    let x = array(F32, &[2, 2], &[1.0, 2.0, 3.0, 4.0]);
    let transposed = x.view(&[2, 2], &[1, 2], 0);
    let same = array(F16, &[2, 2], &[1.0, 2.0, 3.0, 4.0]);
    let out = output(Bool, &[1]);
    for (other, wanted) in [(&same, 1.0), (&transposed, 0.0), (&array(F32, &[4], &[1.0, 2.0, 3.0, 4.0]), 0.0)] {
        run!(Equal(&x, other, &out)).unwrap();
        assert_eq!(out.values(), [wanted]);
    }
}

#[test]
fn where_chooses_and_promotes() {
    let condition = array(Bool, &[2, 1], &[1.0, 0.0]);
    let (a, b) = (array(I32, &[3], &[1.0, 2.0, 3.0]), array(F16, &[1, 1], &[0.5]));
    let out = output(F16, &[2, 3]);
    run!(SWhere(&condition, &a, &b, &out)).unwrap();
    assert_eq!(out.values(), [1.0, 2.0, 3.0, 0.5, 0.5, 0.5]);
    refused(run!(SWhere(&a, &a, &b, &out)), 161002, &["condition is INT32", "UINT8, BOOL"]);
}

#[test]
fn masks_fill_and_select() {
    let memory = array(BF16, &[2, 3], &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
    let mask = array(Bool, &[3], &[1.0, 0.0, 1.0]);
    let infinity = number(F32, f64::NEG_INFINITY);
    run!(InplaceMaskedFillScalar(&memory, &mask, &infinity)).unwrap();
    let low = f64::NEG_INFINITY;
    assert_eq!(memory.values(), [low, 2.0, low, low, 5.0, low]);
    // Through a transposed view: the mask is of rows of the transpose, columns of the memory.
    let transposed = memory.view(&[3, 2], &[1, 3], 0);
    let column = array(Bool, &[3, 1], &[0.0, 1.0, 0.0]);
    run!(InplaceMaskedFillTensor(&transposed, &column, &array(BF16, &[], &[9.0]))).unwrap();
    assert_eq!(memory.values(), [low, 9.0, low, low, 9.0, low]);
    let (x, out) = (array(I64, &[2, 2], &[1.0, 2.0, 3.0, 4.0]), output(I64, &[4]));
    run!(MaskedSelect(&x, &array(Bool, &[2, 2], &[0.0, 1.0, 1.0, 0.0]), &out)).unwrap();
    assert_eq!(out.told_shape(), [2]);
    assert_eq!(out.values()[..2], [2.0, 3.0]);
}
