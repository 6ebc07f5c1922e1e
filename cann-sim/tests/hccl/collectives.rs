//! Each collective, element type and reduction on 1 to 4 ranks, against plain loops.

use crate::support::*;
use half::{bf16, f16};
use hccl_sys::*;

/// An element type as the loops see it: two operands at a time, in the type itself.
trait Number: Copy + Default + PartialEq + std::fmt::Debug + Send + Sync + 'static {
    const CODE: HcclDataType;
    fn from(value: i64) -> Self;
    fn meet(op: HcclReduceOp, a: Self, b: Self) -> Self;
    fn to_f64(self) -> f64;
    /// Relative size of one rounding; 0 where there is none.
    const EPSILON: f64;
}

macro_rules! numbers {
    ($($ty:ty = $code:ident, $epsilon:expr, |$v:ident| $from:expr, |$a:ident, $b:ident| $sum:expr, $prod:expr, |$x:ident| $wide:expr;)*) => {$(
        impl Number for $ty {
            const CODE: HcclDataType = $code;
            const EPSILON: f64 = $epsilon;
            fn from($v: i64) -> Self { $from }
            fn meet(op: HcclReduceOp, $a: Self, $b: Self) -> Self {
                match op {
                    HCCL_REDUCE_SUM => $sum,
                    HCCL_REDUCE_PROD => $prod,
                    HCCL_REDUCE_MAX => if $a > $b { $a } else { $b },
                    _ => if $a < $b { $a } else { $b },
                }
            }
            fn to_f64(self) -> f64 { let $x = self; $wide }
        }
    )*};
}
numbers! {
    i8 = HCCL_DATA_TYPE_INT8, 0.0, |v| v as i8, |a, b| a.wrapping_add(b), a.wrapping_mul(b), |x| x as f64;
    i16 = HCCL_DATA_TYPE_INT16, 0.0, |v| v as i16, |a, b| a.wrapping_add(b), a.wrapping_mul(b), |x| x as f64;
    i32 = HCCL_DATA_TYPE_INT32, 0.0, |v| v as i32, |a, b| a.wrapping_add(b), a.wrapping_mul(b), |x| x as f64;
    i64 = HCCL_DATA_TYPE_INT64, 0.0, |v| v, |a, b| a.wrapping_add(b), a.wrapping_mul(b), |x| x as f64;
    // A third keeps sums from being exact, so that their order shows.
    f32 = HCCL_DATA_TYPE_FP32, 6e-8, |v| v as f32 / 3.0, |a, b| a + b, a * b, |x| x as f64;
    f16 = HCCL_DATA_TYPE_FP16, 5e-4, |v| f16::from_f32(v as f32 / 3.0),
        |a, b| f16::from_f32(a.to_f32() + b.to_f32()), f16::from_f32(a.to_f32() * b.to_f32()), |x| x.to_f64();
    bf16 = HCCL_DATA_TYPE_BFP16, 4e-3, |v| bf16::from_f32(v as f32 / 3.0),
        |a, b| bf16::from_f32(a.to_f32() + b.to_f32()), bf16::from_f32(a.to_f32() * b.to_f32()), |x| x.to_f64();
}

const REDUCTIONS: [HcclReduceOp; 4] = [HCCL_REDUCE_SUM, HCCL_REDUCE_PROD, HCCL_REDUCE_MAX, HCCL_REDUCE_MIN];

/// What the pages refuse: a product of int16 or bfp16.
fn taken<T: Number>(op: HcclReduceOp) -> bool {
    op != HCCL_REDUCE_PROD || ![HCCL_DATA_TYPE_INT16, HCCL_DATA_TYPE_BFP16].contains(&T::CODE)
}

/// Rank `rank`'s input.
fn input<T: Number>(rank: usize, count: usize) -> Vec<T> {
    let mut noise = noise(1000 + rank);
    (0..count).map(|_| T::from((noise() % 23) as i64 - 11)).collect()
}

/// The reduction of all inputs: element `i` lies in part `part(i)`, which starts at the rank after that.
fn reduced<T: Number>(inputs: &[Vec<T>], op: HcclReduceOp, part: impl Fn(usize) -> usize) -> Vec<T> {
    let ranks = inputs.len();
    let element = |i: usize| {
        let first = part(i) + 1;
        let mut value = inputs[first % ranks][i];
        for step in 1..ranks {
            value = T::meet(op, value, inputs[(first + step) % ranks][i]);
        }
        value
    };
    (0..inputs[0].len()).map(element).collect()
}

/// The part of element `i` when `count` elements are divided among `ranks`, the first few parts one longer.
fn part_of(i: usize, count: usize, ranks: usize) -> usize {
    let lengths = (0..ranks).map(|part| count / ranks + usize::from(part < count % ranks));
    lengths
        .scan(0, |end, length| {
            *end += length;
            Some(*end)
        })
        .position(|end| i < end)
        .unwrap()
}

/// Whether `got` is near what wide arithmetic in any order gives: at most one rounding for each operand, of partial
/// results that are at most the sum of the magnitudes, or the product.
fn near<T: Number>(got: &[T], inputs: &[Vec<T>], op: HcclReduceOp) {
    if T::EPSILON == 0.0 {
        return;
    }
    for (i, got) in got.iter().enumerate() {
        let operands: Vec<f64> = inputs.iter().map(|input| input[i].to_f64()).collect();
        let wanted = operands.iter().copied().reduce(|a, b| match op {
            HCCL_REDUCE_SUM => a + b,
            HCCL_REDUCE_PROD => a * b,
            HCCL_REDUCE_MAX => a.max(b),
            _ => a.min(b),
        });
        let scale = if op == HCCL_REDUCE_PROD { wanted.unwrap().abs() } else { operands.iter().map(|x| x.abs()).sum() };
        let error = (got.to_f64() - wanted.unwrap()).abs();
        assert!(error <= T::EPSILON * inputs.len() as f64 * scale, "{got:?}, wanted {wanted:?}");
    }
}

fn reductions_of<T: Number>(size: usize) {
    for count in [1, 7, 64] {
        let inputs: Vec<Vec<T>> = (0..size).map(|rank| input(rank, count)).collect();
        let wide: Vec<Vec<T>> = (0..size).map(|rank| input(rank, count * size)).collect();
        ranks(size, |me| {
            let (send, recv) = (Buffer::of(&inputs[me.rank]), Buffer::room::<T>(count));
            let (all, root) = (Buffer::of(&wide[me.rank]), size - 1);
            for op in REDUCTIONS {
                // SAFETY: the buffers are as long as the calls say.
                let reduce = |recv: &Buffer| unsafe {
                    hccl().HcclAllReduce(send.data, recv.data, count as u64, T::CODE, op, me.comm, me.stream)
                };
                if !taken::<T>(op) {
                    refused(reduce(&recv), HCCL_E_NOT_SUPPORT, &["prod", "Ascend910B3"]);
                    continue;
                }
                ok(reduce(&recv));
                me.done();
                let wanted = reduced(&inputs, op, |i| part_of(i, count, size));
                assert_eq!(recv.values::<T>(), wanted, "all-reduce {op} of {count} on {size}");
                near(&wanted, &inputs, op);

                let rooted = Buffer::room::<T>(count);
                // SAFETY: as above.
                unsafe {
                    let (count, root) = (count as u64, root as u32);
                    ok(hccl().HcclReduce(send.data, rooted.data, count, T::CODE, op, root, me.comm, me.stream));
                    ok(hccl().HcclReduceScatter(all.data, recv.data, count, T::CODE, op, me.comm, me.stream));
                }
                me.done();
                let untouched = vec![T::default(); count];
                assert_eq!(rooted.values::<T>(), if me.rank == root { wanted } else { untouched });
                let own = me.rank * count..(me.rank + 1) * count;
                assert_eq!(recv.values::<T>(), reduced(&wide, op, |i| i / count)[own]);
            }
        });
    }
}

#[test]
fn reductions_of_integers() {
    for size in 1..=4 {
        reductions_of::<i8>(size);
        reductions_of::<i16>(size);
        reductions_of::<i32>(size);
        reductions_of::<i64>(size);
    }
}

#[test]
fn reductions_of_floats() {
    for size in 1..=4 {
        reductions_of::<f32>(size);
        reductions_of::<f16>(size);
        reductions_of::<bf16>(size);
    }
}

#[test]
fn reductions_in_place() {
    let (size, count) = (3, 10);
    let inputs: Vec<Vec<f32>> = (0..size).map(|rank| input(rank, count * size)).collect();
    ranks(size, |me| {
        let buffer = Buffer::of(&inputs[me.rank]);
        let all = (count * size) as u64;
        // SAFETY: the buffer has that many elements.
        unsafe {
            let (data, op) = (buffer.data, HCCL_REDUCE_SUM);
            ok(hccl().HcclAllReduce(data, data, all, HCCL_DATA_TYPE_FP32, op, me.comm, me.stream));
        }
        me.done();
        assert_eq!(buffer.values::<f32>(), reduced(&inputs, HCCL_REDUCE_SUM, |i| i / count));
    });
}

/// Types that are only moved, with their sizes.
const MOVED: [(HcclDataType, usize); 12] = [
    (HCCL_DATA_TYPE_INT8, 1),
    (HCCL_DATA_TYPE_UINT8, 1),
    (HCCL_DATA_TYPE_INT16, 2),
    (HCCL_DATA_TYPE_UINT16, 2),
    (HCCL_DATA_TYPE_INT32, 4),
    (HCCL_DATA_TYPE_UINT32, 4),
    (HCCL_DATA_TYPE_INT64, 8),
    (HCCL_DATA_TYPE_UINT64, 8),
    (HCCL_DATA_TYPE_FP16, 2),
    (HCCL_DATA_TYPE_BFP16, 2),
    (HCCL_DATA_TYPE_FP32, 4),
    (HCCL_DATA_TYPE_FP64, 8),
];

fn bytes_of(rank: usize, count: usize) -> Vec<u8> {
    let mut noise = noise(77 + rank);
    (0..count).map(|_| noise() as u8).collect()
}

#[test]
fn data_is_moved_in_every_type() {
    for size in 1..=4 {
        ranks(size, |me| {
            for (dtype, width) in MOVED {
                let (count, root) = (5usize, (size as u32) / 2);
                let piece = count * width;
                let inputs: Vec<Vec<u8>> = (0..size).map(|rank| bytes_of(rank, piece * size)).collect();
                let own = Buffer::of(&inputs[me.rank]);
                let (whole, part) = (Buffer::room::<u8>(piece * size), Buffer::room::<u8>(piece));
                let (cast, swapped) = (Buffer::of(&inputs[me.rank][..piece]), Buffer::room::<u8>(piece * size));
                let n = count as u64;
                // SAFETY: the buffers are as long as the calls say.
                unsafe {
                    ok(hccl().HcclAllGather(own.data, whole.data, n, dtype, me.comm, me.stream));
                    ok(hccl().HcclBroadcast(cast.data, n, dtype, root, me.comm, me.stream));
                    ok(hccl().HcclScatter(own.data, part.data, n, dtype, root, me.comm, me.stream));
                    ok(hccl().HcclAlltoAll(own.data, n, dtype, swapped.data, n, dtype, me.comm, me.stream));
                    ok(hccl().HcclBarrier(me.comm, me.stream));
                }
                me.done();
                let of = |rank: usize, at: usize| &inputs[rank][at * piece..(at + 1) * piece];
                for rank in 0..size {
                    let range = rank * piece..(rank + 1) * piece;
                    assert_eq!(&whole.values::<u8>()[range.clone()], of(rank, 0), "all-gather of {dtype} on {size}");
                    assert_eq!(&swapped.values::<u8>()[range], of(rank, me.rank), "all-to-all of {dtype} on {size}");
                }
                assert_eq!(cast.values::<u8>(), of(root as usize, 0), "broadcast of {dtype} on {size}");
                assert_eq!(part.values::<u8>(), of(root as usize, me.rank), "scatter of {dtype} on {size}");
            }
        });
    }
}

/// How much rank `from` has for rank `to` in the ragged collectives: also nothing.
fn ragged(from: usize, to: usize) -> usize {
    (from * 3 + to * 5) % 4
}

#[test]
fn ragged_collectives() {
    for size in 1..=4 {
        ranks(size, |me| {
            let counts: Vec<u64> = (0..size).map(|rank| ragged(rank, 1) as u64).collect();
            // A gap before each part, which must stay as it was.
            let starts: Vec<u64> = (0..size).map(|rank| counts[..rank].iter().sum::<u64>() + rank as u64 + 1).collect();
            let total = (counts.iter().sum::<u64>() + size as u64 + 1) as usize;
            let inputs: Vec<Vec<i32>> = (0..size).map(|rank| input(rank, total)).collect();
            let own = counts[me.rank] as usize;

            let (send, recv) = (Buffer::of(&inputs[me.rank][..own]), Buffer::of(&vec![-99i32; total]));
            let (counts_at, starts_at) = (counts.as_ptr().cast(), starts.as_ptr().cast());
            let (dtype, comm, stream) = (HCCL_DATA_TYPE_INT32, me.comm, me.stream);
            // SAFETY: the buffers and arrays are as long as the calls say.
            unsafe {
                ok(hccl().HcclAllGatherV(send.data, own as u64, recv.data, counts_at, starts_at, dtype, comm, stream));
            }
            me.done();
            let mut wanted = vec![-99; total];
            for rank in 0..size {
                let (start, count) = (starts[rank] as usize, counts[rank] as usize);
                wanted[start..start + count].copy_from_slice(&inputs[rank][..count]);
            }
            assert_eq!(recv.values::<i32>(), wanted, "all-gather-v on {size}");

            let (send, recv) = (Buffer::of(&inputs[me.rank]), Buffer::room::<i32>(own));
            // SAFETY: as above.
            unsafe {
                let (count, op) = (own as u64, HCCL_REDUCE_MAX);
                ok(hccl()
                    .HcclReduceScatterV(send.data, counts_at, starts_at, recv.data, count, dtype, op, comm, stream));
            }
            me.done();
            let start = starts[me.rank] as usize;
            let wanted = reduced(&inputs, HCCL_REDUCE_MAX, |_| 0)[start..start + own].to_vec();
            assert_eq!(recv.values::<i32>(), wanted, "reduce-scatter-v on {size}");
        });
    }
}

#[test]
fn ragged_all_to_all() {
    for size in 1..=4 {
        ranks(size, |me| {
            let to: Vec<u64> = (0..size).map(|rank| ragged(me.rank, rank) as u64).collect();
            let from: Vec<u64> = (0..size).map(|rank| ragged(rank, me.rank) as u64).collect();
            let starts = |counts: &[u64]| (0..size).map(|i| counts[..i].iter().sum()).collect::<Vec<u64>>();
            let matrix: Vec<u64> = (0..size * size).map(|i| ragged(i / size, i % size) as u64).collect();
            let value = |from: usize, to: usize, i: usize| (100 * from + 10 * to + i) as i64;
            let row = |from: usize, to: usize| (0..ragged(from, to)).map(move |i| value(from, to, i));
            let send = Buffer::of(&(0..size).flat_map(|to| row(me.rank, to)).collect::<Vec<i64>>());
            let wanted: Vec<i64> = (0..size).flat_map(|from| row(from, me.rank)).collect();
            let (send_starts, recv_starts) = (starts(&to), starts(&from));
            let dtype = HCCL_DATA_TYPE_INT64;
            let recv = Buffer::room::<i64>(wanted.len());
            // SAFETY: the buffers and arrays are as long as the calls say.
            unsafe {
                let (counts, starts) = (to.as_ptr().cast(), send_starts.as_ptr().cast());
                let (recv_counts, recv_starts) = (from.as_ptr().cast(), recv_starts.as_ptr().cast());
                ok(hccl().HcclAlltoAllV(
                    send.data,
                    counts,
                    starts,
                    dtype,
                    recv.data,
                    recv_counts,
                    recv_starts,
                    dtype,
                    me.comm,
                    me.stream,
                ));
            }
            me.done();
            assert_eq!(recv.values::<i64>(), wanted, "all-to-all-v on {size}");
            let recv = Buffer::room::<i64>(wanted.len());
            // SAFETY: as above.
            unsafe {
                let matrix = matrix.as_ptr().cast();
                ok(hccl().HcclAlltoAllVC(send.data, matrix, dtype, recv.data, dtype, me.comm, me.stream));
            }
            me.done();
            assert_eq!(recv.values::<i64>(), wanted, "all-to-all-vc on {size}");
        });
    }
}

#[test]
fn results_are_the_same_on_every_rank_and_in_every_run() {
    let run = || {
        ranks(4, |me| {
            let (send, recv) = (Buffer::of(&input::<f32>(me.rank, 1001)), Buffer::room::<f32>(1001));
            // SAFETY: the buffers have that many elements.
            unsafe {
                let (dtype, op) = (HCCL_DATA_TYPE_FP32, HCCL_REDUCE_SUM);
                ok(hccl().HcclAllReduce(send.data, recv.data, 1001, dtype, op, me.comm, me.stream));
            }
            me.done();
            recv.values::<f32>().iter().map(|x| x.to_bits()).collect::<Vec<_>>()
        })
    };
    let (first, second) = (run(), run());
    assert!(first.iter().all(|bits| *bits == first[0]));
    assert_eq!(first, second);
}
