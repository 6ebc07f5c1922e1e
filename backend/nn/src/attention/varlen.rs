//! Attention over packed sequences of different lengths.

use candle_ascend::{DType, Device, Result, Tensor, bail};

/// Attention of each sequence over itself. `q` is `[total_q, H, D]`, `k` and `v` `[total_k, G, D]`, `seqlens_q` and
/// `seqlens_k` (U32, `[B]`) how many rows each sequence has; the result is `[total_q, H, D]`. Query `i` stands at key
/// `i + seqlen_k - seqlen_q`; windows count keys to the left and to the right of that.
#[allow(clippy::too_many_arguments)]
pub fn flash_attn_varlen_unfused(
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    alibi_slopes: Option<&Tensor>,
    seqlens_q: &Tensor,
    seqlens_k: &Tensor,
    _max_seqlen_q: usize,
    _max_seqlen_k: usize,
    softmax_scale: f32,
    causal: bool,
    window_size_left: Option<usize>,
    window_size_right: Option<usize>,
) -> Result<Tensor> {
    let (_, heads, width) = q.dims3()?;
    let (_, key_heads, _) = k.dims3()?;
    if key_heads == 0 || heads % key_heads != 0 {
        bail!("Invalid GQA config: num_heads={heads} not divisible by num_kv_heads={key_heads}")
    }
    if window_size_left.is_none() && window_size_right.is_some() {
        bail!("window_right specified without window_left")
    }
    let slopes = alibi_slopes.map(|slopes| slopes_column(slopes, heads)).transpose()?;
    let (lengths_q, lengths_k) = (seqlens_q.to_vec1::<u32>()?, seqlens_k.to_vec1::<u32>()?);
    if lengths_q.len() != lengths_k.len() {
        bail!("seqlens_q has {} sequences and seqlens_k {}", lengths_q.len(), lengths_k.len())
    }
    let rule = Rule { causal, left: window_size_left, right: window_size_right };
    let (mut start_q, mut start_k) = (0, 0);
    let mut outputs = Vec::with_capacity(lengths_q.len());
    for (sequence, (&queries, &keys)) in lengths_q.iter().zip(&lengths_k).enumerate() {
        let (queries, keys) = (queries as usize, keys as usize);
        if causal && keys < queries {
            bail!(
                "causal attention requires seq_len_k >= seq_len_q (got k={keys}, q={queries}) for batch index {sequence}"
            )
        }
        if queries > 0 && keys > 0 {
            let rows = |x: &Tensor, start, len| x.narrow(0, start, len)?.transpose(0, 1)?.unsqueeze(0)?.contiguous();
            let (k, v) = (rows(k, start_k, keys)?, rows(v, start_k, keys)?);
            let term = rule.term(queries, keys, slopes.as_ref(), q.device())?;
            let q = rows(q, start_q, queries)?;
            let out = candle_ascend::ops::attention(&q, &k, &v, softmax_scale as f64, Some(&term))?;
            outputs.push(out.squeeze(0)?.transpose(0, 1)?);
        }
        (start_q, start_k) = (start_q + queries, start_k + keys);
    }
    if outputs.is_empty() {
        return Tensor::zeros((0, heads, width), q.dtype(), q.device());
    }
    Tensor::cat(&outputs, 0)
}

fn slopes_column(slopes: &Tensor, heads: usize) -> Result<Tensor> {
    if slopes.elem_count() != heads {
        bail!("alibi_slopes has len {}, expected num_heads={heads}", slopes.elem_count())
    }
    slopes.to_dtype(DType::F32)?.reshape((heads, 1, 1))
}

/// Which keys a query sees.
struct Rule {
    causal: bool,
    left: Option<usize>,
    right: Option<usize>,
}

impl Rule {
    fn sees(&self, query: isize, key: isize) -> bool {
        let within = |limit: Option<usize>, distance: isize| limit.is_none_or(|limit| distance <= limit as isize);
        // A window to the left alone ends at the query.
        let ahead = if self.causal || (self.left.is_some() && self.right.is_none()) { Some(0) } else { self.right };
        within(self.left, query - key) && within(ahead, key - query)
    }

    /// What is added to the scores `[H, S, T]`.
    fn term(&self, queries: usize, keys: usize, slopes: Option<&Tensor>, device: &Device) -> Result<Tensor> {
        let offset = keys as isize - queries as isize;
        let grid = |value: &dyn Fn(isize, isize) -> f32| -> Result<Tensor> {
            let row = |i: usize| (0..keys).map(move |j| value(i as isize + offset, j as isize));
            Tensor::from_vec((0..queries).flat_map(row).collect(), (1, queries, keys), device)
        };
        let hidden = grid(&|query, key| if self.sees(query, key) { 0. } else { f32::NEG_INFINITY })?;
        let Some(slopes) = slopes else { return Ok(hidden) };
        let distance = |query: isize, key: isize| -(query - key).abs() as f32;
        slopes.broadcast_mul(&grid(&distance)?)?.broadcast_add(&hidden)
    }
}
