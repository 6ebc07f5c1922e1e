use crate::support::*;

fn counting(dtype: DType, shape: &[usize]) -> Array {
    array(dtype, shape, &(0..shape.iter().product()).map(|i: usize| i as f64).collect::<Vec<_>>())
}

#[test]
fn rows_are_selected_along_any_dimension() {
    let x = counting(BF16, &[2, 3, 2]);
    let index = array(I32, &[2], &[2.0, 0.0]);
    let out = output(BF16, &[2, 2, 2]);
    run!(IndexSelect(&x, 1i64, &index, &out)).unwrap();
    assert_eq!(out.values(), [4.0, 5.0, 0.0, 1.0, 10.0, 11.0, 6.0, 7.0]);
    // The same through a transposed view of the source.
    let (view, out) = (x.view(&[3, 2], &[2, 1], 6), output(BF16, &[3, 1]));
    run!(IndexSelect(&view, -1i64, &array(I64, &[1], &[1.0]), &out)).unwrap();
    assert_eq!(out.values(), [7.0, 9.0, 11.0]);
    let out = output(BF16, &[2, 1, 2, 2]);
    run!(GatherV2(&x, 1i64, &array(I64, &[1, 2], &[1.0, 1.0]), &out)).unwrap();
    assert_eq!(out.values(), [2.0, 3.0, 2.0, 3.0, 8.0, 9.0, 8.0, 9.0]);
}

#[test]
fn an_embedding_outside_its_table_fails_the_task() {
    let table = counting(F32, &[4, 3]);
    let out = output(F32, &[1, 2, 3]);
    run!(Embedding(&table, &array(I64, &[1, 2], &[3.0, 1.0]), &out)).unwrap();
    assert_eq!(out.values(), [9.0, 10.0, 11.0, 3.0, 4.0, 5.0]);
    refused(run!(Embedding(&table, &array(I64, &[1, 2], &[3.0, 4.0]), &out)), 507015, &["indices", "4", "[0, 4)"]);
    refused(run!(Embedding(&table, &array(I64, &[1, 2], &[-1.0, 0.0]), &out)), 507015, &["-1"]);
    refused(run!(Embedding(&table, &array(F32, &[1, 2], &[0.0, 0.0]), &out)), 161002, &["indices is FLOAT"]);
}

#[test]
fn gather_takes_one_element_a_place() {
    let x = counting(F32, &[2, 3]);
    let index = array(I64, &[2, 2], &[2.0, 0.0, -1.0, 1.0]);
    let out = output(F32, &[2, 2]);
    run!(Gather(&x, 1i64, &index, &out)).unwrap();
    assert_eq!(out.values(), [2.0, 0.0, 5.0, 4.0]);
    run!(Gather(&x, 0i64, &array(I64, &[1, 3], &[1.0, 0.0, 1.0]), &output(F32, &[1, 3]))).unwrap();
    run!(Take(&x, &array(I32, &[2, 2], &[5.0, 4.0, 0.0, 1.0]), &out)).unwrap();
    assert_eq!(out.values(), [5.0, 4.0, 0.0, 1.0]);
    let out = output(F32, &[2, 3]);
    run!(GatherNd(&x, &array(I64, &[2, 1], &[1.0, -2.0]), true, &out)).unwrap();
    assert_eq!(out.values(), [3.0, 4.0, 5.0, 0.0, 1.0, 2.0]);
    let out = output(F32, &[1]);
    run!(GatherNd(&x, &array(I64, &[1, 2], &[1.0, 2.0]), false, &out)).unwrap();
    assert_eq!(out.values(), [5.0]);
}

#[test]
fn scatter_replaces_adds_and_multiplies() {
    // The example of the reference page.
    let x = array(F32, &[3, 3], &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0]);
    let index = array(I64, &[2, 3], &[0.0, 2.0, 1.0, 0.0, 0.0, 1.0]);
    let source = array(F32, &[2, 3], &[10.0, 11.0, 12.0, 13.0, 14.0, 15.0]);
    let out = output(F32, &[3, 3]);
    run!(ScatterAdd(&x, 1i64, &index, &source, &out)).unwrap();
    assert_eq!(out.values(), [11.0, 14.0, 14.0, 31.0, 20.0, 6.0, 7.0, 8.0, 9.0]);
    run!(Scatter(&x, 1i64, &index, &source, 2i64, &out)).unwrap();
    assert_eq!(out.values(), [10.0, 24.0, 33.0, 4.0 * 13.0 * 14.0, 75.0, 6.0, 7.0, 8.0, 9.0]);
    run!(InplaceScatter(&x, 0i64, &array(I32, &[1, 2], &[2.0, 1.0]), &source, 0i64)).unwrap();
    assert_eq!(x.values(), [1.0, 2.0, 3.0, 4.0, 11.0, 6.0, 10.0, 8.0, 9.0]);
    refused(run!(Scatter(&x, 1i64, &index, &source, 3i64, &out)), 161002, &["reduce is 3"]);
}

#[test]
fn rows_are_added_copied_and_filled() {
    let x = counting(F16, &[2, 3]);
    let index = array(I64, &[2], &[2.0, 2.0]);
    let source = array(F16, &[2, 2], &[1.0, 2.0, 3.0, 4.0]);
    let out = output(F16, &[2, 3]);
    run!(IndexAdd(&x, 1i64, &index, &source, &number(F16, 2.0), &out)).unwrap();
    assert_eq!(out.values(), [0.0, 1.0, 8.0, 3.0, 4.0, 19.0]);
    run!(IndexAddV2(&x, 1i64, &index, &source, &number(F16, 2.0), 1i64, &out)).unwrap();
    assert_eq!(out.values(), [0.0, 1.0, 8.0, 3.0, 4.0, 19.0]);
    let row = array(F16, &[1, 3], &[7.0, 8.0, 9.0]);
    run!(IndexCopy(&x, 0i64, &array(I32, &[1], &[1.0]), &row, &out)).unwrap();
    assert_eq!(out.values(), [0.0, 1.0, 2.0, 7.0, 8.0, 9.0]);
    run!(InplaceIndexCopy(&x, 0i64, &array(I32, &[1], &[0.0]), &row)).unwrap();
    assert_eq!(x.values(), [7.0, 8.0, 9.0, 3.0, 4.0, 5.0]);
    run!(IndexFillTensor(&x, 1i64, &ints(&[0, 2]), &number(F16, 0.0), &out)).unwrap();
    assert_eq!(out.values(), [0.0, 8.0, 0.0, 0.0, 4.0, 0.0]);
}

#[test]
fn batches_are_updated_at_their_offsets() {
    let data = array(F32, &[2, 4, 1], &[0.0; 8]);
    let updates = array(F32, &[2, 2, 1], &[1.0, 2.0, 3.0, 4.0]);
    run!(InplaceScatterUpdate(&data, &array(I64, &[2], &[0.0, 2.0]), &updates, -2i64)).unwrap();
    assert_eq!(data.values(), [1.0, 2.0, 0.0, 0.0, 0.0, 0.0, 3.0, 4.0]);
    refused(run!(InplaceScatterUpdate(&data, &array(I64, &[2], &[0.0, 3.0]), &updates, -2i64)), 507015, &["3"]);
    refused(run!(InplaceScatterUpdate(&data, &array(I64, &[2], &[0.0, 0.0]), &updates, 0i64)), 161002, &["axis is 0"]);
    let target = array(F32, &[2, 2], &[0.0; 4]);
    run!(ScatterNdUpdate(&target, &array(I32, &[1, 2], &[1.0, 0.0]), &array(F32, &[1], &[5.0]))).unwrap();
    assert_eq!(target.values(), [0.0, 0.0, 5.0, 0.0]);
    let out = output(F32, &[2, 2]);
    run!(ScatterNd(&target, &array(I32, &[1, 1], &[0.0]), &array(F32, &[1, 2], &[8.0, 9.0]), &out)).unwrap();
    assert_eq!(out.values(), [8.0, 9.0, 5.0, 0.0]);
}

#[test]
fn subscripts_of_tensors_and_masks() {
    let x = counting(I32, &[3, 4]);
    let (rows, columns) = (array(I64, &[2, 1], &[0.0, -1.0]), array(I64, &[2], &[1.0, 3.0]));
    let out = output(I32, &[2, 2]);
    run!(Index(&x, &list(&[&rows, &columns]), &out)).unwrap();
    assert_eq!(out.values(), [1.0, 3.0, 9.0, 11.0]);
    // A whole dimension, then a list.
    let (whole, columns) = (array(I64, &[0], &[]), array(I64, &[2], &[3.0, 0.0]));
    let out = output(I32, &[3, 2]);
    run!(Index(&x, &list(&[&whole, &columns]), &out)).unwrap();
    assert_eq!(out.values(), [3.0, 0.0, 7.0, 4.0, 11.0, 8.0]);
    let mask = array(Bool, &[3], &[1.0, 0.0, 1.0]);
    let out = output(I32, &[2, 4]);
    run!(Index(&x, &list(&[&mask]), &out)).unwrap();
    assert_eq!(out.values(), [0.0, 1.0, 2.0, 3.0, 8.0, 9.0, 10.0, 11.0]);
}

#[test]
fn subscripts_are_written_and_added() {
    let x = array(F32, &[3, 2], &[0.0; 6]);
    let rows = array(I64, &[3], &[2.0, 0.0, 2.0]);
    let rows = list(&[&rows]);
    run!(IndexPutImpl(&x, &rows, &array(F32, &[3, 2], &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]), true, false)).unwrap();
    assert_eq!(x.values(), [3.0, 4.0, 0.0, 0.0, 6.0, 8.0]);
    run!(IndexPutImpl(&x, &rows, &array(F32, &[2], &[7.0, 8.0]), false, false)).unwrap();
    assert_eq!(x.values(), [7.0, 8.0, 0.0, 0.0, 7.0, 8.0]);
    let outside = array(I64, &[1], &[3.0]);
    refused(run!(IndexPutImpl(&x, &list(&[&outside]), &array(F32, &[1, 2], &[0.0; 2]), false, false)), 507015, &["3"]);
}

#[test]
fn gradients_of_an_embedding_add_up() {
    let grad = array(BF16, &[3, 2], &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
    let indices = array(I64, &[3], &[1.0, 1.0, 2.0]);
    let out = output(BF16, &[4, 2]);
    run!(EmbeddingDenseBackward(&grad, &indices, 4u64, 2u64, false, &out)).unwrap();
    assert_eq!(out.values(), [0.0, 0.0, 4.0, 6.0, 0.0, 0.0, 0.0, 0.0]);
    run!(EmbeddingDenseBackward(&grad, &indices, 4u64, u64::MAX, true, &out)).unwrap();
    assert_eq!(out.values(), [0.0, 0.0, 2.0, 3.0, 5.0, 6.0, 0.0, 0.0]);
}

#[test]
fn the_shape_of_nonzero_is_told_afterwards() {
    let x = array(F32, &[2, 3], &[0.0, 1.0, 0.0, 2.0, 0.0, 3.0]);
    let out = output(I64, &[6, 2]);
    run!(Nonzero(&x, &out)).unwrap();
    assert_eq!(out.told_shape(), [3, 2]);
    assert_eq!(out.values()[..6], [0.0, 1.0, 1.0, 0.0, 1.0, 2.0]);
    let out = output(I64, &[2, 6]);
    run!(NonzeroV2(&x, &out)).unwrap();
    assert_eq!(out.told_shape(), [2, 3]);
    assert_eq!(out.values()[..6], [0.0, 1.0, 1.0, 1.0, 0.0, 2.0]);
}

#[test]
fn keys_and_values_go_to_their_slots() {
    let tokens = counting(F16, &[3, 1, 2]);
    let (keys, values) = (array(F16, &[2, 2, 1, 2], &[0.0; 8]), array(F16, &[2, 2, 1, 2], &[0.0; 8]));
    let slots = array(I32, &[3], &[3.0, -1.0, 0.0]);
    run!(ScatterPaKvCache(
        &tokens, &keys, &slots, &tokens, &values, Nothing, Nothing, Nothing, Nothing, Nothing, Nothing, Nothing
    ))
    .unwrap();
    assert_eq!(keys.values(), [4.0, 5.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0]);
    assert_eq!(values.values(), keys.values());
    let slots = array(I32, &[3], &[4.0, 0.0, 1.0]);
    let result = run!(ScatterPaKvCache(
        &tokens, &keys, &slots, &tokens, &values, Nothing, Nothing, Nothing, Nothing, Nothing, Nothing, Nothing
    ));
    refused(result, 507015, &["slot_mapping holds 4", "4 slots"]);
}

#[test]
fn counts() {
    let out = output(I64, &[4]);
    run!(Bincount(&array(I32, &[4], &[1.0, 3.0, 1.0, 0.0]), Nothing, 4i64, &out)).unwrap();
    assert_eq!(out.values(), [1.0, 2.0, 0.0, 1.0]);
    let out = output(F32, &[4]);
    run!(Bincount(&array(I32, &[2], &[1.0, 1.0]), &array(F32, &[2], &[0.5, 0.25]), 0i64, &out)).unwrap();
    assert_eq!(out.values(), [0.0, 0.75, 0.0, 0.0]);
    let out = output(F32, &[2]);
    run!(Histc(&array(F32, &[5], &[0.0, 0.4, 0.5, 1.0, 7.0]), 2i64, &number(F32, 0.0), &number(F32, 1.0), &out))
        .unwrap();
    assert_eq!(out.values(), [2.0, 2.0]);
}
