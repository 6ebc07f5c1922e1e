use crate::support::*;

fn counting(dtype: DType, shape: &[usize]) -> Array {
    array(dtype, shape, &(0..shape.iter().product()).map(|i: usize| i as f64).collect::<Vec<_>>())
}

#[test]
fn casts_round_and_saturate() {
    let nan = f64::NAN;
    let x = array(F32, &[6], &[-1.7, 1.7, 300.0, -300.0, nan, 1.00390625]);
    let cases: [(DType, [f64; 6]); 5] = [
        (I8, [-1.0, 1.0, 127.0, -128.0, 0.0, 1.0]),
        (U8, [0.0, 1.0, 255.0, 0.0, 0.0, 1.0]),
        (I64, [-1.0, 1.0, 300.0, -300.0, 0.0, 1.0]),
        (Bool, [1.0; 6]),
        (BF16, [-1.703125, 1.703125, 300.0, -300.0, nan, 1.0]),
    ];
    for (dtype, wanted) in cases {
        let out = output(dtype, &[6]);
        run!(Cast(&x, dtype, &out)).unwrap();
        close(&out.values(), &wanted, 0.0);
    }
    let (wide, out) = (array(I64, &[3], &[256.0, -1.0, 130.0]), output(I8, &[3]));
    run!(Cast(&wide, I8, &out)).unwrap();
    assert_eq!(out.values(), [0.0, -1.0, -126.0]);
    refused(run!(Cast(&x, I32, &out)), 161002, &["shape"]);
}

#[test]
fn every_pair_of_types_casts() {
    let types = [F32, F16, BF16, F64, I8, I16, I32, I64, U8, U16, U32, U64, Bool];
    for from in types {
        for to in types {
            let (x, out) = (array(from, &[3], &[0.0, 1.0, 1.0]), output(to, &[3]));
            run!(Cast(&x, to, &out)).unwrap();
            assert_eq!(out.values(), [0.0, 1.0, 1.0], "{from} to {to}");
        }
    }
}

#[test]
fn copies_broadcast_and_convert_between_views() {
    let memory = output(F16, &[3, 4]);
    let target = memory.view(&[2, 3], &[1, 4], 1);
    run!(InplaceCopy(&target, &array(F32, &[3], &[1.0, 2.0, 3.0]))).unwrap();
    let keep = 77.0;
    assert_eq!(memory.values(), [keep, 1.0, 1.0, keep, keep, 2.0, 2.0, keep, keep, 3.0, 3.0, keep]);
    refused(run!(InplaceCopy(&array(F32, &[3], &[0.0; 3]), &memory)), 161002, &["shape"]);
}

#[test]
fn fills() {
    for dtype in [F32, BF16, I64, Bool] {
        let x = output(dtype, &[3]);
        run!(InplaceZero(&x)).unwrap();
        assert_eq!(x.values(), [0.0; 3]);
        run!(InplaceOne(&x)).unwrap();
        assert_eq!(x.values(), [1.0; 3]);
    }
    let x = output(I32, &[2]);
    run!(InplaceFillScalar(&x, &number(I32, -7.0))).unwrap();
    assert_eq!(x.values(), [-7.0; 2]);
    run!(InplaceFillTensor(&x, &array(I32, &[1], &[5.0]))).unwrap();
    assert_eq!(x.values(), [5.0; 2]);
}

#[test]
fn sequences() {
    let out = output(I64, &[4]);
    run!(Arange(&number(I64, 3.0), &number(I64, 10.0), &number(I64, 2.0), &out)).unwrap();
    assert_eq!(out.values(), [3.0, 5.0, 7.0, 9.0]);
    refused(run!(Arange(&number(I64, 3.0), &number(I64, 12.0), &number(I64, 2.0), &out)), 161002, &["[4]", "[5]"]);
    refused(run!(Arange(&number(I64, 3.0), &number(I64, 1.0), &number(I64, 2.0), &out)), 161002, &["does not lead"]);
    run!(Range(&number(F32, 1.0), &number(F32, -2.0), &number(F32, -1.0), &out)).unwrap();
    assert_eq!(out.values(), [1.0, 0.0, -1.0, -2.0]);
    let out = output(F32, &[5]);
    run!(Linspace(&number(F32, 0.0), &number(F32, 1.0), 5i64, &out)).unwrap();
    assert_eq!(out.values(), [0.0, 0.25, 0.5, 0.75, 1.0]);
    let out = output(F16, &[2, 3]);
    run!(Eye(2i64, 3i64, &out)).unwrap();
    assert_eq!(out.values(), [1.0, 0.0, 0.0, 0.0, 1.0, 0.0]);
}

#[test]
fn permute_follows_the_order() {
    let x = counting(I16, &[2, 3, 4]);
    let out = output(I16, &[4, 2, 3]);
    run!(Permute(&x, &ints(&[2, 0, -2]), &out)).unwrap();
    let wanted: Vec<f64> = (0..24).map(|i| (i / 3 % 2 * 12 + i % 3 * 4 + i / 6) as f64).collect();
    assert_eq!(out.values(), wanted);
    refused(run!(Permute(&x, &ints(&[0, 0, 1]), &out)), 161002, &["no order"]);
}

#[test]
fn joining() {
    let (a, b) = (counting(F32, &[2, 1]), counting(F16, &[2, 2]));
    let out = output(F32, &[2, 3]);
    run!(Cat(&list(&[&a, &b]), -1i64, &out)).unwrap();
    assert_eq!(out.values(), [0.0, 0.0, 1.0, 1.0, 2.0, 3.0]);
    let (a, b) = (counting(I64, &[2]), counting(I64, &[2]));
    let out = output(I64, &[2, 2]);
    run!(Stack(&list(&[&a, &b]), 1i64, &out)).unwrap();
    assert_eq!(out.values(), [0.0, 0.0, 1.0, 1.0]);
    let (a, b) = (counting(I64, &[2, 2]), counting(I64, &[3, 1]));
    refused(run!(Cat(&list(&[&a, &b]), 0i64, &out)), 161002, &["[2, 2]", "[3, 1]"]);
}

#[test]
fn splitting() {
    let x = counting(F32, &[2, 5]);
    let (a, b, c) = (output(F32, &[2, 2]), output(F32, &[2, 2]), output(F32, &[2, 1]));
    let pieces = list(&[&a, &b, &c]);
    run!(SplitTensor(&x, 2u64, 1i64, &pieces)).unwrap();
    assert_eq!((a.values(), c.values()), (vec![0.0, 1.0, 5.0, 6.0], vec![4.0, 9.0]));
    run!(SplitWithSize(&x, &ints(&[2, 2, 1]), -1i64, &pieces)).unwrap();
    assert_eq!(b.values(), [2.0, 3.0, 7.0, 8.0]);
    refused(run!(SplitWithSize(&x, &ints(&[2, 2, 2]), -1i64, &pieces)), 161002, &["add up to 5"]);
}

#[test]
fn slicing() {
    let x = counting(F32, &[3, 6]);
    let out = output(F32, &[3, 2]);
    run!(Slice(&x, 1i64, 1i64, -1i64, 2i64, &out)).unwrap();
    assert_eq!(out.values(), [1.0, 3.0, 7.0, 9.0, 13.0, 15.0]);
    let out = output(F32, &[2, 2]);
    run!(SliceV2(&x, &ints(&[1, -2]), &ints(&[9, 9]), &ints(&[0, 1]), &ints(&[1, 1]), &out)).unwrap();
    assert_eq!(out.values(), [10.0, 11.0, 16.0, 17.0]);
    // x[None, 2, ..., 4::-2]
    let out = output(F32, &[1, 3]);
    run!(StridedSlice(
        &x,
        &ints(&[0, 2, 0, 4]),
        &ints(&[0, 0, 0, 0]),
        &ints(&[1, 1, 1, -2]),
        0i64,
        8i64,
        4i64,
        1i64,
        2i64,
        &out
    ))
    .unwrap();
    assert_eq!(out.values(), [16.0, 14.0, 12.0]);
}

#[test]
fn repeating() {
    let x = array(I32, &[2, 1], &[1.0, 2.0]);
    let out = output(I32, &[2, 2, 3]);
    run!(Expand(&x, &ints(&[2, -1, 3]), &out)).unwrap();
    assert_eq!(out.values(), [1.0, 1.0, 1.0, 2.0, 2.0, 2.0, 1.0, 1.0, 1.0, 2.0, 2.0, 2.0]);
    let out = output(I32, &[4, 2]);
    run!(Repeat(&x, &ints(&[2, 2]), &out)).unwrap();
    assert_eq!(out.values(), [1.0, 1.0, 2.0, 2.0, 1.0, 1.0, 2.0, 2.0]);
    let out = output(I32, &[6]);
    run!(RepeatInterleaveInt(&x, 3i64, 6i64, &out)).unwrap();
    assert_eq!(out.values(), [1.0, 1.0, 1.0, 2.0, 2.0, 2.0]);
}

#[test]
fn padding_adds_and_cuts() {
    let x = counting(F16, &[2, 3]);
    let out = output(F16, &[3, 4]);
    run!(ConstantPadNd(&x, &ints(&[-1, 2, 1, 0]), &number(F16, 9.0), &out)).unwrap();
    assert_eq!(out.values(), [9.0, 9.0, 9.0, 9.0, 1.0, 2.0, 9.0, 9.0, 4.0, 5.0, 9.0, 9.0]);
}

#[test]
fn turning() {
    let x = counting(I8, &[2, 3]);
    let out = output(I8, &[2, 3]);
    run!(Flip(&x, &ints(&[0, 1]), &out)).unwrap();
    assert_eq!(out.values(), [5.0, 4.0, 3.0, 2.0, 1.0, 0.0]);
    run!(Roll(&x, &ints(&[1, -1]), &ints(&[0, 1]), &out)).unwrap();
    assert_eq!(out.values(), [4.0, 5.0, 3.0, 1.0, 2.0, 0.0]);
    run!(Roll(&x, &ints(&[2]), &ints(&[]), &out)).unwrap();
    assert_eq!(out.values(), [4.0, 5.0, 0.0, 1.0, 2.0, 3.0]);
}

#[test]
fn triangles_of_a_batch() {
    let x = array(F32, &[2, 2, 3], &[1.0; 12]);
    let out = output(F32, &[2, 2, 3]);
    run!(Tril(&x, 0i64, &out)).unwrap();
    assert_eq!(out.values(), [1.0, 0.0, 0.0, 1.0, 1.0, 0.0].repeat(2));
    run!(Triu(&x, 1i64, &out)).unwrap();
    assert_eq!(out.values(), [0.0, 1.0, 1.0, 0.0, 0.0, 1.0].repeat(2));
    run!(InplaceTril(&x, -1i64)).unwrap();
    assert_eq!(x.values(), [0.0, 0.0, 0.0, 1.0, 0.0, 0.0].repeat(2));
    run!(InplaceTriu(&x, 5i64)).unwrap();
    assert_eq!(x.values(), [0.0; 12]);
}

#[test]
fn classes_become_rows() {
    let classes = array(I64, &[3], &[2.0, 0.0, 9.0]);
    let (on, off) = (array(F32, &[1], &[1.0]), array(F32, &[1], &[0.0]));
    let out = output(F32, &[3, 3]);
    run!(OneHot(&classes, 3i32, &on, &off, -1i64, &out)).unwrap();
    assert_eq!(out.values(), [0.0, 0.0, 1.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0]);
    run!(OneHot(&classes, 3i32, &on, &off, 0i64, &out)).unwrap();
    assert_eq!(out.values(), [0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0]);
}
