//! Attention over keys and values in blocks of a pool.

use super::{Module, Real, View, by_type, config, dense, elements, push_optional};
use crate::plan::{self, Paged};
use candle_core::backend::BackendStorage;
use candle_core::cuda_backend::WrapErr;
use candle_core::cuda_backend::cudarc::driver::sys::CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT;
use candle_core::cuda_backend::cudarc::driver::{CudaSlice, DeviceRepr, PushKernelArg};
use candle_core::{CudaDevice, CudaStorage, DType, Layout, Result, bail};
use half::{bf16, f16};

const PAGED: Module = Module { name: "npu-paged", ptx: include_str!(concat!(env!("OUT_DIR"), "/paged.ptx")) };

// SAFETY: plain integers and a float, laid out as the structure of the same name in `cu/`.
unsafe impl DeviceRepr for Paged {}

/// `softmax(scale * q·kᵀ)·v` of one query a sequence, `q` `[B, H, D]`, row-major, over `keys` `[N, G, P, D]` and `values` `[N, G, P, E]`, dense in
/// their last dimensions: `[B, H, E]`. Row b of `table` `[B, W]` names the blocks of sequence b, `lengths` `[B]` its tokens (U32, row-major); no
/// more of them count than the row has room for. A block that the pool has not is not read, and makes its sequence no numbers. None for
/// widths above 576.
pub fn attention(
    q: View<'_>,
    [keys, values]: [View<'_>; 2],
    [table, lengths]: [View<'_>; 2],
    scale: f64,
) -> Result<Option<CudaStorage>> {
    let (&[batch, heads, width], &[blocks, groups, block_size, _], &[_, table_width]) =
        (q.1.dims(), keys.1.dims(), table.1.dims())
    else {
        return Ok(None);
    };
    let strides = |layout: &Layout| match *layout.stride() {
        [block, head, token, 1] => Some([block, head, token]),
        _ => None,
    };
    let (Some(k_stride), Some(v_stride)) = (strides(keys.1), strides(values.1)) else { return Ok(None) };
    let value_width = values.1.dims()[3];
    // Latent attention: one read serves both.
    let latent = std::ptr::eq(keys.0, values.0)
        && keys.1.start_offset() == values.1.start_offset()
        && k_stride == v_stride
        && value_width <= width;
    let problem = Paged {
        heads,
        groups,
        width,
        value_width,
        blocks,
        block_size,
        table_width,
        k_stride,
        v_stride,
        parts: 1,
        latent: latent.into(),
        scale: scale as f32,
    };
    if plan::paged(&problem, batch, "").is_none() {
        return Ok(None);
    }
    by_type!(q, T => attention_of::<T>(q, [keys, values], [table, lengths], problem, batch))
}

fn multiprocessors(device: &CudaDevice) -> Result<usize> {
    let count = device.cuda_stream().context().attribute(CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT).w()?;
    Ok(count as usize)
}

fn attention_of<T: Real>(
    q: View<'_>,
    [keys, values]: [View<'_>; 2],
    [table, lengths]: [View<'_>; 2],
    problem: Paged,
    batch: usize,
) -> Result<CudaStorage> {
    let (device, rows) = (q.0.device(), batch * problem.heads);
    let problem = Paged { parts: plan::parts(&problem, batch, multiprocessors(device)?, T::SUFFIX), ..problem };
    let Some(launch) = plan::paged(&problem, batch, T::SUFFIX) else { bail!("no kernel for {problem:?}") };
    let (queries, k, v) = (dense::<T>(q, "paged-attention")?, elements::<T>(keys)?, elements::<T>(values)?);
    let table = dense::<u32>(table, "paged-attention's table")?;
    let lengths = dense::<u32>(lengths, "paged-attention's lengths")?;
    // SAFETY: the kernel writes every element, and nothing reads them before on this stream.
    let out = unsafe { device.alloc::<T>(rows * problem.value_width)? };
    let of_parts = rows * problem.parts * (problem.value_width + 2);
    // SAFETY: as above; the kernel that puts parts together comes after the one that writes them.
    let parts: Option<CudaSlice<f32>> = (problem.parts > 1).then(|| unsafe { device.alloc(of_parts) }).transpose()?;
    let parts = parts.as_ref().map(|parts| parts.slice(..));
    let function = device.get_or_load_custom_func(&launch.entry, PAGED.name, PAGED.ptx)?;
    let mut builder = function.builder();
    builder.arg(&queries).arg(&k).arg(&v).arg(&table).arg(&lengths).arg(&out);
    push_optional(&mut builder, parts.as_ref());
    builder.arg(&problem);
    // SAFETY: the arguments are those of the entry point, in number, order and type; the layouts say that the operands are as large as
    // the kernel reads them, and it looks at each entry of the table before it reads there.
    unsafe { builder.launch(config(&launch)) }.w()?;
    if let Some(parts) = &parts {
        let launch = plan::by_row("join_parts", T::SUFFIX, rows);
        let function = device.get_or_load_custom_func(&launch.entry, PAGED.name, PAGED.ptx)?;
        let mut builder = function.builder();
        builder.arg(parts).arg(&out).arg(&problem.value_width).arg(&problem.parts);
        // SAFETY: the arguments are those of the entry point; there are as many parts of each of `rows` rows.
        unsafe { builder.launch(config(&launch)) }.w()?;
    }
    Ok(CudaStorage::wrap_cuda_slice(out, device.clone()))
}
