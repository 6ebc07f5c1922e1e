//! Writing by subscripts, and the gradient of an embedding.

use super::index::{addressing, positions};
use super::types::*;
use super::views::with_bits;
use super::wide::{Wide, with_wide};
use crate::aclnn::{Call, Kernel, Launch, Tensor, TensorList};
use crate::fail;
use crate::status::Result;
use acl_sys::error::ACL_ERROR_RT_AICORE_EXCEPTION;

/// Replaces, or adds to, the elements of `self_ref` at the given indices.
pub fn index_put_impl(
    call: &mut Call,
    self_ref: Tensor,
    indices: TensorList,
    values: Tensor,
    accumulate: bool,
    _unsafe: bool,
) -> Result<Kernel> {
    call.rank_in(&self_ref, 1..=8)?;
    call.dtype_in(&self_ref, COMMON)?;
    call.same_dtype(&values, &self_ref)?;
    let addressing = addressing(call, &self_ref, &indices)?;
    let common = addressing.common_shape(call, &indices)?;
    if let Some(common) = &common {
        let wanted = addressing.result_shape(&self_ref, common);
        if call.broadcast(&wanted, &values.shape)? != wanted {
            return call.invalid(format!("values has shape {:?}, wanted {wanted:?}", values.shape));
        }
        call.touches(&self_ref, wanted.iter().product());
    }
    let target = self_ref.permuted_view(&addressing.order);
    Ok(Box::new(move |launch| {
        let slices = addressing.slices(launch, &self_ref, &indices, common.as_deref())?;
        let common = common.clone().unwrap_or_else(|| vec![slices.len()]);
        let wanted = addressing.result_shape(&self_ref, &common);
        if values.rank() > wanted.len()
            || !values.shape.iter().rev().zip(wanted.iter().rev()).all(|(a, b)| a == b || *a == 1)
        {
            fail!(ACL_ERROR_RT_AICORE_EXCEPTION, "values has shape {:?}, the masks choose {wanted:?}", values.shape);
        }
        let source = addressing.common_first(&values.broadcast_view(&wanted), common.len());
        put(launch, &target, addressing.indexed, &slices, &source, accumulate)
    }))
}

/// Writes the rows of `source` to the given slices of the first `indexed` dimensions of `target`.
fn put(
    launch: &Launch,
    target: &Tensor,
    indexed: usize,
    slices: &[usize],
    source: &Tensor,
    accumulate: bool,
) -> Result<()> {
    let inner: usize = target.shape[indexed..].iter().product();
    if accumulate {
        return with_wide!(target.dtype, W => {
            let mut values = W::load(target, launch)?;
            for (row, slice) in W::load(source, launch)?.chunks(inner.max(1)).zip(slices) {
                let place = slice * inner..(slice + 1) * inner;
                values[place].iter_mut().zip(row).for_each(|(sum, &value)| *sum = sum.plus(value));
            }
            W::store(target, launch, &values)
        });
    }
    // Only the rows that change are touched: caches are large and the rows few.
    let (target, source) = (target.bits(), source.bits());
    with_bits!(target.dtype, T => {
        let rows = source.read::<T>(launch)?;
        rows.chunks(inner.max(1)).zip(slices).try_for_each(|(row, &slice)| {
            let mut rest = slice;
            let mut offset = target.offset;
            for dim in (0..indexed).rev() {
                offset += (rest % target.shape[dim]) as i64 * target.strides[dim];
                rest /= target.shape[dim];
            }
            target.reviewed(target.shape[indexed..].to_vec(), target.strides[indexed..].to_vec(), offset).write(launch, row)
        })
    })
}

/// Rows of gradients added up by the row of the table that they belong to; row `padding_idx` stays zero.
pub fn embedding_dense_backward(
    call: &mut Call,
    grad: Tensor,
    indices: Tensor,
    num_weights: u64,
    padding_idx: u64,
    scale_grad_by_freq: bool,
    out: Tensor,
) -> Result<Kernel> {
    call.rank_in(&grad, 2..=8)?;
    call.dtype_in(&grad, FLOATS)?;
    call.dtype_in(&indices, COMMON)?;
    call.same_dtype(&out, &grad)?;
    let (limit, width) = (num_weights as usize, grad.shape[grad.rank() - 1]);
    call.shape_is(&out, &[limit, width])?;
    if indices.count() * width != grad.count() {
        return call.invalid(format!("grad has shape {:?} and indices {:?}", grad.shape, indices.shape));
    }
    Ok(Box::new(move |launch| {
        let places = positions(launch, &indices, limit, false)?;
        let mut sums = vec![0f32; limit * width];
        let mut uses = vec![0f32; limit];
        for (row, &place) in grad.load_f32(launch)?.chunks(width.max(1)).zip(&places) {
            if place as u64 != padding_idx {
                uses[place] += 1.0;
                sums[place * width..(place + 1) * width].iter_mut().zip(row).for_each(|(sum, value)| *sum += value);
            }
        }
        if scale_grad_by_freq {
            sums.chunks_mut(width.max(1)).zip(uses).for_each(|(row, n)| row.iter_mut().for_each(|v| *v /= n.max(1.0)));
        }
        out.store_f32(launch, &sums)
    }))
}
