//! Comparisons, selection by a condition, and masks.

use super::binary::{operands, with_scalar};
use super::types::*;
use super::views::{element, with_bits};
use super::wide::{Wide, load_as, store_as, with_wide, zip};
use crate::aclnn::{Call, Kernel, Scalar, Tensor};
use crate::dtype::DType;
use crate::dtype::DType::*;
use crate::status::Result;
use crate::with_element;

/// What ordered comparisons take. `UINT64` is left out: its upper half does not fit the type they compute in.
const ORDERED: &[DType] = &[F32, F16, BF16, F64, I64, I32, I16, I8, U8, Bool, U16, U32];

/// Comparisons of two tensors and of a tensor with a host scalar; the result is stored as 0 or 1 in any type.
macro_rules! comparisons {
    ($($tensor:ident $scalar:ident $types:expr, $op:tt;)*) => {$(
        #[doc = concat!("`self ", stringify!($op), " other`, element by element.")]
        pub fn $tensor(call: &mut Call, self_: Tensor, other: Tensor, out: Tensor) -> Result<Kernel> {
            let dtype = operands(call, &[&self_, &other], &out, $types)?;
            call.dtype_in(&out, $types)?;
            Ok(zip!([self_, other], out, dtype => Bool, () |a, b| Wide::truth(a $op b); int Wide::truth(a $op b)))
        }

        #[doc = concat!("`self ", stringify!($op), " other` with a host scalar.")]
        pub fn $scalar(call: &mut Call, self_: Tensor, other: Scalar, out: Tensor) -> Result<Kernel> {
            let dtype = with_scalar(call, &self_, &other, &out, $types)?;
            call.dtype_in(&out, $types)?;
            Ok(zip!([self_], out, dtype => Bool, (other) |a| Wide::truth(a $op other); int Wide::truth(a $op other)))
        }
    )*};
}

comparisons! {
    eq_tensor eq_scalar COMMON, ==;
    ne_tensor ne_scalar COMMON, !=;
    gt_tensor gt_scalar ORDERED, >;
    ge_tensor ge_scalar ORDERED, >=;
    lt_tensor lt_scalar ORDERED, <;
    le_tensor le_scalar ORDERED, <=;
}

/// Whether two tensors have the same shape and equal elements, as one boolean of shape `[1]`.
pub fn equal(call: &mut Call, self_: Tensor, other: Tensor, out: Tensor) -> Result<Kernel> {
    at_most_8d(call, &[&self_, &other])?;
    call.dtype_in(&self_, EVERY)?;
    call.dtype_in(&other, EVERY)?;
    call.dtype_in(&out, &[Bool])?;
    call.shape_is(&out, &[1])?;
    let dtype = promote_all(call, &[&self_, &other])?;
    Ok(Box::new(move |launch| {
        let same = self_.shape == other.shape
            && with_wide!(dtype, W => load_as::<W>(&self_, launch, dtype)? == load_as::<W>(&other, launch, dtype)?);
        out.store_i64(launch, &[same as i64])
    }))
}

/// `self` where the condition holds, `other` elsewhere; all three broadcast.
pub fn s_where(call: &mut Call, condition: Tensor, self_: Tensor, other: Tensor, out: Tensor) -> Result<Kernel> {
    at_most_8d(call, &[&condition, &self_, &other, &out])?;
    call.dtype_in(&condition, &[U8, Bool])?;
    [&self_, &other, &out].into_iter().try_for_each(|tensor| call.dtype_in(tensor, EVERY))?;
    let dtype = promote_all(call, &[&self_, &other])?;
    let shape = call.broadcast(&call.broadcast(&condition.shape, &self_.shape)?, &other.shape)?;
    call.shape_is(&out, &shape)?;
    check_castable(call, dtype, &out)?;
    let [condition, self_, other] = [condition, self_, other].map(|tensor| tensor.broadcast_view(&shape));
    Ok(Box::new(move |launch| {
        let condition = condition.load_i64(launch)?;
        with_wide!(dtype, W => {
            let mut values = load_as::<W>(&self_, launch, dtype)?;
            let others = load_as::<W>(&other, launch, dtype)?;
            for ((value, other), condition) in values.iter_mut().zip(others).zip(&condition) {
                if *condition == 0 {
                    *value = other;
                }
            }
            store_as(&out, launch, dtype, values)
        })
    }))
}

/// What masked fills take.
const MASKED: &[DType] = &[Bool, I8, I32, I64, F32, F16, BF16];

/// Checks of a masked fill: the mask broadcasts to `self_ref`.
fn check_mask(call: &Call, self_ref: &Tensor, mask: &Tensor) -> Result<()> {
    at_most_8d(call, &[self_ref, mask])?;
    call.dtype_in(self_ref, MASKED)?;
    call.dtype_in(mask, &[Bool])?;
    let shape = call.broadcast(&self_ref.shape, &mask.shape)?;
    call.shape_is(self_ref, &shape)
}

/// Writes one value wherever the mask is set, in the tensor's own type.
fn fill_masked(launch: &crate::aclnn::Launch, target: &Tensor, mask: &Tensor, (float, int): (f64, i64)) -> Result<()> {
    let mask = mask.broadcast_view(&target.shape).load_i64(launch)?;
    with_element!(target.dtype, T => {
        let value = element::<T>(float, int);
        let mut values = target.read::<T>(launch)?;
        values.iter_mut().zip(mask).filter(|(_, set)| *set != 0).for_each(|(slot, _)| *slot = value);
        target.write(launch, &values)
    })
}

/// Writes `value` wherever the mask is set.
pub fn inplace_masked_fill_scalar(call: &mut Call, self_ref: Tensor, mask: Tensor, value: Scalar) -> Result<Kernel> {
    check_mask(call, &self_ref, &mask)?;
    check_castable(call, value.dtype, &self_ref)?;
    Ok(Box::new(move |launch| fill_masked(launch, &self_ref, &mask, (value.float, value.int))))
}

/// Writes the one element of `value` wherever the mask is set.
pub fn inplace_masked_fill_tensor(call: &mut Call, self_ref: Tensor, mask: Tensor, value: Tensor) -> Result<Kernel> {
    check_mask(call, &self_ref, &mask)?;
    call.dtype_in(&value, MASKED)?;
    call.shape_is(&value, &[])?;
    check_castable(call, value.dtype, &self_ref)?;
    Ok(Box::new(move |launch| {
        let fill = (value.load_f64(launch)?[0], value.load_i64(launch)?[0]);
        fill_masked(launch, &self_ref, &mask, fill)
    }))
}

/// The elements where the mask is set, in order; `out` has room for all and takes the shape that there are.
pub fn masked_select(call: &mut Call, self_: Tensor, mask: Tensor, out: Tensor) -> Result<Kernel> {
    at_most_8d(call, &[&self_, &mask])?;
    call.dtype_in(&self_, EVERY)?;
    call.dtype_in(&mask, &[Bool, U8])?;
    call.same_dtype(&out, &self_)?;
    let shape = call.broadcast(&self_.shape, &mask.shape)?;
    call.shape_is(&out, &[shape.iter().product()])?;
    let [self_, mask] = [self_, mask].map(|tensor| tensor.broadcast_view(&shape));
    Ok(Box::new(move |launch| {
        let mask = mask.load_i64(launch)?;
        with_bits!(self_.dtype, T => {
            let chosen: Vec<T> =
                self_.bits().read::<T>(launch)?.into_iter().zip(mask).filter(|(_, set)| *set != 0).map(|(value, _)| value).collect();
            out.resized(vec![chosen.len()])?.bits().write(launch, &chosen)
        })
    }))
}
