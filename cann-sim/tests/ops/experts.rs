use crate::support::*;

#[test]
fn groups_of_rows_take_their_own_weight() {
    for (dtype, tolerance) in [(F32, 1e-5), (F16, 6e-4), (BF16, 4.5e-3)] {
        // Three experts: two rows, none, three rows; the last row belongs to nobody.
        let (x, weight) = (array(dtype, &[6, 5], &noise(1, 30)), array(dtype, &[3, 5, 4], &noise(2, 60)));
        let out = output(dtype, &[6, 4]);
        let (v, w) = (x.values(), weight.values());
        let experts = [0, 0, 2, 2, 2];
        let mut wanted: Vec<f64> =
            (0..20).map(|i| (0..5).map(|k| v[i / 4 * 5 + k] * w[(experts[i / 4] * 5 + k) * 4 + i % 4]).sum()).collect();
        wanted.extend([0.0; 4]);
        let (inputs, weights, outputs) = (list(&[&x]), list(&[&weight]), list(&[&out]));
        let call = |groups: &[f64], kind: i64| {
            run!(GroupedMatmulV4(
                &inputs,
                &weights,
                Nothing,
                Nothing,
                Nothing,
                Nothing,
                Nothing,
                Nothing,
                &array(I64, &[3], groups),
                Nothing,
                Nothing,
                Nothing,
                2i64,
                0i64,
                kind,
                0i64,
                &outputs,
                Nothing,
                Nothing
            ))
        };
        call(&[2.0, 2.0, 5.0], 0).unwrap();
        close(&out.values(), &wanted, tolerance);
        call(&[2.0, 0.0, 3.0], 1).unwrap();
        close(&out.values(), &wanted, tolerance);
        refused(call(&[2.0, 0.0, 5.0], 1), 507015, &["7", "6 rows"]);
        refused(call(&[2.0, 1.0, 5.0], 0), 507015, &["1 after 2"]);
        refused(call(&[2.0, 0.0, 5.0], 2), 161002, &["groupListType is 2"]);
    }
}

#[test]
fn experts_are_chosen_by_biased_and_weighed_by_unbiased_scores() {
    let x = array(F32, &[1, 6], &[0.0, 1.0, -1.0, 3.0, 2.0, -2.0]);
    let bias = array(F32, &[6], &[0.0, 0.0, 5.0, 0.0, 0.0, 0.0]);
    let (y, experts, scores) = (output(F32, &[1, 2]), output(I32, &[1, 2]), output(F32, &[1, 6]));
    let sigmoid = |v: f64| 1.0 / (1.0 + (-v).exp());
    let call = |groups: (i64, i64), mode: i64, norm: i64| {
        run!(MoeGatingTopK(
            &x, &bias, 2i64, groups.0, groups.1, mode, 0i64, norm, true, 2.5, 1e-20, &y, &experts, &scores
        ))
    };
    call((1, 1), 0, 1).unwrap();
    assert_eq!(experts.values(), [2.0, 3.0]);
    let (a, b) = (sigmoid(-1.0), sigmoid(3.0));
    close(&y.values(), &[2.5 * a / (a + b), 2.5 * b / (a + b)], 1e-6);
    close(&scores.values(), &x.values().iter().map(|v| sigmoid(*v)).collect::<Vec<_>>(), 1e-6);
    // Of two groups of three the first is best, by its biased expert.
    call((1, 2), 1, 1).unwrap();
    assert_eq!(experts.values(), [2.0, 1.0]);
    call((1, 1), 0, 0).unwrap();
    let sum: f64 = x.values().iter().map(|v| v.exp()).sum();
    close(&y.values(), &[2.5 * (-1f64).exp() / sum, 2.5 * 3f64.exp() / sum], 1e-6);
    refused(call((1, 4), 0, 1), 561002, &["6 experts in 4 groups"]);
    refused(call((3, 2), 0, 1), 561002, &["kGroup 3"]);
}

#[test]
fn rows_are_quantised_by_their_largest_element() {
    let x = array(F16, &[3, 4], &[1.0, -2.0, 0.5, 0.25, 0.0, 0.0, 0.0, 0.0, 127.0, 2.5, 3.5, -0.5]);
    let (y, scale) = (output(I8, &[3, 4]), output(F32, &[3]));
    run!(DynamicQuant(&x, Nothing, &y, &scale)).unwrap();
    assert_eq!(y.values(), [64.0, -127.0, 32.0, 16.0, 0.0, 0.0, 0.0, 0.0, 127.0, 2.0, 4.0, 0.0], "halves go to even");
    close(&scale.values(), &[2.0 / 127.0, 0.0, 1.0], 1e-7);
    run!(DynamicQuant(&x, &array(F16, &[4], &[4.0, 1.0, 1.0, 1.0]), &y, &scale)).unwrap();
    close(&scale.values(), &[4.0 / 127.0, 0.0, 4.0], 1e-7);
    refused(run!(DynamicQuant(&array(F32, &[1, 1], &[1.0]), Nothing, &y, &scale)), 161002, &["x is FLOAT"]);
}
