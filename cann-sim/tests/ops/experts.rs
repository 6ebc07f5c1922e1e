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
        // Rows of no group keep what they hold.
        wanted.extend([77.0; 4]);
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

/// Tokens of two columns and their experts.
fn tokens(experts: &[f64]) -> (Array, Array) {
    let rows = experts.len() / 2;
    (array(F32, &[rows, 2], &noise(7, 2 * rows)), array(I32, &[rows, 2], experts))
}

#[test]
fn experts_that_are_not_there_fail_the_stream_and_say_where() {
    let (x, experts) = tokens(&[0.0, 1.0, 3.0, 2.0]);
    let (rows, places, counts) = (output(F32, &[4, 2]), output(I32, &[4]), output(I32, &[3]));
    let second = |experts: &Array, flag: i64| {
        run!(MoeInitRoutingV2(&x, experts, 0i64, 0i64, 3i64, 0i64, flag, false, &rows, &places, &counts, Nothing))
    };
    refused(second(&experts, 1), 507015, &["expert_idx is 3 at row 1, choice 0", "wanted 0 to 2"]);
    // Without counts the page has no upper bound.
    second(&experts, 0).unwrap();
    assert_eq!(places.values(), [0.0, 1.0, 3.0, 2.0]);
    refused(second(&array(I32, &[2, 2], &[0.0, -1.0, 1.0, 2.0]), 0), 507015, &["is -1 at row 0, choice 1"]);
    let wide = output(I64, &[3]);
    let third = |experts: &Array| {
        run!(MoeInitRoutingV3(
            &x, experts, Nothing, Nothing, 4i64, 0i64, 3i64, 0i64, 1i64, true, -1i64, Nothing, 0i64, &rows, &places,
            &wide, Nothing
        ))
    };
    refused(third(&experts), 507015, &["is 3 at row 1, choice 0", "wanted -1 to 2"]);
    third(&array(I32, &[2, 2], &[2.0, -1.0, 0.0, 2.0])).unwrap();
    assert_eq!((wide.values(), places.values()), (vec![1.0, 0.0, 2.0], vec![1.0, -1.0, 0.0, 2.0]));
    // Of experts 1 and 2 alone: what lies past their rows keeps what it holds.
    let (some, few) = (output(F32, &[4, 2]), output(I64, &[2]));
    let (experts, range) = (array(I32, &[2, 2], &[2.0, 0.0, 1.0, 2.0]), ints(&[1, 3]));
    run!(MoeInitRoutingV3(
        &x, &experts, Nothing, Nothing, 4i64, 0i64, 3i64, 0i64, 1i64, true, -1i64, &range, 1i64, &some, &places, &few,
        Nothing
    ))
    .unwrap();
    let v = x.values();
    assert_eq!(few.values(), [1.0, 2.0]);
    assert_eq!(some.values(), [v[2], v[3], v[0], v[1], v[2], v[3], 77.0, 77.0]);
    assert_eq!(places.values()[..3], [2.0, 0.0, 3.0]);
    let sorted = array(I32, &[3], &[0.0, 2.0, 1.0]);
    refused(run!(MoeComputeExpertTokens(&sorted, 3i64, &counts)), 507015, &["falls from 2 to 1 at 2"]);
}

#[test]
fn logits_that_are_no_numbers_fail_the_stream_and_say_where() {
    let mut values = noise(8, 12);
    values[7] = f64::NAN;
    let (y, experts, places) = (output(F32, &[3, 2]), output(I32, &[3, 2]), output(I32, &[3, 2]));
    for dtype in [F32, BF16] {
        let x = array(dtype, &[3, 4], &values);
        let y = output(dtype, &[3, 2]);
        let told = ["x is not a number in row 1 at expert 3"];
        refused(run!(MoeGatingTopKSoftmaxV2(&x, Nothing, 2i64, 1i64, false, &y, &experts, Nothing)), 507015, &told);
        refused(run!(MoeGatingTopKSoftmax(&x, Nothing, 2i64, &y, &experts, &places)), 507015, &told);
        let gating = run!(MoeGatingTopK(
            &x, Nothing, 2i64, 1i64, 1i64, 0i64, 0i64, 1i64, false, 1.0, 0.0, &y, &experts, Nothing
        ));
        refused(gating, 507015, &told);
    }
    let x = array(F32, &[3, 4], &noise(8, 12));
    let call = |k: i64, renorm: i64| run!(MoeGatingTopKSoftmaxV2(&x, Nothing, k, renorm, false, &y, &experts, Nothing));
    refused(call(5, 0), 561002, &["k 5"]);
    refused(call(2, 2), 561002, &["renorm is 2"]);
    call(2, 1).unwrap();
    y.values().chunks(2).for_each(|pair| close(&[pair[0] + pair[1]], &[1.0], 1e-6));
}

#[test]
fn places_that_are_not_there_fail_the_stream() {
    let (rows, out) = (array(F32, &[4, 2], &noise(9, 8)), output(F32, &[2, 2]));
    let weights = array(F32, &[2, 2], &[0.5; 4]);
    let finalize = |places: &[f64], mode: i64| {
        let places = array(I32, &[4], places);
        run!(MoeFinalizeRoutingV2(&rows, &places, Nothing, Nothing, Nothing, &weights, Nothing, mode, &out))
    };
    refused(finalize(&[0.0, 1.0, 2.0, 4.0], 2), 507015, &["is 4 at element 3", "wanted 0 to 3"]);
    refused(finalize(&[0.0, -1.0, 2.0, 3.0], 0), 507015, &["is -1 at element 1"]);
    refused(finalize(&[0.0, 1.0, 2.0, 3.0], 4), 561103, &["dropPadMode is 4"]);
    refused(finalize(&[0.0, 1.0, 2.0, 3.0], 1), 561103, &["a row for each choice"]);
    let unpermute =
        |places: &[f64]| run!(MoeTokenUnpermute(&rows, &array(I32, &[4], places), &weights, false, Nothing, &out));
    refused(unpermute(&[0.0, 1.0, 1.0, 3.0]), 507015, &["names row 1 twice"]);
    unpermute(&[3.0, 1.0, 0.0, 2.0]).unwrap();
    let v = rows.values();
    close(&out.values(), &[(v[6] + v[2]) / 2.0, (v[7] + v[3]) / 2.0, (v[0] + v[4]) / 2.0, (v[1] + v[5]) / 2.0], 1e-6);
}
