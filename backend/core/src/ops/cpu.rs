//! What the CPU overrides of fused operators share: rows in F32, in parallel, rounded once at the end.

use crate::{CpuStorage, DType, Layout, Operand, Result, Shape, Storage, Tensor, WithDType, bail};
use half::{bf16, f16};
use npu_cpu_kernels::{Float, Form, share_chunks, share_new};
use std::sync::atomic::{AtomicU32, Ordering};

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

/// Computes every row (last dimension) of `x` into a row of `width` elements: `kernel(row index, row, result)`, which writes
/// every element and reads none.
/// None where the operator has no CPU override.
pub(super) fn map_rows(
    x: &Tensor,
    width: usize,
    kernel: impl Fn(usize, &[f32], &mut [f32]) + Sync,
) -> Result<Option<Tensor>> {
    zip_rows([x], width, |index, [row], result| kernel(index, row, result))
}

/// As [`map_rows`] for operands of one type that have as many rows each, of whatever width.
pub(super) fn zip_rows<const N: usize>(
    operands: [&Tensor; N],
    width: usize,
    kernel: impl Fn(usize, [&[f32]; N], &mut [f32]) + Sync,
) -> Result<Option<Tensor>> {
    let x = operands[0];
    if x.rank() == 0 || operands.iter().any(|other| other.dtype() != x.dtype() || !other.device().is_cpu()) {
        return Ok(None);
    }
    match x.dtype() {
        DType::F32 => typed::<f32, N>(operands, width, kernel).map(Some),
        DType::BF16 => typed::<bf16, N>(operands, width, kernel).map(Some),
        DType::F16 => typed::<f16, N>(operands, width, kernel).map(Some),
        _ => Ok(None),
    }
}

fn typed<T: Real, const N: usize>(
    operands: [&Tensor; N],
    width: usize,
    kernel: impl Fn(usize, [&[f32]; N], &mut [f32]) + Sync,
) -> Result<Tensor> {
    let x = operands[0];
    let shape = Shape::from(&x.dims()[..x.rank() - 1]).extend(&[width]);
    let count = shape.elem_count() / width.max(1);
    let mut gapless = Vec::with_capacity(N);
    for operand in operands {
        gapless.push(operand.contiguous()?);
    }
    let guards: Vec<_> = gapless.iter().map(|operand| operand.storage()).collect();
    let mut rows: [(&[T], usize); N] = [(&[], 0); N];
    for ((rows, operand), guard) in rows.iter_mut().zip(&gapless).zip(&guards) {
        let values = &elements::<T>(guard, operand.layout())?[..operand.elem_count()];
        *rows = (values, values.len() / count.max(1));
        if values.len() != count * rows.1 {
            bail!("{:?} has not the {count} rows of {:?}", operand.shape(), x.shape())
        }
    }
    let widest = rows.iter().map(|(_, row)| *row).fold(width, usize::max);
    let out = if count == 0 || rows.iter().any(|(_, row)| *row == 0) {
        vec![T::zero(); shape.elem_count()]
    } else {
        let many = TASK.div_ceil(widest);
        share_new(shape.elem_count(), many * width, |task, out: &mut [T]| {
            let mut result = Vec::new();
            let mut wide: [Vec<f32>; N] = std::array::from_fn(|_| Vec::new());
            for (index, out) in out.chunks_exact_mut(width).enumerate() {
                let index = task * many + index;
                let of_operand = |i: usize| &rows[i].0[index * rows[i].1..][..rows[i].1];
                for (i, wide) in wide.iter_mut().enumerate() {
                    if T::as_wide(&[]).is_none() {
                        wide.resize(rows[i].1, 0.0);
                        T::widen_slice(of_operand(i), wide);
                    }
                }
                let inputs = std::array::from_fn(|i| T::as_wide(of_operand(i)).unwrap_or(&wide[i]));
                match T::as_wide_mut(out) {
                    Some(out) => kernel(index, inputs, out),
                    None => {
                        result.resize(width, 0.0);
                        kernel(index, inputs, &mut result);
                        T::round_slice(&result, out);
                    }
                }
            }
        })
    };
    drop(guards);
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
    let (of_x, of_y) = (x.storage(), y.storage());
    let sum = added(&elements::<T>(&of_x, x.layout())?[..x.elem_count()], elements::<T>(&of_y, y.layout())?);
    Tensor::from_vec(sum, x.shape(), x.device())
}

/// The sums of two operands of a 16-bit type without gaps; none of others, which candle adds as fast.
pub(super) fn add_halves(x: Operand<'_>, y: Operand<'_>) -> Result<Option<Storage>> {
    fn typed<T: Real>(x: Operand<'_>, y: Operand<'_>) -> Result<Storage> {
        let count = x.layout.shape().elem_count();
        let sum = added(&elements::<T>(x.storage, x.layout)?[..count], elements::<T>(y.storage, y.layout)?);
        Ok(Storage::Cpu(T::to_cpu_storage_owned(sum)))
    }
    match x.storage {
        _ if !x.layout.is_contiguous() || !y.layout.is_contiguous() => Ok(None),
        Storage::Cpu(CpuStorage::BF16(_)) => typed::<bf16>(x, y).map(Some),
        Storage::Cpu(CpuStorage::F16(_)) => typed::<f16>(x, y).map(Some),
        _ => Ok(None),
    }
}

fn added<T: Real>(a: &[T], b: &[T]) -> Vec<T> {
    share_new(a.len(), TASK, |task, out: &mut [T]| {
        let (mut left, mut right) = ([0f32; PIECE], [0f32; PIECE]);
        for (piece, out) in out.chunks_mut(PIECE).enumerate() {
            let (at, count) = (task * TASK + piece * PIECE, out.len());
            T::widen_slice(&a[at..at + count], &mut left[..count]);
            T::widen_slice(&b[at..at + count], &mut right[..count]);
            left.iter_mut().zip(&right).for_each(|(left, right)| *left += right);
            T::round_slice(&left[..count], out);
        }
    })
}

/// The sum of the cross entropies of rows of `logits` `[N, V]` (F32, nobody else's) and, if it is asked for, its gradient for
/// them, which takes their place; rows whose target is `ignored` count for nothing. None where the CPU has no override.
pub(super) fn cross_entropy(
    logits: &Tensor,
    targets: &Tensor,
    ignored: i64,
    differentiate: bool,
) -> Result<Option<(Tensor, Option<Tensor>)>> {
    if !logits.device().is_cpu() || logits.dtype() != DType::F32 || !logits.is_contiguous() {
        return Ok(None);
    }
    let (classes, targets) = (logits.dims2()?.1, targets.to_vec1::<i64>()?);
    let wrong = targets.iter().find(|&&target| target != ignored && !(0..classes as i64).contains(&target));
    if let Some(target) = wrong {
        bail!("cross entropy: the target {target} is none of {classes} classes, and not {ignored}, which is left out")
    }
    let target_of = |row: usize| (targets[row] != ignored).then(|| targets[row] as usize);
    if !differentiate {
        let losses =
            map_rows(logits, 1, |index, row, loss| loss[0] = target_of(index).map_or(0.0, |at| loss_of(row, at)))?;
        return Ok(Some((losses.expect("logits are F32").sum_all()?, None)));
    }
    let loss = gradient_in_place(logits, &target_of)?;
    Ok(Some((Tensor::new(loss, logits.device())?, Some(logits.clone()))))
}

/// The cross entropy of a row of logits for the class `target`.
fn loss_of(row: &[f32], target: usize) -> f32 {
    let form = Form::fastest();
    let max = form.max(row);
    let sum_of_piece = |row: &[f32]| {
        let mut powers = [0f32; PIECE];
        powers[..row.len()].copy_from_slice(row);
        form.exp_and_sum(&mut powers[..row.len()], max)
    };
    row.chunks(PIECE).map(sum_of_piece).sum::<f32>().ln() + max - row[target]
}

/// Writes the softmax, less one at the target, over each row of logits that counts and zeros over the others; the sum of the
/// losses.
fn gradient_in_place(logits: &Tensor, target_of: &(impl Fn(usize) -> Option<usize> + Sync)) -> Result<f32> {
    let ((rows, classes), form) = (logits.dims2()?, Form::fastest());
    let losses: Vec<AtomicU32> = (0..rows).map(|_| AtomicU32::new(0)).collect();
    let (start, mut storage) = (logits.layout().start_offset(), logits.storage_mut());
    let Storage::Cpu(CpuStorage::F32(values)) = &mut *storage else { bail!("F32 logits have storage of another kind") };
    share_chunks(&mut values[start..start + rows * classes], classes.max(1), |index, row| {
        let Some(target) = target_of(index) else { return row.fill(0.0) };
        let (of_target, max) = (row[target], form.max(row));
        let sum = form.exp_and_sum(row, max);
        losses[index].store((sum.ln() + max - of_target).to_bits(), Ordering::Relaxed);
        let reciprocal = 1.0 / sum;
        row.iter_mut().for_each(|power| *power *= reciprocal);
        row[target] -= 1.0;
    });
    Ok(losses.iter().map(|loss| f32::from_bits(loss.load(Ordering::Relaxed))).sum())
}

/// The elements of `x` as F32 on the host.
pub(super) fn values_f32(x: &Tensor) -> Result<Vec<f32>> {
    x.to_dtype(DType::F32)?.host_values()
}
