//! Launching kernels on candle's CUDA storage, and what candle's errors mean.
//!
//! Each function takes operands of one element type (F32, F16 or BF16) on one device and answers none when there is no
//! kernel for them. Work goes to candle's stream, in order with candle's own.

pub mod moe;
pub mod paged;

use crate::plan::{self, Launch, Problem, Rows};
use crate::{Error, code_name};
use candle_core::backend::BackendStorage;
use candle_core::cuda_backend::cudarc::driver::result::mem_get_info;
use candle_core::cuda_backend::cudarc::driver::sys::CUresult;
use candle_core::cuda_backend::cudarc::driver::{CudaView, DeviceRepr, LaunchArgs, LaunchConfig, PushKernelArg};
use candle_core::cuda_backend::{CudaDType, CudaError, WrapErr, kernels};
use candle_core::{CudaDevice, CudaStorage, DType, Layout, Result, bail};
use half::{bf16, f16};

/// The PTX that `build.rs` had nvcc make of a file in `cu/`.
struct Module {
    name: &'static str,
    ptx: &'static str,
}

const ROWS: Module = Module { name: "npu-rows", ptx: include_str!(concat!(env!("OUT_DIR"), "/rows.ptx")) };
const ATTENTION: Module =
    Module { name: "npu-attention", ptx: include_str!(concat!(env!("OUT_DIR"), "/attention.ptx")) };

// SAFETY: both are plain integers and floats, laid out as the structures of the same names in `cu/`.
unsafe impl DeviceRepr for Rows {}
// SAFETY: as above.
unsafe impl DeviceRepr for Problem {}

/// An element type that the kernels are compiled for.
trait Real: CudaDType + DeviceRepr {
    const SUFFIX: &'static str;
}

impl Real for f32 {
    const SUFFIX: &'static str = "f32";
}

impl Real for f16 {
    const SUFFIX: &'static str = "f16";
}

impl Real for bf16 {
    const SUFFIX: &'static str = "bf16";
}

/// `$body` with `$T` as the element type of `$x`; none for a type without kernels.
macro_rules! by_type {
    ($x:expr, $T:ident => $body:expr) => {
        match $x.0.dtype() {
            DType::F32 => {
                type $T = f32;
                $body.map(Some)
            }
            DType::F16 => {
                type $T = f16;
                $body.map(Some)
            }
            DType::BF16 => {
                type $T = bf16;
                $body.map(Some)
            }
            _ => Ok(None),
        }
    };
}
use by_type;

/// Storage and layout of one operand.
pub type View<'a> = (&'a CudaStorage, &'a Layout);

/// The elements from the view's first on.
fn elements<'a, T: Real>((storage, layout): View<'a>) -> Result<CudaView<'a, T>> {
    Ok(storage.as_cuda_slice::<T>()?.slice(layout.start_offset()..))
}

/// The elements of a row-major view.
fn dense<'a, T: CudaDType + DeviceRepr>((storage, layout): View<'a>, what: &str) -> Result<CudaView<'a, T>> {
    match layout.contiguous_offsets() {
        Some((from, to)) => Ok(storage.as_cuda_slice::<T>()?.slice(from..to)),
        None => bail!("{what} of a CUDA kernel must be row-major, got strides {:?}", layout.stride()),
    }
}

fn config(launch: &Launch) -> LaunchConfig {
    let [x, y, z] = launch.grid;
    LaunchConfig { grid_dim: (x, y, z), block_dim: (launch.threads, 1, 1), shared_mem_bytes: 0 }
}

/// Gives a kernel the address of an operand that may be missing, which is null then.
fn push_optional<'a, T>(builder: &mut LaunchArgs<'a>, operand: Option<&'a CudaView<'a, T>>) {
    const NULL: &u64 = &0;
    match operand {
        Some(operand) => builder.arg(operand),
        None => builder.arg(NULL),
    };
}

/// Rows, and elements a row.
fn rows_of(layout: &Layout) -> (usize, usize) {
    let width = layout.dims().last().copied().unwrap_or(1);
    (layout.shape().elem_count() / width.max(1), width)
}

/// Launches `$launch` of `$module` with a new result of `$count` elements each; answers the results' storage.
macro_rules! run {
    ($device:expr, $T:ty, $module:expr, $launch:expr, [$($out:ident: $count:expr),+], $($arg:expr),+) => {{
        let (device, launch): (&CudaDevice, Launch) = ($device, $launch);
        let function = device.get_or_load_custom_func(&launch.entry, $module.name, $module.ptx)?;
        // SAFETY: each kernel writes every element of its results, and nothing reads them before on this stream.
        $( let $out = unsafe { device.alloc::<$T>($count)? }; )+
        let mut builder = function.builder();
        $( builder.arg($arg); )+
        // SAFETY: the arguments are those of the entry point in `cu/`, in number, order and type, and the callers have
        // checked that the operands are as large as the kernel reads them.
        unsafe { builder.launch(config(&launch)) }.w()?;
        ($( CudaStorage::wrap_cuda_slice($out, device.clone()) ),+)
    }};
}
use run;

/// Softmax of the rows of `x`, row-major.
pub fn softmax(x: View<'_>) -> Result<Option<CudaStorage>> {
    by_type!(x, T => softmax_of::<T>(x))
}

fn softmax_of<T: Real>(x: View<'_>) -> Result<CudaStorage> {
    let (rows, width) = rows_of(x.1);
    let from = dense::<T>(x, "softmax")?;
    let launch = plan::by_row("softmax", T::SUFFIX, rows);
    Ok(run!(x.0.device(), T, ROWS, launch, [y: rows * width], &from, &y, &width))
}

/// `silu(gate) * up` of rows `[gate | up]`, row-major.
pub fn swiglu(x: View<'_>) -> Result<Option<CudaStorage>> {
    by_type!(x, T => swiglu_of::<T>(x))
}

fn swiglu_of<T: Real>(x: View<'_>) -> Result<CudaStorage> {
    let (rows, width) = rows_of(x.1);
    let (half, count) = (width / 2, rows * (width / 2));
    let from = dense::<T>(x, "swiglu")?;
    let launch = plan::by_element("swiglu", T::SUFFIX, count);
    Ok(run!(x.0.device(), T, ROWS, launch, [y: count], &from, &y, &count, &half))
}

/// `x / sqrt(mean(x²) + eps) * weight` of row-major operands: candle's own kernel, which computes in F32.
pub fn rms_norm(x: View<'_>, weight: View<'_>, eps: f64) -> Result<Option<CudaStorage>> {
    by_type!(x, T => rms_norm_of::<T>(x, weight, eps))
}

fn rms_norm_of<T: Real>(x: View<'_>, weight: View<'_>, eps: f64) -> Result<CudaStorage> {
    let (rows, width) = rows_of(x.1);
    let (from, scale) = (dense::<T>(x, "rms-norm")?, dense::<T>(weight, "rms-norm's weight")?);
    let device = x.0.device();
    let function = device.get_or_load_func(&format!("rmsnorm_{}", T::SUFFIX), &kernels::REDUCE)?;
    // The kernel adds up over one warp or over 32, nothing between.
    let threads: u32 = if width < 1024 { 32 } else { 1024 };
    let launch = Launch { entry: String::new(), grid: [rows as u32, 1, 1], threads };
    // SAFETY: the kernel writes every element.
    let y = unsafe { device.alloc::<T>(rows * width)? };
    let (columns, block, eps) = (width as i32, threads as i32, eps as f32);
    let mut builder = function.builder();
    builder.arg(&from).arg(&y).arg(&scale).arg(&columns).arg(&block).arg(&eps);
    // SAFETY: the arguments are those of candle's kernel; `x` and `y` are `rows` rows of `width`, the weight is one.
    unsafe { builder.launch(config(&launch)) }.w()?;
    Ok(CudaStorage::wrap_cuda_slice(y, device.clone()))
}

/// `(rms_norm(x + residual), x + residual)` of row-major operands.
pub fn add_rms_norm(
    x: View<'_>,
    residual: View<'_>,
    weight: View<'_>,
    eps: f64,
) -> Result<Option<(CudaStorage, CudaStorage)>> {
    by_type!(x, T => add_rms_norm_of::<T>(x, residual, weight, eps))
}

fn add_rms_norm_of<T: Real>(
    x: View<'_>,
    residual: View<'_>,
    weight: View<'_>,
    eps: f64,
) -> Result<(CudaStorage, CudaStorage)> {
    let (rows, width) = rows_of(x.1);
    let (from, other) = (dense::<T>(x, "add-rms-norm")?, dense::<T>(residual, "add-rms-norm's residual")?);
    let (scale, eps) = (dense::<T>(weight, "add-rms-norm's weight")?, eps as f32);
    let launch = plan::by_row("add_rms_norm", T::SUFFIX, rows);
    let (y, sum) = run!(
        x.0.device(), T, ROWS, launch, [y: rows * width, sum: rows * width],
        &from, &other, &scale, &y, &sum, &width, &eps
    );
    Ok((y, sum))
}

/// Rotates the rows of `x` `[B, H, S, D]`, dense in its last dimension, by row-major F32 tables whose rows (`[S, …]` or
/// `[B, S, …]`) begin with the `D/2` cosines and sines of a position.
pub fn rotary(x: View<'_>, cos: View<'_>, sin: View<'_>) -> Result<Option<CudaStorage>> {
    let (&[_, heads, positions, width], &[batch_stride, head_stride, position_stride, 1]) = (x.1.dims(), x.1.stride())
    else {
        return Ok(None);
    };
    let table_stride = cos.1.dims().last().copied().unwrap_or(0);
    let table_batch_stride = if cos.1.dims().len() == 3 { positions * table_stride } else { 0 };
    let rows =
        Rows { heads, positions, width, batch_stride, head_stride, position_stride, table_batch_stride, table_stride };
    by_type!(x, T => rotary_of::<T>(x, cos, sin, rows))
}

fn rotary_of<T: Real>(x: View<'_>, cos: View<'_>, sin: View<'_>, rows: Rows) -> Result<CudaStorage> {
    let count = x.1.shape().elem_count();
    let pairs = count / 2;
    let from = elements::<T>(x)?;
    let (cosines, sines) = (dense::<f32>(cos, "rotary's table")?, dense::<f32>(sin, "rotary's table")?);
    let launch = plan::by_element("rotary", T::SUFFIX, pairs);
    Ok(run!(x.0.device(), T, ROWS, launch, [y: count], &from, &cosines, &sines, &y, &rows, &pairs))
}

/// `softmax(scale * q·kᵀ)·v` for `q` `[B, H, S, D]`, `k` `[B, G, T, D]`, `v` `[B, G, T, E]`, each dense in its last
/// dimension. Query `i` sees keys `0..=i + offset`, or all of them. None for heads wider than 256.
pub fn attention(
    q: View<'_>,
    k: View<'_>,
    v: View<'_>,
    scale: f64,
    offset: Option<usize>,
) -> Result<Option<CudaStorage>> {
    let ([q_stride, k_stride, v_stride], dense) = strides([q.1, k.1, v.1]);
    let (&[batch, heads, queries, width], &[_, groups, keys, value_width]) = (q.1.dims(), v.1.dims()) else {
        return Ok(None);
    };
    let offset = offset.unwrap_or(keys).min(keys);
    let scale = scale as f32;
    let problem =
        Problem { heads, groups, queries, keys, width, value_width, q_stride, k_stride, v_stride, offset, scale };
    let empty = batch * heads * queries * keys * width * value_width == 0;
    if !dense || empty || plan::attention(&problem, batch, "").is_none() {
        return Ok(None);
    }
    by_type!(q, T => attention_of::<T>(q, k, v, problem, batch))
}

fn attention_of<T: Real>(q: View<'_>, k: View<'_>, v: View<'_>, problem: Problem, batch: usize) -> Result<CudaStorage> {
    let Some(launch) = plan::attention(&problem, batch, T::SUFFIX) else { bail!("no kernel for {problem:?}") };
    let count = batch * problem.heads * problem.queries * problem.value_width;
    let (q_elements, k, v) = (elements::<T>(q)?, elements::<T>(k)?, elements::<T>(v)?);
    Ok(run!(q.0.device(), T, ATTENTION, launch, [out: count], &q_elements, &k, &v, &out, &problem))
}

/// The strides of batch, head and position of each view, and whether all views are dense in their last dimension.
fn strides(layouts: [&Layout; 3]) -> ([[usize; 3]; 3], bool) {
    let dense = layouts.iter().all(|layout| layout.stride().last() == Some(&1) && layout.dims().len() == 4);
    (layouts.map(|layout| layout.stride().first_chunk().copied().unwrap_or_default()), dense)
}

/// This crate's error as candle's, from which [`error_in`] finds it again.
pub fn to_candle(error: Error) -> candle_core::Error {
    candle_core::Error::Cuda(Box::new(error)).bt()
}

/// This crate's error inside a candle error, however deep its context.
pub fn error_in(error: &candle_core::Error) -> Option<&Error> {
    device_error(error)?.downcast_ref()
}

/// `error` in this crate's words when it is one of the driver's: out of memory with what the GPU has, other codes with
/// their meaning. Any other error as it is. To be called by the thread that got the error.
pub fn explained(error: candle_core::Error) -> candle_core::Error {
    let code = match device_error(&error).and_then(|inner| inner.downcast_ref()) {
        Some(CudaError::Cuda(driver) | CudaError::Load { cuda: driver, .. }) => driver.0,
        _ => return error,
    };
    match code {
        CUresult::CUDA_ERROR_OUT_OF_MEMORY => {
            // Of the current context, which the failed call has made current. The message is worth having without
            // these two numbers.
            let (free, total) = mem_get_info().unwrap_or((0, 0));
            to_candle(Error::OutOfMemory { free, total })
        }
        code if code_name(code as i32).is_some() => {
            to_candle(Error::Driver { call: "a CUDA operation", code: code as i32 })
        }
        _ => error,
    }
}

/// The error of a device's runtime inside a candle error.
fn device_error(error: &candle_core::Error) -> Option<&(dyn std::error::Error + Send + Sync + 'static)> {
    use candle_core::Error as E;
    match error {
        E::Cuda(inner) => Some(&**inner),
        E::Context { inner, .. } | E::WithPath { inner, .. } | E::WithBacktrace { inner, .. } => device_error(inner),
        _ => None,
    }
}
