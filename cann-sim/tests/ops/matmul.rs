use crate::support::*;

/// `a · b` by the definition.
fn product(a: &[f64], b: &[f64], (m, k, n): (usize, usize, usize)) -> Vec<f64> {
    (0..m * n).map(|i| (0..k).map(|x| a[i / n * k + x] * b[x * n + i % n]).sum()).collect()
}

/// One rounding to the type; for f32 up to 300 additions, each of which rounds a sum of size up to 40: some √300·40·2⁻²⁵.
fn tolerance(dtype: DType) -> f64 {
    match dtype {
        F16 => 6e-4,
        BF16 => 4.5e-3,
        _ => 3e-5,
    }
}

#[test]
fn mm_of_every_type_and_path() {
    for dtype in [F32, F16, BF16] {
        for (m, k, n) in [(1, 300, 257), (3, 17, 5), (9, 64, 300), (40, 33, 1), (1, 1, 1)] {
            let (a, b) = (array(dtype, &[m, k], &noise(1, m * k)), array(dtype, &[k, n], &noise(2, k * n)));
            let out = output(dtype, &[m, n]);
            run!(Mm(&a, &b, &out, 0i8)).unwrap();
            close(&out.values(), &product(&a.values(), &b.values(), (m, k, n)), tolerance(dtype));
        }
    }
}

#[test]
fn matmul_reads_views_in_place() {
    for dtype in [F32, F16, BF16] {
        for m in [1, 4, 20] {
            // A weight of 7 × 33 elements within rows of 40, transposed: the usual x·Wᵀ.
            let weight = array(dtype, &[7, 40], &noise(3, 280));
            let transposed = weight.view(&[33, 7], &[1, 40], 5);
            let wide = array(dtype, &[m, 66], &noise(4, m * 66));
            let strided = wide.view(&[m, 33], &[66, 2], 1);
            let out = output(dtype, &[m, 7]);
            run!(Matmul(&strided, &transposed, &out, 1i8)).unwrap();
            // HFLOAT32 keeps 11 bits of fraction: 33 products below 4, each off by at most twice 2^-12 of that.
            let tolerance = if dtype == F32 { 33.0 * 8.0 / 4096.0 } else { tolerance(dtype) };
            close(&out.values(), &product(&strided.values(), &transposed.values(), (m, 33, 7)), tolerance);
        }
    }
}

#[test]
fn matmul_takes_one_to_six_dimensions() {
    // Shapes, and for each matrix of the result which matrix of either side it comes from.
    type Case<'a> = (&'a [usize], &'a [usize], &'a [usize], &'a [(usize, usize)]);
    let cases: [Case; 6] = [
        (&[5], &[5], &[], &[(0, 0)]),
        (&[5], &[5, 3], &[3], &[(0, 0)]),
        (&[2, 5], &[5], &[2], &[(0, 0)]),
        (&[3, 2, 5], &[5, 3], &[3, 2, 3], &[(0, 0), (1, 0), (2, 0)]),
        (&[2, 1, 2, 5], &[3, 5, 2], &[2, 3, 2, 2], &[(0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (1, 2)]),
        (&[1, 2, 1, 1, 2, 5], &[2, 1, 5, 2], &[1, 2, 2, 1, 2, 2], &[(0, 0), (0, 1), (1, 0), (1, 1)]),
    ];
    for (left, right, result, pairs) in cases {
        let count = |shape: &[usize]| shape.iter().product::<usize>();
        let (a, b) = (array(F32, left, &noise(5, count(left))), array(F32, right, &noise(6, count(right))));
        let out = output(F32, result);
        run!(Matmul(&a, &b, &out, 0i8)).unwrap();
        let m = if left.len() == 1 { 1 } else { left[left.len() - 2] };
        let n = if right.len() == 1 { 1 } else { right[right.len() - 1] };
        let (x, y) = (a.values(), b.values());
        let one = |&(l, r): &(usize, usize)| product(&x[l * m * 5..][..m * 5], &y[r * 5 * n..][..5 * n], (m, 5, n));
        close(&out.values(), &pairs.iter().flat_map(one).collect::<Vec<_>>(), 1e-5);
    }
    let (a, b) = (array(F32, &[2, 5], &noise(1, 10)), array(F32, &[4, 2], &noise(1, 8)));
    refused(run!(Matmul(&a, &b, &output(F32, &[2, 2]), 0i8)), 161002, &["reduced dimension", "[2, 5]"]);
    let b = array(F32, &[5, 2], &noise(1, 10));
    refused(run!(Matmul(&a, &b, &output(F32, &[2, 3]), 0i8)), 161002, &["out", "[2, 3]", "[2, 2]"]);
}

#[test]
fn precisions_and_types_that_do_not_go_together() {
    let make = |dtype| (array(dtype, &[2, 2], &[1.0; 4]), array(dtype, &[2, 2], &[1.0; 4]), output(dtype, &[2, 2]));
    let (a, b, out) = make(BF16);
    refused(run!(Mm(&a, &b, &out, 2i8)), 161002, &["cubeMathType 2", "BFLOAT16"]);
    refused(run!(Mm(&a, &b, &out, 5i8)), 161002, &["cubeMathType 5"]);
    let (c, _, wide) = make(F32);
    refused(run!(Mm(&a, &c, &wide, 0i8)), 161002, &["BFLOAT16", "mat2 FLOAT"]);
    refused(run!(Mm(&c, &c, &out, 0i8)), 161002, &["out is BFLOAT16", "FLOAT"]);
    refused(run!(Mm(&array(I32, &[2, 2], &[1.0; 4]), &c, &wide, 0i8)), 161002, &["INT32"]);
    // 1 + 2^-12 is no HFLOAT32, and 1 + 2^-11 no FLOAT16.
    let fine = array(F32, &[1, 2], &[1.0 + (-12f64).exp2(), 1.0 + (-11f64).exp2()]);
    let ones = array(F32, &[2, 2], &[1.0, 0.0, 0.0, 1.0]);
    for (kind, wanted) in [(0, fine.values()), (3, vec![1.0, 1.0 + (-11f64).exp2()]), (2, vec![1.0, 1.0])] {
        let out = output(F32, &[1, 2]);
        run!(Mm(&fine, &ones, &out, kind as i8)).unwrap();
        assert_eq!(out.values(), wanted, "cubeMathType {kind}");
    }
}

#[test]
fn stacks_of_matrices() {
    for dtype in [F32, F16, BF16] {
        let (a, b) = (array(dtype, &[3, 2, 5], &noise(1, 30)), array(dtype, &[1, 5, 4], &noise(2, 20)));
        let out = output(dtype, &[3, 2, 4]);
        run!(BatchMatMul(&a, &b, &out, 0i8)).unwrap();
        close(&out.values(), &product(&a.values(), &b.values(), (6, 5, 4)), tolerance(dtype));
        let bias = array(dtype, &[2, 1], &noise(3, 2));
        run!(Baddbmm(&bias, &a, &b, &number(F32, 2.0), &number(F32, 0.5), &out, 0i8)).unwrap();
        let extra = bias.values();
        let wanted: Vec<f64> = product(&a.values(), &b.values(), (6, 5, 4))
            .iter()
            .enumerate()
            .map(|(i, v)| v * 0.5 + 2.0 * extra[i / 4 % 2])
            .collect();
        close(&out.values(), &wanted, tolerance(dtype));
    }
    let a = array(F32, &[3, 2, 5], &noise(1, 30));
    refused(
        run!(BatchMatMul(&a, &array(F32, &[2, 5, 4], &noise(1, 40)), &output(F32, &[3, 2, 4]), 0i8)),
        161002,
        &["broadcast"],
    );
    refused(
        run!(BatchMatMul(&a, &array(F32, &[5, 4], &noise(1, 20)), &output(F32, &[3, 2, 4]), 0i8)),
        161002,
        &["mat2", "dimensions"],
    );
}

#[test]
fn sums_with_a_bias() {
    let (a, b) = (array(F32, &[2, 3], &noise(1, 6)), array(F32, &[3, 4], &noise(2, 12)));
    let (c, out) = (array(F32, &[4], &noise(3, 4)), output(F32, &[2, 4]));
    run!(Addmm(&c, &a, &b, &number(F32, 2.0), &number(F32, 3.0), &out, 0i8)).unwrap();
    let (plain, extra) = (product(&a.values(), &b.values(), (2, 3, 4)), c.values());
    let wanted: Vec<f64> = (0..8).map(|i| 3.0 * plain[i] + 2.0 * extra[i % 4]).collect();
    close(&out.values(), &wanted, 1e-5);
    let inplace = array(F32, &[2, 4], &[1.0; 8]);
    run!(InplaceAddmm(&inplace, &a, &b, &number(F32, -1.0), &number(F32, 1.0), 0i8)).unwrap();
    close(&inplace.values(), &plain.iter().map(|v| v - 1.0).collect::<Vec<_>>(), 1e-5);
    refused(
        run!(Addmm(&array(F32, &[3], &[0.0; 3]), &a, &b, &number(F32, 1.0), &number(F32, 1.0), &out, 0i8)),
        161002,
        &["broadcast"],
    );
    let turned = output(F32, &[4, 2]);
    run!(Gemm(&b, &a, &array(F32, &[2], &[1.0, 2.0]), 1f32, 1f32, 1i64, 1i64, &turned, 0i8)).unwrap();
    let wanted: Vec<f64> = (0..8).map(|i| plain[i % 2 * 4 + i / 2] + (i % 2) as f64 + 1.0).collect();
    close(&turned.values(), &wanted, 1e-5);
}

#[test]
fn vectors() {
    for dtype in [F32, F16, BF16] {
        let (a, v, out) =
            (array(dtype, &[40, 300], &noise(1, 12000)), array(dtype, &[300], &noise(2, 300)), output(dtype, &[40]));
        run!(Mv(&a, &v, &out, 0i8)).unwrap();
        close(&out.values(), &product(&a.values(), &v.values(), (40, 300, 1)), tolerance(dtype));
        let scalar = output(dtype, &[]);
        run!(Dot(&v, &v, &scalar)).unwrap();
        close(&scalar.values(), &product(&v.values(), &v.values(), (1, 300, 1)), tolerance(dtype));
    }
    let (v, out) = (array(I8, &[3], &[100.0, 2.0, 3.0]), output(I8, &[]));
    run!(Dot(&v, &array(I8, &[3], &[2.0, 1.0, 1.0]), &out)).unwrap();
    assert_eq!(out.values(), [-51.0], "205 wraps");
    refused(run!(Dot(&v, &array(I8, &[2], &[1.0; 2]), &out)), 161002, &["[2]", "[3]"]);
}

#[test]
fn empty_sums_are_zero() {
    let out = output(F32, &[2, 3]);
    run!(Mm(&array(F32, &[2, 0], &[]), &array(F32, &[0, 3], &[]), &out, 0i8)).unwrap();
    assert_eq!(out.values(), [0.0; 6]);
}
