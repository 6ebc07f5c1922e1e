//! Every method of [`candle_ascend::Tensor`] gives what candle's own gives, on random odd shapes, views and types.
//!
//! On the CPU only: an NPU lacks types that candle has (F64 products, for one), and `npu_*.rs` holds its primitives
//! against candle type by type.

// The closures in the macros give `?` in a body something to return from.
#![allow(clippy::redundant_closure_call)]

mod operands;

use candle_ascend::{D, DType, Device, IndexOp as _};
use operands::{assert_close, dims, operand, ours, rng};
use rand::Rng;
use rand::rngs::StdRng;

/// Runs one expression on candle's tensors and on ours, on the CPU, and compares. Inside it `T` is the tensor type.
macro_rules! same {
    ($case:expr, $tolerance:expr, [$($x:ident),+], $body:expr) => {{
        let case = format!("{} in {}", $case, stringify!($body));
        let want: candle_core::Result<candle_core::Tensor> = (|| {
            #[allow(unused_imports)]
            use candle_core::{IndexOp as _, Tensor as T};
            $(let $x = $x.clone();)+
            $body
        })();
        let want = want.unwrap_or_else(|error| panic!("{case}: candle fails: {error}"));
        for device in [Device::Cpu] {
            let got: candle_ascend::Result<candle_ascend::Tensor> = (|| {
                #[allow(unused_imports)]
                use candle_ascend::Tensor as T;
                $(let $x = ours(&$x, &device);)+
                $body
            })();
            let got = got.unwrap_or_else(|error| panic!("{case} on {}: {error}", device.kind()));
            // On the CPU both run the same kernels, in the same order unless a tolerance is given.
            assert_close(&case, &got, &want, $tolerance);
        }
    }};
}

const SEEDS: std::ops::Range<u64> = 0..12;
const FLOATS: [DType; 4] = [DType::F32, DType::F64, DType::F16, DType::BF16];
const ALL: [DType; 8] =
    [DType::F32, DType::F64, DType::F16, DType::BF16, DType::I64, DType::I32, DType::U32, DType::U8];

/// One case a seed and type: `run(case, generator, dims of rank 1 to 4, type)`.
fn cases(dtypes: &[DType], run: impl Fn(&str, &mut StdRng, &[usize], DType)) {
    for seed in SEEDS {
        for &dtype in dtypes {
            let mut rng = rng(seed);
            let rank = rng.random_range(1..=4);
            let dims = dims(&mut rng, rank);
            run(&format!("seed {seed}, {dtype:?} {dims:?}"), &mut rng, &dims, dtype);
        }
    }
}

#[test]
fn unary_functions() {
    cases(&FLOATS, |case, rng, dims, dtype| {
        let x = operand(rng, dims, dtype);
        same!(case, 0., [x], x.neg());
        same!(case, 0., [x], x.exp());
        same!(case, 0., [x], x.abs()?.log());
        same!(case, 0., [x], x.sin()? + x.cos()?);
        same!(case, 0., [x], x.tanh());
        same!(case, 0., [x], x.sqr()?.sqrt());
        same!(case, 0., [x], x.gelu());
        same!(case, 0., [x], x.gelu_erf());
        same!(case, 0., [x], x.erf());
        same!(case, 0., [x], x.relu()? - x.silu()?);
        same!(case, 0., [x], x.floor()? * x.ceil()?);
        same!(case, 0., [x], x.round()? / (x.sign()? + 3.)?);
        same!(case, 0., [x], x.recip());
        same!(case, 0., [x], x.elu(0.7));
        same!(case, 0., [x], x.abs()?.powf(1.5));
        same!(case, 0., [x], x.round_to(1));
    });
}

#[test]
fn binary_functions_and_operators() {
    cases(&ALL, |case, rng, dims, dtype| {
        let (x, y) = (operand(rng, dims, dtype), operand(rng, dims, dtype));
        let row = operand(rng, &dims[dims.len() - 1..], dtype);
        same!(case, 0., [x, y], (x.add(&y)? * &x)? + y.mul(&y));
        same!(case, 0., [x, y], x.maximum(&y)?.minimum(2f64));
        same!(case, 0., [x, row], x.broadcast_add(&row));
        same!(case, 0., [x, row], row.broadcast_mul(&x));
        same!(case, 0., [x, row], x.broadcast_maximum(&row));
        same!(case, 0., [x, y], x.lt(&y));
        same!(case, 0., [x, y], x.eq(&x)? + x.ne(&y)?);
        same!(case, 0., [x, row], x.broadcast_ge(&row)? + x.broadcast_le(&row)?);
        same!(case, 0., [x], x.gt(1u8));
        same!(case, 0., [x], x.clamp(1f32, 2f32));
        same!(case, 0., [x], &x * 3.);
        same!(case, 0., [x, y], x.gt(&y)?.where_cond(&x, &y));
    });
    cases(&FLOATS, |case, rng, dims, dtype| {
        let (x, y) = (operand(rng, dims, dtype), operand(rng, dims, dtype));
        same!(case, 0., [x, y], x.sub(&y)? / (y.abs()? + 1.)?);
        same!(case, 0., [x], (1f64 - &x)? * (2f64 / x.exp()?)?);
        same!(case, 0., [x], (0.5f64 + &x)? - 0.25);
        same!(case, 0., [x], &x / 0.3);
        same!(case, 0., [x, y], x.abs()?.pow(&y));
    });
}

#[test]
fn conversions_between_types() {
    cases(&ALL, |case, rng, dims, dtype| {
        let x = operand(rng, dims, dtype).abs().unwrap_or_else(|_| operand(rng, dims, dtype));
        for to in ALL {
            same!(format!("{case} to {to:?}"), 0., [x], x.to_dtype(to));
        }
    });
}

#[test]
fn views_and_copies() {
    cases(&ALL, |case, rng, _, dtype| {
        let [a, b, c, d] = std::array::from_fn(|_| rng.random_range(2..=6usize));
        let x = operand(rng, &[a, b, c, d], dtype);
        let (start, len) = (rng.random_range(0..c), 1);
        same!(case, 0., [x], x.transpose(1, 3)?.contiguous());
        same!(case, 0., [x], x.permute((2, 0, 3, 1))?.reshape((c * a, ())));
        same!(case, 0., [x], x.permute(vec![3, 1, 0, 2])?.flatten_from(1));
        same!(case, 0., [x], x.narrow(2, start, len)?.flatten_all());
        same!(case, 0., [x], x.narrow(1, 1, b - 1)?.reshape((a, (b - 1) * c, d)));
        same!(case, 0., [x], x.narrow(1, 1, b - 1)?.transpose(0, 1)?.reshape((b - 1, ())));
        same!(case, 0., [x], x.i((0, .., 1..))?.t()?.squeeze(0));
        same!(case, 0., [x], x.i(a - 1)?.get(1)?.get_on_dim(1, 0));
        same!(case, 0., [x], x.i((.., ..=1, 0))?.unsqueeze(1)?.copy());
        same!(case, 0., [x], x.i((.., .., .., d - 1))?.unsqueeze(D::Minus1)?.broadcast_as((a, b, c, 3))?.contiguous());
        same!(case, 0., [x], x.i(0)?.broadcast_left((2, 1))?.flatten_to(2));
        same!(case, 0., [x], Ok(x.chunk(2, 2)?[1].clone()));
        same!(case, 0., [x], x.transpose(0, 3)?.force_contiguous());
        same!(case, 0., [x], x.squeeze(0)?.flatten(1, 2));
    });
}

#[test]
fn reductions() {
    cases(&FLOATS, |case, rng, dims, dtype| {
        let x = operand(rng, dims, dtype);
        for dim in 0..dims.len() {
            let case = format!("{case}, dim {dim}");
            same!(case, 0., [x], x.sum(dim));
            same!(case, 0., [x], x.sum_keepdim(dim));
            same!(case, 0., [x], x.max(dim));
            same!(case, 0., [x], x.min_keepdim(dim));
            same!(case, 0., [x], x.argmax(dim));
            same!(case, 0., [x], x.argmin_keepdim(dim));
            same!(case, 0., [x], x.mean_keepdim(dim));
            same!(case, 0., [x], x.transpose(0, dim)?.sum(0));
        }
        same!(case, 0., [x], x.max_all()? + x.min_all()?);
        same!(case, 0., [x], x.sum_all());
    });
    // Sums of the same numbers in another order: one rounding an addition.
    cases(&[DType::F32, DType::F64], |case, rng, dims, dtype| {
        let x = operand(rng, dims, dtype);
        same!(case, 1e-5, [x], x.mean(0));
        same!(case, 1e-5, [x], x.mean_all());
        same!(case, 1e-5, [x], x.log_sum_exp(D::Minus1));
        same!(case, 1e-5, [x], x.norm());
        if dims[0] > 1 {
            same!(case, 1e-5, [x], x.var(0));
        }
        if dims.len() > 1 {
            same!(case, 1e-5, [x], x.sum((0, 1)));
            // candle's own product refuses the layout of the other dimensions.
            same!(case, 1e-5, [x], x.cumsum(D::Minus1));
        }
    });
}

#[test]
fn matrix_products() {
    cases(&[DType::F32, DType::F64, DType::F16], |case, rng, _, dtype| {
        let [b, h, m, k, n] = std::array::from_fn(|_| rng.random_range(1..=9usize));
        let x = operand(rng, &[b, h, m, k], dtype);
        let y = operand(rng, &[b, h, k, n], dtype);
        let y_transposed = operand(rng, &[b, h, n, k], dtype);
        let shared = operand(rng, &[k, n], dtype);
        let vector = operand(rng, &[k], dtype);
        same!(case, 0., [x, y], x.matmul(&y));
        same!(case, 0., [x, y_transposed], x.matmul(&y_transposed.t()?));
        same!(case, 0., [x, shared], x.broadcast_matmul(&shared));
        same!(case, 0., [x, y], x.i((0, 0))?.matmul(&y.i((b - 1, h - 1))?));
        same!(case, 0., [x, y], x.i((.., 0..1))?.broadcast_matmul(&y));
        same!(case, 0., [x, vector], x.i((0, 0))?.mv(&vector));
        same!(case, 0., [vector], vector.dot(&vector));
    });
}

#[test]
fn reading_and_writing_by_index() {
    cases(&[DType::F32, DType::BF16, DType::I64, DType::U32], |case, rng, _, dtype| {
        let [a, b, c] = std::array::from_fn(|_| rng.random_range(2..=6usize));
        let x = operand(rng, &[a, b, c], dtype);
        let picks: Vec<u32> = (0..5).map(|_| rng.random_range(0..b as u32)).collect();
        let ids = candle_core::Tensor::new(picks.as_slice(), &candle_core::Device::Cpu).expect("indexes");
        let spread: Vec<i64> = (0..a * 2 * c).map(|_| rng.random_range(0..b as i64)).collect();
        let at = candle_core::Tensor::from_vec(spread, (a, 2, c), &candle_core::Device::Cpu).expect("indexes");
        let source = operand(rng, &[a, 2, c], dtype);
        let rows = operand(rng, &[a, 5, c], dtype);
        same!(case, 0., [x, ids], x.index_select(&ids, 1));
        same!(case, 0., [x, ids], x.i(0)?.embedding(&ids));
        same!(case, 0., [x, ids], x.i((.., &ids)));
        same!(case, 0., [x, at], x.gather(&at, 1));
        same!(case, 0., [x, at, source], x.scatter_add(&at, &source, 1));
        same!(case, 0., [x, ids, rows], x.index_add(&ids, &rows, 1));
    });
}

#[test]
fn scatter_writes_where_indexes_are_distinct() {
    let x = operand(&mut rng(1), &[3, 4], DType::F32);
    let source = operand(&mut rng(2), &[3, 2], DType::F32);
    let at = candle_core::Tensor::new(&[[0u32, 3], [2, 1], [3, 0]], &candle_core::Device::Cpu).expect("indexes");
    same!("distinct", 0., [x, at, source], x.scatter(&at, &source, 1));
    same!("in place", 0., [x, at, source], {
        let x = x.copy()?;
        x.scatter_set(&at, &source, 1)?;
        Ok(x)
    });
}

#[test]
fn joining_and_padding() {
    cases(&ALL, |case, rng, _, dtype| {
        let [a, b, c, more] = std::array::from_fn(|_| rng.random_range(1..=5usize));
        let (x, y) = (operand(rng, &[a, b, c], dtype), operand(rng, &[a, more, c], dtype));
        let z = operand(rng, &[a, b, c], dtype);
        same!(case, 0., [x, y], T::cat(&[&x, &y, &x], 1));
        same!(case, 0., [x, y], T::cat(&[x.transpose(0, 1)?, y.transpose(0, 1)?], 0));
        same!(case, 0., [x, y], T::cat(&[x.transpose(1, 2)?, y.transpose(1, 2)?], D::Minus1));
        same!(case, 0., [x, z], T::cat(&[x.narrow(1, 0, 1)?, z.narrow(1, b - 1, 1)?], 2));
        same!(case, 0., [x, z], T::stack(&[&x, &z], 1));
        same!(case, 0., [x, z], T::stack(&[&x, &z], D::Minus1));
        same!(case, 0., [x], x.repeat((2, 1, 3, 2)));
        same!(case, 0., [x], x.pad_with_zeros(1, 2, 1));
        same!(case, 0., [x], x.pad_with_same(2, 1, 2));
        same!(case, 0., [x], x.roll(-2, 1));
        same!(case, 0., [x, y], {
            let target = x.pad_with_zeros(1, 0, more)?;
            target.slice_set(&y, 1, b)?;
            Ok(target)
        });
        same!(case, 0., [x, z], x.slice_scatter(&z.narrow(1, 0, 1)?, 1, b - 1));
        same!(case, 0., [x, z], x.slice_assign(&[0..a, 0..1, c - 1..c], &z.i((.., 0..1, 0..1))?));
    });
}

#[test]
fn sorting() {
    for dtype in [DType::F32, DType::F64, DType::I64, DType::U32, DType::U8] {
        // Distinct values: the order of equal ones is nobody's promise.
        let x = candle_core::Tensor::from_vec(
            (0..35).map(|i| (i * 12 % 35) as f64).collect(),
            (5, 7),
            &candle_core::Device::Cpu,
        )
        .and_then(|x| x.to_dtype(dtype))
        .expect("operand");
        same!(format!("{dtype:?}"), 0., [x], x.arg_sort_last_dim(true));
        same!(format!("{dtype:?}"), 0., [x], Ok(x.sort_last_dim(false)?.0));
    }
}

#[test]
fn empty_tensors() {
    let x = operand(&mut rng(0), &[2, 3, 4], DType::F32);
    same!("empty", 0., [x], x.narrow(1, 1, 0)?.exp());
    same!("empty", 0., [x], x.narrow(1, 1, 0)?.add(&x.narrow(1, 0, 0)?));
    same!("empty", 0., [x], x.narrow(2, 0, 0)?.matmul(&x.narrow(2, 0, 0)?.t()?));
    same!("empty", 0., [x], T::cat(&[x.narrow(1, 0, 0)?, x.clone()], 1));
    same!("empty", 0., [x], x.narrow(0, 0, 0)?.sum(0));
}
