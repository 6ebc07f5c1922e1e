//! What the CPU overrides of fused operators share: rows in F32, in parallel, rounded once at the end.

use crate::{DType, Layout, Result, Shape, Storage, Tensor, WithDType, bail};
use half::{bf16, f16};
use npu_cpu_kernels::{Float, share_chunks};

/// Elements of the operand that are worth a task of their own.
const TASK: usize = 1 << 14;

/// An element type whose rows are widened to F32.
pub(super) trait Real: WithDType + Float {}
impl Real for f32 {}
impl Real for bf16 {}
impl Real for f16 {}

/// Calls a generic function with the element type of a tensor on the CPU. None where the operator has no CPU override:
/// another device, or F64 and integers, which F32 does not hold.
macro_rules! on_cpu {
    ($x:expr, $function:ident($($arg:expr),* $(,)?)) => {
        match $x.dtype() {
            _ if !$x.device().is_cpu() => Ok(None),
            $crate::DType::F32 => $function::<f32>($($arg),*).map(Some),
            $crate::DType::BF16 => $function::<half::bf16>($($arg),*).map(Some),
            $crate::DType::F16 => $function::<half::f16>($($arg),*).map(Some),
            _ => Ok(None),
        }
    };
}
pub(super) use on_cpu;

/// The storage on the CPU from where `layout` starts.
pub(super) fn elements<'a, T: Real>(storage: &'a Storage, layout: &Layout) -> Result<&'a [T]> {
    let Storage::Cpu(storage) = storage else { bail!("a tensor on the CPU has storage elsewhere") };
    Ok(&T::cpu_storage_as_slice(storage)?[layout.start_offset()..])
}

/// Computes every row (last dimension) of `x` into a row of `width` elements: `kernel(row index, row, result)`.
/// None where the operator has no CPU override.
pub(super) fn map_rows(
    x: &Tensor,
    width: usize,
    kernel: impl Fn(usize, &[f32], &mut [f32]) + Sync,
) -> Result<Option<Tensor>> {
    if x.rank() == 0 {
        return Ok(None);
    }
    on_cpu!(x, typed(x, width, kernel))
}

fn typed<T: Real>(x: &Tensor, width: usize, kernel: impl Fn(usize, &[f32], &mut [f32]) + Sync) -> Result<Tensor> {
    let x = x.contiguous()?;
    let rank = x.rank();
    let shape = Shape::from(&x.dims()[..rank - 1]).extend(&[width]);
    let row = x.dims()[rank - 1];
    let mut out = vec![T::zero(); shape.elem_count()];
    if !out.is_empty() && row > 0 {
        let guard = x.storage();
        let values = &elements::<T>(&guard, x.layout())?[..x.elem_count()];
        let rows = TASK.div_ceil(row.max(width));
        share_chunks(&mut out, rows * width, |task, out| {
            let (mut wide, mut result) = (vec![0f32; row], vec![0f32; width]);
            for (index, out) in out.chunks_exact_mut(width).enumerate() {
                let index = task * rows + index;
                T::widen_slice(&values[index * row..][..row], &mut wide);
                kernel(index, &wide, &mut result);
                T::round_slice(&result, out);
            }
        });
    }
    Tensor::from_vec(out, shape, x.device())
}

/// The sums of the elements of two tensors of one shape and type, each rounded once. None where the CPU has no override.
pub(super) fn add(x: &Tensor, y: &Tensor) -> Result<Option<Tensor>> {
    on_cpu!(x, typed_add(x, y))
}

/// Elements that are widened at a time: what stays in the first-level cache.
const PIECE: usize = 1 << 10;

fn typed_add<T: Real>(x: &Tensor, y: &Tensor) -> Result<Tensor> {
    let (x, y) = (x.contiguous()?, y.contiguous()?);
    let mut out = vec![T::zero(); x.elem_count()];
    if !out.is_empty() {
        let (of_x, of_y) = (x.storage(), y.storage());
        let (a, b) = (elements::<T>(&of_x, x.layout())?, elements::<T>(&of_y, y.layout())?);
        share_chunks(&mut out, TASK, |task, out| {
            let (mut left, mut right) = ([0f32; PIECE], [0f32; PIECE]);
            for (piece, out) in out.chunks_mut(PIECE).enumerate() {
                let (at, count) = (task * TASK + piece * PIECE, out.len());
                T::widen_slice(&a[at..at + count], &mut left[..count]);
                T::widen_slice(&b[at..at + count], &mut right[..count]);
                left.iter_mut().zip(&right).for_each(|(left, right)| *left += right);
                T::round_slice(&left[..count], out);
            }
        });
    }
    Tensor::from_vec(out, x.shape(), x.device())
}

/// The elements of `x` as F32 on the host.
pub(super) fn values_f32(x: &Tensor) -> Result<Vec<f32>> {
    x.to_dtype(DType::F32)?.host_values()
}
