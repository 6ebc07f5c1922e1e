//! Element-by-element operators of the NPU against candle's CPU storage, over element types and views.

mod common;

use candle_ascend::{DType, Layout};
use candle_core::backend::{BackendDevice, BackendStorage};
use candle_core::op::{self, CmpOp};
use common::*;

const FLOATS: [DType; 4] = [DType::F32, DType::F16, DType::BF16, DType::F64];
const INTEGERS: [DType; 5] = [DType::U8, DType::U32, DType::I16, DType::I32, DType::I64];

/// Runs unary operators for the given types over every layout; `abs` first where the operator wants positive numbers.
macro_rules! unary {
    ($device:expr, $positive:expr, $dtypes:expr, $($op:ident),*) => {$(
        for dtype in $dtypes {
            let (npu, cpu) = both(&$device, dtype, 120, 1);
            let flat = Layout::contiguous(120);
            let (npu, cpu) = match $positive {
                true => (
                    npu.unary_impl::<op::Abs>(&flat).and_then(|s| s.affine(&flat, 1., 0.1)).expect("abs"),
                    cpu.unary_impl::<op::Abs>(&flat).and_then(|s| s.affine(&flat, 1., 0.1)).expect("abs"),
                ),
                false => (npu, cpu),
            };
            for (name, layout) in layouts() {
                let what = format!("{} of {dtype:?}, {name}", stringify!($op));
                agree(&what, npu.unary_impl::<op::$op>(&layout), cpu.unary_impl::<op::$op>(&layout));
            }
        }
    )*};
}

#[test]
fn unary_operators_of_floats() {
    let device = npu();
    unary!(device, false, FLOATS, Exp, Sin, Cos, Abs, Neg, Sqr, Erf, Relu, Floor, Ceil, Round, Sign);
    unary!(device, true, FLOATS, Log, Sqrt, Recip);
    unary!(device, false, [DType::F32, DType::F16, DType::BF16], Tanh, Silu, Gelu, GeluErf);
}

#[test]
fn unary_operators_of_integers() {
    let device = npu();
    unary!(device, false, INTEGERS, Abs, Relu, Sign, Floor, Ceil, Round);
    for dtype in [DType::I16, DType::I32, DType::I64] {
        let (npu, cpu) = both(&device, dtype, 120, 1);
        let negated =
            npu.unary_impl::<op::Neg>(&Layout::contiguous(120)).and_then(|s| s.to_cpu_storage()).expect("neg");
        assert_eq!(values(&negated), values(&cpu).iter().map(|v| -v).collect::<Vec<_>>(), "neg of {dtype:?}");
    }
}

#[test]
fn round_takes_halves_away_from_zero() {
    let device = npu();
    let cpu = candle_ascend::CpuStorage::F32(vec![0.5, 1.5, 2.5, -0.5, -2.5, 0.49999997, -0.49999997, 8388609.0, 2.25]);
    let npu = device.storage_from_cpu_storage(&cpu).expect("upload");
    let layout = Layout::contiguous(9);
    agree("round", npu.unary_impl::<op::Round>(&layout), cpu.unary_impl::<op::Round>(&layout));
}

#[test]
fn binary_operators() {
    let device = npu();
    macro_rules! binary {
        ($($op:ident),*) => {$(
            for dtype in FLOATS.into_iter().chain(INTEGERS) {
                let ((a, ca), (b, cb)) = (both(&device, dtype, 120, 1), both(&device, dtype, 120, 2));
                let flat = Layout::contiguous(120);
                // Away from 0, for division; and no unsigned result below 0 or over 255, which is an error on the cpu.
                let (a, ca) = (a.affine(&flat, 1., 101.).expect("affine"), ca.affine(&flat, 1., 101.).expect("affine"));
                let (mul, add) = match dtype {
                    DType::U8 => (0., 7.),
                    DType::U32 => (1., 1.),
                    dtype if dtype.is_float() => (1., 3.),
                    _ => (1., 51.),
                };
                let (b, cb) = (b.affine(&flat, mul, add).expect("affine"), cb.affine(&flat, mul, add).expect("affine"));
                for (name, l) in layouts() {
                    for (other, r) in layouts().into_iter().filter(|(_, r)| r.shape() == l.shape()) {
                        let what = format!("{} of {dtype:?}, {name} and {other}", stringify!($op));
                        if dtype == DType::U8 && stringify!($op) == "Mul" {
                            continue;
                        }
                        agree(&what, a.binary_impl::<op::$op>(&b, &l, &r), ca.binary_impl::<op::$op>(&cb, &l, &r));
                    }
                }
            }
        )*};
    }
    binary!(Add, Sub, Mul, Div, Minimum, Maximum);
}

#[test]
fn broadcasts_of_both_operands() {
    let device = npu();
    let ((a, ca), (b, cb)) = (both(&device, DType::F32, 20, 1), both(&device, DType::F32, 20, 2));
    let column = Layout::contiguous((4, 1)).broadcast_as((3, 4, 5)).expect("broadcast");
    let row = Layout::contiguous((1, 5)).broadcast_as((3, 4, 5)).expect("broadcast");
    agree("column + row", a.binary_impl::<op::Add>(&b, &column, &row), ca.binary_impl::<op::Add>(&cb, &column, &row));
    agree("row * row", a.binary_impl::<op::Mul>(&b, &row, &row), ca.binary_impl::<op::Mul>(&cb, &row, &row));
}

#[test]
fn comparisons() {
    let device = npu();
    for dtype in FLOATS.into_iter().chain(INTEGERS) {
        let ((a, ca), (b, cb)) = (both(&device, dtype, 120, 1), both(&device, dtype, 120, 2));
        let l = Layout::contiguous((3, 40));
        let r = Layout::contiguous((1, 40)).broadcast_as((3, 40)).expect("broadcast");
        for (name, op) in [
            ("=", CmpOp::Eq),
            ("!=", CmpOp::Ne),
            ("<", CmpOp::Lt),
            ("<=", CmpOp::Le),
            (">", CmpOp::Gt),
            (">=", CmpOp::Ge),
        ] {
            agree(&format!("{name} of {dtype:?}"), a.cmp(op, &b, &l, &r), ca.cmp(op, &cb, &l, &r));
            agree(&format!("{name} of {dtype:?} with itself"), a.cmp(op, &a, &l, &r), ca.cmp(op, &ca, &l, &r));
        }
    }
}

#[test]
fn numbers_over_two_to_the_31_are_unsigned() {
    let device = npu();
    let cpu = candle_ascend::CpuStorage::U32(vec![u32::MAX, 1, 1 << 31, 7]);
    let other = candle_ascend::CpuStorage::U32(vec![2, 3, 5, u32::MAX - 1]);
    let (a, b) = (
        device.storage_from_cpu_storage(&cpu).expect("upload"),
        device.storage_from_cpu_storage(&other).expect("upload"),
    );
    let l = Layout::contiguous(4);
    agree("max", a.binary_impl::<op::Maximum>(&b, &l, &l), cpu.binary_impl::<op::Maximum>(&other, &l, &l));
    agree("div", a.binary_impl::<op::Div>(&b, &l, &l), cpu.binary_impl::<op::Div>(&other, &l, &l));
    agree("<", a.cmp(CmpOp::Lt, &b, &l, &l), cpu.cmp(CmpOp::Lt, &other, &l, &l));
    agree("to f64", a.to_dtype(&l, DType::F64), cpu.to_dtype(&l, DType::F64));
}

#[test]
fn conversions() {
    let device = npu();
    for from in FLOATS.into_iter().chain(INTEGERS) {
        let (npu, cpu) = both(&device, from, 120, 3);
        for to in FLOATS.into_iter().chain(INTEGERS) {
            let unsigned = matches!(to, DType::U8 | DType::U32);
            // A negative number as an unsigned one differs between devices; the language leaves it open.
            if unsigned && !matches!(from, DType::U8 | DType::U32) {
                continue;
            }
            for (name, layout) in layouts() {
                agree(&format!("{from:?} to {to:?}, {name}"), npu.to_dtype(&layout, to), cpu.to_dtype(&layout, to));
            }
        }
    }
}

#[test]
fn affine_power_elu() {
    let device = npu();
    for dtype in FLOATS.into_iter().chain(INTEGERS) {
        let (npu, cpu) = both(&device, dtype, 120, 1);
        for (name, layout) in layouts() {
            for (mul, add) in [(2., 0.), (1., 3.), (2., 3.), (1., 0.), (0.5, 0.25)] {
                let what = format!("affine {mul} {add} of {dtype:?}, {name}");
                agree(&what, npu.affine(&layout, mul, add), cpu.affine(&layout, mul, add));
            }
        }
    }
    for dtype in FLOATS {
        let (npu, cpu) = both(&device, dtype, 120, 1);
        for (name, layout) in layouts() {
            agree(&format!("powf 2 of {dtype:?}, {name}"), npu.powf(&layout, 2.), cpu.powf(&layout, 2.));
            if dtype != DType::F64 {
                agree(&format!("elu of {dtype:?}, {name}"), npu.elu(&layout, 0.7), cpu.elu(&layout, 0.7));
            }
        }
    }
}

#[test]
fn where_takes_the_first_for_every_number_but_0() {
    let device = npu();
    for dtype in FLOATS.into_iter().chain(INTEGERS) {
        for condition in [
            candle_ascend::CpuStorage::U8(vec![0, 1, 2, 0, 255, 1]),
            candle_ascend::CpuStorage::U32(vec![0, 1, 2, 0, u32::MAX, 1]),
            candle_ascend::CpuStorage::I64(vec![0, 1, -2, 0, i64::MIN, 1]),
        ] {
            let ((t, ct), (f, cf)) = (both(&device, dtype, 6, 1), both(&device, dtype, 6, 2));
            let npu = device.storage_from_cpu_storage(&condition).expect("upload");
            let l = Layout::contiguous((2, 3));
            let r = Layout::contiguous((1, 3)).broadcast_as((2, 3)).expect("broadcast");
            let what = format!("where of {dtype:?} by {:?}", condition.dtype());
            agree(&what, npu.where_cond(&l, &t, &r, &f, &l), condition.where_cond(&l, &ct, &r, &cf, &l));
        }
    }
}

#[test]
fn a_type_that_an_operator_lacks_is_named_with_those_it_has() {
    let device = npu();
    let (npu, _) = both(&device, DType::F64, 6, 1);
    let error = npu.unary_impl::<op::Silu>(&Layout::contiguous(6)).expect_err("silu has no F64");
    let typed = candle_ascend::acl::Error::of(&error).expect("an error of the ACL layer");
    assert!(matches!(typed, candle_ascend::acl::Error::DType { op: "silu", got: DType::F64, .. }), "{error}");
    assert!(error.to_string().contains("[F32, F16, BF16]"), "{error}");
}
