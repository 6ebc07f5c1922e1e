//! What the CPU overrides of fused operators share: rows in F32, in parallel, rounded once at the end.

use crate::{DType, Result, Shape, Storage, Tensor, WithDType};
use half::{bf16, f16};
use rayon::prelude::*;

/// An element type whose rows are widened to F32.
trait Real: WithDType {
    fn widen(self) -> f32;
    fn round(value: f32) -> Self;
}

macro_rules! real {
    ($($ty:ty, $widen:expr, $round:expr;)*) => { $(
        impl Real for $ty {
            fn widen(self) -> f32 {
                $widen(self)
            }
            fn round(value: f32) -> Self {
                $round(value)
            }
        }
    )* };
}
real! {
    f32, |v| v, |v| v;
    bf16, bf16::to_f32, bf16::from_f32;
    f16, f16::to_f32, f16::from_f32;
}

/// Computes every row (last dimension) of `x` into a row of `width` elements: `kernel(row index, row, result)`.
/// None where the operator has no CPU override: another device, or F64 and integers, which F32 does not hold.
pub(super) fn map_rows(
    x: &Tensor,
    width: usize,
    kernel: impl Fn(usize, &[f32], &mut [f32]) + Sync,
) -> Result<Option<Tensor>> {
    if !x.device().is_cpu() || x.rank() == 0 {
        return Ok(None);
    }
    match x.dtype() {
        DType::F32 => typed::<f32>(x, width, kernel).map(Some),
        DType::BF16 => typed::<bf16>(x, width, kernel).map(Some),
        DType::F16 => typed::<f16>(x, width, kernel).map(Some),
        _ => Ok(None),
    }
}

fn typed<T: Real>(x: &Tensor, width: usize, kernel: impl Fn(usize, &[f32], &mut [f32]) + Sync) -> Result<Tensor> {
    let x = x.contiguous()?;
    let rank = x.rank();
    let shape = Shape::from(&x.dims()[..rank - 1]).extend(&[width]);
    let row = x.dims()[rank - 1];
    let mut out = vec![T::zero(); shape.elem_count()];
    if !out.is_empty() && row > 0 {
        let guard = x.storage();
        let Storage::Cpu(storage) = &*guard else { crate::bail!("a tensor on the CPU has storage elsewhere") };
        let offset = x.layout().start_offset();
        let values = &T::cpu_storage_as_slice(storage)?[offset..offset + x.elem_count()];
        out.par_chunks_mut(width).zip(values.par_chunks(row)).enumerate().for_each_init(
            || (vec![0f32; row], vec![0f32; width]),
            |(wide, result), (index, (out, values))| {
                wide.iter_mut().zip(values).for_each(|(wide, &value)| *wide = value.widen());
                kernel(index, wide, result);
                out.iter_mut().zip(result.iter()).for_each(|(out, &value)| *out = T::round(value));
            },
        );
    }
    Tensor::from_vec(out, shape, x.device())
}

/// The elements of `x` as F32 on the host.
pub(super) fn values_f32(x: &Tensor) -> Result<Vec<f32>> {
    x.to_dtype(DType::F32)?.host_values()
}
