//! Quantisation of activations.

use crate::aclnn::{Call, Kernel, Tensor};
use crate::dtype::DType::{BF16, F16, F32, I8};
use crate::status::Result;

/// Rows of `x`, times `smooth_scales` where given, as `INT8`: each divided by its largest size over 127, which
/// `scale_out` keeps, and rounded to the nearest, ties to even.
pub fn dynamic_quant(
    call: &mut Call,
    x: Tensor,
    smooth_scales: Option<Tensor>,
    y_out: Tensor,
    scale_out: Tensor,
) -> Result<Kernel> {
    call.dtype_in(&x, &[F16, BF16])?;
    call.rank_in(&x, 2..=8)?;
    let n = x.shape[x.rank() - 1];
    if let Some(scales) = &smooth_scales {
        call.same_dtype(scales, &x)?;
        call.shape_is(scales, &[n])?;
    }
    // Of the page's types of A2 and A3 the packed INT4 is not stored by the simulator.
    call.dtype_in(&y_out, &[I8])?;
    call.shape_is(&y_out, &x.shape)?;
    call.dtype_in(&scale_out, &[F32])?;
    call.shape_is(&scale_out, &x.shape[..x.rank() - 1])?;
    Ok(Box::new(move |launch| {
        let mut values = x.load_f32(launch)?;
        if let Some(scales) = &smooth_scales {
            let scales = scales.load_f32(launch)?;
            values.chunks_exact_mut(n.max(1)).for_each(|row| row.iter_mut().zip(&scales).for_each(|(v, s)| *v *= s));
        }
        let largest = |row: &[f32]| row.iter().fold(0f32, |max, v| max.max(v.abs()));
        let scales: Vec<f32> = values.chunks_exact(n.max(1)).map(|row| largest(row) / 127.0).collect();
        // A row of zeros has scale 0 and stays zeros.
        let quantise =
            |(i, v): (usize, &f32)| if scales[i / n] == 0.0 { 0 } else { (v / scales[i / n]).round_ties_even() as i64 };
        y_out.store_i64(launch, &values.iter().enumerate().map(quantise).collect::<Vec<_>>())?;
        scale_out.store_f32(launch, &scales)
    }))
}
