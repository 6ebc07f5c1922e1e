//! Rotary position embedding: pairs of elements of each head turned by an angle that the position gives.

use super::types::FLOATS;
use crate::aclnn::{Call, Kernel, Launch, Tensor};
use crate::fail;
use crate::status::{Result, Status};
use acl_sys::error::{ACLNN_ERR_INNER_TILING_ERROR, ACLNN_ERR_PARAM_INVALID};

/// Which elements of a head of `d` elements are turned together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    /// Element `i` with `i + d/2`.
    Half,
    /// Element `2i` with `2i + 1`.
    Interleave,
    /// As `Half` in each half of the head.
    Quarter,
    /// Reads the pairs of `Interleave`, writes those of `Half`.
    InterleaveHalf,
}

impl Mode {
    /// `head` turned, into `out`.
    fn turn(self, head: &[f32], cos: &[f32], sin: &[f32], out: &mut [f32]) {
        let d = head.len();
        let mut pair = |(x1, x2): (usize, usize), (y1, y2): (usize, usize)| {
            let (a, b) = (head[x1], head[x2]);
            out[y1] = a * cos[y1] - b * sin[y1];
            out[y2] = b * cos[y2] + a * sin[y2];
        };
        for i in 0..d / 2 {
            let halved = (i, i + d / 2);
            let interleaved = (2 * i, 2 * i + 1);
            match self {
                Mode::Half => pair(halved, halved),
                Mode::Interleave => pair(interleaved, interleaved),
                Mode::InterleaveHalf => pair(interleaved, halved),
                Mode::Quarter => {
                    let at = i % (d / 4) + i / (d / 4) * (d / 2);
                    pair((at, at + d / 4), (at, at + d / 4));
                }
            }
        }
    }

    /// What the head's size must be a multiple of.
    fn divisor(self) -> usize {
        if self == Mode::Quarter { 4 } else { 2 }
    }
}

/// Turns the heads of `x`, of which `cos` and `sin` are already views of the same shape.
fn turned(launch: &Launch, x: &Tensor, cos: &Tensor, sin: &Tensor, mode: Mode) -> Result<Vec<f32>> {
    let d = x.shape[x.rank() - 1];
    let (x, cos, sin) = (x.load_f32(launch)?, cos.load_f32(launch)?, sin.load_f32(launch)?);
    let mut out = vec![0f32; x.len()];
    for ((head, out), (cos, sin)) in x
        .chunks_exact(d.max(1))
        .zip(out.chunks_exact_mut(d.max(1)))
        .zip(cos.chunks_exact(d.max(1)).zip(sin.chunks_exact(d.max(1))))
    {
        mode.turn(head, cos, sin, out);
    }
    Ok(out)
}

/// The error of a shape that the device's tiling refuses, unlike most parameter errors.
fn tiling<T>(call: &Call, text: String) -> Result<T> {
    Err(Status::new(ACLNN_ERR_INNER_TILING_ERROR, format!("{}: {text}", call.op)))
}

/// Turns `x` (four dimensions, the last of which is a head) by `cos` and `sin`, which repeat along dimensions of 1.
/// `mode` is 0 half, 1 interleave, 2 quarter, 3 interleave-half.
pub fn rotary_position_embedding(
    call: &mut Call,
    x: Tensor,
    cos: Tensor,
    sin: Tensor,
    mode: i64,
    out: Tensor,
) -> Result<Kernel> {
    call.dtype_in(&x, FLOATS)?;
    for tensor in [&x, &cos, &sin, &out] {
        call.rank_in(tensor, 4..=4)?;
        call.same_dtype(tensor, &x)?;
    }
    let mode = match mode {
        0 => Mode::Half,
        1 => Mode::Interleave,
        2 => Mode::Quarter,
        3 => Mode::InterleaveHalf,
        other => return tiling(call, format!("mode is {other}, wanted 0 to 3")),
    };
    if out.shape != x.shape || cos.shape != sin.shape {
        return tiling(
            call,
            format!("out {:?} must be as x {:?}, cos {:?} as sin {:?}", out.shape, x.shape, cos.shape, sin.shape),
        );
    }
    let d = x.shape[3];
    if x.count() > 0 {
        check_sizes(call, &x, &cos, mode, d)?;
    }
    let (cos, sin) = (cos.broadcast_view(&x.shape), sin.broadcast_view(&x.shape));
    Ok(Box::new(move |launch| out.store_f32(launch, &turned(launch, &x, &cos, &sin, mode)?)))
}

/// The limits that the page gives for A2 and A3.
fn check_sizes(call: &Call, x: &Tensor, cos: &Tensor, mode: Mode, d: usize) -> Result<()> {
    if d >= 896 || !d.is_multiple_of(mode.divisor()) || cos.shape[3] != d {
        return tiling(
            call,
            format!(
                "the last dimension is {d} in x and {} in cos, wanted the same, below 896, a multiple of {}",
                cos.shape[3],
                mode.divisor()
            ),
        );
    }
    let fits = |i: usize| cos.shape[i] == x.shape[i] || cos.shape[i] == 1;
    if !(0..3).all(fits) {
        return tiling(call, format!("cos {:?} does not repeat to x {:?}", cos.shape, x.shape));
    }
    // Of the layouts BNSD, BSND and SBND, interleave takes an embedding that varies with the position alone.
    let varying = (0..3).filter(|&i| cos.shape[i] != 1).count();
    if mode == Mode::Interleave && varying > 1 {
        return tiling(call, format!("cos {:?} varies in {varying} dimensions, mode interleave takes one", cos.shape));
    }
    Ok(())
}

#[allow(clippy::too_many_arguments)]
fn apply(
    call: &mut Call,
    query: Tensor,
    key: Tensor,
    cos: Tensor,
    sin: Tensor,
    layout: i64,
    mode: Mode,
    layouts: std::ops::RangeInclusive<i64>,
) -> Result<Kernel> {
    call.dtype_in(&query, FLOATS)?;
    for tensor in [&query, &key, &cos, &sin] {
        call.rank_in(tensor, 4..=4)?;
        call.same_dtype(tensor, &query)?;
        if tensor.count() == 0 {
            return call.invalid(format!("{} is empty", tensor.name));
        }
    }
    if !layouts.contains(&layout) {
        return call.invalid(format!("layout is {layout}, wanted {} to {}", layouts.start(), layouts.end()));
    }
    let heads = if layout == 3 { 1 } else { 2 };
    if query.shape[3] != 128 {
        return call.invalid(format!("the last dimension of {} is {}, wanted 128", query.name, query.shape[3]));
    }
    let mut shape = query.shape.clone();
    shape[heads] = key.shape[heads];
    call.shape_is(&key, &shape)?;
    shape[heads] = 1;
    call.shape_is(&cos, &shape)?;
    call.shape_is(&sin, &shape)?;
    fits_unified_buffer(call, &query, &key, heads)?;
    let views = [query, key].map(|x| (cos.broadcast_view(&x.shape), sin.broadcast_view(&x.shape), x));
    Ok(Box::new(move |launch| {
        for (cos, sin, x) in &views {
            x.store_f32(launch, &turned(launch, x, cos, sin, mode)?)?;
        }
        Ok(())
    }))
}

/// The fused operator keeps a position's heads in the unified buffer, 192 KiB on A2 and A3; more heads it refuses.
fn fits_unified_buffer(call: &Call, query: &Tensor, key: &Tensor, heads: usize) -> Result<()> {
    let size = query.dtype.size();
    let cast = query.dtype == crate::dtype::DType::BF16;
    let (cast_size, extra) = if cast { (4, 128 * 4 * 2) } else { (size, 0) };
    let row = (query.shape[heads] + key.shape[heads]) * 128 * cast_size;
    let required = row * 2 + 128 * size * 4 + row + row * 2 + extra;
    match required <= 192 << 10 {
        true => Ok(()),
        false => fail!(
            ACLNN_ERR_PARAM_INVALID,
            "{}: the heads need {required} bytes of unified buffer, which has 196608",
            call.op
        ),
    }
}

/// Turns query and key in place, half mode, layout 1 (BSND).
pub fn apply_rotary_pos_emb(
    call: &mut Call,
    query_ref: Tensor,
    key_ref: Tensor,
    cos: Tensor,
    sin: Tensor,
    layout: i64,
) -> Result<Kernel> {
    apply(call, query_ref, key_ref, cos, sin, layout, Mode::Half, 1..=1)
}

/// Turns query and key in place; layout is 1 BSND, 2 SBND, 3 BNSD, `rotary_mode` half, interleave or quarter.
pub fn apply_rotary_pos_emb_v2(
    call: &mut Call,
    query_ref: Tensor,
    key_ref: Tensor,
    cos: Tensor,
    sin: Tensor,
    layout: i64,
    rotary_mode: String,
) -> Result<Kernel> {
    let mode = match &*rotary_mode {
        "half" => Mode::Half,
        "interleave" => Mode::Interleave,
        "quarter" => Mode::Quarter,
        other => return call.invalid(format!("rotaryMode is {other:?}, wanted half, interleave or quarter")),
    };
    apply(call, query_ref, key_ref, cos, sin, layout, mode, 1..=3)
}
