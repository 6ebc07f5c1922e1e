//! Heads normed, turned and brought from tokens in front to heads in front, queries, keys and values in one launch.

use super::types::FLOATS;
use crate::aclnn::{Call, Kernel, Launch, Tensor};
use crate::status::{Result, Status};
use acl_sys::error::ACLNN_ERR_INNER_TILING_ERROR;

/// `normType`: none, or by the root mean square, without or with a weight.
const NONE: i64 = 0;
const RMS: i64 = 3;
const RMS_AFFINE: i64 = 4;
/// `ropeType`: none, neighbours, or halves.
const INTERLEAVE: i64 = 1;
const HALF: i64 = 2;

/// One of queries, keys and values.
struct Heads {
    /// `[B, S, N, D]`
    x: Tensor,
    /// `[D]`
    weight: Option<Tensor>,
    normed: bool,
    /// `[B, N, S, D]`
    out: Tensor,
}

/// Cosines and sines `[R, D]` of the first R positions; none turns nothing.
struct Turn {
    tables: Option<(Tensor, Tensor)>,
    interleaved: bool,
    eps: f64,
}

impl Heads {
    fn run(&self, launch: &Launch, turn: Option<&Turn>) -> Result<()> {
        let &[_, tokens, heads, width] = &self.x.shape[..] else { unreachable!("checked to have four dimensions") };
        let x = self.x.load_f32(launch)?;
        let weight = self.weight.as_ref().map(|weight| weight.load_f32(launch)).transpose()?;
        let tables = match turn.and_then(|turn| turn.tables.as_ref()) {
            Some((cos, sin)) => Some((cos.load_f32(launch)?, sin.load_f32(launch)?, cos.shape[0])),
            None => None,
        };
        let mut out = vec![0f32; x.len()];
        for (i, head) in x.chunks_exact(width).enumerate() {
            let (b, t, n) = (i / heads / tokens, i / heads % tokens, i % heads);
            let to = &mut out[((b * heads + n) * tokens + t) * width..][..width];
            to.copy_from_slice(head);
            if let Some(turn) = turn.filter(|_| self.normed) {
                let mean = head.iter().map(|x| x * x).sum::<f32>() / width as f32;
                let root = 1.0 / (mean + turn.eps as f32).sqrt();
                to.iter_mut().for_each(|x| *x *= root);
                weight.iter().flatten().zip(to.iter_mut()).for_each(|(weight, x)| *x *= weight);
            }
            let Some((cos, sin, positions)) = &tables else { continue };
            if t >= *positions {
                continue;
            }
            let (cos, sin) = (&cos[t * width..][..width], &sin[t * width..][..width]);
            let interleaved = turn.is_some_and(|turn| turn.interleaved);
            for j in 0..width / 2 {
                let (a, b) = if interleaved { (2 * j, 2 * j + 1) } else { (j, j + width / 2) };
                (to[a], to[b]) = (to[a] * cos[a] - to[b] * sin[a], to[b] * cos[b] + to[a] * sin[b]);
            }
        }
        self.out.store_f32(launch, &out)
    }
}

/// Queries and keys `[B, S, N, D]` normed by `norm_type` and turned by the tables, and values, all to `[B, N, S, D]`.
#[allow(clippy::too_many_arguments)]
pub fn norm_rope_concat(
    call: &mut Call,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    encoder_query: Option<Tensor>,
    encoder_key: Option<Tensor>,
    encoder_value: Option<Tensor>,
    norm_query_weight: Option<Tensor>,
    norm_query_bias: Option<Tensor>,
    norm_key_weight: Option<Tensor>,
    norm_key_bias: Option<Tensor>,
    norm_added_query_weight: Option<Tensor>,
    norm_added_query_bias: Option<Tensor>,
    norm_added_key_weight: Option<Tensor>,
    norm_added_key_bias: Option<Tensor>,
    rope_sin: Option<Tensor>,
    rope_cos: Option<Tensor>,
    norm_type: i64,
    norm_added_type: i64,
    rope_type: i64,
    concat_order: i64,
    eps: f64,
    is_training: bool,
    query_output: Tensor,
    key_output: Tensor,
    value_output: Tensor,
    _norm_query_mean: Option<Tensor>,
    _norm_query_rstd: Option<Tensor>,
    _norm_key_mean: Option<Tensor>,
    _norm_key_rstd: Option<Tensor>,
    _norm_added_query_mean: Option<Tensor>,
    _norm_added_query_rstd: Option<Tensor>,
    _norm_added_key_mean: Option<Tensor>,
    _norm_added_key_rstd: Option<Tensor>,
) -> Result<Kernel> {
    let unused = [
        encoder_query,
        encoder_key,
        encoder_value,
        norm_query_bias,
        norm_key_bias,
        norm_added_query_weight,
        norm_added_query_bias,
        norm_added_key_weight,
        norm_added_key_bias,
    ];
    if let Some(given) = unused.iter().flatten().next() {
        return call.invalid(format!("{} is given; the simulated CANN computes with it null", given.name));
    }
    if is_training || norm_added_type != NONE || matches!(norm_type, 1 | 2) {
        let text = format!("isTraining {is_training}, normAddedType {norm_added_type}, normType {norm_type}");
        return call.invalid(format!("{text}; the simulated CANN computes false, 0, and 0, 3 or 4"));
    }
    let tiling = |call: &Call, text: String| -> Result<Kernel> {
        Err(Status::new(ACLNN_ERR_INNER_TILING_ERROR, format!("{}: {text}", call.op)))
    };
    if !matches!(norm_type, NONE | RMS | RMS_AFFINE)
        || !(0..=2).contains(&rope_type)
        || !(0..=1).contains(&concat_order)
    {
        let text = format!("normType {norm_type}, ropeType {rope_type}, concatOrder {concat_order}");
        return tiling(call, format!("{text}; wanted 0 to 4, 0 to 2, 0 or 1"));
    }
    call.dtype_in(&query, FLOATS)?;
    let outputs = [&query_output, &key_output, &value_output];
    for (x, out) in [&query, &key, &value].into_iter().zip(outputs) {
        call.rank_in(x, 4..=4)?;
        call.same_dtype(x, &query)?;
        call.same_dtype(out, &query)?;
        let &[b, s, n, d] = &x.shape[..] else { return call.invalid("wanted four dimensions") };
        call.shape_is(out, &[b, n, s, d])?;
        let (batch, width) = (query.shape[0], query.shape[3]);
        if b != batch || d != width || !(2..=1024).contains(&d) || d % 2 != 0 || x.count() == 0 {
            let text = format!("{} is {:?} beside query {:?}", x.name, x.shape, query.shape);
            return tiling(call, format!("{text}; wanted one batch and one even width of at most 1024"));
        }
    }
    let width = query.shape[3];
    let (query_weight, key_weight) = match (norm_type, norm_query_weight, norm_key_weight) {
        (RMS_AFFINE, Some(query_weight), Some(key_weight)) => {
            for weight in [&query_weight, &key_weight] {
                call.same_dtype(weight, &query)?;
                call.shape_is(weight, &[width])?;
            }
            (Some(query_weight), Some(key_weight))
        }
        (RMS_AFFINE, ..) => return call.invalid("normType 4 wants normQueryWeight and normKeyWeight"),
        _ => (None, None),
    };
    let tables = match (rope_type, rope_cos, rope_sin) {
        (INTERLEAVE | HALF, Some(cos), Some(sin)) => {
            for table in [&cos, &sin] {
                call.dtype_in(table, FLOATS)?;
                call.rank_in(table, 2..=2)?;
            }
            let most = query.shape[1].min(key.shape[1]);
            if cos.shape != sin.shape || cos.shape[1] != width || !(1..=most).contains(&cos.shape[0]) {
                let text = format!("ropeCos is {:?} and ropeSin {:?}", cos.shape, sin.shape);
                return tiling(call, format!("{text}; wanted [1 to {most}, {width}]"));
            }
            Some((cos, sin))
        }
        (INTERLEAVE | HALF, ..) => return call.invalid("ropeType wants ropeCos and ropeSin"),
        _ => None,
    };
    let turn = Turn { tables, interleaved: rope_type == INTERLEAVE, eps };
    let normed = norm_type != NONE;
    let query = Heads { x: query, weight: query_weight, normed, out: query_output };
    let key = Heads { x: key, weight: key_weight, normed, out: key_output };
    let value = Heads { x: value, weight: None, normed: false, out: value_output };
    Ok(Box::new(move |launch| {
        query.run(launch, Some(&turn))?;
        key.run(launch, Some(&turn))?;
        value.run(launch, None)
    }))
}
