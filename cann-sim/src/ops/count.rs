//! Counting values.

use super::types::*;
use crate::aclnn::{Call, Kernel, Scalar, Tensor};
use crate::dtype::DType::*;
use crate::fail;
use crate::status::Result;
use acl_sys::error::ACL_ERROR_RT_AICORE_EXCEPTION;

/// How often each number from 0 on occurs, or the sum of the weights where it does.
pub fn bincount(
    call: &mut Call,
    self_: Tensor,
    weights: Option<Tensor>,
    minlength: i64,
    out: Tensor,
) -> Result<Kernel> {
    call.rank_in(&self_, 1..=1)?;
    call.dtype_in(&self_, INTEGERS)?;
    call.rank_in(&out, 1..=1)?;
    call.dtype_in(&out, &[I32, I64, F32, F64])?;
    if let Some(weights) = &weights {
        call.dtype_in(weights, &[F32, F16, F64, I8, I16, I32, I64, U8, Bool])?;
        call.shape_is(weights, &self_.shape)?;
    }
    if minlength < 0 || out.count() < minlength as usize {
        return call.invalid(format!("minlength is {minlength} and out has {} elements", out.count()));
    }
    Ok(Box::new(move |launch| {
        let weights = weights.as_ref().map(|weights| weights.load_f64(launch)).transpose()?;
        let mut counts = vec![0f64; out.count()];
        for (i, value) in self_.load_i64(launch)?.into_iter().enumerate() {
            match usize::try_from(value).ok().and_then(|value| counts.get_mut(value)) {
                Some(count) => *count += weights.as_ref().map_or(1.0, |weights| weights[i]),
                None => fail!(ACL_ERROR_RT_AICORE_EXCEPTION, "self holds {value}, out has {} elements", out.count()),
            }
        }
        out.store_f64(launch, &counts)
    }))
}

/// How many elements lie in each of `bins` equal intervals from `min` to `max`, or over the data's range where the two
/// are equal.
pub fn histc(call: &mut Call, self_: Tensor, bins: i64, min: Scalar, max: Scalar, out: Tensor) -> Result<Kernel> {
    at_most_8d(call, &[&self_])?;
    let types = &[F16, F32, I32, I64, I16, I8, U8];
    call.dtype_in(&self_, types)?;
    call.dtype_in(&out, types)?;
    if bins <= 0 || min.float > max.float {
        return call.invalid(format!("bins is {bins}, min {} and max {}", min.float, max.float));
    }
    call.shape_is(&out, &[bins as usize])?;
    Ok(Box::new(move |launch| {
        let values = self_.load_f64(launch)?;
        let (mut low, mut high) = (min.float, max.float);
        if low == high && !values.is_empty() {
            low = values.iter().copied().fold(f64::INFINITY, f64::min);
            high = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        }
        if low == high {
            (low, high) = (low - 1.0, high + 1.0);
        }
        let mut counts = vec![0i64; bins as usize];
        for value in values.into_iter().filter(|value| (low..=high).contains(value)) {
            let bin = ((value - low) / (high - low) * bins as f64) as usize;
            counts[bin.min(bins as usize - 1)] += 1;
        }
        out.store_i64(launch, &counts)
    }))
}
