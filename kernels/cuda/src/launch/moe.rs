//! Mixtures of experts: the choice of experts, the grouping of rows by expert and back, and products with each group's weight.

use super::{Module, Real, View, by_type, config, dense, push_optional, run};
use crate::plan::{self, Gate, Grouped, Launch};
use candle_core::backend::BackendStorage;
use candle_core::cuda_backend::WrapErr;
use candle_core::cuda_backend::cudarc::driver::{CudaView, DeviceRepr, PushKernelArg};
use candle_core::{CudaDevice, CudaStorage, DType, Result};
use half::{bf16, f16};

const MOE: Module = Module { name: "npu-moe", ptx: include_str!(concat!(env!("OUT_DIR"), "/moe.ptx")) };
const GROUPED: Module = Module { name: "npu-grouped", ptx: include_str!(concat!(env!("OUT_DIR"), "/grouped.ptx")) };

// SAFETY: both are plain integers and floats, laid out as the structures of the same names in `cu/`.
unsafe impl DeviceRepr for Gate {}
// SAFETY: as above.
unsafe impl DeviceRepr for Grouped {}

/// Weights `[T, K]` (F32) and experts `[T, K]` (U32), the best first, for the rows of `logits` `[T, E]`, F32 and row-major, and the
/// bias `[E]` of the choice, if there is one. Weights of a row with a logit that is no number are none. None for more experts than the kernel
/// takes.
pub fn route(logits: View<'_>, bias: Option<View<'_>>, gate: Gate) -> Result<Option<(CudaStorage, CudaStorage)>> {
    let rows = logits.1.shape().elem_count() / gate.experts.max(1);
    let Some(launch) = plan::route(&gate, rows) else { return Ok(None) };
    let count = rows * gate.chosen;
    let from = dense::<f32>(logits, "route")?;
    let device = logits.0.device();
    // SAFETY: the kernel writes every element of both, and nothing reads them before on this stream.
    let (weights, chosen) = unsafe { (device.alloc::<f32>(count)?, device.alloc::<u32>(count)?) };
    let function = device.get_or_load_custom_func(&launch.entry, MOE.name, MOE.ptx)?;
    let bias: Option<CudaView<'_, f32>> = bias.map(|bias| dense(bias, "route's bias")).transpose()?;
    let mut builder = function.builder();
    builder.arg(&from);
    push_optional(&mut builder, bias.as_ref());
    builder.arg(&weights).arg(&chosen).arg(&gate);
    // SAFETY: the arguments are those of the entry point, in number, order and type; the views hold what `gate` says.
    unsafe { builder.launch(config(&launch)) }.w()?;
    let storage =
        (CudaStorage::wrap_cuda_slice(weights, device.clone()), CudaStorage::wrap_cuda_slice(chosen, device.clone()));
    Ok(Some(storage))
}

/// Groups `x` `[T, H]`, each row once for each of its `chosen` experts `[T, K]` (U32), by expert: the rows `[T·K, H]`, the place of each
/// choice among them `[T·K]` (U32), and where each expert's rows end, `[E]` (I64). What names no expert stands behind the last one's rows. All
/// row-major.
pub fn permute(
    x: View<'_>,
    chosen: View<'_>,
    experts: usize,
) -> Result<Option<(CudaStorage, CudaStorage, CudaStorage)>> {
    by_type!(x, T => permute_of::<T>(x, chosen, experts))
}

fn permute_of<T: Real>(
    x: View<'_>,
    chosen: View<'_>,
    experts: usize,
) -> Result<(CudaStorage, CudaStorage, CudaStorage)> {
    let (copies, width, all) = (chosen.1.dims()[1], x.1.dims()[1], chosen.1.shape().elem_count());
    let (device, list) = (x.0.device(), dense::<u32>(chosen, "permute's experts")?);
    let launch = plan::group(experts, all);
    // SAFETY: the kernel writes every element of both, and nothing reads them before on this stream.
    let (places, ends) = unsafe { (device.alloc::<u32>(all)?, device.alloc::<i64>(experts)?) };
    let function = device.get_or_load_custom_func(&launch.entry, MOE.name, MOE.ptx)?;
    let mut builder = function.builder();
    builder.arg(&list).arg(&places).arg(&ends).arg(&all).arg(&experts);
    // SAFETY: the arguments are those of the entry point, in number, order and type.
    unsafe { builder.launch(config(&launch)) }.w()?;
    let (from, launch) = (dense::<T>(x, "permute")?, plan::by_row("permute", T::SUFFIX, all));
    let rows = run!(device, T, MOE, launch, [y: all * width], &from, &places, &y, &width, &copies);
    let places = CudaStorage::wrap_cuda_slice(places, device.clone());
    Ok((rows, places, CudaStorage::wrap_cuda_slice(ends, device.clone())))
}

/// The sum of each token's rows of `y` `[T·K, H]`, weighted by `weights` `[T, K]` (F32), and its row of `common` `[T, H]`, if there is one:
/// `[T, H]`. `places` are those of [`permute`]; one beyond the rows makes its token's sum no number. All row-major.
pub fn unpermute(
    y: View<'_>,
    places: View<'_>,
    weights: View<'_>,
    common: Option<View<'_>>,
) -> Result<Option<CudaStorage>> {
    by_type!(y, T => unpermute_of::<T>(y, places, weights, common))
}

fn unpermute_of<T: Real>(
    y: View<'_>,
    places: View<'_>,
    weights: View<'_>,
    common: Option<View<'_>>,
) -> Result<CudaStorage> {
    let (tokens, copies, width) = (weights.1.dims()[0], weights.1.dims()[1], y.1.dims()[1]);
    let (from, at) = (dense::<T>(y, "unpermute")?, dense::<u32>(places, "unpermute's places")?);
    let (factors, rows) = (dense::<f32>(weights, "unpermute's weights")?, tokens * copies);
    let common = common.map(|common| dense::<T>(common, "unpermute's common rows")).transpose()?;
    let (device, launch) = (y.0.device(), plan::by_row("unpermute", T::SUFFIX, tokens));
    // SAFETY: the kernel writes every element, and nothing reads them before on this stream.
    let x = unsafe { device.alloc::<T>(tokens * width)? };
    let function = device.get_or_load_custom_func(&launch.entry, MOE.name, MOE.ptx)?;
    let mut builder = function.builder();
    builder.arg(&from).arg(&at).arg(&factors);
    push_optional(&mut builder, common.as_ref());
    builder.arg(&x).arg(&rows).arg(&width).arg(&copies);
    // SAFETY: the arguments are those of the entry point, in number, order and type; the kernel looks at each place before it reads there.
    unsafe { builder.launch(config(&launch)) }.w()?;
    Ok(CudaStorage::wrap_cuda_slice(x, device.clone()))
}

/// Each group of rows of `x` `[R, I]` times its expert's matrix of `weight` `[E, O, I]`: `[R, O]`. `ends` `[E]` (I64) says where each group
/// ends; rows behind the last end become no numbers. All row-major. None for more tiles than a grid has.
pub fn grouped_linear(x: View<'_>, weight: View<'_>, ends: View<'_>) -> Result<Option<CudaStorage>> {
    let (&[rows, inner], &[experts, outputs, _]) = (x.1.dims(), weight.1.dims()) else { return Ok(None) };
    let size = Grouped { rows, inner, outputs, experts };
    if plan::grouped_linear(&size, "").is_none() {
        return Ok(None);
    }
    by_type!(x, T => grouped_linear_of::<T>(x, weight, ends, size))
}

fn grouped_linear_of<T: Real>(x: View<'_>, weight: View<'_>, ends: View<'_>, size: Grouped) -> Result<CudaStorage> {
    let Some(launch) = plan::grouped_linear(&size, T::SUFFIX) else { candle_core::bail!("no kernel for {size:?}") };
    let (from, matrices) = (dense::<T>(x, "grouped-linear")?, dense::<T>(weight, "grouped-linear's weight")?);
    let (groups, count) = (dense::<i64>(ends, "grouped-linear's ends")?, size.rows * size.outputs);
    Ok(run!(x.0.device(), T, GROUPED, launch, [y: count], &from, &matrices, &groups, &y, &size))
}
