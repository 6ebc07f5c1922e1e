use crate::support::*;

#[test]
fn a_null_tensor_is_161001() {
    let x = array(F32, &[1], &[0.0]);
    refused(run!(Exp(Nothing, &x)), 161001, &["aclnnExp", "self"]);
    refused(run!(Exp(&x, Nothing)), 161001, &["out is null"]);
    refused(run!(Add(&x, &x, Nothing, &x)), 161001, &["alpha is null"]);
}

#[test]
fn shapes_that_do_not_broadcast_are_161002() {
    let (x, y) = (array(F32, &[2, 3], &[0.0; 6]), array(F32, &[2], &[0.0; 2]));
    let out = output(F32, &[2, 3]);
    refused(run!(Add(&x, &y, &number(F32, 1.0), &out)), 161002, &["[2, 3]", "[2]", "broadcast"]);
    refused(run!(Mul(&x, &x, &output(F32, &[3, 2]))), 161002, &["out has shape [3, 2]", "wanted [2, 3]"]);
    refused(run!(Exp(&x, &output(F32, &[6]))), 161002, &["out has shape [6]", "wanted [2, 3]"]);
}

#[test]
fn types_that_a_page_does_not_list_are_161002() {
    let (x, y) = (array(U32, &[1], &[0.0]), array(I32, &[1], &[0.0]));
    refused(run!(Exp(&y, &output(F32, &[1]))), 161002, &["INT32", "FLOAT16"]);
    refused(run!(Abs(&y, &output(F32, &[1]))), 161002, &["out is FLOAT", "INT32"]);
    refused(run!(Add(&x, &y, &number(I32, 1.0), &y)), 161002, &["UINT32"]);
    refused(run!(GtTensor(&x, &y, &output(Bool, &[1]))), 161002, &["INT32", "does not combine", "UINT32"]);
    refused(run!(Gelu(&array(F64, &[1], &[0.0]), &output(F64, &[1]))), 161002, &["DOUBLE"]);
}
