//! Conversion, copies, and tensors made from scalars.

use super::types::*;
use super::views::{copy, element};
use crate::aclnn::{Call, Kernel, Launch, Scalar, Tensor};
use crate::dtype::DType;
use crate::dtype::DType::*;
use crate::status::Result;
use crate::with_element;

/// Converts each element to `dtype`, the type of `out`: floats round to nearest even, and to integers towards zero,
/// saturating, with NaN as 0; integers wrap.
pub fn cast(call: &mut Call, self_: Tensor, dtype: DType, out: Tensor) -> Result<Kernel> {
    at_most_8d(call, &[&self_, &out])?;
    call.dtype_in(&self_, EVERY)?;
    call.dtype_in(&out, EVERY)?;
    call.shape_is(&out, &self_.shape)?;
    if dtype != out.dtype {
        return call.invalid(format!("dtype is {dtype} and out is {}; they must be the same", out.dtype));
    }
    Ok(Box::new(move |launch| copy(launch, &self_, &out)))
}

/// Copies `src`, broadcast and converted, into `self_ref`, which may be any view.
pub fn inplace_copy(call: &mut Call, self_ref: Tensor, src: Tensor) -> Result<Kernel> {
    at_most_8d(call, &[&self_ref, &src])?;
    call.dtype_in(&self_ref, EVERY)?;
    call.dtype_in(&src, EVERY)?;
    let shape = call.broadcast(&self_ref.shape, &src.shape)?;
    call.shape_is(&self_ref, &shape)?;
    let src = src.broadcast_view(&shape);
    Ok(Box::new(move |launch| copy(launch, &src, &self_ref)))
}

/// Writes one value to every element.
fn fill(launch: &Launch, target: &Tensor, float: f64, int: i64) -> Result<()> {
    with_element!(target.dtype, T => {
        let value = element::<T>(float, int);
        target.write(launch, &vec![value; target.count()])
    })
}

/// Sets every element to 0.
pub fn inplace_zero(call: &mut Call, self_ref: Tensor) -> Result<Kernel> {
    at_most_8d(call, &[&self_ref])?;
    call.dtype_in(&self_ref, &[I8, I32, I64, U8, F16, F32, Bool, F64, I16, U16, BF16])?;
    Ok(Box::new(move |launch| fill(launch, &self_ref, 0.0, 0)))
}

/// Sets every element to 1.
pub fn inplace_one(call: &mut Call, self_ref: Tensor) -> Result<Kernel> {
    at_most_8d(call, &[&self_ref])?;
    call.dtype_in(&self_ref, &[F32, F16, F64, I8, I16, I32, I64, U8, U16, Bool, BF16])?;
    Ok(Box::new(move |launch| fill(launch, &self_ref, 1.0, 1)))
}

/// Sets every element to `value`.
pub fn inplace_fill_scalar(call: &mut Call, self_ref: Tensor, value: Scalar) -> Result<Kernel> {
    at_most_8d(call, &[&self_ref])?;
    call.dtype_in(&self_ref, EVERY)?;
    check_castable(call, value.dtype, &self_ref)?;
    Ok(Box::new(move |launch| fill(launch, &self_ref, value.float, value.int)))
}

/// Sets every element to the one element of `value`.
pub fn inplace_fill_tensor(call: &mut Call, self_ref: Tensor, value: Tensor) -> Result<Kernel> {
    at_most_8d(call, &[&self_ref])?;
    let types = &[I8, I16, I32, I64, U8, U16, U32, U64, Bool, BF16, F32, F16];
    call.dtype_in(&self_ref, types)?;
    call.dtype_in(&value, types)?;
    call.rank_in(&value, 0..=1)?;
    check_castable(call, value.dtype, &self_ref)?;
    if value.count() != 1 {
        return call.invalid(format!("value has {} elements, wanted 1", value.count()));
    }
    Ok(Box::new(move |launch| fill(launch, &self_ref, value.load_f64(launch)?[0], value.load_i64(launch)?[0])))
}

/// Types that a sequence of numbers is stored in.
const SEQUENCES: &[DType] = &[F16, F32, F64, I32, I64, BF16];

/// The kernel of `start + i · step` for every `i`: exactly in integers where all three are, else in `f64`.
fn sequence(start: Scalar, step: Scalar, out: Tensor) -> Kernel {
    let integral = !start.dtype.is_float() && !step.dtype.is_float();
    Box::new(move |launch| {
        if integral {
            let values: Vec<i64> = (0..out.count() as i64).map(|i| start.int + i * step.int).collect();
            return out.store_i64(launch, &values);
        }
        let values: Vec<f64> = (0..out.count()).map(|i| start.float + i as f64 * step.float).collect();
        out.store_f64(launch, &values)
    })
}

/// Number of steps from `start` to `end`, as a fraction, or why there is none.
fn steps(call: &Call, start: &Scalar, end: &Scalar, step: &Scalar) -> Result<f64> {
    if step.float == 0.0 {
        return call.invalid("step is 0");
    }
    let steps = (end.float - start.float) / step.float;
    if !steps.is_finite() || steps < 0.0 {
        return call.invalid(format!("step {} does not lead from {} to {}", step.float, start.float, end.float));
    }
    Ok(steps)
}

/// `start`, `start + step`, … up to but without `end`.
pub fn arange(call: &mut Call, start: Scalar, end: Scalar, step: Scalar, out: Tensor) -> Result<Kernel> {
    call.dtype_in(&out, SEQUENCES)?;
    let steps = steps(call, &start, &end, &step)?;
    // The page asks callers to count in FLOAT, whose rounding may differ by one from a count in DOUBLE.
    let counts = [steps.ceil() as usize, (((end.float - start.float) as f32) / step.float as f32).ceil() as usize];
    if !counts.iter().any(|&count| out.shape == [count]) {
        return call.invalid(format!("out has shape {:?}, wanted [{}]", out.shape, counts[0]));
    }
    Ok(sequence(start, step, out))
}

/// `start`, `start + step`, … up to and with `end`.
pub fn range(call: &mut Call, start: Scalar, end: Scalar, step: Scalar, out: Tensor) -> Result<Kernel> {
    call.dtype_in(&out, SEQUENCES)?;
    let count = steps(call, &start, &end, &step)?.floor() as usize + 1;
    call.shape_is(&out, &[count])?;
    Ok(sequence(start, step, out))
}

/// `steps` numbers evenly from `start` to `end`, both included.
pub fn linspace(call: &mut Call, start: Scalar, end: Scalar, steps: i64, out: Tensor) -> Result<Kernel> {
    at_most_8d(call, &[&out])?;
    call.dtype_in(&out, &[I8, I16, I32, U8, F32, F16, F64, BF16])?;
    if steps < 0 || out.count() as i64 != steps {
        return call.invalid(format!("out has {} elements and steps is {steps}", out.count()));
    }
    let (first, last) = (start.float, end.float);
    let step = (last - first) / (steps - 1).max(1) as f64;
    Ok(Box::new(move |launch| {
        let value = |i: i64| if i + 1 == steps && steps > 1 { last } else { first + i as f64 * step };
        out.store_f64(launch, &(0..steps).map(value).collect::<Vec<_>>())
    }))
}

/// Ones on the diagonal of an `n` by `m` matrix, zeros elsewhere.
pub fn eye(call: &mut Call, n: i64, m: i64, out: Tensor) -> Result<Kernel> {
    call.dtype_in(&out, &[F16, F32, I32, I16, I8, U8, I64, Bool, BF16])?;
    if n < 0 || m < 0 {
        return call.invalid(format!("n is {n} and m is {m}; neither may be negative"));
    }
    let m = m as usize;
    call.shape_is(&out, &[n as usize, m])?;
    Ok(Box::new(move |launch| {
        let ones: Vec<i64> = (0..out.count()).map(|i| (i / m == i % m) as i64).collect();
        out.store_i64(launch, &ones)
    }))
}

/// `on_value` at each class number along a new dimension `axis`, `off_value` elsewhere.
pub fn one_hot(
    call: &mut Call,
    self_: Tensor,
    num_classes: i32,
    on_value: Tensor,
    off_value: Tensor,
    axis: i64,
    out: Tensor,
) -> Result<Kernel> {
    call.rank_in(&self_, 0..=7)?;
    call.dtype_in(&self_, &[U8, I32, I64])?;
    call.dtype_in(&out, &[F16, F32, I32, I64])?;
    call.same_dtype(&on_value, &out)?;
    call.same_dtype(&off_value, &out)?;
    if num_classes < 0 || (self_.count() == 0 && num_classes == 0) {
        return call.invalid(format!("num_classes is {num_classes}"));
    }
    if axis < -1 || axis > self_.rank() as i64 {
        return call.invalid(format!("axis is {axis}, wanted -1 to {}", self_.rank()));
    }
    let axis = if axis < 0 { self_.rank() } else { axis as usize };
    let mut shape = self_.shape.clone();
    shape.insert(axis, num_classes as usize);
    call.shape_is(&out, &shape)?;
    let inner: usize = self_.shape[axis..].iter().product();
    Ok(Box::new(move |launch| {
        let classes = self_.load_i64(launch)?;
        with_element!(out.dtype, T => {
            let (on, off) = (on_value.read::<T>(launch)?[0], off_value.read::<T>(launch)?[0]);
            let mut values = vec![off; out.count()];
            for (i, &class) in classes.iter().enumerate() {
                if (0..num_classes as i64).contains(&class) {
                    values[(i / inner * num_classes as usize + class as usize) * inner + i % inner] = on;
                }
            }
            out.write(launch, &values)
        })
    }))
}
