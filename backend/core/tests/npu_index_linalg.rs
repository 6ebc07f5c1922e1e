//! Reductions, indexing, copies and matrix products of the NPU against candle's CPU storage.

mod common;

use candle_ascend::{CpuStorage, DType, Layout, NpuStorage, Result};
use candle_core::backend::{BackendDevice, BackendStorage};
use candle_core::op::ReduceOp;
use candle_core::scalar::Scalar;
use common::*;

const NUMBERS: [DType; 9] =
    [DType::F32, DType::F16, DType::BF16, DType::F64, DType::U8, DType::U32, DType::I16, DType::I32, DType::I64];

#[test]
fn reductions() {
    let device = npu();
    for dtype in NUMBERS {
        let (npu, cpu) = both(&device, dtype, 120, 1);
        for (name, layout) in layouts().into_iter().filter(|(_, l)| l.dims().len() > 1) {
            for dim in 0..layout.dims().len() {
                for op in [ReduceOp::Min, ReduceOp::Max, ReduceOp::ArgMin, ReduceOp::ArgMax] {
                    let what = format!("{op:?} of {dtype:?} over {dim}, {name}");
                    agree(&what, npu.reduce_op(op, &layout, &[dim]), cpu.reduce_op(op, &layout, &[dim]));
                }
                // candle's small types add in their own precision and overflow, which the device need not imitate.
                if !matches!(dtype, DType::F16 | DType::BF16 | DType::U8) {
                    let what = format!("sum of {dtype:?} over {dim}, {name}");
                    agree(
                        &what,
                        npu.reduce_op(ReduceOp::Sum, &layout, &[dim]),
                        cpu.reduce_op(ReduceOp::Sum, &layout, &[dim]),
                    );
                }
            }
        }
    }
    let (npu, cpu) = both(&device, DType::F32, 120, 1);
    let layout = Layout::contiguous((2, 3, 4, 5));
    for dims in [vec![0, 1], vec![1, 3], vec![0, 1, 2, 3]] {
        agree("sum", npu.reduce_op(ReduceOp::Sum, &layout, &dims), cpu.reduce_op(ReduceOp::Sum, &layout, &dims));
    }
    assert!(npu.reduce_op(ReduceOp::Max, &Layout::contiguous((0, 3)), &[0]).is_err(), "nothing has no maximum");
}

fn ids(dtype: DType, values: &[i64]) -> CpuStorage {
    // -1 stands for the largest value of the type, which means "nothing".
    match dtype {
        DType::U8 => CpuStorage::U8(values.iter().map(|&v| v as u8).collect()),
        DType::U32 => CpuStorage::U32(values.iter().map(|&v| v as u32).collect()),
        _ => CpuStorage::I64(values.iter().map(|&v| if v < 0 { i64::MAX } else { v }).collect()),
    }
}

#[test]
fn gather_select_and_add_by_every_type_of_index() {
    let device = npu();
    for dtype in NUMBERS {
        for by in [DType::U8, DType::U32, DType::I64] {
            let (npu, cpu) = both(&device, dtype, 60, 1);
            let what = |op: &str| format!("{op} of {dtype:?} by {by:?}");
            let layout = Layout::contiguous((3, 4, 5));
            let index = ids(by, &[3, 0, -1, 3, 1]);
            let npu_index = device.storage_from_cpu_storage(&index).expect("upload");
            let flat = Layout::contiguous(5);
            agree(
                &what("select"),
                npu.index_select(&npu_index, &layout, &flat, 1),
                cpu.index_select(&index, &layout, &flat, 1),
            );
            agree(
                &what("select"),
                npu.index_select(&npu_index, &layout, &flat, 2),
                cpu.index_select(&index, &layout, &flat, 2),
            );

            let (add, cpu_add) = both(&device, dtype, 75, 2);
            let source = Layout::contiguous((3, 5, 5));
            // Integers of eight bits could overflow, which is an error on the cpu.
            if dtype != DType::U8 {
                let got = npu.index_add(&layout, &npu_index, &flat, &add, &source, 1);
                agree(&what("index-add"), got, cpu.index_add(&layout, &index, &flat, &cpu_add, &source, 1));
            }

            let positions: Vec<i64> = (0..30).map(|i| if i % 7 == 3 { -1 } else { (i * i) % 4 }).collect();
            let index = ids(by, &positions);
            let npu_index = device.storage_from_cpu_storage(&index).expect("upload");
            let index_layout = Layout::contiguous((3, 2, 5));
            agree(
                &what("gather"),
                npu.gather(&layout, &npu_index, &index_layout, 1),
                cpu.gather(&layout, &index, &index_layout, 1),
            );
        }
    }
}

/// An in-place operator on copies of both storages, as results that can be compared.
fn in_place<S: BackendStorage>(storage: &S, layout: &Layout, change: impl FnOnce(&mut S) -> Result<()>) -> Result<S> {
    let mut copy = storage.try_clone(layout)?;
    change(&mut copy)?;
    Ok(copy)
}

#[test]
fn scatter() {
    let device = npu();
    for dtype in NUMBERS {
        for by in [DType::U8, DType::U32, DType::I64] {
            let ((npu, cpu), (src, cpu_src)) = (both(&device, dtype, 70, 1), both(&device, dtype, 30, 2));
            let layout = Layout::contiguous_with_offset((3, 4, 5), 10);
            let (index_layout, whole) = (Layout::contiguous((3, 2, 5)), Layout::contiguous(70));
            // No position twice: which write wins is open.
            let positions: Vec<i64> = (0..30).map(|i| (i % 4 + (i / 5) % 2 * 2) % 4).collect();
            let unique: Vec<i64> = (0..30).map(|i| if (i / 5) % 2 == 0 { i % 2 } else { 2 + i % 2 }).collect();
            let index = ids(by, &unique);
            let npu_index = device.storage_from_cpu_storage(&index).expect("upload");
            agree(
                &format!("scatter of {dtype:?} by {by:?}"),
                in_place(&npu, &whole, |s| s.scatter_set(&layout, &npu_index, &index_layout, &src, &index_layout, 1)),
                in_place(&cpu, &whole, |s| s.scatter_set(&layout, &index, &index_layout, &cpu_src, &index_layout, 1)),
            );
            if dtype == DType::U8 {
                continue;
            }
            let with_nothing: Vec<i64> =
                positions.iter().enumerate().map(|(i, &p)| if i % 6 == 1 { -1 } else { p }).collect();
            let index = ids(by, &with_nothing);
            let npu_index = device.storage_from_cpu_storage(&index).expect("upload");
            agree(
                &format!("scatter-add of {dtype:?} by {by:?}"),
                in_place(&npu, &whole, |s| {
                    s.scatter_add_set(&layout, &npu_index, &index_layout, &src, &index_layout, 1)
                }),
                in_place(&cpu, &whole, |s| {
                    s.scatter_add_set(&layout, &index, &index_layout, &cpu_src, &index_layout, 1)
                }),
            );
        }
    }
}

#[test]
fn copies_and_constants() {
    let device = npu();
    for dtype in NUMBERS {
        let ((npu, cpu), (dst, cpu_dst)) = (both(&device, dtype, 120, 1), both(&device, dtype, 150, 2));
        let whole = Layout::contiguous(150);
        for (name, layout) in layouts() {
            agree(
                &format!("copy of {dtype:?}, {name}"),
                in_place(&dst, &whole, |s| npu.copy_strided_src(s, 9, &layout)),
                in_place(&cpu_dst, &whole, |s| cpu.copy_strided_src(s, 9, &layout)),
            );
            if layout.has_internal_overlap() {
                continue;
            }
            agree(
                &format!("constant of {dtype:?}, {name}"),
                in_place(&npu, &Layout::contiguous(120), |s| s.const_set(Scalar::one(dtype), &layout)),
                in_place(&cpu, &Layout::contiguous(120), |s| s.const_set(Scalar::one(dtype), &layout)),
            );
        }
        agree(
            &format!("copy2d of {dtype:?}"),
            in_place(&dst, &whole, |s| npu.copy2d(s, 5, 3, 11, 20, 4, 6)),
            in_place(&cpu_dst, &whole, |s| cpu.copy2d(s, 5, 3, 11, 20, 4, 6)),
        );
        let zeros = device.zeros_impl(&(3, 5).into(), dtype).and_then(|s| s.to_cpu_storage()).expect("zeros");
        assert_eq!(values(&zeros), vec![0.; 15]);
    }
    let (mut npu, _) = both(&device, DType::U32, 4, 1);
    npu.const_set(Scalar::U32(u32::MAX), &Layout::contiguous(4)).expect("fill");
    assert_eq!(values(&npu.to_cpu_storage().expect("read")), vec![u32::MAX as f64; 4]);
}

/// Products against f64 sums of the rounded operands.
#[test]
fn matrix_products_of_views() {
    let device = npu();
    for dtype in [DType::F32, DType::F16, DType::BF16] {
        let ((a, ca), (b, cb)) = (both(&device, dtype, 240, 1), both(&device, dtype, 240, 2));
        let cases = [
            ("plain", Layout::contiguous((4, 5)), Layout::contiguous((5, 3))),
            ("transposed right", Layout::contiguous((4, 5)), Layout::contiguous((3, 5)).transpose(0, 1).expect("2")),
            (
                "transposed left",
                Layout::contiguous((5, 4)).transpose(0, 1).expect("2"),
                Layout::contiguous_with_offset((5, 3), 7),
            ),
            ("batch", Layout::contiguous((2, 3, 4, 5)), Layout::contiguous((2, 3, 5, 3))),
            (
                "shared weight",
                Layout::contiguous((2, 3, 4, 5)),
                Layout::contiguous((5, 3)).broadcast_as((2, 3, 5, 3)).expect("b"),
            ),
            ("heads", Layout::contiguous((2, 4, 3, 5)).transpose(1, 2).expect("4"), Layout::contiguous((2, 3, 5, 3))),
            (
                "narrowed",
                Layout::contiguous((2, 3, 6, 5)).narrow(2, 1, 4).expect("n"),
                Layout::contiguous((2, 3, 5, 4)).narrow(3, 1, 3).expect("n"),
            ),
            ("row", Layout::contiguous((1, 5)), Layout::contiguous((5, 1))),
        ];
        for (name, l, r) in cases {
            let (rank, dims) = (l.dims().len(), l.dims());
            let bmnk = (dims[..rank - 2].iter().product(), dims[rank - 2], r.dims()[rank - 1], dims[rank - 1]);
            let what = format!("{name} of {dtype:?}");
            let got =
                a.matmul(&b, bmnk, &l, &r).unwrap_or_else(|e| panic!("{what}: {e}")).to_cpu_storage().expect("read");
            let wanted = reference(&ca, &cb, bmnk, &l, &r);
            // One rounding of sums of up to 20.
            close(&what, &values(&got), &wanted, tolerance(dtype));
        }
        let nothing =
            a.matmul(&b, (1, 2, 3, 0), &Layout::contiguous((2, 0)), &Layout::contiguous((0, 3))).expect("k = 0");
        assert_eq!(values(&nothing.to_cpu_storage().expect("read")), vec![0.; 6]);
    }
}

fn reference(
    a: &CpuStorage,
    b: &CpuStorage,
    (batch, m, n, k): (usize, usize, usize, usize),
    l: &Layout,
    r: &Layout,
) -> Vec<f64> {
    let dense = |s: &CpuStorage, layout: &Layout| {
        let mut out = CpuStorage::F64(vec![0.; layout.shape().elem_count()]);
        s.to_dtype(&Layout::contiguous(values(s).len()), DType::F64)
            .and_then(|s| s.copy_strided_src(&mut out, 0, layout))
            .expect("copy");
        values(&out)
    };
    let (a, b) = (dense(a, l), dense(b, r));
    let mut out = Vec::with_capacity(batch * m * n);
    for (i, row, column) in
        (0..batch).flat_map(|i| (0..m).flat_map(move |row| (0..n).map(move |column| (i, row, column))))
    {
        out.push((0..k).map(|x| a[(i * m + row) * k + x] * b[(i * k + x) * n + column]).sum());
    }
    out
}

#[test]
fn random_numbers_repeat_with_their_seed() {
    let device = npu_at(2);
    let draw = |dtype| -> Vec<f64> {
        let uniform: NpuStorage = device.rand_uniform(&4000.into(), dtype, -1., 3.).expect("uniform");
        values(&uniform.to_cpu_storage().expect("read"))
    };
    for dtype in [DType::F32, DType::BF16, DType::F64] {
        device.set_seed(7).expect("seed");
        let (first, second) = (draw(dtype), draw(dtype));
        assert_ne!(first, second);
        device.set_seed(7).expect("seed");
        assert_eq!(first, draw(dtype));
        assert!(first.iter().all(|&v| (-1. ..=3.).contains(&v)));
        let mean = first.iter().sum::<f64>() / 4000.;
        // Five deviations of the mean of 4000 numbers of deviation 4/sqrt(12).
        assert!((mean - 1.).abs() < 5. * 1.155 / 4000f64.sqrt(), "mean {mean}");
    }
    let normal =
        device.rand_normal(&4000.into(), DType::F32, 2., 0.5).and_then(|s| s.to_cpu_storage()).expect("normal");
    let (normal, mean) = (values(&normal), values(&normal).iter().sum::<f64>() / 4000.);
    let deviation = (normal.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / 4000.).sqrt();
    assert!(
        (mean - 2.).abs() < 5. * 0.5 / 4000f64.sqrt() && (deviation - 0.5).abs() < 0.04,
        "mean {mean}, deviation {deviation}"
    );
    assert!(device.rand_uniform(&4.into(), DType::U8, 0., 1.).is_err());
}

#[test]
fn sorting_gives_positions() {
    let device = npu();
    let layout = Layout::contiguous((3, 20));
    let (doubles, _) = both(&device, DType::F64, 60, 5);
    let error = candle_ascend::npu::arg_sort_last_dim(&doubles, &layout, true).expect_err("no sorting of doubles");
    assert!(error.to_string().starts_with("arg-sort on npu does not take F64"), "{error}");
    for dtype in NUMBERS.into_iter().filter(|&dtype| dtype != DType::F64) {
        let (npu, cpu) = both(&device, dtype, 60, 5);
        for ascending in [true, false] {
            let sorted = candle_ascend::npu::arg_sort_last_dim(&npu, &layout, ascending)
                .and_then(|s| s.to_cpu_storage())
                .expect("sort");
            let (positions, elements) = (values(&sorted), values(&cpu));
            for row in 0..3 {
                let row: Vec<f64> = (0..20).map(|i| elements[row * 20 + positions[row * 20 + i] as usize]).collect();
                assert!(
                    row.windows(2).all(|w| if ascending { w[0] <= w[1] } else { w[0] >= w[1] }),
                    "{dtype:?}: {row:?}"
                );
            }
        }
    }
}
