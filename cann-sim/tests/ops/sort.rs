use crate::support::*;

#[test]
fn sorting_is_stable_and_knows_nan() {
    let nan = f64::NAN;
    let x = array(F32, &[2, 4], &[3.0, 1.0, 3.0, 2.0, nan, 0.0, -1.0, 0.0]);
    let (values, places) = (output(F32, &[2, 4]), output(I64, &[2, 4]));
    run!(Sort(&x, true, 1i64, false, &values, &places)).unwrap();
    close(&values.values(), &[1.0, 2.0, 3.0, 3.0, -1.0, 0.0, 0.0, nan], 0.0);
    assert_eq!(places.values(), [1.0, 3.0, 0.0, 2.0, 2.0, 1.0, 3.0, 0.0]);
    run!(Argsort(&x, 1i64, true, &places)).unwrap();
    assert_eq!(places.values(), [0.0, 2.0, 3.0, 1.0, 0.0, 1.0, 3.0, 2.0]);
    run!(Sort(&x, false, 0i64, false, &values, &places)).unwrap();
    close(&values.values(), &[3.0, 0.0, -1.0, 0.0, nan, 1.0, 3.0, 2.0], 0.0);
}

#[test]
fn the_top_of_each_column() {
    let x = array(I32, &[4, 2], &[1.0, 8.0, 5.0, 2.0, 5.0, 9.0, 3.0, 1.0]);
    let (values, places) = (output(I32, &[2, 2]), output(I64, &[2, 2]));
    run!(Topk(&x, 2i64, 0i64, true, true, &values, &places)).unwrap();
    assert_eq!((values.values(), places.values()), (vec![5.0, 9.0, 5.0, 8.0], vec![1.0, 2.0, 2.0, 0.0]));
    run!(Topk(&x, 2i64, 0i64, false, true, &values, &places)).unwrap();
    assert_eq!(values.values(), [1.0, 1.0, 3.0, 2.0]);
    refused(run!(Topk(&x, 5i64, 0i64, true, true, &values, &places)), 161002, &["k is 5"]);
    let (values, places) = (output(I32, &[1, 2]), output(I64, &[1, 2]));
    run!(Kthvalue(&array(I32, &[3, 2], &[3.0, 1.0, 1.0, 2.0, 2.0, 3.0]), 2i64, 0i64, true, &values, &places)).unwrap();
    assert_eq!((values.values(), places.values()), (vec![2.0, 2.0], vec![2.0, 1.0]));
}

#[test]
fn the_top_of_a_vocabulary_matches_a_full_sort() {
    let inputs = noise(3, 5003);
    let x = array(F16, &[1, 5003], &inputs);
    let (values, places) = (output(F16, &[1, 40]), output(I64, &[1, 40]));
    run!(Topk(&x, 40i64, -1i64, true, true, &values, &places)).unwrap();
    let mut wanted: Vec<(f64, usize)> = x.values().into_iter().zip(0..).collect();
    wanted.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
    assert_eq!(values.values(), wanted[..40].iter().map(|pair| pair.0).collect::<Vec<_>>());
    assert_eq!(places.values(), wanted[..40].iter().map(|pair| pair.1 as f64).collect::<Vec<_>>());
}

#[test]
fn distinct_values() {
    let x = array(I64, &[5], &[3.0, 1.0, 3.0, 1.0, 1.0]);
    let (values, inverse, counts) = (output(I64, &[5]), output(I64, &[5]), output(I64, &[5]));
    run!(Unique2(&x, true, true, true, &values, &inverse, &counts)).unwrap();
    assert_eq!(values.told_shape(), [2]);
    assert_eq!((&values.values()[..2], &counts.values()[..2]), (&[1.0, 3.0][..], &[3.0, 2.0][..]));
    assert_eq!(inverse.values(), [1.0, 0.0, 1.0, 0.0, 0.0]);
    let (values, inverse, counts) = (output(I64, &[5]), output(I64, &[5]), output(I64, &[5]));
    run!(UniqueConsecutive(&x, true, true, 1000i64, &values, &inverse, &counts)).unwrap();
    assert_eq!((&values.values()[..4], &counts.values()[..4]), (&[3.0, 1.0, 3.0, 1.0][..], &[1.0, 1.0, 1.0, 2.0][..]));
    assert_eq!(inverse.values(), [0.0, 1.0, 2.0, 3.0, 3.0]);
}

#[test]
fn places_in_a_sorted_list() {
    let x = array(F32, &[4], &[1.0, 2.0, 2.0, 5.0]);
    let out = output(I64, &[1]);
    for (right, wanted) in [(false, 1.0), (true, 3.0)] {
        run!(SearchSorteds(&x, &number(F32, 2.0), false, right, Nothing, &out)).unwrap();
        assert_eq!(out.values(), [wanted]);
    }
}
